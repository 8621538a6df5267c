"""Record what the exercises of chapter 1 show: rendered tracks (synthetic), and what was measured on them.

`.venv/bin/python scripts/record_hearing.py beats` writes exercises/cases/13.json (about a minute).
"""
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rap_analyzer.ledger import machine
from rap_analyzer.music import catalog, render, tempo
from rap_analyzer.music.audio import Clip, spectrogram

FIRST, EACH, SECONDS = 57_000, 48, 20  # held-out songs, tracks of a style, length
STYLES = "boom bap", "trap", "g-funk", "lo-fi", "crunk"


def peaks(clip: Clip, most: int = 5) -> list[list[float]]:  # (BPM, strength), strongest first
    "Where the onset curve of a clip resembles itself: the plain autocorrelation, without any decision."
    smooth = tempo.sharpen(tempo.onsets(spectrogram(clip), clip.sr))[1]
    a = smooth.sum(axis=0)
    a -= a.mean()
    n = len(a)
    own = np.fft.irfft(np.abs(np.fft.rfft(a, 2 * n)) ** 2)[:n] * n / np.maximum(n - np.arange(n), n / 4)
    grid = np.arange(45, 211, 0.5)
    s = np.interp(60 * tempo.FPS / grid, np.arange(n), own / own[0])
    found = [(float(grid[k]), float(s[k])) for k in range(1, len(s) - 1) if s[k - 1] <= s[k] > s[k + 1] and s[k] > 0]
    return [[b, round(v, 3)] for b, v in sorted(found, key=lambda p: -p[1])[:most]]


def usual_gap(at: list[float], least: float) -> float:  # s
    "The median time from one stroke to the next; strokes that follow sooner than `least` are left out."
    kept: list[float] = []
    for t in sorted(at):
        if not kept or t - kept[-1] >= least: kept.append(t)
    return round(float(np.median(np.diff(kept))), 3)


def look(i: int) -> dict:
    "One track: its facts, and what can be heard of its beat."
    song = catalog.track(i)
    hits = render.compose(song, SECONDS)[1]
    strokes = {name: [h.at for h in hits if h.piece in pieces and h.velocity > 0.45]
               for name, pieces in (("snare", ("snare", "clap")), ("hat", ("hat",)))}
    return {"id": i, "style": song.genres[0], "bpm": song.bpm, "peaks": peaks(render.render(song, SECONDS)),
            "snare": usual_gap(strokes["snare"], 0.3), "hat": usual_gap(strokes["hat"], 0.08)}


def record_beats() -> dict:
    "So many tracks of each style."
    ids = {style: [] for style in STYLES}
    for song in catalog.tracks(FIRST, FIRST + 3_000):
        if len(ids.get(song.genres[0], [0] * EACH)) < EACH: ids[song.genres[0]].append(song.id)
    return {"seconds": SECONDS, "tracks": [look(i) for style in STYLES for i in ids[style]]}


PARTS = {"beats": ("13", record_beats)}


def main(names: list[str]) -> None:
    "Render, measure, write."
    for name in names or PARTS:
        number, make = PARTS[name]
        out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / f"{number}.json"
        made = {"recorded_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **make()}
        out.write_text(json.dumps(made) + "\n", encoding="utf-8")
        print(out, f"{out.stat().st_size:,} bytes")


if __name__ == "__main__": main(sys.argv[1:])
