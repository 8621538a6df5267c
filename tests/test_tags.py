"""Borrowed ears: fetched by hash, converted once, whole or not at all, and robust to any sound."""

import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from functools import lru_cache
from hashlib import sha256

import numpy as np
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.music import tags as module
from rap_analyzer.music import weights
from rap_analyzer.music.audio import BadAudio, Clip
from rap_analyzer.music.catalog import GENRES, MOODS, SIZE, tracks
from rap_analyzer.music.render import render
from rap_analyzer.music.tags import (
    FAMILIES,
    MAX_PATCHES,
    MOOD_TAGS,
    SR,
    TAGS,
    apply_head,
    choose_patches,
    cut_patch,
    distance,
    draw_patch,
    draw_patches,
    infer,
    infer_clip,
    load_heads,
    score_families,
    strangeness,
    tags,
)
from rap_analyzer.music.weights import cache_folder, fetch_network, fetch_package, find_converted, load_session

FETCH = """import sys; from hashlib import sha256
from pathlib import Path; from rap_analyzer.music.weights import fetch_network
print(fetch_network('msd', Path(sys.argv[1])))"""


@lru_cache(maxsize=1)
def clips():
    "Twelve seconds of each style."
    return {g: render(next(t for t in tracks(0, 400) if t.genres[0] == g), 12) for g in GENRES}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The real package under the name that pip looks for, in a folder of its own."
    fetch_network()
    folder = tmp_path_factory.mktemp("mirror")
    with weights.lock_folder(cache_folder()): shutil.copy(fetch_package(cache_folder()), folder / "musicnn-0.1.0-py3-none-any.whl")
    return folder


