"Experiments: assignment, false alarms, coverage against a planted truth, and second opinions from statsmodels and by hand."
import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pandas as pd
import pytest
import statsmodels.stats.api as sms
from scipy import stats
from statsmodels.stats.multitest import multipletests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import _experiments

from rap_analyzer.app import create_app
from rap_analyzer.product import experiments as ex
from rap_analyzer.product.audience import simulate
from rap_analyzer.product.experiments import Experiment, Guardrail, Registry, analyse, assign, assign_all, plan
from rap_analyzer.product.exposures import Exposures, NotInvited, UnknownExperiment
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.web import serving

@cache
def fortnight() -> pd.DataFrame: return simulate(14, 299, 20_262)


def table(n: int = 400, lift: float = 0.0, seed: int = 1, experiment: str = "any") -> pd.DataFrame:
    ids, rng = np.arange(n), np.random.default_rng(seed)
    new = assign_all(experiment, ids) == "treatment"
    return pd.DataFrame({"listener_id": ids, "variant": np.where(new, "treatment", "control"), "before": (b := rng.gamma(2, 2, n)),
                         "saves": b + rng.normal(size=n) + lift * new})


def test_the_same_variant_in_other_processes_and_spellings() -> None:
    code = "from rap_analyzer.product.experiments import assign; print(*(assign('ranker', i) for i in range(500)))"
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
                           env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("0", "77")}
    here = [assign("ranker", str(i)) for i in range(500)]
    assert said == {" ".join(here) + "\n"} and here == list(assign_all("ranker", np.arange(500.0)))
    # written down once: an assignment must survive the next version of this file too
    assert "".join(v[0] for v in here[:12]) == "cttccccctttt"


@pytest.mark.parametrize("shares", [(.5, .5), (.9, .1), (.2, .3, .5), (.1,) * 10])
def test_shares_are_kept_and_experiments_do_not_know_each_other(shares: tuple) -> None:
    variants = {f"v{i}": s for i, s in enumerate(shares)}
    mine, ids = assign_all(Experiment("mine", variants), range(40_000)), range(40_000)
    counts = pd.Series(mine).value_counts().reindex(list(variants)).to_numpy()
    assert stats.chisquare(counts, 40_000 * np.array(shares)).pvalue > 1e-4
    for other in ("mine2", "Mine", "1:mine"):
        crossed = pd.crosstab(mine, assign_all(other, ids))
        assert stats.chi2_contingency(crossed).pvalue > 1e-4
    assert list(mine[:200]) == [assign(Experiment("mine", variants), i) for i in range(200)]


def test_bad_experiments_are_refused() -> None:
    for variants, said in (({"a": .5, "b": .4}, "add up to 1"), ({"a": 1.0}, "at least two"), ({}, "at least two"),
                           ({"a": 1.5, "b": -.5}, "above 0"), ({"a": float("nan"), "b": .5}, "above 0"),
                           ({"": .5, "b": .5}, "name")):
        with pytest.raises(ValueError, match=said): Experiment("x", variants)
    for name in ("", " x", "y" * 101, None):
        with pytest.raises(ValueError, match="name"): assign(name, 1)
    for unit in (None, "", " ", True, float("nan"), 1.5, b"x"):
        with pytest.raises(ValueError, match="id of a unit"): assign("x", unit)


def test_analysis_agrees_with_statsmodels_and_with_arithmetic() -> None:
    t = table(lift=.4)
    found = analyse(t, "saves")
    a, b = (t[t.variant == v].saves for v in ("control", "treatment"))
    theirs = sms.CompareMeans(sms.DescrStatsW(b), sms.DescrStatsW(a))
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_diff(usevar="unequal"), rel=1e-9)
    assert found.p == pytest.approx(theirs.ttest_ind(usevar="unequal")[1], rel=1e-9)
    assert found.effect == pytest.approx(b.mean() - a.mean()) and found.relative == pytest.approx(b.mean() / a.mean() - 1)
    assert found.srm == pytest.approx(stats.binomtest(len(b), len(t), .5).pvalue, rel=.05)
    # CUPED is the regression on the covariate (statsmodels, robust standard errors)
    import statsmodels.formula.api as smf
    fit = smf.ols("saves ~ C(variant) + before", t).fit(cov_type="HC1")
    cuped = analyse(t, "saves", covariate="before")
    assert cuped.effect == pytest.approx(fit.params.iloc[1], abs=.02) and cuped.se == pytest.approx(fit.bse.iloc[1], rel=.02)


