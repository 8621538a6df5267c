"""How good is `music.tempo` on people? Drum performances rendered with our kit, judged by mir_eval's measures.

`scripts/eval_tempo.py [--data ../shared/data/groove_midi] [--kit "boom bap"] [--seconds 30] [--limit N] [--degrade NAME]` prints a
table by style: Acc1 (tempo within 4 %), Acc2 (that, or twice, three times, a half, a third of it), F (beats within 70 ms, the first
5 s left out), and the reliability of the confidence. Where librosa is installed its default stands beside ours.
`--rendered N` judges N tracks of the catalog instead, whole mixes whose truth is the recipe: synthetic.
"""
import argparse
import csv
import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soxr

from rap_analyzer.music.arrangement import beats
from rap_analyzer.music.audio import Clip, load, mp3
from rap_analyzer.music.catalog import GENRES, tracks
from rap_analyzer.music.instruments import STYLES, bandpass
from rap_analyzer.music.render import drums, render
from rap_analyzer.music.tempo import Tempo, tempo

HERE = Path(__file__).resolve().parents[1]


class Piece(NamedTuple):
    "Something to judge: style, player, sound, true tempo and true beats (s; None where nobody wrote them down)."
    name: str
    style: str
    player: str
    clip: Clip
    bpm: float
    beats: np.ndarray | None


def performances(folder: Path, seconds: float, kit: str, limit: int | None = None, every: int = 1) -> Iterator[Piece]:
    "The first `seconds` of human drum performances, on our kit."
    import mido

    with open(folder / "index.csv", encoding="utf-8") as f: rows = list(csv.DictReader(f))[::every][:limit]
    for row in rows:
        at, strokes = 0.0, []
        for message in mido.MidiFile(folder / row["file"]):
            at += message.time
            if at >= seconds: break
            if message.type == "note_on" and message.velocity: strokes.append((at, message.note, message.velocity))
        clip = drums(strokes, style=kit, seconds=min(seconds, float(row["duration"])))
        truth = np.loadtxt(folder / row["beats"], ndmin=2)[:, 0] if row["beats"] else None
        yield Piece(row["file"], row["style"].split("/")[0], row["file"].split("_")[0], clip, float(row["bpm"]),
                    None if truth is None else truth[truth < clip.seconds])


