"""Search engines behind one function: the same answers, a copy that follows its tracks, and nothing of other tenants."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.decide.elastic import ElasticEngine, elastic_filter, elastic_query, make_mapping
from rap_analyzer.decide.engines import WEIGHTS, EmbeddedEngine, PostgresEngine, name_index, stages
from rap_analyzer.decide.words import choose_words
from rap_analyzer.music.catalog import Track
from rap_analyzer.search.filters import Filter, ladder
from rap_analyzer.search.store import Store, migrate

UNKNOWN = dict.fromkeys(("artist_id", "mood", "bpm", "key", "swing", "rhyme_scheme", "lyrics", "language", "year", "popularity"))


def song(i: int, title: str, artist: str = "Nobody", genres: tuple = (), **known) -> Track:
    "A track of which little is known."
    return Track(id=i, title=title, artist=artist, genres=genres, external_id=f"x{i}", **UNKNOWN | known)


SONGS = [
    song(1, "Quiet lantern", "Kilo Vane", ("drill",), mood="dark", bpm=142.1, year=2015, lyrics="It rained on running tracks"),
    song(2, "Тихий фонарь", "Мира Соль", ("lo-fi",), mood="calm", bpm=78.0, year=2020, lyrics="Ёлки в снегу"),
    song(3, "Café del Mar", "The Who & Co., Ltd", ("g-funk", "trap"), lyrics="you can't stop"),
    song(4, "99 problems", "Don't Stop", lyrics="x" * 3_000 + " needle"),
    song(5, "سلام يا صاحبي", "月", lyrics="🎤 drop"), song(6, "AC/DC"), song(7, "N.W.Q"), song(8, "Ke$ha"), song(9, "🔥"),
    song(10, "Fire 🔥 now"), song(11, "Lamp one", "Ann Ode feat. Ben Rue", popularity=5.0), song(12, "Lamp one", popularity=9.0)]


@pytest.fixture(scope="module")
def mine(lab):
    "A few tracks of one tenant."
    migrate(lab)
    store = Store(lab, "t-engines").register()
    store.upsert(SONGS)
    yield store
    store.attempt(lambda s: s.con.execute("DELETE FROM tracks"))
    store.forget()


@pytest.fixture(scope="module")
def engine(mine, tmp_path_factory):
    "The embedded engine over them."
    engine = EmbeddedEngine(mine, tmp_path_factory.mktemp("words") / "mine")
    yield engine
    engine.close()


def ids(hits, *why): return [h.track_id for h in hits if not why or h.why in why]


@pytest.mark.parametrize("text, first", [
    ("lantern", 1), ("LANTERNS", 1), ("lant", 1), ("quiet lant", 1), ("rain running", 1), ("kilo", 1), ("drill", 1), ("dark", 1),
    ("фонари", 2), ("Фонарём", 2), ("фон", 2), ("елки", 2), ("ёлка", 2), ("мира соль", 2), ("cafe", 3), ("CAFE\u0301 mar", 3),
    ("the who", 3), ("g-funk", 3), ("can't stop", 3), ("99", 4), ("needle", 4), ("سلام", 5), ("月", 5), ("drop 🎤", 5),
    ("lantern & quiet", 1), ("!lantern | (quiet)", 1), ("quiet:* lantern", 1), ("acdc", 6), ("ac dc", 6), ("nwq", 7),
    ("n w q", 7), ("kesha", 8), ("ke$ha", 8), ("🔥", 9), ("lamp one", 12)])
def test_both_engines_find_it_first(mine, engine, text, first):
    for one in (PostgresEngine(mine), engine):
        hits = one.find(text)
        assert (ids(hits)[0], hits[0].why) == (first, "words"), one.name


@pytest.mark.parametrize("text, first", [("lantrn", 1), ("qiet lanten", 1), ("klo vane", 1), ("фонрь", 2), ("мира сол", 2)])
def test_typos_find_names(engine, text, first):
    assert ids(engine.find(text))[0] == first


def test_some_of_the_words_come_after_all_of_them(engine):
    hits = engine.find("stop drop lantern")
    assert set(ids(hits)) >= {1, 3, 4, 5} and {h.why for h in hits} == {"some of the words"}
    two = engine.find("quiet lantern fire")
    assert ids(two)[:2] == [1, 10] and [int(h.score) for h in two[:2]] == [2, 1]
    assert engine.find("zxqv wvzx") == []


@pytest.mark.parametrize("text, says", [
    ("", "no word"), ("?! & | :*", "no word"), ("☂", "no word"), ("x" * 10_000, "200 characters"), ("a\0b", "NUL"),
    (" ".join(map(str, range(17))), "16 words"), (None, "expected a text"), (7, "expected a text")])
def test_what_cannot_be_searched_for_is_refused(engine, text, says):
    with pytest.raises(ValueError, match=says): engine.find(text)


@pytest.mark.parametrize("text", ["'; DROP TABLE tracks; --", "title:lantern OR *", "lant.*", "[a TO z]", "\\", "a^9 ~2"])
def test_operators_are_words(engine, text):
    try: engine.find(text)
    except ValueError as e: assert "no word" in str(e)


def test_filters_hold(engine):
    every = Filter(genre="drill", mood="DARK", bpm=(142.1, 142.1), year=(2015, 2015), artist="kilo vane")
    assert ids(engine.find("quiet", where=every)) == [1]
    wrong = {"genre": "trap"}, {"mood": "calm"}, {"bpm": (1, 142)}, {"year": (2016, None)}, {"artist": "kilo"}
    for where in (Filter(**w) for w in wrong): assert engine.find("quiet lantern", where=where) == [], where
    assert ids(engine.find("stop", where=Filter(genre="TRAP"))) == [3]
    assert ids(engine.find("lamp", where=Filter(artist="ben rue"))) == [11]


def test_what_postgresql_finds_the_engine_finds(small, tmp_path):
    engine, postgres = EmbeddedEngine(small, tmp_path / "small"), PostgresEngine(small)
    asked = "lantern", "rain night", "тихий фонарь", "микрофоном", "dark drill", "harb", "the station", "гитару"
    for text in asked:
        for where in (None, *list(ladder().values())[::3]):
            here, there = (set(ids(one.find(text, 2_000, where), "words")) for one in (postgres, engine))
            assert here <= there, (text, where, len(here - there))
    assert engine.find("lantern", 5)[0].track_id in set(ids(postgres.find("lantern", 2_000)))
    engine.close()


def test_the_copy_follows_what_this_process_writes(mine, engine):
    mine.upsert([song(20, "Copper kettle", genres=("crunk",)), song(21, "Tin kettle")])
    assert ids(engine.find("copper crunk"), "words") == [20]
    mine.upsert([song(20, "Iron kettle", genres=("boom bap",))])
    assert ids(engine.find("iron boom"), "words") == [20] and not ids(engine.find("crunk")) + ids(engine.find("copper"), "words")
    mine.attempt(lambda s: s.con.execute("DELETE FROM tracks WHERE id IN (20, 21)"))
    assert (engine.refresh(), ids(engine.find("kettle"))) == (2, [])


def test_another_process_writes_and_the_copy_is_behind_until_it_is_refreshed(mine, engine):
    engine.refresh()
    Store(mine.lab, mine.tenant).upsert([song(22, "Zinc bucket")])
    assert ids(PostgresEngine(mine).find("zinc")) == [22] and engine.find("zinc") == []
    assert (engine.refresh(), ids(engine.find("zinc")), engine.refresh()) == (1, [22], 0)
    mine.attempt(lambda s: s.con.execute("DELETE FROM tracks WHERE id = 22"))
    engine.refresh()


def test_each_tenant_has_an_index_of_its_own(mine, engine):
    other = Store(mine.lab, "t-engines-2").register()
    other.upsert([replace(SONGS[0], title="Lantern of others")])
    theirs, ours = EmbeddedEngine(other), EmbeddedEngine(mine)
    assert theirs.folder != ours.folder and ids(theirs.find("others")) == [1]
    assert ids(ours.find("others"), "words") == [] and ids(ours.find("lantern"), "words") == [1]
    other.attempt(lambda s: s.con.execute("DELETE FROM tracks"))
    theirs.close(), ours.close()


def test_a_damaged_index_is_made_anew_and_two_writers_wait_for_each_other(mine, tmp_path):
    first = EmbeddedEngine(mine, tmp_path / "x")
    assert first.refresh() == len(SONGS)
    (tmp_path / "x" / "meta.json").write_text("{")
    four = [EmbeddedEngine(mine, tmp_path / "x") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool: assert sorted(pool.map(lambda e: e.refresh(), four)) == [0, 0, 0, len(SONGS)]
    assert all(ids(e.find("lantern"), "words") == [1] for e in four)
    for e in (first, *four): e.close()


# ---- Elasticsearch: the form of what it is asked. No Elasticsearch runs here, so what one finds is not tested.

def elastic(store, **said):
    "An engine whose server notes each request and answers as told, by the last part of the path."
    asked = []
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, request.content.decode()))
        status, body = said.get(request.url.path.rpartition("/")[2].strip("_"), (200, {}))
        return httpx.Response(status, json=body)
    return ElasticEngine(store, "http://me:secret@search:9200", transport=httpx.MockTransport(answer)), asked


def test_a_load_goes_into_a_new_index_and_the_alias_moves_last(mine):
    alias = elastic(mine)[0].alias
    engine, asked = elastic(mine, **{alias: (200, {"rap-old": {"aliases": {alias: {}}}})})
    assert engine.refresh() == len(SONGS)
    made, loaded, seen, _, aliases = asked
    index = made[1].strip("/")
    assert made[0] == "PUT" and json.loads(made[2]) == make_mapping() and seen[1] == f"/{index}/_refresh"
    lines = [json.loads(line) for line in loaded[2].splitlines()]
    assert {line["index"]["_id"] for line in lines[::2]} == {str(t.id) for t in SONGS}
    assert set().union(*lines[1::2]) <= set(make_mapping()["mappings"]["properties"])
    assert json.loads(aliases[2]) == {"actions": [{"add": {"index": index, "alias": engine.alias}},
                                                  {"remove_index": {"index": "rap-old"}}]}


@pytest.mark.parametrize("said, says", [
    ({"bulk": (200, {"errors": True, "items": [{"index": {}}, {"index": {"error": {"reason": "no year"}}}]})}, "no year"),
    ({"bulk": (429, {"error": "busy"})}, "429"), ({"aliases": (500, {})}, "500")])
def test_a_load_that_is_not_whole_leaves_the_old_index_in_place(mine, said, says):
    engine, asked = elastic(mine, **said)
    with pytest.raises(LabError, match=says): engine.refresh()
    assert asked[-1][0] == "DELETE" and asked[-1][1] == asked[0][1]
    assert "aliases" in said or not any(path == "/_aliases" for _, path, _ in asked)


@pytest.mark.parametrize("said, says", [
    ({"timed_out": True}, "only a part"), ({"_shards": {"failed": 1}}, "only a part")])
def test_a_partial_answer_is_none(mine, said, says):
    engine, _ = elastic(mine, search=(200, {"hits": {"hits": []}} | said))
    with pytest.raises(LabError, match=says): engine.find("lantern")


def test_a_question_has_its_words_scored_and_its_conditions_only_held(mine):
    engine, asked = elastic(mine, search=(200, {"hits": {"hits": [{"_id": "7", "_score": 1.0}]}}))
    hits = engine.find("quiet lantern", 1, Filter(genre="Drill", mood="dark", bpm=(90, None), year=(2015, 2016)))
    assert [(h.track_id, h.why) for h in hits] == [(7, "words")]
    body = json.loads(asked[0][2])
    assert asked[0][:2] == ("POST", f"/{engine.alias}/_search") and body["size"] == 1 and "timeout" in body
    assert body["query"]["bool"]["filter"] == [{"term": {"genre": "drill"}}, {"term": {"mood": "dark"}},
        {"range": {"bpm": {"gte": 90.0}}}, {"range": {"year": {"gte": 2015, "lte": 2016}}}]
    title, every, near, some = (elastic_query(stage) for stage in stages("quiet lantern"))
    assert title == {"constant_score": {"filter": {"term": {"title_key": "quietlantern"}}}}
    assert len(every["dis_max"]["queries"][0]["bool"]["must"]) == 2 and len(near["bool"]["must"]) == 2
    assert some["bool"]["minimum_should_match"] == 1 and elastic_filter(None) == []
    assert {f.partition("^")[0] for f in every["dis_max"]["queries"][0]["bool"]["must"][0]["multi_match"]["fields"]} == set(WEIGHTS)


def test_a_server_that_refuses_is_told_without_the_password(mine, monkeypatch):
    engine, _ = elastic(mine, search=(401, {"error": "missing credentials"}))
    with pytest.raises(LabError, match="Elasticsearch at search refused POST .* 401") as e: engine.find("lantern")
    assert "secret" not in str(e.value) + engine.name
    for bad in ("search:9200", "ftp://search", "http://"):
        monkeypatch.setenv("ELASTICSEARCH_URL", bad)
        with pytest.raises(LabError, match="no address"): choose_words("elasticsearch")
    monkeypatch.setenv("ELASTICSEARCH_URL", "http://search:9200")
    assert choose_words("elasticsearch").make(mine).name == "Elasticsearch at search"
    monkeypatch.delenv("ELASTICSEARCH_URL")
    with pytest.raises(LabError, match="set ELASTICSEARCH_URL"): choose_words("elasticsearch")
    assert choose_words("postgres") is None


def test_one_name_for_a_tenants_index_whatever_holds_it(mine, monkeypatch):
    other = Store(mine.lab, "t-engines-other")
    names = {EmbeddedEngine(mine).folder.name, elastic(mine)[0].alias.removeprefix("rap-"), name_index(mine)}
    assert len(names) == 1 and name_index(other) not in names
    given = {}
    for url in ("postgresql://a:old@db:5432/rap", "postgresql://a:new@db:5432/rap", "postgresql://a:new@elsewhere:5432/rap"):
        monkeypatch.setattr(mine.lab, "external_db", url)
        given[url] = name_index(mine)
    old, new, elsewhere = given.values()
    assert old == new != elsewhere and old not in names                         # another password is no other index
