"Decisions are measured again: parts are broken on purpose, and the decisions that rest on them turn red, and no others."
import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import _living
from helpers import learners_lab

from rap_analyzer.cli import app
from rap_analyzer.decide import adr
from rap_analyzer.decide.adr import decisions, results
from rap_analyzer.decide.living import broken, judge
from rap_analyzer.decide.probes import PROBES
from rap_analyzer.decide.rig import BREAKS, SECRET, count_leaked, inject, make_rig
from rap_analyzer.search.sessions import Query

@pytest.fixture(scope="module")
def rig(lab):
    with make_rig(lab) as rig: yield rig


def test_each_probe_has_a_reference_that_a_decision_cites_and_each_break_rests_on_decisions_that_are_there():
    cited = {key: {d.number for d in decisions() if key in d.evidence} for key in PROBES}
    assert all(cited.values()), [key for key, by in cited.items() if not by]
    assert {key for key in PROBES if not (results() / f"{key}.json").exists()} == set()
    measured = set().union(*cited.values())
    assert len(measured) >= 5 and all(set(b.rest) <= measured for b in BREAKS.values())
    assert sum(len(b.rest) > 1 for b in BREAKS.values()) >= 1


@pytest.mark.alone
def test_exactly_the_decisions_that_rest_on_a_broken_part_turn_red(rig):
    found = _living.break_all(rig, 1, 22)
    assert found["wrong"] == [] and found["tried"] == 2 * len(BREAKS) and found["measured"] >= 5


def test_a_break_is_undone_also_after_an_error(rig):
    for name in ("claims", "walls", "lock", "sweeper", "memory"):
        with pytest.raises(ZeroDivisionError), BREAKS[name].act(rig): raise ZeroDivisionError
    assert (count_leaked(rig), inject(rig)) == (0, 0)
    assert not {"_claim", "_board"} & set(vars(rig.caches[0])) and "tick" not in vars(rig.sweeper)
    assert rig.store.query(Query("SELECT count(*) FROM tracks WHERE title = %s", (SECRET,))) == [(0,)]


@pytest.mark.alone
def test_a_recorded_figure_that_was_never_measured_turns_red_and_no_record_is_not_measured(rig, tmp_path, monkeypatch):
    runs = shutil.copytree(results(), tmp_path / "results")
    monkeypatch.setattr(adr, "results", lambda: runs)
    held = [d for d in decisions() if d.number in ("0003", "0017")]
    assert broken(judge(held, rig)) == set()
    file = runs / "living.leaks.json"
    run = json.loads(file.read_text())
    file.write_text(json.dumps(run | {"p50": 2.0, "values": {"low": 2.0, "high": 2.0}}))
    assert broken(judge(held, rig)) == {"0017"}
    file.unlink()
    (_, proven) = judge(held, rig)
    assert proven.state == "not measured here" and any("no reference run" in f.why for f in proven.findings)


@pytest.mark.alone
def test_the_command(tmp_path, monkeypatch):
    with learners_lab(tmp_path / "home"):
        done = CliRunner().invoke(app, ["adr", "check", "--measure", "--json"])
        assert done.exit_code == 0, done.output
        said = {row["number"]: row for row in json.loads(done.output)}
        assert len(said) == len(decisions()) and {"holds", "not measured here"} == {row["state"] for row in said.values()}
        assert all(f["today"] or f["why"] for row in said.values() for f in row["figures"])
        runs = shutil.copytree(results(), tmp_path / "results")
        file = runs / "store.leaked_rows.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"p50": 7.0}))
        monkeypatch.setattr(adr, "results", lambda: runs)
        monkeypatch.setattr(adr, "export", lambda **_: [])                        # its pages are those of the other figure
        done = CliRunner().invoke(app, ["adr", "check", "--measure"])
        assert done.exit_code == 1 and "0003  BROKEN" in done.output and "recorded 7, today 0 and 0" in done.output
