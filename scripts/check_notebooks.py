"""Hold the notebooks to the house style: titles ask, export cells stay small, nothing that a run could produce is typed.

`scripts/check_notebooks.py [--root FOLDER]` prints one line for each problem and exits 1 if there is any. A figure in prose
that no run of this project can produce stays with a reason: `<!-- figure: the source's own claim -->` in the same cell.
"""
import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import _guess

from rap_analyzer import book

CELL_LINES, DEFINITIONS, FUNCTION_LINES, WIDTH = 25, 3, 45, 132
UNIT = r"(?:ms|µs|us|s|sec|seconds?|(?:rows|tracks|req|requests|queries)/s|rps|qps|[x×](?!\s*\d))"
FIGURE = re.compile(rf"(?<![\w.])\d[\d,.]*\s?{UNIT}(?![\w/])", re.I)
NOT_FIGURES = re.compile(r"\$[^$\n]+\$|\]\([^)]*\)|\b(?:1[89]|20)?\d0s\b")  # formulas, link targets, decades
REASON = re.compile(r"<!--\s*figure:\s*(.*?)\s*-->", re.S)
DIRECTIVE = re.compile(r"^#\|\s*(\w+)[ \t]*(.*)$", re.M)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
BUILT = re.compile(r"^## How it is built[ \t]*$", re.M)  # what follows is about the library, not the lesson
Found = Iterator[str]


class Cell:
    "One cell: its place in the notebook (from 1), its kind, its text and its directives."

    def __init__(self, number: int, raw: dict):
        self.number, self.raw, self.kind = number, raw, raw["cell_type"]
        self.text = "".join(raw["source"])
        self.directives = dict(DIRECTIVE.findall(self.text)) if self.kind == "code" else {}

    @property
    def exported(self) -> bool: return "export" in self.directives or "exporti" in self.directives

    def prose(self) -> str:
        "A markdown cell without its fenced blocks, in which `#` and `](` mean something else."
        return re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", self.text, flags=re.M | re.S)


def cells(path: Path) -> list[Cell]:
    "The cells of a notebook file."
    return [Cell(i, c) for i, c in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1)]


def title(nb: list[Cell]) -> Found:
    "The first cell is the only H1, and it asks."
    head = nb[0].text.partition("\n")[0].rstrip() if nb and nb[0].kind == "markdown" else ""
    if not re.match(r"# \S.*\?$", head): yield "cell 1: the title has to ask: `# ...?` on the first line of the first cell"
    for c in nb:
        if c.kind != "markdown": continue
        extra = len(re.findall(r"^# ", c.prose(), re.M)) - (c.number == 1)
        if extra > 0: yield f"cell {c.number}: a second H1; sections begin with `## `"


def closing(nb: list[Cell]) -> Found:
    """After the last export of the lesson comes a section, with something in it, that says what was learned. `## How it is built`
    ends the lesson: it stands below *What changed in your head*, says in a sentence what is found there, and runs to the end."""
    built = next((c for c in nb if c.kind == "markdown" and BUILT.search(c.prose())), None)
    cut = built.number if built else len(nb) + 1
    last = max((c.number for c in nb if c.exported and c.number < cut), default=0)
    after = [c.prose() for c in nb if c.kind == "markdown" and last < c.number < cut]
    if built: after.append(BUILT.split(built.prose())[0])
    name = "What changed in your head" if built else r"\S[^\n]*"
    if not re.search(rf"^## {name}\n+(?!#)\s*\S", "\n\n".join(after), re.M):
        yield ("no closing section: `## What changed in your head` has to stand above `## How it is built`, with something in it"
               if built else "no closing section: after the last export cell a `## ` section has to say what was learned")
    if not built: return
    said = BUILT.split(built.prose())[1]
    if not re.match(r"\s*(?!#)\S", said):
        yield f"cell {cut}: `## How it is built` has to say in a sentence what is found there"
    for c in [x for x in nb if x.kind == "markdown" and x.number >= cut]:
        inside = said if c is built else c.prose()
        for extra in re.findall(r"^## .*", inside, re.M):
            yield f"cell {c.number}: `{extra}` below `## How it is built`, which runs to the end: make it `###`"


def owner(nb: list[Cell], path: Path) -> Found:
    "The file's name promises a module; the first code cell keeps the promise, once."
    named = re.fullmatch(r"\d\d_([a-z][a-z0-9_]*)\.ipynb", path.name)
    if not named:
        yield "the file's name has to be NN_module.ipynb"
        return
    owners = [c for c in nb if "default_exp" in c.directives]
    first = next((c for c in nb if c.kind == "code"), None)
    if [c.number for c in owners] != ([first.number] if first else [0]):
        yield "exactly one `#| default_exp`, in the first code cell, is needed"
    for c in owners:
        said = c.directives["default_exp"].strip()
        if said.rpartition(".")[2] != named[1]:
            yield f"cell {c.number}: default_exp is {said}, the file's name says {named[1]}"


