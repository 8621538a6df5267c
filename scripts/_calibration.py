"""What was promised of releases in many markets, and what came: one market is too small to hold each tenth to five points."""
from collections.abc import Callable

import numpy as np

from rap_analyzer.giants.success import STEADY, calibrate, count_odds, reliability, run_releases, split_by_time

BOUND = .05  # of the tenths of all markets together


def judge(markets: int, seed: int, each: Callable[[str], None] = print) -> dict[str, object]:
    "Train, calibrate and judge in each market, and judge the promises of all together."
    promised, came, worst = [], [], []
    for number in range(seed, seed + markets):
        learn, middle, later = split_by_time(run_releases(seed=number))
        promised.append(calibrate(count_odds(learn, STEADY), middle).chance(later))
        came.append(later["success"].to_numpy())
        w = max(reliability(promised[-1], came[-1]), key=lambda t: abs(t.error))
        worst.append(100 * abs(w.error))
        each(f"market {number}: worst tenth {100 * w.error:+.1f} points, promised {w.promised:.0%}, "
             f"came {w.came:.0%} [{w.low:.0%}, {w.high:.0%}] of {w.n}")
    tenths = reliability(np.concatenate(promised), np.concatenate(came))
    for t in tenths: each(f"all: promised {t.promised:.1%}, came {t.came:.1%} [{t.low:.1%}, {t.high:.1%}] of {t.n:,}")
    return {"worst": worst, "pooled": 100 * max(abs(t.error) for t in tenths), "releases": sum(t.n for t in tenths),
            "within": sum(w <= 100 * BOUND for w in worst), "outside": sum(not t.low <= t.promised <= t.high for t in tenths)}
