"Accepted work: it is done once whoever dies, it is one tenant's, and nobody can put in what cannot be taken out."
import json
import random
import threading
import time
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit
from uuid import uuid4

import helpers
import httpx
import psutil
import pytest
import redis

from rap_analyzer.core import LabError
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve import analysis  # noqa: F401 (its kind)
from rap_analyzer.serve.commands import crew
from rap_analyzer.serve.jobs import Fenced, Jobs, UnknownJob
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.serve.queue import Queue, Sweeper, log, make_celery
from rap_analyzer.serve.supervisor import Supervisor
from rap_analyzer.serve.worker import KINDS, Keeper, Outcome, Refused, job_kind, run_job

@pytest.fixture(scope="module")
def home(lab):
    "The lab, as the worker processes will find it."
    migrate(lab)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("RAP_LAB_HOME", str(lab.home))
        yield lab


@pytest.fixture
def jobs(home):
    "The jobs of a new tenant."
    store = Store(home, f"t{uuid4().hex[:12]}").register()
    yield Jobs(store)
    store.forget()


@pytest.fixture
def kind():
    "A kind that a test registers goes with it."
    before = dict(KINDS)
    yield job_kind
    KINDS.clear(), KINDS.update(before)


@pytest.fixture(scope="module")
def running(home):
    "Workers under a supervisor, and a sweeper, for the tests that kill them."
    store, ended = Store(home, "demo").register(), threading.Event()
    queue = Queue(home)
    sweeper, supervisor = Sweeper(store, queue, said_s=2), Supervisor(crew())
    threads = [threading.Thread(target=sweeper.run, args=(ended,)), threading.Thread(target=supervisor.run, args=(ended,))]
    for t in threads: t.start()
    yield queue
    ended.set()
    for t in threads: t.join(40)
    store.forget()
    home.broker.stop()


until = partial(helpers.until, wait_s=90)


def effects(jobs) -> list[int]:
    "How often each job of the tenant had its effect."
    count = "SELECT (SELECT count(*) FROM job_effects e WHERE e.job_id = j.id)::int FROM jobs j"
    return [n for n, in jobs.store.query(Query(count))]


def in_state(jobs, state: str) -> int:
    "How many jobs are in a state."
    return sum(c[state] for c in jobs.counts().values())


# ---- whoever dies

def hands() -> list[psutil.Process]:
    "The processes that hold jobs: the forked ones of Celery's pool."
    found = []
    for p in psutil.Process().children():
        with suppress(psutil.Error):  # it may end while we look
            if any("serve.queue" in word for word in p.cmdline()):
                found += [g for g in p.children() if g.is_running() and g.status() != psutil.STATUS_ZOMBIE]
    return found


@pytest.mark.alone
def test_killed_at_random_moments_each_effect_happens_once(running, jobs):
    rng = random.Random(12)
    ids = [jobs.enqueue("nap", {"ms": 40}, f"nap:{i}", queue=("interactive", "bulk")[i % 2], attempts=20)[0].id for i in range(120)]
    until(hands)
    for _ in range(6):
        begun = in_state(jobs, "done")
        until(lambda n=begun: in_state(jobs, "done") > n or in_state(jobs, "done") == len(ids))
        time.sleep(rng.uniform(0, .3))
        if victims := hands():
            victim = rng.choice(victims)
            with suppress(psutil.Error): rng.choice([victim, psutil.Process(victim.ppid())]).kill()
    until(lambda: in_state(jobs, "done") == len(ids))
    assert effects(jobs) == [1] * len(ids)


@pytest.mark.alone
def test_the_queue_loses_everything_and_no_job_is_lost(running, home, jobs):
    for i in range(40): jobs.enqueue("nap", {"ms": 20}, f"nap:{i}", told=True)  # nobody was told
    home.broker.processes()[0].kill()
    until(lambda: not home.broker.processes())
    home.start_broker()
    until(lambda: in_state(jobs, "done") == 40)
    assert effects(jobs) == [1] * 40


