"""`scripts/soak latency`: do slow pages cost something? Two groups of listeners on two lines, one of them 200 ms slower.

The size is planned before, from the simulation in memory: there both worlds share their luck, so the effect is known well, and
so is how much listeners differ. Then two groups of listeners use the service, each on its own line, and the difference has to
stand out.
"""
from collections.abc import Callable

import numpy as np
import pandas as pd
from _overload import service

from rap_analyzer.product.audience import simulate
from rap_analyzer.product.events import Events
from rap_analyzer.product.live import Crowd, Live
from rap_analyzer.product.people import TRACKS
from rap_analyzer.serve.proxy import Proxy

DELAY_MS = 200
POWER_Z = 1.96 + 1.28  # nine experiments of ten find an effect of the planned size
PLANNED = 2_000  # listeners of the simulation in memory


def ratio(saves: np.ndarray, sessions: np.ndarray) -> tuple[float, float]:  # saves per session; its deviation times the root of n
    "A ratio of two sums over listeners, and how much it varies, by the delta method (Deng et al. 2018)."
    r = saves.sum() / sessions.sum()
    return float(r), float(np.std(saves - r * sessions, ddof=1) / sessions.mean())


def by_listener(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:  # saves and sessions of each
    "The sums over a listener's sessions."
    sums = frame.groupby("listener_id").agg(saves=("saves", "sum"), sessions=("saves", "size"))
    return sums.saves.to_numpy(float), sums.sessions.to_numpy(float)


def plan(days: int, seed: int) -> dict[str, float]:  # saves per session, effect, listeners per group
    "How many listeners each group needs."
    sides = []
    for ms in (0, DELAY_MS):
        events = simulate(days, PLANNED, seed, effects={"latency_ms": ms})
        human = events[(events.attrs["truth"].listeners.bot == "").to_numpy()[events.listener_id]]
        sessions = human.groupby(["listener_id", "session_id"]).action.agg(lambda a: (a == "save").sum()).rename("saves")
        sides.append(ratio(*by_listener(sessions.reset_index())))
    (before, spread), (after, _) = sides
    return {"saves_per_session": round(float(before), 4), "effect": round(float(after - before), 4),
            "listeners_per_group": int(np.ceil(2 * (POWER_Z * spread / (after - before)) ** 2))}


def listen(listeners: int, days: int, seed: int, speed: float) -> Crowd:
    "Two groups before the same service, each on its own line."
    with service(TRACKS, lambda store: Events(store).register(range(listeners))) as url:
        port, lines = int(url.rpartition(":")[2]), []
        try:
            lines += [Proxy("127.0.0.1", port).start() for _ in range(2)]
            lines[1].delay_s = DELAY_MS / 2_000                     # there, and back
            live = Live(lambda who: f"http://127.0.0.1:{lines[who % 2].port}", listeners, seed, speed, hour=0, at_once=False)
            return live.run(days * 86_400 / speed)
        finally: [line.close() for line in lines]


def latency(days: int, speed: float, seed: int, listeners: int | None = None,  # in all; default: as planned
            each: Callable[[str], None] = lambda _: None) -> dict:
    "Plan, listen, compare: the difference in saves per session with its 95 % interval, by listener."
    planned = plan(days, seed)
    each(f"planned: {planned}")
    ran = listen(n := listeners or 2 * planned["listeners_per_group"], days, seed + 1, speed)
    each(repr(ran))
    visits, groups = ran.visits, []
    for slow in (0, 1):
        mine = visits[visits.listener_id % 2 == slow]
        groups.append((ratio(*by_listener(mine)), mine.listener_id.nunique(), mine))
    (fast, spread_a), n_a, a = groups[0]
    (slow, spread_b), n_b, b = groups[1]
    half = 1.96 * (spread_a ** 2 / n_a + spread_b ** 2 / n_b) ** .5
    apart = float(b.page_ms[b.pages > 0].median() - a.page_ms[a.pages > 0].median())
    return {"planned": planned, "listeners": n, "sessions": [len(a), len(b)], "pages_apart_ms": round(apart, 1),
            "saves_per_session": [round(fast, 4), round(slow, 4)], "effect": round(slow - fast, 4), "half": round(half, 4),
            "low": round(slow - fast - half, 4), "high": round(slow - fast + half, 4), "late_s": round(ran.late_s, 3),
            "unsent": ran.unsent, "failed_pages": int(visits.failed.sum()), "held": bool(slow - fast + half < 0 and not ran.unsent)}
