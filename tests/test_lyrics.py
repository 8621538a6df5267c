"""Rhyme, syllables and the rest of what can be read in a text."""
import pytest

from rap_analyzer.music import lyrics

WORDS = [("rhythm", 2), ("squirrel", 2), ("unforgettable", 5), ("strengths", 1), ("o'er", 1), ("дорога", 3)]


@pytest.mark.parametrize("word, n", WORDS)
def test_syllables_of_words(word: str, n: int) -> None:
    assert lyrics.syllables(word) == n


def test_scheme_of_a_sonnet() -> None:
    sonnet = """That time of year thou mayst in me behold
When yellow leaves, or none, or few, do hang
Upon those boughs which shake against the cold,
Bare ruin'd choirs, where late the sweet birds sang.""".splitlines()
    assert lyrics.rhyme_scheme(sonnet) == ["A", "B", "A", "B"]


def test_the_eye_is_not_the_ear() -> None:
    assert lyrics.rhyme_scheme(["a terrible cough", "as if, or as though"]) == ["A", "B"]
