"""Make the docs site in _build/site: executed notebooks, decisions and the project's own pages, rendered by smalldocs.

`scripts/docs [--profile smoke|full] [--no-run]` executes the book first (see scripts/book); `--no-run` takes the last execution.
Three steps: `stage` turns every page into what the renderer reads (_build/pages), `render` makes the HTML, and `problems` reads
that HTML: nothing may be loaded from elsewhere, and every link and anchor has to lead somewhere. The renderer is smalldocs;
`--renderer quarto` takes Quarto. Maths and diagrams are drawn by `_marks`, the forms for guesses by `_guess`, the reference by
`_api_pages`, the reading paths and the way on by `_paths`; what moves on a page is in nbs/site.js.
"""
import ast
import contextlib
import html
import json
import posixpath
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag

import _api_pages
import _book
import _guess
import _home
import _marks
import _paths
import _proof
import yaml

from rap_analyzer.book import Book, title_of
from rap_analyzer.book import problems as problems_of_book
from rap_analyzer.book import read as read_book

CODE = re.compile(r"(?P<code>^(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^(?P=fence)[^\n]*$"
                  r"|(?P<tick>`+)[^`](?:(?!\n\n).)*?(?P=tick))", re.M | re.S)
LINK = re.compile(r"(?<!\\)!?\[(?P<label>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^)\s]+)\)")
EITHER = re.compile(f"{LINK.pattern}|{CODE.pattern}|{_marks.MATHS}", re.M | re.S)  # what stands in code is no link and no maths
SUMMARY, OUTCOME = "Show what this machine measured", "Show what follows from it"
HOME, README = "index.ipynb", "install.md"  # where nbs/home.md is; without it the README is the home page
BUILT = re.compile(r"^## How it is built[ \t]*$", re.M)  # from here on, a chapter is about the library


# ---- one page

def plain(text: str, most: int = 160) -> str:
    "The first paragraph of a Markdown text, without its marks: what search engines and readers' bookmarks show."
    body = re.sub(r"<!--.*?-->|^[#>|][^\n]*$", "", CODE.sub(lambda m: m[0] if m["tick"] else "", text), flags=re.M | re.S)
    first = next((p for p in re.split(r"\n\s*\n", body) if re.search(r"\w{3}", p)), "")
    words = re.sub(r"\s+", " ", re.sub(r"[*_`]", "", LINK.sub(r"\g<label>", first))).strip(" -")
    return words if len(words) <= most else words[:most].rpartition(" ")[0] + " ..."


def heading(text: str) -> tuple[dict, str]:
    "The title (`# ...`) and the subtitle (`> ...`) of a page as front matter, and the text without them."
    found = re.match(r"\s*(?:<!--[^>]*-->\s*)?# (.+)\n*((?:> ?.*\n?)*)", text)
    title, said = (found[1].strip(), re.sub(r"^> ?", "", found[2], flags=re.M).strip()) if found else ("", "")
    front = {"title": title, "description": " ".join(said.split())}
    return {k: v for k, v in front.items() if v}, text[found.end():] if found else text


def front_matter(front: dict, text: str, name: str) -> str:
    "Front matter with a title and a description, whatever the page brought along; one without a subtitle keeps it out of sight."
    front = {"title": name, **front}
    if "description" not in front:
        about = html.escape(plain(text) or front["title"])
        front["include-in-header"] = {"text": f'<meta name="description" content="{about}">'}
    return f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False)}---\n"


@dataclass
class Where:
    "Where a text stands: its page, the project, the files that pages lead to, and the names that its backticks may mean."
    page: PurePosixPath
    root: Path
    files: set[str] = field(default_factory=set)
    names: _api_pages.Names | None = None
    known: frozenset[str] = frozenset()  # what is defined or imported there
    own: str = ""  # the reference page of its module
    diagrams: int = 0

    def up(self, to: str) -> str:
        "The way to another page of the site."
        return "../" * len(self.page.parent.parts) + to