def test_an_acknowledgement_that_fails_leaves_the_worker_able_to_take_more(home):
    "Valkey goes between a message and its acknowledgement: at its limit of one message, a worker would never ask again."
    address = urlsplit(home.start_broker())
    line, name = Proxy(address.hostname, address.port).start(), f"deaf-{uuid4().hex}"
    app = make_celery(f"redis://:{address.password}@127.0.0.1:{line.port}/0")
    with app.connection_for_read() as con:
        for n in (1, 2): con.SimpleQueue(name).put(n)
        got = []
        consumer = app.amqp.Consumer(con, [con.SimpleQueue(name).queue], callbacks=[lambda body, message: got.append(message)])
        consumer.qos(prefetch_count=1)
        consumer.consume()
        con.drain_events(timeout=5)
        line.dead = True
        line.reset()
        got[0].ack_log_error(log, con.connection_errors)  # as Celery does it: logged, and forgotten
        line.dead = False
        with suppress(*con.connection_errors): con.drain_events(timeout=5)  # it may notice the cut; then it is asked again
        with suppress(TimeoutError): len(got) == 2 or con.drain_events(timeout=5)
        assert [m.payload for m in got] == [1, 2]
    line.close()


@pytest.mark.alone
def test_workers_live_through_a_restart_of_the_queue_and_take_jobs_again(running, home, jobs):
    for n in range(3):
        for i in range(60): jobs.enqueue("nap", {"ms": 10}, f"nap:{n}:{i}", queue=("interactive", "bulk")[i % 2])
        until(lambda: in_state(jobs, "running"))
        before = until(lambda: len(crew := {h.ppid() for h in hands()}) == 2 and crew)
        for p in home.broker.processes(): p.kill()
        until(lambda: not home.broker.processes())
        home.start_broker()
        began = jobs.store.query(Query("SELECT now()"))[0][0]
        ids = [jobs.enqueue("nap", {"ms": 200}, f"late:{n}:{i}", queue="interactive")[0].id for i in range(20)]
        until(lambda n=n: in_state(jobs, "done") == 80 * (n + 1))
        by = {j.worker for j in jobs.listing(limit=1_000) if j.id in ids and j.started_at > began}
        assert len(by) == 2 and {h.ppid() for h in hands()} == before  # the same two workers, and both of them worked
    assert effects(jobs) == [1] * 240


@pytest.mark.alone
def test_a_full_queue_keeps_nobody_from_accepting_and_stops_no_worker(running, home, jobs):
    ids = [jobs.enqueue("nap", {"ms": 300}, f"nap:{i}", queue=("interactive", "bulk")[i % 2])[0].id for i in range(30)]
    before = until(lambda: len(crew := {h.ppid() for h in hands()}) == 2 and crew)
    until(lambda: in_state(jobs, "done"))
    with redis.from_url(running.url, socket_timeout=5) as valkey:
        was = valkey.config_get("maxmemory")["maxmemory"]
        try:
            valkey.config_set("maxmemory", 1)
            with pytest.raises(redis.exceptions.OutOfMemoryError): valkey.set("more", "x")
            late = jobs.enqueue("nap", {}, "late")[0]  # the promise is a row of PostgreSQL
            assert not running.publish(jobs.store.tenant, late.id, "interactive")
            time.sleep(4)
        finally: valkey.config_set("maxmemory", was)
    until(lambda: in_state(jobs, "done") == len(ids) + 1)
    assert effects(jobs) == [1] * (len(ids) + 1) and {h.ppid() for h in hands()} == before


@pytest.mark.alone
def test_an_id_that_is_queued_a_thousand_times_is_done_once_and_stands_in_nobodys_way(running, jobs):
    first, other = jobs.enqueue("nap", {"ms": 50}, "same")[0], jobs.enqueue("nap", {}, "other")[0]
    for _ in range(1_000): running.publish(jobs.store.tenant, first.id, "interactive")
    running.publish(jobs.store.tenant, other.id, "interactive")
    until(lambda: in_state(jobs, "done") == 2 and not sum(running.lengths().values()))
    assert effects(jobs) == [1, 1] and jobs.get(first.id).attempt == 1


