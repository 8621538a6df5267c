"""Fit rap_analyzer/music/generator.npz (nbs/analyzer/70_generator.ipynb) to tests/data/heard.npz, from scripts/fit_embedding.py."""
from pathlib import Path

import numpy as np

from rap_analyzer.music.generator import fit

ROOT = Path(__file__).resolve().parent.parent
HEARD, OUT = ROOT / "tests/data/heard.npz", ROOT / "rap_analyzer/music/generator.npz"


def main() -> None:
    "Fit and write."
    with np.load(HEARD) as f: heard = {k: f[k] for k in f.files}
    np.savez_compressed(OUT, **fit(heard))
    print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__": main()
