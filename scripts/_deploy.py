"""New versions take over while requests arrive, each after a migration of the table that is read: which requests failed?"""
import os
import statistics
import subprocess
import sys
import threading
import time

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.platform.deploy import Fleet, Replaced, alter
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.load import LATE, offer, steady
from rap_analyzer.web import wait_for

TENANT, TRACKS = "demo", 2_000
ASKS = "/api/tracks/similar?track_id={}&k=5", "/api/tracks/{}", "/api/tracks/similar?track_id={}&titles=false"


def add_column(store: Store, n: int) -> None:
    "A migration that the version before it does not notice."
    with store.admin() as con: alter(lambda: con.execute(f"ALTER TABLE tracks ADD COLUMN IF NOT EXISTS deployed_{n:d} text"), con)


def deploy(lab: Lab, rate: float = 50, seconds: float = 60, times: int = 3, tracks: int = TRACKS) -> dict:
    "Migrate and replace the real service several times, evenly over a plan of requests."
    migrate(lab)
    store = fill(Store(lab, TENANT).register(), tracks)
    build("hnsw_halfvec", store)
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    env, done, wrong = {**os.environ, "RAP_LAB_HOME": str(lab.home), "RAP_LAB_LOG": "file"}, [], []
    with Fleet([sys.executable, "-m", "rap_analyzer.cli", "serve"], "127.0.0.1", 0, env=env, **quiet) as fleet:
        wait_for(f"{fleet.url}/health/ready", 90)
        def operate(began: float) -> None:
            for n in range(times):
                time.sleep(max(0, began + (n + .5) * seconds / times - time.monotonic()))
                try: add_column(store, n), done.append((time.monotonic() - began, fleet.replace()))
                except LabError as e: wrong.append(str(e))
        operator = threading.Thread(target=operate, args=(time.monotonic(),))
        operator.start()
        met = offer(fleet.url, [ASKS[i % 3].format(i % tracks) for i in range(300)], steady(rate, seconds))
        operator.join()
    store.forget()
    return judge(met, done, wrong)


def judge(met: object, done: list[tuple[float, Replaced]], wrong: list[str]) -> dict:
    "What the requests met."
    if met.late_s > LATE * met.seconds: raise LabError("the load generator was late, so this run is discarded: end what else runs.")
    bad = [(round(i / met.rate, 2), s) for i, s in enumerate(met.statuses) if s != 200]
    return {"requests": len(met.statuses), "failed": len(bad), "first_failures": str(bad[:10]), "deploys": len(done),
            "wrong": "; ".join(wrong), "ready_s": round(max((r.ready_s for _, r in done), default=0), 2),
            "gone_s": round(max((r.gone_s for _, r in done), default=0), 2),
            "p50_ms": round(statistics.median(met.ms), 1), "p95_ms": round(met.p95_ms, 1), "worst_ms": round(max(met.ms), 1)}


def held(found: dict, times: int) -> bool:
    "Every version took over, and nobody noticed."
    return found["failed"] == 0 and found["deploys"] == times and not found["wrong"] and found["requests"] > 0
