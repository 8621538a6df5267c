"Auctions: concurrent bids, kill -9, one winner each; and what the routes answer to bids that are not taken."
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from helpers import own_database, until

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import _auction

from rap_analyzer.app import create_app
from rap_analyzer.core import settings
from rap_analyzer.giants.auction import Refused, close_auction, find_auction, open_auction, place_bid, settle_auction
from rap_analyzer.lab import Lab
from rap_analyzer.platform.keys import Keys
from rap_analyzer.product.events import Events
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.stage import SERVERS
from rap_analyzer.web import serving

@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_auction") as own:
        store = fill(Store(own, "beats"), 60)
        Events(store).register(range(20))
        yield store
        store.forget()


@pytest.mark.alone
def test_no_acknowledged_bid_is_lost_and_each_beat_has_one_winner_under_kills(tmp_path, monkeypatch):
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    for name in SERVERS: monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    with Lab(tmp_path) as lab: found = _auction.hold(lab, bids=400, kills=4, bidders=3, seed=5)
    assert _auction.held(found, 400, 4), found
    assert found["auctions"] >= 4 and found["refused"] > 0                                # they did compete


def test_the_proof_fails_for_each_broken_promise(store):
    lot = open_auction(store, 1, 100, 1, .2, "judged")
    for n in range(3): place_bid(store, "judged", f"judged-{n}", n, 100 + n)
    until(lambda: settle_auction(store, "judged").closed_at)
    told = [{"bid": f"judged-{n}", "auction": "judged", "bidder": n, "amount": 100 + n} for n in range(3)]
    told.append({"winner": "judged-2", "auction": "judged"})
    def say(more):
        return {k: v for k, v in _auction.judge(store, [*told, *more]).items() if v and k in ("lost", "changed", "double")}
    assert say([]) == {}
    assert say([{"bid": "judged-9", "auction": "judged", "bidder": 1, "amount": 200}]) == {"lost": 1}
    assert say([{"winner": "judged-1", "auction": "judged"}]) == {"double": 1}
    assert say([{"changed": "judged-1"}]) == {"changed": 1}
    with store.admin(None) as con: con.execute("UPDATE bids SET amount = 500 WHERE id = 'judged-0'")       # the chain falls
    found = _auction.judge(store, told)
    with store.admin(None) as con: con.execute("UPDATE bids SET amount = 100 WHERE id = 'judged-0'")
    assert (found["lost"], found["broken"]) == (1, 1) and lot.open
    good = {"lost": 0, "changed": 0, "broken": 0, "late": 0, "double": 0, "acknowledged": 9, "over_http": 1}
    good |= {"kills": {"database": 1, "bidder": 1, "api": 1}}
    assert _auction.held(good, 9, 3) and not _auction.held(good, 10, 3) and not _auction.held(good, 9, 4)
    for spared in good["kills"]: assert not _auction.held(good | {"kills": good["kills"] | {spared: 0, "other": 1}}, 9, 3)
    assert not _auction.held(good | {"over_http": 0}, 9, 3)
    assert not any(_auction.held(good | {k: 1}, 9, 3) for k in ("lost", "changed", "broken", "late", "double"))


def test_one_id_sent_by_many_at_once_is_one_bid(store):
    open_auction(store, 2, 100, 10, 60, "once")
    with ThreadPoolExecutor(8) as crowd: same = list(crowd.map(lambda _: place_bid(store, "once", "once-1", 3, 100), range(16)))
    assert len(set(same)) == 1 and find_auction(store, "once").bids == 1
    def other(amount):
        try: return place_bid(store, "once", "once-2", 4, amount).amount
        except Refused as no: return str(no)
    with ThreadPoolExecutor(8) as crowd: said = list(crowd.map(other, range(110, 190, 10)))
    taken = [a for a in said if isinstance(a, int)]
    assert len(taken) == 1 and all("other content" in s for s in said if isinstance(s, str)) and len(said) == 8
    assert (find_auction(store, "once").bids, find_auction(store, "once").price) == (2, taken[0])


def test_a_bid_that_waits_for_its_turn_until_the_end_comes_too_late(store):
    open_auction(store, 3, 100, 10, 1.5, "late")
    with store.session() as holder:
        holder.con.autocommit = False
        holder.con.execute("UPDATE auctions SET price = 100, leader = 1, bid_id = 'held', bids = 1 WHERE id = 'late'")
        got = []
        def bid():
            try: got.append(place_bid(store, "late", "late-2", 5, 500))
            except Refused as no: got.append(str(no))
        waiting = threading.Thread(target=bid)
        waiting.start()
        with store.admin(None) as con:
            until(lambda: con.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0])
            until(lambda: con.execute("SELECT clock_timestamp() > ends_at FROM auctions WHERE id = 'late'").fetchone()[0])
        holder.con.commit()
        waiting.join(20)
    assert len(got) == 1 and "no more bids" in got[0] and close_auction(store, "late").winner == 1


