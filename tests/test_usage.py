"Calls that are billed: each at most once, whatever is killed, retried or away. Real servers, a real kill -9."
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import date
from decimal import Decimal
from types import SimpleNamespace

import httpx
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer import cli
from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.tenants import TenantStore
from rap_analyzer.platform.usage import (
    DAY_S,
    ROWS,
    TIERS,
    Tier,
    Usage,
    make_bill,
    price_calls,
    split_calls,
    this_month,
    usage_query,
    write_query,
)
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

SIMILAR = "/api/tracks/similar"


@pytest.fixture(scope="module")
def own(lab):
    with own_database(lab, "test_usage") as mine: yield mine


@pytest.fixture(scope="module")
def alpha(own):
    store = fill(Store(own, "alpha"), 60)
    build("hnsw_halfvec", store)
    yield store
    store.forget()


@pytest.fixture(scope="module")
def beta(own, alpha):
    store = Store(own, "beta").register()
    yield store
    store.forget()


@pytest.fixture
def fresh(own, request):
    "A tenant of the test's own."
    store = Store(own, f"t{abs(hash(request.node.nodeid)) % 10**9}").register()
    yield store
    store.forget()


def bill(store, month=""): return make_bill(store.tenant, month or this_month(), store.query(usage_query(month or this_month())))
def total(store): return store.query(Query("SELECT coalesce(sum(calls), 0)::int FROM usage_counts"))[0][0]
def key_of(store, *scopes): return {"X-API-Key": Keys(store).create(scopes or ["read"])[0]}


def call(tenant, path=SIMILAR, subject="k", method="GET"):
    return {"identity": SimpleNamespace(tenant=tenant, subject=subject), "route": SimpleNamespace(path=path), "method": method}


def with_pool(store, work):
    async def run():
        await store.aopen(2)
        try: return await work()
        finally: await store.aclose()
    return asyncio.run(run())


# ---- prices

def by_hand(calls, tiers):
    "One call at a time."
    cost = Decimal(0)
    for n in range(1, calls + 1): cost += next(t.price for t in tiers if t.upto is None or n <= t.upto)
    return cost


def test_each_call_is_priced_by_its_own_tier():
    rng = random.Random(5)
    for _ in range(40):
        ends = sorted(rng.sample(range(1, 400), 3))
        tiers = [Tier(end, Decimal(rng.randint(0, 900)) / 100) for end in (*ends, None)]
        for calls in (0, 1, *ends, *(e + 1 for e in ends), rng.randint(0, 900)):
            parts = split_calls(calls, tiers)
            assert sum(n for n, _ in parts) == calls and all(n > 0 for n, _ in parts)
            assert sum(n * p for n, p in parts) == by_hand(calls, tiers), (calls, tiers)


def test_one_call_more_never_costs_less_and_a_month_is_rounded_once():
    edges = [n for tier in TIERS[:-1] for n in (tier.upto - 1, tier.upto, tier.upto + 1)]
    costs = [price_calls(n) for n in sorted([*edges, *range(0, 3_000_000, 12_347)])]
    assert costs == sorted(costs) and price_calls(10_000) == 0 and price_calls(100_001) == price_calls(100_000) == Decimal("72.00")
    assert price_calls(10_140) == Decimal("0.11") and price_calls(10**12) > 0
    with pytest.raises(ValueError, match="0 or more"): price_calls(-1)


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026-11-01", "2026-11'; --"])
def test_what_is_no_month(month):
    with pytest.raises(ValueError, match="expected a month"): usage_query(month)


def test_months_have_edges(fresh):
    days = [date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 28), date(2026, 3, 1), date(2024, 12, 31), date(2025, 1, 1)]
    rows = [(("", "k", "GET", SIMILAR, (d - date(1970, 1, 1)).days), 10 ** i) for i, d in enumerate(days)]
    fresh.query(write_query("0" * 16, rows))
    assert [bill(fresh, m).calls for m in ("2026-01", "2026-02", "2026-03", "2024-12", "2025-01", "2026-04")] == [
        1, 110, 1_000, 10_000, 100_000, 0]
    assert not bill(fresh, "2026-02").running and bill(fresh).running


# ---- totals

