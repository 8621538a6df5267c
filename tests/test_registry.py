"Models as versions, on real servers: what is refused, what a kill leaves behind, who follows how fast, and who is demoted."
import asyncio
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers import own_database

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.assignment import assign
from rap_analyzer.product.events import Events
from rap_analyzer.product.flags import FlagMetrics
from rap_analyzer.recommend import artifacts
from rap_analyzer.recommend.artifacts import BadModel, check_trees, load_model, load_npz
from rap_analyzer.recommend.registry import Models, UnknownModel, log_to_mlflow
from rap_analyzer.recommend.rollout import (
    ModelCanary,
    Rollout,
    TrialMetrics,
    as_experiment,
    fewer_saves,
    opposed,
    read_sessions,
    takes_canary,
)
from rap_analyzer.recommend.serving import ModelMetrics, NoModel, Serving
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.metrics import Metrics
from rap_analyzer.serve.top import Change, parse_metrics
from rap_analyzer.web import serving

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
CARD = "# A linear ranker\nFor tests."


def pack(**arrays) -> bytes:
    np.savez_compressed(file := io.BytesIO(), **arrays)
    return file.getvalue()


def linear(*weights: float, **more) -> bytes: return pack(weights=np.array(weights), **more)


def wait_until(true, patience_s=20):
    ends = time.monotonic() + patience_s
    while not (found := true()) and time.monotonic() < ends: time.sleep(.02)
    assert found, "it did not become so"
    return found


@pytest.fixture(scope="session")
def trees() -> bytes:
    "A small LightGBM ranker of three columns."
    import lightgbm
    rng = np.random.default_rng(1)
    X = rng.normal(size=(500, 3))
    how = {"objective": "lambdarank", "num_leaves": 7, "num_threads": 1, "verbose": -1, "deterministic": True, "seed": 1}
    y = np.digitize(X[:, 0] + .2 * rng.normal(size=500), (-1, 0, 1))
    return lightgbm.train(how, lightgbm.Dataset(X, y, group=[50] * 10), 12).model_to_string().encode()


@pytest.fixture(scope="module")
def database(lab):
    with own_database(lab, "test_registry") as own: yield own


@pytest.fixture
def models(database, request):
    name = "m" + sha256(request.node.name.encode()).hexdigest()[:12]
    store = Store(database, name).register()
    yield Models(store)
    store.forget()


# ---- files

def test_no_truncated_file_reaches_the_parser(trees):
    for cut in [*range(0, len(trees) - 40, 97), len(trees) - 40]:
        with pytest.raises(BadModel): check_trees(trees[:cut])
    content = linear(1, 2)
    for cut in range(0, len(content)):
        with pytest.raises(BadModel): load_npz(content[:cut])
    assert check_trees(trees) == 3 and load_npz(content).width == 2


APART = """import json, os, signal, sys
import lightgbm
import numpy as np
from rap_analyzer.recommend.artifacts import Trees
how = []
for text in json.load(sys.stdin):
    if not (child := os.fork()):
        signal.alarm(5)
        Trees(text.encode()).score(np.zeros((9, 3)))
        os._exit(0)
    how.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("\\n" + json.dumps(how))
"""


def test_a_damaged_file_is_refused_or_scores(trees):
    "Random bytes are changed: nothing gets through that the predictor would not survive."
    rng, through = np.random.default_rng(3), []
    for _ in range(300):
        content = bytearray(trees)
        content[rng.integers(len(content))] = rng.integers(32, 127)
        try: check_trees(bytes(content))
        except BadModel: continue
        through.append(content.decode())
    assert 10 < len(through) < 250
    said = subprocess.run([sys.executable, "-c", APART], input=json.dumps(through), capture_output=True, text=True, timeout=120)
    assert set(json.loads(said.stdout.splitlines()[-1])) <= {0, 1}, said.stderr[-500:]      # at worst an exception


