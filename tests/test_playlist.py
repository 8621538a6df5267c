"""Playlists: prices that can be argued with, orders that are the cheapest, and a route that refuses what it should."""
from itertools import permutations

import httpx
import numpy as np
import pytest

from rap_analyzer.app import create_app
from rap_analyzer.music import catalog
from rap_analyzer.recommend.playlist import (
    ARCS,
    EXACT,
    MOST,
    Facts,
    camelot,
    find_facts,
    improve,
    mix,
    order_facts,
    place_prices,
    solve_exact,
    solve_greedy,
    solve_near,
    steps,
    total,
)
from rap_analyzer.web import serving

def some(start, n): return [find_facts(t) for t in catalog.make_block(start, start + n)]


@pytest.mark.parametrize(("key", "place"), [("A minor", (8, 0)), ("Am", (8, 0)), ("C major", (8, 1)), ("Eb minor", (2, 0)),
                                            ("F# major", (2, 1)), ("D minor", (7, 0)), ("Cb major", (1, 1))])
def test_the_wheel(key, place): assert camelot(key) == place


def test_neighbours_on_the_wheel_are_fifths_and_relatives():
    at = {k: camelot(f"{k} major")[0] for k in catalog.KEYS}
    fifth = lambda k: catalog.KEYS[(catalog.KEYS.index(k) + 7) % 12]
    assert sorted(at.values()) == list(range(1, 13)) and all(at[fifth(k)] == at[k] % 12 + 1 for k in at)
    assert all(camelot(f"{catalog.KEYS[(catalog.KEYS.index(k) + 9) % 12]} minor") == (at[k], 0) for k in at)


@pytest.mark.parametrize("key", ["C#", "H minor", "", "8A", "C minor;"])
def test_a_key_that_is_none(key):
    with pytest.raises(ValueError, match="key"): camelot(key)


def test_a_price_has_three_parts_and_no_direction():
    parts = steps([Facts(0, 70, (12, 0), 0.), Facts(1, 141, (1, 1), 1.), Facts(2, 74.2, (6, 0), .5)])
    assert (parts == parts.transpose(0, 2, 1)).all() and (np.diagonal(parts, axis1=1, axis2=2) == 0).all()
    assert parts[0, 0, 1] < .7 and parts[:, 0, 1][1:].tolist() == pytest.approx([2, 3])  # half or double is near; 12 is next to 1
    assert parts[0, 0, 2] == pytest.approx(np.log(1.06) / .06) and parts[1, 0, 2] == 6


def test_what_is_not_known_costs_the_mean():
    known = steps([Facts(0, 70, (1, 0), .2), Facts(1, 90, (3, 0), .4), Facts(2, 80, (6, 1), .9)])
    lacks = steps([Facts(0, 70, (1, 0), .2), Facts(1, 90, (3, 0), .4), Facts(2, 80, None, .9), Facts(3, None, None, None)])
    assert np.isfinite(lacks).all() and lacks[1, 0, 2] == known[1, 0, 1] == lacks[1, 2, 3]
    assert (steps([Facts(0, None, None, None), Facts(1, None, None, None)]) == 0).all()


@pytest.mark.parametrize("arc", ARCS)
@pytest.mark.parametrize("ends", [(None, None), (2, None), (None, 0), (3, 5)])
def test_the_exact_order_is_the_cheapest_of_all(arc, ends):
    facts = some(40, 7)
    C, A = steps(facts).sum(0), place_prices(facts, *ends, arc)
    order = solve_exact(C, A)
    assert total(order, C, A) == pytest.approx(min(total(o, C, A) for o in permutations(range(7))))
    assert sorted(order) == list(range(7)) and order[0] == (order[0] if ends[0] is None else ends[0])
    assert order[-1] == (order[-1] if ends[1] is None else ends[1])


@pytest.mark.parametrize("seed", range(8))
def test_the_good_order_is_close_to_the_best_and_keeps_its_ends(seed):
    facts = some(500 + 20 * seed, 11)
    C, A = steps(facts).sum(0), place_prices(facts, 4, 9, "arch")
    near = solve_near(C, A)
    assert sorted(near) == list(range(11)) and (near[0], near[-1]) == (4, 9)
    assert total(solve_exact(C, A), C, A) - 1e-9 <= total(near, C, A) <= 1.15 * total(solve_exact(C, A), C, A)


