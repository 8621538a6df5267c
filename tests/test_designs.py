"Three tenancy designs: each serves all its tenants, exports one and brings it back, and shows what one bug reads."

import numpy as np
import pytest

from rap_analyzer.music import catalog
from rap_analyzer.platform.designs import DESIGNS, Layout, caches_mb

TEAMS, EACH = ["ada", "grace", "mary"], 20


@pytest.fixture(scope="module")
def layouts(lab):
    "The three designs with the same rows."
    tracks, H = list(catalog.tracks(0, EACH * len(TEAMS))), catalog.embeddings(0, EACH * len(TEAMS))
    return {d: Layout(lab, d, TEAMS, "test").make().fill(tracks, H) for d in DESIGNS}      # they go with the lab


@pytest.fixture(params=DESIGNS)
def layout(request, layouts): return layouts[request.param]


def found(layout, tenant, i=0):
    "Ids that a search returns, on a session of its own."
    s = layout.open(tenant)
    try: return [row[0] for row in s.fetch(layout.similar(tenant, i))]
    finally: s.con.close()


def test_a_search_finds_the_same_in_every_design(layouts):
    answers = [[found(layout, t, 3) for t in TEAMS] for layout in layouts.values()]
    assert answers[0] == answers[1] == answers[2]
    for tenant, ids in zip(TEAMS, answers[0], strict=True):
        assert ids[0] == layouts["shared"].ids[tenant][3] and set(ids) <= set(layouts["shared"].ids[tenant])


def test_a_session_that_goes_on_to_another_tenant_finds_that_ones_rows(layout):
    s = layout.open(TEAMS[0])
    try:
        for tenant in (*TEAMS[1:], TEAMS[0]):
            s = layout.enter(s, tenant)
            ids = [row[0] for row in s.fetch(layout.similar(tenant, 5))]
            assert len(ids) == 11 and set(ids) <= set(layout.ids[tenant])
    finally: s.con.close()


def test_only_databases_need_a_session_per_tenant(layouts):
    served = {d: layout.serve_all() for d, layout in layouts.items()}
    assert {d: n for d, (n, _) in served.items()} == {"shared": 1, "schemas": 1, "databases": len(TEAMS)}
    assert served["databases"][1] > max(served["shared"][1], served["schemas"][1])


def test_a_session_remembers_the_tables_of_every_schema_that_it_met(layouts):
    grown = {}
    for d in ("shared", "schemas"):
        s = layouts[d].open(TEAMS[0], watched=True)
        sizes = []
        for tenant in TEAMS:
            s = layouts[d].enter(s, tenant)
            s.fetch(layouts[d].similar(tenant, 0))
            sizes.append(caches_mb(s))
        grown[d] = sizes[-1] - sizes[0]
        s.con.close()
    assert grown["schemas"] > 2 * grown["shared"] >= 0


def test_relations_are_multiplied_by_schemas_and_by_databases(layouts):
    n = {d: layout.count_relations() for d, layout in layouts.items()}
    assert n["shared"] < n["schemas"] and n["databases"] == len(TEAMS) * n["shared"]


def test_what_one_bug_reads(layouts):
    def harm(bug): return {d: bug(layout) for d, layout in layouts.items()}
    assert harm(lambda m: m.forget_condition("ada")) == {"shared": 0, "schemas": 0, "databases": 0}
    assert harm(lambda m: m.misplace("ada", "grace")) == {"shared": 0, "schemas": 1, "databases": 1}
    assert harm(lambda m: m.leak_password("ada")) == {"shared": 0, "schemas": 2, "databases": 2}


def test_a_column_is_added_in_every_place(layout):
    layout.add_column("added_by_test")
    for tenant in TEAMS:
        s = layout.open(tenant)
        assert s.con.execute("SELECT added_by_test FROM tracks LIMIT 1").fetchone() == (None,)
        s.con.close()


def test_one_tenant_is_exported_lost_and_brought_back(layout, tmp_path):
    before = {t: layout.checksum(t) for t in TEAMS}
    assert all(rows[0] == EACH for rows in (sums[0] for sums in before.values()))
    layout.dump("grace", tmp_path)
    more = list(catalog.tracks(900, 903))
    layout.add("grace", more, catalog.embeddings(900, 903))                    # written after the export: gone with the restore
    assert layout.checksum("grace") != before["grace"]
    layout.restore("grace", tmp_path)
    assert {t: layout.checksum(t) for t in TEAMS} == before
    assert np.isin(found(layout, "grace"), layout.ids["grace"]).all()


def test_an_export_of_shared_tables_holds_every_table_with_a_tenant(layouts, tmp_path):
    shared = layouts["shared"]
    shared.dump("ada", tmp_path)
    with shared.admin(shared.at["ada"].database) as con:
        have = {t for t, in con.execute("""SELECT table_name FROM information_schema.columns
            WHERE table_schema = 'public' AND column_name = 'tenant_id'
            AND table_name IN (SELECT relname FROM pg_class WHERE relkind = 'r')""")}
    assert {p.name for p in tmp_path.iterdir()} == have and {"tracks", "jobs", "events", "api_keys"} <= have
