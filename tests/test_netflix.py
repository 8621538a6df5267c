"""Netflix's composition: covers by taste, a thousand experiments at once, and a home page that says what it lacks."""

import asyncio
import copy
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from helpers import own_database, until
from scipy import stats
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.cli import app as commands
from rap_analyzer.core import LabError
from rap_analyzer.giants import artwork, artwork_routes, netflix
from rap_analyzer.giants.artwork import choose_covers, find_group, record_covers
from rap_analyzer.giants.netflix import MusicStreamingPlatform
from rap_analyzer.giants.scenes import VARIANTS, draw_variant
from rap_analyzer.giants.trials import assign_many, compare_all, false_discovery
from rap_analyzer.music import catalog
from rap_analyzer.platform.cover import draw_cover
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.layout import LAYOUTS
from rap_analyzer.platform.page import PAGES
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.assignment import Experiment, assign
from rap_analyzer.product.audience import simulate
from rap_analyzer.product.bandits import Bandit, play
from rap_analyzer.product.events import Events
from rap_analyzer.product.shelves import best_arms
from rap_analyzer.recommend import candidates, live
from rap_analyzer.recommend.rehearsal import load_audience
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

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
        assert len({*drawn, draw_cover(t)}) == 5 and drawn == [draw_variant(t, v) for v in VARIANTS]
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
        lacking = await platform.personalize_homepage(crowd.busy[0])
        platform.ensemble.sources.sources["popular"].candidates = broken
        return strangers, lacking, await platform.personalize_homepage(None, {})
    strangers, lacking, alone = ask(crowd, go)
    assert len(alone.recommendations[0].hits) == 10 and "popular is left out: injected" in alone.note
    assert [s.recommendations[0].name for s in strangers] == ["popular"] * 2 and strangers[0].layout == LAYOUTS[0]
    assert "peers is left out: injected" in lacking.note and len(lacking.recommendations) >= 3


def test_the_command(crowd, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: crowd)
    done = CliRunner().invoke(commands, ["giants", "netflix"])
    assert done.exit_code == 0 and "layout" in done.output and "covers" in done.output, done.output


# ---- covers on the page, over HTTP

COVERS = r'href="/tracks/([0-9]+)\?cover=(cover-([a-z]+)-[0-9a-f]{16})"><svg.*?</svg>'


@pytest.fixture(scope="module")
def served(lab):
    with own_database(lab, "test_artwork") as own:
        store = fill(Store(own, "covers"), 200)
        build("hnsw_halfvec", store)
        Events(store).register([1, 2])
        with serving(create_app(store)) as url:
            def home(who, **heads): return httpx.get(url, headers={"cookie": f"listener={who}", **heads}).text
            def covers(who): return {int(t): (x, v) for t, x, v in re.findall(COVERS, home(who))}
            until(lambda: covers(2))                                                     # the first page loads the libraries
            yield SimpleNamespace(store=store, url=url, home=home, covers=covers)
        store.forget()


def tell(served, exposure, action="play", who=1, track=None, **more):
    body = {"event_id": f"{exposure}-{action}", "user_id": who, "action": action, "track_id": track, **more}
    return httpx.post(f"{served.url}/api/track_action", json=body)


def earned(served):
    covers = httpx.get(f"{served.url}/api/artwork").json()["covers"]
    return {key: sum(c[key] for c in covers) for key in ("shown", "clicked", "kept")}


def test_the_page_shows_what_was_chosen_and_keeps_it_for_the_day(served):
    first = served.covers(1)
    assert len(first) >= 8 and first == served.covers(1)
    known = {t.id: t for t in served.store.tracks(list(first))}
    text = served.home(1)
    for track, (_, variant) in first.items(): assert draw_variant(known[track], variant) in text
    log = served.store.query(Query("SELECT track_id, exposure_id, variant, propensity FROM cover_exposures WHERE listener_id = 1"))
    assert {t: (x, v) for t, x, v, _ in log} == first and all(0 < p <= 1 for *_, p in log)
    with ThreadPoolExecutor(6) as many:                                                  # the first to write decides for all
        served.store.query(Query("DELETE FROM cover_exposures WHERE listener_id = 1 RETURNING 1"))
        at_once = list(many.map(served.covers, [1] * 6))
    final = served.covers(1)
    assert all(set(some.items()) <= set(final.items()) for some in at_once) and len(final) == len(first)


WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"


def test_who_comes_second_waits_and_shows_the_cover_of_the_first(served):
    served.store.query(Query("DELETE FROM cover_exposures WHERE listener_id = 2 RETURNING 1"))
    tracks, day, theirs = served.store.tracks([3, 4]), datetime.now(UTC).date(), "cover-dark-0123456789abcdef"
    first = served.store.connect()
    async def both():
        store = copy.copy(served.store)
        await store.aopen(1)
        request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(store=store)), scope={})
        second = asyncio.create_task(artwork_routes.Artwork().choose(request, 2, tracks))
        await asyncio.to_thread(until, lambda: served.store.query(Query(WAITS))[0][0])
        await asyncio.to_thread(first.con.commit)
        try: return await second
        finally: await store.aclose()
    try:
        first.con.autocommit = False
        first.con.execute(artwork_routes.EXPOSE, (2, day, 2, day, 0, [3], [theirs], ["dark"], [.5]))
        shown = asyncio.run(both())
    finally: first.con.close()
    assert set(shown) == {3, 4} and shown[3].exposure == theirs


