"""The serving model on the real page: promote, ask, roll back, ask; and what stands in for one that is late, gone, new or lost."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pandas as pd
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.cli import app as commands
from rap_analyzer.core import LabError, settings
from rap_analyzer.deadline import within
from rap_analyzer.platform.tenants import TenantStore
from rap_analyzer.product.audience import simulate
from rap_analyzer.recommend import candidates, live
from rap_analyzer.recommend.artifacts import LOADERS, BadModel, load_model, rehearse
from rap_analyzer.recommend.definitions import FEATURES
from rap_analyzer.recommend.ensemble import Ensemble
from rap_analyzer.recommend.features import import_history, training_set
from rap_analyzer.recommend.forest import Forest
from rap_analyzer.recommend.live import LiveRanker
from rap_analyzer.recommend.offpolicy import judge_order, read_pages
from rap_analyzer.recommend.online import Online, frame, tenant_online
from rap_analyzer.recommend.ranker import NAMES, Ranker
from rap_analyzer.recommend.registry import Models
from rap_analyzer.recommend.rehearsal import load_audience
from rap_analyzer.recommend.rollout import takes_canary
from rap_analyzer.recommend.shown import KEEP_DAYS, WAITING, PageLog, Shown
from rap_analyzer.recommend.sources import read_asked
from rap_analyzer.search.store import Store
from rap_analyzer.serve.metrics import Metrics
from rap_analyzer.serve.watch import Watch
from rap_analyzer.web import serving

CARD, LISTENERS = "# A ranker\nFor tests.", 60


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(candidates, "LIMIT_S", 10)                                          # this machine may be busy
    monkeypatch.setattr(live, "LIMIT_S", 10)
    monkeypatch.setattr(live, "FIRST_S", 10)


def teach(seed: int, sign: int) -> Ranker:
    "A ranker that puts tracks with many plays first, or last; nothing else matters."
    rng = np.random.default_rng(seed)
    d = pd.DataFrame(rng.random((3_000, len(NAMES))), columns=list(NAMES)).assign(page=np.arange(300).repeat(10), mood=1.0)
    d["catalog_plays"] = 10 ** (1.5 + 2 * d["catalog_plays"])
    place = d.groupby("page")["catalog_plays"].rank(ascending=sign < 0)
    return Ranker.fit(d.assign(label=(place <= 5).astype(int) + (place <= 2)), rounds=30)


@pytest.fixture(scope="module")
def files() -> list[bytes]: return [teach(1, 1).to_bytes(), teach(2, -1).to_bytes()]


@pytest.fixture(scope="module")
def crowd(lab):
    "Tracks and events of synthetic listeners, whose features are online."
    with own_database(lab, "test_ranked") as own:
        own.start_broker()
        store = Store(own, "ranked")
        store.end = load_audience(store, events := simulate(8, LISTENERS, 5))
        import_history(store)
        online = tenant_online(own, store.tenant)
        store.busy = events.listener_id[events.action == "play"].value_counts().index[:20].tolist()
        for i in store.busy: online.rebuild(store, i, online.load({i: []})[i][0])
        yield store
        store.forget()


@pytest.fixture
def models(crowd, files):
    "Two versions, none of which serves."
    made = Models(crowd)
    with crowd.admin(None) as con: con.execute("DELETE FROM model_changes; DELETE FROM models; DELETE FROM model_files")
    for f in files: made.register("ranker", f, "ranker", card=CARD)
    return made


def ask(store, do, **how):
    "Something with an ensemble that follows the registry, in a loop of its own."
    async def go():
        await store.aopen(4)
        judge = LiveRanker(store, **how)
        try: return await do(Ensemble(store, judge=judge), judge)
        finally: await judge.close(); await store.aclose()
    return asyncio.run(go())


async def serves(judge, version, patience_s=20):
    "Wait until the reader has noticed."
    await judge.start()
    ends = time.monotonic() + patience_s
    while (judge.serving.now and judge.serving.now.version) != version:
        assert time.monotonic() < ends, judge.serving.explain()
        await asyncio.sleep(.01)


def ids(page): return [h.track_id for h in page.hits]


def plays_of(store, page): return np.median([t.popularity for t in store.tracks(ids(page))])


# ---- the page

def test_promote_ask_roll_back_ask(crowd, models, files, tmp_path, monkeypatch):
    "By command and over HTTP, with a cache that would keep each answer for a minute."
    monkeypatch.setattr("rap_analyzer.recommend.commands.open_models", lambda: models)
    (tmp_path / "card.md").write_text(CARD)
    def rap(*words):
        done = CliRunner().invoke(commands, ["model", *words])
        assert done.exit_code == 0, done.output
    for name, content in zip(("loud", "quiet"), files, strict=True):
        (tmp_path / name).write_bytes(content)
        rap("register", str(tmp_path / name), "ranker", "--kind", "ranker", "--card", str(tmp_path / "card.md"))
    with serving(create_app(crowd, cache_s=60)) as url, httpx.Client(base_url=url, timeout=30) as client:
        def get(by, who=crowd.busy[0]):
            ends = time.monotonic() + 20
            while (body := client.get("/api/recommend", params={"user_id": who, "k": 10}).json())["ordered_by"] != by:
                assert time.monotonic() < ends, body
                time.sleep(.02)
            return body
        of = lambda body: [h["track_id"] for h in body["hits"]]
        blend = get("the blend")
        assert all("ordered by the blend" in h["why"] for h in blend["hits"]) and blend["note"] == ""
        rap("promote", "ranker", "1")
        loud = get("ranker 1")
        assert all("ordered by ranker 1: " in h["why"] for h in loud["hits"]) and of(loud) != of(blend)
        assert "plays a month in the catalog" in loud["hits"][0]["why"]
        rap("promote", "ranker", "2", "--why", "it looked good")
        quiet = get("ranker 2")
        assert of(quiet) != of(loud)
        rap("rollback", "ranker")
        assert of(get("ranker 1")) == of(loud)
        home = client.get("/api/home", params={"user_id": crowd.busy[0]}).json()
        assert "ordered by ranker 1" in home["recommendations"][0]["hits"][0]["why"]
        assert 'rap_variant_requests_total{flag="model-ranker",status="200",variant="v1"}' in client.get("/metrics").text


def test_the_model_orders_what_the_sources_propose(crowd, models):
    async def go(e, judge):
        found = {"the blend": await e.page(crowd.busy[1], at=crowd.end)}
        for version in (1, 2):
            await asyncio.to_thread(models.promote, "ranker", version)
            await serves(judge, version)
            found[version] = await e.page(crowd.busy[1], at=crowd.end)
        return found
    found = ask(crowd, go)
    assert plays_of(crowd, found[1]) > plays_of(crowd, found["the blend"]) > plays_of(crowd, found[2])
    met = {t for t, in crowd.query(live.Query("SELECT DISTINCT track_id FROM events WHERE listener_id = %s", (crowd.busy[1],)))}
    for page in found.values():
        assert len(set(ids(page))) == 10 and not set(ids(page)) & met
        assert all(abs(sum(s.values()) - 1) < 1e-6 for s in page.shares)


def test_a_canary_gets_its_listeners_and_a_shadow_nobody(crowd, models):
    models.promote("ranker", 1)
    async def pages(e): return {i: (await e.page(i, at=crowd.end)).by for i in crowd.busy}
    async def go(e, judge):
        await serves(judge, 1)
        await asyncio.to_thread(models.try_out, "ranker", 2, "shadow")
        while judge.serving.trial is None: await asyncio.sleep(.01)
        shadowed = await pages(e)
        await asyncio.to_thread(models.try_out, "ranker", 2, "canary", 50, 60)
        while judge.serving.trial.stage != "canary": await asyncio.sleep(.01)
        return shadowed, await pages(e), {i: judge.label(i) for i in crowd.busy}
    shadowed, tried, labels = ask(crowd, go)
    assert set(shadowed.values()) == {"ranker 1"}
    inside = {i for i in crowd.busy if takes_canary("ranker", 2, 50, i)}
    assert 0 < len(inside) < len(crowd.busy)
    assert tried == {i: "ranker 2, a canary" if i in inside else "ranker 1" for i in crowd.busy}
    assert labels == {i: "ranker 2" if i in inside else "ranker 1" for i in crowd.busy}


# ---- what stands in for a model

def stand_in(store, models, change, says, version=1, **how):
    "The page is the blend's, says why, and is as good as without a model."
    async def go(e, judge):
        if version: await serves(judge, version)
        change(judge)
        return await e.page(store.busy[2], at=store.end), await Ensemble(store).page(store.busy[2], at=store.end)
    page, blend = ask(store, go, **how)
    assert page.by == "the blend" and says in page.note and ids(page) == ids(blend)
    assert all(f"ordered by the blend ({page.note}" in h.why for h in page.hits), page.hits[0].why


def test_a_late_model_is_not_waited_for(crowd, models):
    models.promote("ranker", 1)
    stand_in(crowd, models, lambda judge: setattr(judge, "limit_s", 0), "ranker 1 took longer than 0 ms")


def test_a_page_that_a_model_was_too_late_for_is_not_kept(crowd, models, monkeypatch):
    models.promote("ranker", 1)
    with serving(create_app(crowd, cache_s=600)) as url, httpx.Client(base_url=url, timeout=30) as client:
        def get(): return client.get("/api/recommend", params={"user_id": crowd.busy[3], "k": 7}).json()
        monkeypatch.setattr(live, "LIMIT_S", 0)
        ends = time.monotonic() + 20
        while "took longer than 0 ms" not in (late := get())["note"]:
            assert time.monotonic() < ends and late["ordered_by"] == "the blend", late
            time.sleep(.02)
        monkeypatch.setattr(live, "LIMIT_S", 10)
        assert get()["ordered_by"] == "ranker 1"
        monkeypatch.setattr(live, "LIMIT_S", 0)
        assert get()["ordered_by"] == "ranker 1"                         # what the model ordered is kept


def test_a_page_without_one_of_its_sources_is_not_kept(crowd, monkeypatch):
    call, down = candidates.Sources._call, set()
    async def may_fail(self, name, asked):
        if name in down: raise LabError("its server is away")
        return await call(self, name, asked)
    monkeypatch.setattr(candidates.Sources, "_call", may_fail)
    with serving(create_app(crowd, cache_s=600)) as url, httpx.Client(base_url=url, timeout=30) as client:
        def get(): return client.get("/api/recommend", params={"user_id": crowd.busy[4], "k": 7}).json()["missing"]
        down.add("popular")
        assert get() == ["popular"]
        down.clear()
        assert get() == []
        down.add("popular")
        assert get() == []                                               # what was whole is kept


def test_a_model_that_fails(crowd, models):
    models.promote("ranker", 1)
    def broken(judge):
        def score(d): raise KeyError("x")
        judge.serving.now.model.score = score
    stand_in(crowd, models, broken, "ranker 1 failed (KeyError)")


def test_features_that_are_away(crowd, models):
    models.promote("ranker", 1)
    stand_in(crowd, models, lambda judge: setattr(judge, "online", Online("redis://127.0.0.1:1", "x")), "Valkey does not answer")


def test_a_model_of_a_newer_program(crowd, models):
    models.promote("ranker", 1)
    with crowd.admin(None) as con: con.execute("UPDATE models SET schema_version = 2 WHERE version = 1")
    stand_in(crowd, models, lambda judge: None, "deploy a newer program", version=None)


def test_a_model_that_lost_its_end_on_the_way(crowd, models, monkeypatch):
    models.promote("ranker", 1)
    monkeypatch.setattr("rap_analyzer.recommend.serving.load_model", lambda content, *how: load_model(content[:900], *how))
    stand_in(crowd, models, lambda judge: None, "it changed on its way", version=None)


def test_a_newer_version_that_does_not_load_leaves_the_older_one_in_place(crowd, models):
    models.promote("ranker", 1)
    async def go(e, judge):
        await serves(judge, 1)
        with crowd.admin(None) as con: con.execute("UPDATE models SET schema_version = 2 WHERE version = 2")
        await asyncio.to_thread(models.promote, "ranker", 2)
        while not judge.serving.failed: await asyncio.sleep(.01)
        return await e.page(crowd.busy[0], at=crowd.end)
    page = ask(crowd, go)
    assert page.by == "ranker 1" and "ranker 2 did not load" in page.note


def test_a_model_without_names_and_a_listener_without_features(crowd, models):
    models.register("other", LOADERS and (content := teach(3, 1).to_bytes()), "lightgbm", card=CARD), models.promote("other", 1)
    stand_in(crowd, models, lambda judge: None, "register it as kind ranker", name="other")
    models.promote("ranker", 1)
    async def go(e, judge):
        await serves(judge, 1)
        return await e.page(10**9, context={"session": [1]}, at=crowd.end), await e.page(None), judge.label(None)
    unknown, nobody, label = ask(crowd, go)
    assert "nothing is known of this listener online" in unknown.note and nobody.by == "the blend" and label == ""
    assert content.startswith(b"tree")


# ---- features

def test_the_live_table_is_what_training_and_frame_would_have(crowd, models):
    models.promote("ranker", 1)
    def live_table(who, tracks, at):
        async def go(e, judge): return await judge.table(await read_asked(crowd, who, at), tracks, FEATURES_OF_A_RANKER, e.look_up)
        return ask(crowd, go)
    tracks = [5, 900, 17, 2_999, 99_999]
    for who, at in zip(crowd.busy, (crowd.end, crowd.end + timedelta(minutes=2), crowd.end + timedelta(days=1)), strict=False):
        ours = live_table(who, tracks, at)[["listener_id", "track_id", "time", *FEATURES_OF_A_RANKER]]
        theirs = frame(who, tracks, FEATURES_OF_A_RANKER, at, store=crowd)
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
        then = training_set(theirs[["listener_id", "track_id", "time"]], FEATURES_OF_A_RANKER, store=crowd)
        pd.testing.assert_frame_equal(ours, then, check_dtype=False)


FEATURES_OF_A_RANKER = [n for n in FEATURES if n != "embedding"]


# ---- the forest

def test_a_forest_scores_as_lightgbm_does_and_its_reasons_add_up(files):
    theirs, ours = Ranker.from_bytes(files[0]), load_model(files[0], "ranker")
    rng, shape = np.random.default_rng(7), (400, len(NAMES))
    X = np.where(rng.random(shape) < .3, rng.choice([np.nan, 0, -1, 3, 1e9, 1e-36, -.5], shape), rng.normal(size=shape))
    np.testing.assert_allclose(ours.score(X), theirs.booster.predict(X), rtol=1e-9)
    parts, base = ours.contributions(X)
    np.testing.assert_allclose(parts.sum(1) + base, ours.score(X), rtol=1e-9)
    d = pd.DataFrame(X, columns=list(NAMES))[list(NAMES)[::-1]]                                # the names decide, not the order
    np.testing.assert_array_equal(ours.score(d), ours.score(X))
    assert "plays a month in the catalog" in ours.explain(d.assign(catalog_plays=1e6))[0]


def test_categories_go_where_lightgbm_sends_them():
    rng = np.random.default_rng(3)
    d = pd.DataFrame(rng.random((4_000, 2)), columns=["bpm", "year"]).assign(page=np.arange(400).repeat(10))
    d["mood"] = pd.Series(rng.integers(8, size=4_000).astype(float)).mask(rng.random(4_000) < .1)
    worth = d["mood"].isin([1, 4, 6]) + .5 * d["bpm"]
    r = Ranker.fit(d.assign(label=(worth.groupby(d["page"]).rank(ascending=False) <= 3).astype(int)), ["bpm", "mood", "year"], 40)
    ours, moods = Forest(r.to_bytes()), np.array([np.nan, -5, -1, -.5, 0, .9, 1, 2, 4, 6, 7, 8, 31, 32, 63, 1e6])
    X = np.stack([np.full(len(moods), .5), moods, np.full(len(moods), .5)], axis=1)
    assert len(ours.choices) and len(set(ours.score(X))) > 1
    np.testing.assert_allclose(ours.score(X), r.booster.predict(X), rtol=1e-9)


def test_files_that_are_no_ranker_are_refused(files):
    data = files[0]
    version = FEATURES["bpm"].version.encode()
    for wrong, says in ((data[:-300], "no complete"), (b"", "no complete"), (b"PK\x03\x04", "no complete"),
                        (data.replace(b"threshold", b"thresh_ld", 1), "damaged"),
                        (data.replace(b'"format": 1', b'"format": 9'), "upgrade"),
                        (data.replace(b'"bpm":', b'"bqm":'), "not defined"),
                        (data.replace(version, b"0" * 8), "defined otherwise")):
        with pytest.raises(BadModel, match=says): Forest(wrong)
    assert rehearse(LOADERS["ranker"], data)["width"] == len(NAMES)


# ---- what goes into a model

def test_half_the_tempo_is_in_time_and_seen_by_the_watch_alone(crowd, models):
    models.promote("ranker", 1, "test")
    metrics = Metrics()
    async def go(ensemble, judge):
        await serves(judge, 1)
        judge.watch = Watch(metrics, reference=40, current=40, every=10)
        ensemble.explore, look_up = 0, ensemble.look_up
        async def halved(store, ids):
            rows = await look_up(store, ids)
            return {i: r._replace(facts=r.facts._replace(bpm=r.facts.bpm and r.facts.bpm / 2)) for i, r in rows.items()}
        async def pages(n): return [await ensemble.page(crowd.busy[i % 20], 5, {"hour": 18}) for i in range(n)]
        calm = (await pages(80))[-1], judge.watch.drifted()
        ensemble.look_up = halved
        return calm, ((await pages(40))[-1], judge.watch.drifted())
    (before, quiet), (after, moved) = ask(crowd, go)
    assert before.by == after.by == "ranker 1" and quiet == []                               # no failure, no stand-in
    assert "bpm" in [m.name for m in moved] and "year" not in [m.name for m in moved]
    seen = lambda name: metrics.registry.get_sample_value(name, {"feature": "bpm"})
    assert seen("rap_feature_psi") > seen("rap_feature_psi_limit")


# ---- the log

def test_pages_are_noted_with_the_chance_of_each_place_and_can_judge_another_order(crowd, models, monkeypatch):
    monkeypatch.setenv("RAP_API_EXPLORE", ".5")
    settings.cache_clear()
    since, first = datetime.now(UTC), {}
    with serving(create_app(crowd, cache_s=0)) as url, httpx.Client(base_url=url, timeout=30) as client:
        for n, who in [(n, who) for n in range(3) for who in crowd.busy]:
            hits = client.get("/api/recommend", params={"user_id": who, "device": "phone", "activity": "work"}).json()["hits"]
            first[n, who] = hits[0]["track_id"]
            if n == 2: client.post("/api/track_action", json={"user_id": who, "action": "click", "track_id": first[n, who]})
        assert client.get("/api/recommend").status_code == 200                              # nobody that we know: not noted
    log = read_pages(crowd, since)                                                          # the service has written what waited
    assert log["page"].nunique() == 60 and (log.groupby("page").size() == 10).all() and set(log["cell"]) == {1}
    n = np.array([len(p) for p in log["pool"]])
    np.testing.assert_allclose(log["propensity"], .5 / n + .5 * (log["item"] == log["usual"]))
    assert all(item in pool for item, pool in zip(log["item"], log["pool"], strict=True))
    odd = (log["item"] != log["usual"]).groupby(log["page"]).any().mean()
    assert .2 < odd < .8
    clicked = log[log["reward"] > 0]
    assert set(clicked["unit"]) == set(crowd.busy) and (clicked["place"] == 0).any()
    found = judge_order(log, list)                                                          # as relevant as can be, and no variety
    assert set(found) == {"replay", "ips", "self-normalised", "model", "doubly robust"}
    assert found["ips"].effective > 2 and found["ips"].low < found["ips"].value < found["ips"].high
    with pytest.raises(ValueError, match="an order of the"): judge_order(log, lambda pool: pool[:3])
    with pytest.raises(ValueError, match="RAP_API_EXPLORE"): judge_order(read_pages(crowd, datetime.now(UTC)), sorted)
    devices = crowd.query(live.Query("SELECT DISTINCT device FROM shown_pages WHERE time >= %s", (since,)))
    assert devices == [("phone",)]


def test_notes_wait_while_the_database_is_away_and_the_oldest_give_way(crowd):
    class Away:
        async def aquery(self, query): raise LabError("away")
    page = Shown(time.time(), 1, None, None, "the blend", [1], [1], [1, 2], 0.0)
    async def go():
        log = PageLog(Away())
        for _ in range(WAITING + 5): log.note(page)
        await log.flush()
        waiting, log.store = len(log.waiting), crowd
        await crowd.aopen(2)
        try: await log.close()
        finally: await crowd.aclose()
        return waiting, log.dropped, len(log.waiting)
    assert asyncio.run(go()) == (WAITING, 5, 0)
    crowd.query(live.Query("DELETE FROM shown_pages WHERE listener_id = 1 RETURNING 1"))


def test_what_a_request_begins_does_not_end_with_its_deadline(crowd, models):
    "The reader that follows the registry, and the notes of pages: begun by a request whose time is over at once."
    models.promote("ranker", 1)
    mine = Store(crowd.lab, crowd.tenant)
    async def go():
        await mine.aopen(4)
        judge, log = LiveRanker(mine), PageLog(mine)
        try:
            with within(0):
                await judge.start()
                log.note(Shown(time.time(), 1, None, None, "the blend", [1], [1], [1, 2], 0.0))
            await asyncio.wait_for(log.task, 20)
            return judge.serving.problem, judge.serving.now.version, len(log.waiting)
        finally: await log.close(), await judge.close(), await mine.aclose()
    assert asyncio.run(go()) == ("", 1, 0)
    mine.query(live.Query("DELETE FROM shown_pages WHERE listener_id = 1 RETURNING 1"))
    mine.forget()


def test_pages_of_last_season_are_deleted_by_whoever_writes_new_ones(crowd):
    mine = Store(crowd.lab, "seasons").register()
    async def go():
        await mine.aopen(2)
        try:
            log = PageLog(mine)
            for days in (KEEP_DAYS + 1, KEEP_DAYS - 1, 0):
                log.note(Shown(time.time() - 86_400 * days, 1, None, None, "the blend", [days], [days], [days, 2], 0.0))
            await log.close()
        finally: await mine.aclose()
    asyncio.run(go())
    assert mine.query(live.Query("SELECT items FROM shown_pages ORDER BY id")) == [([KEEP_DAYS - 1],), ([0],)]
    mine.forget()


def test_a_tenant_over_anothers_connections_has_its_own_model(crowd, models):
    models.promote("ranker", 1)
    mine = Store(crowd.lab, "host").register()
    async def go():
        await mine.aopen(4)
        guest = TenantStore(mine, crowd.tenant)
        judges = {name: LiveRanker(store) for name, store in (("guest", guest), ("host", mine))}
        try:
            page = await Ensemble(guest, judge=judges["guest"]).page(crowd.busy[0], at=crowd.end)
            await judges["host"].start()
            return page.by, judges["guest"].serving.task, judges["host"].label(crowd.busy[0])
        finally:
            for judge in judges.values(): await judge.close()
            await mine.aclose()
    assert asyncio.run(go()) == ("ranker 1", None, "")


def test_a_question_that_only_asks_whether_a_value_is_known():
    "LightGBM writes its threshold as inf: every number goes left, and what is unknown goes right."
    rng = np.random.default_rng(5)
    d = pd.DataFrame(rng.random((2_000, 2)), columns=["bpm", "year"]).assign(page=np.arange(200).repeat(10))
    d["bpm"] = d["bpm"].mask(rng.random(2_000) < .3)
    data = Ranker.fit(d.assign(label=d["bpm"].isna().astype(int)), ["bpm", "year"], 20).to_bytes()
    assert b"inf" in data.partition(b"end of trees")[0]
    np.testing.assert_allclose(load_model(data, "ranker").score(d), Ranker.from_bytes(data).score(d), rtol=1e-9)
    with pytest.raises(BadModel): Forest(data.replace(b"leaf_value=", b"leaf_value=inf ", 1))
