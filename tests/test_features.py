"Features: one definition for training and serving, as known at the time, and online within a second."
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog, generator
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.counters import consume
from rap_analyzer.product.events import Events, read_frame
from rap_analyzer.product.outbox import relay_threads
from rap_analyzer.product.people import START
from rap_analyzer.product.stream import Message, ValkeyStream
from rap_analyzer.recommend.artifacts import LOADERS
from rap_analyzer.recommend.definitions import FEATURES, STREAMED, Heard, History, check_names, feature, fold, names_of
from rap_analyzer.recommend.feature_set import compute_listener
from rap_analyzer.recommend.features import import_history, materialise, training_set
from rap_analyzer.recommend.fresh import compare_worlds
from rap_analyzer.recommend.online import Online, frame, read, update_features
from rap_analyzer.recommend.ranker import NAMES, Ranker, importances, label_pages, ndcg_by_page
from rap_analyzer.recommend.worlds import World
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate

NOW = datetime.now(UTC).replace(microsecond=0)
ALL = list(FEATURES)


@pytest.fixture(scope="module")
def home(lab):
    "A database of its own, so that no other test's relay takes anything out of it."
    mine = Lab(lab.home, "features").up()
    migrate(mine)
    mine.start_broker()
    yield mine
    mine.drop_database("features")
    mine.close()


@pytest.fixture
def store(home):
    "A new tenant with ten listeners and 300 tracks."
    mine = Store(home, f"f{uuid4().hex[:12]}").register()
    mine.load(list(catalog.tracks(0, 300)), catalog.embeddings(0, 300))
    Events(mine).register(range(10))
    yield mine
    with mine.admin("rap_loader") as con: con.execute("DELETE FROM outbox")
    mine.forget()


@pytest.fixture(autouse=True)
def clock():
    "Each test has its own now: features expire by the real clock."
    global NOW
    NOW = datetime.now(UTC).replace(microsecond=0)


def ago(**how) -> datetime: return NOW - timedelta(**how)


def happen(store: Store, *what: tuple) -> list:
    "Accept events (listener, action, track, time, received; without it: now), and give them back as messages."
    made = []
    for listener, action, track, when, *received in what:
        e = make_event(listener, action, track, time=when)
        Events(store).track(e)
        if received:
            moved = "UPDATE events SET received = %s WHERE event_id = %s"
            with store.admin(None) as con: con.execute(moved, [*received, e.event_id])
        made.append(Message(store.tenant, received[0] if received else datetime.now(UTC), e))
    return made


def known(store: Store, name: str, *rows: tuple) -> list:  # (listener, time), or (listener, track, time)
    "One feature as of these moments."
    asked = pd.DataFrame(rows, columns=["listener_id", "track_id", "time"][::2 if len(rows[0]) == 2 else 1])
    return training_set(asked, [name], store=store)[name].tolist()


# ---- point in time

def test_a_value_counts_from_its_event_until_its_time_is_over(store):
    happen(store, *[(1, "play", n, t := ago(minutes=60 - n), t) for n in range(3)])
    seen = known(store, "plays_5m", *[(1, ago(minutes=m)) for m in (61, 60, 59, 58, 57, 53.1, 53, 10)])
    assert seen[1:6] == [1, 2, 3, 3, 3] and np.isnan([seen[0], *seen[6:]]).all()
    assert known(store, "plays_total", (1, ago(minutes=1)), (1, ago(days=9)))[0] == 3
    assert np.isnan(known(store, "plays_total", (2, NOW), (99, NOW))).all()


def test_an_event_that_arrived_late_is_not_known_before_it_arrived(store):
    happen(store, (1, "play", 1, ago(minutes=50), ago(minutes=50)), (1, "save", 1, ago(minutes=49), ago(minutes=20)))
    assert known(store, "saves_total", (1, ago(minutes=45)), (1, ago(minutes=21)), (1, ago(minutes=19))) == [0, 0, 1]
    pair = known(store, "times_kept", (1, 1, ago(minutes=45)), (1, 1, ago(minutes=19)))
    assert pair == [0, 1]


def test_a_row_that_was_written_later_does_not_leak(store):
    store.query(Query("""INSERT INTO feature_values (tenant_id, name, listener_id, time, value)
        VALUES (current_setting('app.tenant_id'), 'plays_total', 3, %s, 77) RETURNING 1""", (ago(days=5),)))
    assert np.isnan(known(store, "plays_total", (3, ago(minutes=1)))[0])  # it was true five days ago, and written just now
    assert known(store, "plays_total", (3, datetime.now(UTC))) == [77]


