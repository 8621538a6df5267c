"""Record the situations of the blind case of the Decisions chapter: seven tables on the day of the decision.

`.venv/bin/python scripts/record_decision_cases.py` writes exercises/cases/34.json. The exercise shows these figures and no others.
Marks come from the reference runs in exercises/results, or are judgements; everything else is computed from them by
`rap_analyzer.decide`, with one seed, so the file changes only if a run or the arithmetic does (`tests/test_blind.py`).
"""
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from rap_analyzer.decide.adr import reference
from rap_analyzer.decide.brokers import score_runs
from rap_analyzer.decide.matrix import Mark, Matrix, read_matrix, tally
from rap_analyzer.decide.sensitivity import find_tippings, share_wins
from rap_analyzer.decide.worth import value_of_knowing

DRAWS, SEED = 2_000, 34
MIDDLE = 5.0  # what a hole counts where the weights alone are looked at


def marks(runs: dict[str, str], lower: bool = True) -> dict[str, tuple[float, str, float]]:  # by alternative: mark, run, error
    "Marks from reference runs; the error of a median, relative, where the run has a spread."
    found = {a: reference(key) for a, key in runs.items()}
    scored = score_runs({a: r["p50"] for a, r in found.items()}, lower)
    error = {a: 1.25 * r["spread"] / 1.35 / math.sqrt(r["n"]) / r["p50"] if r["spread"] else 0.0 for a, r in found.items()}
    return {a: (scored[a], runs[a], error[a]) for a in runs}


def ratio(key: str, first: str, second: str) -> dict[str, tuple[float, str, float]]:
    "Marks from a reference run that says how many times as much `first` takes as `second`."
    r = reference(key)
    scored = score_runs({first: r["p50"], second: 1.0}, lower=True)
    error = math.log(r["values"]["high"] / r["values"]["low"]) / 3.92
    return {a: (scored[a], key, error if a == first else 0.0) for a in scored}


def said(**by: float | None) -> dict[str, tuple[float | None, str, float]]:
    "Marks by judgement; None: a hole."
    return {a: (mark, "judgement", 0.0) for a, mark in by.items()}


def table(weights: dict[str, float], columns: dict[str, dict]) -> tuple[Matrix, np.ndarray]:  # and the relative errors
    "A matrix from its columns."
    names = list(next(iter(columns.values())))
    rows = {a: {c: {"score": columns[c][a][0], "evidence": columns[c][a][1]} for c in weights} for a in names}
    errors = np.array([[columns[c][a][2] for c in weights] for a in names])
    return read_matrix({"weights": weights, "alternatives": rows}), errors


def fill(m: Matrix, value: float) -> Matrix:
    "The same table with one figure in each hole."
    rows = {a: {c: Mark(value, s.evidence) if s.value is None else s for c, s in row.items()} for a, row in m.scores.items()}
    return replace(m, scores=rows)


def states(m: Matrix, errors: np.ndarray) -> list[dict[str, float]]:  # totals by alternative
    "What may be true: each figure that a hole could hold, or draws of the marks within their errors."
    if m.gaps: return [{a: low for a, (low, _) in tally(fill(m, float(v))).totals.items()} for v in range(11)]
    rng, weights = np.random.default_rng(SEED), np.array(list(m.weights.values()))
    drawn = np.minimum(m.top, m.table() * np.exp(rng.normal(0, 1, (DRAWS, *errors.shape)) * errors))
    return [dict(zip(m.scores, map(float, row), strict=True)) for row in drawn @ weights]


def observe(m: Matrix, errors: np.ndarray, agreed: str, days: float, price: float, later: dict) -> dict:
    "Seven ways to look at a table: days: what a point of the total is worth; price: of measuring; later: what waiting tells."
    found, whole, may = tally(m), fill(m, MIDDLE), states(m, errors)
    prior = {str(i): 1 / len(may) for i in range(len(may))}
    worth = value_of_knowing(prior, {a: {str(i): days * s[a] for i, s in enumerate(may)} for a in m.scores})
    leader = tally(whole).winner
    least = next(iter(find_tippings(whole)), None)
    return {"totals": {a: [round(low, 2), round(high, 2)] for a, (low, high) in found.totals.items()},
            "evidence": {kind: round(share, 2) for kind, share in found.rests_on.items() if share},
            "holes": {"missing": [f"{c} of {a}" for a, c in found.gaps], "may_win": list(found.first)},
            "weights": {"agreed": agreed, "wins_near": round(share_wins(whole, 50, 10_000, SEED)[leader], 2), "smallest": least and
                        {"of": least.criterion, "from": round(least.weight, 2), "to": round(least.at, 2), "rival": least.rival}},
            "noise": {"same_winner": round(sum(max(s, key=s.get) == leader for s in may) / len(may), 2)},
            "measuring": {"worth_days": round(worth, 1), "price_days": price},
            "waiting": {"tells": later["tells"], "worth_days": round(value_of_knowing(later["chances"], later["pays"]), 1),
                        "costs_days": later["costs"], "back": later["back"]}}


