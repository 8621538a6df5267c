"""Execute the chapters and the exercises with papermill, in a lab of their own, and remember what passed.

`scripts/book [--profile smoke|full] [--only GLOB] [--changed] [--jobs N] [--force]` puts the executed notebooks into
_build/book/<profile>/ and what became of each into _build/book.json. The servers and the recorded runs live in _build/lab/, so a
learner's own `work/` is never touched. A notebook that passed is executed again when its text, a module it rests on, a migration,
the lock file or the settings change. On the full profile, ratios that moved away from the committed reference runs are named.
"""
import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha256
from multiprocessing import active_children, get_context
from multiprocessing.queues import Queue
from pathlib import Path

import _proof

from rap_analyzer.core import LabError
from rap_analyzer.disk import locked, write_whole

ROOT = Path(__file__).resolve().parent.parent
PROFILES = "full", "smoke"
CELL_S = 120  # no cell may take longer
USUAL_S = 8  # a notebook, where none has been timed
OURS = {"RAP_LAB_HOME", "RAP_LAB_PROFILE", "RAP_PYTHON", "RAP_SETTINGS"}  # set here, or without influence on results
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def notebooks(root: Path, only: str = "*") -> list[Path]:
    """The notebooks of the book in reading order, or those whose name, stem or path fits.

    Solutions are `exercises/solutions/*` only, since `learn verify` runs each of them as a learner's answer.
    """
    from rap_analyzer import book
    found = [root / n.path for n in book.read(root).notebooks]
    found += sorted(root.glob("exercises/*.ipynb"))
    if "solutions" in only: found += sorted(root.glob("exercises/solutions/[0-9][0-9]_*.ipynb"))
    def names(p: Path) -> tuple[str, ...]:
        at = p.relative_to(root)
        return p.name, p.stem, at.as_posix(), *(q.removeprefix("nbs/") for q in (at.as_posix(), at.with_suffix("").as_posix()))
    return [p for p in found if any(fnmatch(name, only) for name in names(p))]


def environment_hash(root: Path, profile: str) -> str:
    "A fingerprint of what all results depend on: migrations, locked versions, settings, Python."
    given = sorted((k, v) for k, v in os.environ.items() if k.startswith("RAP_") and k not in OURS)
    known = sha256(repr((profile, sys.version_info[:3], given)).encode())
    for path in sorted(root.glob("rap_analyzer/migrations/**/*.py")) + [root / "requirements.lock", root / "settings.ini"]:
        if path.exists(): known.update(str(path.relative_to(root)).encode() + sha256(path.read_bytes()).digest())
    return known.hexdigest()


def named(source: str, package: str) -> set[str]:
    "The modules of the package that a text of Python imports anywhere, also inside functions; `package` is where it stands."
    found = set()
    try: tree = ast.parse(source)
    except SyntaxError: return {"*"}  # not plain Python: it may use anything
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Constant) and node.value == "rap_analyzer.cli": found.add("*")  # it may use anything
    return {f for f in found if f == "*" or f.partition(".")[0] == "rap_analyzer"}


class Ground:
    "What results rest on: the package's modules and who imports whom, migrations, locked versions, settings, Python."
    def __init__(self, root: Path, profile: str):
        self.base = environment_hash(root, profile)
        files = {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p
                 for p in root.glob("rap_analyzer/**/*.py") if "migrations" not in p.parts and p.name != "_modidx.py"}
        self.data = {p.name: sha256(p.read_bytes()).digest() for p in sorted(root.glob("rap_analyzer/**/*"))
                     if p.is_file() and p.suffix not in (".py", ".pyc")}  # weights and tables
        texts = {name: p.read_bytes() for name, p in files.items()}
        self.code = {name: text + self.read_by(text) for name, text in texts.items()}
        self.imports = {name: named(text.decode(), name if files[name].stem == "__init__" else name.rpartition(".")[0]) - {name}
                        for name, text in texts.items()}

    def read_by(self, text: bytes) -> bytes:
        "The fingerprints of the weights and tables that a text names."
        return b"".join(digest for name, digest in self.data.items() if name.encode() in text)

    def under(self, start: set[str]) -> set[str]:
        "These modules and all that they rest on; everything for `*`."
        done, todo = set(), set(self.code) if "*" in start else start & set(self.code)
        while todo:
            done.add(name := todo.pop())
            todo |= (set(self.code) if "*" in self.imports[name] else self.imports[name] & set(self.code)) - done
        return done

    def of(self, names: set[str]) -> str:
        "A fingerprint of the ground under these modules."
        known = sha256(self.base.encode())
        for name in sorted(self.under(names)): known.update(name.encode() + sha256(self.code[name]).digest())
        return known.hexdigest()


