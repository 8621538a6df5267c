"""Netflix's composition: covers by taste, a thousand experiments at once, and a home page that says what it lacks."""

import asyncio

import numpy as np
import pytest
from helpers import own_database
from scipy import stats
from typer.testing import CliRunner

from rap_analyzer.cli import app as commands
from rap_analyzer.core import LabError
from rap_analyzer.giants import artwork, netflix
from rap_analyzer.giants.artwork import VARIANTS, choose_covers, draw_variant, find_group, record_covers
from rap_analyzer.giants.netflix import MusicStreamingPlatform, assign_many, compare_all, false_discovery
from rap_analyzer.music import catalog
from rap_analyzer.platform.layout import LAYOUTS
from rap_analyzer.product.assignment import Experiment, assign
from rap_analyzer.product.audience import simulate
from rap_analyzer.product.bandits import Bandit, play
from rap_analyzer.product.shelves import best_arms
from rap_analyzer.recommend import candidates, live
from rap_analyzer.recommend.rehearsal import load_audience
from rap_analyzer.search.store import Store

@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(candidates, "LIMIT_S", 10)                                          # this machine may be busy
    monkeypatch.setattr(live, "FIRST_S", 10)


@pytest.fixture(scope="module")
def covers(): return record_covers(500, 9_000, 11)


@pytest.fixture(scope="module")
def crowd(lab):
    with own_database(lab, "test_netflix") as own:
        own.start_broker()
        store = Store(own, "netflix")
        load_audience(store, events := simulate(5, 50, 5))
        store.busy = [int(i) for i in events.listener_id[events.action == "play"].value_counts().index[:6]]
        yield store
        store.forget()


# ---- covers

def test_four_covers_of_a_track_differ_and_stay_as_they_are():
    for t in catalog.tracks(0, 20):
        drawn = [draw_variant(t, v) for v in VARIANTS]
        assert len(set(drawn)) == 4 and drawn == [draw_variant(t, v) for v in VARIANTS]
    with pytest.raises(ValueError, match="one of bright, dark, sun, speakers, got 'kitten'"): draw_variant(t, "kitten")


def test_the_taste_for_covers_can_be_found_from_the_library(covers):
    m = covers.finished
    assert {0, 1, 2} <= set(best_arms(m))
    known = m.chance[np.arange(len(m.cell)), best_arms(m)[m.cell]].mean()
    assert known > 1.1 * m.chance.mean(0).max()
    again = record_covers(500, 9_000, 11)
    assert (again.clicked.chance == covers.clicked.chance).all() and (again.finished.chance < again.clicked.chance).all()


def test_context_pays_and_clicks_are_the_wrong_reward(covers):
    m, rows = covers.finished, np.arange(len(covers.track))
    logs = {"plays": play(m, Bandit(m.arms)), "plain": play(m, Bandit(m.arms, context=False)),
            "clicks": play(covers.clicked, Bandit(m.arms))}
    worth = {name: m.chance[rows, log.arm].mean() for name, log in logs.items()}
    assert worth["plays"] > 1.05 * worth["plain"] and worth["plays"] > 1.3 * worth["clicks"]
    clicks = {name: covers.clicked.chance[rows, log.arm].mean() for name, log in logs.items()}
    assert clicks["clicks"] > 1.1 * clicks["plays"]


def test_a_choice_has_the_propensity_with_which_it_is_made():
    policy = Bandit(tuple(VARIANTS), seed=2)
    cell, arm = np.repeat([0, 1, 2, 3], 400), np.tile([0, 1, 2, 3], 400)
    policy.learn(cell, arm, (np.random.default_rng(1).random(1_600) < np.where(cell == arm, .7, .3)).astype(int))
    for group in range(4):
        chosen = choose_covers(policy, group, range(2_000), np.random.default_rng(group))
        for name in VARIANTS:
            share = np.mean([v == name for v, _ in chosen.values()])
            said = next((p for v, p in chosen.values() if v == name), 0)
            assert abs(share - said) < .04
        assert max(chosen.values(), key=lambda c: c[1])[0] == list(VARIANTS)[group]
    with pytest.raises(ValueError, match="from 0 to 3"): choose_covers(policy, 4, [1], np.random.default_rng(1))
    assert (find_group(["sad", "dark", "happy"]), find_group([]), find_group(["polka"])) == (1, 0, 0)
    assert artwork.find_groups(np.array([[0, 6, 1], [1, 4, 0]])).tolist() == [0, 1]


