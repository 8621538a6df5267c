"What the docs site adds: guesses on the page, the reference, search, maths and diagrams, reading paths, folds, and Quarto."
import json
import re
import sys
from importlib.util import find_spec
from pathlib import PurePosixPath

import pytest
import test_book
import yaml
from test_book import PAGE, ROOT, cell, put

import _api_pages  # isort: skip  (test_book has put scripts/ on the path)
import _guess  # isort: skip
import _marks  # isort: skip
import _paths  # isort: skip
import _proof  # isort: skip
import _site  # isort: skip
from rap_analyzer import _modidx, book, ledger
from rap_analyzer.guess import GuessForm

DRAWS = pytest.mark.skipif(not find_spec("mermaidx"), reason="there is no wheel of mermaidx's engine for this machine")
house = test_book.house  # the same small project

BOOK = [ROOT / n.path for n in book.read(ROOT).notebooks]


# ---- a guess on the page

def hides(*sources: str) -> dict[int, set[str]]:
    "Which cells hide for which guess."
    return _guess.spoilers(list(sources), _guess.asks(list(sources)))


def test_results_between_a_guess_and_its_verdict_are_spoilers():
    find = lambda *sources: set(hides(*sources))
    assert find("predict('k')", "x = measure('k')", "x.against_prediction()", "y") == {1, 2}
    assert find("a", "predict('k', scale='ratio')", "b.against_prediction()") == {2}
    assert find("predict('k', 30)", "b.against_prediction()") == set()  # the guess is in the cell already
    assert find("predict('k', guess=3)", "b.against_prediction()") == set()
    assert find("predict('k')", "x") == set()  # nothing says where it would end
    assert find("#| export\ndef predict(key): ...\npredict('k')", "b.against_prediction()") == set()
    assert find("x.against_prediction()", "predict('k')") == set()
    assert find("predict(f'{k}')", "x.against_prediction()") == set()  # which key it is cannot be read
    again = "predict('k')", "r = measure('k')", "r.against_prediction()", "rows = r.rows", "other = 1", "say(rows)", "## ", "say(r)"
    assert find(*again) == {1, 2, 3, 5}  # the same values shown again, up to the next heading
    far = "predict('k.a')", "record('k.a', 1).against_prediction()", "## ", "say('{k.ab.p50} {j.k.a}')", "say('{k.a.p50:.1f} s')"
    assert find(*far) == {1, 4}  # a sentence cites the answer, wherever it stands
    assert find("%magic predict('k')", "x.against_prediction()") == set()


def test_each_guess_hides_what_answers_it():
    two = ("predict('a')", "predict('b', scale='share')", "x = 1", "record('b', x).against_prediction()",
           "y = record('a', 2)", "y.against_prediction()")
    assert hides(*two) == {2: {"a", "b"}, 3: {"a", "b"}, 4: {"a"}, 5: {"a"}}  # and the question of b spoils nothing
    far = ("predict('k')", "## ", "show(table)", "n = 2", "m = n + 1", "## ", "record('k', m).against_prediction()")
    assert hides(*far) == {3: {"k"}, 4: {"k"}, 6: {"k"}}  # past a heading, only what the answer is made from


def test_the_form_has_the_steps_of_the_notebook():
    ask = lambda code: _guess.asks([code, "x.against_prediction()"])[0]
    asked = {"predict('k')": "ratio", "predict('k', scale='share')": "share", "predict('k', scale=(5, 1))": (1, 5)}
    for code, scale in asked.items():
        form = GuessForm("k", scale)
        assert [(label, step) for label, step in form.steps.options] == list(zip(ask(code).labels, ask(code).steps, strict=True))
    assert _guess.asks(["predict('k', scale=('a',))", "x.against_prediction()"]) == []
    assert " data-share" in _guess.form(ask("predict('k', scale='share')"), "?", None)
    made = _guess.form(ask("predict('k', scale=(1, 1000))"), "How <many>?", (39.0, "39 queries"))
    assert 'data-guess="1000" aria-pressed="false">1,000</button>' in made and "How &lt;many&gt;?" in made
    assert "data-share" not in made
    assert 'data-truth="39" data-measured="39 queries" hidden' in made


@pytest.mark.parametrize(("value", "unit", "written"), [
    (243.21, "x", "243.2x"), (1.44, "of 100", "1.44 of 100"), (.9, "", "0.9"), (123_456, "x", "123,456x"), (1e-7, "x", "1e-07x"),
    (39, "queries", "39 queries")])
def test_the_figure_is_the_one_the_ledger_says(tmp_path, value, unit, written):
    "Guess or no guess: if the ledger's sentence changes, the page has to learn to read it."
    said = ledger.record("t.key", value, unit=unit, home=tmp_path).against_prediction(home=tmp_path).text
    number, figure = _guess.measured(said, "t.key")
    assert figure == written and number == pytest.approx(value, rel=1e-3)
    for guess in (value, value * 50):
        ledger.predict("t.key", guess, scale=(1, 2), home=tmp_path)
        told = ledger.last("t.key", home=tmp_path).against_prediction(home=tmp_path).text
        assert "you guessed" in told and _guess.measured(told, "t.key") == (number, figure)
    assert _guess.measured(said, "other.key") is None and _guess.measured("", "t.key") is None


