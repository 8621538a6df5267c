"""How many songs a second, and how far from the floor? `scripts/bench_analyzers.py [--songs 24]`

Songs of the catalog are rendered, written as MP3 with their words beside them, and heard: both profiles, one process and two, in
steady state (the first songs of each process do not count). CPU seconds are told beside the clock, since other work on the machine
slows the clock only. The floor is decoding and the network alone. Fresh: the first answer of a new process, with all it imports.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP", "OPENBLAS", "MKL"): os.environ.setdefault(f"{name}_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import psutil  # noqa: E402

from rap_analyzer.music import batch  # noqa: E402
from rap_analyzer.music.analyzers import FIVE, Analyses  # noqa: E402
from rap_analyzer.music.audio import load, mp3  # noqa: E402
from rap_analyzer.music.batch import analyze_file, analyze_files  # noqa: E402
from rap_analyzer.music.catalog import track  # noqa: E402
from rap_analyzer.music.render import render  # noqa: E402
from rap_analyzer.music.worker import WORKERS, stop_workers  # noqa: E402

FRESH = ("import sys; from pathlib import Path; from rap_analyzer.music.batch import analyze_file;"
         "a = analyze_file(sys.argv[1], Path(sys.argv[1]).with_suffix('.txt').read_text(encoding='utf-8'), sys.argv[2]);"
         "assert all(a[k].value for k in ('tempo', 'genre', 'mood', 'lyrics', 'embedding')), a.warnings")


def make(folder: Path, n: int, seconds: float, sr: int) -> list[tuple[Path, str]]:
    "Songs as files, each with its words."
    jobs = []
    for i in range(n):
        song = track(i * 997 % 57_000)
        file = folder / f"{i:04}.mp3"
        file.write_bytes(mp3(render(song, seconds, sr)))
        file.with_suffix(".txt").write_text(song.lyrics, encoding="utf-8")
        jobs.append((file, song.lyrics))
    return jobs


def crew_cpu() -> float:
    "CPU seconds of the processes that hear."
    pids = [w.process.pid for w in list(WORKERS) if w.role == batch.ROLE and w.process]
    return sum(sum(psutil.Process(p).cpu_times()[:2]) for p in pids)


def steady(jobs: list, profile: str, workers: int) -> dict:
    "Songs a second once every process is warm."
    warm, marks = 2 * workers, []
    for i, (path, got) in enumerate(analyze_files([*jobs[:warm], *jobs], profile, workers)):
        if not isinstance(got, Analyses): raise SystemExit(f"{path}: {got}")
        if i in (warm - 1, warm + len(jobs) - 1): marks.append((time.perf_counter(), crew_cpu()))
    (began, cpu), (ended, cpu_then) = marks
    each = (cpu_then - cpu) / len(jobs)
    return {"songs_s": len(jobs) / (ended - began), "cpu_s": each, "songs_s_by_cpu": workers / each}


def here(jobs: list, profile: str) -> tuple[float, list[Analyses]]:
    "CPU seconds of a song in this process, and what was found."
    analyze_file(*jobs[0], profile=profile, only=FIVE)
    began = time.process_time()
    found = [analyze_file(*job, profile=profile, only=FIVE) for job in jobs]
    return (time.process_time() - began) / len(jobs), found


def floor(jobs: list) -> float:
    "CPU seconds of decoding and the network alone."
    from rap_analyzer.music.tags import infer_clip
    infer_clip(load(jobs[0][0]))
    began = time.process_time()
    for path, _ in jobs: infer_clip(load(path))
    return (time.process_time() - began) / len(jobs)


def fresh(job: tuple, profile: str, n: int) -> list[dict]:
    "The first answer of a new process."
    out = []
    for _ in range(n):
        before, began = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", FRESH, str(job[0]), profile], check=True)
        after = os.times()
        out.append({"s": time.perf_counter() - began, "cpu_s": after[2] + after[3] - before[2] - before[3]})
    return out


def agreement(full: list[Analyses], fast: list[Analyses]) -> dict:
    "How often the fast profile says what the full one says."
    pairs = list(zip(full, fast, strict=True))
    same = lambda name: sum(a[name].value["label"] == b[name].value["label"] for a, b in pairs) / len(pairs)
    near = sum(abs(a["tempo"].value["bpm"] / b["tempo"].value["bpm"] - 1) <= 0.04 for a, b in pairs) / len(pairs)
    cosine = [float(np.dot(*(np.array(x["embedding"].value["vector"]) for x in pair))) for pair in pairs]
    labels = {name: same(name) for name in ("genre", "mood")}
    return {"tempo": near, **labels, "cosine_median": statistics.median(cosine), "cosine_min": min(cosine)}


def shares(found: list[Analyses]) -> dict[str, float]:
    "Median milliseconds of each step."
    return {k: statistics.median(a.timing_ms.get(k, 0.0) for a in found) for k in found[0].timing_ms}


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--sr", type=int, default=44_100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    out = {"songs": args.songs, "seconds": args.seconds, "sr": args.sr, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        jobs = make(Path(folder), args.songs, args.seconds, args.sr)
        heard = {profile: here(jobs, profile) for profile in ("full", "fast")}
        out["floor_cpu_s"] = floor(jobs)
        for profile, (cpu, found) in heard.items():
            out[profile] = {"cpu_s_here": cpu, "shares_ms": shares(found), "fresh": fresh(jobs[0], profile, 3)}
            for workers in (1, 2): out[profile][f"workers_{workers}"] = steady(jobs, profile, workers)
            one, two = (out[profile][f"workers_{w}"]["songs_s"] for w in (1, 2))
            out[profile]["two_over_one"] = two / one
        out["full_over_floor"] = heard["full"][0] / out["floor_cpu_s"]
        out["agreement"] = agreement(heard["full"][1], heard["fast"][1])
    stop_workers()
    out["load_after"] = os.getloadavg()[0]
    print(json.dumps(out, indent=None if args.json else 2))
    return 0


if __name__ == "__main__": sys.exit(main())
