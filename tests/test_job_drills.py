"""Drills of workers and queues, from what listeners say to the evidence that it is repaired; real servers and workers."""

import os
import subprocess
import sys
import time

import pytest
from helpers import learners_store

import rap_analyzer.serve.commands  # noqa: F401 (it offers the drills)
from rap_analyzer.core import LabError
from rap_analyzer.search import drill, faults
from rap_analyzer.search.sessions import Query
from rap_analyzer.serve import drills
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.queue import SWEEPER

@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    "A learner's lab with servers of its own."
    with learners_store(tmp_path_factory.mktemp("jobs")) as store: yield store


@pytest.fixture(autouse=True)
def nothing_left(ill):
    "Whatever a test did, the next one finds no drill."
    yield
    if drill.opened(ill.lab): drill.stop(ill)


def passes(store, wait_s=90):
    "Check until the drill is passed."
    end = time.monotonic() + wait_s
    while (r := drill.check(store)).state != "passed":
        assert time.monotonic() < end, r
        time.sleep(.5)
    return r


def token(store): return drill.opened(store.lab).facts["token"]


def change(store, sql):
    "What somebody types into `rap-analyzer sql`; how many rows it changed."
    return len(store.query(Query(f"{sql} RETURNING true", ())))


@pytest.fixture
def workers(ill):
    "Starts workers as an operator would; they are ended with the test."
    names = []
    def start(n):
        for _ in range(n):
            names.append(f"operator-{len(names)}-{os.getpid()}")
            subprocess.Popen([sys.executable, "-c", drills.WORKER, names[-1]], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    yield start
    for name in names: drills.kill(name)


def test_a_dead_worker_is_found_and_replaced(ill, workers):
    r = drill.start("worker-dies", ill)
    assert (r.state, r.off) == ("open", ["age", "done"])
    said = repr(r).lower()
    assert all(w not in said for w in ("worker", "queue", "kill", "dies", "cause")), said
    assert change(ill, "DELETE FROM jobs WHERE state = 'waiting'") > 3
    time.sleep(1.5)                                        # the listeners keep asking, so the gap shows
    assert "kept" in drill.check(ill).off and drill.opened(ill.lab)
    drill.stop(ill)
    drill.start("worker-dies", ill)
    assert drill.check(ill).off == ["age", "done"]          # it does not mend itself
    workers(1)
    r = passes(ill)
    assert r.off == [] and drill.opened(ill.lab) is None and faults.all_faults()["worker-dies"].cause not in repr(r)
    assert not (ill.lab.dir / "keep").exists()


@pytest.mark.parametrize("remedy", ["less work", "more workers"])
def test_a_queue_that_grows_is_brought_back(ill, workers, remedy):
    assert drill.start("queue-grows", ill).off == ["age", "done"]
    time.sleep(3)
    r = drill.check(ill)
    assert "age" in r.off and all(w not in repr(r).lower() for w in ("worker", "import", "queue"))
    if remedy == "more workers": workers(2)
    else:
        assert drills.kill(f"import-{token(ill)}") >= 1
        change(ill, "UPDATE jobs SET state = 'dead', ended_at = now() WHERE state = 'waiting' AND key LIKE 'import-%%'")
    r = passes(ill)
    left = any("import was still asking" in what for what in r.put_back)
    assert r.off == [] and left == (remedy == "more workers")


@pytest.mark.parametrize("name", ["worker-dies", "queue-grows"])
def test_stop_ends_everything_and_tells(ill, name):
    drill.start(name, ill)
    mark = token(ill)
    assert drills.find_processes(mark)
    r = drill.stop(ill)
    assert r.state == "stopped" and r.off == [] and faults.all_faults()[name].cause in repr(r) and r.put_back
    assert not drills.find_processes(mark) and not ill.query(Query("SELECT id FROM jobs", ()))
    with pytest.raises(LabError, match="no drill is open"): drill.check(ill)


def test_a_killed_start_leaves_a_way_back(ill):
    start = "import sys, rap_analyzer.serve.commands; from rap_analyzer.search.drill import start; start(sys.argv[1])"
    child = subprocess.Popen([sys.executable, "-c", start, "worker-dies"], stdin=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not ((r := drill.opened(ill.lab)) and drills.find_processes(r.facts["token"])):
        assert time.monotonic() < end and child.poll() is None
        time.sleep(.05)
    child.kill()
    child.wait(10)
    with pytest.raises(LabError, match="interrupted"): drill.check(ill)
    drill.stop(ill)
    assert not drills.find_processes(r.facts["token"]) and drill.opened(ill.lab) is None


def test_listeners_end_when_the_file_of_the_drill_is_gone(ill):
    drill.start("worker-dies", ill)
    mark, file = token(ill), faults.drill_file(ill.lab)
    away = file.rename(file.with_name("elsewhere.json"))
    end = time.monotonic() + 30
    while drills.find_processes(mark): assert time.monotonic() < end; time.sleep(.1)
    away.rename(file)


def test_no_drill_starts_where_jobs_wait_or_workers_run(ill):
    Jobs(ill).enqueue("nap", {"ms": 1}, "somebody's")
    with pytest.raises(LabError, match="jobs wait in this lab already"): drill.start("queue-grows", ill)
    assert drill.opened(ill.lab) is None
    change(ill, "DELETE FROM jobs")
    with ill.admin("rap_loader") as con:
        con.execute("SELECT pg_advisory_lock(%s)", [SWEEPER])            # as the sweeper of `rap-analyzer worker` holds it
        with pytest.raises(LabError, match="workers run in this lab already"): drill.start("worker-dies", ill)


def test_they_are_offered_beside_the_others(ill):
    assert {*faults.FAULTS, "worker-dies", "queue-grows"} <= set(faults.all_faults())
    said = subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "drill", "list"], capture_output=True, text=True, timeout=60)
    assert "queue-grows" in said.stdout and "worker-dies" in said.stdout, said.stderr
