"""Warming a cache: a forecast that knows only the past, caches of equal size, and a real server that is full."""
import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
import redis
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.cli import app as commands
from rap_analyzer.core import LabError, ValkeySection
from rap_analyzer.lab import Lab
from rap_analyzer.processes import make_folders
from rap_analyzer.product.actions import Event
from rap_analyzer.product.events import Events
from rap_analyzer.recommend.warm import (
    WEEK,
    count_hours,
    expect_hours,
    expect_items,
    find_hot,
    plan_warm,
    replay,
    warm,
    warm_service,
)
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.top import Change, read_metrics
from rap_analyzer.valkey import Valkey
from rap_analyzer.web import serving

def zipf(n, hours, seed, items=500):
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, items + 1)
    return np.sort(rng.integers(hours, size=n)), rng.permutation(items)[rng.choice(items, n, p=p / p.sum())]


def test_lru_by_hand():
    items = np.array([1, 2, 1, 3, 2, 1])  # two places: 3 throws out 2, 2 throws out 1
    r = replay(items, np.zeros(6, int), 2)
    assert r.hits.tolist() == [False, False, True, False, False, False] and r.loaded == 5


def test_pins_stay_and_are_counted():
    items, expected = np.array([1, 2, 3, 1, 4, 1]), np.zeros((2, 5), np.float32)
    expected[:, 1] = 1
    r = replay(items, np.array([0, 0, 0, 0, 1, 1]), 2, expected, .5)
    assert r.hits.tolist() == [True, False, False, True, False, True] and r.loaded == 4


def test_the_forecast_never_looks_ahead():
    hours, items = zipf(3_000, 100, 1)
    counts = count_hours(hours, items, 500)
    changed = counts.copy()
    changed[60:] = 7
    assert (expect_items(counts)[:61] == expect_items(changed)[:61]).all() and (expect_items(counts)[0] == 0).all()


def test_a_steady_demand_is_forecast_better_than_remembered():
    hours, items = zipf(20_000, 400, 2)
    expected, late = expect_items(count_hours(hours, items, 500)), hours >= 200
    rates = {name: replay(items, hours, 40, *how).hits[late].mean() for name, how in
             {"lru": (), "mixed": (expected, .75), "alone": (expected, 1.0)}.items()}
    assert rates["lru"] < rates["mixed"] < rates["alone"]  # nothing but a fixed popularity: the count is the best forecast


def test_lru_wins_where_demand_jumps():
    hours, items = zipf(20_000, 400, 3)
    jumped = np.where(hours >= 300, (items + 250) % 500, items)
    expected, after = expect_items(count_hours(hours, jumped, 500), 500), (hours >= 300) & (hours < 320)
    assert replay(jumped, hours, 40).hits[after].mean() > replay(jumped, hours, 40, expected, 1.0).hits[after].mean()


def test_the_week_ahead_has_an_interval_that_holds():
    rng, shape = np.random.default_rng(4), 40 + 30 * np.sin(np.arange(WEEK) % 24 / 24 * 2 * np.pi)
    held = []
    for _ in range(40):
        totals = rng.poisson(np.tile(shape, 5))
        ahead = expect_hours(totals[:-WEEK])
        held.append(((ahead.low <= totals[-WEEK:]) & (totals[-WEEK:] <= ahead.high)).mean())
    assert .92 < np.mean(held) < .985
    with pytest.raises(ValueError, match="two weeks"): expect_hours(np.ones(WEEK))
    with pytest.raises(ValueError, match="whole weeks"): expect_hours(np.ones(2 * WEEK + 1))
    quiet = expect_hours(np.zeros(2 * WEEK))
    assert (quiet.mean == 0).all() and (quiet.high == 0).all()


@pytest.mark.parametrize("how", [dict(size=0), dict(size=5, pinned=1.5), dict(size=5, pinned=-.1)])
def test_a_cache_that_makes_no_sense(how):
    with pytest.raises(ValueError, match="at least one place"): replay(np.array([1]), np.array([0]), **how)


