"""Record the situations of the blind case of the Platform chapter: ten teams on one service, and one of them says that it is slow.

`.venv/bin/python scripts/record_platform_cases.py` writes exercises/cases/33.json; with names of cases, it records these anew and
keeps the others. The exercise shows these figures and no others. They come from the real service, its database and callers in a
process of their own. What a case hangs on are counts, shares, plans and multiples of what the other nine teams see: a slower
machine changes the milliseconds, and not which case it is.
"""
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
from psycopg import Rollback

from rap_analyzer.app import create_app
from rap_analyzer.core import settings
from rap_analyzer.lab import Lab
from rap_analyzer.platform.keys import Keys
from rap_analyzer.product.actions import Event
from rap_analyzer.product.events import FIELDS, LOAD, Events
from rap_analyzer.provenance import machine
from rap_analyzer.search.index import build
from rap_analyzer.search.lending import Turns
from rap_analyzer.search.store import Store, explain, fill, migrate
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.stats import summary
from rap_analyzer.web import serving

SECONDS, TEAMS, SLOW, RATE, TRACKS, MANY, HELD_S = 8.0, 10, "team3", 4.0, 300, 6_000, 1.5
HERE = str(Path(__file__).resolve().parent)
CALLERS = f"""import sys
sys.path.insert(0, {HERE!r})
import record_platform_cases
record_platform_cases.call()
"""
WAITS = """SELECT count(*)::int FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted
WHERE a.datname = current_database() AND a.usename = 'rap_app'"""
AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
ARTIST = "SELECT count(*) FROM tracks WHERE artist_key = %s"


async def ask(clients: list[httpx.AsyncClient], began: float, at: float, line: int, team: str, path: str,
              key: str) -> tuple[str, float]:
    "A call at its moment; who is refused waits as long as it is told to, and asks again. Team and ms, all in all."
    await asyncio.sleep(max(0, began + at - time.perf_counter()))
    how, body = {"headers": {"X-API-Key": key}}, None
    if path.startswith("!"):
        who, _, event = path[1:].partition(" ")
        body = {"event_id": event, "user_id": int(who), "action": "play", "track_id": 1, "time": AT.isoformat()}
    for _ in range(6):
        if body: r = await clients[line].post("/api/track_action", json=body, **how)
        else: r = await clients[line].get(path, **how)
        if r.status_code != 429: break
        await asyncio.sleep(float(r.headers["retry-after"]))
    return team, 1e3 * (time.perf_counter() - began - at)


def call() -> None:
    "What the callers' process does: reads its order from stdin, prints what came back."
    order = json.loads(sys.stdin.read())

    async def run() -> list:
        async with httpx.AsyncClient(base_url=order["urls"][0], timeout=30) as near, \
                httpx.AsyncClient(base_url=order["urls"][1], timeout=30) as far:
            began = time.perf_counter() + .3
            return await asyncio.gather(*(ask([near, far], began, *one) for one in order["plan"]))
    print(json.dumps(asyncio.run(run())))


def plan_calls(case: str, keys: list[str], rate: float = RATE, burst: int = 0, far: bool = False, hits: int = 10,
               writes: float = .2, artists: list[str] | None = None) -> list[tuple]:
    "What all teams ask, most of it over and over, one call in five a write. The slow team may ask otherwise."
    rng = random.Random(33)
    found = []
    for team in range(TEAMS):
        name, mine = f"team{team}", team == int(SLOW[4:])
        moments, at = [], rng.expovariate(RATE)
        while at < SECONDS:
            moments.append(at)
            at += rng.expovariate(rate if mine else RATE)
        for at in sorted(moments + [1.0] * (burst if mine else 0)):
            path = f"/api/tracks/similar?track_id={rng.randrange(15)}&k={hits if mine else 10}"
            if artists: path = f"/api/tracks/similar?track_id={rng.randrange(TRACKS)}&k=1&artist={rng.choice(artists)}"
            if at == 1.0: path = f"/api/tracks/similar?track_id={rng.randrange(TRACKS)}&k={hits}"
            elif rng.random() < (writes if mine else .2): path = f"!{rng.randrange(20)} {case}-{at}"
            found.append((at, int(far and mine), name, path, keys[team]))
    return sorted(found)


