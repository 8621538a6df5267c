"""The recommender of several sources over real servers: reasons, shares, what is left out, and what never comes back."""

import asyncio
import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.music import catalog
from rap_analyzer.music.generator import embeddings
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.audience import simulate
from rap_analyzer.product.events import Events, read_frame
from rap_analyzer.recommend import candidates
from rap_analyzer.recommend.candidates import Asked, Candidate, Sources
from rap_analyzer.recommend.ensemble import UNKNOWN, Ensemble, as_context
from rap_analyzer.recommend.facets import ANALYZERS
from rap_analyzer.recommend.lists import Tables, make_lists, pack, put_tables, refresh, unpack
from rap_analyzer.recommend.rerank import Balance
from rap_analyzer.recommend.shown import count_devices
from rap_analyzer.recommend.sources import read_asked
from rap_analyzer.search.filters import Filter
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, UnknownTrack
from rap_analyzer.web import serving

N, LISTENERS, DAYS = 3_000, 300, 21
KEPT = ("play", "skip", "like", "save", "playlist_add", "share", "export")


@pytest.fixture(autouse=True)
def patient(monkeypatch): monkeypatch.setattr(candidates, "LIMIT_S", 10)                   # this machine may be busy


@pytest.fixture(scope="module")
def events(): return simulate(DAYS, LISTENERS, 11)


@pytest.fixture(scope="module")
def store(lab, events):
    with own_database(lab, "test_ensemble") as own:
        store = Store(own, "crowd")
        store.load(list(catalog.tracks(0, N)), embeddings(0, N))
        build("hnsw_halfvec", store)
        Events(store).register(range(LISTENERS + 10))
        Events(store).load(read_frame(events[events.action.isin(KEPT)]), publish=False)
        store.end = events.time.max().to_pydatetime().replace(tzinfo=UTC)
        refresh(store, store.end)
        yield store
        store.forget()


def ask(store, do, *given, **how):
    "Something with an ensemble whose pool is open, in a loop of its own."
    async def go():
        await store.aopen(4)
        try: return await do(Ensemble(store, *given, **how))
        finally: await store.aclose()
    return asyncio.run(go())


def ids(page): return [h.track_id for h in page.hits]


def met(store, who): return {t for t, in store.query(Query("SELECT DISTINCT track_id FROM events WHERE listener_id = %s", (who,)))}


def test_a_page_has_reasons_and_shares_and_nothing_that_was_met(store):
    pages = ask(store, lambda e: asyncio.gather(*(e.page(who, at=store.end) for who in range(30))))
    for who, page in enumerate(pages):
        assert len(set(ids(page))) == 10 and not set(ids(page)) & met(store, who), who
        assert all(h.why and math.isfinite(h.score) for h in page.hits) and page.missing == {}
        assert all(abs(sum(s.values()) - 1) < 1e-6 and min(s.values()) > 0 for s in page.shares)
        assert [h.score for h in page.hits] == sorted((h.score for h in page.hits), reverse=True)
    used = Counter(name for page in pages for share in page.shares for name in share)
    assert {"sound", "together", "peers", "popular"} <= set(used), used
    lists = Counter(i for page in pages for i in ids(page))
    assert max(lists.values()) < 27                                                 # not one list for everybody


def test_what_was_just_skipped_never_comes_back(store):
    who = LISTENERS + 1
    async def go(e):
        seen = []
        for n in range(6):
            page = await e.page(who)
            seen.append(page)
            first = ids(page)[0]
            for action in ("play", "skip"): Events(store).track(make_event(who, action, first, f"{action}-{n}", f"s-{who}"))
        return seen
    pages = ask(store, go)
    skipped = [ids(p)[0] for p in pages]
    assert len(set(skipped)) == 6
    for n, page in enumerate(pages): assert not set(skipped[:n]) & set(ids(page))


