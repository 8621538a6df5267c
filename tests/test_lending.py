"Who gets which connection, and when: turns in an order that can be computed, loans on a real server."
import asyncio
import random
import threading
from collections import Counter

import psycopg
import pytest
from helpers import own_database

from rap_analyzer.core import LabError
from rap_analyzer.platform.tenants import TenantStore
from rap_analyzer.search.lending import ABOUT_S, HOUSE, RUN, STRANGERS, About, Shelf, Turns, choose_idle
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store

PID = Query("SELECT pg_backend_pid(), verified_tenant()")


@pytest.fixture(scope="module")
def base(lab):
    with own_database(lab, "test_lending") as own:
        for n in range(12): Store(own, f"team{n}").register().forget()
        store = Store(own, "team0", wait_s=5)
        yield store
        store.forget()


def views(base, n): return [base, *(TenantStore(base, f"team{i}") for i in range(1, n))]


# ---- which one

@pytest.mark.parametrize("served, lent", [
    (["a"], 0), (["b"], 0), ([None], 0), (["b", "a"], 1), (["a", "b"], 0), (["a", "a"], 1), (["b", None, "a"], 2), (["b", None], 1),
    (["c", "b", "b"], 1), (["b", "c"], 0), (["b", "c", "c", "d", "d"], 1)])
def test_the_own_one_then_an_unused_one_then_a_spare_one(served, lent): assert choose_idle(served, "a") == lent


def test_no_choice_takes_a_tenant_s_last_one_while_another_has_two():
    rng = random.Random(3)
    for _ in range(300):
        served = [rng.choice("bcdef") for _ in range(rng.randint(1, 8))]
        counts = Counter(served)
        assert counts[served[choose_idle(served, "a")]] == max(counts.values())


def test_tenants_that_take_turns_keep_their_connections(base):
    "As many connections as tenants: after the first round nobody changes one."
    teams = views(base, 4)
    async def rounds():
        await base.aopen(4)
        try:
            for s in teams: await s.aquery(PID)
            async with asyncio.timeout(20):
                while base.pool_stats()["pool_available"] < 4: await asyncio.sleep(.01)         # opened behind our back
            return [[(await s.aquery(PID))[0] for s in teams] for _ in range(8)]
        finally: await base.aclose()
    said = asyncio.run(rounds())
    assert all(tenant == f"team{i}" for of in said for i, (_, tenant) in enumerate(of))
    settled = [{tenant: pid for pid, tenant in of} for of in said[4:]]
    assert all(of == settled[0] for of in settled) and len(set(settled[0].values())) == 4


def test_there_are_never_more_connections_than_the_pool_has(base):
    teams = views(base, 12)
    async def crowd():
        await base.aopen(3)
        try:
            for _ in range(4): await asyncio.gather(*(s.aquery(Query("SELECT pg_sleep(.01)::text")) for s in teams))
            said = [(await s.aquery(PID))[0] for s in teams for _ in range(2)]
            return said, base.pool_stats()
        finally: await base.aclose()
    said, stats = asyncio.run(crowd())
    assert [tenant for _, tenant in said] == [f"team{i}" for i in range(12) for _ in range(2)]
    assert len({pid for pid, _ in said}) <= 3 and stats["pool_size"] <= 3 and stats["requests_queued"] > 0


def test_a_connection_that_changes_hands_still_forgets_everything(base):
    "Two tenants, one connection: the second sees no statement and no table of the first."
    one, two = views(base, 2)
    traces = Query("SELECT (SELECT count(*)::int FROM pg_prepared_statements), to_regclass('pg_temp.loot')::text, "
                   "verified_tenant()")
    async def run():
        await base.aopen(1)
        try:
            for _ in range(3): await one.aquery(Query("SELECT count(*) FROM tracks"))
            async with base._pool.connection() as con: await con.execute("CREATE TEMP TABLE loot (id int)")
            return (await two.aquery(traces))[0], (await one.aquery(traces))[0]
        finally: await base.aclose()
    first, second = asyncio.run(run())
    assert (first[1:], second[1:]) == ((None, "team1"), (None, "team0")) and first[0] <= 2 and second[0] <= 2


def test_threads_keep_theirs_too(base):
    base.forget()
    teams = views(base, 5)
    first = [s.query(PID)[0] for s in teams]
    for _ in range(3): assert [s.query(PID)[0] for s in teams] == first
    assert len({pid for pid, _ in first}) == 5 and [t for _, t in first] == [f"team{i}" for i in range(5)]
    base.forget()


def test_a_shelf_is_shared_by_threads_and_nothing_gets_lost():
    shelf, most, inside, lock = Shelf(3), [0], [0], threading.Lock()
    def work(name):
        for _ in range(200):
            place = shelf.take(name, 5)
            with lock: inside[0] += 1; most[0] = max(most[0], inside[0])
            with lock: inside[0] -= 1
            shelf.give(place)
    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(6)]
    for t in threads: t.start()
    for t in threads: t.join(30)
    assert most[0] <= 3 and shelf.idle == [None] * 3
    with pytest.raises(TimeoutError): [shelf.take("t", .01) for _ in range(4)]


# ---- whose turn

def play(arrivals, size=4, share=.5):
    "The order of turns when each takes one tick: names in the order in which they ask."
    async def run():
        turns, order, most = Turns(size, share), [], Counter()
        async def ask(who):
            async with turns.turn(who, 10):
                order.append(who)
                most.update({who: max(0, turns.busy[who] - most[who])})
                await asyncio.sleep(0)
        await asyncio.gather(*(ask(who) for who in arrivals))
        assert (turns.inside, turns.waiting, dict(turns.busy)) == (0, 0, {})
        return order, most
    return asyncio.run(run())


