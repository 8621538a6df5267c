"Analyzers with queues of their own: real workers, real kills. A track is complete with its last part, and nothing is done twice."
import math
import random
import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import uuid4

import helpers
import psutil
import pytest
import redis

from rap_analyzer.core import LabError, settings
from rap_analyzer.giants.fleet import Terms, lost_s, paid_s, plan, spot
from rap_analyzer.music import catalog
from rap_analyzer.music.analyzers import FIVE
from rap_analyzer.music.plugins import discover
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve.analysis import accept_track, accept_upload
from rap_analyzer.serve.commands import crew, crew_of, drop_jobs, retry_jobs
from rap_analyzer.serve.jobs import OWN, Jobs, name_queues
from rap_analyzer.serve.parts import PART, list_plugin_needs, own_analyzers, pause_s
from rap_analyzer.serve.queue import Queue, Sweeper
from rap_analyzer.serve.supervisor import Supervisor
from rap_analyzer.serve.worker import KINDS, run_job

until = partial(helpers.until, wait_s=90)


@pytest.fixture
def own(monkeypatch):
    "Sets the analyzers that have a queue of their own."
    def say(names: str) -> None:
        monkeypatch.setenv("RAP_WORKER_OWN_QUEUES", names)
        settings.cache_clear()
    yield say
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def jobs(lab, monkeypatch):
    "The jobs of a new tenant with three tracks; worker processes find the same lab."
    migrate(lab)
    monkeypatch.setenv("RAP_LAB_HOME", str(lab.home))
    store = Store(lab, f"t{uuid4().hex[:12]}").register()
    store.upsert(list(catalog.tracks(0, 3)))
    yield Jobs(store)
    store.forget()


def found(jobs, job) -> dict:
    "The analyses of a job's track, by analyzer."
    return dict(jobs.store.query(Query("SELECT analyzer, value FROM analyses WHERE sha256 = %s", (job.payload["sha256"],))))


def strike(jobs, job) -> bool:
    "Kill the process that holds a job, if it really does: it is stopped first, so that it cannot end the job meanwhile."
    hand = psutil.Process(int(job.worker.rpartition(":")[2]))
    hand.suspend()
    holds = jobs.get(job.id).state == "running"
    hand.kill() if holds else hand.resume()
    return holds


@pytest.mark.alone
def test_parts_of_killed_workers_are_done_again_and_nothing_twice(lab, jobs, own):
    own("genre embedding")
    ended = threading.Event()
    supervisor, sweeper = Supervisor(crew(1)), Sweeper(jobs.store, Queue(lab), said_s=2)
    assert {c.name for c in supervisor.children} == {"worker-any", "worker-genre", "worker-embedding"}
    threads = [threading.Thread(target=do.run, args=(ended,)) for do in (sweeper, supervisor)]
    for t in threads: t.start()
    try:
        whole = [accept_track(jobs.store, i)[0] for i in range(3)]
        parts = lambda *states: [j for j in jobs.listing(states, 100) if j.kind == PART]
        struck = until(lambda: next((j for j in parts("running") if strike(jobs, j)), None))
        warned = until(lambda: next((j for j in parts("running") if j.id != struck.id), None))
        psutil.Process(int(warned.worker.rpartition(":")[2])).parent().terminate()      # as a machine that is told it will go
        until(lambda: all(jobs.get(w.id).state == "done" for w in whole))
    finally:
        ended.set()
        for t in threads: t.join(40)
        lab.broker.stop()
    assert len(parts("done")) == 9 and not parts("dead", "waiting", "running")
    assert {j.queue for j in parts("done")} == {OWN + "genre", OWN + "embedding", "interactive"}
    assert jobs.get(struck.id).attempt == 2 and jobs.get(warned.id).attempt == 1        # a warning lets a part be ended
    effects = "SELECT count(*)::int, count(DISTINCT job_id)::int FROM job_effects"
    assert jobs.store.query(Query(effects)) == [(12, 12)]                # nine parts and three wholes, once each
    for w in whole: assert set(found(jobs, w)) == set(FIVE) and set(jobs.get(w.id).result["analyses"]) == set(FIVE) - {"embedding"}


