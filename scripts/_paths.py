"""The order of nbs/book.toml as the site shows it: a Start page, and at the foot of each page what comes before and after it."""
import ast
import html
import json
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rap_analyzer.book import CHOICE, WHOSE, ReadingPath, duration

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


def share_out(total: int, needs: list[int]) -> list[int]:
    "A path's minutes, divided among its pages in proportion to what each needs; they add up, and no page has less than one."
    exact = [total * n / sum(needs) for n in needs]
    found = [max(1, round(x)) for x in exact]
    while sum(found) != total:  # the page that rounding has moved furthest gives way
        step = 1 if sum(found) < total else -1
        i = max((i for i, m in enumerate(found) if m + step >= 1), key=lambda i: step * (exact[i] - found[i]))
        found[i] += step
    return found


def choice(trails: list[ReadingPath]) -> list[str]:
    "The paths that have a problem, each as one sentence that leads to it."
    answers = [f"- {t.problem} [{t.title.removeprefix('Weekend: ')}](#{t.name})" for t in trails if t.problem]
    how = (f"{WHOSE} Each answer is a path of its own: `rap-analyzer learn path uber`. A giant runs on your own songs, too, once "
           "they are in: `rap-analyzer ingest FOLDER`.")
    return [f"## {CHOICE} {{#choice}}", "", how, "", *answers, ""]


def start(trails: list[ReadingPath], titles: dict[str, str], topics: dict[str, str] | None = None,
          minutes: dict[str, int] | None = None) -> str:
    """The Start page, as Markdown: each page of a path by its topic and its question. A path takes as long as readers needed;
    `minutes`, what each page needs by itself, says how that is shared out. The choice stands above the paths to choose from."""
    topics = topics or {}
    named = lambda p: f"**{topics[p]}**: " if p in topics else ""
    lines = ["# Where do I start?", "> The ways through the course, and how long each takes.", ""]
    for t in trails:
        if t.problem and t == next(x for x in trails if x.problem): lines += choice(trails)
        about = f" {t.about}" if t.about else ""
        known = minutes and all(p in minutes for p in t.pages)
        takes = share_out(t.minutes, [minutes[p] for p in t.pages]) if known else []
        also = [f" ({duration(m)})" for m in takes] or [""] * len(t.pages)
        lines += [f"##{'#' * bool(t.problem)} {t.title} {{#{t.name}}}", "", f"{duration(t.minutes).capitalize()}.{about}", ""]
        pages = enumerate(zip(t.pages, also, strict=True), 1)
        lines += [*(f"{n}. {named(p)}[{titles[p]}]({p}){more}" for n, (p, more) in pages), ""]
    return "\n".join(lines)


def label(page: str, titles: dict[str, str], topics: dict[str, str]) -> str:
    "How a link names a page: by its topic, and by its title where it has none."
    return re.sub(r"[`*]", "", topics.get(page) or titles[page]).strip()


def trail(at: str, path: ReadingPath, link: Callable[[str, str], str]) -> str:
    "Where a page stands on a path, in one sentence."
    name = link(f"{START}#{path.name}", html.escape(path.title))
    end = ", which ends here" if at == path.pages[-1] else ""
    return f"Page {path.pages.index(at) + 1} of {len(path.pages)} on the path {name}{end}."


def foot(at: str, order: list[str], trails: list[ReadingPath], titles: dict[str, str], topics: dict[str, str]) -> str:
    """The end of a page, as HTML, which the search does not read: the reading paths it is on, then the pages before and after it in
    the order of the book. Where a path goes on elsewhere, its link is hidden; site.js shows it to those who follow that path."""
    if at not in order: return ""
    def link(page: str, text: str, more: str = "") -> str:
        file, _, place = page.partition("#")
        to = os.path.relpath(PurePosixPath(file).with_suffix(".html"), PurePosixPath(at).parent) + (place and f"#{place}")
        return f'<a href="{to}"{more}>{text}</a>'
    def named(page: str) -> str: return html.escape(label(page, titles, topics))
    i, mine = order.index(at), [t for t in trails if at in t.pages]
    following = order[i + 1] if i + 1 < len(order) else ""
    lines = [f'<p class="trail">{trail(at, t, link)}</p>' for t in mine]
    ways = [link(order[i - 1], f"← {named(order[i - 1])}", ' class="before"')] if i else []
    ways += [link(following, f"{named(following)} →", ' class="after"')] if following else []
    for t in mine:
        then = next(iter(t.pages[t.pages.index(at) + 1:]), following)
        if then != following: ways.append(link(then, f"{named(then)} →", f' class="after" data-path="{t.name}" hidden'))
    return "\n".join([*lines, f'<nav class="onward" aria-label="Pages">{" ".join(ways)}</nav>'])
