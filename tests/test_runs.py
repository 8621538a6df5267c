"Recorded runs: their statistics, where they come from, and files that are whole or not there."
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import warnings

import numpy as np
import pytest

from rap_analyzer import ledger, provenance, runs, stats
from rap_analyzer.core import LabError

@pytest.mark.parametrize("n", [20, 21, 37, 100, 999])
def test_p95_is_type_seven(n):
    x = np.random.default_rng(n).exponential(size=n)
    got = stats.summary(x)
    assert got["p95"] == pytest.approx(np.percentile(x, 95))
    assert got["p95"] == pytest.approx(statistics.quantiles(x, n=100, method="inclusive")[94])
    rank = .95 * (n - 1)
    low, high = np.sort(x)[[int(rank), int(np.ceil(rank))]]
    assert got["p95"] == pytest.approx(low + (rank - int(rank)) * (high - low))
    assert got["spread"] == pytest.approx(np.subtract(*np.percentile(x, [75, 25])))
    assert got["p95"] < x.max()


def test_interval_ranks_match_the_binomial():
    from math import comb
    for n in range(6, 200):
        low, high = stats.median_interval(range(1, n + 1))
        rank = int(low)
        tail = [sum(comb(n, i) for i in range(r)) / 2**n for r in (rank, rank + 1)]
        assert high == n + 1 - rank and tail[0] <= .025 < tail[1]
    assert [stats.median_interval(range(n)) for n in range(6)] == [None] * 6


def test_a_run_comes_back_as_it_was(tmp_path):
    run = ledger.measure("t.x", lambda: 1, params={"k": 10, "ef": np.int64(40), "t": (1, 2)}, home=tmp_path)
    assert ledger.last("t.x", tmp_path) == run and runs.list_runs("t.x", tmp_path) == [run]
    assert run.params == {"k": 10, "ef": 40, "t": [1, 2]} and isinstance(run.samples, tuple)
    file, = (tmp_path / "runs" / "t.x").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.json", file.name)
    fields = json.loads(file.read_text())
    assert list(fields) == sorted(fields) and fields["schema"] == runs.SCHEMA
    assert fields["measured_at"].endswith("+00:00") and fields["machine"] == provenance.machine()


def test_record_and_named_values(tmp_path):
    run = ledger.record("t.recall", np.float32(.5), recall=np.float64(.99), rows=10, home=tmp_path)
    assert (run.value, run.median, run.recall, run.rows, run.n, run.p95) == (.5, .5, .99, 10, 1, None)
    with pytest.raises(AttributeError, match="recall, rows"): run.precision  # noqa: B018
    for name in ("n", "p95", "median", "samples", "value_", "against_prediction"):
        if name == "value_": assert ledger.record("t.r", 1, value_=2, home=tmp_path).value_ == 2
        else:
            with pytest.raises(ValueError, match=name): ledger.record("t.r", 1, **{name: 2}, home=tmp_path)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"): ledger.record("t.nan", bad, home=tmp_path)
        with pytest.raises(ValueError): ledger.record("t.nan", 1, other=bad, home=tmp_path)
    with pytest.raises(TypeError, match="object"): ledger.record("t.nan", 1, params={"x": object()}, home=tmp_path)
    assert runs.list_runs("t.nan", tmp_path) == []


def test_runs_are_oldest_first_and_last_is_newest(tmp_path):
    for i in range(5): ledger.record("t.order", i, home=tmp_path)
    assert [r.p50 for r in runs.list_runs("t.order", tmp_path)] == [0, 1, 2, 3, 4]
    assert ledger.last("t.order", tmp_path).p50 == 4


