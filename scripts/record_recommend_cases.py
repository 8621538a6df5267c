"""Record the situations of the blind case of the Recommending chapter: better offline, worse online.

`.venv/bin/python scripts/record_recommend_cases.py` writes exercises/cases/32_recommend.json; the exercise shows these figures.
Pages show three tracks of one shelf: one of the eight moods, or what the listener heard lately. A log of the old ranking, with 5 %
of its pages shuffled, gives the offline figure and the weighted one; an experiment on half of another audience the online ones.
"""
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rap_analyzer.music.catalog import MOODS
from rap_analyzer.product import people
from rap_analyzer.product.audience import Context, Platform, find_activity, interest, popularity, simulate
from rap_analyzer.product.experiments import always_valid, analyse, assign_all
from rap_analyzer.product.people import catalog_part, draw_truth
from rap_analyzer.product.shelves import OCCASIONS, SHELF, find_occasion, run_day, shelf_chances
from rap_analyzer.provenance import machine
from rap_analyzer.recommend.offpolicy import estimate

SEED, EXPLORE, ARMS, AGAIN = 33, .05, len(MOODS) + 1, len(MOODS)  # the last shelf: what was heard lately
Ranking = np.ndarray  # the shelf of each occasion


def again(c: Context) -> np.ndarray:  # (n, SHELF)
    "Three different tracks that the listener heard lately, from a place that the dice choose."
    out = np.empty((len(c.library), SHELF), int)
    for i, row in enumerate(c.library):
        start = int(c.dice[i] * len(row))
        known = [t for t in dict.fromkeys([*row[start:], *row[:start]]) if t in c.tracks][:SHELF]
        out[i] = known + [t for t in c.tracks[:2 * SHELF] if t not in known][:SHELF - len(known)]
    return out


def narrow(c: Context, me: np.ndarray) -> Context:
    "What a policy may know, for some of the listeners."
    return replace(c, **{name: getattr(c, name)[me] for name in ("hour", "device", "library", "dice")})


def show(w: np.ndarray, c: Context, arm: np.ndarray) -> np.ndarray:  # (n, SHELF)
    "The tracks of each listener's shelf."
    moods, shown = catalog_part()[2], np.empty((len(w), SHELF), int)
    for a in np.unique(arm):
        me = arm == a
        part = narrow(c, me)
        if a == AGAIN: shown[me] = again(part)
        else:
            of = moods[c.tracks] == a
            shown[me] = popularity(w[me], replace(part, tracks=c.tracks[of], plays=c.plays[of]))[:, :SHELF]
    twice = (np.diff(np.sort(shown, 1), axis=1) == 0).any(1)
    if twice.any(): shown[twice] = popularity(w[twice], narrow(c, twice))[:, :SHELF]
    return shown


def occasion(c: Context) -> np.ndarray:
    "Where the listeners are, by the clock."
    return find_occasion(c.hour, np.full(len(c.hour), c.day % 7 >= 5))


@dataclass
class Log:
    "What the old ranking showed, and the chance of a click on every shelf."
    cell: list = field(default_factory=list)
    arm: list = field(default_factory=list)
    chance: list = field(default_factory=list)
    unit: list = field(default_factory=list)


def record_log(old: Ranking, days: int, listeners: int, seed: int) -> pd.DataFrame:  # unit, cell, arm, propensity, click
    "A month of the old ranking, 5 % of its pages with a shelf by chance."
    log, dice = Log(), np.random.default_rng([seed, 9])

    def look(w: np.ndarray, c: Context) -> np.ndarray:
        cell = occasion(c)
        arm = np.where(dice.random(len(w)) < EXPLORE, dice.integers(ARMS, size=len(w)), old[cell])
        shelf, place = again(c), np.arange(1, SHELF + 1)
        activity = find_activity(c.hour, c.day % 7 >= 5)
        want = 1.5 * interest(p, w[:, None], shelf, activity[:, None]) - people.EXAMINE * np.log(place)
        likes = np.exp(want).sum(1)
        chance = np.column_stack([shelf_chances(p, w, c), likes / (likes + np.e)])
        for name, value in (("cell", cell), ("arm", arm), ("chance", chance), ("unit", w)): getattr(log, name).append(value)
        return show(w, c, arm)

    p = Platform(draw_truth(listeners, days, seed), seed, look)
    for day in range(days): run_day(p, day)
    arm, cell, chance = np.concatenate(log.arm), np.concatenate(log.cell), np.concatenate(log.chance)
    table = pd.DataFrame({"unit": np.concatenate(log.unit), "cell": cell, "arm": arm})
    table["propensity"] = EXPLORE / ARMS + (1 - EXPLORE) * (arm == old[cell])
    table["click"] = dice.random(len(arm)) < chance[np.arange(len(arm)), arm]
    table.attrs["chance"] = chance
    return table


def run(old: Ranking, new: Ranking, days: int, listeners: int, seed: int, latency: tuple[float, float] | None) -> pd.DataFrame:
    "Events of an audience of which half gets the new ranking, for some of it with later pages; `had`: tracks of the library."
    treated = assign_all("blind", np.arange(listeners)) == "treatment"

    def policy(w: np.ndarray, c: Context) -> np.ndarray:
        cell = occasion(c)
        return show(w, c, np.where(treated[w], new[cell], old[cell]))

    group = np.flatnonzero(treated)
    ms, part = latency or (0, 1)
    e = simulate(days, listeners, seed, policy, {"latency_ms": ms, "group": group[:int(part * len(group))]} if ms else None)
    truth = e.attrs["truth"]
    e.attrs, library = {}, Platform(truth, seed, policy).library           # as it was before the first day
    had = np.zeros((listeners, len(truth.tracks)), bool)
    np.put_along_axis(had, library, True, axis=1)
    e = e[e.listener_id.isin(truth.listeners.index[truth.listeners.bot == ""])]
    return e.assign(had=had[e.listener_id, np.maximum(0, e.track_id)])


