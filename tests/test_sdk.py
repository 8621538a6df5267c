"The Python client of sdk/ against the real service: both ways alike, retries, cut lines, refusals, pages, files, jobs, secrets."
import ast
import asyncio
import csv
import inspect
import logging
import pickle
import random
import re
import shutil
import subprocess
import sys
import textwrap
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from helpers import own_database, until

from rap_analyzer.app import create_app
from rap_analyzer.platform import export as exports
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.sdk import write_models
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve import routes as serve
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.web import serving

SDK = Path(__file__).resolve().parent.parent / "sdk"
sys.path.append(str(SDK))
import rap_analyzer_client as rap  # noqa: E402
from rap_analyzer_client import calls, rooms, ways  # noqa: E402
from rap_analyzer_client.engine import Engine, read_cursor  # noqa: E402
from rap_analyzer_client.errors import read_after  # noqa: E402
from rap_analyzer_client.jobs import EventReader, JobHandle  # noqa: E402
from rap_analyzer_client.retries import may_repeat  # noqa: E402

N = 300
QUICK = rap.Policy(tries=20, attempt_s=.5, deadline_s=20, first_s=.02)


class Line(Proxy):
    "A line that counts who comes."
    asked = 0

    async def _carry(self, *ends):
        self.asked += 1
        await super()._carry(*ends)


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_sdk") as own:
        store = fill(Store(own, "acme"), N)
        build("hnsw_halfvec", store)
        Events(store).register(range(20))
        yield store
        store.forget()


@pytest.fixture(scope="module")
def keys(store):
    sets = {"all": ["read", "write", "export", "operate"], "read": ["read"]}
    return {name: Keys(store, "test").create(scopes)[0] for name, scopes in sets.items()}


@pytest.fixture(scope="module")
def app(store): return create_app(store, timeout_s=15, auth="required", cache_s=0)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url: yield url


@pytest.fixture
def line(url):
    line = Line("127.0.0.1", urlsplit(url).port).start()
    yield line
    line.close()


@pytest.fixture
def client(url, keys):
    with rap.Client(url, keys["all"]) as client: yield client


def far(line): return f"http://127.0.0.1:{line.port}"


def count(store): return store.query(Query("SELECT count(*)::int FROM events"))[0][0]


def blocking(url, key, use, **how):
    with rap.Client(url, key, **how) as c:
        found = use(c)
        return list(found) if inspect.isgenerator(found) else found


def awaiting(url, key, use, **how):
    async def go():
        async with rap.AsyncClient(url, key, **how) as c:
            found = use(c)
            return [x async for x in found] if inspect.isasyncgen(found) else await found
    return asyncio.run(go())


both = pytest.mark.parametrize("way", [blocking, awaiting])


@contextmanager
def counting(client):
    "The requests that a client sends."
    sent = []
    client._http.event_hooks = {"request": [lambda r: sent.append((r.method, r.url.path, r.headers.get("idempotency-key")))]}
    yield sent
    client._http.event_hooks = {}


# ---- the schema

def test_the_models_are_what_the_schema_gives(app):
    file = SDK / "rap_analyzer_client" / "models.py"
    assert file.read_text(encoding="utf-8") == write_models(app.openapi()), "run scripts/client_models.py"


