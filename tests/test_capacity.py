"""Capacity: the laws by themselves, and the real service in configurations of its own."""
import math
import sys
from pathlib import Path

import pytest

from rap_analyzer.core import LabError
from rap_analyzer.runs import list_runs
from rap_analyzer.serve import capacity, deployment
from rap_analyzer.serve.deployment import Configuration, Deployment, Measured, draw
from rap_analyzer.serve.queueing import Scalability, closed_throughput, fit_scalability

@pytest.mark.parametrize(("demands", "think", "n"), [([.01, .002], 0, 1), ([.01, .002], .05, 7), ([.003, .003, .003], .1, 40)])
def test_throughput_stays_within_the_asymptotic_bounds(demands, think, n):
    x, alone = closed_throughput(demands, n, think), 1 / (sum(demands) + think)
    assert alone <= x * (1 + 1e-12)
    assert x <= min(n * alone, 1 / max(demands)) * (1 + 1e-12)
    assert x <= closed_throughput(demands, n + 1, think)


def test_throughput_of_one_queue_is_that_of_the_machine_repairman():
    """One exponential server, n clients who think for a while: the chances of k waiting, written out."""
    demand, think, n = .02, .1, 6
    weights = [math.factorial(n) / math.factorial(n - k) * (demand / think) ** k for k in range(n + 1)]
    idle = weights[0] / sum(weights)
    assert closed_throughput([demand], n, think) == pytest.approx((1 - idle) / demand, rel=1e-12)


@pytest.mark.parametrize("true", [Scalability(500, .02, 0), Scalability(80, .3, .002), Scalability(1_000, 0, .0004)])
def test_a_scalability_curve_is_found_again(true):
    ns = [1, 2, 4, 8, 16, 32, 64]
    fitted = fit_scalability(ns, [true.throughput(n) for n in ns])
    for n in ns: assert fitted.throughput(n) == pytest.approx(true.throughput(n), rel=1e-3)


def bill(**ms): return {"service": 1.0, "database": 1.0, "cache": 0.0} | ms


def seen(**parts):
    """A calibration in which every dial adds something else."""
    costs = {"as it is": bill(), "1 in flight": bill(service=1.4), "4 in flight": bill(service=1.2),
             "64 in flight": bill(service=.9),
             "100 answers": bill(service=2.0, database=1.5), "no index": bill(database=21.0), "no RLS": bill(database=.8),
             "a miss": bill(service=1.5, cache=.2), "a hit": bill(service=.6, database=0.0, cache=.1),
             "a hit of 100": bill(service=.7, database=0.0, cache=.1)} | parts
    return {name: Measured(Configuration(**capacity.DIALS[name]), 1e3 / (sum(ms.values()) + .8), ms, .3, 0, 0.0)
            for name, ms in costs.items()}


def test_costs_add_up():
    cost = capacity.request_cost(seen(), Configuration(index=False, rls=False, cache=.75, k=55))
    assert cost["database"] == pytest.approx(.25 * (1 + 20 - .2 + .25))
    assert cost["service"] == pytest.approx(.25 * (1 + .5 + .5) + .75 * (.6 + .05))
    assert cost["cache"] == pytest.approx(.25 * .2 + .75 * .1)
    assert capacity.predict(Configuration(index=False), seen()).largest == "database"


def test_a_lone_request_waits_and_a_crowd_fills_the_core():
    lone, crowd = (capacity.predict(Configuration(in_flight=n), seen()) for n in (1, 64))
    assert lone.per_s == pytest.approx(seen()["1 in flight"].per_s, rel=1e-9)
    assert crowd.per_s == pytest.approx(1e3 / 1.9, rel=1e-3)
    by_crowd = [capacity.predict(Configuration(in_flight=n), seen()).per_s for n in (1, 2, 3, 4, 8, 16, 32, 64)]
    assert by_crowd == sorted(by_crowd)


def test_a_negative_cost_is_none():
    """Noise can make a dial seem to save more than there is."""
    cost = capacity.request_cost(seen(**{"no RLS": bill(database=-.5)}), Configuration(rls=False))
    assert cost["database"] == 0


def test_predict_wants_a_calibration(tmp_path, monkeypatch):
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    with pytest.raises(LabError, match="no calibration on record"): capacity.predict(Configuration())


