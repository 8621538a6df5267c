"The book and the docs site: what is executed again, what a guess hides, and that the checks of the site can fail."
import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure

from rap_analyzer.display import describe_figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import _book  # noqa: E402
import _site  # noqa: E402

NUMBERS = itertools.count()


def cell(kind: str, source: str, outputs: tuple = ()) -> dict:
    "One cell of a notebook."
    code = {"execution_count": None, "outputs": list(outputs)} if kind == "code" else {}
    return {"cell_type": kind, "id": f"c{next(NUMBERS)}", "metadata": {}, "source": source, **code}


def shown(text: str, mime: str = "text/plain") -> dict:
    "One output."
    return {"output_type": "display_data", "metadata": {}, "data": {mime: text}}


def notebook(*cells: dict, widgets: dict | None = None) -> dict:
    "A notebook of these cells."
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    state = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": widgets}}} if widgets else {}
    return {"cells": list(cells), "metadata": kernel | state, "nbformat": 4, "nbformat_minor": 5}


def put(path: Path, *cells: dict) -> Path:
    "Write a notebook file."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(*cells)), encoding="utf-8")
    return path


DOUBLE = """def double(
    x: int,  # any number
) -> int:  # twice as much
    "Twice the number."
    return 2 * x
"""


BOOK = """[[chapter]]
folder = "lab"
title = "The lab"
about = "first things"
notebooks = [
  {file = "00_core", topic = "Numbers", question = "How `far`?"},
  {file = "01_lab", topic = "Reasons", question = "Why?"},
]
"""


@pytest.fixture
def house(tmp_path):
    "A small project: two chapters that link to each other, an exercise, a decision, a home page."
    root = tmp_path / "a house"
    put(root / "nbs/lab/00_core.ipynb", cell("markdown", "# How `far`?\n> A subtitle.\n\nSee [the next](01_lab.ipynb#the-answer)."),
        cell("code", "#| default_exp core"), cell("code", "#| export\ndef double(x: int) -> int: return 2 * x"),
        cell("markdown", "Call `double(2)`. Слушатель любит такой трек."),
        cell("code", "from rap_analyzer.core import settings as s\nprint('profile', s().lab.profile, 'tracks', s().tracks)"),
        cell("code", "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.bar(['old', 'new'], [3, 2])\n"
                     "plt.close(fig)\nfig"))
    put(root / "nbs/lab/01_lab.ipynb", cell("markdown", "# Why?\n\nBecause of [that](00_core.ipynb), the folder [adr](../../adr)\n"
                                        "and a [file](../../settings.ini), and $2^n$.\n\n```mermaid\ngraph LR\n"
                                        "  a[one] --> b[two]\n```\n\n## The answer\n"),
        cell("code", "assert 1 + 1 == 2"), cell("code", "predict = lambda key: f'guess {key}'\npredict('k')"),
        cell("code", "'the ' + 'truth'"), cell("code", "class Run:\n    def against_prediction(self): return 'the verdict'\n"
                                               "Run().against_prediction()"))
    put(root / "exercises/21_x.ipynb", cell("markdown", "# Can you?\n\nTry it."), cell("code", "answer = None"))
    (root / "adr").mkdir()
    (root / "adr/0001-x.md").write_text("# ADR 0001: x\n\nWe took x, see [home](../README.md).\n")
    (root / "README.md").write_text("# Home\n\nHello from [a chapter](nbs/lab/00_core.ipynb).\n")
    (root / "rap_analyzer").mkdir()
    (root / "rap_analyzer/core.py").write_text('"""Numbers."""\n\n' + DOUBLE)
    (root / "nbs/book.toml").write_text(BOOK)
    for name in ("pyproject.toml", "settings.ini", "nbs/_smalldocs.yml", "nbs/styles.css", "nbs/site.js"):
        shutil.copy(ROOT / name, root / name)
    return root


# ---- the book

