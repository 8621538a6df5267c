"""A decision looked at again: chances that come true, doors that count, and a reversal that is a record."""

import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from fastapi import HTTPException

from rap_analyzer.core import LabError
from rap_analyzer.decide.adr import decisions, find_successors, parse
from rap_analyzer.decide.log_routes import find_logged
from rap_analyzer.decide.matrix import MODEL_SERVERS
from rap_analyzer.decide.worth import value_of_knowing
from rap_analyzer.frameworks.decisions import (
    DECISION_QUESTIONS,
    PREMISES,
    STAKES,
    Premise,
    Stakes,
    TechnicalDecisionFramework,
    chance_of,
    compose_reversal,
    find_margin,
    foresee,
    read_cited,
    review,
    review_decision,
)
from rap_analyzer.ledger import record
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.stats import compare_rounds

BOOK = {d.number: d for d in decisions()}
LITTLE = Stakes(regret=.5, switch=.1, back=.1)


@pytest.fixture
def run(tmp_path):
    "Record a figure, with its interval or without."
    def make(value, low=None, high=None, key="review.x"):
        more = {} if low is None else {"low": low, "high": high, "rounds": 30}
        return record(key, value, home=tmp_path, **more)
    return make


def test_chances_come_true(tmp_path):
    "Ratios drawn around the break-even, 30 noisy rounds of each: of the premises said to hold with 80 %, some 80 % do."
    rng, said, true = np.random.default_rng(85), [], []
    for i in range(1_500):
        ratio = float(np.exp(rng.normal(0, .1)))
        noise = rng.normal(0, .4, (2, 30))
        seen = compare_rounds("a", "b", ratio * np.exp(noise[0]), np.exp(noise[1]))
        if i < 3: assert record("review.sim", seen, home=tmp_path).low == seen.low
        run = type("R", (), {"p50": seen.value, "values": {"low": seen.low, "high": seen.high, "rounds": 30}, "low": seen.low})
        said.append(chance_of(Premise("review.sim", "", 1), run))
        true.append(ratio >= 1)
    said, true = np.array(said), np.array(true)
    for low, high in ((0, .25), (.25, .5), (.5, .75), (.75, 1.01)):
        here = (said >= low) & (said < high)
        assert here.sum() > 150 and abs(true[here].mean() - said[here].mean()) < .13, (low, here.sum(), true[here].mean())
    assert true[said > .9].mean() > .85 and true[said < .1].mean() < .15


def test_what_is_written_is_on_the_records_side():
    "The premises belong to records, cite what these cite, and held when they were recorded."
    assert set(PREMISES) == set(STAKES) <= set(BOOK)
    for number, premises in PREMISES.items():
        for p in premises:
            assert set(p.cited) <= set(BOOK[number].evidence), p
            if p.cited: assert (read_cited(p) >= p.break_even) == p.above, p
    assert any(p.cited for some in PREMISES.values() for p in some)


def test_the_verdict_follows_figure_door_and_price(run):
    d, at = BOOK["0006"], (Premise("review.x", "it is faster", 1.5),)
    sure, fallen, open_ = run(2.0, 1.8, 2.2), run(1.2, 1.1, 1.3), run(1.45, 1.25, 1.65)
    def say(r, stakes): return review(d, {"review.x": r}, at, stakes).action
    assert [say(r, LITTLE) for r in (sure, fallen)] == ["keep", "reverse"]
    assert say(open_, LITTLE) == "reverse" and say(open_, replace(LITTLE, back=40)) == "keep"
    assert say(open_, replace(LITTLE, regret=8)) == "measure more"
    assert say(open_, replace(LITTLE, regret=8, price=50)) == "reverse"
    assert say(run(1.0), LITTLE) == "reverse" and say(run(1.5), LITTLE) == "keep"                 # counts: no interval, no doubt
    assert say(run(1.49), Stakes(1e6, 0, 0, 0)) == "reverse"
    below = (Premise("review.x", "it is small", 1.5, above=False),)
    assert review(d, {"review.x": fallen}, below, LITTLE).action == "keep"
    two = (*at, Premise("review.y", "it is small", 3))
    both = review(d, {"review.x": sure, "review.y": run(2, 1.8, 2.2, "review.y")}, two, LITTLE)
    assert both.weakest.key == "review.y" and both.action == "reverse"                            # one fallen premise is enough


