"""A guess on the page: what a chapter asks with `predict`, which results would spoil it, and what was measured.

The question, its steps and the measured figure go into a form that nbs/site.js brings to life; without it the results lie in plain
`<details>`.
"""
import ast
import html
import re
from dataclasses import dataclass

@dataclass(frozen=True)
class Ask:
    "One `predict` without a guess: its key, its steps and how they are written, and the cell that says how it went."
    key: str
    steps: tuple[float, ...]
    labels: tuple[str, ...]
    share: bool  # of a whole: judged by what is missing
    cell: int  # where it is asked
    end: int  # where it is answered


# ---- reading cells

def nodes(source: str) -> list[ast.AST]:
    "The syntax tree of a cell, flat; nothing for a cell that is not plain Python."
    try: return list(ast.walk(ast.parse(source)))
    except SyntaxError: return []


def calls(source: str, name: str) -> list[ast.Call]:
    "The calls of a function or method of that name in a cell."
    return [n for n in nodes(source) if isinstance(n, ast.Call)
            and name == (n.func.id if isinstance(n.func, ast.Name) else getattr(n.func, "attr", None))]


def assigned(source: str) -> set[str]:
    "The names that a cell gives values to."
    targets = [t for n in nodes(source) if isinstance(n, ast.Assign) for t in n.targets]
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def says(node: ast.AST, key: str) -> bool:
    "Whether a piece of code holds the key as a text."
    return any(isinstance(n, ast.Constant) and n.value == key for n in ast.walk(node))


def question(call: ast.Call) -> tuple[str, tuple[float, ...], tuple[str, ...], bool] | None:
    "Key, steps, labels and whether a share is asked for; None for a `predict` that brings its guess along or cannot be read."
    from rap_analyzer.guess import format_step, scale_steps
    try: given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in ("scale", "guess")}
    except ValueError: return None
    if len(call.args) != 1 or "guess" in given or not isinstance(getattr(call.args[0], "value", None), str): return None
    scale = given.get("scale", "ratio")
    try: steps = scale_steps(scale)
    except (ValueError, TypeError): return None
    return call.args[0].value, steps, tuple(format_step(s, scale) for s in steps), scale == "share"


def answered(sources: list[str], start: int, key: str) -> int | None:
    "The cell below `start` that holds this key's result against the prediction, else the first that holds any."
    names = {t.id for s in sources[start:] for n in nodes(s) if isinstance(n, ast.Assign) and says(n.value, key)
             for t in n.targets if isinstance(t, ast.Name)}
    ends = [(j, c.func.value) for j in range(start + 1, len(sources)) for c in calls(sources[j], "against_prediction")
            if isinstance(c.func, ast.Attribute)]
    mine = [j for j, of in ends if says(of, key) or (isinstance(of, ast.Name) and of.id in names)]
    return next(iter(mine or [j for j, _ in ends]), None)


def asks(sources: list[str]) -> list[Ask]:
    "Every guess that a notebook asks for and answers. A source per cell; for one that is not code, `## ` if it has a heading."
    found = []
    for i, source in enumerate(sources):
        if "#| export" in source: continue
        for call in calls(source, "predict"):
            asked = question(call)
            end = answered(sources, i, asked[0]) if asked else None
            if end is not None: found.append(Ask(*asked, cell=i, end=end))
    return found