def test_the_page_does_not_say_that_nobody_guessed(tmp_path, house):
    said = ledger.record("k", 3.0, unit="x", home=tmp_path).against_prediction(home=tmp_path)
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": repr(said), "text/html": said._repr_html_()}}
    assert "Nobody guessed" in json.dumps(output)
    nb = test_book.notebook(cell("markdown", "# How?"), cell("code", "predict('k')"),
                            cell("code", "record('k', 3).against_prediction()", [output]))
    page = json.dumps(_site.chapter(nb, _site.Where(PurePosixPath("nbs/20_x.ipynb"), house)))
    assert "k: 3x." in page and "Nobody guessed" not in page and "data-truth=\\\"3\\\"" in page


def test_a_time_cannot_be_compared_with_a_ratio(tmp_path):
    ledger.predict("t.ms", 3, home=tmp_path)
    said = ledger.record("t.ms", 5.0, unit="ms", home=tmp_path).against_prediction(home=tmp_path).text
    assert "record the ratio" in said and _guess.measured(said, "t.ms") is None


def test_a_form_asks_what_the_prose_asks():
    prose = "## Why? Look\nA *table* has 3.5 rows. **How [many](x.md) times?** And then: does `f(x)` help?\n\nThe end."
    assert _guess.questions(prose, 1) == ["Does f(x) help?"]
    assert _guess.questions(prose, 2) == ["How many times?", "Does f(x) help?"]
    assert _guess.questions("So: `similar` takes how long?", 1) == ["similar takes how long?"]
    assert _guess.questions("Nothing.", 1) == ["What is your guess?"]
    asked = _guess.asks(["# text", "predict('a')", "predict('b')", "record('a', 1).against_prediction()",
                         "record('b', 1).against_prediction()"])
    legends = _site.worded(["markdown"] + ["code"] * 4, [prose, "", "", "", ""], asked)
    assert {a.key: q for a, q in legends.items()} == {"a": "How many times?", "b": "Does f(x) help?"}


# ---- what runs in the reader's browser

@pytest.fixture(scope="module")
def lab():
    "The functions of nbs/site.js that need no page, called with JSON."
    quickjs = pytest.importorskip("quickjs", reason="there is no wheel of quickjs-ng for this machine")
    context = quickjs.Context()
    context.eval((ROOT / "nbs/site.js").read_text(encoding="utf-8"))
    def call(code: str, **given: object) -> object:
        for name, value in given.items(): context.eval(f"globalThis.{name} = {json.dumps(value)}")
        return json.loads(context.eval(f"JSON.stringify({code})"))
    return call


ENTRIES = [["a.html", "Что слышит слушатель?", "", "Слушатели выбирают треки. Каждый трек короткий, и кэш помогает."],
           ["a.html#b", "Что слышит слушатель?", "Измерение", "Мы измеряем время запроса и ёмкость кэша."],
           ["b.html", "What does a cache really buy?", "", "Caching queries: two caches, one stampede."],
           ["b.html#c", "What does a cache really buy?", "The index", "HNSW indexes over halfvec, measured by against_prediction."],
           ["r.html#similar", "search.index", "similar", "def similar(query): the k most similar tracks"],
           ["c.html", "More", "similar tracks, at length", "similar similar similar similar, один куплет, форматы"]]


@pytest.mark.parametrize(("query", "first"), [
    ("трек", "a.html"), ("ТРЕКИ", "a.html"), ("треками", "a.html"), ("слушателей", "a.html"), ("измерения", "a.html#b"),
    ("емкости", "a.html#b"), ("запросы", "a.html#b"), ("cached", "b.html"), ("CACHES query", "b.html"), ("stampede", "b.html"),
    ("stampd", "b.html"), ("tsampede", "b.html"), ("against_prediction", "b.html#c"), ("ind", "b.html#c"),
    ("halfvec index", "b.html#c"),
    ("similar", "r.html#similar"), ("слуш трек", "a.html"),
    ("куплеты", "c.html"), ("куплет", "c.html"), ("форматов", "c.html"), ("формат", "c.html")])
def test_search_finds_words_by_their_stem_or_beginning(lab, query, first):
    found = lab("lab.find(lab.index(entries), query).map((r) => r.entry[0])", entries=ENTRIES, query=query)
    assert found[0] == first, found


def test_search_finds_a_page_by_its_topic(lab):
    by_topic = [[*e, {"b.html": "Caching and memory", "r.html": ""}.get(e[0].partition("#")[0], "Listening")] for e in ENTRIES]
    found = lambda query: lab("lab.find(lab.index(entries), query).map((r) => r.entry[0])", entries=by_topic, query=query)
    assert found("caching and memory") == ["b.html", "b.html#c"] and found("memory")[0] == "b.html"
    assert found("listening halfvec") == [] and found("memory halfvec") == ["b.html#c"]


@pytest.mark.parametrize("query", ["zebra", "трактор", "cache трек", "", "  ", "?!", "zzzz"])
def test_search_finds_nothing_where_nothing_is(lab, query):
    assert lab("lab.find(lab.index(entries), query)", entries=ENTRIES, query=query) == []


