"""Uber's composition over real servers: one page in parts, a slow part that is named, and what makes no sense."""

import asyncio
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.cli import app as commands
from rap_analyzer.giants import surge, uber
from rap_analyzer.giants.spans import BUDGETS_MS, Monitor, Span, attribute, self_ms, split_promise
from rap_analyzer.giants.uber import MusicRecommendationPlatform
from rap_analyzer.product.audience import simulate
from rap_analyzer.product.bandits import Bandit
from rap_analyzer.recommend import candidates, live
from rap_analyzer.recommend.ensemble import UNKNOWN
from rap_analyzer.recommend.rehearsal import load_audience
from rap_analyzer.search.store import Store
from rap_analyzer.serve.metrics import Metrics

PARTS = list(BUDGETS_MS)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(candidates, "LIMIT_S", 10)                                          # this machine may be busy
    monkeypatch.setattr(live, "FIRST_S", 10)


@pytest.fixture(scope="module")
def crowd(lab):
    with own_database(lab, "test_uber") as own:
        own.start_broker()
        store = Store(own, "uber")
        load_audience(store, events := simulate(6, 60, 5))
        store.busy = [int(i) for i in events.listener_id[events.action == "play"].value_counts().index[:6]]
        yield store
        store.forget()


def ask(store, do, **how):
    async def go():
        await store.aopen(4)
        platform = MusicRecommendationPlatform(store, **how)
        platform.ensemble.sources.limit_s = 10
        try: return await do(platform)
        finally: await platform.ranker.close(); await store.aclose()
    return asyncio.run(go())


@contextmanager
def sleeping(of, name, wait_s):
    call = getattr(of, name)
    async def late(*given, **more):
        await asyncio.sleep(wait_s)
        return await call(*given, **more)
    setattr(of, name, late)
    yield
    setattr(of, name, call)


# ---- the page

def test_a_page_and_where_its_time_went(crowd):
    async def go(platform):
        await platform.get_recommendations(crowd.busy[0], {})
        return [await platform.get_recommendations(str(i), {"hour": 8, "device": "phone"}) for i in crowd.busy], platform.monitor
    pages, monitor = ask(crowd, go)
    for page in pages:
        ids = [h.track_id for h in page.hits]
        assert len(set(ids)) == 10 and all(h.why for h in page.hits)
        assert {"features", "candidates", "rerank", "rest"} <= set(page.spent_ms) <= set(PARTS)
        assert min(page.spent_ms.values()) >= 0
    assert {p.variant for p in pages} <= {"blend", "model"} and monitor.table().shape == (7, 5)


def test_what_makes_no_sense_is_refused_and_an_unknown_user_gets_a_page(crowd):
    async def go(platform):
        for user, context, said in (("ada", {}, "listener id"), (-1, {}, "listener id"), (1, {"weather": "rain"}, "weather"),
                                    (1, {"hour": 25}, "hour"), (1, "evening", "mapping")):
            with pytest.raises(ValueError, match=said): await platform.get_recommendations(user, context)
        assert not platform.monitor.rows                                                     # no page, no latency
        return [await platform.get_recommendations(user, context) for user, context in ((10**12, {}), (None, None))]
    for page in ask(crowd, go): assert UNKNOWN in page.note and len(page.hits) == 10


def test_a_user_has_one_variant_in_every_process():
    ours = [uber.choose_variant(i) for i in range(300)]
    code = "from rap_analyzer.giants.uber import choose_variant as c; print(*map(c, range(300)))"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert ours == theirs and .4 < ours.count("model") / 300 < .6
    assert uber.choose_variant(None) == "blend"


# ---- the monitor

@pytest.mark.parametrize("part", ["features", "candidates", "ranking", "rerank"])
def test_the_slow_part_is_named(crowd, part):
    "A quarter of a second inside one part, and every other part as it was."
    async def go(platform):
        who = next(i for i in crowd.busy if uber.choose_variant(i) == "model")
        await platform.get_recommendations(who, {})
        platform.monitor.rows.clear()
        e = platform.ensemble
        of, name = {"features": (e.sources, "warm"), "candidates": (e.sources.sources["popular"], "candidates"),
                    "ranking": (platform.ranker, "start"), "rerank": (e, "look_up")}[part]
        with sleeping(of, name, .5):
            for _ in range(3): await platform.get_recommendations(who, {})
        return platform.monitor
    monitor = ask(crowd, go)
    assert monitor.culprit() == part
    assert monitor.kept()[0].bad == 3 and f"{part}-in-time" in [k.objective.name for k in monitor.burning()]


def test_a_promise_that_is_kept_accuses_nobody():
    monitor = Monitor()
    assert monitor.culprit() == "" and monitor.report() == []
    for _ in range(50): monitor.note({"features": 5.0, "candidates": 90.0, "rest": 1.0})  # beyond its budget, within the promise
    assert monitor.culprit() == "" and monitor.report()[1].late == 1 and monitor.kept()[0].bad == 0
    with pytest.raises(ValueError, match="no budget for 'dns'"): monitor.note({"dns": 1.0})


