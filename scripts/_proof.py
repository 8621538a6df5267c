"""Proofread a rendered page: nothing above a guess may give it away, and no Markdown may be left as it was typed.

A guess is given away by its figure in the text, a table or an output above its form, by an output that belongs to its result, or
by a paragraph that is marked as its outcome (`<!-- outcome: key -->`, see `_guess.OUTCOME`).
"""
import re
from collections.abc import Iterator
from html.parser import HTMLParser

NUMBER = re.compile(r"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?(?![\w/-]*\d)(?P<percent>\s?%)?")
RAW = re.compile(r"(?<![\w*])\*\*[\w`(][^*]*\*\*|\]\(\S|(?<![\w`])`[^`\s][^`]*`(?![\w`])|^#{1,6} \w|<!--")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
SILENT = {"script", "style", "head", "svg", "nav"}  # no prose of the page


class Page(HTMLParser):
    "A page in reading order: `said` holds texts, forms and results as (kind, text or keys, truth)."

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.said: list[tuple[str, str, float]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = {k: v or "" for k, v in attrs}
        classes = given.get("class", "").split()
        if tag == "form" and "guess" in classes:
            self.said.append(("form", given["data-key"], float(given.get("data-truth") or "nan")))
        if tag == "details" and "measured" in classes: self.said.append(("result", given.get("data-keys", ""), 0))
        if tag not in VOID: self.open.append((tag, given.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        while tag not in VOID and any(t == tag for t, _ in self.open):
            if self.open.pop()[0] == tag: break

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.open}
        if tags & SILENT or not data.strip(): return
        source = any("sourceCode" in c for _, c in self.open)
        if source: return
        self.said.append(("code" if tags & {"code", "pre", "math", "textarea"} else "text", data, 0))


def figures(text: str) -> Iterator[tuple[str, float, float]]:
    "The numbers of a text that three digits or more make recognisable: as written, their value, and half of their last place."
    for m in NUMBER.finditer(text):
        written = m[0].rstrip("% \u00a0").rstrip(",")
        digits = written.replace(",", "")
        known = digits.replace(".", "").lstrip("0")
        if len(known if "." in digits else known.rstrip("0")) < 3: continue
        if float(digits) in (1, 100): continue  # of a whole: no news
        if text[:m.start()].endswith("at most "): continue  # a bound, which a result may meet by chance
        scale = 0.01 if m["percent"] else 1
        yield m[0], float(digits) * scale, scale * 0.5 * 10 ** -len(digits.partition(".")[2])


def given_away(text: str) -> Iterator[str]:
    "What a page tells of a guess before it asks for it."
    said = Page(text).said
    for i, (kind, key, truth) in enumerate(said):
        if kind != "form": continue
        for what, words, _ in said[:i]:
            if what == "result":
                if key in words.split(): yield f"shows a result of {key} above its question"
            elif what != "form":
                for written, value, half in figures(words):
                    if abs(value - truth) <= half * 1.000001:
                        yield f"gives {key} away above its question: {written} in {' '.join(words.split())[:80]!r}"


def raw_markdown(text: str) -> Iterator[str]:
    "Markdown that a reader would see as it was typed."
    for kind, words, _ in Page(text).said:
        found = kind == "text" and RAW.search(words)
        if found: yield f"shows Markdown as it was typed: {' '.join(words[max(0, found.start() - 30):found.end() + 30].split())!r}"
