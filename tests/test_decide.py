"""Choices: the matrix against another implementation and against brute force, and what a measurement is worth."""
import itertools
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from pymcdm import normalizations
from pymcdm.methods import WSM
from typer.testing import CliRunner

from rap_analyzer.cli import app
from rap_analyzer.core import LabError
from rap_analyzer.decide import log_routes
from rap_analyzer.decide.adr import decisions, draw_graph, export, listing, results
from rap_analyzer.decide.drafts import append_cell, draft
from rap_analyzer.decide.log_routes import RecordIn, find_logged, log_record, read_logged
from rap_analyzer.decide.matrix import MODEL_SERVERS, find_cited, read_file, read_matrix, tally
from rap_analyzer.decide.routes import router
from rap_analyzer.decide.sensitivity import NORMALS, find_leads, find_tippings, move_weight, normalise, rank, share_wins
from rap_analyzer.decide.worth import pick_option, value_of_knowing, value_of_measuring
from rap_analyzer.ledger import record
from rap_analyzer.platform.identity import needed_scope
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate

PAIR = {"A": {"speed": 9, "price": 4}, "B": {"speed": 6, "price": 8}}
HALF = {"speed": .5, "price": .5}


def make(weights, table, **more):
    "A matrix of numbers: criteria c0, c1, ..., alternatives A, B, ..."
    rows = {chr(65 + i): {f"c{j}": None if math.isnan(x) else float(x) for j, x in enumerate(row)} for i, row in enumerate(table)}
    return read_matrix({"weights": {f"c{j}": float(w) for j, w in enumerate(weights)}, "alternatives": rows} | more)


def drawn(rng, whole=False):
    "Random weights and scores; `whole`: marks of a person, among which totals are often equal."
    n, k = rng.integers(2, 7), rng.integers(2, 7)
    if not whole: return rng.dirichlet(np.ones(k)), rng.uniform(0, 10, (n, k))
    return np.diff(np.sort(np.concatenate([[0, 20], rng.integers(0, 21, k - 1)]))) / 20, rng.integers(3, 9, (n, k)).astype(float)


# ---- the matrix

def test_totals_and_orders_are_those_of_another_implementation_on_a_thousand_tables():
    rng = np.random.default_rng(18)
    theirs = {"none": lambda x, cost=False: x, "max": normalizations.max_normalization, "sum": normalizations.sum_normalization,
              "vector": normalizations.vector_normalization, "minmax": normalizations.minmax_normalization}
    assert set(theirs) == set(NORMALS)
    for _ in range(1_000):
        weights, table = drawn(rng)
        m, up = make(weights, table), np.ones(len(weights))
        mine = np.array([tally(m).totals[a][0] for a in m.scores])
        assert np.allclose(mine, WSM(theirs["none"])(table, weights, up), rtol=1e-12)
        for how, function in theirs.items():
            wanted = WSM(function)(table, weights, up)
            assert rank(m, how) == [list(m.scores)[i] for i in np.argsort(-wanted)], how


def test_the_originals_totals_and_the_two_that_it_leaves_out():
    found = tally(MODEL_SERVERS)
    totals = {a: round(low, 9) for a, (low, high) in found.totals.items() if low == high}
    assert totals == {"KServe": 8.45, "MLflow": 7.85, "TorchServe": 7.75, "Seldon": 7.35} and list(totals)[0] == found.winner
    tips = {t.criterion: t.rival for t in find_tippings(MODEL_SERVERS)}         # at 100 % performance TorchServe would only share
    assert tips == dict.fromkeys(("scalability", "ease of use", "community", "cost"), "MLflow")
    assert found.ties == {"performance": ("TorchServe", "KServe")} and found.rests_on["judgement"] == pytest.approx(1)


def test_the_order_in_which_a_table_was_typed_decides_nothing():
    rng, shared = np.random.default_rng(1), 0
    for _ in range(300):
        m = make(*drawn(rng, whole=True))
        found = tally(m)
        shared += found.winner is None
        again = replace(m, scores=dict(reversed(m.scores.items())), weights=dict(reversed(m.weights.items())))
        assert tally(again).winner == found.winner and set(tally(again).first) == set(found.first)
        assert math.isclose(sum(found.rests_on.values()), 1)
    assert shared > 5


