"Filters on the real server: every way to the answer, bad input, plans as the application's role, tenants apart."
import asyncio
import dataclasses
import sys
import unicodedata

import numpy as np
import pytest

from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.search import filters
from rap_analyzer.search.filters import Filter, afiltered, decode_filtered, filtered, fold, limits, parse_range, select_filtered
from rap_analyzer.search.index import nearest_ids, recall, similar
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import NoEmbedding, Store, UnknownTrack, explain, migrate

N = 2_000
SOME = [Filter(genre="drill"), Filter(mood="calm"), Filter(bpm=(90, 95)), Filter(bpm=(None, 80)), Filter(year=(2014, 2015)),
        Filter(year=(2020, None)), Filter(artist=catalog.name_artist(int(catalog.BY_RANK[0]))), Filter("trap", "dark"),
        Filter("drill", year=(2014, 2015)), Filter("lo-fi", "calm", (70, 90), (2000, 2020)), Filter(year=(1900, 2100))]
MATCHES = f"SELECT filter_tracks({filters.PARAMETERS}, NULL)"
WAYS = {"exact": (None, 0), "iterative": (0, 20_000)}


@pytest.fixture(scope="module")
def tracks(): return list(catalog.tracks(0, N))


@pytest.fixture(scope="module")
def X(): return catalog.embeddings(0, N).astype(np.float32)


@pytest.fixture(scope="module")
def rival(small, X):
    "Another tenant with the same music under other ids."
    store = Store(small.lab, "filters-rival")
    store.load([dataclasses.replace(t, id=t.id + 500_000) for t in catalog.tracks(0, N)], catalog.embeddings(0, N))
    yield store
    with store.session() as s: s.con.execute("DELETE FROM tracks")
    store.forget()


def ask(store, query, where, k=10, way="exact", ef=40):
    statement = select_filtered(query, k, where, ef, within=WAYS[way])
    return decode_filtered(statement, store.query(statement), k, query if isinstance(query, int) else None)


def truth(X, query, ids, k):
    "The k nearest of these tracks, without the one asked about."
    ids = np.array([i for i in ids if i != query])
    return ids[nearest_ids(X[ids], X[[query]], min(k, len(ids)))[0]].tolist()


# ---- what can be asked

def test_seven_values_and_nothing_is_nothing():
    assert Filter().params() == (None,) * 7 and not Filter() and not Filter(bpm=(None, None))
    where = Filter("  Drill ", "CALM", [90, None], (None, 2015), "Тихий МАЯК")
    assert where.params() == ("drill", "calm", 90.0, None, None, 2015, "тихий маяк") and where
    assert Filter(artist=unicodedata.normalize("NFD", "Ёлка")).params()[-1] == "ёлка"
    assert Filter(bpm=(0, None)) and hash(Filter(bpm=[90, 95])) == hash(Filter(bpm=(90.0, 95.0)))
    assert Filter(year=(np.int64(2014), 2015.0)).year == (2014, 2015)


@pytest.mark.parametrize(("asked", "says"), [
    ({"genre": ""}, "genre is empty"), ({"mood": " \n"}, "mood is empty"), ({"artist": "a\0b"}, "artist has a NUL"),
    ({"artist": "\ud800"}, "lone surrogate"), ({"genre": "x" * 201}, "201 characters"), ({"genre": 5}, "expected genre as text"),
    ({"genre": ["drill"]}, "expected genre as text"), ({"bpm": (100, 80)}, "bpm from 100 to 80 is empty"),
    ({"year": (2016, 2014)}, "year from 2016 to 2014"), ({"bpm": (float("nan"), 90)}, "expected bpm in numbers"),
    ({"bpm": (80, float("inf"))}, "from 0 to 10,000"), ({"bpm": (-1, None)}, "from 0"), ({"bpm": (True, None)}, "got True"),
    ({"bpm": ("80", "90")}, "expected bpm"), ({"bpm": 95}, "two bounds"), ({"bpm": "80-90"}, "two bounds"),
    ({"bpm": (1, 2, 3)}, "two bounds"), ({"year": (2014.5, None)}, "whole numbers"), ({"year": (10**30, None)}, "10,000"),
    ({"bpm": (np.complex128(1), None)}, "expected bpm"), ({"year": {2014, 2015}}, "two bounds"),
])
def test_what_no_track_could_meet_is_refused(asked, says):
    with pytest.raises(ValueError, match=says) as e: Filter(**asked)
    assert len(str(e.value)) < 160 and "\n" not in str(e.value)


