"""Readers and writers for ten minutes, while each part of the system is killed in turn.

Every request is written down with its begin, its end and its answer. A request is excused if it overlaps an outage, which lasts
from a kill until a job that was accepted afterwards is done. Any other request has to be answered, and no accepted job may be lost.
"""
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from rap_analyzer.search.index import build
from rap_analyzer.search.store import fill
from rap_analyzer.serve.chaos import KILLS, recovered
from rap_analyzer.serve.stage import Late, Stage, scratch

TRACKS = 300


class Asked(NamedTuple):
    "A request: what it was, when, and what came back."
    what: str
    began: float
    ended: float
    status: int  # 0: no answer


class Outage(NamedTuple):
    "A part that was killed, and how long that could be noticed."
    part: str
    began: float
    ended: float
    recovery_s: float


def kill_cache(stage: Stage, rng: random.Random) -> float:
    "Kill the cache's Valkey."
    time.sleep(rng.uniform(0, .5))
    for p in stage.lab.valkey.processes(): p.kill()
    return recovered(stage)


PARTS = {**KILLS, "cache": kill_cache}
READS: dict[str, Callable[[Stage, random.Random], str]] = {
    "similar": lambda stage, rng: f"/api/tracks/similar?track_id={rng.randrange(TRACKS)}&k=10",
    "search": lambda stage, rng: f"/api/tracks/search?q={rng.choice(('night', 'love', 'street'))}&k=10",
    "recommend": lambda stage, rng: f"/api/recommend?liked={rng.randrange(TRACKS)}&k=10",
    "job": lambda stage, rng: f"/api/jobs/{rng.choice(stage.accepted)}",
}


class Watched(Stage):
    "A stage that writes down every request."
    def __init__(self, home: Path, **how: object):
        self.asked: list[Asked] = []
        super().__init__(home, **how)
        build("hnsw_halfvec", fill(self.store, TRACKS))

    def ask(self, n: int, ms: int = 100) -> str | None:
        "Ask for a job."
        began, job = time.monotonic(), super().ask(n, ms)
        self.asked.append(Asked("accept", began, time.monotonic(), 202 if job else 0))
        return job

    def read(self, what: str, path: str) -> None:
        "Ask for something that is there."
        began, status = time.monotonic(), 0
        try:
            with urlopen(self.url + path, timeout=12) as said: said.read(); status = said.status
        except HTTPError as e: status = e.code
        except (OSError, HTTPException): pass
        self.asked.append(Asked(what, began, time.monotonic(), status))

    def keep_reading(self, what: str, rng: random.Random, ended: threading.Event, each_s: float) -> None:
        "Read at a steady pace; late answers are no excuse to ask less."
        while not ended.wait(rng.uniform(.5, 1.5) * each_s):
            threading.Thread(target=self.read, args=(what, READS[what](self, rng)), daemon=True).start()


def outside(asked: list[Asked], outages: list[Outage]) -> list[Asked]:
    "Requests that failed although nothing was wrong while they were on their way."
    failed = [a for a in asked if not 200 <= a.status < 400]
    return [a for a in failed if not any(a.began <= o.ended and a.ended >= o.began for o in outages)]


def place(a: Asked, outages: list[Outage]) -> str:
    "Where a request stands among the outages."
    before = [o for o in outages if o.ended < a.began]
    if not before: return f"{a.what} {a.status}, before the first"
    return f"{a.what} {a.status}, {a.began - before[-1].ended:.0f} s after the {before[-1].part}"


def mixed(
    seconds: float = 600,
    every_s: float = 30,  # from one kill to the next, at least
    seed: int = 12,
    each_s: float = .4,  # between two requests of a sort, on average
    each: Callable[[str, float], None] = lambda part, s: None,  # learns of each recovery
) -> dict:
    "Kill every part in turn under mixed load; Late if something stays broken."
    rng, outages, ended, parts = random.Random(seed), [], threading.Event(), list(PARTS)
    with scratch() as home, Watched(home) as stage:
        stage.asked.clear()  # before the steady state
        readers = [threading.Thread(target=stage.keep_reading, args=(w, random.Random(f"{seed}{w}"), ended, each_s)) for w in READS]
        for t in readers: t.start()
        try:
            end, n = time.monotonic() + seconds, 0
            while (began := time.monotonic()) < end:
                ended.wait(min(every_s / 2, end - began))
                part, killed = parts[n % len(parts)], time.monotonic()
                try: took = PARTS[part](stage, rng)
                except Late as late: raise Late(f"kill {n + 1}, of the {part}: {late}; {stage.jobs.counts()}") from None
                outages.append(Outage(part, killed, time.monotonic(), took))
                each(part, took)
                n += 1
                ended.wait(max(0, min(began + every_s, end) - time.monotonic()))
        finally:
            ended.set()
            for t in readers: t.join(10)
        time.sleep(1)  # the last answers
        lost, doubled = stage.settle(120)
    return {"lost": lost, "doubled": doubled, "accepted": len(stage.accepted), "asked": dict(Counter(a.what for a in stage.asked)),
            "outages": outages, "failed": sum(not 200 <= a.status < 400 for a in stage.asked),
            "outside": outside(stage.asked, outages)}
