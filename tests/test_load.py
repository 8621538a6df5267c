"What the service and its workers say about themselves, and load that does not flatter them."
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import helpers
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.processes import find_free_port
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.load import Listener, Load, highest_rate, offer, ramp, spike, steady
from rap_analyzer.web import serving

ROOT = Path(__file__).resolve().parent.parent


until = partial(helpers.until, wait_s=40)


def figures(text) -> dict:
    "Every sample of /metrics by its name and labels."
    return {(s.name, *sorted(s.labels.items())): s.value for m in text_string_to_metric_families(text) for s in m.samples}


# ---- one service, its workers, one address for their figures

@pytest.fixture(scope="module")
def own(tmp_path_factory):
    "A lab of its own with a few tracks: workers do the jobs of every tenant of a lab, and here they are counted."
    with Lab(tmp_path_factory.mktemp("counted")) as lab:
        migrate(lab)
        build("hnsw_halfvec", store := fill(Store(lab), 300))
        yield lab
        store.forget()


@pytest.fixture(scope="module")
def system(own):
    "The service and its workers as processes of that lab, and what they log."
    lab = own
    port, env = find_free_port(), {**os.environ, "RAP_LAB_HOME": str(lab.home), "PYTHONPATH": str(ROOT)}
    logs = {name: lab.home / f"{name}.log" for name in ("serve", "worker")}
    command = lambda *words: [sys.executable, "-m", "rap_analyzer.cli", *words]
    with logs["serve"].open("w") as a, logs["worker"].open("w") as b:
        crowd = [subprocess.Popen(command("serve", "--port", str(port)), env=env, stdout=a, stderr=a),
                 subprocess.Popen(command("worker"), env=env, stdout=b, stderr=b)]
        url = f"http://127.0.0.1:{port}"
        def up():
            assert all(p.poll() is None for p in crowd), [f.read_text() for f in logs.values()]
            try: return httpx.get(f"{url}/health/ready").status_code == 200
            except httpx.HTTPError: return False
        try:
            until(up, wait_s=60)
            yield url, logs
        finally:
            for p in crowd: p.terminate()
            for p in crowd: p.wait(30)
            lab.broker.stop()


def finish(url, job):
    "Wait until a job has ended; how it ended."
    return until(lambda: (said := httpx.get(f"{url}/api/jobs/{job}").json())["ended_at"] and said, wait_s=120)


def test_service_and_workers_are_counted_together(system):
    url, _ = system
    job = httpx.post(f"{url}/api/analyze", json={"track_id": 7}).json()["job"]
    assert finish(url, job)["state"] == "done"
    seen = until(lambda: (f := figures(httpx.get(f"{url}/metrics").text)).get(
        ("rap_job_attempts_total", ("kind", "analyze"), ("outcome", "done"))) and f)
    assert seen["rap_requests_total", ("method", "POST"), ("route", "/api/analyze"), ("status", "202")] == 1
    assert seen["rap_job_wait_seconds_count", ("queue", "interactive")] == 1
    assert seen["rap_job_seconds_count", ("kind", "analyze")] == 1
    assert [seen["rap_up", ("server", s)] for s in ("postgres", "valkey", "broker")] == [1, 1, 1]
    assert seen["rap_jobs", ("queue", "interactive"), ("state", "done")] == 1
    assert seen["rap_requests_in_progress",] == 1 and seen["rap_pool_connections", ("state", "most")] == 8
    assert seen["rap_queue_age_seconds", ("queue", "bulk")] == 0 == seen["rap_queue_length", ("queue", "bulk")]


# ---- load

def met(rate, p95_ms, failed=0, late_s=0.0, n=40):
    "A run as if it had happened."
    return Load((p95_ms,) * n, (500,) * failed + (200,) * (n - failed), n / rate, late_s, True, {})


def test_a_stall_is_in_the_figures_of_whoever_meant_to_ask():
    "Arrivals during a stall wait for its end: their mean wait is half of it, whoever was sent when."
    done = []
    async def answer(request):
        done.append(1)
        if len(done) == 20: time.sleep(1)
        return PlainTextResponse("ok")
    with serving(Starlette(routes=[Route("/", answer)])) as url: run = offer(url, ["/?x=1", "/?x=2"], steady(40, 2))
    assert run.statuses == (200,) * 80 and run.locust["requests"] == 80 and run.locust["failures"] == 0
    slow = [t for t in run.ms[19:60] if t > 100]
    assert len(slow) >= 30 and max(run.ms) > 950 and slow == sorted(slow, reverse=True)
    assert run.locust["p95_ms"] == pytest.approx(run.p95_ms, rel=.1)


def test_nobody_answers_and_that_is_an_error_each():
    run = offer("http://127.0.0.1:9", ["/"], steady(50, .2), timeout_s=1)
    assert run.statuses == (0,) * 10 and run.errors == 1 and run.locust["failures"] == 10


def test_a_late_generator_is_discarded():
    with pytest.raises(LabError, match="discarded: ask for less than 40"): met(40, 5, late_s=.06).check()
    assert met(40, 5, late_s=.04).check().late_s == .04
    late = lambda url, asks, plan, **how: met(40, 5, late_s=9)
    with pytest.raises(LabError, match="discarded"): highest_rate("", ["/"], 100, ask=late)


@pytest.mark.parametrize("edge, errors", [(100, 0.0), (37, 0.0), (100, .2)])
def test_the_highest_rate_is_where_the_bound_breaks(edge, errors):
    "The rate that is found holds, one a tenth higher does not; the first run is late and does not count."
    asked = []
    def ask(url, asks, plan, **how):
        asked.append(rate := 1 / (plan[1] - plan[0]))
        return met(rate, 10 if rate <= edge or errors else 900, 8 * (rate > edge), late_s=9 * (len(asked) == 1))
    found = highest_rate("", ["/"], 100, errors and errors / 2, ask=ask)
    assert .89 * edge <= found.rate <= edge and found.discarded == 1 and not found.tried[-1].rate > 450
    with pytest.raises(LabError, match="break the bound"): highest_rate("", ["/"], 100, ask=lambda u, a, p, **how: met(9, 900))


def test_plans_have_the_arrivals_they_promise():
    assert len(steady(50, 3)) == 150 and len(ramp(10, 50, 2)) == 60 and len(ramp(50, 10, 2)) == 60
    for plan in (ramp(10, 50, 2), ramp(50, 10, 2), spike(5, 50, 4, 1, 2)): assert plan == sorted(plan) and 0 <= plan[0] < plan[-1]
    assert [sum(a <= t < a + 1 for t in spike(5, 50, 4, 1, 2)) for a in range(4)] == [5, 50, 50, 5]
    for wrong in (lambda: steady(0, 1), lambda: ramp(1, -1, 1), lambda: spike(1, 2, 3, 2, 1)):
        with pytest.raises(ValueError): wrong()


def test_an_impatient_listener_leaves(system):
    url, _ = system
    seen = Listener(url, 42, patience_s=20).listen(3)
    assert seen.left is None and len(seen.liked) == 3
    assert Listener(url, 42, patience_s=20).listen(3) == seen  # a seed, the same taste
    assert Listener(url, 999_999).listen(3).left == "it said 404"
    assert Listener("http://127.0.0.1:9", 42).listen(3).left == "it did not answer"