def test_a_listener_with_one_play_and_one_with_none(store):
    who = LISTENERS + 2
    none, = ask(store, lambda e: asyncio.gather(e.page(who)))
    assert UNKNOWN in none.note and none.known == 0 and all(set(s) == {"popular"} for s in none.shares)
    Events(store).track(make_event(who, "play", 42, "only-play", f"s-{who}"))
    one, anna, nobody = ask(store, lambda e: asyncio.gather(e.page(who), e.page(10**12), e.page(None)))
    assert one.known == 1 and one.note == "" and any("track 42" in h.why for h in one.hits)
    assert ids(anna) == ids(nobody) and UNKNOWN in anna.note


def test_the_moment_and_the_session_change_the_page(store):
    async def go(e):
        at_work, out = [await e.page(None, context={"activity": a}) for a in ("work", "party")]
        lists = (await Tables(store).current())["next"]
        few = lists.keys[np.argsort(-np.diff(lists.starts))][:3].tolist()
        plain, after = [await e.page(LISTENERS + 3, context=c) for c in (None, {"session": few})]
        gone = await e.page(3, context={"session": [100, 10**9]}, at=store.end)
        return at_work, out, plain, after, gone, few
    at_work, out, plain, after, gone, few = ask(store, go)
    assert ids(at_work) != ids(out) and all("at work" in h.why for h in at_work.hits)
    assert ids(plain) != ids(after) and not set(few) & set(ids(after)) and any("session" in s for s in after.shares)
    assert "unknown tracks of the session are ignored" in gone.note


@pytest.mark.parametrize("context, says", [
    ({"hour": math.nan}, "an hour from 0"), ({"hour": 24}, "an hour"), ({"hour": "noon"}, "an hour"),
    ({"activity": "sleep"}, "an activity"), ({"session": [-1]}, "a track id"),
    ({"our": 7}, "in a context hour"), ("morning", "as a mapping"), ({"device": "kettle"}, "a device"),
])
def test_a_moment_that_makes_no_sense(context, says):
    with pytest.raises(ValueError, match=says): as_context(context)


@pytest.mark.parametrize("who, how, error, says", [
    (-1, {}, ValueError, "a listener id"), (True, {}, ValueError, "a listener id"), (math.nan, {}, ValueError, "a listener id"),
    (1, {"k": 0}, ValueError, "expected k"), (1, {"liked": [10**9]}, UnknownTrack, "no track"),
    (1, {"order": "best"}, ValueError, "fused or sound"),
])
def test_a_question_that_makes_no_sense(store, who, how, error, says):
    with pytest.raises(error, match=says): ask(store, lambda e: e.page(who, **how))


class Odd:
    "A source that is late, down, or mad."
    def __init__(self, name, answer): self.name, self.answer = name, answer

    async def candidates(self, asked):
        if isinstance(self.answer, float): await asyncio.sleep(self.answer)
        if isinstance(self.answer, Exception): raise self.answer
        return self.answer if isinstance(self.answer, list) else []


def test_a_source_that_is_late_or_down_is_left_out_and_named(store):
    async def go(e):
        sources = dict(e.sources.sources)
        sources["together"], sources["peers"] = Odd("together", 9.0), Odd("peers", LabError("its table is broken."))
        sources["session"] = Odd("session", [Candidate(7, math.nan, "session", "NaN"), Candidate(10**9, 5.0, "session", "gone")])
        for s in sources.values():                                                      # tables and memory are filled
            if not isinstance(s, Odd): await s.candidates(await read_asked(store, 3, store.end))
        e.sources = Sources(*sources.values(), limit_s=2)
        began = time.monotonic()
        return await e.page(3, at=store.end), time.monotonic() - began
    page, took = ask(store, go)
    assert page.missing == {"together": "no answer within 2000 ms", "peers": "its table is broken"}
    assert len(page.hits) == 10 and all("without together, peers" in h.why for h in page.hits) and "peers is left out" in page.note
    assert took < 8 and 7 not in ids(page) and 10**9 not in ids(page)