def test_each_method_asks_for_an_operation_of_the_schema_with_parameters_that_it_has(app):
    paths, engine = app.openapi()["paths"], Engine(rap.Policy(), rap.Budget())
    values = {"track_id": 1, "listener_id": 1, "user_id": 1, "q": "x", "like": 1, "action": "like", "query": "{ me }",
              "events": [], "operation": "GET /api/tracks", "hours": 1, "ids": [1, 2], "liked": [1], "session": [1], "titles": True}
    seen = set()
    for room in (rooms.Tracks, rooms.Listeners, rooms.Service):
        made = room(engine, None)
        for name, one in vars(room).items():
            if not isinstance(one, ways.Described) or name == "export": continue
            asked = {p: values.get(p, 1) for p in one.signature.parameters if p not in ("key", "time", "about", "operation_name")}
            said = one.describe(made, asked["operation"]) if name == "ask" else one.describe(made, **asked)
            call = said if isinstance(said, calls.Call) else next(said).call
            fits = [p for p in paths if len(p.split("/")) == len(call.path.split("/")) and call.method.lower() in paths[p]
                    and all(a == b or a.startswith("{") for a, b in zip(p.split("/"), call.path.split("/"), strict=True))]
            exact = call.path if call.path in fits else fits[0]
            way = paths[exact][call.method.lower()]
            known = {p["name"] for p in way.get("parameters", ())}
            assert set(call.query) <= known, (name, set(call.query) - known)
            assert call.answer is bytes or rap.models.OPERATIONS[f"{call.method} {exact}"] == call.answer, name
            assert bool(call.key) == (call.method == "POST" and not call.reads), name
            seen.add(exact)
    assert len(seen) > 12


# ---- both ways alike

ASKED = {
    "track": lambda c: c.tracks.get(42), "similar": lambda c: c.tracks.similar(42, k=7, genre="drill"),
    "search": lambda c: c.tracks.search("night", limit=9, page=4), "like": lambda c: c.tracks.search_like("night", 42),
    "all": lambda c: c.tracks.all(page=100), "sound": lambda c: c.tracks.audio(1, 1),
    "playlist": lambda c: c.playlist([42, 7, 99]), "who": lambda c: c.whoami(), "trends": lambda c: c.trends(hours=2),
    "any": lambda c: c.ask("GET /api/tracks/{track_id}", track_id=3), "listener": lambda c: c.listeners.register(3),
    "graphql": lambda c: c.graphql("query($id: ID!) { track(id: $id) { title } }", {"id": 42}),
}


@pytest.mark.parametrize("name", ASKED)
def test_both_ways_get_the_same_answer(url, keys, name):
    one, two = (way(url, keys["all"], ASKED[name]) for way in (blocking, awaiting))
    assert one == two and one, name


def test_answers_are_typed_and_right(client, store):
    track, hits = client.tracks.get(42), client.tracks.similar(42, k=10).hits
    assert isinstance(track, rap.models.Track) and track.title == store.tracks([42])[0].title and track.bpm > 0
    assert len(hits) == 10 and hits[0].score == max(h.score for h in hits)
    assert client.ask("GET /api/tracks/{track_id}", track_id=42) == track
    fine = client.recommend("anna", liked=[42, 7], k=5)
    assert len(fine.hits) == 5 and fine.hits[0].why and not {42, 7} & {h.track_id for h in fine.hits}
    assert client.home(7, k=3).layout
    assert client.graphql("{ viewer { tenant } }").data == {"viewer": {"tenant": "acme"}}
    with pytest.raises(ValueError, match="did you mean GET /api/tracks/search"): client.ask("GET /api/tracks/serch", q="x")
    with pytest.warns(DeprecationWarning, match="similarity_search goes away"):
        assert client.ask("GET /api/similarity_search", track_id=42).hits == hits


def test_pages_are_asked_for_when_they_are_wanted(client):
    with counting(client) as sent:
        tracks = client.tracks.all(page=7)
        assert not sent and [t.id for t in islice(tracks, 10)] == list(range(10)) and len(sent) == 2
        tracks.close()
        assert [t.id for t in client.tracks.all(page=100)] == list(range(N)) and len(sent) == 5
        assert list(client.tracks.all(limit=0)) == [] and len(sent) == 5
    few = [h.track_id for h in client.tracks.search("night", page=4, limit=10)]
    assert few == [h.track_id for h in client.tracks.search("night", page=50)][:10] and len(set(few)) == 10


# ---- errors

