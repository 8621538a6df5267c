"""The blind case: a case for each try, two in a row, and a guess does not pass."""

import importlib.util
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


@pytest.mark.parametrize("name", ["19.1", "29.2", "31.16", "33.10"])
def test_the_experiment_fits_the_case(name):
    ex = exercise(name)
    own = space_of(ex.checker)
    for letter, about in own["CASES"].items():
        assert set(own["TRY"][letter]) == set(about["against"]) == {*own["REMEDIES"], "other"} - {about["right"]}
        for remedy in about["against"]:
            cues = sorted(own["SEEN"])[:2]
            found = list(describe_checks(ex, [own["about"](letter, [remedy, cues])]))
            assert own["TRY"][letter][remedy] in found[0].message and found[0].belief == remedy


# ---- the blind case of the Systems chapter

@pytest.fixture(scope="module")
def queues():
    "What the checker of 31.16 defines."
    return space_of(exercise("31.16").checker)


def test_no_habit_passes_the_queues(queues):
    orders = [[queues["which"](1_000 * who + i) for i in range(7)] for who in range(300)]
    assert all(sorted(o) == sorted(queues["CASES"]) for o in orders) and len({tuple(o) for o in orders}) > 100
    won = []
    for remedy in (*queues["REMEDIES"], "other"):
        for pair in itertools.combinations(queues["SEEN"], 2):
            ok = {n: queues["about"](n, [remedy, list(pair)]).ok for n in queues["CASES"]}
            assert sum(ok.values()) <= 2
            won += [any(ok[a] and ok[b] for a, b in itertools.pairwise(o)) for o in orders]
    assert sum(won) / len(won) < 0.03


def test_more_workers_fail_in_most_of_the_queues(queues):
    rights = [c["right"] for c in queues["CASES"].values()]
    assert len(rights) >= 6 and rights.count("workers") <= len(rights) / 3 and {"leave", "refuse"} <= set(rights)
    for name, c in queues["CASES"].items():
        assert set(c["against"]) == {*queues["REMEDIES"], "other"} - {c["right"]}
        assert all(queues["about"](name, [c["right"], sorted(need)]).ok for need in c["needs"]) and "Case " + name in str(
            next(queues["show"](seed) for seed in range(7) if queues["which"](seed) == name))


def test_the_recorded_queues_say_what_the_cases_say():
    recorded = json.loads((settings().root / "exercises" / "cases" / "31.json").read_text(encoding="utf-8"))["cases"]
    for n, r in recorded.items():
        wanted = r["processor"]["ran"] + r["processor"]["ready"]
        assert wanted > .85 if n in ("partner", "button") else wanted < .25, n
        assert (r["waits"]["locked"] > r["processor"]["workers"] / 2) == (n == "summary"), n
        assert (r["promise"]["in_time"] >= .95 * r["promise"]["accepted"]) == (n == "night"), n
        assert (r["queue"][-1] > 1.5 * max(5, r["queue"][0])) == (n != "night") and (n != "night" or not r["queue"][-1]), n
        assert (r["attempts"]["attempts"] > 2 * r["promise"]["done"]) == (r["attempts"]["reason"] is not None) == (n == "gone"), n
        assert (r["inputs"]["different"] < .1 * r["inputs"]["of"]) == (n == "button"), n


# ---- months (32.13)

@pytest.fixture(scope="module")
def months(): return space_of(exercise("32.13").checker)


def test_no_constant_answer_passes_the_months(months):
    names = sorted(months["CASES"])
    for seed in range(0, 40_000, 1_000):
        order = [months["which"](seed + n) for n in range(6)]
        assert set(order) == set(names)
        rights = [months["CASES"][n]["right"] for n in order]
        assert all(a != b for a, b in itertools.pairwise(rights))
    assert {c["right"] for c in months["CASES"].values()} == {"speed", "filter", "leave"}         # the famous remedy never helps
    for name, c in months["CASES"].items():
        assert set(c["against"]) == {*months["REMEDIES"]} - {c["right"]}
        assert months["about"](name, [c["right"], [c["by"], "skips"]]).ok
        assert not months["about"](name, [c["right"], ["plays", c["by"]]]).ok


