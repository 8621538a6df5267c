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
    load,
    measure_clipping,
    mp3,
    player,
    save,
    sections,
    validate,
    wav,
)
from rap_analyzer.music.formats import KINDS, detect_format
from rap_analyzer.music.frames import frame_size
from rap_analyzer.music.spectrum import mel_filters, mel_spectrogram, plot_clip

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


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "W64"])
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
    bare = data[frame_size(data[:4]):]
    tag = b"ID3\3\0\0\0\0\1\0" + bytes(128)
    for given in (bare, tag + bare, tag + data, bare + b"TAG" + bytes(125)):
        clip = load(given)
        assert clip.seconds == pytest.approx(8, abs=0.2) and clip.sr == sr
        assert np.abs(clip.samples[: 3 * sr]).max() < 0.01 and clip.samples[-3 * sr: -sr].std() > 0.1
    out = io.BytesIO()
    soundfile.write(out, np.concatenate([loud, quiet]), sr, format="MP3", bitrate_mode=mode, compression_level=0.5)
    assert load(out.getvalue()[frame_size(out.getvalue()[:4]):]).seconds == pytest.approx(8, abs=0.2)


TAG = b"ID3\3\0\0\0\0\1\0" + bytes(128)
LOUD = np.stack([tone(6) + 0.1 * np.random.default_rng(7).standard_normal(6 * SR)] * 2, axis=1)


def header(data, **fields):
    "A FLAC file with other facts in its header."
    bits = int.from_bytes(data[18:26], "big")  # rate 20, channels 3, bits 5, samples 36
    if "total" in fields: bits = bits >> 36 << 36 | fields["total"]
    if "depth" in fields: bits = bits & ~(31 << 36) | (fields["depth"] - 1) << 36
    return data[:18] + bits.to_bytes(8, "big") + data[26:]


