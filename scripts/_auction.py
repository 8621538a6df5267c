"""Bidders, by function and over HTTP, compete while they, the API and the database are killed; their answers against the tables."""
import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx

from rap_analyzer.core import LabError
from rap_analyzer.giants.auction import Bid, Refused, find_auction, open_auction, place_bid, settle_auction
from rap_analyzer.lab import Lab
from rap_analyzer.processes import find_free_port
from rap_analyzer.product.events import Events
from rap_analyzer.product.pipeline import MAKE_TRACKS
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve.stage import MARK
from rap_analyzer.serve.supervisor import Child, Supervisor
from rap_analyzer.web import wait_for

TENANT, TRACKS, LISTENERS, AT_ONCE = "auction", 20, 50, 4
VICTIMS = ("bidder", "bidder", "api", "database")
API = """import sys
from uvicorn import run
from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store
run(create_app(Store(Lab(), sys.argv[2]), auth="open", cache_s=0), port=int(sys.argv[1]), log_level="warning")
"""
LIVE = "SELECT id FROM auctions WHERE closed_at IS NULL AND clock_timestamp() < ends_at"


def insist(do: Callable, wait_s: float = 60) -> object:
    "Do something that may be repeated until the database is there."
    end = time.monotonic() + wait_s
    while True:
        try: return do()
        except LabError:
            if time.monotonic() > end: raise
            time.sleep(.02)


# ---- a bidder, which is a process

def bid(out: Path, number: int, seed: int, port: int) -> None:
    "Bid for whatever is for sale, and note each promise; killed, sooner or later. Three of four bid over HTTP."
    store, life, n = Store(Lab(), TENANT), secrets.token_hex(4), 0
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5)
    place = partial(post_bid, client) if number % 4 else partial(place_bid, store)
    rng, file = random.Random(f"{seed} {number} {life}"), os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def note(**told: object) -> None: os.write(file, json.dumps(told).encode() + b"\n")           # one write: lines stay whole
    while True:
        n += 1
        live = insist(lambda: store.query(Query(LIVE)))
        if live: offer(store, place, rng.choice(live)[0], f"{number}-{life}-{n}", rng, note)
        else: time.sleep(.02)


def post_bid(client: httpx.Client, auction: str, name: str, bidder: int, amount: int) -> Bid:
    "A bid over HTTP: Refused after a 409, LabError where there is no answer that counts."
    asked = {"bid_id": name, "user_id": bidder, "amount": amount}
    try: answer = client.post(f"/api/auctions/{auction}/bids", json=asked)
    except httpx.HTTPError as e: raise LabError(f"no answer: {e}") from None
    if answer.status_code == 409: raise Refused(answer.json()["detail"])
    if answer.status_code != 201: raise LabError(f"{answer.status_code}: {answer.text:.200}")
    return Bid(**answer.json() | {"placed_at": datetime.fromisoformat(answer.json()["placed_at"])})


def offer(store: Store, place: Callable, auction: str, name: str, rng: random.Random, note: Callable) -> None:
    "One bid, sent until it is answered; one in twenty is sent again afterwards."
    seen = insist(lambda: find_auction(store, auction))
    asked = Bid(name, auction, rng.randrange(LISTENERS), seen.least + rng.choice((0, 0, 1, 5)))
    send = lambda: place(auction, name, asked.bidder, asked.amount)
    try: taken = insist(send)
    except Refused:
        note(refused=name)
        found = insist(lambda: settle_auction(store, auction))
        if found.closed_at: note(winner=found.bid_id, auction=auction)
        return
    note(bid=name, auction=auction, bidder=asked.bidder, amount=asked.amount, http=isinstance(place.args[0], httpx.Client))
    if rng.random() < .05 and insist(send) != taken: note(changed=name)


# ---- the evening

class Notes:
    "What the bidders were told, as far as it is written."
    def __init__(self, file: Path):
        self.file, self.at, self.told = file, 0, []
        file.touch()

    def read(self) -> int:  # acknowledged bids so far
        "Read what is new."
        with self.file.open("rb") as f:
            f.seek(self.at)
            text = f.read()
        whole = text[:text.rfind(b"\n") + 1]
        self.at += len(whole)
        self.told += map(json.loads, whole.splitlines())
        return sum("bid" in t for t in self.told)


def make_child(lab: Lab, name: str, *words: object) -> tuple[Child, list[subprocess.Popen]]:
    "A Python program under the supervisor, and its process; it ends by kill -9 only."
    held: list[subprocess.Popen] = []
    env = {**os.environ, "RAP_LAB_HOME": str(lab.home), MARK: str(lab.home), "PYTHONPATH": str(Path(__file__).parent)}
    def start() -> None:
        log = open(lab.home / f"{name}.log", "ab")  # noqa: SIM115 (the child writes to it as long as it lives)
        held[:] = [subprocess.Popen([sys.executable, "-c", *map(str, words)], env=env, stdout=log, stderr=log)]
    def stop() -> None:
        for p in held: p.kill(), p.wait(10)
    return Child(name, start, lambda: bool(held) and held[0].poll() is None, stop), held