def test_one_analyzer_alone_and_the_others_together_find_what_one_job_finds(jobs, own):
    own("")
    together, _ = accept_track(jobs.store, 1)
    assert run_job(jobs, str(together.id)) == "done" and len(jobs.listing()) == 1       # the default makes no parts
    other = Jobs(Store(jobs.store.lab, f"t{uuid4().hex[:12]}").register())
    other.store.upsert(list(catalog.tracks(0, 3)))
    own("mood")
    split, _ = accept_track(other.store, 1)
    assert run_job(other, str(split.id)) == "waiting" and other.get(split.id).attempt == 0
    made = [j for j in other.listing() if j.kind == PART]
    assert {(j.queue, tuple(j.payload["five"])) for j in made} == {
        (OWN + "mood", ("mood",)), ("interactive", ("tempo", "genre", "lyrics", "embedding"))}
    for j in made: assert run_job(other, str(j.id)) == "done"
    until(lambda: run_job(other, str(split.id)) == "done", wait_s=5)
    assert found(other, split) == found(jobs, together)
    other.store.forget()


def test_a_part_that_can_never_be_done_ends_the_whole_with_its_reason(jobs, own):
    own("genre")
    job, _ = accept_upload(jobs.store, b"This is a letter, not a song." * 99, "letter.mp3")
    assert run_job(jobs, str(job.id)) == "waiting"
    for j in jobs.listing():
        if j.kind == PART: assert run_job(jobs, str(j.id)) == "dead"
    until(lambda: run_job(jobs, str(job.id)) == "dead", wait_s=5)
    assert ("format" in (reason := jobs.get(job.id).reason) or "sound" in reason) and "retrying" not in reason, reason


def test_a_whole_that_begins_anew_takes_its_dead_part_along(jobs, own, monkeypatch):
    own("lyrics")
    def broken(attempt): raise OSError("the dictionary is gone")
    job, _ = accept_track(jobs.store, 1)
    assert run_job(jobs, str(job.id)) == "waiting"
    assert jobs.get(job.id).reason.startswith("waits for lyrics in analyze-lyrics; tempo")
    lyrics, rest = sorted((j for j in jobs.listing() if j.kind == PART), key=lambda j: j.queue)
    with monkeypatch.context() as m:
        m.setitem(KINDS, PART, replace(KINDS[PART], run=broken))
        jobs.store.query(Query("UPDATE jobs SET attempts = 1 WHERE id = %s RETURNING 1", (lyrics.id,)))
        assert run_job(jobs, str(lyrics.id)) == "dead"
    assert run_job(jobs, str(rest.id)) == "done"
    until(lambda: run_job(jobs, str(job.id)) == "dead", wait_s=5)
    assert jobs.get(job.id).reason.startswith("lyrics: OSError: the dictionary is gone (attempt 1 of 1; retrying this job begins")
    jobs.retry(job.id)
    assert [jobs.get(j.id).state for j in (job, lyrics, rest)] == ["waiting", "waiting", "done"]
    assert run_job(jobs, str(lyrics.id)) == "done"
    until(lambda: run_job(jobs, str(job.id)) == "done", wait_s=5)
    assert set(found(jobs, job)) == set(FIVE) and jobs.get(rest.id).attempt == 1
    jobs.drop(job.id)
    assert not jobs.listing()                                            # asked for again, it begins with nothing


def test_a_part_that_another_version_did_leaves_the_whole_undone(jobs, own, monkeypatch):
    own("lyrics")
    job, _ = accept_track(jobs.store, 1)
    run_job(jobs, str(job.id))
    lyrics, rest = sorted((j for j in jobs.listing() if j.kind == PART), key=lambda j: j.queue)
    with monkeypatch.context() as m:
        m.setattr("rap_analyzer.serve.analysis.ANALYZERS", "five-next")
        assert run_job(jobs, str(lyrics.id)) == "done"
    assert run_job(jobs, str(rest.id)) == "done"
    until(lambda: run_job(jobs, str(job.id)) == "waiting", wait_s=5)
    assert (now := jobs.get(job.id)).attempt == 1 and "lyrics: done, but not as five-" in now.reason, now