def test_an_excerpt_shows_where_the_words_are(lab):
    text = "word " * 60 + "then треков & more " + "word " * 60
    pieces = lab("lab.excerpt(text, new Set([lab.stem('треки')]))", text=text)
    assert ["треков", True] in pieces and sum(hit for _, hit in pieces) == 1
    assert "".join(p for p, _ in pieces).startswith("… word") and len("".join(p for p, _ in pieces)) < 260


@pytest.mark.parametrize(("guess", "truth", "said"), [
    (10, 243, "You guessed 10x, this machine measured 243x: too low, off by a factor of 24.3."),
    (300, 243, "too high, off by a factor of 1.23."), (240, 243, "right within a tenth."),
    (1, 123_456, "off by a factor of 123,456."), (10, 0, "You guessed 10x, this machine measured 243x.")])
def test_the_verdict_on_a_guess(lab, guess, truth, said):
    assert lab("lab.verdict(guess, '10x', truth, '243x')", guess=guess, truth=truth).endswith(said)


def test_guess_and_truth_lie_on_one_axis(lab):
    low, high = lab("lab.axis(1, 100)")
    assert 0 < low < high < 100 and lab("lab.axis(100, 1)") == [high, low]
    share = lambda guess, truth: lab("lab.verdict(guess, 'g', truth, 't', true)", guess=guess, truth=truth)
    assert share(.9, .99).endswith("you expected 10 % to be missing, and 1 % is.")
    assert share(1, .99).endswith("nothing is missing, and something is.") and share(.5, .2).endswith("off by a factor of 2.5.")
    assert lab("lab.verdict(3, '3x', NaN, '')") == "You guessed 3x, this machine measured what stands below."


# ---- the reference

MODULE = '''"""What is drawn.

More."""
import nothing_of_that_name
raise SystemExit("imported")

LIMIT = 3  # at most

def draw(
    X: "np.ndarray",  # (n, d) | rows
    *,
    k: int = 10,  # how many
    why: str = "",
) -> list[int]:  # row numbers
    "Draw k rows."

async def ask(query: str, size: Annotated[int | None, Option(help="How big.")] = None) -> str:
    "Ask."

class Deck(Base):
    "A pile."
    size: int = 52  # cards
    _secret: int = 0

    def __init__(self, seed: int):  # the seed
        "Shuffle."

    @property
    def top(self) -> str:  # its name
        "The top card."

    def _cheat(self): ...

@patch
def cut(self: Deck, at: int) -> None:
    "Cut it."

def _hidden(): ...
'''


@pytest.fixture
def module(tmp_path) -> _api_pages.Module:
    "The module `games.cards` of a small project: importing it would end in an error."
    put(tmp_path / "nbs/games/10_cards.ipynb", cell("markdown", "# Who deals?"), cell("code", "#| default_exp games.cards"))
    put(tmp_path / "nbs/games/11_none.ipynb", cell("markdown", "# No module?"))
    (tmp_path / "nbs/book.toml").write_text('[[chapter]]\nfolder = "games"\ntitle = "Games"\nabout = ""\nnotebooks = [\n'
                                            '  {file = "10_cards", topic = "Cards", question = "Who deals?"},\n'
                                            '  {file = "11_none", topic = "Nothing", question = "No module?"}]\n')
    (tmp_path / "rap_analyzer/games").mkdir(parents=True)
    (tmp_path / "rap_analyzer/games/cards.py").write_text(MODULE)
    found, = _api_pages.modules(tmp_path)
    return found


def test_a_module_is_described_without_importing_it(module):
    page = _api_pages.page(module)
    assert page.startswith("# games.cards\n> What is drawn. More.\n")
    assert "explained, in [Cards](../nbs/games/10_cards.ipynb): Who deals?" in page
    assert "def draw(X: 'np.ndarray', *, k: int = 10, why: str = '') -> list[int]\n" in page
    assert "| `X` | `'np.ndarray'` | (n, d) \\| rows |" in page and "**Returns** `list[int]`: row numbers" in page
    assert "| `k` | `int` | how many |" in page and "Draw k rows." in page
    assert "async def ask(query: str, size: int | None = None) -> str" in page and "| `size` | `int \\| None` | How big. |" in page
    assert "class Deck(Base)" in page and "| `size` | `int` | cards; `52` by default |" in page and "Deck(seed: int)" in page
    assert "### Deck.top {#Deck.top}\n\n```python\ntop: str\n```" in page and "### Deck.cut {#Deck.cut}" in page
    assert "LIMIT = 3" in page and "at most" in page
    assert not re.search("hidden|cheat|secret", page)
    assert "[`games.cards`](games_cards.md)" in _api_pages.contents([module])


