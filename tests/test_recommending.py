"""Interaction tables, splits and models that learn from them, judged against naive references."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from rap_analyzer.recommend.factors import EASE, IALS
from rap_analyzer.recommend.interactions import leave_one_out, make_folds, read_interactions, split_random, split_temporal
from rap_analyzer.recommend.neighbourhoods import ItemKNN, Popularity, RP3beta, UserKNN, find_idf, top_items, weigh

MODELS = Popularity, ItemKNN, RP3beta, UserKNN, EASE, IALS


def table(users=120, items=90, each=15, seed=1, groups=3):
    "Synthetic: listeners of a few tastes, and items that everybody knows."
    rng, rows = np.random.default_rng(seed), []
    for u in range(users):
        chance = np.exp(2.0 * (np.arange(items) % groups == u % groups)) / (1 + np.arange(items)) ** .4
        for i in rng.choice(items, each, replace=False, p=chance / chance.sum()):
            rows.append((f"u{u}", int(i), float(rng.pareto(1.2) * 10 + 1), float(rng.integers(1_000))))
    return pd.DataFrame(rows, columns=["user", "item", "weight", "time"])


@pytest.fixture(scope="module")
def data(): return read_interactions(table())


@pytest.fixture(scope="module")
def fitted(data): return {m.name: m().fit(data) for m in MODELS}


def pairs(d): return set(zip(d.user.tolist(), d.item.tolist(), strict=True))


def test_splits_part_the_table(data):
    for train, test in (split_random(data, .2, 3), leave_one_out(data), split_temporal(data), *make_folds(data, 8)):
        assert not pairs(train) & pairs(test) and pairs(train) | pairs(test) == pairs(data) and len(test)
        assert train.X.shape == test.X.shape == data.X.shape
    folds = [pairs(f.test) for f in make_folds(data, 8)]
    assert set.union(*folds) == pairs(data) and sum(map(len, folds)) == len(data)
    train, test = split_temporal(data, .3)
    assert train.time.max() <= test.time.min() and abs(len(test) / len(data) - .3) < .05
    train, test = split_random(data, .2, 3)
    assert set(np.bincount(test.user)) == {3}                                     # a fifth of everybody's fifteen


def test_leave_one_out_takes_the_last(data):
    train, test = leave_one_out(data)
    assert len(test) == len(data.users)
    for u, t in zip(test.user, test.time, strict=True): assert (train.time[train.user == u] <= t).all()


def test_the_order_of_rows_changes_nothing():
    df = table(40, 40, 8)
    a, b = (split_random(read_interactions(d), .2, 5).test for d in (df, df.sample(frac=1, random_state=9)))
    assert [(a.users[u], a.items[i]) for u, i in sorted(pairs(a))] == [(b.users[u], b.items[i]) for u, i in sorted(pairs(b))]


def test_dates_are_times(data):
    df = table().assign(time=lambda d: pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(d.time, unit="h"))
    assert pairs(split_temporal(read_interactions(df)).test) == pairs(split_temporal(data).test)


def test_itemknn_is_the_naive_one(data):
    m = ItemKNN(weight="log", idf=True, shrink=7.0, k=1_000).fit(data)
    W = weigh(data.X, "log").toarray().astype(float)
    A, n = W * find_idf(data.X), W.shape[1]
    S = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j: S[i, j] = A[:, i] @ A[:, j] / (np.linalg.norm(A[:, i]) * np.linalg.norm(A[:, j]) + 7)
    assert np.allclose(m.score(np.arange(len(W))), W @ S, rtol=1e-4, atol=1e-4)
    few = m.neighbours(4)
    for i in range(n): assert set(few[i].indices) <= set(np.argsort(-S[i])[:6]) and few[i].nnz <= 4


def test_userknn_is_the_naive_one(data):
    m = UserKNN(weight="log", idf=False, shrink=0.0, k=10, held=0.0).fit(data)
    W = weigh(data.X, "log").toarray().astype(float)
    U = W / np.linalg.norm(W, axis=1, keepdims=True)
    sim = U @ U.T
    np.fill_diagonal(sim, 0)
    for u in range(0, len(W), 7):
        near = np.argsort(-sim[u])[:10]
        new = W[u] == 0
        assert np.allclose(m.score([u])[0][new], (sim[u, near] @ W[near])[new], rtol=1e-3, atol=1e-4)


def test_ease_is_the_closed_form(data):
    for part in (data, data.take(data.user < 40)):                                 # more listeners than items, and fewer
        m = EASE(weight="binary", idf=False, reg=25.0).fit(part)
        X = (part.X > 0).toarray().astype(float)
        used = (X > 0).sum(0) >= 2
        G = X[:, used].T @ X[:, used]
        G[np.diag_indices(len(G))] += 25.0
        P = np.linalg.inv(G)
        B = P / -P.diagonal()
        B[np.diag_indices(len(B))] = 0
        assert np.array_equal(m.used, np.flatnonzero(used)) and np.allclose(m.B, B, atol=1e-5)
        score = m.score(np.arange(30))
        assert np.allclose(score[:, used], X[:30, used] @ B, atol=1e-4) and not score[:, ~used].any()
        assert np.allclose(m.neighbours(1_000).toarray()[np.ix_(used, used)], np.maximum(B, 0), atol=1e-5)


def test_ials_is_implicit(data):
    from implicit.cpu.als import AlternatingLeastSquares

    m = IALS(weight="binary", idf=False, factors=8, reg=2.0, alpha=5.0, rounds=8).fit(data)
    theirs = AlternatingLeastSquares(factors=8, regularization=2.0, alpha=5.0, iterations=8, random_state=0, num_threads=1)
    theirs.fit(weigh(data.X, "binary"), show_progress=False)
    assert np.allclose(m.V, theirs.item_factors, atol=1e-3)
    exact = theirs.recalculate_user(np.arange(9), weigh(data.X, "binary")[:9])     # fit() ends with the items' side
    assert np.allclose(m.score(np.arange(9)), exact @ theirs.item_factors.T, atol=2e-2)


@pytest.mark.parametrize("name", [m.name for m in MODELS])
def test_nothing_known_comes_back(name, data, fitted):
    rng, n = np.random.default_rng(4), len(data.items)
    H = sparse.csr_matrix((rng.random((50, n)) < rng.random((50, 1))) * rng.integers(1, 500, (50, n)), dtype=np.float32)
    for known, score in ((data.X, fitted[name].score(np.arange(len(data.users)))), (H, fitted[name].score_histories(H))):
        assert score.shape == known.shape and np.isfinite(score).all()
        for row, best in enumerate(top_items(score, known, 10)):
            new = best[best >= 0].tolist()
            assert len(set(new)) == len(new) and not set(new) & set(known[row].indices)
            assert len(new) == min(10, n - known[row].nnz)


@pytest.mark.parametrize("name", [m.name for m in MODELS])
def test_a_stored_model_is_the_same_model(name, data, fitted, tmp_path):
    np.savez(tmp_path / "m.npz", **fitted[name].to_arrays())
    with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays: again = type(fitted[name]).from_arrays(dict(arrays))
    assert np.array_equal(again.score_histories(data.X), fitted[name].score_histories(data.X))
    assert again.items.tolist() == data.items.tolist() and again.params == fitted[name].params


@pytest.mark.parametrize("model", MODELS)
def test_small_tables_are_no_error(model):
    for df in (pd.DataFrame({"user": [1], "item": ["a"], "weight": [3]}),                          # one play
               pd.DataFrame({"user": [1, 2, 3], "item": ["a", "a", "a"], "weight": [1, 1, 1]}),    # one item, all weights equal
               pd.DataFrame({"user": [1, 1, 1], "item": ["a", "b", "c"], "weight": [2, 2, 2]})):   # one listener
        small = read_interactions(df)
        score = model().fit(small).score(np.arange(len(small.users)))
        assert score.shape == small.X.shape and np.isfinite(score).all()
    with pytest.raises(ValueError, match="empty"): model().fit(small.take(np.zeros(3, bool)))
