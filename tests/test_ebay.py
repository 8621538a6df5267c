"A user's action through validation, analysis, search and event: over the route, by the command, and for a phone."
import json

import httpx
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.giants import commands
from rap_analyzer.giants.ebay import MusicMarketplacePlatform, demo
from rap_analyzer.giants.phone import note_statements
from rap_analyzer.music.audio import BadAudio
from rap_analyzer.platform.keys import Keys
from rap_analyzer.product.events import Events
from rap_analyzer.search.fulltext import find
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.analysis import ANALYZERS, accept_track, hash_track
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.worker import run_job
from rap_analyzer.web import serving

KEPT = """INSERT INTO analyses (tenant_id, sha256, analyzer, version, value, confidence)
VALUES (current_setting('app.tenant_id'), %s, 'tempo', %s, '{"bpm": 90}', .9) RETURNING 1"""
LISTED = """INSERT INTO analyzer_plugins (tenant_id, name, version, source, code, analyzers, checks, cost_ms)
VALUES (current_setting('app.tenant_id'), 'loud', '1', 'loud', repeat('0', 64), '{loudness}', '{}', 1) RETURNING 1"""


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_ebay") as own:
        store = fill(Store(own, "market"), 200)
        build("hnsw_halfvec", store)
        Events(store).register(range(20))
        yield store
        store.forget()


def stored(store): return store.query(Query("SELECT event_id, action, track_id FROM events ORDER BY received, event_id"))


def test_the_route_stores_the_action_that_it_was_and_orders_an_analysis_once(store):
    app = create_app(store, cache_s=0)
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        ask = lambda **more: client.post("/api/process_action", json={"user_id": 7, "action": "skip", "track_id": 42} | more)
        first, again = (ask(event_id="skip-1") for _ in range(2))
        assert (first.status_code, again.status_code) == (200, 200)
        a, b = first.json(), again.json()
        assert a["event"]["action"] == "skip" and (a["event"]["new"], b["event"]["new"]) == (True, False)
        assert a["analysis"]["new"] and not b["analysis"]["new"] and a["analysis"]["job"] == b["analysis"]["job"]
        assert client.get(f"/api/jobs/{a['analysis']['job']}").json()["state"] == "waiting"
        genre = store.tracks([42])[0].genres[0]
        ids = [h["track_id"] for h in a["search_results"]]
        assert 0 < len(ids) == len(set(ids)) <= 50 and 42 not in ids and all(genre in t.genres for t in store.tracks(ids))
        assert set(a["ms"]) == {"validation", "analysis", "search", "event"}
        assert ask(event_id="skip-1", action="like").status_code == 409
        assert ask(user_id=999).status_code == ask(track_id=9_999).status_code == 404
        assert [ask(**w).status_code for w in ({"action": "lik"}, {"user_id": -1}, {"track_id": "x"}, {"size": 5})] == [422] * 4
        keyed = [client.post("/api/process_action", json={"user_id": 7, "action": "play", "track_id": 1},
                             headers={"Idempotency-Key": "k-9"}).json()["event"]["event_id"] for _ in range(2)]
        assert keyed[0] == keyed[1]
        store.query(Query(KEPT, (hash_track(store.tracks([42])[0]), ANALYZERS)))
        heard = ask(event_id="skip-1").json()["analysis"]
        assert heard == {"state": "done", "found": {"tempo": {"value": {"bpm": 90}, "confidence": pytest.approx(.9)}}}
        phone = client.post("/graphql", json={"query": "{ track(id: 42) { title analysis { analyzer confidence } similar(k: 2) "
                                                       "{ track { title } } } }"}).json()
        wrong = client.post("/graphql", json={"query": '{ track(id: 42) { analysis(only: ["mood", "gnere"]) { value } } }'})
        assert (wrong.status_code, wrong.json()["error"]) == (
            422, "'gnere': expected analyzers of tempo, genre, mood, lyrics, embedding")
        named = {"query": '{ track(id: 42) { analysis(only: ["loudness", "tempo"]) { analyzer } } }'}
        assert client.post("/graphql", json=named).status_code == 422
        store.query(Query(LISTED))
        assert client.post("/graphql", json=named).json()["data"]["track"]["analysis"] == [{"analyzer": "tempo"}]
        store.query(Query("DELETE FROM analyzer_plugins RETURNING 1"))
        store.query(Query(KEPT.replace("'tempo'", "'loudness'"), (hash_track(store.tracks([42])[0]), ANALYZERS)))
        assert len(client.post("/graphql", json=named).json()["data"]["track"]["analysis"]) == 2     # what was stored is kept
        assert phone["data"]["track"]["title"] == store.tracks([42])[0].title and len(phone["data"]["track"]["similar"]) == 2
    assert [e[1:] for e in stored(store)] == [("skip", 42), ("play", 1)]


SCREEN = """{ search(q: "drill", k: %d) { hits { track {
    id title artist { name } analysis(only: ["mood"]) { analyzer value } } } } }"""


def test_a_phone_gets_the_same_screen_by_either_door_and_more_tracks_take_no_more_statements(store):
    for hit in find("drill", 2, store=store): run_job(Jobs(store), str(accept_track(store, hit.track_id)[0].id))
    key = {"Authorization": f"Bearer {Keys(store).create(['read', 'write'])[0]}"}
    app = create_app(store, auth="required", cache_s=0)
    with serving(app) as url, httpx.Client(base_url=url, headers=key, timeout=20) as client, note_statements() as said:
        def graphql(k):
            said.clear()
            r = client.post("/graphql", json={"query": SCREEN % k}).json()
            assert "errors" not in r, r
            return [hit["track"] for hit in r["data"]["search"]["hits"]]
        by_rest = []
        for hit in client.get("/api/tracks/search?q=drill&k=2").json()["hits"]:
            job = client.get(client.post("/api/analyze", json={"track_id": hit["track_id"]}).json()["status"]).json()
            by_rest.append((str(hit["track_id"]), hit["title"], hit["artist"], job["result"]["analyses"]["mood"]["value"]["label"]))
        two, few = graphql(2), len(said)
        assert [(t["id"], t["title"], t["artist"]["name"], t["analysis"][0]["value"]["label"]) for t in two] == by_rest
        assert all([a["analyzer"] for a in t["analysis"]] == ["mood"] for t in two)
        assert len(graphql(8)) == 8 and 0 < len(said) == few
        assert httpx.post(f"{url}/graphql", json={"query": SCREEN % 2}).status_code == 401
        first = client.get("/api/tracks/42")
        again = client.get("/api/tracks/42", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")                        # where REST wins


@pytest.mark.parametrize("upload, reason", [(b"", ""), (b"no song" * 99, "not_audio"), (b"RIFF\x24\x00\x00\x00WAVEfmt ", None)])
def test_a_broken_upload_leaves_neither_a_job_nor_an_event(store, upload, reason):
    before = stored(store), store.query(Query("SELECT count(*) FROM jobs"))
    with pytest.raises(ValueError) as bad:
        MusicMarketplacePlatform(store).process_user_action({"user_id": 7, "action": "play", "track_id": 3}, upload)
    assert not isinstance(bad.value, BadAudio) or reason in (None, bad.value.reason)
    assert (stored(store), store.query(Query("SELECT count(*) FROM jobs"))) == before


def test_the_command_runs_it_once(store, monkeypatch):
    found = demo(store)
    assert found["winner"] == "listener 2 at 110 cents" and "least bid is 120" in found["a bid too low"]
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: store)
    done = CliRunner().invoke(commands.app, ["ebay", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["search results"] > 0