@pytest.mark.alone
def test_a_frozen_worker_is_overtaken_and_changes_nothing(running, jobs):
    job, _ = jobs.enqueue("nap", {"ms": 3_000}, "nap")
    holder = until(lambda: jobs.get(job.id).worker)
    frozen = psutil.Process(int(holder.rpartition(":")[2]))
    frozen.suspend()
    try: done = until(lambda: (j := jobs.get(job.id)).state == "done" and j, wait_s=60)
    finally:
        with suppress(psutil.NoSuchProcess): frozen.resume()
    assert done.worker != holder and done.attempt == 2
    until(lambda: not frozen.is_running() or frozen.status() == psutil.STATUS_SLEEPING)
    time.sleep(1)
    assert effects(jobs) == [1] and jobs.get(job.id).attempt == 2


def test_only_one_of_many_claims_wins(jobs):
    job, _ = jobs.enqueue("nap", {}, "nap")
    got, gate = [], threading.Barrier(8)
    def claim(n):
        gate.wait()
        got.append(jobs.claim(job.id, f"w{n}"))
    crowd = [threading.Thread(target=claim, args=(n,)) for n in range(8)]
    for t in crowd: t.start()
    for t in crowd: t.join()
    assert sum(j is not None for j in got) == 1


def test_an_effect_that_fails_takes_the_state_with_it(jobs, kind):
    def broken(session): session.con.execute("SELECT 1/0")
    kind("test-effect")(lambda a: Outcome({}, broken))
    job, _ = jobs.enqueue("test-effect", {}, "x", attempts=1)
    assert run_job(jobs, job.id) == "dead"
    assert effects(jobs) == [0] and "division by zero" in jobs.get(job.id).reason


def test_a_lease_that_ran_out_is_taken_back_and_ends_dead(home, jobs, caplog, monkeypatch):
    told, publish = [], Queue.publish
    def tell(self, tenant, job_id, *args, first=False):
        told.append((job_id, first))
        return job_id == job.id or publish(self, tenant, job_id, *args, first=first)       # no worker takes ours meanwhile
    monkeypatch.setattr(Queue, "publish", tell)
    job, _ = jobs.enqueue("nap", {}, "nap", attempts=2, request_id="who-1")
    sweeper = Sweeper(jobs.store, Queue(home), said_s=0)
    for attempt, state in ((1, "waiting"), (2, "dead")):
        claimed = jobs.claim(job.id, "w", lease_s=0)
        assert claimed.attempt == attempt
        until(lambda: sweeper.tick() is not None and jobs.get(job.id).state != "running")
        assert jobs.get(job.id).state == state
        with pytest.raises(Fenced): jobs.finish(claimed, {})
    assert "stopped in attempt 2" in jobs.get(job.id).reason
    lost = [r for r in caplog.records if f"job {job.id}" in r.message and "lost its worker" in r.message]
    assert [r.request_id for r in lost] == ["who-1"] * 2
    assert [first for said, first in told if said == job.id].count(True) == 1  # once at the front, and not when it was dead
    sweeper.close()


def test_a_job_that_lost_its_worker_is_the_next_one(home, jobs):
    queue, aside = Queue(home), "aside"                                        # a list that no worker reads
    for name in "abc": assert queue.publish(jobs.store.tenant, name, aside, first=name == "c")
    with redis.from_url(queue.url, socket_timeout=5) as valkey:
        messages = [json.loads(valkey.rpop(aside)) for _ in range(3)]
    assert [m["headers"]["argsrepr"][-3] for m in messages] == ["c", "a", "b"]


# ---- what is put in

def test_ten_thousand_duplicates_are_one_job(jobs):
    first, new = jobs.enqueue("nap", {}, "same")
    rows = jobs.store.query(Query("""INSERT INTO jobs (tenant_id, kind, queue, key, attempts)
        SELECT current_setting('app.tenant_id'), 'nap', 'bulk', 'same', 1 FROM generate_series(1, 10000)
        ON CONFLICT DO NOTHING RETURNING 1"""))
    assert new and not rows and {jobs.enqueue("nap", {}, "same")[0].id for _ in range(50)} == {first.id}


@pytest.mark.parametrize("change,said", [
    (lambda j: j.enqueue("nap", {}, "k", queue="quick"), "interactive, bulk"), (lambda j: j.get("42"), "a UUID"),
    (lambda j: j.listing(("lost",)), "no state 'lost'")])