def test_the_recorded_months_say_what_the_cases_say():
    recorded = json.loads((settings().root / "exercises" / "cases" / "32.json").read_text(encoding="utf-8"))["cases"]
    for n, pair in recorded.items():
        a, b = pair["before"], pair["now"]
        assert b["plays"]["per_day"] > 1.2 * a["plays"]["per_day"] and b["retention"]["share"] < .92 * a["retention"]["share"], n
        assert (b["complete"]["share"] < .9 * a["complete"]["share"]) == (n in ("slow", "some", "mix")), n
        assert (b["waits"]["gone"] > 3 * a["waits"]["gone"]) == (n in ("slow", "some")), n
        assert (b["waits"]["p50_ms"] > 3 * a["waits"]["p50_ms"]) == (n == "slow"), n
        assert (b["accounts"]["one_track"] > 10) == (n == "machines") and b["skips"]["share"] < 1.02 * a["skips"]["share"], n
        assert (b["complete"]["had_third_week"] < .5 * b["complete"]["of"]) == (n == "young"), n
        same = [abs(b["personas"][p]["share"] - a["personas"][p]["share"]) < .04 for p in a["personas"]]
        assert all(same) == (n == "mix"), n


# ---- rankings (32.23)

@pytest.fixture(scope="module")
def rankings(): return space_of(exercise("32.23").checker)


def test_no_constant_answer_passes_the_rankings(rankings):
    names = sorted(rankings["CASES"])
    for seed in range(0, 40_000, 1_000):
        order = [rankings["which"](seed + n) for n in range(6)]
        assert set(order) == set(names)
        rights = [rankings["CASES"][n]["right"] for n in order]
        assert all(a != b for a, b in itertools.pairwise(rights))
    assert {c["right"] for c in rankings["CASES"].values()} == {"speed", "fresh", "weigh", "leave"}
    for name, c in rankings["CASES"].items():
        assert set(c["against"]) == {*rankings["REMEDIES"]} - {c["right"]}
        assert rankings["about"](name, [c["right"], [c["by"], "split"]]).ok
        assert not rankings["about"](name, [c["right"], ["online", c["by"]]]).ok
        assert f"### Case {name}" in next(rankings["show"](s) for s in range(9) if rankings["which"](s) == name)


def test_the_recorded_rankings_say_what_the_cases_say():
    recorded = json.loads((settings().root / "exercises" / "cases" / "32_recommend.json").read_text(encoding="utf-8"))["cases"]
    for n, r in recorded.items():
        old, new, on = r["offline"]["old"], r["offline"]["new"], r["online"]
        assert new["replay"] > 1.01 * old["replay"] and on["effect"] < 0 and on["srm"] > .05, n          # up offline, down online
        assert (new["weighted"][2] < old["weighted"][0]) == (n == "replay"), n
        assert (new["weighted"][1] > old["weighted"][0]) == (n != "replay"), n
        assert (r["waits"]["new"]["gone"] > 3 * r["waits"]["old"]["gone"]) == (n in ("slow", "some")), n
        assert (r["waits"]["new"]["p50_ms"] > 3 * r["waits"]["old"]["p50_ms"]) == (n == "slow"), n
        assert (r["repeats"]["new"]["shown_again"] > 1.5 * r["repeats"]["old"]["shown_again"]) == (n == "again"), n
        assert (on["any_time"][1] > 0) == (r["days"] < r["planned"]) == (n == "early"), n
        assert (on["high"] > 0) == (n == "early"), n


# ---- one slow team among ten (33.10)

@pytest.fixture(scope="module")
def teams(): return space_of(exercise("33.10").checker)


