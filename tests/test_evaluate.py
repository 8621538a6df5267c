"""`recommend.evaluate` and what it rests on: measures against ir-measures, bad tables, and the blend on real listening data."""

import subprocess
import sys
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from rap_analyzer.recommend.blend import Blend, standardise
from rap_analyzer.recommend.evaluate import MODELS, SPACES, draw_params, evaluate, judge
from rap_analyzer.recommend.factors import EASE, IALS
from rap_analyzer.recommend.interactions import draw_plays, read_interactions, split_random
from rap_analyzer.recommend.measures import bootstrap, find_hits, ndcg, recall
from rap_analyzer.recommend.neighbourhoods import ItemKNN, top_items

ROOT = Path(__file__).resolve().parents[1]
LASTFM = ROOT.parent / "shared" / "data" / "lastfm" / "user_artists_dev.tsv"
COLUMNS = ["model", "ndcg@10", "recall@20", "coverage", "fit_s", "predict_ms_per_user"]


@pytest.fixture(scope="module")
def plays(): return draw_plays(150, 150, 14)


def test_measures_are_those_of_ir_measures():
    rng = np.random.default_rng(2)
    hidden = sparse.csr_matrix(rng.random((60, 50)) < rng.random((60, 1)) * .4, dtype=np.float32)
    top = np.argsort(rng.random((60, 50)), axis=1)[:, :20]
    top[:9, 15:] = -1                                                             # fewer than twenty
    n, hits = np.diff(hidden.indptr), find_hits(top, hidden)
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, i in zip(*hidden.nonzero(), strict=True)]
    run = [ir_measures.ScoredDoc(str(u), str(i), 100.0 - p) for u in range(60) for p, i in enumerate(top[u]) if i >= 0]
    ours = {"nDCG@10": ndcg(hits[:, :10], n), "R@20": recall(hits, n)}
    for m in ir_measures.iter_calc([ir_measures.nDCG @ 10, ir_measures.R @ 20], qrels, run):
        assert abs(ours[str(m.measure)][int(m.query_id)] - m.value) < 1e-9
    assert np.isnan(ours["nDCG@10"][n == 0]).all()


def test_bootstrap_covers_what_it_should():
    rng, inside = np.random.default_rng(5), 0
    for i in range(200):
        hard = rng.normal(1, .3, 120)
        _, low, high = bootstrap(hard * rng.normal(1.1, .1, 120), hard * rng.normal(1.0, .1, 120), rounds=300, seed=i)
        inside += low <= 1.1 <= high
    assert inside >= 180
    a = rng.random((50, 3))
    a[0] = np.nan
    assert bootstrap(a)[0] == pytest.approx(np.nanmean(a[1:]))


def test_every_setting_that_may_be_drawn_is_one():
    for space in SPACES.values():
        assert set(space) == set(MODELS)
        for name, model in MODELS.items():
            for params in draw_params(space[name], 5, np.random.default_rng(1)): model(**params)
    few, many = (draw_params(SPACES["wide"]["ease"], n, np.random.default_rng(3)) for n in (3, 9))
    assert many[:3] == few                                                        # a larger budget begins with the smaller one


def test_the_table_that_is_promised(plays):
    table = evaluate(plays, seed=1, budget=2)
    assert list(table.columns[:6]) == COLUMNS and table.model.tolist() == [*MODELS, "ensemble"]
    assert table[["ndcg@10", "recall@20", "coverage"]].stack().between(0, 1).all() and table["fit_s"].ge(0).all()
    assert table.drop(columns=["fit_s", "predict_ms_per_user"]).notna().all(axis=None)
    scores = table.set_index("model")["ndcg@10"]
    assert scores["ensemble"] > scores["popularity"] and scores["ensemble"] > .9 * scores.max()
    again = evaluate(plays.sample(frac=1, random_state=1), seed=1, budget=2)
    assert np.allclose(again["ndcg@10"], table["ndcg@10"], atol=.03)              # neither order of rows nor a second run
    assert not np.allclose(evaluate(plays, seed=2, budget=2)["ndcg@10"], table["ndcg@10"], atol=1e-3)


@pytest.mark.parametrize("split", ["last", "temporal"])
def test_other_splits(plays, split):
    df = plays.assign(time=np.random.default_rng(1).random(len(plays)))
    assert evaluate(df, budget=1, split=split)["ndcg@10"].between(0, 1).all()


