"Regions: a listener's home moves while events arrive; each accepted event is there once, wherever the move was killed or aborted."
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import pytest
from helpers import own_database

from rap_analyzer.core import LabError
from rap_analyzer.deadline import Unavailable
from rap_analyzer.giants.moves import ANNOUNCE, Line, Regions
from rap_analyzer.giants.regions import ADMIT, SETTLE, Home
from rap_analyzer.music import catalog
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.events import Events, UnknownListener
from rap_analyzer.search.sessions import Query
from rap_analyzer.serve.proxy import Proxy

COUNT, TOLD = "SELECT event_id FROM events WHERE listener_id = %s", "SELECT event_id FROM outbox"
STEPS = "announce", "copy", "close", "copy the rest", "open", "record"


@pytest.fixture(scope="module")
def labs(lab):
    "A database for each region; what is silent is a line to it."
    with ExitStack() as stack:
        made = {name: stack.enter_context(own_database(lab, f"region_{name}")) for name in ("us", "eu", "asia")}
        for one in made.values(): Line(one, "moving").load(list(catalog.tracks(0, 20)), catalog.embeddings(0, 20))
        yield made


def desk(labs, **lines):
    return Regions({name: lines.get(name) or Line(lab, "moving", name=name) for name, lab in labs.items()}, "us")


@contextmanager
def line_to(labs, name, limit_s=.5):
    "A line to a region that can be cut or made silent, and the regions seen through it."
    line = Proxy("127.0.0.1", labs[name].postgres.notes.read()["postgres_port"]).start()
    try: yield line, desk(labs, **{name: Line(labs[name], "moving", line.port, name, limit_s)})
    finally: line.close()


def say(where, listener, name):
    return where.track(make_event(listener, "play", 3, event_id=name, time=datetime(2026, 5, 1, tzinfo=UTC)))


def found(where, line, query, *given): return sorted(i for i, in where.line(line).query(Query(query, given)))


