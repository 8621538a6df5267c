"""Proofs at full size: too long for every run of the tests, which hold a small seeded form of each.

- `scripts/soak jobs` kills workers, API, broker and database sixty times during two thousand jobs.
- `scripts/soak overload` asks the service for three times what it can answer.
- `scripts/soak mixed` reads and writes for ten minutes while each part is killed in turn.
- `scripts/soak capacity` predicts the throughput of twenty configurations that never ran, then runs them; wants a quiet machine.
- `scripts/soak experiments` re-assigns one simulated month a thousand times, and estimates a planted effect in 500 populations.
- `scripts/soak latency` lets listeners use the service on two lines, one of them 200 ms slower, until the difference has to show.
- `scripts/soak failover` harms the primary of a pair twenty times and fails over.
- `scripts/soak events` kills service, relay, consumers and broker while ten thousand events come in, and takes the price of it.
- `scripts/soak rollback` promotes a bad model and takes it back, again and again, while fifty requests arrive per second.
- `scripts/soak recommend` times recommendations over 57,000 tracks, asks for a hundred per second, and compares the blend with its
  members in three audiences; wants a quiet machine.
- `scripts/soak deploy` migrates and replaces the service, again and again, while fifty requests arrive per second.
- `scripts/soak tenants` lets one tenant try ten thousand times to reach another's data over HTTP, while the other one works.
- `scripts/soak auction` kills bidders, API and database twenty times during ten thousand acknowledged bids.
- `scripts/soak giants` times the five platforms of the chapter Giants over 57,000 tracks; wants a quiet machine.
- `scripts/soak neighbour` lets one tenant ask for ten times its quota, and compares the others' waits with those without it; wants
  a quiet machine.
- `scripts/soak contract` asks each operation two hundred times, within its schema and beyond it, and five thousand documents
  in GraphQL.
- `scripts/soak decisions` breaks each part that decisions rest on, again and again, and measures all of them each time.
- `scripts/soak success` makes forecasts in sixteen markets, and holds each tenth of each market to five points of its
  true chances; a tenth with fewer than 150 releases joins its neighbour.
- `scripts/soak records` prints the last record of each, and which are stale: the source is another since.

What a proof found is recorded with commit and source hash (`soak.jobs` among the lab's runs) and printed as JSON; the exit code is
0 only if the proof held. Times depend on the machine, so the load average at begin and end is part of the record.
"""
import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import _auction
import _calibration
import _capacity
import _contract
import _deploy
import _experiments
import _giants
import _latency
import _living
import _mixed
import _neighbour
import _overload
import _recommend
import _rollback
import _tenants

from rap_analyzer.core import LabError
from rap_analyzer.runs import last, save_run
from rap_analyzer.serve.chaos import storm

ROOT = Path(__file__).resolve().parent.parent
BOUNDS_S = {"worker": 8, "api": 10, "broker": 10, "database": 10, "cache": 10}
PROOFS = ("_auction", "_calibration", "_capacity", "_contract", "_deploy", "_experiments", "_giants", "_latency", "_living",
          "_mixed", "_neighbour", "_overload", "_recommend", "_rollback", "_soak", "_tenants")  # besides the package
OPTIONS = {
    "jobs": ("kills", "jobs", "seed"),
    "overload": ("seconds", "times", "seed"),
    "mixed": ("seconds", "every_s", "seed"),
    "capacity": ("seconds", "trials", "seed"),
    "failover": ("failovers", "seed"),
    "events": ("kills", "events", "seed"),
    "experiments": ("draws", "populations", "seed"),
    "latency": ("days", "speed", "seed"),
    "recommend": ("tracks", "listeners", "calls", "seconds", "judged", "audiences", "seed"),
    "rollback": ("rate", "seconds", "times"),
    "deploy": ("rate", "seconds", "times"),
    "tenants": ("attempts", "seed"),
    "neighbour": ("seconds", "times", "quota", "seed"),
    "contract": ("examples", "documents", "seed"),
    "decisions": ("rounds", "seed"),
    "auction": ("kills", "bids", "seed"),
    "giants": ("tracks", "listeners", "calls", "seed"),
    "success": ("markets", "seed"),
}
SECONDS = {"overload": 30, "capacity": 2.5, "recommend": 20, "rollback": 60, "deploy": 60, "neighbour": 60}


def commit() -> str:
    "The commit, marked if files differ from it; `unknown` outside of a repository."
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    try: return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError): return "unknown"