def test_every_source_down_leaves_what_is_played_most(store):
    odd = Sources(*(Odd(n, KeyError("x")) for n in ("sound", "together", "peers", "session", "popular", "new")))
    page = ask(store, lambda e: e.page(3, at=store.end), odd)
    assert len(page.hits) == 10 and all(h.why.startswith("popular: ") for h in page.hits) and len(page.missing) == 6


def test_conditions_hold_and_a_small_pool_is_topped_up(store):
    where = Filter("drill", "calm")
    page = ask(store, lambda e: e.page(3, 30, where=where, at=store.end))
    assert page.hits and all(where.admits(t) for t in store.tracks(ids(page))) and len(set(ids(page))) == len(page.hits)


def test_an_artist_has_two_places_while_there_are_others(store):
    pages = lambda e: asyncio.gather(*(e.page(w, at=store.end) for w in range(30)))
    capped, free = [ask(store, pages, balance=Balance(0, 0, 0, n)) for n in (2, 100)]
    most = lambda pages: max(max(Counter(t.artist for t in store.tracks(ids(p))).values()) for p in pages)
    assert most(capped) <= 2 < most(free)


def test_new_tables_are_noticed_and_broken_ones_are_named(store):
    async def go(e):
        tables = Tables(store)
        before = await tables.current()
        put_tables(store, {"next": make_lists(np.array([1]), np.array([2]), np.array([.5]))})
        tables.looked -= 60
        after = await tables.current()
        with store.session() as s: s.con.execute("UPDATE candidate_lists SET data = 'x', made = now() WHERE name = 'next'")
        tables.looked -= 60
        kept = await tables.current()
        page = await Ensemble(store).page(3, context={"session": [1]}, at=store.end)
        return before, after, kept, page
    before, after, kept, page = ask(store, go)
    assert len(before["next"]) > 10 and len(after["next"]) == len(kept["next"]) == 1
    refresh(store, store.end)
    assert set(page.missing) == {"session"} and "refresh them" in page.missing["session"] and len(page.hits) == 10


def test_tables_belong_to_their_tenant(store):
    other = Store(store.lab, "rival").register()
    assert other.query(Query("SELECT count(*) FROM candidate_lists"))[0][0] == 0
    lists = make_lists(np.array([5]), np.array([6]), np.array([1.0]))
    put_tables(other, {"together": lists})
    assert len(unpack(bytes(store.query(Query("SELECT data FROM candidate_lists WHERE name = 'together'"))[0][0]))) > 100
    with pytest.raises(LabError, match="refresh"): unpack(pack(lists)[:-30])


def test_over_http_with_shares_and_context(store):
    with serving(create_app(store, cache_s=0)) as url, httpx.Client(base_url=url, timeout=20) as client:
        get = lambda **q: client.get("/api/recommend", params=q).json()
        body = get(user_id="3", activity="work", session="100,200")
        assert len(body["hits"]) == 10 and body["missing"] == []
        assert all(abs(sum(h["shares"].values()) - 1) < 1e-6 for h in body["hits"])
        assert client.get("/api/recommend?hour=24").status_code == client.get("/api/recommend?activity=sleep").status_code == 422
        assert client.get("/api/recommend?liked=999999").status_code == 404
        assert "at work" in get(activity="work")["hits"][0]["why"]


def test_a_home_page_shows_each_track_once_and_the_crowd_first_to_strangers(store):
    with serving(create_app(store, cache_s=0)) as url, httpx.Client(base_url=url, timeout=20) as client:
        known, stranger = [client.get("/api/home", params={"user_id": u, "activity": "work"}).json() for u in ("3", "anna")]
        shown = [h["track_id"] for row in known["recommendations"] for h in row["hits"]]
        assert [row["name"] for row in known["recommendations"]] == known["layout"] and known["layout"][0] == "for-you"
        assert len(shown) == len(set(shown)) >= 20 and not set(shown) & met(store, 3)
        assert stranger["layout"] == ["popular"] and "at work" in stranger["recommendations"][0]["title"]
        assert UNKNOWN in stranger["note"] and client.get("/api/home?k=51").status_code == 422