# ---- a thousand experiments

def test_many_assignments_are_those_of_one_and_independent():
    A = assign_many([f"idea-{i}" for i in range(60)], range(1_500))
    assert A[7].tolist() == [assign("idea-7", u) == "treatment" for u in range(1_500)]
    S = 2 * A - 1.0
    worst = np.abs(S @ S.T / 1_500)[np.triu_indices(60, 1)].max()
    assert worst < 5 / np.sqrt(1_500)                                                        # 1,770 pairs: five deviations
    twins = assign_many([Experiment("a", salt="s"), Experiment("b", salt="s")], range(200))
    assert (twins[0] == twins[1]).all()


def test_all_tests_at_once_are_the_tests_one_by_one():
    rng = np.random.default_rng(3)
    A, y = rng.random((5, 3_000)) < .4, rng.standard_normal(3_000)
    p, effect = compare_all(A, y)
    assert np.allclose(p, [stats.ttest_ind(y[a], y[~a], equal_var=False).pvalue for a in A], atol=2e-3)
    assert np.allclose(effect, [y[a].mean() - y[~a].mean() for a in A])
    assert np.allclose(false_discovery(p), stats.false_discovery_control(p)) and len(false_discovery([])) == 0
    for treated, metric in ((np.ones((1, 9), bool), np.zeros(9)), (np.zeros((2, 9), bool), np.zeros(8))):
        with pytest.raises(ValueError, match="two units"): compare_all(treated, metric)
    with pytest.raises(ValueError, match="has 3"): assign_many([Experiment("x", {"a": .2, "b": .3, "c": .5})], range(9))


# ---- the page

def ask(store, do):
    async def go():
        await store.aopen(4)
        platform = MusicStreamingPlatform(store, seed=1)
        platform.ensemble.sources.limit_s = 10
        try: return await do(platform)
        finally: await platform.ranker.close(); await store.aclose()
    return asyncio.run(go())


def test_a_home_page_has_each_track_once_and_a_cover_for_each(crowd):
    async def go(platform): return [await platform.personalize_homepage(i, {"hour": 20}) for i in crowd.busy]
    pages = ask(crowd, go)
    for who, page in zip(crowd.busy, pages, strict=True):
        ids = [h.track_id for row in page.recommendations for h in row.hits]
        assert len(ids) == len(set(ids)) >= 30 and set(page.covers) == set(ids)
        assert all(v in VARIANTS and 0 < p <= 1 for v, p in page.covers.values())
        assert page.layout == netflix.choose_layout(who) and all(row.reason for row in page.recommendations)
    assert {netflix.choose_layout(i) for i in range(40)} == set(LAYOUTS)


def test_strangers_nonsense_and_a_source_that_is_down(crowd):
    async def go(platform):
        for user, context, said in (("ada", None, "listener id"), (1, {"weather": "rain"}, "weather"), (1, [], "mapping")):
            with pytest.raises(ValueError, match=said): await platform.personalize_homepage(user, context)
        strangers = [await platform.personalize_homepage(user, {}) for user in (None, 10**12)]
        async def broken(asked): raise LabError("injected")
        platform.ensemble.sources.sources["peers"].candidates = broken
        return strangers, await platform.personalize_homepage(crowd.busy[0])
    strangers, lacking = ask(crowd, go)
    assert [s.recommendations[0].name for s in strangers] == ["popular"] * 2 and strangers[0].layout == LAYOUTS[0]
    assert "peers is left out: injected" in lacking.note and len(lacking.recommendations) >= 3


def test_the_command(crowd, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: crowd)
    done = CliRunner().invoke(commands, ["giants", "netflix"])
    assert done.exit_code == 0 and "layout" in done.output and "covers" in done.output, done.output
