"""Drills of servers that die and do not start again, judged by a client with a list of its own; real servers."""

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
from rap_analyzer.serve import drills, outages

NAMES = ["valkey-dies", "database-dies"]


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    "A learner's lab with servers of its own."
    with learners_store(tmp_path_factory.mktemp("outages")) as store: yield store


@pytest.fixture(autouse=True)
def nothing_left(ill):
    "Whatever a test did, the next one finds no drill."
    yield
    if drill.opened(ill.lab): drill.stop(ill)


def away(lab, name): return not lab.broker.processes() if name == "valkey-dies" else not lab.postgres.postmaster()


def start_server(lab, name): return lab.start_broker() if name == "valkey-dies" else lab.up()


def move_file_away(lab):
    "The queue begins with nothing: PostgreSQL knows what is owed."
    folder = lab.broker.folder / "appendonlydir"
    folder.rename(folder.with_name(f"unreadable-{time.time_ns()}"))


def correct_line(lab):
    "What the operator meant to write."
    file = lab.postgres.folder / "postgresql.conf"
    file.write_text(file.read_text().replace("64 MBytes", "64MB"))


REPAIRS = {"valkey-dies": move_file_away, "database-dies": correct_line}


@pytest.mark.parametrize("name", NAMES)
def test_a_check_starts_nothing_and_the_repair_passes(ill, name):
    r = drill.start(name, ill)
    assert r.state == "open" and away(ill.lab, name)
    expected = {"valkey-dies": {"age"}, "database-dies": {"accepted", "kept"}}[name]
    assert expected <= set(r.off) and (r.broken["accepted"][1] == 1) == (name == "valkey-dies")
    for words, answer in ((("check",), ""), (("start", "random"), "a drill is open")):  # as a learner types it: nothing is started
        command = [sys.executable, "-m", "rap_analyzer.cli", "drill", *words]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert said.returncode == 1 and answer in said.stderr and away(ill.lab, name), said
    with pytest.raises(LabError, match="did not start"): start_server(ill.lab, name)
    assert set(drill.check(ill).off) & expected and away(ill.lab, name)
    REPAIRS[name](ill.lab)
    start_server(ill.lab, name)
    end = time.monotonic() + 60
    while (r := drill.check(ill)).state != "passed":
        assert time.monotonic() < end, r
        time.sleep(.5)
    assert r.now["kept"][1] == 1 and r.now["without"][1] > 0 and drill.opened(ill.lab) is None
    assert not ill.query(Query("SELECT id FROM jobs", ()))


def test_what_is_deleted_to_look_well_stays_lost(ill):
    r = drill.start("valkey-dies", ill)
    ill.query(Query("DELETE FROM jobs WHERE state = 'waiting' RETURNING id", ()))
    move_file_away(ill.lab)
    ill.lab.start_broker()
    time.sleep(1)
    assert "kept" in drill.check(ill).off and drill.opened(ill.lab)
    mark = r.facts["token"]
    assert drills.find_processes(mark)
    r = drill.stop(ill)
    assert r.state == "stopped" and r.off == [] and not drills.find_processes(mark)
    assert not outages.visits_file(ill.lab, mark).exists()


def test_stop_brings_the_database_back_as_it_was(ill):
    before = (ill.lab.postgres.folder / "postgresql.conf").read_bytes()
    drill.start("database-dies", ill)
    r = drill.stop(ill)
    assert r.state == "stopped" and any("work_mem" in what for what in r.put_back) and not away(ill.lab, "database-dies")
    assert (ill.lab.postgres.folder / "postgresql.conf").read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_start_can_be_stopped(ill, name):
    start = "import sys, rap_analyzer.serve.commands; from rap_analyzer.search.drill import start; start(sys.argv[1])"
    child = subprocess.Popen([sys.executable, "-c", start, name], stdin=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not ((r := drill.opened(ill.lab)) and away(ill.lab, name)):
        assert time.monotonic() < end and child.poll() is None
        time.sleep(.02)
    child.kill()
    child.wait(10)
    drill.stop(ill)
    assert not away(ill.lab, name) and not drills.find_processes(r.facts["token"]) and drill.opened(ill.lab) is None


def test_servers_of_somebody_else_are_not_killed(ill, monkeypatch):
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(LabError, match="the lab's own servers"): drill.start("valkey-dies", ill)
    monkeypatch.delenv("BROKER_URL")
    assert os.environ.get("BROKER_URL") is None and drill.opened(ill.lab) is None


def test_they_are_offered_beside_the_others(): assert {*NAMES} <= set(faults.all_faults())
