"The web service over real HTTP, with a real PostgreSQL and Valkey behind it that are killed and frozen on the way."
import asyncio
import dataclasses
import html
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

import helpers
import httpx
import pytest
from fastapi import FastAPI, Request

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError, settings
from rap_analyzer.lab import Lab
from rap_analyzer.ledger import record
from rap_analyzer.music import catalog
from rap_analyzer.platform import routes as platform_routes
from rap_analyzer.problems import PROBLEM, ErrorOut
from rap_analyzer.search.index import build, similar
from rap_analyzer.search.store import REMEMBERED, Memo, Store, fill, migrate
from rap_analyzer.web import serving

ROOT = Path(__file__).resolve().parent.parent
N, MINE = 600, 990_001
NASTY = '<script>alert("x")</script><img src=x onerror=alert(1)>&\'"'
SIMILAR = "/api/tracks/similar?track_id=42"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # lost connections are what these tests make
    lab = Lab(home=tmp_path_factory.mktemp("api"))
    for name in ("DATABASE_URL", "REDIS_URL"): assert name not in os.environ, f"these tests kill servers: unset {name}"
    lab.up()
    yield lab
    lab.close()
    shutil.rmtree(lab.sockets, ignore_errors=True)


@pytest.fixture(scope="module")
def store(lab):
    migrate(lab)
    store = fill(Store(lab, wait_s=4), N)
    store.bridge_s = 3
    build("hnsw_halfvec", store)
    first = next(catalog.tracks(0, 1))
    store.upsert([dataclasses.replace(first, title=NASTY)])
    store.upsert([dataclasses.replace(first, id=MINE, external_id="mine-1", title="Без вектора")])
    return store


@pytest.fixture(scope="module")
def app(store): return create_app(store, timeout_s=8, cache_s=0)  # the cache has tests of its own


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url: yield url


@pytest.fixture
def get(lab, url):
    with httpx.Client(base_url=url, timeout=20) as client: yield client.get


@contextmanager
def frozen(lab):
    "PostgreSQL is there and says nothing."
    family = lab.postgres.processes()
    for p in family: p.suspend()
    try: yield
    finally:
        for p in family: p.resume()


def kill(lab):
    "End the postmaster without a word, and wait until the system has forgotten it."
    p = lab.postgres.postmaster()
    p.kill(), p.wait(30)


until = partial(helpers.until, wait_s=20)


def is_error(r, status):
    "The one shape of bad news: a status, one sentence, a hint, nothing from the inside."
    body = r.json()
    assert r.status_code == status == body["status"] and set(body) == set(ErrorOut.model_fields), (r.status_code, r.text)
    assert r.headers["content-type"] == PROBLEM and body["detail"] == body["error"] and body["error"].isprintable()
    assert body["error"] and "Traceback" not in r.text and body["request_id"] == r.headers["x-request-id"]
    assert r.headers["x-request-id"] and r.headers["x-content-type-options"] == "nosniff"
    return body["error"]