def test_names_lead_to_the_one_place_they_mean(module):
    names = _api_pages.Names([module])
    other = _api_pages.Module("games.dice", "n", "x", "x", "", {}, [_api_pages.Entry(n, None) for n in ("draw_all", "print")])
    at = "reference/games_cards.md"
    for said in ("draw()", "draw(X, k=3)", "cards.draw", "games.cards.draw", "rap_analyzer.games.cards.draw"):
        assert names.find(said) == f"{at}#draw", said
    assert names.find("draw") is None and names.find("draw", frozenset({"draw"})) == f"{at}#draw"  # an ordinary word
    assert names.find("Deck") == f"{at}#Deck" and names.find("deck.cut") == names.find("Deck.cut()") == f"{at}#Deck.cut"
    assert names.find("LIMIT") is None and names.find("LIMIT", frozenset({"LIMIT"})) == f"{at}#LIMIT"
    assert names.find("games.cards") == at
    for said in ("print()", "draw the line", "X + 1", "deck.burn", "_hidden", "", "draw_all()"):
        assert names.find(said) is None, said
    both = _api_pages.Names([module, other, _api_pages.Module("b.c", "n", "t", "t", "", {}, [_api_pages.Entry("Deck", None)])])
    assert both.find("draw_all") == "reference/games_dice.md#draw_all"
    assert both.find("Deck") is None and both.find("Deck", own="reference/b_c.md") == "reference/b_c.md#Deck"


def test_prose_links_names_but_not_in_headings_labels_or_fences(module, tmp_path):
    where = _site.Where(PurePosixPath("nbs/20_x.ipynb"), tmp_path, names=_api_pages.Names([module]))
    text = "## `Deck`\n\nA `Deck` and a [`Deck`](x.md).\n\n```python\n`Deck`\n```\n"
    said = _site.prose(text, where)
    assert said == text.replace("A `Deck`", "A [`Deck`](../reference/games_cards.md#Deck)")


def test_every_public_name_of_the_package_is_in_the_reference():
    pages = {m.name: _api_pages.page(m) for m in _api_pages.modules(ROOT)}
    public = [name.removeprefix("rap_analyzer.") for syms in _modidx.d["syms"].values() for name in syms
              if not re.search(r"\._", name)]
    assert len(public) > 100
    for name in public:
        module = max((m for m in pages if name.startswith(f"{m}.")), key=len)
        assert f"{{#{name.removeprefix(module + '.')}}}" in pages[module], name


# ---- maths and diagrams

def maths(text: str) -> str:
    "A text as the site has it."
    return _site.prose(text, _site.Where(PurePosixPath("x.md"), ROOT))


def test_maths_becomes_mathml():
    assert "<msup><mn>2</mn><mrow><mn>52</mn></mrow></msup>" in maths("at $2^{52}$, yes")
    block = maths("so\n\n$$\n\\frac{a}{b}\n$$\n")
    assert '<div class="maths"><math' in block and "<mfrac>" in block and 'display="block"' in block
    for text in ("costs $5 and $10", "`$a$`", "\\$a$ b$", "```\n$a$\n```", "a $x $ b", "US$a$"): assert maths(text) == text
    with pytest.raises(SystemExit, match=r"unknown command \\nosuch"): maths("$\\nosuch{x}$")


def test_what_a_cell_says_is_prose_too(house):
    said = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "$n^2$", "text/markdown": "is $n^2$"}}
    nb = test_book.notebook(cell("markdown", "# How?"), cell("code", "say('is $n^2$')", [said]))
    page = _site.chapter(nb, _site.Where(PurePosixPath("nbs/20_x.ipynb"), house))
    assert "<msup>" in page["cells"][-1]["outputs"][0]["data"]["text/markdown"]


def test_without_mermaidx_a_diagram_stays_text(monkeypatch):
    monkeypatch.setattr(_marks, "find_spec", lambda name: None)
    assert maths("```mermaid\ngraph LR\n  a --> b\n```") == "```text\ngraph LR\n  a --> b\n```"


@DRAWS
def test_a_mermaid_fence_becomes_a_picture_for_each_mode():
    text = "```mermaid\ngraph LR\n  accDescr: One to two.\n  a[one] --> b[two]\n```"
    page = maths(f"{text}\n\nand\n\n{text}")
    ids = re.findall(r'<svg id="(diagram-\d-\w+)"', page)
    assert ids == ["diagram-1-light", "diagram-1-dark", "diagram-2-light", "diagram-2-dark"]
    assert page.count('aria-label="One to two."') == 2 and page.count(">one<") == 4 and "<script" not in page
    assert maths("```python\nmermaid\n```") == "```python\nmermaid\n```"
    with pytest.raises(SystemExit, match="cannot be drawn"): maths("```mermaid\ngraph LR\n  a -->\n```")


@DRAWS
def test_the_chapters_have_maths_and_a_diagram_that_can_be_drawn():
    texts = [_site.prose("".join(c["source"]), _site.Where(PurePosixPath(p.relative_to(ROOT).as_posix()), ROOT))
             for p in BOOK for c in json.loads(p.read_text())["cells"] if c["cell_type"] == "markdown"]
    assert sum("diagram-dark" in t for t in texts) >= 1 and sum('class="maths"' in t for t in texts) >= 1
    assert not any("```mermaid" in t for t in texts)


# ---- reading paths

