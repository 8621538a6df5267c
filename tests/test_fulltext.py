"""Word search: what is found, what is refused, and that the door in the wall stays narrow."""

import asyncio
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from helpers import own_database

from rap_analyzer.music import catalog
from rap_analyzer.music.catalog import Track
from rap_analyzer.search.filters import Filter
from rap_analyzer.search.fulltext import afind, ahybrid, explain_words, find, fuse, hybrid, ndcg, select_names, select_words, terms
from rap_analyzer.search.index import similar
from rap_analyzer.search.ingest import ingest, sample_rows, write_csv
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate

UNKNOWN = dict.fromkeys(("artist_id", "mood", "bpm", "key", "swing", "rhyme_scheme", "lyrics", "language", "year", "popularity"))


def song(i: int, title: str, artist: str = "Nobody", genres: tuple = (), **known) -> Track:
    "A track of which little is known."
    return Track(id=i, title=title, artist=artist, genres=genres, external_id=f"x{i}", **UNKNOWN | known)


@pytest.fixture(scope="module")
def mine(lab):
    "A few tracks of one tenant, in a database of their own."
    with own_database(lab, "test_words") as own:
        store = Store(own, "words")
        store.upsert([
            song(1, "Quiet lantern", "Kilo Vane", ("drill",), mood="dark", bpm=142.0, year=2015,
                 lyrics="It rained on running tracks"),
            song(2, "Тихий фонарь", "Мира Соль", ("lo-fi",), mood="calm", bpm=78.0, year=2020, lyrics="Ёлки в снегу"),
            song(3, "Café del Mar", "The Who & Co., Ltd", ("g-funk", "trap"), lyrics="you can't stop"),
            song(4, "99 problems", "Don't Stop", lyrics="x" * 3_000 + " needle"),
            song(5, "سلام يا صاحبي", "月", lyrics="🎤 drop"),
        ])
        yield store
        store.forget()


def ids(hits): return [h.track_id for h in hits]


@pytest.mark.parametrize("text, first", [
    ("lantern", 1), ("LANTERNS", 1), ("lant", 1), ("quiet lant", 1), ("rain running", 1), ("kilo", 1), ("drill", 1), ("dark", 1),
    ("фонари", 2), ("Фонарём", 2), ("фон", 2), ("елки", 2), ("ёлка", 2), ("мира соль", 2), ("cafe", 3), ("CAFE\u0301 mar", 3),
    ("the who", 3), ("g-funk", 3), ("can't stop", 3), ("99", 4), ("needle", 4), ("سلام", 5), ("月", 5),
    ("drop 🎤", 5), ("lantern & quiet", 1), ("!lantern | (quiet)", 1), ("quiet:* lantern", 1),
])
def test_found_by(mine, text, first):
    hits = find(text, store=mine)
    assert ids(hits)[0] == first and hits[0].why == "words"


@pytest.mark.parametrize("text, first", [("lantrn", 1), ("qiet lanten", 1), ("klo vane", 1), ("фонрь", 2), ("мира сол", 2)])
def test_typos_find_names(mine, text, first):
    hits = find(text, store=mine)
    assert ids(hits)[0] == first


def test_some_of_the_words_come_after_all_of_them(mine):
    hits = find("stop drop lantern", store=mine)
    assert set(ids(hits)) >= {1, 3, 4, 5} and {h.why for h in hits} <= {"a similar name", "some of the words"}
    assert ids(find("quiet lantern", store=mine))[0] == 1
    assert find("zxqv wvzx", store=mine) == []


@pytest.mark.parametrize("text, says", [
    ("", "no word"), (" \t\n", "no word"), ("?! & | :*", "no word"), ("🎤", "no word"), ("x" * 10_000, "200 characters"),
    ("a\0b", "NUL"), ("\ud800", "surrogate"), (" ".join(map(str, range(17))), "16 words"), (None, "expected a text"),
    (7, "expected a text"),
])
def test_what_cannot_be_searched_for_is_refused(mine, text, says):
    with pytest.raises(ValueError, match=says): find(text, store=mine)


@pytest.mark.parametrize("text", [
    "'; DROP TABLE tracks; --", "lantern' OR '1'='1", "a & !b <-> c:*AB", "\\", "%s %(x)s lantern", "\u202elantern",
])
def test_sql_and_operators_are_words(mine, text):
    try: find(text, store=mine)
    except ValueError as e: assert "no word" in str(e)
    assert mine.count() == 5


def test_filters_hold(mine):
    every = Filter(genre="drill", mood="dark", bpm=(140, 145), year=(2015, 2015), artist="kilo vane")
    assert ids(find("quiet", where=every, store=mine)) == [1]
    wrong = {"genre": "trap"}, {"mood": "calm"}, {"bpm": (1, 100)}, {"year": (2016, None)}, {"artist": "kilo"}
    for where in (Filter(**w) for w in wrong):
        assert 1 not in ids(find("quiet lantern", where=where, store=mine)), where
    assert ids(find("stop", where=Filter(genre="TRAP"), store=mine)) == [3]