def test_a_gap_leaves_open_exactly_what_it_can_change():
    rng, decided = np.random.default_rng(3), set()
    for _ in range(200):
        weights, table = drawn(rng, whole=True)
        holes = rng.choice(table.size, 2, replace=False)
        table.flat[holes] = np.nan
        firsts = set()
        for a, b in itertools.product((0, 10), repeat=2):              # totals are linear: the corners are enough
            full = table.copy()
            full.flat[holes] = a, b
            firsts.add(tally(make(weights, full)).winner)
        found = tally(make(weights, table))
        assert found.winner == (firsts.pop() if len(firsts) == 1 else None) and len(found.gaps) == 2
        decided.add(found.winner is not None)
    assert decided == {True, False}


@pytest.mark.parametrize("given, says", [
    ({"weights": HALF, "alternatives": {}}, "expected 2 to 50 alternatives"), ({"weights": HALF}, "expected 2 to 50"),
    ({"weights": HALF, "alternatives": {"A": PAIR["A"]}}, "got 1"), ({"weights": {}, "alternatives": PAIR}, "1 to 50 criteria"),
    ({"weights": {"speed": .5, "price": .4}, "alternatives": PAIR}, "sum to 0.9"),
    ({"weights": {"speed": 0, "price": 0}, "alternatives": PAIR}, "sum to 0"),
    ({"weights": {"speed": 1.5, "price": -.5}, "alternatives": PAIR}, "from 0 to 1, got 1.5"),
    ({"weights": {"speed": math.nan, "price": .5}, "alternatives": PAIR}, "got nan"),
    ({"weights": {"speed": True, "price": 0}, "alternatives": PAIR}, "got True"),
    ({"weights": {"speed": "0.5", "price": .5}, "alternatives": PAIR}, "got '0.5'"),
    ({"weights": HALF, "alternatives": PAIR | {"C": {"speed": -1}}}, "C, speed: expected a number from 0 to 10, got -1"),
    ({"weights": HALF, "alternatives": PAIR | {"C": {"speed": 11}}}, "got 11"),
    ({"weights": HALF, "alternatives": PAIR | {"C": {"sped": 1}}}, "did you mean 'speed'"),
    ({"weights": HALF, "alternatives": PAIR | {"C": {"speed": {"score": 1, "why": "x"}}}}, "a score and its evidence"),
    ({"weights": HALF, "alternatives": PAIR | {"C": {"speed": {"score": 1, "evidence": " "}}}}, "the evidence is"),
    ({"weights": HALF, "alternatives": PAIR | {"": {}}}, "printable"),
    ({"weights": HALF, "alternatives": PAIR | {"C": [1]}}, "expected 0 to"),
    ({"weights": HALF, "alternatives": PAIR, "top": math.inf}, "top"), ({"weihgts": HALF}, "no field 'weihgts'"),
    ({"weights": {f"c{i}": 1 / 60 for i in range(60)}, "alternatives": PAIR}, "got 60")])
def test_a_table_that_makes_no_sense_is_refused(given, says):
    with pytest.raises(LabError, match=says): read_matrix(given)


@pytest.mark.parametrize("name, text, says", [
    ("a.csv", "", r"\.json or \.toml"), ("a.json", "{", "is no JSON"), ("a.json", "[]", "an object"),
    ("a.toml", "[[", "is no TOML"),
    ("a.json", '{"weights": {"a": 0.5, "a": 0.5}}', "'a' is there twice"), ("a.json", "[" * 100_000, "is no JSON"),
    ("a.json", b"\xff", "is no JSON"), ("a.json", " " * 1_000_001, "megabyte")])
def test_a_file_that_makes_no_sense_is_refused(tmp_path, name, text, says):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LabError, match=says): read_file(tmp_path / name)


def test_cited_runs_are_looked_up(tmp_path):
    cited = {"score": 8, "evidence": "broker.p99"}
    m = read_matrix({"weights": {"speed": 1}, "alternatives": {"A": {"speed": cited}, "B": {"speed": 1}}})
    assert tally(m).rests_on == {"run": .5, "source": 0, "judgement": .5, "gap": 0}
    with pytest.raises(LabError, match="broker.p99"): find_cited(m, tmp_path, tmp_path)
    record("broker.p99", 4, unit="ms", home=tmp_path)
    assert set(find_cited(m, tmp_path, tmp_path)) == {"broker.p99"}


# ---- how sure

