"""One tenant asks for ten times its quota. Do the others notice?

Ten tenants, each with a key and tracks of its own, share one service; it and its servers have one core, the callers the other.
Nine of them ask now and then. Slices of time alternate: in every second one, the tenth tenant asks as well. What counts is the 95th
percentile of the nine, from the moment at which a request was meant, with the loud one and without. The loud one's callers give way
to the others' on their core: it is the service that is to be measured.
"""
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.platform.keys import Keys
from rap_analyzer.processes import find_free_port
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.load import LATE, at_random
from rap_analyzer.serve.stage import scratch
from rap_analyzer.stats import summary
from rap_analyzer.timing import on_core, two_cores
from rap_analyzer.web import wait_for

LIMIT = 1.5  # of the others' p95, as a multiple of their p95 without the loud one
CALM = 8  # a quiet tenant asks for this part of its quota
SERVICE = """import os, sys
os.environ["RAP_API_TENANT_PER_S"] = sys.argv[3]
from uvicorn import run
from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store
from rap_analyzer.web import listener
run(create_app(Store(Lab(sys.argv[1]), "team0"), auth="required", cache_s=0), port=int(sys.argv[2]), log_level="warning",
    http=listener())
"""
CALLERS = """import json, os, sys, time
import gevent
from geventhttpclient import HTTPClient
print("ready", flush=True)
order = json.loads(sys.stdin.read())
if order["core"] is not None: os.sched_setaffinity(0, {order["core"]})
os.nice(order["nice"])
client = HTTPClient.from_url(order["url"], concurrency=200, connection_timeout=order["wait_s"], network_timeout=order["wait_s"])
found, crowd, began = [None] * len(order["plan"]), [], time.perf_counter() + .2
def ask(i, at, path, key):
    late_s, status = time.perf_counter() - began - at, 0
    try:
        answer = client.get(path, headers={"X-API-Key": key})
        answer.read()
        status = answer.status_code
    except Exception: pass  # whatever it is: there was no answer
    found[i] = 1e3 * (time.perf_counter() - began - at), status, late_s
for i, (at, path, key) in enumerate(order["plan"]):
    gevent.sleep(max(0, began + at - time.perf_counter()))
    crowd.append(gevent.spawn(ask, i, at, path, key))
gevent.joinall(crowd)
print(json.dumps(found))
"""
PATIENCE_S = 15  # of a caller


@contextmanager
def service(tenants: int, tracks: int, quota: float) -> Iterator[tuple[str, list[str], bool]]:  # address, a key each, pinned?
    "The service over a scratch lab with so many tenants, on the last core together with its servers."
    with scratch() as home, Lab(home) as lab, (home / "service.log").open("wb") as log:
        migrate(lab)
        stores = [fill(Store(lab, f"team{n}"), tracks) for n in range(tenants)]
        build("hnsw_halfvec", stores[0])
        keys = [Keys(s, "proof").create(["read"])[0] for s in stores]
        for s in stores: s.forget()
        port = find_free_port()
        ours = subprocess.Popen([sys.executable, "-c", SERVICE, str(home), str(port), f"{quota:g}"], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health/ready", gone=lambda: "the service ended" if ours.poll() is not None else "", see=log.name)
            servers = [p.pid for server in (lab.postgres, lab.valkey) for p in server.processes()]
            with on_core([ours.pid, *servers], two_cores()[1]) as pinned: yield url, keys, pinned
        finally: ours.kill(), ours.wait(10)


def offer(url: str, *plans: list[tuple[float, str, str]]) -> list[list[tuple[float, int, float]]]:  # ms, status, late by s
    "Callers with a process for each plan (moment, path, key); those after the first give way to it."
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    crowd = [subprocess.Popen([sys.executable, "-c", CALLERS], **pipes) for _ in plans]
    try:
        for caller in crowd: caller.stdout.readline()                                         # all of them have started
        for nice, (caller, plan) in enumerate(zip(crowd, plans, strict=True)):
            order = {"url": url, "plan": plan, "core": two_cores()[0], "nice": 10 * nice, "wait_s": PATIENCE_S}
            caller.stdin.write(json.dumps(order))
            caller.stdin.close()
        return [json.loads(caller.stdout.read()) for caller in crowd]
    finally:
        for caller in crowd: caller.kill(), caller.wait(10), caller.stdout.close()


def neighbour(
    seconds: float = 60,  # with the loud tenant, and as many without
    times: float = 10,  # its quota
    quota: float = 20,  # requests per second and tenant
    seed: int = 12,
    tenants: int = 10,
    tracks: int = 300,  # of each tenant
    slices: int = 6,  # of each kind
) -> dict:
    "The others with a loud neighbour and without, in turns."
    rng, length, found, most = random.Random(seed), seconds / slices, {"alone": [], "beside": [], "loud": []}, 0.0
    with service(tenants, tracks, quota) as (url, keys, pinned):
        def plan(some: list[str], rate: float, s: float) -> list[tuple[float, str, str]]:
            path = lambda: f"/api/tracks/similar?track_id={rng.randrange(tracks)}"
            return sorted((at, path(), key) for key in some for at in at_random(rate, s, rng))
        quiet = lambda s: plan(keys[1:], quota / CALM, s)
        offer(url, quiet(2))                                                                  # the first requests are no measure
        for _ in range(slices):
            found["alone"] += offer(url, quiet(length))[0]
            beside, loud = offer(url, quiet(length), plan(keys[:1], times * quota, length))
            found["beside"] += beside
            found["loud"] += loud
            most += 1 + quota * (2 + length + max(ms for ms, *_ in loud) / 1e3)  # the pocket, a full bucket, and what comes in
    return tell(found, length, most) | {"pinned": pinned}


def tell(found: dict[str, list[tuple[float, int, float]]], length: float, most: float) -> dict:
    "What the requests met."
    p95 = {kind: summary(ms)["p95"] or max(ms) for kind, of in found.items() if (ms := [x[0] for x in of])}
    late_s = max(x[2] for of in found.values() for x in of)
    wrong = Counter(status for kind in ("alone", "beside") for _, status, _ in found[kind] if status != 200)
    return {"p95_alone_ms": round(p95["alone"], 2), "p95_beside_ms": round(p95["beside"], 2),
            "ratio": round(p95["beside"] / p95["alone"], 3), "requests": {kind: len(of) for kind, of in found.items()},
            "wrong": dict(wrong), "loud": dict(Counter(x[1] for x in found["loud"])), "may_pass": int(most),
            "late_s": round(late_s, 3), "late": late_s > LATE * length}


def check_late(found: dict) -> dict:  # the same
    "LabError if the callers were too late for the figures to mean anything."
    if not found["late"]: return found
    raise LabError("the callers were late, so this run is discarded: end what else runs here.")


def held(found: dict) -> bool:
    "Do the others get all their answers, nearly as soon as without the loud one, and is that one cut to its quota?"
    loud = found["loud"]
    cut = 0 < loud.get(200, 0) <= found["may_pass"] and loud.get(429, 0) > loud[200] and set(loud) == {200, 429}
    return found["ratio"] <= LIMIT and not found["wrong"] and cut