def test_words_follow_the_track(mine):
    before = song(6, "Copper kettle", genres=("crunk",))
    mine.upsert([before])
    assert ids(find("copper crunk", store=mine)) == [6]
    mine.upsert([replace(before, title="Iron kettle", genres=("boom bap",))])
    assert ids(find("iron boom", store=mine)) == [6] and 6 not in ids(find("copper", store=mine)) + ids(find("crunk", store=mine))


def test_a_megabyte_of_lyrics_is_stored_and_searchable_at_its_beginning(mine):
    mine.upsert([song(7, "Long", lyrics="beginning " + " ".join(f"w{i}" for i in range(150_000)))])
    assert ids(find("beginning", store=mine)) == [7]


def test_the_indexes_are_used_when_the_application_asks(small):
    assert "tracks_words" in explain_words(small, select_words(["lantern"], 10))
    assert "tracks_names" in explain_words(small, select_names(["lantrn"], 10))


def test_other_tenants_stay_out(mine):
    other = Store(mine.lab, "others")
    other.upsert([song(1, "Quiet lantern of others"), song(2, "Only theirs")])
    assert ids(find("lantern", store=other)) == [1] and "others" in other.tracks([1])[0].title
    assert ids(find("lantern others", store=mine))[0] == 1 and find("theirs", store=mine) == []
    nobody = Store(mine.lab, "nobody")
    assert find("lantern", store=nobody) == [] and find("lantrn", store=nobody) == []
    other.forget(), nobody.forget()


def test_a_session_without_a_tenant_finds_nothing(mine):
    with psycopg.connect(mine.lab.url("rap_app"), autocommit=True) as con:
        query = select_words(["lantern"], 10)
        assert con.execute(query.sql, query.params).fetchall() == []


def test_the_callers_temporary_table_does_not_pass_for_ours(mine):
    with mine.session() as s:
        s.con.execute("CREATE TEMP TABLE tracks AS SELECT * FROM public.tracks WITH NO DATA")
        try: assert len(s.fetch(select_words(["lantern"], 10))) == 1
        finally: s.con.execute("DROP TABLE pg_temp.tracks")


@pytest.mark.parametrize("name", ["search_words", "search_names"])
def test_the_door_is_narrow(mine, name):
    with mine.admin(None) as con:
        asked = "SELECT proowner::regrole::text, prosecdef, proconfig, proacl::text[] FROM pg_proc WHERE proname = %s"
        owner, definer, config, rights = con.execute(asked, [name]).fetchone()
        assert (owner, definer) == ("rap_loader", True) and "search_path=pg_catalog, public, pg_temp" in config
        assert not any(r.startswith("=") for r in rights) and any(r.startswith("rap_app=X") for r in rights)
        assert not con.execute("SELECT has_schema_privilege('rap_loader', 'public', 'CREATE')").fetchone()[0]


def test_the_migration_carries_old_rows_along_and_goes_back(lab):
    from rap_analyzer.lab import Lab
    own = Lab(home=lab.home, database="test_words_migration").up()
    migrate(own, "0002")
    with psycopg.connect(own.url("rap_loader"), autocommit=True) as con:
        con.execute("INSERT INTO tenants (id) VALUES ('old')")
        con.execute("INSERT INTO tracks (tenant_id, id, source, external_id, title, artist) "
                    "VALUES ('old', 1, 's', 'e', 'Rust', 'Ada')")
        con.execute("INSERT INTO track_genres VALUES ('old', 1, 'drill', 0), ('old', 1, 'lo-fi', 1)")
    migrate(own)
    store = Store(own, "old")
    assert ids(find("rust drill", store=store)) == [1]
    assert store.query(Query("SELECT genre_words FROM tracks")) == [("drill lo-fi",)]
    store.forget()
    migrate(own, "base")
    migrate(own)
    lab.drop_database("test_words_migration")


def test_imported_tracks_are_found_by_their_words(lab, tmp_path):
    with own_database(lab, "test_words_import") as own:
        store = Store(own)
        ingest(write_csv(tmp_path / "songs.csv", sample_rows(300)), store)
        hits = find("ночной двор", 5, store=store)
        assert len(hits) == 5 and all("Ночной Двор" in t.title for t in store.tracks(ids(hits)))
        nine = store.tracks(ids(find("nine", 5, Filter(genre="drill"), store)))
        assert nine and all("Nine" in t.title and "drill" in t.genres for t in nine)
        store.forget()


