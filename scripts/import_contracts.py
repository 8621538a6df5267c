"""What may import what, as import-linter's contracts: made from nbs/book.toml each time they are checked, and stored nowhere.

One `layers` contract: every module is a layer in the order of the book, so it imports only from notebooks above its own.
SEAMS names the few modules that may touch an outside package; a contract keeps the others out.
"""
import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

from rap_analyzer.book import modules

PACKAGE = "rap_analyzer"
SEAMS = {  # an outside package: the only modules that import it themselves
    "psycopg": ("lab", "postgres", "search.copy", "search.sessions", "search.store", "serve.replica", "serve.failover",
                "platform.designs", "giants.regions", "giants.moves"),
    "psycopg_pool": ("lab", "postgres", "search.sessions"),
    "fastapi": ("app", "platform.*", "*.routes", "*_routes"),
    "strawberry": ("platform.loaders", "platform.graphql*"),
    "tantivy": ("decide.engines",),
}
HEAD = f"[importlinter]\nroot_package = {PACKAGE}\ninclude_external_packages = True\n"


def contract(slug: str, name: str, kind: str, **lists: list[str]) -> str:
    "One section of the file."
    lines = [f"\n[importlinter:contract:{slug}]", f"name = {name}", f"type = {kind}"]
    for key, names in lists.items(): lines += [f"{key} =", *(f"    {n}" for n in names)]
    return "\n".join(lines) + "\n"


def text(root: Path) -> str:
    "The contracts of a project."
    order = list(modules(root))
    full = lambda names: [f"{PACKAGE}.{m}" for m in names]
    out = HEAD + contract("layers", "modules import from notebooks above their own", "layers", layers=full(reversed(order)))
    for outside, owners in SEAMS.items():
        others = [m for m in order if not any(fnmatch(m, o) for o in owners)]
        if not others: continue
        out += contract(outside, f"only {' and '.join(owners)} import {outside}", "forbidden", source_modules=full(others),
                        forbidden_modules=[outside]) + "allow_indirect_imports = True\n"
    return out


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository's folder")
    print(text(parser.parse_args().root), end="")
    return 0


if __name__ == "__main__": sys.exit(main())