def test_no_habit_passes_the_teams(teams):
    orders = [[teams["which"](1_000 * who + i) for i in range(6)] for who in range(300)]
    assert all(sorted(o) == sorted(teams["CASES"]) for o in orders) and len({tuple(o) for o in orders}) > 100
    won = []
    for remedy in (*teams["REMEDIES"], "other"):
        for pair in itertools.combinations(teams["SEEN"], 2):
            ok = {n: teams["about"](n, [remedy, list(pair)]).ok for n in teams["CASES"]}
            assert sum(ok.values()) <= 2
            won += [any(ok[a] and ok[b] for a, b in itertools.pairwise(o)) for o in orders]
    assert sum(won) / len(won) < 0.03


def test_the_famous_remedies_fail_for_most_teams(teams):
    rights = [c["right"] for c in teams["CASES"].values()]
    assert rights.count("quota") == 1 and "cache" not in rights and {"leave", "index", "other"} <= set(rights)
    for name, c in teams["CASES"].items():
        assert all(teams["about"](name, [c["right"], sorted(need)]).ok for need in c["needs"])
        assert not any("callers" in need for need in c["needs"])                              # the alarm is no reason
        assert f"### Case {name}" in next(teams["show"](s) for s in range(6) if teams["which"](s) == name)


def test_the_recorded_teams_say_what_the_cases_say():
    made = json.loads((settings().root / "exercises" / "cases" / "33.json").read_text(encoding="utf-8"))
    for n, r in made["cases"].items():
        def times(what, r=r): return r[what]["team"]["p50_ms"] / r[what]["others"]["p50_ms"]
        a, q = r["answers"]["team"], r["questions"]["team"]
        # all are slow for their callers, two of them not in the service
        assert times("callers") > 1.4 and not a["failed"] and not r["answers"]["others"]["refused"], n
        assert (times("service") < 1.4) == (n in ("moved", "script")), n
        assert (a["refused"] > a["answered"]) == (n == "script") and (a["refused"] > 0) == (n in ("script", "morning")), n
        assert (r["locks"]["waiting"] > 1) == (n == "plays") and (r["locks"]["waiting"] < .1) == (n != "plays"), n
        assert (r["pool"]["team"]["p95_ms"] > 20) == (n in ("morning", "plays")) and r["pool"]["others"]["p50_ms"] == 0, n
        assert (r["changes"]["team"] > 50) == (n == "catalog") and (r["changes"]["team"] > 0) == (n == "catalog"), n
        assert (r["cache"]["team"] < r["cache"]["others"] - .1) == (n in ("catalog", "morning")), n
        assert (q["different"] > .6 * q["asked"]) == (n in ("artist", "morning", "plays")), n
        ours, theirs = (r["plan"][who]["buffers"] for who in ("team", "another"))
        assert (ours > 2 * theirs) == (n == "artist") and (ours == theirs) == (n != "artist"), n
        assert (r["plan"]["team"]["indexes"] == ["tracks_artist"]) == (n != "artist"), n
    late = {n: r["callers"]["others"]["p95_ms"] for n, r in made["cases"].items()}
    assert late.pop("morning") > 3 * max(late.values())                                             # a crowd that others notice
    assert made["tracks"]["team"] == 20 * made["tracks"]["another"]
    writes = made["cases"]["plays"]
    assert writes["callers"]["team"]["calls"] > 2 * writes["questions"]["team"]["asked"]


# ---- finished plays (35.8)

@pytest.fixture(scope="module")
def plays(): return space_of(exercise("35.8").checker)


def test_no_constant_answer_passes_the_plays(plays):
    names = sorted(plays["CASES"])
    for seed in range(0, 40_000, 1_000):
        order = [plays["which"](seed + n) for n in range(5)]
        assert set(order) == set(names) and all(
            plays["CASES"][a]["right"] != plays["CASES"][b]["right"] for a, b in itertools.pairwise(order))
    rights = [c["right"] for c in plays["CASES"].values()]
    assert set(rights) == set(plays["REMEDIES"]) and max(rights.count(r) for r in rights) <= 2
    for name, c in plays["CASES"].items():
        assert set(c["against"]) == {*plays["REMEDIES"]} - {c["right"]}
        assert not plays["about"](name, [c["right"], ["finished", c["by"]]]).ok
        assert f"Case {name}" in next(plays["show"](seed) for seed in range(5) if plays["which"](seed) == name)