def test_the_smallest_change_is_the_one_that_brute_force_finds():
    rng, none = np.random.default_rng(5), 0
    for _ in range(60):
        m = make(*drawn(rng))
        won, tips = tally(m).winner, find_tippings(m)
        lost = []
        for c, w in m.weights.items():
            to = np.linspace(0, 1, 1_001)
            totals = np.array([list(move_weight(m.weights, c, t).values()) for t in to]) @ m.table().T
            lost += abs(to - w)[totals.argmax(1) != list(m.scores).index(won)].tolist()
        none += not lost
        assert (min(lost) if lost else 1) == pytest.approx(abs(tips[0].move) if tips else 1, abs=.0011)
        for t in tips:
            at = replace(m, weights=move_weight(m.weights, t.criterion, t.at))
            assert math.isclose(sum(at.weights.values()), 1) and {won, t.rival} <= set(tally(at).first)
    assert 0 < none < 60


def test_shares_of_wins_are_those_that_can_be_computed():
    m = make([.5, .5], [[9, 2], [3, 7]])                              # two criteria: one weight, uniform from 0 to 1
    level = 5 / 11                                                     # A wins above it
    assert share_wins(m, draws=100_000)["A"] == pytest.approx(1 - level, abs=5 * math.sqrt(.25 / 100_000))
    assert share_wins(m, around=1e6)["A"] == 1 and share_wins(m, seed=3) == share_wins(m, seed=3)
    even = make([.5, .5], [[1, 1], [1, 1]])
    assert share_wins(even) == {"A": .5, "B": .5} and find_tippings(even) == []
    idle = make([1, 0], [[5, 0], [4, 9]])                              # what weighs nothing stays at nothing, near these weights
    assert share_wins(idle, around=5) == {"A": 1, "B": 0} and 0 < share_wins(idle)["B"] < 1
    for odd in ({"around": 0}, {"around": math.inf}, {"draws": 0}, {"draws": 10**9}):
        with pytest.raises(ValueError, match="expected"): share_wins(m, **odd)
    for ask in (share_wins, find_tippings, find_leads, rank):
        with pytest.raises(LabError, match="c1 of B is not known"): ask(make([.5, .5], [[1, 2], [3, math.nan]]))


def test_a_hopeless_newcomer_changes_no_order_of_fixed_marks():
    rng, changed = np.random.default_rng(7), dict.fromkeys(NORMALS, 0)
    for _ in range(300):
        weights, table = rng.dirichlet(np.ones(4)), rng.uniform(2, 10, (4, 4))
        more = np.vstack([table, table.min(0) * rng.uniform(0, 1, 4)])
        for how in NORMALS:
            before, after = rank(make(weights, table), how), rank(make(weights, more), how)
            assert after[-1] == "E" or how == "minmax"
            changed[how] += [a for a in after if a != "E"] != before
    assert changed["none"] == changed["max"] == 0 < changed["minmax"]
    with pytest.raises(ValueError, match="minmax"): normalise(np.ones((2, 2)), "rank")
    assert (normalise(np.zeros((2, 2)), "minmax") == 0).all()


# ---- records

RECORD = """### ADR {}: Something
**Status**: accepted · **Date**: 2026-12-01{}

**Context and problem**: x

**Options**: x

**Decision**: x

**Consequences**: x

**Evidence**: {}"""


def write_records(folder, *records):
    "A folder of notebooks with decisions: (number, what it supersedes, its evidence)."
    folder.mkdir(exist_ok=True)
    texts = [RECORD.format(n, f" · **Supersedes**: {', '.join(old)}" if old else "", cites) for n, old, cites in records]
    (folder / "10_x.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": [text]} for text in texts]}))


def test_a_superseded_decision_says_so_everywhere_and_none_else_changes(tmp_path):
    write_records(tmp_path / "nbs", ("0001", (), "none: x"), ("0002", (), "none: x"))
    before = {p.name: p.read_text() for p in export(tmp_path / "nbs", tmp_path / "adr", tmp_path)}
    write_records(tmp_path / "nbs", ("0001", (), "none: x"), ("0002", (), "none: x"), ("0003", ("0001",), "none: x"))
    with pytest.raises(LabError, match="0001-something.md.*0003-something.md"):
        export(tmp_path / "nbs", tmp_path / "adr", tmp_path, check=True)
    after = {p.name: p.read_text() for p in export(tmp_path / "nbs", tmp_path / "adr", tmp_path)}
    assert "status: superseded by 0003" in after["0001-something.md"] and "superseded by 0003" in after["README.md"]
    assert after["0002-something.md"] == before["0002-something.md"]
    assert "0003 ==>|supersedes| 0001" in draw_graph(decisions(tmp_path / "nbs"))


