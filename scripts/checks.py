"""Every check of `scripts/test` that is not a pytest test. Each prints one line; a failed one prints what it found.

`scripts/checks.py [--root FOLDER] [NAME ...]` runs all of them, or those named, and exits 1 if one failed.
"""
import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import check_notebooks
import client_models
import import_contracts
import readme

from rap_analyzer import book

HAND_WRITTEN = re.compile(r"(^|/)(__init__|__main__|_modidx)\.py$|(^|/)migrations/")  # parts of the package without a notebook


def tool(root: Path, *command: str) -> list[str]:
    "Run a tool of this environment in `root`: nothing if it is content, else what it printed."
    name, *args = command
    done = subprocess.run([str(Path(sys.executable).parent / name), *args], cwd=root, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, encoding="utf-8", errors="replace")
    if done.returncode == 0: return []
    return (done.stdout + done.stderr).strip().splitlines() or [f"{name} ended with exit code {done.returncode}"]


def checkers(root: Path, folder: Path) -> dict[str, str]:
    "Write the checker cell of each exercise into a Python file of its own; the files' names, and what they stand for."
    found = {}
    for path in sorted((root / "exercises" / "solutions").glob("*.ipynb")):
        for c in check_notebooks.cells(path):
            if c.kind != "code" or "checker" not in c.directives: continue
            file = folder / f"{path.stem}_{c.number}.py"
            file.write_text(c.text.rstrip() + "\n", encoding="utf-8")
            found[file.name] = f"{path.relative_to(root)}:cell {c.number}"
    return found


def ruff(root: Path) -> list[str]:
    "Python files and notebooks follow ruff, each with the rules that fit it; a checker follows those of Python files."
    lint = "ruff", "check", "--quiet", "--output-format", "concise"
    found = tool(root, *lint, ".")
    with tempfile.TemporaryDirectory() as tmp:
        names, config = checkers(root, Path(tmp)), root / "pyproject.toml"
        if not names: return found
        given = ["--config", str(config)] if config.exists() else []
        said = tool(Path(tmp), *lint, *given, "--config", "lint.isort.known-first-party=['rap_analyzer']",
                    "--extend-ignore", "B905,B023,SIM114", ".")
    return found + [f"{names.get(file, file)}:{rest}" for file, _, rest in (line.partition(":") for line in said)]


def clean(root: Path) -> list[str]:
    "nbdev-clean would change no notebook (tried on copies; pyproject.toml beside them holds its settings)."
    files = [path for path, _ in check_notebooks.notebooks(root)]
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        shutil.copy(root / "pyproject.toml", copy)
        for f in files:
            (copy / f.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, copy / f.relative_to(root))
        failed = [p for folder in ("nbs", "exercises") if (copy / folder).is_dir()
                  for p in tool(copy, "nbdev-clean", "--fname", folder)]
        return failed or [f"{f.relative_to(root)} is not clean: run nbdev-clean --fname {f.relative_to(root)}" for f in files
                          if f.read_bytes() != (copy / f.relative_to(root)).read_bytes()]


def modules(root: Path) -> dict[str, str]:
    "Every Python file of the package and its hash."
    return {str(p.relative_to(root)): sha256(p.read_bytes()).hexdigest() for p in (root / "rap_analyzer").rglob("*.py")}


def export(root: Path) -> list[str]:
    "Exporting the notebooks changes no module. The new text stays in the tree, so that it can be looked at and committed."
    before = modules(root)
    failed = tool(root, "nbdev-export")
    after = modules(root)
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    return failed or [f"{name} was not what its notebook exports (it is now: look at the difference)" for name in changed]


def owners(root: Path) -> list[str]:
    "Every module has its notebook and every notebook its module."
    promised = {f"rap_analyzer/{name.replace('.', '/')}.py" for name in book.modules(root)}
    there = {name for name in modules(root) if not HAND_WRITTEN.search(name)}
    return ([f"{name} belongs to no notebook: delete it, or give it one" for name in sorted(there - promised)]
            + [f"{name} is promised by a notebook and missing" for name in sorted(promised - there)])