def test_one_alone_gets_everything(): assert play(["a"] * 20)[1]["a"] == 4


def test_a_flood_does_not_delay_the_others():
    order, most = play(["quiet0", *["loud"] * 200, "quiet1", "quiet2", "quiet3"])
    assert max(i for i, who in enumerate(order) if who != "loud") < 16 and most["loud"] <= 2 and len(order) == 204


def test_everybody_is_served_and_nobody_waits_for_ever():
    "Eight tenants with a queue each: in any stretch of the order each of them comes up."
    order, _ = play([f"t{i % 8}" for i in range(400)])
    assert Counter(order) == {f"t{i}": 50 for i in range(8)}
    for begin in range(0, 300, 20): assert len(set(order[begin:begin + 8 * (RUN + 1)])) == 8, begin


def test_a_connection_stays_a_few_times_with_who_waits_for_it():
    order, _ = play([f"t{i % 8}" for i in range(400)], size=1)
    changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert changes < 400 / RUN and len(set(order[:8 * (RUN + 1)])) == 8


def test_who_gives_up_leaves_no_trace_and_who_was_let_in_meanwhile_gives_it_back():
    async def run():
        turns = Turns(1)
        await turns.enter("a", 1)
        with pytest.raises(TimeoutError): await turns.enter("b", .01)
        assert (turns.waiting, turns.late, turns.queued) == (0, 1, 1)
        waits = asyncio.ensure_future(turns.enter("b", 5))
        await asyncio.sleep(0)
        turns.leave("a")                                        # granted, and before it runs it is cancelled
        waits.cancel()
        with pytest.raises(asyncio.CancelledError): await waits
        assert (turns.inside, turns.waiting) == (0, 0)
        await turns.enter("c", .1)
        return turns.inside
    assert asyncio.run(run()) == 1


def test_any_mix_of_waiting_giving_up_and_failing_ends_with_all_turns_free():
    rng = random.Random(9)
    async def run():
        turns = Turns(3)
        async def ask(who, mood):
            async with turns.turn(who, rng.choice((.001, 5))):
                await asyncio.sleep(mood / 1_000)
                if mood == 1: raise ZeroDivisionError
        work = [asyncio.ensure_future(ask(f"t{rng.randrange(5)}", rng.randrange(4))) for _ in range(300)]
        for w in rng.sample(work, 60): asyncio.get_running_loop().call_later(rng.random() / 20, w.cancel)
        said = await asyncio.gather(*work, return_exceptions=True)
        assert all(s is None or isinstance(s, ZeroDivisionError | TimeoutError | asyncio.CancelledError) for s in said)
        return turns.inside, turns.waiting, +turns.busy, dict(turns.queues)
    assert asyncio.run(run()) == (0, 0, Counter(), {})


def test_who_is_about():
    about = About()
    about.note("a", 0)
    assert about.alone("a", 1) and not about.alone("b", 1) and about.alone("b", ABOUT_S)
    about.note("b", 5)
    assert not about.alone("a", 6) and about.alone("a", 5 + ABOUT_S)
    for lane in (HOUSE, STRANGERS): about.note(lane, 20)
    assert about.alone("a", 20)                               # looking up a key is nobody's visit
    assert [Turns(n).limit(STRANGERS, 0) for n in (1, 8, 32)] == [1, 1, 4]                # and keys that may not exist have few
    for n in range(2_000): about.note(f"t{n}", 6)
    assert len(about.seen) == 1_000


def test_a_flood_of_slow_queries_leaves_the_others_room(base):
    "One tenant holds half of the pool and has more waiting; another's question does not wait for any of them."
    loud, quiet = views(base, 2)
    async def run():
        await base.aopen(4)
        try:
            await quiet.aquery(PID)                                                          # it is about
            flood = [asyncio.ensure_future(loud.aquery(Query("SELECT pg_sleep(1)::text"))) for _ in range(12)]
            while base._turns.waiting < 10: await asyncio.sleep(.01)
            for _ in range(5): assert (await quiet.aquery(PID))[0][1] == "team1"
            unfinished = sum(not w.done() for w in flood)
            for w in flood: w.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
            return unfinished
        finally: await base.aclose()
    assert asyncio.run(run()) >= 10


def test_the_wait_for_a_turn_ends_with_a_sentence(base):
    async def run():
        base_wait, base.wait_s = base.wait_s, .2
        await base.aopen(1)
        try:
            slow = asyncio.ensure_future(base.aquery(Query("SELECT pg_sleep(1)::text")))
            await asyncio.sleep(.05)
            with pytest.raises(LabError, match="no database connection was free"): await base.aquery(PID)
            await slow
            return base.pool_stats()["requests_errors"]
        finally:
            base.wait_s = base_wait
            await base.aclose()
    assert asyncio.run(run()) == 1


def test_a_lost_connection_does_not_keep_its_turn(base):
    async def run():
        await base.aopen(2)
        try:
            for _ in range(3):
                pid = (await base.aquery(PID))[0][0]
                with psycopg.connect(base.lab.url(None)) as con: con.execute("SELECT pg_terminate_backend(%s)", [pid])
                assert (await base.aquery(PID))[0][1] == "team0"
            return base._turns.inside
        finally: await base.aclose()
    assert asyncio.run(run()) == 0