def test_totals_may_come_twice_late_and_in_any_order(fresh):
    "Every total of three processes, each sent one to three times, in any order: the sum of the largest."
    rng, today = random.Random(17), int(time.time() // DAY_S)
    sent, want = [], 0
    for process in range(3):
        totals = sorted(rng.sample(range(1, 500), 6))
        want += totals[-1]
        sent += [(f"{process:016x}", n) for n in totals for _ in range(rng.randint(1, 3))]
    rng.shuffle(sent)
    for writer, n in sent: fresh.query(write_query(writer, [((fresh.tenant, "k", "GET", SIMILAR, today), n)]))
    assert bill(fresh).calls == want


def test_a_flush_that_fails_is_made_up_for_and_one_that_was_not_heard_of_adds_nothing(fresh, monkeypatch):
    usage, ask = Usage(), fresh.aquery
    usage.store = fresh
    async def away(query): raise LabError("away")
    async def unheard(query):
        await ask(query)
        raise LabError("the connection broke after the commit")
    async def live():
        for answer in (away, unheard, away, unheard, unheard):
            for _ in range(7): usage.count(call(fresh.tenant), 200)
            monkeypatch.setattr(fresh, "aquery", answer)
            assert await usage.flush() == 0
        monkeypatch.setattr(fresh, "aquery", ask)
        usage.count(call(fresh.tenant), 200)
        return await usage.flush(), await usage.flush()
    assert with_pool(fresh, live) == (1, 0)                             # nothing new: nothing is written
    assert total(fresh) == 36


def test_one_tenant_s_bad_row_does_not_keep_the_others_from_being_written(alpha, fresh):
    usage = Usage()
    usage.store = alpha
    before = total(fresh)
    async def live():
        usage.totals = {("alpha", "k", "GET", SIMILAR, 20_000): -1,     # refused by a constraint
                        ("nobody-knows-it", "k", "GET", SIMILAR, 20_000): 3, (fresh.tenant, "k", "GET", SIMILAR, 20_000): 4}
        return await usage.flush()
    with_pool(alpha, live)
    assert total(fresh) == before + 4


def test_many_rows_are_written_in_several_statements_and_past_days_are_dropped(fresh):
    usage, today = Usage(), int(time.time() // DAY_S)
    usage.store = fresh
    usage.totals = {(fresh.tenant, f"k{i}", "GET", SIMILAR, today - 5 + 5 * (i % 2)): 1 for i in range(2 * ROWS + 7)}
    assert with_pool(fresh, usage.flush) == 2 * ROWS + 7 == total(fresh)
    assert {key[4] for key in usage.totals} == {key[4] for key in usage.written} == {today}
    long = bill(fresh)
    assert long.calls >= len(usage.totals) and long.days


# ---- over HTTP

def test_what_is_answered_is_counted_once_and_what_is_refused_is_not(alpha, beta, own):
    "Per tenant, key and endpoint; exact after a service that was stopped."
    other = Store(own, "gamma").register()
    app, heads = create_app(alpha, auth="required", cache_s=60), {s.tenant: key_of(s) for s in (alpha, other)}
    before = bill(alpha).calls
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as http:
        for i in range(9):                                              # six of them from the cache
            assert http.get(f"{SIMILAR}?track_id={i % 3}", headers=heads["alpha"]).status_code == 200
        for _ in range(4): assert http.get("/api/whoami", headers=heads["gamma"]).status_code == 200
        token = http.post("/oauth/token", data={"grant_type": "client_credentials", "client_secret": heads["gamma"]["X-API-Key"]})
        bearer = {"Authorization": f"Bearer {token.json()['access_token']}"}
        assert http.get("/api/whoami", headers=bearer).status_code == 200                               # the key's, by a token
        wrong = [http.get(p, headers=heads["alpha"]).status_code for p in
                 (f"{SIMILAR}?track_id=999", f"{SIMILAR}?k=0", "/api/nothing", "/metrics", "/api/export")]
        assert all(s >= 400 for s in wrong)
        assert http.get("/api/whoami").status_code == 401 and http.get("/health/live").status_code == 200
        assert http.get("/", headers=heads["alpha"]).status_code == 200                                 # a page is no call
    mine, theirs = bill(alpha), bill(other)
    assert mine.calls - before == 9 and theirs.calls == 5 and bill(beta).calls == 0
    assert theirs.endpoints == {"GET /api/whoami": 5} and list(theirs.keys) == [Keys(other).list_all()[0].id]
    assert mine.endpoints[f"GET {SIMILAR}"] >= 9 and sum(mine.days.values()) == mine.calls


def test_a_team_sees_its_own_usage_and_the_command_says_the_same(alpha, own, monkeypatch):
    mine = Store(own, "delta").register()
    mine.query(write_query("0" * 16, [(("", "k1", "GET", SIMILAR, (date(2026, 3, 5) - date(1970, 1, 1)).days), 150_000)]))
    with serving(create_app(alpha, auth="required", cache_s=60)) as url, httpx.Client(base_url=url, timeout=20) as http:
        said = {s.tenant: http.get("/api/usage?month=2026-03", headers=key_of(s)).json() for s in (mine, alpha)}
        bad = http.get("/api/usage?month=2026-13", headers=key_of(mine))
        nobody, wrong = http.get("/api/usage"), http.get("/api/usage", headers=key_of(mine, "write"))
    assert (said["delta"]["calls"], said["delta"]["amount"], said["delta"]["keys"]) == (150_000, "97.00", {"k1": 150_000})
    assert [p["calls"] for p in said["delta"]["parts"]] == [10_000, 90_000, 50_000]
    assert said["alpha"]["calls"] == 0 and said["alpha"]["amount"] == "0.00"
    assert (bad.status_code, nobody.status_code, wrong.status_code) == (422, 401, 403)
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: alpha)
    run = lambda words: CliRunner().invoke(cli.app, words.split())
    assert json.loads(run("usage --tenant delta --month 2026-03 --json").output) == said["delta"]
    text = run("usage --tenant delta --month 2026-03").output
    assert "150,000 calls, 97.00 EUR" in text and "still running" not in text
    assert "expected a month" in str(run("usage --tenant delta --month never").exception)
    assert "tenant create nobody" in str(run("usage --tenant nobody").exception)


SERVICE = """
import os, sys, time
from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store
from rap_analyzer.web import serving
app = create_app(Store(Lab(home=sys.argv[1], database="test_usage"), "alpha"), auth="required", cache_s=60)
with serving(app) as url:
    print(url, flush=True)
    sys.stdin.readline()
"""


def start(home):
    "A service in a process of its own, and its address."
    service = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SERVICE), str(home)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    return service, service.stdout.readline().strip()


