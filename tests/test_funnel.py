"""Funnel, retention, session length and saves: by hand on a few events, and beside pandas on a simulated fortnight."""

from datetime import UTC, datetime, timedelta

import httpx
import pandas as pd
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.audience import simulate
from rap_analyzer.product.events import Events, read_frame
from rap_analyzer.product.funnel import (
    EMPTY,
    STEPS,
    describe,
    find_funnel,
    find_lengths,
    find_retention,
    find_saves,
    find_window,
    report,
)
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

DAY = datetime(2026, 10, 5, tzinfo=UTC)  # a Monday
MOST = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def database(lab):
    with own_database(lab, "test_funnel") as own: yield own


@pytest.fixture
def tenant(database, request):
    store = fill(Store(database, f"t{abs(hash(request.node.name)) % 10**9}"), 100)
    yield store
    store.forget()


def add(store, *sessions, listener=1, at=DAY, persona=None):
    "Sessions, each a text of steps a second apart: s search, i impression, c click, p play, v save, with a track: c7."
    events = Events(store)
    events.register([listener], [persona], [at])
    words = {"s": "search", "i": "impression", "c": "click", "p": "play", "v": "save"}
    rows = []
    for n, steps in enumerate(sessions):
        for k, step in enumerate(steps.split()):
            when = at + timedelta(hours=n, seconds=k)
            rows.append(make_event(listener, words[step[0]], int(step[1:] or 0) if step[0] != "s" else None,
                                   session_id=f"{listener}-{at:%m%d}-{n}", time=when))
    return events.load(rows, publish=False)


def counts(store, since=DAY, until=MOST): return [s.sessions for s in find_funnel(store, since, until)["all"]]


@pytest.mark.parametrize("session, reaches", [
    ("p1", [1, 0, 0, 0, 0]), ("s", [1, 1, 0, 0, 0]), ("s i1 i2 i3", [1, 1, 1, 0, 0]), ("s i1 i2 c2 p2", [1, 1, 1, 1, 0]),
    ("s i1 i2 c2 p2 v2", [1, 1, 1, 1, 1]),
    ("s i1 c1 p1 p9 v9", [1, 1, 1, 1, 0]),                          # saved something else
    ("v1 s i1 c1 p1", [1, 1, 1, 1, 0]),                             # saved before it was clicked
    ("i1 c1 v1 s", [1, 1, 0, 0, 0]), ("i1 c1 v1", [1, 0, 0, 0, 0]),  # no search, or only afterwards
    ("s i1 c1 i2 c2 v1 v2 v2", [1, 1, 1, 1, 1]),                    # twice is once
    ("c1 s i1", [1, 1, 1, 0, 0]), ("s c1 i1", [1, 1, 1, 0, 0]),
])
def test_each_step_comes_after_the_one_before(tenant, session, reaches):
    add(tenant, session)
    assert counts(tenant) == reaches


def test_sessions_are_kept_apart_and_personas_add_up(tenant):
    add(tenant, "s", "i1 c1 v1", listener=1, persona="producer")
    add(tenant, "s i1", listener=2)
    found = find_funnel(tenant, DAY, MOST)
    assert {k: [s.sessions for s in v] for k, v in found.items()} == {
        "all": [3, 2, 1, 0, 0], "producer": [2, 1, 0, 0, 0], "unknown": [1, 1, 1, 0, 0]}
    assert [s.of_previous for s in found["all"]] == [1, 2 / 3, 1 / 2, 0, None]
    assert [s.name for s in found["all"]] == list(STEPS)


def test_the_window_is_half_open_and_other_tenants_are_not_seen(tenant, database):
    add(tenant, "s i1 c1 v1")
    assert counts(tenant, DAY, DAY + timedelta(seconds=3)) == [1, 1, 1, 1, 0]
    assert counts(tenant, DAY + timedelta(seconds=1), MOST) == [1, 0, 0, 0, 0]
    assert counts(Store(database, "stranger")) == [0] * 5


def test_a_week_that_nobody_has_had_is_empty_and_one_without_anybody_is_zero(tenant):
    add(tenant, "s", listener=1, at=DAY)
    add(tenant, "s", listener=2, at=DAY + timedelta(days=2))
    add(tenant, "s", listener=1, at=DAY + timedelta(days=14))
    cells = {(c.cohort, c.week): (c.observed, c.active, c.share) for c in find_retention(tenant, DAY + timedelta(days=22), 4)}
    assert cells == {("2026-10-05", 0): (2, 2, 1.0), ("2026-10-05", 1): (2, 0, 0.0), ("2026-10-05", 2): (1, 1, 1.0),
                     ("2026-10-05", 3): (0, 0, None)}


def test_lengths_and_saves_have_no_holes(tenant):
    add(tenant, "s i1 c1 v1", "p1", persona="producer")
    add(tenant, "s i1 c1 v1 v2", at=DAY + timedelta(days=2), persona="producer")
    lengths = find_lengths(tenant, DAY, MOST)
    assert (lengths["sessions"], lengths["p50_s"], lengths["mean_s"], lengths["single_event"]) == (3, 3, 7 / 3, 1 / 3)
    saves = find_saves(tenant, DAY, DAY + timedelta(days=4))
    assert saves == [("2026-10-05", "producer", 1), ("2026-10-06", "producer", 0), ("2026-10-07", "producer", 2),
                     ("2026-10-08", "producer", 0)]


