"""Make `rap_analyzer/music/tempo.json` anew: the networks of `music.tempo`, trained on drum patterns that are made up here.

`scripts/train_tempo.py [--songs N] [--seed N] [--out FILE]` takes some minutes on one core. What is shipped is what it writes by
default: the same bytes on the same kind of processor, elsewhere weights that differ in their last digits. A feel is a table row:
tempo, swing, parts, each with pieces and patterns to choose from. A song chooses once, then slips, adds, drops, fills and drifts
like somebody who plays. Strokes come from kits drawn at random with the functions of `music.render`; their power is added up band
by band, which is a hundred times cheaper than sound. No recording and no human performance is used. Feels and their tempi are
common drumming knowledge. A third of the feels at a time is left out to see how sure the network may be of what it has never met
(`sharpness`).
"""
import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is there: two threads would add up in another order

import numpy as np

from rap_analyzer.music.audio import Clip
from rap_analyzer.music.instruments import clap, hat, kick, shout, snare, two_tone
from rap_analyzer.music.render import SR
from rap_analyzer.music.spectrum import spectrogram
from rap_analyzer.music.tempo import (
    FPS,
    GRID,
    apply_network,
    band_weights,
    beat_features,
    convolve_same,
    extract_features,
    gaussian,
    normalize_onsets,
    spectral_flux,
)

USUAL = {"songs": (20_000, "how many to compose"), "networks": (6, "how many weigh tempi; their scores are averaged"),
         "listeners": (2, "how many find beats"), "epochs": (8, "how often each song is learnt from"),
         "seed": (11, "where chance begins")}
OUT = Path(__file__).resolve().parents[1] / "rap_analyzer" / "music" / "tempo.json"
Rng = np.random.Generator
PIECES = {  # a piece's function, the range of each of its numbers, how long it is (s), how loud
    "kick": (kick, ((42, 72), (110, 290), (0.05, 0.3), (0, 0.7)), 0.6, (0.7, 1)),
    "snare": (snare, ((150, 280), (0.06, 0.2), (500, 2_000), (3_000, 10_000)), 0.5, (0.5, 0.95)),
    "clap": (clap, ((0.008, 0.014), (0.06, 0.2), (600, 1_200), (3_500, 6_000)), 0.5, (0.4, 0.9)),
    "hat": (hat, ((0.7, 1.4), (0.015, 0.08), (3_500, 8_000), (0, 1)), 0.25, (0.1, 0.5)),
    "pedal": (hat, ((0.7, 1.4), (0.015, 0.05), (3_500, 8_000), (0, 1)), 0.2, (0.05, 0.35)),
    "open": (hat, ((0.7, 1.4), (0.12, 0.4), (3_500, 7_000), (0, 1)), 0.8, (0.1, 0.5)),
    "ride": (hat, ((0.9, 1.6), (0.1, 0.7), (3_000, 6_000), (0, 0.6)), 1.0, (0.1, 0.5)),
    "crash": (hat, ((0.6, 1.1), (0.4, 0.9), (2_500, 4_500), (0.3, 1)), 1.5, (0.3, 0.6)),
    "shaker": (hat, ((1, 1), (0.03, 0.07), (4_000, 6_000), (1, 1)), 0.25, (0.05, 0.3)),
    "rim": (two_tone, ((350, 700), (1_200, 2_200), (0.008, 0.03), (300, 500)), 0.12, (0.2, 0.6)),
    "cowbell": (two_tone, ((450, 700), (700, 1_000), (0.04, 0.12), (400, 400)), 0.4, (0.1, 0.5)),
    "tom": (kick, ((70, 140), (130, 220), (0.1, 0.25), (0, 0.3)), 0.6, (0.4, 0.9)),
    "tom2": (kick, ((110, 200), (180, 300), (0.1, 0.2), (0, 0.3)), 0.5, (0.4, 0.9)),
    "hey": (shout, ((150, 300), (0.08, 0.15), (600, 600), (1_800, 1_800)), 0.4, (0.3, 0.6)),
}
TONES = {  # bands from, to; decay, attack (s)
    "bass": (0, 4, (0.1, 0.9), (0.003, 0.02)), "chord": (3, 10, (0.1, 0.8), (0.004, 0.05)),
    "voice": (4, 12, (0.08, 0.2), (0.02, 0.06)),
}

# X loud, x, o, g always (1, .8, .5, .25); a digit is the chance in tenths; r is a roll, now and then. A space parts two bars.
EIGHTHS, QUARTERS = ("xxxxxxxx", "XoXoXoXo", "oXoXoXoX"), ("XXXX",)
SIXTEENTHS = "xxxxxxxxxxxxxxxx", "XgogXgogXgogXgog", "Xoxo" * 4
TIME = (1.0, ("hat", "hat", "hat", "ride", "open", "shaker", "crash"), EIGHTHS + EIGHTHS + SIXTEENTHS + QUARTERS)
SLOW_TIME = (1.0, ("hat", "hat", "ride", "open"), EIGHTHS + SIXTEENTHS)
FAST_TIME = (1.0, ("hat", "ride", "crash", "open"), EIGHTHS + QUARTERS)
BACKBEAT = (1.0, ("snare", "snare", "snare", "clap", "rim"), ("....X.......X...", "....X.......X...", "....X..g.g..X..g",
    "...gX.g..g.gX..."))