def test_paths_make_a_start_page_and_the_feet_of_chapters(house, capsys):
    first = '[[chapter]]\nfolder="."\ntitle="Start"\nabout=""\nnotebooks=[{file="START", topic="Begin", question="Begin here?"}]\n'
    paths = ('[[path]]\nname="taste"\ntitle="Taste"\nminutes=10\nnotebooks=["lab/00_core", "exercises/21_x"]\n'
             '[[path]]\nname="all"\ntitle="All"\nminutes=180\nnotebooks=["lab/00_core", "lab/01_lab", "exercises/21_x"]\n'
             '[[path]]\nname="slow"\ntitle="Weekend: slow"\nproblem="It is slow."\nminutes=60\nnotebooks=["lab/01_lab"]\n'
             '[[path]]\nname="late"\ntitle="Weekend: late"\nproblem="It is late."\nminutes=50\nnotebooks=["lab/01_lab"]\n'
             '[[path]]\nname="last"\ntitle="Last"\nminutes=40\nnotebooks=["lab/01_lab"]\n')
    (house / "nbs/book.toml").write_text(first + test_book.BOOK + paths)
    put(house / "nbs/START.ipynb", cell("markdown", "# Begin here?\n\nWith [that](lab/01_lab.ipynb)."))
    for path in _site.notebooks(house):  # as if executed
        put(_site._book.executed(house, "smoke", path), *json.loads(path.read_text())["cells"])
    code = _site._book.Ground(house, "smoke")
    record = {"status": "passed", "seconds": 1, "tracks": 3000, "at": "2026-01-02T03:04:05+00:00"}
    records = {p.relative_to(house).as_posix(): record | {"hash": _site._book.fingerprint(p, code)}
               for p in _site._book.notebooks(house)}
    (house / "_build").mkdir(exist_ok=True)
    (house / "_build/book.json").write_text(json.dumps({"last": "smoke", "smoke": records}))
    assert _site.make(house, None, "smalldocs") == 0, capsys.readouterr().out
    read = lambda name: (house / "_build/site" / name).read_text()
    start, lab = read("start.html"), read("nbs/lab/01_lab.html")
    assert "About 10 minutes" in start and "About 3 hours" in start and start.count("(about 5 minutes)") == 2
    listed = r'<ol>.*nbs/lab/00_core.html.*nbs/lab/01_lab.html.*exercises/21_x.html.*</ol>'
    assert re.search(listed, start.partition('id="all"')[2], re.S)
    assert '<strong>Numbers</strong>: <a href="nbs/lab/00_core.html">How <code>far</code>?</a>' in start
    one = re.search(r'<section id="choice".*?<section id="last"', start, re.S)[0]  # one choice, then each answer in a section
    answers = re.findall(r'<li>(It is .*?) <a href="(.*?)">(.*?)</a>', one)
    assert answers == [("It is slow.", "#slow", "slow"), ("It is late.", "#late", "late")]
    assert re.findall(r'<section id="(\w+)"', one) == ["choice", "slow", "late", "last"] and one.count("Whose problem") == 1
    core, last = read("nbs/lab/00_core.html"), read("exercises/21_x.html")
    assert 'on the path <a href="../../start.html#taste">Taste</a>.' in core
    assert "Page 2 of 2" in last and last.count("which ends here") == 2
    shown = re.findall(r'href="([^"]+)" class="after"( data-path="\w+" hidden)?', core)  # one way on; the path's is hidden
    assert shown == [("01_lab.html", ""), ("../../exercises/21_x.html", ' data-path="taste" hidden')]
    assert 'Page 2 of 3 on the path <a href="../../start.html#all">All</a>.' in lab  # the path goes where the book goes
    assert 'class="page-navigation"' not in lab
    ways = re.search(r'<nav class="onward" aria-label="Pages">(.*?)</nav>', lab, re.S)[1]  # before and after, as in the book
    assert re.findall(r'href="([^"]+)" class="(\w+)"', ways) == [("00_core.html", "before"), ("../../exercises/21_x.html", "after")]
    assert 'class="onward"' in read("index.html") and 'class="onward"' in start
    assert "nbs/START.html" in start and "With" in read("nbs/START.html") and "Executed on" in read("nbs/START.html")

    gone = paths.replace("lab/00_core", "lab/99_gone")
    (house / "nbs/book.toml").write_text(first + test_book.BOOK + gone)
    assert _site.make(house, None, "smalldocs") == 1
    assert "path all names nbs/lab/99_gone.ipynb, which is not there" in capsys.readouterr().out


def test_minutes_come_from_words_code_run_time_and_the_author(tmp_path):
    (tmp_path / "solutions").mkdir()
    nb = tmp_path / "21_x.ipynb"
    put(nb, cell("markdown", "word " * 1_800), cell("code", "x = 1\n" * 24), cell("code", "#| export\n" + "y = 1\n" * 500))
    assert _paths.needs(nb, 60) == 10 + 2 + 1
    put(tmp_path / "solutions/21_x.ipynb", cell("code", "#| exercise 21.9\nminutes = 7"))
    assert _paths.needs(nb, 60) == 20


# ---- the library behind the lesson

BUILT = "## What changed in your head\n\nA lot.\n\n## How it is built\n\nIn a file.\n\n### Parts\n\nTwo."


