"GraphQL over real HTTP: the same answers as REST, few statements, no other tenant's rows, and what is refused."
import asyncio
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from graphql import get_introspection_query, get_named_type, is_leaf_type, parse
from helpers import own_database
from starlette.routing import WebSocketRoute

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError, settings
from rap_analyzer.deadline import DEADLINE
from rap_analyzer.music import catalog
from rap_analyzer.platform.graphql import OBJECTS, SCHEMA
from rap_analyzer.platform.graphql_limits import MAX_COST, MAX_DEPTH, Scales
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.loaders import Loaders, select_neighbours
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build, similar
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.analysis import ANALYZERS, hash_track
from rap_analyzer.web import serving

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))

N = 300


@pytest.fixture(scope="module")
def own(lab):
    with own_database(lab, "test_graphql") as mine: yield mine


@pytest.fixture(scope="module")
def alpha(own):
    store = fill(Store(own, "alpha"), N)
    build("hnsw_halfvec", store)
    Events(store).register(range(20))
    yield store
    store.forget()


@pytest.fixture(scope="module")
def beta(own, alpha):
    "The same ids, other tracks."
    store = Store(own, "beta").register()
    tracks = [replace(t, title=f"beta's {t.id}", artist="beta") for t in catalog.tracks(0, N)]
    store.load(tracks, catalog.embeddings(500, 500 + N))
    Events(store).register(range(20))
    yield store
    store.forget()


@pytest.fixture(scope="module")
def app(alpha, beta): return create_app(alpha, auth="required", cache_s=60)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url: yield url


@pytest.fixture(scope="module")
def keys(alpha, beta):
    return {s.tenant: {"Authorization": f"Bearer {Keys(s).create(['read', 'write'])[0]}"} for s in (alpha, beta)}


@pytest.fixture(scope="module")
def ask(url, keys):
    "Ask as alpha: the status and the answer."
    def ask(query, headers=keys["alpha"], **more):
        r = httpx.post(f"{url}/graphql", json={"query": query, **more}, headers=headers, timeout=30)
        assert "Traceback" not in r.text and r.headers["content-type"].startswith("application/")
        return r.status_code, r.json()
    return ask


@pytest.fixture
def asked(monkeypatch):
    "The statements of all tenants' requests, as the pool is asked for them; what goes on beside the requests has no deadline."
    said, aquery = [], Store.aquery
    def noted(self, query):
        if DEADLINE.get() is not None: said.append(query.sql)
        return aquery(self, query)
    monkeypatch.setattr(Store, "aquery", noted)
    return said


# ---- the same answers

def test_a_part_of_an_answer_has_no_next_page(url, keys):
    "The header Link is about an address, and the handler of another one answers here."
    said = httpx.post(f"{url}/graphql", json={"query": '{ search(q: "drill", k: 3) { hits { track_id } } }'}, headers=keys["alpha"])
    rest = httpx.get(f"{url}/api/tracks/search?q=drill&k=3", headers=keys["alpha"])
    assert len(said.json()["data"]["search"]["hits"]) == 3 and "link" not in said.headers
    assert rest.links["next"]["url"].startswith("/api/tracks/search?q=drill&k=3&cursor=")


def test_both_doors_lead_to_the_same_answers(ask, url, keys):
    get = lambda path: httpx.get(url + path, headers=keys["alpha"]).json()
    status, said = ask("""{ viewer { tenant scopes how }
        track(id: 42) { id title artist { name } genres bpm similar(k: 7) { track_id score } }
        search(q: "night", k: 5, genre: "drill") { note hits { track_id why } }
        recommend(user_id: "7", liked: [3, 4], k: 5) { order hits { track_id why shares } }
        playlist(ids: [4, 8, 15, 16], arc: "rise") { cost method tracks { track_id camelot step { tempo } } }
        tracks(ids: [5, 999999, 5]) { title } }""")
    assert status == 200 and "errors" not in said, said
    data, one = said["data"], get("/api/tracks/42")
    assert data["viewer"] == {"tenant": "alpha", "scopes": ["read", "write"], "how": "key"}
    assert data["track"]["artist"]["name"] == one["artist"] and {k: data["track"][k] for k in ("title", "genres", "bpm")} == {
        k: one[k] for k in ("title", "genres", "bpm")} and data["track"]["id"] == "42"
    ids = lambda hits: [str(h["track_id"]) for h in hits]
    assert ids(data["track"]["similar"]) == ids(get("/api/tracks/similar?track_id=42&k=7")["hits"])
    assert ids(data["search"]["hits"]) == ids(get("/api/tracks/search?q=night&k=5&genre=drill")["hits"])
    assert ids(data["recommend"]["hits"]) == ids(get("/api/recommend?user_id=7&liked=3,4&k=5")["hits"])
    order = get("/api/playlist?ids=4,8,15,16&arc=rise")
    assert ids(data["playlist"]["tracks"]) == ids(order["tracks"]) and data["playlist"]["cost"] == order["cost"]
    assert [t and t["title"] for t in data["tracks"]] == [get("/api/tracks/5")["title"], None, get("/api/tracks/5")["title"]]


