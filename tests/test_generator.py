"""Songs that nobody heard: where they are drawn, that everybody draws the same, and that a heard song lands among its kind."""

import hashlib
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from rap_analyzer.music import catalog
from rap_analyzer.music.catalog import GENRES, facts, track
from rap_analyzer.music.embedding import MODEL_ID, PLACES, join, place
from rap_analyzer.music.generator import COLUMNS, FINE, design, embeddings, fit, parameters, places, scatter, weighed

ROOT = Path(__file__).resolve().parent.parent
SUM = """import hashlib; from rap_analyzer.music.generator import embeddings
print(hashlib.sha256(embeddings(0, 600).tobytes()).hexdigest())"""


@lru_cache(maxsize=1)
def heard():
    "What the generator was fitted to, and the artists that it was not."
    with np.load(ROOT / "tests/data/heard.npz") as f: return {k: f[k] for k in f.files}


def chosen(part, version):
    "Rows of a part (0 report, 1 development, 2 fit)."
    return (heard()["facts"][:, 5] == part) & (heard()["facts"][:, 6] == version)


def test_shape_length_and_name():
    X = embeddings(100, 400)
    assert X.shape == (300, 512) and X.dtype == np.float16 and np.isfinite(X).all()
    assert np.abs(np.linalg.norm(X.astype(np.float64), axis=1) - 1).max() < 2e-3
    assert MODEL_ID != catalog.MODEL_ID


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1_020, 1_030), (56_990, 57_003), (0, 0)])
def test_a_song_does_not_depend_on_those_asked_for_with_it(start, stop):
    np.testing.assert_array_equal(embeddings(start, stop), embeddings(max(0, start - 7), stop + 7)[min(7, start):][:stop - start])


@pytest.mark.parametrize(("start", "stop"), [(5, 4), (-1, 3), (0.5, 2), (0, True), (0, 2**41)])
def test_a_range_that_makes_no_sense_is_refused(start, stop):
    with pytest.raises(ValueError, match="expected"): embeddings(start, stop)


@pytest.mark.parametrize("kernel", ["Prescott", "Haswell", "Nehalem"])
def test_other_kernels_and_threads_give_the_same_bytes(kernel):
    "OpenBLAS adds in another order on each of them."
    here = hashlib.sha256(embeddings(0, 600).tobytes()).hexdigest()
    there = os.environ | {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": "2", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    for env in (there, {k: v for k, v in there.items() if k != "NPY_DISABLE_CPU_FEATURES"}):
        done = subprocess.run([sys.executable, "-c", SUM], env=env, capture_output=True, text=True, timeout=120)
        if "NPY_DISABLE_CPU_FEATURES" in done.stderr and done.returncode: continue  # this NumPy was built for them
        assert done.stdout.strip() == here, (kernel, done.stderr[-500:])


def test_nothing_is_rounded_before_the_last_step():
    X = design(0, 500) @ parameters()["known"] + scatter(0, 500, 7)
    assert (np.rint(X) == X).all() and np.square(X).sum(axis=1).max() < 2**53
    assert all((x == np.rint(x)).all() and np.abs(x).max() < 2**15 for x in parameters().values())


def test_another_catalog_has_other_songs():
    assert (embeddings(0, 5, seed=7) != embeddings(0, 5, seed=8)).any()


def test_the_file_is_what_the_rows_give():
    "Axes of equal spread may turn, so what they span is compared; the rows themselves are heard again in test_embedding.py."
    made, kept = fit(heard()), parameters()
    np.testing.assert_allclose(made["known"], kept["known"], atol=2 + 0.01 * np.abs(kept["known"]).max())
    np.testing.assert_allclose(made["noise"], kept["noise"], atol=3)
    for k, square in {"artist": lambda x: x.T @ x, "song": lambda x: np.einsum("gki,gkj->gij", x, x)}.items():
        a, b = square(made[k].astype(np.float64)), square(kept[k])
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b), k
    assert (ROOT / "rap_analyzer/music/generator.npz").stat().st_size < 1_000_000