@pytest.mark.parametrize("wrong", [{"cache": -.1}, {"cache": 2}, {"k": 0}, {"k": 901}, {"workers": 9}, {"in_flight": 0}])
def test_a_configuration_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"): Configuration(**wrong)


def test_drawn_configurations_are_new():
    known = [Configuration(), Configuration(k=100)]
    assert not set(draw(300, seed=1, without=known)) & set(known)
    assert draw(20, seed=1) != draw(20, seed=2)


def test_what_a_slow_core_measured_is_brought_to_the_standard_pace():
    """A core at half its speed: twice the processor time, half the answers. And the law of the closed loop keeps its form."""
    fast = {name: Measured(Configuration(**turned), 100.0 + 10 * i, {"service": 2.0 + i, "database": 1.0, "cache": .5}, .4, 0, 0.0)
            for i, (name, turned) in enumerate(capacity.DIALS.items())}
    slow = {name: Measured(m.configuration, m.per_s / 2, {part: 2 * ms for part, ms in m.demand_ms.items()}, .8, 0, 0.0)
            for name, m in fast.items()}
    assert {name: capacity.scale(m, 2.0) for name, m in slow.items()} == fast
    c = Configuration(cache=.6, k=50, in_flight=8)
    assert capacity.predict_throughput(slow, c).per_s == pytest.approx(capacity.predict_throughput(fast, c).per_s / 2)


@pytest.mark.alone
def test_a_service_that_cannot_start_says_why(small, monkeypatch):
    monkeypatch.setattr(deployment, "SERVICE", "raise SystemExit('no such thing')")
    with pytest.raises(LabError, match="no such thing"), Deployment(small, Configuration()): pass


def test_a_run_beside_a_busy_program_is_discarded(monkeypatch):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    import _capacity
    pace = capacity.Pace.__new__(capacity.Pace)
    pace.now = 1.5
    monkeypatch.setattr(capacity.Pace, "read", lambda _: 1.5)
    shares = iter([.5, .3, .02, .9])
    monkeypatch.setattr(_capacity, "measure", lambda *_: Measured(Configuration(), 9.0, {}, .1, 0, next(shares)))
    m, slower, discarded = _capacity.quiet(None, pace, Configuration(), 1)
    assert (m.others, slower, discarded) == (.02, 1.5, 2)
    shares = iter([.5, .3, .2, .4, .0])
    m, _, discarded = _capacity.quiet(None, pace, Configuration(), 1)
    assert (m.others, discarded) == (.2, _capacity.AGAIN)                   # never quiet: the best of four, and said so


@pytest.mark.alone
def test_the_proof_in_small(small, monkeypatch):
    """The whole way on the real service: calibrate, predict from the record, run. No core stays occupied."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    import _capacity
    before, kept = small.lab.postgres.postmaster().cpu_affinity(), []
    monkeypatch.setattr(_capacity, "calibrate", lambda *given: kept.append(capacity.calibrate(*given)) or kept[0])
    monkeypatch.setattr(_capacity, "default_store", lambda: small)
    monkeypatch.setattr(_capacity, "OTHERS", 1.0)
    found = _capacity.run_capacity(.2, 2, seed=3)                             # both with two workers, one with a cache
    assert len(found["rows"]) == 2 and found["tracks"] == small.count() and not any(r["refused"] for r in found["rows"])
    for r in found["rows"]:
        assert (1 + r["off"]) * r["pace"] == pytest.approx(1 + r["off_without_pace"], rel=.05)
        assert r["predicted"] > 0 and r["measured"] > 0
    assert found["held"] == (found["near"] >= _capacity.SHARE)
    (measured,) = kept
    assert set(measured) == set(capacity.DIALS) and {m.refused for m in measured.values()} == {0}
    assert measured["a hit"].demand_ms["database"] < measured["as it is"].demand_ms["database"] / 4
    assert capacity.read_calibration(list_runs("capacity.calibration")[-1]) == measured
    assert capacity.predict(Configuration(cache=.6, k=20, in_flight=8, workers=2)).per_s > 0
    assert small.lab.postgres.postmaster().cpu_affinity() == before