def test_an_answer_that_rest_has_cached_serves_graphql(ask, url, keys, asked):
    path = "/api/tracks/search?q=cached&k=3&titles=false"
    assert httpx.get(url + path, headers=keys["alpha"]).status_code == 200
    asked.clear()
    assert ask('{ search(q: "cached", k: 3) { note hits { track_id } } }')[0] == 200
    assert not [sql for sql in asked if "search_words" in sql]


def test_a_job_and_an_action_are_the_tenant_s_own(ask, keys):
    for name, track in (("alpha", 3), ("beta", 4)):
        status, said = ask(f"mutation {{ analyze(track_id: {track}) {{ new job {{ id state }} }} }}", keys[name])
        assert status == 200 and said["data"]["analyze"]["new"], said
    again = ask("mutation { analyze(track_id: 3) { new job { id } } }")[1]["data"]["analyze"]
    job = again["job"]["id"]
    assert not again["new"]
    lists = {name: [j["id"] for j in ask("{ jobs { id } }", keys[name])[1]["data"]["jobs"]] for name in keys}
    assert job in lists["alpha"] and not set(lists["alpha"]) & set(lists["beta"])
    assert [ask(f'{{ job(id: "{job}") {{ kind }} }}', keys[n])[1]["data"]["job"] for n in keys] == [{"kind": "analyze"}, None]
    act = """mutation { track_action(user_id: 7, action: "like", track_id: 5, event_id: "gql-1", time: "2026-11-01T12:00:00Z")
        { event_id } }"""
    assert [ask(act)[1]["data"]["track_action"] for _ in range(2)] == [{"event_id": "gql-1"}] * 2


def test_each_action_of_a_document_is_one_and_stays_one(ask, keys, alpha):
    document = 'mutation { a: track_action(user_id: 7, action: "play", track_id: 1) { event_id } ' \
               'b: track_action(user_id: 7, action: "play", track_id: 2) { event_id } }'
    once = keys["alpha"] | {"Idempotency-Key": "two-actions"}
    (status, said), again = ask(document, once), ask(document, once)
    assert status == 200 and "errors" not in said and again == (status, said), said
    assert said["data"]["a"]["event_id"] != said["data"]["b"]["event_id"]
    reader = {"Authorization": f"Bearer {Keys(alpha).create(['read'])[0]}", "Idempotency-Key": "two-actions"}
    assert ask(document, reader)[0] == 409                                # who may only read gets no answer to a change


def test_what_the_analyzers_found_is_there_once_a_job_has_heard_it(ask, alpha):
    query, track = "{ track(id: 9) { analysis { analyzer value confidence } } }", alpha.tracks([9])[0]
    assert ask(query)[1]["data"]["track"]["analysis"] == []
    keep = """INSERT INTO analyses (tenant_id, sha256, analyzer, version, value, confidence)
        VALUES (current_setting('app.tenant_id'), %s, 'tempo', %s, '{"bpm": 90}', .5)"""
    with alpha.session() as s: s.con.execute(keep, [hash_track(track), ANALYZERS])
    assert ask(query)[1]["data"]["track"]["analysis"] == [{"analyzer": "tempo", "value": {"bpm": 90}, "confidence": .5}]


# ---- how many statements

SCREEN = """{{ tracks(ids: {ids}) {{ title artist {{ name tracks(k: 3) {{ title }} }} analysis {{ analyzer }}
    similar(k: {k}) {{ score track {{ title }} }} }} }}"""
