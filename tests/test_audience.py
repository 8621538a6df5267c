"Simulated listeners: the same seed the same bytes, a certificate that can fail, an effect that can be found, and bots."
import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rap_analyzer.product import audience
from rap_analyzer.product import people as parameters
from rap_analyzer.product.audience import ACTIONS, COLUMNS, PAGE, PERSONAS, simulate
from rap_analyzer.product.certificate import REGULARITIES, certify, read_plays
from rap_analyzer.product.people import TRACKS, draw_appeal

UNSEEN = 20_261  # no parameter was chosen while looking at this seed


@cache
def month() -> pd.DataFrame: return simulate(28, 500, UNSEEN)


def digest(events: pd.DataFrame) -> str:
    "The bytes of a table, categories as their codes."
    columns = (c.cat.codes if isinstance(c.dtype, pd.CategoricalDtype) else c for _, c in events.items())
    return hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in columns)).hexdigest()


def people(events: pd.DataFrame) -> pd.Index: return events.attrs["truth"].listeners.query("bot == ''").index


def saves(events: pd.DataFrame, who: pd.Index) -> pd.Series:
    return events[events.action == "save"].groupby("listener_id").size().reindex(who, fill_value=0)


def test_same_seed_same_bytes_in_another_process_with_another_number_of_threads() -> None:
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); from test_audience import *; print(digest(simulate(3, 200, 5)))"
    env = {"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, env=env)
    events = simulate(3, 200, 5)
    assert out.stdout.strip() == digest(events) != digest(simulate(3, 200, 6))
    assert digest(events) == digest(simulate(3, 200, 5))


def test_columns_and_what_stands_in_them() -> None:
    e = month()
    assert tuple(e.columns) == COLUMNS
    assert COLUMNS == ("event_id", "time", "listener_id", "session_id", "action", "track_id", "position", "persona")
    assert e.event_id.is_unique and e.time.is_monotonic_increasing and not e.isna().any().any()
    assert set(e.action) == set(ACTIONS) and set(e.persona) == set(PERSONAS)
    assert e.listener_id.between(0, 499).all() and e.position.between(0, PAGE).all()
    assert ((e.track_id == -1) == (e.action == "search")).all() and e.track_id.max() < TRACKS
    assert (e.groupby("session_id").listener_id.nunique() == 1).all()
    assert not set(e.event_id) & set(simulate(2, 200, UNSEEN + 1).event_id)


def test_what_people_do_has_a_cause() -> None:
    e, truth = month(), month().attrs["truth"]
    e = e[e.listener_id.isin(people(e))]
    shown = set(zip(*(e[e.action == "impression"][c] for c in ("session_id", "track_id")), strict=True))
    clicked = set(zip(*(e[e.action == "click"][c] for c in ("session_id", "track_id")), strict=True))
    assert clicked and clicked <= shown
    day = (e.time - audience.START).dt.days.to_numpy()
    heard = (e.track_id >= 0).to_numpy()
    assert (truth.released[e.track_id[heard]] <= day[heard]).all() and (truth.released > 0).any()
    assert (truth.listeners.joined[e.listener_id].to_numpy() <= day).all() and truth.listeners.joined.nunique() > 20
    plays = read_plays(month()).plays
    order = plays.sort_values(["listener_id", "time"])
    same = order.listener_id.eq(order.listener_id.shift()) & order.session_id.ne(order.session_id.shift())
    assert (order.time.diff()[same] > pd.Timedelta(0)).all()
    assert (order.groupby("listener_id").session_id.agg(lambda s: (s != s.shift()).sum() == s.nunique())).all()  # never two at once


def test_half_of_a_taste_is_hidden_from_the_embedding() -> None:
    X, appeal = audience.catalog_part()[0], draw_appeal(40, np.random.default_rng(3))
    X = X - X.mean(0)
    fitted = X @ np.linalg.lstsq(X, appeal.T, rcond=1e-4)[0]          # the best that any linear model of the embedding can do
    explained = 1 - ((appeal.T - appeal.mean(1) - fitted) ** 2).sum() / ((appeal.T - appeal.mean(1)) ** 2).sum()
    assert .4 < explained < .75 and (appeal == draw_appeal(40, np.random.default_rng(3))).all()


def test_the_certificate_passes_on_a_seed_that_nothing_was_tuned_on() -> None:
    table = certify(month())
    assert len(table) == 12 and table.passed.sum() >= 10, table
    assert table.tuned.tolist() == [False] * 3 + [True] * 9
    assert set(table.kind) == {"cited", "direction"} and table.source.str.len().min() > 10


@pytest.mark.parametrize(("part", "value", "row"), [
    ("REPEAT", 0.0, "interest rises, then falls"),
    ("SKIP", 0.3, "skips by 5, 10, 30 s and ever"),
    ("SKIP_WHEN", ((0., .1, .2, .3, 1.), (.3, 60., 90., 120., 150.)), "skips are early"),
    ("RHYTHMS", dict.fromkeys(parameters.RHYTHMS, (20, .25)), "four daily rhythms"),
    ("AGES", np.array([[10, 70], [0, 0]]), "the young skip more"),
    ("EXAMINE", -1.5, "position bias"),
])
def test_a_broken_listener_fails_the_certificate(part: str, value: object, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, part, value)
    table = certify(simulate(28, 300, UNSEEN)).set_index("regularity")
    assert not table.passed[row], table


def test_shuffled_events_fail_the_certificate() -> None:
    e = month()
    shuffled = e.assign(track_id=np.random.default_rng(1).integers(0, TRACKS, len(e)))
    shuffled.attrs["truth"] = e.attrs["truth"]
    table = certify(shuffled).set_index("regularity")
    assert not table.passed[["long tail of artists", "repetition over novelty", "artists in bursts"]].any(), table


def test_slow_pages_cost_saves() -> None:
    quick, slow = simulate(14, 500, UNSEEN), simulate(14, 500, UNSEEN, effects={"latency_ms": 200})
    who = people(quick)
    change = saves(slow, who) - saves(quick, who)
    assert change.mean() + 2.58 * change.std() / len(change) ** .5 < 0
    sessions = [e[e.listener_id.isin(who)].session_id.nunique() for e in (quick, slow)]
    assert saves(slow, who).sum() / sessions[1] < saves(quick, who).sum() / sessions[0] and sessions[1] < sessions[0]


def test_an_effect_stays_in_its_group_and_is_kept_as_truth() -> None:
    group = np.arange(0, 400, 2)
    plain, lifted = simulate(7, 400, 9), simulate(7, 400, 9, effects={"save_lift": 2.0, "group": group})
    truth, rest = lifted.attrs["truth"], pd.Index(np.arange(1, 400, 2))
    assert truth.effects == {"latency_ms": 0.0, "save_lift": 2.0} and (np.flatnonzero(truth.treated) == group).all()
    assert 1.6 < saves(lifted, pd.Index(group)).sum() / saves(plain, pd.Index(group)).sum() < 2.4
    assert .9 < saves(lifted, rest).sum() / saves(plain, rest).sum() < 1.1
    assert digest(plain) == digest(simulate(7, 400, 9, effects={"save_lift": 1.0}))


def test_bots_of_three_kinds_differ_from_people() -> None:
    e = month()
    bots = e.attrs["truth"].listeners.query("bot != ''").bot
    assert set(bots) == {"looper", "scraper", "booster"} and len(bots) <= 5
    of = lambda kind: e[e.listener_id.isin(bots.index[bots == kind])]
    assert set(of("looper").action) == {"play"} and of("looper").track_id.nunique() == (bots == "looper").sum()
    assert set(of("scraper").action) == {"impression"} and set(of("booster").action) == {"like", "save"}
    known = read_plays(e)
    assert not known.events.listener_id.isin(bots.index).any()


def test_a_policy_gets_no_truth_and_decides_what_is_shown() -> None:
    seen = []

    def newest(listeners: np.ndarray, context: audience.Context) -> np.ndarray:
        seen.append((len(listeners), context))
        return np.tile(context.tracks[-4:], (len(listeners), 1))

    e = simulate(2, 200, 4, policy=newest)
    shown = e[(e.action == "impression") & e.listener_id.isin(people(e))]
    assert seen and shown.position.max() == 4 and shown.groupby("time").track_id.nunique().max() <= 8
    for n, c in seen: assert len(c.hour) == len(c.device) == len(c.library) == len(c.dice) == n and len(c.tracks) == len(c.plays)
    assert not any(hasattr(seen[0][1], name) for name in ("truth", "appeal"))


@pytest.mark.parametrize(("asked", "words"), [
    ({"days": 0}, "days"), ({"days": 1.5}, "days"), ({"days": True}, "days"), ({"listeners": 0}, "listeners"),
    ({"listeners": 10**6}, "listeners"), ({"seed": -1}, "seed"), ({"seed": "7"}, "seed"),
    ({"effects": {"latency": 200}}, "expected effects"), ({"effects": {"latency_ms": -1}}, "latency_ms"),
    ({"effects": {"save_lift": float("nan")}}, "save_lift"), ({"effects": {"group": [50]}}, "listener ids"),
    ({"effects": {"group": ["a"]}}, "listener ids"),
    ({"policy": lambda who, c: np.zeros((len(who), 2), int)}, "each track once"),
    ({"policy": lambda who, c: np.full((len(who), 1), 10**9)}, "another id"),
    ({"policy": lambda who, c: np.zeros((1, 99), int)}, "of shape"), ({"policy": lambda who, c: None}, "of shape"),
])
def test_what_makes_no_sense_is_refused(asked: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words): simulate(**({"days": 1, "listeners": 50, "seed": 1} | asked))


def test_the_certificate_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="missing"): certify(month().drop(columns="time"))
    with pytest.raises(ValueError, match="truth"): certify(pd.DataFrame(month().head(9).to_dict("list")))
    with pytest.raises(ValueError, match="at least one play"): certify(month()[lambda e: e.action == "search"])
    assert len(REGULARITIES) == 12