def test_broken_files_are_skipped_by_name(tmp_path):
    good = ledger.record("t.x", 1, home=tmp_path)
    folder = tmp_path / "runs" / "t.x"
    whole = next(folder.glob("*.json")).read_bytes()
    broken = {"9half": whole[: len(whole) // 2], "9empty": b"", "9list": b"[]", "9text": b'"x"', "9bytes": b"\xff\xfe{",
              "9newer": whole.replace(b'"schema": 1', b'"schema": 99'), "9missing": b'{"schema": 1}',
              "9null": whole.replace(b'"samples": [1.0]', b'"samples": null')}
    for name, content in broken.items():
        assert content != whole
        (folder / f"{name}.json").write_bytes(content)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert runs.list_runs("t.x", tmp_path) == [good]
        assert ledger.last("t.x", tmp_path) == good
    assert all(any(name in str(w.message) for w in heard) for name in broken)


KILLED_WRITERS = """
import os, random, signal, sys, time
from rap_analyzer import ledger
home, draw = sys.argv[1], random.Random(1)
ledger.record("t.kill", -1, home=home)
for _ in range(25):
    pid = os.fork()
    if not pid:
        while True: ledger.record("t.kill", 1, params={"filler": "x" * 400_000}, home=home)
    time.sleep(draw.uniform(.03, .12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def test_kill_nine_while_writing_leaves_whole_files(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_WRITERS, str(tmp_path)], check=True, timeout=120)
    folder = tmp_path / "runs" / "t.kill"
    files, parts = list(folder.glob("*.json")), list(folder.glob(".*.part"))
    assert len(files) > 10 and parts, "no writer was killed in the middle of a write: this test proved nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(runs.list_runs("t.kill", tmp_path)) == len(files)
    for file in files + parts: file.unlink()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    folder = tmp_path / "claims"
    runs.write_record(folder, "x", {"n": 1})
    def no_space(fd): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"): runs.write_record(folder, "x", {"n": 2})
    assert json.loads((folder / "x.json").read_text())["n"] == 1


def test_source_hash_sees_edits_and_parameters():
    def make(body):
        space = {}
        exec(f"def f(): return {body}", space)
        return space["f"]
    assert provenance.source_hash(make("1")) == provenance.source_hash(make("1")) != provenance.source_hash(make("2"))
    assert provenance.source_hash(make("len('a')")) != provenance.source_hash(make("abs('a')"))
    a, b = lambda: 1, lambda: 2
    assert provenance.source_hash(a) != provenance.source_hash(b)
    assert provenance.source_hash(functools.partial(a)) == provenance.source_hash(a) != provenance.source_hash(a, {"k": 1})
    assert provenance.source_hash(len) != provenance.source_hash(abs) != provenance.source_hash(None)
    assert provenance.source_hash(a, {"x": 1, "y": 2}) == provenance.source_hash(a, {"y": 2, "x": 1})


def test_source_hash_is_the_same_in_every_process():
    code = "from rap_analyzer import provenance as l; s={}; " \
           "exec(\"def f(x=0): return x in {'a','b','c'} or (lambda: {'d','e'})\", s); print(l.source_hash(s['f']))"
    seen = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": str(seed)},
                           capture_output=True, text=True, check=True).stdout for seed in (1, 2, 3)}
    assert len(seen) == 1 and len(seen.pop().strip()) == 64


def test_machine_names_no_host_and_no_user():
    text = json.dumps(provenance.machine())
    assert set(provenance.machine()) == {"cpu", "cores", "memory_gb", "os", "python"} and provenance.machine()["memory_gb"] > 0
    assert os.uname().nodename not in text
    provenance.machine()["cpu"] = "changed"
    assert provenance.machine()["cpu"] != "changed"


def test_last_helps(tmp_path):
    with pytest.raises(LabError, match="recorded so far: nothing"): ledger.last("t.x", tmp_path)
    ledger.record("search.exact", 1, home=tmp_path)
    with pytest.raises(LabError, match="did you mean search.exact"): ledger.last("serch.exact", tmp_path)
    with pytest.raises(LabError, match="did you mean search.exact"): ledger.last("search", tmp_path)