COUNTED = """SELECT sum(calls)::int FROM pg_stat_statements WHERE query ~ 'FROM (tracks|embeddings)'
    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""


def test_the_number_of_statements_does_not_depend_on_the_data(ask, asked):
    counts = {}
    for n, k in ((2, 2), (50, 5), (30, 10)):
        ids = list(range(100, 100 + n))
        ask(SCREEN.format(ids=ids, k=k))                                # once, so that nothing else has to be found out
        asked.clear()
        status, said = ask(SCREEN.format(ids=ids, k=k))
        assert status == 200 and len(said["data"]["tracks"]) == n and all(len(t["similar"]) == k for t in said["data"]["tracks"])
        counts[n, k] = [sql for sql in asked if "find_key" not in sql and "FROM models" not in sql]     # known for a second
    assert all(len(said) <= 6 for said in counts.values()), counts          # two of them may meet, so that it is one less


def test_the_server_counts_the_same_and_the_naive_way_a_hundred_times_as_many(alpha):
    "PostgreSQL's own counts, of both: with a moment to gather, and one by one."
    class OneByOne:
        def __init__(self, batch): self.batch = batch
        async def load(self, key): return (await self.batch([key]))[0]

    async def look(loaders):
        tracks = await asyncio.gather(*(loaders.track.load(i) for i in range(50)))
        near = await asyncio.gather(*(loaders.similar.load((t.id, 10)) for t in tracks))
        return await asyncio.gather(*(loaders.track.load(h.track_id) for hits in near for h in hits))

    async def both():
        await alpha.aopen()
        try:
            counts, found = [], []
            for how in ({}, {"loader": OneByOne}):
                with alpha.admin(None) as con: con.execute("SELECT pg_stat_statements_reset()")
                found.append([t.id for t in await look(Loaders(alpha, **how))])
                with alpha.admin(None) as con: counts.append(con.execute(COUNTED).fetchone()[0])
        finally: await alpha.aclose()
        return counts, found

    (few, many), (a, b) = asyncio.run(both())
    assert (few, many) == (3, 600) and a == b


def test_neighbours_of_many_are_those_of_each_and_by_the_index(alpha):
    statement = select_neighbours(range(40), 7)
    with alpha.session() as s: plan = "\n".join(line for line, in s.con.execute("EXPLAIN " + statement.sql, statement.params))
    assert "ix_hnsw_halfvec" in plan
    found = {}
    for i, other, _ in alpha.query(statement):
        if other != i: found.setdefault(i, []).append(other)
    assert all(found[i][:7] == [h.track_id for h in similar(i, 7, store=alpha)] for i in range(40))


def test_a_track_without_an_embedding_or_with_another_model_s(alpha, ask):
    import numpy as np
    ids = alpha.upsert([replace(t, title=f"odd {t.id}", external_id=f"odd-{t.id}", id=9_000 + t.id) for t in catalog.tracks(0, 4)])
    a, b, c, bare = ids.values()
    alpha.upsert_embeddings(np.array([a, b, c]), catalog.embeddings(0, 3), model_id="heard-1")
    status, said = ask(f"{{ tracks(ids: [{a}, {bare}, 5]) {{ title similar(k: 2) {{ track_id }} }} }}")
    first, none, usual = said["data"]["tracks"]
    assert status == 200 and {h["track_id"] for h in first["similar"]} == {str(b), str(c)} and len(usual["similar"]) == 2
    assert none["similar"] is None and "no embedding" in said["errors"][0]["message"]
    assert said["errors"][0]["extensions"]["status"] == 409 and said["errors"][0]["path"] == ["tracks", 1, "similar"]


# ---- whose rows

def test_tenants_at_once_stay_apart(url, keys):
    "The same ids, the same question, both at the same time, again and again: caches, loaders and sessions have every chance."
    query = """{ tracks(ids: [1, 2, 3]) { title artist { name tracks(k: 2) { title } } similar(k: 3) { track { title } } }
        search(q: "beta", k: 3) { hits { track { title } } } recommend(user_id: "7", k: 3) { hits { track { title } } } }"""

    async def one(client, n):
        name = ("alpha", "beta")[n % 2]
        said = (await client.post("/graphql", json={"query": query}, headers=keys[name])).json()
        assert "errors" not in said, said
        titles = [line.split('"')[0] for line in json.dumps(said["data"]).split('"title": "')[1:]]
        return len(titles) > 20 and all(t.startswith("beta's") == (name == "beta") for t in titles)

    async def all_of_them():
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            return [r for _ in range(5) for r in await asyncio.gather(*(one(client, n) for n in range(16)))]
    assert all(asyncio.run(all_of_them()))


def test_a_mutation_needs_the_scope_write_and_a_question_a_key(ask, alpha):
    read = {"Authorization": f"Bearer {Keys(alpha).create(['read'])[0]}"}
    before = alpha.query(Query("SELECT count(*) FROM jobs"))
    one = "mutation M { analyze(track_id: 77) { new } }"
    for text in (one, "query Q { viewer { tenant } } " + one):
        status, said = ask(text, read, operationName="M" if "Q" in text else None)
        assert status == 403 and "write" in json.dumps(said), said
    assert alpha.query(Query("SELECT count(*) FROM jobs")) == before
    assert ask("{ viewer { scopes } }", read)[1]["data"]["viewer"]["scopes"] == ["read"]
    assert ask("{ viewer { scopes } }", {})[0] == 401
    write = {"Authorization": f"Bearer {Keys(alpha).create(['write'])[0]}"}
    assert ask("{ viewer { scopes } }", write)[0] == 403


# ---- what gets in

def test_only_json_by_post_and_no_other_way_in(url, app, keys):
    mutation = "mutation { analyze(track_id: 78) { new } }"
    assert httpx.get(f"{url}/graphql", params={"query": mutation}, headers=keys["alpha"]).status_code == 405
    for how in ({"data": {"query": mutation}}, {"files": {"operations": (None, json.dumps({"query": mutation}))}},
                {"content": json.dumps({"query": mutation}), "headers": {"Content-Type": "text/plain"}},
                {"content": json.dumps({"query": mutation})}, {"json": [{"query": mutation}] * 2}, {"json": {"query": ""}}):
        r = httpx.post(f"{url}/graphql", **{**how, "headers": keys["alpha"] | how.get("headers", {})})
        assert r.status_code in (415, 422) and "Traceback" not in r.text, (how, r.text)
    assert not [r for r in app.routes if isinstance(r, WebSocketRoute)]


def test_a_page_of_another_site_is_refused_where_no_key_is_needed(alpha):
    with serving(create_app(alpha, auth="open")) as url:
        ask = lambda **headers: httpx.post(f"{url}/graphql", json={"query": "{ viewer { how } }"}, headers=headers).status_code
        assert (ask(), ask(Origin="http://localhost:8000"), ask(Origin="https://evil.example")) == (200, 200, 403)


def bomb(n):
    "Each fragment uses the next one twice."
    doubled = "".join(f" fragment f{i} on Query{{...f{i + 1} ...f{i + 1}}}" for i in range(n))
    return "{...f0}" + doubled + f" fragment f{n} on Query{{__typename}}"


CYCLE = "{...a}" + "".join(f" fragment {x} on Query{{{' '.join('...' + y for y in 'abcdefghij' if y != x)}}}" for x in "abcdefghij")
DEAR = {
    "many aliases": ("{" + " ".join(f"a{i}: viewer {{ tenant }}" for i in range(40)) + "}", "aliases found"),
    "deep": ("{ track(id: 1) " + "{ similar(k: 1) { track " * MAX_DEPTH + "{ id } " + "} }" * MAX_DEPTH + "}", "depth"),
    "long": ("{ viewer { " + "tenant " * 1_200 + "} }", "tokens"),
    "a literal": ("{ track(id: 1) { similar(k: 100) { track { similar(k: 100) { score } } } } }", "objects"),
    "few at a time": ("{ tracks(ids: [" + "1," * 90 + "]) { similar(k: 90) { score } } }", "objects"),
    "a huge number": ("{ search(q: \"a\", k: 99999999999999999999) { hits { score } } }", "objects"),
    "an endless number": ("{ search(q: \"a\", k: " + "9" * 5_000 + ") { hits { score } } }", "Exceeds the limit"),
    "an endless default": ("query($k: Int = " + "9" * 5_000 + ") { jobs(k: $k) { id } }", "Exceeds the limit"),
    "a bomb": (bomb(80), "fields"), "a small bomb": (bomb(14), "fields"), "a cycle": (CYCLE, "contains itself"),
    "the schema, forty times": ("{" + " ".join(f"a{i}: __schema {{ types {{ name }} }}" for i in range(40)) + "}", "objects"),
    "a fragment that is missing": ("{ viewer { ...g } }", "no fragment"),
    "nested braces": ("{" * 480 + "}" * 480, ""), "nested lists": ("{ tracks(ids: " + "[" * 450 + "]" * 450 + ") { id } }", ""),
}


@pytest.mark.parametrize("name", DEAR)
def test_what_is_too_dear_is_refused_before_anything_runs(ask, asked, name):
    query, why = DEAR[name]
    asked.clear()
    status, said = ask(query)
    assert status == 400 and said["data"] is None and why in said["errors"][0]["message"], said
    assert not [sql for sql in asked if "tracks" in sql or "embeddings" in sql]


def test_a_variable_cannot_hide_a_size(ask):
    query = "query($k: Int!, $n: Int = 100) { track(id: 1) { similar(k: $k) { track { similar(k: $n) { score } } } } }"
    assert ask(query, variables={"k": 2, "n": 2})[0] == 200
    for variables in ({"k": 100}, {"k": 100, "n": 90}):
        assert "objects" in ask(query, variables=variables)[1]["errors"][0]["message"]
    assert "objects" in ask(query, variables={"k": 100.0, "n": 1e2})[1]["errors"][0]["message"]      # an Int, to GraphQL
    dear = "query A($n: Int = 100) { track(id: 1) { similar(k: $n) { track { similar(k: $n) { score } } } } }"
    cheap = " query B($n: Int = 1) { track(id: 1) { similar(k: $n) { score } } }"
    assert "objects" in ask(dear + cheap, operationName="A")[1]["errors"][0]["message"]              # A's default is A's
    many = "query($ids: [ID!]!) { tracks(ids: $ids) { similar(k: 90) { score } } }"
    assert ask(many, variables={"ids": ["1"] * 80})[0] == 400


def objects(x):
    "How many objects are in an answer."
    if isinstance(x, dict): return 1 + sum(map(objects, x.values()))
    return sum(map(objects, x)) if isinstance(x, list) else 0


def test_the_price_is_never_less_than_what_is_brought(ask):
    for query in ("{ track(id: 1) { similar(k: 20) { track { id } } } }",
                  "{ search(q: \"drill\", k: 30) { hits { track { similar { score } } } } }",
                  "{ playlist(track_id: 5, k: 12) { tracks { track { artist { tracks(k: 5) { id } } } step { key } } } }"):
        status, said = ask(query)
        assert status == 200 and objects(said["data"]) - 1 <= said["extensions"]["cost"]["objects"] <= MAX_COST, said["extensions"]


def test_every_list_of_objects_has_a_size():
    "A list without one would count as one object: those below are as long as the size of the field around them, or are five."
    inside = {("Search", "hits"), ("Recommendations", "hits"), ("Playlist", "tracks"), ("Track", "analysis")}
    found = set()
    for name, kind in SCHEMA._schema.type_map.items():
        for field, about in getattr(kind, "fields", {}).items():
            lists = str(about.type).startswith("[") and not is_leaf_type(get_named_type(about.type)) and not name.startswith("__")
            if lists and not {"k", "ids"} & set(about.args): found.add((name, field))
    assert found == inside


def test_tools_may_read_the_schema_within_the_limits(ask):
    status, said = ask(get_introspection_query())
    names = {t["name"] for t in said["data"]["__schema"]["types"]}
    assert status == 200 and {"Track", "Hit", "Playlist", "Job", "Viewer"} <= names and not {n for n in names if n.endswith("Node")}
    weight = Scales(SCHEMA._schema, parse(get_introspection_query())).weigh()
    assert weight.cost <= 200


def test_a_large_question_counts_as_many_requests(alpha, monkeypatch):
    monkeypatch.setenv("RAP_API_TENANT_PER_S", "0.3")
    settings.cache_clear()
    with serving(create_app(alpha, auth="open", cache_s=0)) as url:
        ids = [str(i) for i in range(60)]
        body = {"query": "query($ids: [ID!]!) { tracks(ids: $ids) { similar(k: 15) { score } } }", "variables": {"ids": ids}}
        first = httpx.post(f"{url}/graphql", json=body, timeout=20)
        assert first.status_code == 200 and first.json()["extensions"]["cost"]["objects"] // OBJECTS >= 9
        after = httpx.post(f"{url}/graphql", json={"query": "{ viewer { how } }"})
        assert after.status_code == 429 and int(after.headers["retry-after"]) >= 1


# ---- what goes wrong

def test_what_nobody_has_foreseen_is_told_without_a_trace(ask, monkeypatch):
    async def broken(self, ids): raise RuntimeError("password=hunter2 in /etc/secret.py")
    monkeypatch.setattr(Loaders, "find_tracks", broken)
    status, said = ask("{ viewer { tenant } track(id: 1) { title } }")
    assert status == 200 and said["data"] == {"viewer": {"tenant": "alpha"}, "track": None} and "hunter2" not in json.dumps(said)
    assert said["errors"][0]["extensions"]["status"] == 500 and "in the log" in said["errors"][0]["extensions"]["hint"]
    assert ask("{ track(id: 1) { title } }")[0] == 500


def test_a_server_that_is_away_is_a_503_and_a_sentence(ask, monkeypatch):
    aquery = Store.aquery
    async def away(self, query):  # identity, which looks a key up once a second, is answered: it has a 503 of its own
        if re.search(r"\b(FROM|JOIN) (tracks|jobs)\b", query.sql): raise LabError("PostgreSQL does not answer.")
        return await aquery(self, query)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "aquery", away)
        status, said = ask("{ track(id: 1) { title } jobs { id } }")
    assert status == 503 and {e["message"] for e in said["errors"]} == {"PostgreSQL does not answer."}
    assert ask("{ track(id: 1) { title } }")[0] == 200


def test_the_deadline_of_a_request_holds_here_too(url, keys, monkeypatch):
    async def never(self, ids): await asyncio.sleep(60)
    with monkeypatch.context() as patch:
        patch.setattr(Loaders, "find_tracks", never)
        head = keys["alpha"] | {"X-Timeout-Ms": "300"}
        r = httpx.post(f"{url}/graphql", json={"query": "{ track(id: 1) { title } }"}, headers=head, timeout=20)
    assert r.status_code == 503 and "no answer within" in r.json()["error"]


WRONG = {
    "{ track(id: \"" + "9" * 5_000 + "\") { id } }": (422, "expected a track id"),
    "{ track(id: \"intro\") { id } }": (422, "expected a track id"),
    "{ search(q: \"a\", k: 0) { note } }": (422, "from 1 to 1,000"),
    "{ search(q: \"a\", year: \"then\") { note } }": (422, "year"), "{ track(id: 1) { nothing } }": (400, "Cannot query field"),
    "{ jobs(states: [\"lost\"]) { id } }": (422, "no state"),
    "{ job(id: \"x\") { id } }": (422, "UUID"), "{ a": (400, "Syntax Error"),
    "{ track(id: 1) { similar(k: 101) { score } } }": (200, "from 1 to 100"), "{ track { id } }": (400, "required"),
    "subscription { viewer { how } }": (422, "a query or a mutation"), "fragment f on Query { viewer { how } }": (422, "operation"),
    "mutation { analyze(track_id: 123456) { new } }": (404, "no track 123456"),
    "mutation { track_action(user_id: 7, action: \"sing\", track_id: 1) { action } }": (422, "expected an action"),
}


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_question_is_told_what_is_wrong(ask, query):
    status, said = ask(query)
    assert status == WRONG[query][0] and WRONG[query][1] in json.dumps(said), (status, said)


def test_documents_at_random_have_an_answer(url, keys):
    import _contract
    found = _contract.fuzz(url, keys["alpha"]["Authorization"].split()[1], n=250, seed=11)
    assert not found["wrong"], found["wrong"][:3]
    assert found["statuses"][200] > 50 and found["statuses"][400] > 30, found


# ---- what it costs to be there

def test_who_does_not_serve_does_not_import_it():
    code = ("import sys, rap_analyzer.cli, rap_analyzer.search.routes, rap_analyzer.launcher; "
            "print([m for m in sys.modules if m.split('.')[0] in ('strawberry', 'graphql')])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