def test_nothing_is_an_answer(tenant):
    empty = report(tenant)
    assert (empty.listeners, empty.note, empty.retention, empty.saves) == (0, EMPTY, [], [])
    assert [s.of_previous for s in empty.funnel["all"]] == [None] * 5 and empty.session["p50_s"] is None
    assert EMPTY in next(describe(empty)) and len(list(describe(empty))) == 8
    add(tenant, "s")
    assert report(tenant, 3, DAY - timedelta(days=90)).note == EMPTY                       # a window without events
    assert report(tenant, 3, DAY - timedelta(days=90)).retention == []                     # nobody had joined by then


def test_windows(tenant):
    add(tenant, "s")
    assert find_window(tenant, 7) == (DAY - timedelta(days=6), DAY + timedelta(days=1))
    for days in (0, -1, 367, True, "7", 1.5):
        with pytest.raises(ValueError, match="from 1 to 366"): find_window(tenant, days)
    with pytest.raises(ValueError, match="time zone"): find_window(tenant, 7, datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="this era"): find_window(tenant, 7, datetime(1, 1, 3, tzinfo=UTC))


@pytest.fixture(scope="module")
def fortnight(database):
    month = simulate(14, 60, 3)
    store = fill(Store(database, "fortnight"), 3_000)
    truth = month.attrs["truth"].listeners
    joined = [datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=int(d)) for d in truth.joined]
    Events(store).register(map(int, truth.index), truth.persona, joined)
    Events(store).load(read_frame(month), publish=False)
    yield store, month, truth
    store.forget()


def walk(session) -> int:  # how many of STEPS it reaches
    "The same funnel by a loop."
    level, shown, clicked = 1, None, {}
    searched = next((r.time for r in session if r.action == "search"), None)
    if searched is None: return 1
    level = 2
    shown = next((r.time for r in session if r.action == "impression" and r.time >= searched), None)
    if shown is None: return level
    for r in session:
        if r.action == "click" and r.time >= shown: clicked.setdefault(r.track_id, r.time)
    if not clicked: return 3
    return 5 if any(r.action == "save" and r.track_id in clicked and r.time >= clicked[r.track_id] for r in session) else 4


def test_sql_and_a_loop_agree_on_a_simulated_fortnight(fortnight):
    store, month, _ = fortnight
    levels = [walk(list(g.itertuples())) for _, g in month.groupby("session_id")]
    since, until = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 25, tzinfo=UTC)
    assert counts(store, since, until) == [sum(x >= k for x in levels) for k in range(1, 6)]
    times = month.groupby("session_id").time
    seconds = (times.max() - times.min()).dt.total_seconds()
    found = find_lengths(store, since, until)
    assert found["sessions"] == len(seconds) and found["p95_s"] == pytest.approx(seconds.quantile(.95))
    saves = pd.DataFrame(find_saves(store, since, until), columns=["day", "persona", "n"]).groupby(["day", "persona"]).n.sum()
    saved = month[month.action == "save"]
    truth = saved.groupby([saved.time.dt.strftime("%Y-%m-%d"), saved.persona.astype(str)]).size()
    assert saves[saves > 0].to_dict() == truth.to_dict()


def test_retention_agrees_with_pandas(fortnight):
    store, month, people = fortnight
    until = datetime(2026, 1, 19, tzinfo=UTC)
    start = pd.Timestamp("2026-01-05")
    joined = start + pd.to_timedelta(people.joined, unit="D")
    e = month[month.time < until.replace(tzinfo=None)]
    week = (e.time - e.listener_id.map(joined)) // pd.Timedelta(days=7)
    active = set(zip(e.listener_id, week, strict=True))
    for c in find_retention(store, until, 3):
        mine = [i for i, j in joined.items() if (j - pd.Timedelta(days=j.weekday())).strftime("%Y-%m-%d") == c.cohort
                and j + pd.Timedelta(days=7 * (c.week + 1)) <= until.replace(tzinfo=None)]
        assert (c.observed, c.active) == (len(mine), sum((i, c.week) in active for i in mine)), c


def test_over_http_and_by_command(fortnight, tenant):
    store = fortnight[0]
    with serving(create_app(store)) as url, httpx.Client(base_url=url, timeout=20) as client:
        got = client.get("/api/product/funnel", params={"days": 20, "until": "2026-01-25T00:00:00Z"})
        direct = report(store, 20, datetime(2026, 1, 25, tzinfo=UTC))
        assert got.status_code == 200 and got.json()["listeners"] == direct.listeners > 40
        assert [s["sessions"] for s in got.json()["funnel"]["all"]] == [s.sessions for s in direct.funnel["all"]]
        wrong = [client.get("/api/product/funnel", params=p) for p in ({"days": 0}, {"days": 367}, {"until": "yesterday"},
                                                                      {"until": "2026-01-01"}, {"weeks": 27}, {"dys": 3})]
        assert [r.status_code for r in wrong] == [422] * 6 and all(r.json()["error"] for r in wrong)
        none = client.get("/api/product/funnel", params={"until": "2020-01-01T00:00:00Z"}).json()
        assert none["note"] == EMPTY and none["funnel"]["all"][4]["of_previous"] is None
    with serving(create_app(tenant)) as url: assert httpx.get(f"{url}/api/product/funnel").json()["note"] == EMPTY


def test_a_persona_called_all_is_not_the_sum(tenant):
    add(tenant, "s i1 c1 v1", "p1", persona="all")
    add(tenant, "s", persona="producer")
    found = find_funnel(tenant, DAY - timedelta(days=1), DAY + timedelta(days=2))
    assert found["all"][0].sessions == sum(steps[0].sessions for name, steps in found.items() if name != "all")


@pytest.mark.parametrize("until", ["0001-01-29T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59Z"])
def test_no_moment_is_too_odd_for_a_window(tenant, until):
    with pytest.raises(ValueError, match="this era"): report(tenant, 7, datetime.fromisoformat(until))
