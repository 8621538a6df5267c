"""The site's home page: nbs/home.md, with what the executed notebooks gave in the place of its marks.

`{{guess NOTEBOOK KEY QUESTION}}` is the form of a guess that a notebook asks for. `{{result NOTEBOOK CODE}}` is the result of the
first cell that holds that code; `{{result NOTEBOOK CODE KEY}}` waits for the guess. Each mark stands on a line of its own.
"""
import json
import re
from collections.abc import Callable
from pathlib import Path

import _guess

PAGE = "nbs/home.md"
MARK = re.compile(r"^\{\{(guess|result) (\S+) (.+)\}\}[ \t]*$", re.M)
Cells = list[dict]


def text(cell: dict) -> str:
    "The source of a cell."
    return "".join(cell["source"])


def asked(cells: Cells, key: str, where: str) -> _guess.Ask:
    "The guess that a notebook asks for under a key. SystemExit: it does not."
    sources = [text(c) if c["cell_type"] == "code" else "" for c in cells]
    for ask in _guess.asks(sources):
        if ask.key == key: return ask
    raise SystemExit(f"{PAGE}: {where} asks for no guess called {key}")


def outputs(cells: Cells, code: str, where: str) -> list[dict]:
    "The outputs of the first cell that holds this code. SystemExit: there is none."
    for c in cells:
        if c["cell_type"] == "code" and code in text(c) and c.get("outputs"): return c["outputs"]
    raise SystemExit(f"{PAGE}: no cell of {where} holds {code!r} and has a result")


def assemble(
    page: str,  # the text of nbs/home.md
    executed: Callable[[str], Cells],  # the cells of an executed notebook, by its name without nbs/ and .ipynb
    form: Callable[[_guess.Ask, str, Cells], Cells],  # a guess and its question, as cells
    result: Callable[[list[dict], str], Cells],  # outputs, and the key that they wait for or "", as cells
    prose: Callable[[str], Cells],  # Markdown, as cells
) -> Cells:
    "The cells of the home page."
    found, at = [], 0
    for m in MARK.finditer(page):
        found += prose(page[at:m.start()])
        at, kind, where, rest = m.end(), m[1], m[2], m[3]
        cells = executed(where)
        if kind == "guess":
            key, _, question = rest.partition(" ")
            found += form(asked(cells, key, where), question, cells)
        else:
            code, key = rest, ""
            if waits := re.fullmatch(r"(.+) (\w+\.[\w.]+)", rest): code, key = waits.groups()
            found += result(outputs(cells, code, where), key)
    return found + prose(page[at:])


def read(path: Path) -> Cells:
    "The cells of a notebook file."
    return json.loads(path.read_text(encoding="utf-8"))["cells"]
