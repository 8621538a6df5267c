"""The boundaries of the exercises on logs, alerts and bottlenecks: what has to pass with every draw, and what must not."""

import random

import pytest

from rap_analyzer.learn.task import exercise, space_of

SEEDS = range(12)


@pytest.fixture(scope="module")
def alert():
    "What the checker of 31.14 defines, and `share` of its story."
    ex, given = exercise("31.14"), {}
    for code in ex.given: exec(code, given)
    return space_of(ex.checker), given["share"]


def found(alert, seed, long, short, burn):
    "The misconceptions that one alert of two windows shows."
    own, share = alert
    def red(bad, total):
        return [a > burn and b > burn for a, b in zip(share(bad, total, long), share(bad, total, short), strict=True)]
    got = [red(*args) for _, _, args in own["asks"](random.Random(seed))]
    return {c.belief for c in own["judge"](got, random.Random(seed), {}) if not c.ok}


@pytest.mark.parametrize("windows", [(60, 5), (60, 10), (50, 8)])
def test_two_windows_pass_with_every_draw(alert, windows):
    assert [found(alert, seed, *windows, .0144) for seed in SEEDS] == [set()] * len(SEEDS)


@pytest.mark.parametrize("minutes", [1, 5, 10, 12, 14, 20, 30, 60, 1_440])
@pytest.mark.parametrize("share", [.001, .0144, .03, .037])
def test_no_single_window_passes(alert, minutes, share):
    assert all(found(alert, seed, minutes, minutes, share) for seed in (1, 2))


@pytest.mark.parametrize("name", ["31.13", "31.15"])
def test_the_wrong_answers_differ_in_the_fixed_questions(name):
    own = space_of(exercise(name).checker)
    for belief, rival in own["rivals"]:
        assert any(abs(rival(*case) - own["truth"](*case)) > 1e-6 for case in own["cases"]), belief


def test_a_remedy_elsewhere_changes_nothing():
    own = space_of(exercise("31.15").checker)
    parts, cores = own["ONE"], own["AB"]
    before = own["rate"](parts, cores)
    assert own["truth"](parts, cores, {"part": "service", "faster": 4}) == before
    assert own["truth"](parts, cores, {"part": "database", "workers": 1}) == before                 # its core is full
    assert own["truth"](parts, {"A": 1, "B": 2}, {"part": "database", "workers": 1}) > before


def test_in_flight_is_what_a_clock_counts():
    "The sum over a log is the average over moments: cut a drawn log at many of them."
    own, rng = space_of(exercise("31.13").checker), random.Random(4)
    for _ in range(20):
        log = own["drawn_log"](rng, 12)
        seconds = max(ended for *_, ended in log) + 2
        moments = [seconds * (i + .5) / 20_000 for i in range(20_000)]
        counted = sum(sum(a <= t < e for a, _, e in log) for t in moments) / len(moments)
        assert abs(counted - own["truth"](log, seconds)) < .01
