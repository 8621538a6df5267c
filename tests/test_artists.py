"""What an artist may know: counts that are the events', a forecast with a measured interval, and a name in an address."""
import copy
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.giants.artists import WEEK, Week, expect_week, read_weeks
from rap_analyzer.product.actions import Event
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_artists") as own:
        store = fill(Store(own, "artists"), 300)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


def test_counts_forecast_and_a_stranger(store):
    now, events = datetime.now(UTC), Events(store)
    events.register(range(4))
    did = [Event(f"e{i}", now - timedelta(days=i % 27, minutes=5), i % 3, "play", 42, None, None) for i in range(81)]
    did += [Event("s1", now - timedelta(hours=1), 3, "skip", 42, None, None)]
    did += [Event("old", now - timedelta(days=40), 3, "play", 42, None, None)]
    events.load(did, publish=False)
    app = create_app(copy.copy(store), timeout_s=15, cache_s=0)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        artist = client.get("/api/tracks/42").json()["artist"]
        said = client.get(f"/api/artists/{artist.upper()}/insights").json()
        nobody, long = client.get("/api/artists/Nobody%20at%20All/insights"), client.get(f"/api/artists/{'x' * 201}/insights")
        quoted = client.get("/api/artists/%27%3B%20DROP%20TABLE%20tracks%3B--/insights")
    track = next(t for t in said["tracks"] if t["track_id"] == 42)
    assert (track["plays"], track["skips"], track["saves"], said["listeners"], said["returning"]) == (81, 1, 0, 3, 3)
    week = said["forecast"]
    assert week["low"] <= week["expected"] <= week["high"] and 15 <= week["expected"] <= 27
    assert [r.status_code for r in (nobody, long, quoted)] == [404, 422, 404]
    assert nobody.headers["content-type"] == "application/problem+json"


def test_a_week_is_the_last_two_and_its_interval_grows_with_the_scatter():
    rng = np.random.default_rng(1)
    calm, wild = rng.poisson(1, 3 * WEEK), rng.poisson(.1, 3 * WEEK) * 10
    a, b = expect_week(calm), expect_week(wild)
    assert a.expected == pytest.approx(calm[WEEK:].sum() / 2) and (b.high - b.low) > 2 * (a.high - a.low)
    assert expect_week(np.zeros(2 * WEEK)) == Week(0, 0, 0)


def test_weeks_begin_with_the_first_play():
    assert len(read_weeks([])) == 0 and len(read_weeks([(WEEK * 2 + 3, 5)])) == 2 * WEEK
    assert read_weeks([(0, 2), (9_999, 1)]).sum() == 3


@pytest.mark.parametrize("odd", [np.zeros(WEEK), np.zeros(2 * WEEK + 1), np.zeros((2, WEEK))])
def test_half_a_week_is_refused(odd):
    with pytest.raises(ValueError, match="whole weeks"): expect_week(odd)
