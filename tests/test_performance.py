"""Profiles of real components, and rules that fire on stores that are really broken and keep quiet on a healthy one."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import redis
from helpers import own_database

from rap_analyzer.core import LabError
from rap_analyzer.frameworks.performance import apply, optimize, profile, undo
from rap_analyzer.music import catalog
from rap_analyzer.music.catalog import MODEL_ID
from rap_analyzer.search.advice import RUNGS, amdahl_gain, amdahl_limit
from rap_analyzer.search.cache import Cache
from rap_analyzer.search.index import build, built, drop, method, select_similar
from rap_analyzer.search.instruments import explain_prepared
from rap_analyzer.search.load import COMPONENTS, draw_questions, run_processes, run_tasks, run_threads
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill

IX = method("hnsw_halfvec").index_name()
INDEX = "CREATE INDEX {} ON embeddings USING hnsw (embedding {}) WHERE model_id = '{}'"
NOTE = f"COMMENT ON INDEX {IX} IS '{json.dumps({'model_id': MODEL_ID})}'"
LEAVE = "leave it alone"


pytestmark = pytest.mark.alone  # advice follows from what takes how much of the time


@pytest.fixture(scope="module")
def ward(lab):
    "A store that may be broken: 2,000 tracks in a database of their own, nothing repaired behind our back."
    with own_database(lab, "ward") as own:
        store = fill(Store(own), 2_000)
        build("hnsw_halfvec", store)
        build("exact_vector", store)
        run(store, "ALTER TABLE embeddings SET (autovacuum_enabled = false)")
        yield store
        store.forget()


def run(store: Store, *statements: str) -> None:
    with store.admin() as con:
        for s in statements: con.execute(s)
    store.memo.clear()
    store.forget()


@pytest.fixture
def ill(ward):
    "The same store, well again afterwards."
    yield ward
    run(ward, f"DROP INDEX IF EXISTS {IX}", "ALTER DATABASE ward RESET work_mem", "VACUUM (FULL, ANALYZE) embeddings")
    build("hnsw_halfvec", ward)


def look(store: Store, **how) -> tuple:
    p = profile("similarity_search", store, n=20, **how)
    return p, optimize(p)


def titles(advice) -> set[str]: return {a.title for a in advice}


def test_the_healthy_one_is_left_alone(ward):
    p, advice = look(ward)
    assert [(a.rung, a.title, a.sql) for a in advice] == [("none", LEAVE, ())]
    assert p.statements[0].seen.indexes == (IX,) and p.statements[0].source == "pg_stat_statements"
    assert p.width["recall"] > 0.97 and len(p.ms) == 20 and p.p95 >= p.p50 > 0
    assert sum(p.parts.values()) == pytest.approx(sum(p.ms) / 20, rel=0.05)


@pytest.mark.parametrize(("breaking", "title"), [
    ([f"DROP INDEX {IX}"], "compare with a graph's neighbours, not with everything"),
    ([f"DROP INDEX {IX}", INDEX.format(IX, "halfvec_cosine_ops", MODEL_ID), NOTE], "an index exists and is not used"),
    ([f"DROP INDEX {IX}", INDEX.format(IX, "halfvec_ip_ops", "other-1"), NOTE], "an index exists and is not used"),
    ([f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{IX}'::regclass"], "an index exists and is not used"),
], ids=["no index", "another operator class", "another model's index", "a build that was never finished"])
def test_an_index_that_does_not_serve_is_found_and_mended(ill, breaking, title):
    if "pg_index" in breaking[0]:
        with ill.admin(None) as con: con.execute(breaking[0])
        ill.forget()
    else: run(ill, *breaking)
    before, advice = look(ill)
    (said,) = [a for a in advice if a.title == title]
    assert said.rung == "algorithm" and said.share > 0.2 and "Seq Scan" in before.statements[0].seen.nodes
    apply(said, ill)
    after, now = look(ill)
    assert after.statements[0].seen.indexes == (IX,) and titles(now) == {LEAVE}
    assert after.statements[0].pages < before.statements[0].pages or after.statements[0].ms < before.statements[0].ms
    assert "hnsw_halfvec" in built(ill, fresh=True)


def test_why_an_index_is_not_used_is_said(ill):
    run(ill, f"DROP INDEX {IX}", INDEX.format(IX, "halfvec_cosine_ops", MODEL_ID), NOTE)
    assert "orders by <=> (halfvec_cosine_ops) and the query by <#>" in look(ill)[1][0].because
    run(ill, f"DROP INDEX {IX}", INDEX.format(IX, "halfvec_ip_ops", "other-1"), NOTE)
    assert "only rows with (model_id = 'other-1'" in look(ill)[1][0].because


def test_undo_brings_the_old_index_back(ill):
    run(ill, f"DROP INDEX {IX}", INDEX.format(IX, "halfvec_cosine_ops", MODEL_ID), NOTE)
    said = look(ill)[1][0]
    apply(said, ill)
    undo(said, ill)
    with ill.admin() as con:
        assert "halfvec_cosine_ops" in con.execute("SELECT indexdef FROM pg_indexes WHERE indexname = %s", [IX]).fetchone()[0]


def test_vectors_out_of_line(ward):
    p, advice = look(ward, name="exact_vector")
    (said,) = [a for a in advice if a.title == "keep the vector in its row"]
    assert said.rung == "database" and advice[0].rung == "algorithm" and not advice[0].sql       # the index is there: just ask it
    apply(said, ward)
    q, after = look(ward, name="exact_vector")
    assert said.title not in titles(after) and q.statements[0].pages < p.statements[0].pages / 3
    undo(said, ward)
    assert said.title in titles(look(ward, name="exact_vector")[1])


def test_a_sort_that_spills(ill):
    run(ill, "ALTER DATABASE ward SET work_mem = '64kB'")
    _, advice = look(ill, k=1_500, name="exact_halfvec")
    (said,) = [a for a in advice if a.title == "give the sort memory"]
    assert "kB on disk" in said.because
    apply(said, ill)
    assert said.title not in titles(look(ill, k=1_500, name="exact_halfvec")[1])
    undo(said, ill)
    assert Store(ill.lab).query(Query("SHOW work_mem")) == [("16MB",)]


def test_dead_rows_then_empty_pages_then_well(ill):
    with ill.admin("rap_loader") as con:
        con.execute("CREATE TEMP TABLE was AS SELECT * FROM embeddings")
    with ill.admin(None) as con:
        for _ in range(3): con.execute("UPDATE embeddings SET embedding = embedding")
        con.execute("SELECT pg_stat_force_next_flush()")
    ill.forget()
    _, advice = look(ill, name="exact_halfvec")
    (dead,) = [a for a in advice if a.title == "clear the dead rows of embeddings"]
    apply(dead, ill)
    p, advice = look(ill, name="exact_halfvec")
    (empty,) = [a for a in advice if a.title == "give the empty pages of embeddings back"]
    apply(empty, ill)
    q, advice = look(ill)
    assert titles(advice) == {LEAVE} and q.tables[0].pages < p.tables[0].pages / 2


def test_statistics_that_were_never_made(ill):
    run(ill, "CREATE TABLE other (LIKE embeddings INCLUDING ALL)", "ALTER TABLE other SET (autovacuum_enabled = false)",
        "ALTER TABLE other OWNER TO rap_owner", "GRANT SELECT ON other TO rap_app")
    with ill.admin(None) as con:
        con.execute("INSERT INTO other SELECT * FROM embeddings; ALTER TABLE embeddings RENAME TO kept; "
                    "ALTER TABLE other RENAME TO embeddings")
    ill.memo.clear()
    ill.forget()
    try:
        _, advice = look(ill, name="exact_halfvec")
        (said,) = [a for a in advice if a.title == "let the planner look at embeddings again"]
        assert said.sql == ("ANALYZE embeddings",)
        apply(said, ill)
        assert said.title not in titles(look(ill, name="exact_halfvec")[1])
    finally: run(ill, "DROP TABLE embeddings", "ALTER TABLE kept RENAME TO embeddings")


def test_the_width_of_the_search(ward):
    (said,) = look(ward, ef=400)[1]
    assert "narrower" in said.title and not said.sql and int(dict(said.settings)["[search] ef"]) < 100
    with pytest.raises(ValueError, match="no SQL to run.*by hand: .search. ef"): apply(said, ward)
    assert titles(look(ward)[1]) == {LEAVE}


def test_a_cache_for_people_who_never_ask_twice(ward):
    p = profile("cached_search", ward, n=100, skew="uniform")
    said = optimize(p)
    assert said[0].rung == "cache" and "take the cache away" in said[0].title
    assert p.cache["misses"] > 80 and p.parts["cache"] > 0


def test_a_cache_for_people_who_do(ward):
    p = profile("cached_search", ward, asked=[1, 2, 3, 4] * 25, name="exact_vector")
    assert (p.cache["hits"], p.cache["misses"], p.repeats) == (96, 4, 0.96)
    assert not any(a.rung == "cache" for a in optimize(p))
    assert p.statements[0].per_question == pytest.approx(0.04)


def test_a_cache_that_forgets_is_told_from_one_that_is_away(ward, lab):
    forgetful = Cache(lab, prefix="test-forget", ttl_s=0.001, jitter=0)
    p = profile("cached_search", ward, asked=[1, 2, 3, 4] * 10, cache=forgetful, name="exact_vector")
    assert "gone before they are asked for again" in optimize(p)[0].title or p.cache["hits"] > 28
    forgetful.close()
    away = Cache("redis://127.0.0.1:1/0", prefix="test-away")
    assert "Valkey does not answer" in titles(optimize(profile("cached_search", ward, asked=[1, 2] * 10, cache=away)))


@pytest.mark.parametrize("component", sorted(COMPONENTS))
def test_every_component_can_be_profiled_and_told_as_json(ward, component):
    p = profile(component, ward, n=24)
    assert len(p.ms) == 24 and p.statements and 0 <= p.share("app") <= 1
    assert json.loads(json.dumps(p.as_dict(), allow_nan=False))["component"] == component
    assert component in repr(p) and "|---|" in p._repr_markdown_()
    assert all(a.rung in (*RUNGS, "none") and repr(a) for a in optimize(p))


def test_questions_vary_and_are_the_same_for_the_same_seed(ward):
    workload = profile("similarity_search", ward, n=5).workload
    a, b, c = (draw_questions(ward, workload, 8, seed) for seed in (1, 1, 2))
    assert len({x.tobytes() for x in a}) == 8 and all((x == y).all() for x, y in zip(a, b, strict=True))
    assert not any((x == y).all() for x, y in zip(a, c, strict=True))
    pairs = draw_questions(ward, replace(workload, component="filtered_search"), 12, 1)
    assert len(pairs) == 12 and all(where for _, where in pairs)


def test_a_profile_leaves_nothing_behind(ward, lab):
    with redis.from_url(lab.redis_url, socket_timeout=5) as r:
        before, threads = set(r.scan_iter("*")), threading.active_count()
        profile("cached_search", ward, n=40)
        assert set(r.scan_iter("*")) - before == set()
    assert threading.active_count() <= threads
    with ward.admin(None) as con:
        open_ = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'ward' AND usename = 'rap_app'"
        ward.forget()
        for component in COMPONENTS: profile(component, ward, n=10)
        for _ in range(50):
            if not (left := con.execute(open_).fetchone()[0]): break
            con.execute("SELECT pg_sleep(0.05), pg_stat_clear_snapshot()")
        assert left == 0
        assert con.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '%%profile%%'").fetchone()[0] == 0


def test_another_tenant_is_not_seen(ward):
    with pytest.raises(LabError, match="nothing to ask about"): profile("cached_search", Store(ward.lab, "rival"))
    with pytest.raises(LabError, match="nothing to ask about"): profile("similarity_search", ward, model_id="other-1")


@pytest.mark.parametrize("wrong", ["", "everything", "Similarity_Search", "x" * 10_000, "'; DROP TABLE tracks --", None, 7])
def test_unknown_components_are_refused_with_those_there_are(ward, wrong):
    with pytest.raises(ValueError, match="unknown component .*there are: similarity_search") as e: profile(wrong, ward)
    assert len(str(e.value)) < 300


def test_bad_parameters(ward):
    for how in ({"k": 0}, {"k": -1}, {"name": "hnws"}, {"model_id": "x'y"}, {"n": 0}, {"skew": "lottery"}, {"budget_s": 0}):
        with pytest.raises(ValueError): profile("similarity_search", ward, **how)


def test_only_sql_that_optimize_wrote_for_this_store_is_run(ill, small):
    run(ill, f"DROP INDEX {IX}")
    said = look(ill)[1][0]
    for wrong in (replace(said, sql=("DROP TABLE tracks",)), replace(said, sql=said.sql[:1])):
        with pytest.raises(ValueError, match="not written by optimize"): apply(wrong, ill)
    with pytest.raises(ValueError, match="not written by optimize"): apply(said, small)
    with pytest.raises(ValueError, match="not written by optimize"): undo(replace(said, undo=("DROP TABLE tracks",)), ill)
    assert ill.count() == 2_000


def test_sql_that_fails_is_told_in_a_sentence(ill):
    run(ill, f"DROP INDEX {IX}")
    said = look(ill)[1][0]
    apply(said, ill)
    with pytest.raises(LabError, match="statement 1 of 2 failed .*already exists"): apply(said, ill)


def test_a_model_with_a_dot_in_its_name_has_an_index_that_fits(ward):
    model = "mine-1.5"
    ids, X = range(1_200), catalog.embeddings(0, 1_200)
    ward.upsert_embeddings(np.array(ids), X, model)
    try:
        ward.tidy()
        build("hnsw_halfvec", ward, model)
        p = profile("similarity_search", ward, n=20, model_id=model, ef=1_000)         # so wide that a scan is cheaper
        assert "an index exists and is not used" not in titles(optimize(p))
        assert {ix.condition for ix in p.indexes} >= {"(model_id = 'mine-1.5'::text)"}
    finally:
        drop("hnsw_halfvec", ward, model)
        run(ward, "ALTER TABLE embeddings NO FORCE ROW LEVEL SECURITY", f"DELETE FROM embeddings WHERE model_id = '{model}'",
            "ALTER TABLE embeddings FORCE ROW LEVEL SECURITY", "VACUUM (FULL, ANALYZE) embeddings")


def test_the_plan_is_that_of_the_prepared_statement(ward):
    query = Query("SELECT count(*) FROM tracks WHERE year = %s AND title LIKE '%%a' AND mood IS DISTINCT FROM %s", (1998, None))
    with ward.session() as s:
        seen = explain_prepared(s, query)
        assert "$1" in str(seen.raw["Plan"]) and "1998" not in str(seen.raw["Plan"])
        ids = {explain_prepared(s, select_similar(i)).raw["Query Identifier"] for i in (1, 2)}
        assert s.con.execute("SELECT count(*) FROM pg_prepared_statements WHERE name = 'profiled'").fetchone() == (0,)
        assert s.con.execute("SELECT calls FROM pg_stat_statements(false) WHERE queryid = %s", [*ids]).fetchone()[0] >= 2
    assert len(ids) == 1


def test_a_server_that_does_not_count_is_asked_to_explain(ward):
    with ward.admin(None) as con:
        con.execute("DROP EXTENSION pg_stat_statements")
        try: p = profile("similarity_search", ward, n=20)
        finally: con.execute("CREATE EXTENSION pg_stat_statements")
    assert {s.source for s in p.statements} == {"explain"} and p.parts["server"] > 0 and p.statements[0].pages > 10


def test_amdahl():
    assert (amdahl_limit(0), amdahl_limit(0.75), amdahl_gain(0.75, 3), amdahl_gain(1, 5)) == (1, 4, 2, 5)
    assert amdahl_gain(0.5, 1e12) == pytest.approx(amdahl_limit(0.5))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"): amdahl_limit(wrong)
    with pytest.raises(ValueError, match="more than 0"): amdahl_gain(0.5, 0)


async def _tasks(store, asked): return await run_tasks(store, asked, 3)


def test_crowds_answer_every_question_once(ward):
    import asyncio

    asked = list(range(60))
    for load in (run_threads(ward, asked, 3), asyncio.run(_tasks(ward, asked)), run_processes(ward, asked, 2)):
        assert len(load.ms) == 60 and load.rps > 0 and str(load.clients) in repr(load)


@pytest.fixture
def post(ward):
    "Ask the service for a profile."
    import httpx

    from rap_analyzer.app import create_app
    from rap_analyzer.web import serving
    with serving(create_app(ward)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield lambda **how: client.post("/api/optimize", **how)


def test_the_service_gives_profile_and_advice_and_applies_nothing(post, ill):
    run(ill, f"DROP INDEX {IX}")
    for component in COMPONENTS:
        r = post(json={"component": component})
        assert r.status_code == 200, r.text
        body = r.json()
        assert body["profile"]["component"] == component and body["profile"]["p50_ms"] > 0
        assert all({"rung", "title", "because", "at_most", "expected", "sql", "undo"} <= set(a) for a in body["advice"])
    first = post(json={"component": "similarity_search", "k": 5}).json()["advice"][0]
    assert first["sql"][0].startswith(f"CREATE INDEX CONCURRENTLY {IX}") and first["at_most"] > 1
    assert "hnsw_halfvec" not in built(ill, fresh=True)


@pytest.mark.parametrize(("how", "says"), [
    ({"json": {"component": "everything"}}, "unknown component 'everything'; there are: similarity_search"),
    ({"json": {}}, "component is missing"), ({"json": {"component": 7}}, "component = "),
    ({"json": []}, "a JSON object as the body"),
    ({"content": b"{", "headers": {"Content-Type": "application/json"}}, "a JSON object as the body"),
    ({}, "a JSON object as the body"),
    ({"json": {"component": "x" * 10_000}}, "component = "), ({"json": {"componnent": "x"}}, "component"),
    ({"json": {"component": "similarity_search", "k": 0}}, "k = '0'"),
    ({"json": {"component": "similarity_search", "apply": True}}, "no parameter 'apply'"),
])
def test_bad_requests_are_told_what_was_expected(post, how, says):
    r = post(**how)
    assert r.status_code == 422 and says in r.json()["error"], r.text
    assert len(r.text) < 1_000


def test_one_profile_at_a_time(post):
    from rap_analyzer.search.routes import PROFILING
    with PROFILING.turn("another"):
        r = post(json={"component": "similarity_search"})
        assert r.status_code == 429 and "one at a time" in r.json()["error"] and r.headers["retry-after"]
    assert post(json={"component": "similarity_search"}).status_code == 200
