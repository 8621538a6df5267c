"""`scripts/soak experiments`: false alarms of experiments without an effect, and coverage of one that was planted.

False alarms: one simulated month, assigned anew a thousand times. One analysis at the end, a look every day with the confidence
sequence, and, for comparison, a look every day with the ordinary test.

Coverage: five hundred small populations. What is estimated is the mean, over all listeners of a population, of their saves with
the lift minus their saves without it. Both are known, by common random numbers: each population is simulated twice, once with one
half of it treated and once with the other half. Saves change nothing else there, so no listener feels the others' variant.
"""
import numpy as np
import pandas as pd
from scipy.stats import binom

from rap_analyzer.product.audience import simulate
from rap_analyzer.product.experiments import analyse, assign_all, boundary, by_unit

LIFT = 1.1  # the planted effect: a tenth more saves


def within(found: int, n: int, p: float) -> bool:
    "Whether a count lies in the binomial 99 % band of its share."
    low, high = binom(n, p).ppf([.005, .995])
    return bool(low <= found <= high)


def saves_of(events: pd.DataFrame, listeners: int) -> np.ndarray:
    "Saves by listener, counted from the raw events without the package."
    return np.bincount(events.listener_id[events.action == "save"], minlength=listeners)


def people_of(events: pd.DataFrame) -> pd.DataFrame:
    "The events without the audience's bots: their thousands of saves would hide whatever is tested."
    bots = events.attrs["truth"].listeners.query("bot != ''").index
    return events[~events.listener_id.isin(bots)]


def z_daily(totals: np.ndarray, new: np.ndarray) -> np.ndarray:  # one per day
    "Difference of the means over its standard error, from totals of shape (listeners, days)."
    a, b = totals[new], totals[~new]
    se = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    return np.divide(a.mean(0) - b.mean(0), se, out=np.zeros(len(se)), where=se > 0)


def false_alarms(draws: int, days: int, listeners: int, seed: int) -> dict[str, int]:
    "How many of so many re-assignments report a difference: at the end, at any day with the sequence, at any day with the test."
    events = people_of(simulate(days, listeners, seed))
    table = by_unit(events, "saves")
    day = (events.time - events.time.min().normalize()).dt.days
    saves = events.action == "save"
    totals = pd.crosstab(events.listener_id[saves], day[saves]).reindex(index=table.index, columns=range(days), fill_value=0)
    totals, wall = totals.cumsum(axis=1).to_numpy(), np.array([boundary((d + 1) / days) for d in range(days)])
    count = {"fixed": 0, "peeking": 0, "naive": 0}
    for i in range(draws):
        name = f"aa-{seed}-{i}"
        count["fixed"] += analyse(table, "saves", name).p < .05
        z = np.abs(z_daily(totals, assign_all(name, table.index) == "treatment"))
        count["peeking"] += bool((z > wall).any())
        count["naive"] += bool((z > 1.96).any())
    return {k: int(v) for k, v in count.items()}


def half(seed: int, listeners: int) -> np.ndarray:  # bool
    "Who is treated in a population, as the package assigns."
    return assign_all(f"coverage-{seed}", range(listeners)) == "treatment"


def worlds(days: int, listeners: int, seed: int, lift: float) -> list[pd.DataFrame]:
    "A population with one half treated, and the same population with the other half."
    new = half(seed, listeners)
    return [simulate(days, listeners, seed, effects={"save_lift": lift, "group": np.flatnonzero(g)}) for g in (new, ~new)]


def potential_saves(days: int, listeners: int, seed: int, lift: float) -> tuple[np.ndarray, np.ndarray]:
    "What each listener saves without and with the lift."
    new, (one, other) = half(seed, listeners), (saves_of(w, listeners) for w in worlds(days, listeners, seed, lift))
    return np.where(new, other, one), np.where(new, one, other)


def coverage(populations: int, days: int, listeners: int, seed: int, lift: float = LIFT) -> dict:
    "In how many populations the interval holds the truth; whether arithmetic on the raw events finds the same effect."
    covered, effects, truths, same = 0, [], [], True
    for i in range(seed, seed + populations):
        new, (one, other) = half(i, listeners), worlds(days, listeners, i, lift)
        a, b = saves_of(one, listeners), saves_of(other, listeners)
        truth = float((np.where(new, a, b) - np.where(new, b, a)).mean())
        found = analyse(one, "saves", units=dict(enumerate(np.where(new, "treatment", "control"))))
        covered += found.low <= truth <= found.high
        same &= abs(found.effect - (a[new].mean() - a[~new].mean())) < 1e-9
        effects.append(found.effect)
        truths.append(truth)
    return {"covered": int(covered), "same_by_hand": bool(same), "truth": float(np.mean(truths)), "found": float(np.mean(effects)),
            "found_se": float(np.std(np.subtract(effects, truths), ddof=1) / populations**.5)}


def run_experiments(draws: int, populations: int, seed: int) -> dict:
    "Both proofs."
    alarms = false_alarms(draws, 28, 1_000, seed)
    covered = coverage(populations, 7, 100, seed)
    held = (within(alarms["fixed"], draws, .05) and alarms["peeking"] <= .05 * draws and covered["same_by_hand"]
            and within(covered["covered"], populations, .95))
    return {"alarms": alarms, **covered, "held": bool(held)}
