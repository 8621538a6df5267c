"""The reading paths of nbs/paths.toml as the site shows them: a Start page, and at the foot of a chapter where its paths go on.

Each `[[path]]` has a name, a title, minutes, and `notebooks` in reading order, by name, stem or path.
"""
import ast
import json
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FILE = "nbs/paths.toml"
START = "start.md"
FIELDS = {"name": str, "title": str, "minutes": int, "notebooks": list}


@dataclass(frozen=True)
class Trail:
    "One reading path: its name, its title, how long it takes, and its pages in order."
    name: str
    title: str
    minutes: int
    pages: tuple[str, ...]
    about: str = ""


def page(said: str, pages: list[str]) -> str | None:
    "The page that a notebook's name, stem or path stands for."
    return next((p for p in pages if said in (p, PurePosixPath(p).name, PurePosixPath(p).stem, p.removesuffix(".ipynb"))), None)


def read(root: Path, pages: list[str]) -> tuple[list[Trail], list[str]]:
    "The paths of a project, without the notebooks that are no page, and what is wrong with the file."
    file, wrong, trails = root / FILE, [], []
    if not file.exists(): return [], []
    try: told = tomllib.loads(file.read_text(encoding="utf-8")).get("path", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e: return [], [f"{FILE}: {e}"]
    for n, p in enumerate(told, 1):
        lacks = [k for k, kind in FIELDS.items() if not isinstance(p.get(k), kind)]
        if lacks:
            wrong.append(f"{FILE}: path {n} needs name and title (texts), minutes (a whole number) and notebooks (a list); "
                         f"look at {', '.join(lacks)}")
            continue
        found = {said: page(str(said), pages) for said in map(str, p["notebooks"])}
        wrong += [f"{FILE}: path {p['name']} names {said}, which is no page of the site" for said, at in found.items() if not at]
        trails.append(Trail(p["name"], p["title"], p["minutes"], tuple(at for at in found.values() if at), str(p.get("about", ""))))
    return trails, wrong


def lasts(minutes: int) -> str:
    "A duration in words."
    if minutes < 90: return f"about {minutes} minute{'s' * (minutes != 1)}"
    return f"about {minutes / 60:.1f} hours".replace(".0", "")


def needs(path: Path, run_s: float) -> int:
    """How many minutes a notebook takes a reader: 180 words a minute, five seconds for each line of code that is shown, the
    seconds it ran, and, for an exercise, the minutes its author states."""
    words, lines, stated = 0, 0, 0
    twin = path.parent / "solutions" / path.name
    for file in (path, twin):
        for c in json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else ():
            text = "".join(c["source"])
            if found := re.search(r"^minutes\s*=\s*(\d+)", text, re.M) if "#| exercise" in text else None:
                stated = ast.literal_eval(found[1])
            if file == twin: continue
            if c["cell_type"] == "markdown": words += len(re.findall(r"\w+", text))
            elif "#| export" not in text and "#| hide" not in text: lines += len(text.splitlines())
    return max(1, round(words / 180 + lines / 12 + run_s / 60 + stated))


def start(trails: list[Trail], titles: dict[str, str], note: str = "", minutes: dict[str, int] | None = None) -> str:
    "The Start page, as Markdown; `minutes` says how long each page takes."
    also = lambda p: f" ({lasts(minutes[p])})" if minutes and p in minutes else ""
    lines = ["# Where do I start?", "> The ways through the course, and how long each takes.", "", note, ""]
    for t in trails:
        about = f" {t.about}" if t.about else ""
        lines += [f"## {t.title} {{#{t.name}}}", "", f"{lasts(t.minutes).capitalize()}.{about}", ""]
        lines += [f"{n}. [{titles[p]}]({p}){also(p)}" for n, p in enumerate(t.pages, 1)] + [""]
    return "\n".join(lines)


def foot(at: str, trails: list[Trail], titles: dict[str, str]) -> str:
    "Where each path goes from this page, as Markdown; empty for a page on no path."
    to = lambda target: os.path.relpath(target, PurePosixPath(at).parent)
    lines = []
    for t in trails:
        if at not in t.pages: continue
        i = t.pages.index(at)
        before = f"[← {titles[t.pages[i - 1]]}]({to(t.pages[i - 1])}){{.before}}" if i else ""
        after = f"[{titles[t.pages[i + 1]]} →]({to(t.pages[i + 1])}){{.after}}" if i + 1 < len(t.pages) else ""
        place = f"[{t.title}]({to(START)}#{t.name}), {i + 1} of {len(t.pages)}"
        lines.append(f"::: {{.trail}}\n{place}\n\n{before} {after}\n:::")
    return "\n\n".join(lines)
