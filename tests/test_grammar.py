"Pages, tags, keys, notices, trends and exports: what all routes have in common, over real HTTP and a real PostgreSQL."
import asyncio
import csv
import dataclasses
import io
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import uuid4

import httpx
import pyarrow.parquet as pq
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.music import catalog
from rap_analyzer.platform import export, idempotency
from rap_analyzer.platform.idempotency import Claimed, Idempotency, Kept, claim, keep, release
from rap_analyzer.platform.identity import Refused
from rap_analyzer.platform.keys import Keys
from rap_analyzer.product import routes as product
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build
from rap_analyzer.search.pages import BadCursor, make_cursor, read_cursor
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

N = 300


@pytest.fixture(scope="module")
def own(lab):
    with own_database(lab, "test_grammar") as own: yield own


@pytest.fixture(scope="module")
def store(own):
    store = fill(Store(own, "acme"), N)
    build("hnsw_halfvec", store)
    Events(store).register(range(20))
    yield store
    store.forget()


@pytest.fixture(scope="module")
def rival(own, store):
    rival = fill(Store(own, "rival"), N)
    Events(rival).register(range(20))
    yield rival
    rival.forget()


@pytest.fixture(scope="module")
def keys(store, rival): return {s.tenant: Keys(s, "test").create(["read", "write", "export", "operate"])[0] for s in (store, rival)}


@pytest.fixture(scope="module")
def app(store): return create_app(store, timeout_s=15, auth="required")


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url: yield url


@pytest.fixture
def http(url, keys):
    with httpx.Client(base_url=url, timeout=20, headers={"x-api-key": keys["acme"]}) as client: yield client


@pytest.fixture
def other(url, keys):
    with httpx.Client(base_url=url, timeout=20, headers={"x-api-key": keys["rival"]}) as client: yield client


def follow(http, path, **params):
    "Every page of a list, by the header that leads on."
    pages, r = [], http.get(path, params=params)
    while True:
        assert r.status_code == 200, r.text
        pages.append(r.json())
        link = re.search(r'<([^>]+)>; rel="next"', r.headers.get("link", ""))
        assert bool(link) == bool(r.json()["next"])
        if not link: return pages
        r = http.get(link[1])


def ids(pages, key="tracks", name="id"): return [one[name] for page in pages for one in page[key]]


def count(store, where="true"): return store.query(Query(f"SELECT count(*)::int FROM events WHERE {where}"))[0][0]


# ---- pages

