"""The product strategy: computed from events, the same over CLI and HTTP, and different when the events are."""
import json
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.frameworks.product import GROUPS, QUESTIONS, SUCCESS, product_strategy, review_product
from rap_analyzer.product.actions import Event
from rap_analyzer.product.events import Events
from rap_analyzer.product.priorities import (
    FEATURES,
    RELEASES,
    SIGNALS,
    Feature,
    Seen,
    find_signals,
    plan_releases,
    rank_features,
    score,
)
from rap_analyzer.product.strategy_routes import COMPUTING
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

KEYS = ["user_personas", "feature_priorities", "success_metrics", "measured"]
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
UNTIL = BEGIN + timedelta(days=7)


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_strategy") as own:
        yield fill(Store(own, "strategy"), 200)


def play(store, sessions, listener=0, persona="producer", day=0):
    "Sessions as lists of (action, track)."
    events = Events(store)
    events.register([listener], [persona], [BEGIN])
    rows, at = [], BEGIN + timedelta(days=day, hours=listener % 20)
    for n, session in enumerate(sessions):
        for i, (action, track) in enumerate(session):
            rows.append(Event(f"{listener}-{day}-{n}-{i}", at + timedelta(minutes=30 * n, seconds=20 * i), listener, action, track,
                              f"s-{listener}-{day}-{n}", 0))
    events.load(rows, publish=False)


@pytest.fixture
def clean(store):
    for table in ("events", "listeners"): store.query(Query(f"DELETE FROM {table} RETURNING 1"))
    return store


VAIN, FOUND = [("search", None), ("play", 1)], [("search", None), ("click", 2), ("play", 2)]
SKIPS = [("play", 3), ("skip", 3), ("play", 4), ("play", 5), ("skip", 5)]
KEEPS, SHARES, TAKES = [("play", 6), ("save", 6), ("like", 7)], [("share", 8)], [("export", 9), ("export", 10)]


def features(found): return {s["name"]: s for some in found["feature_priorities"].values() for s in some}


def test_each_signal_is_counted_once_per_session(clean):
    play(clean, [VAIN, FOUND, SKIPS, KEEPS, SHARES, TAKES, [("play", 6), ("play", 3), ("play", 99)]])
    seen = find_signals(clean, BEGIN, UNTIL)
    assert dict(zip((s.name for s in SIGNALS), seen.signals[0].tolist(), strict=True)) == {
        "searched in vain": 1, "skipped half": 1, "heard again": 1, "kept without a list": 1, "kept something": 1, "shared": 1,
        "judged a track": 0, "exported many": 1}
    assert (seen.sessions.tolist(), seen.persona.tolist()) == ([7], ["producer"])


def test_the_window_and_the_tenant_count(clean):
    play(clean, [VAIN]), play(clean, [VAIN, VAIN], 1, day=9)
    assert len(find_signals(clean, BEGIN, UNTIL).sessions) == 1
    assert len(find_signals(clean, BEGIN, BEGIN + timedelta(days=20)).sessions) == 2
    other = fill(Store(clean.lab, "strategy-other"), 5)
    assert len(find_signals(other, BEGIN, BEGIN + timedelta(days=20)).sessions) == 0
    other.forget()


def test_rice_by_hand(clean):
    for i in range(4): play(clean, [VAIN, FOUND] if i < 3 else [FOUND], i)
    s = features(product_strategy(clean, 7, UNTIL))["similarity search"]
    assert (s["reach"], s["impact"], s["confidence"], s["effort"]) == (3, .5, .8, 2)
    assert s["rice"] == pytest.approx(3 * .5 * .8 / 2) and s["low"] <= s["rice"] <= s["high"]
    shown = features(product_strategy(clean, 7, UNTIL, tried=("similarity search",)))["similarity search"]
    assert shown["confidence"] == 1 and shown["rice"] == pytest.approx(3 * .5 / 2) and shown["evidence"].startswith("experiment")


def test_the_strategy_changes_when_the_events_do(clean):
    for i in range(6): play(clean, [VAIN, VAIN, FOUND], i)
    first = product_strategy(clean, 7, UNTIL)
    for i in range(6): play(clean, [SHARES, KEEPS, KEEPS, SKIPS, SKIPS, SKIPS], i, day=2)
    for i in range(6, 14): play(clean, [SKIPS] * 3, i, "researcher", day=1)
    second = product_strategy(clean, 7, UNTIL)
    assert first != second and list(first) == list(second) == KEYS
    lead = lambda found: found["feature_priorities"]["mvp"][0]["name"]
    assert (lead(first), lead(second)) == ("similarity search", "recommendations")
    assert set(second["user_personas"]) == {"producer", "researcher"} and set(first["user_personas"]) == {"producer"}
    assert second["user_personas"]["researcher"]["pain_points"][0]["pain"] == "skips at least half of what is played"
    saved = [found["success_metrics"]["value"]["tracks saved"]["value"] for found in (first, second)]
    assert saved == [0, 12]