KICKS = ("X.1.1.2.5.2.1.11", "X.2.1.3.6.3.1.2.", "X.......X.......", "X..3..3.X..3..3.", "X.3.....3.X...3.", "X..x..x..x..x.x.",
    "X3.3..4.3.4.1.3.")
PEDAL = (0.6, ("pedal",), (".x.x",))
CLAVES = ("x..x..x...x.x...", "x..x...x..x.x...", "..x.x...x..x..x.", "..x.x...x..x...x", "x..x..x.x..x..x.", "x.x.xx.x.x.x.xx.")


class Feel(NamedTuple):
    "A way of playing: how common here, tempo (BPM) and its spread (log), beats in a bar, where swing may lie, parts."
    weight: float
    bpm: float
    spread: float
    beats: int
    swing: tuple[float, float]
    parts: tuple[tuple[float, tuple[str, ...], tuple[str, ...]], ...]  # chance to be there, pieces, patterns


STRAIGHT, LOOSE, LAZY = (0.5, 0.5), (0.42, 0.6), (0.5, 0.66)  # below .5 counts as straight
FEELS = {
    "rock": Feel(6, 104, 0.21, 4, LOOSE, ((1, ("kick",), KICKS), BACKBEAT, TIME, (0.2, ("clap",), ("....x.......x...",)))),
    "boom bap": Feel(3, 91, 0.1, 4, LAZY, ((1, ("kick",), KICKS), BACKBEAT, SLOW_TIME, (0.3, ("open",), ("......2.......5.",)))),
    "slow": Feel(1, 67, 0.12, 4, LOOSE, ((1, ("kick",), KICKS), BACKBEAT, SLOW_TIME, (0.3, ("shaker", "hat"), SIXTEENTHS))),
    "half time": Feel(1.1, 138, 0.12, 4, STRAIGHT, (
        (1, ("kick",), ("X..1..2...1...1.", "X.....2.....1.3.", "X.........3.....")),
        (1, ("snare", "clap"), ("........X......1",)), FAST_TIME)),
    "trap": Feel(2, 140, 0.08, 4, STRAIGHT, (
        (1, ("kick",), ("X..3..33..33..3.", "X.....3...3..3..")), (1, ("snare", "clap"), ("........X.......", "........X......1")),
        (1, ("hat",), ("r.r.r.r.r.r.r.r.", "rxrxrxrxrxrxrxrx", "x.x.r.x.x.r.x.r.")), (0.3, ("open",), ("......3.......3.",)))),
    "threes": Feel(1, 142, 0.05, 4, STRAIGHT, (
        (1, ("kick",), ("X..3..3...3.3.3. 3..3..X..3...3..", "X.....x.....x...")),
        (1, ("snare", "clap"), ("........X....... ............X...", "........X.......")),
        (1, ("hat",), ("X..x..x.X..x..x.", "X..x..x.X..x.r..")), (0.5, ("rim",), ("...2..2....2.2..",)))),
    "shouted": Feel(0.8, 76, 0.08, 4, STRAIGHT, (
        (1, ("kick",), ("X..x..x...x.x...", "X..x..x...x...x.", "X.....x...X..x..")), (1, ("clap", "snare"), ("....X.......X...",)),
        (1, ("hat",), EIGHTHS), (0.8, ("hey", "hey", "chord"), ("..x...x...x...x.", "......x.......x.", "..x..x....x..x..")))),
    "punk": Feel(0.8, 165, 0.13, 4, STRAIGHT, ((1, ("kick",), ("X.X.", "X..xX.x.", "X.3.X.3.")), (1, ("snare",), (".X.X",)),
        FAST_TIME)),
    "four on the floor": Feel(1.2, 122, 0.11, 4, STRAIGHT, (
        (1, ("kick",), QUARTERS), (0.9, ("snare", "clap"), (".X.X",)), (0.8, ("open", "hat"), (".x.x.x.x",)),
        (0.5, ("hat", "shaker"), EIGHTHS + SIXTEENTHS), (0.4, ("rim", "tom", "cowbell"), ("..1..11..1.1..1.",)))),
}
FEELS |= {
    "swing": Feel(2.6, 150, 0.36, 4, STRAIGHT, (
        (1, ("ride", "ride", "ride", "hat"), ("X..x.oX..x.o", "X..x.xX..x.x", "X..X.oX..X..", "X.1x.8X.1x.8")), PEDAL,
        (0.4, ("kick",), ("gggg", "oooo")), (1, ("kick",), ("1.2..2..1..3", "..1..1..1..2")),
        (1, ("snare", "rim"), ("..2.13..2.13", ".12..4.12..4", "1.3..2.21..4")))),
    "shuffle": Feel(1.4, 98, 0.25, 4, STRAIGHT, (
        (1, ("hat", "ride", "open"), ("X.oX.oX.oX.o", "XooXooXooXoo", "X.xX.xX.xX.x")),
        (1, ("kick",), ("X....3X....3", "X....3..3..3", "X.3..3X.3..3", "X..X..X..X..")),
        (1, ("snare",), ("...X.....X..", "...X.g.g.X.g", "......X.....", "..gX.g..gX.g")))),
    "bossa": Feel(0.8, 120, 0.2, 4, STRAIGHT, (
        (1, ("kick",), ("x..xx..x", "x..x", "x..xx..xx..xx..x")), (1, ("rim", "rim", "snare"), CLAVES),
        (1, ("hat", "ride", "shaker"), EIGHTHS + SIXTEENTHS), PEDAL)),
    "samba": Feel(1, 112, 0.16, 4, LOOSE, (
        (1, ("kick",), ("o..oX..oo..oX..o", "o...X...o...X...", "X..xX..xX..xX..x")),
        (1, ("hat", "shaker", "ride", "snare"), SIXTEENTHS),
        (1, ("snare", "rim", "tom"), ("x.x3x.3x.x3x.x3.", "3.24.3.24.3.4.3.")), (0.4, ("pedal",), (".x.x.x.x",)))),
    "latin": Feel(1.8, 106, 0.18, 4, LOOSE, (
        (0.9, ("rim", "cowbell", "snare", "ride"), CLAVES), (0.9, ("cowbell", "hat", "ride"),
        QUARTERS + EIGHTHS + SIXTEENTHS + ("x.xxx.xx", "x.x.xxx.x.xx.xx.")),
        (1, ("kick",), ("......x.....x...", "x.....x.x.....x.", "x..x....x..x....", "xxxx", "x..x..x.x..x..x.",
        "...x..x....x..x.")),
        (0.8, ("tom", "tom2", "snare"), ("............x.x.", "....x.......x.x.", "...x..x....x..x.", "....x.......x...",
        "x..x..x.x..x..x.")), PEDAL)),
    "second line": Feel(1.2, 98, 0.16, 4, (0.5, 0.64), (
        (1, ("kick",), ("x..x..x.....x...", "x..x..x.....x... x..x..x...x.x...", "x.....x.....x...")),
        (1, ("snare",), ("5g5xg5x5g5x5x5gx", "g5gxg5gxg5xgg5xg", "x5gx5gx5g5x5xg5g", "gggXggXgggXgXggg")), PEDAL,
        (0.3, ("cowbell", "ride"), EIGHTHS))),
    "one drop": Feel(0.8, 78, 0.18, 4, LAZY, (
        (1, ("kick",), ("..X.", "xxXx", ".X.X")), (1, ("rim", "snare"), ("..X.", ".X.X")), (1, ("hat",), EIGHTHS + SIXTEENTHS),
        (0.4, ("tom", "rim"), ("...1..1...1..21.",)))),
    "waltz": Feel(1, 118, 0.28, 3, STRAIGHT, (
        (1, ("kick",), ("X..", "X....3", "X.....3.....")), (1, ("snare", "pedal", "rim"), (".xx", "..x", ".x.")),
        (1, ("ride", "hat"), ("xxx", "X5x5x5", "X.5x.5x.5", "Xoxoxo")), (0.3, ("snare",), ("..2..3..2", "..2.3.")))),
    "six eight": Feel(0.9, 76, 0.25, 2, STRAIGHT, ((1, ("hat", "ride"), ("XooXoo", "xxxxxx")),
        (1, ("kick",), ("X.3..3", "X....3", "X.3.3.")), (1, ("snare",), ("...X..", "...X.2")))),
    "five": Feel(0.4, 125, 0.2, 5, STRAIGHT, (
        (1, ("kick",), ("X..3..x...", "X.....x...", "X....3.x.....5.")), (1, ("snare",), ("...X.", ".X.X.", "..X.X")),
        (1, ("ride", "hat"), ("xxxxx", "XoXoXoXoXo", "X.oX.oX.oX.oX.o")))),
    "afrobeat": Feel(1, 106, 0.13, 4, LOOSE, (
        (1, ("kick",), ("x.....x.x.....x.", "x..x......x.....", "x....x..x....x..", "x.x...x...x.x...")),
        (1, ("snare", "rim"), ("....x.....x....x", "...x..x.....x...", "....x..x.x..x..x", "....X.......X...")),
        (1, ("hat", "ride"), EIGHTHS + SIXTEENTHS), (0.5, ("snare",), ("..2.2..2..2.2..2",)))),
    "toms": Feel(0.7, 108, 0.2, 4, LOOSE, ((1, ("tom", "snare"), ("X5636563X5636563", "X.5X.5X5X.5X.5X5")),
        (1, ("tom2", "tom"), ("2.3.4.2.2.3.4.2.",)), (0.8, ("kick",), QUARTERS + ("X...", "X.X.")), PEDAL)),
    "linear": Feel(1, 99, 0.17, 4, LOOSE, ((1, ("kick",), ("X.2.2.2.5.2..22.",)),
        (1, ("snare",), (".g.2X.2g.g2.X.g2", "....X..g.g..X...")), (1, ("hat",), (".77.7.7.77.7.77.", "7.7.7.7.7.7.7.7.")))),
}
FEELS |= {
    "half time shuffle": Feel(0.6, 96, 0.16, 4, STRAIGHT, (
        (1, ("hat", "ride"), ("X.oX.oX.oX.o", "X.xX.xX.xX.x")), (1, ("kick",), ("X....3....3.", "X....X.....3", "X.3..3..3..X")),
        (1, ("snare",), ("......X.....", ".g..g.Xg..g.", ".g..g.X...gX")))),
    "twelve eight": Feel(0.6, 62, 0.15, 4, STRAIGHT, (
        (1, ("hat", "ride"), ("XooXooXooXoo", "xxxxxxxxxxxx")), (1, ("kick",), ("X.....X.....", "X....xX.....", "X....3X..3.x")),
        (1, ("snare", "rim"), ("...X.....X..", "...X....gX.g")))),
    "bembe": Feel(1, 112, 0.2, 4, STRAIGHT, (
        (0.9, ("cowbell", "ride", "hat", "rim"), ("X.X.XX.X.X.X", "x.xx.x.xx.x.", "X.xX.xxX.xX.", "X.xx.xX.xx.x")),
        (0.9, ("kick",), ("x..x..x..x..", "X.....x.....", "..x..x..x..x", "...X.x...X.x", "X....xX...x.")),
        (0.8, ("snare", "rim", "tom"), ("..x..x..x..x", "x...x...x...", "..g.gx..g.gx", "......X.....", ".xx.xx.xx.xx")),
        (0.6, ("tom", "tom2"), ("....xx....xx", "x...xx..x.x.")), (0.7, ("pedal",), ("xxxx", ".x.x", "x.x.")))),
    "hemiola": Feel(0.8, 124, 0.2, 4, STRAIGHT, (  # three against two, or three against four
        (1, ("ride", "hat", "open", "crash"), ("X.X.X.X.X.X.", "XoXoXoXoXoXo", "X...X...X...", ".x.x.x.x.x.x")),
        (1, ("kick",), ("X...........", "X.....X.....", "X..X..X..X..", "X.....X...3.")),
        (0.8, ("snare", "tom", "rim"), ("...X.....X..", "......X.....", "..x...x...x.", "..X..X..X..X")),
        (0.6, ("pedal",), ("xxxx", ".x.x", "x.x.x.")))),
    "in threes": Feel(0.8, 106, 0.2, 4, LOOSE, (  # one hand plays every third sixteenth, across the bars
        (1, ("hat", "ride", "cowbell", "rim", "tom"), ("X..x..x..X..x..x ..X..x..x..X..x. .x..X..x..x..X..",
        "x.gx.gx.gx.gx.gx .gx.gx.gx.gx.gx. gx.gx.gx.gx.gx.g")), (1, ("kick",), KICKS), BACKBEAT,
        (0.5, ("pedal",), (".x.x", "xxxx")))),
    "three and six": Feel(0.4, 150, 0.2, 3, STRAIGHT, (  # counted in three, with six eighths across it
        (1, ("kick",), ("..x.x.", "X...x.", "..X.X.", "X..X..")), (0.8, ("rim", "snare", "hat"), ("X..X..", "x.xx.x", "x..x.x")),
        (0.7, ("hat", "ride", "tom"), ("xxxxxx", "x.x.x.", "X.xX.x")))),
    "seven": Feel(0.3, 140, 0.22, 7, STRAIGHT, (
        (1, ("kick",), ("X...X...X.....", "X..x..X...x...", "X.....X..3....")),
        (1, ("snare",), ("..X...X...X...", "..X...X.....X.")),
        (1, ("hat", "ride"), ("xxxxxxx", "XoXoXoXoXoXoXo", "xoxoxoxoxxoxxo")))),
    "brushes": Feel(0.6, 185, 0.28, 4, STRAIGHT, (
        (1, ("snare", "shaker"), ("X..x.oX..x.o", "xxXxxxXx", "X..X.xX..X.x", "gXgX")), PEDAL, (0.6, ("kick",), ("gggg", "oooo")),
        (0.7, ("snare", "rim"), ("..2..3..2..3", "1..2.13..2.1")))),
    "train": Feel(0.4, 108, 0.16, 4, STRAIGHT, (
        (1, ("kick",), ("X.X.X.X.", "XXXX")), (1, ("snare",), ("ggXgggXgggXgggXg", "xgXgxgXgxgXgxgXg", "gxXggxXggxXggxXg")),
        (0.4, ("pedal",), (".x.x.x.x",)))),
    "on all four": Feel(0.5, 124, 0.14, 4, STRAIGHT, (
        (1, ("snare",), QUARTERS + ("XXXxXXXX",)), (1, ("kick",), ("X.1.x.x.X.1.x.1.", "X..xX..xX..xX..x", "X.......X.x.....")),
        FAST_TIME)),
    "breakbeat": Feel(0.5, 168, 0.07, 4, STRAIGHT, (
        (1, ("kick",), ("X.X.......X.....", "X.........X.....", "X.X.......XX....")),
        (1, ("snare",), ("....X..g.g..X...", "....X.......X...", "....X..X.X....X.")), (1, ("hat", "ride"), EIGHTHS))),
    "solo": Feel(0.6, 118, 0.25, 4, STRAIGHT, ((0.8, ("pedal", "kick"), (".x.x", "xxxx", "x.x.")),
        (1, ("snare",), ("7565755575557556", "756756756756", "7.5.7.5.7.5.7.5.")),
        (1, ("tom", "tom2"), ("2323232323232323", "323232323232")),
        (0.7, ("kick",), ("5.2.2.2.5.2.2.2.", "5.2.2.5.2.2.")))),
}
TRIPLE = {"swing", "shuffle", "six eight", "half time shuffle", "twelve eight", "bembe", "hemiola", "three and six", "brushes"}
LOUD = {"X": 1.0, "x": 0.8, "o": 0.5, "g": 0.25}
LAYERS = (("bass", 0.45, ("x...............", "x..x..x...x.....", "x.....x.x.....x.", "x.......x.......", "xxxxxxxx",
    "x..x..x..x..x...")),
          ("chord", 0.4, ("x...", "x.x.", ".x.x.x.x", "xxxx", "x..x..x.x..x..x.", "xxxxxxxx")),
          ("voice", 0.25, ("5" * 16, "7.7.7.77")))