def test_what_makes_no_sense_is_refused(jobs, change, said):
    with pytest.raises(ValueError, match=said): change(jobs)


def test_an_unknown_job_is_unknown(jobs):
    for do in (jobs.get, jobs.retry, jobs.drop):
        with pytest.raises(UnknownJob): do(uuid4())


def test_an_older_worker_leaves_a_newer_job_alone(jobs, kind):
    kind("test-kind", version=1)(lambda a: Outcome({}))
    job, _ = jobs.enqueue("test-kind", {}, "x", version=2, attempts=1)
    assert run_job(jobs, job.id) == "waiting" and jobs.get(job.id).attempt == 0
    kind("test-kind", version=2)(lambda a: Outcome({"by": "the new one"}))
    jobs.store.query(Query("UPDATE jobs SET run_after = now() WHERE id = %s RETURNING 1", (job.id,)))
    assert run_job(jobs, job.id) == "done"


def test_an_unknown_kind_waits_for_a_worker_that_knows_it_and_costs_no_attempt(jobs, kind):
    strange, usual = (jobs.enqueue(k, {}, k, attempts=1, told=True)[0] for k in ("test-of-tomorrow", "nap"))
    assert [run_job(jobs, strange.id), run_job(jobs, usual.id)] == ["waiting", "done"]
    now = jobs.get(strange.id)
    assert (now.state, now.attempt) == ("waiting", 0) and "knows test-of-tomorrow version 1" in now.reason
    assert run_job(jobs, strange.id) == "nothing"  # not before its pause is over


def test_a_worker_whose_clock_goes_backwards_keeps_its_job_and_finishes_it(home, jobs, kind, monkeypatch):
    "Leases are counted by the database's clock, pauses by one that only goes forwards."
    sweeper, real = Sweeper(jobs.store, Queue(home), said_s=0), time.time
    @kind("test-clock")
    def work(attempt):
        monkeypatch.setattr(time, "time", lambda: real() - 7_200)
        for _ in range(12): time.sleep(.1), sweeper.tick()  # four leases long
        return Outcome({"lost": attempt.lost.is_set()})
    job, _ = jobs.enqueue("test-clock", {}, "x", told=True)
    assert run_job(jobs, job.id, Keeper(lease_s=.3)) == "done"
    done = jobs.get(job.id)
    assert done.result == {"lost": False} and done.attempt == 1 and done.started_at <= done.ended_at and effects(jobs) == [1]
    sweeper.close()


@pytest.mark.parametrize("wrong", [{"x": object()}, {"x": float("nan")}, {"x": "\0"}])
def test_a_result_that_cannot_be_stored_ends_with_a_reason(jobs, kind, wrong):
    kind("test-wrong")(lambda a: Outcome(wrong))
    job, _ = jobs.enqueue("test-wrong", {}, "x", attempts=1, told=True)
    assert run_job(jobs, job.id) == "dead" and jobs.get(job.id).reason and effects(jobs) == [0]


def test_a_result_that_does_not_fit_ends_with_a_reason(jobs, kind):
    kind("test-big")(lambda a: Outcome({"x": "y" * 2_000_000}))
    job, _ = jobs.enqueue("test-big", {}, "x", attempts=1)
    assert run_job(jobs, job.id) == "dead" and "jobs_result_check" in jobs.get(job.id).reason


def test_what_cannot_succeed_is_tried_once(jobs, kind):
    @kind("test-refused")
    def look(attempt): raise Refused("the file is no song")
    job, _ = jobs.enqueue("test-refused", {}, "x")
    assert run_job(jobs, job.id) == "dead" and jobs.get(job.id).attempt == 1


def test_a_worker_that_is_late_with_its_lease_is_told(jobs, kind):
    told = threading.Event()
    @kind("test-late")
    def work(attempt):
        jobs.store.query(Query("UPDATE jobs SET attempt = 9 WHERE id = %s RETURNING 1", (attempt.job.id,)))
        assert attempt.lost.wait(5)
        told.set()
        return Outcome({})
    job, _ = jobs.enqueue("test-late", {}, "x")
    assert run_job(jobs, job.id, Keeper(lease_s=.3)) == "nothing" and told.is_set() and effects(jobs) == [0]


