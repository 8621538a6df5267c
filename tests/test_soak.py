"The proofs that are too long for every run, in their small form; what they record; and that each of them can fail."
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import _latency
import _mixed
import _neighbour
import _overload
import _soak
from _mixed import Asked, Outage

from rap_analyzer.core import LabError, settings
from rap_analyzer.serve.stage import SERVERS

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A lab of its own."
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    for name in SERVERS: monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    return tmp_path


@pytest.mark.alone
def test_no_request_fails_outside_of_an_outage_and_no_accepted_job_is_lost(home):
    found = _mixed.mixed(seconds=12, every_s=2, seed=3)
    assert (found["lost"], found["doubled"]) == (0, 0) and found["accepted"] > 20
    assert not found["outside"], found["outside"]
    assert len({o.part for o in found["outages"]}) >= 2 and all(found["asked"][what] > 5 for what in (*_mixed.READS, "accept"))


@pytest.mark.alone
def test_two_lines_differ_by_the_delay_alone(home, monkeypatch):
    monkeypatch.setattr(_latency, "PLANNED", 120)
    found = _latency.latency(1, 8_640, seed=5, listeners=240)
    assert 150 < found["pages_apart_ms"] < 300 and (found["unsent"], found["failed_pages"]) == (0, 0)
    assert min(found["sessions"]) > 40 and found["planned"]["listeners_per_group"] > 100
    assert found["low"] < found["effect"] < found["high"] and found["held"] == (found["high"] < 0)


def test_the_deviation_of_a_ratio_is_that_of_many_samples():
    rng = np.random.default_rng(3)
    b = rng.poisson(5, 2_000) + 1
    a = rng.binomial(b, rng.beta(2, 8, 2_000)).astype(float)                     # listeners differ, so their sessions are alike
    r, deviation = _latency.ratio(a, b.astype(float))
    assert r == pytest.approx(a.sum() / b.sum())
    resampled = [_latency.ratio(a[w], b[w])[0] for w in rng.integers(2_000, size=(400, 2_000))]
    assert deviation / 2_000 ** .5 == pytest.approx(np.std(resampled), rel=.15)


@pytest.mark.alone
def test_too_many_requests_are_refused_and_the_others_are_answered(home):
    found = _overload.overload(seconds=3, times=3, capacity=350, tracks=300)  # no core answers 1,050 such requests a second
    for run in (found["settling"], found["overload"], found["after"]):
        assert run["failed"] == 0 < run["admitted"] and run["admitted"] + run["refused"] == run["asked"]
    assert found["overload"]["refused"] > found["overload"]["asked"] / 10


@pytest.mark.alone
def test_a_loud_tenant_is_cut_to_its_quota_and_the_others_get_all_their_answers(home):
    found = _neighbour.neighbour(seconds=3, quota=20, tenants=4, tracks=40, slices=1, seed=3)
    assert set(found["wrong"]) <= {503} and min(found["requests"].values()) > 10          # 503: a core that others have taken away
    assert 0 < found["loud"][200] <= found["may_pass"] and found["loud"][429] > found["requests"]["loud"] / 10


# ---- each can fail

@pytest.mark.parametrize("began, ended, excused", [
    (1, 2, False), (9, 10, True), (9, 15, True), (11, 12, True), (20, 21, True), (21, 22, False)])
def test_only_a_request_that_overlaps_an_outage_is_excused(began, ended, excused):
    asked = [Asked("similar", began, ended, 503), Asked("job", began, ended, 200)]
    assert (_mixed.outside(asked, [Outage("api", 10, 20, 1.0)]) == []) == excused


def test_an_error_is_placed_among_the_outages():
    outages = [Outage("api", 10, 20, 1.0), Outage("cache", 30, 31, 1.0)]
    assert [_mixed.place(Asked("job", t, t + 1, 503), outages) for t in (5, 24, 33)] == [
        "job 503, before the first", "job 503, 4 s after the api", "job 503, 2 s after the cache"]


OVERLOAD = {"capacity": 100.0, "bound_ms": 500, "overload": {"goodput": 80.0, "p95_admitted_ms": 500.0, "failed": 0}}


@pytest.mark.parametrize("change, verdict", [({}, True), ({"goodput": 79.9}, False), ({"p95_admitted_ms": 501.0}, False),
                                             ({"failed": 1}, False)])