def test_the_terms_of_an_auction_and_a_bid_cannot_be_changed_by_the_application(store):
    open_auction(store, 4, 100, 10, 60, "fixed")
    place_bid(store, "fixed", "fixed-1", 1, 100)
    for wrong in ("UPDATE auctions SET ends_at = ends_at + interval '1 day'", "UPDATE bids SET amount = 1", "DELETE FROM bids",
                  "DELETE FROM auctions"):
        with store.session() as s, pytest.raises(psycopg.errors.InsufficientPrivilege): s.con.execute(wrong)


def test_another_tenant_sees_no_auction(store):
    other = Store(store.lab, "others").register()
    Events(other).register([1])
    open_auction(store, 5, 100, 10, 60, "ours")
    with pytest.raises(LookupError, match="no auction 'ours'"): find_auction(other, "ours")
    with pytest.raises(LookupError, match="no auction 'ours'"): place_bid(other, "ours", "b", 1, 200)
    other.forget()


def test_the_routes(store):
    app = create_app(store, cache_s=0, auth="required")
    write, read = (Keys(store).create(scopes)[0] for scopes in (["read", "write"], ["read"]))
    with serving(app) as url, httpx.Client(base_url=url, timeout=20, headers={"Authorization": f"Bearer {write}"}) as client:
        def bid(name, who, amount, auction="beat-1", **more):
            return client.post(f"/api/auctions/{auction}/bids", json={"bid_id": name, "user_id": who, "amount": amount}, **more)
        terms = {"auction_id": "beat-1", "track_id": 42, "opening": 100, "increment": 10, "seconds": 60}
        made = client.post("/api/auctions", json=terms)
        assert (made.status_code, made.json()["least"], made.json()["winner"]) == (201, 100, None)
        assert client.post("/api/auctions", json={"auction_id": "beat-1", "track_id": 43}).status_code == 409
        first = bid("x-1", 7, 100)
        assert first.status_code == 201 and bid("x-1", 7, 100).json() == first.json()
        low = bid("x-2", 8, 109)
        assert low.status_code == 409 and low.headers["content-type"] == "application/problem+json"
        assert "the least bid is 110 cents" in low.json()["error"]
        assert bid("x-1", 7, 500).status_code == bid("x-1", 8, 100).status_code == 409                  # two bids with one id
        assert bid("x-3", 999, 500).status_code == bid("x-4", 7, 500, "beat-9").status_code == 404
        assert [bid("x-5", 7, a).status_code for a in (0, -5, 1.5, "a", None, 10**13)] == [422] * 6
        assert bid("x 6", 7, 500).status_code == 422
        unnameable = "a/b", "..", ".", "a?b", "a\n", "\u0430", "", "a" * 65, "%41"       # what could never be asked for
        assert [client.post("/api/auctions", json={"track_id": 1, "auction_id": i}).status_code for i in unnameable] == [422] * 9
        assert client.post("/api/auctions", json={"track_id": 9_999}).status_code == 404
        for never in (0, 1e-7): assert client.post("/api/auctions", json={"track_id": 1, "seconds": never}).status_code == 422
        most = client.post("/api/auctions", json={"track_id": 1, "opening": 10**12}).json()["auction_id"]
        assert bid("m-1", 7, 10**12, most).status_code == 201 and "highest bid there can be" in bid("m-2", 8, 10**12, most).text
        keyed = [client.post("/api/auctions", json={"track_id": 3}, headers={"Idempotency-Key": "k-1"}).json() for _ in range(2)]
        assert keyed[0]["auction_id"] == keyed[1]["auction_id"]
        assert client.get("/api/auctions/beat-1").json()["leader"] == 7
        only_read = {"Authorization": f"Bearer {read}"}
        assert bid("x-7", 7, 500, headers=only_read).status_code == 403
        assert client.get("/api/auctions/beat-1", headers=only_read).status_code == 200
        client.post("/api/auctions", json={"auction_id": "brief", "track_id": 1, "seconds": .3})
        bid("y-1", 9, 100, "brief")
        over = until(lambda: (a := client.get("/api/auctions/brief").json())["closed_at"] and a)
        assert over["winner"] == 9 and bid("y-2", 7, 999, "brief").status_code == 409
    assert store.query(Query("SELECT count(*) FROM bids WHERE starts_with(id, 'x-')"))[0][0] == 1
