"""Everything that CI runs, within a time limit: the checks, every notebook on the small profile, the site made of them, pytest.

`scripts/test [--changed] [--coverage] [pytest arguments]`. pytest runs twice: two workers share the tests, each with servers of its
own; then one process runs those marked `alone`, which measure time or need the machine to themselves. The last lines add up both.
"""
import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
BUDGET_MIN = 40  # what the whole of scripts/test may take; a longer run says by how much it is over
LIMIT_S = 60 * int(os.environ.get("TEST_LIMIT_MINUTES", "100"))  # ends what hangs
PATIENCE_S = 20  # to leave politely when the time is up
WORKERS = 2
SECOND_TRY = int(os.environ.get("TEST_SECOND_TRY", "0"))  # so many tests that failed may be tried once more, by themselves
DEAREST = 20
MARK = "LAB_TEST_RUN"  # in the environment of everything we start, servers included
TALLY = "LAB_TEST_TALLY"  # the file in which a pytest process leaves its tally
PYTEST = "import sys; sys.path.insert(0, sys.argv.pop(1)); import _tests, pytest; sys.exit(pytest.main(sys.argv[1:], [_tests]))"
WHOLE = "-n", "--numprocesses", "--dist", "--pdb", "--trace", "-s", "--collect-only", "--co", "--fixtures", "--markers", "--version"
NO_TESTS = 5  # pytest's exit code where nothing was selected


class TimeIsUp(Exception):
    "The run takes longer than LIMIT_S."


# ---- what a pytest process leaves: this file is its plugin

def pytest_terminal_summary(terminalreporter, config) -> None:
    "Write how many tests passed and failed, how long each took with its fixtures, and why some were skipped."
    if not (file := os.environ.get(TALLY)): return
    counts, seconds, failed = Counter(), Counter(), []
    for kind, reports in terminalreporter.stats.items():
        for r in reports:
            if hasattr(r, "nodeid") and hasattr(r, "duration"): seconds[r.nodeid.partition("@")[0]] += r.duration
        if kind: counts[kind] = len(reports)
        if kind in ("failed", "error"): failed += [f"{'FAILED' if kind == 'failed' else 'ERROR'} {r.nodeid}" for r in reports]
    why = Counter(r.longrepr[2].removeprefix("Skipped: ") for r in terminalreporter.stats.get("skipped", ()) if r.longrepr)
    Path(file).write_text(json.dumps({"counts": counts, "seconds": seconds, "failed": failed, "skips": why,
                                     "root": str(config.rootpath)}))


# ---- running and stopping

def ours(mark: str) -> list[psutil.Process]:
    "Every process that carries the mark of this run, except this one."
    found = []
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if p.pid != os.getpid() and p.environ().get(MARK) == mark and p.status() != psutil.STATUS_ZOMBIE: found.append(p)
    return found


def end(step: subprocess.Popen, mark: str, patience_s: float = PATIENCE_S) -> None:
    "Stop a step politely, then end whatever it leaves, servers included."
    with contextlib.suppress(ProcessLookupError): step.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired): step.wait(patience_s)
    step.kill()
    for _ in range(5):  # what is ended last may have started something
        for p in (left := ours(mark)):
            with contextlib.suppress(psutil.Error): p.kill()
        if not psutil.wait_procs(left, timeout=2)[1] and not left: break
    step.wait()


