"What a service does when there is too much, when its database dies, and when nobody waits any more. Real servers."
import asyncio
import time
from uuid import uuid4

import httpx
import pytest

from rap_analyzer.app import create_app
from rap_analyzer.core import settings
from rap_analyzer.deadline import Late, Unavailable, check_time, within
from rap_analyzer.lab import Lab
from rap_analyzer.search.cache import Cache
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.admission import Busy, Doors
from rap_analyzer.serve.resilience import Breaker, RetryBudget, retry
from rap_analyzer.web import serving

SIMILAR = "/api/tracks/similar?track_id={}&k=3"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    "A lab of its own, whose database may be killed, and a service over it."
    lab = Lab(home=tmp_path_factory.mktemp("mortal")).up()
    migrate(lab)
    store = fill(Store(lab), 300)
    build("hnsw_halfvec", store)
    store.bridge_s = 0.5
    app = create_app(store, timeout_s=3, cache_s=0.2)
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as http: yield lab, http
    store.forget()
    lab.down(), lab.close()


def timed(http, path: str, **headers) -> tuple[httpx.Response, float]:
    "An answer, and the seconds it took."
    began = time.perf_counter()
    return http.get(path, headers=headers), time.perf_counter() - began


def test_without_the_database_the_answer_is_503_at_once_or_an_old_one_that_says_so(mortal):
    lab, http = mortal
    fresh = http.get(SIMILAR.format(7))
    assert fresh.status_code == 200 and "cache-status" not in fresh.headers
    postmaster = lab.postgres.postmaster()
    postmaster.kill(), postmaster.wait(30)
    try:
        time.sleep(0.3)  # what is kept for everyday use has run out
        first, first_s = timed(http, SIMILAR.format(8))
        later, later_s = timed(http, SIMILAR.format(9))
        old, old_s = timed(http, SIMILAR.format(7))
        alive = http.get("/health/live")
    finally: lab.up()
    assert (first.status_code, later.status_code, alive.status_code) == (503, 503, 200)
    assert first_s < 3 and later_s < 0.3 and later.headers["retry-after"] and "does not answer" in later.json()["error"]
    assert old.status_code == 200 and old.json() == fresh.json() and "ttl=-" in old.headers["cache-status"] and old_s < 2
    end = time.monotonic() + 10
    while http.get(SIMILAR.format(9)).status_code != 200: assert time.monotonic() < end; time.sleep(0.05)
    assert "cache-status" not in http.get(SIMILAR.format(7)).headers


def test_a_frozen_database_costs_one_timeout_and_not_one_for_each_request(mortal):
    lab, http = mortal
    assert http.get(SIMILAR.format(20)).status_code == 200
    frozen = lab.postgres.processes()
    for p in frozen: p.suspend()
    try:
        first, first_s = timed(http, SIMILAR.format(21), **{"x-timeout-ms": "400"})
        later, later_s = timed(http, SIMILAR.format(22))
    finally:
        for p in frozen: p.resume()
    assert first.status_code == 503 and 0.35 < first_s < 1.5
    assert later.status_code == 503 and later_s < 0.3
    end = time.monotonic() + 10
    while http.get(SIMILAR.format(22)).status_code != 200: assert time.monotonic() < end; time.sleep(0.05)


@pytest.mark.parametrize("said,status", [("1", 503), ("5000", 200), ("", 200), ("soon", 200), ("-1", 200), ("9" * 40, 200)])
def test_a_caller_s_patience_is_kept_and_nonsense_is_no_patience(small, said, status):
    with serving(create_app(small, cache_s=0)) as url:
        assert timed(httpx, url + SIMILAR.format(42), **{"x-timeout-ms": said})[0].status_code == status


def test_postgres_is_told_how_long_the_request_has(small):
    store = Store(small.lab, small.tenant, size=1)
    asked = Query("SELECT current_setting('statement_timeout')")
    with within(2): hurried = store.query(asked)[0][0]
    calm = store.query(asked)[0][0]
    with within(0.2), pytest.raises(Late): store.query(Query("SELECT pg_sleep(5)"))
    assert hurried.endswith("ms") and 1_500 < int(hurried[:-2]) <= 1_800 and calm == "1min"
    store.forget()


def test_a_follower_does_not_inherit_the_hurry_of_the_leader(small):
    cache, question = Cache(small.lab, "test-hurry"), uuid4().hex
    async def compute():
        await asyncio.sleep(0.2)
        check_time("it was ready")
        return "ready"
    async def ask(seconds, after_s):
        await asyncio.sleep(after_s)
        with within(seconds): return await cache.aget_or(question, compute)
    async def both():
        try: return await asyncio.gather(ask(0.15, 0), ask(5, 0.1), return_exceptions=True)
        finally: await cache.aclose()
    hasty, patient = asyncio.run(both())
    assert isinstance(hasty, Late) and patient == "ready"


def test_a_quota_is_per_caller_and_says_when_to_come_back(small):
    with serving(create_app(small, cache_s=0, doors=Doors(per_minute=2))) as url:
        got = [httpx.get(url + SIMILAR.format(42)) for _ in range(3)] + [httpx.get(url + "/health/live")]
    assert [r.status_code for r in got] == [200, 200, 429, 200] and 1 <= int(got[2].headers["retry-after"]) <= 60
    assert got[2].json()["error"] and got[2].headers["x-request-id"]


def test_a_full_room_leaves_the_others_alone(small):
    doors = Doors()
    doors.fast.size = 0
    with serving(create_app(small, cache_s=0, doors=doors)) as url:
        refused, live = httpx.get(url + SIMILAR.format(42)), httpx.get(url + "/health/live")
        analysed = httpx.post(url + "/api/analyze", json={"track_id": 10**9})
    assert (refused.status_code, live.status_code, analysed.status_code) == (503, 200, 404) and refused.headers["retry-after"]


def test_settings_give_the_quota(monkeypatch):
    monkeypatch.setenv("RAP_API_PER_MINUTE", "7")
    settings.cache_clear()
    assert create_app().state.doors.quota.item.amount == 7


def test_retries_stay_a_share_of_the_requests():
    tried = []
    async def away(): tried.append(1); raise Unavailable("away")
    async def many():
        budget = RetryBudget(share=0.1, most=3)
        with within(60): return await asyncio.gather(*(retry(away, budget) for _ in range(100)), return_exceptions=True)
    assert {type(e) for e in asyncio.run(many())} == {Unavailable} and 100 <= len(tried) <= 115


@pytest.mark.parametrize("error,opens", [(Unavailable("x"), True), (ValueError("x"), False), (Late("x"), False),
                                         (Busy("x"), False)])
def test_only_a_server_that_is_away_opens_the_breaker(error, opens):
    async def ask(breaker, what):
        async with breaker.guard():
            if what: raise what
    async def twice():
        breaker = Breaker("it", rest_s=30)
        with pytest.raises(type(error)): await ask(breaker, error)
        try: return await ask(breaker, None)
        except Unavailable: return "open"
    assert asyncio.run(twice()) == ("open" if opens else None)
