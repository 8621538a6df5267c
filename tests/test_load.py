"What the service and its workers say about themselves, and load that does not flatter them."
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rap_analyzer.processes import find_free_port

ROOT = Path(__file__).resolve().parent.parent


def until(true, wait_s=40.0):
    "Wait until something is so."
    end = time.monotonic() + wait_s
    while not (said := true()):
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.1)
    return said


def figures(text) -> dict:
    "Every sample of /metrics by its name and labels."
    return {(s.name, *sorted(s.labels.items())): s.value for m in text_string_to_metric_families(text) for s in m.samples}


# ---- one service, its workers, one address for their figures

@pytest.fixture(scope="module")
def system(lab, small):
    "The service and its workers as processes of this lab, and what they log."
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
            until(up, 60)
            yield url, logs
        finally:
            for p in crowd: p.terminate()
            for p in crowd: p.wait(30)
            lab.broker.stop()


def finish(url, job):
    "Wait until a job has ended; how it ended."
    return until(lambda: (said := httpx.get(f"{url}/api/jobs/{job}").json())["ended_at"] and said, 60)


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
    assert seen["rap_jobs", ("queue", "interactive"), ("state", "done")] >= 1
    assert seen["rap_requests_in_progress",] == 1 and seen["rap_pool_connections", ("state", "most")] == 8
    assert seen["rap_queue_age_seconds", ("queue", "bulk")] == 0 == seen["rap_queue_length", ("queue", "bulk")]