@both
@pytest.mark.parametrize("use, kind, status, said", [
    (lambda c: c.tracks.get(10**9), rap.NotFound, 404, "no track"),
    (lambda c: c.tracks.similar(42, k=0), rap.Invalid, 422, "k = '0'"),
    (lambda c: c.tracks.search("x", bpm="fast"), rap.Invalid, 422, "bpm"),
    (lambda c: c.track_action(12345, "play", 1), rap.NotFound, 404, "12345"),
    (lambda c: c.graphql("{ nothing }"), rap.Problem, 400, "nothing"),
    (lambda c: c.job(str(uuid4())).status(), rap.NotFound, 404, "no job"),
    (lambda c: c.job(str(uuid4())).wait(), rap.NotFound, 404, "no job")])
def test_errors_are_made_of_problems(url, keys, way, use, kind, status, said):
    with pytest.raises(kind) as caught: way(url, keys["all"], use)
    e = caught.value
    assert said in e.detail and e.status == status and e.tries == 1
    assert (e.__cause__, e.__context__) == (None, None) and e.detail in str(e)
    again = pickle.loads(pickle.dumps(e))
    assert (str(again), again.status, again.hint) == (str(e), e.status, e.hint)


@both
def test_a_key_that_lacks_a_scope_and_one_that_is_none(url, keys, way, tmp_path):
    with pytest.raises(rap.Forbidden, match="write") as caught: way(url, keys["read"], lambda c: c.track_action(7, "play", 1))
    assert caught.value.request_id and "key create" in caught.value.hint
    with pytest.raises(rap.Unauthenticated): way(url, keys["read"][:-2] + "-A", lambda c: c.whoami())
    with pytest.raises(rap.Forbidden): way(url, keys["read"], lambda c: c.export("tracks", tmp_path / "t.csv"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args, said", [
    (("ftp://127.0.0.1",), "expected an address"), (("http://me:secret@127.0.0.1",), "ends up in logs"),
    (("http://rap.example.com", "k"), "clear text"), (("http://127.0.0.1", "a\nb"), "no key has"),
    (("https://x/?a=1",), "without"), (("https://x:99999",), "[Pp]ort")])
@pytest.mark.parametrize("kind", [rap.Client, rap.AsyncClient])
def test_a_client_is_refused_before_it_sends_a_key_anywhere(kind, args, said):
    with pytest.raises(ValueError, match=said) as caught: kind(*args)
    assert "secret" not in str(caught.value) and "a\nb" not in str(caught.value)


def test_what_is_no_service_of_ours_is_said_to_be_none(keys):
    async def other(scope, receive, send):
        if scope["type"] != "http": return
        status = 302 if scope["path"].endswith("whoami") else 500 if scope["path"].endswith("trends") else 200
        head = [(b"content-type", b"text/html"), (b"location", b"http://elsewhere.example/")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b"<html>" + dict(scope["headers"])[b"authorization"]})
    with serving(other) as url, rap.Client(url, keys["all"]) as client:
        with pytest.raises(rap.BadAnswer, match="another form") as one: client.tracks.get(1)
        with pytest.raises(rap.BadAnswer, match="302") as two: client.whoami()
        with pytest.raises(rap.ServerError, match="500") as three: client.trends()
    assert not any(keys["all"] in str(vars(e.value)) for e in (one, two, three))


# ---- the line breaks

@both
def test_an_action_whose_answer_came_too_late_is_recorded_once(line, keys, store, way):
    before, line.delay_s = count(store), .6                               # longer than a try waits: each one is sent in vain
    with ThreadPoolExecutor(1) as pool:
        how = {"policy": QUICK, "budget": rap.Budget(1, 20)}
        made = pool.submit(way, far(line), keys["all"], lambda c: c.track_action(7, "play", 42), **how)
        until(lambda: count(store) > before)
        line.delay_s = 0.0
        event = made.result(30)
    assert count(store) == before + 1 and (event.listener_id, event.track_id, event.action) == (7, 42, "play")


@both
def test_a_connection_that_is_cut_is_opened_anew(line, keys, way):
    line.delay_s = .3
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(way, far(line), keys["all"], lambda c: c.tracks.get(42))
        until(lambda: len(line.writers) == 2)
        line.delay_s = 0.0
        assert line.reset() == 1 and asked.result(30).id == 42
    assert line.asked == 2


