"""The system's report: read from the system, honest about what was not measured, and the same over CLI and HTTP."""
import json

import httpx
import pytest
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.core import settings
from rap_analyzer.review import Question, Review
from rap_analyzer.serve import assessment, capacity, routes
from rap_analyzer.serve.deployment import Configuration, Measured
from rap_analyzer.web import OneAtATime, serving

KEYS = ["current_state", "scale_targets", "bottlenecks_identified", "solutions", "prediction"]
STATE = {"tracks": 57_000, "database_mb": 570.0, "index_mb": 200.0, "jobs": {}, "measured_at": "2026-01-01T00:00:00+00:00",
         "components": {"postgres": "18.0", "hnsw": True, "answer_cache_s": 300, "replica": False, "cores": 2, "memory_gb": 24.0},
         "search_p95_ms": {"value": 3.0, "low": 2.0, "high": 5.0}}


def seen(**costs):
    "A calibration in which only the named dials cost something else."
    def measured(name, c):
        ms = {"service": 2.0, "database": 1.5, "cache": 0.0} | costs.get(name, {})
        return Measured(Configuration(**c), 1e3 / sum(ms.values()), ms, .2, 0, 0.0)
    return {name: measured(name, c) for name, c in capacity.DIALS.items()}


def changed(**components): return {**STATE, "components": STATE["components"] | components}


def targets(state=STATE, known=None): return {t.name: t for t in assessment.find_targets(state, known)}


def test_what_was_not_measured_is_neither_reached_nor_missed():
    found = targets()
    assert (found["users"].now, found["users"].reached, found["availability"].reached) == (None, None, None)
    assert "capacity --calibrate" in found["users"].basis
    assert found["latency"].reached is True and found["tracks"].reached is False
    assert assessment.expect(STATE, None) == {"basis": assessment.UNKNOWN}


def test_an_interval_that_holds_the_target_decides_nothing():
    wide = {**STATE, "search_p95_ms": {"value": 199.0, "low": 150.0, "high": 260.0}}
    assert targets(wide)["latency"].reached is None
    late = {**STATE, "search_p95_ms": {"value": 300.0, "low": 250.0, "high": 390.0}}
    assert targets(late)["latency"].reached is False


def test_users_follow_from_the_cost_of_a_request():
    users = targets(known=seen())["users"]
    per_core = capacity.predict(Configuration(), seen()).per_s
    assert users.now == pytest.approx(per_core * settings().systems.ask_every_s)       # half of two cores
    assert users.low < users.now < users.high and users.reached is False


def test_bottlenecks_name_their_evidence():
    known = seen()
    found = {b.part: b for b in assessment.find_bottlenecks(STATE, list(targets(known=known).values()), known)}
    assert "57%" in found["service"].evidence
    assert {"memory", "database"} <= set(found)
    queue = {**STATE, "jobs": {"bulk": {"waiting": 3, "age_s": 60.0, "dead": 2}}}
    parts = [b for b in assessment.find_bottlenecks(queue, list(targets().values()), None) if b.part == "queue bulk"]
    assert len(parts) == 2
    without = assessment.find_bottlenecks(changed(hnsw=False, replica=True), list(targets().values()), None)
    assert [b.part for b in without] == ["index", "memory"]


def test_remedies_are_ranked_by_what_they_should_bring():
    known = seen(**{"no index": {"database": 40.0}, "a hit": {"service": .5, "database": 0.0}})
    state = changed(hnsw=False)
    ranked = assessment.rank_solutions(state, list(targets(state, known).values()), known)
    factors = [s.factor or 0 for s in ranked]
    assert factors == sorted(factors, reverse=True)
    by_name = {s.change: s.factor for s in ranked}
    assert by_name["build the HNSW index"] == pytest.approx(41.8 / 3.5, rel=.05)
    assert ranked[-1].factor is None and "replica" in ranked[-1].change


def test_where_every_target_is_reached_the_advice_is_to_leave_it_alone():
    from dataclasses import replace
    done = [replace(t, reached=True) for t in assessment.find_targets(STATE, seen())]
    assert [s.change for s in assessment.rank_solutions(changed(replica=True), done, seen())] == ["leave it alone"]


def test_the_drawing_shows_what_runs():
    assert "Valkey<br>answers" in assessment.topology(STATE) and "replica" not in assessment.topology(STATE)
    assert "Valkey<br>answers" not in assessment.topology(changed(answer_cache_s=0))
    assert "HNSW" not in assessment.topology(changed(hnsw=False)) and "P ==> R" in assessment.topology(changed(replica=True))


def test_the_report_over_http_is_read_from_the_store(small):
    with serving(create_app(small)) as url:
        said = httpx.post(f"{url}/api/analyze_system", timeout=20)
    assert said.status_code == 200 and list(said.json()) == KEYS
    assert said.json()["current_state"]["tracks"] == small.count()


def test_one_assessment_at_a_time(small, monkeypatch):
    monkeypatch.setattr(routes, "ASSESSING", OneAtATime("assessment is being made"))
    with serving(create_app(small)) as url, routes.ASSESSING.turn("another"):
        said = httpx.post(f"{url}/api/analyze_system", timeout=20)
    assert said.status_code == 429 and "one at a time" in said.text


def test_a_review_is_prefilled_and_never_overwrites(small, tmp_path):
    from rap_analyzer.frameworks.systems import QUESTIONS, review_system
    review = review_system(small, about="A second worker, for the queue.")
    text = review.markdown()
    places = [text.index(x) for x in ("A second worker, for the queue.", "## Business", "## The decision", "graph LR")]
    assert places == sorted(places)
    assert "10,000,000" in text and "e+0" not in text
    assert len(review.facts) >= 3 and len(review.unanswered) == len(QUESTIONS) == 16
    review.answers[QUESTIONS[0].text] = "They hear something new."
    first, second = review.save(tmp_path), review.save(tmp_path)
    assert first != second and "They hear something new." in first.read_text() and "1 of 16 questions" in first.read_text()


def test_an_answer_needs_a_question():
    with pytest.raises(ValueError, match="no question"): Review("x", [Question("a", "Why?")], answers={"How?": "So."})


def test_the_commands(small, monkeypatch, tmp_path):
    from rap_analyzer.cli import app
    monkeypatch.setenv("RAP_LAB_HOME", str(small.lab.home))
    done = CliRunner().invoke(app, ["analyze-system", "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)) == KEYS
    said = CliRunner().invoke(app, ["analyze-system"]).stdout
    assert "reached  latency" in said and "remedy" in said