def series(get):
    "The samples of /metrics: name with labels -> value."
    lines = [line.rsplit(" ", 1) for line in get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


# ---- answers

def test_similar_is_what_similar_says(get, store):
    r = get(SIMILAR + "&k=7")
    body, want = r.json(), similar(42, k=7, store=store)
    assert r.status_code == 200 and (body["track_id"], body["k"]) == (42, 7)
    assert [h["track_id"] for h in body["hits"]] == [h.track_id for h in want]
    for h, w, t in zip(body["hits"], want, store.tracks([w.track_id for w in want]), strict=True):
        assert abs(h["score"] - w.score) < 1e-6 and h["why"].startswith("hnsw_halfvec")
        assert (h["title"], h["artist"], h["genre"]) == (t.title, t.artist, t.genres[0])


def test_alias_gives_the_same(get):
    for query in ("track_id=42", "track_id=7&k=3&ef=80&titles=false", "track_id=5&k=1"):
        a, b = get(f"/api/tracks/similar?{query}"), get(f"/api/similarity_search?{query}")
        assert a.status_code == b.status_code == 200 and a.json() == b.json()
    schema = get("/openapi.json").json()["paths"]
    one, two = schema["/api/tracks/similar"]["get"], schema["/api/similarity_search"]["get"]
    assert one["parameters"] == two["parameters"] and one["responses"] == two["responses"]


def test_titles_can_be_left_out(get):
    with_titles, without = get(SIMILAR).json()["hits"], get(SIMILAR + "&titles=false").json()["hits"]
    assert all(h["title"] and h["artist"] and h["genre"] for h in with_titles)
    assert [h | {"title": None, "artist": None, "genre": None} for h in with_titles] == without


def test_ef_is_used(get):
    assert {h["why"] for h in get(SIMILAR + "&k=5&ef=77").json()["hits"]} == {"hnsw_halfvec ef=77"}


def test_track(get, store):
    body, t = get("/api/tracks/42").json(), store.tracks([42])[0]
    assert body == {**{f.name: getattr(t, f.name) for f in dataclasses.fields(t)}, "genres": list(t.genres)}
    assert get("/api/tracks/990001").json()["title"] == "Без вектора"


def test_headers(get):
    r = get(SIMILAR)
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", r.headers["server-timing"]))
    assert 0 < float(timing["db"]) < float(timing["total"])
    assert r.headers["cache-control"] == "private, no-cache" and get("/api/flags").headers["cache-control"] == "no-store"
    assert "default-src 'none'" in r.headers["content-security-policy"]
    assert get("/health/live").headers["server-timing"].startswith("db;dur=0.00")


def test_request_id(get):
    assert get(SIMILAR, headers={"x-request-id": "Mine-1.a_b"}).headers["x-request-id"] == "Mine-1.a_b"
    for odd in ("two words", "x" * 65, "", 'a"b', "a;b"):
        made = get(SIMILAR, headers={"x-request-id": odd}).headers["x-request-id"]
        assert made != odd and re.fullmatch("[0-9a-f]{32}", made)


def test_log_line(get, caplog):
    with caplog.at_level(logging.INFO, logger="rap_analyzer.api"):
        get("/nowhere%0Aforged", headers={"x-request-id": "find-me"})
        until(lambda: any(getattr(r, "request_id", "") == "find-me" for r in caplog.records))
    [said] = [r for r in caplog.records if getattr(r, "request_id", "") == "find-me"]
    assert (said.message, said.status, said.method, said.path) == ("request", 404, "GET", "/nowhere\nforged")
    assert said.ms >= 0


# ---- questions that make no sense

@pytest.mark.parametrize("query, says", [
    ("", "track_id is missing: expected a whole number from 0 to 9,223,372,036,854,775,807"),
    ("track_id=", "track_id = ''"), ("track_id=intro", "track_id = 'intro': expected a whole number"),
    ("track_id=4.5", "expected a whole number"), ("track_id=-1", "expected a whole number from 0"),
    (f"track_id={2**63}", "expected a whole number from 0 to 9,223,372,036,854,775,807"),
    ("track_id=" + "9" * 5000, "expected a whole number from 0"), ("track_id=%00", "expected a whole number"),
    ("track_id=%FF", "expected a whole number"), ("track_id=42;DROP TABLE tracks", "expected a whole number"),
    ("track_id=42&k=0", "k = '0': expected a whole number from 1 to 1,000"), ("track_id=42&k=-3", "from 1 to 1,000"),
    ("track_id=42&k=1001", "k = '1001': expected a whole number from 1 to 1,000"), ("track_id=42&k=ten", "k = 'ten'"),
    ("track_id=42&ef=0", "ef = '0'"), ("track_id=42&ef=99999", "ef = '99999'"),
    ("track_id=42&titles=maybe", "expected true or false"),
    ("track_id=42&kk=5", "there is no parameter 'kk'"), (f"track_id=42&k={N + 1}", "has only"),
])
def test_bad_parameters(get, query, says):
    for path in ("/api/tracks/similar", "/api/similarity_search"): assert says in is_error(get(f"{path}?{query}"), 422)


@pytest.mark.parametrize("track_id", ["intro", "-1", "1.5", str(2**63), "9" * 400, "%00"])
def test_bad_track_ids(get, track_id):
    assert "expected a whole number from 0 to 9,223,372,036,854,775,807" in is_error(get(f"/api/tracks/{track_id}"), 422)


def test_misspelt_parameter_gets_a_hint(get):
    assert get(SIMILAR + "&title=false").json()["hint"] == "did you mean titles?"


def test_unknown_track_and_missing_embedding(get):
    assert "no track 123456" in is_error(get("/api/tracks/similar?track_id=123456"), 404)
    assert "no track 123456" in is_error(get("/api/tracks/123456"), 404)
    assert f"no track {2**63 - 1}" in is_error(get(f"/api/tracks/similar?track_id={2**63 - 1}"), 404)
    assert "no embedding" in is_error(get(f"/api/tracks/similar?track_id={MINE}"), 409)


def test_everything_that_is_not_there(get, url):
    assert "nothing at /api/nowhere" in is_error(get("/api/nowhere"), 404)
    is_error(get("/api/tracks/"), 404)
    assert httpx.post(url + SIMILAR).status_code == 405
    is_error(httpx.post(url + SIMILAR), 405)
    assert set(get(SIMILAR).json()) == {"track_id", "k", "model_id", "hits", "note"}


def test_a_bug_of_ours_is_a_500_with_a_request_id(store, caplog):
    app = create_app(store)
    def broken(): raise ZeroDivisionError("secret detail")
    app.add_api_route("/broken", broken)
    with serving(app) as url, caplog.at_level(logging.ERROR, logger="rap_analyzer.api"):
        r = httpx.get(url + "/broken", headers={"x-request-id": "bug-1"})
        assert httpx.get(url + SIMILAR).status_code == 200
    assert "our side" in is_error(r, 500) and "secret" not in r.text and "bug-1" in r.json()["hint"]
    [told] = [x for x in caplog.records if "bug-1" in x.getMessage()]
    assert told.exc_info[0] is ZeroDivisionError


# ---- the page

def test_pages_escape_titles_and_lead_on(get, store):
    for path in ("/", "/tracks/0", "/search?q=0"):
        r = get(path)
        assert r.headers["content-type"].startswith("text/html") and "<script>" not in r.text and "<img src=x" not in r.text
    assert NASTY in html.unescape(get("/tracks/0").text) and get("/api/tracks/0").json()["title"] == NASTY
    home = get("/").text
    for path in set(re.findall(r'href="(/[^"#]*)"', home)): assert get(path).status_code == 200, path
    assert f'href="http://127.0.0.1:{settings().jupyter.port}/lab"' in home  # a link on this machine: it loads nothing


def test_docs_list_what_there_is(get):
    text = get("/docs").text
    for path in get("/openapi.json").json()["paths"]: assert html.escape(path) in text
    assert "http://" not in text and "https://" not in text


def test_page_shows_the_ledger(get, lab, store):
    assert "Nothing is measured" in get("/").text
    record("search.speedup", 321.4, unit="x", recall=0.995, home=lab.home)
    assert "321 times" in get("/").text and "recall 0.995" in get("/").text
    record("search.speedup", 98.7, unit="x", recall=0.995, doubts=1, home=lab.home)
    assert "was disturbed" in get("/").text and "times as long" not in get("/").text


# ---- counting

def test_metrics_count_by_template(get):
    before = series(get)
    for i in (1, 2, 3): assert get(f"/api/tracks/{i}").status_code == 200
    get("/api/tracks/123456")
    after = series(get)
    grown = lambda name: after.get(name, 0) - before.get(name, 0)
    route = "/api/tracks/{track_id}"
    assert grown(f'rap_requests_total{{method="GET",route="{route}",status="200"}}') == 3
    assert grown(f'rap_requests_total{{method="GET",route="{route}",status="404"}}') == 1
    assert grown(f'rap_request_seconds_count{{route="{route}"}}') == 4
    assert 0 < grown(f'rap_request_seconds_sum{{route="{route}"}}') < 4
    assert after["rap_requests_in_progress"] == 1  # the question itself


def test_paths_and_methods_make_no_labels(get, url):
    odd = ("PROPFIND", "PURGE", "MKCOL", "SEARCH", "REPORT")
    get("/nowhere"), httpx.request("LOCK", url + "/nowhere"), get("/metrics")
    before = series(get)
    for i in range(200): assert get(f"/scan/{i}.php?x={i}").status_code == 404
    for method in odd: assert httpx.request(method, url + "/nowhere").status_code == 404
    after = series(get)
    assert set(after) == set(before)
    unknown = sum(v - before[k] for k, v in after.items() if k.startswith("rap_requests_total") and 'route="unknown"' in k)
    assert unknown == 200 + len(odd)


def test_two_apps_have_counts_of_their_own(store):
    a, b = create_app(store), create_app(store)
    assert a.state.metrics.registry is not b.state.metrics.registry


# ---- many at once

def test_what_callers_choose_is_remembered_within_bounds():
    memo = Memo()
    for i in range(REMEMBERED + 50): memo.put(f"known {i}", i, 60), memo.put("built", True, 60)
    assert len(memo._kept) == REMEMBERED and memo.get("built") and memo.get("known 0") is None and memo.get(f"known {i}") == i


def test_fifty_at_once(url, store):
    want = {i: [h.track_id for h in similar(i, store=store)] for i in range(1, 51)}
    async def all_of_them():
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            got = await asyncio.gather(*(client.get(f"/api/tracks/similar?track_id={i}") for i in want))
        return {r.json()["track_id"]: [h["track_id"] for h in r.json()["hits"]] for r in got}
    assert asyncio.run(all_of_them()) == want


# ---- faults

def test_ready_asks_and_live_does_not(get):
    assert get("/health/live").json() == {"ok": True, "checks": {}}
    assert get("/health/ready").json() == {"ok": True, "checks": {"postgres": "ok", "valkey": "ok"}}


def test_many_who_ask_whether_it_is_ready_ask_the_servers_once(monkeypatch):
    asked = []
    async def check(store):
        asked.append(store)
        await asyncio.sleep(0)
        return {"postgres": "ok"}
    monkeypatch.setattr(platform_routes, "check_all", check)
    app = FastAPI()
    app.state.store = None
    async def knock():
        one = asyncio.ensure_future(platform_routes.ready(Request({"type": "http", "app": app})))
        rest = [asyncio.ensure_future(platform_routes.ready(Request({"type": "http", "app": app}))) for _ in range(50)]
        await asyncio.sleep(0)
        one.cancel()                                                       # whoever asked first hangs up
        assert all(said.ok for said in await asyncio.gather(*rest)) and len(asked) == 1
        assert (await platform_routes.ready(Request({"type": "http", "app": app}))).ok and len(asked) == 2
    asyncio.run(knock())


def test_valkey_down_is_not_ready_but_answers(get, lab):
    for p in lab.valkey.processes(): p.kill(), p.wait(5)
    said = is_error(get("/health/ready"), 503)
    assert "valkey" in said and "postgres" not in said and get("/health/ready").headers["retry-after"]
    assert get(SIMILAR).status_code == get("/health/live").status_code == 200
    lab.up()
    assert get("/health/ready").status_code == 200


def test_postgres_killed_under_requests(get, url, lab):
    stop, seen = Event(), []
    def listener(i):
        with httpx.Client(base_url=url, timeout=20) as client:
            while not stop.is_set(): seen.append(client.get(f"/api/tracks/similar?track_id={i}"))
    with ThreadPoolExecutor(6) as pool:
        listeners = [pool.submit(listener, i) for i in range(6)]
        until(lambda: len(seen) > 20)
        assert all(r.status_code == 200 for r in seen)
        kill(lab)
        assert get("/health/live").status_code == 200
        said = is_error(get("/health/ready"), 503)
        assert "postgres" in said and "valkey" not in said
        assert get("/").status_code == 200
        until(lambda: len([r for r in seen if r.status_code != 200]) >= 6)
        stop.set()
        for work in listeners: work.result()
    late = [r for r in seen if r.status_code != 200]
    assert late and all("PostgreSQL" in is_error(r, 503) or "database connection" in r.json()["error"] for r in late)
    assert all(int(r.headers["retry-after"]) > 0 for r in late)
    lab.up()
    until(lambda: get(SIMILAR).status_code == 200)
    assert [get(SIMILAR).status_code for _ in range(20)] == [200] * 20
    assert get("/health/ready").status_code == 200


@pytest.mark.alone
def test_a_short_outage_is_only_slow(get, url, lab):
    for _ in range(3):  # a busy machine may restart PostgreSQL more slowly than callers are patient: that is no short outage
        until(lambda: get(SIMILAR).status_code == 200)
        kill(lab)
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(httpx.get, url + SIMILAR, timeout=20) for _ in range(4)]
            lab.up()
            outage_s = time.monotonic() - began
            codes = [w.result().status_code for w in waiting]
        assert set(codes) <= {200, 503}
        if 200 in codes: break
        # the pool tries after 1, 3 and 7 s, each a tenth earlier or later, and callers wait for 5: that is the outage that is short
        assert outage_s > 2.5, "PostgreSQL was back before the pool's last try in time, and nobody got an answer"
    until(lambda: get(SIMILAR).status_code == 200)