def test_a_result_depends_on_text_package_lock_and_profile(house, monkeypatch):
    nb, module = house / "nbs/lab/00_core.ipynb", house / "rap_analyzer/a/b.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1")
    seen = []
    def changed() -> bool:
        seen.append(_book.fingerprint(nb, _book.Ground(house, "smoke")))
        return seen.count(seen[-1]) == 1
    assert changed() and not changed()
    assert _book.fingerprint(nb, _book.Ground(house, "full")) != seen[-1]
    module.write_text("x = 2")
    assert not changed()                                                # the notebook does not use it ...
    core = house / "rap_analyzer/core.py"
    core.write_text(core.read_text() + "\ndef late():\n    from .a import b\n")
    assert changed()                                                    # ... until what it uses does, if only later
    module.write_text("x = 3")
    assert changed()
    module.rename(module.with_name("c.py"))
    assert changed()
    (house / "requirements.lock").write_text("numpy==9")
    assert changed()
    monkeypatch.setenv("RAP_CATALOG_TRACKS", "500")
    assert changed()
    monkeypatch.setenv("RAP_LAB_HOME", "/elsewhere")
    assert not changed()
    nb.write_text(nb.read_text().replace("subtitle", "other"))
    assert changed()
    (house / "rap_analyzer/__pycache__").mkdir()
    (house / "rap_analyzer/__pycache__/b.pyc").write_text("?")
    assert not changed()
    weights = house / "rap_analyzer/weights.json"
    weights.write_text("[1]")
    assert not changed()                                                # nobody names it ...
    (house / "rap_analyzer/core.py").write_text((house / "rap_analyzer/core.py").read_text() + "FILE = 'weights.json'\n")
    assert changed() and not changed()
    weights.write_text("[2]")
    assert changed() and not changed()                                  # ... and now it is read


def test_notebooks_are_chosen_by_name_stem_or_path(house):
    put(house / "exercises/solutions/21_x.ipynb", cell("code", "1")), put(house / "exercises/solutions/_template.ipynb")
    names = lambda only: [p.name for p in _book.notebooks(house, only)]
    assert names("*") == ["00_core.ipynb", "01_lab.ipynb", "21_x.ipynb"]
    assert names("01_lab") == names("*_lab.ipynb") == names("lab/01_lab") == names("nbs/lab/01_lab.ipynb") == ["01_lab.ipynb"]
    assert names("exercises/*") == ["21_x.ipynb"] and names("exercises/solutions/*") == ["21_x.ipynb"] and names("none") == []


def test_the_result_of_an_exercise_depends_on_its_checker(house):
    stub, source = house / "exercises/21_x.ipynb", house / "exercises/solutions/21_x.ipynb"
    ground = _book.Ground(house, "smoke")
    alone = _book.fingerprint(stub, ground)
    put(source, cell("code", "1"))
    first = _book.fingerprint(stub, ground)
    put(source, cell("code", "2"))
    assert len({alone, first, _book.fingerprint(stub, ground)}) == 3


def test_imports_are_found_wherever_they_stand():
    assert _book.named("import rap_analyzer.cli as c, os\ndef f():\n    from ..search import store", "rap_analyzer.music") == {
        "rap_analyzer.cli", "rap_analyzer.search", "rap_analyzer.search.store"}
    assert _book.named("from . import index", "rap_analyzer.search") == {"rap_analyzer.search", "rap_analyzer.search.index"}
    assert _book.named("run('-m', 'rap_analyzer.cli')", "") == {"*"} == _book.named("not python (", "")


def test_a_ratio_that_left_its_spread_is_named(house):
    def run(folder, key, value, name="a", **values):
        (folder / key).mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": key, "unit": "x", "p50": value, "params": {"k": 10}, "values": values})
        (folder / key / f"{name}.json").write_text(text)
        return text
    home, results = house / "home", house / "exercises/results"
    results.mkdir()
    for key, then, now in (("same", 10, 12), ("faster", 10, 40), ("wide", 10, 40)):
        text = run(home / "runs", key, then, **({"low": 1, "high": 50} if key == "wide" else {}))
        (results / f"{key}.json").write_text(text)
        run(home / "runs", key, now, "b")
    (results / "unmeasured.json").write_text(text.replace("wide", "unmeasured"))
    assert [line.split()[1] for line in _book.moved(house, [home])] == ["faster"]


