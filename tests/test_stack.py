"""The whole stack as an operator runs it: one command, parts that are killed, and an end that leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
from helpers import until

from rap_analyzer.commands import stop_lab
from rap_analyzer.core import LabError, settings
from rap_analyzer.lab import Lab
from rap_analyzer.processes import find_free_port, runs
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.stage import SERVERS
from rap_analyzer.stack import members, request_deploy

MARK, N = "RAP_TEST_STACK", 300


def family(home):
    "Every process that runs for this home, whoever its parent is now; the servers carry the mark too."
    found = []
    for p in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if p.environ().get(MARK) == str(home) and runs(p): found.append(p)
    return found


@contextmanager
def folder(tmp_path_factory):
    "A home that is empty in the end, whatever happened."
    for name in SERVERS: assert name not in os.environ, f"these tests kill servers: unset {name}"
    home = tmp_path_factory.mktemp("stack")
    try: yield home
    finally:
        for p in family(home):
            with suppress(psutil.Error): p.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "For stacks that are ended."
    with folder(tmp_path_factory) as home: yield home


def begin(home, *words):
    "A program of this home, in a session of its own as a terminal would make it."
    env = {**os.environ, "RAP_LAB_HOME": str(home), MARK: str(home), "RAP_CATALOG_TRACKS": str(N), "RAP_LAB_LOG": "file"}
    return subprocess.Popen([sys.executable, "-m", "rap_analyzer.cli", *words], env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)


def status(url, path="/health/ready"):
    "A status; None: no answer."
    with suppress(httpx.HTTPError): return httpx.get(url + path, timeout=5).status_code


@contextmanager
def stack(home, workers=2):
    "A stack that is ready, and its address."
    port = find_free_port()
    p, url = begin(home, "stack", "--port", str(port), "--workers", str(workers)), f"http://127.0.0.1:{port}"
    try:
        until(lambda: p.poll() is not None or status(url) == 200, 120, "a stack that is ready")
        assert p.poll() is None, p.stdout.read()
        yield p, url
    finally:
        if p.poll() is None: p.terminate()
        p.communicate(timeout=60)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    "A stack that goes on."
    with folder(tmp_path_factory) as home, stack(home) as (p, url):
        lab = Lab(home).up()
        migrate(lab)
        store = fill(Store(lab), N)
        yield p, url, lab, store
        store.forget(), lab.close()


def api(lab): return next(p for p in family(lab.home) if "serve" in p.cmdline())


def worker(lab):
    "A worker's main process: the one whose parent is the stack."
    return next(p for p in family(lab.home) if "-c" in p.cmdline() and "worker-any" in p.cmdline()
                and "worker-any" not in (p.parent().cmdline() if p.parent() else []))


def done(url, key):
    "A job that was asked for over HTTP, when it has ended."
    job = httpx.post(f"{url}/api/analyze", json={"track_id": key}, timeout=10).json()["job"]
    return until(lambda: (s := httpx.get(f"{url}/api/jobs/{job}", timeout=5).json()).get("ended_at") and s["state"], 90, "a job")


def events(lab): return next(p for p in family(lab.home) if "events" in p.cmdline())


VICTIMS = {"api": api, "worker": worker, "events": events, "valkey": lambda lab: lab.valkey.processes()[0],
           "broker": lambda lab: lab.broker.processes()[0], "postgres": lambda lab: lab.postgres.postmaster()}


@pytest.mark.parametrize("name", VICTIMS)
def test_each_part_that_is_killed_comes_back(running, name):
    stack, url, lab, _ = running
    victim = VICTIMS[name](lab)
    victim.kill()
    def back():
        with suppress(StopIteration, IndexError, AttributeError, psutil.Error):
            return (p := VICTIMS[name](lab)).pid != victim.pid and runs(p)
    until(back, 60, f"another {name}")
    until(lambda: status(url) == 200, 60, "a service that is ready")
    assert stack.poll() is None
    assert done(url, 10 + list(VICTIMS).index(name)) == "done"


def test_another_version_takes_over_and_no_request_fails(running):
    stack, url, lab, _ = running
    before, ended, seen = api(lab).pid, threading.Event(), []
    def ask():
        while not ended.is_set(): seen.append(status(url, "/api/tracks/1"))
    asker = threading.Thread(target=ask)
    asker.start()
    try: done = request_deploy(lab)
    finally: ended.set(), asker.join(30)
    assert set(seen) == {200} and len(seen) > 10 and done["ready_s"] <= done["gone_s"]
    assert api(lab).pid != before and status(url) == 200 and stack.poll() is None


def test_without_a_stack_there_is_nothing_to_deploy(tmp_path):
    with pytest.raises(LabError, match="no stack runs"): request_deploy(Lab(tmp_path))


def test_a_like_is_counted_and_leads_to_recommendations(running):
    _, url, lab, _ = running
    ask = lambda path: httpx.get(url + path, timeout=10)
    for who in (7, 8):                                                  # the second one after the pipeline was killed
        httpx.put(f"{url}/api/listeners/{who}", timeout=10)
        like = {"event_id": f"tap-{who}", "user_id": who, "action": "like", "track_id": 42}
        assert [httpx.post(f"{url}/api/track_action", json=like, timeout=10).status_code for _ in range(2)] == [200, 200]
        found = lambda w=who: ask(f"/api/listeners/{w}/recommendations")
        kept = until(lambda: (r := found()).status_code == 200 and r.json(), 60, "a recommendation")  # noqa: B023 (called at once)
        assert kept["event_id"] == like["event_id"] and kept["hits"] and 42 not in {h["track_id"] for h in kept["hits"]}
        until(lambda w=who: ask("/api/tracks/42/counts").json()["counts"]["like"] == w - 6, 30, "a like that is counted")
        if who == 7: events(lab).kill()


def test_while_the_database_is_away_the_service_says_so_at_once(running):
    _, url, lab, _ = running
    master = lab.postgres.postmaster()
    with lab._starting():                                               # nobody may start it now, the supervisor neither
        master.kill()
        until(lambda: not runs(master), 60)
        said = []
        for i in range(12):
            r = httpx.get(f"{url}/api/tracks/search?q=away{i}", timeout=5)
            said.append((r.status_code, int(r.headers.get("retry-after", 0)) > 0, {"error", "hint", "type"} <= set(r.json())))
        assert said == [(503, True, True)] * 12 and status(url, "/health/live") == 200
    until(lambda: status(url) == 200, 60, "a service that is ready")
    assert httpx.get(f"{url}/api/tracks/search?q=lantern", timeout=5).status_code == 200


def test_restarts_are_counted(running):
    _, url, _, _ = running
    text = httpx.get(f"{url}/metrics").text
    found = re.search(r'rap_restarts_total\{child="postgres"\} ([\d.]+)', text)
    assert found and float(found[1]) >= 1, text


def test_ctrl_c_ends_all_of_it_in_order(home):
    with stack(home, 1) as (p, url):
        crew = [c for c in psutil.Process(p.pid).children(recursive=True) if not c.name().startswith(("postgres", "valkey"))]
        assert len(crew) >= 2
        p.send_signal(signal.SIGINT)
        p.send_signal(signal.SIGINT)                                    # an impatient second one changes nothing
        assert p.wait(60) == 130
        assert not [c for c in crew if runs(c)] and status(url, "/health/live") is None
        until(lambda: not family(home), 20, "an empty home")


@pytest.mark.parametrize("before", ["kill the database", "kill a worker and the service"])
def test_lab_down_from_elsewhere_ends_it_soon_whatever_died_before(home, before):
    with stack(home, 1) as (p, _):
        lab = Lab(home)
        if before == "kill the database": lab.postgres.postmaster().kill()
        if before == "kill a worker and the service": worker(lab).kill(), api(lab).kill()
        down = begin(home, "lab", "down")
        said, _ = down.communicate(timeout=60)
        assert (down.returncode, said.splitlines()[-1]) == (0, "stopped"), said
        assert p.wait(5) == 143
        until(lambda: not family(home), 20, "an empty home")


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_lab_down_ends_what_a_stack_does_not_end_itself(home, monkeypatch, how):
    with stack(home, 1) as (p, _):
        os.kill(p.pid, how)
        monkeypatch.setenv("RAP_LAB_HOME", str(home))
        settings.cache_clear()
        monkeypatch.setattr(Lab._end_keepers, "__defaults__", (2,))     # it is not given half a minute here
        stop_lab()
        assert p.wait(10) == -signal.SIGKILL
        until(lambda: not family(home), 20, "an empty home")


def test_a_note_of_a_process_that_is_gone_is_no_process(home):
    lab = Lab(home)
    (lab.dir / "keepers").mkdir(exist_ok=True)
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (lab.dir / "keepers" / str(sleeper.pid)).write_text("12345.0")   # the number is another process's now
        (lab.dir / "keepers" / "999999999").write_text("1.0")
        lab.down()
        assert sleeper.poll() is None and not (lab.dir / "keepers" / str(sleeper.pid)).exists()
    finally: sleeper.kill(), sleeper.wait()


def test_a_port_that_is_taken_is_said_before_anything_starts(home):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)), s.listen()
        p = begin(home, "stack", "--port", str(s.getsockname()[1]))
        said, _ = p.communicate(timeout=60)
    assert p.returncode == 1 and "set RAP_API_PORT" in said and not family(home)


def test_the_crew_has_a_worker_for_those_who_wait(home):
    names = [[c.name for c in members(Store(Lab(home)), 1, n)][4:] for n in (1, 2, 3)]
    assert names == [[*crew, "events"] for crew in (["worker-any"], ["worker-interactive", "worker-any"],
                                                    ["worker-interactive", "worker-any", "worker-any-2"])]
