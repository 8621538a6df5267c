"""A bad model is promoted and taken back while listeners ask: which requests failed, and how long did the bad one answer?"""
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.processes import find_free_port
from rap_analyzer.recommend.registry import Models
from rap_analyzer.recommend.rollout import Rollout
from rap_analyzer.recommend.serving import Serving
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve.load import LATE, offer, steady
from rap_analyzer.web import wait_for

TENANT, NAME, COLUMNS = "rollback", "ranker", 12


def make_app():
    "A small service: each answer is ten of two hundred candidates, ordered by the model that serves."
    from fastapi import FastAPI
    app, store = FastAPI(), Store(Lab(), TENANT)
    ranker, seen = Rollout(Serving(store, NAME)), os.open(os.environ["ROLLBACK_SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    X = np.random.default_rng(1).normal(size=(200, COLUMNS))

    @app.get("/recommend")
    async def recommend(user_id: int) -> dict:
        found = await ranker.score(X, user_id)
        top = np.argsort(-found.scores, kind="stable")[:10].tolist()
        os.write(seen, f"{time.monotonic()} {found.version} {os.getpid()}\n".encode())               # one write: lines stay whole
        return {"version": found.version, "tracks": top}
    return app


def train(sign: float, rounds: int) -> bytes:
    "A LightGBM ranker of a realistic size; its sign is what is wrong with the bad one."
    import lightgbm
    rng = np.random.default_rng(7)
    X = rng.normal(size=(4_000, COLUMNS))
    y = sign * (X[:, 0] + .5 * X[:, 1] * X[:, 2]) + .3 * rng.normal(size=4_000)
    how = {"objective": "regression", "num_leaves": 31, "num_threads": 1, "verbose": -1, "seed": 1, "deterministic": True}
    return lightgbm.train(how, lightgbm.Dataset(X, y), rounds).model_to_string().encode()


def read_seen(file: Path) -> list[tuple[float, int, int]]:
    "Every answer: when, by which version, from which process."
    return [(float(at), int(version), int(pid)) for at, version, pid in map(str.split, file.read_text().splitlines())]


def meet(url: str, seen: Path, workers: int, seconds: float = 60) -> None:
    "Ask on new connections until every process has answered."
    end = time.monotonic() + seconds
    while len({pid for *_, pid in read_seen(seen)}) < workers:
        if time.monotonic() > end: raise LabError(f"not all of the {workers} processes answered within {seconds:.0f} s.")
        visit(url, 0)


def visit(url: str, until: float, pause_s: float = .1) -> None:
    "Ask on a new connection each time: the load keeps its connections, and all of them may have met one process."
    while True:
        with urllib.request.urlopen(f"{url}/recommend?user_id=1", timeout=10) as answer: answer.read()
        if time.monotonic() + pause_s > until: return
        time.sleep(pause_s)


def rollback(lab: Lab, rate: float = 50, seconds: float = 30, rounds: int = 200, workers: int = 2, times: int = 3) -> dict:
    "Promote a bad version and go back, several times, while requests arrive at a rate."
    migrate(lab)
    models, port, seen = Models(Store(lab, TENANT).register()), find_free_port(), lab.home / "seen.txt"
    sizes = [models.register(NAME, train(sign, rounds), "lightgbm", card="For a proof.")[0].bytes for sign in (1, -1)]
    models.promote(NAME, 1, "the good one")
    env = {**os.environ, "RAP_LAB_HOME": str(lab.home), "ROLLBACK_SEEN": str(seen), "PYTHONPATH": str(Path(__file__).parent)}
    words = [sys.executable, "-m", "uvicorn", "_rollback:make_app", "--factory", "--port", str(port), "--workers", str(workers),
             "--log-level", "warning"]
    app, changes = subprocess.Popen(words, env=env), []
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/recommend?user_id=1", 60)
        meet(url, seen, workers)
        def operate(began: float) -> None:
            gap = seconds / (2 * times + 1)
            for i in range(2 * times):
                time.sleep(max(0, began + (i + 1) * gap - time.monotonic()))
                v = models.rollback(NAME, why="it is the bad one") if i % 2 else models.promote(NAME, 2, "it looked good")
                changes.append((time.monotonic(), v.version))
        operator = threading.Thread(target=operate, args=(time.monotonic() + 1,))
        operator.start()
        visitor = threading.Thread(target=visit, args=(url, time.monotonic() + seconds))
        visitor.start()
        run = offer(url, [f"/recommend?user_id={i}" for i in range(500)], steady(rate, seconds + 1))
        operator.join()
        visitor.join()
    finally:
        app.terminate()
        app.wait(15)
    return judge(run, changes, read_seen(seen)) | {"bytes": max(sizes), "workers": workers}


def judge(run: object, changes: list[tuple[float, int]], seen: list[tuple[float, int, int]]) -> dict:
    "What the requests met. A roll-back is over when its last process has answered with the bad version for the last time."
    if run.late_s > LATE * run.seconds: raise LabError("the load generator was late, so this run is discarded: end what else runs.")
    took = []
    for i, (at, version) in enumerate(changes):
        ends = changes[i + 1][0] if i + 1 < len(changes) else float("inf")
        wrong = [t - at for t, v, _ in seen if at < t < ends and v != version]
        if version == 1: took.append(max(wrong, default=0.0))
    bad = sum(v == 2 for _, v, _ in seen)
    failed, p50 = sum(s != 200 for s in run.statuses), statistics.median(run.ms)
    return {"requests": len(run.statuses), "failed": failed, "bad_answers": bad, "rollbacks": len(took),
            "worst_s": round(max(took), 3), "took_s": [round(t, 3) for t in took], "p50_ms": round(p50, 1),
            "p95_ms": round(run.p95_ms, 1), "processes": len({pid for *_, pid in seen})}