def prose(text: str, where: Where) -> str:
    """Markdown as the site needs it: a README is its folder's index, links to folders without one become text, maths and diagrams
    are drawn, names of the package lead to the reference; files that links and pictures lead to are collected in `where.files`."""
    def lead(target: str) -> Path | None:
        if re.match(r"[a-z][a-z0-9+.-]*:|#", target, re.I): return None
        path = Path(where.root, where.page.parent, unquote(target.partition("#")[0])).resolve()
        if not path.is_relative_to(where.root): return None
        if path.is_file() and path.suffix not in (".md", ".ipynb"): where.files.add(path.relative_to(where.root).as_posix())
        return path
    def code(m: re.Match, in_label: bool) -> str:
        if m["fence"]:
            where.diagrams += 1
            return _marks.diagram(m[0], where.diagrams) or m[0]
        line = text[text.rfind("\n", 0, m.start()) + 1:m.start()] if not in_label else "#"
        place = where.names and not line.startswith("#") and where.names.find(m[0].strip("`").strip(), where.known, where.own)
        return f"[{m[0]}]({where.up(place)})" if place else m[0]
    def swap(m: re.Match, in_label: bool = False) -> str:
        if m["code"]: return code(m, in_label)
        if m["block"] or m["tex"]: return _marks.maths(m["block"] or m["tex"], bool(m["block"]))
        path, label = lead(m["to"]), EITHER.sub(lambda x: swap(x, True), m["label"])  # the label may hold a picture
        if path and path.is_dir() and not (path / "README.md").exists(): return label
        own = README if path == where.root / "README.md" and (where.root / _home.PAGE).exists() else "index.md"
        to = m["to"].replace("README.md", own) if path and path.name == "README.md" else m["to"]
        return m[0].replace(m["label"], label).replace(m["to"], to)
    for source in re.findall(r'<(?:img|source)\b[^>]*\bsrc(?:set)?="([^"]+)"', text): lead(source)
    return EITHER.sub(swap, text)


# ---- one notebook

def still(widgets: dict, ref: str) -> str:
    "A widget as it stood when the notebook was executed: its HTML, its pictures' labels, its controls with their values."
    state = widgets.get(ref.removeprefix("IPY_MODEL_"), {}).get("state", {})
    if "children" in state: return "".join(still(widgets, child) for child in state["children"])
    value, steps = state.get("value"), state.get("_options_labels")
    if state.get("_model_name") == "HTMLModel": return f"<div>{value}</div>"
    if steps and state.get("index") is not None: value = steps[state["index"]]
    name = html.escape(str(state.get("description") or ""))
    return f"<div>{name} {html.escape(str(value))}</div>" if value not in (None, "") else ""


def fixed(output: dict, widgets: dict) -> dict:
    "An output that a page can show: a widget becomes a picture of itself with a note."
    view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
    if not view: return output
    shown = f'<div class="widget">{still(widgets, view["model_id"])}<p>It moves in JupyterLab; here it stands still.</p></div>'
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": shown}}


def pictured(output: dict, source: str = "") -> dict:
    """A picture with its alternative text: what its cell says (`#| fig-alt: ...`), else what the figure says of itself (see
    `display.describe_figure`). The renderer would leave it without."""
    data = output.get("data", {})
    kind = next((k for k in ("image/png", "image/jpeg") if k in data), None)
    if not kind or "text/html" in data or "image/svg+xml" in data: return output
    given, itself = re.search(r"^#\|\s*fig-alt:\s*(.+)$", source, re.M), "".join(data.get("text/plain", ""))
    said, drawn = given[1].strip() if given else itself, "".join("".join(data[kind]).split())
    image = f'<img class="img-fluid" alt="{html.escape(said)}" src="data:{kind};base64,{drawn}">'
    return output | {"data": {"text/html": image}}


def drawn(cell: dict) -> bool:
    "Whether a cell shows a picture, be it inside HTML; the outline of a sound in its player is none."
    found = [o.get("data", {}) for o in cell.get("outputs", ())]
    return any(kind.startswith("image/") or kind == "text/html" and re.search(r"^(?!.*<audio).*<(img|svg)\b", "".join(said), re.S)
               for data in found for kind, said in data.items())


def told(output: dict, where: Where) -> dict:
    "An output in which Markdown, such as that of `say`, is treated like the page's own prose."
    data = output.get("data", {})
    if "text/markdown" not in data: return output
    return output | {"data": data | {"text/markdown": prose("".join(data["text/markdown"]), where)}}


