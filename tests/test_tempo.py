"""Tempo and beats: right on what we made ourselves, octave included; steady when the sound suffers; never a crash on odd sound."""

import gc
import importlib.util
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from rap_analyzer.music.arrangement import beats
from rap_analyzer.music.audio import Clip, save, sections
from rap_analyzer.music.catalog import GENRES, tracks
from rap_analyzer.music.render import SR, render
from rap_analyzer.music.tempo import (
    GRID,
    Tempo,
    apply_prior,
    estimate_probabilities,
    load_networks,
    onset_curves,
    rank_candidates,
    tempo,
    tempo_of_sections,
    track_beats,
)

ROOT = Path(__file__).resolve().parents[1]
HUMAN = ROOT.parent / "shared" / "data" / "groove_midi"


def script(name):
    "One of scripts/*.py as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evaluation = script("eval_tempo")


@lru_cache(maxsize=32)
def song(style, nth=0):
    "A track of a style, and 20 s of it."
    t = [t for t in tracks(50_000, 50_400) if t.genres[0] == style][nth]
    return t, render(t, 20)


def near(said, truth, share=0.04): return abs(said / truth - 1) < share


@pytest.mark.parametrize("style", GENRES)
def test_rendered_tracks_have_their_tempo_octave_and_beats(style):
    for nth in range(3):
        track, clip = song(style, nth)
        found = tempo(clip)
        assert near(found.bpm, track.bpm, 0.01), f"{style}: {found} for {track.bpm}"
        assert (np.diff(found.beats) > 0).all() and found.beats[0] >= 0 and found.beats[-1] <= clip.seconds
    assert evaluation.f_measure(found.beats, beats(track, 20)) > 0.9


def test_the_first_candidate_is_the_answer_and_weights_are_odds():
    track, clip = song("trap")
    found = tempo(clip)
    bpm, weight = found.candidates[0]
    assert near(found.bpm, bpm) and weight == pytest.approx(found.confidence)
    shares = [w for _, w in found.candidates]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-6 and 1 <= len(shares) <= 5
    for i, (a, _) in enumerate(found.candidates):
        assert not any(near(a, b, 0.015) for b, _ in found.candidates[i + 1:]), "one tempo twice"
    assert json.dumps(found.candidates) and f"{found.bpm:.1f} BPM" in repr(found)


def test_confidence_is_low_where_candidates_are_close():
    p = np.full(len(GRID), 1e-6)
    p[[20, 55]] = 0.5, 0.48
    (first, a), (second, b), *_ = rank_candidates(p / p.sum())
    assert near(second / first, 2, 0.02) and a < 0.55 and b > 0.4
    assert rank_candidates(np.eye(len(GRID))[0])[0] == (pytest.approx(GRID[0]), pytest.approx(1))


def test_a_tempo_between_two_candidates_is_read_between_them():
    p = np.zeros(len(GRID))
    p[40:42] = 0.5
    assert GRID[40] < rank_candidates(p)[0][0] < GRID[41]


@pytest.mark.parametrize("name", sorted(evaluation.DEGRADE))
def test_it_survives_what_happens_to_music(name):
    right = []
    for style in GENRES:
        track, clip = song(style)
        piece = evaluation.worse(evaluation.Piece("", style, "", clip, track.bpm, None), name)
        right.append(evaluation.right(tempo(piece.clip).bpm, track.bpm))
    acc1, acc2 = np.sum(right, axis=0)
    assert acc1 >= (4 if name == "muffled" else 5) and acc2 >= 5, f"{acc1} and {acc2} of 6 after {name}"


@pytest.mark.parametrize("sr", (8_000, 11_025, 16_000, 44_100, 48_000, 192_000))
def test_any_rate(sr):
    import soxr
    track, clip = song("boom bap")
    assert near(tempo(Clip(soxr.resample(clip.samples, SR, sr).clip(-1, 1), sr)).bpm, track.bpm, 0.01)