def test_the_monitor_names_a_feature_that_moved_beside_the_parts():
    monitor, rng = Monitor(), np.random.default_rng(2)
    for _ in range(50): monitor.note({"features": 5.0, "rest": 1.0})
    for i in range(800): monitor.watch.note("ranker 1", {"bpm": rng.normal(110, 18) / (1 + (i >= 600))})
    said, = monitor.alarms()
    assert said.startswith("bpm: drifted") and monitor.burning() == [] and monitor.culprit() == ""


def test_blame_is_the_overspend_of_late_requests_alone():
    X = np.array([[90.0, 10], [90, 10], [90, 10], [10, 300]])
    assert attribute(X, [100, 100], 200).tolist() == [0, 1]
    assert attribute(X[:3], [100, 100], 200).tolist() == [0, 0]
    assert attribute(np.array([[150.0, 150], [110, 230]]), [100, 100], 200) == pytest.approx([60 / 240, 180 / 240])


def test_self_time_adds_up_and_an_open_span_counts_to_the_end_of_its_parent():
    root = Span("rest", 0.0, ended=1.0)
    rank = Span("ranking", .2, root, .5)
    spans = [root, Span("features", .1, root, .2), rank, Span("features", .3, rank)]
    assert self_ms(spans) == pytest.approx({"rest": 600, "features": 300, "ranking": 100})
    assert self_ms([root, rank, Span("features", .7, rank, .9)]) == pytest.approx({"rest": 700, "ranking": 300, "features": 0})


def test_a_budget_has_to_fit_into_the_promise():
    assert sum(BUDGETS_MS.values()) <= 200 and all(abs(o.target - .998) < 1e-9 for o in split_promise())
    for budgets in ({"features": 150, "rest": 60}, {"features": 10}, {}, {"rest": 0}, {"rest": float("nan")}):
        with pytest.raises(ValueError, match="expected"): split_promise(budgets)


def test_parts_are_exported_with_the_other_metrics():
    metrics = Metrics()
    Monitor(metrics=metrics).note({"ranking": 30.0})
    assert metrics.registry.get_sample_value("rap_part_seconds_bucket", {"part": "ranking", "le": "0.05"}) == 1


def test_the_command(crowd, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: crowd)
    done = CliRunner().invoke(commands, ["giants", "uber"])
    assert done.exit_code == 0, done.output
    assert "p95_ms" in done.output and "promise" in done.output


# ---- prices in the rush hour

def test_a_price_drawn_for_each_request_cannot_see_that_places_are_scarce():
    windows = surge.draw_windows(250, 3)
    by_request, by_window, truth = (surge.compare_prices(windows, 1.0, 1.75, how) for how in ("request", "window", "everybody"))
    assert by_request[2] < 0 < by_window[1] <= truth[0] <= by_window[2]
    roomy = surge.draw_windows(250, 3, places=500)
    assert max(surge.compare_prices(roomy, 1.0, 1.75, how)[0] for how in ("request", "window", "everybody")) < 0


def test_places_are_taken_in_turn_and_nonsense_about_prices_is_refused():
    worth = np.array([3.0, .5, 1.2, 2, 2])
    assert [surge.serve(worth, 1.0, n)[1] for n in (1, 2, 4, 9)] == [3, 2, 0, 0]
    assert surge.serve(worth, 1.0, 2)[0].tolist() == [1, 0, 1, 0, 0] and surge.serve(worth[:0], 1.0, 2)[1] == 0
    for go in (lambda: surge.draw_windows(1, 0), lambda: surge.draw_windows(9, 0, places=0),
               lambda: surge.run_bandit(surge.draw_windows(2, 0), "rider"),
               lambda: surge.compare_prices(surge.draw_windows(2, 0), 1, 2, "rider"),
               *(lambda how=how, n=n: surge.compare_prices(surge.Windows(np.array([1, 1]), [worth, worth[:n]]), 1, 2, how)
                 for how, n in (("everybody", 0), ("window", 5), ("window", 0)))):
        with pytest.raises(ValueError, match="expected"): go()


def test_a_share_of_a_reward_is_so_much_of_a_one_and_the_rest_of_a_zero():
    taught, told, cell = *(Bandit(["x1", "x2"], seed=1) for _ in range(2)), np.zeros(20, int)
    surge.learn_shares(taught, 0, cell, np.full(20, .3))
    told.learn(cell, cell, np.repeat([1, 0], [6, 14]))
    assert np.allclose(taught.propensities(cell[:1]), told.propensities(cell[:1])) and taught.propensities(cell[:1])[0][0] < .4
