"""One session over HTTP: search with context, recommendations, a fraud score that counts before anything is served."""
import asyncio
import copy

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.giants.amazon import MOST_ACTIONS, MarketplaceMLPlatform, demo, make_session, order_by_context
from rap_analyzer.giants.commands import app as giants
from rap_analyzer.platform.identity import needed_scope
from rap_analyzer.product.fraud import draw_bots
from rap_analyzer.recommend.ensemble import TrackRow
from rap_analyzer.search.fulltext import find
from rap_analyzer.search.index import Hit
from rap_analyzer.search.store import Store
from rap_analyzer.web import serving

BOTS = {kind: s[0] for kind, s in draw_bots(3, 1, 6).items()}


@pytest.fixture(scope="module")
def http(small):
    with serving(create_app(small, timeout_s=15, cache_s=0)) as url, httpx.Client(base_url=url, timeout=30) as client: yield client


def as_json(actions):
    at = lambda ms: f"{np.datetime64('2026-11-01T12:00', 'ms') + int(ms)}Z"
    return [{"action": a, "track_id": t, "time": at(ms)} for a, t, ms in actions]


def run(small, *sessions):
    "Sessions, one after another, by a platform of their own."
    async def work():
        store = copy.copy(small)
        await store.aopen(2)
        try:
            platform = MarketplaceMLPlatform(store)
            return [await platform.process_user_session(s) for s in sessions]
        finally: await store.aclose()
    return asyncio.run(work())


def row(track, x): return TrackRow(track, "", None if x is None else np.array(x, np.float32), None, None)


def test_context_orders_within_what_words_found():
    hits = [Hit(1, .9, "words"), Hit(2, .5, "words"), Hit(3, .4, "words"), Hit(4, .9, "some of the words"),
            Hit(5, .9, "a similar name")]
    rows = {1: row(1, [0, 1]), 2: row(2, [1, 0]), 3: row(3, None), 4: row(4, [1, 0]), 5: row(5, [0, -1]), 9: row(9, [1, 0])}
    assert [h.track_id for h in order_by_context(hits, rows, {9: 1.0})] == [2, 1, 3, 5, 4]
    for nothing in ({}, {3: 1.0}, {77: 1.0}, {9: 0.0}): assert order_by_context(hits, rows, nothing) == hits


def test_the_three_answers(http, small):
    body = {"user_id": 7, "search_query": "drill", "viewed_tracks": [42], "k": 5,
            "actions": as_json([("play", 42, 0), ("skip", 42, 9_000)])}
    r = http.post("/api/session", json=body)
    said = r.json()
    assert r.status_code == 200 and set(said) == {"search_results", "recommendations", "fraud_risk", "notes"}
    assert all(h["why"].startswith("words") for h in said["search_results"]) and len(said["search_results"]) == 5
    assert len(said["recommendations"]) == 5 and 42 not in {h["track_id"] for h in said["recommendations"]}
    assert said["fraud_risk"]["events"] == 2 and not said["fraud_risk"]["flagged"]
    assert {h["track_id"] for h in said["search_results"]} <= {h.track_id for h in find("drill", 400, store=small)}


@pytest.mark.parametrize("kind", BOTS)
def test_a_bot_is_named_in_words_and_cannot_steer(http, kind):
    body = {"viewed_tracks": [42], "search_query": "drill", "actions": as_json(BOTS[kind][:200])}
    said, alone = (http.post("/api/session", json=b).json() for b in (body, {"search_query": "drill"}))
    assert said["fraud_risk"]["flagged"] and said["fraud_risk"]["reasons"] and any("do not count" in n for n in said["notes"])
    assert [h["track_id"] for h in said["search_results"]] == [h["track_id"] for h in alone["search_results"]]


def test_actions_count_in_the_order_of_their_time(small):
    mixed = BOTS["looper"][:40]
    one, other = run(small, make_session(actions=mixed), make_session(actions=mixed[::-1]))
    assert one.fraud_risk == other.fraud_risk and one.fraud_risk.flagged


def test_unknown_empty_and_signs(http):
    for body in ({}, {"user_id": 10**15}, {"viewed_tracks": [10**12]}, {"search_query": "  "}):
        said = http.post("/api/session", json=body).json()
        assert said["search_results"] == [] and len(said["recommendations"]) == 10 and said["fraud_risk"]["score"] == 0
    assert any("no word" in n for n in http.post("/api/session", json={"search_query": "?!"}).json()["notes"])
    assert any("unknown tracks" in n for n in http.post("/api/session", json={"viewed_tracks": [10**12]}).json()["notes"])


@pytest.mark.parametrize(("body", "said"), [
    ({"viewed_tracks": "all"}, "viewed_tracks"), ({"user_id": "anna"}, "user_id"), ({"query": "drill"}, "query"), ({"k": 0}, "k"),
    ({"actions": [{}]}, "action"), ({"actions": as_json([("dance", 1, 0)])}, "dance"),
    ({"actions": as_json([("play", None, 0)])}, "track"),
    ({"actions": [{"action": "play", "track_id": 1, "time": "noon"}]}, "time"), ({"search_query": "a\x00b"}, ""),
    ({"actions": [{"action": "play", "track_id": 1, "time": "2026-11-01T12:00:00"}]}, "time zone"),
    ({"actions": [{"action": "play", "track_id": 1, "time": "0001-01-01T00:00:00+14:00"}]}, ""),
    ({"actions": as_json([("play", 1, 0)] * (MOST_ACTIONS + 1))}, "actions"), ({"search_query": "x " * 150}, "search_query")])
def test_what_makes_no_sense_is_refused_in_words(http, body, said):
    r = http.post("/api/session", json=body)
    assert r.status_code == 422 and r.headers["content-type"] == "application/problem+json" and said in r.text, r.text


def test_reading_is_enough(): assert needed_scope("POST", "/api/session") == "read"


def test_the_command_runs_it(small, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: small)
    r = CliRunner().invoke(giants, ["amazon", "--json"])
    assert r.exit_code == 0 and "do not count" in r.output and "track" in r.output, r.output


def test_an_empty_catalog_is_named(small):
    with pytest.raises(LabError, match="no tracks yet"): demo(Store(small.lab, "nothing-here"))
