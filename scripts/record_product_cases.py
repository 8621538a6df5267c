"""Record the situations of the blind case of the Product chapter: simulated months in which plays are up and retention is down.

`.venv/bin/python scripts/record_product_cases.py` writes exercises/cases/32.json. The exercise shows these figures and no others.
Each case compares a month with the month before: the same simulation (listeners, tastes, chances to leave), with one thing changed.
"""
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rap_analyzer.product.audience import simulate
from rap_analyzer.product.people import START
from rap_analyzer.provenance import machine

DAYS, SEED = 21, 32


def month(listeners: int, latency_ms: float = 0, part: float = 1) -> tuple[pd.DataFrame, pd.DataFrame]:  # events, accounts
    "Three weeks of people, for a part of whom pages are late; the simulation's own bots are left out."
    e = simulate(DAYS, listeners, SEED, None, {"latency_ms": latency_ms, "group": range(int(part * listeners))})
    people = e.attrs["truth"].listeners
    people = people[people.bot == ""][["persona", "joined"]]
    e = e[e.listener_id.isin(people.index)]
    return e.assign(day=(e.time - pd.Timestamp(START)) / pd.Timedelta(days=1)), people


def add_machines(e: pd.DataFrame, people: pd.DataFrame, each_day: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Each day so many new accounts, each of which plays one track over and over, and is never seen again."
    rng, first, rows, new = np.random.default_rng(SEED), int(people.index.max()) + 1, [], []
    for n in range(each_day * DAYS):
        day, who = n // each_day, first + n
        at = day + rng.random() * .5 + np.arange(60) * 33 / 86_400
        rows.append(pd.DataFrame({"listener_id": who, "session_id": -who, "action": "play", "track_id": int(rng.integers(3_000)),
                                  "position": 0, "day": at, "time": pd.Timestamp(START) + pd.to_timedelta(at, unit="D")}))
        new.append((who, "enthusiast", day))
    more = pd.DataFrame(new, columns=["listener_id", "persona", "joined"]).set_index("listener_id")
    return pd.concat([e.assign(action=e.action.astype(str)), *rows]), pd.concat([people, more])


def keep(e: pd.DataFrame, people: pd.DataFrame, of: dict[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    "So many listeners of each persona, all of them there from the first day."
    here = people[people.joined == 0]
    chosen = pd.concat([here[here.persona == p].head(n) for p, n in of.items()])
    return e[e.listener_id.isin(chosen.index)], chosen


def young(e: pd.DataFrame, people: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    "As if a share of the listeners had joined in the last ten days: what they did before is not there."
    rng = np.random.default_rng(SEED)
    late = people.index[rng.random(len(people)) < share]
    people = people.assign(joined=people.joined.where(~people.index.isin(late), 11 + rng.integers(0, 9, len(people))))
    return e[e.day >= e.listener_id.map(people.joined)], people


def rate(e: pd.DataFrame, people: pd.DataFrame) -> float:
    "The mean share of these accounts that were active on a day of their third week, as far as the record goes."
    since = e.day - e.listener_id.map(people.joined)
    seen = e[(since >= 14) & (since < 21)]
    pairs = seen.assign(d=seen.day.astype(int)).drop_duplicates(["listener_id", "d"])
    return len(pairs) / 7 / len(people) if len(people) else float("nan")


def observe(e: pd.DataFrame, people: pd.DataFrame) -> dict:
    "Seven ways to look at a month."
    e = e[e.listener_id.isin(people.index)]
    whole, of = people[people.joined <= DAYS - 21], lambda p: e[e.listener_id.isin(p.index)]
    plays, skips = e[e.action == "play"], (e.action == "skip").sum()
    count = plays.listener_id.value_counts()
    by = {p: g for p, g in people.groupby("persona", observed=True)}
    shown = e[e.action == "impression"]
    waits = e[(e.action == "search") | (e.action == "impression") & (e.position == 1)]
    waits = waits.sort_values(["session_id", "time"], kind="stable")
    nxt = waits.groupby("session_id").shift(-1)
    asked = waits[waits.action == "search"]
    came = nxt.loc[asked.index]
    ms = (came.time - asked.time)[came.action == "impression"].dt.total_seconds() * 1_000
    once = count[plays.groupby("listener_id").track_id.nunique().reindex(count.index) == 1]
    return {"plays": {"per_day": round(len(plays) / DAYS)},
            "retention": {"accounts": len(people), "share": round(rate(e, people), 4)},
            "complete": {"of": len(people), "had_third_week": len(whole), "share": round(rate(of(whole), whole), 4)},
            "waits": {"p50_ms": round(float(ms.median())), "p95_ms": round(float(ms.quantile(.95))),
                      "gone": round(float((came.action != "impression").mean()), 4)},
            "skips": {"share": round(skips / len(plays), 4),
                      "different": round(float(shown.groupby("listener_id").track_id.nunique().median()))},
            "accounts": {"one_track": int((once >= 50).sum()),
                         "plays_of_theirs": round(float(once[once >= 50].sum() / len(plays)), 4)},
            "personas": {p: {"part": round(len(g) / len(people), 3), "share": round(rate(of(g), g), 4)} for p, g in by.items()}}


def stage() -> dict[str, dict]:
    "Before and now, for each case."
    base = month(300)
    mix = keep(*month(1_200), {"producer": 45, "enthusiast": 260, "researcher": 20})
    other = keep(*month(1_200), {"producer": 230, "enthusiast": 240, "researcher": 90})
    pairs = {"slow": (base, month(900, 2_500)), "some": (base, month(600, 7_000, .5)),
             "machines": (base, add_machines(*base, 8)), "young": (base, young(*month(700), .5)), "mix": (mix, other)}
    return {name: {"before": observe(*a), "now": observe(*b)} for name, (a, b) in pairs.items()}


def main() -> None:
    "Simulate, look, write."
    found = stage()
    for name, pair in found.items():
        for when, seen in pair.items(): print(name, when, json.dumps(seen))
    out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / "32.json"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"recorded_at": at, "days": DAYS, "machine": machine(), "cases": found}
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
