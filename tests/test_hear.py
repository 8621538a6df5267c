"""Real files through the five: odd sound is analysed, bad files are refused, with a reason, in Python and on the command line."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from rap_analyzer.core import LabError
from rap_analyzer.music.analyzers import FIVE, Analyses, analyze, summarize
from rap_analyzer.music.audio import BadAudio, Clip, save, wav
from rap_analyzer.music.batch import analyze_file, analyze_files
from rap_analyzer.music.catalog import track
from rap_analyzer.music.files import hear_any
from rap_analyzer.music.render import render

@pytest.fixture(scope="session")
def network():
    "The weights behind genre and mood; a skip where they are neither here nor to be had."
    from rap_analyzer.music.weights import fetch_network
    try: fetch_network()
    except LabError as e: pytest.skip(f"the network's weights cannot be had: {e}")


@pytest.fixture(scope="module")
def beat():
    "Eight seconds of a song."
    return render(track(42), 8, 22_050)


@pytest.fixture(scope="module")
def song(beat, tmp_path_factory):
    "The same as a file, with its words beside it."
    file = save(beat, tmp_path_factory.mktemp("song") / "song.wav")
    file.with_suffix(".txt").write_text(track(42).lyrics, encoding="utf-8")
    return file


def encoded(x, sr, kind, subtype=None):
    "Samples as the bytes of a file."
    out = io.BytesIO()
    soundfile.write(out, x, sr, format=kind, subtype=subtype)
    return out.getvalue()


def whole(got, words=False):
    "Every analyzer that was asked has found something, within its bounds."
    found = {k: a for k, a in got.items() if a.value is not None}
    assert set(FIVE) - {"lyrics"} <= found.keys() and ("lyrics" in found) == words, got.warnings
    assert not [a.error for a in got.values() if a.error] and all(0 <= a.confidence <= 1 for a in found.values())
    told = json.loads(json.dumps(got.as_dict(), allow_nan=False))
    assert 30 <= told["tempo"]["bpm"] <= 300 and len(told["embedding"]) == 512
    assert np.linalg.norm(told["embedding"]) == pytest.approx(1, abs=1e-3)
    for head in (told["genre"], told["mood"]):
        assert head["label"] in head["scores"] and sum(head["scores"].values()) == pytest.approx(1, abs=0.01)
    return told


def test_the_pinned_answer(song, network):
    told = whole(analyze_file(song, song.with_suffix(".txt").read_text(encoding="utf-8")), words=True)
    assert {"bpm", "confidence", "candidates", "beats"} <= told["tempo"].keys()
    assert {"tempo", "genre", "mood", "lyrics", "embedding", "timing_ms", "warnings"} <= told.keys()
    assert {"decode", "validate", *FIVE} <= told["timing_ms"].keys() and all(ms >= 0 for ms in told["timing_ms"].values())
    beats = told["tempo"]["beats"]
    assert len(beats) > 5 and beats == sorted(beats) and beats[0] >= 0 and beats[-1] <= 8
    assert all(len(c) == 2 for c in told["tempo"]["candidates"]) and told["versions"].keys() >= set(FIVE)


def test_without_words_the_lyrics_are_null_and_nothing_is_wrong(beat, network):
    told = whole(analyze(beat))
    assert told["lyrics"] is None and "lyrics" not in told["errors"] and "lyrics" not in told["timing_ms"]


def test_an_embedding_is_as_sure_as_its_parts(beat, network):
    noise = Clip(np.random.default_rng(1).uniform(-0.5, 0.5, 22_050 * 5), 22_050)
    given = (beat, track(42).lyrics), (beat,), (None, track(42).lyrics)
    both, sound, words = (analyze(*g)["embedding"].confidence for g in given)
    assert analyze(noise)["embedding"].confidence < 0.3 < sound < both < 1 and words < 0.25


def test_fast_says_nearly_what_full_says(beat, network):
    full, fast = (whole(analyze(beat, profile=p)) for p in ("full", "fast"))
    assert fast["tempo"]["bpm"] == pytest.approx(full["tempo"]["bpm"], rel=0.04)
    assert fast["genre"]["label"] == full["genre"]["label"]
    assert np.dot(fast["embedding"], full["embedding"]) > 0.8


ODD = {
    "8 kHz, 8 bit": lambda x: encoded(np.interp(np.arange(64_000) / 8_000, np.arange(len(x)) / 22_050, x), 8_000, "WAV", "PCM_U8"),
    "192 kHz": lambda x: encoded(np.repeat(x, 9)[:192_000 * 5], 192_000, "WAV", "PCM_24"),
    "6 channels": lambda x: encoded(np.stack([x, x * 0.5, x * 0, -x * 0.1, x, x], axis=1), 22_050, "FLAC"),
    "float, too loud": lambda x: encoded(x * 8, 22_050, "WAV", "FLOAT"),
    "3 seconds": lambda x: encoded(x[:22_050 * 3 + 9], 22_050, "OGG"),
    "mp3": lambda x: encoded(x, 44_100, "MP3"),
    "noise": lambda x: encoded(np.random.default_rng(1).uniform(-0.5, 0.5, 22_050 * 5), 22_050, "WAV"),
    "one click": lambda x: encoded(np.eye(1, 22_050 * 5, 40_000)[0] * 0.9, 22_050, "WAV"),
    "a tone": lambda x: encoded(0.5 * np.sin(np.arange(22_050 * 5) / 9), 22_050, "WAV"),
    "off centre": lambda x: encoded(x * 0.4 + 0.5, 22_050, "WAV"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_sound_is_analysed(name, beat, tmp_path, network):
    (tmp_path / "odd").write_bytes(ODD[name](beat.samples))
    got = analyze_file(tmp_path / "odd", profile="fast")
    assert not [a.error for a in got.values() if a.error], got.warnings
    bpm = got["tempo"].value["bpm"]
    assert got["embedding"].value and got["genre"].value and (bpm == 0 or 30 <= bpm <= 300)
    json.dumps(got.as_dict(), allow_nan=False)
    assert got.summary()


BAD = {
    "empty": ("empty", lambda x: b""), "text": ("not_audio", lambda x: "это не музыка\n".encode() * 99),
    "cut mp3": ("truncated", lambda x: encoded(x, 44_100, "MP3")[:20_000]),
    "cut flac": ("truncated", lambda x: encoded(x, 22_050, "FLAC")[:60_000]),
    "one sample": ("too_short", lambda x: encoded(x[:1], 22_050, "WAV")),
    "zeros": ("silent", lambda x: encoded(x * 0, 22_050, "WAV")),
    "nan": ("nan", lambda x: encoded(x * np.nan, 22_050, "WAV", "FLOAT")),
    "101 MB": ("too_big", lambda x: wav(Clip(x, 22_050)) + bytes(101_000_000)),
    "noise": ("not_audio", lambda x: np.random.default_rng(0).bytes(50_000)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_reason(name, beat, tmp_path):
    reason, make = BAD[name]
    file = tmp_path / "song.mp3"
    file.write_bytes(make(beat.samples))
    with pytest.raises(BadAudio) as e: analyze_file(file)
    assert e.value.reason == reason and "song.mp3" in str(e.value) or reason in ("silent", "too_short")


WORDS = {
    "no vowels": "brr tsk pst\nhmm grr\n" * 4, "emoji": "🙂🙃🎤\n🎧🎶\n",
    "mixed": "every night на дворе\nunder light в ноябре\n" * 4,
    "one megabyte": "every lantern in the cavern\nна дворе в ноябре\n" * 18_000, "one line": "x" * 50_000,
    "zero bytes": "a\0b\0\nc\0", "right to left": "שלום עולם\nשלום לכולם\n", "digits": "1 2 3\n4 5 6\n", "marks": "?!...\n---\n",
    "lone": "caf\ud800e\n",
}


@pytest.mark.parametrize("name", WORDS)
def test_odd_words_are_read_or_told_why_not(name, beat):
    got = analyze(beat, WORDS[name], "fast", only=["tempo", "lyrics"])
    assert got["tempo"].value and got["lyrics"].error is None, got["lyrics"].error
    assert got["lyrics"].ms < 20_000 and len(json.dumps(got.as_dict(), allow_nan=False)) < 3_000_000


def test_without_the_network_the_rest_goes_on(beat, tmp_path):
    code = ("import json, numpy as np; from rap_analyzer.music import tags; from rap_analyzer.core import LabError\n"
            "def nothing(*a, **k): raise LabError('the weights cannot be had: connect once, then it works offline.')\n"
            "tags.load_session = nothing\n"
            "from rap_analyzer.music.batch import analyze_file; import sys\n"
            "print(json.dumps(analyze_file(sys.argv[1]).as_dict()))")
    file = save(beat, tmp_path / "x.wav")
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["genre"] is None and told["mood"] is None and "connect once" in told["errors"]["genre"]
    assert told["tempo"]["bpm"] and len(told["embedding"]) == 512 and told["errors"].keys() == {"genre", "mood"}


def test_many_at_once_say_what_one_says(song, beat, network):
    (_, one), = analyze_files([(song, None)], "fast", 1)
    here = analyze_file(song, profile="fast")
    assert isinstance(one, Analyses) and one["tempo"].value["bpm"] == pytest.approx(here["tempo"].value["bpm"], abs=0.1)
    assert np.dot(one["embedding"].value["vector"], here["embedding"].value["vector"]) > 0.999


def test_headlines():
    assert summarize("x", {"a": 1.5, "b": "c", "d": [1], "e": True}) == "a 1.5, b c"
    assert summarize("mood", {"label": "dark"}) == "dark"
    with pytest.raises(ValueError, match="no file"): list(hear_any(os.devnull))


def rap(*words, **env):
    "The command, as a reader types it."
    command = [sys.executable, "-m", "rap_analyzer.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})
    return done.returncode, done.stdout, done.stderr


def test_the_command_tells_a_program(song, network):
    code, out, err = rap("analyze", song, "--json")
    told = json.loads(out)
    assert code == 0 and err == "" and told["lyrics"] and len(told["embedding"]) == 512 and told["tempo"]["bpm"] > 0


def test_the_command_tells_a_person(song, tmp_path, network):
    (tmp_path / "la.txt").write_text("la la la\nlo la la\n")
    code, out, _ = rap("analyze", song, "--lyrics", tmp_path / "la.txt", "--profile", "fast")
    assert code == 0 and all(f"{name} " in out for name in FIVE) and "BPM" in out and "sure" in out and "ms" in out


def test_the_command_renders_a_track():
    code, out, _ = rap("analyze", "--track-id", "7", "--profile", "fast", "--json")
    assert code == 0 and json.loads(out)["tempo"] and json.loads(out)["seconds"] == 30
    same = json.loads(rap("analyze", "7", "--profile", "fast", "--json")[1])
    assert same["tempo"] == json.loads(out)["tempo"] and same["lyrics"]


def test_the_command_goes_through_a_folder(song, tmp_path):
    (tmp_path / "a.wav").write_bytes(song.read_bytes())
    (tmp_path / "b.mp3").write_text("<html>")
    code, out, err = rap("analyze", tmp_path, "--profile", "fast", "--json")
    told = {os.path.basename(x["file"]): x for x in map(json.loads, out.splitlines())}
    assert code == 0 and told["a.wav"]["tempo"]["bpm"] and "web page" in told["b.mp3"]["error"]
    assert "1 of 2 files were refused" in err


@pytest.mark.parametrize("words, exit_code, said", [
    (["analyze"], 2, "expected a file"), (["analyze", "nowhere.mp3"], 1, "cannot read nowhere.mp3"),
    (["analyze", "42", "--profile", "slow"], 1, "fast, full"), (["analyze", "x", "--track-id", "1"], 2, "expected a file"),
    (["analyze", "42", "--lyrics", "nowhere.txt"], 1, "cannot read nowhere.txt"), (["ingest", "nowhere"], 1, "cannot read nowhere"),
    (["analyze", ".", "--lyrics", "README.md"], 1, "lyrics belong to one song")])
def test_the_command_says_what_is_wrong(words, exit_code, said):
    code, out, err = rap(*words)
    assert code == exit_code and said in err and "Traceback" not in err and out == ""


def test_the_command_lists_the_analyzers():
    code, out, _ = rap("analyzers", "--json")
    rows = json.loads(out)
    assert code == 0 and [r["name"] for r in rows][:5] == list(FIVE) and all(r["state"] == "fits" for r in rows[:5])


@pytest.mark.parametrize("name", BAD)
def test_the_command_says_why_a_file_was_refused_to_people_and_to_scripts(name, beat, tmp_path):
    reason, make = BAD[name]
    (file := tmp_path / "song.mp3").write_bytes(make(beat.samples))
    for words in ([], ["--json"]):
        command = [sys.executable, "-m", "rap_analyzer.cli", "analyze", str(file), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
        if not words: assert done.stdout == ""
        else: assert json.loads(done.stdout)["reason"] == reason and json.loads(done.stdout)["error"] in done.stderr


def test_a_stream_that_does_not_know_its_length_is_heard_whole(beat, tmp_path):
    data = bytearray(encoded(beat.samples, 22_050, "FLAC"))
    data[21], data[22:26] = data[21] & 0xF0, bytes(4)
    (file := tmp_path / "stream.flac").write_bytes(data)
    got = analyze_file(file, profile="fast", only=["tempo"])
    assert got.seconds == pytest.approx(beat.seconds) and got["tempo"].value["bpm"] and not got.heard