def test_what_follows_how_it_is_built_is_one_fold(house):
    nb = test_book.notebook(cell("markdown", "# How?"), cell("code", "#| default_exp games.cards"), cell("markdown", BUILT),
                            cell("code", "#| export\nx = 1"), cell("markdown", "### More\n\nText."))
    page = _site.chapter(nb, _site.Where(PurePosixPath("nbs/lab/00_core.ipynb"), house), "Executed.", "<nav></nav>")
    texts = ["".join(c["source"]) for c in page["cells"]]
    begin, end = (next(i for i, t in enumerate(texts) if mark in t) for mark in ('<details class="built">', "</details>"))
    assert texts[begin - 1].endswith("## How it is built\n\nIn a file.\n\n")  # what is found there can be read without opening it
    assert "rap_analyzer.games.cards" in texts[begin] and texts[begin + 2].startswith("### Parts")
    assert [t for t in texts[begin:end] if "x = 1" in t] and [t for t in texts[begin:end] if "### More" in t]
    assert texts[end + 1:] == [_marks.raw('<p class="executed">Executed.</p>'), _marks.raw("<nav></nav>")]
    plain = test_book.notebook(cell("markdown", "# How?"), cell("markdown", "## How it is built in Rome\n\nNot in a day."))
    assert "<details" not in json.dumps(_site.chapter(plain, _site.Where(PurePosixPath("nbs/lab/00_core.ipynb"), house)))


def test_a_place_inside_the_fold_is_found_and_the_html_is_whole(tmp_path, house):
    nb = test_book.notebook(cell("markdown", "# How?\n> So."), cell("markdown", BUILT), cell("code", "x = 1"))
    pages = tmp_path / "pages"
    (pages / "nbs").mkdir(parents=True)
    page = _site.chapter(nb, _site.Where(PurePosixPath("nbs/a.ipynb"), house), "Executed.")
    (pages / "nbs/a.ipynb").write_text(json.dumps(page))
    (pages / "index.md").write_text("---\ntitle: Home\ndescription: It.\n---\n[parts](nbs/a.ipynb#parts)\n")
    config = yaml.safe_load((ROOT / "nbs/_smalldocs.yml").read_text())
    config["website"]["sidebar"]["contents"] = [{"href": "index.md"}, {"href": "nbs/a.ipynb"}]
    config["project"]["resources"] = ["site.js"]
    (pages / "_smalldocs.yml").write_text(yaml.safe_dump(config))
    (pages / "topics.json").write_text(json.dumps({"nbs/a.ipynb": "HNSW indexes"}))
    for name in ("styles.css", "site.js"): (pages / name).write_text((ROOT / "nbs" / name).read_text())
    _site.render(pages, tmp_path / "site")
    assert _site.problems(tmp_path / "site") == []
    html = (tmp_path / "site/nbs/a.html").read_text()
    fold = re.search(r'<details class="built">(.*?)</details>', html, re.S)[1]
    assert '<h3 id="parts"' in fold and "Executed." not in fold and fold.count("<section") == fold.count("</section>") == 0
    assert len(re.findall(r"<div\b", fold)) == fold.count("</div>")
    found = json.loads((tmp_path / "site/search.js").read_text().partition("=")[2].rstrip(";\n"))
    assert ["nbs/a.html#parts", "How?", "Parts", "Two. x = 1", "HNSW indexes"] in [[*e[:3], e[3].strip(), e[4]] for e in found]


# ---- renderers and checks

def test_quarto_renders_the_same_pages_if_it_is_asked_to(tmp_path, monkeypatch):
    tools, pages, site = tmp_path / "bin", tmp_path / "pages", tmp_path / "site"
    for folder in (tools, pages): folder.mkdir()
    (pages / "_smalldocs.yml").write_text((ROOT / "nbs/_smalldocs.yml").read_text())
    fake = tools / "quarto"
    fake.write_text(f'''#!{sys.executable}
import pathlib, sys
import yaml
assert sys.argv[1] == "render", sys.argv
config = yaml.safe_load(pathlib.Path(sys.argv[2], "_quarto.yml").read_text())
assert config["execute"] == {{"enabled": False}} and config["format"]["html"]["css"] == "styles.css", config
out = pathlib.Path(config["project"]["output-dir"])
out.joinpath("nbs").mkdir(parents=True)
out.joinpath("nbs", "a.html").write_text("<html><head></head><body>by quarto</body></html>")
''')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    assert _site.render(pages, site, "quarto") == []
    assert "by quarto" in (site / "nbs/a.html").read_text() and 'src="../site.js"' in (site / "nbs/a.html").read_text()
    config = yaml.safe_load((pages / "_quarto.yml").read_text())
    assert config["website"]["title"] == "Engineering Mindset Lab" and "theme" not in config
    fake.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SystemExit, match="without --renderer the site is made by smalldocs"): _site.render(pages, site, "quarto")
    assert "by quarto" in (site / "nbs/a.html").read_text()  # a failed rendering leaves the old site


def test_the_search_has_to_lead_somewhere(tmp_path):
    (tmp_path / "index.html").write_text(PAGE.format(head="", body='<div class="smalldocs-search"></div><h2 id="here">x</h2>'))
    def index(*addresses: str) -> list[str]:
        (tmp_path / "search.js").write_text(f"globalThis.labEntries = {json.dumps([[a, 't', '', 'x = y;'] for a in addresses])};\n")
        return _site.problems(tmp_path)
    assert index("index.html", "index.html#here") == []
    assert index("gone.html") == ["the search leads to gone.html, which is not there"]
    assert index("index.html#there") == ["the search leads to index.html#there, which is not there"]