def sources(root: Path = ROOT) -> str:
    "One hash of the package and of these proofs: a record of another source says nothing about this one."
    proofs = [f for f in root.glob("scripts/*.py") if f.stem in PROOFS]
    files, found = sorted([*root.glob("rap_analyzer/**/*.py"), *proofs, root / "requirements.lock"]), sha256()
    for f in files: found.update(f"{f.relative_to(root)}\0{sha256(f.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def keep(name: str, params: dict, samples: list[float], unit: str, fn: Callable, values: dict, verdict: bool) -> dict:
    "Record a proof; what is printed of it."
    loads = {"load_before": params.pop("load_before"), "load_after": round(os.getloadavg()[0], 2)}
    values = {**values, **loads, "verdict": "held" if verdict else "failed", "commit": commit(), "sources": sources()}
    run = save_run(f"soak.{name}", samples, unit, params, fn, values, len(samples), None)
    return {"name": name, **params, **values, "source_hash": run.source_hash, "measured_at": run.measured_at}


def recovery(took: dict[str, list[float]]) -> tuple[dict[str, float], dict[str, int]]:  # the longest, and how many were too long
    "Recovery times against their bounds."
    late = {part: sum(s > BOUNDS_S[part] for s in of) for part, of in took.items()}
    return {f"{part}_s": round(max(of, default=0), 2) for part, of in took.items()}, late


def told(part: str, took: float) -> None:
    "A line for each recovery."
    print(f"{part:9} {took:5.2f} s  load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


def soak_jobs(params: dict) -> dict:
    "Kill everything in turn; every accepted job has its effect exactly once, and everything comes back in time."
    asked = {k: v for k, v in params.items() if k in OPTIONS["jobs"]}
    found = storm(**asked, each=told)
    worst, late = recovery(found["recovery_s"])
    whole = found["accepted"] >= params["jobs"] and found["lost"] == found["doubled"] == 0
    values = {"accepted": found["accepted"], "lost": found["lost"], "doubled": found["doubled"], **worst, "late": late}
    samples = [s for took in found["recovery_s"].values() for s in took]
    return keep("jobs", params, samples, "s", storm, values, whole and not any(late.values()))


def soak_overload(params: dict) -> dict:
    "Ask for too much: enough is answered in time, the rest is refused, nothing fails."
    found = _overload.overload(**{k: v for k, v in params.items() if k in OPTIONS["overload"]})
    if found["overload"]["late"]: raise LabError("the load generator was late, so this run is discarded: end what else runs here.")
    ratio = found["overload"]["goodput"] / found["capacity"]
    return keep("overload", params, [ratio], "ratio", _overload.overload, found, _overload.held(found))


def soak_mixed(params: dict) -> dict:
    "Kill each part under mixed load: no accepted write is lost, no error falls outside of the outages."
    found = _mixed.mixed(**{k: v for k, v in params.items() if k in OPTIONS["mixed"]}, each=told)
    took = {part: [o.recovery_s for o in found["outages"] if o.part == part] for part in _mixed.PARTS}
    (worst, late), stray = recovery(took), found["outside"]
    values = {k: found[k] for k in ("accepted", "lost", "doubled", "failed")} | {"requests": found["asked"]}
    values |= {"kills": {part: len(of) for part, of in took.items()}, **worst, "late": late, "errors_outside": len(stray),
               "outside": dict(Counter(_mixed.place(a, found["outages"]) for a in stray).most_common(50))}
    whole = found["lost"] == found["doubled"] == 0 and found["accepted"] and all(took.values()) and not stray
    samples = [s for of in took.values() for s in of]
    return keep("mixed", params, samples, "s", _mixed.mixed, values, bool(whole) and not any(late.values()))


def soak_capacity(params: dict) -> dict:
    "Predict, then run."
    load = params.pop("load_before")
    found = _capacity.run_capacity(**params, each=lambda name, off: print(f"{off:+6.1%}  {name}", file=sys.stderr, flush=True))
    rows, held = found.pop("rows"), found.pop("held")
    said = keep("capacity", {**params, "load_before": load}, [1 + r["off"] for r in rows], "ratio", _capacity.run_capacity,
                {**found, "rows": json.dumps(rows)}, held)
    return {**said, "rows": rows}


def soak_experiments(params: dict) -> dict:
    "False alarms of experiments without an effect, coverage of one that was planted."
    asked = {k: v for k, v in params.items() if k in OPTIONS["experiments"]}
    found = _experiments.run_experiments(**asked)
    samples = [found["alarms"]["fixed"] / params["draws"]]
    return keep("experiments", params, samples, "share", _experiments.run_experiments, found, found.pop("held"))


def soak_failover(params: dict) -> dict:
    "Fail over a synchronous pair under load: never two primaries, no acknowledged write lost, back within ten seconds."
    from rap_analyzer.serve.failover import rehearse
    from rap_analyzer.serve.stage import scratch
    n, seed, sockets = params["failovers"], params["seed"], Path(tempfile.mkdtemp(prefix="rap-"))
    try:
        with scratch() as home: found = rehearse(home, sockets, n, seed, lambda f: print(f, file=sys.stderr, flush=True))
    finally: shutil.rmtree(sockets, ignore_errors=True)
    worst = max(f.recovery_s for f in found)
    values = {"split": sum(f.split for f in found), "lost": sum(f.lost for f in found), "worst_s": round(worst, 2)}
    whole = len(found) == n and values["split"] == values["lost"] == 0 and worst <= BOUNDS_S["database"]
    return keep("failover", params, [f.recovery_s for f in found], "s", rehearse, values, whole)


def soak_events(params: dict) -> dict:
    "Kill everything in turn while events come in: each acknowledged one is counted exactly once, soon, and at a fair price."
    from rap_analyzer.lab import Lab
    from rap_analyzer.product.pipeline import bench_events
    from rap_analyzer.product.storm import run_storm
    from rap_analyzer.search.store import migrate
    from rap_analyzer.serve.stage import scratch
    asked = {k: v for k, v in params.items() if k in OPTIONS["events"]}
    found = run_storm(**asked, each=lambda part, n: print(f"{part:9} killed at {n:,} events", file=sys.stderr, flush=True))
    with scratch() as home, Lab(home) as lab:
        migrate(lab)
        price = bench_events(lab, 20)
    found |= {k: round(price[k], 2) for k in ("bare_per_s", "tracked_per_s", "ratio", "worst_block")}
    whole = found["acknowledged"] > .99 * params["events"]
    whole = whole and not any(found[k] for k in ("lost", "doubled", "miscounted", "changed"))
    fine = found["p99_ms"] <= 1_000 and found["ratio"] >= .5 and sum(found["kills"].values()) == params["kills"]
    samples, found["killed"] = [found["p50_ms"], found["p99_ms"]], sum(found.pop("kills").values())
    return keep("events", params, samples, "ms", run_storm, found, whole and fine)


def soak_latency(params: dict) -> dict:
    "Slow pages lower the saves of a session, at the size that was planned."
    found = _latency.latency(**{k: params[k] for k in OPTIONS["latency"]},
                             each=lambda said: print(said, file=sys.stderr, flush=True))
    held = found.pop("held")
    return keep("latency", params, [found["effect"]], "saves per session", _latency.latency, found, held)


def soak_rollback(params: dict) -> dict:
    "Take a bad model back under load: no request fails, and within a second the last process answers with the old one."
    from rap_analyzer.lab import Lab
    from rap_analyzer.serve.stage import scratch
    with scratch() as home, Lab(home) as lab:
        found = _rollback.rollback(lab, params["rate"], params["seconds"], times=int(params["times"]))
    took = found.pop("took_s")
    held = found["failed"] == 0 and found["worst_s"] <= 1 and found["rollbacks"] == len(took) and found["bad_answers"] > 0
    return keep("rollback", params, took, "s", _rollback.rollback, found, held)


def soak_deploy(params: dict) -> dict:
    "New versions and migrations under load: no request fails."
    from rap_analyzer.lab import Lab
    from rap_analyzer.serve.stage import scratch
    times = int(params["times"])
    with scratch() as home, Lab(home) as lab: found = _deploy.deploy(lab, params["rate"], params["seconds"], times)
    return keep("deploy", params, [found["ready_s"], found["gone_s"]], "s", _deploy.deploy, found, _deploy.held(found, times))


def soak_recommend(params: dict) -> dict:
    "Recommendations in time, and better than their sources."
    asked = {k: v for k, v in params.items() if k in OPTIONS["recommend"]}
    found = _recommend.recommend(**asked, each=lambda said: print(said, file=sys.stderr, flush=True))
    samples, held = [found["p50_ms"], found["p95_ms"]], found.pop("held")
    found["ndcg"] = json.dumps(found["ndcg"])
    return keep("recommend", params, samples, "ms", _recommend.recommend, found, held)


def soak_tenants(params: dict) -> dict:
    "Attempts on another tenant's data: none succeeds, nothing of the other's changes, and the other gets its own."
    from rap_analyzer.lab import Lab
    from rap_analyzer.serve.stage import scratch
    with scratch() as home, Lab(home) as lab: found = _tenants.cross(lab, params["attempts"], params["seed"])
    held = found["attempts"] == params["attempts"] and not (found["succeeded"] or found["changed"] or found["missed"])
    return keep("tenants", params, [found["succeeded"]], "attempts", _tenants.cross, found, bool(held and found["served"]))


def soak_neighbour(params: dict) -> dict:
    "One tenant far above its quota: it is cut to it, and the others get all their answers, nearly as soon as without it."
    found = _neighbour.check_late(_neighbour.neighbour(**{k: params[k] for k in OPTIONS["neighbour"]}))
    return keep("neighbour", params, [found["ratio"]], "ratio", _neighbour.neighbour, found, _neighbour.held(found))


def soak_contract(params: dict) -> dict:
    "Each operation within its schema and beyond it, and documents in GraphQL: no 500, no trace, nothing that is not announced."
    from rap_analyzer.lab import Lab
    from rap_analyzer.serve.stage import scratch
    with scratch() as home, Lab(home) as lab: found = _contract.contract(lab, *(params[k] for k in OPTIONS["contract"]))
    held = found["operations"] > 30 and not (found["wrong"] or found["failed"])
    samples = [len(found["wrong"]) + found["failed"]]
    for name in ("statuses", "graphql", "wrong"): found[name] = json.dumps(found[name])
    return keep("contract", params, samples, "answers", _contract.contract, found, held)


def soak_decisions(params: dict) -> dict:
    "Break the parts that decisions rest on: exactly those decisions are red, and none while nothing is broken."
    from rap_analyzer.decide.rig import make_rig
    from rap_analyzer.lab import Lab
    from rap_analyzer.serve.stage import scratch
    def each(name: str, red: set[str]) -> None: print(f"{name:8} {', '.join(sorted(red)) or '-'}", file=sys.stderr, flush=True)
    with scratch() as home, Lab(home) as lab, make_rig(lab) as rig:
        found = _living.break_all(rig, params["rounds"], params["seed"], each)
    held = found["tried"] > 0 and found["right"] == found["tried"] and found["measured"] >= 5
    found["wrong"] = json.dumps(found["wrong"])
    return keep("decisions", params, [found["right"] / found["tried"]], "share", _living.break_all, found, held)


def soak_auction(params: dict) -> dict:
    "Kill bidders, the API and the database while beats are sold: no acknowledged bid is lost, and each beat has one buyer."
    from rap_analyzer.lab import Lab
    from rap_analyzer.serve.stage import scratch
    asked = {k: v for k, v in params.items() if k in OPTIONS["auction"]}
    each = lambda part, n: print(f"{part:9} killed at {n:,} bids", file=sys.stderr, flush=True)
    with scratch() as home, Lab(home) as lab: found = _auction.hold(lab, **asked, each=each)
    verdict = _auction.held(found, params["bids"], params["kills"])
    found["kills"] = json.dumps(found["kills"])
    return keep("auction", params, [found["per_s"]], "bids per second", _auction.hold, found, verdict)


def soak_giants(params: dict) -> dict:
    "The five platforms of the chapter Giants at the size of the whole catalog: each keeps its promise."
    asked = {k: v for k, v in params.items() if k in OPTIONS["giants"]}
    found = _giants.visit_giants(**asked, each=lambda said: print(said, file=sys.stderr, flush=True))
    verdict = found.pop("held")
    return keep("giants", params, [v for k, v in found.items() if k.endswith("p95_ms")], "ms", _giants.visit_giants, found, verdict)


def soak_success(params: dict) -> dict:
    "Chances of success in many markets: in each tenth (thin ones merged) of each, as many come as were promised, over its futures."
    asked = {k: params[k] for k in OPTIONS["success"]}
    found = _calibration.judge(**asked, each=lambda said: print(said, file=sys.stderr, flush=True))
    verdict = found["within"] == params["markets"]
    return keep("success", params, found.pop("worst"), "points", _calibration.judge, found, verdict)


SOAKS = {
    "jobs": soak_jobs,
    "overload": soak_overload,
    "mixed": soak_mixed,
    "capacity": soak_capacity,
    "deploy": soak_deploy,
    "failover": soak_failover,
    "events": soak_events,
    "experiments": soak_experiments,
    "latency": soak_latency,
    "recommend": soak_recommend,
    "rollback": soak_rollback,
    "tenants": soak_tenants,
    "neighbour": soak_neighbour,
    "contract": soak_contract,
    "decisions": soak_decisions,
    "auction": soak_auction,
    "giants": soak_giants,
    "success": soak_success,
}


def records() -> list[dict]:
    "The last record of each proof; stale if the source is another now."
    now, found = sources(), []
    for name in SOAKS:
        try: run = last(f"soak.{name}")
        except LabError:
            found.append({"name": name, "record": "none"})
            continue
        record = "stale" if run.values.get("sources") != now else "fresh"
        found.append({"name": name, "record": record, "verdict": run.verdict, "commit": run.commit, "measured_at": run.measured_at})
    return found


def report(found: list[dict]) -> str:
    "Records as lines."
    return "\n".join(f"{r['name']:11} " + ("not recorded in this lab" if r["record"] == "none" else
                     f"{r['verdict']} at {r['commit'][:12]}, {r['measured_at'][:16]}" + (
                     "  STALE: the source has changed since" if r["record"] == "stale" else "")) for r in found)


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*SOAKS, "records"])
    parser.add_argument("--kills", type=int, help="jobs: how many (60); events, auction: how many (20)")
    parser.add_argument("--events", type=int, default=10_000, help="events: so many")
    parser.add_argument("--bids", type=int, default=10_000, help="auction: acknowledged ones, at least")
    parser.add_argument("--jobs", type=int, default=2_000, help="jobs: at least so many")
    parser.add_argument("--seconds", type=float,
                        help="overload: how long (30); mixed: how long (600); rollback, deploy: how long (60); "
                             "neighbour: beside the loud one, and as long without (60); capacity: of counting (2.5); "
                             "recommend: at 100 per second (20)")
    parser.add_argument("--times", type=float,
                        help="overload: of the capacity (3); neighbour: of the quota (10); rollback, deploy: how often (3)")
    parser.add_argument("--quota", type=float, default=20, help="neighbour: requests per second and tenant")
    parser.add_argument("--rate", type=float, default=50, help="rollback, deploy: requests per second")
    parser.add_argument("--failovers", type=int, default=20, help="failover: how many")
    parser.add_argument("--trials", type=int, default=20, help="capacity: configurations")
    parser.add_argument("--draws", type=int, default=1_000, help="experiments: re-assignments of one month")
    parser.add_argument("--populations", type=int, default=500, help="experiments: with a planted effect")
    parser.add_argument("--every", type=float, default=30, dest="every_s", help="mixed: seconds between kills")
    parser.add_argument("--days", type=int, default=14, help="latency: of the listeners' lives")
    parser.add_argument("--speed", type=float, default=2_000, help="latency: times as fast as life")
    parser.add_argument("--tracks", type=int, default=57_000, help="recommend, giants: of the catalog")
    parser.add_argument("--listeners", type=int, default=5_000, help="recommend, giants: with two weeks of events")
    parser.add_argument("--calls", type=int, default=500, help="recommend, giants: without HTTP")
    parser.add_argument("--judged", type=int, default=1_500, help="recommend: listeners of each audience that judges")
    parser.add_argument("--audiences", type=int, default=3, help="recommend: that judge")
    parser.add_argument("--attempts", type=int, default=10_000, help="tenants: how many")
    parser.add_argument("--examples", type=int, default=200, help="contract: for each operation")
    parser.add_argument("--documents", type=int, default=5_000, help="contract: in GraphQL")
    parser.add_argument("--rounds", type=int, default=5, help="decisions: how often each part is broken")
    parser.add_argument("--markets", type=int, default=16, help="success: with listeners and tracks of their own")
    parser.add_argument("--seed", type=int, default=12)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    if args.name == "records":
        print(report(records()))
        return 0
    if args.kills is None: args.kills = {"events": 20, "auction": 20}.get(args.name, 60)
    if args.times is None: args.times = 10 if args.name == "neighbour" else 3
    if args.seconds is None: args.seconds = SECONDS.get(args.name, 600)
    params = {k: getattr(args, k) for k in OPTIONS[args.name]} | {"load_before": round(os.getloadavg()[0], 2)}
    try: said = SOAKS[args.name](params)
    except LabError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(json.dumps(said, indent=1))
    print(report(records()), file=sys.stderr)
    return 0 if said["verdict"] == "held" else 1


if __name__ == "__main__": sys.exit(main())