def test_retry_and_drop_take_a_jobs_own_parts_and_nothing_else(jobs):
    made = [("analyze", "a:5"), (PART, "a:5:mood"), (PART, "a:5+ab:mood"), (PART, "a:50:mood"), (PART, "b:1"), (PART, "b:1:x"),
            ("recommend", "like:a"), ("recommend", "like:a:b"), (PART, "like:a:c")]  # what follows `like:` is the client's
    job = {key: jobs.enqueue(kind, {}, key, told=True)[0] for kind, key in made}
    for j in job.values(): jobs.fail(jobs.claim(j.id, "ada"), "the disk was full", None)
    waiting = lambda: {j.key for j in jobs.listing(("waiting",))}
    jobs.retry(job["like:a"].id), jobs.retry(job["b:1"].id)
    assert waiting() == {"like:a", "b:1"}
    jobs.retry(job["a:5"].id)
    assert waiting() == {"like:a", "b:1", "a:5", "a:5:mood"}
    for key in waiting(): jobs.fail(jobs.claim(job[key].id, "ada"), "the disk was full", None)
    for key in ("like:a", "b:1", "a:5"): jobs.drop(job[key].id)
    assert {j.key for j in jobs.listing()} == {"a:5+ab:mood", "a:50:mood", "b:1:x", "like:a:b", "like:a:c"}


def test_all_dead_jobs_begin_anew_though_a_whole_takes_an_older_part_along(jobs, monkeypatch, capsys):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: jobs.store)
    keys = ("b:5", "a:5:mood", "a:5")                # this whole was dropped and asked for again: it is the newest
    other, part, whole = (jobs.enqueue(PART if "mood" in key else "analyze", {}, key, told=True)[0] for key in keys)
    die = lambda: [jobs.fail(jobs.claim(j.id, "ada"), "the disk was full", None) for j in (other, part, whole)]
    die()
    retry_jobs(["dead"])
    assert {j.state for j in jobs.listing()} == {"waiting"} and "is waiting: only a dead one" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is waiting: only a dead one"): retry_jobs([str(part.id)])
    die()
    drop_jobs(["dead"])
    assert not jobs.listing() and f"left alone: no job {part.id}" in capsys.readouterr().err


@pytest.fixture
def sweeper(lab, jobs):
    "Sweeps by hand, with its broker."
    sweeper = Sweeper(jobs.store, Queue(lab))
    with redis.from_url(sweeper.queue.url) as sweeper.broker:
        yield sweeper
        for said in said_in_bulk(sweeper): sweeper.broker.lrem("bulk", 1, said)
    sweeper.close()


def said_in_bulk(sweeper) -> list[bytes]:
    "The messages about jobs of this test's tenant."
    return [said for said in sweeper.broker.lrange("bulk", 0, -1) if sweeper.store.tenant.encode() in said]


@pytest.mark.parametrize("queue", [OWN + "lyrics", OWN + "smell"])  # one that is no longer set, one of an analyzer that is gone
def test_jobs_of_a_queue_that_is_gone_find_workers(jobs, own, sweeper, queue):
    own("")
    job, _ = jobs.enqueue("nap", {"ms": 0}, "x")
    jobs.store.query(Query("UPDATE jobs SET queue = %s WHERE id = %s RETURNING 1", (queue, job.id)))
    until(lambda: sweeper.tick() and any(str(job.id).encode() in said for said in said_in_bulk(sweeper)), wait_s=10)
    assert run_job(jobs, str(job.id)) == "done"


def test_queues_that_share_a_list_fill_it_once_and_each_has_its_part(jobs, own, sweeper):
    own("lyrics mood")
    queues = [OWN + "lyrics", OWN + "mood", "bulk"]
    of = {str(jobs.enqueue("nap", {}, f"{q}{i}", queue=q)[0].id): q for q in queues for i in range(40)}
    own("")
    before = sweeper.broker.llen("bulk")
    sweeper.window = 2 * before + 12
    sweeper.tick()
    assert sweeper.broker.llen("bulk") == sweeper.window
    said = [q for i, q in of.items() if any(i.encode() in x for x in said_in_bulk(sweeper))]
    assert said.count(queues[0]) == said.count(queues[1]) == (before + 12) // 3


def test_a_whole_looks_more_rarely_the_longer_it_has_waited(jobs):
    job, _ = jobs.enqueue("nap", {}, "x")
    since = lambda s: replace(job, run_after=job.run_after - timedelta(seconds=s))
    assert [pause_s(left, job.run_after) for left in ([job], [since(60), job], [since(86_400)])] == [1, 12, 300]


