"""Record the situations of the blind case of the Performance chapter:
six small systems under load on real servers, watched in six ways.

`.venv/bin/python scripts/record_cases.py` writes exercises/cases/29.json. The exercise shows these figures and no others.
"""
import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

from rap_analyzer.lab import Lab
from rap_analyzer.provenance import machine
from rap_analyzer.search.store import Store, explain

ROWS, LISTENERS = 200_000, 20_000
TABLES = f"""
DROP TABLE IF EXISTS plays, totals;
CREATE TABLE plays (id bigint PRIMARY KEY, listener int NOT NULL, track_id int NOT NULL, at timestamp NOT NULL, note text);
INSERT INTO plays SELECT i, (i * 7919) % {LISTENERS}, (i * 104729) % 57000, timestamp '2026-01-01' + i * interval '90 s',
       repeat('x', 60)
FROM generate_series(1::bigint, {ROWS}) i;
CREATE TABLE totals (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO totals SELECT i, 0 FROM generate_series(1, 100) i;
"""
HISTORY = "SELECT track_id, at FROM plays WHERE listener = %s ORDER BY at DESC LIMIT 20"
CHART = "SELECT track_id, count(*) FROM plays WHERE note <> %s GROUP BY 1 ORDER BY 2 DESC LIMIT 10"
COUNT = "UPDATE totals SET n = n + 1 WHERE id = %s"
REPORT = "SELECT listener, count(DISTINCT track_id), max(at) FROM plays WHERE id > %s GROUP BY 1 ORDER BY 2 DESC"
DAY = "SELECT track_id FROM plays WHERE at::date = %s LIMIT 50"
BY_LISTENER, BY_TIME = "CREATE INDEX ON plays (listener, at DESC)", "CREATE INDEX ON plays (at)"
WAITS = """SELECT coalesce(wait_event_type, 'running') FROM pg_stat_activity
WHERE state = 'active' AND datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
TOP = """SELECT left(regexp_replace(query, '\\s+', ' ', 'g'), 200), calls, round(mean_exec_time::numeric, 2),
    round((100 * total_exec_time / sum(total_exec_time) OVER ())::numeric, 1)
FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
AND query ~ 'plays|totals' AND query !~ 'EXPLAIN' ORDER BY total_exec_time DESC LIMIT 2"""
Ask = Callable[[int], tuple[str, object]]


class Lru:
    "An answer cache with counters."

    def __init__(self, size: int):
        self.size, self.kept, self.counts, self.guard = size, OrderedDict(), Counter(), threading.Lock()

    def get(self, key: object) -> bool:
        with self.guard:
            found = key in self.kept
            self.counts["hits" if found else "misses"] += 1
            if found: self.kept.move_to_end(key)
            return found

    def put(self, key: object) -> None:
        with self.guard:
            self.kept[key] = True
            if len(self.kept) > self.size: self.kept.popitem(last=False); self.counts["evicted"] += 1


def sampled(store: Store, over: threading.Event, seen: Counter) -> None:
    "What the busy sessions wait for, twenty times a second."
    with store.admin(None) as con:
        while not over.wait(0.05): seen.update(kind for (kind,) in con.execute(WAITS))


def cpu_s(lab: Lab) -> float:
    "Processor seconds of this PostgreSQL so far, of sessions that have ended as well."
    main, total = lab.postgres.postmaster(), 0.0
    for p in lab.postgres.processes():
        with suppress(psutil.Error): total += sum(p.cpu_times()[:4 if p == main else 2])
    return total


def observe(store: Store, ask: Ask, n: int, clients: int, cache: int = 0, hold_s: float = 0.0) -> dict:
    "Six ways to look at the same load: `n` requests from some clients; `hold_s`: how long a change stays open."
    lru, took, asked, seen, over = Lru(cache or 1), [], set(), Counter(), threading.Event()
    own = threading.local()

    def request(i: int) -> None:
        if not hasattr(own, "con"):
            own.con = store.admin(None)
            own.con.execute("SET max_parallel_workers_per_gather = 0")
        query, value = ask(i)
        asked.add(value)
        start = time.perf_counter()
        if not (cache and lru.get((query, value))):
            own.con.execute("BEGIN")
            own.con.execute(query, [value])
            if hold_s: time.sleep(hold_s)
            own.con.execute("COMMIT")
            if cache: lru.put((query, value))
        took.append(1_000 * (time.perf_counter() - start))

    with store.admin(None) as con:
        con.execute("SELECT pg_stat_statements_reset()")
        watcher = threading.Thread(target=sampled, args=(store, over, seen))
        watcher.start()
        cpu, start = cpu_s(store.lab), time.perf_counter()
        try:
            with ThreadPoolExecutor(clients) as pool: list(pool.map(request, range(n)))
        finally: over.set(), watcher.join()
        wall = time.perf_counter() - start
        time.sleep(0.3)                                                # ended sessions are counted when they are gone
        cpu = cpu_s(store.lab) - cpu
        top = [(q, c, float(m), float(s)) for q, c, m, s in con.execute(TOP)]
        con.execute("SET max_parallel_workers_per_gather = 0")
        query, value = ask(5)
        plan = explain(con, query, [value])
    nodes = list(walk(plan.raw["Plan"]))
    removed = sum(x.get("Rows Removed by Filter", 0) * x.get("Actual Loops", 1) for x in nodes)
    busy = sum(seen.values()) or 1
    p50, p95, p99 = (round(float(p), 2) for p in np.percentile(took, (50, 95, 99)))
    read = max(int(x["Actual Rows"]) for x in nodes) + int(removed)
    return {"latency": {"n": n, "clients": clients, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99},
            "plan": {"nodes": " <- ".join(plan.nodes), "indexes": list(plan.indexes), "read": read, "returned": int(plan.rows),
                     "buffers": plan.buffers},
            "statements": [dict(zip(("query", "calls", "mean_ms", "share"), row, strict=True)) for row in top],
            "cache": {"size": cache, **{k: lru.counts[k] if cache else 0 for k in ("hits", "misses", "evicted")},
                      "different": len(asked), "asked": n},
            "cpu": {"ms_each": round(1_000 * cpu / n, 2), "per_s": round(n / wall, 1)},
            "waits": {k: round(v / busy, 3) for k, v in seen.most_common(3)}}


def walk(node: dict) -> Iterator[dict]:
    "A plan node and all below it."
    yield node
    for child in node.get("Plans", []): yield from walk(child)


def report_now_and_then(i: int) -> tuple[str, object]:
    "History pages, and one report in the whole night."
    return (REPORT, 0) if i == 1_500 else (HISTORY, i * 31 % LISTENERS)


CASES: dict[str, tuple[list[str], dict]] = {
    "missing": ([], {"ask": lambda i: (HISTORY, i * 31 % LISTENERS), "n": 200, "clients": 2}),
    "chart": ([], {"ask": lambda i: (CHART, "y" * (i % 3)), "n": 60, "clients": 2}),
    "uniform": ([], {"ask": lambda i: (HISTORY, i * 6_007 % 9_973), "n": 240, "clients": 2, "cache": 100}),
    "hot_row": ([BY_LISTENER], {"ask": lambda i: (COUNT, 1), "n": 400, "clients": 8, "hold_s": 0.005}),
    "report": ([BY_LISTENER], {"ask": report_now_and_then, "n": 3_000, "clients": 2}),
    "cast": ([BY_TIME], {"ask": lambda i: (DAY, f"2026-{1 + i % 6:02}-{1 + i % 28:02}"), "n": 160, "clients": 8}),
}


def main() -> None:
    "Stage, watch, write."
    with Lab(database="cases") as lab:
        store, found = Store(lab), {}
        for name, (indexes, load) in CASES.items():
            with store.admin(None) as con:
                for part in (*filter(str.strip, TABLES.split(";")), *indexes, "VACUUM ANALYZE plays", "VACUUM ANALYZE totals"):
                    con.execute(part)
            found[name] = observe(store, **load)
            print(name, json.dumps(found[name]))
        lab.drop_database("cases")
    out = Path(__file__).resolve().parent.parent / "exercises" / "cases" / "29.json"
    out.parent.mkdir(exist_ok=True)
    made = {"recorded_at": datetime.now(UTC).isoformat(timespec="seconds"), "rows": ROWS, "machine": machine(), "cases": found}
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
