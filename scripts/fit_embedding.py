"""Fit the recipe of nbs/analyzer/50_embedding.ipynb to rendered tracks:
rap_analyzer/music/embedding.npz, from tests/data/heard.npz.

`.venv/bin/python scripts/fit_embedding.py` renders and listens first (some minutes; every track is heard twice), then fits.
`--fit` takes the listening from tests/data/heard.npz and only fits.
"""
import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rap_analyzer.core import progress
from rap_analyzer.music.audio import Clip, load, mp3
from rap_analyzer.music.catalog import GENRES, MOODS, Track, artists, facts, track
from rap_analyzer.music.embedding import PLACES, fit, rhythm, wording
from rap_analyzer.music.instruments import bandpass
from rap_analyzer.music.lyrics import lyrics
from rap_analyzer.music.render import render
from rap_analyzer.music.tags import tags
from rap_analyzer.music.tempo import onset_curves, tempo

ROOT = Path(__file__).resolve().parent.parent
HEARD, OUT = ROOT / "tests/data/heard.npz", ROOT / "rap_analyzer/music/embedding.npz"
PARTS = {"report": 8, "development": 8, "fit": 20}  # artists of each style
SONGS, SECONDS = 3, 15  # of each artist; of each version
WAYS = "excerpt", "noise", "mp3", "dull", "kit"  # what the second version is, besides later
COLUMNS = "track", "artist", "style", "mood", "russian", "part", "version", "way"


def part(artist: int) -> int:
    "Which part an artist belongs to, with all songs: a fifth each to report and develop, the rest to fit."
    return (0, 1, 2, 2, 2)[artist % 5]


def wanted() -> list[tuple[int, int]]:  # (track, part)
    "Three songs each of artists of every style, those that come first; in an order of which any beginning is balanced."
    style, songs, rows = artists()["genre"], {}, {}
    for i, a in enumerate(facts(0, 12_000)["artist"].tolist()): songs.setdefault(a, []).append(i)
    for a, ids in songs.items():
        row = rows.setdefault((int(style[a]), part(a)), [])
        if len(ids) >= SONGS and len(row) < list(PARTS.values())[part(a)]: row.append(ids[:SONGS])
    turn = (2, 0, 1)  # development, fit, report: the order in which heard.npz was filled
    order = [(j / list(PARTS.values())[p], g, turn[p], p, ids) for (g, p), row in rows.items() for j, ids in enumerate(row)]
    return [(i, p) for *_, p, ids in sorted(order) for i in ids]


def spoiled(clip: Clip, way: str, seed: int) -> Clip:
    "A clip as it may reach us."
    x = clip.samples.astype(np.float64)
    if way == "mp3": return load(mp3(clip))
    if way == "dull": x = bandpass(x, clip.sr, 0, 3_500)
    if way == "noise": x = x + 0.05 * np.sqrt(np.mean(x**2)) * np.random.default_rng(seed).standard_normal(len(x))
    return Clip((x / max(1.0, np.abs(x).max())).astype(np.float32), clip.sr)


def versions(t: Track, way: str) -> Iterator[tuple[Clip, str]]:
    "The first seconds with all words; the next with the second half of them, spoiled."
    whole, lines = render(t, 2 * SECONDS), t.lyrics.splitlines()
    cut = SECONDS * whole.sr
    yield Clip(whole.samples[:cut], whole.sr), t.lyrics
    if way == "kit": whole = render(replace(t, artist_id=t.artist_id + 1), 2 * SECONDS)
    yield spoiled(Clip(whole.samples[cut:], whole.sr), way, t.id), "\n".join(lines[len(lines) // 2:])


def parts(clip: Clip, words: str) -> dict[str, np.ndarray]:
    "What an embedding is made of."
    curves = onset_curves(clip)
    beat = tempo(clip, curves)
    moves = rhythm(clip, beat, curves)
    return {"audio": tags(clip).vector, "lyrics": wording(lyrics(words)), "rhythm": np.zeros(58) if moves is None else moves}


def listen() -> dict[str, np.ndarray]:
    "Every wanted track, twice; two rows each."
    songs, rows, found = wanted(), [], {name: [] for name in PLACES}
    with progress("rendering and listening", len(songs)) as done:
        for n, (i, p) in enumerate(songs):
            t, way = track(i), WAYS[n % len(WAYS)]
            for version, (clip, words) in enumerate(versions(t, way)):
                for name, x in parts(clip, words).items(): found[name].append(x)
                classes = GENRES.index(t.genres[0]), MOODS.index(t.mood), t.language == "ru"
                rows.append((t.id, t.artist_id, *classes, p, version, n % len(WAYS)))
            done()
    return {name: np.array(x, np.float16) for name, x in found.items()} | {"facts": np.array(rows, np.int32),
                                                                          "columns": np.array(json.dumps(COLUMNS))}


def fitted(heard: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    "The parameters, from the rows of the artists that are there to be fitted to."
    chosen = heard["facts"][:, 5] == 2
    one, two = (chosen & (heard["facts"][:, 6] == v) for v in (0, 1))
    out = {}
    for name, place in PLACES.items():
        x = heard[name].astype(np.float64)
        mean, matrix = fit(x[one], x[two], place.stop - place.start)
        scale = math.sqrt(np.square((x[one] - mean) @ matrix).sum(axis=1).mean())
        out |= {f"{name}_mean": mean.astype(np.float32), f"{name}_matrix": (matrix / scale).astype(np.float16)}
    return out


def main() -> None:
    "Listen unless told otherwise, fit, write."
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--fit", action="store_true", help="take the listening from tests/data/heard.npz")
    if not parser.parse_args().fit: np.savez_compressed(HEARD, **listen())
    with np.load(HEARD) as f: heard = {k: f[k] for k in f.files}
    np.savez_compressed(OUT, **fitted(heard))
    print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size / 1e3:.0f} kB, from {len(heard['facts']) // 2} tracks heard twice")


if __name__ == "__main__": main()
