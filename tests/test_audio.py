"""Sound as files have it: every format, cut off, mislabelled, damaged, too long; and clips that show themselves."""

import io
import re
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from rap_analyzer.core import LabError
from rap_analyzer.music import audio
from rap_analyzer.music.audio import (
    BadAudio,
    Clip,
    clip_plot,
    clipped,
    load,
    mel,
    mel_bands,
    mp3,
    player,
    save,
    sections,
    validate,
    wav,
)

SR = 22_050


def tone(seconds=4.0, hz=440.0, sr=SR, loud=0.5): return loud * np.sin(2 * np.pi * hz * np.arange(round(seconds * sr)) / sr)


def encoded(samples, sr=SR, kind="WAV", subtype=None):
    "Samples as the bytes of a file."
    out = io.BytesIO()
    soundfile.write(out, samples, sr, format=kind, subtype=subtype)
    return out.getvalue()


def loudest_hz(clip): return np.abs(np.fft.rfft(clip.samples)).argmax() * clip.sr / len(clip.samples)


def reason(source, **options):
    "Why a file is refused."
    with pytest.raises(BadAudio) as e: load(source, **options)
    assert e.value.reason in audio.REASONS and len(str(e.value)) > 20
    return e.value.reason


@pytest.mark.parametrize("samples, sr", [
    (np.zeros((9, 2)), SR), (np.zeros(9, np.int16), SR), (np.zeros(0), SR), (np.array([0, np.nan]), SR), (np.array([np.inf]), SR),
    (np.array([1.01]), SR), (np.zeros(9), 0), (np.zeros(9), -SR), (np.zeros(9), 44_100.0), (np.zeros(9), True),
    (np.zeros(9), 10**7)])
def test_a_clip_refuses_what_is_no_sound(samples, sr):
    with pytest.raises(BadAudio): Clip(samples, sr)


def test_a_clip_keeps_its_own_samples():
    given = tone()
    clip = Clip(given, SR)
    given[:] = 1
    assert clip.samples.dtype == np.float32 and clip.samples.max() <= 0.5 and clip.seconds == 4.0
    with pytest.raises(ValueError, match="read-only"): clip.samples[0] = 0


@pytest.mark.parametrize("kind, subtype, sr, channels", [
    ("WAV", "PCM_U8", 8_000, 1), ("WAV", "PCM_16", 44_100, 2), ("WAV", "PCM_24", 192_000, 1), ("WAV", "FLOAT", 48_000, 6),
    ("WAV", "DOUBLE", 22_050, 1), ("FLAC", "PCM_16", 44_100, 2), ("FLAC", "PCM_24", 96_000, 6), ("OGG", "VORBIS", 44_100, 2),
    ("OGG", "OPUS", 48_000, 1),
    ("MP3", None, 44_100, 2), ("MP3", None, 16_000, 1), ("AIFF", "PCM_16", 44_100, 1), ("RF64", "PCM_16", 44_100, 1)])
def test_every_format_becomes_the_same_tone(kind, subtype, sr, channels):
    "Pitch, length and level survive, whatever the file was; channels are averaged."
    data = encoded(np.repeat(tone(sr=sr)[:, None], channels, axis=1), sr, kind, subtype)
    clip = load(data, 16_000)
    assert clip.sr == 16_000 and clip.seconds == pytest.approx(4, abs=0.1)
    assert loudest_hz(clip) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(clip.samples.astype(float) ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_there_and_back_loses_no_bit(tmp_path):
    clip = Clip(np.rint(tone() * 32_768) / 32_768, SR)
    assert (load(save(clip, tmp_path / "a.wav")).samples == clip.samples).all()
    assert wav(clip) == (tmp_path / "a.wav").read_bytes()
    extremes = Clip(np.array([-1.0, 1.0, 0.0]), SR)
    assert load(wav(extremes)).samples.tolist() == [-1.0, 32_767 / 32_768, 0.0]


def test_saving_where_it_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="ends in .wav"): save(Clip(tone(), SR), tmp_path / "a.mp3")
    with pytest.raises(LabError, match="cannot write"): save(Clip(tone(), SR), tmp_path / "no" / "a.wav")
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(LabError, match="cannot write"): save(Clip(tone(), SR), tmp_path / "b.wav")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.wav"], "a draft was left behind"


