"""Make every learner's notebook `exercises/NN_slug.ipynb` from its solution notebook; scripts/checks.py fails where they differ."""

import sys
from pathlib import Path

from rap_analyzer.learn.task import ids, stub

def main(root: Path) -> int:
    "Write the stubs that changed, and name them."
    for source in ids(root / "exercises").values():
        target, text = root / "exercises" / source.name, stub(source)
        if target.exists() and target.read_text(encoding="utf-8") == text: continue
        target.write_text(text, encoding="utf-8")
        print(target.relative_to(root))
    return 0


if __name__ == "__main__": sys.exit(main(Path(__file__).resolve().parent.parent))
