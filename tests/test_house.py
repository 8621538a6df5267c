"The house and its own checks: what is on the shelf, and that every check can fail and says why."
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import _book  # noqa: E402
import _site  # noqa: E402
import check_notebooks  # noqa: E402
import checks  # noqa: E402
import move  # noqa: E402

from rap_analyzer import book  # noqa: E402

def tracked() -> list[Path]:
    "The files that belong to the project: everything git knows or would add."
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# ---- what is on the shelf

@pytest.mark.parametrize("name", ["nbs", "rap_analyzer", "adr", "exercises", "scripts", "settings.ini", "docker-compose.yml",
                                  "README.md", "LICENSE", "NOTICE", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run"])
def test_top_level(name):
    assert (ROOT / name).exists()


def test_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "TERMS AND CONDITIONS" in text and "9. Accepting Warranty" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "rap-analyzer" in (ROOT / "NOTICE").read_text()


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "./scripts/lab" in text and "./scripts/test" in text


def test_no_address_of_a_registry_and_no_path_of_a_machine():
    hosts = "py" + "pi.org", "python" + "hosted", "npm" + "js.", "deb." + "debian"
    telling = [str(ROOT)] + [str(ROOT.parent)] * (len(ROOT.parts) > 2 and ROOT.parent != Path(tempfile.gettempdir()))
    folders = [f"{folder}{os.sep}" for folder in telling]  # many files name the system's temporary folder: a clone may lie in it
    pattern = re.compile("|".join(map(re.escape, [*hosts, *folders])) + r"|/(?:home|Users)/[a-z]", re.I)
    bad = []
    for file in tracked():
        try: text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError: continue
        bad += [f"{file.relative_to(ROOT)}: {m.group()}" for m in pattern.finditer(text)]
    assert not bad


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-bench.lock", "scripts/bootstrap.lock"])
def test_locks_pin_and_hash_everything_and_name_no_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert blocks and all(re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^\s;]+", b) for b in blocks)
    without = [b.split("==")[0] for b in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", b)]
    assert not without


def test_lock_holds_every_declared_dependency():
    import tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[A-Za-z0-9._-]+", d).group().lower()
             for d in project["dependencies"] + project["optional-dependencies"]["dev"]]
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==", (ROOT / "requirements.lock").read_text(), re.M))
    assert not [n for n in names if n.replace("_", "-") not in locked]


# ---- settings: a wrong value stops the program at the door

@pytest.mark.parametrize("env, says", [
    ({"RAP_CATALOG_TRACKS": "57.000"}, ["RAP_CATALOG_TRACKS", "57.000", "whole number", "100", "10,000,000"]),
    ({"RAP_LAB_PROFILE": "huge"}, ["RAP_LAB_PROFILE", "huge", "full, smoke"]),
    ({"RAP_SEARCH_RECALL_TARGET": "1.5"}, ["RAP_SEARCH_RECALL_TARGET", "1.5", "at most 1"]),
    ({"RAP_SETTINGS": "misspelt.ini"}, ["misspelt.ini", "[catalog]", "trakcs", "did you mean tracks?"]),
    ({"RAP_SETTINGS": "section.ini"}, ["section.ini", "[katalog]", "catalog"]),
    ({"RAP_SETTINGS": "value.ini"}, ["value.ini", "[api] port", "0", "whole number from 1 to 65,535"]),
])
def test_settings_say_what_is_wrong(tmp_path, env, says):
    (tmp_path / "misspelt.ini").write_text("[catalog]\ntrakcs = 1000\n")
    (tmp_path / "section.ini").write_text("[katalog]\ntracks = 1000\n")
    (tmp_path / "value.ini").write_text("[api]\nport = 0\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAP_")} | {"PYTHONPATH": str(ROOT)} | env
    ask = "from rap_analyzer.core import settings, LabError\ntry: settings()\nexcept LabError as e: print(e)\nelse: print('fine')"
    done = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
    for word in says: assert word in done.stdout


# ---- the checks of the notebooks: a good one passes, and each way to be bad is refused with its own words

def md(text: str) -> dict:
    return {"cell_type": "markdown", "id": "x", "metadata": {}, "source": text.splitlines(keepends=True)}


def code(text: str, **more) -> dict:
    return {"cell_type": "code", "id": "x", "metadata": {}, "source": text.splitlines(keepends=True), "execution_count": None,
            "outputs": []} | more


GOOD_EXPORT = """#| export
def loud(
    text: str,  # any text
) -> str:  # in capitals
    "Say it louder."
    return text.upper()"""


def good(**replace: dict) -> list[dict]:
    "The cells of a small notebook that follows every rule; `title=`, `owner=`, `export=`, `more=` and `end=` replace one."
    cells = {"title": md("# How loud is loud?\n> A question."), "owner": code("#| default_exp music.volume"),
             "export": code(GOOD_EXPORT), "more": md("## Try\nLook at [the start](../lab/10_core.ipynb)."),
             "end": md("## What changed in your head\n- Loudness is a choice.")} | replace
    for i, c in enumerate(cells.values()): c["id"] = f"cell{i}"
    return list(cells.values())


BOOK = """[[chapter]]
folder = "lab"
title = "The lab"
about = "first things"
notebooks = [{file = "10_core", topic = "First", question = "What is first?"}]

[[chapter]]
folder = "music"
title = "Music"
about = "sounds"
notebooks = [{file = "12_volume", topic = "Volume", question = "How loud is loud?"}]
"""


def write(folder: Path, cells: list[dict], name: str = "12_volume.ipynb") -> Path:
    "A notebook file, in the form that nbdev-clean leaves."
    folder.mkdir(parents=True, exist_ok=True)
    nb = {"cells": cells, "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}},
          "nbformat": 4, "nbformat_minor": 5}
    path = folder / name
    path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A small project of two notebooks with everything that the checks read."
    root = tmp_path_factory.mktemp("built")
    shutil.copy(ROOT / "pyproject.toml", root)
    for name in ("LICENSE", "NOTICE"): (root / name).write_text("x")
    core = [md("# What is first?"), code("#| default_exp core"), code("#| export\nfirst: int = 1"), md("## Learned\nOne.")]
    for i, c in enumerate(core): c["id"] = f"core{i}"
    write(root / "nbs/lab", core, "10_core.ipynb")
    write(root / "nbs/music", good())
    (root / "nbs/book.toml").write_text(BOOK)
    (root / "README.md").write_text(checks.readme.written(root, f"# x\n{checks.readme.BEGIN}\n{checks.readme.END}\n"))
    (root / "rap_analyzer").mkdir()
    assert checks.tool(root, "nbdev-export") == []
    (root / "docker-compose.yml").write_text("services:\n  db: {image: x}\n  api: {image: y, depends_on: [db]}\n")
    return root


@pytest.fixture
def house(built, tmp_path):
    "A copy of the small project to spoil."
    return shutil.copytree(built, tmp_path / "house")


def f(signature: str, body: str = '    "Doc."\n    return 1') -> dict:
    return code(f"#| export\n{signature}\n{body}")


LONG = "\n".join(f"x{i} = {i}" for i in range(26))
BAD = {
    "title states": (dict(title=md("# Loud is loud")), "cell 1: the title has to ask"),
    "title is second": (dict(title=code("1")), "cell 1: the title has to ask"),
    "second title": (dict(more=md("# Again?\ntext")), "cell 4: a second H1"),
    "second title in the first cell": (dict(title=md("# A?\n\n# B?")), "cell 1: a second H1"),
    "outputs": (dict(more=code("1", outputs=[{"output_type": "stream", "name": "stdout", "text": ["1"]}])), "cell 4: has outputs"),
    "execution count": (dict(more=code("1", execution_count=3)), "cell 4: has an execution count"),
    "wide line": (dict(more=code("x = 1  # " + "x" * 124)), "cell 4: line 1 has 133 characters, at most 132"),
    "directive below code": (dict(export=code("import os\n#| export")), "cell 3: `#| export` stands below code"),
    "other module": (dict(owner=code("#| default_exp music.noise")),
                     "cell 2: default_exp is music.noise, the file's name says volume"),
    "no module": (dict(owner=code("1")), "exactly one `#| default_exp`, in the first code cell"),
    "two modules": (dict(more=code("#| default_exp music.volume")), "exactly one `#| default_exp`"),
    "long export": (dict(export=code("#| export\n" + LONG)), "cell 3: 26 lines in an export cell, at most 25"),
    "four definitions": (dict(export=code("#| export\n" + "".join(f'class A{i}:\n    "D."\n' for i in range(4)))), "4 definitions"),
    "no annotation": (dict(export=f("def g(a, b: int, *c, **d) -> int:")), "cell 3: g: no annotation on a, c, d"),
    "no return": (dict(export=f("def g():")), "cell 3: g: no annotation on what it returns"),
    "method": (dict(export=f("class C:\n    'D.'\n    def g(self, a) -> int:", "        'D.'")), "C.g: no annotation on a"),
    "private function": (dict(export=f("def _g(a) -> int:")), "cell 3: _g: no annotation on a"),
    "no docstring": (dict(export=f("def g() -> int:", "    return 1")), "cell 3: g has no docstring"),
    "no class docstring": (dict(export=f("class C:", "    a: int = 1")), "cell 3: C has no docstring"),
    "no parse": (dict(export=code("#| export\ndef (")), "cell 3: does not parse"),
    "long function": (dict(export=f("def g() -> int:", '    "D."\n' + "\n" * 44 + "    return 1")), "g has 47 lines, at most 45"),
    "figure": (dict(more=md("It takes 12 ms, or 1,000 rows/s.")), "cell 4: figures typed into prose: 12 ms, 1,000 rows/s"),
    "ratio": (dict(more=md("That is 10x faster, or 3 × even.")), "figures typed into prose: 10x, 3 ×"),
    "figure in a table": (dict(more=md("| a | b |\n|---|---|\n| p50 | 3.2 s |")), "figures typed into prose: 3.2 s"),
    "figure without reason": (dict(more=md("12 ms <!-- figure: -->")), "figures typed into prose: 12 ms"),
    "reason without figure": (dict(more=md("fast <!-- figure: the source says so -->")), "needs both a figure"),
    "no closing": (dict(end=md("Good bye.")) | dict(more=md("Still.")), "no closing section"),
    "empty closing": (dict(more=md("."), end=md("## What changed in your head\n")), "no closing section"),
    "closing before the end": (dict(more=md("## Learned\nA lot."), end=f("def g() -> int:")), "no closing section"),
    "nothing learned above the library": (dict(end=md("## Learned\nA lot.\n\n## How it is built\nOne function.")),
                                          "`## What changed in your head` has to stand above `## How it is built`"),
    "learned below the library": (dict(more=md("## How it is built\nOne function.")), "has to stand above `## How it is built`"),
    "an empty library": (dict(end=md("## What changed in your head\nA lot.\n\n## How it is built\n### Volume\nLoud.")),
                         "cell 5: `## How it is built` has to say in a sentence what is found there"),
    "a section behind the library": (dict(end=md("## What changed in your head\nA lot.\n\n## How it is built\nHere.\n\n## More")),
                                     "cell 5: `## More` below `## How it is built`"),
    "a guess that no form can ask for": (dict(more=code("predict('x.gain', scale=tuple(range(1, 9)))")),
                                         "cell 4: the site makes no form of `predict('x.gain'"),
    "a sentence that nobody sees": (dict(more=code('say("{x.gain.p50:.0f} times.")\nassert True')), "cell 4: nobody sees say(...)"),
    "a comparison inside a block": (dict(more=code('if True: record("x.y", 3).against_prediction()')),
                                    "nobody sees against_prediction"),
    "dead link": (dict(more=md("[next](13_noise.ipynb)")), "cell 4: the link to 13_noise.ipynb leads nowhere"),
    "dead file link": (dict(more=md("[why](../adr/0001-x.md#part)")), "the link to ../adr/0001-x.md#part leads nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_notebook_is_refused(tmp_path, case):
    replace, says = BAD[case]
    write(tmp_path / "nbs/lab", [md("# ?")], "10_core.ipynb")
    found = check_notebooks.check(write(tmp_path / "nbs/music", good(**replace)))
    assert [p for p in found if says in p], found


@pytest.mark.parametrize("text", [
    "A vector of 512 dimensions is 2 KB.", "Since the 90s and the 1990s.", "A matrix of 57,000 x 512, 4x4 tiles.", "$3x + 2$",
    "See [it](../lab/10_core.ipynb#2-s).", "```mermaid\n# not a title\n[a](b)\n```", "`{store.p95:.1f} ms` comes from a run.",
    "We stop after 2 s. <!-- figure: a limit we chose -->", "Half past 5. Sums of 3 items."])
def test_a_good_notebook_passes(tmp_path, text):
    write(tmp_path / "nbs/lab", [md("# ?")], "10_core.ipynb")
    assert check_notebooks.check(write(tmp_path / "nbs/music", good(more=md(text)))) == []


@pytest.mark.parametrize("told", [md("<!-- outcome: x.gain -->\nIt lost."), code('say("It is {x.gain.p50:.0f} times.")'),
                                  code('record("x.gain", 3)')])
def test_an_outcome_above_its_question_is_refused(tmp_path, told):
    write(tmp_path / "nbs/lab", [md("# ?")], "10_core.ipynb")
    asks, answers = code('predict("x.gain")'), code('record("x.gain", 3).against_prediction()')
    def found(*cells: dict) -> list[str]:
        first, *rest = good()
        return check_notebooks.check(write(tmp_path / "nbs/music", [first, *rest[:2], *cells, *rest[2:]]))
    assert found(told, asks, answers) == ["cell 4: tells how x.gain went; its question comes in cell 5"]
    assert found(asks, answers, told) == []


def test_an_outcome_in_a_notebook_before_its_question_is_refused():
    def cells(*raw: dict) -> list[check_notebooks.Cell]: return [check_notebooks.Cell(i, c) for i, c in enumerate(raw, 1)]
    told, asked = cells(md("# ?"), md("<!-- outcome: x.gain -->\nIt lost.")), cells(
        md("# ?"), code('predict("x.gain")'), code('record("x.gain", 3).against_prediction()'))
    assert list(check_notebooks.foretold({"a": asked, "b": told})) == []
    assert list(check_notebooks.foretold({"a": told, "b": asked})) == ["a cell 2: tells how x.gain went, which b asks later"]
    assert list(check_notebooks.foretold({"a": told})) == ["a cell 2: the outcome of x.gain, which is asked nowhere"]


def test_the_library_may_follow_the_lesson(tmp_path):
    cells = good(owner=code("#| default_exp music.volume"), export=code("1"), more=md("## What changed in your head\nA lot."),
                 end=md("## How it is built\nOne function.\n\n### Loud"))
    assert check_notebooks.check(write(tmp_path / "nbs/music", [*cells, code(GOOD_EXPORT)])) == []


def test_a_kept_figure_is_listed(tmp_path):
    path = write(tmp_path / "nbs/music", good(more=md("We stop after 2 s. <!-- figure: a limit we chose -->")))
    assert check_notebooks.notes(tmp_path) == ["nbs/music/12_volume.ipynb cell 4: figure kept: a limit we chose"]
    assert path.exists()


@pytest.mark.parametrize("name", ["volume.ipynb", "1_volume.ipynb", "12-volume.ipynb", "12_Volume.ipynb"])
def test_file_names(tmp_path, name):
    assert "the file's name has to be NN_module.ipynb" in check_notebooks.check(write(tmp_path / "nbs", good(), name))


def test_no_notebooks_is_a_problem(tmp_path):
    assert check_notebooks.problems(tmp_path) == ["nbs: no notebooks found"]
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "10_core.ipynb").write_text("{")
    assert check_notebooks.problems(tmp_path) == ["there is no nbs/book.toml: it lists the notebooks in order.",
                                                  "nbs/10_core.ipynb is not a notebook"]


def test_exercises_are_looked_at_too(tmp_path):
    write(tmp_path / "nbs", good())
    write(tmp_path / "exercises", [md("# Faster\n10x")], "21_hnsw.ipynb")
    found = [p for p in check_notebooks.problems(tmp_path) if p.startswith("exercises/21_hnsw.ipynb")]
    assert len(found) == 2 and "title has to ask" in found[0] and "10x" in found[1]


# ---- the other checks, on a small project: all pass, then each one fails for its own reason

def command(root: Path, *names: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "scripts" / "checks.py", "--root", root, *names], capture_output=True, text=True)


def test_a_good_house_passes_and_each_check_prints_one_line(house):
    done = command(house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * len(checks.CHECKS)


def test_all_cheap_checks_run_even_if_one_fails(house):
    (house / "docker-compose.yml").unlink()
    (house / "bad.py").write_text("import os\n")
    done = command(house)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")] == [
        "FAILED", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "FAILED", "2"]
    assert "bad.py:1:8: F401" in done.stdout and "docker-compose.yml is missing" in done.stdout
    assert "pytest was not started" in done.stdout


def test_exercises_are_held_to_their_form(house):
    assert checks.exercises(house) == []
    (house / "exercises" / "solutions").mkdir(parents=True)
    assert "has no ids.toml" in checks.exercises(house)[0]
    shutil.copytree(ROOT / "exercises", house / "exercises", dirs_exist_ok=True)
    ids, listed = re.findall(r'^("[\d.]+") = "\w', (ROOT / "exercises/ids.toml").read_text(), re.M), house / "nbs/book.toml"
    listed.write_text(listed.read_text().replace('loud?"}', f'loud?", exercises = [{", ".join(ids[1:])}]}}'))
    assert checks.exercises(house) == [f"exercise {ids[0][1:-1]} belongs to no notebook: add it to one in nbs/book.toml"]
    listed.write_text(listed.read_text().replace("exercises = [", f"exercises = [{ids[0]}, "))
    assert checks.exercises(house) == []
    stub = house / "exercises" / "28_which_p95.ipynb"
    stub.write_text(stub.read_text().replace("unequal", "equal").replace("Two workers", "Three workers"))
    assert checks.exercises(house) == ["28_which_p95.ipynb is not what its solution notebook makes: run scripts/stubs.py"]


def test_notebooks_and_checkers_are_linted(house):
    bad = [md("# ?"), code("import os\nzip([1], [2])"), code("import sys\nsys")]  # an unused import; the rest may stand
    write(house / "nbs/lab", bad, "15_bad.ipynb")
    cells = [code("#| exercise 21.9"), code("import os  # for the reader"),
             code("#| checker\nimport os\n\ndef f():\n    return gone")]
    write(house / "exercises/solutions", cells, "21_x.ipynb")
    found = sorted(checks.ruff(house))
    assert [re.sub(r"(F\d+).*", r"\1", x) for x in found] == [
        "exercises/solutions/21_x.ipynb:cell 3:2:8: F401", "exercises/solutions/21_x.ipynb:cell 3:5:12: F821",
        "exercises/solutions/21_x.ipynb:cell 3:5:12: F821", "nbs/lab/15_bad.ipynb:cell 2:1:8: F401"], found


def test_the_chapters_in_the_readme_follow_the_book(house):
    assert checks.readme.problems(house) == []
    listed = house / "nbs/book.toml"
    was = listed.read_text()
    listed.write_text(was + '[[chapter]]\nfolder = "noise"\ntitle = "Noise"\nabout = "what is left"\nnotebooks = []\n')
    assert checks.readme.problems(house) == ["README.md lists other chapters than nbs/book.toml: "
                                             "run .venv/bin/python scripts/readme.py"]
    subprocess.run([sys.executable, ROOT / "scripts" / "readme.py", "--root", house], check=True)
    assert checks.readme.problems(house) == []
    assert "  noise/             Noise: what is left\n```\n" in (house / "README.md").read_text()
    (house / "README.md").write_text("Nothing.")
    assert checks.readme.problems(house)[0].startswith("README.md has no chapters between <!-- chapters")


def test_unknown_check(house):
    done = command(house, "spelling")
    assert done.returncode == 2 and "no check is called spelling" in done.stderr


def test_clean_sees_what_nbdev_would_change(house):
    cells = good()
    cells[2]["metadata"] = {"scrolled": True}
    path = write(house / "nbs/music", cells)
    before = path.read_bytes()
    assert [p.split(":")[0] for p in checks.clean(house)] == ["nbs/music/12_volume.ipynb is not clean"]
    assert path.read_bytes() == before


def test_clean_keeps_tags(house):
    cells = good()
    cells[2]["metadata"] = {"tags": ["parameters"]}
    write(house / "nbs/music", cells)
    assert checks.clean(house) == []


def test_export_sees_an_edited_module_and_an_unexported_notebook(house):
    module = house / "rap_analyzer" / "music" / "volume.py"
    module.write_text(module.read_text().replace("upper", "lower"))
    assert [p.split()[0] for p in checks.export(house)] == ["rap_analyzer/music/volume.py"]
    assert checks.export(house) == []
    write(house / "nbs/music", good(export=code(GOOD_EXPORT.replace("upper", "title"))))
    assert [p.split()[0] for p in checks.export(house)] == ["rap_analyzer/music/volume.py"]


def test_owners_sees_orphans_and_missing_modules(house):
    (house / "rap_analyzer" / "left_over.py").write_text("")
    (house / "rap_analyzer" / "core.py").unlink()
    (house / "rap_analyzer" / "migrations").mkdir()
    (house / "rap_analyzer" / "migrations" / "env.py").write_text("")
    assert checks.owners(house) == ["rap_analyzer/left_over.py belongs to no notebook: delete it, or give it one",
                                    "rap_analyzer/core.py is promised by a notebook and missing"]


@pytest.mark.parametrize("module, line, broken", [
    ("core.py", "from rap_analyzer.music.volume import loud", "modules import from notebooks above their own BROKEN"),
    ("core.py", "from .music import volume", "modules import from notebooks above their own BROKEN"),
    ("music/volume.py", "import psycopg",
     "only lab and postgres and search.copy and search.sessions and search.store and "
     "serve.replica and serve.failover and platform.designs and giants.regions and giants.moves import psycopg BROKEN"),
    ("music/volume.py", "from fastapi import FastAPI", "only app and platform.* and *.routes and *_routes import fastapi BROKEN"),
])
def test_imports_see_a_wrong_arrow(house, module, line, broken):
    assert checks.imports(house) == []
    file = house / "rap_analyzer" / module
    file.write_text(f"{file.read_text()}\n{line}\n")
    assert broken in " ".join(" ".join(checks.imports(house)).split())  # long names are wrapped


def test_the_order_of_the_book_is_the_order_of_imports(house):
    file = house / "rap_analyzer/core.py"
    file.write_text(f"{file.read_text()}\nfrom rap_analyzer.music.volume import loud\n")
    assert "BROKEN" in "\n".join(checks.imports(house))
    _, first, second = BOOK.split("[[chapter]]")
    (house / "nbs/book.toml").write_text(f"[[chapter]]{second}\n[[chapter]]{first}")
    assert checks.imports(house) == []


# ---- the book: one file says the order, and everything follows

def told(root: Path) -> str: return "\n".join(check_notebooks.problems(root))


WAY = '[[path]]\nname = "x"\ntitle = "X"\nminutes = 9\nnotebooks = []\n'


@pytest.mark.parametrize("old, new, says", [
    ('topic = "Volume"', 'topic = "First"', "two notebooks have the topic 'First'"),
    ("How loud is loud?", "How loud?", "12_volume.ipynb: its title is 'How loud is loud?', nbs/book.toml says 'How loud?'"),
    ('"12_volume"', '"12_noise"', "nbs/music/12_volume.ipynb is not listed in nbs/book.toml: add a line to its chapter"),
    ('"12_volume"', '"12_noise"', "nbs/book.toml lists nbs/music/12_noise.ipynb, which is not there"),
    ('topic = "Volume", ', "", "notebook 1 of music needs topic (str)"),
    ('about = "sounds"', 'abuot = "sounds"', "chapter 2 needs about (str)"),
    ('about = "sounds"', 'about = "sounds"\ncolour = "red"', "chapter 2 has an unknown key 'colour'"),
    ("[[chapter]]", "[[chapter", "nbs/book.toml: "),
    ('loud?"}]', 'loud?"}]\n[[path]]\nname = "x"', "path 1 needs title (str), minutes (int), notebooks (list)"),
    ('loud?"}]', 'loud?"}]\n' + 2 * WAY, "two paths have the name 'x'"),
    ('loud?"}]', 'loud?"}]\n' + WAY + 'problem = "?"\n' + WAY + WAY + 'problem = "!"', "have to stand side by side"),
])
def test_the_book_and_the_folder_have_to_agree(house, old, new, says):
    assert check_notebooks.problems(house) == []
    (house / "nbs/book.toml").write_text(BOOK.replace(old, new, 1))
    assert says in told(house)


def test_a_notebook_is_inserted_and_another_moved_by_book_toml_alone(house, tmp_path):
    "On a copy of the real course: nothing but book.toml is touched, and what derives from it follows."
    root = tmp_path / "copy"
    for name in ("nbs", "rap_analyzer", "exercises", "adr", "sdk"): shutil.copytree(ROOT / name, root / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "settings.ini"): shutil.copy(ROOT / name, root)
    cells = good(title=md("# How far is near?"), owner=code("#| default_exp search.distance"), more=md("## Try\nIt works."))
    write(root / "nbs/performance", cells, "12_distance.ipynb")
    file = root / "nbs/book.toml"
    lines = file.read_text().splitlines()
    find = lambda stem: next(i for i, line in enumerate(lines) if f'file = "{stem}"' in line)
    lines.insert(find("15_index"), '  {file = "12_distance", topic = "Distances", question = "How far is near?"},')
    moved = lines.pop(find("75_files"))
    lines.insert(find("70_generator"), moved)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and p != file}
    file.write_text("\n".join(lines) + "\n")
    assert told(root) == ""
    order = [n.name for n in book.read(root).notebooks]
    at = order.index("performance/12_distance")
    assert order[at - 1:at + 2] == ["performance/14_few", "performance/12_distance", "performance/15_index"]
    assert order.index("analyzer/75_files") + 1 == order.index("analyzer/70_generator")
    assert {p: p.read_bytes() for p in before} == before
    checks.tool(root, "nbdev-export")
    assert checks.owners(root) == [] and checks.imports(root) == []
    config = {"website": {"sidebar": {"contents": ["chapters"]}}}
    _site.sidebar(config, {}, book.read(root))
    sections = {s["section"]: [c["text"] for c in s["contents"]] for s in config["website"]["sidebar"]["contents"]}
    shown = sections["Performance"]
    assert shown[(i := shown.index("Distances")) - 1:i + 2] == ["Planner estimates per tenant", "Distances", "HNSW indexes"]
    assert [p.stem for p in _book.notebooks(root)].index("12_distance") == at