def test_without_events_nothing_is_scored(clean):
    found = product_strategy(clean, 7, UNTIL)
    assert found["user_personas"] == {} and "no events" in found["measured"]["note"]
    assert all(s["rice"] is None for s in features(found).values()) and len(features(found)) == 9
    assert all(f["value"] is None and f["why_not"] for group in found["success_metrics"].values() for name, f in group.items()
               if name not in ("tracks saved", "data export usage"))


def test_all_twelve_figures_are_there():
    assert sorted(n for names in GROUPS.values() for n in names) == sorted(s.name for s in SUCCESS) and len(SUCCESS) == 12


def test_releases_hold_what_fits():
    rng = np.random.default_rng(1)
    seen = Seen(np.array(["a"] * 40, object), np.full(40, 10), rng.integers(0, 11, (40, len(SIGNALS))))
    ranked = rank_features(seen)
    for weeks in (1, 4, 8, 100):
        plan = plan_releases(ranked, weeks)
        assert [s for name in RELEASES for s in plan[name]] == ranked
        assert all(sum(s.effort for s in plan[name]) <= weeks or len(plan[name]) == 1 for name in RELEASES[:2])
    assert len(plan["mvp"]) == len(FEATURES)
    rices = [s.rice for s in ranked]
    assert rices[-1] is None and rices[:-1] == sorted(rices[:-1], reverse=True)


def test_two_signals_of_one_session_do_not_count_twice():
    both = Seen(np.array(["a"], object), np.array([10]), np.zeros((1, len(SIGNALS)), int))
    both.signals[0, [1, 2]] = 6
    s = score(both, Feature("x", ("skipped half", "heard again"), 1))
    assert s.impact == .6 and s.reach == 1


@pytest.mark.parametrize(("wrong", "says"), [
    ({"effort": {"blockchain": 1}}, "no feature"), ({"effort": {"playlists": 0}}, "above 0"), ({"tried": ("magic",)}, "no feature"),
    ({"effort": {"playlists": float("nan")}}, "above 0"), ({"weeks": 0}, "above 0"), ({"days": 0}, "days")])
def test_what_makes_no_sense_is_refused(clean, wrong, says):
    with pytest.raises(ValueError, match=says): product_strategy(clean, **{"days": 7, "until": UNTIL} | wrong)


def test_over_http(clean):
    for i in range(3): play(clean, [VAIN, KEEPS], i)
    with serving(create_app(clean)) as url, httpx.Client(base_url=url, timeout=20) as client:
        at = lambda **body: client.post("/api/product_strategy", json=body)
        said, bare = at(days=7, until=UNTIL.isoformat(), effort={"similarity search": 1}), client.post("/api/product_strategy")
        refused = [at(**wrong).status_code for wrong in ({"days": 0}, {"effort": {"x": 1}}, {"until": "soon"}, {"persona": "x"})]
        with COMPUTING.turn("another"): busy = at(days=7)
        clean.query(Query("DELETE FROM events WHERE action = 'search' RETURNING 1"))
        later = at(days=7, until=UNTIL.isoformat())
    assert said.status_code == bare.status_code == 200 and list(said.json()) == KEYS and refused == [422] * 4
    assert busy.status_code == 429 and "one at a time" in busy.text
    assert features(said.json())["similarity search"]["rice"] == pytest.approx(3 * .5 * .8)
    assert features(later.json())["similarity search"]["rice"] == 0


def test_the_review_is_prefilled(clean, tmp_path):
    for i in range(3): play(clean, [VAIN, FOUND, KEEPS], i)
    review = review_product(clean, 7, UNTIL)
    assert len(QUESTIONS) == 12 == len(review.unanswered) and len(review.facts) == 6
    assert "similarity search (RICE" in review.facts["What is in the first version?"]
    text = review.save(tmp_path).read_text()
    assert "0 of 12 questions" in text and "> Measured: producer 100%" in text and "nobody was asked" in text
    assert "One list fewer." in review_product(clean, 7, UNTIL, about="One list fewer.").markdown()
    clean.query(Query("DELETE FROM events RETURNING 1"))
    assert review_product(clean, 7, UNTIL).facts == {}


def test_the_command(clean, monkeypatch):
    from rap_analyzer.cli import app
    for i in range(3): play(clean, [VAIN, KEEPS], i)
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: clean)
    done = CliRunner().invoke(app, ["strategy", "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)) == KEYS
    text = CliRunner().invoke(app, ["strategy", "--days", "7"]).stdout
    assert "similarity search" in text and "nobody was asked" in text and "producer" in text