# ---- what was shown in vain, on which device, and by which analyzer

def test_what_was_shown_and_left_alone_falls_back_and_what_was_clicked_does_not(store):
    who = LISTENERS + 5
    Events(store).track(make_event(who, "like", 42, "seen-like"))
    seen = lambda track, n, action="impression": Events(store).track(make_event(who, action, track, f"{action}-{track}-{n}"))
    async def go(e):
        before = await e.page(who, 30)
        first, second, third = ids(before)[:3]
        for n in range(4): seen(first, n)
        seen(second, 0), seen(second, 0, "click")
        asked = await read_asked(store, who)
        return before, asked, await e.page(who, 30), await Ensemble(store, balance=Balance(fatigue=0)).page(who, 30)
    before, asked, after, without = ask(store, go)
    first, second, third = ids(before)[:3]
    assert asked.tired == {first: 4} and asked.digest() != Asked().digest()
    assert first not in ids(after)[:1] and second in ids(after)[:3]
    assert ids(without) == ids(before)                                                  # a weight of zero leaves it alone
    seen(third, 0, "skip")
    assert third not in ids(ask(store, lambda e: e.page(who, 30)))                      # a skip is no discount: it never comes back


def test_impressions_of_yesterday_and_of_others_do_not_count(store):
    one, other, now = LISTENERS + 6, LISTENERS + 7, datetime.now(UTC)
    Events(store).track(make_event(one, "impression", 7, "old", time=now - timedelta(hours=25)))
    Events(store).track(make_event(one, "impression", 8, "new", time=now - timedelta(hours=23)))
    Events(store).track(make_event(other, "impression", 9, "theirs"))
    asked = ask(store, lambda e: read_asked(store, one))
    assert asked.tired == {8: 1} and not asked.heard


def test_the_device_counts_in_what_is_popular(store):
    lists = count_devices([("speaker", track, who) for track in range(2_000, 2_040) for who in range(30)])
    put_tables(store, {"device": lists})
    async def go(e): return {d: await e.page(None, context={"device": d} if d else None) for d in ("speaker", "phone", None)}
    found = ask(store, go)
    store.query(Query("DELETE FROM candidate_lists WHERE name = 'device' RETURNING 1"))
    theirs = lambda page: sum(2_000 <= i < 2_040 for i in ids(page))
    assert theirs(found["speaker"]) >= theirs(found[None]) + 3 and "on a speaker" in found["speaker"].hits[0].why
    assert ids(found["phone"]) == ids(found[None]) != ids(found["speaker"])              # a device without a list says nothing


def test_each_analyzer_has_its_share(store):
    pages = ask(store, lambda e: asyncio.gather(*(e.page(who, at=store.end) for who in range(10)), e.page(None)))
    for page in pages[:-1]:
        assert len(page.analyzers) == len(page.hits)
        for h, parts in zip(page.hits, page.analyzers, strict=True):
            if not parts: continue
            assert set(parts) <= set(ANALYZERS) and abs(sum(parts.values()) - 1) < 1e-6
            assert f"alike by {next(iter(parts))}" in h.why
    assert any({"embedding", "genre", "tempo"} <= set(parts) for page in pages for parts in page.analyzers)
    assert not any(pages[-1].analyzers)                                                 # nothing is known, so nothing is alike
    with serving(create_app(store, cache_s=0)) as url:
        body = httpx.get(f"{url}/api/recommend?liked=42&k=5", timeout=20).json()
        assert all(abs(sum(h["analyzers"].values()) - 1) < 1e-6 for h in body["hits"]) and body["ordered_by"] == "the blend"
        assert httpx.get(f"{url}/api/recommend?device=kettle").status_code == 422
