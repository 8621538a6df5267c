"""What forecasts promise in many markets, against the truth: each market lives its next weeks again and again, with other luck."""
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from rap_analyzer.giants.releases import FIRST, describe_releases, open_market, repeat_releases, run_days
from rap_analyzer.giants.success import Tenth, learn_by_turns, measure_truth

BOUND = .05  # of each tenth, in each market
BEGIN, END, FUTURES = 99, 140, 6  # days: until the model learns, until the futures end; futures of each market
LEAST = 150  # releases of a tenth, in a future on average


class Market(NamedTuple):
    "A market's promises, and what came of them in its futures."
    seed: int
    chance: np.ndarray
    success: np.ndarray
    future: np.ndarray


def live(
    seed: int, begin: int = BEGIN, end: int = END, futures: int = FUTURES, per_day: int = 100, listeners: int = 1_200,
) -> Market:
    "Learn from the releases that were judged by a day; promise for those of the weeks that follow, in each future."
    p = open_market(end, per_day, listeners, seed)
    run_days(p, 0, begin)
    known, again = describe_releases(p, begin), repeat_releases(p, begin, end, futures)
    f = learn_by_turns(known[known["day"] >= FIRST])
    return Market(seed, f.chance(again), again["success"].to_numpy(float), again["future"].to_numpy())


def judge(markets: int, seed: int, each: Callable[[str], None] = print, jobs: int = 2) -> dict[str, object]:
    "The worst tenth of each market, and the tenths of all promises together."
    def said(t: Tenth) -> str: return f"promised {t.promised:.1%}, came {t.came:.1%} [{t.low:.1%}, {t.high:.1%}] of {t.n:,}"
    lived, worst, tenths_of, refuted = [], [], [], 0
    with ProcessPoolExecutor(jobs) as pool:
        for m in (pool.map if jobs > 1 else map)(live, range(seed, seed + markets)):
            tenths = measure_truth(m.chance, m.success, m.future, LEAST)
            w = max(tenths, key=lambda t: abs(t.error))
            lived.append(m)
            worst.append(100 * abs(w.error))
            tenths_of.append(len(tenths))
            refuted += any(t.low > t.promised + BOUND or t.high < t.promised - BOUND for t in tenths)
            each(f"market {m.seed}: {len(tenths)} tenths, the worst {100 * w.error:+.1f} points: {said(w)}")
    all_ = measure_truth(*(np.concatenate([getattr(m, name) for m in lived]) for name in ("chance", "success")),
                         np.concatenate([m.future + FUTURES * i for i, m in enumerate(lived)]), LEAST)
    for t in all_: each(f"all: {said(t)}")
    return {"worst": worst, "pooled": pooled(all_), "releases": sum(len(m.chance) for m in lived), "tenths": sum(tenths_of),
            "within": int(sum(w <= 100 * BOUND for w in worst)), "refuted": int(refuted),
            "outside": sum(not bool(t.low <= t.promised <= t.high) for t in all_)}


def pooled(tenths: list[Tenth]) -> float:  # points
    "How far off the worst tenth is."
    return 100 * max(abs(t.error) for t in tenths)