def test_the_day_that_is_not_over_has_no_statistics(store):
    midnight = NOW.replace(hour=0, minute=0, second=0) - timedelta(days=1)
    happen(store, *[(1, "play", 7, t, t) for t in (midnight - timedelta(hours=1), midnight + timedelta(hours=1))])
    asked = pd.DataFrame({"track_id": 7, "time": [midnight, midnight + timedelta(hours=5), midnight + timedelta(days=1)]})
    days = training_set(asked, ["track_plays"], store=store)
    assert days["track_plays"].tolist() == [1, 1, 2]


def test_imported_history_was_known_when_it_happened(store):
    many = [make_event(1, "play", n % 9, f"old-{n}", time=ago(days=30) + timedelta(minutes=n)) for n in range(20)]
    Events(store).load(many, publish=False)
    asked = (1, ago(days=30) + timedelta(minutes=10))
    assert np.isnan(known(store, "plays_total", asked)[0])  # by the table, all of it came today
    import_history(store)
    assert known(store, "plays_total", asked) == [11]
    happen(store, (1, "play", 1, ago(days=30) + timedelta(minutes=5)))  # one more, from a phone that was offline for a month
    assert known(store, "plays_total", asked, (1, datetime.now(UTC))) == [11, 21]


def test_replay_is_repeatable_and_notices_what_is_new(store):
    happen(store, *[(1, a, n, ago(minutes=30 - n)) for n in range(5) for a in ("play", "skip")[:1 + n % 2]])
    assert (materialise(store, [1, 2]), materialise(store, [1, 2])) == (1, 0)
    count = lambda: store.query(Query("SELECT count(*), coalesce(sum(value), 0) FROM feature_values"))[0]
    before = count()
    store.query(Query("UPDATE feature_marks SET version = 'old' RETURNING 1"))
    assert materialise(store, [1]) == 1 and count() == before
    happen(store, (1, "play", 9, ago(minutes=1)))
    assert materialise(store, [1]) == 1 and count()[0] > before[0]


@pytest.mark.parametrize("change,said", [
    (lambda d: (d, ["mood_of_day"]), "no feature 'mood_of_day'"), (lambda d: (d, ["bpm", "bpm"]), "each feature once"),
    (lambda d: (d.drop(columns="time"), ["bpm"]), "time"), (lambda d: (d.drop(columns="listener_id"), ["plays_5m"]), "listener_id"),
    (lambda d: (d.assign(time="noon"), ["bpm"]), "time"), (lambda d: (d.assign(time=pd.NaT), ["bpm"]), "no time"),
    (lambda d: (d.assign(listener_id=-1), ["plays_5m"]), "from 0"), (lambda d: (d.assign(track_id=1.5), ["bpm"]), "whole numbers"),
    (lambda d: (d.assign(bpm=1), ["bpm"]), "already"), (lambda d: (d.to_dict(), ["bpm"]), "DataFrame")])
def test_bad_questions_are_refused_in_words(store, change, said):
    d, names = change(pd.DataFrame({"listener_id": [1], "track_id": [2], "time": [NOW]}))
    with pytest.raises(ValueError, match=said): training_set(d, names, store=store)


def test_no_rows_unknown_tracks_and_naive_times_are_fine(store):
    none = pd.DataFrame({"listener_id": np.array([], int), "track_id": np.array([], int), "time": pd.to_datetime([])})
    assert training_set(none, ["bpm", "similarity"], store=store).columns.tolist() == [*none.columns, "bpm", "similarity"]
    d = pd.DataFrame({"listener_id": [1, 1], "track_id": [2, 99_999], "time": [NOW.replace(tzinfo=None)] * 2}, index=[7, 7])
    found = training_set(d, ["bpm", "embedding", "similarity", "recent_tracks"], store=store)
    assert found.index.tolist() == [7, 7] and found["bpm"].notna().tolist() == [True, False]
    np.testing.assert_allclose(np.linalg.norm(found["embedding"].iloc[0].astype(float)), 1, atol=.01)
    assert np.isnan(found["embedding"].iloc[1]).all() and found["similarity"].isna().all()
    assert found["recent_tracks"].tolist() == [None] * 2