def test_solutions_are_not_on_the_site(house):
    put(house / "exercises/solutions/21_x.ipynb", cell("markdown", "# Secret?"))
    records = {}
    for path in _book.notebooks(house):
        copy = _book.executed(house, "smoke", path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        records[str(path.relative_to(house))] = {"status": "passed", "seconds": 1.0, "tracks": 3000, "at": "2026-11-24", "hash": ""}
    (house / "pages").mkdir()
    _site.stage(house, "smoke", records, house / "pages")
    staged = [p.relative_to(house / "pages").as_posix() for p in (house / "pages").rglob("*.ipynb")]
    assert "exercises/21_x.ipynb" in staged and not [p for p in staged if "solutions" in p]


def test_a_parameters_cell_is_given_the_size_of_the_profile(tmp_path):
    asks, other = cell("code", "tracks = 57_000\nk = 10"), cell("code", "tracks = 5")
    asks["metadata"]["tags"] = ["parameters"]
    assert _book.parameters(put(tmp_path / "a.ipynb", asks), tracks=3000, x=1) == {"tracks": 3000}
    assert _book.parameters(put(tmp_path / "b.ipynb", other), tracks=3000) == {}


def test_a_cell_has_a_time_limit(tmp_path):
    slow = put(tmp_path / "slow.ipynb", cell("code", "import time\nprint('begun', 'x' * 9_000, 'end', flush=True)\ntime.sleep(30)"))
    record = _book.execute(slow, tmp_path / "out" / "slow.ipynb", 3000, 1)
    assert record["status"] == "failed" and "timed out" in record["error"] and "time.sleep(30)" in record["error"]
    assert record["seconds"] < 29 and len(record["error"]) < 2_000 and "(9,010 characters) ... xxxx" in record["error"]


def test_each_notebook_starts_afresh(tmp_path):
    ask = "import os, sys, numpy as np\nprint(os.getpid(), np.random.rand(), os.getcwd(), 'left' in globals())"
    source, outputs = put(tmp_path / "nb.ipynb", cell("code", ask), cell("code", "left = 1\nnp.random.seed(1)")), []
    for n in range(2):
        assert _book.execute(source, tmp_path / f"out{n}.ipynb", 3_000, 30)["status"] == "passed"
        outputs.append("".join(json.loads((tmp_path / f"out{n}.ipynb").read_text())["cells"][0]["outputs"][0]["text"]).split())
    (pid1, drawn1, here, left1), (pid2, drawn2, _, left2) = outputs
    assert pid1 != pid2 and drawn1 != drawn2 and here == str(tmp_path) and left1 == left2 == "False"
    assert not any(map(psutil.pid_exists, map(int, (pid1, pid2))))


def test_an_output_that_the_site_would_refuse_is_a_failure(tmp_path):
    "A table that shows its backticks is found where it is made, before the site is built."
    shows = "from IPython.display import HTML\nHTML('<p>{}</p>')"
    for text, status in (("see `slo`", "failed"), ("see <code>slo</code>", "passed")):
        source = put(tmp_path / "shows.ipynb", cell("code", "1"), cell("code", shows.format(text)))
        record = _book.execute(source, tmp_path / "out.ipynb", 3_000, 30)
        assert record["status"] == status
        if status == "failed": assert record["error"] == "cell 2 shows Markdown as it was typed: 'see `slo`'"


def test_a_kernel_that_dies_is_a_failure(tmp_path):
    source = put(tmp_path / "nb.ipynb", cell("code", "import os\nos._exit(3)"))
    record = _book.execute(source, tmp_path / "out.ipynb", 3_000, 30)
    assert record["status"] == "failed" and "died" in record["error"], record


def test_book_and_docs_from_the_command_line(house, capsys):
    "For real: servers of their own, a failure, a second run that executes only what changed, and the site, which is then read."
    def script(name: str, *args: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, str(ROOT / "scripts" / name), "--root", str(house), *args], capture_output=True,
                              text=True, timeout=120, cwd=house)
    book = lambda: json.loads((house / "_build/book.json").read_text())["smoke"]
    chapter = house / "nbs/lab/01_lab.ipynb"
    good = chapter.read_text()
    put(chapter, cell("markdown", "# Why?"), cell("code", "print('so far')\nint('as planned')"), cell("code", "1"))
    failed = script("_book.py", "--profile", "smoke")
    assert failed.returncode == 1, failed.stderr
    assert "FAILED nbs/lab/01_lab.ipynb, cell 2 of 3:\n    print('so far')\n    int('as planned')" in failed.stdout
    assert "\nso far\n" in failed.stdout and "ValueError: invalid literal" in failed.stdout and "\x1b" not in failed.stdout
    assert re.search(r"nbs/lab/01_lab.ipynb +[\d.]+  failed\n", failed.stdout)
    assert "profile smoke tracks 3000" in (house / "_build/book/smoke/nbs/lab/00_core.ipynb").read_text()
    assert (house / "_build/lab/smoke/lab").is_dir() and not (house / "work").exists()
    assert {r["cached"] for r in book().values()} == {False} and len(book()) == 3
    with pytest.raises(SystemExit, match="nbs/lab/01_lab.ipynb has not been executed"): _site.make(house, None)

    chapter.write_text(good)
    passed = script("_book.py", "--profile", "smoke")
    assert passed.returncode == 0, passed.stdout
    assert {name for name, r in book().items() if not r["cached"]} == {"nbs/lab/01_lab.ipynb"}
    assert {r["status"] for r in book().values()} == {"passed"} and "exercises/21_x.ipynb ..." not in passed.stderr
    assert _book.run(house, "smoke", "nothing") == 2

    made = script("_site.py", "--no-run", "--renderer", "smalldocs")
    assert made.returncode == 0 and "7 pages in _build/site, 0 problems" in made.stdout, made.stdout + made.stderr
    look_at_the_site(house / "_build" / "site")
    put(chapter, cell("markdown", "# Why?\n\nNow it is different."))  # an old result is shown, and said to be old
    assert _site.make(house, None, "smalldocs") == 0 and "changed code: nbs/lab/01_lab.ipynb\n" in capsys.readouterr().err


