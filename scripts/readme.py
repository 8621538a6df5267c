"""The chapters in README.md, as nbs/book.toml lists them: `scripts/readme.py` rewrites what lies between the two marks.

A notebook that is added, moved or renamed changes nothing here; a chapter does. `scripts/checks.py readme` names a list that is out
of date.
"""
import argparse
import re
import sys
from pathlib import Path

from rap_analyzer import book

BEGIN, END = "<!-- chapters: made by scripts/readme.py -->", "<!-- /chapters -->"
BLOCK = re.compile(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", re.S)


def chapters(root: Path) -> str:
    "The chapters of the book as a tree: folder, title and what each is about."
    rows = []
    for c in book.read(root).chapters:
        rows += [(f"{c.folder}/", f"{c.title}: {c.about}")] if c.folder != "." else [(n.name, c.about) for n in c.notebooks]
    tree = [f"  {name:<18} {about}" for name, about in rows]
    return "\n".join(["```text", "nbs/                 the notebooks: the source of everything in rap_analyzer/", *tree, "```", ""])


def written(root: Path, text: str) -> str | None:
    "README.md with today's chapters; None without the two marks."
    return BLOCK.sub(lambda m: f"{BEGIN}\n{chapters(root)}{END}", text) if BLOCK.search(text) else None


def problems(root: Path) -> list[str]:
    "What is wrong with the list in README.md, in one sentence."
    file = root / "README.md"
    if not file.exists(): return []
    now = written(root, text := file.read_text(encoding="utf-8"))
    if now is None: return [f"README.md has no chapters between {BEGIN} and {END}"]
    return [] if now == text else ["README.md lists other chapters than nbs/book.toml: run .venv/bin/python scripts/readme.py"]


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository's folder")
    file = (root := parser.parse_args().root) / "README.md"
    now = written(root, file.read_text(encoding="utf-8"))
    if now is None: sys.exit(f"README.md has no chapters between {BEGIN} and {END}")
    file.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__": sys.exit(main())