def test_improving_never_makes_it_dearer():
    rng = np.random.default_rng(5)
    for n in (2, 3, 4, 5, 30):
        C, A = (lambda X: X + X.T)(rng.random((n, n))), rng.random((n, n))
        before = solve_greedy(C, A, 0)
        after = improve(before, C, A)
        assert sorted(after) == list(range(n)) and total(after, C, A) <= total(before, C, A) + 1e-9


def test_over_many_lists_the_order_beats_greedy_and_random():
    rows = []
    for i in range(40):
        facts = some(1_000 + 20 * i, 20)
        C, A = steps(facts).sum(0), np.zeros((20, 20))
        rows.append([total(o, C, A) for o in (range(20), solve_greedy(C, A, 0), solve_near(C, A, 4))])
    rows = np.array(rows)
    again = rows[np.random.default_rng(1).integers(40, size=(1_000, 40))].mean(1)
    low = np.quantile(again[:, :2] / again[:, 2:], .025, axis=0)
    assert low[0] > 1.5 and low[1] > 1.02 and (rows[:, 2] <= rows[:, 1] + 1e-9).all()


@pytest.mark.parametrize(("n", "method"), [(1, "exact"), (2, "exact"), (EXACT, "exact"), (EXACT + 1, "near"), (MOST, "near")])
def test_any_size_up_to_the_limit(n, method):
    p = order_facts(some(0, n), start=n - 1)
    assert sorted(p.ids) == list(range(n)) and p.ids[0] == n - 1 and len(p.steps) == n - 1 and p.method == method
    assert p.cost <= p.random + 1e-9


def test_a_mix_is_as_long_as_it_should_be_and_has_no_hole():
    tracks = catalog.make_block(3, 6)
    clip = mix(tracks, 2, sr=8_000)
    each = [(max(8, 4 * round(2 / (60 / t.bpm) / 4)), 60 / t.bpm) for t in tracks]
    expected = sum((n - 4) * beat for n, beat in each) + 4 * each[-1][1]
    assert clip.seconds == pytest.approx(expected, abs=.01) and np.abs(clip.samples).max() <= 1
    power = np.array([np.mean(part**2) for part in np.array_split(clip.samples[:-2_000], round(clip.seconds))])
    assert power.min() > .1 * power.mean()
    with pytest.raises(ValueError, match="at least one"): mix([])


@pytest.fixture(scope="module")
def ask(small):
    with serving(create_app(small)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield lambda **params: client.get("/api/playlist", params=params)


def test_the_route_orders_and_explains(ask):
    said = ask(ids="5,6,7,8,9", start=7, arc="rise").json()
    assert said["method"] == "exact" and said["tracks"][0]["track_id"] == 7 and said["tracks"][0]["step"] is None
    assert said["cost"] == pytest.approx(sum(sum(t["step"].values()) for t in said["tracks"][1:]), abs=.01)
    assert {t["title"] for t in said["tracks"]} == {t.title for t in catalog.tracks(5, 10)}
    alike = ask(track_id=42, k=30).json()
    assert alike["tracks"][0]["track_id"] == 42 and len(alike["tracks"]) == 30 and alike["cost"] < alike["random_cost"]


@pytest.mark.parametrize(("params", "status", "says"), [
    ({}, 422, "ids"), ({"ids": "1,1"}, 422, "comes twice"), ({"ids": "1,2", "end": 3}, 422, "not in it"),
    ({"ids": "1,2", "start": 1, "end": 1}, 422, "first and the last"), ({"ids": "1,2", "arc": "up"}, 422, "arc"),
    ({"ids": ",".join(map(str, range(1_000)))}, 422, "100"), ({"ids": "1,99999"}, 404, "99999"),
    ({"track_id": 99_999}, 404, "99999"),
    ({"ids": "intro"}, 422, "ids"), ({"track_id": 42, "k": 1}, 422, "k"), ({"ids": "1,2", "order": "x"}, 422, "order")])
def test_the_route_refuses_with_a_sentence(ask, params, status, says):
    r = ask(**params)
    assert r.status_code == status and says in r.text and "Traceback" not in r.text


def test_one_track_and_unknown_facts(ask, small):
    assert ask(ids="5").json()["cost"] == 0
    assert ask(ids="5").json()["tracks"][0]["step"] is None
    p = order_facts([Facts(i, 90, None if i % 2 else (1, 0), None) for i in range(14)])
    assert len(p.notes) == 2 and "and 2 more" in p.notes[0] and "key of track 1, 3, 5, 7, 9" in p.notes[0]