def kill(lab: Lab, crew: Sequence[list], api: Callable[[], list[subprocess.Popen]], part: str, rng: random.Random) -> None:
    "kill -9: a bidder that lives, the service once it answers, or the whole database."
    if part == "bidder":
        while not (alive := [held[0] for held in crew if held and held[0].poll() is None]): time.sleep(.02)
        return rng.choice(alive).kill()
    while not (found := api() if part == "api" else lab.postgres.processes()): time.sleep(.02)
    for p in found: p.kill()


def hold(lab: Lab, bids: int = 10_000, kills: int = 20, bidders: int = 4, seed: int = 12,
         each: Callable[[str, int], None] = lambda part, acked: None) -> dict:
    "Auctions of a second or three, four at a time, until so many bids are acknowledged; everything is killed meanwhile."
    migrate(lab)
    store, rng, notes, ended = Store(lab, TENANT).register(), random.Random(seed), Notes(lab.home / "told.jsonl"), threading.Event()
    store.query(Query(MAKE_TRACKS, (TRACKS - 1,)))
    Events(store).register(range(LISTENERS))
    port, program = find_free_port(), "import sys; from _auction import bid, Path; bid(Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    crew = [make_child(lab, f"bidder-{n}", program, notes.file, n, seed, port) for n in range(bidders)]
    service, api = make_child(lab, "api", API, port, TENANT)
    def answering() -> list[subprocess.Popen]: return wait_for(f"http://127.0.0.1:{port}/health/live", 60) or api
    database = Child("postgres", lab.up, lambda: lab.postgres.postmaster() is not None)
    children = [database, service, *(child for child, _ in crew)]
    keeper = threading.Thread(target=Supervisor(children).run, args=(ended, .05), daemon=True)
    keeper.start()
    answering()
    moments, killed, order = sorted(rng.sample(range(bids // 20, bids - bids // 20), kills)), Counter(), []
    ends: dict[str, float] = {}
    began, limit = time.monotonic(), time.monotonic() + 120 + bids / 10
    try:
        while (acked := notes.read()) < bids or max(ends.values()) > time.monotonic():
            if time.monotonic() > limit: raise LabError(f"only {acked:,} of {bids:,} bids were acknowledged in time.")
            if acked < bids and sum(end > time.monotonic() for end in ends.values()) < AT_ONCE:
                name, seconds = f"beat-{len(ends)}", rng.uniform(1, 3)
                insist(lambda: open_auction(store, rng.randrange(TRACKS), 100, 1, seconds, name))  # noqa: B023 (called at once)
                ends[name] = time.monotonic() + seconds
            if moments and acked >= moments[0]:
                moments.pop(0)
                order = order or rng.sample(VICTIMS, len(VICTIMS))
                kill(lab, [held for _, held in crew], answering, part := order.pop(), rng)
                killed[part] += 1
                each(part, acked)
            time.sleep(.01)
        took = time.monotonic() - began
    finally:
        ended.set()
        keeper.join(60)
    lab.up()
    notes.read()
    for name in ends:
        won = insist(lambda: settle_auction(store, name))  # noqa: B023 (called at once)
        notes.told.append({"winner": won.bid_id, "auction": name})
    found = judge(store, notes.told) | {"kills": dict(killed), "per_s": round(notes.read() / took, 1)}
    store.forget()
    return found


# ---- what was promised, and what is there

def judge(store: Store, told: Sequence[dict]) -> dict:
    "Every acknowledged bid is stored as it was, every chain rises, and every auction has one winner: its highest bid."
    rows = store.query(Query("SELECT auction_id, id, bidder, amount, placed_at FROM bids ORDER BY auction_id, placed_at, amount"))
    stored, chains = {b: (a, who, amount) for a, b, who, amount, _ in rows}, {}
    for a, b, who, amount, at in rows: chains.setdefault(a, []).append((amount, who, b, at))
    acked = {t["bid"]: (t["auction"], t["bidder"], t["amount"]) for t in told if "bid" in t}
    winners: dict[str, set] = {}
    for t in told:
        if "winner" in t: winners.setdefault(t["auction"], set()).add(t["winner"])
    broken = late = double = 0
    lots = store.query(Query("SELECT id, increment, price, leader, bid_id, bids, closed_at FROM auctions"))
    for name, increment, price, leader, bid_id, bids, closed_at in lots:
        chain = chains.get(name, [])
        rises = all(b[0] >= a[0] + increment for a, b in zip(chain, chain[1:], strict=False))
        top = chain[-1][:3] if chain else (None, None, None)
        broken += not (rises and (price, leader, bid_id, bids) == (*top, len(chain)))
        late += closed_at is None or any(at > closed_at for *_, at in chain)
        double += winners.get(name, set()) != {top[2]}
    return {"acknowledged": len(acked), "auctions": len(lots), "lost": sum(stored.get(b) != what for b, what in acked.items()),
            "changed": sum("changed" in t for t in told), "broken": broken, "late": late, "double": double,
            "refused": sum("refused" in t for t in told), "unanswered": len(stored) - len(acked),
            "over_http": sum(t.get("http", False) for t in told)}


def held(found: dict, bids: int, kills: int) -> bool:
    "Whether the promises were kept, under as many bids and kills as were asked for."
    whole = not any(found[k] for k in ("lost", "changed", "broken", "late", "double"))
    killed = found["kills"]
    everywhere = all(killed.get(part) for part in VICTIMS) and sum(killed.values()) == kills
    return whole and everywhere and found["acknowledged"] >= bids and found["over_http"] > 0
