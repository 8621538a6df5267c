"""Price tiers: visitors who choose, cancel and leave, tests by listener, and refusals that say what is wrong."""

import numpy as np
import pytest

from rap_analyzer.giants.artists import Week
from rap_analyzer.giants.prices import (
    HOPE,
    Subscription,
    Visitors,
    as_moments,
    count_processes,
    draw_visitors,
    observe_month,
    read_offers,
    read_price,
    run_experiment,
    run_months,
)
from rap_analyzer.product.analysis import SRM_ALARM, analyse
from rap_analyzer.product.audience import leave_chance

LISTS = {"control": ["3.99 EUR"], "dear": ["5.99 EUR"]}


@pytest.fixture(scope="module")
def month(): return observe_month(200, 3)


@pytest.fixture(scope="module")
def visitors(month): return draw_visitors(30_000, month, 1)


def alike(worth, n=20_000, sessions=10, mood=0.0):
    return Visitors(np.full(n, float(worth)), np.full(n, sessions), np.full(n, mood))


def test_worth_follows_what_a_listener_does_and_half_of_it_is_hidden(month, visitors):
    assert {*month.columns} == {"persona", "plays", "sessions", "mood"} and (month.plays > 0).all() and (month.sessions > 0).all()
    heavy = month[month.plays > month.plays.median()]
    light = month[month.plays <= month.plays.median()]
    shows = np.log(draw_visitors(20_000, month, 4).worth)
    rng = np.random.default_rng([4, 36])
    like = rng.integers(len(month), size=20_000)   # whom each visitor resembles
    assert shows[np.isin(month.index[like], heavy.index)].mean() > shows[np.isin(month.index[like], light.index)].mean() + .2
    means = np.bincount(like, shows, len(month)) / np.maximum(1, np.bincount(like, minlength=len(month)))
    explained = np.corrcoef(means[like], shows)[0, 1] ** 2
    assert .4 < explained < .6, "half of it shows"


def test_hope_sells_and_worth_keeps():
    between = run_months(alike(4), [Subscription(4 * (1 + HOPE) / 2)], 6)[0] > 0  # above the worth, below the hope
    bargain = run_months(alike(4), [Subscription(1.0)], 6)[0] > 0
    assert between[0].mean() > .7 and between[-1].mean() < .2 < between[0].mean() / 3
    assert bargain[0].mean() > .99 and bargain[-1].mean() > .7
    assert not (run_months(alike(4), [Subscription(40.0)], 6)[0]).any()


def test_who_is_disappointed_leaves_as_the_audience_does():
    for price, mood in ((.01, 0.0), (4.0, -.42)):                                     # a bad session leaves -.42 of a neutral mood
        _, here = run_months(alike(4 if price < 1 else 3.2, 60_000), [Subscription(price)], 2)
        expected = (1 - leave_chance(mood)) ** 10
        assert here[1].mean() == pytest.approx(expected, abs=.012), price


def test_a_tier_is_chosen_by_what_is_left_of_its_worth():
    both = [Subscription(2.0, .5), Subscription(8.0)]
    paid = {worth: run_months(alike(worth, 2_000), both, 1)[0][0] for worth in (1, 6, 30)}
    assert not paid[1].any() and np.median(paid[6]) == 2.0 and (paid[30] == 8.0).mean() > .99


def test_the_split_is_fair_and_the_test_finds_the_truth(visitors):
    trial = run_experiment(visitors, LISTS, months=6)
    again = run_experiment(visitors, LISTS, months=6)
    other = run_experiment(visitors, LISTS, months=6, salt="autumn")
    assert trial.table.equals(again.table) and (trial.table.variant != other.table.variant).mean() > .4
    for metric in ("converted", "first", "revenue", "kept", "listens"):
        found = analyse(trial.table, metric, trial.experiment)
        truth = (trial.worlds["dear"][metric] - trial.worlds["control"][metric]).mean()
        assert found.srm > SRM_ALARM and abs(found.effect - truth) < 4 * found.se, metric
        assert found.units["control"] + found.units["dear"] == len(visitors.worth), "visitors, not subscribers"
    change = {m: trial.worlds["dear"][m].mean() / trial.worlds["control"][m].mean() for m in ("converted", "first", "revenue")}
    assert change["converted"] < .75 and change["revenue"] < .97 < 1 < change["first"] < 1.08


def test_a_missing_half_of_a_variant_is_seen(visitors):
    trial = run_experiment(visitors, LISTS, months=1)
    lost = trial.table[(trial.table.variant == "control") | (trial.table["first"] > 0)]            # only payers were logged
    assert analyse(lost, "first", trial.experiment).srm < SRM_ALARM


def test_a_bandits_reward_is_the_revenue():
    paid = {"2": np.array([2.0, 0, 2, 0]), "8": np.array([8.0, 0, 0, 0])}
    assert as_moments(paid).chance.mean(0).tolist() == [.125, .25]


def test_machines_follow_the_upper_end():
    assert count_processes(Week(1, 1, 1e9), .01, .5, 500) == 4                         # 1,389 requests a second, 350 for each


@pytest.mark.parametrize(("call", "said"), [
    (lambda: read_price("-1 EUR"), "above 0"), (lambda: read_price(-.5), "above 0"),
    (lambda: read_price("$4.99"), "price in euros"),
    (lambda: read_price("4.99 RUB"), "price in euros"), (lambda: read_price("five"), "price in euros"),
    (lambda: read_price("٤.99 EUR"), "price in euros"), (lambda: read_price(float("inf")), "above 0"),
    (lambda: read_price(None), "expected a price"), (lambda: read_price(10**400), "above 0"),
    (lambda: read_offers({"control": []}), "two variants"),
    (lambda: read_offers({"control": ["4 EUR"], "dear": []}), "list of tiers"),
    (lambda: read_offers({"control": ["4 EUR"], "dear": "5 EUR"}), "list of tiers"),
    (lambda: read_offers({"control": ["4 EUR"], "dear": 5}), "list of tiers"),
    (lambda: read_offers({"cheap": ["4 EUR"], "dear": ["5 EUR"]}), "'control'"), (lambda: read_offers(None), "'control'"),
    (lambda: read_offers({"control": [(4, 0)], "dear": [5]}), "part of the worth"),
    (lambda: read_offers({"control": [(4, .5, 3)], "dear": [5]}), "price and a part"),
    (lambda: run_months(alike(1, 4), [Subscription(1.0)], 0), "from 1 to 24"),
    (lambda: run_months(alike(1, 4), [Subscription(1.0)], True), "from 1 to 24"),
    (lambda: run_months(alike(1, 4), [], 3), "at least one tier"),
    (lambda: draw_visitors(0, observe_month(30, 1), 1), "visitors"),
    (lambda: as_moments({"1": np.array([-1.0]), "2": np.array([1.0])}), "0 or more"),
    (lambda: count_processes(Week(0, 0, 1), 0, 1, 1), "peak above 0"),
    (lambda: count_processes(Week(0, 0, 1), .1, 1, float("nan")), "per_s above 0"),
])
def test_bad_input_says_what_is_wrong(call, said):
    with pytest.raises(ValueError, match=said): call()