def test_frozen_postgres_holds_nobody_longer_than_promised(lab, store):
    app = create_app(Store(lab, wait_s=4), timeout_s=1.5, cache_s=0)
    with serving(app) as url:
        assert httpx.get(url + SIMILAR).status_code == 200
        with frozen(lab), ThreadPoolExecutor(4) as pool:                # it stays frozen until all of them have their answers
            waiting = [pool.submit(httpx.get, url + SIMILAR, timeout=60) for _ in range(4)]
            assert httpx.get(url + "/health/live", timeout=60).status_code == 200
            ready = is_error(httpx.get(url + "/health/ready", timeout=60), 503)
            assert re.search("postgres: (no answer within 1 s|PostgreSQL does not answer)", ready)
            for w in waiting: assert re.search("no answer within 1.5 s|connection was free in time", is_error(w.result(), 503))
        until(lambda: httpx.get(url + SIMILAR, timeout=20).status_code == 200)
        counts = httpx.get(url + "/metrics").text
    refused = re.search(r'rap_requests_total{method="GET",route="/api/tracks/similar",status="503"} ([0-9.]+)', counts)
    assert float(refused[1]) >= 4  # and those that came before the breaker looked again


def test_no_tables_is_not_ready(lab):
    empty = Lab(home=lab.home, database="api_empty")
    empty.make_database()
    with serving(create_app(Store(empty))) as url:
        assert "no tables yet" in is_error(httpx.get(url + "/health/ready"), 503)
        assert "no tables yet" in is_error(httpx.get(url + SIMILAR), 503)
        assert httpx.get(url + "/").status_code == 200
    lab.drop_database("api_empty")