def test_hybrid_puts_words_and_sound_together(small):
    x = catalog.embeddings(2_000, 2_001)[0]
    hits = hybrid("lantern rain", x, 10, store=small)
    has = {h.track_id for h in find("lantern", 1_000, store=small)} | {h.track_id for h in find("rain", 1_000, store=small)}
    near = {h.track_id for h in similar(x, 100, store=small)}
    assert len(hits) == 10 and set(ids(hits)) <= has | near and set(ids(hits)) & has
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_hybrid_leaves_the_liked_track_out_and_keeps_to_the_filter(small):
    liked = find("lantern", 1, store=small)[0].track_id
    assert liked not in ids(hybrid("lantern", liked, 50, store=small))
    drill = hybrid("lantern", liked, 10, Filter(genre="drill"), small)
    assert drill and all("drill" in t.genres for t in small.tracks(ids(drill)))
    assert hybrid("zxqv", liked, 10, Filter(genre="no such genre"), small) == []


def test_the_async_twins_answer_the_same(small):
    liked = find("lantern", 1, store=small)[0].track_id
    texts = "lantern", "lantrn", "lantern zxqv"
    async def both():
        await small.aopen()
        try: return [await afind(t, 10, store=small) for t in texts], await ahybrid("rain", liked, store=small)
        finally: await small.aclose()
    found, blended = asyncio.run(both())
    assert found == [find(t, 10, store=small) for t in texts]
    assert blended == hybrid("rain", liked, store=small)


def test_fusion_of_complete_rankings():
    ids_ = np.array([1, 2, 3, 4])
    assert [i for i, _ in fuse(ids_, [np.array([2, 2, 1, 0]), np.array([.1, .9, .8, .7])])] == [2, 1, 3, 4]
    assert ndcg([3, 2], np.array([0, 0, 1., 2.])) == 1 and ndcg([0, 1], np.array([0, 0, 1., 2.])) == 0


def test_terms_are_normalised():
    assert terms("Ёж  ёж\tCAFÉ cafe\u0301") == ["еж", "café"]


NAMES = ("N.W.Q", "AC/DC", "Ke$ha", "The The", "÷", "🔥", "!!!", "Fire 🔥 now", "R. E. M.", "P!nk", "Jay-Z",
    "A$AP Vane", "don't halt", "24/7",
         "Déjà Vu", "the lantern of the sea", "C++", "Kilo & Co", "Sigur Rós")


@pytest.fixture(scope="module")
def spelled(lab):
    "A tenant with names that are spelled with signs."
    migrate(lab)
    store = Store(lab, "t-spelled").register()
    store.upsert([song(100 + i, name) for i, name in enumerate(NAMES)])
    yield store
    store.forget()


@pytest.mark.parametrize(("asked", "title"), [
    ("nwq", "N.W.Q"), ("n.w.q", "N.W.Q"), ("n w q", "N.W.Q"), ("acdc", "AC/DC"), ("AC-DC", "AC/DC"), ("ac dc",
    "AC/DC"), ("kesha", "Ke$ha"),
    ("ke$ha", "Ke$ha"), ("the the", "The The"), ("÷", "÷"), ("🔥", "🔥"), ("!!!", "!!!"), ("rem", "R. E. M."),
    ("R.E.M.", "R. E. M."),
    ("pink", "P!nk"), ("jayz", "Jay-Z"), ("jay z", "Jay-Z"), ("asap", "A$AP Vane"), ("a$ap vane", "A$AP Vane"),
    ("dont halt", "don't halt"),
    ("don’t halt", "don't halt"), ("247", "24/7"), ("deja vu", "Déjà Vu"), ("DÉJÀ VU", "Déjà Vu"), ("c++", "C++"),
    ("sigur ros", "Sigur Rós")])
def test_names_with_signs_are_found_however_they_are_typed(spelled, asked, title):
    hits = find(asked, 5, store=spelled)
    assert hits and spelled.tracks([hits[0].track_id])[0].title == title


def test_a_sign_inside_a_title_is_found_after_the_title_that_is_the_sign(spelled):
    titles = [t.title for t in spelled.tracks(ids(find("🔥", 5, store=spelled)))]
    assert titles == ["🔥", "Fire 🔥 now"]


def test_signs_that_no_track_has_are_no_question(spelled):
    with pytest.raises(ValueError, match="no word"): find("☂", store=spelled)


def test_the_title_comes_first_whatever_is_more_popular(mine):
    loud = [replace(song(200 + i, f"The kettle song {i} of the kettle"), popularity=9_999.0) for i in range(12)]
    mine.upsert([*loud, replace(song(220, "Kettle"), popularity=0.0)])
    assert ids(find("kettle", 10, store=mine))[0] == 220


@pytest.mark.parametrize("artist", ["Ann Ode, Ben Rue", "Ann Ode feat. Ben Rue", "Ann Ode & Ben Rue",
    "Ann Ode (ft. Ben Rue)", "Ben Rue x Ann Ode"])
def test_a_song_is_found_under_each_of_its_artists(mine, artist):
    mine.upsert([replace(song(300, "Shared kettle"), artist=artist)])
    for name in ("ben rue", "Ann Ode", artist):
        assert ids(find("shared", where=Filter(artist=name), store=mine)) == [300], name
        assert Filter(artist=name).admits(mine.tracks([300])[0])
    assert find("shared", where=Filter(artist="Ben"), store=mine) == []
