"""Maths and diagrams, made when the site is: MathML and SVG, so that a page needs no script, no font and no address for them."""
import html
import re
from functools import cache
from importlib.util import find_spec

ANY = r"(?:(?!\n\s*\n)(?:\\.|[^$\\]))+?"  # up to the next dollar sign, within one paragraph
MATHS = rf"(?<!\\)\$\$(?P<block>{ANY})\$\$|(?<![\\$\w])\$(?=\S)(?P<tex>{ANY})(?<=\S)\$(?![\d$])"
FENCE = re.compile(r"\A(?:`{3,}|~{3,})\s*\{?mermaid\}?[^\n]*\n(?P<text>.*?)\n?(?:`{3,}|~{3,})[^\n]*\Z", re.S)


def raw(markup: str) -> str:
    "A block of HTML that the Markdown reader leaves alone."
    return f"\n```{{=html}}\n{markup}\n```\n"


def maths(tex: str, block: bool) -> str:
    "TeX as MathML; SystemExit names what cannot be set."
    from latex2mathml.converter import convert
    try: made = convert(" ".join(tex.split()), display="block" if block else "inline")
    except Exception as e: raise SystemExit(f"maths that cannot be set: ${tex}$ ({type(e).__name__}: {e})") from None
    unknown = re.search(r"<mi>(\\\w+)</mi>", made)
    if unknown: raise SystemExit(f"maths that cannot be set: ${tex}$ has an unknown command {unknown[1]}")
    return raw(f'<div class="maths">{made}</div>') if block else made


@cache
def drawn(text: str, theme: str) -> str:
    "A mermaid diagram as SVG, in one of mermaid's themes; SystemExit says what mermaid could not read."
    import mermaidx
    try: svg = mermaidx.render(text, theme=theme, config={"fontFamily": "system-ui, sans-serif"}).svg()
    except RuntimeError as e: raise SystemExit(f"a diagram that cannot be drawn: {e}\n{text}") from None
    scrolls = r"min-width: min(\1, 36rem); max-width: \1;"  # on a phone, so that its words can be read
    svg = re.sub(r"(?<=style=\")max-width: ([\d.]+px);", scrolls, svg, count=1)
    return re.sub(r"\n\s*", " ", svg)


def diagram(fence: str, number: int) -> str | None:
    "A ```mermaid fence as two pictures, for light and for dark pages, or as text without mermaidx; None for any other fence."
    found = FENCE.match(fence)
    if not found: return None
    if not find_spec("mermaidx"): return f"```text\n{found['text']}\n```"
    one = lambda theme, mode: (f'<div class="diagram-{mode}">'
                               + drawn(found["text"], theme).replace("my-svg", f"diagram-{number}-{mode}") + "</div>")
    said = re.search(r"^\s*accDescr:\s*(.+)$", found["text"], re.M)
    label = html.escape(said[1] if said else "Diagram")
    return raw(f'<figure class="diagram" role="img" aria-label="{label}">{one("default", "light")}{one("dark", "dark")}</figure>')
