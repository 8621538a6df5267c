"""Record the situations of the blind case of the Systems chapter:
seven small queues under load, with real workers and a real database.

`.venv/bin/python scripts/record_system_cases.py` writes exercises/cases/31.json. The exercise shows these figures and no others.
They are counts, and shares of the workers' time as the kernel accounts for it: other programs on the machine blur them, but do not
turn one case into another.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from rap_analyzer.lab import Lab
from rap_analyzer.provenance import machine
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.load import at_random

SECONDS, DATABASE = 8.0, "cases31"
WORKER = f"""import sys, time
from rap_analyzer.lab import Lab
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.worker import Outcome, job_kind, run_job

@job_kind("compute")
def compute(a):
    end = time.thread_time() + a.job.payload["ms"] / 1e3
    while time.thread_time() < end: pass
    return Outcome({{}})

@job_kind("fetch", attempts=4)
def fetch(a):
    time.sleep(a.job.payload["ms"] / 1e3)
    if a.job.payload.get("gone"): raise OSError("the archive answered 410: this file is gone for good")
    return Outcome({{}})

@job_kind("summary")
def summary(a):
    def effect(s):
        s.con.execute("SELECT pg_advisory_xact_lock(31)")
        time.sleep(a.job.payload["ms"] / 1e3)
    return Outcome({{}}, effect)

jobs = Jobs(Store(Lab(database="{DATABASE}"), sys.argv[1]))
DUE = Query("SELECT id FROM jobs WHERE state = 'waiting' AND run_after <= now() ORDER BY created_at LIMIT 8", ())
print("ready", flush=True)
while True:
    rows = jobs.store.query(DUE)
    if not any(run_job(jobs, i) != "nothing" for i, in rows): time.sleep(.02)
"""
WAITS = """SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
AND backend_type = 'client backend'"""
COUNT = Query("SELECT count(*)::int FROM jobs WHERE state = 'waiting'", ())
SUMMARY = """SELECT count(*)::int, coalesce(sum(attempt), 0)::int, count(*) FILTER (WHERE state = 'done')::int,
    count(*) FILTER (WHERE state = 'done' AND ended_at - created_at <= make_interval(secs => %s))::int,
    count(*) FILTER (WHERE state = 'dead' OR reason IS NOT NULL)::int, count(DISTINCT payload ->> 'input')::int, max(reason)
FROM jobs"""


def kernel_ns(pid: int) -> tuple[int, int]:
    "Time on a core, and time spent ready and waiting for one."
    ran, ready, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran), int(ready)


def observe(lab: Lab, name: str, kind: str, ms: int, workers: int, rate: float = 0, burst: int = 0, different: int = 0,
            gone: int = 0, promise_s: float = 2) -> dict:
    "Six ways to look at one queue under load; all workers share one core. `gone`: every n-th file is."
    jobs, rng = Jobs(Store(lab, name).register()), random.Random(31)
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    crew = [subprocess.Popen([sys.executable, "-c", WORKER, name], **quiet) for _ in range(workers)]
    try:
        for p in crew: p.stdout.readline(), os.sched_setaffinity(p.pid, {max(os.sched_getaffinity(0))})
        over, seen, waiting = threading.Event(), [], []
        watcher = threading.Thread(target=watch, args=(jobs.store, over, seen))
        watcher.start()
        before, began, times = [kernel_ns(p.pid) for p in crew], time.monotonic(), [0.0] * burst or at_random(rate, SECONDS, rng)
        moments = [SECONDS * n / 4 for n in range(1, 5)]
        for n, at in enumerate([*times, SECONDS]):
            while moments and at >= moments[0]:
                time.sleep(max(0, began + moments.pop(0) - time.monotonic()))
                waiting.append(jobs.store.query(COUNT)[0][0])
            time.sleep(max(0, began + at - time.monotonic()))
            if n == len(times): break
            more = {"gone": True} if gone and n % gone == 0 else {}
            jobs.enqueue(kind, {"ms": ms, "input": n % different if different else n, **more}, f"{kind}-{n}", attempts=4)
        wall = time.monotonic() - began
        after = [kernel_ns(p.pid) for p in crew]
        over.set(), watcher.join()
        accepted, attempts, done, in_time, failed, inputs, reason = jobs.store.query(Query(SUMMARY, (promise_s,)))[0]
    finally:
        for p in crew: p.kill(), p.wait(), p.stdout.close()
    ran, ready = (sum(b[i] - a[i] for a, b in zip(before, after, strict=True)) / 1e9 / (wall * workers) for i in (0, 1))
    return {"promise": {"within_s": promise_s, "accepted": accepted, "in_time": in_time, "done": done, "failed": failed},
            "queue": waiting, "attempts": {"jobs": accepted, "attempts": attempts, "reason": reason},
            "processor": {"workers": workers, "ran": round(ran, 3), "ready": round(ready, 3)},
            "waits": {"locked": round(sum(seen) / len(seen), 2), "sampled": len(seen)},
            "inputs": {"different": inputs, "of": accepted}}


def watch(store: Store, over: threading.Event, seen: list[int]) -> None:
    "How many sessions wait for a lock, ten times a second."
    with store.admin(None) as con:
        while not over.wait(0.1): seen.append(con.execute(WAITS).fetchone()[0])


CASES: dict[str, dict] = {
    "archive": {"kind": "fetch", "ms": 300, "workers": 2, "rate": 11},
    "partner": {"kind": "compute", "ms": 60, "workers": 2, "rate": 30},
    "gone": {"kind": "fetch", "ms": 250, "workers": 2, "rate": 7, "gone": 2},
    "summary": {"kind": "summary", "ms": 120, "workers": 4, "rate": 14},
    "night": {"kind": "fetch", "ms": 150, "workers": 2, "burst": 40, "promise_s": 20},
    "button": {"kind": "compute", "ms": 60, "workers": 2, "rate": 30, "different": 6},
    "one_core": {"kind": "fetch", "ms": 500, "workers": 4, "rate": 14},
}


def main() -> None:
    "Stage, watch, write."
    with tempfile.TemporaryDirectory() as home:
        os.environ["RAP_LAB_HOME"] = home
        with Lab(database=DATABASE) as lab:
            migrate(lab)
            found = {}
            for name, load in CASES.items():
                found[name] = observe(lab, name, **load)
                print(name, json.dumps(found[name]), flush=True)
            lab.down()
    out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / "31.json"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"recorded_at": at, "seconds": SECONDS, "machine": machine(), "cases": found}
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
