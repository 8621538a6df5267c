"""Judging a policy by another one's log: without bias where it can be done, refused where it can't."""
from dataclasses import replace

import numpy as np
import pytest

from rap_analyzer.product.shelves import record_moments
from rap_analyzer.recommend.offpolicy import PLACES, SEEN, NoSupport, check_log, estimate, find_chance, log_pages

NAMES = ["replay", "ips", "self-normalised", "model", "doubly robust"]


@pytest.fixture(scope="module")
def moments():
    m = record_moments(10, 300, 5)
    steep = np.array([[.1, .3, .5, .2, .6, .4, .7, .15], [.7, .4, .1, .6, .2, .5, .3, .65]])[m.cell % 2]  # what is best depends
    return replace(m, chance=np.clip(steep + .05 * np.random.default_rng(1).standard_normal(steep.shape), .01, .99))


@pytest.fixture(scope="module")
def old(moments): return np.array([moments.chance[moments.cell == c].mean(0).argsort()[::-1] for c in range(4)])


def wanted_by(ranking, log, old, explore):
    place = log.place.to_numpy()
    wanted = ranking[log.cell, place]
    return wanted, find_chance(wanted, old[log.cell, place], explore, 8)


def truth(moments, ranking):
    return float((np.take_along_axis(moments.chance, ranking[moments.cell, :PLACES], 1) * SEEN).sum(1).mean())


def test_propensities_are_the_chances(moments, old):
    log = log_pages(moments, old, .2, 1)
    base = old[log.cell, log.place]
    assert ((log.propensity > .8) == (log.item == base)).all() and set(np.round(log.propensity, 6)) == {.025, .825}
    assert (log.item == base).mean() == pytest.approx(.825, abs=.02)
    some = log[(log.cell == 1) & (log.place == 0)]
    shown = some.item.value_counts(normalize=True)
    assert shown[old[1, 0]] == pytest.approx(.825, abs=.04) and log.groupby("page").item.nunique().eq(PLACES).all()


def test_estimates_hold_the_truth_and_replay_does_not(moments, old):
    new = np.tile(old[0], (4, 1))
    true, held, values = truth(moments, new), np.zeros(5), []
    for seed in range(40):
        log = log_pages(moments, old, .1, seed)
        found = estimate(log, *wanted_by(new, log, old, .1), by=("place", "item"))
        held += [found[n].low <= true <= found[n].high for n in NAMES]
        values.append([found[n].value for n in NAMES])
    held, values = dict(zip(NAMES, held / 40, strict=True)), np.array(values)
    assert held["replay"] < .3 and min(held["ips"], held["self-normalised"], held["doubly robust"]) >= .8
    se = values.std(0) / 40**.5
    assert abs(values[:, 1].mean() - true) < 4 * se[1] and abs(values[:, 4].mean() - true) < 4 * se[4]
    assert abs(values[:, 0].mean() - true) > 4 * se[0] and abs(values[:, 3].mean() - true) > 4 * se[3]


def test_a_good_model_makes_the_doubly_robust_estimate_narrower(moments, old):
    new, values = np.tile(old[0], (4, 1)), []
    for seed in range(25):
        log = log_pages(moments, old, .1, seed)
        found = estimate(log, *wanted_by(new, log, old, .1))
        values.append([found[n].value for n in NAMES])
    values = np.array(values)
    assert values[:, 4].std() < .9 * values[:, 1].std() and abs(values[:, 4].mean() - truth(moments, new)) < .05


def test_the_own_policy_is_judged_well(moments, old):
    log = log_pages(moments, old, .05, 3)
    found = estimate(log, *wanted_by(old, log, old, .05))
    pages = log.page.nunique()
    assert .8 * pages < found["ips"].effective <= pages and (found["ips"].high - found["ips"].low) < .2
    assert all(found[n].value == pytest.approx(truth(moments, old), abs=.06) for n in NAMES)


def test_listeners_are_the_units(moments, old):
    log = log_pages(moments, old, .3, 4)
    wanted, chance = wanted_by(old, log, old, .3)
    wide = lambda e: e.high - e.low
    twice = np.concatenate([np.arange(len(log)), np.arange(len(log))])
    doubled = log.iloc[twice].assign(page=np.concatenate([log.page, log.page + log.page.max() + 1]))
    once, again = (estimate(*a)["ips"] for a in ((log, wanted, chance), (doubled, wanted[twice], chance[twice])))
    assert again.value == pytest.approx(once.value) and wide(again) == pytest.approx(wide(once), rel=.01)  # no news


def test_what_was_never_shown_is_refused(moments, old):
    log, new = log_pages(moments, old, 0, 1), np.tile(old[0], (4, 1))
    with pytest.raises(NoSupport, match="never would"): estimate(log, *wanted_by(new, log, old, 0))
    wanted, chance = wanted_by(new, log, old, .05)
    differs = wanted != old[log.cell, log.place]
    with pytest.raises(NoSupport, match="no row shows"): estimate(log[differs], wanted[differs], chance[differs])


@pytest.mark.parametrize(("change", "says"), [
    (lambda log: log.assign(propensity=0.), "cannot be guessed"), (lambda log: log.assign(propensity=1.5), "cannot be guessed"),
    (lambda log: log.assign(propensity=np.nan), "no number"), (lambda log: log.assign(reward=np.inf), "no number"),
    (lambda log: log.drop(columns=["unit", "page"]), "no column page, unit"), (lambda log: log[:0], "is empty"),
    (lambda log: log[:10], "a chance|its chance")])
def test_a_log_that_cannot_be_used(moments, old, change, says):
    log = log_pages(moments, old, .05, 1)
    wanted, chance = wanted_by(old, log, old, .05)
    with pytest.raises(ValueError, match=says): check_log(change(log), wanted, chance)
    with pytest.raises(ValueError, match="shuffled pages"): log_pages(moments, old, 1.5)