def test_rows_of_one_listener_are_one_observation() -> None:
    t = table(lift=.4)
    rows = t.loc[t.index.repeat(3)].assign(saves=t.saves.repeat(3) / 3)
    whole, parts = analyse(t, "saves"), analyse(rows, "saves")
    assert (parts.effect, parts.low, parts.p) == pytest.approx((whole.effect, whole.low, whole.p))
    plays = fortnight()
    ratio = analyse(plays, "skips/plays", "aa")
    k, n = ((plays.action == a).groupby(plays.listener_id).sum() for a in ("skip", "play"))
    new = assign_all("aa", k.index) == "treatment"
    assert ratio.effect == pytest.approx(k[new].sum() / n[new].sum() - k[~new].sum() / n[~new].sum())
    # the delta method against the bootstrap over listeners
    rng, draws = np.random.default_rng(1), []
    K, N = k.to_numpy(), n.to_numpy()
    for _ in range(800):
        i = rng.integers(len(K), size=len(K))
        draws.append(K[i][new[i]].sum() / N[i][new[i]].sum() - K[i][~new[i]].sum() / N[i][~new[i]].sum())
    assert ratio.se == pytest.approx(np.std(draws), rel=.12)


def test_bad_tables_are_refused_or_said() -> None:
    t = table()
    for df, metric, said in ((t[:0], "saves", "empty"), (t.assign(saves=np.nan), "saves", "no number"),
                             (t, "likes", "no metric"),
                             (t[t.variant == "control"], "saves", "two variants"), (t.assign(saves="x"), "saves", "numbers"),
                             (t.assign(saves=1.0), "saves", "same for every unit"), (t.drop(columns="variant"), "saves", "variant"),
                             (t.assign(listener_id=[None, *t.listener_id[1:]]), "saves", "no listener_id"),
                             (t[:1], "saves", "two variants"), (t.assign(variant=list("abcd") * 100), "saves", "treatment=")):
        with pytest.raises(ValueError, match=said): analyse(df, metric)
    both = pd.concat([t, t[:5].assign(variant="control"), t[:5].assign(variant="treatment")])
    assert analyse(both, "saves").notes[0].startswith("5 units were in two variants")
    assert "9 units had no variant" in analyse(t.assign(variant=t.variant.where(t.index > 8)), "saves").notes[0]
    assert "each row counts as one" in analyse(t.drop(columns="listener_id"), "saves").notes[0]
    assert "unit 7 alone" in analyse(t.assign(saves=t.saves.where(t.listener_id != 7, 5_000)), "saves").notes[0]
    assert analyse(t.assign(variant=list("ABCD") * 100), "saves", treatment="C").units == {"A": 100, "C": 100}
    with pytest.raises(ValueError, match="got also"): analyse(t.assign(variant="x"), "saves", "any")


def test_a_broken_split_is_seen_and_decides_nothing() -> None:
    t = table(4_000)
    lost = t[(t.variant == "control") | (t.listener_id % 5 > 0)]
    assert analyse(t, "saves").srm > .01 and analyse(lost, "saves").srm < ex.SRM_ALARM
    assert ex.decide(analyse(lost, "saves")).action == "repair"
    uneven = Experiment("any", {"control": .9, "treatment": .1})
    t["variant"] = assign_all(uneven, t.listener_id)
    assert analyse(t, "saves").srm < 1e-9 < .01 < analyse(t, "saves", uneven).srm


def test_units_that_did_nothing_count() -> None:
    t = table(lift=.4)
    some = t[t.listener_id % 2 == 0]
    found = analyse(some, "saves", units=t.set_index("listener_id").variant)
    zeros = t.saves.where(t.listener_id % 2 == 0, 0).groupby(t.variant).mean()
    assert sum(found.units.values()) == 400 and found.effect == pytest.approx(zeros["treatment"] - zeros["control"])
    with pytest.raises(ValueError, match="got none of them"): analyse(some, "saves", units={"x": "control", "y": "treatment"})


