"Regions: a listener's home moves while events arrive; each accepted event is there once, wherever the move was interrupted."
import threading
from datetime import UTC, datetime

import pytest

from rap_analyzer.deadline import Unavailable
from rap_analyzer.giants.regions import ADMIT, SETTLE, Home, Line, Regions
from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.events import Events, UnknownListener
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import migrate
from rap_analyzer.serve.proxy import Proxy

COUNT, TOLD = "SELECT event_id FROM events WHERE listener_id = %s", "SELECT event_id FROM outbox"
STEPS = "announce", "copy", "close", "copy the rest", "open", "record"


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    made = {name: Lab(tmp_path_factory.mktemp(name)).up() for name in ("us", "eu", "asia")}
    for lab in made.values():
        migrate(lab)
        Line(lab, "moving").load(list(catalog.tracks(0, 20)), catalog.embeddings(0, 20))
    yield made
    for lab in made.values(): lab.down(), lab.close()


def desk(labs, **lines):
    return Regions({name: lines.get(name) or Line(lab, "moving", name=name) for name, lab in labs.items()}, "us")


def say(where, listener, name):
    return where.track(make_event(listener, "play", 3, event_id=name, time=datetime(2026, 5, 1, tzinfo=UTC)))


def found(where, line, query, *given): return sorted(i for i, in where.line(line).query(Query(query, given)))


class Killed(BaseException):
    "As kill -9 would: nothing after it runs."


@pytest.mark.parametrize("step", STEPS)
def test_a_move_that_is_interrupted_after_any_step_is_ended_by_the_same_call(labs, step):
    where, listener = desk(labs), 10 + STEPS.index(step)
    where.settle([listener], "us")
    names = [f"{step.split()[-1]}-{listener}-{n}" for n in range(4)]
    for n in names[:2]: assert say(where, listener, n)[1]
    def die(at):
        if at == step: raise Killed
    with pytest.raises(Killed): where.move(listener, "asia", die)
    other = desk(labs)                                                                      # another process, which knows nothing
    home = other.move(listener, "asia")
    assert (home.region, home.epoch, home.moving_to) == ("asia", 2, None)
    assert not say(where, listener, names[1])[1]                                         # sent again with its old directory: once
    assert say(where, listener, names[2])[1]
    assert found(other, "asia", COUNT, listener) == names[:3]
    assert other.move(listener, "us").epoch == 3 and say(where, listener, names[3])[1]       # and back
    assert found(other, "us", COUNT, listener) == names
    told = [e for r in labs for e in found(other, r, TOLD) if e in names]
    assert sorted(told) == names                                                            # each was announced once, by one region


def test_writers_during_moves_lose_nothing_and_count_nothing_twice(labs):
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
    for to in ("eu", "asia", "us", "eu") * 3: mover.move(1, to)
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
    where.line("asia").attempt(lambda s: s.con.execute("""INSERT INTO recommendations (tenant_id, listener_id, event_id, time, hits)
        VALUES ('moving', 2, 'e', now(), '[7]')"""))
    where.move(2, "eu")
    line = Proxy("127.0.0.1", labs["eu"].postgres.notes.read()["postgres_port"]).start()
    try:
        far = desk(labs, eu=Line(labs["eu"], "moving", line.port, "eu", 1.0))
        assert (far.page(2).hits, far.page(2).region, far.page(2).stale) == ([7], "eu", False)
        line.delay_s = 60                                                                   # silent, not refused
        old = far.page(2)
        assert (old.hits, old.region, old.stale) == ([7], "asia", True)
        with pytest.raises(Unavailable, match="region 'eu' did not answer within 1 s"): say(far, 2, "silent-1")
    finally: line.close()
    assert say(where, 2, "silent-1")[0].event_id == "silent-1"


def test_a_home_that_was_left_may_be_away(labs):
    mover = desk(labs)
    mover.settle([40], "us")
    line = Proxy("127.0.0.1", labs["us"].postgres.notes.read()["postgres_port"]).start()
    try:
        lines = {name: Line(lab, "moving", line.port if name == "us" else None, name, 1.0) for name, lab in labs.items()}
        late = Regions(lines, "us", directory="us")
        late.directory = mover.line("us")                                                   # the directory itself answers
        assert late.find(40).region == "us"
        mover.move(40, "asia")
        line.delay_s = 60
        assert say(late, 40, "left-1")[1] and found(mover, "asia", COUNT, 40) == ["left-1"]
        late.known.put(40, late.find(40), 0)
        assert (late.page(40).region, late.page(40).stale) == ("asia", False)
    finally: line.close()


def test_a_settling_that_ends_after_a_move_opens_no_second_home(labs):
    where = desk(labs)
    Events(where.line("us")).register([41])
    where.directory.query(Query(SETTLE, ("us", [41], [41], "us")))                         # and then it was interrupted
    assert where.move(41, "asia").region == "asia"
    where.line("us").attempt(lambda s: s.con.execute(ADMIT, ([41],)))                      # the rest of it, late
    late = desk(labs)
    late.known.put(41, Home(41, "us", 1), 600)
    assert say(late, 41, "second-1")[1]
    assert (found(where, "asia", COUNT, 41), found(where, "us", COUNT, 41)) == (["second-1"], [])