class Song(NamedTuple):
    "A made-up performance: feel, tempo, true beats (s), strokes (s, piece, strength), how long (s)."
    feel: str
    bpm: float
    beats: np.ndarray
    strokes: list[tuple[float, str, float]]
    seconds: float


def pick(rng: Rng, options: tuple): return options[rng.integers(len(options))]


def strokes(pattern: str, beats: int, bar: int, rng: Rng) -> Iterator[tuple[float, float]]:  # (place in beats, strength)
    "One bar of a pattern; chances are drawn anew."
    pattern = pick_bar(pattern, bar)
    for i, c in enumerate(pattern):
        at = i * beats / len(pattern)
        if c in LOUD: yield at, LOUD[c] * rng.uniform(0.85, 1)
        elif c.isdigit() and rng.random() < int(c) / 10: yield at, rng.uniform(0.2, 0.9)
        elif c == "r":
            n = pick(rng, (3, 4, 6, 8, 3)) if rng.random() < 0.22 else 1
            for j in range(n): yield at + j / n / 2, 0.9 if not j else 0.6


def pick_bar(pattern: str, bar: int) -> str:
    "The bars of a pattern in turn."
    parts = pattern.split()
    return parts[bar % len(parts)]


def fill(beats: int, fine: int, rng: Rng) -> tuple[float, list[tuple[float, str, float]]]:
    "Where a fill begins in its bar, and its strokes."
    start = max(0.0, beats - pick(rng, (1, 2, beats / 2, beats, 0.5)))
    n = fine if fine == 3 else pick(rng, (4, 4, 2, 3, 6))
    return start, [(start + k / n, pick(rng, ("snare", "snare", "tom", "tom2", "kick")), rng.uniform(0.4, 1))
                   for k in range(int((beats - start) * n)) if rng.random() < 0.8]