def test_the_size_is_the_size_that_statsmodels_names_and_it_finds_the_effect() -> None:
    for p, effect in ((.1, .05), (.3, .1)):
        theirs = sms.NormalIndPower().solve_power(effect * p / (p * (1 - p)) ** .5, alpha=.05, power=.8)
        assert plan(p, effect) == pytest.approx(2 * theirs, rel=.01)
    uneven = sms.NormalIndPower().solve_power(.05 * 8 / 9, alpha=.05, power=.9, ratio=.25)
    assert plan(8, .05, sd=9, share=.2, power=.9) == pytest.approx(1.25 * uneven, rel=.01)
    n, rng, seen = plan(8, .1, sd=9), np.random.default_rng(2), 0
    for _ in range(400):
        x, new = rng.gamma(8**2 / 81, 81 / 8, n), rng.random(n) < .5
        x[new] *= 1.1
        seen += stats.ttest_ind(x[new], x[~new], equal_var=False).pvalue < .05
    assert stats.binom(400, .8).cdf(seen) > .005 < stats.binom(400, .8).sf(seen - 1)
    for wrong in (dict(smallest_effect=0), dict(smallest_effect=.1, share=1), dict(smallest_effect=.1, power=.01)):
        with pytest.raises(ValueError, match="expected"): plan(.1, **wrong)
    with pytest.raises(ValueError, match="NaN"): plan(pd.Series([1., np.nan]), .1)
    with pytest.raises(ValueError, match="same for every unit"): plan(pd.Series([2., 2.]), .1)


def test_decisions_follow_the_rules() -> None:
    good, none, bad = (analyse(table(2_000, lift), "saves") for lift in (.8, 0, -.8))
    rail = lambda r, margin: {"hours": Guardrail(r, margin)}
    assert ex.decide(good).action == "ship" and ex.decide(bad).action == "stop" and ex.decide(none).action == "keep"
    assert ex.decide(none, .5).action == "continue" and ex.decide(good, .02).action == "continue"
    assert ex.decide(good, 1, rail(bad, .02)).action == "stop" and ex.decide(good, 1, rail(none, .001)).action == "keep"
    assert ex.decide(good, 1, rail(none, .2)).action == "ship"
    assert ex.decide(good, 1, {"skips": Guardrail(good, .02, "higher")}).action == "stop"


def test_interactions_and_their_correction() -> None:
    p = [.01, .04, .03, .5]
    assert ex.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    ids, both = np.arange(4_000), Registry(["a", "b", "c"])
    a, b = (assign_all(n, ids) == "treatment" for n in "ab")
    df = pd.DataFrame({"listener_id": ids, "saves": np.random.default_rng(3).normal(size=4_000) + .5 * a + .5 * b - .6 * (a & b)})
    found = {(i.first, i.second): i for i in ex.interactions(df, "saves", both)}
    import statsmodels.formula.api as smf
    fit = smf.ols("saves ~ a * b", df.assign(a=a.astype(int), b=b.astype(int))).fit()
    assert found["a", "b"].effect == pytest.approx(fit.params["a:b"]) and found["a", "b"].low < -.6 < found["a", "b"].high
    assert [pair for pair, i in found.items() if i.p < .05] == [("a", "b")]


def test_daily_looks_end_at_the_single_analysis() -> None:
    looks = ex.look_daily(fortnight(), "saves", "aa")  # the last session ends after midnight
    single = analyse(fortnight(), "saves", "aa")
    assert looks.index[-1] == 15 and looks.effect.iloc[-1] == single.effect and looks.p.iloc[-1] == single.p
    assert (looks.always_p >= looks.p).all() and looks.always_p.between(0, 1).all()


def test_a_small_form_of_the_proof() -> None:
    alarms = _experiments.false_alarms(draws=150, days=7, listeners=200, seed=3)
    assert _experiments.within(alarms["fixed"], 150, .05) and alarms["peeking"] <= 150 * .05 < alarms["naive"]
    covered = _experiments.coverage(populations=30, days=5, listeners=80, seed=3)
    assert _experiments.within(covered["covered"], 30, .95) and covered["same_by_hand"]


def test_the_estimand_is_everybody_against_nobody() -> None:
    "A listener seen once with and once without: the same as two whole worlds, because saves change nothing else."
    days, n, seed = 4, 60, 8
    pair = _experiments.potential_saves(days, n, seed, 1.5)
    worlds = [_experiments.saves_of(simulate(days, n, seed, effects={"save_lift": lift}), n) for lift in (1.0, 1.5)]
    assert (pair[0] == worlds[0]).all() and (pair[1] == worlds[1]).all() and (pair[1] >= pair[0]).all()