@pytest.mark.parametrize(("text", "kind", "bounds"), [
    ("80-100", float, (80.0, 100.0)), ("80-", float, (80.0, None)), ("-100", float, (None, 100.0)), ("95", float, (95.0, 95.0)),
    (" 79.5 – 100.25 ", float, (79.5, 100.25)), ("2014-2016", int, (2014, 2016)), ("2015", int, (2015, 2015)), ("0", int, (0, 0))])
def test_ranges_as_people_type_them(text, kind, bounds):
    got = parse_range(text, kind)
    assert got == bounds and all(b is None or type(b) is kind for b in got)


@pytest.mark.parametrize("text", ["", " ", "-", "fast", "80-100-120", "100-80", "1e3", "٨٠-٩٠", "80..90", "nan", "--80",
                                  "80-\0", "x" * 9_999, None, 80, "9" * 5_000, "80-100\n; DROP TABLE tracks", "\ud800"])
def test_ranges_that_are_none(text):
    with pytest.raises(ValueError, match="expected LO-HI") as e: parse_range(text, float)
    assert len(str(e.value)) < 160
    e.value.args[0].encode()


def test_years_are_whole():
    with pytest.raises(ValueError, match="whole numbers"): parse_range("2014.5-2016", int)


# ---- which tracks match

def test_keys_are_spelled_in_python_as_in_the_database(small):
    text = [chr(i) for i in range(1, sys.maxunicode + 1) if not 0xD800 <= i < 0xE000 and unicodedata.category(chr(i)) != "Cn"]
    folded = [fold(c) for c in text]
    theirs = small.query(Query("SELECT array_agg(lower(normalize(c)) ORDER BY i), array_agg(lower(normalize(f)) ORDER BY i) "
                              "FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS x(c, f, i)", (text, folded)))[0]
    assert theirs[0] == theirs[1]                          # what Python made of it meets the stored key
    assert fold("ΣΟΦΟΣ Straße İzmir") == small.query(Query("SELECT lower(normalize(%s))", ("ΣΟΦΟΣ Straße İzmir",)))[0][0]


@pytest.mark.parametrize("where", SOME, ids=str)
def test_the_database_matches_what_python_matches(small, tracks, where):
    mine = [t.id for t in tracks if where.admits(t)]
    assert mine and sorted(small.query(Query(MATCHES, where.params()))[0][0]) == mine


def test_bounds_are_inclusive_to_the_last_bit(small, tracks):
    for t in tracks[:50]:
        hit = small.query(Query(MATCHES, Filter(bpm=(t.bpm, t.bpm), year=(t.year, t.year)).params()))[0][0]
        assert t.id in hit


def test_every_genre_of_a_track_counts_and_case_does_not(small, tracks):
    second = next(t for t in tracks if len(t.genres) == 2)
    assert second.id in small.query(Query(MATCHES, Filter(genre=second.genres[1].upper()).params()))[0][0]
    for text in ("dri", "drill%", "d_ill", "'; DROP TABLE tracks; --", "drill\\", "%s", "🎤", "\u202edrill"):
        assert filtered(7, 10, Filter(genre=text), store=small) == []


# ---- the nearest of them

@pytest.mark.parametrize("where", SOME, ids=str)
def test_full_answers_with_recall_whichever_way(small, tracks, X, where):
    ids, asked = [t.id for t in tracks if where.admits(t)], range(0, N, 97)
    true = [truth(X, q, ids, 10) for q in asked]
    for way in WAYS:
        got = [[h.track_id for h in ask(small, q, where, way=way)] for q in asked]
        assert [len(g) for g in got] == [len(t) for t in true]
        assert recall(got, true) >= 0.99
    for q in asked:
        hits = filtered(q, 10, where, store=small)
        assert hits == sorted(hits, key=lambda h: -h.score) and q not in [h.track_id for h in hits]
        assert all(where.admits(tracks[h.track_id]) for h in hits)
        assert hits[0].score == pytest.approx(X[hits[0].track_id] @ X[q], abs=2e-3)


def test_the_way_is_told(small):
    broad, rare = Filter(year=(1900, 2100)), Filter("drill", year=(2014, 2014))
    n = len(small.query(Query(MATCHES, rare.params()))[0][0])
    assert filtered(42, 5, rare, store=small)[0].why == f"exact over {n}"
    assert ask(small, 42, broad, way="iterative")[0].why == "hnsw_halfvec ef=40 iterative, over 0 match"
    assert ask(small, 42, broad, way="iterative", ef=77)[0].why.startswith("hnsw_halfvec ef=77")
    query = select_filtered(42, 5, rare, within=(0, 10))      # ten candidates are too few: it has to give up
    hits = decode_filtered(query, small.query(query), 5, 42)
    assert hits[0].why == f"exact over {n}, the index gave up"
    assert [h.track_id for h in hits] == [h.track_id for h in filtered(42, 5, rare, store=small)]