def swung(place: np.ndarray, swing: float) -> np.ndarray:
    "Places in beats, the second of two sixteenths late."
    pair, inside = np.divmod(place * 4 + 1e-9, 2)
    return (2 * pair + np.where(inside < 1, inside * 2 * swing, 2 * swing + (inside - 1) * 2 * (1 - swing))) / 4


def play(feel: Feel, bars: int, fine: int, rng: Rng) -> list[tuple[float, str, float]]:  # (place in beats, piece, strength)
    "All bars: a song keeps what it chose; strokes are dropped and added, there are fills, perhaps a change."
    choose = lambda: [(pick(rng, pieces), pick(rng, patterns), int(rng.integers(2**31)))
                      for chance, pieces, patterns in feel.parts if rng.random() < chance]
    parts, layers = choose(), [(name, pick(rng, options), 10 ** rng.uniform(-1.2, 0.2), int(rng.integers(2**31)))
                               for name, chance, options in LAYERS if rng.random() < chance]
    drop, extra, period = pick(rng, (0, 0.04, 0.1, 0.2)), pick(rng, (0, 0, 0.03, 0.08, 0.15)), pick(rng, (1, 1, 2, 2, 4))
    every, crash = pick(rng, (0, 4, 8, 8, 2)), rng.random() < 0.5
    turn = rng.integers(3, bars + 1) if rng.random() < 0.35 and bars > 6 else -1
    out = []
    for bar in range(bars):
        if bar == turn: parts = choose()
        here = [(at, piece, v) for piece, pattern, seed in parts
                for at, v in strokes(pattern, feel.beats, bar, np.random.default_rng(seed + bar % period)) if rng.random() > drop]
        here += [(k / fine, pick(rng, ("snare", "kick", "hat", "tom", "snare", "rim")), rng.uniform(0.2, 0.8))
                 for k in range(feel.beats * fine) if rng.random() < extra]
        if every and bar % every == every - 1 or rng.random() < 0.03:
            start, more = fill(feel.beats, fine, rng)
            here = [h for h in here if h[0] < start] + more
        if crash and every and bar % every == 0: here.append((0.0, "crash", 0.9))
        for name, pattern, level, seed in layers:
            own = np.random.default_rng(seed + bar % period)
            here += [(at, name, level * v) for at, v in strokes(pattern, feel.beats, bar, own)]
        out += [(bar * feel.beats + at, piece, v) for at, piece, v in here]
    return sorted(out)