def test_one_tenant_knows_nothing_of_another(store, home):
    happen(store, (1, "play", 1, ago(minutes=2)))
    assert known(store, "plays_total", (1, datetime.now(UTC))) == [1]
    other = Store(home, f"f{uuid4().hex[:12]}").register()
    assert np.isnan(known(other, "plays_total", (1, datetime.now(UTC)))[0])
    other.forget()


# ---- online

def test_training_and_serving_agree_for_the_same_moment(store):
    rng, sent = np.random.default_rng(3), []
    for n in range(60):
        t, track = ago(minutes=90 - n), int(rng.integers(300))
        sent += happen(store, (1, "play", track, t))
        if rng.random() < .5: sent += happen(store, (1, "skip", track, t + timedelta(seconds=9)))
        elif rng.random() < .3: sent += happen(store, (1, "save", track, t + timedelta(seconds=200)))
    update_features(store.lab, store.tenant, sent)
    heard = [m.event.track_id for m in sent[-9:]]
    for at in (datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=3), datetime.now(UTC) + timedelta(days=2)):
        now = frame(1, [*heard, 1, 2, 99_999], ALL, at, store=store)
        then = training_set(now[["listener_id", "track_id", "time"]], ALL, store=store)
        pd.testing.assert_frame_equal(now.drop(columns="embedding"), then.drop(columns="embedding"), check_dtype=False)
        np.testing.assert_array_equal(np.stack(now["embedding"]), np.stack(then["embedding"]))