def stored(nb: list[Cell]) -> Found:
    "No results are committed."
    for c in nb:
        if c.raw.get("outputs"): yield f"cell {c.number}: has outputs; run nbdev-clean"
        elif c.raw.get("execution_count") is not None: yield f"cell {c.number}: has an execution count; run nbdev-clean"


def widths(nb: list[Cell]) -> Found:
    "Code fits a page."
    for c in nb:
        if c.kind != "code": continue
        for i, line in enumerate(c.text.splitlines(), 1):
            if len(line) > WIDTH: yield f"cell {c.number}: line {i} has {len(line)} characters, at most {WIDTH} fit"


def directives(nb: list[Cell]) -> Found:
    "A directive below code is silently ignored by nbdev."
    for c in nb:
        if c.kind != "code": continue
        code_seen = False
        for line in c.text.splitlines():
            if DIRECTIVE.match(line) and code_seen: yield f"cell {c.number}: `{line.strip()}` stands below code and is ignored"
            elif line.strip() and not line.lstrip().startswith(("#", "%")): code_seen = True


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Def]]:
    "Top-level classes and functions and the methods of the classes, with their dotted names."
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, Def): continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef): yield from functions(node, prefix + node.name + ".")


def annotations(name: str, f: ast.FunctionDef | ast.AsyncFunctionDef) -> Found:
    "What of a signature is not annotated."
    decorators = {d.id for d in f.decorator_list if isinstance(d, ast.Name)}
    args = [*f.args.posonlyargs, *f.args.args]
    if "." in name and "staticmethod" not in decorators: args = args[1:]
    args += [*f.args.kwonlyargs, *filter(None, (f.args.vararg, f.args.kwarg))]
    bare = [a.arg for a in args if a.annotation is None]
    if bare: yield f"{name}: no annotation on {', '.join(bare)}"
    if f.returns is None and f.name != "__init__": yield f"{name}: no annotation on what it returns"


def exports(nb: list[Cell]) -> Found:
    "Export cells are short, and what they define is annotated and documented."
    for c in nb:
        if not c.exported: continue
        at, code = f"cell {c.number}: ", "\n".join(line for line in c.text.splitlines() if not DIRECTIVE.match(line))
        lines = sum(bool(line.strip()) for line in code.splitlines())
        if lines > CELL_LINES: yield f"{at}{lines} lines in an export cell, at most {CELL_LINES}"
        try: tree = ast.parse(code)
        except SyntaxError as e:
            yield f"{at}does not parse: {e.msg}"
            continue
        defined = sum(isinstance(n, Def) for n in tree.body)
        if defined > DEFINITIONS: yield f"{at}{defined} definitions in an export cell, at most {DEFINITIONS}"
        for name, node in functions(tree):
            public = not any(part.startswith("_") for part in name.split("."))
            if public and not ast.get_docstring(node): yield f"{at}{name} has no docstring"
            if isinstance(node, ast.ClassDef): continue
            long = node.end_lineno - node.lineno + 1
            if long > FUNCTION_LINES: yield f"{at}{name} has {long} lines, at most {FUNCTION_LINES}"
            for problem in annotations(name, node): yield at + problem


def typed_figures(nb: list[Cell]) -> Found:
    "Measured figures come from runs, not from the keyboard."
    for c in nb:
        if c.kind != "markdown": continue
        found = [m.group() for m in FIGURE.finditer(NOT_FIGURES.sub(" ", REASON.sub(" ", c.text)))]
        reasons = REASON.findall(c.text)
        if found and not any(reasons): yield f"cell {c.number}: figures typed into prose: {', '.join(found)}; use say()"
        if reasons and not (found and all(reasons)):
            yield f"cell {c.number}: a figure comment needs both a figure in its cell and a reason"


def allowed_figures(nb: list[Cell]) -> Found:
    "The figures that stay, with their reasons: printed, not counted as problems."
    for c in nb:
        if c.kind == "markdown":
            for reason in filter(None, REASON.findall(c.text)): yield f"cell {c.number}: figure kept: {reason}"


def links(nb: list[Cell], path: Path) -> Found:
    "Every relative link leads to a file."
    for c in nb:
        if c.kind != "markdown": continue
        for target in LINK.findall(c.prose()):
            if re.match(r"[a-z][a-z0-9+.-]*:|#", target, re.I): continue
            if not (path.parent / unquote(target.partition("#")[0])).exists():
                yield f"cell {c.number}: the link to {target} leads nowhere"


