"""Lyrics and tags in any code page, damaged, endless or no file at all."""

import os
import struct
import time

import numpy as np
import pytest
import soundfile

from rap_analyzer.music.files import guess_encoding, hear_any, lyrics_beside, names, read_lyrics
from rap_analyzer.music.lyrics import lyrics

TEXTS = {
    "Son cœur a brûlé cet été\nla forêt où naît l'hiver, ça va": ("cp1252", "mac_roman"),
        "Mädchen tanzen über große Flüsse": ("cp1252", "cp850"),
    "la niña baila, ¿y mañana qué?": ("cp1252", "mac_roman"), "She said “it’s over” – so I left…": ("cp1252",),
    "a soufflé for one": ("cp1252", "cp850", "mac_roman"),
    "В доме тихо, за окном дождь\nи никто не ждёт меня домой": ("cp1251", "koi8_r", "cp866", "mac_cyrillic", "utf-16-le",
        "utf-16-be"),
    "ТИШИНА НА УЛИЦЕ, НИКОГО НЕТ ДОМА": ("cp1251", "koi8_r"), "на дворе and the night is cold": ("cp1251", "koi8_r"),
    "książę źle śpi, świt już blisko": ("cp1250",), "夜が明けるまで、君と歩いた": ("shift_jis",),
    "밤이 깊어도 나는 걷는다": ("euc_kr",), "שלום עולם": ("cp1255",), "הלילה ארוך ואני הולך לאורך הים": ("cp1255",),
}


@pytest.mark.parametrize("text, page", [(t, p) for t, pages in TEXTS.items() for p in pages])
def test_a_code_page_is_told_by_its_letters(text, page, tmp_path):
    (tmp_path / "x.txt").write_bytes(text.replace("ЁЙ", "").encode(page))
    assert read_lyrics(tmp_path / "x.txt") == text


@pytest.mark.parametrize("text", ["Тихий двор и ночная вода за окном", "la niña baila y mañana también será así: qué más"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xd0", b"\xe9\x80"])
def test_a_damaged_byte_costs_one_character(text, bad, tmp_path):
    data = text.encode()
    (tmp_path / "x.txt").write_bytes(data[:8] + bad + data[8:])
    got = read_lyrics(tmp_path / "x.txt")
    assert got.replace("\ufffd", "") == text and any("unreadable" in w for w in lyrics(got).warnings)


def test_nonsense_is_refused_and_not_guessed(tmp_path):
    noise = bytes(np.random.default_rng(3).integers(32, 256, 400, dtype=np.uint8))
    (tmp_path / "x.txt").write_bytes(noise)
    assert guess_encoding(noise) is None and lyrics_beside(tmp_path / "x.wav")[0] is None
    with pytest.raises(ValueError, match="save it as UTF-8"): read_lyrics(tmp_path / "x.txt")


def test_lyrics_are_read_from_regular_files_only(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with open(tmp_path / "big.txt", "wb") as f: f.truncate(5_000_000_000)
    began = time.monotonic()
    for name, said in (("pipe.txt", "no regular file"), ("zero.txt", "no regular file"), ("big.txt", "more than 2 MB"), (".",
        "directory")):
        with pytest.raises(ValueError, match=said): read_lyrics(tmp_path / name)
        assert lyrics_beside(tmp_path / name)[0] is None
    assert time.monotonic() - began < 2
    with pytest.raises(ValueError, match="no file"): list(hear_any(tmp_path / "pipe.txt"))


def id3(artist, title):
    "A tag that says Latin-1, whatever is in it."
    frames = b"".join(k + struct.pack(">IH", len(v) + 1, 0) + b"\0" + v for k, v in ((b"TPE1", artist), (b"TIT2", title)))
    return b"ID3\3\0\0" + bytes(len(frames) >> 7 * i & 127 for i in (3, 2, 1, 0)) + frames


@pytest.mark.parametrize("artist, title, page", [
    ("Мира Соль", "Ночной двор", "cp1251"), ("Beyoncé", "Déjà Vu", "latin-1"), ("Björk", "Jóga", "latin-1"), ("Сергей",
        "Вода", "utf-8"),
    ("Zoë", "Café", "utf-8"), ("Plain", "Name", "ascii")])
def test_tags_in_a_code_page_they_do_not_name(artist, title, page, tmp_path):
    soundfile.write(tmp_path / "bare.mp3", np.sin(np.arange(30_000) / 9) / 2, 22_050)
    (tmp_path / "a.mp3").write_bytes(id3(artist.encode(page), title.encode(page)) + (tmp_path / "bare.mp3").read_bytes())
    assert names(tmp_path / "a.mp3")[:2] == (artist, title)
    info = b"INFO" + b"".join(k + struct.pack("<I", len(v) + 1) + v + b"\0" * (1 + (len(v) + 1) % 2)
                              for k, v in ((b"IART", artist.encode(page)), (b"INAM", title.encode(page))))
    soundfile.write(tmp_path / "b.wav", np.sin(np.arange(30_000) / 9) / 2, 22_050)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes() + b"LIST" + struct.pack("<I", len(info)) + info)
    assert names(tmp_path / "b.wav")[:2] == (artist, title)
