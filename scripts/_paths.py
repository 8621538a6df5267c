"""The reading paths of nbs/book.toml as the site shows them: a Start page, and at the foot of a chapter where its paths go on."""
import ast
import json
import os
import re
from pathlib import Path, PurePosixPath

from rap_analyzer.book import ReadingPath

START = "start.md"


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


def start(trails: list[ReadingPath], titles: dict[str, str], note: str = "", minutes: dict[str, int] | None = None) -> str:
    "The Start page, as Markdown; `minutes` says how long each page takes."
    also = lambda p: f" ({lasts(minutes[p])})" if minutes and p in minutes else ""
    lines = ["# Where do I start?", "> The ways through the course, and how long each takes.", "", note, ""]
    for t in trails:
        about = f" {t.about}" if t.about else ""
        lines += [f"## {t.title} {{#{t.name}}}", "", f"{lasts(t.minutes).capitalize()}.{about}", ""]
        lines += [f"{n}. [{titles[p]}]({p}){also(p)}" for n, p in enumerate(t.pages, 1)] + [""]
    return "\n".join(lines)


def foot(at: str, trails: list[ReadingPath], titles: dict[str, str]) -> str:
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