def fingerprint(path: Path, ground: Ground) -> str:
    "A fingerprint of one notebook's result: its own text, its checker's (if it is an exercise), and everything under it."
    twin, used = path.parent / "solutions" / path.name, {"rap_analyzer.display"}  # each kernel puts figures into words with it
    texts = [p.read_bytes() for p in (path, twin) if p.exists()]
    for text in texts:
        for c in json.loads(text)["cells"]:
            lines = "".join(c["source"]).splitlines() if c["cell_type"] == "code" else []
            used |= named("\n".join(x for x in lines if x.lstrip()[:1] not in ("%", "!")), "")
    return sha256(ground.of(used).encode() + b"".join(text + ground.read_by(text) for text in texts)).hexdigest()


def records(root: Path) -> dict:
    "What _build/book.json says: `last` names a profile, and each profile has a record for each notebook."
    try: return json.loads((root / "_build" / "book.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError): return {}


def remember(root: Path, book: dict) -> None:
    "Write _build/book.json, whole or not at all."
    write_whole(root / "_build" / "book.json", json.dumps(book, indent=1) + "\n")


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
    lines = ANSI.sub("", "\n".join(said)).splitlines()[-60:]
    return "\n".join([f"cell {begun[-1] + 1} of {len(cells)}:", *code, error, *map(short, lines)])


def short(line: str, most: int = 500) -> str:
    "A line that does not drown the others: its beginning and its end."
    return line if len(line) <= most else f"{line[:most - 100]} ... ({len(line):,} characters) ... {line[-60:]}"


def typed(path: Path) -> str:
    "The first output of an executed notebook that shows Markdown as it was typed: its page would be refused by the site."
    for n, c in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        for o in c.get("outputs", []):
            for said in _proof.raw_markdown("".join(o.get("data", {}).get("text/html", ""))): return f"cell {n} {said}"
    return ""


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
                                   execution_timeout=cell_s, progress_bar=bar, extra_arguments=["--log-level=CRITICAL"],
                                   kernel_manager_class="_kernels.Manager")
    except Exception as e: error = next((s for s in ANSI.sub("", str(e)).splitlines() if s.strip("- ")), type(e).__name__)
    seconds = time.perf_counter() - began
    if draft.exists(): draft.replace(target)
    record = {"status": "failed" if error else "passed", "seconds": round(seconds, 1), "cached": False, "tracks": tracks,
              "at": datetime.now(UTC).isoformat(timespec="seconds")}
    if error: return record | {"error": failure(target, error)}
    return record | {"status": "failed", "error": left} if (left := typed(target)) else record


@contextmanager
def alone(root: Path) -> Iterator[None]:
    "One book at a time: a second one waits, because they would disturb each other's measurements."
    (root / "_build").mkdir(exist_ok=True)
    lock = root / "_build" / "book.lock"
    with ExitStack() as stack:
        try: stack.enter_context(locked(lock, 0))
        except LabError:
            print("another scripts/book is running; waiting for it", file=sys.stderr, flush=True)
            stack.enter_context(locked(lock, -1))
        yield


def homes(root: Path, profile: str, jobs: int) -> list[Path]:
    "A lab for each worker: what one of them drops or measures does not disturb the others."
    return [root / "_build" / "lab" / (profile if n == 0 else f"{profile}-{n + 1}") for n in range(jobs)]


@contextmanager
def servers(folders: list[Path], code: str) -> Iterator[int]:
    "The book's own servers, with the catalog and its index; data that other code has made is thrown away first. Yields the size."
    from rap_analyzer.core import settings
    from rap_analyzer.lab import Lab
    from rap_analyzer.search.index import build
    from rap_analyzer.search.store import Store, fill, migrate
    settings.cache_clear()
    labs = [Lab(home=home) for home in folders]
    for lab, home in zip(labs, folders, strict=True):
        lab.down()
        note = home / "made-by"
        if not note.exists() or note.read_text() != code: shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        note.write_text(code)
    try:
        for lab in labs:
            migrate(lab.up(keep=True))
            build("hnsw_halfvec", fill(store := Store(lab)))
            store.forget()
        yield settings().tracks
    finally:
        for lab in labs: lab.close(), lab.down()


def environment(root: Path, profile: str, jobs: int) -> None:
    "What kernels inherit: this profile, this home, this environment's Python, and nobody's outside database."
    for name in ("DATABASE_URL", "DATABASE_ADMIN_URL", "DATABASE_REPLICA_URL", "REDIS_URL"): os.environ.pop(name, None)
    os.environ |= {"RAP_LAB_HOME": str(root / "_build" / "lab" / profile), "RAP_LAB_PROFILE": profile,
                   "RAP_SETTINGS": str(root / "settings.ini"), "JUPYTER_PREFER_ENV_PATH": "1"}
    if "XDG_RUNTIME_DIR" not in os.environ:  # kernels warn where there is none, or one that others may read
        (root / "_build" / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(root / "_build" / "run")
    if jobs > 1: os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def take_home(free: Queue, notebooks: int) -> None:
    "Called once in each worker: the lab that its kernels use, and how many of them there will be."
    import _kernels
    os.environ["RAP_LAB_HOME"] = str(free.get(timeout=60))
    _kernels.preload(notebooks)


def work(todo: list[Path], root: Path, profile: str, tracks: int, jobs: int, cell_s: float) -> Iterator[tuple[Path, dict]]:
    "Execute the notebooks, `jobs` at a time, each in a process of its own; yields each with its record as it ends."
    bar = jobs == 1 and sys.stderr.isatty()
    context = get_context("spawn")
    free = context.Queue()
    for home in homes(root, profile, jobs): free.put(home)
    with ProcessPoolExecutor(jobs, context, take_home, (free, len(todo) // jobs)) as pool:
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


def interval(run: dict) -> tuple[float, float]:
    "Where a recorded ratio may lie: its own interval, or half as much again on both sides where there is none."
    low, high = run["values"].get("low"), run["values"].get("high")
    return (low, high) if low is not None and high is not None else (run["p50"] / 1.5, run["p50"] * 1.5)


def moved(root: Path, folders: list[Path]) -> list[str]:
    "The ratios of exercises/results that this book's newest runs of the same parameters do not confirm."
    found = []
    for file in sorted((root / "exercises" / "results").glob("*.json")):
        then = json.loads(file.read_text(encoding="utf-8"))
        runs = [r for home in folders for r in (home / "runs" / then["key"]).glob("*.json")]
        if then["unit"] != "x" or not runs: continue
        now = json.loads(max(runs, key=lambda r: r.name).read_text(encoding="utf-8"))
        (a, b), (c, d) = interval(then), interval(now)
        if then["params"] == now["params"] and (b < c or d < a):
            said = lambda run, low, high: f"{run['p50']:.3g} x ({low:.3g} to {high:.3g})"
            found.append(f"moved: {then['key']} was {said(then, a, b)}, is {said(now, c, d)}")
    return found


def edited(root: Path) -> set[Path]:
    "The notebooks whose text differs from the last commit."
    asked = ["git", "-C", str(root), "status", "--porcelain", "-z", "--untracked-files=all", "--", "nbs", "exercises"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
    return {root / line[3:] for line in said.split("\0") if line.endswith(".ipynb")}


def expected(todo: list[Path], root: Path, known: dict[str, dict], jobs: int) -> str:
    "How long executing these will take, by their last times; a notebook that has none counts as long as the others did."
    from rap_analyzer.book import duration
    times = [r["seconds"] for r in known.values() if "seconds" in r]
    usual = sum(times) / len(times) if times else USUAL_S
    seconds = sum(known.get(str(p.relative_to(root)), {}).get("seconds", usual) for p in todo) / jobs
    return duration(max(1, round(seconds / 60))) + ("" if times else " on two cores")


def run(root: Path, profile: str, only: str = "*", jobs: int | None = None, force: bool = False, cell_s: float = CELL_S,
        changed: bool = False) -> int:
    "Execute what has changed; exit code 1 if a notebook failed, 2 if there is none to execute."
    chosen, jobs = notebooks(root, only), jobs or (3 if profile == "smoke" else 1)
    if changed and not (chosen := [p for p in chosen if p in edited(root)]):
        print("No notebook differs from the last commit.")
        return 0
    if not chosen:
        print(f"No notebook is called {only!r}." if only != "*" else "There is no notebook to execute.", file=sys.stderr)
        return 2
    environment(root, profile, jobs)
    with alone(root):
        ground, book = Ground(root, profile), records(root)
        mine = {k: r | {"cached": True} for k, r in book.get(profile, {}).items() if (root / k).exists()}
        hashes = {p: fingerprint(p, ground) for p in chosen}
        def fresh(p: Path) -> bool:
            r = mine.get(str(p.relative_to(root)), {})
            return (r.get("status"), r.get("hash")) == ("passed", hashes[p]) and executed(root, profile, p).exists()
        todo = [p for p in chosen if force or not fresh(p)]
        jobs = min(jobs, len(todo)) or 1
        book[profile] = mine
        if todo:
            print(f"{len(todo)} notebooks to execute: {expected(todo, root, mine, jobs)}", file=sys.stderr, flush=True)
            with servers(homes(root, profile, jobs), ground.of({"*"})) as tracks:
                for path, record in work(todo, root, profile, tracks, jobs, cell_s):
                    name = str(path.relative_to(root))
                    mine[name] = record | {"hash": hashes[path]}
                    remember(root, book)
                    if record["status"] == "failed": print(f"\nFAILED {name}, {record['error']}\n", flush=True)
        if only == "*" and not changed: book["last"] = profile  # what scripts/docs --no-run shows
        remember(root, book)
    if profile == "full":
        for line in moved(root, homes(root, profile, jobs)): print(line)
    shown = {name: mine[name] for name in (str(p.relative_to(root)) for p in chosen)}
    print(table(shown), flush=True)
    return 1 if any(r["status"] == "failed" for r in shown.values()) else 0


def options(about: str) -> argparse.ArgumentParser:
    "The options that scripts/book and scripts/docs share."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository's folder")
    parser.add_argument("--profile", choices=PROFILES, help="full: the course's sizes (default); smoke: small ones")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time, each with servers of its own; more "
                        "than 1 disturbs measurements (default: 1; smoke: 3, since many wait)")
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
    parser.add_argument("--only", default="*", metavar="GLOB", help="only these, such as 'performance/*' or 'exercises/*'")
    parser.add_argument("--changed", action="store_true", help="only those whose text differs from the last commit")
    a = parser.parse_args()
    if a.jobs is not None and a.jobs < 1: parser.error("--jobs has to be 1 or more")
    return guarded(lambda: run(a.root.resolve(), a.profile or "full", a.only, a.jobs, a.force, a.cell_s, a.changed))


if __name__ == "__main__": sys.exit(main())