def test_curves_that_exist_are_not_made_again(monkeypatch):
    import rap_analyzer.music.tempo as module
    _, clip = song("g-funk")
    alone, curves = tempo(clip), onset_curves(clip)
    monkeypatch.setattr(module, "spectrogram", lambda *_: pytest.fail("made twice"))
    assert (tempo(clip, curves).beats == alone.beats).all()


NOTHING = {
    "silence": np.zeros(5 * SR), "one sample": np.zeros(1), "a constant": np.full(6 * SR, 0.5), "a second": np.sin(np.arange(SR)),
    "one click": np.eye(1, 8 * SR, 4 * SR)[0],
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_pulse_is_no_error(name):
    found = tempo(Clip(NOTHING[name].astype(np.float32), SR))
    assert (found.bpm, len(found.beats), found.confidence, found.candidates) == (0.0, 0, 0.0, [])


def test_noise_and_aimless_strokes_make_it_doubt():
    rng = np.random.default_rng(7)
    noise = Clip(rng.uniform(-0.5, 0.5, 15 * SR).astype(np.float32), SR)
    x, fade = np.zeros(20 * SR), np.exp(-np.arange(2_000) / 400)
    for at in np.cumsum(rng.exponential(0.35, 40)):
        if at < 19.5: x[int(at * SR):][:2_000] += rng.uniform(0.2, 0.9) * rng.normal(0, 0.3, 2_000) * fade
    aimless = Clip((x / np.abs(x).max()).astype(np.float32), SR)
    sure = min(tempo(song(g)[1]).confidence for g in GENRES)
    assert tempo(noise).confidence < 0.5 and tempo(aimless).confidence < 0.6 < sure


def test_short_and_quiet_clips():
    track, clip = song("boom bap")
    assert tempo(Clip(clip.samples[: 3 * SR], SR)).bpm > 0
    assert near(tempo(Clip(clip.samples * np.float32(0.003), SR)).bpm, track.bpm, 0.01)


def test_a_prior_decides_the_octave_and_is_checked():
    track, clip = song("trap")
    assert near(tempo(clip, prior=(track.bpm / 2, 0.15)).bpm, track.bpm / 2)
    assert apply_prior(np.full(len(GRID), 1 / 96), 100, 1).sum() == pytest.approx(1)
    for wrong in ((0, 1), (1_000, 1), (100, 0), (float("nan"), 1)):
        with pytest.raises(ValueError, match="30 to 300"): tempo(clip, prior=wrong)


def test_long_files_are_heard_in_sections(tmp_path):
    track, clip = song("drill")
    long = np.concatenate([render(track, 100).samples, np.zeros(20 * SR, np.float32)])
    file = save(Clip(long, SR), tmp_path / "long.wav")
    found, whole = tempo_of_sections(sections(file)), tempo(Clip(long, SR))
    assert near(found.bpm, track.bpm, 0.005) and near(whole.bpm, track.bpm, 0.005) and not found.warnings
    assert evaluation.f_measure(found.beats[found.beats < 100], beats(track, 100)) > 0.9
    assert (np.diff(found.beats) > 0.5 * 60 / found.bpm).all(), "a beat twice where sections meet"


def test_a_change_of_tempo_is_told():
    slow, fast = song("crunk")[0], song("drill")[0]
    x = np.concatenate([render(replace(fast, bpm=141.0), 60).samples, render(replace(slow, bpm=96.0), 30).samples])
    found = tempo(Clip(x, SR))
    assert near(found.bpm, 141) and len(found.warnings) == 1 and found.warnings[0].startswith("60 s: sounds like 9")
    late = found.beats[found.beats > 65]
    assert near(60 / np.median(np.diff(late)), 96, 0.02), "the odd section keeps beats of its own"


def test_one_section_in_memory_at_a_time():
    alive, most = [], 0

    def stream():
        nonlocal most
        for _ in range(12):
            clip = Clip(song("boom bap")[1].samples.copy(), SR)
            alive.append(weakref.ref(clip))
            gc.collect()
            most = max(most, sum(r() is not None for r in alive))
            yield clip

    assert near(tempo_of_sections(stream()).bpm, song("boom bap")[0].bpm) and most <= 3
    assert tempo_of_sections([]).bpm == 0


def test_path_prefers_even_steps_to_a_louder_place():
    chance = np.full(400, 0.02)
    chance[5::40] = 0.9
    chance[65] = 0.95  # in the middle, louder
    assert (np.diff(track_beats(chance, 40)) == 40).all()


def test_four_registers_hear_different_pieces():
    from rap_analyzer.music.render import drums
    loudest = [onset_curves(drums([(0.5, number, 120)], seconds=2)).max(axis=1).argmax() for number in (36, 42)]
    assert loudest[0] in (0, 1) and loudest[1] == 3
    assert estimate_probabilities(onset_curves(song("trap")[1])).sum() == pytest.approx(1)


def test_light():
    heavy = subprocess.check_output([sys.executable, "-c", """if True:
        import sys, rap_analyzer.music.tempo
        print(*(m for m in ("scipy", "pandas", "librosa", "mir_eval", "numba") if m in sys.modules))"""], text=True)
    assert not heavy.strip()


def test_weights_can_be_made_anew(tmp_path, monkeypatch):
    import rap_analyzer.music.tempo as module
    out = tmp_path / "tempo.json"
    call = [sys.executable, "scripts/train_tempo.py", "--songs", "500", "--networks", "1", "--listeners", "1", "--epochs", "3"]
    call += ["--out", str(out)]
    assert "feels never met" in subprocess.run(call, cwd=ROOT, check=True, text=True, capture_output=True, timeout=120).stdout
    shape = lambda nets: [[np.shape(w) for w, _ in net] for net in nets][:1]
    made, shipped = json.loads(out.read_text()), load_networks()
    assert shape(made["tempo"]) == shape(shipped["tempo"]) and shape(made["beat"]) == shape(shipped["beat"])
    load = lambda nets: tuple(tuple((np.array(w, np.float32), np.array(b, np.float32)) for w, b in net) for net in nets)
    monkeypatch.setattr(module, "load_networks", lambda: {k: load(made[k]) for k in ("tempo", "beat")})
    right = sum(evaluation.right(tempo(song(g)[1]).bpm, song(g)[0].bpm)[1] for g in GENRES)
    assert right >= 4, f"{right} of 6 up to an octave, after 500 songs"


def test_the_shipped_weights_are_those_of_the_script_as_it_is():
    made, train = json.loads((ROOT / "rap_analyzer/music/tempo.json").read_text())["made"], script("train_tempo")
    assert {name: made[name] for name in train.USUAL} == {name: usual for name, (usual, _) in train.USUAL.items()}
    np.testing.assert_allclose(train.first(made["seed"]), made["first"], rtol=1e-3, atol=1e-4)
    assert (len(load_networks()["tempo"]), len(load_networks()["beat"])) == (made["networks"], made["listeners"])


def test_the_evaluation_prints_its_tables():
    call, how = [sys.executable, "scripts/eval_tempo.py"], {"cwd": ROOT, "text": True, "capture_output": True, "timeout": 120}
    said = subprocess.run([*call, "--rendered", "6", "--seconds", "12"], **how)
    assert said.returncode == 0 and all(word in said.stdout for word in ("Acc1", "crunk", "synthetic")), said.stderr
    wrong = subprocess.run([*call, "--data", "/nowhere"], **how)
    assert wrong.returncode == 2 and "--rendered" in wrong.stderr


@pytest.mark.skipif(not HUMAN.exists(), reason=f"no human performances at {HUMAN}")
def test_human_drummers():
    rows = [evaluation.judge(p, tempo(p.clip)) for p in evaluation.performances(HUMAN, 30, "boom bap", every=8)]
    acc1, acc2, f = (float(np.nanmean([r[k] for r in rows])) for k in ("Acc1", "Acc2", "F"))
    assert acc1 >= 0.8 and acc2 >= 0.94 and f >= 0.77, f"{acc1:.2f} {acc2:.2f} {f:.2f} of {len(rows)}"
    assert isinstance(tempo(song("trap")[1]), Tempo)