def test_the_same_key_for_all_tries_and_another_for_another_call(line, keys):
    line.dead = True
    with rap.Client(far(line), keys["all"], policy=rap.Policy(tries=3, first_s=.01)) as client, counting(client) as sent:
        for _ in range(2):
            with pytest.raises(rap.Unreachable) as caught: client.track_action(7, "play", 42)
        with pytest.raises(rap.Unreachable): client.track_action(7, "play", 42, key="mine")
    assert caught.value.tries == 3 and "after 3 tries" in str(caught.value)
    names = [key for _, _, key in sent]
    assert len(names) == 9 and len(set(names)) == 3 and names[0] == names[2] and names[6:] == ["mine"] * 3
    with pytest.raises(ValueError, match="1 to 64"): client.track_action(7, "play", 42, key="a b")


@both
def test_an_outage_costs_a_tenth_more_and_the_budget(line, keys, way):
    line.dead, errors = True, []
    def storm(c):
        for _ in range(40):
            try: c.tracks.get(42)
            except rap.Unreachable as e: errors.append(e)
        line.dead = False
        return c.tracks.get(42)
    async def awaited(c):
        for _ in range(40):
            try: await c.tracks.get(42)
            except rap.Unreachable as e: errors.append(e)
        line.dead = False
        return await c.tracks.get(42)
    how = {"policy": rap.Policy(first_s=.005), "budget": rap.Budget(share=.1, most=5)}
    assert way(far(line), keys["all"], storm if way is blocking else awaited, **how).id == 42
    assert 46 <= line.asked <= 1 + 40 + 5 + 4 and len(errors) == 40 and errors[-1].tries == 1
    assert {(e.__cause__, e.__context__) for e in errors} == {(None, None)}


def test_a_refused_connection_was_never_used():
    with pytest.raises(rap.Unreachable) as caught:
        blocking("http://127.0.0.1:9", "", lambda c: c.whoami(), policy=rap.Policy(tries=2, first_s=.01))
    assert (caught.value.sent, caught.value.request_id, caught.value.tries) == (False, "", 2)


# ---- without a line: a flow is played by hand

def play(call, *answers, policy=None, budget=None):
    "What a call asks for while it is given these answers, and how it ends."
    now, steps = [0.0], []
    flow = Engine(policy or rap.Policy(deadline_s=10), budget or rap.Budget(), clock=lambda: now[0], rng=random.Random(3)).ask(call)
    step = next(flow)
    try:
        for given in answers:
            steps.append(step)
            step = flow.throw(given) if isinstance(given, Exception) else flow.send(given)
            while not isinstance(step, calls.Send):
                if isinstance(step, calls.Pause):
                    steps.append(step)
                    now[0] += step.seconds
                step = flow.send(b"")                                       # there is nothing to be read, and the pause is over
    except StopIteration as end: return steps, end.value
    except rap.RapError as e: return steps, e
    return [*steps, step], None


ONE, UNSAFE = calls.get("/x", rap.models.Track), calls.Call("POST", "/x", object)
KEYED = calls.post("/x", object, {})


@pytest.mark.parametrize("call, given, again", [
    (ONE, calls.Lost("cut"), True), (UNSAFE, calls.Lost("cut"), False), (UNSAFE, calls.Lost("refused", sent=False), True),
    (KEYED, calls.Lost("late", late=True), True), (ONE, calls.Reply(503, {}), True), (UNSAFE, calls.Reply(503, {}), False),
    (KEYED, calls.Reply(502, {}), True), (UNSAFE, calls.Reply(429, {"retry-after": "1"}), True), (ONE, calls.Reply(500, {}), False),
    (KEYED, calls.Reply(409, {"retry-after": "1"}), True), (KEYED, calls.Reply(409, {}), False),
    (KEYED, calls.Reply(422, {}), False),
    (UNSAFE, calls.Reply(409, {"retry-after": "1"}), False), (ONE, calls.Reply(429, {"retry-after": "60"}), False)])