@pytest.fixture
def mirror(monkeypatch):
    "No index but the folder that is named."
    def only(folder):
        for name in [n for n in os.environ if n.startswith("PIP_")]: monkeypatch.delenv(name)
        for name, value in (("PIP_CONFIG_FILE", os.devnull), ("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder))):
            monkeypatch.setenv(name, value)
    return only


def test_another_package_of_that_name_is_refused(mirror, tmp_path, wheel):
    fake, cache = tmp_path / "fake", tmp_path / "cache"
    shutil.copytree(wheel, fake)
    with zipfile.ZipFile(fake / "musicnn-0.1.0-py3-none-any.whl", "a") as z: z.writestr("musicnn/extra.py", "")
    mirror(fake)
    with pytest.raises(LabError, match="hash differs.*refused"): fetch_network("msd", cache)
    assert sorted(p.name for p in cache.iterdir()) == ["lock"], "something of a refused package was kept"


def test_without_network_and_cache_the_error_says_what_to_do(mirror, tmp_path, monkeypatch):
    mirror(tmp_path / "nowhere")
    with pytest.raises(LabError, match="connect once"): fetch_network("msd", tmp_path / "cache")
    asked = []
    monkeypatch.setattr(weights.subprocess, "run", lambda *a, **k: asked.append(a))
    for _ in range(100):
        with pytest.raises(LabError, match="connect once"): fetch_network("msd", tmp_path / "cache")
    assert not asked, "every file of a folder waited for the network again"
    with pytest.raises(LabError, match="cannot keep"): fetch_network("msd", "/dev/null/cache")


def test_two_processes_fetch_and_convert_once(mirror, tmp_path, wheel):
    mirror(wheel)
    both = [subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {p.communicate(timeout=240)[0].strip() for p in both}
    assert [p.returncode for p in both] == [0, 0] and len(said) == 1
    assert sorted(p.suffix for p in tmp_path.iterdir()) == ["", ".onnx", ".whl"], "drafts were left behind"
    assert find_converted("msd", tmp_path).read_bytes() == fetch_network().read_bytes(), "the same weights gave another file"


def test_a_damaged_file_is_made_again_without_network(mirror, tmp_path, wheel):
    mirror(wheel)
    file = fetch_network("msd", tmp_path)
    whole = file.read_bytes()
    mirror(tmp_path / "nowhere")
    for damaged in (whole[:1_000], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert find_converted("msd", tmp_path) is None
        assert fetch_network("msd", tmp_path).read_bytes() == whole
    forged = tmp_path / f"msd-2-{sha256(b'forged').hexdigest()[:16]}.onnx"
    forged.write_bytes(b"forged")
    file.unlink()
    assert find_converted("msd", tmp_path) is None and not forged.exists(), "a file was checked against its own name"
    fetch_network("msd", tmp_path)
    (tmp_path / "musicnn.whl").write_bytes(b"PK")
    file.unlink()
    with pytest.raises(LabError, match="connect once"): fetch_network("msd", tmp_path)


def test_a_tone_a_drum_and_noise_are_told_apart():
    t = np.arange(6 * SR) / SR
    drone = sum(np.sin(2 * np.pi * hz * t) for hz in (110, 165, 220, 277, 330)) / 6 * np.minimum(1, t / 2)
    said = {name: dict(zip(TAGS["msd"], infer_clip(c)["tags"].mean(axis=0), strict=True)) for name, c in
            {"drone": Clip(drone, SR), "trap": clips()["trap"]}.items()}
    assert said["drone"]["ambient"] > 2 * said["trap"]["ambient"]
    assert max(said["trap"], key=said["trap"].get) == "electronic"


def test_the_picture_does_not_depend_on_the_rate_of_the_file():
    import soxr
    clip = clips()["boom bap"]
    for sr in (16_000, 44_100, 192_000):
        x = soxr.resample(clip.samples, clip.sr, sr)
        other = Clip(np.clip(x, -1, 1), sr)
        assert np.abs(draw_patch(cut_patch(other, 1)) - draw_patch(cut_patch(clip, 1))).mean() < 0.02, sr


def test_a_picture_is_a_part_of_the_whole():
    "Cut out and resampled by itself, or cut from the picture of the whole clip: the same."
    clip, n = render(next(iter(tracks(7, 8))), 12, sr=SR), module.PATCH
    from rap_analyzer.music.spectrum import spectrogram
    whole = np.log10(10_000 * (module.slaney_filters() @ spectrogram(clip, module.SIZE, module.HOP)) + 1).T
    for i in (1, 2, 3): np.testing.assert_allclose(draw_patch(cut_patch(clip, i)), whole[i * n:(i + 1) * n], atol=1e-4)


@pytest.mark.parametrize("n, sr", [(1, 8_000), (2, 8_000), (700, 8_000), (9_000, 1_000), (40_000, 768_000)])
def test_any_length_and_rate_gives_a_picture(n, sr):
    got = draw_patch(cut_patch(Clip(np.random.default_rng(n).uniform(-1, 1, n), sr), 0))
    assert got.shape == (187, 96) and got.dtype == np.float32 and np.isfinite(got).all() and got.max() > 0


def test_silence_is_refused_and_a_bad_number_of_patches_too():
    with pytest.raises(BadAudio, match="silence"): infer_clip(Clip(np.zeros(SR * 4), SR))
    with pytest.raises(ValueError, match="at least one"): choose_patches(Clip(np.ones(9), SR), 0)
    with pytest.raises(ValueError, match="expected one of"): load_session("vgg")


def test_an_hour_is_looked_at_in_places_and_in_bounded_memory():
    hour = Clip(np.resize(clips()["drill"].samples, 3_600 * 22_050), 22_050)
    assert len(choose_patches(hour)) == MAX_PATCHES and max(np.diff(choose_patches(hour))) - min(np.diff(choose_patches(hour))) <= 1
    tracemalloc.start()
    assert infer_clip(hour, patches=4)["tags"].shape == (4, 50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6, f"{peak / 1e6:.0f} MB beside an hour of sound"


def whole(guess, labels):
    "Is it a guess over all of these labels?"
    return set(guess.scores) == set(labels) and abs(sum(guess.scores.values()) - 1) < 1e-9 and (
        guess.confidence == max(guess.scores.values()) == guess.scores[guess.label])


def test_rendered_tracks_get_their_style_and_no_warning():
    "Songs beyond the catalog, which nobody trained on. Synthetic: it shows that the parts fit together, not that styles are heard."
    songs = [next(t for t in tracks(SIZE, SIZE + 200) if t.genres[0] == g) for g in GENRES]
    for t in songs:
        found = tags(render(t, 9))
        assert (found.genre.label, found.warnings) == (t.genres[0], ()), found
        assert found.genre.confidence > 0.8 and found.mood.confidence < 0.8, "moods are not heard: nobody may be sure of one"
        assert whole(found.genre, (*GENRES, *FAMILIES)) and whole(found.mood, MOODS)
        assert found.vector.shape == (200,) and found.vector.dtype == np.float32 and len(found.top) == 10
        assert found.top == sorted(found.top, key=lambda pair: -pair[1]) and found.distance < 2


def test_one_patch_agrees_with_all_on_rendered_tracks():
    for g, clip in clips().items():
        one, every = tags(clip, patches=1), tags(clip)
        assert one.genre.label == every.genre.label == g
        assert one.vector @ every.vector > 0.9 * np.linalg.norm(one.vector) * np.linalg.norm(every.vector)


def strange():
    "Sounds that no renderer of ours makes."
    rng, t = np.random.default_rng(4), np.arange(8 * SR) / SR
    plucked = np.zeros(len(t))
    for i in range(30):
        n = min(SR, len(t) - 4_000 * i)
        hz, s = 220 * 2 ** (rng.choice((0, 3, 5, 7, 10, 12)) / 12), np.arange(max(0, n)) / SR
        plucked[4_000 * i:4_000 * i + n] += sum(np.sin(2 * np.pi * hz * k * s) / k * np.exp(-3 * s * k**0.5) for k in range(1, 8))
    held = sum(np.sin(2 * np.pi * hz * t) for hz in (110, 165, 220, 277, 330))
    return {"hiss": rng.uniform(-0.3, 0.3, len(t)), "tone": 0.5 * np.sin(2 * np.pi * 440 * t), "held chord": held / 6,
            "plucked strings": plucked / np.abs(plucked).max()}


@pytest.mark.parametrize("name", strange())
def test_strangers_get_a_family_a_warning_and_little_style(name):
    clip = Clip(strange()[name].astype(np.float32), SR)
    found, vector = tags(clip), infer_clip(clip)["penultimate"].mean(axis=0)
    assert found.genre.label in FAMILIES and sum(found.genre.scores[g] for g in GENRES) < 0.2
    assert "unlike anything" in found.warnings[0] and whole(found.genre, (*GENRES, *FAMILIES)) and whole(found.mood, MOODS)
    assert max(apply_head("genre", vector).values()) > 0.5, "the head alone would have been sure: that is why a distance is needed"


def test_a_clip_between_the_styles_and_the_strangers_gets_a_doubt(monkeypatch):
    found = tags(clips()["drill"])
    assert found.warnings == () and found.distance < module.DOUBTFUL
    monkeypatch.setattr(module, "distance", lambda vector: 2.0)
    (said,) = tags(clips()["drill"]).warnings
    assert "not much like" in said and "2.0" in said
    monkeypatch.setattr(module, "distance", lambda vector: 9.0)
    monkeypatch.setattr(module, "merge_vocabularies", lambda words, seen: dict.fromkeys(words, 0.15))
    strange, faint = tags(clips()["drill"]).warnings
    assert "unlike anything" in strange and "no genre is clear" in faint and "15%" in faint


def test_every_tag_that_is_asked_for_is_in_a_vocabulary_and_every_mood_has_one():
    known = {t for words in TAGS.values() for t in words}
    for table in (FAMILIES, MOOD_TAGS):
        assert {t for words in table.values() for t in words.split("|")} <= known
    assert set(MOOD_TAGS) == set(MOODS) and set(load_heads()["usual"]) == known
    assert score_families({"classical": 0.7, "jazz": 0.2, "rock": 0.1})["classical"] == pytest.approx(0.5 / (0.54 + 0.15))
    assert score_families({"Hip-Hop": 0.15})["hip-hop"] < 0.25, "of an audio book: the only tag, and a faint one"
    assert sum(score_families({}).values()) == pytest.approx(1)


def test_strangeness_grows_with_distance_and_leaves_the_styles_something():
    values = [strangeness(d) for d in (0, 0.8, 1.5, load_heads()["seen"]["middle"], 5, 1e6)]
    assert values == sorted(values) and values[1] < 0.05 and values[3] == pytest.approx(0.475) and values[-1] == 0.95


def test_the_heads_file_says_what_it_was_made_of_and_can_be_read_without_scikit_learn():
    made = load_heads()["made"]
    assert made["wheel"] == weights.WHEEL_SHA256 and made["synthetic"] is True and made["genre_test"] > 0.9
    code = "import sys, rap_analyzer.music.tags as t; t.load_heads(); print(sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)
    for heavy in ("sklearn", "onnx", "onnxruntime", "matplotlib.pyplot", "pandas", "scipy"):
        assert f"'{heavy}'" not in loaded, heavy


def test_the_card_tells_what_the_file_tells():
    "Both come from one run of scripts/train_tags.py."
    card = (module.files("rap_analyzer.music") / "heads.md").read_text(encoding="utf-8")
    made = load_heads()["made"]
    for words in (f"{made['tracks']:,} catalog tracks", f"{made['genre_test']:.1%} | {made['mood_test']:.1%}", "synthetic",
                  "No class was tested on a real recording"):
        assert words in card, words


def test_a_short_clip_is_said_to_be_short():
    found = tags(Clip(clips()["trap"].samples[:22_050], 22_050))
    assert any("only 1.00 s" in w for w in found.warnings) and whole(found.mood, MOODS)


def test_distance_uses_what_was_trained_on():
    seen = load_heads()["seen"]
    centre = seen["centres"][2] * seen["scale"] + seen["mean"]
    assert distance(centre) < 1e-6
    off = np.random.default_rng(1).standard_normal(200)
    assert distance(centre + 3 * off * seen["scale"]) > distance(centre + off * seen["scale"]) > 1


def test_windows_that_are_left_out_change_nothing():
    import onnxruntime
    with weights.lock_folder(cache_folder()): archive = fetch_package(cache_folder())
    for model in TAGS:
        complete = onnxruntime.InferenceSession(weights.convert(weights.load_weights(archive, model), still=-1))
        lean, seen = load_session(model), draw_patches(clips()["drill"])[:2]
        assert len(lean.run(["front"], {"mel": seen[:1]})[0][0]) < len(complete.run(["front"], {"mel": seen[:1]})[0][0]) == 561
        for x in (seen, np.zeros_like(seen), 3 * seen):
            ours, theirs = (s.run(["tags", "penultimate"], {"mel": x}) for s in (lean, complete))
            for a, b in zip(ours, theirs, strict=True): np.testing.assert_allclose(a, b, atol=1e-4)


def test_pictures_are_looked_at_one_by_one():
    seen = draw_patches(clips()["g-funk"])
    alone_ = np.concatenate([infer(seen[i:i + 1])["tags"] for i in range(len(seen))])
    np.testing.assert_array_equal(alone_, infer(seen)["tags"])