def imports(root: Path) -> list[str]:
    "Imports follow the order of the book, by contracts that are made from it."
    with tempfile.NamedTemporaryFile("w", suffix=".ini", encoding="utf-8") as file:
        file.write(import_contracts.text(root))
        file.flush()
        said = tool(root, "lint-imports", "--no-cache", "--config", file.name)
    analyzed = next((i for i, line in enumerate(said) if line.startswith("Analyzed ")), -1)  # below its banner
    return [line for line in said[analyzed + 1:] if line.strip("- ") and not line.endswith(" KEPT")]


def compose(root: Path) -> list[str]:
    "The compose file follows the compose specification and its services wait for services that exist."
    file = root / "docker-compose.yml"
    if not file.exists(): return ["docker-compose.yml is missing"]
    import yaml
    from check_jsonschema.cli import main as validate
    from click.testing import CliRunner
    said = CliRunner().invoke(validate, ["--builtin-schema", "vendor.compose-spec", str(file)])
    if said.exit_code: return said.output.replace(str(file), file.name).splitlines()
    services = yaml.safe_load(file.read_text(encoding="utf-8")).get("services") or {}
    return [f"docker-compose.yml: {name} depends on {other}, which is not a service"
            for name, service in services.items() for other in service.get("depends_on") or () if other not in services]


def exercises(root: Path) -> list[str]:
    "Exercises have their form, keep their numbers, and the learner's copies are what the solution notebooks make."
    if not (root / "exercises" / "solutions").is_dir(): return []
    from rap_analyzer.core import LabError
    from rap_analyzer.learn.verification import form
    try: return form(root / "exercises") + homeless(root)
    except LabError as e: return [str(e)]


def homeless(root: Path) -> list[str]:
    "Each exercise belongs to a notebook of the book."
    file = root / "exercises" / "ids.toml"
    ids = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() and (root / book.FILE).exists() else {}
    listed = {e for n in book.read(root).notebooks for e in n.exercises} if ids else set()
    return [f"exercise {id} belongs to no notebook: add it to one in {book.FILE}" for id, name in ids.items()
            if name and id not in listed]


CHECKS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "ruff": ("Python style", ruff),
    "clean": ("notebooks are clean", clean),
    "export": ("modules are what the notebooks export", export),
    "owners": ("modules and notebooks match", owners),
    "imports": ("imports follow the order of the book", imports),
    "notebooks": ("notebook style", check_notebooks.problems),
    "readme": ("README's chapters", readme.problems),
    "sdk": ("the client's models are what the schema gives", client_models.problems),
    "exercises": ("exercises", exercises),
    "compose": ("compose file", compose),
}


def run(root: Path, names: list[str]) -> int:
    "Run the checks, say how each went; the number of failed ones."
    failed = 0
    for name in names:
        label, check = CHECKS[name]
        began = time.perf_counter()
        found = check(root)
        print(f"{'FAILED' if found else 'ok':<7}{label} ({name}, {time.perf_counter() - began:.1f} s)", flush=True)
        for line in found: print(f"       {line}", flush=True)
        failed += bool(found)
        if name == "notebooks":
            with contextlib.suppress(ValueError, KeyError, TypeError):
                for line in check_notebooks.notes(root): print(f"       {line}", flush=True)
    return failed


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository's folder")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(CHECKS)}; all when left out")
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in CHECKS]
    if unknown: parser.error(f"no check is called {unknown[0]}; there are {', '.join(CHECKS)}")
    try: failed = run(args.root.resolve(), args.names or list(CHECKS))
    except KeyboardInterrupt: return 130
    if failed: print(f"{failed} of {len(args.names or CHECKS)} checks failed; pytest was not started.", flush=True)
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
