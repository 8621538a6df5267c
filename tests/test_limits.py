"Quotas per tenant: one count for all processes, real Valkey."
import asyncio
import time
from collections import Counter

import httpx
import pytest

from rap_analyzer.app import create_app
from rap_analyzer.core import settings
from rap_analyzer.lab import Lab
from rap_analyzer.platform.keys import Keys, make_key
from rap_analyzer.platform.limits import Buckets
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve.admission import Busy
from rap_analyzer.web import serving

async def ask(bucket, tenant, n):
    said = Counter()
    for _ in range(n):
        try: await bucket.take(tenant); said["passed"] += 1
        except Busy as e: said["refused"] += 1; assert e.status == 429 and e.after_s >= 1
    return said


def run(work, *buckets):
    async def all_of_it():
        try: return await work()
        finally:
            for b in buckets: await b.aclose()
    return asyncio.run(all_of_it())


def test_a_burst_passes_and_a_flood_is_cut_to_the_rate_over_all_processes(lab):
    a, b = (Buckets(lab, rate=50, burst=20, prefix="test:flood") for _ in range(2))
    async def flood():
        began, said = time.monotonic(), Counter()
        while time.monotonic() < began + 1: said += sum(await asyncio.gather(ask(a, "t", 5), ask(b, "t", 5)), Counter())
        return said, time.monotonic() - began
    said, took_s = run(flood, a, b)
    assert 20 <= said["passed"] <= 20 + 50 * took_s + 1 and said["refused"]


def test_one_tenant_s_flood_is_not_another_s(lab):
    bucket = Buckets(lab, rate=1, burst=5, prefix="test:apart")
    loud, other = run(lambda: asyncio.gather(ask(bucket, "loud", 50), ask(bucket, "other", 4)), bucket)
    assert (loud["passed"], other) == (5, {"passed": 4})


def test_a_bucket_fills_again(lab):
    bucket = Buckets(lab, rate=20, burst=2, prefix="test:again")
    async def twice():
        first = await ask(bucket, "t", 10)
        await asyncio.sleep(.3)
        return first, await ask(bucket, "t", 10)
    assert [s["passed"] for s in run(twice, bucket)] == [2, 2]


def test_a_refusal_costs_valkey_nothing(lab, monkeypatch):
    bucket, sent = Buckets(lab, rate=.5, burst=3, prefix="test:cheap"), []
    send = bucket._asend
    async def counted(commands): sent.append(commands); return await send(commands)
    monkeypatch.setattr(bucket, "_asend", counted)
    assert run(lambda: ask(bucket, "t", 500), bucket) == {"passed": 3, "refused": 497} and len(sent) <= 4


def test_without_valkey_nobody_is_refused():
    bucket = Buckets("redis://127.0.0.1:1/0", rate=1, burst=1)
    assert run(lambda: ask(bucket, "t", 50), bucket) == {"passed": 50}


@pytest.mark.parametrize("rate, burst", [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (1, -1), (1, float("nan"))])
def test_what_makes_no_sense(rate, burst):
    with pytest.raises(ValueError, match="expected rate"): Buckets("redis://127.0.0.1:1/0", rate, burst)


def test_over_http_the_loud_tenant_gets_429_and_the_other_its_answer(lab, monkeypatch):
    own = Lab(home=lab.home, database="test_limits").up()
    migrate(own)
    loud, calm = (Store(own, name).register() for name in ("loud", "calm"))
    monkeypatch.setenv("RAP_API_TENANT_PER_S", "4")
    settings.cache_clear()
    heads = [{"X-API-Key": Keys(s).create(["read"])[0]} for s in (loud, calm)]
    app = create_app(loud, auth="required", cache_s=0)
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as http:
        many = [http.get("/api/whoami", headers=heads[0]) for _ in range(40)]
        few = [http.get("/api/whoami", headers=heads[1]) for _ in range(4)]
        health = http.get("/health/live")
        app.state.doors.fast.size, refused = 0, app.state.doors.fast.refused                    # all places are taken
        full = {who: Counter(http.get("/api/whoami", headers=h).status_code for _ in range(20))
                for who, h in {"loud": heads[0], "stranger": {}, "unknown": {"X-API-Key": make_key()}}.items()}
        turned_away = app.state.doors.fast.refused - refused
        calm_too = http.get("/api/whoami", headers=heads[1]).status_code
    said = Counter(r.status_code for r in many)
    assert said[200] >= 8 and said[429] and set(said) == {200, 429}
    refused = next(r for r in many if r.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1 and "more often than 4 times" in refused.json()["error"]
    assert [r.status_code for r in (*few, health)] == [200] * 5
    assert full["stranger"] == full["unknown"] == {401: 20} and calm_too == 503                  # no place was asked for
    assert full["loud"][429] and turned_away == full["loud"][503]                          # but by those within their quota
    loud.forget(), calm.forget(), lab.drop_database("test_limits")