def test_a_blend_recommends_nothing_known(plays):
    train, _ = split_random(read_interactions(plays, 2), .2, 1)
    blend = Blend([ItemKNN(), EASE(reg=500.0), IALS(factors=8)], [1, .5, .3]).fit(train)
    top = top_items(blend.score(np.arange(len(train.users))), train.X, 10)
    assert not np.asarray(train.X[np.repeat(np.arange(len(top)), 10), top.ravel()]).any()
    assert all(len(set(row)) == 10 for row in top)
    parts = [w * standardise(m.score(np.arange(5)), train.X[:5]) for m, w in zip(blend.members, blend.weights, strict=True)]
    assert np.allclose(sum(parts), blend.score(np.arange(5)), atol=1e-4)


STRANGE = {
    "ids of any kind": lambda d: d.assign(user=[(u, "x") for u in d.user], item=[f"t{i}" if i % 2 else int(i) for i in d.item]),
    "all weights equal": lambda d: d.assign(weight=1),
    "NaN, negative and doubled rows": lambda d: pd.concat([d, d[:30], d[30:60].assign(weight=np.nan), d[60:90].assign(weight=-3)]),
    "listeners of one play": lambda d: pd.concat([d, pd.DataFrame({"user": range(900, 960), "item": d.item[:60], "weight": 1})]),
    "huge and tiny weights": lambda d: d.assign(weight=np.where(d.item % 2, 1e12, 1e-12)),
    "weights as text": lambda d: d.assign(weight=d.weight.astype(int).astype(str)),
    "times as dates": lambda d: d.assign(time=pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(len(d)), unit="h")),
    "two plays each": lambda d: d.groupby("user").head(2),
    "six listeners": lambda d: d[d.user < 6],
}


@pytest.mark.parametrize("what", STRANGE)
def test_strange_tables(plays, what):
    table = evaluate(STRANGE[what](plays), budget=1)
    assert table.model.tolist() == [*MODELS, "ensemble"] and table["ndcg@10"].between(0, 1).all()
    if what.startswith("NaN"): assert len(table.attrs["notes"]) >= 3
    if what == "two plays each": assert any("defaults" in note for note in table.attrs["notes"])


WRONG = {
    "empty": lambda d: d[:0], "no weight": lambda d: d.drop(columns="weight"), "text": lambda d: d.assign(weight="often"),
    "infinity": lambda d: d.assign(weight=np.inf), "no interaction is left": lambda d: d.assign(weight=np.nan),
    "two items": lambda d: d.groupby("user").head(1), "2 listeners": lambda d: d.assign(item=range(len(d))),
    "hashed": lambda d: d.assign(user=[[1]] * len(d)), "DataFrame": lambda d: d.to_dict(),
}


@pytest.mark.parametrize("why", WRONG)
def test_wrong_tables(plays, why):
    with pytest.raises(ValueError, match=why): evaluate(WRONG[why](plays), budget=1)


def test_wrong_arguments(plays):
    for how in ({"budget": 0}, {"budget": True}, {"split": "weekly"}, {"spaces": "secret"}, {"split": "temporal"}):
        with pytest.raises(ValueError, match="expected|column 'time'"): evaluate(plays, **how)


def test_the_script_says_what_it_needs():
    call = [sys.executable, "scripts/eval_recommend.py", "--data", "/nowhere"]
    wrong = subprocess.run(call, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert wrong.returncode == 2 and "--synthetic" in wrong.stderr


@pytest.mark.skipif(not LASTFM.exists(), reason=f"no listening data at {LASTFM}")
def test_people():
    df = pd.read_csv(LASTFM, sep="\t").rename(columns={"plays": "weight"})
    found = judge(df[df.user.isin(df.user.drop_duplicates()[::2])], seed=0, budget=3)    # half of them: seconds
    ratio, low, _ = bootstrap(found.each["ensemble"], found.each[found.best])
    scores = found.table.set_index("model")["ndcg@10"]
    assert scores["popularity"] < .14 and scores["ensemble"] > .17
    assert ratio > 1 and low > .98, f"{ratio:.3f} from {low:.3f}, against {found.best}"
