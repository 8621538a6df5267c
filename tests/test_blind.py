"""The blind case: a case for each try, two in a row, and a guess does not pass."""

import itertools
import json

import pytest

from rap_analyzer.core import LabError, settings
from rap_analyzer.learn import copies, course, journal
from rap_analyzer.learn.judge import describe_checks
from rap_analyzer.learn.task import exercise, space_of

ID = "29.2"


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A learner who has just begun."
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    settings.cache_clear()
    copies.start(ID)
    return tmp_path


@pytest.fixture(scope="module")
def own():
    "What the checker defines."
    return space_of(exercise(ID).checker)


def answer(said):
    "Hand in, as an edited notebook would."
    file = copies.copy_of(ID)
    nb = json.loads(file.read_text(encoding="utf-8"))
    cell = next(c for c in nb["cells"] if "".join(c["source"]).startswith("#| task"))
    cell["source"] = f"#| task {ID}\nanswers = {said!r}"
    file.write_text(json.dumps(nb), encoding="utf-8")
    return course.check(ID)


def now(own): return own["which"](course.current_case(ID)[0])


def right(own, name): return own["CASES"][name]["right"], sorted(own["CASES"][name]["needs"][0])


def test_two_different_cases_in_a_row(home, own):
    assert course.check(ID).state == "not_attempted"
    first = now(own)
    assert f"Case {first}" in str(course.case(ID))
    v = answer({first: right(own, first)})
    assert v.state == "fail" and [c.ok for c in v.checks] == [True, True, False] and v.evidence["right"] == 1
    second = now(own)
    assert second != first and f"Case {second}" in str(course.case(ID))
    assert answer({first: right(own, first), second: right(own, second)}).state == "pass"
    assert journal.standing(ID, journal.events()).state == "pass"


def test_a_wrong_one_in_between_starts_anew(home, own):
    states = []
    for good in (True, False, True, True):
        name = now(own)
        states.append(answer({name: right(own, name) if good else ("cache", ["cpu", "latency"])}).state)
    assert states == ["fail", "fail", "fail", "pass"]


def test_an_answer_to_another_case_keeps_the_case_and_says_which(home, own):
    name = now(own)
    other = next(n for n in own["CASES"] if n != name)
    for bad in ({other: right(own, other)}, {name: "index"}, {name: ("index", ["plan"])}, {name: ("index", ["plan", "plan"])},
                {name: ("more", ["plan", "cpu"])}, {name: ("index", ["plan", "mood"])}, "index", None, {name: None}):
        v = answer(bad)
        assert v.state == "fail" and now(own) == name and f"Your case is {name}" in v.checks[-1].message, bad
    assert answer({name: right(own, name)}).evidence["right"] == 1


def test_no_habit_passes(own):
    "Whoever always does the same is never right twice in a row with reasons, in any order of any learner, more than rarely."
    orders = [[own["which"](1_000 * who + i) for i in range(6)] for who in range(300)]
    assert all(sorted(o) == sorted(own["CASES"]) for o in orders) and len({tuple(o) for o in orders}) > 100
    won = []
    for remedy in ("index", "cache", "leave", "other"):
        for pair in itertools.combinations(own["SEEN"], 2):
            ok = {n: own["about"](n, [remedy, list(pair)]).ok for n in own["CASES"]}
            assert sum(ok.values()) <= 2
            won += [any(ok[a] and ok[b] for a, b in itertools.pairwise(o)) for o in orders]
    assert sum(won) / len(won) < 0.03


def test_in_a_third_of_the_cases_the_famous_remedy_fails(own):
    rights = [c["right"] for c in own["CASES"].values()]
    assert len(rights) >= 6 and rights.count("index") <= 2 and "leave" in rights and "cache" in rights
    assert all(set(c["against"]) == {"index", "cache", "leave", "other"} - {c["right"]} for c in own["CASES"].values())


def test_the_recorded_figures_say_what_the_cases_say():
    recorded = json.loads((settings().root / "exercises" / "cases" / "29.json").read_text(encoding="utf-8"))
    r = recorded["cases"]
    assert all((c["latency"]["p95_ms"] <= 50) == (n == "report") for n, c in r.items())
    for n in ("missing", "uniform", "cast"):
        assert "Seq Scan" in r[n]["plan"]["nodes"] and r[n]["plan"]["read"] > 100 * r[n]["plan"]["returned"]
    for n in ("missing", "uniform"): assert r[n]["cache"]["different"] > 0.9 * r[n]["cache"]["asked"]
    assert r["uniform"]["cache"]["hits"] < 0.05 * r["uniform"]["cache"]["asked"] and r["uniform"]["cache"]["evicted"]
    assert r["chart"]["cache"]["different"] < 0.1 * r["chart"]["cache"]["asked"] and "Aggregate" in r["chart"]["plan"]["nodes"]
    assert r["hot_row"]["waits"]["Lock"] > 0.7 and r["hot_row"]["plan"]["indexes"] and r["hot_row"]["cpu"]["ms_each"] < 5
    assert r["report"]["statements"][0]["calls"] == 1 and r["report"]["plan"]["indexes"]
    assert all(r[n]["waits"]["running"] > 0.9 for n in ("missing", "chart", "uniform"))


def test_the_case_cannot_be_chosen(home, own):
    with pytest.raises(LabError, match="drawn anew for each try"): course.check(ID, seed=3)
    with pytest.raises(LabError, match="21.1 has no cases"): course.case("21.1")


@pytest.mark.parametrize("name", ["19.1", "29.2"])
def test_the_experiment_fits_the_case(name):
    ex = exercise(name)
    own = space_of(ex.checker)
    for letter, about in own["CASES"].items():
        assert set(own["TRY"][letter]) == set(about["against"]) == {*own["REMEDIES"], "other"} - {about["right"]}
        for remedy in about["against"]:
            cues = sorted(own["SEEN"])[:2]
            found = list(describe_checks(ex, [own["about"](letter, [remedy, cues])]))
            assert own["TRY"][letter][remedy] in found[0].message and found[0].belief == remedy