def look(source: str, has_outputs: bool, module: str, after_code: bool = True) -> str:
    """How a cell's code is shown: what the package gets can be folded away; mere imports are folded, and so are tests beside other
    code. A test that follows prose is what the prose speaks of, and stays open."""
    fold = lambda how, said: f"#| code-fold: {how}\n#| code-summary: {said}\n"
    with contextlib.suppress(SyntaxError):
        if all(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.parse(source).body): return fold("true", "Imports")
    if re.search(r"^#\|\s*exporti?\b", source, re.M): return fold("show", f"goes into {module}")
    tests = re.search(r"^(test_\w+\(|assert\b|with expect_fail)", source, re.M)
    return fold("true", "Tests") if tests and after_code and not has_outputs else ""


def known(sources: list[str]) -> frozenset[str]:
    "The names that a notebook imports or defines."
    found = [n for s in sources for n in _guess.nodes(s)]
    imported = {a.asname or a.name for n in found if isinstance(n, ast.ImportFrom) for a in n.names}
    return frozenset(imported | {n.name for n in found if isinstance(n, _api_pages.Function | ast.ClassDef)}
                     | {name for s in sources for name in _guess.assigned(s) if name.isupper()})


def worded(kinds: list[str], texts: list[str], asked: list[_guess.Ask]) -> dict[_guess.Ask, str]:
    "Each guess with its question: those of the prose above it, in order, where one text asks for several."
    above = {a: max((i for i in range(a.cell) if kinds[i] == "markdown"), default=None) for a in asked}
    found = {}
    for at in set(above.values()):
        mine = [a for a in asked if above[a] == at]
        found |= zip(mine, _guess.questions(texts[at] if at is not None else "", len(mine)), strict=True)
    return found


def md(text: str) -> dict:
    "A cell of Markdown."
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def measured(keys: str, summary: str, cells: list[dict]) -> list[dict]:
    "Cells that wait for the reader's guess."
    fold = f'<details class="measured" data-keys="{keys}"><summary>{summary}</summary>'
    return [md(_marks.raw(fold)), *cells, md(_marks.raw("</details>"))]


def folded(cells: list[dict], module: str) -> list[dict]:
    """What follows the first paragraphs of *How it is built* in one `<details>`. The fenced div keeps the renderer from wrapping
    the headings inside it into sections, which would end beyond the `</details>`."""
    at = next((i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and BUILT.search(c["source"])), None)
    if at is None: return cells
    text = cells[at]["source"]
    begin = BUILT.search(text).end()
    cut = next((m.start() for m in re.finditer(r"^#{2,6} ", text, re.M) if m.start() > begin), len(text))
    summary = f"<summary>Show how <code>{module}</code> is built</summary>"
    inside = [md(text[cut:]), *cells[at + 1:]]
    return [*cells[:at], {**cells[at], "source": text[:cut]}, md(_marks.raw(f'<details class="built">{summary}')),
            md(":::::::::: {.built-cells}"), *inside, md("::::::::::"), md(_marks.raw("</details>"))]


