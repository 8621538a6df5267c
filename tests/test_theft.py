"""The drill of a stolen key: found and replaced without a failed request of the owner's, or not; real servers, real HTTP."""

import subprocess
import sys

import pytest
from helpers import learners_store, until

import rap_analyzer.platform.commands  # noqa: F401 (it offers the drill)
from rap_analyzer.platform import theft
from rap_analyzer.platform.keys import Keys
from rap_analyzer.search import drill
from rap_analyzer.search.sessions import Query
from rap_analyzer.serve import drills

@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    "A learner's lab with servers of its own."
    with learners_store(tmp_path_factory.mktemp("theft")) as store: yield store


@pytest.fixture
def leaked(ill):
    "The drill, begun; whatever a test did, nothing of it is left."
    r = drill.start("key-leaked", ill)
    yield r
    if drill.opened(ill.lab): drill.stop(ill)
    assert not drills.find_processes(r.facts["token"]) and not theft.team_folder(ill.lab).exists()
    assert not theft.calls_file(ill.lab, r.facts["token"]).exists()
    assert all(theft.ended_at(k) for k in Keys(theft.team_of(ill, r.facts)).list_all())


def test_make_hand_over_revoke(ill, leaked):
    assert leaked.off == ["thief"] and leaked.facts["stolen"] not in repr(leaked)
    team, name = theft.team_of(ill, leaked.facts), leaked.facts["stolen"]
    old = theft.first_keys(ill, leaked.facts)[name]
    key, new = Keys(team).rotate(old.id)
    theft.key_file(ill.lab, name).write_text(key[:20])                               # half written: the program keeps the old one
    theft.key_file(ill.lab, name).write_text(key)
    until(lambda: theft.last_used(ill.lab, leaked.facts["token"], name) == new.id)
    assert drill.check(ill).off == ["thief"]                                         # an overlap without an end helps the thief
    Keys(team).revoke(old.id)
    until(lambda: drill.check(ill).state == "passed", 60)
    r = drill.finished(ill.lab)[-1]
    assert r.put_back == [] and {n: r.now[n][1] for n in ("own", "failed", "innocent", "log")} == {
        "own": 1, "failed": 0, "innocent": 0, "log": 0}
    did = "SELECT count(*) FROM audit_entries WHERE actor = %s AND action = 'GET /api/export'"
    assert team.query(Query(did, (old.id,)))[0][0] >= r.now["exports"][1] > 0        # what the thief did is on record


def test_the_wrong_key_and_a_gap_are_never_made_good(ill, leaked):
    first, stolen = theft.first_keys(ill, leaked.facts), leaked.facts["stolen"]
    wrong = next(name for name in first if name != stolen)
    command = [sys.executable, "-m", "rap_analyzer.cli", "key", "revoke", first[wrong].id, "--tenant", leaked.facts["tenant"]]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    until(lambda: "failed" in drill.check(ill).off)
    Keys(theft.team_of(ill, leaked.facts)).revoke(first[stolen].id)
    until(lambda: "thief" not in drill.check(ill).off)
    r = drill.check(ill)
    assert {"own", "failed", "innocent"} <= set(r.off) and r.state == "open" and r.now["late"][1] <= theft.FRESH_S + theft.SLACK_S
    r = drill.stop(ill)
    assert r.state == "stopped" and r.off == [] and r.put_back == []
