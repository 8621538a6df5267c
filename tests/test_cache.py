"""The cache on the real Valkey: crowds, outages, foreign bytes, updates."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import redis

from rap_analyzer.core import LabError
from rap_analyzer.music import catalog
from rap_analyzer.processes import find_free_port
from rap_analyzer.search.cache import Cache, answer_from_cache
from rap_analyzer.search.index import Hit, similar
from rap_analyzer.search.keys import HITS, decode_hits, encode_hits, key_of, scope_of, spread_ttl
from rap_analyzer.search.store import Store, UnknownTrack
from rap_analyzer.valkey import valkey_binary

PREFIX = "test-cache"


@pytest.fixture
def cache(lab):
    "A cache whose keys nobody else has."
    made = Cache(lab, prefix=PREFIX)
    yield made
    made.close()
    with redis.from_url(lab.redis_url, socket_timeout=5) as r:
        for key in r.scan_iter(f"{PREFIX}:*"): r.delete(key)


@pytest.fixture
def server(tmp_path):
    "A Valkey that may be mistreated: its address, and functions that start, freeze and kill it."
    port, running = find_free_port(), []

    def start():
        running.append(subprocess.Popen([valkey_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir",
                                         str(tmp_path)], stdout=subprocess.DEVNULL))
        with redis.Redis(port=port, socket_timeout=1) as r:
            for _ in range(200):
                with suppress(redis.RedisError):
                    if r.ping(): return
                time.sleep(0.05)
        pytest.fail("Valkey did not start")

    def signal_it(what):
        os.kill(running[-1].pid, what)
        if what == signal.SIGKILL: running[-1].wait()

    start()
    yield f"redis://127.0.0.1:{port}/0", start, signal_it
    for p in running:
        if p.poll() is None:
            p.kill()
            p.wait()


def slow(asked, answer=7, s=0.2):
    def compute():
        asked.append(threading.get_ident())
        time.sleep(s)
        return answer
    return compute


def test_hits_survive_the_round_trip_to_the_last_bit():
    hits = [Hit(2**53 + 1, 0.1 + 0.2, "hnsw_halfvec ef=40"), Hit(0, -1e-308, "exact_halfvec"), Hit(5, 1.0, "Ёж: \"'{}")]
    assert decode_hits(encode_hits(hits)) == hits


@pytest.mark.parametrize("junk", [b"", b"null", b"{}", b"[[1],[0.5],[],[0]]", b'[[true],[0.5],["x"],[0]]', b"[[1],[0.5]]",
                                  b'[[1],[NaN],["x"],[0]]', b"\xff", b"[" * 100_000])
def test_foreign_bytes_are_refused(junk):
    with pytest.raises(ValueError, match="encoded list of hits"): decode_hits(junk)


def test_the_jitter_stays_within_its_bounds():
    assert [spread_ttl(10, 0.1, c) for c in (0, 0.5, 1)] == [9_000, 10_000, 11_000]
    assert spread_ttl(1e-9, 0, 0.5) == 1


def test_keys_cannot_meet():
    keys = [key_of("p", "a:b", "c"), key_of("p", "a", "b:c"), key_of("p", "a", "b", "c"), key_of("p:a", "b", "c"),
            key_of("p", "a}", "c"), key_of("p", "{a", "c"), key_of("p", "a", "x" * 500), key_of("p", "a", "x" * 501)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"ttl_s": float("nan")}, {"wait_s": -1}, {"timeout_s": 0}, {"jitter": 1}])
def test_bad_settings_are_refused(lab, wrong):
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))}"): Cache(lab, **wrong)


CALM = {"timeout_s": 30, "wait_s": 60}  # by default a reply that takes .2 s is an outage, and a busy machine has such moments


def test_a_crowd_of_threads_computes_once(lab, cache):
    five, asked, start = [Cache(lab, prefix=PREFIX, **CALM) for _ in range(5)], [], threading.Barrier(50)

    def one(i):
        start.wait()
        return five[i % 5].get_or("crowd", slow(asked))

    with ThreadPoolExecutor(50) as pool: assert list(pool.map(one, range(50))) == [7] * 50
    assert len(asked) == 1
    for c in five: c.close()


def test_a_crowd_of_tasks_computes_once(lab, cache):
    asked = []

    async def compute():
        asked.append(1)
        await asyncio.sleep(0.2)
        return 7

    async def crowd():
        two = [Cache(lab, prefix=PREFIX, **CALM) for _ in range(2)]
        try: return await asyncio.gather(*(two[i % 2].aget_or("tasks", compute) for i in range(50)))
        finally:
            for c in two: await c.aclose()

    assert asyncio.run(crowd()) == [7] * 50 and len(asked) == 1


def test_an_error_reaches_everybody_and_is_not_kept(cache):
    def fails(): raise UnknownTrack("no track 5")
    for _ in range(2):
        with pytest.raises(UnknownTrack): cache.get_or("fails", fails)
    assert cache.get_or("fails", lambda: 3) == 3


def test_whoever_waits_too_long_computes_alone(lab, cache):
    hasty, asked = Cache(lab, prefix=PREFIX, wait_s=0.1), []
    other = threading.Thread(target=lambda: Cache(lab, prefix=PREFIX).get_or("long", slow(asked, s=5)))
    other.start()
    time.sleep(0.3)
    assert hasty.get_or("long", lambda: 8) == 8 and other.is_alive()
    other.join()
    hasty.close()


def test_an_answer_from_before_the_update_is_not_given_after_it(lab, cache):
    second = Cache(lab, prefix=PREFIX)
    assert cache.get_or("race", lambda: (second.updated(), "old")[1]) == "old"  # stored after the update, under the old number
    assert second.get_or("race", lambda: "new") == "new" and cache.get_or("race", lambda: "never") == "new"
    second.close()


def test_tenants_do_not_share_answers(small, cache):
    rival = Store(small.lab, "rival")
    mine, theirs = scope_of(small), scope_of(rival)
    assert mine != theirs
    assert cache.get_or("q", lambda: 1, mine) == 1 and cache.get_or("q", lambda: 2, theirs) == 2
    assert cache.updated(theirs)
    assert cache.get_or("q", lambda: 3, mine) == 1 and cache.get_or("q", lambda: 4, theirs) == 4


def test_similar_through_the_cache_is_similar(small, cache):
    want = similar(7, 5, store=small)
    for asked in (7, catalog.track(7)): assert answer_from_cache(asked, 5, store=small, cache=cache) == want
    assert cache.counters()["hits"] == 1
    for bad in ("7", -1, True, None):
        with pytest.raises(ValueError): answer_from_cache(bad, store=small, cache=cache)
    with pytest.raises(UnknownTrack): answer_from_cache(10**9, store=small, cache=cache)


def test_a_broken_value_is_a_miss_and_is_replaced(lab, cache):
    cache.get_or("value", lambda: [Hit(1, 0.5, "x")], codec=HITS)
    key = key_of(PREFIX, "", cache._known[""], "value")
    with redis.from_url(lab.redis_url, socket_timeout=5) as r:
        for junk in (b"junk", b"", b"[[1],[2]]"):
            r.set(key, junk)
            assert cache.get_or("value", lambda: [Hit(2, 0.25, "y")], codec=HITS) == [Hit(2, 0.25, "y")]
            assert decode_hits(r.get(key)) == [Hit(2, 0.25, "y")]


def test_killed_and_back(server):
    address, start, signal_it = server
    cache = Cache(address, rest_s=0.2)
    assert [cache.get_or("k", lambda: 1), cache.get_or("k", lambda: 2)] == [1, 1]
    signal_it(signal.SIGKILL)
    assert [cache.get_or("k", lambda: 3) for _ in range(20)] == [3] * 20
    assert not cache.updated() and cache.counters()["errors"] >= 1
    start()
    time.sleep(0.3)
    assert cache.get_or("k", lambda: 4) == 4 and cache.get_or("k", lambda: 5) == 4


def test_frozen_costs_one_timeout_and_no_error(server):
    address, _, signal_it = server
    cache = Cache(address, rest_s=30)
    cache.get_or("k", lambda: 1)
    signal_it(signal.SIGSTOP)
    assert [cache.get_or("k", lambda: 2) for _ in range(100)] == [2] * 100
    assert cache.counters()["errors"] == 1 and cache.counters()["skipped"] >= 99
    signal_it(signal.SIGCONT)


def test_an_update_that_valkey_did_not_hear_is_told_later(server):
    address, _, signal_it = server
    cache = Cache(address, rest_s=0.2)
    assert cache.get_or("k", lambda: "old") == "old"
    signal_it(signal.SIGSTOP)
    assert not cache.updated()
    signal_it(signal.SIGCONT)
    time.sleep(0.5)
    assert cache.get_or("k", lambda: "new") == "new"


def test_no_server_at_all_is_only_slower():
    cache = Cache(f"redis://127.0.0.1:{find_free_port()}/0")
    assert cache.get_or("k", lambda: 1) == 1
    with pytest.raises(LabError): cache.get_or("k", lambda: (_ for _ in ()).throw(LabError("no")))
