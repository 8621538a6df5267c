"""Write the models of the Python client (sdk/) from the service's schema; `scripts/checks.py sdk` fails where they differ."""

import sys
from pathlib import Path

MODELS = "sdk/rap_analyzer_client/models.py"

def models() -> str:
    "What the file should hold now."
    from rap_analyzer.app import create_app
    from rap_analyzer.platform.sdk import write_models
    return write_models(create_app().openapi())


def problems(root: Path) -> list[str]:
    "Where the file is another one; the new text stays in the tree, so that it can be looked at and committed."
    file = root / MODELS
    if not file.parent.is_dir() or (text := models()) == (file.read_text(encoding="utf-8") if file.exists() else None): return []
    file.write_text(text, encoding="utf-8")
    return [f"{MODELS} was not what the schema gives (it is now: look at the difference)"]


if __name__ == "__main__": print(*problems(Path(__file__).resolve().parent.parent), sep="\n", file=sys.stderr)
