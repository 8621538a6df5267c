"""Write .importlinter from the notebooks' numbers: imports point to smaller numbers only.

A module may import what comes from notebooks with smaller numbers; each module gets a contract that forbids all the others.
SEAMS adds the few packages that only named modules may touch. `--check` compares with the committed file instead of writing.
"""
import argparse
import re
import sys
from pathlib import Path

PACKAGE = "rap_analyzer"
SEAMS = {  # an outside package: the only modules that import it themselves
    "psycopg": ("lab", "search.store"),
    "psycopg_pool": ("lab", "search.store"),
    "fastapi": ("platform.api",),
}
HEAD = """\
# Written by scripts/import_contracts.py from the numbers of the notebooks; do not edit.
[importlinter]
root_package = {package}
include_external_packages = True
"""
CONTRACT = """
[importlinter:contract:{slug}]
name = {name}
type = forbidden
source_modules =
{sources}
forbidden_modules =
{forbidden}
"""


def module(notebook: str) -> str:
    "The module that a notebook's file name promises: 20_search_store -> search.store, 02_ledger -> ledger."
    return re.sub(r"^\d\d_", "", Path(notebook).stem).replace("_", ".", 1)


def numbered(nbs: Path) -> list[tuple[str, str]]:
    "(number, module) of every numbered notebook, in order; ValueError where two share a number."
    found = sorted((p.name[:2], module(p.name)) for p in nbs.glob("[0-9][0-9]_*.ipynb"))
    for (a, one), (b, two) in zip(found, found[1:], strict=False):
        if a == b: raise ValueError(f"nbs: {one} and {two} both have number {a}; imports need an order")
    return found


def contract(slug: str, name: str, sources: list[str], forbidden: list[str], extra: str = "") -> str:
    "One section of the file."
    lines = ["\n".join(f"    {m}" for m in modules) for modules in (sources, forbidden)]
    return CONTRACT.format(slug=slug, name=name, sources=lines[0], forbidden=lines[1]) + extra


def text(nbs: Path) -> str:
    "The whole file for a folder of notebooks."
    order = [(number, f"{PACKAGE}.{name}") for number, name in numbered(nbs)]
    out = HEAD.format(package=PACKAGE)
    for i, (number, name) in enumerate(order[:-1]):
        out += contract(f"{number}", f"{name} imports smaller numbers only", [name], [m for _, m in order[i + 1:]])
    for outside, owners in SEAMS.items():
        others = [m for _, m in order if m.removeprefix(PACKAGE + ".") not in owners]
        if others:
            name = f"only {' and '.join(owners)} import {outside}"
            out += contract(outside, name, others, [outside], "allow_indirect_imports = True\n")
    return out


def problems(root: Path) -> list[str]:
    "What is wrong with the committed file."
    file = root / ".importlinter"
    try: wanted = text(root / "nbs")
    except ValueError as e: return [str(e)]
    if file.exists() and file.read_text(encoding="utf-8") == wanted: return []
    return [".importlinter does not follow from the notebooks' numbers: run scripts/import_contracts.py and commit the file"]


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository's folder")
    args = parser.parse_args()
    if not args.check:
        try: (args.root / ".importlinter").write_text(text(args.root / "nbs"), encoding="utf-8")
        except ValueError as e:
            print(e)
            return 1
        return 0
    found = problems(args.root)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__": sys.exit(main())
