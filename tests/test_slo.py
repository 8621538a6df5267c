"""Promises: budgets, burn rates, and the rules that Prometheus gets."""
from pathlib import Path

import pytest
import yaml

from rap_analyzer.serve.metrics import BUCKETS
from rap_analyzer.serve.slo import (
    OBJECTIVES,
    SPEEDS,
    Objective,
    Speed,
    allowed_minutes,
    budget,
    burn_rate,
    minutes_of,
    rules,
    write_rules,
)
from rap_analyzer.serve.top import Reading

RULES = Path(__file__).resolve().parents[1] / "deploy/prometheus/rules/slo.yml"


def test_the_committed_rules_are_the_ones_that_are_made(tmp_path):
    assert write_rules(tmp_path / "slo.yml").read_text() == RULES.read_text(), "run rap-analyzer slo --write"


def test_every_alert_rests_on_series_that_are_recorded():
    records, alerts = (g["rules"] for g in yaml.safe_load(RULES.read_text())["groups"])
    known = {(r["record"], r["labels"]["objective"]) for r in records}
    for a in alerts:
        used = {(f"objective:rap_bad_share:rate{w}", a["labels"]["objective"]) for w in ("5m", "30m", "1h", "6h", "3d")
                if f"rate{w}{{" in a["expr"]}
        assert len(used) == 2 and used <= known, a["alert"]
    assert len({a["alert"] for a in alerts}) == len(alerts) == len(OBJECTIVES) * len(SPEEDS)


def test_a_promise_lies_on_a_bucket_and_on_a_route_that_exists():
    from rap_analyzer.app import create_app
    routes = set(create_app().openapi()["paths"])
    for o in OBJECTIVES:
        assert set(o.routes) <= routes, o
        assert o.within_s is None or o.within_s in BUCKETS, o


@pytest.mark.parametrize(("target", "days", "minutes"), [(.999, 30, 43.2), (.99, 30, 432), (.9999, 365, 52.56)])
def test_allowed_minutes(target, days, minutes): assert allowed_minutes(target, days) == pytest.approx(minutes)


@pytest.mark.parametrize("target", [0, 1, 1.5, -1, float("nan")])
def test_a_target_that_is_no_promise_is_refused(target):
    with pytest.raises(ValueError, match="between 0 and 1"): Objective("x", target)


def test_burn_rate():
    assert burn_rate(1, 1_000, .999) == pytest.approx(1)
    assert burn_rate(0, 0, .999) == 0
    with pytest.raises(ValueError, match="bad <= total"): burn_rate(3, 2, .9)


def test_a_speed_spends_a_noticeable_part_of_the_month_before_its_window_ends():
    spent = {s.long: s.burn * minutes_of(s.long) / minutes_of("30d") for s in SPEEDS}
    assert spent == pytest.approx({"1h": .02, "6h": .05, "3d": .1})


def reading(*series): return Reading(0, {(name, frozenset(labels.items())): v for name, labels, v in series})


def samples(route, status, n, late=0):
    yield "rap_requests_total", {"route": route, "method": "GET", "status": str(status)}, n
    yield "rap_request_seconds_count", {"route": route}, n
    yield "rap_request_seconds_bucket", {"route": route, "le": "0.1"}, n - late
    yield "rap_request_seconds_bucket", {"route": route, "le": "+Inf"}, n


def test_the_budget_counts_each_promise_by_its_routes():
    seen = reading(*samples("/api/tracks/{track_id}", 200, 100, late=3), *samples("/api/analyze", 503, 7),
                   *samples("/health/live", 503, 50))
    kept = {k.objective.name: k for k in budget(seen)}
    assert (kept["available"].total, kept["available"].bad) == (107, 7)
    assert (kept["track-in-time"].total, kept["track-in-time"].bad) == (100, 3)
    assert kept["search-in-time"].total == 0 and "no requests yet" in repr(kept["search-in-time"])


def test_rules_for_promises_of_ones_own():
    made = rules([Objective("mine", .9, ("/a/{b}",), .5)], [Speed(2, "1h", "5m", "page")])["groups"]
    assert [len(g["rules"]) for g in made] == [2, 1]
    assert 'route=~"/a/\\\\{b\\\\}"' in made[0]["rules"][0]["expr"] and 'le="0.5"' in made[0]["rules"][0]["expr"]
    assert made[1]["rules"][0]["alert"] == "BurnMine1h"