def test_the_recorded_plays_say_what_the_cases_say():
    recorded = json.loads((settings().root / "exercises" / "cases" / "35.json").read_text(encoding="utf-8"))["cases"]
    for n, pair in recorded.items():
        a, b = pair["before"], pair["now"]
        assert b["finished"] < a["finished"] and (b["finished"] < .95 * a["finished"]) == (n != "lucky"), n
        assert (b["clicks"] > 1.1 * a["clicks"]) == (b["covers"]["speakers"]["shown"] > .8) == n.startswith("clicks"), n
        assert (b["late"] > .05) == (n == "rare") and all(b["p95_ms"][p] < 1.3 * ms for p, ms in a["p95_ms"].items()) == (
            n != "clicks_slower"), n
        assert (b["quarter"]["promised"] > 2 * b["quarter"]["held_back"][2]) == (n == "lucky"), n
        low = [now < .95 * was for was, now in zip(a["weeks"], b["weeks"], strict=True)]
        assert {"lucky": not any(low), "new": low[0] and not any(low[1:])}.get(n, low[-1]), n


# ---- tables (34.8)

@pytest.fixture(scope="module")
def tables(): return space_of(exercise("34.8").checker)


def test_no_habit_passes_the_tables(tables):
    orders = [[tables["which"](1_000 * who + i) for i in range(7)] for who in range(300)]
    assert all(sorted(o) == sorted(tables["CASES"]) for o in orders) and len({tuple(o) for o in orders}) > 100
    won = []
    for remedy in tables["REMEDIES"]:
        for pair in itertools.combinations(tables["SEEN"], 2):
            ok = {n: tables["about"](n, [remedy, list(pair)]).ok for n in tables["CASES"]}
            assert not any(ok[a] and ok[b] for o in orders for a, b in itertools.pairwise(o))
            won.append(sum(ok.values()))
    assert max(won) <= 3


def test_more_data_helps_in_one_of_the_tables(tables):
    rights = [c["right"] for c in tables["CASES"].values()]
    assert len(rights) >= 6 and rights.count("measure") <= len(rights) / 3 and set(rights) == set(tables["REMEDIES"])
    for name, c in tables["CASES"].items():
        assert set(c["against"]) == {*tables["REMEDIES"]} - {c["right"]} and not c["by"] & tables["ALARM"]
        other = next(x for x in tables["SEEN"] if x not in c["by"] | tables["ALARM"])
        assert all(tables["about"](name, [c["right"], [by, other]]).ok for by in c["by"])
        assert not tables["about"](name, [c["right"], [min(c["by"]), "totals"]]).ok
        assert f"### Case {name}" in next(tables["show"](s) for s in range(9) if tables["which"](s) == name)


def test_the_recorded_tables_are_computed_and_say_what_the_cases_say(tables):
    "The file is what the recorder makes of the reference runs today, and one rule leads to each right answer."
    recorded = json.loads((settings().root / "exercises" / "cases" / "34.json").read_text(encoding="utf-8"))["cases"]
    spec = importlib.util.spec_from_file_location("decision_cases", settings().root / "scripts" / "record_decision_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.stage() == recorded
    for c in tables["CASES"].values():
        r = recorded[c["recorded"]]
        worth = {k: r[k]["worth_days"] - r[k].get("price_days", r[k].get("costs_days")) for k in ("measuring", "waiting")}
        open_ = "not agreed" in r["weights"]["agreed"] and r["weights"]["wins_near"] < .8
        held = [worth["waiting"] > 1, worth["measuring"] > 1, open_]
        assert sum(held) <= 1 and (sum(held) == 0) == (c["right"] == "choose")
        assert c["right"] == next((name for name, yes in zip(("later", "measure", "weights"), held, strict=True) if yes), "choose")