def test_what_cannot_be_counted():
    with pytest.raises(ValueError, match="at least one request"): count_hours(np.array([], int), np.array([], int), 3)
    with pytest.raises(ValueError, match="half-life"): expect_items(np.ones((2, 2)), 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("warm")
    server = Valkey(home, ValkeySection(maxmemory_mb=8))
    make_folders(home, server.folder, server.log.parent)
    server.start()
    r = redis.from_url(server.url, socket_timeout=5)
    r.config_set("maxmemory-policy", "allkeys-lru")
    r.config_set("lazyfree-lazy-user-flush", "no")  # freed after the answer, its memory would refuse the next writes
    yield r
    r.close(), server.stop()


def test_a_full_server_keeps_what_was_warmed(server):
    server.flushall()
    value = b"x" * 65_536
    for i in range(300): server.set(f"old:{i}", value)
    time.sleep(1.2)  # the server tells ages apart by the second
    asked = []
    def load(keys):
        asked.extend(keys)
        return dict.fromkeys(keys, value)
    wanted = [f"hot:{i}" for i in range(40)]
    assert warm(server, wanted, load) == 40 and server.exists(*wanted) >= 38 and server.dbsize() < 130  # it looks at a sample
    again = warm(server, wanted, load)
    assert again <= 2 and len(asked) == 40 + again  # the second time they are only touched
    assert 0 < server.ttl("hot:0") <= 3_600


def test_the_same_requests_hit_more_often_with_a_warm_up(server):
    value, hits = b"x" * 65_536, {}
    hours, items = zipf(3_000, 60, 5, 600)
    expected, late = expect_items(count_hours(hours, items, 600)), hours >= 30
    for ahead in (0, 60):
        server.flushall()
        hour, hits[ahead] = -1, 0
        for i in np.flatnonzero(late):
            if ahead and hours[i] != hour:
                hour = hours[i]
                best = np.argsort(-expected[hour], kind="stable")[:ahead]
                warm(server, [f"t:{k}" for k in best], lambda keys: dict.fromkeys(keys, value))
            if server.get(f"t:{items[i]}"): hits[ahead] += 1
            else: server.set(f"t:{items[i]}", value)
    assert hits[60] > 1.03 * hits[0]


def test_a_source_that_is_down_leaves_the_cache_as_it_was(server):
    server.flushall()
    server.set("a", b"1")
    def broken(keys): raise ConnectionError("the database is away")
    with pytest.raises(ConnectionError): warm(server, ["a", "b"], broken)
    assert server.get("a") == b"1" and warm(server, ["a", "b"], lambda keys: {}) == 0


def test_what_is_hot_by_sql(lab):
    own = Lab(home=lab.home, database="test_warm").up()
    migrate(own)
    store = fill(Store(own, "warm"), 50)
    try:
        now = datetime(2026, 3, 2, tzinfo=UTC)
        assert find_hot(store, now) == []
        events = Events(store)
        events.register([1])
        ages = {7: [1, 2, 3], 8: [170, 180, 190, 200], 9: [900]}
        rows = [Event(f"{t}-{h}", now - timedelta(hours=h), 1, "play", t, "s", 0) for t, hs in ages.items() for h in hs]
        events.load([*rows, Event("x", now - timedelta(hours=1), 1, "save", 5, "s", 0)], publish=False)
        hot = find_hot(store, now, 10, 168)
        assert [t for t, _ in hot] == [7, 8] and sum(s for _, s in hot) == pytest.approx(1)  # 9 is older than four weeks
        score = {t: sum(.5 ** (h / 168) for h in hs) for t, hs in ages.items() if t != 9}
        assert hot[0][1] == pytest.approx(score[7] / sum(score.values()))
        assert [t for t, _ in find_hot(store, now, 1)] == [7]
        for wrong in (dict(until=datetime(2026, 3, 2)), dict(until=now, n=0), dict(until=now, n=10**6), dict(until=now, half_h=0)):
            with pytest.raises(ValueError, match="time zone|10,000"): find_hot(store, **wrong)
    finally:
        store.forget()
        lab.drop_database("test_warm")


# ---- the plan, and its execution

@pytest.fixture(scope="module")
def played(lab):
    "Tracks that were played for four weeks, the first ones most, most in the evening; and a service."
    with own_database(lab, "test_warm_plan") as own:
        store, rng = fill(Store(own, "warmed"), 300), np.random.default_rng(3)
        build("hnsw_halfvec", store)
        monday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        monday -= timedelta(days=monday.weekday())
        times = [monday - timedelta(days=int(d) + 1) + timedelta(hours=float(h)) for d, h in zip(rng.integers(28, size=3_000),
                 np.clip(rng.normal(20, 2, 3_000), 0, 23.9), strict=True)]
        Events(store).register([1])
        tracks = np.minimum(rng.geometric(.05, len(times)), 300) - 1
        some = [Event(f"p-{i}", t, 1, "play", int(x)) for i, (t, x) in enumerate(zip(times, tracks, strict=True))]
        Events(store).load(some, publish=False)
        yield store
        store.forget()


def test_a_plan_knows_what_is_hot_and_how_much_an_hour_brings(played):
    monday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday -= timedelta(days=monday.weekday())
    evening, morning = (plan_warm(played, 20, monday + timedelta(hours=h)) for h in (19, 5))
    assert evening.hour == monday + timedelta(hours=20) and evening.requests > 5 * morning.requests
    assert evening.high > evening.requests > 10 and .5 < evening.share < .8
    assert 0 in dict(evening.tracks[:5]) and [s for _, s in evening.tracks] == sorted((s for _, s in evening.tracks), reverse=True)


def test_a_warm_service_has_what_was_planned_and_says_what_it_computed(played, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: played)
    def rap(*words):
        done = CliRunner().invoke(commands, ["warm", "--json", *words])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)
    with serving(create_app(played, cache_s=60)) as url:
        assert rap("--plan")["done"] is None
        said = rap("--tracks", "20", "--url", url)
        hot = [i for i, _ in said["plan"]["tracks"]]
        assert (said["done"]["asked"], said["done"]["computed"], said["done"]["gone"]) == (20, 20, 0)
        assert rap("--tracks", "20", "--url", url)["done"]["computed"] == 0                # all of it is there
        before = read_metrics(url)
        for i in hot: assert httpx.get(f"{url}/api/tracks/similar?track_id={i}").status_code == 200
        assert Change(before, read_metrics(url)).counted("rap_cache_events_total", event="hits") == 20


def test_warming_says_what_went_wrong(played):
    with pytest.raises(LabError, match="no service answers"): warm_service("http://127.0.0.1:1", [1])
    with serving(create_app(played, cache_s=60)) as url:
        assert warm_service(url, [10**9]).gone == 1