def test_only_what_may_be_done_twice_is_done_twice(call, given, again):
    steps, end = play(call, given)
    assert sum(isinstance(s, calls.Send) for s in steps) == 1 + again and (end is None) == again
    if again and isinstance(given, calls.Reply) and given.headers: assert 1 <= steps[1].seconds <= 1.1
    if isinstance(end, rap.RateLimited): assert end.retry_after == 60                       # beyond the deadline: told at once


def test_pauses_are_random_grow_and_never_pass_the_deadline():
    cut = calls.Lost("cut")
    for deadline_s, tries in ((1000, 12), (3, 12)):
        policy = rap.Policy(tries=12, deadline_s=deadline_s, first_s=.1, most_s=2)
        steps, end = play(ONE, *[cut] * 12, policy=policy, budget=rap.Budget(1, 20))
        pauses = [s.seconds for s in steps if isinstance(s, calls.Pause)]
        assert all(p <= min(2, .1 * 2**i) for i, p in enumerate(pauses)) and sum(pauses) < deadline_s
        assert isinstance(end, rap.Unreachable) and (end.tries == tries) == (deadline_s == 1000)
        assert len(set(pauses)) == len(pauses)
    sends = [s for s in steps if isinstance(s, calls.Send)]
    assert sends[-1].attempt_s < sends[0].attempt_s == 3 and int(sends[0].headers["X-Timeout-Ms"]) == 2850
    assert len({s.headers["X-Request-ID"] for s in sends}) == len(sends)


def test_after_and_next():
    assert [read_after(x) for x in (None, "3", "x", "-1", "nan", "1e999")] == [None, 3, None, 0, None, None]
    assert read_after("Thu, 01 Jan 1970 00:01:40 GMT", now=lambda: 40.0) == 60
    two = '</api/tracks/similar>; rel="successor-version", </api/export?k=1&cursor=a%2Bb>; rel="next"'
    assert read_cursor({"link": two}) == "a+b" and read_cursor({}) == read_cursor({"link": two.replace("next", "prev")}) == ""
    assert not may_repeat(rap.JobFailed("x"), True) and not may_repeat(rap.BadAnswer("x"), True)


# ---- busy

def test_who_is_told_to_come_back_comes_back(app, url, keys, tmp_path):
    blocking(url, keys["all"], lambda c: c.whoami())
    state = app.state.guard.tenants.views["acme"].state
    state.exporting = 2**60
    with pytest.raises(rap.RateLimited) as caught:
        blocking(url, keys["all"], lambda c: c.export("tracks", tmp_path / "a.csv", timeout_s=1))
    assert caught.value.retry_after == 2 and not list(tmp_path.iterdir())
    state.exporting = time.monotonic() + 1                                                  # under way for another second
    assert awaiting(url, keys["all"], lambda c: c.export("tracks", tmp_path / "a.csv")).paths == [tmp_path / "a.csv"]


# ---- files

@both
def test_exports_are_one_table_or_one_file_a_part(url, keys, way, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "PART", 16)
    done = way(url, keys["all"], lambda c: c.export("tracks", tmp_path / "t.csv", rows=130))
    rows = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    assert [int(r["id"]) for r in rows] == list(range(N)) and done.parts == 3
    assert done.size == (tmp_path / "t.csv").stat().st_size
    done = way(url, keys["all"], lambda c: c.export("tracks", tmp_path / "t.parquet", form="parquet", rows=130))
    assert [p.name for p in done.paths] == ["t.parquet", "t-2.parquet", "t-3.parquet"]
    assert [i for p in done.paths for i in pq.read_table(p)["id"].to_pylist()] == list(range(N))
    assert len(list(tmp_path.iterdir())) == 4