@pytest.mark.parametrize("pattern, change", [
    (rb"(?m)^(left_child|right_child)=.*$", lambda m: re.sub(rb"(?<=[ =])\d(?!\d)", b"0", m[0])),
    (rb"(?m)^left_child=.*$", lambda m: re.sub(rb"-\d", b"-9", m[0])),
    (rb"(?m)^split_feature=.*$", lambda m: re.sub(rb"\d", b"9", m[0])),
    (rb"(?m)^leaf_value=.{3}", lambda m: b"leaf_value=nan"),
    (rb"max_feature_idx=2", lambda m: b"max_feature_idx=1"),
    (rb"num_class=1", lambda m: b"num_class=9"),
    (rb"version=v4", lambda m: b"version=v5"),
])
def test_trees_that_are_none(trees, pattern, change):
    bad = re.sub(pattern, change, trees)
    assert bad != trees and len(bad) == len(trees)
    with pytest.raises(BadModel): check_trees(bad)


def test_a_tree_may_be_a_single_leaf():
    import lightgbm
    X, how = np.arange(40.0).reshape(20, 2), {"objective": "regression", "num_threads": 1, "verbose": -1, "min_data_in_leaf": 1}
    for y, data in ((np.ones(20), X), (X[:, 0], X)):
        text = lightgbm.train(how, lightgbm.Dataset(data, y), 3).model_to_string().encode()
        assert np.isfinite(load_model(text, "lightgbm").score(X)).all()


def test_categories_are_read_and_checked():
    import lightgbm
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.integers(0, 40, 600), rng.normal(size=600)]).astype(float)
    how = {"objective": "regression", "num_leaves": 7, "num_threads": 1, "verbose": -1, "min_data_per_group": 5}
    text = lightgbm.train(how, lightgbm.Dataset(X, X[:, 0] % 3, categorical_feature=[0]), 5).model_to_string().encode()
    assert b"cat_boundaries" in text and load_model(text, "lightgbm").score(X[:3]).shape == (3,)
    with pytest.raises(BadModel, match="categories"): check_trees(re.sub(rb"cat_boundaries=0 \d", rb"cat_boundaries=0 9", text))


