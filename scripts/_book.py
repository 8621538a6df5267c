"""Execute the chapters and the exercises with papermill, in a lab of their own, and remember what passed.

`scripts/book [--profile smoke|full] [--only GLOB] [--jobs N] [--force]` puts the executed notebooks into _build/book/<profile>/
and what became of each into _build/book.json. The servers and the recorded runs live in _build/lab/<profile>/, so a learner's own
`work/` is never touched. A notebook that passed is executed again when its text, the package, the lock file or the settings change.
"""
import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha256
from multiprocessing import active_children, get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROFILES = "full", "smoke"
CELL_S = 120  # no cell may take longer
OURS = {"RAP_LAB_HOME", "RAP_LAB_PROFILE", "RAP_PYTHON", "RAP_SETTINGS"}  # set here, or without influence on results
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def notebooks(root: Path, only: str = "*") -> list[Path]:
    "The notebooks of the book in reading order, or those whose name, stem or path fits."
    globs = "nbs/START.ipynb", "nbs/[0-9][0-9]_*.ipynb", "exercises/*.ipynb", "exercises/solutions/[0-9][0-9]_*.ipynb"
    found = [p for glob in globs for p in sorted(root.glob(glob))]
    return [p for p in found if any(fnmatch(name, only) for name in (p.name, p.stem, str(p.relative_to(root))))]


def code_hash(root: Path, profile: str) -> str:
    "A fingerprint of what all results depend on: package, migrations, locked versions, settings, Python."
    package = (p for p in root.glob("rap_analyzer/**/*") if p.is_file() and "__pycache__" not in p.parts)
    given = sorted((k, v) for k, v in os.environ.items() if k.startswith("RAP_") and k not in OURS)
    known = sha256(repr((profile, sys.version_info[:3], given)).encode())
    for path in sorted(package) + [root / "requirements.lock", root / "settings.ini"]:
        if path.exists(): known.update(str(path.relative_to(root)).encode() + sha256(path.read_bytes()).digest())
    return known.hexdigest()


def fingerprint(path: Path, code: str) -> str:
    "A fingerprint of one notebook's result: its own text, its checker's (if it is an exercise), and everything under it."
    twin = path.parent / "solutions" / path.name
    return sha256(code.encode() + path.read_bytes() + (twin.read_bytes() if twin.exists() else b"")).hexdigest()