def test_facts_stand_in_their_columns():
    t, row = track(11), dict(zip(COLUMNS, design(11, 12)[0], strict=True))
    assert row[t.genres[0]] == row[t.mood] == row[t.rhyme_scheme] == 64
    assert row[t.key.split()[1]] == 64 and row["swing"] == round((t.swing - 0.56) * 1_000)
    bpm = t.bpm / 2 if t.bpm >= 110 else t.bpm
    near = sum(row[f"{k} BPM"] * k for k in range(55, 111, 5)) / 64
    assert abs(near - bpm) < 0.2 and sum(row[g] for g in GENRES) == 64


def test_a_songs_facts_determine_where_it_lies():
    "Artists of the report part: each song's own place against those of the others."
    mask = chosen(0, 0)
    real, guess = weighed(places({n: heard()[n][mask] for n in PLACES})), np.concatenate(
        [weighed(design(i, i + 1) @ parameters()["known"]) for i in heard()["facts"][mask, 0].tolist()])
    cosine = guess @ real.T
    own = np.diag(cosine)
    assert own.mean() > 0.7 > 0.3 > (cosine.sum() - own.sum()) / (cosine.size - len(own))
    assert np.median((cosine >= own[:, None]).sum(axis=1)) <= 3, "among 144"


def test_drawn_songs_are_spread_like_heard_ones():
    "Facts alone are too tidy; with what was drawn the distances are those of heard songs."
    mask, other = chosen(0, 0), chosen(1, 0)
    real, peers = (weighed(places({n: heard()[n][m] for n in PLACES})) for m in (mask, other))
    ids = heard()["facts"][other, 0].tolist()
    drawn = np.concatenate([embeddings(i, i + 1) for i in ids]).astype(np.float64)
    tidy = np.concatenate([weighed(design(i, i + 1) @ parameters()["known"]) for i in ids])
    far = lambda a, b: np.abs(np.sort((real @ a.T).ravel()) - np.sort((real @ b.T).ravel())).mean()
    assert far(drawn, peers) < 0.03, far(drawn, peers)
    assert np.abs(beside(real, drawn) - 0.5).max() < 0.2 < np.abs(beside(real, tidy) - 0.5).max()


def beside(real, made_up):
    "One pot: how often a heard song's nearest is heard, and a made-up one's made up. A half each: one cloud."
    pot, kind = np.concatenate([real, made_up]), np.arange(len(real) + len(made_up)) >= len(real)
    near = pot @ pot.T
    np.fill_diagonal(near, -1)
    own = kind[near.argmax(axis=1)] == kind
    return np.array([own[~kind].mean(), own[kind].mean()])


def test_the_facts_come_back_out_of_the_cloud():
    X, f = embeddings(0, 3_000).astype(np.float64), facts(0, 3_000)
    near = X @ X.T
    np.fill_diagonal(near, -2)
    first = near.argmax(axis=1)
    assert (f["genre"][first] == f["genre"]).mean() > 0.9
    assert (f["artist"][first] == f["artist"]).mean() > 5 * np.mean([(f["artist"] == a).mean() for a in f["artist"]])


@pytest.mark.parametrize(("parts", "least"), [(("audio", "lyrics", "rhythm"), 0.9), (("audio", "rhythm"), 0.9),
                                              (("audio",), 0.8), (("rhythm",), 0.7)])
def test_a_song_that_was_never_fitted_to_lands_among_its_own_style(parts, least):
    mask = chosen(0, 1)
    asked = join({p: place(p, heard()[p][mask].astype(np.float32)) for p in parts})
    X, genre, style = embeddings(0, 5_000).astype(np.float32), facts(0, 5_000)["genre"], heard()["facts"][mask, 2]
    same = genre[np.argsort(-(asked @ X.T), axis=1)[:, :10]] == style[:, None]
    chance = np.mean([(genre == g).mean() for g in style])
    assert same.mean() > least > 3 * chance
    assert min(same[style == g].mean() for g in range(len(GENRES))) > 2 * chance


def test_the_unit_of_a_coordinate_is_what_it_says():
    x = design(0, 1) @ parameters()["known"] / FINE
    assert 0.3 < np.linalg.norm(x[0, PLACES["audio"]]) < 1.5