@pytest.mark.parametrize("content, says", [
    (b"", "no whole NPZ"), (b"PK\x05\x06" + b"\0" * 18, None), (pack(weights=np.array([np.nan])), "NaN"),
    (b"tree\nversion=v4\n", "register it as kind lightgbm, or as ranker"),
    (pack(weights=np.eye(2)), "row of numbers"),
    (pack(weights=np.array(["a"])), "row of numbers"), (pack(weights=np.ones(2), bias=np.ones(2)), "one number"),
    (pack(weights=np.ones(2), schema=np.array(2)), "newer program"), (pack(weights=np.ones(2), schema=np.array(["x"])), "from 1"),
    (pack(zeros=np.zeros(artifacts.UNPACKED // 8 + 1)), "unpacks to"), (pack(weights=np.ones(2) * 1j), "numbers and texts"),
])
def test_arrays_that_are_no_model(content, says):
    if says is None: assert load_npz(content).width is None
    else:
        with pytest.raises(BadModel, match=says): load_npz(content)


def test_an_npz_file_is_told_from_lightgbm_text():
    with pytest.raises(BadModel, match="register it as kind npz"): load_model(pack(weights=np.ones(2)), "lightgbm")


def test_a_pickle_is_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path / "was here"),)
    np.savez(tmp_path / "evil.npz", weights=np.array([Evil()], dtype=object))
    with pytest.raises(BadModel): load_npz((tmp_path / "evil.npz").read_bytes())
    assert not (tmp_path / "was here").exists()



# ---- versions

def test_a_file_is_kept_once_and_numbered(models, trees):
    a, new = models.register("ranker", trees, "lightgbm", card=CARD, metrics={"ndcg@10": .2}, code_hash="abc", by="anna")
    again, newer = models.register("ranker", trees, "lightgbm", card="other")
    b, _ = models.register("ranker", linear(1, 2, 3), card=CARD)
    other, _ = models.register("other", linear(1, 2, 3), card=CARD)
    assert (a.version, new, again.version, newer, b.version, other.version) == (1, True, 1, False, 2, 1)
    first = models.get("ranker", 1)
    assert models.artifact(first) == trees and (first.metrics, first.card) == ({"ndcg@10": .2}, CARD)
    assert [(v.name, v.version) for v in models.listing()] == [("other", 1), ("ranker", 2), ("ranker", 1)]
    assert [h["by"] for h in models.history("ranker", 1)] == ["anna"]
    with pytest.raises(UnknownModel): models.get("ranker", 3)
    with pytest.raises(UnknownModel): models.promote("nothing", 1)


def test_many_register_at_once(models):
    threads = [threading.Thread(target=models.register, args=("ranker", linear(i, 1)), kwargs={"card": CARD}) for i in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert sorted(v.version for v in models.listing("ranker")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("content, how, says", [
    (linear(1)[:-20], {}, "no whole NPZ"), (linear(1), {"sha": "0" * 64}, "changed on its way"),
    (linear(1), {"schema": 2}, "newer program"),
    (b"tree\n", {"kind": "lightgbm"}, "no LightGBM text"), (linear(1), {"kind": "pickle"}, "no kind"), (b"", {}, "empty"),
    (linear(1), {"card": " "}, "expected a card"), (linear(1), {"metrics": {"a": float("nan")}}, "no figure"),
    (linear(1), {"metrics": {"a": True}}, "no figure"), (linear(1), {"code_hash": "x" * 101}, "code's hash"),
])
def test_what_makes_no_sense_is_refused_at_the_edge(models, content, how, says):
    with pytest.raises(ValueError, match=says): models.register("ranker", content, **{"card": CARD, **how})
    assert models.listing() == []


def test_stages_and_their_history(models):
    for i in range(3): models.register("ranker", linear(i + 1, 1), card=CARD)
    with pytest.raises(ValueError, match="nothing to roll back"): models.rollback("ranker")
    models.promote("ranker", 1), models.try_out("ranker", 2, "shadow")
    with pytest.raises(ValueError, match="version 2 .* is on trial"): models.try_out("ranker", 3, "canary", 5, 10)
    with pytest.raises(ValueError, match="1 to 100 per cent"): models.try_out("ranker", 2, "canary", 0, 10)
    models.retire("ranker", 2, "too slow")
    with pytest.raises(ValueError, match="demoted .too slow.*--force"): models.promote("ranker", 2)
    models.promote("ranker", 2, force=True), models.promote("ranker", 3)
    assert models.rollback("ranker").version == 2 and models.rollback("ranker").version == 1
    with pytest.raises(ValueError, match="replaced none"): models.rollback("ranker")
    assert models.rollback("ranker", to=3).version == 3
    with pytest.raises(ValueError, match="is serving"): models.retire("ranker", 3)
    assert {v.version: v.stage for v in models.listing()} == {1: "retired", 2: "retired", 3: "serving"}
    said = [(h["version"], h["was"], h["became"]) for h in reversed(models.history("ranker"))]
    stage = dict.fromkeys((1, 2, 3), "")
    for version, was, became in said:                                      # the history is a chain without a hole
        assert stage[version] == was
        stage[version] = became


def test_a_canary_that_was_forgotten_makes_room(models):
    for i in range(2): models.register("ranker", linear(i + 1, 1), card=CARD)
    models.try_out("ranker", 1, "canary", 5, .3)
    time.sleep(.4)
    models.try_out("ranker", 2, "canary", 5, 10)
    assert models.get("ranker", 1).stage == "retired" and "deadline" in models.history("ranker", 1)[0]["why"]


def test_two_operators_roll_back_once(models):
    for i in range(3): models.register("ranker", linear(i + 1, 1), card=CARD), models.promote("ranker", i + 1)
    gate, served = threading.Barrier(2), []
    real = models.serving
    def slow(name):
        found = real(name)
        gate.wait(10)
        return found
    models.serving = slow
    both = [threading.Thread(target=lambda: served.append(models.rollback("ranker").version)) for _ in range(2)]
    for t in both: t.start()
    for t in both: t.join()
    assert served == [2, 2] and real("ranker").version == 2


def test_no_program_can_make_two_serve_or_change_what_was_registered(models, database):
    import psycopg
    for i in range(2): models.register("ranker", linear(i + 1, 1), card=CARD)
    models.promote("ranker", 1)
    with models.store.session() as s:
        for sql in ("UPDATE models SET stage = 'serving' WHERE version = 2", "UPDATE models SET card = 'x'",
                    "DELETE FROM model_changes", "DELETE FROM models", "UPDATE model_changes SET why = ''",
                    "INSERT INTO model_files VALUES (current_setting('app.tenant_id'), repeat('0', 64), 'x')"):
            with pytest.raises(psycopg.Error): s.con.execute(sql)
    stranger = Models(Store(database, "stranger").register())
    assert stranger.listing() == [] and stranger.history("ranker") == []
    stranger.store.forget()


DYING = """import os, signal, sys
from rap_analyzer.lab import Lab
from rap_analyzer.recommend.registry import Models
from rap_analyzer.search.store import Store
models, real, calls = Models(Store(Lab(sys.argv[1], "test_registry"), sys.argv[2])), Models._set, []
def dying(self, *how, **more):
    real(self, *how, **more)
    calls.append(how)
    if len(calls) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)
Models._set = dying
models.promote("ranker", 2)
"""


@pytest.mark.parametrize("after", [1, 2])
def test_a_kill_in_the_middle_of_a_promotion_changes_nothing(models, database, after):
    for i in range(2): models.register("ranker", linear(i + 1, 1), card=CARD)
    models.promote("ranker", 1)
    before = models.history("ranker")
    died = subprocess.run([sys.executable, "-c", DYING, database.home, models.store.tenant, str(after)], timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert {v.version: v.stage for v in models.listing()} == {1: "serving", 2: "registered"} and models.history("ranker") == before
    assert models.promote("ranker", 2).stage == "serving"                   # and nobody holds the lock


# ---- the reader

def follow(models, name="ranker", **how): return Serving(models.store, name, **how)


async def become(true, patience_s=20):
    ends = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < ends, "it did not become so"
        await asyncio.sleep(.01)


@pytest.mark.parametrize("window", [{"data_from": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
                                    {"data_until": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14)))}])
def test_a_window_that_no_calendar_has_is_refused(models, window):
    with pytest.raises(ValueError, match="era"): models.register("ranker", linear(1, 1), card=CARD, **window)


def test_a_reader_follows_and_goes_on_with_the_last_good_model(models):
    for i in range(3): models.register("ranker", linear(i + 1, 1), card=CARD)
    async def main():
        reader = follow(models)
        with pytest.raises(NoModel, match="model promote"): await reader.current()
        await asyncio.to_thread(models.promote, "ranker", 1)
        await become(lambda: reader.now)
        version, model = await reader.current()
        assert version == 1 and model.score(np.ones((1, 2))).tolist() == [2.0]
        await asyncio.to_thread(models.promote, "ranker", 2)
        await become(lambda: reader.now.version == 2)
        with models.store.admin(None) as con:                              # registered by a newer program than this one
            con.execute("UPDATE models SET schema_version = 2 WHERE tenant_id = %s AND version = 3", [models.store.tenant])
        await asyncio.to_thread(models.promote, "ranker", 3)
        await become(lambda: reader.failed)
        assert (await reader.current())[0] == 2 and "newer program" in reader.failed[3][2]
        await asyncio.to_thread(models.rollback, "ranker")
        await asyncio.sleep(.6)
        assert (await reader.current())[0] == 2
        await become(lambda: not reader.failed)                            # nobody waits for it any more: pages stop saying so
        await reader.close()
    asyncio.run(main())


def test_the_model_to_go_back_to_is_in_memory_of_a_new_process(models):
    for i in range(2): models.register("ranker", linear(i + 1, 1), card=CARD), models.promote("ranker", i + 1)
    async def main():
        reader = await follow(models).start()
        await become(lambda: set(reader.kept) == {1, 2})
        assert (await reader.current())[0] == 2
        await reader.close()
    asyncio.run(main())


def test_a_slow_load_does_not_keep_a_roll_back_waiting(models, monkeypatch):
    for i in range(2): models.register("ranker", linear(i + 1, 1), card=CARD)
    models.promote("ranker", 1)
    go, real = threading.Event(), artifacts.load_model
    async def main():
        reader = await follow(models).start()
        monkeypatch.setattr("rap_analyzer.recommend.serving.load_model", lambda *how: go.wait(20) and real(*how))
        await asyncio.to_thread(models.promote, "ranker", 2)
        await become(lambda: reader.loading)
        assert (await reader.current())[0] == 1
        await asyncio.to_thread(models.rollback, "ranker")
        await asyncio.sleep(.6)
        go.set()
        await become(lambda: 2 in reader.kept)
        await asyncio.sleep(.6)
        assert (await reader.current())[0] == 1                            # what was loaded late does not serve
        await reader.close()
    asyncio.run(main())


# ---- trials

@contextmanager
def service(models, name="ranker", **how):
    "A small service over the model: its address, and its figures."
    from fastapi import FastAPI
    metrics, app = Metrics(), FastAPI()
    ranker = Rollout(Serving(models.store, name, ModelMetrics(metrics)), FlagMetrics(metrics), TrialMetrics(metrics), **how)
    X = np.random.default_rng(1).normal(size=(60, 3))

    @app.get("/recommend")
    async def recommend(user_id: str) -> dict:
        found = await ranker.score(X, user_id)
        return {"version": found.version, "stage": found.stage, "top": int(np.argmax(found.scores)), "instead": found.instead}

    with serving(app) as url: yield url, lambda: parse_metrics(metrics.render().decode(), time.monotonic()), ranker


@contextmanager
def listening(url, statuses):
    "Listeners who ask as long as the block lasts."
    ended = threading.Event()
    def ask(seed):
        rng = random.Random(seed)
        with httpx.Client(base_url=url, timeout=20) as client:
            while not ended.wait(.005):
                statuses.append(client.get("/recommend", params={"user_id": rng.randrange(10_000)}).status_code)
    threads = [threading.Thread(target=ask, args=(k,)) for k in range(2)]
    for t in threads: t.start()
    try: yield
    finally:
        ended.set()
        for t in threads: t.join()


def many(trees: bytes, times: int) -> bytes:
    "The same trees again and again: a model that is correct, and slow."
    head, *parts = artifacts.split_trees(trees)
    sizes, body = [], []
    for i in range(times * len(parts)):
        body.append(re.sub(rb"^Tree=[0-9]+", b"Tree=%d" % i, parts[i % len(parts)]))
        sizes.append(str(len(body[-1])).encode())
    head = re.sub(rb"tree_sizes=.*", b"tree_sizes=" + b" ".join(sizes), head)
    return head + b"".join(body) + trees[trees.index(b"end of trees\n"):]


def try_version(models, content, kind="npz", **how):
    "Version 1 serves, version 2 is tried out: how its canary ended, and the statuses that listeners met."
    models.register("ranker", linear(1, .5, 0), card=CARD), models.promote("ranker", 1)
    models.register("ranker", content, kind, card=CARD)
    statuses = []
    with service(models, limit_s=.05) as (url, read, _), listening(url, statuses):
        wait_until(lambda: statuses)
        how = {"steps": (20, 50), "hold_s": 1.5, "most_s": 60, "least": 15, "every_s": .1} | how
        went = ModelCanary(models, "ranker", 2, read, **how).run()
    assert set(statuses) == {200}
    return went


def test_a_good_model_goes_all_the_way(models):
    went = try_version(models, linear(1, .6, .1))
    assert went.promoted and [s["percent"] for s in went.steps] == [20, 50], went
    assert models.serving("ranker").version == 2 and models.rollback("ranker").version == 1


@pytest.mark.parametrize("fault", ["raises", "slow", "inverted"])
def test_a_bad_model_is_demoted_by_itself_and_no_request_fails(models, trees, fault):
    content, kind, says = {"raises": (linear(1, 2), "npz", "failed"), "slow": (many(trees, 2_000), "lightgbm", "failed"),
                           "inverted": (linear(-1, -.5, 0), "npz", "against the serving model")}[fault]
    went = try_version(models, content, kind)
    assert not went.promoted and says in went.why, went
    v = models.get("ranker", 2)
    assert (v.stage, models.serving("ranker").version) == ("retired", 1) and says in models.history("ranker", 2)[0]["why"]
    with pytest.raises(ValueError, match="was demoted"): models.promote("ranker", 2)


def test_a_canary_needs_listeners_a_control_and_nobody_who_interferes(models):
    for i in range(2): models.register("ranker", linear(1, i, 0), card=CARD)
    quiet = lambda: parse_metrics("rap_up 1\n", time.monotonic())
    with pytest.raises(ValueError, match="nothing to compare with"): ModelCanary(models, "ranker", 2, quiet)
    models.promote("ranker", 1)
    for steps in ((), (50, 10), (0,), (100,)):
        with pytest.raises(ValueError, match="growing steps"): ModelCanary(models, "ranker", 2, quiet, steps)
    with pytest.raises(ValueError, match="nothing to try out"): ModelCanary(models, "ranker", 1, quiet)
    went = ModelCanary(models, "ranker", 2, quiet, (10,), hold_s=.1, every_s=.05).run()
    assert "too few" in went.why and models.get("ranker", 2).stage == "retired"
    threading.Timer(.3, lambda: models.promote("ranker", 2, "a person")).start()
    went = ModelCanary(models, "ranker", 2, quiet, (10,), hold_s=2, every_s=.05).run()
    assert "somebody changed it" in went.why and models.serving("ranker").version == 2


def test_who_is_in_a_canary_stays_in_while_it_grows():
    before = set()
    for percent in (1, 5, 25, 50, 99):
        now = {i for i in range(4_000) if takes_canary("ranker", 7, percent, i)}
        assert before <= now and abs(len(now) / 40 - percent) < 3
        assert now == {i for i in range(4_000) if assign(as_experiment("ranker", 7, percent), i) == "canary"}
        before = now
    others = {i for i in range(4_000) if takes_canary("ranker", 8, 50, i)}
    assert 800 < len(others & {i for i in range(4_000) if takes_canary("ranker", 7, 50, i)}) < 1_200


def test_a_shadow_is_compared_and_never_shown(models):
    models.register("ranker", linear(1, .5, 0), card=CARD), models.promote("ranker", 1)
    models.register("ranker", linear(-1, -.5, 0), card=CARD), models.try_out("ranker", 2, "shadow")
    with service(models) as (url, read, ranker), httpx.Client(base_url=url, timeout=20) as client:
        seen = {client.get("/recommend", params={"user_id": i}).json()["version"] for i in range(5)}
        wait_until(lambda: ranker.serving.trial)
        seen |= {client.get("/recommend", params={"user_id": i}).json()["version"] for i in range(60)}
        assert seen == {1}
        before = parse_metrics("rap_up 1\n", 0)
        wait_until(lambda: opposed(Change(before, read()), "ranker", 2))
        assert read().value("rap_variant_requests_total", flag="model-ranker", variant="v2", status="200") >= 10


def test_fewer_saves_stop_a_canary(database, models):
    "Listeners of the canary save half as often: found in the events, by listener."
    rng, name, start = np.random.default_rng(5), "ranker", datetime.now(UTC) - timedelta(hours=2)
    listeners, e = range(600), as_experiment(name, 2, 50)
    events = Events(fill(models.store, 50))
    events.register(listeners)
    rows = []
    for i in listeners:
        for s in range(4):
            play = {"listener_id": i, "session_id": f"s{i}-{s}", "time": start + timedelta(minutes=s), "track_id": 1}
            rows.append(make_event(action="play", event_id=f"p{i}-{s}", **play))
            rate = .4 if assign(e, i) == "canary" else .8
            rows += [make_event(action="save", event_id=f"v{i}-{s}-{k}", **play) for k in range(rng.poisson(rate))]
    events.load(rows, publish=False)
    table = read_sessions(models.store, start - timedelta(minutes=1))
    assert table.sessions.eq(4).all() and "saves is worse" in fewer_saves(table, e)
    assert fewer_saves(table.assign(saves=rng.poisson(2.4, len(table))), e) == "" and fewer_saves(table.head(0), e) == ""


def test_a_trial_that_hangs_keeps_nobody_waiting_for_long(models):
    models.register("ranker", linear(1, .5, 0), card=CARD), models.promote("ranker", 1)
    models.register("ranker", linear(2, 1, 0), card=CARD), models.try_out("ranker", 2, "canary", 99, 60)
    go = threading.Event()
    with service(models, limit_s=.05) as (url, read, ranker), httpx.Client(base_url=url, timeout=20) as client:
        ask = lambda i: client.get("/recommend", params={"user_id": i}).json()
        wait_until(lambda: ask(1) and ranker.serving.trial)
        ranker.serving.trial.held.model.score = lambda X: go.wait(60)
        said = [ask(i) for i in range(30)]
        assert {s["version"] for s in said} == {1} and {s["stage"] for s in said} == {"serving"}
        assert any("longer than 50 ms" in s["instead"] for s in said) and any("are busy" in s["instead"] for s in said)
        go.set()


# ---- under load

@pytest.mark.alone
def test_no_request_fails_while_a_model_is_rolled_back(tmp_path, monkeypatch):
    import _rollback

    from rap_analyzer.core import settings
    from rap_analyzer.serve.stage import scratch
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    settings.cache_clear()
    with scratch() as home, Lab(home) as lab: found = _rollback.rollback(lab, rate=50, seconds=7, rounds=40, times=1)
    assert (found["failed"], found["rollbacks"], found["processes"]) == (0, 1, 2) and found["bad_answers"] > 20
    assert found["worst_s"] < 3                                            # the bound of a second is the soak's, on a quiet machine


def test_the_service_starts_without_what_only_training_needs():
    code = ("import sys; from rap_analyzer.app import create_app; create_app(); "
            "print(*{'mlflow', 'lightgbm', 'implicit', 'tea_tasting', 'pandas', 'scipy'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""
    words = [sys.executable, "-X", "importtime", "-m", "rap_analyzer.cli", "model", "--help"]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert not re.search(r"\| +(numpy|mlflow|lightgbm|scipy)$", asked.stderr, re.M)


def test_without_mlflow_the_log_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(LabError, match=r"rap-analyzer\[mlflow\]"): log_to_mlflow("ranker", {"ndcg@10": .2})


def test_training_can_be_logged(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="the optional extra mlflow is not installed")
    run = log_to_mlflow("ranker", {"ndcg@10": .2}, {"rounds": 12}, linear(1), uri=f"sqlite:///{tmp_path}/runs.db")
    assert mlflow.get_run(run).data.metrics == {"ndcg_at_10": .2}
