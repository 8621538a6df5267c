"Bandits: regret on recorded moments, propensities that are what they say, and a value that can be read from another's log."
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rap_analyzer.product.bandits import FLOOR, Bandit, Split, play, policy_value
from rap_analyzer.product.shelves import Moments, best_arms, find_occasion, record_moments

@cache
def month() -> Moments: return record_moments(14, 400, 20_263)


def known(chances: list[list[float]], n: int, seed: int = 1) -> Moments:
    "Moments whose chances depend on the cell alone."
    cell = np.random.default_rng(seed).integers(len(chances), size=n)
    return Moments(tuple("abcdefgh")[:len(chances[0])], np.array(chances)[cell], cell, pd.DataFrame(index=range(n)))


def test_moments_are_the_same_again_and_the_occasion_changes_the_best_shelf() -> None:
    again = record_moments(14, 400, 20_263)
    assert (month().chance == again.chance).all() and ((month().chance > 0) & (month().chance < 1)).all()
    best = best_arms(month())
    assert len(set(best)) >= 2 and (find_occasion([3, 10], [True, False]) == [3, 1]).all()


def test_the_contextual_bandit_beats_the_plain_one_and_the_test() -> None:
    order = np.random.default_rng(1).permutation(len(month().chance))
    m = replace(month(), chance=month().chance[order], cell=month().cell[order])
    for seed in range(2):
        policies = Bandit(m.arms, seed=seed), Bandit(m.arms, False, seed), Split(m.arms, len(order) // 3)
        lost = [play(m, p, seed=seed).regret.sum() for p in policies]
        assert lost[0] < lost[2] and lost[1] < lost[2]
    crossed = known([[.2, .6], [.6, .2]], 4_000)
    with_context, without = (play(crossed, Bandit(crossed.arms, c)).regret.sum() for c in (True, False))
    assert with_context < .2 * without


def test_regret_bends() -> None:
    m = known([[.3, .5, .4]], 12_000)
    lost = play(m, Bandit(m.arms)).regret.to_numpy()
    assert lost[:2_000].sum() > 2 * lost[-2_000:].sum()


def test_arms_are_drawn_with_the_propensity_that_is_logged() -> None:
    m = known([[.3, .5, .4]], 20_000)
    log = play(m, Bandit(m.arms))
    assert log.propensity.min() >= FLOOR and log.propensity.max() <= 1
    # the inverse of the propensity of what was drawn has a mean of the number of arms
    w = 1 / log.propensity
    assert abs(w.mean() - 3) < 4 * w.std() / len(w)**.5
    p = Bandit(m.arms).propensities(np.array([0, 0, 1]))
    assert np.allclose(p.sum(1), 1) and (p[0] == p[1]).all()
    fresh = Bandit(("a", "b"), seed=3)
    fresh.learn(np.zeros(12, int), np.repeat([0, 1], 6), np.array([1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0]))
    draws = stats.beta(5, 3).rvs(40_000, random_state=1) > stats.beta(2, 6).rvs(40_000, random_state=2)
    several = [Bandit(("a", "b"), seed=i) for i in range(20)]
    for b in several: b.learn(np.zeros(12, int), np.repeat([0, 1], 6), np.array([1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0]))
    mine = np.mean([b.propensities(np.zeros(1, int))[0, 0] for b in several])
    assert mine == pytest.approx(FLOOR + (1 - 2 * FLOOR) * draws.mean(), abs=.02)


def test_a_log_judges_another_policy_and_the_plain_mean_does_not() -> None:
    inside, biased = 0, 0
    for seed in range(30):
        m = known([[.2, .5], [.7, .4]], 3_000, seed)
        log = play(m, Bandit(m.arms, seed=seed), seed=seed)
        true = m.chance[:, 0].mean()
        _, low, high = policy_value(log, np.zeros(3_000, int))
        inside += low <= true <= high
        biased += log.reward[log.arm == 0].mean() > true + .1
    assert stats.binom(30, .95).cdf(inside) > .005 and biased == 30


def test_bad_input_is_refused() -> None:
    m = known([[.3, .5]], 300)
    log = play(m, Split(m.arms, 100))
    for wrong in (lambda: Bandit(["a"]), lambda: Split(["a", "b"], 1), lambda: policy_value(log, np.zeros(2)),
                  lambda: policy_value(log.assign(propensity=np.nan), np.zeros(300)), lambda: policy_value(log, np.full(300, 9)),
                  lambda: Bandit(m.arms).learn(np.zeros(1, int), np.zeros(1, int), np.array([.5]))):
        with pytest.raises(ValueError, match="expected|never shows"): wrong()