def compose(rng: Rng, names: tuple[str, ...] = tuple(FEELS)) -> Song:
    "A song in one of the feels, played by somebody: slips, a lean of each hand, perhaps a drift; it may begin anywhere."
    share = np.array([FEELS[n].weight for n in names])
    name = names[rng.choice(len(names), p=share / share.sum())]
    feel, seconds = FEELS[name], rng.uniform(12, 30)
    bpm = float(np.clip(feel.bpm * np.exp(rng.normal(0, feel.spread)), 46, 290))
    swing, fine = max(0.5, rng.uniform(*feel.swing)), 3 if name in TRIPLE else 4
    if name in ("swing", "brushes") and bpm > 190: fine = pick(rng, (3, 4))
    bars = int(seconds * bpm / 60 / feel.beats) + 2
    played = play(feel, bars, fine, rng)
    steps = np.full(bars * feel.beats + 1, 60 / bpm)
    if rng.random() < 0.35: steps *= np.exp(np.cumsum(rng.normal(0, rng.uniform(0.001, 0.006), len(steps))))
    clock = np.concatenate([[0], np.cumsum(steps)])
    begin = rng.uniform(0, feel.beats) if rng.random() < 0.5 else 0.0
    late = (rng.uniform(0, 1.5) * 60 / bpm if rng.random() < 0.6 else 0.0) - np.interp(begin, np.arange(len(clock)), clock)
    lean, slip, loose = {p: rng.normal(0, 0.006) for p in PIECES}, rng.uniform(0.001, 0.016), rng.uniform(0.03, 0.3)
    place = np.array([p for p, *_ in played])
    lies = swung(place, swing) if swing > 0.5 else place
    at = np.interp(lies, np.arange(len(clock)), clock) + late + rng.normal(0, slip, len(place))
    hits = [(float(t + lean.get(piece, 0)), piece, float(np.clip(v * np.exp(rng.normal(0, loose)), 0.02, 1.3)))
            for t, (_, piece, v) in zip(at, played, strict=True)]
    beats = clock + late
    return Song(name, 60 / float(np.median(np.diff(clock))), beats[(beats >= 0) & (beats < seconds)],
                [h for h in hits if 0 <= h[0] < seconds], seconds)