def test_does_not_start_without_a_database(tmp_path):
    with pytest.raises(LabError, match="did not start"), serving(create_app(Store(Lab(home=tmp_path)))): pass


def test_another_tenant_sees_nothing(store):
    with serving(create_app(Store(store.lab, "rival"))) as url:
        is_error(httpx.get(url + SIMILAR), 404)
        is_error(httpx.get(url + "/api/tracks/42"), 404)
        assert httpx.get(url + "/", headers={"x-tenant": "demo"}).text.count('href="/tracks/') == 0


def test_the_slow_road_does_not_block_the_others(get, url, store):
    "Why there is no answer is looked up by blocking code, in a thread; while that waits for a lock, everybody else is served."
    until(lambda: get(SIMILAR + "&titles=false").status_code == 200)  # what is known of the indexes is fresh
    with store.admin() as con, ThreadPoolExecutor(1) as pool:
        con.execute("BEGIN; LOCK TABLE tracks IN ACCESS EXCLUSIVE MODE")
        unknown = pool.submit(httpx.get, url + "/api/tracks/similar?track_id=123456", timeout=20)
        time.sleep(0.5)
        assert get("/health/live").status_code == 200 and get(SIMILAR + "&titles=false").status_code == 200
        assert not unknown.done()
        con.execute("ROLLBACK")
        is_error(unknown.result(), 404)


