"""The sixth analyzer: a package of its own, installed as anybody would, found, asked, and right about what it measures."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rap_analyzer.music import plugins
from rap_analyzer.music.analyzers import FIVE, analyze
from rap_analyzer.music.audio import Clip
from rap_analyzer.music.plugins import discover
from rap_analyzer.music.worker import describe_error, stop_workers

SOURCE = Path(__file__).parent.parent / "exercises" / "plugin_loudness"


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    "The package, installed by pip into a folder, without a network."
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    what = ["--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run([*pip, *what], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def installed(target, monkeypatch):
    "As if it had been installed beside us."
    monkeypatch.syspath_prepend(str(target))
    discover(again=True)
    yield
    stop_workers()
    plugins._found_once.cache_clear()


def sine(hz=997.0, sr=48_000, seconds=12.0, loud=1.0):
    "A tone."
    return Clip(loud * np.sin(2 * np.pi * hz * np.arange(int(seconds * sr)) / sr), sr)


def test_installing_it_is_the_registration(installed):
    found = discover()
    loudness = found.plugins["loudness"]
    assert list(found.plugins) == [*FIVE, "loudness"] and not found.refused
    assert loudness.isolated and (loudness.source, loudness.version) == ("rap-loudness 1.0.0", "1.0.0")
    assert "rap_loudness" not in sys.modules                             # its code never came into this process


def test_without_it_nothing_knows_its_name():
    assert "loudness" not in discover(again=True).plugins
    text = "".join(f.read_text(encoding="utf-8") for f in (Path(plugins.__file__).parent.parent).rglob("*.py"))
    assert "rap_loudness" not in text


@pytest.mark.parametrize("clip, lufs", [
    (sine(), -3.01), (sine(loud=0.1), -23.01), (sine(sr=44_100), -3.01), (sine(sr=16_000), -3.01),  # BS.1770-4: 0 dBFS at 997 Hz
    (Clip(np.concatenate([sine().samples * 0.1, np.zeros(48_000 * 30)]), 48_000), -23.01)])  # silence does not count
def test_it_measures_what_the_standard_says(installed, clip, lufs):
    got = analyze(clip, only=["loudness"])["loudness"]
    assert got.value["lufs"] == pytest.approx(lufs, abs=0.05) and got.error is None and 0 < got.ms < 5_000


def test_range_crest_and_confidence(installed):
    sr, beat = 48_000, np.tile(np.r_[np.ones(480), np.zeros(23_520)], 20)
    steady, clicks = analyze(sine(), only=["loudness"])["loudness"], analyze(Clip(beat * 0.9, sr), only=["loudness"])["loudness"]
    assert steady.value["crest_db"] == pytest.approx(3.01, abs=0.02) and steady.value["range_lu"] < 0.1
    assert clicks.value["crest_db"] > 15 and steady.confidence == 1
    parts = np.concatenate([sine(loud=loud, seconds=10).samples for loud in (0.5, 0.125)])
    assert analyze(Clip(parts, sr), only=["loudness"])["loudness"].value["range_lu"] == pytest.approx(12.04, abs=0.5)
    assert analyze(sine(seconds=4), only=["loudness"])["loudness"].confidence < 0.5


def test_it_is_part_of_a_whole_answer(installed):
    told = analyze(sine(seconds=5)).as_dict()
    assert told["loudness"]["lufs"] < 0 and told["timing_ms"]["loudness"] > 0 and told["versions"]["loudness"] == "1.0.0"
    assert any(w.startswith("loudness: of the mono mix") for w in told["warnings"])


def test_the_contract_is_documented_where_authors_look():
    from dataclasses import fields
    chapter = (SOURCE.parent.parent / "nbs" / "analyzer" / "57_plugins.ipynb").read_text(encoding="utf-8")
    prose = chapter + (SOURCE / "README.md").read_text(encoding="utf-8")
    assert all(f.name in prose for f in fields(plugins.Analyzer)) and all(a in prose for a in plugins.ARGUMENTS)
    assert plugins.GROUP in (SOURCE / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["a\0b", "\x1b[31mred", "half \ud83d", "\x85"])
@pytest.mark.parametrize("put", [lambda t: {"a": t}, lambda t: {t: 1}, lambda t: {"a": [1, {"b": [t]}]}])
def test_a_text_that_no_database_takes_is_refused_before_it_is_stored(text, put):
    with pytest.raises(ValueError, match="has characters that are none"): plugins.check_result(plugins.Analysis(put(text), 1.0))
    said = plugins.check_result(plugins.Analysis({"a": "two\nlines, ünïcode 🎧"}, 1.0, (text,)))
    assert said.warnings[0].isprintable() and said.value["a"].endswith("🎧")
    assert describe_error(ValueError(text)).isprintable()
