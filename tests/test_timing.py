"Timing: members take turns, budgets hold, and what only starts work is refused."
import functools
import time
import warnings

import numpy as np
import pytest

from rap_analyzer import ledger, runs, stats, timing
from rap_analyzer.core import LabError

def comparison(home, **samples):
    "A comparison of given samples, recorded like measured ones."
    kept = {k: runs.save_run(f"t.{k}", v, "ms", None, None, {}, len(v), home) for k, v in samples.items()}
    return timing.Comparison("t", kept)


def test_members_take_turns_in_mirrored_rounds(tmp_path):
    calls = []
    members = {name: functools.partial(calls.append, name) for name in ("a", "b", "c")}
    cmp = ledger.measure("t", members, n=10, warmup=2, home=tmp_path)
    rounds = [tuple(calls[i:i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == timing.schedule(["a", "b", "c"], 2) + timing.schedule(["a", "b", "c"], 10)
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert all(first == second[::-1] for first, second in zip(rounds[2::2], rounds[3::2], strict=True))
    assert len({turn for turn in rounds}) > 2, "neighbours never change"
    assert cmp.n == 10 and {r.n for r in cmp.runs.values()} == {10}


def test_a_steady_drift_cancels(tmp_path):
    clock = {"now": 1.0}
    took = {"a": [], "b": []}
    for turn in timing.schedule(["a", "b"], 30):
        for name in turn:
            took[name].append(clock["now"])
            clock["now"] += 1
    ratio = comparison(tmp_path, **took).ratio("b", "a")
    assert ratio.low <= 1 <= ratio.high and ratio.value == pytest.approx(1, abs=.02)
    assert np.mean(took["a"]) == np.mean(took["b"])


def test_round_number_is_given_to_functions_of_one_parameter(tmp_path):
    got = []
    ledger.measure("t.i", got.append, n=4, warmup=2, home=tmp_path)
    assert got == [0, 1, 0, 1, 2, 3]
    got.clear()
    ledger.measure("t.i", lambda q=5: got.append(q), n=2, warmup=0, home=tmp_path)
    assert got == [5, 5]
    got.clear()
    ledger.measure("t.i", got.append, n=1, warmup=3, home=tmp_path)
    assert got == [0, 0, 0, 0], "warm-up stays inside range(n)"
    for wrong in (lambda a, b: 1, lambda *, k: 1):
        with pytest.raises(ValueError, match="round number"): ledger.measure("t.i", wrong, home=tmp_path)


def test_budget_stops_after_a_whole_round(tmp_path):
    start = time.perf_counter()
    members = {"a": lambda: time.sleep(.01), "b": lambda: time.sleep(.01)}
    cmp = ledger.measure("t", members, n=10_000, warmup=0, budget_s=.3, home=tmp_path)
    assert time.perf_counter() - start < 5
    assert 1 <= cmp.a.n == cmp.b.n < cmp.a.asked == 10_000
    assert "budget ran out" in repr(cmp.a)
    assert ledger.measure("t.none", lambda: 1, budget_s=0, home=tmp_path).n == 1, "one round, whatever the budget"


def test_what_only_starts_work_is_refused_and_nothing_is_recorded(tmp_path):
    async def answer(): return 1

    def rows(): yield 1
    for lazy, word in [(answer, "coroutine"), (rows, "generator"), (lambda: rows(), "generator")]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(LabError, match=word): ledger.measure("t.lazy", lazy, warmup=0, home=tmp_path)
    with pytest.raises(ZeroDivisionError): ledger.measure("t.bad", {"a": lambda: 1, "b": lambda: 1 / 0}, home=tmp_path)
    assert runs.list_keys(tmp_path) == []


def test_times_are_times(tmp_path):
    run = ledger.measure("t.sleep", lambda: time.sleep(.02), n=6, home=tmp_path)
    assert 19 <= run.min <= run.p50 < 500 and run.unit == "ms"
    assert .019 <= ledger.measure("t.s", lambda: time.sleep(.02), n=3, unit="s", home=tmp_path).min < .5


@pytest.mark.parametrize("bad", [{"n": 0}, {"warmup": -1}, {"unit": "minutes"}])
def test_bad_arguments_are_named(tmp_path, bad):
    with pytest.raises(ValueError, match="expected"): ledger.measure("t.x", lambda: 1, home=tmp_path, **bad)


@pytest.mark.parametrize("name", ["ratio", "plot", "runs", "Upper", "a.b", "", "_a"])
def test_member_names_that_could_not_be_read_back(tmp_path, name):
    with pytest.raises(ValueError, match="member"): ledger.measure("t", {name: lambda: 1}, home=tmp_path)


def test_the_collector_is_left_as_it_was():
    import gc
    before = gc.isenabled(), gc.get_freeze_count()
    with pytest.raises(KeyError), timing._frozen_heap():
        assert gc.get_freeze_count() > 0
        raise KeyError
    assert (gc.isenabled(), gc.get_freeze_count()) == before


def test_aa_interval_holds_one_and_ab_interval_does_not(tmp_path):
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(1_000):
        a, b = draw.lognormal(sigma=.3, size=(2, 30))
        low, high = stats.median_interval(a / b)
        held += low <= 1 <= high
    assert 940 <= held < 1_000, "an exact 95 % interval that is not vacuous"
    a, b = draw.lognormal(sigma=.1, size=(2, 30))
    twice = comparison(tmp_path, a=2 * a, b=b).ratio("a", "b")
    assert twice.decided and twice.low < 2 < twice.high and twice.low > 1
    assert not comparison(tmp_path, a=a, b=a[::-1]).ratio("a", "b").decided


def test_a_real_aa_comparison(tmp_path):
    def work(): return sum(range(20_000))
    ratio = ledger.measure("t.aa", {"a": work, "b": work}, n=40, home=tmp_path).ratio("a", "b")
    assert ratio.low <= ratio.value <= ratio.high
    assert .7 < ratio.value < 1.4
    assert f"{ratio:.1f}" == f"{ratio.value:.1f}" and float(ratio) == ratio.value


def test_thinning_keeps_statistics_pairs_and_order(tmp_path):
    a = np.arange(1, 5_001, dtype=float)
    cmp = comparison(tmp_path, a=3 * a, b=a)
    assert len(cmp.a.samples) == stats.MAX_SAMPLES and cmp.a.n == 5_000 and cmp.a.p50 == np.median(3 * a)
    assert list(cmp.b.samples) == sorted(cmp.b.samples) and cmp.b.samples[-1] == 5_000
    assert cmp.ratio("a", "b").low == pytest.approx(3) and cmp.ratio("a", "b").n == 5_000


def test_a_comparison_shows_itself(tmp_path):
    cmp = comparison(tmp_path, slow=[2.0] * 20, fast=[1.0] * 20)
    assert "| slow | 2 | 2 | 0 | 20 | 2 (2 to 2) |" in cmp._repr_markdown_()
    assert "<th scope=\"row\">fast</th>" in cmp._repr_html_() and "slow" in repr(cmp)
    assert "<img alt=" in cmp.plot()._repr_html_()
    with pytest.raises(AttributeError, match="slow, fast"): cmp.medium  # noqa: B018