def test_a_kill_loses_at_most_what_was_not_flushed_and_bills_nothing_twice(alpha, fresh, own):
    head = key_of(fresh)
    service, url = start(own.home)
    try:
        with httpx.Client(base_url=url, timeout=20, headers=head) as http:
            for _ in range(40): assert http.get("/api/whoami").status_code == 200
            end = time.monotonic() + 30
            while total(fresh) < 40 and time.monotonic() < end: time.sleep(.05)                          # the next flush
            assert total(fresh) == 40
            for _ in range(25): http.get("/api/whoami")
        os.kill(service.pid, signal.SIGKILL)
    finally: service.kill(), service.wait()
    kept = total(fresh)
    assert 40 <= kept <= 65                                             # never more than was answered
    service, url = start(own.home)
    try:
        with httpx.Client(base_url=url, timeout=20, headers=head) as http:
            for _ in range(10): assert http.get("/api/whoami").status_code == 200
        service.communicate("stop\n", timeout=30)
    finally: service.kill(), service.wait()
    assert total(fresh) == kept + 10                                    # stopped, so nothing is lost
    assert fresh.query(Query("SELECT count(DISTINCT writer)::int FROM usage_counts")) == [(2,)]


def test_usage_is_guarded_like_all_data(alpha, beta, own):
    row = [(("", "k", "GET", SIMILAR, 20_000), 5)]
    alpha.query(write_query("a" * 16, row)), beta.query(write_query("a" * 16, row))                     # the same writer, twice
    assert alpha.query(Query("SELECT count(DISTINCT tenant_id)::int FROM usage_counts")) == [(1,)]
    forged = Query(write_query("b" * 16, row).sql.replace("current_setting('app.tenant_id')", "'alpha'"),
                   write_query("b" * 16, row).params)
    with pytest.raises(Exception, match="row-level security"): beta.query(forged)
    with pytest.raises(Exception, match="permission denied"): beta.query(Query("DELETE FROM usage_counts RETURNING 1"))
    assert TenantStore(alpha, "beta").tenant == "beta"