@pytest.mark.parametrize("name, data, why", [
    ("zero.mp3", b"", "empty"), ("words.mp3", b"just some words\n" * 99, "not_audio"),
    ("page.wav", b"<!DOCTYPE html><html>" * 99, "not_audio"),
    ("notes.mid", b"MThd\0\0\0\6\0\1\0\1\0\x60" + bytes(99), "not_audio"), ("zeros.wav", bytes(5_000), "not_audio"),
    ("movie.wav", b"\0\0\0\x20ftypM4A " + bytes(999), "not_audio"),
    ("noise.mp3", np.random.default_rng(7).bytes(5_000), "not_audio"),
    ("riff.wav", b"RIFF", "truncated"), ("head.wav", encoded(tone())[:44], "truncated"),
    ("head.flac", encoded(tone(), kind="FLAC")[:20], "damaged"),
    ("no_samples.wav", encoded(np.zeros(0)), "empty")])
def test_what_is_not_sound_is_refused_by_content(tmp_path, name, data, why):
    (tmp_path / name).write_bytes(data)
    assert reason(tmp_path / name) == why


def test_a_name_does_not_matter(tmp_path):
    for name in ("a.txt", "b", "c.mp3", "песня 🎵.doc"):
        (tmp_path / name).write_bytes(encoded(tone(), kind="FLAC"))
        assert load(tmp_path / name).seconds == 4


def test_missing_files_and_folders(tmp_path):
    assert reason(tmp_path / "nothing.wav") == "missing"
    assert reason(tmp_path) == "missing"


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_noticed(kind, share):
    data = encoded(tone(10) + 0.1 * np.random.default_rng(7).standard_normal(10 * SR), kind=kind)
    assert load(data).seconds == pytest.approx(10, abs=0.1)
    assert reason(data[: int(len(data) * share)]) in ("truncated", "damaged")


def test_a_stream_that_never_knew_its_length_is_believed():
    "Programs that write to a pipe leave 0xFFFFFFFF in the header."
    data = bytearray(encoded(tone()))
    at = data.index(b"data") + 4
    data[at:at + 4], data[4:8] = struct.pack("<I", 2**32 - 1), struct.pack("<I", 2**32 - 1)
    assert load(bytes(data)).seconds == 4


def test_chunks_around_the_sound_are_skipped():
    data = encoded(tone())
    at = data.index(b"data")
    odd = data[:at] + b"LIST" + struct.pack("<I", 5) + b"hello\0" + data[at:] + b"junk" + struct.pack("<I", 4) + b"abcd"
    assert load(odd).seconds == 4


@pytest.mark.parametrize("sr, channels", [(44_100, 2), (44_100, 1), (22_050, 2), (22_050, 1), (11_025, 1)])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_does_not_say_how_long_it_is(sr, channels, mode):
    "Without the extra first frame a decoder guesses the length from one frame: too long here, too short the other way round."
    quiet, loud = np.zeros(4 * sr), 0.2 * np.random.default_rng(7).standard_normal(4 * sr).clip(-3, 3)
    x = np.concatenate([quiet, loud])
    out = io.BytesIO()
    soundfile.write(out, np.repeat(x[:, None], channels, axis=1), sr, format="MP3", bitrate_mode=mode, compression_level=0.5)
    data = out.getvalue()
    bare = data[audio.mp3_frame(data[:4]):]
    tag = b"ID3\3\0\0\0\0\1\0" + bytes(128)
    for given in (bare, tag + bare, tag + data, bare + b"TAG" + bytes(125)):
        clip = load(given)
        assert clip.seconds == pytest.approx(8, abs=0.2) and clip.sr == sr
        assert np.abs(clip.samples[: 3 * sr]).max() < 0.01 and clip.samples[-3 * sr: -sr].std() > 0.1
    out = io.BytesIO()
    soundfile.write(out, np.concatenate([loud, quiet]), sr, format="MP3", bitrate_mode=mode, compression_level=0.5)
    assert load(out.getvalue()[audio.mp3_frame(out.getvalue()[:4]):]).seconds == pytest.approx(8, abs=0.2)