def kit(rng: Rng) -> dict[str, np.ndarray]:  # power in 16 bands, shape (16, frames); four frames before the stroke
    "A kit drawn at random, and a bass, a chord and a voice to go with it."
    out = {}
    for piece, (make, ranges, length, loud) in PIECES.items():
        t = np.arange(int(length * SR)) / SR
        x = make(t, SR, *(rng.uniform(*r) for r in ranges)) * np.minimum((length - t) / 0.01, 1)
        x = np.concatenate([np.zeros(1_024), 0.3 * rng.uniform(*loud) * x / np.abs(x).max(), np.zeros(512)]).astype(np.float32)
        out[piece] = band_weights(SR, 513) @ spectrogram(Clip(x, SR))
    for name, (low, high, decay, attack) in TONES.items():
        t, weights = np.arange(-4, 60) / FPS, np.zeros(16)
        envelope = np.minimum(np.maximum(t, 0) / rng.uniform(*attack), 1) ** 2 * np.exp(-2 * t / rng.uniform(*decay))
        weights[low:high] = np.exp(rng.normal(0, 1, high - low) - 0.5 * np.arange(high - low))
        weights[12:] += rng.uniform(0, 0.02) * (name != "bass")
        out[name] = (np.outer(weights, convolve_same(envelope, gaussian(1.2))) * rng.uniform(3, 40)).astype(np.float32)
    return out


def hear(song: Song, pieces: dict[str, np.ndarray], rng: Rng) -> np.ndarray:  # shape (4, n): onset curves
    "A song on a kit, through somebody's room, tone controls, noise and compressor."
    n = int(song.seconds * FPS) + 1
    loud = np.zeros((16, n + 200), np.float32)
    for at, piece, v in song.strokes:
        i, x = round(at * FPS), pieces[piece]
        loud[:, i:i + x.shape[1]] += x * (v if piece in TONES else v * v)
    loud, k = loud[:, 4:n + 4], np.arange(16)
    tone = np.interp(k, (0, 5, 10, 15), rng.normal(0, 5, 4) * (rng.random() < 0.7))  # dB
    if rng.random() < 0.2: tone -= np.maximum(0, k - rng.uniform(5, 15)) * rng.uniform(2, 10)
    if rng.random() < 0.12: tone -= np.maximum(0, rng.uniform(1, 6) - k) * 10
    loud *= 10 ** (tone / 10)[:, None].astype(np.float32)
    hiss = 10 ** -rng.uniform(1.2, 6) * loud.mean() * 10 ** (-0.1 * rng.uniform(0, 2) * k)
    loud += hiss[:, None].astype(np.float32) * rng.gamma(2, 0.5, loud.shape).astype(np.float32)
    if rng.random() < 0.4:
        level = convolve_same(loud.sum(axis=0), np.ones(9) / 9)
        loud *= (1 / (level / level.mean() + 0.05)) ** rng.uniform(0.1, 0.6)
    return spectral_flux(loud)