def used(source: str) -> set[str]:
    "The names that a cell reads."
    return {n.id for n in nodes(source) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def between(sources: list[str], ask: Ask) -> set[int]:
    """The cells from a question to its answer: all of them within one section; where headings lie between, those that the answer is
    made from."""
    cells = range(ask.cell + 1, ask.end)
    if "## " not in sources[ask.cell + 1:ask.end]: return {*cells, ask.end}
    found, wanted = {ask.end}, used(sources[ask.end])
    for j in reversed(cells):
        if assigned(sources[j]) & wanted or any(says(n, ask.key) for n in nodes(sources[j])):
            found.add(j)
            wanted |= used(sources[j])
    return found


def cites(source: str, key: str) -> bool:
    "Whether a cell puts figures of this key into words, as `say` does."
    return any(isinstance(n, ast.Constant) and isinstance(n.value, str) and re.search(rf"\{{{re.escape(key)}[.:}}]", n.value)
               for n in nodes(source))


def spoilers(sources: list[str], asked: list[Ask]) -> dict[int, set[str]]:
    """The cells whose results would spoil a guess, and whose: those between question and answer, what shows their values again
    before the next heading, and every sentence that cites the answer. A cell that itself asks spoils nothing."""
    found: dict[int, set[str]] = {}
    for ask in asked:
        hidden = between(sources, ask) - {a.cell for a in asked}
        told = {name for j in hidden for name in assigned(sources[j])}
        for j in range(ask.end + 1, len(sources)):
            if sources[j] == "## ": break
            if not told.isdisjoint(used(sources[j])):
                hidden.add(j)
                told |= assigned(sources[j])
        asking = {a.cell for a in asked}
        hidden |= {j for j in range(ask.cell + 1, len(sources)) if j not in asking and cites(sources[j], ask.key)}
        for j in hidden: found.setdefault(j, set()).add(ask.key)
    return found


# ---- prose that tells how a guess went

OUTCOME = re.compile(r"^<!--\s*outcome:\s*(?P<key>[\w.]+)\s*-->\n(?P<text>(?:.+(?:\n|\Z))+)", re.M)


def outcomes(prose: str) -> list[str]:
    "The keys whose outcome a text tells: `<!-- outcome: key -->` stands on the line above the paragraph."
    return [m["key"] for m in OUTCOME.finditer(prose)]


def parts(prose: str, keys: set[str]) -> list[tuple[str, str]]:
    "A text in parts, each with the key whose outcome it tells, or none; `keys` are asked on this page. Marks are taken out."
    found, at = [], 0
    for m in OUTCOME.finditer(prose):
        found += [("", prose[at:m.start()]), (m["key"] if m["key"] in keys else "", m["text"])]
        at = m.end()
    return [(key, text) for key, text in [*found, ("", prose[at:])] if text.strip()]


def unread(source: str) -> list[str]:
    "The predictions of a cell that the site cannot turn into a form, though they bring no guess along."
    found = []
    for call in calls(source, "predict"):
        if len(call.args) == 1 and not any(k.arg in ("guess", "home") for k in call.keywords) and not question(call):
            found.append(ast.unparse(call))
    return found


# ---- the form

def measured(said: str, key: str) -> tuple[float, str] | None:
    "The figure in the sentence of `against_prediction`, as a number and as it is written; None when it has none."
    m = re.search(rf"{re.escape(key)}: (?:you guessed .*?; it was )?(?P<all>(?P<x>[\d.,e+-]*\d)[^.:]*)(?:\. Nobody|: )", said)
    return (float(m["x"].replace(",", "")), m["all"]) if m else None


def spoken(outputs: list[dict]) -> str:
    "The text of a cell's outputs."
    texts = ["".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", "")) for o in outputs]
    return "\n".join(texts)


def questions(prose: str, n: int) -> list[str]:
    "The last n questions of the prose before n forms, without their marks; a plain one where there are fewer."
    words = re.sub(r"<!--.*?-->|^#[^\n]*$", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose), flags=re.S | re.M)
    found = [q.strip() for q in re.findall(r"(?:[^.?!:]|[.:](?=\S))*\?", re.sub(r"[*]+", "", " ".join(words.split())))]
    asked = [(q[:1].upper() + q[1:]).replace("`", "") for q in found]  # a name in backticks keeps its first letter
    return ["What is your guess?"] * (n - len(asked)) + asked[-n:]


def unasked(output: dict) -> dict:
    "An output without the ledger's remark that nobody guessed: the reader of the page may have."
    data = {mime: re.sub(r" Nobody guessed beforehand\.", "", "".join(text)) if mime.startswith("text/") else text
            for mime, text in output.get("data", {}).items()}
    return output | {"data": data} if data else output


def form(ask: Ask, legend: str, truth: tuple[float, str] | None) -> str:
    "The form, as HTML: hidden until the page's script shows it."
    shown = f' data-truth="{truth[0]:.12g}" data-measured="{html.escape(truth[1])}"' if truth else ""
    if ask.share: shown += " data-share"
    steps = "".join(f'<button type="button" data-guess="{s:.12g}" aria-pressed="false">{html.escape(label)}</button>'
                    for s, label in zip(ask.steps, ask.labels, strict=True))
    return (f'<form class="guess" id="guess-{ask.key}" data-key="{ask.key}"{shown} hidden><fieldset>'
            f'<legend>{html.escape(legend)}</legend><div class="steps">{steps}</div></fieldset>'
            '<p class="verdict" role="status"></p></form>')