def test_a_name_that_is_no_analyzer_and_a_queue_that_is_not_there_are_refused(jobs, own):
    own("genre tmepo")
    for ask in (own_analyzers, crew, lambda: crew_of(["interactive"])):
        with pytest.raises(LabError, match="'tmepo', which is no analyzer: there are tempo, genre"): ask()
    own("genre")
    assert name_queues() == ("interactive", "bulk", OWN + "genre")
    with pytest.raises(LabError, match="no queue 'analyze-mood'"): crew_of(["interactive", "bulk,analyze-mood"])
    three = [c.name for c in crew_of(["bulk", "interactive,bulk", "bulk"])]
    assert three == ["worker-bulk", "worker-interactive-bulk", "worker-bulk-2"]
    with pytest.raises(ValueError, match="analyze-mood"): jobs.enqueue("nap", {}, "x", queue=OWN + "mood")
    assert jobs.counts()[OWN + "genre"]["waiting"] == 0
    own("Genre")
    with pytest.raises(LabError, match="OWN_QUEUES"): own_analyzers()
    needed = [n.rstrip("?") for n in discover().plugins["embedding"].needs]
    assert list_plugin_needs(["embedding", "nowhere"]) == [n for n in needed if n in FIVE] and set(needed) & set(FIVE)


# ---- what it costs

def played(task_s: float, terms: Terms, n: int, seed: int = 5) -> float:
    "Seconds paid for a finished task, by playing many of them out."
    rng, paid = random.Random(seed), 0.0
    for _ in range(n):
        while True:
            due = rng.expovariate(terms.per_hour / 3600)
            if due >= task_s: paid += task_s; break
            in_time = task_s <= due + terms.warning_s
            paid += terms.restart_s + (task_s if in_time else due + terms.warning_s)
            if in_time: break
    return paid / n


@pytest.mark.parametrize(("task_s", "per_hour", "warning_s", "restart_s"), [
    (60, 30, 0, 0), (60, 30, 20, 40), (60, 120, 20, 10), (20, 120, 30, 60), (3600, 1, 120, 90)])
def test_the_formula_says_what_playing_it_says(task_s, per_hour, warning_s, restart_s):
    terms = Terms(1, per_hour, warning_s, restart_s)
    assert paid_s(task_s, terms) == pytest.approx(played(task_s, terms, 40_000), rel=.03)
    assert paid_s(task_s, terms) > task_s or not restart_s and task_s <= warning_s
    assert lost_s(task_s, terms) == 0 or task_s > warning_s


def done_in_s(workers: int, backlog: float, rate: float, per_s: float, terms: Terms) -> float:
    "When a queue is through with its backlog; infinite where it grows."
    spare = workers / paid_s(1 / rate, terms) - per_s
    return backlog / spare if spare > 0 else math.inf


def test_a_plan_keeps_its_deadline_and_one_worker_less_does_not():
    offers = {"on demand": Terms(1), "spot": spot(Terms(1, restart_s=60), .7, 2)}
    rates, load = {"genre": 2.0, "training": 1 / 1800}, {"per_s": .001, "backlog": 50, "deadline_s": 7200}
    for s in plan(rates, offers, **load):
        work = 50, rates[s.queue], .001, offers[s.terms]
        assert done_in_s(s.workers, *work) <= 7200 * 1.000001 and 0 < s.busy <= 1
        assert s.workers == 1 or done_in_s(s.workers - 1, *work) > 7200
        for other in offers.values():                              # nothing on offer that does the same is cheaper
            least = paid_s(1 / rates[s.queue], other) * (.001 + 50 / 7200) * other.price
            assert s.per_hour <= math.ceil(least / other.price - 1e-9) * other.price + 1e-12


@pytest.mark.parametrize(("ask", "says"), [
    (lambda: spot(Terms(1), 1.2, 1), "discount from 0 to 1"), (lambda: spot(Terms(1), float("nan"), 1), "discount from 0 to 1"),
    (lambda: Terms(1, per_hour=-1), "per_hour of 0 or more"), (lambda: Terms(float("inf")), "price of 0 or more"),
    (lambda: paid_s(0, Terms(1)), "more than 0 s"),
    (lambda: plan({"genre": 0}, {"a": Terms(1)}, 1), "above 0 for genre, got 0"),
    (lambda: plan({"genre": 1}, {}, 1), "no terms on offer"),
    (lambda: plan({"genre": 1}, {"a": Terms(1)}, -1), "load of 0 or more"),
    (lambda: plan({"genre": 1}, {"a": Terms(1)}, float("nan")), "load of 0 or more")])
def test_what_makes_no_sense_is_refused_with_the_reason(ask, says):
    with pytest.raises(ValueError, match=says): ask()
