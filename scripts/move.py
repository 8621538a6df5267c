"""Move or rename notebooks and mend every link that leads to or from them: `scripts/move.py OLD NEW [OLD NEW ...]`.

Links in Markdown files and notebooks are rewritten, `nbs/book.toml` gets the new name, and
git sees a rename. A notebook whose place in the reading order changes needs none of this: edit `nbs/book.toml`.
"""
import argparse
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

LINK = re.compile(r"(\]\(\s*<?)([^)\s>#\\]+)([^)\n]*\))")


def tracked(root: Path) -> list[str]:
    "The Markdown files and notebooks of the project, as git knows them."
    asked = ["git", "ls-files", "-z", "*.md", "*.ipynb"]
    return [n for n in subprocess.run(asked, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0") if n]


def moved(name: str, moves: dict[str, str]) -> str:
    "The new path of a file, or its old one."
    return moves.get(name, name)


def mended(text: str, name: str, moves: dict[str, str], root: Path) -> str:
    "A file's text after the moves: each relative link still leads to the same file."
    old, new = PurePosixPath(name).parent, PurePosixPath(moved(name, moves)).parent
    def swap(m: re.Match) -> str:
        if re.match(r"[a-z][a-z0-9+.-]*:|/", m[2], re.I): return m[0]
        there = os.path.normpath(old / unquote(m[2]))
        if (old == new and there not in moves) or not (root / there).exists(): return m[0]  # code may look like a link
        return m[1] + os.path.relpath(moved(there, moves), new) + "/" * m[2].endswith("/") + m[3]
    return LINK.sub(swap, text)


def move(root: Path, moves: dict[str, str]) -> None:
    "Move the files and mend the links; nothing is written if a source is missing or a target exists."
    if gone := [o for o in moves if not (root / o).exists()]: raise SystemExit(f"there is no {gone[0]}")
    if taken := [n for n in moves.values() if (root / n).exists()]: raise SystemExit(f"{taken[0]} exists already")
    texts = {name: (root / name).read_text(encoding="utf-8") for name in tracked(root)}
    texts = {name: new for name, text in texts.items() if (new := mended(text, name, moves, root)) != text}
    for old, new in moves.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "mv", old, new], cwd=root, check=True)
    for name, text in texts.items(): (root / moved(name, moves)).write_text(text, encoding="utf-8")
    for old, new in moves.items(): listed(root / "nbs" / "book.toml", PurePosixPath(old), PurePosixPath(new))


def listed(book: Path, old: PurePosixPath, new: PurePosixPath) -> None:
    "Rename a notebook in `book.toml`; one that changes its chapter is moved there by hand: `scripts/checks.py notebooks` says so."
    said, name = book.read_text(encoding="utf-8"), lambda p: p.as_posix().removeprefix("nbs/").removesuffix(".ipynb")
    chapters = said.split("[[chapter]]")
    if old.parent == new.parent:
        folder = f'folder = "{old.parent.name}"\n'
        chapters = [c.replace(f'{{file = "{old.stem}"', f'{{file = "{new.stem}"') if folder in c else c for c in chapters]
    book.write_text("[[chapter]]".join(chapters).replace(f'"{name(old)}"', f'"{name(new)}"'), encoding="utf-8")


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository's folder")
    parser.add_argument("paths", nargs="+", metavar="OLD NEW", help="paths below the repository's folder")
    a = parser.parse_args()
    if len(a.paths) % 2: parser.error("give pairs: OLD NEW")
    move(a.root.resolve(), dict(zip(a.paths[::2], a.paths[1::2], strict=True)))
    return 0


if __name__ == "__main__": sys.exit(main())