def rendered(n: int, seconds: float, start: int = 40_000) -> Iterator[Piece]:
    "Tracks of the catalog, as many of each style."
    left = dict.fromkeys(GENRES, -(-n // len(GENRES)))
    for t in tracks(start, start + 100 * n):
        if not left[t.genres[0]]: continue
        left[t.genres[0]] -= 1
        yield Piece(str(t.id), t.genres[0], str(t.artist_id), render(t, seconds), t.bpm, beats(t, seconds))
        if not any(left.values()): return


def hissing(x: np.ndarray, db: float) -> np.ndarray:
    "White noise, so many decibels below the music."
    return x + np.random.default_rng(7).normal(0, np.sqrt(np.mean(x**2)) * 10 ** (-db / 20), len(x))


def telephone(x: np.ndarray, sr: int) -> np.ndarray: return hissing(bandpass(bandpass(x, sr, 300, 3_400), sr, 300, 3_400), 25)
def muffled(x: np.ndarray, sr: int) -> np.ndarray: return hissing(bandpass(bandpass(x, sr, 0, 500), sr, 0, 500), 40)
def noisy(x: np.ndarray, sr: int) -> np.ndarray: return hissing(x, 10)


def bassy(x: np.ndarray, sr: int) -> np.ndarray:
    "A bass line that has nothing to do with the beat, as loud as the music."
    rng, t, out = np.random.default_rng(7), np.arange(int(0.5 * sr)) / sr, np.zeros(len(x) + sr)
    for at in np.cumsum(rng.uniform(0.2, 0.9, len(x) * 2 // sr)):
        if (i := int(at * sr)) < len(x): out[i:i + len(t)] += np.sin(2 * np.pi * rng.uniform(40, 110) * t) * np.exp(-t / 0.25)
    out = out[: len(x)]
    return x + out * np.sqrt(np.mean(x**2) / np.mean(out**2))


def small_mp3(x: np.ndarray, sr: int) -> np.ndarray:
    "Through an MP3 of the usual rate and back."
    sound = soxr.resample((0.9 * x / np.abs(x).max()).astype(np.float32), sr, 44_100).clip(-1, 1)
    return load(mp3(Clip(sound, 44_100)), sr).samples[: len(x)].astype(np.float64)


DEGRADE = {"telephone": telephone, "muffled": muffled, "noise": noisy, "bass": bassy, "mp3": small_mp3}


def worse(piece: Piece, name: str) -> Piece:
    "The same piece, degraded."
    x = DEGRADE[name](piece.clip.samples.astype(np.float64), piece.clip.sr)
    return piece._replace(clip=Clip((0.9 * x / np.abs(x).max()).astype(np.float32), piece.clip.sr))


def right(said: float, truth: float) -> tuple[bool, bool]:  # Acc1, Acc2
    "Whether a tempo is right within 4 %; and whether it is up to a factor of 2 or 3."
    return abs(said / truth - 1) < 0.04, any(abs(said * f / truth - 1) < 0.04 for f in (1, 2, 3, 1 / 2, 1 / 3))


def f_measure(said: np.ndarray, truth: np.ndarray | None) -> float:
    "Beats within 70 ms, as mir_eval counts them."
    import mir_eval  # takes seconds

    if truth is None or not len(truth): return float("nan")
    return mir_eval.beat.f_measure(mir_eval.beat.trim_beats(truth), mir_eval.beat.trim_beats(said))


def judge(piece: Piece, found: Tempo) -> dict[str, object]:
    "One row of the evaluation."
    acc1, acc2 = right(found.bpm, piece.bpm)
    return {"name": piece.name, "style": piece.style, "player": piece.player, "bpm": piece.bpm, "said": found.bpm,
            "Acc1": acc1, "Acc2": acc2, "F": f_measure(found.beats, piece.beats), "confidence": found.confidence}


def librosa_default(clip: Clip) -> Tempo:
    "What librosa says without any settings."
    import librosa

    bpm, at = librosa.beat.beat_track(y=clip.samples, sr=clip.sr, units="time")
    return Tempo(float(np.ravel(bpm)[0]), np.asarray(at), 0.0, [])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    "By style, and all."
    by = rows.groupby("style")[["Acc1", "Acc2", "F"]].mean()
    by.insert(0, "n", rows.groupby("style").size())
    by.loc["all"] = [len(rows), *rows[["Acc1", "Acc2", "F"]].mean()]
    return by


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    "How often it was right, by how sure it was."
    edges = np.array([0, 0.4, 0.55, 0.7, 0.85, 1.0001])
    by = rows.groupby(pd.cut(rows["confidence"], edges, right=False), observed=True)
    return pd.DataFrame({"n": by.size(), "confidence": by["confidence"].mean(), "right": by["Acc1"].mean()})


def main() -> None:
    "Evaluate and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data" / "groove_midi")
    parser.add_argument("--kit", choices=STYLES, default="boom bap")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th performance")
    parser.add_argument("--rendered", type=int, metavar="N", help="judge N tracks of the catalog instead (synthetic)")
    parser.add_argument("--degrade", choices=[*DEGRADE, "none"], default="none")
    parser.add_argument("--csv", type=Path, help="write every row there")
    given = parser.parse_args()
    if not given.rendered and not (given.data / "index.csv").is_file():
        parser.error(f"no performances at {given.data}: give --data or --rendered N")
    pieces = rendered(given.rendered, given.seconds) if given.rendered else performances(
        given.data, given.seconds, given.kit, given.limit, given.every)
    ours, theirs, spent = [], [], 0.0
    beside = importlib.util.find_spec("librosa") is not None
    for piece in pieces:
        if given.degrade != "none": piece = worse(piece, given.degrade)
        start = time.process_time()
        found = tempo(piece.clip)
        spent += time.process_time() - start
        ours.append(judge(piece, found))
        if beside: theirs.append(judge(piece, librosa_default(piece.clip)))
    rows = pd.DataFrame(ours)
    shown = table(rows)
    if theirs: shown = shown.join(table(pd.DataFrame(theirs)).drop(columns="n"), rsuffix=" librosa")
    print(shown.round(3).to_string(), "\n\n", reliability(rows).round(3).to_string(), "\n")
    print(f"{1_000 * spent / len(rows):.0f} ms of CPU a clip, its spectrogram included", "(synthetic)" if given.rendered else "")
    if given.csv: rows.to_csv(given.csv, index=False)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