def test_solutions_are_no_pages(house):
    put(house / "exercises/solutions/21_x.ipynb", cell("markdown", "# The answer?"))
    assert [p.name for p in _site.notebooks(house)] == ["00_core.ipynb", "01_lab.ipynb", "21_x.ipynb"]
    assert not any("solutions" in p.parts for p in _site.notebooks(house))


def test_the_script_of_the_site_is_plain_javascript(tmp_path):
    "It loads nothing but the index beside it, and says so in one place."
    text = (ROOT / "nbs/site.js").read_text(encoding="utf-8")
    assert re.findall(r"https?://|import\(|fetch\(|XMLHttpRequest|sendBeacon", text) == [] and text.count("src:") == 1
    assert list(_site.fetched("script", text)) == []


# ---- the minutes of a path

@pytest.mark.parametrize(("total", "needs"), [(10, [5, 5]), (180, [51, 37, 88]), (10, [1, 1, 1]), (3, [90, 1, 1]), (7, [7])])
def test_the_minutes_of_the_pages_add_up_to_those_of_the_path(total, needs):
    shares = _paths.share_out(total, needs)
    assert sum(shares) == total and min(shares) >= 1 and sorted(shares) == [x for _, x in sorted(zip(needs, shares, strict=True))]


# ---- what a page gives away

FORM = '<form class="guess" data-key="x.gain" data-truth="{truth}" data-measured="{truth}x"></form>'


def page_with(above: str, truth: float = 0.987, below: str = "") -> list[str]:
    "What the proofreader says of a page with a guess in its middle."
    page = PAGE.format(head="", body=f"{above}{FORM.format(truth=truth)}{below}")
    return [*_proof.given_away(page), *_proof.raw_markdown(page)]


@pytest.mark.parametrize(("above", "truth"), [
    ("<p>The index finds 0.987 of them.</p>", 0.987), ("<p>It finds 98.7 % of them.</p>", 0.987), ("<td>0.9874</td>", 0.98741),
    ("<pre>n 25   12.34</pre>", 12.341), ("<p>1,234 times</p>", 1_234), ("<li>243 times as long</li>", 243.4),
])
def test_a_figure_above_its_question_is_found(above, truth):
    said, = page_with(above, truth)
    assert "gives x.gain away above its question" in said
    assert page_with("", truth, above) == [], "below it is the answer"


def test_a_coincidence_does_not_come_twice():
    line = "exercises/28_p95.html gives {} away above its question: {} in 'a table'".format
    broken, once, twice = "b.html links to c.html, which is not there", line("p95.once", "0.121"), line("p95.twice", "0.34")
    asked = []
    def again(pages: set[str]) -> list[str]:
        asked.append(pages)
        return [broken, line("p95.twice", "0.35"), line("p95.new", "0.77")]
    assert _site.confirmed([broken, once, twice], again) == [broken, line("p95.twice", "0.35")]
    assert asked == [{"exercises/28_p95"}], "each page once, as its notebook is called"
    assert _site.confirmed([broken], again) == [broken] and len(asked) == 1, "nothing else is executed again"


def test_a_result_above_its_question_is_found():
    fold = '<details class="measured" data-keys="y.gain x.gain"><summary>Show</summary>fast</details>'
    assert page_with(fold) == ["shows a result of x.gain above its question"]
    assert page_with(fold.replace("x.gain", "z.gain")) == [] == page_with("", below=fold)


@pytest.mark.parametrize("above", ["<p>0.98, 0.9, 98 %, 0.986, 57,000 tracks, 9.87</p>", '<pre class="sourceCode">x = 0.987</pre>',
                                   "<script>0.987</script>", "<p>v0.987.2, a-0.987b, 2024-0.987</p>", "<p>at most 0.987 times</p>"])
def test_other_figures_may_stand_above_a_question(above):
    assert page_with(above) == []


@pytest.mark.parametrize("raw", ["so **bold** it is", "see [this](that.html)", "run `lab up` now", "## Title", "<!-- x -->"])
def test_markdown_that_was_left_is_found(raw):
    body = f"<p>{raw.replace('<', '&lt;').replace('>', '&gt;')}</p>"
    assert [s[:31] for s in page_with(body)] == ["shows Markdown as it was typed:"]
    assert page_with(f"<pre>{body}</pre>") == [] and page_with("<p>2**40 - 1, 256**2, f(x)[0], it's #1</p>") == []


def test_the_site_is_proofread(tmp_path):
    (tmp_path / "index.html").write_text(PAGE.format(head="", body=f"<p>0.987</p>{FORM.format(truth=0.987)}"))
    assert any("gives x.gain away" in said for said in _site.problems(tmp_path))


# ---- prose that tells how a guess went

