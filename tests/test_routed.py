"""Searches over a real replica: through the service, with its cache and without, with a caller's own write, with a server gone."""

import time

import httpx
import pytest
from helpers import until
from psycopg.conninfo import make_conninfo

from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.serve.replica import add_replica, caught_up
from rap_analyzer.web import AFTER, serving

SIMILAR = "/api/tracks/similar?track_id=42&k=5"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    "A lab with a catalog and an index, its replica, and the line between them."
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL", "BROKER_URL"): patch.delenv(name, raising=False)
        lab = Lab(tmp_path_factory.mktemp("routed")).up()
        migrate(lab)
        store = fill(Store(lab, "demo").register(), 600)
        build("hnsw_halfvec", store)
        line = Proxy("127.0.0.1", lab.notes.read()["postgres_port"]).start()
        primary, replica = add_replica(lab, line.port)
        until(lambda: caught_up(primary, replica))
        patch.setenv("DATABASE_REPLICA_URL", make_conninfo(**replica.conninfo(lab.database, "rap_app")))
        yield lab, store, primary, replica, line
        store.forget(), replica.stop(), line.close(), lab.down(), lab.close()


@pytest.fixture(params=[0, 300], ids=["no cache", "cache"])
def service(pair, request):
    "The service over both, and what its metrics say of its reads."
    lab, store, primary, replica, line = pair
    line.dead, line.delay_s = False, 0
    replica.start()
    until(lambda: caught_up(primary, replica))
    seen = Store(Lab(lab.home), "demo")
    app = create_app(seen, cache_s=request.param)
    with serving(app) as url: yield url, app, request.param
    line.dead, line.delay_s = False, 0
    seen.forget()


def reads(url):
    "Who answered, by /metrics."
    lines = [x for x in httpx.get(f"{url}/metrics").text.splitlines() if x.startswith("rap_reads_total{")]
    return {x.split('"')[1]: float(x.split()[-1]) for x in lines}


def rename(store, title):
    "An editor's change, of which caches are told."
    with store.admin(None) as con: con.execute("UPDATE tracks SET title = %s WHERE id = 42", [title])
    store.changed()


def test_the_replica_searches_and_the_answers_are_the_primarys(pair, service):
    url, app, _ = service
    lab, store, primary, replica, line = pair
    found = httpx.get(url + SIMILAR).json()
    direct = httpx.get(f"{url}/api/tracks/{found['hits'][0]['track_id']}").json()
    assert len(found["hits"]) == 5 and direct["title"] == found["hits"][0]["title"]
    assert httpx.get(f"{url}/api/recommend?liked=42&k=3").status_code == 200
    until(lambda: httpx.get(url + SIMILAR).status_code == 200 and reads(url).get("replica"))   # a late first answer pauses its use
    assert sum(reads(url).values()) >= 3 and set(reads(url)) <= {"replica", "own write", "too old", "away"}


def test_nobody_sees_an_old_title_longer_than_allowed(pair, service):
    url, app, cached = service
    lab, store, primary, replica, line = pair
    title = f"Renamed {time.time_ns()}"
    if cached: app.state.cache.follow(store)
    assert httpx.get(f"{url}/api/tracks/42").status_code == 200
    line.dead = True
    line.reset()
    rename(store, title)
    if cached: assert httpx.get(f"{url}/api/tracks/42").json()["title"] == title      # what will be kept has to be new
    else:
        until(lambda: httpx.get(f"{url}/api/tracks/42").json()["title"] == title, app.state.reads.stale_s + 5)
        assert reads(url)["too old"] >= 1


def test_a_caller_sees_its_own_write(pair, service):
    url, app, cached = service
    lab, store, primary, replica, line = pair
    app.state.reads.stale_s = 600
    assert httpx.get(f"{url}/api/tracks/42").status_code == 200                       # what the replica holds is known now
    line.dead = True
    line.reset()
    title = f"Mine {time.time_ns()}"
    with store.admin(None) as con: con.execute("UPDATE tracks SET title = %s WHERE id = 42", [title])
    said = httpx.post(f"{url}/api/analyze", json={"track_id": 43})
    assert said.status_code == 202 and int(said.headers[AFTER]) > 0
    if not cached: assert httpx.get(f"{url}/api/tracks/42").json()["title"] != title  # another caller may have to wait
    assert httpx.get(f"{url}/api/tracks/42", headers={AFTER: said.headers[AFTER]}).json()["title"] == title
    assert reads(url)["own write"] >= 1
    bad = httpx.get(f"{url}/api/tracks/42", headers={AFTER: "yesterday"})
    assert bad.status_code == 422 and AFTER in bad.json()["error"]


def test_a_dead_replica_is_not_noticed_and_comes_back(pair, service):
    url, app, _ = service
    lab, store, primary, replica, line = pair
    assert httpx.get(url + SIMILAR).status_code == 200
    replica.stop()
    for k in range(6, 16): assert httpx.get(f"{url}/api/tracks/similar?track_id=42&k={k}").status_code == 200
    assert reads(url)["away"] >= 1
    replica.start()
    before = reads(url)["replica"]
    k = iter(range(16, 500))
    ask = lambda: httpx.get(f"{url}/api/tracks/similar?track_id=42&k={next(k)}").status_code
    until(lambda: ask() == 200 and reads(url)["replica"] > before)


def test_without_a_replica_nothing_is_asked_twice(pair, monkeypatch):
    monkeypatch.delenv("DATABASE_REPLICA_URL")
    seen = Store(Lab(pair[0].home), "demo")
    app = create_app(seen, cache_s=0)
    with serving(app) as url:
        said = httpx.post(f"{url}/api/analyze", json={"track_id": 44})
        assert said.status_code == 202 and AFTER not in said.headers and not hasattr(app.state, "reads")
        assert httpx.get(url + SIMILAR).status_code == 200 and reads(url) == {}
    seen.forget()


def test_while_the_primary_is_away_the_replica_searches_and_nothing_of_it_is_kept(pair, service):
    url, app, cached = service
    lab, store, primary, replica, line = pair
    assert httpx.get(url + SIMILAR).status_code == 200
    written = httpx.post(f"{url}/api/analyze", json={"track_id": 45}).headers[AFTER]
    other = "/api/tracks/similar?track_id=77&k=7"
    primary.stop()
    try:
        until(lambda: httpx.get(url + other).status_code == 200 and reads(url).get("primary away"))
        said = httpx.get(url + other)
        assert len(said.json()["hits"]) == 7 and ("primary-away" in said.headers.get("cache-status", "")) == bool(cached)
        ahead = httpx.get(f"{url}/api/tracks/77", headers={AFTER: str(int(written) + 10**9)})
        assert ahead.status_code == 503                                               # no answer rather than one without that write
        assert httpx.post(f"{url}/api/analyze", json={"track_id": 46}).status_code == 503
    finally: primary.start()
    until(lambda: caught_up(primary, replica))
    until(lambda: "cache-status" not in httpx.get(url + other).headers)