def look_at_the_site(site: Path) -> None:
    "What the small house looks like as a site."
    pages = {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    assert set(pages) == {"index.html", "nbs/lab/00_core.html", "nbs/lab/01_lab.html", "exercises/21_x.html", "adr/0001-x.html",
                          "reference/index.html", "reference/core.html"}
    one, home = pages["nbs/lab/01_lab.html"], pages["index.html"]
    assert '00_core.html"' in one and 'href="../../settings.ini"' in one and (site / "settings.ini").exists()
    folds = re.findall(r'<details class="measured" data-keys="k">.*?</details>', one, re.S)
    assert len(folds) == 2 and "the truth" in folds[0] and "the verdict" in folds[1] and "guess k" not in "".join(folds)
    assert one.count("the truth") == 1 and "Executed on" in one and "3,000 synthetic tracks" in one
    assert one.count("<svg") == (2 if find_spec("mermaidx") else 0) and "<msup>" in one and "<msup>" not in home
    assert '<a href="../../reference/core.html#double"><code>double(2)</code></a>' in pages["nbs/lab/00_core.html"]
    assert '<img class="img-fluid" alt="Plot. bars: old 3, new 2." src="data:image/png' in pages["nbs/lab/00_core.html"]
    assert "any number" in pages["reference/core.html"] and "../nbs/lab/00_core.html" in pages["reference/core.html"]
    assert all('/fuse' not in text and 'site.js" data-up="' in text for text in pages.values())
    assert re.search(r"The lab.*Numbers.*Reasons", home, re.S) and "Decisions on record" in home and "The project" not in home
    assert "How far?" in re.search(r"<title>(.*?)</title>", pages["nbs/lab/00_core.html"])[1]
    assert "the truth" not in (site / "search.js").read_text(encoding="utf-8") and not (site / "search.json").exists()


# ---- one page

def test_a_chapter_becomes_a_page(house):
    nb = notebook(cell("markdown", "# Where?\n> The same, again.\n\nText."), cell("code", "#| default_exp a.b\nimport os"),
                  cell("code", "#| hide\nsecret()"), cell("code", "#| export\ndef f(): ..."), cell("code", "assert f() is None"),
                  cell("code", "predict('k')", [shown("your guess")]), cell("code", "run()", [shown("42")]),
                  cell("code", "run.against_prediction()", [shown("<b>43</b>", "text/html")]),
                  cell("code", "open()", [shown("44")]))
    page = _site.chapter(nb, _site.Where(PurePosixPath("nbs/20_a_b.ipynb"), house), "Executed.")
    text = ["".join(c["source"]) for c in page["cells"]]
    assert text[0] == "---\ntitle: Where?\ndescription: The same, again.\n---\n" and not any("# Where" in t for t in text[1:])
    assert "#| code-fold: true\n#| code-summary: Imports\nimport os" in text
    assert "secret()" not in text and "default_exp" not in "".join(text)
    assert "#| code-fold: show\n#| code-summary: goes into rap_analyzer.a.b\ndef f(): ..." in text
    assert "#| code-fold: true\n#| code-summary: Tests\nassert f() is None" in text
    folds = [i for i, t in enumerate(text) if "<details" in t]
    assert len(folds) == 2 == sum("</details>" in t for t in text)
    for i, said in zip(folds, ("42", "43"), strict=True):
        assert not page["cells"][i - 1]["outputs"] and "remove-input" in page["cells"][i + 1]["metadata"]["tags"]
        assert said in json.dumps(page["cells"][i + 1]["outputs"]) and "</details>" in text[i + 2]
    plain = [c for c in page["cells"] if c.get("outputs") and "tags" not in c["metadata"]]
    assert [c["source"] for c in plain] == ["open()"]
    form = text[text.index("predict('k')") + 1]  # in place of the words that say how to guess
    assert '<form class="guess" id="guess-k"' in form and "What is your guess?" in form and form.count("<button") == 7


def test_a_picture_has_the_words_of_its_figure_or_those_of_its_cell(house):
    def page(source: str, text: str, kind: str = "image/png") -> str:
        out = {"output_type": "display_data", "metadata": {}, "data": {kind: "iVBO\nRw0K", "text/plain": text}}
        nb = notebook(cell("markdown", "# Where?\n\nText."), cell("code", source, [out]))
        made = _site.chapter(nb, _site.Where(PurePosixPath("nbs/20_a_b.ipynb"), house))
        return json.dumps([c.get("outputs") for c in made["cells"]])
    assert 'alt=\\"Plot. a \\u0026lt;b'.replace("\\u0026", "&") in page("fig", "Plot. a <b")
    assert 'alt=\\"What the author says\\"' in page("#| fig-alt: What the author says\nfig", "Plot. a line")
    assert 'base64,iVBORw0K\\"' in page("fig", "Plot.", "image/jpeg") and "<img" not in page("fig", "Plot.", "image/svg+xml")


def test_a_page_without_a_subtitle_still_has_a_description():
    front, rest = _site.heading("# Only a title\n\nA *first* paragraph with [a link](x.md).\n\nMore.")
    assert front == {"title": "Only a title"}
    assert 'content="A first paragraph with a link."' in _site.front_matter(front, rest, "x")
    assert _site.plain("| a |\n|---|\n\n<!-- note -->\n\n```\ncode\n```\n\n" + "word " * 60).endswith("word ...")


def test_links_lead_home_to_files_or_become_text(house):
    at = _site.Where(PurePosixPath("nbs/00_core.ipynb"), house)
    code_in_label = "[`f(x)`](../settings.ini) ![p](p.png) [![b](../settings.ini)](01_lab.ipynb)"
    assert _site.prose(code_in_label, at) == code_in_label and at.files == {"settings.ini"}
    at.files.clear()
    said = _site.prose("[home](../README.md#x) [f](../adr/) [s](../settings.ini) [w](https://a.b/c) [p](01_lab.ipynb)\n"
                       "`[no](../adr)` [`a`](../adr)\n\n```text\n[no](../adr)\n```\n", at)
    assert said.startswith("[home](../index.md#x) f [s](../settings.ini) [w](https://a.b/c) [p](01_lab.ipynb)\n")
    assert "`[no](../adr)` `a`\n" in said and "```text\n[no](../adr)" in said and at.files == {"settings.ini"}


def test_a_widget_is_shown_as_it_stood():
    widgets = {"b": {"state": {"_model_name": "VBoxModel", "children": ["IPY_MODEL_s", "IPY_MODEL_h"]}},
               "s": {"state": {"description": "ef", "index": 1, "_options_labels": ["10", "<40>"]}},
               "h": {"state": {"_model_name": "HTMLModel", "value": "<b>recall</b>"}}}
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "b"}}
    out = {"output_type": "display_data", "data": {"text/plain": "VBox(...)"} | view}
    shown_so = _site.fixed(out, widgets)["data"]["text/html"]
    assert "ef &lt;40&gt;" in shown_so and "<b>recall</b>" in shown_so and "JupyterLab" in shown_so and "VBox" not in shown_so
    assert "JupyterLab" in _site.fixed(out, {})["data"]["text/html"]