def test_fewer_matches_than_asked_for_and_none(small, tracks):
    where = Filter(artist=tracks[5].artist, year=(tracks[5].year, tracks[5].year))
    have = {t.id for t in tracks if where.admits(t)}
    for way in WAYS: assert {h.track_id for h in ask(small, 42, where, 1_000, way)} == have - {42}
    assert {h.track_id for h in filtered(42, 1_500, where, store=small)} == have - {42}
    assert filtered(42, 10, Filter(year=(9_000, None)), store=small) == []
    assert filtered(5, 10, Filter(artist=tracks[5].artist, bpm=(tracks[5].bpm,) * 2), store=small) == []  # only itself


def test_an_empty_filter_is_similar(small):
    for nothing in (None, Filter(), Filter(bpm=(None, None))):
        assert filtered(42, 10, nothing, store=small) == similar(42, store=small)


def test_a_track_an_id_a_vector(small, X, tracks):
    where = Filter("trap")
    by_id = filtered(42, 10, where, store=small)
    assert filtered(tracks[42], 10, where, store=small) == by_id
    by_vector = filtered(X[42], 11, where, store=small)
    assert [h.track_id for h in by_vector if h.track_id != 42][:10] == [h.track_id for h in by_id]


def test_bad_questions(small):
    where = Filter("trap")
    with pytest.raises(UnknownTrack, match="no track"): filtered(10**9, 10, where, store=small)
    with pytest.raises(UnknownTrack): filtered(10**9, 10, Filter(year=(9_000, None)), store=small)  # unknown beats unmatched
    with pytest.raises(NoEmbedding, match="other-1"): filtered(42, 10, where, store=small, model_id="other-1")
    for wrong, says in (((42, 0, where), "expected k"), ((-1, 10, where), "expected a track id"), (("42", 10, where), "track id"),
                        ((np.ones(3), 10, where), "512 dimensions"), ((np.zeros(512), 10, where), "length"),
                        ((42, 10, {"genre": "trap"}), "expected a Filter, got dict"), ((42, 10, "trap"), "expected a Filter")):
        with pytest.raises(ValueError, match=says): filtered(*wrong, store=small)
    with pytest.raises(NoEmbedding, match="of model"): filtered(42, 10, where, store=small, model_id="x'; --")


def test_without_an_index_every_match_is_compared(small):
    assert limits(10, indexed=False)[0] is None and limits(1_000)[0] is None and limits(100)[0] > limits(10)[0] == limits(1)[0]
    query = select_filtered(42, 10, Filter(year=(1900, 2100)), within=limits(10, indexed=False))
    assert query.ef is None and small.query(query)[0][2] == "exact"


# ---- how the server gets there

def scans(con, *names):
    "How often each index (or, for a table, a scan of the whole) was used in this transaction."
    return [con.execute("SELECT pg_stat_get_xact_numscans(%s::regclass)", [n]).fetchone()[0] for n in names]


@pytest.mark.parametrize(("where", "index"), [
    (Filter(artist=catalog.name_artist(int(catalog.BY_RANK[0]))), "tracks_artist"),
    (Filter(mood="calm", year=(2014, 2014)), "tracks_mood"), (Filter(year=(1990, 1990)), "tracks_year"),
    (Filter(bpm=(100, 100.5)), "tracks_bpm"), (Filter("drill"), "track_genres_key")], ids=str)
def test_each_condition_has_an_index_that_the_policy_lets_through(small, where, index):
    small.tidy()
    with small.session() as s, s.con.transaction():
        assert s.con.execute("SELECT current_user").fetchone() == ("rap_app",)
        before = scans(s.con, index, "tracks", "embeddings")
        s.fetch(select_filtered(42, 10, where))
        assert scans(s.con, index, "tracks", "embeddings") == [before[0] + 1, *before[1:]]


def test_the_walk_uses_the_graph_and_looks_each_candidate_up(small):
    with small.session() as s, s.con.transaction():
        s.con.execute("SET LOCAL enable_sort = off")  # among other tenants' rows, reading all 2,000 may look cheaper
        names = "ix_hnsw_halfvec_synthetic_1", "tracks", "embeddings", "track_genres"
        before = scans(s.con, *names)
        s.fetch(select_filtered(42, 10, Filter("trap", year=(2000, None)), within=(0, 500)))
        assert scans(s.con, *names) == [before[0] + 1, *before[1:]]