def aimless(rng: Rng) -> Song:
    "Strokes without a pulse."
    seconds = rng.uniform(8, 30)
    at = np.cumsum(rng.exponential(1 / rng.uniform(0.5, 9), 300))
    hits = [(float(t), pick(rng, tuple(PIECES)), rng.uniform(0.2, 1)) for t in at if t < seconds]
    return Song("no pulse", 0.0, np.zeros(0), hits, seconds)


class Network:
    "Layers of weights, learnt with Adam; `drop` of the hidden units are silent in each step."

    def __init__(self, sizes: tuple[int, ...], rng: Rng, drop: float = 0.1) -> None:
        self.w = [rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        self.b = [np.zeros(b, np.float32) for b in sizes[1:]]
        self.w[-1] *= np.float32(0.1)
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.w + self.b]
        self.t, self.rng, self.drop = 0, rng, drop

    def forward(self, x: np.ndarray) -> np.ndarray:
        "Scores, shape (n,); what is needed for the way back is kept."
        self.seen, self.kept = [x], []
        for i, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            x = x @ w + b
            if i + 1 < len(self.w):
                self.kept.append((self.rng.random(x.shape, dtype=np.float32) > self.drop) * (x > 0) / np.float32(1 - self.drop))
                x = x * self.kept[-1]
            self.seen.append(x)
        return x[:, 0]

    def backward(self, slope: np.ndarray, rate: float) -> None:
        "One step against the slope of the loss by the scores."
        g, slopes = slope[:, None].astype(np.float32), []
        for i in reversed(range(len(self.w))):
            slopes.append((self.seen[i].T @ g + 1e-5 * self.w[i], g.sum(axis=0)))
            if i: g = g @ self.w[i].T * self.kept[i - 1]
        self.t += 1
        flat = [w for w, _ in reversed(slopes)] + [b for _, b in reversed(slopes)]
        for p, g, (m, v) in zip(self.w + self.b, flat, self.moments, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= rate * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)

    def layers(self, mean: np.ndarray, spread: np.ndarray, sharp: float = 1.0) -> list:  # what `music.tempo` reads
        "Weights and biases for inputs that are not standardised."
        w, b = [x.astype(float) for x in self.w], [x.astype(float) for x in self.b]
        b[0] = b[0] - (mean / spread) @ w[0]
        w[0], w[-1], b[-1] = w[0] / spread[:, None], w[-1] * sharp, b[-1] * sharp
        return [(x, y) for x, y in zip(w, b, strict=True)]


def goals(bpm: np.ndarray) -> np.ndarray:  # shape (n, 96), rows add up to 1
    "What each candidate should get: the true tempo all, a song without a pulse the same for every one."
    off = np.log(GRID / np.maximum(bpm, 1)[:, None]) / np.log(1.02)
    wanted = np.exp(-0.5 * (off / 0.8) ** 2) + np.where(bpm[:, None] > 0, 0, 1)
    return (wanted / wanted.sum(axis=1, keepdims=True)).astype(np.float32)