def test_what_tells_the_outcome_waits_for_the_guess(house):
    asks = cell("code", 'predict("x.gain")')
    answers = cell("code", 'record("x.gain", 3).against_prediction()')
    told = "<!-- outcome: x.gain -->\nThe index lost.\nAs always.\n\nRead on."
    page = _site.chapter(test_book.notebook(cell("markdown", "# How?"), asks, answers, cell("markdown", told)),
                         _site.Where(PurePosixPath("nbs/20_x.ipynb"), house))
    texts = ["".join(c["source"]) for c in page["cells"]]
    begin = next(i for i, t in enumerate(texts) if 'data-keys="x.gain"' in t)
    assert "Show what follows from it" in texts[begin] and texts[begin + 1] == "The index lost.\nAs always.\n"
    assert "</details>" in texts[begin + 2] and texts[begin + 3].strip() == "Read on."
    elsewhere = _site.chapter(test_book.notebook(cell("markdown", "# How?"), cell("markdown", told)),
                              _site.Where(PurePosixPath("nbs/21_y.ipynb"), house))
    assert "<details" not in json.dumps(elsewhere) and "outcome" not in json.dumps(elsewhere)


@pytest.mark.parametrize("data", [{"image/png": "iVBORw0KGgo="}, {"image/svg+xml": "<svg></svg>"},
                                  {"text/html": "<div><svg></svg></div>"}])
def test_a_picture_below_a_question_waits_for_the_guess_wherever_it_stands(house, data):
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "A plot", **data}}
    text = {"output_type": "stream", "name": "stdout", "text": "text"}
    page = _site.chapter(test_book.notebook(
        cell("markdown", "# How?"), cell("code", "draw(0)", [shown]), cell("code", 'predict("x.gain")'),
        cell("code", 'record("x.gain", 3).against_prediction()'), cell("markdown", "## Later"), cell("code", "draw(1)", [shown]),
        cell("code", "list(2)", [text])), _site.Where(PurePosixPath("nbs/20_x.ipynb"), house))
    texts = ["".join(c["source"]) for c in page["cells"]]
    begin, = (i for i, t in enumerate(texts) if 'data-keys="x.gain"' in t)
    assert texts[begin - 1:begin + 3:2] == ["draw(1)", "draw(1)"] and page["cells"][begin - 1]["outputs"] == []
    assert page["cells"][begin + 1]["outputs"] and "</details>" in texts[begin + 2]
    assert [bool(c["outputs"]) for c, t in zip(page["cells"], texts, strict=True) if t in ("draw(0)", "list(2)")] == [True, True]


def test_a_test_that_prose_speaks_of_is_not_folded(house):
    nb = test_book.notebook(cell("markdown", "# How?"), cell("markdown", "It refuses."), cell("code", "assert refuses()"),
                            cell("code", "assert more()"))
    folded = ["code-fold: true" in "".join(c["source"]) for c in
              _site.chapter(nb, _site.Where(PurePosixPath("nbs/20_x.ipynb"), house))["cells"] if c["cell_type"] == "code"]
    assert folded == [False, True]


# ---- the home page

def test_the_home_page_takes_its_results_from_the_execution(house):
    stream = {"output_type": "stream", "name": "stdout", "text": "p50 3.1\n"}
    answer = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "x.gain: 3.1x. Nobody guessed beforehand."}}
    ran = [cell("code", 'predict("x.gain")'), cell("code", 'record("x.gain", 3.1).against_prediction()', [answer]),
           cell("code", "print(table(result))", [stream])]
    put(_site._book.executed(house, "smoke", house / "nbs/lab/00_core.ipynb"), *ran)
    def made(text: str) -> dict:
        (house / "nbs/home.md").write_text(f"# Lab\n> Guess.\n\n{text}\n\n[more](lab/00_core.ipynb), [all](../README.md)\n")
        return _site.home(house, "smoke", _site.Where(PurePosixPath("index.ipynb"), house), "<nav></nav>")
    cells = made("{{guess lab/00_core x.gain How far?}}\n\n{{result lab/00_core print(table(result)) x.gain}}")["cells"]
    texts = ["".join(c["source"]) for c in cells]
    assert "title: Lab" in texts[0] and any('data-truth="3.1"' in t and "How far?" in t for t in texts)
    assert any(c.get("outputs") == [stream] for c in cells) and any('data-keys="x.gain"' in t for t in texts)
    assert any("[more](nbs/lab/00_core.ipynb), [all](install.md)" in t for t in texts)
    with pytest.raises(SystemExit, match="asks for no guess called x.loss"): made("{{guess lab/00_core x.loss How?}}")
    with pytest.raises(SystemExit, match="no cell of lab/00_core holds 'plot'"): made("{{result lab/00_core plot}}")


def test_a_sentence_about_the_outcome_is_hidden_with_its_code(house):
    told = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": "It lost."}}
    nb = test_book.notebook(cell("markdown", "# How?"), cell("code", 'predict("x.gain")'),
                            cell("code", 'gain = record("x.gain", 3)\ngain.against_prediction()', [told]),
                            cell("code", 'say("It lost {gain.p50}.", gain=gain)', [told]))
    texts = ["".join(c["source"]) for c in _site.chapter(nb, _site.Where(PurePosixPath("nbs/20_x.ipynb"), house))["cells"]]
    at = next(i for i, t in enumerate(texts) if "say(" in t)
    assert "<details" in texts[at - 1] and "</details>" in texts[at + 1] and "Show what this machine" in texts[at - 1]
    assert sum("against_prediction" in t for t in texts) == 2  # of other cells the code stays in sight