@pytest.mark.parametrize("records, says", [
    ([("0001", ("0002",), "none: x"), ("0002", ("0001",), "none: x")], "in a circle"),
    ([("0001", ("0001",), "none: x")], "in a circle"),
    ([("0001", ("0009",), "none: x")], "0009, which is not there"),
    ([("0001", (), "none: x"), ("0002", ("0001",), "none: x"), ("0003", ("0001",), "none: x")], "superseded twice"),
    ([("0001", (), "none: x"), ("0001", (), "none: x")], "stands in"), ([("0001", (), "`no.run`")], "no reference run 'no.run'")])
def test_records_that_cannot_all_be_true_write_nothing(tmp_path, records, says):
    write_records(tmp_path / "nbs", *records)
    with pytest.raises(LabError, match=says): export(tmp_path / "nbs", tmp_path / "adr", tmp_path)
    assert not list(tmp_path.glob("adr/*"))


def test_a_figure_that_is_changed_by_hand_turns_the_decisions_red_that_rest_on_it(tmp_path):
    runs = shutil.copytree(results(), tmp_path / "results")
    cited = {d.slug: d.evidence for d in decisions()}
    key = next(e[0] for e in cited.values() if e)
    run = json.loads((runs / f"{key}.json").read_text())
    (runs / f"{key}.json").write_text(json.dumps(run | {"p50": run["p50"] * 2}))
    export(check=True)
    with pytest.raises(LabError) as no: export(where=runs, check=True)
    assert {slug for slug in cited if slug in str(no.value)} == {slug for slug, keys in cited.items() if key in keys}


def test_a_new_record_goes_into_a_notebook_or_nowhere(tmp_path):
    write_records(tmp_path / "nbs", ("0004", (), "none: x"))
    there = tmp_path / "nbs" / "10_x.ipynb"
    append_cell(there, draft("Next", decisions(tmp_path / "nbs"), supersedes=["0004"]))
    assert [(d.number, d.facts["Status"]) for d in decisions(tmp_path / "nbs")] == [("0004", "accepted"), ("0005", "proposed")]
    for odd in ({"number": "0004"}, {"number": "4"}, {"supersedes": ["0009"]}, {"title": "a\nb"}, {"status": "done"}):
        with pytest.raises(LabError): draft(odd.pop("title", "Next"), decisions(tmp_path / "nbs"), **odd)
    text = CliRunner().invoke(app, ["adr", "new", "Try it"]).output
    assert "### ADR" in text and CliRunner().invoke(app, ["adr", "check"]).exit_code == 0
    rows = json.loads(CliRunner().invoke(app, ["adr", "list", "--json"]).output)
    assert len(rows) == len(decisions()) and {r["status"] for r in rows} == {"accepted"}


# ---- HTTP and the command

def test_over_http():
    bare = FastAPI()
    bare.include_router(router)
    client = TestClient(bare)
    ask = lambda **body: client.post("/api/tech_selection", json=body)
    said = ask(weights=HALF, alternatives=PAIR | {"later": {"speed": 5, "price": {"score": 5, "evidence": "https://example.org"}}})
    body = said.json()
    assert said.status_code == 200 and body["scores"] == {"B": 7, "A": 6.5, "later": 5} and body["winner"] == "B"
    assert body["sure"]["smallest_change"]["rival"] == "A" and body["rests_on"]["source"] == pytest.approx(.5 / 3)
    assert body["sure"]["smallest_change"]["at"] == pytest.approx(4 / 7)
    tie = ask(weights=HALF, alternatives={"A": {"speed": 9, "price": 1}, "B": {"speed": 1, "price": 9}}).json()
    assert tie["winner"] is None and "a tie of A and B" in tie["verdict"]
    assert tie["sure"]["share_of_wins"]["A"] == pytest.approx(.5, abs=.05)
    hole = ask(weights=HALF, alternatives={"A": {"speed": 9, "price": None}, "B": {"speed": 1}}).json()
    assert hole["sure"] is hole["winner"] is None and hole["ranges"] == {"A": [4.5, 9.5], "B": [.5, 5.5]}
    for odd in ({}, {"weights": HALF, "alternatives": {}}, {"weights": {"speed": .9}, "alternatives": PAIR},
                {"weights": HALF, "alternatives": {"A": {"speed": -1}, "B": {}}},
                {"weights": {"speed": True}, "alternatives": PAIR},
                {"weights": HALF, "alternatives": PAIR, "around": 0}):
        assert ask(**odd).status_code == 422, odd
    assert needed_scope("POST", "/api/tech_selection") == "read" and needed_scope("POST", "/api/log_adr") == "write"


