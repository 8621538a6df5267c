"""Every exercise keeps its word: one test for each, so that several processes can share them."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from rap_analyzer.core import settings
from rap_analyzer.learn.task import exercise, ids
from rap_analyzer.learn.verification import verify_all

@pytest.fixture
def servers(lab_home, monkeypatch):
    "Whatever is measured is measured in the servers of the tests."
    monkeypatch.setenv("RAP_LAB_HOME", str(lab_home))
    settings.cache_clear()


@pytest.mark.parametrize("name", ids())
def test_an_exercise_keeps_its_word(servers, request, name):
    ex = exercise(name)
    if ex.measured: request.getfixturevalue("lab")
    (row,) = verify_all(name)
    assert row["ok"], row
    assert row["id"] == name and row["wrong"] == len(ex.wrong) + len(ex.wrong_again) >= 3


@pytest.mark.parametrize("spoilt", [False, True])
def test_verify_all_as_a_maintainer_runs_it(tmp_path, spoilt):
    solutions = tmp_path / "repo" / "exercises" / "solutions"
    solutions.mkdir(parents=True)
    for name in ("21.1", "28.1"): shutil.copy(ids()[name], solutions)
    nb = json.loads(ids()["28.1"].read_text(encoding="utf-8"))
    wrong = next(c for c in nb["cells"] if "".join(c["source"]).startswith("#| wrong average_of_them average"))
    wrong["source"] = wrong["source"][:1] + [exercise("28.1").solution]
    if spoilt: (solutions / ids()["28.1"].name).write_text(json.dumps(nb), encoding="utf-8")
    (solutions.parent / "ids.toml").write_text("".join(f'"{name}" = "{ids()[name].stem}"\n' for name in ("21.1", "28.1")))
    (tmp_path / "repo" / "settings.ini").write_text("")
    env = {**os.environ, "RAP_SETTINGS": str(tmp_path / "repo" / "settings.ini"), "RAP_LAB_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "learn", "verify-all", "--json"], capture_output=True,
                          text=True, timeout=120, stdin=subprocess.DEVNULL, env=env)
    rows = {r["id"]: r for r in json.loads(done.stdout)}
    assert done.returncode == spoilt and set(rows) == {"21.1", "28.1"} and rows["21.1"]["ok"], done
    told = " ".join(rows["28.1"]["problems"])
    assert "'average_of_them' should fail: pass" in told if spoilt else not told, told
