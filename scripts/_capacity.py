"""`scripts/soak capacity`: throughput predicted for configurations that never ran, then measured."""
from collections.abc import Callable

from rap_analyzer.search.index import build, built
from rap_analyzer.search.store import Store, default_store, fill
from rap_analyzer.serve.capacity import Pace, calibrate, predict_throughput
from rap_analyzer.serve.deployment import Configuration, Measured, draw, measure

NEAR = 0.2  # a prediction counts if it is that near
SHARE = 0.85  # of the predictions have to be
OTHERS = 0.1  # of the core: a run in which other programs took more is discarded
AGAIN = 3  # times


def quiet(store: Store, pace: Pace, c: Configuration, seconds: float) -> tuple[Measured, float, int]:  # pace, runs discarded
    "Measure on a core that the system had to itself; the quietest run if none was quiet enough."
    runs: list[tuple[Measured, float]] = []
    while len(runs) <= AGAIN:
        runs.append(pace.around(lambda: measure(store, c, seconds)))
        if runs[-1][0].others <= OTHERS: break
    return *min(runs, key=lambda run: run[0].others), len(runs) - 1


def run_capacity(seconds: float, trials: int, seed: int, each: Callable[[str, float], None] = lambda *_: None) -> dict:
    "Calibrate, predict all of them, then run all of them. A prediction is for the pace that an idle twin of the service shows."
    store = fill(default_store())
    if "hnsw_halfvec" not in built(store, fresh=True): build("hnsw_halfvec", store)
    rows, discarded = [], 0
    with Pace(store, seconds) as pace:
        seen = calibrate(store, seconds, pace)
        for p in [predict_throughput(seen, c) for c in draw(trials, seed, [m.configuration for m in seen.values()])]:
            m, slower, again = quiet(store, pace, p.configuration, seconds)
            discarded += again
            rows.append({"configuration": str(p.configuration), "predicted": round(p.per_s, 1), "pace": round(slower, 3),
                         "measured": round(m.per_s, 1), "off": round(p.per_s / slower / m.per_s - 1, 3),
                         "off_without_pace": round(p.per_s / m.per_s - 1, 3), "others": round(m.others, 3), "refused": m.refused})
            each(rows[-1]["configuration"], rows[-1]["off"])
    near, raw = (sum(abs(r[key]) <= NEAR for r in rows) / len(rows) for key in ("off", "off_without_pace"))
    others = max(m.others for m in seen.values())
    return {"tracks": store.count(), "rows": rows, "near": near, "near_without_pace": raw, "discarded": discarded,
            "calibration_others": round(others, 3), "held": near >= SHARE and not any(r["refused"] for r in rows)}