def test_the_command(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('[weights]\nspeed = 0.5\nprice = 0.5\n'
                    '[alternatives.A]\nspeed = 9\nprice = 4\n[alternatives.B]\nspeed = 6\nprice = 8\n')
    said = json.loads(CliRunner().invoke(app, ["decide", str(file), "--json"]).output)
    assert said["winner"] == "B" and said["tips"][0]["at"] == pytest.approx(4 / 7) and set(said["share_of_wins"]) == {"near", "any"}
    text = CliRunner().invoke(app, ["decide", str(file)]).output
    assert "B, by at least 0.5 over A" in text and "smallest change: speed from 50.0% to 57.1%, and A draws level" in text
    file.write_text(file.read_text().replace("price = 4", 'price = {score = 4, evidence = "no.such_run"}'))
    done = CliRunner().invoke(app, ["decide", str(file)])
    assert done.exit_code == 1 and isinstance(done.exception, LabError) and "no.such_run" in str(done.exception)
    file.write_text(file.read_text().replace('price = {score = 4, evidence = "no.such_run"}\n', ""))
    assert "open between A and B: not known: price of A" in CliRunner().invoke(app, ["decide", str(file)]).output


# ---- what a measurement is worth

def test_a_measurement_is_worth_at_most_the_truth_and_less_if_its_answers_are_blurred():
    rng = np.random.default_rng(9)
    for _ in range(200):
        n, k, r = rng.integers(1, 5, 3)
        prior = dict(zip(map(str, range(n)), rng.dirichlet(np.ones(n)), strict=True))
        payoffs = {f"o{i}": {s: float(x) for s, x in zip(prior, rng.normal(0, 9, n), strict=True)} for i in range(k)}
        says = {s: dict(zip(map(str, range(r)), rng.dirichlet(np.ones(r)), strict=True)) for s in prior}
        blur = rng.dirichlet(np.ones(r), r)                            # each answer is heard as another one now and then
        heard = {s: {str(j): sum(p * blur[int(a), j] for a, p in row.items()) for j in range(r)} for s, row in says.items()}
        known = value_of_knowing(prior, payoffs)
        worth, less = (value_of_measuring(prior, payoffs, answers) for answers in (says, heard))
        assert -1e-9 <= less <= worth + 1e-9 <= known + 2e-9
        sure = value_of_measuring(prior, payoffs, {s: {s: 1.0} for s in prior})
        assert sure == pytest.approx(known, abs=1e-9) and pick_option(prior, payoffs)[0] in payoffs

# ---- a decision over HTTP: the file and the audit log

GOOD = {"title": "Streams now", "context": "x", "options": "x", "decision": "x", "consequences": "x", "evidence": "none: a guess"}


@pytest.fixture(scope="module")
def shared(lab):
    migrate(lab)
    own = Store(lab, "decide").register()
    yield own
    own.forget()


@pytest.fixture
def store(shared):
    "A tenant whose folder is empty; its audit log is not."
    yield shared
    shutil.rmtree(find_logged(shared), ignore_errors=True)


def noted(store):
    said = "SELECT target, detail->>'sha256' FROM audit_entries WHERE action = 'adr.logged' ORDER BY id"
    return store.query(Query(said))


def test_a_decision_is_a_file_that_the_audit_log_knows(store):
    before, newer = len(noted(store)), {"title": "Kafka", "supersedes": ["0001"]}
    first, second = (log_record(store, RecordIn(**GOOD | more), "anna") for more in ({}, newer))
    assert [(d.number, d.supersedes) for _, d in read_logged(find_logged(store))] == [("0001", ()), ("0002", ("0001",))]
    assert noted(store)[before:] == [("0001 Streams now", first.sha256), ("0002 Kafka", second.sha256)]
    other = Store(store.lab, "decide-other").register()
    assert log_record(other, RecordIn(**GOOD), "eve").number == "0001" and len(noted(store)) == before + 2
    shutil.rmtree(find_logged(other))
    other.forget()


@pytest.mark.parametrize("more, status", [
    ({"number": "0001"}, 409), ({"supersedes": ["0009"]}, 422), ({"supersedes": ["0001"]}, 422),
    ({"evidence": "trust me"}, 422),
    ({"number": "0777", "supersedes": ["0777"]}, 422), ({"evidence": "`no.such.run`"}, 422),
    ({"decision": "x\n**Options**: y"}, 422)])
def test_what_is_no_record_leaves_nothing(store, more, status):
    for one in ({}, {"supersedes": ["0001"]}): log_record(store, RecordIn(**GOOD | one), "anna")
    before = len(noted(store)), sorted(find_logged(store).glob("*"))
    with pytest.raises(HTTPException) as no: log_record(store, RecordIn(**GOOD | more), "anna")
    assert no.value.status_code == status and (len(noted(store)), sorted(find_logged(store).glob("*"))) == before


def test_a_request_that_is_repeated_after_a_crash_writes_one_file(store, monkeypatch):
    before = len(read_logged(find_logged(store)))
    def full(*_, **__): raise OSError("no space left")
    with monkeypatch.context() as patch:
        patch.setattr(log_routes, "write_whole", full)
        with pytest.raises(OSError): log_record(store, RecordIn(**GOOD), "anna", "once-1")
    assert len(read_logged(find_logged(store))) == before
    done, again = (log_record(store, RecordIn(**GOOD), "anna", "once-1") for _ in range(2))
    assert done == again and len(read_logged(find_logged(store))) == before + 1 and noted(store)[-1][1] == done.sha256


def test_two_at_once_get_two_numbers(store):
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda i: log_record(store, RecordIn(**GOOD | {"title": f"Number {i}"}), "anna"), range(4))
        numbers = {x.number for x in made}
    there = [d.number for _, d in read_logged(find_logged(store))]
    assert len(numbers) == 4 and numbers <= set(there) and len(set(there)) == len(there)


