"""Borrowed ears: fetched by hash, converted once, whole or not at all, and robust to any sound."""

import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from functools import lru_cache

import numpy as np
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.music import tags as module
from rap_analyzer.music.audio import BadAudio, Clip
from rap_analyzer.music.catalog import GENRES, tracks
from rap_analyzer.music.render import render
from rap_analyzer.music.tags import MOST, SR, TAGS, chosen, cut, fetch, hear, kept, package, picture, session, shelf

FETCH = "import sys; from pathlib import Path; from rap_analyzer.music.tags import fetch; print(fetch('msd', Path(sys.argv[1])))"


@lru_cache(maxsize=1)
def clips():
    "Twelve seconds of each style."
    return {g: render(next(t for t in tracks(0, 400) if t.genres[0] == g), 12) for g in GENRES}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The real package under the name that pip looks for, in a folder of its own."
    fetch()
    folder = tmp_path_factory.mktemp("mirror")
    with module.alone(shelf()): shutil.copy(package(shelf()), folder / "musicnn-0.1.0-py3-none-any.whl")
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
    with pytest.raises(LabError, match="hash differs.*refused"): fetch("msd", cache)
    assert sorted(p.name for p in cache.iterdir()) == ["lock"], "something of a refused package was kept"


def test_without_network_and_cache_the_error_says_what_to_do(mirror, tmp_path):
    mirror(tmp_path / "nowhere")
    with pytest.raises(LabError, match="connect once"): fetch("msd", tmp_path / "cache")
    with pytest.raises(LabError, match="cannot keep"): fetch("msd", "/dev/null/cache")


def test_two_processes_fetch_and_convert_once(mirror, tmp_path, wheel):
    mirror(wheel)
    both = [subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {p.communicate(timeout=240)[0].strip() for p in both}
    assert [p.returncode for p in both] == [0, 0] and len(said) == 1
    assert sorted(p.suffix for p in tmp_path.iterdir()) == ["", ".onnx", ".whl"], "drafts were left behind"
    assert kept("msd", tmp_path).read_bytes() == fetch().read_bytes(), "the same weights gave another file"


def test_a_damaged_file_is_made_again_without_network(mirror, tmp_path, wheel):
    mirror(wheel)
    file = fetch("msd", tmp_path)
    whole = file.read_bytes()
    mirror(tmp_path / "nowhere")
    for damaged in (whole[:1_000], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert kept("msd", tmp_path) is None
        assert fetch("msd", tmp_path).read_bytes() == whole
    (tmp_path / "musicnn.whl").write_bytes(b"PK")
    file.unlink()
    with pytest.raises(LabError, match="connect once"): fetch("msd", tmp_path)


def test_a_tone_a_drum_and_noise_are_told_apart():
    t = np.arange(6 * SR) / SR
    drone = sum(np.sin(2 * np.pi * hz * t) for hz in (110, 165, 220, 277, 330)) / 6 * np.minimum(1, t / 2)
    said = {name: dict(zip(TAGS["msd"], hear(c)["tags"].mean(axis=0), strict=True)) for name, c in
            {"drone": Clip(drone, SR), "trap": clips()["trap"]}.items()}
    assert said["drone"]["ambient"] > 2 * said["trap"]["ambient"]
    assert max(said["trap"], key=said["trap"].get) == "electronic"


def test_the_picture_does_not_depend_on_the_rate_of_the_file():
    import soxr
    clip = clips()["boom bap"]
    for sr in (16_000, 44_100, 192_000):
        x = soxr.resample(clip.samples, clip.sr, sr)
        other = Clip(np.clip(x, -1, 1), sr)
        assert np.abs(picture(cut(other, 1)) - picture(cut(clip, 1))).mean() < 0.02, sr


def test_a_picture_is_a_part_of_the_whole():
    "Cut out and resampled by itself, or cut from the picture of the whole clip: the same."
    clip, n = render(next(iter(tracks(7, 8))), 12, sr=SR), module.PATCH
    from rap_analyzer.music.audio import spectrogram
    whole = np.log10(10_000 * (module.bands() @ spectrogram(clip, module.SIZE, module.HOP)) + 1).T
    for i in (1, 2, 3): np.testing.assert_allclose(picture(cut(clip, i)), whole[i * n:(i + 1) * n], atol=1e-4)


@pytest.mark.parametrize("n, sr", [(1, 8_000), (2, 8_000), (700, 8_000), (9_000, 1_000), (40_000, 768_000)])
def test_any_length_and_rate_gives_a_picture(n, sr):
    got = picture(cut(Clip(np.random.default_rng(n).uniform(-1, 1, n), sr), 0))
    assert got.shape == (187, 96) and got.dtype == np.float32 and np.isfinite(got).all() and got.max() > 0


def test_silence_is_refused_and_a_bad_number_of_patches_too():
    with pytest.raises(BadAudio, match="silence"): hear(Clip(np.zeros(SR * 4), SR))
    with pytest.raises(ValueError, match="at least one"): chosen(Clip(np.ones(9), SR), 0)
    with pytest.raises(ValueError, match="expected one of"): session("vgg")


def test_an_hour_is_looked_at_in_places_and_in_bounded_memory():
    hour = Clip(np.resize(clips()["drill"].samples, 3_600 * 22_050), 22_050)
    assert len(chosen(hour)) == MOST and max(np.diff(chosen(hour))) - min(np.diff(chosen(hour))) <= 1
    tracemalloc.start()
    assert hear(hour, patches=4)["tags"].shape == (4, 50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6, f"{peak / 1e6:.0f} MB beside an hour of sound"
