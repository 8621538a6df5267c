"""What is sung of a page: numbers, headings, ad-libs, accents, letters, long letters; each against the same in plain words."""

import time

import pytest

from rap_analyzer.music.lyrics import lyrics
from rap_analyzer.music.phonetics import load_dictionary, pronounce, syllables, tokenize
from rap_analyzer.music.rhyme import classify, rhyme_scheme
from rap_analyzer.music.words import sung

SPOKEN = {  # written: said
    "since 78": "since seventy eight", "room 101": "room one oh one", "in 1987": "in nineteen eighty seven",
    "in 2001": "in two thousand one",
    "in 2015": "in twenty fifteen", "the '70s": "the seventies", "the 2nd": "the second", "my 20th": "my twentieth",
    "$20": "twenty dollars", "$1": "one dollar", "2,500 miles": "two thousand five hundred miles", "99%": "ninety nine percent",
    "9/11": "nine eleven", "7:15": "seven fifteen", "#7": "number seven", "0.5": "zero point five", "1900": "nineteen hundred",
    "4 u": "four u", "B4 noon": "before noon", "drum & bass": "drum and bass", "A$AP": "asap", "$h!": "sh",
    "12345": "twelve thousand three hundred forty five",
    "В 17 лет": "в семнадцать лет", "1000 раз": "тысяча раз", "80-е": "восьмидесятые", "2-я": "вторая", "345": "three forty five",
    "сто 22": "сто двадцать два", "5-го": "пятого",
}
COUNTED = {"café": 2, "naïve": 2, "Beyoncé": 3, "fiancée": 3, "résumé": 3, "soufflé": 2, "matinée": 3, "entrées": 2,
    "piñata": 3, "Noël": 2, "learnèd": 2,
           "MC": 2, "NYC": 3, "AK": 2, "DJs": 2, "VIP": 3, "R.I.P.": 3, "U.S.A.": 3, "KGB": 3, "NASA": 2, "OK": 2, "TVs": 2,
           "МВД": 3, "СССР": 4, "США": 3,
           "yeaaah": 1, "soooo": 1, "looove": 1, "gooooal": 1, "heeeey": 1, "babyyyy": 2, "neeeever": 2, "нееееет": 1,
           "дооооождь": 1}
NOT_SUNG = ["[Verse 1]", "Verse 2:", "Chorus x2:", "CHORUS", "(Hook)", "{Outro}", "**Bridge**", "## Intro ##", "Pre-Chorus:",
    "Repeat x3", "(x2)", "[x4]",
            "Second Verse", "Verse 3: Mira Salt & Someone", "Hook - Mira Salt", "Repeat Chorus", "(Instrumental)",
            "Final Chorus (x2)",
            "Припев:", "Куплет 2", "2 куплет:", "(Припев x2)", "Бридж", "[Вступление]", "(3 раза)", "Второй куплет", "Проигрыш",
            "You might also like", "12Embed", "https://example.com/words", "Submit Corrections"]
SUNG = ["Hook me up with something new", "the bridge is burning", "a verse for you", "repeat it twice and go", "break",
    "We crossed the bridge", "Part of me",
        "(I never meant to hurt you)", "припев моей души", "solo", "in the end"]


@pytest.mark.parametrize("written", SPOKEN)
def test_symbols_are_read_as_words(written: str) -> None:
    assert tokenize(written) == SPOKEN[written].split() and syllables(written) == syllables(SPOKEN[written])


@pytest.mark.parametrize("word", COUNTED)
def test_syllables_of_accents_letters_and_long_vowels(word: str) -> None:
    assert syllables(word) == COUNTED[word]


@pytest.mark.parametrize("a, b", [("the old café", "every day"), ("my fiancée", "blown away"), ("out of NYC", "it is free"),
    ("an AK", "on the way"),
                                  ("born in 92", "made for you"), ("half past 3", "by the sea"), ("in the 90s", "the nineties"),
                                  ("goin' hooome", "chrome (skrrt)"), ("all niiight", "in the light (oh my god)"), ("N.B.A.",
                                  "a sunny day")])
def test_they_rhyme_as_they_sound(a: str, b: str) -> None:
    assert classify(a, b).kind in ("perfect", "identical")


@pytest.mark.parametrize("line", NOT_SUNG)
def test_the_page_is_not_sung(line: str) -> None:
    assert sung(line) == "" and tokenize(line) == [] and syllables(line) == 0


@pytest.mark.parametrize("line", SUNG)
def test_sung_lines_stay(line: str) -> None:
    assert sung(line) == line and tokenize(line)


@pytest.mark.parametrize("line, rest", [
    ("Chorus: and I fall into the sea", "and I fall into the sea"), ("carry me over (x2)", "carry me over"),
    ("carry me over x3", "carry me over"),
    ("7 ContributorsNight Yard Lyrics[Verse 1]", ""), ("over the hills again105Embed", "over the hills again"),
    ("carry [laughs] me", "carry   me"),
    ("(ayy) I came up (uh, uh) slow (let's go)", "I came up   slow"), ("so we (as ever) go", "so we (as ever) go")])
def test_what_is_left_of_a_line(line: str, rest: str) -> None:
    assert sung(line) == rest


def test_a_page_reads_like_its_song() -> None:
    song = ("I left the town in ninety nine\nThe road was dark, the road was mine\n"
            "I never told you where I go\nThe night is all I need to know")
    page = ("9 ContributorsThe Road Lyrics[Verse 1: Mira Salt]\nI left the town in 99 (yeah)\n(Woo!)\n"
            "The road was dark, the road was mine (mine)\nYou might also like\nI never told you where I gooo\n"
            "The night is all I need to know (skrrt)31Embed")
    one, other = lyrics(song), lyrics(page)
    assert [x.syllables for x in one.lines] == [x.syllables for x in other.lines if x.text] and not other.warnings
    assert [x for x in other.scheme if x] == list(one.scheme) == ["A", "A", "B", "B"] and one.language == other.language
    assert rhyme_scheme(["in the night (what)", "so bright (yeah)", "(uh)", "by the sea (ayy)", "with me"]) == ["A", "A", "",
    "B", "B"]


def test_capitals_mean_letters_only_where_others_are_small() -> None:
    assert tokenize("STOP what you do in the US or LA") == ["stop", "what", "you", "do", "in", "the", "US", "or", "LA"]
    assert tokenize("STOP ALL OF IT NOW") == ["stop", "all", "of", "it", "now"] and tokenize("MEET ME IN NYC")[-1] == "NYC"


def test_numbers_alone_are_no_language() -> None:
    assert lyrics("1 2 3\n4 5 6").language.code == "unknown" and lyrics("1 2 3\n4 5 6").flow.syllables == 6


def test_every_listed_word_is_itself() -> None:
    words = [w for w in list(load_dictionary())[::61] if w.isalpha()]
    assert [tokenize(w) for w in words] == [[w] for w in words]


@pytest.mark.parametrize("text", ["9" * 100_000, "1," * 50_000, "a1" * 50_000, "(" * 100_000, "(yeah" * 20_000, "A." * 50_000,
    "aaa" * 40_000, "x2 " * 40_000,
                                  "aabbccddeeff" * 9_000, "Verse " * 20_000, "$" * 100_000, "&" * 100_000, "[" * 100_000,
                                  "é" * 100_000])
def test_no_line_takes_long(text: str) -> None:
    began = time.process_time()
    for w in tokenize(text)[:2_000]: pronounce(w)
    lyrics(text)
    assert time.process_time() - began < 2