def test_a_reward_counts_once_and_a_forged_one_never(served):
    (track, (exposure, _)), (other, (second, _)) = list(served.covers(1).items())[:2]
    theirs = next(x for t, (x, _) in served.covers(2).items() if t != track)
    before = earned(served)
    assert tell(served, exposure, "click", track=track).status_code == 200
    assert (earned(served)["clicked"], earned(served)["kept"]) == (before["clicked"] + 1, before["kept"])
    at = datetime.now(UTC).isoformat()
    for _ in range(2): assert tell(served, exposure, track=track, time=at).status_code == 200
    assert tell(served, exposure, track=track, time=(datetime.now(UTC) - timedelta(hours=1)).isoformat()).status_code == 409
    now = {**before, "clicked": before["clicked"] + 1, "kept": before["kept"] + 1}
    assert earned(served) == now
    for fake, who, t in (("cover-dark-0123456789abcdef", 1, track), (second, 2, other), (second + "x", 1, other)):
        assert tell(served, fake, who=who, track=t).status_code == 200                    # an event like any other
    assert tell(served, theirs, who=2, track=track).status_code == 200                      # for another track
    assert earned(served) == now
    assert served.store.query(Query("SELECT count(*)::int FROM outbox WHERE event_id = %s", (f"{exposure}-play",))) == [(1,)]
    tell(served, exposure, "skip", track=track)                                          # a play that was skipped earns nothing
    assert earned(served)["kept"] == before["kept"]


def test_the_track_page_takes_an_exposure_from_its_own_listener_alone(served):
    (track, (exposure, variant)), (_, (other, _)), *_ = served.covers(1).items()
    def shown(who, said, t=track): return httpx.get(f"{served.url}/tracks/{t}?cover={said}", headers={"cookie": f"listener={who}"})
    mine, (t,) = shown(1, exposure), served.store.tracks([track])
    assert f'data-cover="{exposure}"' in mine.text and draw_variant(t, variant) in mine.text
    for who, said in ((2, exposure), (1, other), (1, "cover-dark-0123456789abcdef"), (1, '"><b>'), (1, "cover-kitten-" + "0" * 16)):
        page = shown(who, said)
        assert page.status_code == 200 and 'data-cover=""' in page.text and draw_cover(t) in page.text, said


def test_another_tenants_exposure_counts_for_nobody(served):
    track, (exposure, _) = next(iter(served.covers(1).items()))
    other = fill(Store(served.store.lab, "covers-other"), 200)
    Events(other).register([1])
    before = earned(served)
    Events(other).track(make_event(1, "save", track, f"{exposure}-save"), False)
    day = datetime.now(UTC).date()
    assert other.query(Query(artwork_routes.EARNED, (day, day))) == [] and earned(served) == before
    assert other.query(Query(artwork_routes.FIND, (exposure, 1, track))) == []
    other.forget()


def test_a_signed_in_team_is_shown_covers_of_its_own(served):
    team = fill(Store(served.store.lab, "covers-team"), 200)
    Events(team).register([1])
    key, _ = Keys(team).create(["read", "write"])
    with serving(create_app(served.store, auth="required")) as url, httpx.Client(base_url=url, timeout=20) as browser:
        browser.headers["accept"] = "text/html"
        assert browser.post("/sign-in", data={"key": key, "next": "/"}).status_code == 303
        browser.cookies.set("listener", "1", domain="127.0.0.1")
        mine = until(lambda: [x for _, x, _ in re.findall(COVERS, browser.get("/").text)])
        assert "Signed in: covers-team" in browser.get("/").text
    ids = Query("SELECT exposure_id FROM cover_exposures WHERE listener_id = 1")
    assert set(mine) <= {x for x, in team.query(ids)} and not set(mine) & {x for x, in served.store.query(ids)}
    team.forget()


def test_a_reload_is_the_same_click(served):
    track, (exposure, _) = list(served.covers(2).items())[-1]
    said = [tell(served, exposure, "click", who=2, track=track) for _ in range(2)]          # as track.js does: without a time
    assert [r.status_code for r in said] == [200, 200] and said[0].json() == said[1].json()
    script = (PAGES / "static" / "track.js").read_text(encoding="utf-8")
    assert 'event("click", track), time: undefined, session_id: undefined' in script


def test_the_bandit_learns_what_the_page_was_told(served):
    rows = [artwork_routes.Earned(0, v, 400, 0, 200 if v == "sun" else 20) for v in VARIANTS]
    likely = artwork_routes.teach_bandit(rows).propensities(np.array([0, 1]))
    assert likely[0][list(VARIANTS).index("sun")] > .9 and likely[1].max() < .5             # another taste has seen none of it
    assert np.allclose(artwork_routes.teach_bandit([]).propensities(np.array([2])), .25, atol=.12)


def test_without_the_choice_each_cover_is_plain_and_the_page_complete(served):
    tracks = lambda text: re.findall(r'<li><a href="/tracks/([0-9]+)', text)
    with_covers = served.home(1)
    for plain in (served.home(10**9), served.home(1, **{"sec-purpose": "prefetch"}), httpx.get(served.url).text):
        assert "?cover=" not in plain and len(tracks(plain)) >= 8
    con = served.store.admin()
    with con.transaction():
        con.execute("LOCK TABLE cover_exposures IN ACCESS EXCLUSIVE MODE")
        held = served.home(1)
    con.close()
    assert "?cover=" not in held and tracks(held) == tracks(with_covers)
    until(lambda: served.covers(1))                                                      # and they come back by themselves
