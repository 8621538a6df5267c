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
    "How far off the worst tenth is, in each market and in all together; a tenth with too few releases joins its neighbour."
    def said(t: Tenth) -> str:
        return f"promised {t.promised:.1%}, came {t.came:.1%} ({t.error:+.1%}) [{t.low:.1%}, {t.high:.1%}] of {t.n:,}"
    lived, found = [], []
    with ProcessPoolExecutor(jobs) as pool:
        for m in (pool.map if jobs > 1 else map)(live, range(seed, seed + markets)):
            lived.append(m)
            found.append(measure_truth(m.chance, m.success, m.future, LEAST))
            each(f"market {m.seed}: {len(found[-1])} tenths, merged where thin, the worst: {said(find_worst(found[-1]))}")
    pooled = measure_truth(*(np.concatenate([getattr(m, name) for m in lived]) for name in ("chance", "success")),
                           np.concatenate([m.future + FUTURES * i for i, m in enumerate(lived)]), LEAST)
    for t in pooled: each(f"all: {said(t)}")
    worst = [100 * abs(find_worst(tenths).error) for tenths in found]
    refuted = sum(any(t.low > t.promised + BOUND or t.high < t.promised - BOUND for t in tenths) for tenths in found)
    return {"worst": worst, "pooled": 100 * abs(find_worst(pooled).error), "releases": sum(len(m.chance) for m in lived),
            "tenths": sum(map(len, found)), "within": int(sum(w <= 100 * BOUND for w in worst)), "refuted": int(refuted),
            "outside": int(sum(not t.low <= t.promised <= t.high for t in pooled))}


def find_worst(tenths: list[Tenth]) -> Tenth: return max(tenths, key=lambda t: abs(t.error))