PAGE = """INSERT INTO recommendations (tenant_id, listener_id, event_id, time, hits)
VALUES ('moving', %s, 'e', now(), '[7]')"""
DIE = """
import os, sys
from rap_analyzer.giants.moves import Line, Regions
from rap_analyzer.lab import Lab
home, first, do, *steps = sys.argv[1:]
for n, step in enumerate(steps, int(first)):
    if os.fork() == 0:
        lines = {name: Line(Lab(home, f"region_{name}"), "moving", name=name) for name in ("us", "eu", "asia")}
        getattr(Regions(lines, "us"), do)(n, "asia", lambda done: done == step and os.kill(os.getpid(), 9))
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def kill_after(labs, first, do, steps):
    "For each step a process that moves (or aborts the move of) a listener, the first one's number given, and dies by kill -9."
    asked = [sys.executable, "-c", DIE, str(labs["us"].home), str(first), do, *steps]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == ["-9"] * len(steps), ended.stderr


def test_a_move_that_is_killed_after_any_step_is_ended_by_the_same_call(labs):
    where, listeners = desk(labs), range(10, 16)
    where.settle(listeners, "us")
    names = {i: [f"{i}-{n}" for n in range(4)] for i in listeners}
    for i in listeners: assert [say(where, i, n)[1] for n in names[i][:2]] == [True, True]
    kill_after(labs, 10, "move", STEPS)
    other = desk(labs)                                                                      # another process, which knows nothing
    for i in listeners:
        home = other.move(i, "asia")
        assert (home.region, home.epoch, home.moving_to) == ("asia", 2, None)
        assert not say(where, i, names[i][1])[1]                                        # sent again with its old directory: once
        assert say(where, i, names[i][2])[1]
        assert found(other, "asia", COUNT, i) == names[i][:3]
    assert other.move(10, "us").epoch == 3 and say(where, 10, names[10][3])[1]               # and back
    assert found(other, "us", COUNT, 10) == names[10]
    told = [e for r in labs for e in found(other, r, TOLD) if e in sum(names.values(), [])]
    assert len(told) == len(set(told)) == 6 * 3 + 1                                         # each was announced once, by one region


def test_a_move_whose_target_is_lost_is_aborted_up_to_its_last_step(labs):
    where, listeners = desk(labs), range(50, 56)
    where.settle(listeners, "us")
    for i in listeners: say(where, i, f"{i}-before")
    kill_after(labs, 50, "move", STEPS)
    kill_after(labs, 51, "abort", ("decide", "reopen"))                                    # and two aborts die, too
    late = desk(labs)
    late.limit_s = .2
    for ask in (lambda: say(late, 51, "51-between"), lambda: late.page(51)):
        with pytest.raises(LabError, match="no open home in 'us'.* repeat the call that was interrupted"): ask()
    with line_to(labs, "asia") as (line, far):
        line.dead = True
        for i in listeners[:5]:
            assert [far.abort(i, "asia").epoch for _ in range(2)] == [2, 2]                # the same call again: the same home
            assert say(far, i, f"{i}-after")[1] and say(desk(labs), i, f"{i}-late")[1]
            assert found(far, "us", COUNT, i) == sorted(f"{i}-{n}" for n in ("before", "after", "late"))
        with pytest.raises(LabError, match="events may have been accepted there: the move has ended and can't be aborted"):
            far.abort(55, "asia")
        assert desk(labs).find(55).region == "asia"
    assert where.move(54, "asia").epoch == 3 and len(found(where, "asia", COUNT, 54)) == 3     # its row in asia was open before


def test_a_mover_that_wakes_up_after_the_abort_moves_nothing(labs):
    where = desk(labs)
    for listener, step in enumerate(STEPS[:5], 60):
        where.settle([listener], "us")
        def meanwhile(done, listener=listener, step=step):
            if done != step: return
            where.abort(listener, "asia")
            where.directory.query(Query(ANNOUNCE, ("asia", listener, "asia", "asia", "asia")))  # a second move, which is slow
            say(where, listener, f"{listener}-between")
        with pytest.raises(LabError, match="was aborted meanwhile: home is 'us'"): desk(labs).move(listener, "asia", meanwhile)
        assert say(where, listener, f"{listener}-then")[1]
        assert where.move(listener, "asia").epoch == 3
        assert found(where, "asia", COUNT, listener) == [f"{listener}-between", f"{listener}-then"]


def test_writers_during_moves_and_aborts_lose_nothing_and_count_nothing_twice(labs):
    desk(labs).settle([1], "us")
    ended, accepted, said = threading.Event(), [], []
    def write(k):
        mine, n = desk(labs), 0
        while not ended.is_set():
            n += 1
            try: said.append(say(mine, 1, f"w{k}-{n}")[1]), accepted.append(f"w{k}-{n}")
            except Exception as e: said.append(e)                                           # not acknowledged: not counted here
    writers = [threading.Thread(target=write, args=(k,)) for k in range(3)]
    for w in writers: w.start()
    mover = desk(labs)
    for n, to in enumerate(("eu", "asia", "us", "eu") * 3):
        def call_off(step, n=n, to=to):
            if step == STEPS[n % 5]: mover.abort(1, to)
        if n % 3 == 0:
            with pytest.raises(LabError, match="aborted meanwhile"): mover.move(1, to, call_off)
        mover.move(1, to)
    ended.set()
    for w in writers: w.join(20)
    assert not [s for s in said if s is not True] and len(accepted) > 30
    assert found(mover, "eu", COUNT, 1) == sorted(accepted)
    told = [e for r in labs for e in found(mover, r, TOLD) if e.startswith("w")]
    assert sorted(told) == sorted(accepted)


def test_what_does_not_exist_and_what_does_not_answer(labs):
    where = desk(labs)
    where.settle([2, 3], "asia")
    with pytest.raises(ValueError, match="expected a region of us, eu, asia, got 'mars'"): where.move(2, "mars")
    with pytest.raises(UnknownListener, match="no listener 999"): where.page(999)
    with pytest.raises(UnknownListener): say(where, 999, "nobody")
    where.line("asia").attempt(lambda s: s.con.execute(PAGE, (2,)))
    where.move(2, "eu")
    with line_to(labs, "eu") as (line, far):
        assert (far.page(2).hits, far.page(2).region, far.page(2).stale) == ([7], "eu", False)
        line.delay_s = 60                                                                   # silent, not refused
        old = far.page(2)
        assert (old.hits, old.region, old.stale) == ([7], "asia", True)
        with pytest.raises(Unavailable, match=r"region 'eu' did not answer within 0.5 s"): say(far, 2, "silent-1")
        dialled = [t for t in threading.enumerate() if t.name == "dial eu"]
        assert dialled                                                                # it did not wait for libpq's two seconds
    for t in dialled: t.join(10)
    assert not any(t.is_alive() for t in dialled)
    assert say(where, 2, "silent-1")[0].event_id == "silent-1"


def test_listeners_that_a_process_has_met_are_served_while_the_directory_is_silent(labs):
    where = desk(labs)
    where.settle([70, 71], "asia")
    with line_to(labs, "us") as (line, far):
        assert far.page(70).region == "asia"
        far.known.put(70, (Home(70, "asia", 1), float("-inf")), 600)                       # read long ago
        line.dead = True
        line.reset()
        assert far.page(70).region == "asia" and say(far, 70, "silent-70")[1]
        with pytest.raises(Unavailable, match="region 'us' did not answer"): far.page(71)
        with pytest.raises(Unavailable, match="region 'us' did not answer"): far.move(70, "eu")
        with pytest.raises(Unavailable, match="region 'us' did not answer"): far.abort(70, "eu")
        where.line("asia").attempt(lambda s: s.con.execute(PAGE, (70,)))
        where.move(70, "eu")                                                                # by a process that does reach it
        assert (far.page(70).hits, far.page(70).stale) == ([7], True)                       # it may have moved once more
        with pytest.raises(Unavailable, match="region 'us' did not answer"): say(far, 70, "silent-71")  # refused, not lost
        line.dead = False
        assert say(far, 70, "silent-71")[1] and found(where, "eu", COUNT, 70) == ["silent-70", "silent-71"]


def test_a_home_that_was_left_may_be_away(labs):
    mover = desk(labs)
    mover.settle([40], "us")
    with line_to(labs, "us") as (line, late):
        late.directory = mover.line("us")                                                   # the directory itself answers
        assert late.find(40).region == "us"
        old = late.known.get(40)
        mover.move(40, "asia")
        line.delay_s = 60
        assert say(late, 40, "left-1")[1] and found(mover, "asia", COUNT, 40) == ["left-1"]
        late.known.put(40, old, 600)
        assert (late.page(40).region, late.page(40).stale) == ("asia", False)


def test_a_settling_that_ends_after_a_move_opens_no_second_home(labs):
    where = desk(labs)
    Events(where.line("us")).register([41])
    where.directory.query(Query(SETTLE, ("us", [41], [41], "us")))                         # and then it was interrupted
    assert where.move(41, "asia").region == "asia"
    where.line("us").attempt(lambda s: s.con.execute(ADMIT, ([41],)))                      # the rest of it, late
    late = desk(labs)
    late.keep(Home(41, "us", 1))
    assert say(late, 41, "second-1")[1]
    assert (found(where, "asia", COUNT, 41), found(where, "us", COUNT, 41)) == (["second-1"], [])
