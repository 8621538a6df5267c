"""Proofs at full size: too long for every run of the tests, which hold a small seeded form of each.

`scripts/soak jobs` kills workers, API, broker and database sixty times during two thousand jobs. What it found is recorded with
commit and source hash (`soak.jobs` among the lab's runs) and printed as JSON; the exit code is 0 only if the proof held.
"""
import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

from rap_analyzer.core import LabError
from rap_analyzer.runs import save_run
from rap_analyzer.serve.chaos import storm

ROOT = Path(__file__).resolve().parent.parent
BOUNDS_S = {"worker": 8, "api": 10, "broker": 10, "database": 10}


def commit() -> str:
    "The commit, marked if files differ from it; `unknown` outside of a repository."
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    try: return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError): return "unknown"


def soak_jobs(args: argparse.Namespace) -> bool:
    "Kill everything in turn; every accepted job has its effect exactly once, and everything comes back in time."
    def told(part: str, took: float) -> None: print(f"{part:9} {took:5.2f} s", file=sys.stderr, flush=True)
    params = {"kills": args.kills, "jobs": args.jobs, "seed": args.seed}
    found = storm(**params, each=told)
    worst = {f"{part}_s": round(max(took, default=0), 2) for part, took in found["recovery_s"].items()}
    late = {part: sum(s > BOUNDS_S[part] for s in took) for part, took in found["recovery_s"].items()}
    whole = found["accepted"] >= args.jobs and found["lost"] == found["doubled"] == 0
    values = {"accepted": found["accepted"], "lost": found["lost"], "doubled": found["doubled"], **worst,
              "late": sum(late.values()), "verdict": "held" if whole and not any(late.values()) else "failed", "commit": commit()}
    samples = [s for took in found["recovery_s"].values() for s in took]
    run = save_run("soak.jobs", samples, "s", params, storm, values, args.kills, None)
    print(json.dumps({"name": "jobs", **params, **values, "late_by_part": late, "recovery_p50_s": round(run.p50, 2),
                      "source_hash": run.source_hash, "measured_at": run.measured_at}, indent=1))
    return values["verdict"] == "held"


SOAKS = {"jobs": soak_jobs}


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SOAKS)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=12)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    try: return 0 if SOAKS[args.name](args) else 1
    except LabError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__": sys.exit(main())
