"""`[search] engine`: the route asks what is configured, says who answered, and PostgreSQL answers while the engine cannot."""

import time

import httpx
import pytest

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError, settings
from rap_analyzer.decide.engines import EmbeddedEngine
from rap_analyzer.decide.words import Words
from rap_analyzer.music.catalog import Track
from rap_analyzer.platform.keys import Keys
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.web import serving

ASKED = {"en": ["lantern", "rain night", "dark drill", "harb", "the station", "microphones", "clocks"],
         "ru": ["тихий фонарь", "микрофоном", "гитару", "страницы", "дороги", "закаты", "ночь"]}
UNKNOWN = dict.fromkeys(("artist_id", "mood", "bpm", "key", "swing", "rhyme_scheme", "lyrics", "language", "year", "popularity"))


@pytest.fixture
def service(monkeypatch):
    "A service with an engine by configuration."
    def make(engine, store, url=None, **how):
        monkeypatch.setenv("RAP_SEARCH_ENGINE", engine)
        if url: monkeypatch.setenv("ELASTICSEARCH_URL", url)
        else: monkeypatch.delenv("ELASTICSEARCH_URL", raising=False)
        settings.cache_clear()
        return create_app(store, **how)
    yield make
    settings.cache_clear()


def ask(url, q, status=200, **more):
    r = httpx.get(f"{url}/api/tracks/search", params={"q": q, "titles": False, **more}, timeout=30)
    assert r.status_code == status, r.text
    return r.json()


def by_words(said): return {h["track_id"] for h in said["hits"] if h["why"] == "words"}


def wait(until, seconds=20):
    end = time.monotonic() + seconds
    while not (got := until()) and time.monotonic() < end: time.sleep(.05)
    assert got
    return got


def test_the_engine_answers_and_finds_what_postgresql_finds(service, small):
    with serving(service("postgres", small)) as url:
        first = {q: ask(url, q, k=1_000) for qs in ASKED.values() for q in qs}
    assert {(s["engine"], s["instead"]) for s in first.values()} == {("PostgreSQL full text", "")}
    app = service("tantivy", small)
    with serving(app) as url:
        wait(lambda: ask(url, "lantern")["engine"].startswith("tantivy"))
        for language, questions in ASKED.items():
            found = {q: ask(url, q, k=1_000) for q in questions}
            assert all(s["engine"].startswith("tantivy") and not s["instead"] for s in found.values())
            assert any(by_words(first[q]) for q in questions), language
            for q in questions: assert by_words(first[q]) <= by_words(found[q]), (language, q)
        pages = [ask(url, "night", k=7)]
        while len(pages) < 3: pages.append(ask(url, "night", k=7, cursor=pages[-1]["next"]))
        whole = ask(url, "night", k=21)["hits"]
        assert [h["track_id"] for p in pages for h in p["hits"]] == [h["track_id"] for h in whole] and len(whole) == 21
        like = ask(url, "night", like=3)
        assert like["engine"] == "PostgreSQL full text" and like["model_id"]
        assert ask(url, "?!", 422) and ask(url, "night", genre="drill")["hits"]
    with serving(service("postgres", small)) as url:
        assert "another engine" in ask(url, "night", 422, k=7, cursor=pages[0]["next"])["detail"]


def test_an_engine_that_is_away_is_named_and_postgresql_answers(service, small):
    with serving(service("postgres", small, cache_s=0)) as url: want = ask(url, "lantern")
    app = service("elasticsearch", small, "http://127.0.0.1:1", cache_s=0)
    with serving(app) as url:
        said = wait(lambda: (s := ask(url, "lantern")) and "does not answer" in s["instead"] and s)
        assert said["engine"] == "PostgreSQL full text" and "Elasticsearch at 127.0.0.1" in said["instead"]
        assert said["hits"] == want["hits"]
    with pytest.raises(LabError, match="set ELASTICSEARCH_URL"): service("elasticsearch", small)
    with pytest.raises(LabError, match="no address"): service("elasticsearch", small, "search:9200")
    with pytest.raises(LabError, match="expected one of postgres, tantivy"): service("solr", small)


def song(i, title): return Track(id=i, title=title, artist="Nobody", genres=(), external_id=f"y{i}", **UNKNOWN)


@pytest.fixture
def teams(lab):
    "Two tenants with a song each."
    migrate(lab)
    found = [Store(lab, f"engine-{n}").register() for n in ("a", "b")]
    for n, store in enumerate(found): store.upsert([song(1, ("Copper lantern", "Iron lantern")[n])])
    yield found
    for store in found:
        store.attempt(lambda s: s.con.execute("DELETE FROM tracks"))
        store.forget()


def test_each_tenant_has_its_own_index_and_its_writes_are_found(service, teams):
    a, b = teams
    keys = [Keys(store).create(["read"])[0] for store in teams]
    app = service("tantivy", a, auth="required", cache_s=300)
    with serving(app) as url:
        def titles(key, q):
            r = httpx.get(f"{url}/api/tracks/search", params={"q": q}, headers={"X-API-Key": key}, timeout=30).json()
            return r["engine"].split()[0], [h["title"] for h in r["hits"] if h["why"] == "words"]
        for key, title in zip(keys, ("Copper lantern", "Iron lantern"), strict=True):
            wait(lambda key=key: titles(key, "lantern")[0] == "tantivy")
            assert titles(key, "lantern") == ("tantivy", [title])
        assert titles(keys[0], "iron")[1] == [] == titles(keys[1], "copper")[1]
        a.upsert([song(2, "Tin lantern")])                                           # another store object: another process
        wait(lambda: "Tin lantern" in titles(keys[0], "lantern")[1])
        assert "Tin lantern" not in titles(keys[1], "lantern")[1]


def test_a_tenant_that_is_not_asked_for_is_dropped_and_failures_rest(teams, monkeypatch, tmp_path):
    monkeypatch.setattr("rap_analyzer.decide.words.MOST_KEPT", 1)
    words, (a, b) = Words(lambda s: EmbeddedEngine(s, tmp_path / s.tenant)), teams
    for store in (a, b, a):
        words.keep(store).work.result(30)
        assert list(words.kept) == [store.tenant]
    assert words.find("lantern", store=a)[0][0].track_id == 1
    calls, kept = [], words.keep(a)
    def fail(*_): calls.append(1); raise LabError("the disk is full.")
    monkeypatch.setattr(kept.engine, "find", fail)
    for _ in range(5):
        with pytest.raises(LabError, match="disk is full"): words.find("lantern", store=a)
    assert len(calls) == 1
    words.close()
    assert not words.kept
