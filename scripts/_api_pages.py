"""The reference: a page for each module of the package, read from its source. Nothing is imported, so nothing can be started.

A function's page says what its source says: the signature, the one-line docstring, the comments beside parameters and return.
`Names` knows where each public name is described, so that a name in backticks can lead there.
"""
import ast
import builtins
import io
import keyword
import re
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rap_analyzer import book

Function = ast.FunctionDef | ast.AsyncFunctionDef
LONG = 72  # characters of a default or a value that are shown


@dataclass
class Entry:
    "One public name: a function, a class with its methods and fields, or a value."
    name: str
    node: ast.AST
    methods: list["Entry"] = field(default_factory=list)


@dataclass
class Module:
    "A module, the notebook that owns it, and what is public in it."
    name: str  # search.index
    owner: str  # nbs/performance/15_index.ipynb
    title: str  # the owner's
    topic: str  # the owner's
    about: str  # the docstring
    comments: dict[int, str]  # by line
    entries: list[Entry]

    @property
    def page(self) -> str: return f"reference/{self.name.replace('.', '_')}.md"


# ---- reading

def comments(source: str) -> dict[int, str]:
    "The comment at the end of each line that has code, by line number."
    found = {}
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.COMMENT and t.line[:t.start[1]].strip(): found[t.start[0]] = t.string.lstrip("# ").strip()
    return found


def decorators(node: Function) -> dict[str, ast.AST]:
    "A function's decorators by name, called or not."
    bare = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return {getattr(b, "id", getattr(b, "attr", "")): d for b, d in zip(bare, node.decorator_list, strict=True)}


def is_property(node: Function) -> bool:
    "Whether a method is read like a field."
    found = decorators(node)
    asked = getattr(found.get("patch"), "keywords", [])
    return bool({"property", "cached_property"} & set(found)) or any(k.arg == "as_prop" for k in asked)


def patched(node: ast.AST) -> str | None:
    "The class that a function decorated with fastcore's `patch` belongs to."
    if not isinstance(node, Function) or not node.args.args: return None
    if "patch" not in decorators(node): return None
    first = node.args.args[0].annotation
    return first.id if isinstance(first, ast.Name) else first.value if isinstance(first, ast.Constant) else None


def public(tree: ast.Module) -> list[Entry]:
    "The public functions, classes and values of a module, in the order of its notebook."
    found: dict[str, Entry] = {}
    for node in tree.body:
        owner = patched(node)
        if owner:
            if node.name.startswith("_"): continue
            if owner in found: found[owner].methods.append(Entry(node.name, node))
            else: found[f"{owner}.{node.name}"] = Entry(f"{owner}.{node.name}", node)  # a method of another module's class
        elif isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            inside = node.body if isinstance(node, ast.ClassDef) else []
            found[node.name] = Entry(node.name, node, [Entry(n.name, n) for n in inside if isinstance(n, Function)
                                                       and not n.name.startswith("_")])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = getattr(target, "id", "")
                if re.fullmatch(r"[A-Z][A-Z0-9_]*", name): found[name] = Entry(name, node)
    return list(found.values())


def modules(root: Path) -> list[Module]:
    "Every module that a notebook exports, in the order of the notebooks."
    found = []
    for name, nb in book.modules(root).items():
        file = root / "rap_analyzer" / f"{name.replace('.', '/')}.py"
        if not file.exists(): continue
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
        about = (ast.get_docstring(tree) or "").strip()
        found.append(Module(name, nb.path, nb.question, nb.topic, about, comments(source), public(tree)))
    return found


# ---- writing

def short(node: ast.AST | None) -> str:
    "An expression as text, cut where it is long."
    text = " ".join(ast.unparse(node).split()) if node else ""
    return text if len(text) <= LONG else text[:LONG - 2].rstrip() + " …"