def offline(log: pd.DataFrame, old: Ranking, new: Ranking) -> dict:
    "What the team looked at, and what the weights say: clicks per page."
    cell, arm = log.cell.to_numpy(), log.arm.to_numpy()
    mean = lambda ranking: float(log.click[arm == ranking[cell]].mean())
    rows = log.assign(page=np.arange(len(log)), place=0, item=arm, reward=log.click.astype(float))
    said = {}
    for name, ranking in (("old", old), ("new", new)):
        wanted = ranking[cell]
        e = estimate(rows, wanted, EXPLORE / ARMS + (1 - EXPLORE) * (wanted == old[cell]))["doubly robust"]
        said[name] = {"replay": round(mean(ranking), 4), "weighted": [round(x, 4) for x in (e.value, e.low, e.high)],
                      "pages": round(e.effective)}
    return said


def online(e: pd.DataFrame, share: float) -> dict:
    "Tracks that a listener first played from a page, per listener: the metric of the experiment; and the split."
    first = e[(e.action == "play") & ~e.had].drop_duplicates(["listener_id", "track_id"])
    new = first.index[first.position > 0]                                # heard for the first time, and from a page
    r = analyse(e.assign(discoveries=e.index.isin(new).astype(float)), "discoveries", "blind")
    w = always_valid(r, share) if share < 1 else r
    return {"control": round(r.control, 3), "effect": round(r.effect, 3), "low": round(r.low, 3), "high": round(r.high, 3),
            "any_time": [round(w.low, 3), round(w.high, 3)], "units": r.units, "srm": round(r.srm, 3)}


def waits(e: pd.DataFrame) -> dict:  # by variant
    "How long a page took, and how many left before it came."
    some = e[(e.action == "search") | (e.action == "impression") & (e.position == 1)]
    some = some.sort_values(["session_id", "time"], kind="stable")
    came = some.groupby("session_id").shift(-1)[(some.action == "search").to_numpy()]
    asked = some[some.action == "search"]
    there = (came.action == "impression").to_numpy()
    ms = ((came.time - asked.time).dt.total_seconds() * 1_000).to_numpy()
    treated = assign_all("blind", asked.listener_id.to_numpy()) == "treatment"
    return {name: {"p50_ms": round(float(np.median(ms[me & there]))), "p95_ms": round(float(np.quantile(ms[me & there], .95))),
                   "gone": round(float(1 - there[me].mean()), 4)} for name, me in (("old", ~treated), ("new", treated))}


def repeats(e: pd.DataFrame) -> dict:  # by variant
    "Which share of what is shown was played by the listener before, and which share of the plays is skipped."
    first = e[e.action == "play"].groupby(["listener_id", "track_id"]).time.min().rename("heard")
    shown = e[e.action == "impression"].join(first, on=["listener_id", "track_id"])
    known = (shown.had | (shown.heard < shown.time)).to_numpy()
    treated = assign_all("blind", shown.listener_id.to_numpy()) == "treatment"
    skip, play = e[e.action == "skip"], e[e.action == "play"]
    of = lambda t: assign_all("blind", t.listener_id.to_numpy()) == "treatment"
    return {name: {"shown_again": round(float(known[treated == new].mean()), 4),
                   "skips": round(float((of(skip) == new).sum() / (of(play) == new).sum()), 4)}
            for name, new in (("old", False), ("new", True))}


def stage() -> dict[str, dict]:
    "The situations, each with everything that can be looked at."
    by_occasion = np.array([MOODS.index(m) for m in ("happy", "dreamy", "sad", "party")])  # what people like best, by occasion
    party, same = (np.full(len(OCCASIONS), a) for a in (MOODS.index("party"), AGAIN))
    plans = {"slow": (party, by_occasion, 21, 21, 900, (5_000, 1)), "some": (party, by_occasion, 21, 21, 900, (7_000, .72)),
             "again": (by_occasion, same, 21, 21, 900, None), "replay": (by_occasion, party, 21, 21, 900, None),
             "early": (party, by_occasion, 2, 28, 140, None)}
    out = {}
    for name, (old, new, days, planned, listeners, latency) in plans.items():
        log, seeds = record_log(old, 21, 1_200, SEED + 2), range(SEED + 1, SEED + 60)
        for seed in seeds:                                               # of chance results, one that worries people
            e = run(old, new, days, listeners, seed, latency)
            seen = online(e, days / planned)
            if name != "early" or seen["effect"] < 0: break
        out[name] = {"offline": offline(log, old, new), "online": seen, "waits": waits(e), "repeats": repeats(e), "days": days,
                     "planned": planned}
    return out


def main() -> None:
    "Simulate, look, write."
    found = stage()
    for name, case in found.items(): print(name, json.dumps(case))
    out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / "32_recommend.json"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    out.write_text(json.dumps({"recorded_at": at, "machine": machine(), "cases": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