def softmax(z: np.ndarray) -> np.ndarray:
    "Scores as probabilities, row by row."
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Mean and spread of each input."
    some = x[:: max(1, len(x) // 2_000)].reshape(-1, x.shape[-1]).astype(np.float32)
    return some.mean(axis=0), some.std(axis=0) + 1e-3


def learn_tempo(x: np.ndarray, bpm: np.ndarray, epochs: int, seed: int) -> tuple[Network, np.ndarray, np.ndarray]:
    "The network that weighs candidates; x has shape (songs, 96, 149)."
    rng, (mean, spread), wanted = np.random.default_rng(seed), standard(x), goals(bpm)
    net, batch, step = Network((x.shape[2], 48, 24, 1), rng), 32, 0
    steps = epochs * max(1, len(x) // batch)
    for _ in range(epochs):
        for i in np.array_split(rng.permutation(len(x)), max(1, len(x) // batch)):
            z = net.forward(((x[i].astype(np.float32) - mean) / spread).reshape(-1, x.shape[2])).reshape(len(i), -1)
            net.backward(((softmax(z) - wanted[i]) / len(i)).ravel(), 1e-3 * (1 + np.cos(np.pi * step / steps)))
            step += 1
    return net, mean, spread


def frames(song: Song, curves: np.ndarray, rng: Rng, n: int = 40) -> tuple[np.ndarray, np.ndarray]:  # inputs, goals
    "Frames on and off the beat, seen at the true tempo, give or take a little."
    smooth, beat, at = normalize_onsets(curves)[1], 60 * FPS / song.bpm * np.exp(rng.normal(0, 0.004)), song.beats * FPS
    off = 0, beat / 2, beat * rng.choice([1 / 4, 3 / 4, 1 / 3, 2 / 3], n)
    chosen = np.concatenate([rng.choice(at, n) + o + rng.normal(0, 1.5, n) for o in off] + [rng.uniform(0, smooth.shape[1], n)])
    chosen = np.unique(np.clip(chosen.round().astype(int), 0, smooth.shape[1] - 1))
    off = np.abs(chosen[:, None] - at).min(axis=1)
    return beat_features(smooth, beat, chosen).astype(np.float16), np.exp(-0.5 * (off / 1.8) ** 2).astype(np.float32)


def learn_beat(x: np.ndarray, wanted: np.ndarray, epochs: int, seed: int) -> tuple[Network, np.ndarray, np.ndarray]:
    "The network that says whether a frame holds a beat."
    rng, (mean, spread) = np.random.default_rng(seed), standard(x)
    net, batch, step = Network((x.shape[1], 32, 16, 1), rng), 2_048, 0
    steps = epochs * max(1, len(x) // batch)
    for _ in range(epochs):
        for i in np.array_split(rng.permutation(len(x)), max(1, len(x) // batch)):
            z = net.forward((x[i].astype(np.float32) - mean) / spread)
            net.backward((1 / (1 + np.exp(-z)) - wanted[i]) / len(i), 1e-3 * (1 + np.cos(np.pi * step / steps)))
            step += 1
    return net, mean, spread


def windowed(p: np.ndarray) -> np.ndarray:  # same shape
    "Probability within 4 % of each candidate."
    return np.array([np.convolve(row, np.ones(5), "same") for row in p])


def sharpness(x: np.ndarray, bpm: np.ndarray, feel: np.ndarray, seed: int) -> tuple[float, float]:
    "By what to multiply scores so that confidence holds for feels never met, and how often those are right within 4 %."
    names, z, truth = np.unique(feel[bpm > 0]), [], []
    for fold in range(3):
        out = np.isin(feel, names[fold::3])
        net, mean, spread = learn_tempo(x[~out], bpm[~out], 4, seed)
        layers = net.layers(mean, spread)
        some = np.flatnonzero(out)[:800]
        z += [apply_network(layers, x[i].astype(np.float32)) for i in some]
        truth += bpm[some].tolist()
    z, near = np.array(z), np.abs(GRID / np.array(truth)[:, None] - 1) < 0.04
    sharp = np.arange(0.2, 1.21, 0.05)
    loss = [-np.log((softmax(z * s) * near).sum(axis=1) + 1e-6).mean() for s in sharp]
    best = float(sharp[int(np.argmin(loss))])
    return best, float(near[np.arange(len(z)), windowed(softmax(z * best)).argmax(axis=1)].mean())


def plain(layers: list) -> list:
    "Arrays as short lists."
    short = lambda a: [short(r) for r in a] if a.ndim > 1 else [float(f"{v:.4g}") for v in a]
    return [[short(w), short(b)] for w, b in layers]


def examples(songs: int, seed: int) -> Iterator[tuple[Song, np.ndarray, tuple[np.ndarray, np.ndarray] | None]]:
    "Songs, the evidence of each, and frames of every second one."
    rng, pieces = np.random.default_rng(seed), {}
    for i in range(songs):
        if i % 200 == 0: pieces = kit(rng)
        song = aimless(rng) if i % 25 == 24 else compose(rng)
        curves = hear(song, pieces, rng)
        yield song, extract_features(curves), frames(song, curves, rng) if len(song.beats) > 5 and i % 2 else None


def first(seed: int) -> list[list[float]]:
    "Tempo and mean evidence of the first songs: whether the recipe is still the one that a file was made with."
    return [[round(song.bpm, 3), round(float(x.mean()), 5)] for song, x, _ in examples(20, seed)]


def main() -> None:
    "Compose, hear, learn, write."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (usual, what) in USUAL.items(): parser.add_argument(f"--{name}", type=int, default=usual, help=f"{what} ({usual})")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    x, bpm, feel, seen, wanted = [], [], [], [], []
    for i, (song, mine, some) in enumerate(examples(given.songs, given.seed)):
        x.append(mine.astype(np.float16)), bpm.append(song.bpm), feel.append(song.feel)
        if some: seen.append(some[0]), wanted.append(some[1])
        if i % 1_000 == 999: print(f"{i + 1:,} songs", flush=True)
    x, bpm, feel, seen, wanted = np.stack(x), np.array(bpm), np.array(feel), np.concatenate(seen), np.concatenate(wanted)
    sharp, unmet = sharpness(x, bpm, feel, given.seed)
    print(f"feels never met: {unmet:.1%} right within 4 %; scores are multiplied by {sharp:.2f}", flush=True)
    tempo = [learn_tempo(x, bpm, given.epochs, given.seed + k) for k in range(given.networks)]
    beat = [learn_beat(seen, wanted, given.epochs, given.seed + k) for k in range(given.listeners)]
    made = {name: getattr(given, name) for name in USUAL} | {"first": first(given.seed)}
    said = {"made": made, "tempo": [plain(n.layers(m, s, sharp)) for n, m, s in tempo],
            "beat": [plain(n.layers(m, s)) for n, m, s in beat]}
    given.out.write_text(json.dumps(said, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__": main()
