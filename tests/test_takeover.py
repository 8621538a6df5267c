"""The drill of a primary that hangs: the ways out, the wrong one, and the end at any moment; a real pair of servers."""

import subprocess
import sys
import time

import psutil
import pytest
from helpers import learners_store

import rap_analyzer.serve.commands  # noqa: F401 (it offers the drills)
from rap_analyzer.core import LabError
from rap_analyzer.search import drill
from rap_analyzer.serve import drills, outages, takeover

@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    "A learner's lab with servers of its own."
    with learners_store(tmp_path_factory.mktemp("takeover")) as store: yield store


@pytest.fixture
def frozen(ill):
    "The drill, begun; whatever a test did, nothing of it is left."
    r = drill.start("primary-dies", ill)
    nodes, token = takeover.nodes_of(ill.lab), r.facts["token"]
    yield r
    if drill.opened(ill.lab): drill.stop(ill)
    assert not drills.find_processes(token) and not [p for n in nodes for p in n.processes()]
    assert not any(f.exists() for f in takeover.folders_of(ill.lab, token)) and not outages.visits_file(ill.lab, token).exists()


def passes(store, wait_s=60):
    "Check until the drill is passed."
    end = time.monotonic() + wait_s
    while (r := drill.check(store)).state != "passed":
        assert time.monotonic() < end, r
        time.sleep(.5)
    return r


def pair(*words):
    "What an operator types."
    return subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "pair", *words], capture_output=True, text=True, timeout=60)


def test_fence_then_promote_keeps_every_promise(ill, frozen):
    assert frozen.off == ["accepted", "kept", "primaries"] and takeover.show_pair(ill.lab) == {"a": "no answer", "b": "replica"}
    said = pair("fence", "a")
    assert said.returncode == 0 and "a  fenced" in said.stdout, said.stderr
    said = pair("promote", "b")
    assert said.returncode == 0 and "b  takes writes" in said.stdout, said.stderr
    said = pair("rejoin", "a")
    assert said.returncode == 0 and "a  replica" in said.stdout, said.stderr
    r = passes(ill)
    assert r.now["kept"][1] == 1 and r.now["without"][1] > 0


def test_a_hasty_promotion_makes_two_primaries_and_a_fence_ends_it(ill, frozen):
    a, b = takeover.nodes_of(ill.lab)
    b.promote()
    drills.until(lambda: len(takeover.primaries(ill.lab)) == 2, "the end of the hang", 30)
    r = drill.check(ill)
    assert {"accepted", "primaries"} <= set(r.off) and drill.opened(ill.lab)
    with pytest.raises(LabError, match="not fenced"): takeover.rejoin_node(ill.lab, "a")
    takeover.fence_node(ill.lab, "a")
    with pytest.raises(LabError, match="is fenced and does not start"): a.start()
    assert passes(ill).now["primaries"][1] == 1


def test_a_restart_of_the_primary_is_a_way_out_too(ill, frozen):
    a, _ = takeover.nodes_of(ill.lab)
    for p in a.processes(): p.kill()
    psutil.wait_procs(a.processes(), 10)
    said = pair("start", "a")
    assert said.returncode == 0, said.stderr
    assert passes(ill).now["kept"][1] == 1


def test_stop_ends_a_pair_that_still_hangs(ill, frozen):
    r = drill.stop(ill)
    assert r.state == "stopped" and r.off == []
    said = pair("show")
    assert said.returncode and "no drill with two servers" in said.stderr


def test_a_killed_start_can_be_stopped(ill):
    start = "import sys, rap_analyzer.serve.commands; from rap_analyzer.search.drill import start; start('primary-dies')"
    child = subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not ((r := drill.opened(ill.lab)) and takeover.folders_of(ill.lab, r.facts["token"])[0].exists()):
        assert time.monotonic() < end and child.poll() is None
        time.sleep(.02)
    time.sleep(1)                                                 # somewhere between its first file and its last
    child.kill()
    child.wait(10)
    drill.stop(ill)
    token = r.facts["token"]
    assert not drills.find_processes(token) and not takeover.folders_of(ill.lab, token)[0].exists()


def test_no_node_but_a_and_b(ill, frozen):
    with pytest.raises(ValueError, match="expected a or b"): takeover.pick(ill.lab, "c")