def test_the_same_event_twice_counts_once_in_any_order_and_by_any_consumer(store):
    sent = happen(store, *[(1, ("play", "skip")[n % 2], n // 2, ago(minutes=40 - n)) for n in range(30)])
    first = sent[:3]
    update_features(store.lab, store.tenant, first)  # computed from PostgreSQL, where all of them are
    crews = [np.random.default_rng(n).permutation(len(sent)) for n in range(4)]
    def work(order):
        for i in range(0, 30, 5): update_features(store.lab, store.tenant, [sent[j] for j in order[i:i + 5]])
    threads = [threading.Thread(target=work, args=(o,)) for o in crews]
    for t in threads: t.start()
    for t in threads: t.join()
    names = names_of("listener")
    assert read(1, ["plays_total"], store=store) == {"plays_total": 15}
    assert frame(1, [3], ["times_played", "times_skipped"], store=store).iloc[0, 3:].tolist() == [1, 1]
    then = training_set(pd.DataFrame({"listener_id": [1], "time": [at := datetime.now(UTC)]}), names, store=store).iloc[0]
    now = read(1, names, at, store=store)
    assert all(now[n] == then[n] or now[n] != now[n] and then[n] != then[n] for n in names), (now, then.to_dict())


def test_events_fold_to_the_same_state_in_any_order():
    rng = np.random.default_rng(1)
    events = [Heard(f"e{n}", float(n // 2), ("play", "skip", "save")[n % 3], n % 7, n % 5, n % 8, 90.0 + n) for n in range(80)]
    found = []
    for _ in range(5):
        h = History()
        for n in rng.permutation(80): fold(h, events[n])
        found.append((h, compute_listener(h)))
    assert all(f == found[0] for f in found)


def test_a_listener_whose_state_is_gone_is_computed_anew(store):
    sent = happen(store, *[(1, "play", n, ago(minutes=9 - n)) for n in range(5)])
    update_features(store.lab, store.tenant, sent)
    online = Online(store.lab, store.tenant)
    online.ask([("DEL", f"{online.key}:listener:1")])
    assert np.isnan(online.listener(1, ["plays_total"])["plays_total"])
    update_features(store.lab, store.tenant, sent[:1])  # even an old message
    assert online.listener(1, ["plays_total"]) == {"plays_total": 5}
    assert online.read_pairs(1, [0, 7])["times_played"] == [1, None]
    late = happen(store, (1, "play", 7, ago(minutes=1)))[0]._replace(received=ago(hours=9))  # too old to know whether it is new
    for _ in range(2): update_features(store.lab, store.tenant, [late])
    assert online.listener(1, ["plays_total"]) == {"plays_total": 6}


def test_values_expire_and_the_reader_is_exact(store):
    update_features(store.lab, store.tenant, happen(store, (1, "play", 1, ago(minutes=4))))
    online = Online(store.lab, store.tenant)
    assert online.listener(1, ["plays_5m", "recent_tracks"]) == {"plays_5m": 1, "recent_tracks": [1]}
    assert np.isnan(online.listener(1, ["plays_5m"], NOW + timedelta(minutes=1, seconds=1))["plays_5m"])
    left = online.ask([("HTTL", f"{online.key}:listener:1", "FIELDS", 2, "plays_5m", "plays_total")])[0]
    assert 0 < left[0] <= 300 and left[1] == -1


def test_a_valkey_that_is_away_is_said_in_words_and_soon():
    online, began = Online("redis://127.0.0.1:1", "nobody"), time.monotonic()
    with pytest.raises(LabError, match="fall back"): online.listener(1, ["plays_5m"])
    assert time.monotonic() - began < 5
    with pytest.raises(ValueError, match="no feature"): online.listener(1, ["plays"])
    with pytest.raises(ValueError, match="ask `frame`"): online.listener(1, ["bpm"])


def test_an_event_is_visible_online_without_anybody_waiting_for_it(store):
    ended, stream = threading.Event(), f"test:{uuid4().hex[:8]}"
    make = lambda lab: ValkeyStream(lab.start_broker(), stream)
    threads = relay_threads(store, make, ended)
    threads.append(threading.Thread(target=consume, args=(store.lab, make(store.lab), "features", ended)))
    for t in threads: t.start()
    try:
        Events(store).track(make_event(1, "play", 5))
        until = time.monotonic() + 20
        while read(1, ["last_track"], store=store)["last_track"] != [5]: assert time.monotonic() < until; time.sleep(.01)
    finally:
        ended.set()
        for t in threads: t.join()


# ---- definitions

def test_a_name_has_one_meaning():
    with pytest.raises(ValueError, match="a second name"):
        @feature("listener")
        def plays_5m(h): return 0.0
    with pytest.raises(ValueError, match="an entity"): feature("album")
    with pytest.raises(ValueError, match="ttl_s"): feature("listener", ttl_s=0)
    with pytest.raises(ValueError, match="no feature 'x'"): feature("request", needs=("x",))
    assert all(f.about and f.version for f in FEATURES.values()) and check_names("bpm") == ["bpm"]
    assert json.dumps({n: f.version for n, f in FEATURES.items()})


# ---- the ranker

def pages_of(rng: np.random.Generator, n: int = 300) -> pd.DataFrame:
    "Pages of ten tracks on which the one that was played before and sounds alike is kept."
    d = pd.DataFrame(rng.random((10 * n, len(NAMES))), columns=list(NAMES)).assign(page=np.arange(n).repeat(10), mood=1.0)
    best = d.groupby("page")["similarity"].rank(ascending=False)
    return d.assign(label=(best <= 2).astype(int) + (best <= 1))


@pytest.fixture(scope="module")
def ranker():
    "A ranker that has learned what matters on these pages."
    return Ranker.fit(pages_of(np.random.default_rng(1)), rounds=40)


def test_a_ranker_learns_what_matters_and_says_so(ranker):
    held = pages_of(np.random.default_rng(2), 60)
    score = ranker.score(held)
    assert ndcg_by_page(held["page"], held["label"], score).mean() > .9
    assert ndcg_by_page(held["page"], held["label"], -score).mean() < .6
    table = importances(ranker, held)
    assert table.index[0] == "similarity" == table["permuted"].idxmax()
    best = held.loc[[held["similarity"].idxmax()]]
    assert FEATURES["similarity"].about in ranker.explain(best)[0] and ranker.explain(best.head(0)) == []
    assert ranker.score(best.head(0)).shape == (0,)
    unknown = best.assign(similarity=np.nan, bpm=np.nan)
    assert np.isfinite(ranker.score(unknown)).all()


def test_a_ranker_travels_as_text_and_a_damaged_one_is_refused(ranker):
    held, data = pages_of(np.random.default_rng(3), 20), ranker.to_bytes()
    again = Ranker.from_bytes(data)
    np.testing.assert_array_equal(again.score(held), ranker.score(held))
    assert data.startswith(b"tree") and b"pickle" not in data and again.names == ranker.names
    np.testing.assert_allclose(LOADERS["lightgbm"](data).score(held[list(NAMES)].to_numpy()), ranker.score(held))  # the registry's
    for cut in (0, 10, len(data) // 2, len(data) - 3):
        with pytest.raises(LabError, match="no complete ranker"): Ranker.from_bytes(data[:cut])
    with pytest.raises(LabError, match="damaged"): Ranker.from_bytes(data.replace(b"threshold", b"thresh_ld", 1))
    with pytest.raises(LabError, match="upgrade"): Ranker.from_bytes(data.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(LabError, match="not defined here"): Ranker.from_bytes(data.replace(b'"bpm":', b'"bqm":'))
    other = data.replace(FEATURES["bpm"].version.encode(), b"0" * 8)
    with pytest.raises(LabError, match="'bpm' is defined otherwise"): Ranker.from_bytes(other)
    with pytest.raises(ValueError, match="needs the column 'bpm'"): ranker.score(held.drop(columns="bpm"))


def test_a_ranker_without_anything_to_learn_and_a_machine_without_openmp(monkeypatch):
    d = pages_of(np.random.default_rng(1), 5)
    with pytest.raises(ValueError, match="two labels"): Ranker.fit(d.assign(label=1))
    with pytest.raises(ValueError, match="the column 'label'"): Ranker.fit(d.drop(columns="label"))
    with pytest.raises(ValueError, match="no feature"): Ranker.fit(d, ["loudness"])
    def missing(_): raise OSError("libgomp.so.1: cannot open shared object file")
    monkeypatch.setattr("rap_analyzer.recommend.ranker.import_module", missing)
    with pytest.raises(LabError, match="libgomp1"): Ranker.fit(d)


def test_labels_say_what_became_of_each_track_of_a_page():
    row = lambda s, action, track, position=0: {"time": pd.Timestamp("2026-01-05") + pd.Timedelta(seconds=s), "listener_id": 1,
                                                "session_id": 5, "action": action, "track_id": track, "position": position}
    shown = [row(0, "impression", t, p) for p, t in enumerate((10, 11, 12), 1)]
    second = [row(300, "impression", t, p) for p, t in enumerate((10, 13), 1)]
    events = pd.DataFrame([*shown, row(1, "click", 11, 2), row(1, "play", 11, 2), row(200, "save", 11, 2), row(210, "play", 99),
                           *second, row(301, "click", 13, 2), row(301, "play", 13, 2), row(310, "skip", 13, 2),
                           row(400, "impression", 14, 1), row(401, "click", 14, 1), row(401, "play", 14, 1)])
    found = label_pages(events.sample(frac=1, random_state=1).sort_values("time", kind="stable"))
    assert found[["page", "track_id", "label"]].to_numpy().tolist() == [[0, 10, 0], [0, 11, 2], [0, 12, 0], [1, 10, 0], [1, 13, 0],
                                                                       [2, 14, 1]]


# ---- worlds

def test_worlds_share_their_luck_and_a_simulated_feed_computes_what_the_store_computes(home):
    first, again = (World(1, 40, 3).run() for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    world = World(2, 40, 3)
    events = world.run()
    store = Store(home, f"f{uuid4().hex[:12]}").register()
    store.load(list(catalog.tracks(0, 3_000)), generator.embeddings(0, 3_000))  # the space that the simulation ranks in
    Events(store).register(range(40))
    Events(store).load(read_frame(events[events["action"].isin(STREAMED)]), publish=False)
    import_history(store)
    listener = events["listener_id"].value_counts().index[0]
    tracks = events["track_id"][events["listener_id"] == listener].unique()[-12:]
    now_s = (events["time"].max() - pd.Timestamp(START)).total_seconds() + 1
    d = world.feed
    d.update(world.p.log, 2)
    names = [n for n in NAMES if FEATURES[n].entity != "track_day"]
    mine = d.frame(np.array([listener]), tracks[None], np.array([now_s]), names)
    theirs = training_set(mine[["listener_id", "track_id", "time"]], names, store=store)
    pd.testing.assert_frame_equal(mine[names], theirs[names], check_dtype=False, rtol=1e-5)
    store.forget()


def test_an_effect_has_an_interval_a_power_and_a_decision():
    rng = np.random.default_rng(1)
    def world(chance): return pd.DataFrame({"listener_id": np.arange(4_000) % 500, "session_id": np.arange(4_000) // 2,
                                            "action": np.where(rng.random(4_000) < chance, "save", "play")})
    better = compare_worlds(world(.1), world(.2), 500)
    assert .07 < better.low < better.effect < better.high and better.power > .99 and better.decision.startswith("ship it")
    assert compare_worlds(world(.2), world(.1), 500).decision.startswith("do not")
    assert compare_worlds(w := world(.1), w, 500).decision.startswith("no decision")
