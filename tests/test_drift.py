"""Drift: a distance that does not grow with the rows, and expectations of incoming data."""
import numpy as np
import pytest

from rap_analyzer.serve.drift import Expectation, check_quality, compare_samples, stability_index

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
