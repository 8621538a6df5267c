"""The blind case of the analyzer: its recorded figures say what its cases say, and no habit passes."""

import itertools
import json

import pytest

from rap_analyzer.core import settings
from rap_analyzer.learn.task import exercise, space_of

@pytest.fixture(scope="module")
def own():
    "What the checker defines."
    return space_of(exercise("19.1").checker)


def recorded(number):
    "What scripts/record_hearing.py wrote."
    return json.loads((settings().root / "exercises" / "cases" / f"{number}.json").read_text(encoding="utf-8"))


def test_no_habit_passes(own):
    "Whoever always does the same is right twice in a row with reasons rarely, in any order of any learner."
    orders = [[own["which"](1_000 * who + i) for i in range(6)] for who in range(300)]
    assert all(sorted(o) == sorted(own["CASES"]) for o in orders) and len({tuple(o) for o in orders}) > 100
    won = []
    for remedy in ("train", "input", "leave", "other"):
        for pair in itertools.combinations(own["SEEN"], 2):
            ok = {n: own["about"](n, [remedy, list(pair)]).ok for n in own["CASES"]}
            assert sum(ok.values()) <= 1, (remedy, pair)
            won += [any(ok[a] and ok[b] for a, b in itertools.pairwise(o)) for o in orders]
    assert not any(won)


def test_the_famous_remedy_fails_more_often_than_not(own):
    rights = [c["right"] for c in own["CASES"].values()]
    assert len(rights) >= 6 and rights.count("train") == 1 and "leave" in rights
    assert all(set(c["against"]) == {"train", "input", "leave", "other"} - {c["right"]} for c in own["CASES"].values())
    assert all(own["about"](n, [c["right"], sorted(pair)]).ok for n, c in own["CASES"].items() for pair in c["needs"])


def test_every_case_can_be_shown(own):
    for i in range(6):
        text = own["show"](7_000 + i)
        assert text.startswith("### Case") and all(f"`{n}`" in text for n in (*own["SEEN"], *own["REMEDIES"], "other"))


def test_the_recorded_figures_say_what_the_cases_say():
    cases = recorded(19)["cases"]
    near = lambda u, want=1.0: abs(u["ratio"] / want - 1) <= 0.04
    new = {name: [u for u in c["uploads"] if u["group"] == "new"] for name, c in cases.items()}
    assert all(near(u) for c in cases.values() for u in c["uploads"] if u["group"] == "known")
    assert all(near(u, 0.5) for u in new["prior"]) and cases["prior"]["changed"] == len(new["prior"])
    assert all(c["changed"] == 0 for name, c in cases.items() if name != "prior")
    assert all(abs(u["ratio"] - 22_050 / 24_000) < 0.005 and u["seconds"] > 1.05 * u["noted"] for u in new["rate"])
    assert all(near(u) for u in new["fine"] + new["long"])
    assert all(u["read"] + u["listen"] > 1_000 for u in new["long"])
    assert all(u["read"] + u["listen"] < 1_000 for name, c in cases.items() for u in c["uploads"] if u["noted"] < 60)
    wrong = [u for u in new["sevens"] if not near(u)]
    assert len(wrong) >= 5 and max(u["ratio"] for u in wrong) > 1.3 * min(u["ratio"] for u in wrong)
    assert all(u["sure"] < 0.6 for u in wrong)
    assert all(u["ratio"] == 0 and u["mix"] <= -100 < -30 < u["left"] and u["channels"] == 2 for u in new["against"])


def test_peaks_alone_do_not_decide_and_two_cues_do():
    "The styles of 13.1: the tallest peak fails a whole style, a snare on every second beat fails one as well."
    tracks = recorded(13)["tracks"]
    share = lambda style, f: [abs(f(t) / t["bpm"] - 1) <= 0.04 for t in tracks if t["style"] == style]
    assert not any(share("trap", lambda t: t["peaks"][0][0])) and not any(share("trap", lambda t: 120 / t["snare"]))
    for style in ("boom bap", "g-funk", "lo-fi", "crunk"): assert all(share(style, lambda t: 120 / t["snare"])), style
    assert all(0.45 < t["hat"] * t["bpm"] / 60 < 0.55 for t in tracks if t["style"] == "trap")