@pytest.mark.parametrize("k", [1, 7, 50, 150, 200])
def test_the_pages_are_all_tracks_once(http, k):
    pages = follow(http, "/api/tracks", k=k)
    assert ids(pages) == list(range(N)) and {len(p["tracks"]) for p in pages[:-1]} <= {k} and len(pages) == -(-N // k)


def test_writes_between_pages_move_nothing(http, store):
    first = next(catalog.tracks(0, 1))
    extra = [dataclasses.replace(first, id=i, external_id=f"extra-{i}") for i in (10**9, 10**9 + 1)]
    r, seen = http.get("/api/tracks", params={"k": 40}), []
    try:
        for step in range(20):
            seen += ids([r.json()])
            if step < 2: store.upsert(extra[step:step + 1])
            if step == 3:
                with store.session() as s: s.con.execute("DELETE FROM tracks WHERE id = %s", [10**9])
            if not (link := r.links.get("next")): break
            r = http.get(link["url"])
    finally:
        with store.session() as s: s.con.execute("DELETE FROM tracks WHERE id >= %s", [10**9])
        store.changed()
    assert seen == [*range(N), 10**9 + 1]


def test_the_pages_of_a_search_are_the_search(http):
    whole = http.get("/api/tracks/search", params={"q": "night rain", "k": 60}).json()
    pages = follow(http, "/api/tracks/search", q="night rain", k=7)
    found = ids(pages, "hits", "track_id")
    assert found[:60] == ids([whole], "hits", "track_id")[:len(found)] and len(set(found)) == len(found) > 14
    assert len(follow(http, "/api/tracks/search", q="lantern", k=1_000)) == 1


def test_a_renamed_track_before_the_cursor_costs_nobody_a_place(http, store):
    asked = {"q": "night", "k": 5}
    before = ids(follow(http, "/api/tracks/search", **asked), "hits", "track_id")
    r = http.get("/api/tracks/search", params=asked).json()
    old = store.tracks([before[0]])[0]
    try:
        store.upsert([dataclasses.replace(old, title="Renamed", lyrics="", genres=("trap",))])
        rest = follow(http, "/api/tracks/search", **asked, cursor=r["next"])
    finally: store.upsert([old])
    assert ids([r], "hits", "track_id") + ids(rest, "hits", "track_id") == before


@pytest.mark.parametrize("path, more", [("/api/tracks", {}), ("/api/tracks/search", {"q": "night"})])
def test_a_cursor_belongs_to_its_question_and_its_tenant(http, other, path, more):
    cursor = http.get(path, params={"k": 5, **more}).json()["next"]
    assert http.get(path, params={"k": 3, **more, "cursor": cursor}).status_code == 200               # pages may differ in length
    wrong = [(other, path, more, cursor), (http, path, more, cursor[:-2]), (http, path, more, "x"), (http, path, more, "é" * 9)]
    wrong += [(http, "/api/tracks/search", {"q": "rain"}, cursor),
              (http, "/api/tracks/search", {"q": "night", "genre": "drill"}, cursor)]
    for client, address, asked, said in wrong:
        r = client.get(address, params={**asked, "cursor": said})
        assert r.status_code == 422 and "cursor" in r.json()["detail"], (address, asked, r.text)
    assert http.get("/api/tracks/search", params={"q": "night", "like": 1, "cursor": cursor}).status_code == 422


def test_a_cursor_belongs_to_what_is_asked_and_not_to_how_it_was_spelt(http):
    asked = {"query": '{ search(q: "night rain", k: 2, genre: "drill") { hits { track_id } } }'}
    assert http.post("/graphql", json=asked).status_code == 200               # the answer is kept, with its cursor
    first = http.get("/api/tracks/search?q=night+rain&k=2&genre=drill&titles=false").json()
    for spelt in ("q=night+rain&genre=drill", "genre=drill&q=night%20rain&mood=", "q=night+rain&artist=&genre=drill&k=3"):
        assert http.get(f"/api/tracks/search?{spelt}&cursor={first['next']}").status_code == 200, spelt


def test_a_forged_key_is_refused_and_nothing_breaks(http):
    asked = '["acme", "/api/tracks", []]'
    for key in ((True,), (2**64,), (1.5,), ("1",), (None,), (), (1, 2), (float(2**40),)):
        cursor = make_cursor(asked, key)
        assert http.get("/api/tracks", params={"cursor": cursor}).status_code == 422, key
    assert http.get("/api/tracks", params={"cursor": make_cursor(asked, (2**62,))}).json()["tracks"] == []
    with pytest.raises(BadCursor): read_cursor(make_cursor("a", ("x" * 65,)), "a", (str,))


# ---- tags

TAGGED = ["/api/tracks/42", "/api/tracks/similar?track_id=42&k=5", "/api/similarity_search?track_id=42&k=5"]


@pytest.mark.parametrize("path", TAGGED)
def test_who_has_the_answer_gets_304(http, path):
    first = http.get(path)
    tag = first.headers["etag"]
    for said in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        r = http.get(path, headers={"if-none-match": said})
        assert (r.status_code, r.content, r.headers["etag"]) == (304, b"", tag) and "content-length" not in r.headers
        assert r.headers["cache-control"] == "private, no-cache" and "Authorization" in r.headers["vary"]
    for said in ('"x"', tag.strip('"'), "", '"' + "a" * 3_000):
        r = http.get(path, headers={"if-none-match": said})
        assert r.status_code == 200 and r.content == first.content


@pytest.mark.parametrize("path", TAGGED)
def test_no_tag_of_one_tenant_says_anything_to_another(http, other, path):
    mine, theirs = http.get(path), other.get(path)
    assert mine.headers["etag"] != theirs.headers["etag"]                    # though some of them have equal bodies
    assert other.get(path, headers={"if-none-match": mine.headers["etag"]}).status_code == 200


def test_what_is_written_changes_the_tag(http, store):
    t = store.tracks([42])[0]
    tags = [http.get(p).headers["etag"] for p in TAGGED[:1]]
    try:
        store.upsert([dataclasses.replace(t, title="Another title")])
        r = http.get(TAGGED[0], headers={"if-none-match": tags[0]})
        assert r.status_code == 200 and r.json()["title"] == "Another title"
    finally: store.upsert([t])
    assert http.get(TAGGED[0]).headers["etag"] == tags[0]                                  # the same answer is the same answer


def test_errors_and_sound_have_no_tag(http):
    missing = http.get("/api/tracks/123456", headers={"if-none-match": "*"})
    assert missing.status_code == 404 and "etag" not in missing.headers
    assert "etag" not in http.get("/api/tracks/1/audio?seconds=1").headers


# ---- notices

def test_a_retired_address_says_so(http):
    old, new, bad = (http.get(p) for p in (TAGGED[2], TAGGED[1], "/api/similarity_search"))
    for r in (old, bad):
        assert re.fullmatch(r"@\d{10}", r.headers["deprecation"]) and r.headers["sunset"].endswith("GMT")
        assert r.headers["link"] == '</api/tracks/similar>; rel="successor-version"'
    assert "deprecation" not in new.headers and old.json() == new.json() and bad.status_code == 422
    assert http.get("/openapi.json").json()["paths"]["/api/similarity_search"]["get"]["deprecated"] is True


# ---- keys for requests

PLAY = {"user_id": 7, "action": "play", "track_id": 42}


def post(client, key, path="/api/track_action", **body):
    return client.post(path, json=body or PLAY, headers={"idempotency-key": key})


def test_once_and_for_each_repetition_the_same_answer(http, store):
    key, before = uuid4().hex, count(store)
    all_of_them = [post(http, key) for _ in range(4)]
    assert {r.status_code for r in all_of_them} == {200} and len({r.content for r in all_of_them}) == 1
    assert [r.headers.get("idempotency-replayed") for r in all_of_them] == [None, "true", "true", "true"]
    assert len({r.headers["x-request-id"] for r in all_of_them}) == 4 and count(store) == before + 1
    assert http.post("/api/track_action", json=PLAY).status_code == 200 and count(store) == before + 2   # without a key: another


@pytest.mark.parametrize("change", [{"track_id": 43}, {"event_id": "given"}, {"position": 1}])
def test_another_body_is_409_and_changes_nothing(http, store, change):
    key = uuid4().hex
    first, before = post(http, key), count(store)
    r = post(http, key, **PLAY | change)
    assert r.status_code == 409 and "another request" in r.json()["detail"] and count(store) == before
    assert post(http, key, "/api/track_actions", **PLAY).status_code == 409 and post(http, key).content == first.content


def test_an_error_frees_the_key(http, store):
    key = uuid4().hex
    assert post(http, key, **PLAY | {"track_id": 10**9}).status_code == 404
    assert post(http, key, **PLAY | {"action": "dance"}).status_code == 422
    assert post(http, key).status_code == 200


def test_a_tenant_s_key_is_nothing_to_another(http, other, store, rival):
    key, before = uuid4().hex, (count(store), count(rival))
    mine, theirs = post(http, key), post(other, key, **PLAY | {"track_id": 1})
    assert (mine.status_code, theirs.status_code) == (200, 200) and (mine.json()["track_id"], theirs.json()["track_id"]) == (42, 1)
    assert (count(store), count(rival)) == (before[0] + 1, before[1] + 1)
    stored = Query("SELECT count(*)::int FROM idempotency_keys WHERE key = %s", (key,))
    assert store.query(stored) == rival.query(stored) == [(1,)]


def test_of_many_at_once_one_works(app, http, url, keys, store, monkeypatch):
    "The first is held inside its work until all others have their answers."
    key, before, inside, go = uuid4().hex, count(store), Event(), Event()
    real = product.read_answer
    def held(*args):
        inside.set()
        assert go.wait(15)
        return real(*args)
    monkeypatch.setattr(product, "read_answer", held)
    asked = dict(json=PLAY, headers={"x-api-key": keys["acme"], "idempotency-key": key}, timeout=20)
    with serving(create_app(store, timeout_s=15, auth="required")) as one, ThreadPoolExecutor(1) as pool:  # a loop of its own
        first = pool.submit(httpx.post, one + "/api/track_action", **asked)
        assert inside.wait(15)
        rest = [post(http, key) for _ in range(5)]
        go.set()
        assert first.result().status_code == 200
    assert all(r.status_code == 409 and int(r.headers["retry-after"]) > 0 and "under way" in r.json()["detail"] for r in rest)
    assert post(http, key).headers["idempotency-replayed"] == "true" and count(store) == before + 1


@pytest.mark.parametrize("path, body", [("/api/track_action", PLAY), ("/api/analyze", {"track_id": 3}), ("/api/track_actions", {
    "events": [{"event_id": "many-1", "time": "2026-11-01T12:00:00Z", **PLAY}]})])
def test_a_crash_after_the_work_leaves_one_of_it(store, keys, monkeypatch, path, body):
    made = lambda: count(store) + store.query(Query("SELECT count(*)::int FROM jobs"))[0][0]
    key, app = uuid4().hex, create_app(store, timeout_s=15, auth="required")
    layer = next(m for m in app.user_middleware if m.cls is Idempotency)
    layer.kwargs["lease_s"] = 1
    async def dies(*_): raise SystemError("the process is gone")
    with serving(app) as url, httpx.Client(base_url=url, timeout=20, headers={"x-api-key": keys["acme"]}) as http:
        with monkeypatch.context() as patch:
            patch.setattr(idempotency, "keep", dies)
            assert post(http, key, path, **body).status_code == 500
        after = made()
        statuses = Counter()
        while (r := post(http, key, path, **body)).status_code == 409: statuses[409] += 1
        assert r.status_code in (200, 202), r.text
        assert made() == after and post(http, key, path, **body).headers["idempotency-replayed"] == "true"


def test_a_row_expires_and_the_key_is_new_again(store):
    key, request = uuid4().hex, bytes(32)
    async def go():
        await store.aopen(2)
        try:
            first = await claim(store, key, request, life_s=-1)
            assert await keep(store, first, Kept(200, [], b"old"))
            second = await claim(store, key, bytes(31) + b"x")              # another request, and that is fine
            assert isinstance(second, Claimed) and second.seed != first.seed
            assert not await keep(store, first, Kept(200, [], b"late"))
            assert await keep(store, second, Kept(201, [["a", "b"]], b"new"))
            assert await claim(store, key, bytes(31) + b"x") == Kept(201, [["a", "b"]], b"new")
            dead = [await claim(store, uuid4().hex, request, life_s=-1) for _ in range(3)]
            await store.aquery(Query(idempotency.SWEEP))
            left = "SELECT count(*)::int FROM idempotency_keys WHERE key = ANY(%s)"
            return (await store.aquery(Query(left, ([d.key for d in dead],))))[0][0]
        finally: await store.aclose()
    assert asyncio.run(go()) == 0


def test_a_lease_has_one_holder_and_one_seed(store):
    key, request = uuid4().hex, bytes(32)
    async def go():
        await store.aopen(2)
        try:
            first = await claim(store, key, request, lease_s=-1)
            second = await claim(store, key, request, lease_s=60)
            assert second.holder != first.holder and second.seed == first.seed
            with pytest.raises(Refused, match="under way"): await claim(store, key, request)
            assert not await keep(store, first, Kept(200, [], b"from the dead"))
            await release(store, first)
            with pytest.raises(Refused, match="under way"): await claim(store, key, request)
            await release(store, second)
            third = await claim(store, key, request)
            assert isinstance(third, Claimed) and third.seed != first.seed
        finally: await store.aclose()
    asyncio.run(go())


# ---- trends

def test_trends_count_listeners_and_not_clicks(http, other, store):
    fresh = 210
    for listener in (1, 2, 3): post(http, uuid4().hex, user_id=listener, action="like", track_id=fresh)
    for _ in range(8): post(http, uuid4().hex, user_id=9, action="like", track_id=211)
    Events(store).track(product.make_event(5, "like", 212, None, None, None, product.read_time("2026-01-01T00:00:00Z")))
    body = http.get("/api/trends", params={"hours": 1, "action": "like", "k": 5}).json()
    seen = {t["track_id"]: (t["listeners"], t["events"]) for t in body["tracks"]}
    assert seen[fresh] == (3, 3) and seen[211] == (1, 8) and 212 not in seen and body["tracks"][0]["track_id"] == fresh
    assert body["tracks"][0]["title"] == store.tracks([fresh])[0].title and body["genres"][0]["listeners"] >= 3
    assert not any(t["track_id"] == fresh for t in other.get("/api/trends?hours=1&action=like").json()["tracks"])


# ---- exports

def read_csv(text): return list(csv.DictReader(io.StringIO(text)))


def files(http, **asked):
    "Every file of an export."
    r = http.get("/api/export", params=asked)
    while True:
        assert r.status_code == 200, r.text
        yield r
        if not (link := r.links.get("next")): return
        r = http.get(link["url"])


def test_a_csv_has_every_track_once(http, store, monkeypatch):
    monkeypatch.setattr(export, "PART", 16)
    for k in (N, 64, 100):
        got = [row for r in files(http, what="tracks", k=k) for row in read_csv(r.text)]
        assert [int(row["id"]) for row in got] == list(range(N)), k
    t = store.tracks([42])[0]
    assert (got[42]["title"], got[42]["genres"]) == (t.title, "|".join(t.genres)) and "lyrics" not in got[42]


def test_events_come_in_the_order_of_their_time(http, store, monkeypatch):
    monkeypatch.setattr(export, "PART", 8)
    times = [f"2026-11-0{1 + i % 2}T12:00:00Z" for i in range(30)]
    named = [(i, f"export-{i:02}", product.read_time(t)) for i, t in enumerate(times)]
    Events(store).accept([product.make_event(i % 5, "play", i, name, None, None, at) for i, name, at in named])
    got = [row for r in files(http, what="events", k=11) for row in read_csv(r.text)]
    assert len(got) == count(store) and len({row["event_id"] for row in got}) == len(got)
    assert [row["time"] for row in got] == sorted(row["time"] for row in got)


def test_parquet_has_the_same_in_types(http, store):
    parts = [pq.read_table(io.BytesIO(r.content)) for r in files(http, what="tracks", form="parquet", k=130)]
    rows = [row for part in parts for row in part.to_pylist()]
    assert [row["id"] for row in rows] == list(range(N)) and rows[42]["genres"] == list(store.tracks([42])[0].genres)
    assert pq.read_table(io.BytesIO(http.get("/api/export?what=events&form=parquet").content)).num_rows == count(store)


def test_a_formula_stays_a_text(http, store):
    t = store.tracks([5])[0]
    try:
        store.upsert([dataclasses.replace(t, title='=HYPERLINK("http://x")')])
        assert read_csv(http.get("/api/export").text)[5]["title"] == '\'=HYPERLINK("http://x")'
    finally: store.upsert([t])


def test_an_export_needs_its_scope_sees_its_tenant_and_comes_alone(app, http, other, url, store):
    reader = Keys(store, "test").create(["read"])[0]
    assert httpx.get(f"{url}/api/export", headers={"x-api-key": reader}).status_code == 403
    mine, theirs = (c.get("/api/export?what=events&k=50000") for c in (http, other))
    assert not {r["event_id"] for r in read_csv(mine.text)} & {r["event_id"] for r in read_csv(theirs.text)}
    cursor = http.get("/api/export?k=10").links["next"]["url"]
    assert other.get(cursor).status_code == 422
    for key in ((2**62, "x"), (-2**62, "x"), (0, "x" * 65), ("a", "b"), (1.5, "b")):
        said = make_cursor('["acme", "/api/export", [["what", "events"]]]', key)
        assert http.get("/api/export", params={"what": "events", "cursor": said}).status_code == 422, key
    view = app.state.guard.tenants.views["acme"]
    view.state.exporting = 2**60
    assert http.get("/api/export").status_code == 429 and other.get("/api/export?k=1").status_code == 200
    view.state.exporting = 0.0
    assert http.get("/api/export?k=1").status_code == 200