def warm(url: str, plan: list[tuple]) -> None:
    "Ask each question once that teams ask over and over: a case begins on an ordinary day, with a cache that has been in use."
    usual = {(path, key) for at, _, _, path, key in plan if path[0] != "!" and at != 1.0 and "artist=" not in path}
    usual |= {("/api/tracks/similar?track_id=1", one[-1]) for one in plan}
    with httpx.Client(base_url=url) as client:
        for path, key in sorted(usual):
            while (r := client.get(path, headers={"X-API-Key": key})).status_code == 429:
                time.sleep(float(r.headers["retry-after"]))


def median(values: list[float]) -> float: return round(summary(values)["p50"], 1) if values else 0.0
def slowest(values: list[float]) -> float: return round(sorted(values)[int(.95 * len(values))], 1) if values else 0.0


class Watch:
    "What the service itself knows about each team."
    def __init__(self):
        self.served, self.waited, self.locked, self.changed = defaultdict(list), defaultdict(list), [], Counter()

    def answered(self, scope: dict, status: int, took_s: float) -> None:
        "An observer of the service's metrics."
        if who := scope.get("identity"): self.served[who.tenant].append((status, 1e3 * took_s, scope["exchange"].cache))

    def turns(self) -> type:
        "Turns that note who waits how long."
        watch = self

        class Noted(Turns):
            async def enter(self, tenant: str, patience_s: float) -> None:
                began = time.perf_counter()
                await super().enter(tenant, patience_s)
                watch.waited[tenant].append(1e3 * (time.perf_counter() - began))
        return Noted


def look_at_plan(lab: Lab, team: str, artist: str) -> dict:
    "How the database finds a team's tracks by an artist."
    store = Store(lab, team)
    with store.session() as s: found = explain(s.con, ARTIST, (artist.lower(),))
    store.forget()
    return {"nodes": list(found.nodes), "indexes": list(found.indexes), "buffers": found.buffers}


def load_again(lab: Lab, over: threading.Event, plan: list[tuple]) -> None:
    "An import of the slow team's plays, also of those that its program sends now; it fails at the end, and begins anew."
    plays = [(at, *path[1:].split(" ")) for at, _, team, path, _ in plan if team == SLOW and path.startswith("!")]
    rows = [Event(event, AT, int(who), "play", 1, None, None) for _, who, event in sorted(plays, key=lambda p: p[2])]
    columns = [[getattr(e, name) for e in rows] for name in FIELDS.split(", ")]
    with Store(lab, SLOW).connect().con as con:
        while not over.is_set():
            with suppress(Rollback), con.transaction():
                con.execute(LOAD, (*columns, True))
                over.wait(HELD_S)
                raise Rollback
            over.wait(.1)


def observe(case: str, lab: Lab, stores: list[Store], keys: list[str], artist: str, quota: float = 0, loads: bool = False,
            bumps: bool = False, drops: bool = False, **how: object) -> dict:
    "Eight ways to look at ten teams, one of which is slow."
    import rap_analyzer.search.sessions as sessions
    os.environ["RAP_API_TENANT_PER_S"] = f"{quota:g}"
    settings.cache_clear()
    watch, over = Watch(), threading.Event()
    sessions.Turns = watch.turns()
    app = create_app(stores[0], auth="required", cache_s=60)
    app.state.metrics.observers.append(watch.answered)
    with ExitStack() as stack:
        if drops:
            with stores[0].admin() as con: con.execute("DROP INDEX tracks_artist")
        url = stack.enter_context(serving(app))
        proxy = Proxy("127.0.0.1", int(url.rpartition(":")[2])).start()
        stack.callback(proxy.close)
        proxy.delay_s = .12
        plan = plan_calls(case, keys, artists=[artist] if drops else None, **how)
        order = {"urls": [url, f"http://127.0.0.1:{proxy.port}"], "plan": plan}
        warm(url, plan)
        time.sleep(.2)                                                  # the last of these answers is noted after it was sent
        watch.served.clear(), watch.waited.clear()
        for team, view in app.state.guard.tenants.views.items():
            view.state.store.listeners["cases"] = lambda team=team: watch.changed.update([team])
        helpers = [threading.Thread(target=count_locks, args=(stores[0], over, watch.locked))]
        if loads: helpers.append(threading.Thread(target=load_again, args=(lab, over, plan)))
        if bumps: helpers.append(threading.Thread(target=bump, args=(app.state.guard.tenants.views[SLOW].state.store, over)))
        for h in helpers: h.start()
        done = subprocess.run([sys.executable, "-c", CALLERS], input=json.dumps(order), capture_output=True, text=True, timeout=120)
        over.set()
        for h in helpers: h.join()
        plans = {"team": look_at_plan(lab, SLOW, artist), "another": look_at_plan(lab, "team4", artist)}
    sessions.Turns = Turns
    if drops:
        with stores[0].admin() as con: con.execute("CREATE INDEX tracks_artist ON tracks (tenant_id, artist_key) INCLUDE (id)")
    return tell(json.loads(done.stdout), watch, plans, plan)


