"""Chances of success: promises that are kept in each tenth, reasons that sum, and nothing that was not known before."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import _calibration

from rap_analyzer.core import LabError
from rap_analyzer.giants.releases import (
    BEST,
    FIRST,
    NEAR,
    STEADY,
    WINDOW,
    describe_releases,
    fork_market,
    near_hits,
    open_market,
    repeat_releases,
    run_days,
    run_releases,
    split_by_time,
)
from rap_analyzer.giants.success import (
    brier,
    calibrate,
    count_odds,
    explain,
    fit_log_odds,
    learn_by_turns,
    load,
    measure_truth,
    order_quality,
    reliability,
    train,
)
from rap_analyzer.music.generator import embeddings
from rap_analyzer.product.actions import ACTIONS

DAYS = 35


@pytest.fixture(scope="module")
def d(): return run_releases(98, 60, 600, 7)


@pytest.fixture(scope="module")
def parts(d): return split_by_time(d, 3)


def test_a_fact_of_a_release_does_not_change_with_what_happens_later():
    p = open_market(DAYS + 7, 20, 200, 3)
    run_days(p, 0, DAYS)
    early = describe_releases(p, DAYS)
    run_days(p, DAYS, DAYS + 7)
    late = describe_releases(p, DAYS + 7)
    assert early["day"].max() == DAYS - WINDOW and len(late) > len(early)
    pd.testing.assert_frame_equal(early, late[late["day"] <= DAYS - WINDOW])
    assert early.loc[early["day"] <= WINDOW + 6, ["near_hits", "artist_hits"]].isna().all(axis=None), "nobody was judged by then"
    with pytest.raises(ValueError, match="more than 21 days"): open_market(WINDOW, 20, 200, 3)


def test_success_is_what_listeners_kept_within_two_weeks(d):
    share = d.groupby((d["day"] - 1) // 7)["success"].mean()
    assert share.between(BEST - .03, BEST + .03).all(), share
    best, rest = (d.loc[d["success"] == is_, "kept"].groupby((d["day"] - 1) // 7) for is_ in (True, False))
    assert (best.min() >= rest.max()).all(), "nobody of the others was kept by more"
    p = open_market(22, 30, 200, 5)
    run_days(p, 0, 22)
    rows, born, keepers = describe_releases(p, 22), p.truth.released, {}
    for ms, who, _, action, track, _ in p.log:                                         # once more, an event at a time
        for t, w, a, i in zip(ms, who, action, track, strict=True):
            if ACTIONS[a] in ("like", "save", "playlist_add") and t // 86_400_000 - born[i] < WINDOW:
                keepers.setdefault(i, set()).add(w)
    assert rows["kept"].tolist() == [len(keepers.get(i, ())) for i in rows["track_id"]] and rows["kept"].sum() > 0


def test_promises_are_kept_in_each_tenth_on_later_releases(parts):
    learn, middle, later = parts
    assert learn["day"].max() < middle["day"].min() and middle["day"].max() < later["day"].min()
    counted, final = count_odds(learn), learn_by_turns(pd.concat([learn, middle]))
    y, promised = later["success"], final.chance(later)
    tenths = reliability(promised, y, 200)
    assert sum(t.n for t in tenths) == len(later) and len(tenths) >= 3
    assert all(t.low < t.promised < t.high or abs(t.error) <= .05 for t in tenths), tenths
    raw = counted.chance(later)
    assert max(abs(t.error) for t in reliability(raw, y, 200)) > 2 * max(abs(t.error) for t in tenths)
    assert abs(order_quality(raw, y) - order_quality(promised, y)) < .05, "the order is not what was wrong"
    assert brier(promised, y) < brier(np.full(len(y), learn["success"].mean()), y) and brier(promised, y) < brier(raw, y)
    with pytest.raises(ValueError, match="two weeks"): learn_by_turns(learn[learn["day"] == learn["day"].min()])


def test_futures_share_the_past_and_differ_in_luck():
    p = open_market(DAYS + 7, 20, 200, 3)
    run_days(p, 0, DAYS - 7)
    before, again = len(p.log), repeat_releases(p, DAYS - 7, DAYS + 7, 2)
    same, other = (again[again["future"] == f].reset_index(drop=True) for f in (0, 1))
    with pytest.raises(ValueError, match="a whole week"): describe_releases(p, 5)
    assert len(p.log) == before and same["track_id"].equals(other["track_id"]) and not same["kept"].equals(other["kept"])
    first = same["day"] == same["day"].min()
    pd.testing.assert_frame_equal(same.loc[first, list(STEADY)], other.loc[first, list(STEADY)])
    q = fork_market(p, 0)
    run_days(p, DAYS - 7, DAYS + 7)
    run_days(q, DAYS - 7, DAYS + 7)
    pd.testing.assert_frame_equal(describe_releases(p, DAYS + 7), describe_releases(q, DAYS + 7))


def test_the_truth_is_measured_over_futures():
    rng = np.random.default_rng(1)
    chance = np.tile(rng.random(2_000), 30)
    future, y = np.repeat(np.arange(30), 2_000), rng.random(60_000) < .8 * chance
    tenths = measure_truth(chance, y, future)
    assert len(tenths) == 10 and all(t.came == pytest.approx(.8 * t.promised, abs=.02) for t in tenths)
    assert sum(t.low <= .8 * t.promised <= t.high for t in tenths) >= 8 and all(t.high - t.low < .06 for t in tenths)
    with pytest.raises(ValueError, match="two futures"): measure_truth(chance, y, np.zeros(60_000))


def test_a_market_learns_from_its_past_alone_and_promises_in_each_future():
    m = _calibration.live(3, FIRST + 28, FIRST + 49, futures=2, per_day=15, listeners=120)
    first, second = (m.chance[m.future == f] for f in (0, 1))
    assert len(first) == len(second) == len(m.success) // 2 and 0 < m.chance.min() < m.chance.max() < 1
    assert (first[:15] == second[:15]).all() and not (first == second).all(), "a day's promises rest on what is known by that day"
    assert set(m.success) == {0, 1} and not (m.success[m.future == 0] == m.success[m.future == 1]).all()


def test_many_markets_are_judged_and_broken_promises_are_found(d, parts, monkeypatch):
    later, said = parts[2], []
    def live(seed, f=None):
        y = later["success"].to_numpy(float)
        chance = (f or learn_by_turns(pd.concat(parts[:2]))).chance(later)
        return _calibration.Market(seed, np.tile(chance, 6), np.tile(y, 6), np.repeat(np.arange(6), len(y)))
    monkeypatch.setattr(_calibration, "live", live)
    found = _calibration.judge(2, 1, said.append, jobs=1)
    assert len(found["worst"]) == 2 and found["releases"] == 12 * len(later) and found["refuted"] == 2 - found["within"]
    monkeypatch.setattr(_calibration, "live", lambda seed: live(seed, count_odds(parts[0])))
    broken = _calibration.judge(2, 1, said.append, jobs=1)
    assert broken["pooled"] > max(10, found["pooled"]) and (broken["within"], broken["refuted"]) == (0, 2) and len(said) > 6


def test_reasons_sum_to_the_promise(parts):
    learn, middle, later = parts
    final = calibrate(count_odds(learn, STEADY), middle)
    for _, row in later.head(50).iterrows():
        said = explain(final, row)
        chance = 1 / (1 + np.exp(-final.base - sum(r.log_odds for r in said)))
        assert chance == pytest.approx(final.chance(row.to_frame().T)[0], abs=1e-12) and len({r.words for r in said}) == len(STEADY)
    assert np.abs(final.parts(middle).mean(0)).max() < 1e-9, "an average release needs no reasons"


def test_weights_and_measures_are_those_of_another_library(parts):
    linear, metrics = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.metrics")
    learn, _, later = parts
    f, y = count_odds(learn, STEADY), learn["success"].to_numpy(float)
    Z = f.parts(learn)
    other = linear.LogisticRegression(C=1 / 3, tol=1e-10, max_iter=5_000).fit(Z, y)
    np.testing.assert_allclose(fit_log_odds(Z, y, 3.0), [*other.intercept_, *other.coef_[0]], atol=1e-3)
    promised = f.chance(later)
    assert order_quality(promised, later["success"]) == pytest.approx(metrics.roc_auc_score(later["success"], promised))
    assert brier(promised, later["success"]) == pytest.approx(metrics.brier_score_loss(later["success"], promised))


def test_what_is_not_known_is_an_answer_too(d, tmp_path):
    t = train(d)
    stranger = t.facts(embeddings(7, 8)[0], bpm=92.0)
    assert stranger["artist_plays"] == 0 and np.isnan(stranger["genre"]) and 0 <= stranger["near_hits"] <= 1
    assert any(r.words == "genre: not known" for r in explain(t.forecast, stranger))
    number = d["track_id"].iloc[5]
    own = embeddings(number, number + 1)[0]
    assert t.facts(own, number=number)["near_hits"] == pytest.approx(t.facts(own)["near_hits"], abs=1 / NEAR + 1e-9)
    unheard = t.facts(None)
    assert np.isnan(unheard["near_hits"]) and 0 < t.forecast.chance(pd.DataFrame([unheard]))[0] < 1
    assert np.isnan(near_hits(np.ones((2, 4)), np.ones((NEAR - 1, 4)), np.ones(NEAR - 1))).all()
    with pytest.raises(ValueError, match="'bpm'"): t.forecast.chance(pd.DataFrame([stranger]).drop(columns="bpm"))
    with pytest.raises(ValueError, match="one of them only"): count_odds(d[d["success"]])
    with pytest.raises(ValueError, match="at least 150"): reliability([.5], [True])
    (file := tmp_path / "success.json").write_text(json.dumps(asdict(t)))
    assert load(file).forecast == t.forecast
    (broken := tmp_path / "broken.json").write_text('{"forecast": 1')
    with pytest.raises(LabError, match="delete it"): load(broken)
