"""The order of nbs/book.toml as the site shows it: a Start page, and at the foot of each page what comes before and after it."""
import ast
import html
import json
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rap_analyzer.book import ReadingPath, duration

START = "start.md"


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


def start(trails: list[ReadingPath], titles: dict[str, str], topics: dict[str, str] | None = None,
          minutes: dict[str, int] | None = None) -> str:
    "The Start page, as Markdown: each page of a path by its topic and its question; `minutes` says how long each page takes."
    topics = topics or {}
    also = lambda p: f" ({duration(minutes[p])})" if minutes and p in minutes else ""
    named = lambda p: f"**{topics[p]}**: " if p in topics else ""
    lines = ["# Where do I start?", "> The ways through the course, and how long each takes.", ""]
    for t in trails:
        about = f" {t.about}" if t.about else ""
        lines += [f"## {t.title} {{#{t.name}}}", "", f"{duration(t.minutes).capitalize()}.{about}", ""]
        lines += [f"{n}. {named(p)}[{titles[p]}]({p}){also(p)}" for n, p in enumerate(t.pages, 1)] + [""]
    return "\n".join(lines)


def label(page: str, titles: dict[str, str], topics: dict[str, str]) -> str:
    "How a link names a page: by its topic, and by its title where it has none."
    return re.sub(r"[`*]", "", topics.get(page) or titles[page]).strip()


def trail(at: str, path: ReadingPath, following: str, link: Callable[[str, str], str]) -> str:
    "Where a path goes from this page, in one sentence."
    i = path.pages.index(at)
    said = f"Page {i + 1} of {len(path.pages)} on the path {link(f'{START}#{path.name}', html.escape(path.title))}"
    if i + 1 == len(path.pages): return f"{said}, which ends here."
    then = path.pages[i + 1]
    return f"{said}." if then == following else f"{said}, which goes on with {link(then, '')}."


def foot(at: str, order: list[str], trails: list[ReadingPath], titles: dict[str, str], topics: dict[str, str]) -> str:
    """The end of a page, as HTML, which the search does not read: the reading paths it is on, then the pages before and after it in
    the order of the book."""
    if at not in order: return ""
    def link(page: str, text: str, kind: str = "") -> str:
        file, _, place = page.partition("#")
        to = os.path.relpath(PurePosixPath(file).with_suffix(".html"), PurePosixPath(at).parent) + (place and f"#{place}")
        shown, marked = text or html.escape(label(page, titles, topics)), f' class="{kind}"' if kind else ""
        return f'<a href="{to}"{marked}>{shown}</a>'
    i = order.index(at)
    following = order[i + 1] if i + 1 < len(order) else ""
    lines = [f'<p class="trail">{trail(at, t, following, link)}</p>' for t in trails if at in t.pages]
    before = link(order[i - 1], f"← {html.escape(label(order[i - 1], titles, topics))}", "before") if i else ""
    after = link(following, f"{html.escape(label(following, titles, topics))} →", "after") if following else ""
    return "\n".join([*lines, f'<nav class="onward" aria-label="Pages">{before} {after}</nav>'])