def tell(callers: list, watch: Watch, plans: dict, plan: list[tuple]) -> dict:
    "The eight observations, of the slow team and of the others."
    others = [f"team{i}" for i in range(TEAMS) if f"team{i}" != SLOW]
    both = lambda of: {"team": of([SLOW]), "others": of(others)}
    served = lambda names: [x for n in names for x in watch.served[n]]
    good = lambda names: [x for x in served(names) if x[0] == 200]
    waited = lambda names: [x for n in names for x in watch.waited[n]]
    asked = lambda names: [ms for team, ms in callers if team in names]
    reads = lambda names: Counter(c for _, _, c in good(names) if c)
    wanted = lambda names: [(team, path) for _, _, team, path, _ in plan if team in names and not path.startswith("!")]
    print("other answers:", Counter(x[0] for x in served([SLOW, *others]) if x[0] not in (200, 429)), file=sys.stderr)
    return {
        "callers": both(lambda n: {"calls": len(asked(n)), "p50_ms": median(asked(n)), "p95_ms": slowest(asked(n))}),
        "service": both(lambda n: {"p50_ms": median([x[1] for x in good(n)]), "p95_ms": slowest([x[1] for x in good(n)])}),
        "answers": both(lambda n: {"answered": len(good(n)), "refused": sum(x[0] == 429 for x in served(n)),
                                   "failed": sum(x[0] not in (200, 429) for x in served(n))}),
        "cache": both(lambda n: round(reads(n)["hit"] / max(1, sum(reads(n).values())), 2)),
        "questions": both(lambda n: {"asked": len(wanted(n)), "different": len(set(wanted(n)))}),
        "changes": both(lambda n: sum(watch.changed[x] for x in n)),
        "pool": both(lambda n: {"p50_ms": median(waited(n)), "p95_ms": slowest(waited(n))}),
        "locks": {"waiting": round(sum(watch.locked) / max(1, len(watch.locked)), 2)}, "plan": plans}


def count_locks(store: Store, over: threading.Event, seen: list[int]) -> None:
    "How many sessions wait for a lock, ten times per second."
    with store.admin(None) as con:
        while not over.wait(.1): seen.append(con.execute(WAITS).fetchone()[0])


def bump(store: Store, over: threading.Event) -> None:
    "An import in tiny batches: each makes the team's kept answers old."
    while not over.wait(.1): store.changed()


CASES: dict[str, dict] = {                                          # by what their stories are about: no name says what is wrong
    "artist": {"drops": True},
    "catalog": {"bumps": True, "hits": 60},
    "morning": {"burst": 160, "hits": 100},
    "moved": {"far": True},
    "plays": {"loads": True, "writes": .6},
    "script": {"quota": 8, "rate": 24},
}


def main() -> None:
    "Stage, watch, write; only the cases that are named, if any are."
    out, names = Path(HERE).parent / "exercises" / "cases" / "33.json", sys.argv[1:] or list(CASES)
    if strange := set(names) - {*CASES}: sys.exit(f"no such case: {', '.join(sorted(strange))}; there are {', '.join(CASES)}")
    found = json.loads(out.read_text(encoding="utf-8"))["cases"] if sys.argv[1:] else {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["RAP_LAB_HOME"] = home
        with Lab(database="cases33") as lab:
            migrate(lab)
            stores = [fill(Store(lab, f"team{n}"), MANY if f"team{n}" == SLOW else TRACKS) for n in range(TEAMS)]
            build("hnsw_halfvec", stores[0])
            for s in stores: Events(s).register(range(20))
            keys, artist = [Keys(s, "cases").create(["read", "write"])[0] for s in stores], stores[0].tracks([1])[0].artist
            for name in names:
                at = datetime.now(UTC).isoformat(timespec="seconds")
                found[name] = {"recorded_at": at, **observe(name, lab, stores, keys, artist, **CASES[name])}
                print(name, json.dumps(found[name]), flush=True)
            lab.down()
    made = {"seconds": SECONDS, "teams": TEAMS, "tracks": {"team": MANY, "another": TRACKS}, "machine": machine(),
            "cases": {n: found[n] for n in CASES}}
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