def test_what_was_logged_can_be_read_back_and_shows_what_was_changed_since(store, monkeypatch):
    for more in ({}, {"title": "Kafka", "supersedes": ["0001"]}): log_record(store, RecordIn(**GOOD | more), "anna")
    file = find_logged(store) / "0002-kafka.md"
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: store)
    run = lambda *said: CliRunner().invoke(app, ["adr", "logged", *said])
    rows = json.loads(run("--json").output)
    assert [(r["number"], r["status"], r["as_logged"]) for r in rows] == [("0001", "superseded by 0002", "as logged"),
                                                                        ("0002", "accepted", "as logged")]
    assert "### ADR 0002: Kafka" in run("0002").output
    file.write_text(file.read_text().replace("**Options**: x", "**Options**: y"))
    (file.parent / "0003-mine.md").write_text(file.read_text().replace("ADR 0002", "ADR 0003").replace("**Supersedes**: 0001", ""))
    assert [r["as_logged"] for r in json.loads(run("--json").output)] == ["as logged", "changed", "not logged"]
    for said in (["0009"], ["../x"]):
        done = run(*said)
        assert done.exit_code == 1 and "was logged by" in str(done.exception)
    assert json.loads(run("--tenant", "decide-nobody", "--json").output) == []


# ---- the graph of decisions

def test_the_list_of_decisions_draws_which_leans_on_which(tmp_path):
    write_records(tmp_path / "nbs", ("0001", (), "none: x"), ("0002", (), "none: see ADR 0001"), ("0003", ("0002",), "none: x"),
                  ("0004", (), "none: x"))
    (page,) = [p for p in export(tmp_path / "nbs", tmp_path / "adr", tmp_path) if p.name == "README.md"]
    graph = page.read_text().partition("```mermaid\n")[2].partition("\n```")[0]
    assert "accDescr:" in graph and "0002 -.-> 0001" in graph and "0003 ==>|supersedes| 0002" in graph
    assert "superseded by 0003" in graph and "0004[" not in graph and "0004[" in draw_graph(decisions(tmp_path / "nbs"))
    own = listing(decisions())
    assert own.count("-.->") >= 3 and all(f"({d.slug}.md)" in own for d in decisions())