# ---- the site

PAGE = ('<!doctype html><html lang="en"><head><title>t</title><meta name="description" content="d">'
        '<meta name="viewport" content="w">{head}</head><body>{body}</body></html>')


def complaints(site: Path, body: str = "", head: str = "", **files: str) -> str:
    "What the checks say about a page with this body."
    site.mkdir(exist_ok=True)
    (site / "index.html").write_text(PAGE.format(head=head, body=body))
    (site / "b.html").write_text(PAGE.format(head="", body='<h2 id="here">x</h2><a name="old"></a>'))
    for name, text in files.items(): (site / name.replace("_", ".")).write_text(text)
    return "\n".join(_site.problems(site))


@pytest.mark.parametrize("body", [
    '<a href="https://a.b/c">out</a><a href="#">top</a><a href="b.html#here">x</a><a href="b.html#old">x</a><a href="./">x</a>',
    '<img alt="Costs; bars: old 3" src="data:image/png;base64,AA=="><a href="mailto:a@b.c">m</a><a href="b.html?x=1">q</a>',
    '<script>const ns = "http://www.w3.org/2000/svg"; fetch("search.json")</script><code>url(https://a.b)</code>',
    '<style>p { background: url("data:image/svg+xml,%3csvg xmlns=\'http://www.w3.org/2000/svg\'/%3e") }</style>'])
