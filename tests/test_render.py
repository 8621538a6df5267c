"""Tracks as sound: the same every time, as long as asked, in time, in key, and six styles that differ."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from rap_analyzer.music.arrangement import PATTERNS, beats, compose, grid_to_seconds
from rap_analyzer.music.audio import load, validate
from rap_analyzer.music.catalog import GENRES, SIZE, track, tracks
from rap_analyzer.music.instruments import KITS, PIECES, make_stroke
from rap_analyzer.music.render import GM, SR, drums, render
from rap_analyzer.music.spectrum import mel_spectrogram, spectrogram

PROBE = """
import hashlib, sys
from rap_analyzer.music.catalog import track
from rap_analyzer.music.render import render
print(*(hashlib.sha256(render(track(int(i)), 3).samples.tobytes()).hexdigest() for i in sys.argv[1:]))
"""


@lru_cache(maxsize=1)
def one_of_each():
    "A track of each style."
    return {g: next(t for t in tracks(0, 400) if t.genres[0] == g) for g in GENRES}


def loudness(clip): return 20 * np.log10(np.sqrt(np.mean(clip.samples.astype(float) ** 2)))


def test_the_same_in_this_process_and_another():
    ids = [t.id for t in one_of_each().values()]
    said = subprocess.check_output([sys.executable, "-c", PROBE, *map(str, ids)], text=True).split()
    here = [hashlib.sha256(render(track(i), 3).samples.tobytes()).hexdigest() for i in reversed(ids)][::-1]
    assert said == here, "the order of rendering or the process changed a sound"


def test_a_seed_is_another_take_of_the_same_song():
    song = one_of_each()["boom bap"]
    first, again, other = render(song, 3), render(song, 3, seed=None), render(song, 3, seed=8)
    assert (first.samples == again.samples).all() and (first.samples == render(song, 3, seed=7).samples).all()
    assert (first.samples != other.samples).mean() > 0.5
    assert (beats(song, 3) == beats(song, 3)).all()


@pytest.mark.parametrize("style", GENRES)
def test_length_peak_ends_and_grid(style):
    song = one_of_each()[style]
    for seconds, sr in ((0.1, SR), (3.37, 16_000), (2, 44_100)):
        clip = render(song, seconds, sr)
        assert len(clip.samples) == round(seconds * sr) and clip.sr == sr
        assert np.abs(clip.samples).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
        assert abs(clip.samples[0]) < 1e-3 and abs(clip.samples[-1]) < 1e-3
        steps = clip.samples.astype(np.float64) * 32_768
        assert (steps == np.rint(steps)).all(), "not on the 16-bit grid"


def test_all_styles_are_about_as_loud():
    levels = [loudness(render(t, 10)) for t in one_of_each().values()]
    assert max(levels) - min(levels) < 3 and -15 < np.mean(levels) < -9


def test_held_out_songs_and_every_kind_of_artist():
    for i in (0, 1, SIZE - 1, SIZE, SIZE + 12_345): assert render(track(i), 1).seconds == 1


@pytest.mark.parametrize("facts, says", [
    ({"genres": ("polka",)}, "one of the styles boom bap"), ({"genres": ()}, "got none"), ({"bpm": 0}, "a tempo"),
    ({"bpm": 1_000}, "a tempo"),
    ({"bpm": float("nan")}, "a tempo"), ({"bpm": None}, "a tempo"), ({"bpm": "92"}, "a tempo"), ({"swing": 0.4}, "a swing"),
    ({"swing": None}, "a swing"), ({"key": "H minor"}, "a key"), ({"key": "C dorian"}, "a key"), ({"key": ""}, "a key"),
    ({"key": None}, "a key")])
def test_facts_that_cannot_be_played(facts, says):
    with pytest.raises(ValueError, match=says): render(replace(track(42), **facts), 1)


@pytest.mark.parametrize("options, says", [
    ({"seconds": 0}, "a length"), ({"seconds": -3}, "a length"), ({"seconds": float("inf")}, "a length"),
    ({"seconds": 1e9}, "a length"), ({"seconds": None}, "a length"),
    ({"sr": 100}, "a sample rate"), ({"sr": "22050"}, "a sample rate"), ({"seed": -1}, "a seed"),
    ({"seed": 2**50}, "a seed"), ({"seed": "7"}, "a seed")])
def test_options_that_make_no_sense(options, says):
    with pytest.raises(ValueError, match=says): render(track(42), **{"seconds": 1, **options})


def test_a_second_genre_is_played_where_the_first_is_unknown():
    song = replace(track(42), genres=("polka", "crunk"))
    assert (render(song, 1).samples == render(replace(song, genres=("crunk",)), 1).samples).all()


def test_beats_are_where_the_kick_is():
    "Energy below 120 Hz rises at the first beat of each bar of a straight, tight style."
    song = one_of_each()["crunk"]
    clip, grid = render(song, 12), beats(song, 12)
    assert grid[0] == 0 and np.allclose(np.diff(grid), 60 / song.bpm) and grid[-1] < 12 <= grid[-1] + 60 / song.bpm
    low = spectrogram(clip, 512, 64)[:3].sum(axis=0)
    rise = np.maximum(np.diff(10 * np.log10(low + 1e-3)), 0)
    for bar in grid[4::4]:
        near = rise[int((bar - 0.03) * SR / 64): int((bar + 0.03) * SR / 64)].sum()
        assert near > 3, f"no kick at {bar:.2f} s"


def test_swing_moves_the_second_of_two_and_no_beat():
    steps = np.arange(0, 32)
    for swing in (0.5, 0.58, 0.67):
        at = grid_to_seconds(steps, 90, swing)
        assert np.allclose(at[::2], steps[::2] * 15 / 90)
        assert np.allclose((at[1::2] - at[::2]) * 90 / 30, swing)
        assert (np.diff(grid_to_seconds(np.arange(0, 32, 0.1), 90, swing)) > 0).all()


def test_the_bass_follows_the_key():
    "The pitch classes that the bass plays belong to the scale."
    scales = {"minor": (0, 2, 3, 5, 7, 8, 10), "major": (0, 2, 4, 5, 7, 9, 11)}
    for key in ("C minor", "F# minor", "A# major", "E major"):
        song = replace(one_of_each()["boom bap"], key=key)
        frame, _, bass, _, _ = compose(song, 20)
        roots = [b.midi for b, _ in zip(bass, range(99), strict=False)]
        scale = {(frame.tonic + s) % 12 for s in scales[key.split()[1]]}
        assert np.mean([r % 12 in scale for r in roots]) > 0.9, key
        assert min(roots) >= 20 and max(roots) <= 60


def test_styles_can_be_told_apart():
    "The nearest centroid over spectrum and variation names the style of other artists' tracks (synthetic)."
    train, test = {g: [] for g in GENRES}, {g: [] for g in GENRES}
    for t in tracks(3_000, 6_000):
        side = (train, test)[t.artist_id % 2][t.genres[0]]
        if len(side) < 4:
            picture = mel_spectrogram(render(t, 6), 20)
            side.append(np.concatenate([picture.mean(axis=1), picture.std(axis=1)]))
        if all(len(s) == 4 for half in (train, test) for s in half.values()): break
    everything = np.concatenate(list(train.values()))
    middle, spread = everything.mean(axis=0), everything.std(axis=0)
    centres = {g: ((np.array(x) - middle) / spread).mean(axis=0) for g, x in train.items()}
    named = [(g, min(centres, key=lambda c: np.square((x - middle) / spread - centres[c]).sum())) for g in GENRES for x in test[g]]
    assert np.mean([a == b for a, b in named]) >= 0.85, named


def test_patterns_say_what_makes_a_style():
    "Trap rolls, drill groups 3-3-2 and slides, lo-fi is dull, g-funk has a high line, crunk claps and shouts."
    songs = one_of_each()
    closest = {}
    for g, song in songs.items():
        at = np.unique([h.at for h in compose(song, 20)[1] if h.piece == "hat"])
        closest[g] = np.diff(at)[np.diff(at) > 0.005].min() * song.bpm / 15  # in sixteenths
    assert closest["trap"] < 0.6 and closest["lo-fi"] > 0.6
    assert "X..x..x.X..x..x." in PATTERNS["drill"]["hat"][0]
    tied = {g: sum(n.tied for n in compose(song, 20)[2]) for g, song in songs.items()}
    assert tied["drill"] > 3 and sum(tied.values()) == tied["drill"]
    assert [g for g, song in songs.items() if compose(song, 20)[4]] == ["g-funk"]
    bright = {g: mel_spectrogram(render(song, 6))[-12:].mean() for g, song in songs.items()}
    assert min(bright, key=bright.get) == "lo-fi"
    assert {"clap", "hey"} <= {h.piece for h in compose(songs["crunk"], 20)[1]}


def test_every_piece_of_every_kit_sounds():
    for style in KITS:
        for piece in PIECES:
            x = make_stroke(piece, style, 0, SR)
            assert np.isfinite(x).all() and 0.1 < np.abs(x).max() <= 1 and abs(x[-1]) < 0.01
            with pytest.raises(ValueError, match="read-only"): x[0] = 1
    for style, parts in PATTERNS.items():
        for piece, options in parts.items():
            assert piece in PIECES and all(len(o.replace(" ", "")) == 32 for o in options), (style, piece)


def test_drums_play_what_is_written_when_it_is_written():
    clip = drums([(0.5, 36, 127), (1.0, 38, 127), (1.5, 42, 127), (1.75, 36, 30)], seconds=3)
    assert clip.seconds == 3 and np.abs(clip.samples).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    loud = np.abs(clip.samples)
    assert loud[: int(0.499 * SR)].max() == 0
    for at in (0.5, 1.0, 1.5, 1.75):
        before = loud[int((at - 0.02) * SR): int((at - 0.001) * SR)].max()
        after = loud[int(at * SR): int((at + 0.03) * SR)].max()
        assert after > 2 * before + 1e-3, at
    hard, soft = (loud[int(at * SR): int((at + 0.1) * SR)].max() for at in (0.5, 1.75))
    assert soft < hard / 3, "a soft stroke is as loud as a hard one"


def test_drums_take_every_number_of_a_kit_in_any_order():
    onsets = [(0.1 * i, number, 100) for i, number in enumerate(sorted(GM))]
    assert (drums(onsets).samples == drums(reversed(onsets)).samples).all()
    assert drums(onsets).seconds == pytest.approx(onsets[-1][0] + 2)
    assert drums([(0, np.int64(36), np.float64(99))], style="trap", sr=16_000).sr == 16_000


def test_a_closed_hat_ends_an_open_one():
    rings = drums([(0, 46, 127)], seconds=1).samples
    ends = drums([(0, 46, 127), (0.1, 42, 1)], seconds=1).samples
    assert np.abs(rings[int(0.2 * SR): int(0.3 * SR)]).max() > 0.05 > np.abs(ends[int(0.2 * SR): int(0.3 * SR)]).max()


@pytest.mark.parametrize("onsets, says", [
    ([], "at least one"), ([(0, 36, 0)], "at least one"), ([(-0.1, 36, 9)], "a time"), ([(float("nan"), 36, 9)], "a time"),
    ([(1e6, 36, 9)], "a time"), ([(0, 3, 9)], "no drum has number 3"), ([(0, "kick", 9)], "no drum"),
    ([(0, 36, 128)], "a velocity"),
    ([(0, 36)], "expected .seconds"), ([7], "expected .seconds"), ([(0, None, 9)], "no drum")])
def test_drums_refuse_what_nobody_can_play(onsets, says):
    with pytest.raises(ValueError, match=says): drums(onsets)


def test_drums_options():
    with pytest.raises(ValueError, match="one of the styles"): drums([(0, 36, 9)], style="polka")
    with pytest.raises(ValueError, match="no stroke within"): drums([(5, 36, 9)], seconds=2)
    with pytest.raises(ValueError, match="a length"): drums([(0, 36, 9)], seconds=0)


def test_renders_pass_validation():
    for style, song in one_of_each().items(): assert validate(render(song, 5)) == [], style


def play(tmp_path, *words):
    "The command, in a lab whose servers need not run."
    env = {**os.environ, "RAP_LAB_HOME": str(tmp_path / "home")}
    return subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "play", *words], env=env, cwd=tmp_path, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=60)


def test_the_play_command_writes_a_file(tmp_path):
    done = play(tmp_path, "42", "--seconds", "2", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    clip = load(tmp_path / said["file"])
    assert said["file"] == "track-42.wav" and said["title"] == track(42).title
    assert (clip.samples == render(track(42), 2).samples).all() and clip.sr == said["sr"]
    assert not (tmp_path / "home").exists(), "a track of the catalog needs no server"


def test_the_play_command_says_what_is_wrong(tmp_path):
    for words, code, says in ((("42", "--out", "nowhere/a.wav"), 1, "cannot write"), (("42", "--out", "a.mp3"), 1, "ends in .wav"),
                              (("42", "--seconds", "0"), 1, "a length"), (("x",), 2, "track_id")):
        done = play(tmp_path, *words)
        assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr, done.stderr
