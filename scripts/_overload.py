"""Three times more requests than the service can answer: what is left of its answers, and how late are those that it gives?

The service is the real one over servers of its own. It and its database share one core, the generator of the load has the other.
Capacity is the highest rate at which 95 of 100 requests are answered within the bound and none fails; goodput is the rate of
answers within the bound while there are three times as many requests.
"""
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rap_analyzer.lab import Lab
from rap_analyzer.processes import find_free_port
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.load import LATE, Load, highest_rate, offer, steady
from rap_analyzer.serve.stage import scratch
from rap_analyzer.stats import summary
from rap_analyzer.timing import on_core, two_cores
from rap_analyzer.web import wait_for

BOUND_MS = 500  # of Doors: nearly all admitted requests are answered within that
SETTLE_S = 8  # in which admission finds its size; reported, not judged
PATIENCE_S = 15  # of a client: a late answer is counted as late, not as none
SERVICE = """import sys
from uvicorn import run
from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store
from rap_analyzer.web import listener
run(create_app(Store(Lab(sys.argv[1]), "overload"), cache_s=0), port=int(sys.argv[2]), log_level="warning", http=listener())
"""


@contextmanager
def service(tracks: int, prepare: Callable[[Store], object] = lambda _: None) -> Iterator[str]:  # its address
    "The service over a scratch lab with so many tracks, on the last core together with its database."
    with scratch() as home, Lab(home) as lab, (home / "service.log").open("wb") as log:
        migrate(lab)
        build("hnsw_halfvec", store := fill(Store(lab, "overload"), tracks))
        prepare(store)
        port = find_free_port()
        ours = subprocess.Popen([sys.executable, "-c", SERVICE, str(home), str(port)], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health/ready", gone=lambda: "the service ended" if ours.poll() is not None else "", see=log.name)
            with on_core([ours.pid, *(p.pid for p in lab.postgres.processes())], two_cores()[1]): yield url
        finally: ours.kill(), ours.wait(10), store.forget()


def tell(run: Load, bound_ms: float) -> dict:
    "What became of the requests of a run."
    admitted = [ms for ms, status in zip(run.ms, run.statuses, strict=True) if status == 200]
    refused = sum(s in (429, 503) for s in run.statuses)
    good = sum(ms <= bound_ms for ms in admitted) / run.seconds
    return {"rate": round(run.rate, 1), "asked": len(run.ms), "admitted": len(admitted), "refused": refused,
            "failed": len(run.ms) - len(admitted) - refused, "goodput": round(good, 1),
            "p95_admitted_ms": round(summary(admitted)["p95"] or max(admitted), 1) if admitted else None,
            "generator_late_s": round(run.late_s, 3), "late": run.late_s > LATE * run.seconds, "pinned": run.pinned}


def overload(
    seconds: float = 30,  # of the overload that is judged
    times: float = 3,  # the capacity
    seed: int = 12,
    tracks: int = 2_000,
    k: int = 100,  # hits of an answer: a generator on one core has to be able to ask for three times the capacity
    capacity: float = 0,  # requests a second; 0: find it
) -> dict:
    "Find the capacity, ask for so many times more, and for a little less than the capacity."
    rng, short = random.Random(seed), max(2.0, seconds / 6)
    asks = [f"/api/tracks/similar?track_id={rng.randrange(tracks)}&k={k}" for _ in range(500)]
    with service(tracks) as url:
        offer(url, asks, steady(10, 2))  # the first requests are no measure
        found = None if capacity else highest_rate(url, asks, BOUND_MS, start=16, seconds=short, within=.06)
        capacity = capacity or found.rate
        high = times * capacity
        settling = tell(offer(url, asks, steady(high, min(SETTLE_S, seconds)), PATIENCE_S), BOUND_MS)
        judged = tell(offer(url, asks, steady(high, seconds), PATIENCE_S), BOUND_MS)
        after = tell(offer(url, asks, steady(.8 * capacity, short), PATIENCE_S), BOUND_MS)
    discarded = found.discarded if found else 0
    return {"capacity": round(capacity, 1), "discarded": discarded, "bound_ms": BOUND_MS, "settling": settling,
            "overload": judged, "after": after}


def held(found: dict) -> bool:
    "Is enough answered, in time, and does nothing fail that was not refused?"
    of = found["overload"]
    return of["goodput"] >= .8 * found["capacity"] and of["p95_admitted_ms"] <= found["bound_ms"] and of["failed"] == 0