def test_a_good_page_has_no_problems(tmp_path, body):
    assert complaints(tmp_path / "site", body) == ""


@pytest.mark.parametrize(("body", "said"), [
    ('<a href="c.html">x</a>', "c.html, which is not there"),
    ('<a href="b.html#there">x</a>', "no such place"),
    ('<a href="#nowhere">x</a>', "no such place"),
    ('<a href="../secret.txt">x</a>', "not there"),
    ('<a href="/b.html">x</a>', "not there"),
    ('<img src="missing.png">', "missing.png, which is not there"),
    ('<p id="here"></p><p id="here"></p>', "two places called here"),
    ('<div class="smalldocs-search"></div>', "search.js is missing"),
    ('<svg><image href="https://a.b/c.svg"></image></svg>', "loads https://a.b/c.svg"),
    ('<img src="https://a.b/c.png">', "loads https://a.b/c.png"),
    ('<img src="data:,">', "nothing describes its picture 1"),
    ('<img alt="x" src="data:,"><img alt=" " src="data:,">', "nothing describes its picture 2"),
    ('<img alt="&lt;Figure size 600x300 with 1 Axes&gt;" src="data:,">', "nothing describes its picture 1"),
    ('<script src="//cdn.b/c.js"></script>', "loads //cdn.b/c.js"),
    ('<script type="module">import m from "https://cdn.b/m.mjs"</script>', "loads https://cdn.b/m.mjs"),
    ('<iframe src="http://a.b"></iframe>', "loads http://a.b"),
    ('<video poster="https://a.b/p.jpg"></video>', "loads https://a.b/p.jpg"),
    ('<p style="background:url(https://a.b/x.png)"></p>', "loads https://a.b/x.png"),
    ('<style>@import "https://a.b/f.css";</style>', "loads https://a.b/f.css")])
def test_a_bad_page_is_refused(tmp_path, body, said):
    assert said in complaints(tmp_path / "site", body)


def test_stylesheets_scripts_and_heads_are_read_too(tmp_path):
    assert "x.css loads https://fonts.b" in complaints(tmp_path / "1", x_css="@import url(https://fonts.b/f?w=1;2);")
    assert "x.js loads https://c.b" in complaints(tmp_path / "2", x_js='import a from "https://c.b/a.js"')
    assert "loads https://c.b/s.css" in complaints(tmp_path / "3", head='<link rel="stylesheet" href="https://c.b/s.css">')
    (tmp_path / "3" / "index.html").write_text("<html><body>bare</body></html>")
    bare = "\n".join(_site.problems(tmp_path / "3"))
    for what in ("title", "description", "lang", "viewport"): assert f"index.html has no {what}" in bare
    assert _site.problems(tmp_path / "nothing") == ["the site has no pages"]


