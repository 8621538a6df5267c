"""Drift: a distance that does not grow with the rows, and expectations of incoming data."""
import numpy as np
import pytest

from rap_analyzer.serve.drift import Expectation, check_quality, compare_samples, stability_index
from rap_analyzer.serve.metrics import Metrics
from rap_analyzer.serve.watch import Watch, compare_windows

@pytest.mark.parametrize("n", [500, 5_000, 200_000])
def test_the_distance_of_a_shift_does_not_grow_with_the_rows(n):
    rng = np.random.default_rng(n)
    found = compare_samples("x", rng.normal(0, 1, n), rng.normal(.5, 1, n))
    assert found.distance == pytest.approx(.197, abs=3 / n**.5)              # 2 * Phi(.25) - 1
    assert found.drifted and found.n == n


def test_a_small_sample_that_lies_elsewhere_by_chance_is_stable():
    a = np.arange(30.0)
    assert not compare_samples("x", a, a + 4).drifted


def test_stability_index():
    a = np.linspace(0, 1, 10_000)
    assert stability_index(a, a) == pytest.approx(0, abs=1e-9)
    moved = np.where(a < .1, a + .9, a)                                      # the lowest tenth has gone to the top
    assert stability_index(a, moved) == pytest.approx(.1 * np.log(2) + .1 * np.log(.1 / .00005), rel=.02)
    assert np.isfinite(stability_index(np.ones(50), np.arange(50.0)))


@pytest.mark.parametrize("bad", [[1.0] * 5, [float("nan")] * 40, [[1.0] * 40], [float("inf")] * 40])
def test_samples_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(ValueError, match="at least 20 finite"): compare_samples("x", [1.0] * 40, bad)


def test_quality():
    rules = [Expectation("id", missing=0, unique=True), Expectation("bpm", 40, 240), Expectation("mood")]
    rows = {"id": [1, 2, 2, None], "bpm": [90, 300, float("nan"), 80], "mood": ["calm", None, None, None]}
    found = {(b.column, b.what.split(",")[0].split(" of")[0]): b.share for b in check_quality(rows, rules)}
    assert found == {("id", "missing"): .25, ("id", "repeated"): .25, ("bpm", "missing"): .25, ("bpm", "outside"): .25,
                     ("mood", "missing"): .75}
    assert check_quality({"id": [1], "bpm": [90], "mood": ["calm"]}, rules) == []


# ---- the watch over what a model reads

@pytest.mark.parametrize("draw", [lambda rng, n: rng.beta(2, 5, n), lambda rng, n: (rng.random(n) < .05) * 1.0,
                                  lambda rng, n: np.where(rng.random(n) < .2, np.nan, rng.normal(0, 1, n)),
                                  lambda rng, n: rng.integers(0, 8, n) * 1.0])
def test_unchanged_traffic_rings_no_alarm_in_windows_of_any_size(draw):
    rng = np.random.default_rng(9)
    for n in (30, 60, 200, 1_000):
        found = [compare_windows("x", draw(rng, 500), draw(rng, n)) for _ in range(150)]
        assert sum(m.drifted for m in found) <= 2, (n, max(m.psi / m.limit for m in found))
        assert any(m.psi > 0 for m in found) and found[0].n == n


def test_what_has_changed_rings_and_the_small_window_has_to_wait():
    rng = np.random.default_rng(3)
    bpm, flag = rng.normal(110, 18, 700), (rng.random(700) < .05) * 1.0
    assert compare_windows("bpm", bpm[:500], bpm[500:560] / 2).drifted
    assert compare_windows("flag", flag[:500], 1 - flag[500:]).drifted                       # a rare value becomes the usual one
    assert compare_windows("gone", bpm[:500], [float("nan")] * 100).drifted
    assert compare_windows("fixed", np.ones(500), np.zeros(60)).drifted
    some = compare_windows("bpm", bpm[:500], bpm[500:530] + 9)
    assert .25 < some.psi < some.noise and not some.drifted                                 # large, and chance can do as much


def test_a_watch_compares_with_the_first_pages_of_the_same_model():
    metrics, rng = Metrics(), np.random.default_rng(4)
    watch = Watch(metrics, reference=100, current=50, every=10)
    page = lambda half=1: {"bpm": rng.normal(110, 18) * half, "hour": float(len(watch.latest)), "score": rng.random()}
    for _ in range(120): watch.note("ranker 1", page())
    assert watch.report() == []                                                             # twenty pages say nothing
    for _ in range(80): watch.note("ranker 1", page())
    assert watch.drifted() == [] and {m.name for m in watch.report()} == {"bpm", "score"}
    for _ in range(50): watch.note("ranker 1", page(.5))
    assert [m.name for m in watch.drifted()] == ["bpm"] and "drifted" in repr(watch.report()[0])
    seen = lambda name, feature: metrics.registry.get_sample_value(name, {"feature": feature})
    assert seen("rap_feature_psi", "bpm") > seen("rap_feature_psi_limit", "bpm") >= .25
    assert seen("rap_feature_psi", "score") < seen("rap_feature_psi_limit", "score") and seen("rap_feature_psi", "hour") is None
    watch.note("ranker 2", page())
    assert watch.report() == [] and len(watch.first) == 1
    assert np.isnan([seen(f"rap_feature_psi{end}", "bpm") for end in ("", "_limit")]).all()   # no alarm about the model before
    with pytest.raises(ValueError, match="at least 30"): Watch(reference=5)
