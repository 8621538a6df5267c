"A tenant with few tracks among many: ten of ten neighbours, all of them the right ones, by its own rows and nobody else's."
import asyncio

import numpy as np
import pytest
from helpers import own_database

from rap_analyzer.music import catalog
from rap_analyzer.platform.loaders import Loaders
from rap_analyzer.search.few import PART, has_few, known_few
from rap_analyzer.search.index import asimilar, build, choose, explain_similar, nearest_ids, recall, select_similar, similar
from rap_analyzer.search.store import Store, walk_plan

MANY, FEW = 3_960, 40  # tracks of the large tenant, and of the small one: one in a hundred
KEY = "embeddings_pkey"


@pytest.fixture(scope="module")
def stores(lab):
    "A large tenant, and a small one whose tracks come after the large one's."
    with own_database(lab, "test_few") as own:
        large, small = Store(own, "large"), Store(own, "small")
        large.load(list(catalog.tracks(0, MANY)), catalog.embeddings(0, MANY))
        build("hnsw_halfvec", large)                                            # the small one's rows are added to it, one by one
        small.load(list(catalog.tracks(MANY, MANY + FEW)), catalog.embeddings(MANY, MANY + FEW))
        yield large, small
        for s in (large, small): s.forget()


def true_neighbours():
    X = catalog.embeddings(MANY, MANY + FEW).astype(np.float32)
    return [[MANY + int(j) for j in row if j != i][:10] for i, row in enumerate(nearest_ids(X, X, 11))]


def test_the_small_tenant_finds_ten_of_ten_and_the_right_ones(stores):
    _, small = stores
    found = [similar(i, store=small) for i in range(MANY, MANY + FEW)]
    assert {len(hits) for hits in found} == {10} and {h.why for hits in found for h in hits} == {"exact_halfvec"}
    assert recall([[h.track_id for h in hits] for hits in found], true_neighbours()) >= .99


def test_its_plan_reads_its_own_rows_and_the_large_one_takes_the_graph(stores):
    large, small = stores
    assert (has_few(large), has_few(small)) == (False, True)
    statement = select_similar(MANY + 7, name=choose(small, 10, None, "synthetic-1"), tenant="small")
    plan = explain_similar(small, statement)
    assert set(plan.indexes) == {KEY} and "Seq Scan" not in plan.nodes, plan
    most = max(node["Plan Rows"] for node in walk_plan(plan.raw["Plan"]) if node.get("Relation Name") == "embeddings")
    assert 1 < most < 5 * FEW                                                # the planner knows how few there are
    assert similar(7, store=large)[0].why.startswith("hnsw_halfvec")


def test_a_name_in_the_statement_opens_nothing(stores):
    _, small = stores
    assert small.query(select_similar(catalog.embeddings(0, 1)[0], name="exact_halfvec", tenant="large")) == []


@pytest.mark.parametrize("own, every, few", [
    (FEW, PART * FEW, True), (FEW, PART * FEW - 1, False), (0, 10**6, False), (6_000, 10**9, True), (6_001, 10**9, False),
    (FEW, -1, False)])                                                       # -1: no statistics yet
def test_few_is_a_small_number_and_a_small_part(stores, monkeypatch, own, every, few):
    store = Store(stores[1].lab, "small")
    monkeypatch.setattr(store, "query", lambda query: [(own, float(every))])
    assert has_few(store) == known_few(store) == few


def test_what_was_counted_is_forgotten_when_the_data_changes(stores):
    _, small = stores
    assert has_few(small) and known_few(small)
    small.changed()
    assert known_few(small) is None


def test_the_event_loop_never_waits_for_the_count(stores, monkeypatch):
    "Nothing is known at first: the question goes to a thread, once."
    _, small = stores
    asked = []
    def ask(self, query):
        with pytest.raises(RuntimeError): asyncio.get_running_loop()          # this is a thread without a loop
        asked.append(query.sql)
        return self.attempt(lambda s: s.fetch(query))
    async def twice():
        await small.aopen(2)
        try: return [await asimilar(MANY + 3, store=small) for _ in range(2)]
        finally: await small.aclose()
    small.changed()
    monkeypatch.setattr(Store, "query", ask)
    first, second = asyncio.run(twice())
    assert first == second == similar(MANY + 3, store=small) and len(asked) == 3      # indexes, rows, and the last line's own


def test_many_at_once_are_found_as_well(stores):
    _, small = stores
    async def run():
        await small.aopen(2)
        try: return await Loaders(small).find_similar([(i, 10) for i in range(MANY, MANY + 20)])
        finally: await small.aclose()
    found = asyncio.run(run())
    assert recall([[h.track_id for h in hits] for hits in found], true_neighbours()[:20]) >= .99
    assert {h.why for hits in found for h in hits} == {"exact_halfvec"}


def test_more_neighbours_than_there_are_tracks_is_an_error_that_says_so(stores):
    with pytest.raises(ValueError, match=f"has only {FEW} tracks"): similar(MANY, FEW, store=stores[1])