def test_a_function_of_the_column_would_not_reach_an_index(small):
    "Why there are keys: `lower` may leak, so below the policy it is only a filter."
    with small.session() as s:
        key = explain(s.con, "SELECT id FROM tracks WHERE artist_key = %s", ["davendi & the turbines"], analyze=False)
        lower = explain(s.con, "SELECT id FROM tracks WHERE lower(artist) = %s", ["davendi & the turbines"], analyze=False)
    assert key.indexes == ("tracks_artist",) and "tracks_artist" not in lower.indexes


def test_functions_have_the_rights_of_the_caller(small):
    rows = small.query(Query("SELECT proname, prosecdef, provolatile FROM pg_proc WHERE proname LIKE 'filter\\_%%'"))
    assert len(rows) == 3 and all(not definer and kind in ("s", b"s") for _, definer, kind in rows)
    kept = small.query(Query("SELECT current_setting('hnsw.iterative_scan'), current_setting('plan_cache_mode')"))
    small.query(select_filtered(42, 10, SOME[-1], within=(0, 500)))
    assert small.query(Query("SELECT current_setting('hnsw.iterative_scan'), current_setting('plan_cache_mode')")) == kept


# ---- tenants, loops, versions

@pytest.mark.parametrize("where", SOME, ids=str)
def test_no_row_of_another_tenant(small, rival, where):
    for way in WAYS:
        ours, theirs = ask(small, 42, where, way=way), ask(rival, 500_042, where, way=way)
        assert ours and all(h.track_id < 500_000 for h in ours) and all(h.track_id >= 500_000 for h in theirs)
        assert {h.track_id for h in ours} == {h.track_id - 500_000 for h in theirs}
    with pytest.raises(UnknownTrack): filtered(42, 10, where, store=rival)


def test_no_tenant_no_rows(small):
    with small.session() as s:
        s.con.execute("SELECT set_config('app.tenant_id', '', false)")
        try:
            assert s.fetch(select_filtered(np.ones(512), 10, SOME[-1])) == []
            assert s.fetch(Query(MATCHES, SOME[-1].params())) == [([],)]
        finally: s.con.close()


def test_the_async_twin_says_the_same(small, X):
    async def all_of_it():
        await small.aopen(2)
        try:
            got = await asyncio.gather(*(afiltered(42, 10, w, store=small) for w in [*SOME, None, Filter()]))
            vector = await afiltered(X[42], 5, SOME[0], store=small)
            small.memo.clear()                                   # what is built has to be asked again
            again = await afiltered(42, 10, SOME[0], store=small)
            with pytest.raises(UnknownTrack): await afiltered(10**9, 10, SOME[0], store=small)
            with pytest.raises(NoEmbedding): await afiltered(42, 10, SOME[0], store=small, model_id="other-1")
            with pytest.raises(NoEmbedding): await afiltered(42, 10, None, store=small, model_id="other-1")
            with pytest.raises(ValueError, match="expected a Filter"): await afiltered(42, 10, "trap", store=small)
            return got, vector, again
        finally: await small.aclose()
    got, vector, again = asyncio.run(all_of_it())
    assert got == [filtered(42, 10, w, store=small) for w in [*SOME, None, Filter()]]
    assert vector == filtered(X[42], 5, SOME[0], store=small) and again == got[0]


def test_changes_count_at_once_and_the_schema_goes_both_ways(lab):
    own = Lab(home=lab.home, database="filters_versions").up()
    migrate(own)
    store = Store(own).register()
    try:
        track = dataclasses.replace(catalog.track(0), genres=("Phonk",), mood="Calm")
        store.upsert([track, catalog.track(1)], catalog.embeddings(0, 2))
        assert [h.track_id for h in filtered(1, 1, Filter("PHONK", "calm"), store=store)] == [0]
        store.upsert([dataclasses.replace(track, genres=("drill",), mood="dark")])
        assert filtered(1, 1, Filter("phonk"), store=store) == filtered(1, 1, Filter(mood="calm"), store=store) == []
        assert [h.track_id for h in filtered(1, 1, Filter("drill", "dark"), store=store)] == [0]
        migrate(own, "base")
        with store.admin() as con:
            assert con.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'filter\\_%'").fetchone() == (0,)
        migrate(own)
    finally:
        store.forget()
        lab.drop_database("filters_versions")
        own.close()
