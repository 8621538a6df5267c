"""Search by words and the answers that are kept, over real HTTP."""

import dataclasses
import re

import httpx
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.search.filters import Filter, filtered
from rap_analyzer.search.fulltext import find, hybrid
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

SEARCH = "/api/tracks/search"


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_api_search") as own:
        store = fill(Store(own, "words"), 800)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


@pytest.fixture(scope="module")
def url(store):
    with serving(create_app(store)) as url: yield url


@pytest.fixture
def get(url):
    with httpx.Client(base_url=url, timeout=20) as client: yield lambda path, **params: client.get(path, params=params)


def db_ms(r): return float(re.search(r"db;dur=([\d.]+)", r.headers["server-timing"])[1])


def test_search_is_what_find_says(get, store):
    for text in ("lantern", "lant", "lantrn", "ФОНАРЬ", "lantern zxqv"):
        body, want = get(SEARCH, q=text, k=5).json(), find(text, 5, store=store)
        assert (body["q"], body["k"]) == (text, 5)
        assert [(h["track_id"], h["why"]) for h in body["hits"]] == [(h.track_id, h.why) for h in want]
        assert [h["title"] for h in body["hits"]] == [t.title for t in store.tracks([h.track_id for h in want])]


def test_conditions_narrow_both_searches(get, store):
    where = Filter(genre="drill", bpm=(135, 150))
    asked = {"genre": "Drill", "bpm": "135-150"}
    hits = get(SEARCH, q="lantern", k=50, **asked).json()["hits"]
    assert hits and [h["track_id"] for h in hits] == [h.track_id for h in find("lantern", 50, where, store)]
    near = get("/api/tracks/similar", track_id=42, **asked).json()["hits"]
    assert [h["track_id"] for h in near] == [h.track_id for h in filtered(42, 10, where, store=store)]
    for t in store.tracks([h["track_id"] for h in [*hits, *near]]): assert "drill" in t.genres and 135 <= t.bpm <= 150
    assert get("/api/tracks/similar", track_id=42, genre="no such genre").json()["hits"] == []


def test_a_liked_track_makes_it_hybrid(get, store):
    hits = get(SEARCH, q="lantern rain", like=42).json()["hits"]
    assert [h["track_id"] for h in hits] == [h.track_id for h in hybrid("lantern rain", 42, store=store)]
    assert get(SEARCH, q="rain", like=10**6).status_code == 404


@pytest.mark.parametrize("asked, says", [
    ({}, "q is missing: expected text"), ({"q": ""}, "no word in ''"), ({"q": "?! 🎤"}, "no word in"),
    ({"q": "x" * 10_000}, "q = 'xxx"),
    ({"q": "a\0b"}, "NUL"), ({"q": " ".join(map(str, range(40)))}, "at most 16 words"), ({"q": "a", "k": 0}, "from 1 to 1,000"),
    ({"q": "a", "like": "x"}, "expected a whole number"), ({"q": "a", "like": -1}, "expected a whole number"),
    ({"q": "a", "bpm": "fast"}, "bpm|LO-HI"), ({"q": "a", "bpm": "100-80"}, "100"), ({"q": "a", "year": "1e9"}, "year|LO-HI"),
    ({"q": "a", "genres": "drill"}, "no parameter 'genres'"), ({"q": "a", "mood": "x" * 201}, "mood = 'xxx"),
])
def test_what_makes_no_sense_is_refused(get, asked, says):
    r = get(SEARCH, **asked)
    assert r.status_code == 422 and re.search(says, r.json()["error"]), r.text


def test_the_hint_is_for_this_address(get):
    assert get(SEARCH, q="a", genres="x").json()["hint"] == "did you mean genre?"
    assert "/api/tracks/search?q=" in get(SEARCH).json()["hint"]


@pytest.mark.parametrize("text", ["'; DROP TABLE tracks; --", "a & b | !c:*", "<script>alert(1)</script>", "\u202eabc", "%'"])
def test_strange_texts_are_texts(get, text):
    r = get(SEARCH, q=text)
    assert r.status_code == 200 or "no word" in r.json()["error"]
    assert get(SEARCH, q="lantern").status_code == 200


def test_an_answer_is_kept_until_somebody_writes(get, url, store):
    asked = {"q": "marble", "k": 3}
    first, again = get(SEARCH, **asked), get(SEARCH, **asked)
    assert first.json() == again.json() and db_ms(first) > 0 == db_ms(again)
    t = store.tracks([first.json()["hits"][0]["track_id"]])[0]
    store.upsert([dataclasses.replace(t, title="Marble renamed")])
    after = get(SEARCH, **asked)
    assert db_ms(after) > 0 and "Marble renamed" in [h["title"] for h in after.json()["hits"]]
    events = dict(re.findall(r'rap_cache_events_total\{event="(\w+)"\} ([\d.]+)', get("/metrics").text))
    assert float(events["hits"]) >= 1 and float(events["misses"]) >= 2


def test_other_questions_and_other_tenants_have_answers_of_their_own(get, store):
    a, b = get(SEARCH, q="copper"), get(SEARCH, q="copper", genre="trap")
    assert a.json()["hits"] != b.json()["hits"]
    with serving(create_app(Store(store.lab, "rival"))) as url: assert httpx.get(f"{url}{SEARCH}?q=copper").json()["hits"] == []


def test_errors_are_not_kept(get, store):
    assert get("/api/tracks/similar", track_id=900_001).status_code == 404
    first = store.tracks([1])[0]
    store.upsert([dataclasses.replace(first, id=900_001, external_id="late")])
    assert get("/api/tracks/similar", track_id=900_001).status_code == 409  # it is there now, without an embedding


def test_without_the_cache_every_answer_is_asked_for(store):
    with serving(create_app(store, cache_s=0)) as url:
        assert all(db_ms(httpx.get(f"{url}{SEARCH}?q=lantern")) > 0 for _ in range(2))
        assert "rap_cache_events" not in httpx.get(f"{url}/metrics").text
