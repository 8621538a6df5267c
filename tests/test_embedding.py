"""One point for a song: whatever is missing, whatever the rate, and what ships is what was fitted."""

import importlib.util
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soxr

from rap_analyzer.music.audio import Clip
from rap_analyzer.music.catalog import GENRES, track, tracks
from rap_analyzer.music.embedding import (
    DIM,
    PLACES,
    SHARES,
    circle,
    embed,
    fit,
    folded,
    join,
    place,
    recipe,
    retrieval,
    rhythm,
    wording,
)
from rap_analyzer.music.lyrics import lyrics
from rap_analyzer.music.render import render
from rap_analyzer.music.tags import Guess, Tags
from rap_analyzer.music.tempo import Tempo, onset_curves, tempo

ROOT = Path(__file__).resolve().parent.parent


@lru_cache(maxsize=1)
def script():
    "scripts/fit_embedding.py as a module."
    spec = importlib.util.spec_from_file_location("fit_embedding", ROOT / "scripts/fit_embedding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def heard():
    "What the parameters were fitted to."
    with np.load(ROOT / "tests/data/heard.npz") as f: return {k: f[k] for k in f.files}


@lru_cache(maxsize=1)
def song():
    "A song with words, heard for twelve seconds."
    t = next(t for t in tracks(0, 400) if t.genres[0] == "boom bap")
    clip = render(t, 12)
    return t, clip, tempo(clip), lyrics(t.lyrics)


def sounding(vector):
    "Tags with this vector."
    return Tags(Guess("trap", 1.0, {"trap": 1.0}), Guess("dark", 1.0, {"dark": 1.0}), [], vector)


def parts():
    "Every part of a song; the sound is that of a row that was heard."
    _, clip, beat, words = song()
    return {"tags": sounding(heard()["audio"][0].astype(np.float32)), "lyrics": words, "tempo": beat, "rhythm": rhythm(clip, beat)}


@pytest.mark.parametrize("given", [("tags",), ("lyrics",), ("tempo",), ("rhythm",), ("tags", "lyrics"), ("lyrics", "tempo"),
                                   ("tags", "lyrics", "rhythm"), ("tags", "lyrics", "tempo", "rhythm")])
def test_any_part_may_be_missing(given):
    have = {k: v for k, v in parts().items() if k in given}
    x = embed(**have)
    assert x.shape == (DIM,) and x.dtype == np.float32 and np.isfinite(x).all()
    assert abs(np.linalg.norm(x) - 1) < 1e-5
    used = {"audio": "tags" in given, "lyrics": "lyrics" in given, "rhythm": bool({"tempo", "rhythm"} & set(given))}
    assert {n: bool(x[PLACES[n]].any()) for n in PLACES} == used


def test_a_cosine_is_the_weighted_mean_of_the_parts_that_both_have():
    a, b = ({n: place(n, heard()[n][i].astype(np.float32)) for n in PLACES} for i in (0, 9))
    assert math.isclose(join(a) @ join(b), sum(SHARES[n] * (a[n] @ b[n]) for n in PLACES), abs_tol=1e-5)
    a.pop("lyrics")
    both = [n for n in PLACES if n != "lyrics"]
    scale = math.sqrt(sum(SHARES[n] for n in both))
    assert math.isclose(join(a) @ join(b) * scale, sum(SHARES[n] * (a[n] @ b[n]) for n in both), abs_tol=1e-5)


def test_a_missing_part_does_not_change_the_order_of_what_is_found():
    rows = {n: place(n, heard()[n].astype(np.float32)) for n in PLACES}
    everybody, sound = join(rows), join({k: v for k, v in rows.items() if k != "lyrics"})
    assert (np.argsort(-(everybody @ sound[5]))[:5] == np.argsort(-(sound @ sound[5]))[:5]).all()


def test_nothing_at_all_is_refused():
    for nothing in ({}, {"lyrics": lyrics("... !!!")}, {"tempo": Tempo(0.0, np.zeros(0), 0.0, ())}):
        with pytest.raises(ValueError, match="nothing to embed"): embed(**nothing)


@pytest.mark.parametrize(("vector", "said"), [(np.zeros(3), "200 numbers"), (np.full(200, np.nan), "finite"),
                                              (np.full(200, np.inf), "finite")])
def test_numbers_that_are_none_are_refused(vector, said):
    with pytest.raises(ValueError, match=said): embed(tags=sounding(vector))


@pytest.mark.parametrize("text", ["", "\n\n", "!!! ??? ...", "🎤🔥", "bcdfg hjklm", "дом and кот", "a", "ю" * 5_000, "\0\x07"])
def test_odd_words(text):
    read = lyrics(text)
    if read.vector is None:
        assert wording(read) is None
        return
    assert abs(np.linalg.norm(embed(lyrics=read)) - 1) < 1e-5


@pytest.mark.parametrize("sr", [8_000, 16_000, 44_100, 48_000, 96_000, 192_000])
def test_the_rate_hardly_matters(sr):
    _, clip, beat, _ = song()
    other = Clip(np.clip(soxr.resample(clip.samples, clip.sr, sr), -1, 1), sr)
    a, b = (place("rhythm", rhythm(c, beat)) for c in (clip, other))
    assert a @ b > (0.6 if sr == 8_000 else 0.9), float(a @ b)         # at 8 kHz the hats are gone


def test_curves_that_are_there_already_are_not_made_again(monkeypatch):
    import rap_analyzer.music.embedding as module
    _, clip, beat, _ = song()
    alone, curves = rhythm(clip, beat), onset_curves(clip)
    monkeypatch.setattr(module, "onset_curves", lambda *_: pytest.fail("made twice"))
    assert (rhythm(clip, beat, curves) == alone).all()


def test_no_pulse_no_rhythm():
    clip = Clip(np.zeros(22_050 * 4, np.float32), 22_050)
    assert rhythm(clip, tempo(clip)) is None
    assert rhythm(clip, Tempo(90.0, np.arange(3) * 0.66, 1.0, ((90.0, 1.0),))) is None


@pytest.mark.parametrize("bpm", [61, 112, 221, 240, 280])
@pytest.mark.parametrize("seconds", [3, 4, 9])
def test_a_short_clip_of_any_tempo_has_a_rhythm_or_none(bpm, seconds):
    "Folding a fast pulse once more would leave less than one bar, and the mean of no bars is no number."
    beats = np.arange(0.02, seconds, 60 / bpm)
    noise = Clip(np.random.default_rng(7).uniform(-0.3, 0.3, seconds * 22_050), 22_050)
    found = rhythm(noise, Tempo(float(bpm), beats, 1.0, [(float(bpm), 1.0)]))
    assert (found is None) == (len(beats) < 8)
    if found is not None: assert found.shape == (58,) and np.isfinite(found).all() and embed(rhythm=found).shape == (512,)


def test_an_octave_is_no_distance():
    _, clip, beat, _ = song()
    np.testing.assert_allclose(circle(((71.0, 1.0),)), circle(((142.0, 1.0),)), atol=1e-9)
    faster = replace(beat, bpm=2 * beat.bpm, beats=np.sort(np.concatenate([beat.beats, (beat.beats[1:] + beat.beats[:-1]) / 2])),
                     candidates=tuple((2 * b, w) for b, w in beat.candidates))
    a, b = (place("rhythm", rhythm(clip, t)) for t in (beat, faster))
    assert a @ b > 0.85, float(a @ b)
    assert len(folded(np.arange(40) * 60 / 170, np.zeros(2_000))) == 20


def test_what_ships_is_what_the_rows_give():
    made = script().fitted(heard())
    for n in PLACES:
        x = heard()[n][:200].astype(np.float64)
        y = (x - made[f"{n}_mean"]) @ made[f"{n}_matrix"].astype(np.float64)
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        z = place(n, x)
        # an axis of a pair of equal spread may turn, a cosine may not
        np.testing.assert_allclose(y @ y.T, z @ z.T, atol=5e-3)
        assert recipe()[n][1].shape == (x.shape[1], PLACES[n].stop - PLACES[n].start)


def test_the_script_would_hear_the_same_tracks_in_the_same_order():
    facts, column = heard()["facts"], script().COLUMNS.index
    assert facts[:, [column("track"), column("part")]].tolist() == [list(row) for row in script().wanted() for _ in range(2)]


def test_the_rows_are_what_is_heard():
    columns = script().COLUMNS.index
    facts = heard()["facts"]
    for i in (0, 1, len(facts) // 2 // 2 * 2 + 1):
        t, version = track(int(facts[i, columns("track")])), facts[i, columns("version")]
        clip, words = list(script().versions(t, script().WAYS[facts[i, columns("way")]]))[version]
        for n, x in script().parts(clip, words).items():
            assert place(n, x) @ place(n, heard()[n][i].astype(np.float32)) > 0.97, (n, t.id, version)


def test_the_whole_finds_more_than_its_parts_on_artists_that_were_held_back():
    facts = heard()["facts"]
    asked, offered = (np.flatnonzero((facts[:, 5] == 0) & (facts[:, 6] == v)) for v in (1, 0))
    rows = {n: place(n, heard()[n].astype(np.float32)) for n in PLACES}
    same = lambda c: facts[asked, c][:, None] == facts[offered, c]
    artist = {n: retrieval(x[asked], x[offered], same(1), same(0))["mrr"] for n, x in (rows | {"whole": join(rows)}).items()}
    style = {n: retrieval(x[asked], x[offered], same(2), same(0))["recall"] for n, x in (rows | {"whole": join(rows)}).items()}
    assert max(artist, key=artist.get) == "whole", artist
    assert style["whole"] > 0.9 and style["lyrics"] < style["whole"] - 0.2, style
    assert set(facts[facts[:, 5] == 0, 1].tolist()).isdisjoint(facts[facts[:, 5] == 2, 1].tolist())


def test_noise_shrinks_and_signal_stays():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(300, 4))
    _, matrix = fit(a, a + rng.normal(size=(300, 4)) * [0.05, 0.05, 0.05, 3], 3, ball=0.001)
    assert np.abs(matrix[3]).max() < np.abs(matrix[:3]).max() / 10


def test_every_style_has_a_groove_of_its_own():
    moves = {}
    for g in GENRES:
        clip = render(next(t for t in tracks(0, 400) if t.genres[0] == g), 12)
        moves[g] = place("rhythm", rhythm(clip, tempo(clip)))
    X = np.stack(list(moves.values()))
    assert (X @ X.T - np.eye(len(X))).max() < 0.95
