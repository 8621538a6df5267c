"""Wrong headers, joined files, channels that cancel, crafted files: what is there is heard, or it is said what is not."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rap_analyzer.music.audio import BadAudio, load, sections, validate
from rap_analyzer.music.batch import load_song
from rap_analyzer.music.frames import frame_size

SR, SECONDS = 22_050, 6
T = np.arange(SR * SECONDS) / SR
X = 0.4 * np.sin(2_000 * T) + 0.1 * np.random.default_rng(3).standard_normal(len(T)).clip(-3, 3)
RNG = np.random.default_rng(5)


def encoded(kind, x=X, sr=SR, subtype=None):
    "Samples as the bytes of a file."
    out = io.BytesIO()
    soundfile.write(out, x, sr, format=kind, subtype=subtype)
    return out.getvalue()


def put(data, at, form, value):
    "The same bytes with another number in one place."
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form):]


def heard(data):
    "Seconds that were heard, and the warnings in one text."
    clip = load(data)
    return clip.seconds, " ".join(clip.warnings)


FILES = {kind: encoded(kind) for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF")}
MP3, WAV, FLAC = FILES["MP3"], FILES["WAV"], FILES["FLAC"]
XING, DATA = MP3.index(b"Xing"), WAV.index(b"data") + 4
COUNT = int.from_bytes(MP3[XING + 8:XING + 12], "big")


def flac_total(n):
    "The FLAC file with another number of samples in its header."
    return put(FLAC, 18, ">Q", int.from_bytes(FLAC[18:26], "big") >> 36 << 36 | n)


LIES = {
    "mp3, a fifth": put(MP3, XING + 8, ">I", COUNT // 5), "mp3, three times": put(MP3, XING + 8, ">I", COUNT * 3),
    "mp3, one frame": put(MP3, XING + 8, ">I", 1), "wav, a third": put(WAV, DATA, "<I", len(X) * 2 // 3),
    "wav, a third, at both places": put(put(WAV, DATA, "<I", len(X) * 2 // 3), 4, "<I", len(X) * 2 // 3 + 36),
    "flac, a third": flac_total(len(X) // 3), "flac, twice": flac_total(len(X) * 2),
    "au, a third": put(FILES["AU"], 8, ">I", len(X) * 2 // 3),
    "aiff, a third": put(FILES["AIFF"], FILES["AIFF"].index(b"SSND") + 4, ">I", len(X) * 2 // 3 + 8),
    "caf, a third": put(FILES["CAF"], FILES["CAF"].index(b"data") + 4, ">q", len(X) * 2 // 3),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_is_wrong_is_not_believed(name):
    seconds, said = heard(LIES[name])
    assert seconds == pytest.approx(SECONDS, abs=0.06) and "announces" in said


@pytest.mark.parametrize("data", [put(MP3, XING + 8, ">I", 0), put(WAV, DATA, "<I", len(X) * 4), MP3[frame_size(MP3):],
                                  MP3[:6] + b"\x80" + MP3[7:], put(FILES["CAF"], FILES["CAF"].index(b"data") + 4, ">q", -1)])
def test_a_header_that_does_not_know_is_no_reason_to_warn(data):
    assert heard(data) == (pytest.approx(SECONDS, abs=0.06), "")


@pytest.mark.parametrize("kind", ["MP3", "FLAC", "WAV", "OGG"])
@pytest.mark.parametrize("claimed", [1, 300, 5_000, 90_000, 2**27])
def test_a_tag_whose_length_is_wrong_costs_no_sound(kind, claimed):
    size = bytes(claimed >> 7 * i & 127 for i in (3, 2, 1, 0))
    assert heard(b"ID3\3\0\0" + size + b"TIT2" + bytes(296) + FILES[kind]) == (pytest.approx(SECONDS, abs=0.06), "")


@pytest.mark.parametrize("at", [0.3, 0.7])
def test_garbage_between_frames_is_skipped_and_reported(at):
    at = int(len(MP3) * at)
    for size in (3_000, 200_000):
        seconds, said = heard(MP3[:at] + RNG.bytes(size) + MP3[at:])
        assert seconds == pytest.approx(SECONDS, abs=0.12) and said == f"{size:,} bytes that are no sound were skipped"


@pytest.mark.parametrize("kind", FILES)
def test_joined_files_are_heard_to_the_end(kind):
    once, second = FILES[kind], encoded(kind, X[:SR * 2])
    assert heard(once + second)[0] == pytest.approx(SECONDS + 2, abs=0.15) and heard(once + second)[1]
    assert load_song(io.BytesIO(once).getvalue() + second)[2] == pytest.approx(SECONDS + 2, abs=0.15)
    assert sum(c.seconds for c in sections(once + second, 1.5, SR)) == pytest.approx(SECONDS + 2, abs=0.15)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_joined_files_of_two_rates_and_channels_keep_their_pitch(kind):
    other = encoded(kind, np.stack([np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100) / 2] * 2, axis=1), 44_100)
    clip = load(FILES[kind] + other)
    assert (clip.sr, clip.seconds) == (SR, pytest.approx(SECONDS + 2, abs=0.15)) and "joined" in " ".join(clip.warnings)
    end = clip.samples[-SR:]
    assert np.abs(np.fft.rfft(end)).argmax() == pytest.approx(440, abs=2)


@pytest.mark.parametrize("data, word", [
    (FILES["OGG"][:len(FILES["OGG"]) // 2] + FILES["OGG"][len(FILES["OGG"]) // 2 + 5_000:], "missing|cut off"),
    (FLAC[:len(FLAC) // 2] + RNG.bytes(3_000) + FLAC[len(FLAC) // 2:], "breaks off somewhere after [23]")])
def test_a_hole_has_a_place_or_a_warning(data, word):
    try: said = heard(data)[1]
    except BadAudio as e: said = str(e)
    assert re.search(word, said), said


@pytest.mark.parametrize("mixed", [(1, -1), (1, -0.6), (0.5, -0.5, 0, 0, 0, 0), (0, 0.3, -0.3), (1, 1, -1, -1), (-1, 1)])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_channels_that_cancel_are_heard(mixed, kind):
    clip = load(encoded(kind, np.stack([0.5 * gain * X for gain in mixed], axis=1)))
    assert np.abs(np.corrcoef(clip.samples, X)[0, 1]) > 0.99 and "turned round" in clip.warnings[0]
    assert clip.samples.std() > 0.4 * 0.5 * X.std() * np.abs(mixed).sum() / len(mixed)


def test_other_channels_are_averaged_as_ever():
    noise = np.random.default_rng(2).uniform(-0.4, 0.4, len(X))
    for other in (X, noise, 0 * X, X - noise, -0.5 * X + noise):
        clip = load(encoded("WAV", np.stack([X, other], axis=1), subtype="FLOAT"))
        assert np.allclose(clip.samples, (X + other) / 2, atol=1e-6) and not clip.warnings


@pytest.mark.parametrize("spikes", [{0: 1e6}, {len(X) - 1: -1e30}, {70_000: 1e6, 70_001: -1e6},
                                    dict.fromkeys(range(500, 90_000, 9_000), 1e3)])
def test_wild_samples_are_taken_out_and_named(spikes):
    x = X.copy()
    for at, value in spikes.items(): x[at] = value
    for channels in (1, 2):
        clip = load(encoded("WAV", np.stack([x] * channels, axis=1), subtype="FLOAT"), 16_000)
        assert clip.samples.std() == pytest.approx(X.std(), rel=0.05) and "far beyond" in " ".join(validate(clip))


def test_loud_music_is_no_glitch():
    for x in (40_000 * X, np.where(T % 1 < 0.02, 6.0, 0.05) * X):
        clip = load(encoded("WAV", x, subtype="FLOAT"))
        assert not clip.warnings and np.corrcoef(clip.samples, x)[0, 1] > 0.999


FULL = 90_000_000
TINY = b"\xff\xf3\x14\xc0" + bytes(20)
CRAFTED = {
    "tags": lambda: b"ID3\3\0\0\0\0\0\0" * (FULL // 10),
    "a tag full of frames' beginnings": lambda: b"ID3\3\0\0\0\0\0\0" + b"\xff\xfb\x90\0\0" * (FULL // 5),
    "ones": lambda: MP3[:2_000] + b"\xff" * FULL + MP3, "heads": lambda: MP3 + b"\xff\xfb\x90" * (FULL // 3),
    "tiny frames": lambda: TINY * (FULL // 24), "pieces": lambda: (TINY * 4 + b"x") * (FULL // 97),
    "chunks before": lambda: WAV[:36] + b"abcd\0\0\0\0" * (FULL // 8) + WAV[36:],
    "chunks behind": lambda: WAV + b"abcd\0\0\0\0" * (FULL // 8),
    "aiff": lambda: FILES["AIFF"][:12] + b"abcd\0\0\0\0" * (FULL // 8),
    "caf": lambda: FILES["CAF"][:8] + (b"abcd" + bytes(8)) * (FULL // 12),
    "flac blocks": lambda: FLAC[:4] + bytes([FLAC[4] & 127]) + FLAC[5:42] + b"\1\0\0\0" * (FULL // 4),
    "flacs": lambda: FLAC[:42] * (FULL // 42),
    "pages": lambda: FILES["OGG"][:58] + (b"OggS\0\0" + bytes(8) + FILES["OGG"][14:18] + bytes(9)) * (FULL // 27),
    "riffs": lambda: WAV[:48] * (FULL // 48),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_ninety_crafted_megabytes_take_no_time(name):
    data, began = CRAFTED[name](), time.process_time()
    try: load(data)
    except BadAudio as e: assert len(str(e)) > 20
    assert time.process_time() - began < 2


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    (tmp_path / "tty").symlink_to("/dev/tty")
    for name in ("pipe.wav", "device.wav", "tty"):
        with pytest.raises(BadAudio, match="no regular file") as e: load(tmp_path / name)
        assert e.value.reason == "not_audio"
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    (tmp_path / "real.wav").write_bytes(WAV)
    assert load(tmp_path / "link.wav").seconds == SECONDS


def run(*words):
    "A program of its own: what it printed, and what it complained of."
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_broken_files_by_the_hundred():
    "Nothing but BadAudio, no hang, little memory, and nothing that is heard in part without a word; the decoder keeps silent."
    out, err = run(Path(__file__).parent / "fuzz_audio.py", 11, 90)
    told = json.loads(out)
    assert told["other"] == [] and told["quiet"] == [] and err == ""
    assert told["slowest_s"] < 2 and told["mb"] < 400 and sum(told["seen"].values()) == 630 and told["seen"]["heard"] > 100


def test_the_decoder_complains_in_warnings_and_others_are_still_heard(tmp_path):
    bad = bytearray(MP3)
    for at in range(3_000, len(MP3) - 3_000, 1_500): bad[at:at + 90] = bytes(RNG.bytes(90))
    (tmp_path / "bad.mp3").write_bytes(bad)
    code = ("import sys, os; from rap_analyzer.music import audio\n"
            "with audio.quiet_decoder() as said: os.write(2, b'Note: Illegal header\\nfrom somebody else\\n')\n"
            "print(len(said), audio.load(sys.argv[1]).seconds)")
    out, err = run("-c", code, tmp_path / "bad.mp3")
    assert out.startswith("1 ") and float(out.split()[1]) > 3 and err == "from somebody else\n"