def test_a_dearer_way_back_never_opens_a_door_and_worth_has_a_ceiling(run):
    rng = random.Random(4)
    for _ in range(60):
        mid, wide = rng.uniform(.8, 1.25), rng.uniform(1.05, 1.5)
        r, at = run(mid, mid / wide, mid * wide), (Premise("review.x", "", 1),)
        one = Stakes(rng.choice([.5, 5, 50]), rng.choice([.1, 3]), 0, rng.choice([.1, 1]))
        stakes = [replace(one, back=back) for back in (0, 2, 200)]
        found = [review(BOOK["0006"], {"review.x": r}, at, s) for s in stakes]
        assert not any(a.action == "keep" and b.action == "reverse" for a, b in zip(found, found[1:], strict=False))
        for o in found:
            holds = o.chances["review.x"]
            assert 0 <= o.worth <= value_of_knowing({"holds": holds, "fell": 1 - holds}, o.stakes.payoffs) + 1e-9
        said = foresee(*find_margin(at[0], r))
        assert said["holds"]["holds"] >= .5 <= said["fell"]["fell"]


def test_what_cannot_be_reviewed_says_why(run, tmp_path):
    few = {"review.x": record("review.x", compare_rounds("a", "b", [2, 2, 3], [1, 1, 1]), home=tmp_path)}
    one, at = {"review.x": run(2, 1.8, 2.2)}, (Premise("review.x", "", 1),)
    for says, call in {"does not say at which figure": lambda: review(BOOK["0005"], one),
                       "not measured: review.x": lambda: review(BOOK["0006"], {}, at, LITTLE),
                       "six rounds at least": lambda: review(BOOK["0006"], few, at, LITTLE),
                       "a ratio above 0": lambda: review(BOOK["0006"], {"review.x": run(.5, -.1, 2)}, at, LITTLE),
                       "is not reversed": lambda: compose_reversal(review(BOOK["0006"], one, at, LITTLE), [])}.items():
        with pytest.raises(LabError, match=says): call()


def test_a_reversal_is_a_record_that_supersedes(run):
    at = (Premise("review.x", "a hit spares a third", 1.5),)
    text = compose_reversal(review(BOOK["0006"], {"review.x": run(1.0, .9, 1.1)}, at, LITTLE), list(BOOK.values()))
    made = parse(text)
    assert made.supersedes == ("0006",) and made.evidence == ("review.x",) and made.facts["Status"] == "proposed"
    assert find_successors([*BOOK.values(), made])["0006"] == made.number
    assert "two-way door" in made.parts["Decision"]


def test_the_review_is_prefilled(run):
    runs = {p.key: run(2.0, 1.8, 2.2, p.key) for p in PREMISES["0006"]}
    looked = review_decision(review(BOOK["0006"], runs), runs, MODEL_SERVERS, "Keep the cache?")
    text = looked.markdown()
    assert len(DECISION_QUESTIONS) == len(looked.unanswered) == 12 and text.count("> Measured: ") == 8
    assert "cache.indexed_over_hit" in text and "KServe, by at least 0.6" in text and "| 0006 |" in text
    without = review_decision(review(BOOK["0006"], runs), runs)
    assert without.markdown().count("> Measured: ") == 5


def test_the_class_of_the_original_works(lab, run):
    migrate(lab)
    mine = TechnicalDecisionFramework(Store(lab, "decision-review").register())
    shutil.rmtree(find_logged(mine.store), ignore_errors=True)
    tie = mine.tech_selection_matrix({"weights": {"speed": 1}, "alternatives": {"A": {"speed": 9}, "B": {"speed": 9}}})
    assert tie.winner is None and set(tie.first) == {"A", "B"}
    adr = {"title": "A", "context": "c", "options": "(1) A; (2) B.", "decision": "(1).", "consequences": "Good.",
           "evidence": "none: a matter of taste"}
    with pytest.raises(HTTPException): mine.log_adr(adr | {"evidence": "`no.such.run`"}, "me")
    logged = mine.log_adr(adr, "me")
    o = mine.review(logged.number, {"review.x": run(1.2, 1.1, 1.3)}, (Premise("review.x", "A is faster", 1.5),), LITTLE)
    assert o.action == "reverse" and o.decision.title == "A"
    with pytest.raises(LabError, match="no ADR 0042: logged are 0001"): mine.review("0042", {}, (), LITTLE)
    shutil.rmtree(find_logged(mine.store))
    mine.store.forget()