def chapter(nb: dict, where: Where, note: str = "", foot: str = "") -> dict:
    """An executed notebook as a page: front matter, house directives turned into folds, results behind the reader's guess, the
    library behind the lesson."""
    text = lambda c: "".join(c["source"])
    widgets = nb["metadata"].get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    cells = nb["cells"]
    sources = [text(c) if c["cell_type"] == "code" else "## " * bool(re.search("^##+ ", text(c), re.M)) for c in cells]
    asked = _guess.asks(sources)
    hidden = _guess.spoilers(sources, asked)
    for n in (n for n, c in enumerate(cells) if n not in hidden and drawn(c)):  # its code does not tell what a picture gives away
        if (above := {a.key for a in asked if a.cell < n}) and all(a.cell != n for a in asked): hidden[n] = above
    module = next((m[1] for c in cells if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", text(c), re.M))), "")
    where.known = known([s for s in sources if s != "## "])
    where.own = f"reference/{module.replace('.', '_')}.md"
    front, rest = heading(text(cells[0])) if cells and cells[0]["cell_type"] == "markdown" else ({}, "")
    pages = [{"cell_type": "raw", "metadata": {}, "source": ""}, md(prose(rest, where))]
    legends = worded([c["cell_type"] for c in cells], [text(c) for c in cells], asked)
    for n, c in enumerate(cells[1 if front else 0:], 1 if front else 0):
        if c["cell_type"] != "code":
            for key, said in _guess.parts(text(c), {a.key for a in asked}):
                part = [{**c, "source": prose(said, where)}]
                pages += measured(key, OUTCOME, part) if key else part
            continue
        if re.search(r"^#\|\s*hide\b", text(c), re.M): continue
        code = re.sub(r"^#\|.*\n?", "", text(c), flags=re.M).strip("\n")
        outputs = [told(pictured(fixed(o, widgets), text(c)), where) for o in c["outputs"]]
        after_code = n > 0 and cells[n - 1]["cell_type"] == "code"
        if any(a.end == n for a in asked): outputs = [_guess.unasked(o) for o in outputs]
        begin = look(text(c), bool(outputs), f"rap_analyzer.{module}", after_code)
        cell = {"cell_type": "code", "metadata": {}, "source": begin + code}
        if not code: continue
        truth = lambda a: _guess.measured(_guess.spoken(cells[a.end]["outputs"]), a.key)
        forms = [md(_marks.raw(_guess.form(a, legends[a], truth(a)))) for a in asked if a.cell == n]
        if n in hidden and outputs and _guess.calls(text(c), "say"):  # the sentence stands in the code, too
            pages += measured(" ".join(sorted(hidden[n])), SUMMARY, [cell | {"outputs": outputs}])
        elif n in hidden and outputs:
            shown = cell | {"outputs": outputs, "metadata": {"tags": ["remove-input"]}, "source": code}
            pages += [cell | {"outputs": []}, *measured(" ".join(sorted(hidden[n])), SUMMARY, [shown])]
        elif forms: pages += [cell | {"outputs": []}, *forms]  # in place of the words that say how to guess without a form
        else: pages.append(cell | {"outputs": outputs})
    first = rest + "\n\n" + "\n\n".join(text(c) for c in cells[1:] if c["cell_type"] == "markdown")
    pages = folded(pages, f"rap_analyzer.{module}")
    pages[0]["source"] = front_matter(front, first, where.page.stem.replace("_", " "))
    pages += [md(_marks.raw(end)) for end in (note and f'<p class="executed">{html.escape(note)}</p>', foot) if end]
    return {"cells": pages, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4, "nbformat_minor": 5}


# ---- all pages

def provenance(record: dict, profile: str) -> str:
    "When and how a notebook was executed, in one line."
    at = date.fromisoformat(record["at"][:10])
    return (f"Executed on {at.day} {at:%B %Y} in {record['seconds']:.0f} s, with {record['tracks']:,} synthetic tracks "
            f"(profile {profile}). Your machine will say something else: run it.")


def sidebar(config: dict, titles: dict[str, str], book: Book) -> list[str]:
    """Fill the sections of the sidebar: `chapters` becomes one per chapter of the book, with each notebook's topic; elsewhere a
    glob becomes the pages that fit. A section without pages is left out. Returns all pages in this order."""
    topics, sections = {n.path: n.topic for n in book.notebooks}, []
    for section in config["website"]["sidebar"]["contents"]:
        if section == "chapters":
            sections += [{"section": c.title, "contents": [n.path for n in c.notebooks]} for c in book.chapters if c.folder != "."]
            continue
        fits = [name for glob in section["contents"] for name in sorted(titles) if fnmatch(name, glob)]
        sections.append({"section": section["section"], "contents": fits})
    for section in sections:
        plainly = {name: re.sub(r"[`*]", "", topics.get(name) or titles[name]).strip() for name in section["contents"]}
        section["contents"] = [{"href": name, "text": text} for name, text in plainly.items()]
    config["website"]["sidebar"]["contents"] = [s for s in sections if s["contents"]]
    return [page["href"] for s in sections for page in s["contents"]]


def welcome(root: Path) -> str:
    "The home page of a project without a README."
    import tomllib
    tool = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return f"# {tool['tool']['nbdev']['title']}\n\n{tool['project']['description']}.\n"


def notebooks(root: Path) -> list[Path]:
    "The notebooks that are pages: those of the book without the solutions."
    return [p for p in _book.notebooks(root) if "solutions" not in p.parts]


def page_of(path: Path, root: Path, profile: str, records: dict, where: Where, foot: str) -> dict:
    "A notebook as a page, as it was executed. SystemExit: it has to be run first."
    name, copy = path.relative_to(root).as_posix(), _book.executed(root, profile, path)
    record = records.get(name)
    if not record or not copy.exists() or record["status"] != "passed":
        raise SystemExit(f"{name} has not been executed to its end with profile {profile}: run scripts/book.")
    return chapter(json.loads(copy.read_text(encoding="utf-8")), where, provenance(record, profile), foot)


def home(root: Path, profile: str, where: Where, foot: str) -> dict:
    "The home page as a notebook: nbs/home.md with results of the execution."
    def from_top(m: re.Match) -> str: return m[0].replace(f"]({m['to']})", f"]({posixpath.normpath('nbs/' + m['to'])})")
    front, body = heading(LINK.sub(from_top, (root / _home.PAGE).read_text(encoding="utf-8")))
    def executed(name: str) -> list[dict]: return _home.read(_book.executed(root, profile, root / f"nbs/{name}.ipynb"))
    def form(ask: _guess.Ask, question: str, cells: list[dict]) -> list[dict]:
        truth = _guess.measured(_guess.spoken(cells[ask.end]["outputs"]), ask.key)
        return [md(_marks.raw(_guess.form(ask, question, truth)))]
    def result(outputs: list[dict], key: str) -> list[dict]:
        shown = [{"cell_type": "code", "metadata": {"tags": ["remove-input"]}, "source": "result", "execution_count": None,
                  "outputs": [told(pictured(o), where) for o in outputs]}]
        return measured(key, SUMMARY, shown) if key else shown
    cells = _home.assemble(body, executed, form, result, lambda said: [md(prose(said, where))] if said.strip() else [])
    head = {"cell_type": "raw", "metadata": {}, "source": front_matter(front, body, "Home")}
    return {"cells": [head, *cells, md(_marks.raw(foot))], "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4,
            "nbformat_minor": 5}


def stage(root: Path, profile: str, records: dict, pages: Path) -> tuple[list[str], list[str]]:
    "Write every page into the empty folder `pages`; returns the notebooks whose results are out of date, and what is wrong."
    from smalldocs.markdown import split_front_matter
    files, code, modules = set(), _book.Ground(root, profile), _api_pages.modules(root)
    names, chapters = _api_pages.Names(modules), {p.relative_to(root).as_posix(): p for p in notebooks(root)}
    titles = {name: title_of(path) for name, path in chapters.items()}
    contents, wrong = read_book(root), list(problems_of_book(root))
    topics = {n.path: n.topic for n in contents.notebooks}
    trails = [replace(p, pages=tuple(x for x in p.pages if x in titles)) for p in contents.paths]
    def write(name: str, text: str) -> None:
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).write_text(text, encoding="utf-8")
    def where(name: str) -> Where: return Where(PurePosixPath(name), root, files, names)
    own = [*sorted(root.glob("adr/*.md")), *(root / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "sdk/README"))]
    texts = {p.relative_to(root).as_posix().replace("README", "index"): p.read_text(encoding="utf-8") for p in own if p.exists()}
    texts.setdefault("index.md", welcome(root))
    has_home = (root / _home.PAGE).exists()
    if has_home: texts[README] = texts.pop("index.md")
    made = {m.page: _api_pages.page(m) for m in modules} | ({"reference/index.md": _api_pages.contents(modules)} if modules else {})
    minutes = {name: _paths.needs(path, records.get(name, {}).get("seconds", 0)) for name, path in chapters.items()}
    if trails: made[_paths.START] = _paths.start(trails, titles, topics, minutes)
    parts = {}
    for name, text in (texts | made).items():
        given, body = split_front_matter(text)
        front, body = heading(body)
        front = {"title": PurePosixPath(name).stem, **front}
        if name == README: front["title"] = "Install and use"
        titles[name], parts[name] = front["title"], (front, body)
    if has_home: titles[HOME] = "Home"
    config = yaml.safe_load((root / "nbs" / "_smalldocs.yml").read_text(encoding="utf-8"))
    order = sidebar(config, titles, contents)
    def foot(name: str) -> str: return _paths.foot(name, order, trails, titles, topics)
    for name, path in chapters.items():
        write(name, json.dumps(page_of(path, root, profile, records, where(name), foot(name)), ensure_ascii=False))
    if has_home: write(HOME, json.dumps(home(root, profile, where(HOME), foot(HOME)), ensure_ascii=False))
    for name, (front, body) in parts.items():
        write(name, front_matter(front, body, "") + (body if name in made else prose(body, where(name))) + _marks.raw(foot(name)))
    for name in files:
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, pages / name)
    config["project"]["resources"] = sorted([*files, "site.js"])
    write("_smalldocs.yml", yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
    (pages / "topics.json").write_text(json.dumps(topics, ensure_ascii=False), encoding="utf-8")
    for name in ("styles.css", "site.js"): shutil.copy(root / "nbs" / name, pages)
    return [n for n in chapters if n in records and records[n]["hash"] != _book.fingerprint(chapters[n], code)], wrong


def dark(bootstrap: str) -> str:
    "Bootstrap's stylesheet with its dark colours for the whole page: no theme from elsewhere, no web font."
    return bootstrap.replace("[data-bs-theme=dark]", ":root")


def smalldocs(pages: Path, out: Path) -> list[str]:
    "Render with smalldocs; returns its warnings."
    from smalldocs.config import load
    from smalldocs.site import ASSETS, Site
    bootstrap = (ASSETS / "vendor" / "bootstrap" / "bootstrap.min.css").read_text(encoding="utf-8")
    (pages / "dark.css").write_text(dark(bootstrap), encoding="utf-8")
    made = Site(load(pages), quiet=True)
    made.out = out
    made.build()
    found = json.loads((out / "search.json").read_text(encoding="utf-8"))
    topics = {PurePosixPath(name).with_suffix(".html").as_posix(): topic
              for name, topic in json.loads((pages / "topics.json").read_text(encoding="utf-8")).items()}
    entries = [[e["href"], e["title"], e["section"], e["text"], topics.get(urldefrag(e["href"])[0], "")] for e in found]
    (out / "search.js").write_text(f"globalThis.labEntries = {json.dumps(entries, ensure_ascii=False)};\n", encoding="utf-8")
    (out / "search.json").unlink()  # site.js searches search.js, which also works for a site that is opened as files
    shutil.rmtree(out / "site_libs" / "fuse")
    return made.warnings


def quarto(pages: Path, out: Path) -> list[str]:
    "Render the same pages with Quarto, which has a search and two themes of its own; it executes nothing."
    config = yaml.safe_load((pages / "_smalldocs.yml").read_text(encoding="utf-8"))
    look = {k: config.pop(k) for k in ("theme", "css", "toc", "toc-depth", "from") if k in config}
    look |= {"theme": {"light": "cosmo", "dark": "darkly"}, "html-math-method": "mathml"}
    config |= {"format": {"html": look}, "execute": {"enabled": False}}
    config["project"]["output-dir"] = str(out)
    (pages / "_quarto.yml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    try: subprocess.run(["quarto", "render", str(pages)], check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as e:
        raise SystemExit(f"quarto could not render {pages} ({e}); without --renderer the site is made by smalldocs") from None
    return []


ICON = ("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%232f7fd6' "
        "d='M1 9h3v6H1zM6 5h3v10H6zM11 1h3v14h-3z'/%3E%3C/svg%3E")  # three bars
RENDERERS = {"quarto": quarto, "smalldocs": smalldocs}


def render(pages: Path, site: Path, renderer: str = "smalldocs") -> list[str]:
    "Render the folder `pages` into `site`, which is replaced only by a complete one; returns the renderer's warnings."
    out = site.with_name(site.name + ".new")
    shutil.rmtree(out, ignore_errors=True)
    warnings = RENDERERS[renderer](pages, out)
    for path in out.rglob("*.html"):
        up = "../" * (len(path.relative_to(out).parts) - 1)
        text = re.sub(r'<script src="[^"]*/fuse\.min\.js"></script>', "", path.read_text(encoding="utf-8"))
        script = f'<script src="{up}site.js" data-up="{up}" defer></script>'
        text = text if 'rel="icon"' in text else text.replace("</head>", f'<link rel="icon" href="{ICON}"></head>', 1)
        path.write_text(text.replace("</body>", f"{script}</body>", 1), encoding="utf-8")
    shutil.rmtree(site, ignore_errors=True)
    out.rename(site)
    return warnings


# ---- what came out

class Read(HTMLParser):
    "What a page names, loads and leads to."
    LOADS = {("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"), ("iframe", "src"),
             ("audio", "src"), ("video", "src"), ("video", "poster"), ("embed", "src"), ("object", "data"), ("link", "href"),
             ("use", "href"), ("image", "href"), ("input", "src")}

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.classes, self.links, self.loads, self.inline, self.meta = Counter(), set(), [], [], [], {}
        self.pictures: list[str] = []  # the alternative text of each
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = {k: v or "" for k, v in attrs}
        self.open = tag
        self.ids.update({given[k] for k in ("id", "name") if k in given and (k == "id" or tag == "a")})
        self.classes.update(given.get("class", "").split())
        if tag == "html": self.meta["lang"] = given.get("lang", "")
        if tag == "meta" and given.get("name"): self.meta[given["name"]] = given.get("content", "")
        if tag == "img" and given.get("role") != "presentation": self.pictures.append(given.get("alt", ""))
        if tag == "a" and "href" in given: self.links.append(given["href"])
        self.loads += [(tag, v) for k, v in given.items() if (tag, k) in self.LOADS]
        self.inline += [("style", given["style"])] if "style" in given else []

    def handle_data(self, data: str) -> None:
        if self.open in ("script", "style"): self.inline.append((self.open, data))
        if self.open == "title": self.meta["title"] = self.meta.get("title", "") + data

    def handle_endtag(self, tag: str) -> None: self.open = ""


ELSEWHERE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.I)
FETCHES = {"style": re.compile(r"url\(\s*[\"']?((?:[a-z]+:)?//[^\"')]+)|@import\s+[\"']((?:[a-z]+:)?//[^\"']+)", re.I),
           "script": re.compile(r"(?:\bfrom|\bimport|\bimport\(|\bfetch\(|\.src\s*=)\s*[\"'`]((?:https?:)?//[^\"'`]+)")}


def fetched(kind: str, text: str) -> Iterator[str]:
    "The outside addresses that a piece of CSS or JavaScript loads from."
    for m in FETCHES[kind].finditer(text): yield next(filter(None, m.groups()))


def online(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    "Everything that a page or a stylesheet would load from another place."
    for path, page in pages.items():
        at = path.relative_to(site)
        for tag, address in page.loads:
            if ELSEWHERE.match(address): yield f"{at} loads {address} (<{tag}>)"
        for kind, text in page.inline: yield from (f"{at} loads {address} ({kind})" for address in fetched(kind, text))
    for path in sorted([*site.rglob("*.css"), *site.rglob("*.js")]):
        kind = "style" if path.suffix == ".css" else "script"
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from (f"{path.relative_to(site)} loads {address}" for address in fetched(kind, text))


def dead(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    "Links and addresses inside the site that lead to no file or to no place in it."
    for path, page in pages.items():
        for address in [*page.links, *(a for _, a in page.loads)]:
            target, anchor = urldefrag(address)
            if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I): continue
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if there.is_dir(): there /= "index.html"
            says = f"{path.relative_to(site)} links to {address}"
            if not there.is_relative_to(site) or not there.exists(): yield f"{says}, which is not there"
            elif anchor and there in pages and unquote(anchor) not in {*pages[there].ids, "top"}:
                yield f"{says}, but that page has no such place"


def twice(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    "Places of a page that have the same name: a link could only lead to the first."
    for path, page in pages.items():
        yield from (f"{path.relative_to(site)} has two places called {name}" for name, n in page.ids.items() if n > 1)


def unfound(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    "Entries of the search that lead nowhere, or an index that is missing though pages have a box for it."
    file = site / "search.js"
    if not file.exists():
        if any("smalldocs-search" in page.classes for page in pages.values()): yield "search.js is missing"
        return
    for address, *_ in json.loads(file.read_text(encoding="utf-8").partition("=")[2].rstrip(";\n")):
        target, anchor = urldefrag(address)
        page = pages.get(site / unquote(target))
        if not page or (anchor and unquote(anchor) not in page.ids): yield f"the search leads to {address}, which is not there"


def wordless(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    "Pictures that no text describes: without one, or with the size of their paper, from an execution before figures had words."
    for path, page in pages.items():
        for n, said in enumerate(page.pictures, 1):
            if not said.strip() or re.match(r"<?Figure\b|<", said):
                yield f"{path.relative_to(site)}: nothing describes its picture {n} (alt={said!r:.60}); execute the notebook again"


def misread(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    "Guesses that a page gives away before it asks for them, and Markdown that was left as it was typed."
    for path in pages:
        text = path.read_text(encoding="utf-8")
        found = *_proof.given_away(text), *_proof.raw_markdown(text)
        yield from (f"{path.relative_to(site)} {said}" for said in found)


def problems(site: Path) -> list[str]:
    "Everything wrong with a rendered site; having no page is wrong as well."
    site = site.resolve()
    pages = {p: Read(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
    lacks = [f"{p.relative_to(site)} has no {what}" for p, page in pages.items()
             for what in ("title", "description", "lang", "viewport") if not page.meta.get(what, "").strip()]
    found = [said for check in (online, dead, twice, unfound, wordless, misread) for said in check(site, pages)]
    return [*lacks, *found] if pages else ["the site has no pages"]


def build(root: Path, profile: str, renderer: str) -> list[str]:
    "Stage and render what has been executed; returns what is wrong with the site."
    pages = root / "_build" / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    stale, found = stage(root, profile, _book.records(root).get(profile, {}), pages)
    if stale: print(f"note: changed since they were executed, or standing on changed code: {', '.join(stale)}", file=sys.stderr)
    for line in render(pages, root / "_build" / "site", renderer): print(f"note: {line}", file=sys.stderr)
    return found + problems(root / "_build" / "site")


SPOILED = " away above its question: "


def confirmed(found: list[str], again: Callable[[set[str]], list[str]]) -> list[str]:
    """What is wrong, when a figure that gives a guess away may be a coincidence: of two measurements that were written alike.

    `again` executes notebooks once more, given by the beginnings of their pages' names, and returns what is wrong then; a guess
    that is given away by a figure counts if it is so both times.
    """
    spoiled = lambda line: line.partition(SPOILED)[0] if SPOILED in line else ""
    first = {said for line in found if (said := spoiled(line))}
    if not first: return found
    for line in found: print(f"note: a coincidence? Executed once more: {line}", file=sys.stderr)
    return [line for line in again({said.partition(".html")[0] for said in first}) if spoiled(line) in {"", *first}]


def make(root: Path, profile: str | None, renderer: str = "smalldocs") -> int:
    "Stage, render and check with what has been executed; exit code 1 if the site has problems."
    profile = profile or _book.records(root).get("last", "full")
    def again(pages: set[str]) -> list[str]:
        for page in sorted(pages): _book.run(root, profile, f"{page}.ipynb", jobs=1, force=True)
        return build(root, profile, renderer)
    found = confirmed(build(root, profile, renderer), again)
    for line in found: print(line)
    count = len(list((root / "_build" / "site").rglob("*.html")))
    print(f"{count} pages in _build/site, {len(found)} problems. To read them: .venv/bin/python -m http.server -d _build/site")
    return 1 if found else 0


def main() -> int:
    "The command scripts/docs."
    parser = _book.options("Make the docs site in _build/site from executed notebooks.")
    parser.add_argument("--no-run", action="store_true", help="take the last execution as it is")
    parser.add_argument("--renderer", choices=RENDERERS, default="smalldocs", help="what makes the HTML (default: smalldocs)")
    a = parser.parse_args()
    root = a.root.resolve()
    def command() -> int:
        failed = 0 if a.no_run else _book.run(root, a.profile or "full", "*", a.jobs, a.force, a.cell_s)
        return failed or make(root, a.profile, a.renderer)
    return _book.guarded(command)


if __name__ == "__main__": sys.exit(main())