@both
def test_an_export_that_breaks_off_goes_on_where_the_file_was_good(line, keys, way, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "PART", 16)
    line.bytes_per_s, sizes = 150_000, []
    def see(size):
        if not sizes: line.reset()
        sizes.append(size)
    done = way(far(line), keys["all"], lambda c: c.export("tracks", tmp_path / "t.csv", rows=250, on_progress=see))
    rows = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    assert [int(r["id"]) for r in rows] == list(range(N)) and done.parts == 2 and sizes[-1] == done.size
    assert line.asked >= 2


# ---- uploads and jobs

def sound(n): return b"RIFF" + random.Random(n).randbytes(300_000)


@both
def test_an_upload_tells_how_far_it_is_and_is_one_job(url, keys, way, tmp_path):
    file, seen = tmp_path / "song.wav", []
    file.write_bytes(sound(way is blocking))
    see = lambda state, share: seen.append((state, share))
    job = way(url, keys["all"], lambda c: c.analyze(file, on_progress=see))
    shares = [share for state, share in seen if state == "upload"]
    assert job.new and shares == sorted(shares) and shares[-1] == 1 and len(shares) > 3
    again = way(url, keys["all"], lambda c: c.analyze(file.read_bytes(), name="other.wav"))
    assert (again.id, again.new) == (job.id, False)
    assert way(url, keys["all"], lambda c: c.job(str(job.id)).status()).kind == "analyze"
    with pytest.raises(ValueError, match="nothing in it"): way(url, keys["all"], lambda c: c.analyze(b""))
    with pytest.raises(FileNotFoundError): way(url, keys["all"], lambda c: c.analyze(tmp_path / "none.wav"))
    with pytest.raises(rap.NotFound): way(url, keys["all"], lambda c: c.analyze(10**9))


def hands(jobs, seen, fails=False):
    "A worker that takes a step whenever the client has seen the last one."
    held = []
    def see(state, share):
        seen.append((state, share))
        if state == "waiting": held.append(jobs.claim(jobs.listing(["waiting"], 1)[0].id, "hands", 60))
        elif state == "running" and share == 0: jobs.renew(held[0], .5, 60)
        elif state == "running" and fails: jobs.fail(held[0], "no song at all", None)
        elif state == "running": jobs.finish(held[0], {"bpm": 90})
    return see


def analyze(way, url, key, what, see):
    "A job to its end."
    async def awaited(c): return await (await c.analyze(what, on_progress=see)).wait()
    return way(url, key, awaited if way is awaiting else lambda c: c.analyze(what, on_progress=see).wait())


@both
def test_a_job_is_followed_through_streams_that_end(url, keys, store, way, monkeypatch):
    for name in ("STREAM_S", "LOOK_S"): monkeypatch.setattr(serve, name, .05)    # a stream looks once, then the next one goes on
    seen = []
    done = analyze(way, url, keys["all"], 20 + (way is blocking), hands(Jobs(store), seen))
    assert done.state == "done" and done.result == {"bpm": 90} and done.attempt == 1
    assert seen == [("waiting", 0), ("running", 0), ("running", .5), ("done", 1)]


@both
def test_a_job_without_a_result_is_an_error_and_patience_ends_before_the_job(url, keys, store, way, monkeypatch):
    monkeypatch.setattr(serve, "LOOK_S", .05)
    with pytest.raises(rap.JobFailed, match="dead: no song at all") as caught:
        analyze(way, url, keys["all"], 30 + (way is blocking), hands(Jobs(store), [], fails=True))
    assert caught.value.job.state == "dead" and caught.value.job.attempt == 1
    job = way(url, keys["all"], lambda c: c.analyze(40 + (way is blocking)))
    with pytest.raises(rap.TimedOut, match="had not ended after 0.2 s"):
        way(url, keys["all"], lambda c: c.job(str(job.id)).wait(timeout_s=.2))
    Jobs(store).finish(Jobs(store).claim(job.id, "late", 60), {})
    assert way(url, keys["all"], lambda c: c.job(str(job.id)).wait()).state == "done"
    assert [j.state for j in way(url, keys["all"], lambda c: c.job(str(job.id)).events())] == ["done"]