def run(command: list[str], until: float, mark: str, name: str = "", **env: str) -> int:
    "Run one step to its end; raises TimeIsUp, with everything that it started ended, where it runs beyond `until`."
    step = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=os.environ | {MARK: mark} | env)
    try: return step.wait(max(0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        end(step, mark)
        raise TimeIsUp(name or command[0]) from None
    except BaseException:  # stopped by hand, or by CI
        end(step, mark)
        raise


# ---- pytest

def phases(args: list[str], cover: bool) -> list[list[str]]:
    "The arguments of each pytest process: first those tests that can be shared, then those that want to be alone."
    measured = ["--cov=rap_analyzer", "--cov-report="] if cover else []
    if any(a in WHOLE or a.startswith(("-n", "--dist=", "--numprocesses=")) for a in args): return [[*measured, *args]]
    args, wanted = marks(args)
    shared = ["-n", str(WORKERS), "--dist", "loadgroup", "--no-loadscope-reorder", "-m", f"{wanted}not alone"]
    alone = [*measured, *["--cov-append"] * cover, *args, *([] if args else lonely()), "-p", "no:xdist", "-m", f"{wanted}alone"]
    return [[*measured, *args, *shared], alone]


def lonely() -> list[str]:
    "The files with tests marked `alone`: to import all others takes a process a quarter of a minute."
    return [str(f) for f in sorted((ROOT / "tests").glob("test_*.py")) if "mark.alone" in f.read_text(encoding="utf-8")]


def marks(args: list[str]) -> tuple[list[str], str]:
    "The arguments without `-m`, and its expression as the beginning of another."
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", dest="wanted")
    known, rest = parser.parse_known_args(args)
    return rest, f"({known.wanted}) and " if known.wanted else ""


def closing(tallies: Iterable[dict], took_s: float) -> list[str]:
    "The dearest tests, the failed ones, why some were skipped, and the counts, of all phases together."
    counts, seconds, failed, skips, flaky = Counter(), Counter(), [], Counter(), []
    for t in tallies:
        counts.update(t["counts"])
        seconds.update(t["seconds"])
        failed += t["failed"]
        flaky += [f"FLAKY {name.partition(' ')[2]}: it failed, and passed alone" for name in t.get("flaky", ())]
        skips.update(t.get("skips", {}))
    lines = [f"The {min(DEAREST, len(seconds))} dearest of {len(seconds):,} tests, with their fixtures:"]
    lines += [f"{s:8.1f} s  {name}" for name, s in seconds.most_common(DEAREST)] + failed
    lines += flaky + [f"SKIPPED {n} x: {why}" for why, n in skips.most_common()]
    order = "failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error"
    said = [f"{counts[k]} {k + 's' * (k == 'error' and counts[k] > 1)}" for k in order if counts[k] and k != "deselected"]
    return [*lines, f"{', '.join(said) or 'no tests ran'} in {took_s:.2f}s ({int(took_s // 60)}:{int(took_s % 60):02d})"]


def try_again(tallies: list[dict], folder: Path, until: float, mark: str) -> None:
    "Run what failed once more, by itself; what passes now is flaky, not failed. Changes the tallies."
    place = lambda t, name: str(Path(t["root"], name.partition(" ")[2].partition("@")[0]))  # xdist adds the group's name
    names = [place(t, name) for t in tallies for name in t["failed"]]
    print(f"\nOnce more, alone: {' '.join(names)}", flush=True)
    file = folder / "again.json"
    code = run(["-c", PYTEST, str(ROOT / "scripts"), "-p", "no:xdist", *names], until, mark, "pytest", **{TALLY: str(file)})
    if code not in (0, 1) or not file.exists(): return
    second = json.loads(file.read_text())
    bad = {place(second, name) for name in second["failed"]}
    for t in tallies:
        t["flaky"] = [name for name in t["failed"] if place(t, name) not in bad]
        t["failed"] = [name for name in t["failed"] if name not in t["flaky"]]
        t["counts"] |= {"failed": len(t["failed"]), "error": 0, "passed": t["counts"].get("passed", 0) + len(t["flaky"])}


def tests(args: list[str], until: float, mark: str, cover: bool) -> int:
    "pytest, in its phases; the exit code of the first that failed."
    began, codes, tallies = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for n, arguments in enumerate(phases(args, cover)):
            file = Path(folder) / f"{n}.json"
            codes.append(run(["-c", PYTEST, str(ROOT / "scripts"), *arguments], until, mark, "pytest", **{TALLY: str(file)}))
            if file.exists(): tallies.append(json.loads(file.read_text()))
            if codes[-1] not in (0, 1, NO_TESTS) or (codes[-1] and {"-x", "--exitfirst"} & {*args}): break
        bad = [name for t in tallies for name in t["failed"]]
        if 0 < len(bad) <= SECOND_TRY and {*codes} <= {0, 1, NO_TESTS}:
            try_again(tallies, Path(folder), until, mark)
            if not any(t["failed"] for t in tallies): codes = [0 if c == 1 else c for c in codes]
    if cover: run(["-m", "coverage", "report", "--skip-covered", "--skip-empty"], until, mark)
    whole_min = (LIMIT_S - until + time.monotonic()) / 60
    if whole_min > BUDGET_MIN: print(f"\n{whole_min:.0f} minutes in all, more than the {BUDGET_MIN} of the budget.", flush=True)
    if tallies: print("", *closing(tallies, time.monotonic() - began), sep="\n", flush=True)
    bad = [c for c in codes if c not in (0, NO_TESTS)]
    return bad[0] if bad else 0 if 0 in codes else NO_TESTS


# ---- what changed

def edited(root: Path) -> list[str]:
    "The files that differ from the last commit."
    asked = ["git", "-C", str(root), "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"]
    return [line[3:] for line in subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0") if line]


def owned(root: Path, file: str) -> str:
    "The module that a file of the package is, or that a notebook exports; empty for any other."
    path = root / file
    if file.startswith("rap_analyzer/") and path.suffix == ".py": return file[:-3].replace("/", ".").removesuffix(".__init__")
    if file.startswith("nbs/") and path.suffix == ".ipynb" and path.exists():
        found = re.search(r"#\| default_exp ([\w.]+)", path.read_text(encoding="utf-8"))
        return f"rap_analyzer.{found[1]}" if found else ""
    return ""


def touched(root: Path, files: list[str]) -> list[str]:
    "The test files to run: those that changed, that import what changed, themselves or through others, or that name it."
    import _book
    if any(f in ("tests/conftest.py", "pyproject.toml", "requirements.lock", "settings.ini") for f in files): return ["tests"]
    ground, modules = _book.Ground(root, "smoke"), {owned(root, f) for f in files} - {""}
    names = [re.escape(Path(f).stem if f.endswith(".py") else Path(f).name) for f in files if not f.startswith(("tests/", "nbs/"))]
    said = re.compile(rf"\b({'|'.join(names)})\b") if names else None
    servers = _book.named((root / "tests/conftest.py").read_text(encoding="utf-8"), "")
    chosen = []
    for test in sorted(root.glob("tests/test_*.py")):
        text, name = test.read_text(encoding="utf-8"), str(test.relative_to(root))
        used = _book.named(text, "") | (servers if re.search(r"def \w+\(.*\b(lab|small)\b", text) else set())
        asks = any(f.startswith("exercises/") for f in files) and re.match(r"test_(exercises|learn|verify|blind)", test.name)
        if name in files or modules & ground.under(used) or asks or (said and said.search(text)): chosen.append(name)
    return chosen


# ---- everything

def steps(args: list[str], until: float, mark: str, cover: bool, changed: bool = False) -> int:
    "Everything, in order, or what the changes touch; the exit code of the first step that fails. Only red checks end it early."
    book = ["scripts/_book.py", "--profile", "smoke", *["--changed"] * changed]
    site = ["scripts/_site.py", "--no-run", "--profile", "smoke"]
    if code := run(["scripts/checks.py"], until, mark): return code
    bad = run(book, until, mark)
    if bad and SECOND_TRY:
        print("What failed is executed once more.", flush=True)
        bad = run(book, until, mark)
    if not changed and not bad: bad = run(site, until, mark)
    if bad: print(f"The notebooks or the site failed (exit code {bad}), see above; the tests run all the same.", flush=True)
    if changed:
        chosen = touched(ROOT, edited(ROOT))
        print(f"Tests of what changed: {' '.join(chosen) or 'none'}", flush=True)
        if not chosen: return bad
        args = [*args, *chosen]
    return tests(args, until, mark, cover) or bad


def main() -> int:
    "The command scripts/test."
    parser = argparse.ArgumentParser(prog="scripts/test", allow_abbrev=False, description=__doc__.splitlines()[0],
                                     epilog="Everything else goes to pytest: a file, -k, -x.")
    parser.add_argument("--coverage", action="store_true", help="report which lines of rap_analyzer the tests ran")
    parser.add_argument("--changed", action="store_true", help="only the checks, and the notebooks and tests that differ from the "
                        "last commit or rest on what does")
    own, args = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try: return steps(args, time.monotonic() + LIMIT_S, secrets.token_hex(8), own.coverage, own.changed)
    except KeyboardInterrupt: return 130
    except TimeIsUp as e:
        print(f"\nSTOPPED: {e} was still running after {LIMIT_S // 60} minutes; everything it had started was ended.", flush=True)
        return 1


if __name__ == "__main__": sys.exit(main())