def wait(tells: str, chance: float, stay: float, go: float, costs: float, back: str) -> dict:
    "What waiting tells: whether the first option will cost `stay` days (with this chance) or none; the other always costs `go`."
    return {"tells": tells, "chances": {"yes": chance, "no": 1 - chance}, "costs": costs, "back": back,
            "pays": {"first": {"yes": -stay, "no": 0.0}, "other": {"yes": -go, "no": -go}}}


CRASH = {"recovery": {"Streams": "brokers.recovery_s.streams", "Kafka": "brokers.recovery_s.kafka"}}
LAYOUTS = "shared", "schemas", "databases"


def stage() -> dict[str, dict]:
    "The seven tables."
    recovery, upkeep = marks(CRASH["recovery"]), said(Streams=9, Kafka=4)
    kept = said(Streams=4, Kafka=None)
    def layouts(**keys: str) -> dict: return {n: marks({a: f"designs.{k}.{a}" for a in LAYOUTS}) for n, k in keys.items()}
    def vectors(*names: str) -> dict: return marks({a: f"store.layout.{a}" for a in names})
    few = layouts(restore="restore", requests="next_many", migration="column_many", disk="disk_many")
    many = layouts(disk="disk_many", migration="column_many", requests="warm_many")
    words = {"latency": ratio("engines.postgres_over_tantivy", "PostgreSQL", "tantivy"), "order": said(PostgreSQL=10, tantivy=10),
             "up to date": said(PostgreSQL=10, tantivy=3), "upkeep": said(PostgreSQL=9, tantivy=5)}
    hole = {"durability": kept, "recovery": recovery, "upkeep": upkeep}
    level = {"time": vectors("inline", "halfvec", "fewer_dims"), "precision": said(inline=10, halfvec=9, fewer_dims=7)}
    clear = {"time": vectors("naive", "inline", "halfvec"), "bytes": said(naive=5, inline=5, halfvec=10),
             "change": said(naive=7, inline=7, halfvec=8)}
    early, drafts = "all agreed before the first figure was known", "not agreed: there are three drafts"
    growth = "in two months you know how far the events have grown"
    model = "in a month you know whether a model with longer vectors comes"
    return {
        "hole": observe(*table({"durability": .7, "recovery": .2, "upkeep": .1}, hole), early, 10, 2,
                        wait(growth, .1, 12, 8, 4, "20 days")),
        "no_matter": observe(*table({"durability": .2, "recovery": .4, "upkeep": .4}, hole), early, 10, 8,
                             wait(growth, .1, 15, 8, 6, "20 days")),
        "drafts": observe(*table({"restore": .45, "requests": .25, "migration": .05, "disk": .25}, few), drafts, 4, 3,
                          wait("next quarter you know how many teams there are", .2, 16, 10, 5, "30 days")),
        "level": observe(*table({"time": .6, "precision": .4}, level), early, 4, 3, wait(model, .3, 6, 4, 2, "2 days")),
        "contract": observe(*table({"latency": .25, "order": .25, "up to date": .3, "upkeep": .2}, words), early, 4, 6,
                            wait("in five weeks you know whether the large contract is signed", .4, 30, 12, 1, "12 days")),
        "ruling": observe(*table({"disk": .4, "migration": .3, "requests": .3}, many), early, 4, 4,
                          wait("in three weeks you know what the regulator asks for", .3, 45, 20, 1.5, "60 days")),
        "quarrel": observe(*table({"time": .4, "bytes": .3, "change": .3}, clear), drafts, 4, 5,
                           wait(model, .2, 9, 6, 3, "6 days"))}


def main() -> None:
    "Compute, look, write."
    found = stage()
    for name, seen in found.items(): print(name, json.dumps(seen))
    out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / "34.json"
    out.write_text(json.dumps({"draws": DRAWS, "seed": SEED, "cases": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