@pytest.fixture
def log(lab):
    "The experiments of a new tenant."
    migrate(lab)
    store = Store(lab, f"t{uuid4().hex[:12]}").register()
    yield Exposures(store)
    store.forget()


def test_an_exposure_is_noted_once_and_stays(log) -> None:
    e = log.start(Experiment("ranker", {"control": .7, "treatment": .3}))
    with ThreadPoolExecutor(4) as pool: seen = list(pool.map(lambda i: log.expose("ranker", i % 5), range(40)))
    assert len(set(seen)) == 5 and all(x.variant == assign(e, x.unit_id) and x.propensity == e.variants[x.variant] for x in seen)
    assert log.expose_all("ranker", range(12_000)) == 12_000 - 5 and log.expose_all("ranker", [3.0, "4"]) == 0
    rows = log.table("ranker")
    assert len(rows) == 12_000 and rows.unit_id.is_unique and check_shares(rows.variant, e) > 1e-4
    events = fortnight()
    found = analyse(events, "saves", e, units=rows[rows.unit_id.astype(int) < 299].set_index("unit_id").variant)
    saves, new = _experiments.saves_of(events, 299), assign_all(e, range(299)) == "treatment"
    assert found.effect == pytest.approx(saves[new].mean() - saves[~new].mean()) and sum(found.units.values()) == 299


def check_shares(variants: pd.Series, e: Experiment) -> float:
    counts = variants.value_counts().reindex(list(e.variants)).to_numpy()
    return float(stats.chisquare(counts, counts.sum() * np.array(list(e.variants.values()))).pvalue)


def test_a_running_experiment_does_not_change_and_an_ended_one_stays_ended(log) -> None:
    for _ in range(2): log.start("ranker")
    with pytest.raises(ValueError, match="is running with"): log.start(Experiment("ranker", {"control": .9, "treatment": .1}))
    with pytest.raises(ValueError, match="is running with"): log.start(Experiment("ranker", {"treatment": .5, "control": .5}))
    log.start(Experiment("left", layer="page", slot=(0, .5)))
    assert [e.name for e in log.running()] == ["ranker", "left"] and log.running()[1].slot == (0, .5)
    inside = [i for i in range(60) if ex.takes_part(log.find("left"), i)]
    assert 10 < log.expose_all("left", range(60)) == len(inside) < 50
    with pytest.raises(NotInvited): log.expose("left", next(i for i in range(60) if i not in inside))
    log.end("ranker")
    for call in (lambda: log.expose("ranker", 1), lambda: log.end("ranker"), lambda: log.expose("rankr", 1)):
        with pytest.raises(UnknownExperiment): call()
    with pytest.raises(ValueError, match="has ended"): log.start("ranker")
    for unit in (None, "", "x" * 201):
        with pytest.raises(ValueError, match="unit"): log.expose("left", unit)


def test_tenants_do_not_see_each_other(log, lab) -> None:
    log.start("ranker"), log.expose("ranker", 1)
    other = Store(lab, f"t{uuid4().hex[:12]}").register()
    try:
        with pytest.raises(UnknownExperiment): Exposures(other).find("ranker")
        assert Exposures(other).running() == [] and len(Exposures(other).table("ranker")) == 0
    finally: other.forget()


@pytest.fixture
def api(log):
    "The service over a running experiment, and a client."
    log.start("ranker"), log.start(Experiment("left", layer="page", slot=(0, .5)))
    with serving(create_app(log.store)) as url, httpx.Client(base_url=url, timeout=20) as client: yield client


