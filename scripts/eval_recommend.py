"""Does a blend beat the best single model on real listening data? Last.fm (HetRec 2011), several seeds, every model tuned alike.

`scripts/eval_recommend.py [--data FILE] [--seeds 5] [--budget 24 ...] [--spaces wide published] [--split random|last]` prints a
table for each seed, means over seeds, and the ratio of the blend to the best single model: the one that validation chose, and the
best in hindsight. The interval is by listeners, the seeds of each averaged first. Several budgets show how tuning changes the lead;
both spaces take the gain apart into what a wider preparation wins and what blending adds.
The file has columns user, item and plays (or weight), separated by tabs or commas. `--synthetic` draws histories instead.

Protocol: items of two listeners and more, counted before anything is hidden; a fifth of each listener's items is the test part;
of the rest three disjoint eighths are validation folds; settings are chosen there, and models learn anew from both. Papers on this
data set cut, split and measure otherwise, so none of their figures stands beside these.
"""
import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parents[1]
PICKS = {"chosen on validation": lambda f: f.best, "best in hindsight": lambda f: f.hindsight}
LASTFM = HERE.parent / "shared" / "data" / "lastfm" / "user_artists_dev.tsv"


def read(path: Path) -> pd.DataFrame:  # user, item, weight
    "A file of plays."
    df = pd.read_csv(path, sep=None, engine="python")
    return df.rename(columns={"plays": "weight", "userID": "user", "artistID": "item"})


def by_listener(found: list, pick: Callable) -> np.ndarray:  # shape (listeners, seeds)
    "NDCG@10 of one model of each seed, in the same order of listeners."
    parts = [pd.Series(f.each[pick(f)], index=pd.Index(f.listeners, tupleize_cols=False)) for f in found]
    return pd.concat(parts, axis=1).to_numpy()


def compare(over: list, under: list, pick: Callable) -> str:
    "The blend of some judgements against a single model of others, all seeds together."
    from rap_analyzer.recommend.measures import bootstrap

    ratio, low, high = bootstrap(by_listener(over, lambda f: "ensemble"), by_listener(under, pick))
    return f"{ratio:.4f} [{low:.4f}, {high:.4f}]"


def show(f: object, seed: int, spent: float) -> None:
    "One seed."
    scores = f.table.set_index("model")["ndcg@10"]
    chosen, hindsight = (scores["ensemble"] / scores[name] for name in (f.best, f.hindsight))
    print(f"\nseed {seed}: validation chose {f.best}, best in hindsight {f.hindsight}; blend / chosen {chosen:.3f}, / hindsight "
          f"{hindsight:.3f}; {spent:.0f} s of CPU\n", f.table.round(4).to_string(index=False), sep="")
    for name, params in f.chosen.items(): print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in params.items()})
    print("blend:", ", ".join(f"{name} {w:.2f}" for name, w in f.members), flush=True)


def main() -> None:
    "Evaluate and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=LASTFM)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, nargs="+", help="settings of each model; default: that of the package")
    parser.add_argument("--split", choices=("random", "last"), default="random")
    parser.add_argument("--spaces", choices=("published", "wide"), nargs="+", default=["wide"], help="what may be tuned")
    parser.add_argument("--synthetic", action="store_true", help="drawn histories instead of a file")
    given = parser.parse_args()
    if not given.synthetic and not given.data.is_file(): parser.error(f"no plays at {given.data}: give --data or --synthetic")
    from rap_analyzer.recommend.evaluate import BUDGET, judge
    from rap_analyzer.recommend.interactions import draw_plays

    df, kind = (draw_plays(), " (synthetic)") if given.synthetic else (read(given.data), "")
    for budget in given.budget or [BUDGET]:
        found = {}
        for spaces in given.spaces:
            print(f"\n== budget {budget}, {spaces} spaces{kind}")
            for seed in range(given.seeds):
                start = time.process_time()
                found.setdefault(spaces, []).append(judge(df, seed, budget, split=given.split, spaces=spaces))
                show(found[spaces][-1], seed, time.process_time() - start)
            mean = pd.concat([f.table for f in found[spaces]]).groupby("model", sort=False).mean(numeric_only=True)
            print(f"\nmeans over {given.seeds} seeds{kind}\n", mean.round(4).to_string())
            for what, pick in PICKS.items(): print(f"blend / best single, {what}: {compare(found[spaces], found[spaces], pick)}")
        if len(found) > 1:
            ratio = compare(found["wide"], found["published"], PICKS["chosen on validation"])
            print(f"\nblend of wide spaces / best single of published ones, chosen on validation: {ratio}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