def in_ogg(flac):
    "A FLAC file packed into an Ogg file, without checksums: the first page alone, the rest in pages of at most 255 pieces."
    at, blocks = 4, []
    while not blocks or not blocks[-1][0] & 0x80:
        size = 4 + int.from_bytes(flac[at + 1:at + 4], "big")
        blocks.append(flac[at:at + size])
        at += size
    starts = [m.start() for m in re.finditer(re.escape(flac[at:at + 2]), flac) if m.start() >= at] + [len(flac)]
    frames = [flac[a:b] for a, b in zip(starts, starts[1:], strict=False)]  # where it is cut does not matter to who joins it
    pages = b""
    for n, packet in enumerate([b"\x7fFLAC\1\0\0\1fLaC" + blocks[0], *blocks[1:], *frames]):
        sizes = [255] * (len(packet) // 255) + [len(packet) % 255]
        for i in range(0, len(sizes), 255):
            some = sizes[i:i + 255]
            pages += struct.pack("<4sBBqIIIB", b"OggS", 0, 0 if i else 2 * (n == 0), 0, 7, n, 0, len(some)) + bytes(some)
            pages += packet[255 * i:255 * i + sum(some)]
    return pages


def test_a_flac_that_does_not_know_its_length_is_read_whole():
    "Encoders that write to a pipe leave 0 for the number of samples, which the format allows."
    whole = encoded(LOUD, kind="FLAC")
    streamed = header(whole, total=0)
    assert load(streamed).seconds == 6 and (load(streamed).samples == load(whole).samples).all()
    assert [c.seconds for c in sections(streamed, 2.5, SR)] == [2.5, 2.5, 1.0]
    assert reason(streamed[: len(streamed) // 2]) == "truncated"


@pytest.mark.parametrize("depth", [12, 20, 32])
def test_a_flac_of_other_depths(depth):
    "The header says so many bits; the frames of this one say 24, and they are believed."
    whole = encoded(LOUD, kind="FLAC", subtype="PCM_24")
    assert (load(header(whole, depth=depth)).samples == load(whole).samples).all()


def test_a_flac_inside_an_ogg():
    whole = encoded(LOUD, kind="FLAC")
    assert (load(in_ogg(whole)).samples == load(whole).samples).all()
    assert (load(in_ogg(header(whole, total=0))).samples == load(whole).samples).all()


@pytest.mark.parametrize("end", [b"TAG" + bytes(125), bytes(5_000), b"junk" * 99])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_what_stands_behind_the_sound_is_no_sound(kind, end):
    assert load(encoded(LOUD, kind=kind) + end).seconds == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_tags_may_stand_before_any_sound(kind):
    data = encoded(LOUD, kind=kind)
    picture = b"ID3\4\0\x10\0\x10\0\0" + np.random.default_rng(7).bytes(2**18) + b"3DI\4\0\x10\0\x10\0\0"
    for front in (TAG, TAG + TAG, picture, TAG + picture):
        assert load(front + data).seconds == pytest.approx(6, abs=0.1), front[:20]
        assert reason(front + data[: len(data) // 2]) in ("truncated", "damaged")


def test_junk_around_the_frames_of_an_mp3():
    whole = encoded(LOUD, kind="MP3")
    bare = whole[frame_size(whole[:4]):]
    junk = b"\x01junk\xff" * 99
    for front in (bytes(1_000), bytes(70_000), junk, TAG + bytes(999), TAG + junk):
        assert load(front + whole).seconds == pytest.approx(6, abs=0.1), front[:20]
        assert load(front + bare).seconds == pytest.approx(6, abs=0.1), front[:20]
    at = len(bare) // 3
    for middle in (b"\0", TAG, junk):
        assert load(bare[:at] + middle + bare[at:]).seconds == pytest.approx(6, abs=0.2), "the rest was lost"
    assert reason(b"PK\3\4" + bytes(99) + whole) == "not_audio", "an archive is no song"
    assert reason(TAG) == "damaged"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("announced", [0, 2**32 - 1, 2**31 - 4_096])
def test_a_wav_whose_length_was_never_filled_in(subtype, announced):
    data = bytearray(encoded(LOUD, subtype=subtype))
    at = data.index(b"data") + 4
    data[at:at + 4] = struct.pack("<I", announced)
    for riff in (data[4:8], bytes(4), b"\xff" * 4):
        data[4:8] = riff
        assert load(bytes(data)).seconds == 6
    nothing = encoded(np.zeros(0)) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert reason(nothing) == "empty"


def test_a_wav_that_lacks_its_last_moment_is_read():
    data = encoded(LOUD)
    assert load(data[:-1_000]).seconds == pytest.approx(6, abs=0.02)
    assert reason(data[: -2 * SR * 4]) == "truncated"
    assert reason(encoded(LOUD[:SR // 4])[:-SR // 2]) == "truncated", "most of it is gone"


@pytest.mark.parametrize("kind, subtype, endian", [
    ("RF64", "PCM_16", None), ("WAV", "PCM_16", "BIG"), ("WAV", "MS_ADPCM", None), ("WAV", "IMA_ADPCM", None),
    ("WAV", "ALAW", None), ("WAVEX", "PCM_24", None), ("W64", "PCM_16", None), ("AIFF", "PCM_24", None),
    ("AIFF", "PCM_16", "LITTLE"), ("AU", "PCM_16", None), ("CAF", "PCM_24", None),
    ("OGG", "OPUS", None), ("FLAC", "PCM_S8", None), ("WAV", "DOUBLE", None), ("WAV", "PCM_32", None)])
def test_the_rarer_forms_are_read_and_known_by_their_content(tmp_path, kind, subtype, endian):
    out, sr = io.BytesIO(), 24_000
    soundfile.write(out, np.stack([tone(4, sr=sr)] * 2, axis=1), sr, format=kind, subtype=subtype, endian=endian)
    clip = load(out.getvalue())
    assert clip.seconds == pytest.approx(4, abs=0.1) and loudest_hz(clip) == pytest.approx(440, abs=1)
    assert detect_format(out.getvalue()[:4_096]) in KINDS
    if kind == "RF64": assert load(b"BW64" + out.getvalue()[4:]).seconds == 4


@pytest.mark.parametrize("head, word", [
    (b"\0\0\0\x20ftypM4A ", "M4A"), (b"0&\xb2u\x8ef\xcf\x11", "WMA"), (b"wvpk", "WavPack"), (b"MAC \x96\x0f", "Monkey"),
    (b"MPCK", "Musepack"), (b"\xff\xf1\x50\x80", "AAC"), (b"\xff\xfd\xa4\0", "layer 1 or 2"), (TAG + b"wvpk", "WavPack"),
    (b"OggS" + bytes(22) + b"\1\x50Speex   1.2", "Speex"), (b"RIFF\0\0\0\0AVI LIST", "AVI")])
def test_sound_that_is_not_read_is_named_with_a_way_out(head, word):
    with pytest.raises(BadAudio, match=word) as e: load(head + bytes(2_000))
    assert e.value.reason == "not_audio" and "convert" in str(e.value)


def test_nan_infinity_and_overshoot():
    x = tone()
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y[len(y) // 2] = bad
        assert reason(encoded(y, subtype="FLOAT")) == "nan"
    assert reason(encoded(np.full(SR, np.nan), subtype="FLOAT")) == "nan"
    loud = load(encoded(6 * x, subtype="FLOAT"))
    assert np.abs(loud.samples).max() == 1 and loudest_hz(loud) == pytest.approx(440, abs=1)
    assert measure_clipping(loud) < 1e-3, "an overshoot was cut instead of scaled"


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
    picture, centres = mel_spectrogram(Clip(tone(1, hz), SR)), mel_filters(SR, 1_024, 64)[1]
    band = centres[picture.mean(axis=1).argmax()]
    assert abs(band - hz) < max(50, 0.1 * hz)
    assert picture.shape == (64, 1 + SR // 256) and picture.min() >= -100 and picture.max() < 6


def test_mel_of_halves_is_six_decibels_lower():
    assert mel_spectrogram(Clip(tone(), SR)).max() - mel_spectrogram(Clip(tone() / 2, SR)).max() == pytest.approx(6.02, abs=0.01)


def test_clip_plot_has_labels_with_units():
    picture = plot_clip(Clip(tone(1), SR), [0, 0.5], "A tone")
    assert all(word in picture.text for word in ("A tone", "2 beats", "Hz", "1.00 s")) and "<img" in picture._repr_html_()
    wave_ax, mel_ax, bar = picture.figure.axes
    assert wave_ax.get_title() == "A tone" and bar.get_ylabel() == "dB"
    assert ", s" in mel_ax.get_xlabel() and "Hz" in mel_ax.get_ylabel()
    assert len(mel_ax.collections[0].get_segments()) == 2
