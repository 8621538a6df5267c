"Chaos: a proxy that does what it says, a scratch stack that leaves nothing behind, and kills of every part."
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rap_analyzer.core import settings
from rap_analyzer.lab import Lab
from rap_analyzer.serve import chaos
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.serve.stage import SERVERS, Stage, marked, scratch

ROOT = Path(__file__).resolve().parent.parent


# ---- the line

@pytest.fixture
def line():
    "A server that echoes, behind a proxy."
    server = socket.create_server(("127.0.0.1", 0))
    def echo(con):
        with con, suppress(ConnectionResetError):
            while data := con.recv(65_536): con.sendall(data)
    def take():
        while True:
            try: con, _ = server.accept()
            except OSError: return
            threading.Thread(target=echo, args=(con,), daemon=True).start()
    threading.Thread(target=take, daemon=True).start()
    proxy = Proxy(*server.getsockname()).start()
    yield proxy
    proxy.close()
    server.close()


def send(proxy, data: bytes) -> tuple[bytes, float]:
    "What comes back, and after how many seconds."
    began, got = time.monotonic(), bytearray()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as s:
        threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)), daemon=True).start()
        while part := s.recv(65_536): got += part
    return bytes(got), time.monotonic() - began


def test_every_byte_arrives_in_order_whatever_the_line_is_like(line):
    data = random.Random(77).randbytes(2_000_000)
    assert send(line, data)[0] == data
    line.delay_s = .05
    got, took = send(line, data)
    assert got == data and .1 <= took < 3  # once there and once back: a delay is no bandwidth
    line.delay_s, line.bytes_per_s = 0, 400_000
    got, took = send(line, data[:200_000])
    assert got == data[:200_000] and took >= .45


def test_a_line_is_cut_and_whole_again(line):
    with socket.create_connection(("127.0.0.1", line.port), timeout=10) as s:
        s.sendall(b"a")
        assert s.recv(1) == b"a" and line.reset() == 1
        with pytest.raises(ConnectionResetError): s.recv(1)
    line.dead = True
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", line.port), timeout=10) as s:
        if s.recv(1) == b"": raise ConnectionResetError
    line.dead = False
    assert send(line, b"whole again")[0] == b"whole again"


# ---- the stack

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A lab of a learner whose servers are elsewhere: an experiment must not ask them."
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    for name in SERVERS: monkeypatch.setenv(name, "redis://203.0.113.1:1/0" if "DATA" not in name else "postgresql://203.0.113.1/x")
    settings.cache_clear()
    return tmp_path


@pytest.mark.alone
def test_whichever_part_is_killed_every_promise_is_kept_once(home):
    found = chaos.storm(kills=5, jobs=60, seed=4)
    assert (found["lost"], found["doubled"]) == (0, 0) and found["accepted"] >= 60
    assert all(found["recovery_s"].values())  # each came back; how quickly is for scripts/soak, on a machine that does nothing else
    assert not [f for f in (home / "chaos").iterdir() if f.is_dir()] and os.environ["REDIS_URL"].startswith("redis://203")


@pytest.mark.alone
def test_lines_that_are_cut_lose_and_double_nothing_and_a_full_disk_is_said(home):
    with scratch() as folder, Stage(folder, line=True) as stage:
        rng = random.Random(5)
        for harm in chaos.bad_line(chaos.cut), chaos.fill_disk: harm(stage, rng)  # Late if one does not end; uploads: 202, then 503
        assert stage.settle() == (0, 0) and stage.answers() and len(stage.accepted) > 10


def test_a_killed_experiment_is_mended_by_the_next(home):
    program = """
import subprocess, sys, time
from rap_analyzer.lab import Lab
from rap_analyzer.serve.stage import MARK, scratch
with scratch() as home:
    lab = Lab(home)
    lab.start_broker() if lab.dir.mkdir(parents=True) is None else None
    frozen = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={MARK: str(home)})
    print(home, flush=True)
    time.sleep(600)
"""
    p = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    old = Path(p.stdout.readline().strip())
    lab = Lab(old)
    os.kill(p.pid, signal.SIGKILL), p.wait(10)
    (frozen,) = marked(old)
    frozen.suspend()
    broker = lab.broker.processes()
    assert broker and old.is_dir()
    with scratch() as new: assert new != old and not old.exists() and not marked(old)
    assert not any(b.is_running() and b.status() != psutil.STATUS_ZOMBIE for b in broker)


def test_two_experiments_at_a_time_are_refused(home):
    from rap_analyzer.core import LabError
    with scratch(), pytest.raises(LabError, match="another experiment"), scratch(): pass


# ---- the command

@pytest.mark.parametrize("lost,recovery,verdict", [(0, 1.0, "held"), (1, 1.0, "failed"), (0, 99.0, "failed"), (0, None, "failed")])
def test_only_a_hypothesis_that_held_ends_with_zero(monkeypatch, lost, recovery, verdict):
    from typer.testing import CliRunner

    from rap_analyzer.cli import app
    v = chaos.judge("kill-worker", 3, 20, (lost, 0), recovery, "" if recovery else "late")
    monkeypatch.setattr(chaos, "run", lambda name, seed: v)
    done = CliRunner().invoke(app, ["chaos", "run", "kill-worker", "--json"])
    said = json.loads(done.output)
    assert said["verdict"] == verdict and done.exit_code == (verdict != "held")
    assert {"verdict", "hypothesis", "lost", "doubled", "recovery_s"} <= set(said)


def test_an_unknown_experiment_is_refused_before_anything_starts(home):
    with pytest.raises(ValueError, match="kill-worker"): chaos.run("kill-everything")
    assert not (home / "chaos").exists()