def test_events_may_be_cut_anywhere():
    text = ("\ufeff: hello\r\nevent: job\r\ndata: {\"a\":\rdata: 1}\r\n\r\n"
            "retry: 1500\nid: 7\ndata:x\ndata\n\nevent: lost\n\ndata: ü\n\n").encode()
    whole = [("job", '{"a":\n1}'), ("message", "x\n"), ("message", "ü")]
    for size in (1, 2, 3, 5, 7, len(text)):
        reader, found = EventReader(), []
        for at in range(0, len(text), size): found += reader.feed(text[at:at + size])
        assert [tuple(e) for e in found] == whole and reader.retry_s == 1.5, size


# ---- what it never shows

@both
def test_the_key_is_in_no_text(line, url, keys, way, caplog):
    key, shown = keys["all"], []
    def outside(e):
        "An error with its causes, and the names in those frames that are ours or httpx's."
        frames = traceback.walk_tb(e.__traceback__)
        inside = [repr(f.f_locals) for f, _ in frames if not f.f_globals["__name__"].startswith(("test_", "tests"))]
        return [repr(e), str(e), repr(vars(e)), *inside]
    with caplog.at_level(logging.DEBUG):
        way(url, key, lambda c: c.track_action(7, "play", 1))
        with pytest.raises(rap.NotFound) as missing: way(url, key, lambda c: c.tracks.get(10**9))
        line.dead = True
        with pytest.raises(rap.Unreachable) as cut:
            way(far(line), key, lambda c: c.tracks.get(1), policy=rap.Policy(tries=2, first_s=.01))
    shown += [caplog.text, *outside(missing.value), *outside(cut.value)]
    for kind in (rap.Client, rap.AsyncClient):
        c = kind(url, key)
        shown += [repr(c), repr(vars(c)), repr(c._http), repr(vars(c._http)), repr(vars(c._http.auth)), repr(JobHandle(c, uuid4()))]
    assert "Unreachable; again in" in caplog.text and not [text for text in shown if key in text]


# ---- the package

def test_it_installs_and_works_without_us(tmp_path, url, keys):
    run, site = partial(subprocess.run, capture_output=True, text=True, timeout=120, cwd=tmp_path), str(tmp_path / "site")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    done = run([*pip, "--target", site, str(copy_source(tmp_path))])
    assert done.returncode == 0, done.stderr
    program = f"""import sys
sys.modules["rap_analyzer"] = None                  # as if it were not there
sys.path.insert(0, {site!r})
import rap_analyzer_client as rap
with rap.Client({url!r}, sys.stdin.read()) as client: print(client.tracks.get(42).id, rap.__file__)"""
    said = run([sys.executable, "-c", program], input=keys["all"])
    assert said.stdout.startswith(f"42 {site}"), said.stderr
    assert (tmp_path / "site" / "rap_analyzer_client" / "py.typed").exists()
    source = "".join(p.read_text(encoding="utf-8") for p in (SDK / "rap_analyzer_client").glob("*.py"))
    assert not re.search(r"^\s*(import|from) rap_analyzer\b", source, re.M)


def copy_source(folder):
    "The package's source where pip may build in it."
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    return shutil.copytree(SDK, folder / "source", ignore=ignored)


def test_what_the_readme_shows_runs(url, keys, capsys):
    "The first example in one go, with this service in place of the reader's; the others are good Python."
    shown = [textwrap.dedent(b) for b in re.findall(r"```python\n(.*?)```", (SDK / "README.md").read_text(encoding="utf-8"), re.S)]
    exec(compile(shown[0].replace('"http://127.0.0.1:8000"', f"{url!r}, {keys['all']!r}"), "README.md", "exec"), {})
    assert "tenant='acme'" in capsys.readouterr().out.replace('"', "'") and len(shown) >= 5
    assert all(compile(b, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT) for b in shown)