def kind(annotation: ast.AST | None) -> ast.AST | None:
    "A type without what `Annotated` adds to it."
    is_long = isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") == "Annotated"
    return annotation.slice.elts[0] if is_long else annotation


def advice(annotation: ast.AST | None) -> str:
    "The help text that an `Annotated` option carries."
    helps = [k.value.value for n in ast.walk(annotation or ast.Constant(0)) if isinstance(n, ast.Call) for k in n.keywords
             if k.arg == "help" and isinstance(k.value, ast.Constant)]
    return str(helps[0]) if helps else ""


def parameters(node: Function) -> list[tuple[ast.arg, str, ast.AST | None]]:
    "Each parameter with the stars before it and its default; a method's own `self` or `cls` is left out."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    given = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    found = [(x, "", d) for x, d in zip(plain, given, strict=True)]
    if found and found[0][0].arg in ("self", "cls"): found = found[1:]
    if a.vararg: found.append((a.vararg, "*", None))
    found += [(x, "", d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return found + ([(a.kwarg, "**", None)] if a.kwarg else [])


def signature(node: Function, name: str) -> str:
    "A function's head on one line, or a parameter a line where it would be long."
    parts, bare = [], bool(node.args.kwonlyargs) and not node.args.vararg
    for arg, stars, default in parameters(node):
        if bare and arg is node.args.kwonlyargs[0]: parts.append("*")
        text = stars + arg.arg + (f": {short(kind(arg.annotation))}" if arg.annotation else "")
        parts.append(text + (f" = {short(default)}" if default else ""))
    head = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
    back = f" -> {short(node.returns)}" if node.returns else ""
    line = f"{head}{name}({', '.join(parts)}){back}"
    return line if len(line) <= 88 else f"{head}{name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){back}"


def cell(text: str) -> str:
    "Text that a table of Markdown can hold."
    return text.replace("|", "\\|")


def meaning(node: Function, said: dict[int, str]) -> list[str]:
    "What the comments say about parameters and return: a table and a line. A command's options carry their meaning with them."
    last, back = {a.end_lineno: a for a, *_ in parameters(node)}, said.get(node.returns.end_lineno) if node.returns else None
    if back: last.pop(node.returns.end_lineno, None)
    rows = [(stars + a.arg, short(kind(a.annotation)), said[a.end_lineno] if last.get(a.end_lineno) is a and a.end_lineno in said
             else advice(a.annotation)) for a, stars, _ in parameters(node)]
    lines = ["", "| parameter | type | |", "|---|---|---|"] if any(text for *_, text in rows) else []
    lines += [f"| `{name}` | `{cell(type_)}` | {cell(text)} |" for name, type_, text in rows if lines]
    return [*lines, *(["", f"**Returns** `{short(node.returns)}`: {back}"] if back else [])]


def function(node: Function, name: str, said: dict[int, str]) -> list[str]:
    "A function or method: signature, docstring, meaning of parameters and return."
    code = f"{name}: {short(node.returns)}" if is_property(node) else signature(node, name)
    return ["", "```python", code, "```", "", (ast.get_docstring(node) or "").strip(), *meaning(node, said)]


def fields(node: ast.ClassDef, said: dict[int, str]) -> list[str]:
    "The annotated fields of a class as a table."
    inside = [n for n in node.body if isinstance(n, ast.AnnAssign) and not getattr(n.target, "id", "_").startswith("_")]
    lines = ["", "| field | type | |", "|---|---|---|"] if inside else []
    for n in inside:
        default = f" `{cell(short(n.value))}` by default" if n.value else ""
        text = f"{cell(said.get(n.end_lineno, ''))}{';' if default and n.end_lineno in said else ''}{default}".strip()
        lines.append(f"| `{n.target.id}` | `{cell(short(n.annotation))}` | {text} |")
    return lines


def described(entry: Entry, module: Module) -> list[str]:
    "One entry of a page, with its heading."
    node, said = entry.node, module.comments
    lines = ["", f"## {entry.name} {{#{entry.name}}}"]
    if isinstance(node, Function): return lines + function(node, entry.name, said)
    if not isinstance(node, ast.ClassDef):
        note = said.get(node.end_lineno)
        return [*lines, "", "```python", f"{entry.name} = {short(node.value)}", "```", *(["", note] if note else [])]
    bases = f"({', '.join(map(short, node.bases))})" if node.bases else ""
    lines += ["", "```python", f"class {entry.name}{bases}", "```", "", (ast.get_docstring(node) or "").strip()]
    lines += fields(node, said)
    made = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
    if made: lines += ["", "```python", signature(made, entry.name).removeprefix("def "), "```", *meaning(made, said)]
    for m in entry.methods: lines += ["", f"### {entry.name}.{m.name} {{#{entry.name}.{m.name}}}", *function(m.node, m.name, said)]
    return lines


def page(module: Module) -> str:
    "The page of a module, as Markdown."
    about = [f"> {' '.join(module.about.split())}", ""] if module.about else []
    listed = [e for kind_ in (Function, ast.ClassDef) for e in module.entries if isinstance(e.node, kind_)]
    values = [e for e in module.entries if e not in listed]
    lines = [f"# {module.name}", *about, f"`rap_analyzer.{module.name}` is built, and explained, in "
             f"[{module.topic}](../{module.owner}): {module.title}"]
    for e in listed + values: lines += described(e, module)
    return "\n".join(lines) + "\n"


def contents(found: list[Module]) -> str:
    "The page that lists the modules."
    rows = [f"| [`{m.name}`]({Path(m.page).name}) | {cell(' '.join(m.about.split()))} | [{cell(m.topic)}](../{m.owner}) |"
            for m in found]
    return "\n".join(["# Reference", "> Every public name of the package, from its source.", "",
                      "Each module is exported from one chapter, which says why it is the way it is.", "",
                      "| module | about | chapter |", "|---|---|---|", *rows]) + "\n"


# ---- finding

ORDINARY = set(dir(builtins)) | set(keyword.kwlist)


class Names:
    "Where each public name is described."
    def __init__(self, found: list[Module]):
        self.places: dict[str, set[str]] = defaultdict(set)
        for m in found:
            last = m.name.rpartition(".")[2]
            for full in {f"rap_analyzer.{m.name}", *([m.name] if "." in m.name else [])}: self.places[full].add(m.page)
            for e in m.entries:
                bare = () if m.name == "cli" else (e.name,)  # commands are called from a shell, not by these names
                self.add(f"{m.page}#{e.name}", *bare, *(f"{x}.{e.name}" for x in {last, m.name, f"rap_analyzer.{m.name}"}))
                for x in e.methods:
                    self.add(f"{m.page}#{e.name}.{x.name}", f"{e.name}.{x.name}", f"{e.name.lower()}.{x.name}",
                             f"{m.name}.{e.name}.{x.name}")

    def add(self, place: str, *names: str) -> None:
        "Remember a place under its names."
        for name in names: self.places[name].add(place)

    def find(self, code: str, known: frozenset[str] = frozenset(), own: str = "") -> str | None:
        """The one place that code in backticks can mean, or None. An ordinary word has to be `known` (defined or imported) where it
        is written, or be called; of several places the one on the page `own` is meant."""
        m = re.fullmatch(r"(?P<name>[A-Za-z_][\w.]*)(?P<call>\(.*\))?", code, re.S)
        if not m or m["name"] in ORDINARY: return None
        name = m["name"]
        telling = m["call"] or "." in name or "_" in name.strip("_") or re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)
        if name not in known and (not telling or name.isupper()): return None
        places = self.places.get(name, set())
        mine = {p for p in places if p.partition("#")[0] == own}
        chosen = mine if len(places) > 1 and mine else places
        return next(iter(chosen)) if len(chosen) == 1 else None