def test_moving_a_notebook_mends_the_links(house):
    subprocess.run(["git", "init", "-q"], cwd=house, check=True)
    subprocess.run(["git", "add", "-A"], cwd=house, check=True)
    (house / "README.md").write_text("See [it](nbs/music/12_volume.ipynb#try), `](nbs/none.ipynb)` and [that](LICENSE).")
    move.move(house, {"nbs/music/12_volume.ipynb": "nbs/music/20_volume.ipynb", "nbs/lab/10_core.ipynb": "nbs/core/10_core.ipynb"})
    assert (house / "README.md").read_text() == "See [it](nbs/music/20_volume.ipynb#try), `](nbs/none.ipynb)` and [that](LICENSE)."
    assert "[the start](../core/10_core.ipynb)" in (house / "nbs/music/20_volume.ipynb").read_text()
    assert told(house).splitlines() == ["nbs/core/10_core.ipynb is not listed in nbs/book.toml: add a line to its chapter",
                                        "nbs/book.toml lists nbs/lab/10_core.ipynb, which is not there"]
    with pytest.raises(SystemExit, match="there is no nbs/music/12_volume.ipynb"):
        move.move(house, {"nbs/music/12_volume.ipynb": "nbs/music/25_volume.ipynb"})
    with pytest.raises(SystemExit, match="10_core.ipynb exists already"):
        move.move(house, {"nbs/music/20_volume.ipynb": "nbs/core/10_core.ipynb"})


def test_what_comes_next_is_not_typed():
    assert "book.toml" in "".join(check_notebooks.onward([check_notebooks.Cell(1, md("Text.\n\nNext: [more](x.ipynb)"))]))
    assert not list(check_notebooks.onward([check_notebooks.Cell(1, md("The next: `Next:`"))]))


@pytest.mark.parametrize("text, says", [
    ("services:\n  api: {image: y, depends_on: [db]}\n", "api depends on db, which is not a service"),
    ("services:\n  api:\n    image: y\n    depends_on: {db: {condition: service_healthy}}\n", "api depends on db"),
    ("services:\n  api: {image: y, prots: ['1:1']}\n", "prots"),
    ("services: [api]\n", "services"),
])
def test_compose_sees_bad_files(house, text, says):
    (house / "docker-compose.yml").write_text(text)
    assert says in "\n".join(checks.compose(house))