def test_the_overload_proof_fails_for_each_promise(change, verdict):
    assert _overload.held(OVERLOAD | {"overload": OVERLOAD["overload"] | change}) == verdict


NEIGHBOUR = {"ratio": 1.5, "wrong": {}, "loud": {200: 90, 429: 910}, "may_pass": 90}


@pytest.mark.parametrize("change, verdict", [
    ({}, True), ({"ratio": 1.51}, False), ({"wrong": {503: 1}}, False), ({"may_pass": 89}, False), ({"loud": {200: 80}}, False),
    ({"loud": {429: 990}}, False), ({"loud": {200: 80, 429: 900, 0: 1}}, False), ({"loud": {200: 60, 429: 40}}, False)])
def test_the_proof_of_neighbours_fails_for_each_promise(change, verdict): assert _neighbour.held(NEIGHBOUR | change) == verdict


@pytest.mark.parametrize("late_s, late", [(.1, False), (.6, True)])
def test_callers_that_were_late_have_measured_themselves(late_s, late):
    one = [(2.0, 200, 0.0)] * 30
    found = _neighbour.tell({"alone": one, "beside": [(4.0, 200, late_s)] * 30, "loud": [(1.0, 429, 0.0)]}, 10, 3)
    assert (found["ratio"], found["late"], found["wrong"], found["loud"]) == (2, late, {}, {429: 1})
    with pytest.raises(LabError, match="were late") if late else nullcontext(): _neighbour.check_late(found)


MIXED = {"lost": 0, "doubled": 0, "accepted": 9, "asked": {"job": 1}, "failed": 1, "outside": [],
         "outages": [Outage(part, 0, 1, 1.0) for part in _mixed.PARTS]}
JOBS = {"accepted": 9, "lost": 0, "doubled": 0, "recovery_s": {part: [1.0] for part in _mixed.KILLS}}


@pytest.mark.parametrize("name, change, verdict", [
    ("mixed", {}, "held"), ("mixed", {"lost": 1}, "failed"), ("mixed", {"doubled": 1}, "failed"),
    ("mixed", {"outside": [Asked("job", 5, 6, 503)]}, "failed"), ("mixed", {"outages": MIXED["outages"][1:]}, "failed"),
    ("mixed", {"outages": [o._replace(recovery_s=10.1) for o in MIXED["outages"]]}, "failed"),
    ("jobs", {}, "held"), ("jobs", {"lost": 1}, "failed"), ("jobs", {"doubled": 1}, "failed"), ("jobs", {"accepted": 8}, "failed"),
    ("jobs", {"recovery_s": JOBS["recovery_s"] | {"worker": [8.1]}}, "failed")])
def test_a_proof_is_recorded_and_its_exit_code_is_its_verdict(home, monkeypatch, capsys, name, change, verdict):
    monkeypatch.setattr(_mixed, "mixed", lambda **how: MIXED | change)
    monkeypatch.setattr(_soak, "storm", lambda **how: JOBS | change)
    monkeypatch.setattr(sys, "argv", ["soak", name, "--jobs", "9", "--seconds", "1"])
    assert _soak.main() == (verdict != "held")
    said = json.loads(capsys.readouterr().out)
    (record,) = [r for r in _soak.records() if r["name"] == name]
    assert said["verdict"] == record["verdict"] == verdict and said["sources"] and record["commit"] == said["commit"]


def test_a_record_of_another_source_is_stale_and_says_so(home, monkeypatch, tmp_path):
    assert {r["record"] for r in _soak.records()} == {"none"} and "not recorded" in _soak.report(_soak.records())
    monkeypatch.setattr(_soak, "storm", lambda **how: JOBS)
    monkeypatch.setattr(sys, "argv", ["soak", "jobs", "--jobs", "9"])
    assert _soak.main() == 0 and _soak.records()[0]["record"] == "fresh" and "STALE" not in _soak.report(_soak.records())
    package = tmp_path / "copy" / "rap_analyzer" / "serve"
    package.mkdir(parents=True)
    (tmp_path / "copy" / "requirements.lock").write_text("")
    (package / "queue.py").write_text("A = 1")
    before = _soak.sources(tmp_path / "copy")
    (package / "queue.py").write_text("A = 2")
    assert _soak.sources(tmp_path / "copy") != before
    monkeypatch.setattr(_soak, "sources", lambda: before)
    assert _soak.records()[0]["record"] == "stale" and "STALE" in _soak.report(_soak.records())