def test_the_service_assigns_as_the_package_does_and_notes_it_once(api, log) -> None:
    for who in (7, "7", "anonymous-1"):
        said = api.get("/api/variant", params={"experiment": "ranker", "user_id": who}).json()
        assert (said["variant"], said["propensity"], said["first_seen"]) == (assign("ranker", who), .5, None)
    assert len(log.table("ranker")) == 0
    first, again = (api.post("/api/experiments/ranker/assign", json={"user_id": who}).json() for who in (7, "7"))
    assert first == again and first["variant"] == assign("ranker", 7) and len(log.table("ranker")) == 1
    outside = next(i for i in range(60) if not ex.takes_part(log.find("left"), i))
    for code, r in ((404, api.get("/api/variant", params={"experiment": "rankr", "user_id": 7})),
                    (404, api.post("/api/experiments/rankr/assign", json={"user_id": 7})),
                    (404, api.post("/api/experiments/left/assign", json={"user_id": outside})),
                    (404, api.get("/api/variant", params={"experiment": "left", "user_id": outside})),
                    (422, api.post("/api/experiments/ranker/assign", json={"user_id": ""})),
                    (404, api.get("/api/variant", params={"experiment": "\0", "user_id": 7})),
                    (404, api.post("/api/experiments/%00/assign", json={"user_id": 7})),
                    (422, api.get("/api/variant", params={"experiment": "ranker", "user_id": "\0"})),
                    (422, api.post("/api/experiments/ranker/assign", json={"user_id": "a\0"})),
                    (422, api.post("/api/experiments/ranker/assign", content=b'{"user_id": "\\ud800"}',
                                   headers={"Content-Type": "application/json"})),
                    (422, api.post("/api/experiments/ranker/assign", json={"user_id": 7.5})),
                    (422, api.post("/api/experiments/ranker/assign", json={"user_id": "x" * 201})),
                    (422, api.post("/api/experiments/ranker/assign", json={})),
                    (422, api.get("/api/variant", params={"experiment": "ranker", "user_id": " "})),
                    (422, api.get("/api/variant", params={"user_id": 7}))):
        assert r.status_code == code and r.json()["error"], r.text


@pytest.mark.parametrize("given", [{"name": "a\0"}, {"name": "\ud800"}, {"salt": 5}, {"salt": "a\0"}, {"layer": 5},
                                   {"slot": 5, "layer": "l"}, {"slot": ("a", "b"), "layer": "l"}, {"slot": (0,), "layer": "l"},
                                   {"variants": {"a\0": .5, "b": .5}}])
def test_an_experiment_that_could_not_be_kept_is_refused(given):
    with pytest.raises(ValueError, match="expected"): Experiment(**{"name": "x"} | given)


def test_a_slot_is_the_same_as_a_list(log):
    for slot in ((0, .5), [0, .5]): log.start(Experiment("listed", layer="of-lists", slot=slot))


def test_a_figure_that_is_none_ships_nothing():
    good = ex.Result(.3, .1, .5, .01, .5, "saves", 4., 4.3, .075, {"control": 9, "treatment": 9}, .1, .95)
    rails = lambda **change: {"hours": Guardrail(dataclasses.replace(good, metric="hours", **change), .02)}
    assert ex.decide(good, 1, rails()).action == "ship" and ex.decide(good, 1, rails(srm=1e-9)).action == "repair"
    nan = float("nan")
    for change in ({"low": nan}, {"high": nan}, {"control": nan}, {"srm": nan}, {"control": 0.}):
        with pytest.raises(ValueError, match="hours"): ex.decide(good, 1, rails(**change))
    for share in (nan, 0, None, "1"):
        with pytest.raises(ValueError, match="share"): ex.decide(good, share)
    for odd in ({"worse": "highr"}, {"margin": nan}, {"margin": -1}, {"margin": "x"}):
        with pytest.raises(ValueError, match="expected"): Guardrail(good, **{"margin": .02} | odd)
    with pytest.raises(ValueError, match="standard error"): ex.decide(dataclasses.replace(good, se=0.), .5)


@pytest.mark.parametrize("given", [{"level": 95}, {"level": 0.}, {"metric": "saves/plays/saves"}, {"metric": "saves/saves"},
                                   {"metric": 5}, {"metric": "variants"}, {"covariate": "saves"}, {"covariate": "saves/plays"},
                                   {"metric": "saves/plays", "covariate": "plays"}, {"metric": "saves/none"}])
def test_a_question_without_an_answer_is_refused_in_words(given):
    table = pd.DataFrame({"saves": [1., 2, 3, 4], "plays": [2., 3, 4, 6], "none": 0., "variants": 1.,
                          "variant": ["control", "treatment"] * 2})
    with pytest.raises(ValueError, match="expected|no ratio|no metric"): analyse(table, **{"metric": "saves"} | given)


def test_the_standard_error_of_no_effect_does_not_depend_on_the_level():
    table = pd.DataFrame({"v": [1., 3] * 40, "variant": ["c"] * 40 + ["t"] * 40})
    narrow, wide = (analyse(table, "v", level=level).se for level in (.95, .99))
    assert narrow == pytest.approx(wide, rel=.03)
