"""Simulated listeners before a real service: what they tell it, what slow pages do to them, and what they do when it is away."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from urllib.request import urlopen

import numpy as np
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.processes import find_free_port
from rap_analyzer.product import people
from rap_analyzer.product.actions import ACTIONS
from rap_analyzer.product.audience import Platform, Sessions, finish, popularity, step
from rap_analyzer.product.commands import app
from rap_analyzer.product.events import Events
from rap_analyzer.product.live import FAILED_MS, Live, OneRow, Visit, find_service
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.web import serving

CROWD = 120


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_live") as own:
        store = fill(Store(own, "crowd"), people.TRACKS)
        build("hnsw_halfvec", store)
        Events(store).register(range(CROWD))
        yield store
        store.forget()


@pytest.fixture(scope="module")
def url(store):
    with serving(create_app(store)) as url: yield url


def stored(store, like="live-%"):
    return store.query(Query("SELECT event_id, session_id, listener_id, action, track_id, position, time FROM events "
                             "WHERE session_id LIKE %s ORDER BY session_id, time, event_id", (like,)))


def test_everything_that_they_do_is_stored_once_and_in_the_words_of_the_report(store, url):
    ran = Live(url, CROWD, seed=21, speed=4_800).run(4)
    rows = stored(store, "live-21-%")
    assert ran.unsent == 0 and ran.events == len(rows) == len({r[0] for r in rows}) > 300
    assert len({r[1] for r in rows}) <= len(ran.visits)                  # a session may end before anything happens
    for action in ("play", "skip", "like", "save"): assert sum(r[3] == action for r in rows) == ran.visits[f"{action}s"].sum()
    assert ran.visits.failed.sum() == 0 and len(ran.page_ms) == ran.visits.pages.sum() > 10
    shown = {(r[1], r[4]) for r in rows if r[3] == "impression"}
    assert {(r[1], r[4]) for r in rows if r[3] == "click"} <= shown       # nobody clicks what no page has shown


def test_a_visit_decides_as_a_session_in_memory_does(store):
    """The same luck, the same pages, the same latency: the same actions, step by step."""
    live = Live("http://127.0.0.1:1", 60, seed=4)
    memory = Platform(live.platform.truth, 4, popularity)
    live.platform.policy = popularity
    crowd, own = (Sessions(p, 0, 1) for p in (memory, live.platform))
    assert crowd.who.tolist() == own.who.tolist() and len(crowd.who) > 5
    for i in map(int, own.who[:8]):
        visit = Visit(own, i)
        crowd.who = crowd.all = np.array([i])
        crowd.rng = OneRow(4, 4, int(own.id[i]))
        visit.page_ms = lambda w, g, i=i: Sessions.page_ms(crowd, w, g)
        mark = len(memory.log)
        while len(visit.who):
            step(visit), step(crowd)
            assert visit.who.tolist() == crowd.who.tolist()
        finish(visit), finish(crowd)
        kept = [(int(at), ACTIONS[c], int(t), int(place)) for ms, _, _, code, tracks, places in memory.log[mark:]
                for at, c, t, place in zip(ms, code, tracks, places, strict=True)]
        assert visit.log == kept


def test_speed_scales_waiting_and_never_a_page(url):
    """A proxy adds 150 ms; at any speed a page takes them, and only the number of sessions changes."""
    line = Proxy("127.0.0.1", int(url.rpartition(":")[2])).start()
    line.delay_s = .075
    try:
        slow, fast = (Live(f"http://127.0.0.1:{line.port}", CROWD, seed=22, speed=s).run(4) for s in (3_600, 14_400))
    finally: line.close()
    assert fast.days == 4 * slow.days and len(fast.visits) > len(slow.visits)
    for ran in (slow, fast): assert min(ran.page_ms) >= 150


def test_listeners_leave_a_page_that_takes_longer_than_they_wait(url):
    patient, hasty = (Live(url, CROWD, seed=23, speed=7_200) for _ in range(2))
    hasty.platform.truth.listeners["patience_ms"] = .001
    left, stayed = hasty.run(3), patient.run(3)
    assert left.visits.pages.max() <= 1 and (left.visits.saves.sum(), left.visits.failed.sum()) < (stayed.visits.saves.sum(), 1)
    assert stayed.visits.pages.max() > 1
    mood = hasty.platform.mood[left.visits.listener_id[left.visits.pages > 0]].mean()
    assert mood < patient.platform.mood[stayed.visits.listener_id[stayed.visits.pages > 0]].mean()     # and they return less


def test_without_a_service_they_leave_and_nothing_is_lost_silently():
    ran = Live("http://127.0.0.1:1", CROWD, seed=24, speed=21_600).run(1)
    did = int(ran.visits[["plays", "skips", "likes", "saves"]].to_numpy().sum())
    assert ran.events == 0 and ran.unsent >= did > 0                     # and the searches before a page that did not come
    assert ran.visits.failed.sum() == ran.visits.pages.sum() > 0 and (ran.visits.pages <= 1).all()
    assert people.PERSONAS["researcher"].patience_ms * 100 < FAILED_MS


SERVICE = """import sys
from uvicorn import run
from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store
run(create_app(Store(Lab(sys.argv[1], database="test_live"), "crowd")), port=int(sys.argv[2]), log_level="critical")
"""


@pytest.mark.alone
def test_a_service_that_is_killed_gets_every_event_once_it_is_back(store):
    """kill -9 in the middle; what could not be told is told to the next process, and nothing twice."""
    port = find_free_port()
    start = lambda: subprocess.Popen([sys.executable, "-c", SERVICE, str(store.lab.home), str(port)])
    children, began = [start()], time.monotonic()
    def kill(live):
        if len(children) == 1 and live.events and time.monotonic() - began > 4:
            children[0].send_signal(signal.SIGKILL)
            children.append(start())
    try:
        while True:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2): break
            assert time.monotonic() - began < 60
            time.sleep(.1)
        began = time.monotonic()
        ran = Live(f"http://127.0.0.1:{port}", CROWD, seed=25, speed=1_800).run(14, each=kill)
    finally:
        for child in children: child.kill(), child.wait(10)
    rows = stored(store, "live-25-%")
    assert len(children) == 2 and ran.visits.failed.sum() > 0
    assert len(rows) == len({r[0] for r in rows}) >= ran.events and ran.events > 100
    assert ran.unsent == 0


def test_the_command_sends_them_and_says_when_nothing_answers(url):
    few = "--listeners", "60", "--seconds", "2", "--tracks", str(people.TRACKS)
    run = lambda *words: CliRunner().invoke(app, ["audience", *few, *words])
    lines, facts = run("--url", url, "--speed", "7200"), run("--url", url, "--speed", "7200", "--seed", "2", "--json")
    assert lines.exit_code == facts.exit_code == 0 and re.search(r"\d+ sessions over +\d+ pages, lately p95 +\d+ ms", lines.output)
    told = json.loads(facts.output)
    assert told["unsent"] == told["failed"] == 0 and told["events"] > told["plays"] > 0 and told["days"] == .17
    missing = run("--url", "http://127.0.0.1:1")
    assert isinstance(missing.exception, LabError) and "no service is ready" in str(missing.exception)
    assert run("--hour", "25").exit_code == 2


@pytest.mark.parametrize(("wrong", "said"), [({"listeners": 0}, "listeners from 1 to 20,000"), ({"speed": .5}, "speed from 1"),
                                             ({"hour": 24}, "hour from 0")])
def test_what_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said): Live("http://127.0.0.1:1", **wrong)


def test_one_row_of_luck_stands_for_all():
    u = OneRow(1, 2).random((5, 3))
    assert u.shape == (5, 3) and (u == u[0]).all() and (OneRow(1, 2).random((2, 3))[0] == u[0]).all()


@pytest.mark.parametrize("url", ["", "nonsense", "127.0.0.1:8000", "http://", "http://[::1", "http://127.0.0.1:abc",
                                 "http://127.0.0.1:99999", "http://a b", "https://127.0.0.1:1", "ftp://127.0.0.1", None, 5])
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(ValueError, match="such as http://"): Live(url, 5)
    with pytest.raises(ValueError, match="such as http://"): find_service(url)


def test_another_program_is_told_apart():
    async def other(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
    with serving(other) as url, pytest.raises(LabError, match="another program"): Live(url, 60, speed=3_000).run(3)
