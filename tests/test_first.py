"""The promise of the README, kept as a newcomer would see it: the whole catalog, a measurement, a table, an exit code."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from rap_analyzer.core import LabError, settings
from rap_analyzer.decide.adr import decisions, export
from rap_analyzer.search.bench import doubts, held

@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "`rap-analyzer first --check` in a home of its own, with nobody at a terminal."
    home = tmp_path_factory.mktemp("first")
    env = {**os.environ, "RAP_LAB_HOME": str(home)}
    done = subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "first", "--check"], env=env, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=900)
    return done, home, env


def test_it_measures_and_holds(first):
    done, home, _ = first
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Guess" not in done.stdout
    assert re.search(r"measured 20\d\d-.* on this machine: 57,000 tracks \(synthetic\)", done.stdout)
    result = json.loads((home / "first" / "bench.json").read_text())
    rows = {r["method"]: r for r in result["rows"]}
    assert {"exact_vector", "exact_halfvec", "hnsw_halfvec", "bare_psycopg"} <= set(rows)
    assert set(rows["hnsw_halfvec"]) >= {"method", "k", "ef", "recall", "p50_ms", "p95_ms", "build_s", "index_mb", "plan"}
    assert all(r["recall"] >= 0.99 for r in rows.values())
    assert rows["hnsw_halfvec"]["n"] >= 500 and rows["exact_vector"]["n"] >= 30
    low, high = result["speedup_range"]
    assert 0 < low <= high and result["others"] >= 0
    assert low <= 1.5 * rows["exact_vector"]["p50_ms"] / rows["hnsw_halfvec"]["p50_ms"]
    assert f"eight of ten rounds: {low:.0f} to {high:.0f}" in done.stdout
    assert bool(doubts(result)) == ("Do not trust that ratio yet" in done.stdout)
    assert "ix_hnsw_halfvec" in rows["hnsw_halfvec"]["plan"] and "ix_" not in rows["exact_vector"]["plan"]


def test_the_commands_say_nothing_that_is_not_theirs(first):
    "What libraries have to say (warnings, loggers) is for us, not for the reader."
    done, _, _ = first
    assert all(line.endswith(" ...") for line in done.stderr.splitlines()), done.stderr


CALM = {"tracks": 57_000, "others": 0.1, "speedup_range": [300, 400],
        "rows": [{"method": "exact_vector", "p50_ms": 100, "p95_ms": 150, "recall": 1},
                 {"method": "bare_psycopg", "p50_ms": .3, "p95_ms": .4, "recall": 1},
                 {"method": "hnsw_halfvec", "p50_ms": .3, "p95_ms": .5, "recall": .995}]}


def with_row(name, **new):
    return {**CALM, "rows": [{**r, **new} if r["method"] == name else r for r in CALM["rows"]]}


@pytest.mark.parametrize("result, says", [
    (CALM, None), ({**CALM, "others": 1.4}, "1.4 cores busy"), ({**CALM, "speedup_range": [120, 433]}, "between 120 and 433"),
    (with_row("exact_vector", p95_ms=400), "p95 of the obvious query is 4.0 times"),
    (with_row("hnsw_halfvec", p95_ms=2), "6.7 times")])
def test_a_run_that_was_disturbed_says_so(result, says):
    assert (says is None) == (doubts(result) == []) and (says is None or says in doubts(result)[0])
    assert held(result) == []


@pytest.mark.parametrize("tracks, speedup, holds", [(57_000, 49, False), (57_000, 51, True), (3_000, 5, True),
                                                    (3_000, 2, False), (100, 0.9, True)])
def test_the_bound_fits_the_catalog(tracks, speedup, holds):
    result = {**with_row("exact_vector", p50_ms=.3 * speedup), "tracks": tracks}
    assert (held(result) == []) == holds


def test_similar_on_the_same_lab(first):
    _, _, env = first
    done = subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "similar", "42", "--k", "10", "--json"], env=env,
                          capture_output=True, text=True, timeout=120)
    hits = json.loads(done.stdout)
    assert len(hits) == 10 and {"track_id", "score", "why"} <= set(hits[0])


def test_every_decision_is_exported_and_its_evidence_is_there():
    found = decisions(settings().root / "nbs")
    assert len(found) >= 4
    export(check=True)


def test_export_leaves_pages_written_by_hand_alone(tmp_path):
    shutil.copytree(settings().root / "adr", tmp_path / "adr")
    mine, old = tmp_path / "adr" / "0900-mine.md", tmp_path / "adr" / "0901-gone.md"
    mine.write_text("# 0900. Mine\n")
    old.write_text("<!-- Made from nbs/00_x.ipynb by `rap-analyzer adr export`; edit the notebook. -->\n")
    export(to=tmp_path / "adr")
    assert mine.exists() and not old.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="no decision found"): export(nbs=tmp_path / "empty", to=tmp_path / "adr")
    assert mine.exists()


def test_both_busy_ports_are_named_before_anything_is_measured(tmp_path):
    with socket.socket() as a, socket.socket() as b:
        for s in (a, b): s.bind(("127.0.0.1", 0)), s.listen()
        ports = {"RAP_API_PORT": str(a.getsockname()[1]), "RAP_JUPYTER_PORT": str(b.getsockname()[1])}
        env = {**os.environ, **ports, "RAP_LAB_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "first"], env=env,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode and all(f"set {name}" in done.stderr for name in ports), done.stderr
    assert not (tmp_path / "first").exists()
