"""Record the situations of the blind case of the chapter Giants: fewer finished plays, or fewer than were promised.

`.venv/bin/python scripts/record_giants_cases.py` writes exercises/cases/35.json; the exercise shows these figures. Covers
are chosen by bandits for simulated listeners, requests are drawn part by part, and a quarter's experiments are analysed together.
"""
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rap_analyzer.giants.artwork import Covers, record_covers
from rap_analyzer.giants.spans import BUDGETS_MS, LIMIT_MS, attribute
from rap_analyzer.giants.trials import assign_many, compare_all
from rap_analyzer.product.bandits import Bandit, play
from rap_analyzer.provenance import machine

SEED, LISTENERS, PAGES, PATIENCE_MS = 35, 800, 12_000, 6_000
USUAL = {"features": 8.0, "candidates": 22.0, "ranking": 9.0, "rerank": 3.0, "rest": 4.0}  # median milliseconds of each part


def draw_requests(rng: np.random.Generator, n: int, rare: tuple[str, ...] = (), slower: str = "") -> np.ndarray:  # (n, parts)
    "What each part took: its usual time, rare waits of seconds in some of them, or one that takes longer each time."
    parts = list(BUDGETS_MS)
    taken = np.array([USUAL[p] for p in parts]) * np.exp(.3 * rng.standard_normal((n, len(parts))))
    for p in rare: taken[:, parts.index(p)] += (rng.random(n) < .035) * rng.uniform(4_000, 9_000, n)
    if slower: taken[:, parts.index(slower)] *= 2
    return taken


def look_at_requests(taken: np.ndarray) -> dict:
    "The p95 of each part, the share of late requests, and who overspent in them."
    blame = attribute(taken, list(BUDGETS_MS.values()), LIMIT_MS)
    by_part = lambda figures: dict(zip(BUDGETS_MS, figures.tolist(), strict=True))
    return {"p95_ms": by_part(np.quantile(taken, .95, axis=0).round()), "late": round(float((taken.sum(1) > LIMIT_MS).mean()), 4),
            "blame": by_part(blame.round(2))}


def look_at_covers(covers: Covers, log: pd.DataFrame, came: np.ndarray) -> dict:  # came: whether the page was waited for
    "Clicks and finished plays per page, by cover, and by quarter of the month."
    rows, rng = np.arange(len(log)), np.random.default_rng(SEED)
    click, both = (m.chance[rows, log.arm] for m in (covers.clicked, covers.finished))
    u = rng.random(len(log))
    clicked, finished = (u < click) & came, (u < both) & came
    of = pd.DataFrame({"cover": np.array(covers.clicked.arms)[log.arm], "clicked": clicked, "finished": finished})
    by = of.groupby("cover").agg(shown=("clicked", "size"), clicked=("clicked", "sum"), finished=("finished", "sum"))
    return {"clicks": round(float(clicked.mean()), 4), "finished": round(float(finished.mean()), 4),
            "covers": {c: {"shown": round(r.shown / len(of), 3), "kept": round(r.finished / max(1, r.clicked), 3)}
                       for c, r in by.iterrows()},
            "weeks": [round(float(x.mean()), 4) for x in np.array_split(finished, 4)]}


def month(seed: int, taught: str, rare: tuple[str, ...] = (), slower: str = "") -> dict:
    "One month: a policy that was taught before or is new, and the requests that brought its pages."
    covers, rng = record_covers(LISTENERS, PAGES, SEED), np.random.default_rng([SEED, seed])
    reward = covers.clicked if taught == "clicks" else covers.finished
    policy = Bandit(reward.arms, seed=seed)
    if taught != "new": play(reward, policy, seed=99)                       # it has learned for a month already
    log = play(reward, policy, batch=1_500 if taught == "new" else 100, seed=seed)
    taken = draw_requests(rng, PAGES, rare, slower)
    came = rng.random(PAGES) < np.exp(-np.maximum(0, taken.sum(1) - LIMIT_MS) / PATIENCE_MS)
    return look_at_requests(taken) | look_at_covers(covers, log, came)


def quarter(seed: int, ideas: int, works: int, mean: float, most: float) -> dict:
    "What a report of winners promised, in hundredths of a deviation, and what a hold-back of half of the listeners measured."
    rng, n = np.random.default_rng([SEED, seed]), 3_000
    treated, y = assign_many([f"{seed}-{i}" for i in range(ideas)], range(n)), rng.standard_normal(n)
    gain = np.zeros(ideas)
    gain[:works] = mean * rng.exponential(1, works)
    p, measured = compare_all(treated, y + (treated * gain[:, None]).sum(0))
    won = (p < most) & (measured > 0)
    held = rng.random(n) < .5
    after = y + gain[won].sum() * ~held
    back, half = float(after[~held].mean() - after[held].mean()), 1.96 * 2 / np.sqrt(n)
    return {"tested": ideas, "launched": int(won.sum()), "promised": round(100 * float(measured[won].sum())),
            "held_back": [round(100 * x) for x in (back, back - half, back + half)]}


def stage() -> dict[str, dict]:
    "The situations: the month before, and now."
    fair, lucky = quarter(4, 40, 20, .25, .001), quarter(1, 400, 12, .06, .05)
    before = month(0, "plays") | {"quarter": quarter(2, 40, 20, .25, .001)}
    waits = "features", "ranking", "candidates"
    plans = {"clicks": (dict(taught="clicks"), fair), "rare": (dict(taught="plays", rare=waits), fair),
             "lucky": (dict(taught="plays"), lucky), "new": (dict(taught="new"), fair),
             "clicks_slower": (dict(taught="clicks", slower="candidates"), fair)}
    return {name: {"before": before, "now": month(i, **how) | {"quarter": report}} for i, (name, (how, report)) in
            enumerate(plans.items(), 1)}


def main() -> None:
    "Simulate, look, write."
    found = stage()
    for name, case in found.items(): print(name, json.dumps(case["now"]))
    print("before", json.dumps(found["new"]["before"]))
    out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / "35.json"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    out.write_text(json.dumps({"recorded_at": at, "machine": machine(), "cases": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
