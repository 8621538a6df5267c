"""The fraud score: kinds of bots that nothing has seen, the same score online and offline, and a session that stays small."""
import pickle
from functools import cache

import numpy as np
import pytest

from rap_analyzer.product.audience import simulate
from rap_analyzer.product.fraud import (
    FEATURES,
    Costs,
    Trail,
    Watch,
    choose_threshold,
    default_reference,
    draw_bots,
    find_peaks,
    learn_people,
    make_reference,
    score_events,
    split_sessions,
    trace,
    weigh_thresholds,
    write_reference,
)
from rap_analyzer.product.people import BOTS

@cache
def people(seed): return tuple(trace(s) for s in split_sessions(simulate(3, 400, seed))[""])


@cache
def bots(seed): return {kind: [trace(s) for s in some] for kind, some in draw_bots(60, 1, seed).items()}


@pytest.mark.parametrize("unseen", BOTS)
@pytest.mark.parametrize("seed", [11, 12])
def test_a_kind_that_nothing_has_seen(seed, unseen):
    ref = learn_people(people(100 * seed))
    known = [score_events(ref, s) for kind in BOTS if kind != unseen for s in bots(seed)[kind]]
    alarm = choose_threshold(weigh_thresholds(find_peaks(ref, people(100 * seed + 1)), known))
    assert (find_peaks(ref, bots(seed)[unseen]) > alarm).mean() >= .9
    assert (find_peaks(ref, people(100 * seed + 2)) > alarm).mean() <= .01


def test_the_reference_of_the_package_is_what_is_learned_and_fits_other_people():
    assert write_reference(make_reference()) == write_reference(default_reference())
    ref = default_reference()
    assert (find_peaks(ref, people(991)) > ref.threshold).mean() <= .01
    assert all((find_peaks(ref, s) > ref.threshold).mean() >= .9 for s in bots(5).values())


def test_online_is_offline_and_an_alarm_stays():
    sessions = [s for some in draw_bots(6, 1, 3).values() for s in some] + split_sessions(simulate(2, 60, 4))[""][:40]
    for s in sessions:
        watch, offline = Watch(), score_events(default_reference(), trace(s))
        online = [watch.add(*a) for a in s]
        assert online == pytest.approx(offline, abs=1e-9)
        assert watch.flagged == (offline.max() > watch.ref.threshold) and watch.judge().flagged == watch.flagged


def test_a_session_stays_small_however_long_it_is():
    t, sizes = Trail(), []
    for i in range(20_000):
        t.add("play", i, 1e12 + 1_000.0 * i)
        if i in (5_000, 19_999): sizes.append(len(pickle.dumps(t)))
    assert sizes[1] <= sizes[0] + 8 and t.features()[2] < .6                  # the bitmap is full: it can only undercount


def test_reasons_name_what_a_bot_does_and_people_have_few():
    said = {kind: Watch().judge(s[0]).reasons for kind, s in draw_bots(3, 1, 1).items()}
    assert "same track" in " ".join(said["looper"]) or "very few tracks" in said["looper"][0]
    assert "regular as a clock" in " ".join(said["scraper"]) and "did not play" in said["booster"][0]
    verdicts = [Watch().judge(s) for s in split_sessions(simulate(2, 100, 8))[""]]
    assert np.mean([v.flagged for v in verdicts]) <= .01 and all(v.reasons or not v.flagged for v in verdicts)


@pytest.mark.parametrize("actions", [[], [("search", None, 0.0)], [("play", 1, 5e12), ("play", 2, 0.0)],
                                     [("like", 2**63 - 1, 0.0)]])
def test_odd_sessions_have_a_finite_score(actions):
    v = Watch().judge(actions)
    assert np.isfinite(v.score) and v.events == len(actions) and len(v.reasons) <= 3


def test_a_page_is_one_moment_and_a_clock_that_goes_back_stands_still():
    page = Trail()
    for track in range(10): page.add("impression", track, 1_000.0)
    assert page.gaps == 0 and page.shown == 10
    assert Trail().add("play", 1, 9_000.0).add("play", 2, 5_000.0).add("play", 3, 9_000.0).gaps == 0


def test_a_dearer_alarm_is_given_less_often():
    ref, seen = learn_people(people(1100)), bots(11)
    peaks, scores = find_peaks(ref, people(1101)), [score_events(ref, s) for k in BOTS for s in seen[k]]
    low, high = (choose_threshold(weigh_thresholds(peaks, scores, Costs(alarm=a))) for a in (1, 5_000))
    table = weigh_thresholds(peaks, scores)
    assert low < high and (np.diff(table["false_alarms"]) <= 0).all() and (np.diff(table["caught"]) <= 0).all()
    by_hand = .01 * np.mean([next((i for i, x in enumerate(s) if x > 3), len(s)) for s in scores]) + .99 * 500 * (peaks > 3).mean()
    assert weigh_thresholds(peaks, scores, thresholds=[3.0])["cost"][0] == pytest.approx(by_hand)


def test_bots_that_pass_for_people_are_learned_in_long_sessions():
    "The limit that the notebook names: it has to be known, not hoped away."
    clean, mixed = learn_people(people(1100)), learn_people([*people(1100), *bots(12)["looper"][:8]])
    caught = [(find_peaks(ref, bots(11)["looper"]) > 3.5).mean() for ref in (clean, mixed)]
    assert caught[0] >= .9 > caught[1] and clean.middle.shape == (8, len(FEATURES))
    assert np.nanmax(np.abs(clean.middle[:4] - mixed.middle[:4])) < .1                              # short ones are as before


@pytest.mark.parametrize("wrong", [lambda: learn_people([]), lambda: Costs(alarm=0), lambda: Costs(share=1),
                                   lambda: Costs(share=float("nan")), lambda: weigh_thresholds(np.array([]), [np.ones(3)])])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"): wrong()