# ---- load

def load(url, tracks, seconds="4s"):
    "Run the locust file of the course against `url`."
    command = [sys.executable, "-m", "locust", "-f", "exercises/locustfile.py", "--headless", "-u", "10", "-r", "10"]
    command += ["-t", seconds, "-H", url]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "RAP_CATALOG_TRACKS": str(tracks), "RAP_LAB_PROFILE": "full"},
                          capture_output=True, text=True, timeout=60)


@pytest.mark.alone
def test_locust_finds_no_failure(get, url):
    before = series(get)
    done = load(url, N)
    assert done.returncode == 0, done.stdout + done.stderr
    [said] = re.findall(r"99th percentile (\d+) ms, median \d+ ms, (\d+) requests, 0 failed", done.stdout)
    name = 'rap_requests_total{method="GET",route="/api/tracks/similar",status="200"}'
    assert int(said[1]) > 0 and series(get)[name] - before.get(name, 0) >= int(said[1])


@pytest.mark.alone
def test_locust_fails_when_requests_fail(url):
    done = load(url, 50_000)  # ids that this catalog does not have
    assert done.returncode == 1 and re.search(r"[1-9]\d* failed", done.stdout)
    nobody = load("http://127.0.0.1:9", N, "2s")
    assert nobody.returncode == 1


# ---- the command that a container runs

def test_serving_as_a_process_with_the_default_store(lab, store, tmp_path):
    "uvicorn, a factory, addresses from the environment, a role that may nothing else; SIGTERM ends it politely."
    note = lab.notes.read()
    env = {**os.environ, "RAP_LAB_HOME": str(tmp_path), "REDIS_URL": lab.redis_url, "PYTHONPATH": str(ROOT),
           "DATABASE_CLAIM_KEYS": ",".join(note["claim_keys"]),
           "DATABASE_URL": f"postgresql://rap_app:{note['app_password']}@127.0.0.1:{note['postgres_port']}/{lab.database}"}
    with __import__("socket").socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "rap_analyzer.app:create_app", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        def up():
            try: return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
            except httpx.HTTPError: return server.poll() is not None
        until(up)
        assert len(httpx.get(f"http://127.0.0.1:{port}{SIMILAR}").json()["hits"]) == 10
    finally:
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=20)
    assert server.returncode in (0, -signal.SIGTERM) and "Traceback" not in said, said