def test_nan_infinity_and_overshoot():
    x = tone()
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y[len(y) // 2] = bad
        assert reason(encoded(y, subtype="FLOAT")) == "nan"
    assert reason(encoded(np.full(SR, np.nan), subtype="FLOAT")) == "nan"
    loud = load(encoded(6 * x, subtype="FLOAT"))
    assert np.abs(loud.samples).max() == 1 and loudest_hz(loud) == pytest.approx(440, abs=1)
    assert clipped(loud) < 1e-3, "an overshoot was cut instead of scaled"


def test_size_and_length_limits(tmp_path, monkeypatch):
    big = tmp_path / "big.wav"
    with open(big, "wb") as f: f.truncate(101_000_000)
    assert reason(big) == "too_big"
    monkeypatch.setattr(audio, "MAX_S", 3)
    assert reason(encoded(tone(4))) == "too_long"
    assert reason(encoded(tone(1)), min_s=3) == "too_short"
    assert load(encoded(np.zeros(1))).seconds == 1 / SR


def test_sections_make_the_whole_and_need_little_memory(tmp_path):
    x = np.tile(tone(60, loud=0.4), 8).astype(np.float32)
    save(Clip(np.rint(x * 32_768) / 32_768, SR), tmp_path / "long.wav")
    parts = list(sections(tmp_path / "long.wav", 50, SR))
    assert [p.seconds for p in parts] == [50] * 9 + [30]
    assert (np.concatenate([p.samples for p in parts]) == load(tmp_path / "long.wav").samples).all()
    tracemalloc.start()
    assert sum(p.seconds for p in sections(tmp_path / "long.wav", 30, 16_000)) == pytest.approx(480, abs=0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 2
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="more than 0 s"): next(sections(tmp_path / "long.wav", seconds))
    for sr in (0, -1, 22_050.5, True, None):
        with pytest.raises(BadAudio, match="sample rate"): next(sections(tmp_path / "long.wav", 1, sr))
    with pytest.raises(BadAudio, match="sample rate"): load(tmp_path / "long.wav", 0)


def test_resampling_leaves_nothing_that_does_not_fit():
    high = load(encoded(tone(hz=9_000, sr=44_100), 44_100), 11_025)
    assert np.abs(high.samples[2_000:-2_000]).max() < 1e-3
    assert loudest_hz(load(encoded(tone(hz=3_000, sr=44_100), 44_100), 11_025)) == pytest.approx(3_000, abs=1)


def test_validate():
    assert validate(Clip(tone(), SR)) == []
    for x, why in ((np.zeros(4 * SR), "silent"), (1e-5 * tone(), "silent"), (tone(2.9), "too_short"), (np.ones(1), "too_short")):
        clip = Clip(x, SR)
        with pytest.raises(BadAudio) as e: validate(clip)
        assert e.value.reason == why
    warned = {"clipped": np.clip(3 * tone(), -1, 1), "quiet": 0.005 * tone(), "centre": 0.5 * tone() + 0.2}
    for word, x in warned.items(): assert [word in w for w in validate(Clip(x, SR))] == [True], word
    late = np.concatenate([np.zeros(9 * SR), tone(1)])
    assert validate(Clip(late, SR)) == [], "a long pause is not silence"


def test_a_player_needs_no_network_and_waits():
    clip = Clip(tone(70), SR)
    page = player(clip, 'a <tone> & "more"')
    assert "autoplay" not in page and "<audio controls" in page and "http" not in page
    assert "a &lt;tone&gt; &amp; &quot;more&quot;" in page and "(70 s, the first 60 s)" in page and "the first 60 s" in page
    assert len(re.findall("aria-label", page)) == 2
    assert Clip(tone(), SR)._repr_html_().startswith("<figure") and "4.00 s" in repr(Clip(tone(), SR))
    assert loudest_hz(load(mp3(Clip(tone(sr=11_025), 11_025)))) == pytest.approx(440, abs=1)
    assert player(Clip(np.zeros(1), SR)), "one sample has an outline too"


@pytest.mark.parametrize("hz", [60, 440, 3_000, 9_000])
def test_mel_puts_a_tone_where_it_belongs(hz):
    picture, centres = mel(Clip(tone(1, hz), SR)), mel_bands(SR, 1_024, 64)[1]
    band = centres[picture.mean(axis=1).argmax()]
    assert abs(band - hz) < max(50, 0.1 * hz)
    assert picture.shape == (64, 1 + SR // 256) and picture.min() >= -100 and picture.max() < 6


def test_mel_of_halves_is_six_decibels_lower():
    assert mel(Clip(tone(), SR)).max() - mel(Clip(tone() / 2, SR)).max() == pytest.approx(6.02, abs=0.01)


def test_clip_plot_has_labels_with_units():
    picture = clip_plot(Clip(tone(1), SR), [0, 0.5], "A tone")
    assert all(word in picture.text for word in ("A tone", "2 beats", "Hz", "1.00 s")) and "<img" in picture._repr_html_()
    wave_ax, mel_ax, bar = picture.figure.axes
    assert wave_ax.get_title() == "A tone" and bar.get_ylabel() == "dB"
    assert ", s" in mel_ax.get_xlabel() and "Hz" in mel_ax.get_ylabel()
    assert len(mel_ax.collections[0].get_segments()) == 2