def records(root: Path) -> dict:
    "What _build/book.json says: `last` names a profile, and each profile has a record for each notebook."
    try: return json.loads((root / "_build" / "book.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError): return {}


def remember(root: Path, book: dict) -> None:
    "Write _build/book.json, whole or not at all."
    draft = root / "_build" / "book.json.new"
    draft.write_text(json.dumps(book, indent=1) + "\n", encoding="utf-8")
    draft.replace(root / "_build" / "book.json")


def executed(root: Path, profile: str, path: Path) -> Path:
    "Where the executed copy of a notebook lies."
    return root / "_build" / "book" / profile / path.relative_to(root)


def failure(path: Path, error: str) -> str:
    "The last cell that was begun, with everything it printed; only the error where there is no such cell."
    if not path.exists(): return error
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if "papermill-error-cell-tag" not in c["metadata"].get("tags", [])]
    begun = [n for n, c in enumerate(cells) if c["cell_type"] == "code" and c["metadata"].get("papermill", {}).get("start_time")]
    if not begun: return error
    said = ["".join(o.get("text", "")) or "\n".join(o.get("traceback", [])) or "".join(o.get("data", {}).get("text/plain", ""))
            for o in cells[begun[-1]]["outputs"]]
    code = ["    " + line for line in "".join(cells[begun[-1]]["source"]).splitlines()]
    return "\n".join([f"cell {begun[-1] + 1} of {len(cells)}:", *code, error, *ANSI.sub("", "\n".join(said)).splitlines()[-60:]])


def parameters(path: Path, **known: object) -> dict:
    "Those of the known values that the notebook's parameters cell asks for."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    asked = "\n".join("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    return {name: value for name, value in known.items() if re.search(rf"^{name}\s*=", asked, re.M)}


def execute(source: Path, target: Path, tracks: int, cell_s: float, bar: bool = False) -> dict:
    "Execute one notebook in a kernel of its own; the copy with its outputs appears when it is over, passed or not."
    import logging

    import papermill
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would log is in the record
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}")
    draft.unlink(missing_ok=True)
    began, error = time.perf_counter(), ""
    try:
        papermill.execute_notebook(source, draft, parameters(source, tracks=tracks), cwd=source.parent, kernel_name="python3",
                                   execution_timeout=cell_s, progress_bar=bar, extra_arguments=["--log-level=CRITICAL"])
    except Exception as e: error = next((s for s in ANSI.sub("", str(e)).splitlines() if s.strip("- ")), type(e).__name__)
    seconds = time.perf_counter() - began
    if draft.exists(): draft.replace(target)
    record = {"status": "failed" if error else "passed", "seconds": round(seconds, 1), "cached": False, "tracks": tracks,
              "at": datetime.now(UTC).isoformat(timespec="seconds")}
    return record | ({"error": failure(target, error)} if error else {})


@contextmanager
def alone(root: Path) -> Iterator[None]:
    "One book at a time: a second one waits, because they would disturb each other's measurements."
    (root / "_build").mkdir(exist_ok=True)
    with open(root / "_build" / "book.lock", "a") as f:
        try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another scripts/book is running; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


@contextmanager
def servers(home: Path, code: str) -> Iterator[int]:
    "The book's own servers; what other code than today's has put there is thrown away first. Yields the tracks of the profile."
    from rap_analyzer.core import settings
    from rap_analyzer.lab import Lab
    settings.cache_clear()
    lab, note = Lab(home=home), home / "made-by"
    lab.down()
    if not note.exists() or note.read_text() != code: shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    note.write_text(code)
    try:
        lab.up(keep=True)
        yield settings().tracks
    finally:
        lab.close()
        lab.down()


def environment(root: Path, profile: str, jobs: int) -> None:
    "What kernels inherit: this profile, this home, this environment's Python, and nobody's outside database."
    for name in ("DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL"): os.environ.pop(name, None)
    os.environ |= {"RAP_LAB_HOME": str(root / "_build" / "lab" / profile), "RAP_LAB_PROFILE": profile,
                   "RAP_SETTINGS": str(root / "settings.ini"), "JUPYTER_PREFER_ENV_PATH": "1"}
    if "XDG_RUNTIME_DIR" not in os.environ:  # kernels warn where there is none, or one that others may read
        (root / "_build" / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(root / "_build" / "run")
    if jobs > 1: os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def work(todo: list[Path], root: Path, profile: str, tracks: int, jobs: int, cell_s: float) -> Iterator[tuple[Path, dict]]:
    "Execute the notebooks, `jobs` at a time, each in a process of its own; yields each with its record as it ends."
    bar = jobs == 1 and sys.stderr.isatty()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting, running = list(todo), {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    path = waiting.pop(0)
                    print(f"{path.relative_to(root)} ...", file=sys.stderr, flush=True)
                    running[pool.submit(execute, path, executed(root, profile, path), tracks, cell_s, bar)] = path
                for done in wait(running, return_when=FIRST_COMPLETED).done: yield running.pop(done), done.result()
        except BaseException:  # stopped: a kernel ends with the process that started it
            for process in active_children(): process.terminate()
            raise


def table(book: dict[str, dict]) -> str:
    "One line a notebook."
    wide = max(map(len, book))
    said = lambda r: r["status"] + (", not executed again" if r["cached"] else "")
    rows = [f"{name:<{wide}}  {r['seconds']:>7.1f}  {said(r)}" for name, r in book.items()]
    return "\n".join([f"{'notebook':<{wide}}  seconds  status", *rows])


def run(root: Path, profile: str, only: str = "*", jobs: int = 1, force: bool = False, cell_s: float = CELL_S) -> int:
    "Execute what has changed; exit code 1 if a notebook failed, 2 if there is none to execute."
    chosen = notebooks(root, only)
    if not chosen:
        print(f"No notebook is called {only!r}." if only != "*" else "There is no notebook to execute.", file=sys.stderr)
        return 2
    environment(root, profile, jobs)
    with alone(root):
        code, book = code_hash(root, profile), records(root)
        mine = {k: r | {"cached": True} for k, r in book.get(profile, {}).items() if (root / k).exists()}
        hashes = {p: fingerprint(p, code) for p in chosen}
        def fresh(p: Path) -> bool:
            r = mine.get(str(p.relative_to(root)), {})
            return (r.get("status"), r.get("hash")) == ("passed", hashes[p]) and executed(root, profile, p).exists()
        todo = [p for p in chosen if force or not fresh(p)]
        book[profile] = mine
        if todo:
            with servers(Path(os.environ["RAP_LAB_HOME"]), code) as tracks:
                for path, record in work(todo, root, profile, tracks, jobs, cell_s):
                    name = str(path.relative_to(root))
                    mine[name] = record | {"hash": hashes[path]}
                    remember(root, book)
                    if record["status"] == "failed": print(f"\nFAILED {name}, {record['error']}\n", flush=True)
        if only == "*": book["last"] = profile  # what scripts/docs --no-run shows
        remember(root, book)
    shown = {name: mine[name] for name in (str(p.relative_to(root)) for p in chosen)}
    print(table(shown), flush=True)
    return 1 if any(r["status"] == "failed" for r in shown.values()) else 0


def options(about: str) -> argparse.ArgumentParser:
    "The options that scripts/book and scripts/docs share."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository's folder")
    parser.add_argument("--profile", choices=PROFILES, help="full: the course's sizes (default); smoke: small ones")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at a time; more than 1 disturbs measurements")
    parser.add_argument("--cell-s", type=float, default=CELL_S, metavar="S", help=f"seconds a cell may take ({CELL_S})")
    parser.add_argument("--force", action="store_true", help="execute again what has already passed")
    return parser


def guarded(command: Callable[[], int]) -> int:
    "Run a command; what the reader can put right is one sentence, and a signal still stops the servers."
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from rap_analyzer.core import LabError
    try: return command()
    except KeyboardInterrupt: return 130
    except (LabError, OSError) as e:
        print(e, file=sys.stderr)
        return 1


def main() -> int:
    "The command scripts/book."
    parser = options("Execute the chapters and the exercises; what has passed and has not changed is skipped.")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only these, such as '2*' or 'exercises/*'")
    a = parser.parse_args()
    if a.jobs < 1: parser.error("--jobs has to be 1 or more")
    return guarded(lambda: run(a.root.resolve(), a.profile or "full", a.only, a.jobs, a.force, a.cell_s))


if __name__ == "__main__": sys.exit(main())