def onward(nb: list[Cell]) -> Found:
    "What comes next stands in book.toml alone."
    for c in nb:
        if c.kind == "markdown" and re.search(r"^Next: ", c.prose(), re.M):
            yield f"cell {c.number}: `Next:` would be wrong when a notebook is inserted; the site derives it from book.toml"


def guesses(nb: list[Cell]) -> Found:
    "Nothing above a guess tells how it went, and every guess can become a form."
    sources = [c.text if c.kind == "code" else "## " * bool(re.search("^##+ ", c.text, re.M)) for c in nb]
    for a in _guess.asks(sources):
        for c in [c for c in nb[:a.cell] if not c.exported]:
            said = _guess.outcomes(c.text) if c.kind == "markdown" else [a.key] * (f'"{a.key}"' in c.text or f"{{{a.key}" in c.text)
            if a.key in said: yield f"cell {c.number}: tells how {a.key} went; its question comes in cell {a.cell + 1}"
    for c in nb:
        if c.kind == "code" and not c.exported:
            for call in _guess.unread(c.text): yield f"cell {c.number}: the site makes no form of `{call}`: write its scale out"


def unshown(nb: list[Cell]) -> Found:
    "A notebook shows the last expression of a cell: a sentence or a comparison before it is lost."
    for c in nb:
        if c.kind != "code" or c.exported: continue
        try: body = ast.parse(c.text).body
        except SyntaxError: continue                                          # a magic
        blocks = [s for n in body if isinstance(n, ast.With | ast.For | ast.If | ast.Try) for s in ast.walk(n)]
        for n in [*body[:-1], *blocks]:
            if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call):
                called = ast.unparse(n.value.func)
                if called == "say" or called.endswith(".against_prediction"):
                    yield f"cell {c.number}: nobody sees {called.rpartition('.')[2]}(...) unless it ends the cell"


def foretold(notebooks: dict[str, list[Cell]]) -> Found:
    "No notebook tells the outcome of a guess that one after it asks for; they come in reading order."
    asked = {a.key: (i, name) for i, (name, nb) in enumerate(notebooks.items())
             for a in _guess.asks([c.text if c.kind == "code" else "" for c in nb])}
    for i, (name, nb) in enumerate(notebooks.items()):
        for c in nb:
            for key in _guess.outcomes(c.text) if c.kind == "markdown" else ():
                if key not in asked: yield f"{name} cell {c.number}: the outcome of {key}, which is asked nowhere"
                elif asked[key][0] > i: yield f"{name} cell {c.number}: tells how {key} went, which {asked[key][1]} asks later"


def check(path: Path, chapter: bool = True) -> list[str]:
    "The problems of one notebook; exercises (`chapter=False`) own no module and close as they like."
    try: nb = cells(path)
    except (ValueError, KeyError, TypeError): return ["is not a notebook"]
    found = [*title(nb), *stored(nb), *widths(nb), *directives(nb), *typed_figures(nb), *links(nb, path), *onward(nb),
             *guesses(nb), *unshown(nb)]
    if chapter: found += [*owner(nb, path), *exports(nb), *closing(nb)]
    return found


def notebooks(root: Path) -> Iterator[tuple[Path, bool]]:
    "Every notebook of the project, and whether it is a chapter."
    for path in sorted(root.glob("nbs/**/*.ipynb")) + sorted(root.glob("exercises/**/*.ipynb")):
        if not any(part.startswith((".", "_")) for part in path.relative_to(root).parts):
            yield path, path.relative_to(root).parts[0] == "nbs" and path.name not in ("index.ipynb", "START.ipynb")


def problems(root: Path) -> list[str]:
    "The problems of all notebooks; having none to look at is one."
    all_of_them = list(notebooks(root))
    if not all_of_them: return ["nbs: no notebooks found"]
    listed = list(book.problems(root)) if (root / "nbs").is_dir() else []
    found = listed + [f"{path.relative_to(root)} {p}" for path, chapter in all_of_them for p in check(path, chapter)]
    return found or list(foretold(reading_order(root)))


def reading_order(root: Path) -> dict[str, list[Cell]]:
    "The cells of every page, the book's notebooks first."
    names = [p.relative_to(root).as_posix() for p, _ in notebooks(root) if "solutions" not in p.parts]
    listed = [n.path for n in book.read(root).notebooks] if (root / "nbs").is_dir() else []
    return {name: cells(root / name) for name in dict.fromkeys([*listed, *names])}


def notes(root: Path) -> list[str]:
    "The figures that are kept on purpose."
    return [f"{path.relative_to(root)} {note}" for path, _ in notebooks(root) for note in allowed_figures(cells(path))]


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository's folder")
    root, found = (r := parser.parse_args().root), problems(r)
    for line in found or notes(root): print(line)
    return 1 if found else 0


if __name__ == "__main__": sys.exit(main())