def test_a_plot_of_a_forked_kernel_is_a_picture():
    "The kernel is forked from a process that has imported matplotlib already, and still draws for a notebook."
    code = """if __name__ == "__main__":
    import sys
    sys.path.insert(0, "scripts")
    import _kernels
    _kernels.LIBRARIES = ("ipykernel.kernelapp", "IPython.display", "matplotlib.figure", "matplotlib.backends.backend_agg")
    _kernels.preload(_kernels.WORTH)
    import nbformat
    from nbclient import NotebookClient
    draw = "import matplotlib.pyplot as plt; plt.title('Up'); plt.plot([1, 2]);"
    plot = nbformat.v4.new_code_cell("import sys; sys.modules['matplotlib']; " + draw)
    nb = nbformat.v4.new_notebook(cells=[plot])
    NotebookClient(nb, kernel_manager_class=_kernels.Manager, timeout=60).execute()
    print(sorted(key for o in nb.cells[0].outputs for key in o.get("data", {})), nb.cells[0].outputs[-1]["data"]["text/plain"])
"""
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT, check=True, env=env)
    wanted = "['image/png', 'text/plain'] Plot. Up; a line from 1 to 2."
    assert said.stdout.splitlines()[-1] == wanted, said.stdout + said.stderr


def test_a_reply_whose_wake_up_was_missed_is_found_when_the_channel_looks_again():
    from queue import Empty

    import _kernels
    import zmq
    from jupyter_client.session import Session
    assert _kernels.Manager().client_factory is _kernels.Client
    missed = []

    async def ask():
        with zmq.Context() as blocking, zmq.asyncio.Context() as context, context.socket(zmq.PAIR) as ours, \
                blocking.socket(zmq.PAIR) as theirs:
            theirs.connect(f"tcp://127.0.0.1:{ours.bind_to_random_port('tcp://127.0.0.1')}")
            channel, poll = _kernels.Channel(ours, Session(key=b"k")), ours.poll
            with pytest.raises(Empty): await channel.get_msg(.1)

            async def miss(timeout):
                if missed: return await poll(timeout)
                await asyncio.sleep(timeout / 1000)
                return missed.append(timeout) or 0
            ours.poll = miss
            Session(key=b"k").send(theirs, "execute_reply", {"status": "ok"})
            return await channel.get_msg(30)
    assert asyncio.run(ask())["content"] == {"status": "ok"} and missed == [1000]


@pytest.mark.parametrize("draw, said", [
    (lambda ax: ax.scatter([1, 2, 3], [1, 2, 3], label="songs"), "songs: 3 points"),
    (lambda ax: ax.hist(np.arange(100.0), bins=20), "20 bars from 5 to 5"),
    (lambda ax: (ax.bar([-.2, .8], [3, 2], .4, label="was"), ax.bar([.2, 1.2], [1, 4], .4, label="is"),
                 ax.set_xticks([0, 1], "ab")), "was: a 3, b 2, is: a 1, b 4"),
    (lambda ax: ax.boxplot([[1, 2, 3, 9]]), "between 1.75 and 4.5"), (lambda ax: ax.imshow(np.eye(3)), "a map of 3 x 3 values"),
    (lambda ax: (ax.plot([1, 5, 2], label="hits"), ax.axvline(1), ax.set(yscale="log", ylabel="ms")),
     "hits from 1 to 2 (between 1 and 5); up: ms (log scale)"),
    (lambda ax: [ax.plot([n, n + 1], label=f"run {n}") for n in range(9)], "run 5 from 5 to 6 and 3 more"),
    (lambda ax: ax.fill_between([0, 1], [0, 1]), "areas"), (lambda ax: ax.plot([float("nan")] * 3), "a line without values"),
    (lambda ax: ax.plot(["a", "b", "c"], ["low", "high", "low"]), "a line between 0 and 1"),
    (lambda ax: ax.plot([1, 2, 3], np.arange("2026-11-01", "2026-11-04", dtype="datetime64[D]")), "a line from 20,"),
    (lambda ax: ax.set_axis_off(), "Plot: a drawing.")])
def test_a_figure_says_what_is_drawn(draw, said):
    ax = Figure().subplots()
    draw(ax)
    assert said in describe_figure(ax.figure), describe_figure(ax.figure)


def test_an_execution_says_how_long_it_will_take(tmp_path):
    todo = [tmp_path / "nbs" / f"{name}.ipynb" for name in "abc"]
    known = {"nbs/a.ipynb": {"seconds": 200}, "nbs/b.ipynb": {"seconds": 100}, "nbs/d.ipynb": {"seconds": 0}}
    assert _book.expected(todo, tmp_path, known, 1) == "about 7 minutes"  # c takes as long as the others on average
    assert _book.expected(todo, tmp_path, known, 2) == "about 3 minutes"
    assert _book.expected(todo[:1], tmp_path, {}, 1) == "about 1 minute on two cores"
