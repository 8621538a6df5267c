"""Record what the exercises of the analyzer show: rendered tracks (synthetic), and what was measured on them.

`.venv/bin/python scripts/record_hearing.py` writes exercises/cases/13.json (peaks and strokes) and 19.json (the blind case).
"""
import io
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import soundfile

from rap_analyzer.music import catalog, render, tempo
from rap_analyzer.music.audio import Clip, load, loudest_second
from rap_analyzer.provenance import machine

FIRST, EACH, SECONDS = 57_000, 48, 20  # held-out songs, tracks of a style, length
STYLES = "boom bap", "trap", "g-funk", "lo-fi", "crunk"


def peaks(clip: Clip, most: int = 5) -> list[list[float]]:  # (BPM, strength), strongest first
    "Where the onset curve of a clip resembles itself: the plain autocorrelation, without any decision."
    smooth = tempo.normalize_onsets(tempo.onset_curves(clip))[1]
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


Upload = tuple[str, float, bytes, float]  # group, tempo as a listener taps it, the file, its length by the delivery note (s)
N = 12  # uploads of a group


def wav(x: np.ndarray, sr: int) -> bytes:  # 16 bits; x of shape (n,) or (n, channels)
    "A WAV file, with the rate that it is told."
    with io.BytesIO() as out:
        soundfile.write(out, x, sr, format="WAV", subtype="PCM_16")
        return out.getvalue()


def songs(style: str, seconds: float = 15, skip: int = 0) -> list[tuple[float, np.ndarray]]:  # tempo, samples at 22,050 Hz
    "Rendered tracks of a style."
    found = [t for t in catalog.tracks(FIRST + 3_000, FIRST + 3_600) if t.genres[0] == style][skip:skip + N]
    return [(t.bpm, render.render(t, seconds).samples) for t in found]


def plain(group: str, style: str, skip: int = 0) -> list[Upload]:
    "Uploads that are what they say."
    return [(group, bpm, wav(x, render.SR), len(x) / render.SR) for bpm, x in songs(style, skip=skip)]


def mislabelled() -> list[Upload]:
    "Made at 24,000 samples a second, with a header that says 22,050."
    return [("new", bpm, wav(render.render(t, 15, sr=24_000).samples, 22_050), 15.0)
            for t in catalog.tracks(FIRST + 3_000, FIRST + 3_600) if t.genres[0] == "boom bap" for bpm in [t.bpm]][:N]


def against() -> list[Upload]:
    "Two channels, the right one upside down."
    return [("new", bpm, wav(np.stack([x, -x], 1), render.SR), len(x) / render.SR) for bpm, x in songs("g-funk")]


def long_mixes() -> list[Upload]:
    "Twenty minutes at one tempo."
    return [("new", bpm, wav(np.tile(x[:round(64 * 60 / bpm * render.SR)], 40)[:1_200 * render.SR], render.SR), 1_200.0)
            for bpm, x in songs("boom bap", 60)[:4]]


def sevens() -> list[Upload]:
    "Players who count to seven, with a pulse that wanders: nothing like what the tracker was trained on."
    out, chance = [], np.random.default_rng(19)
    for _ in range(N):
        bpm, at, hits = float(chance.uniform(70, 150)), 0.2, []
        for eighth in range(round(15 * bpm / 30)):
            place = eighth % 7
            if place in (0, 3) and chance.random() < 0.8: hits.append((at + abs(chance.normal(0, 0.04)), 36, 105))
            if place in (2, 5) and chance.random() < 0.8: hits.append((at + abs(chance.normal(0, 0.04)), 38, 95))
            if chance.random() < 0.4: hits.append((at + abs(chance.normal(0, 0.04)), 42, 70))
            if chance.random() < 0.3: hits.append((at + 30 / bpm * float(chance.choice([1 / 3, 2 / 3])), 45, 80))
            at += 30 / bpm * float(np.exp(chance.normal(0, 0.1)))
        x = render.drums([(t, n, v) for t, n, v in hits if t < 14.5], seconds=15).samples
        out.append(("new", bpm, wav(x, render.SR), 15.0))
    return out


def hear(data: bytes, prior: tuple[float, float] | None) -> tuple[tempo.Tempo, float, float, Clip]:  # read_ms, listen_ms
    "What the service does with an upload."
    start = time.perf_counter()
    clip = load(data)
    middle = time.perf_counter()
    return tempo.tempo(clip, prior=prior), 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle), clip


CASES: dict[str, tuple[Callable[[], list[Upload]], tuple[float, float] | None]] = {
    "prior": (lambda: plain("known", "boom bap") + plain("new", "trap"), (72.0, 0.15)),
    "rate": (lambda: plain("known", "boom bap", N) + mislabelled(), None),
    "fine": (lambda: [(g, round(b), *r) for g, b, *r in plain("known", "boom bap") + plain("new", "lo-fi")], None),
    "long": (lambda: plain("known", "boom bap") + long_mixes(), None),
    "sevens": (lambda: plain("known", "boom bap") + sevens(), None),
    "against": (lambda: plain("known", "g-funk", N) + against(), None),
}


def observe(uploads: list[Upload], prior: tuple[float, float] | None) -> dict:
    "Six ways to look at the same uploads; the release before had no prior."
    rows, changed = [], 0
    for group, bpm, data, noted in uploads:
        info, (found, read_ms, listen_ms, clip) = soundfile.info(io.BytesIO(data)), hear(data, prior)
        old = hear(data, None)[0]
        changed += abs(found.bpm - old.bpm) > 0.04 * max(old.bpm, 1)
        left = Clip(soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0][:, 0], info.samplerate)
        rows.append({"group": group, "ratio": round(found.bpm / bpm, 4), "sure": round(found.confidence, 3),
                     "read": round(read_ms, 1), "listen": round(listen_ms, 1), "rate": info.samplerate,
                     "channels": info.channels, "seconds": round(clip.seconds, 2), "noted": noted,
                     "left": round(loudest_second(left), 1), "mix": round(loudest_second(clip), 1)})
    return {"uploads": rows, "changed": changed}


def record_case() -> dict:
    "Six situations of a service that tells the tempo of uploads."
    found = {}
    for name, (make, prior) in CASES.items():
        found[name] = observe(make(), prior)
        rows = found[name]["uploads"]
        print(name, found[name]["changed"], [(r["group"], r["ratio"], r["sure"]) for r in rows][::2])
    return {"cases": found}


PARTS = {"beats": ("13", record_beats), "case": ("19", record_case)}


def main(names: list[str]) -> None:
    "Render, measure, write."
    for name in names or PARTS:
        number, make = PARTS[name]
        out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / f"{number}.json"
        made = {"recorded_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **make()}
        out.write_text(json.dumps(made) + "\n", encoding="utf-8")
        print(out, f"{out.stat().st_size:,} bytes")


if __name__ == "__main__": main(sys.argv[1:])