@pytest.mark.parametrize("table", ["jobs", "uploads", "analyses", "job_effects"])
def test_another_tenant_sees_and_changes_nothing(home, jobs, table):
    job, _ = analysis.accept_upload(jobs.store, b"not a song", "x.wav")
    jobs.store.query(Query("""INSERT INTO analyses (tenant_id, sha256, analyzer, version, confidence)
        VALUES (current_setting('app.tenant_id'), repeat('a', 64), 'tempo', '1', 1) RETURNING 1"""))
    jobs.finish(jobs.claim(job.id, "w"), {})
    other = Store(home, f"t{uuid4().hex[:12]}").register()
    ours = jobs.store.query(Query(f"SELECT count(*) FROM {table}"))[0][0]
    assert ours == 1 and other.query(Query(f"SELECT count(*) FROM {table}"))[0][0] == 0
    with pytest.raises(UnknownJob): Jobs(other).get(job.id)
    other.forget()


# ---- over HTTP

@pytest.fixture
def api(jobs):
    "The service over a new tenant."
    from rap_analyzer.app import create_app
    from rap_analyzer.web import serving
    with serving(create_app(jobs.store, cache_s=0)) as url, httpx.Client(base_url=url, timeout=20) as http: yield http


def test_accepted_is_a_promise(api, jobs):
    headers = {"content-type": "application/octet-stream", "x-request-id": "night-1"}
    said = api.post("/api/analyze?name=letter.mp3", content=b"This is a letter. " * 99, headers=headers)
    assert said.status_code == 202 and said.json()["new"] and said.headers["location"] == f"/api/jobs/{said.json()['job']}"
    assert jobs.get(said.json()["job"]).request_id == "night-1"
    assert run_job(jobs, said.json()["job"]) == "dead"
    told = api.get(said.headers["location"]).json()
    assert told["state"] == "dead" and told["reason"] and told["result"] is None
    assert 'event: job' in api.get(said.headers["location"] + "/events").text


@pytest.mark.parametrize("stored", ["[1, 2]", '"text"', "7", "null"])
def test_a_stored_result_of_another_form_is_told_as_such(api, jobs, stored):
    job, _ = jobs.enqueue("nap", {}, "x", told=True)
    assert run_job(jobs, job.id) == "done"
    jobs.store.query(Query("UPDATE jobs SET result = %s::jsonb WHERE id = %s RETURNING 1", (stored, job.id)))
    said = api.get(f"/api/jobs/{job.id}")
    told = said.json()
    assert said.status_code == 200 and told["state"] == "done" and told["result"] is None
    assert (stored == "null") or "form" in told["reason"]


@pytest.mark.parametrize("body,kind,status", [
    (b"", "audio/wav", 422), (b"{}", "application/json", 422), (b"[", "application/json", 422),
    (b'{"track_id": "x"}', "application/json", 422), (b'{"track_id": 7, "queue": "fast"}', "application/json", 422),
    (b'{"track_id": 7}', "application/json", 404), (b"--x\r\n\r\nRIFF", "multipart/form-data; boundary=x", 422)])
def test_bad_questions_have_a_status_of_their_own(api, body, kind, status):
    said = api.post("/api/analyze", content=body, headers={"content-type": kind})
    assert said.status_code == status and said.json()["error"]


def test_an_upload_beyond_the_limit_is_cut_off(api, jobs, monkeypatch):
    from rap_analyzer.serve import routes
    monkeypatch.setattr(routes, "MAX_UPLOAD", 1_000)
    said = api.post("/api/analyze", content=(b"x" * 400 for _ in range(100)))
    assert said.status_code == 413 and in_state(jobs, "waiting") == 0


def test_without_the_queue_work_is_accepted_and_without_the_database_it_is_not(api, jobs, monkeypatch):
    def away(lab): raise LabError("the queue's Valkey does not answer")
    monkeypatch.setattr("rap_analyzer.serve.routes.Queue", away)
    assert api.post("/api/analyze", content=b"song").status_code == 202 and in_state(jobs, "waiting") == 1
    async def gone(query): raise LabError("PostgreSQL does not answer")
    monkeypatch.setattr(Store, "aquery", lambda self, q: gone(q))
    assert api.post("/api/analyze", content=b"another").status_code == 503
