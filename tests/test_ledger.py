"The ledger: what is measured is what is kept, whatever happens to the process, the schedule or the template."
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest

from rap_analyzer import ledger
from rap_analyzer.core import LabError

def comparison(home, **samples):
    "A comparison of given samples, recorded like measured ones."
    kept = {k: ledger._keep(f"t.{k}", v, "ms", None, None, {}, len(v), home) for k, v in samples.items()}
    return ledger.Comparison("t", kept)


# --- measuring

def test_members_take_turns_in_mirrored_rounds(tmp_path):
    calls = []
    members = {name: functools.partial(calls.append, name) for name in ("a", "b", "c")}
    cmp = ledger.measure("t", members, n=10, warmup=2, home=tmp_path)
    rounds = [tuple(calls[i:i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == ledger.schedule(["a", "b", "c"], 2) + ledger.schedule(["a", "b", "c"], 10)
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert all(first == second[::-1] for first, second in zip(rounds[2::2], rounds[3::2], strict=True))
    assert len({turn for turn in rounds}) > 2, "neighbours never change"
    assert cmp.n == 10 and {r.n for r in cmp.runs.values()} == {10}


def test_a_steady_drift_cancels(tmp_path):
    clock = {"now": 1.0}
    took = {"a": [], "b": []}
    for turn in ledger.schedule(["a", "b"], 30):
        for name in turn:
            took[name].append(clock["now"])
            clock["now"] += 1
    ratio = comparison(tmp_path, **took).ratio("b", "a")
    assert ratio.low <= 1 <= ratio.high and ratio.value == pytest.approx(1, abs=.02)
    assert np.mean(took["a"]) == np.mean(took["b"])


def test_round_number_is_given_to_functions_of_one_parameter(tmp_path):
    got = []
    ledger.measure("t.i", got.append, n=4, warmup=2, home=tmp_path)
    assert got == [0, 1, 0, 1, 2, 3]
    got.clear()
    ledger.measure("t.i", lambda q=5: got.append(q), n=2, warmup=0, home=tmp_path)
    assert got == [5, 5]
    got.clear()
    ledger.measure("t.i", got.append, n=1, warmup=3, home=tmp_path)
    assert got == [0, 0, 0, 0], "warm-up stays inside range(n)"
    for wrong in (lambda a, b: 1, lambda *, k: 1):
        with pytest.raises(ValueError, match="round number"): ledger.measure("t.i", wrong, home=tmp_path)


def test_budget_stops_after_a_whole_round(tmp_path):
    start = time.perf_counter()
    members = {"a": lambda: time.sleep(.01), "b": lambda: time.sleep(.01)}
    cmp = ledger.measure("t", members, n=10_000, warmup=0, budget_s=.3, home=tmp_path)
    assert time.perf_counter() - start < 5
    assert 1 <= cmp.a.n == cmp.b.n < cmp.a.asked == 10_000
    assert "budget ran out" in repr(cmp.a)
    assert ledger.measure("t.none", lambda: 1, budget_s=0, home=tmp_path).n == 1, "one round, whatever the budget"


def test_what_only_starts_work_is_refused_and_nothing_is_recorded(tmp_path):
    async def answer(): return 1

    def rows(): yield 1
    for lazy, word in [(answer, "coroutine"), (rows, "generator"), (lambda: rows(), "generator")]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(LabError, match=word): ledger.measure("t.lazy", lazy, warmup=0, home=tmp_path)
    with pytest.raises(ZeroDivisionError): ledger.measure("t.bad", {"a": lambda: 1, "b": lambda: 1 / 0}, home=tmp_path)
    assert ledger.keys(tmp_path) == []


def test_times_are_times(tmp_path):
    run = ledger.measure("t.sleep", lambda: time.sleep(.02), n=6, home=tmp_path)
    assert 19 <= run.min <= run.p50 < 500 and run.unit == "ms"
    assert .019 <= ledger.measure("t.s", lambda: time.sleep(.02), n=3, unit="s", home=tmp_path).min < .5


@pytest.mark.parametrize("bad", [{"n": 0}, {"warmup": -1}, {"unit": "minutes"}])
def test_bad_arguments_are_named(tmp_path, bad):
    with pytest.raises(ValueError, match="expected"): ledger.measure("t.x", lambda: 1, home=tmp_path, **bad)


@pytest.mark.parametrize("name", ["ratio", "plot", "runs", "Upper", "a.b", "", "_a"])
def test_member_names_that_could_not_be_read_back(tmp_path, name):
    with pytest.raises(ValueError, match="member"): ledger.measure("t", {name: lambda: 1}, home=tmp_path)


@pytest.mark.parametrize("key", ["../x", "a/b", "A", "a..b", ".a", "a.", "", "a b", "a\n", "x" * 200, None])
def test_bad_keys(tmp_path, key):
    for call in (lambda: ledger.runs(key, tmp_path), lambda: ledger.record(key, 1, home=tmp_path),
                 lambda: ledger.measure(key, lambda: 1, home=tmp_path), lambda: ledger.predict(key, 1, home=tmp_path),
                 lambda: ledger.claim(key, "x", source="y", kind="sourced", home=tmp_path)):
        with pytest.raises(ValueError, match="expected a key"): call()
    assert not list(tmp_path.rglob("*.json"))


def test_the_collector_is_left_as_it_was():
    import gc
    before = gc.isenabled(), gc.get_freeze_count()
    with pytest.raises(KeyError), ledger._level_field():
        assert gc.get_freeze_count() > 0
        raise KeyError
    assert (gc.isenabled(), gc.get_freeze_count()) == before


# --- statistics

@pytest.mark.parametrize("n", [20, 21, 37, 100, 999])
def test_p95_is_type_seven(n):
    x = np.random.default_rng(n).exponential(size=n)
    got = ledger.summary(x)
    assert got["p95"] == pytest.approx(np.percentile(x, 95))
    assert got["p95"] == pytest.approx(statistics.quantiles(x, n=100, method="inclusive")[94])
    rank = .95 * (n - 1)
    low, high = np.sort(x)[[int(rank), int(np.ceil(rank))]]
    assert got["p95"] == pytest.approx(low + (rank - int(rank)) * (high - low))
    assert got["spread"] == pytest.approx(np.subtract(*np.percentile(x, [75, 25])))
    assert got["p95"] < x.max()


def test_no_percentile_from_too_few(tmp_path):
    assert ledger.summary(range(19))["p95"] is None and ledger.summary(range(20))["p95"] is not None
    run = ledger.measure("t.few", lambda: 1, n=5, home=tmp_path)
    assert run.p95 is None and "no p95" in repr(run)
    with pytest.raises(LabError, match="needs 20 samples"): ledger.say("{t.few.p95:.1f}", home=tmp_path)
    assert ledger.summary([3])["spread"] is None
    for bad in ([], [1, float("nan")], [float("inf")], [[1, 2]]):
        with pytest.raises(ValueError, match="expected"): ledger.summary(bad)


def test_aa_interval_holds_one_and_ab_interval_does_not(tmp_path):
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(1_000):
        a, b = draw.lognormal(sigma=.3, size=(2, 30))
        low, high = ledger.median_interval(a / b)
        held += low <= 1 <= high
    assert 940 <= held < 1_000, "an exact 95 % interval that is not vacuous"
    a, b = draw.lognormal(sigma=.1, size=(2, 30))
    twice = comparison(tmp_path, a=2 * a, b=b).ratio("a", "b")
    assert twice.decided and twice.low < 2 < twice.high and twice.low > 1
    assert not comparison(tmp_path, a=a, b=a[::-1]).ratio("a", "b").decided


def test_interval_ranks_match_the_binomial():
    from math import comb
    for n in range(6, 200):
        low, high = ledger.median_interval(range(1, n + 1))
        rank = int(low)
        tail = [sum(comb(n, i) for i in range(r)) / 2**n for r in (rank, rank + 1)]
        assert high == n + 1 - rank and tail[0] <= .025 < tail[1]
    assert [ledger.median_interval(range(n)) for n in range(6)] == [None] * 6


def test_a_real_aa_comparison(tmp_path):
    def work(): return sum(range(20_000))
    ratio = ledger.measure("t.aa", {"a": work, "b": work}, n=40, home=tmp_path).ratio("a", "b")
    assert ratio.low <= ratio.value <= ratio.high
    assert .7 < ratio.value < 1.4
    assert f"{ratio:.1f}" == f"{ratio.value:.1f}" and float(ratio) == ratio.value


def test_thinning_keeps_statistics_pairs_and_order(tmp_path):
    a = np.arange(1, 5_001, dtype=float)
    cmp = comparison(tmp_path, a=3 * a, b=a)
    assert len(cmp.a.samples) == ledger.KEPT and cmp.a.n == 5_000 and cmp.a.p50 == np.median(3 * a)
    assert list(cmp.b.samples) == sorted(cmp.b.samples) and cmp.b.samples[-1] == 5_000
    assert cmp.ratio("a", "b").low == pytest.approx(3) and cmp.ratio("a", "b").n == 5_000


def test_a_comparison_shows_itself(tmp_path):
    cmp = comparison(tmp_path, slow=[2.0] * 20, fast=[1.0] * 20)
    assert "| slow | 2 | 2 | 0 | 20 | 2 (2 to 2) |" in cmp._repr_markdown_()
    assert "<th scope=\"row\">fast</th>" in cmp._repr_html_() and "slow" in repr(cmp)
    assert "<img alt=" in cmp.plot()._repr_html_()
    with pytest.raises(AttributeError, match="slow, fast"): cmp.medium  # noqa: B018


# --- storage

def test_a_run_comes_back_as_it_was(tmp_path):
    run = ledger.measure("t.x", lambda: 1, params={"k": 10, "ef": np.int64(40), "t": (1, 2)}, home=tmp_path)
    assert ledger.last("t.x", tmp_path) == run and ledger.runs("t.x", tmp_path) == [run]
    assert run.params == {"k": 10, "ef": 40, "t": [1, 2]} and isinstance(run.samples, tuple)
    file, = (tmp_path / "runs" / "t.x").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.json", file.name)
    fields = json.loads(file.read_text())
    assert list(fields) == sorted(fields) and fields["schema"] == ledger.SCHEMA
    assert fields["measured_at"].endswith("+00:00") and fields["machine"] == ledger.machine()


def test_record_and_named_values(tmp_path):
    run = ledger.record("t.recall", np.float32(.5), recall=np.float64(.99), rows=10, home=tmp_path)
    assert (run.value, run.median, run.recall, run.rows, run.n, run.p95) == (.5, .5, .99, 10, 1, None)
    with pytest.raises(AttributeError, match="recall, rows"): run.precision  # noqa: B018
    for name in ("n", "p95", "median", "samples", "value_", "against_prediction"):
        if name == "value_": assert ledger.record("t.r", 1, value_=2, home=tmp_path).value_ == 2
        else:
            with pytest.raises(ValueError, match=name): ledger.record("t.r", 1, **{name: 2}, home=tmp_path)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"): ledger.record("t.nan", bad, home=tmp_path)
        with pytest.raises(ValueError): ledger.record("t.nan", 1, other=bad, home=tmp_path)
    with pytest.raises(TypeError, match="object"): ledger.record("t.nan", 1, params={"x": object()}, home=tmp_path)
    assert ledger.runs("t.nan", tmp_path) == []


def test_runs_are_oldest_first_and_last_is_newest(tmp_path):
    for i in range(5): ledger.record("t.order", i, home=tmp_path)
    assert [r.p50 for r in ledger.runs("t.order", tmp_path)] == [0, 1, 2, 3, 4]
    assert ledger.last("t.order", tmp_path).p50 == 4


def test_broken_files_are_skipped_by_name(tmp_path):
    good = ledger.record("t.x", 1, home=tmp_path)
    folder = tmp_path / "runs" / "t.x"
    whole = next(folder.glob("*.json")).read_bytes()
    broken = {"9half": whole[: len(whole) // 2], "9empty": b"", "9list": b"[]", "9text": b'"x"', "9bytes": b"\xff\xfe{",
              "9newer": whole.replace(b'"schema": 1', b'"schema": 99'), "9missing": b'{"schema": 1}',
              "9null": whole.replace(b'"samples": [1.0]', b'"samples": null')}
    for name, content in broken.items():
        assert content != whole
        (folder / f"{name}.json").write_bytes(content)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert ledger.runs("t.x", tmp_path) == [good]
        assert ledger.last("t.x", tmp_path) == good
    assert all(any(name in str(w.message) for w in heard) for name in broken)


KILLED_WRITERS = """
import os, random, signal, sys, time
from rap_analyzer import ledger
home, draw = sys.argv[1], random.Random(1)
ledger.record("t.kill", -1, home=home)
for _ in range(25):
    pid = os.fork()
    if not pid:
        while True: ledger.record("t.kill", 1, params={"filler": "x" * 400_000}, home=home)
    time.sleep(draw.uniform(.03, .12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def test_kill_nine_while_writing_leaves_whole_files(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_WRITERS, str(tmp_path)], check=True, timeout=120)
    folder = tmp_path / "runs" / "t.kill"
    files, parts = list(folder.glob("*.json")), list(folder.glob(".*.part"))
    assert len(files) > 10 and parts, "no writer was killed in the middle of a write: this test proved nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ledger.runs("t.kill", tmp_path)) == len(files)
    for file in files + parts: file.unlink()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    folder = tmp_path / "claims"
    ledger._write(folder, "x", {"n": 1})
    def no_space(fd): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"): ledger._write(folder, "x", {"n": 2})
    assert json.loads((folder / "x.json").read_text())["n"] == 1


def test_source_hash_sees_edits_and_parameters():
    def make(body):
        space = {}
        exec(f"def f(): return {body}", space)
        return space["f"]
    assert ledger.source_hash(make("1")) == ledger.source_hash(make("1")) != ledger.source_hash(make("2"))
    assert ledger.source_hash(make("len('a')")) != ledger.source_hash(make("abs('a')"))
    a, b = lambda: 1, lambda: 2
    assert ledger.source_hash(a) != ledger.source_hash(b)
    assert ledger.source_hash(functools.partial(a)) == ledger.source_hash(a) != ledger.source_hash(a, {"k": 1})
    assert ledger.source_hash(len) != ledger.source_hash(abs) != ledger.source_hash(None)
    assert ledger.source_hash(a, {"x": 1, "y": 2}) == ledger.source_hash(a, {"y": 2, "x": 1})


def test_source_hash_is_the_same_in_every_process():
    code = "from rap_analyzer import ledger as l; s={}; " \
           "exec(\"def f(x=0): return x in {'a','b','c'} or (lambda: {'d','e'})\", s); print(l.source_hash(s['f']))"
    seen = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": str(seed)},
                           capture_output=True, text=True, check=True).stdout for seed in (1, 2, 3)}
    assert len(seen) == 1 and len(seen.pop().strip()) == 64


def test_machine_names_no_host_and_no_user():
    text = json.dumps(ledger.machine())
    assert set(ledger.machine()) == {"cpu", "cores", "memory_gb", "os", "python"} and ledger.machine()["memory_gb"] > 0
    assert os.uname().nodename not in text
    ledger.machine()["cpu"] = "changed"
    assert ledger.machine()["cpu"] != "changed"


def test_last_helps(tmp_path):
    with pytest.raises(LabError, match="recorded so far: nothing"): ledger.last("t.x", tmp_path)
    ledger.record("search.exact", 1, home=tmp_path)
    with pytest.raises(LabError, match="did you mean search.exact"): ledger.last("serch.exact", tmp_path)
    with pytest.raises(LabError, match="did you mean search.exact"): ledger.last("search", tmp_path)


# --- predictions

def test_a_guess_after_the_truth_is_late(tmp_path):
    first = ledger.predict("t.gain", 30, sure=80, why="two\nlines", home=tmp_path)
    assert not first.late and first.why == "two lines"
    run = ledger.record("t.gain", 3, unit="x", home=tmp_path)
    second = ledger.predict("t.gain", 3, home=tmp_path)
    assert second.late and "late" in repr(second)
    assert ledger.prediction("t.gain", tmp_path) == second
    assert [p.guess for p in ledger.predictions("t.gain", tmp_path)] == [30, 3]
    assert ledger.predict("t.gain", 30, sure=80, why="two lines", home=tmp_path) == first, "the same cell, run again"
    assert len(ledger.predictions("t.gain", tmp_path)) == 2
    shown = run.against_prediction(tmp_path)
    assert "you guessed 30x; it was 3x: 10 times too high" in repr(shown), "the guess made in time counts"
    assert shown.figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize(("kwargs", "match"), [
    ({"guess": 5, "scale": "ms"}, "how many times"), ({"scale": "milliseconds"}, "how many times"),
    ({"guess": 0}, "positive"), ({"guess": -1}, "positive"), ({"guess": float("nan")}, "positive"),
    ({"guess": float("inf")}, "positive"), ({"guess": "3"}, "positive"), ({"guess": True}, "positive"),
    ({"guess": 3, "sure": .9}, "50 to 100"), ({"guess": 3, "sure": 101}, "50 to 100"),
    ({"guess": 3, "scale": (1,)}, "two or more"), ({"guess": 3, "scale": (0, 1)}, "positive"),
])
def test_guesses_that_are_refused(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match): ledger.predict("t.x", home=tmp_path, **kwargs)
    assert ledger.prediction("t.x", tmp_path) is None


def test_against_prediction_says_what_is_missing(tmp_path):
    timed = ledger.measure("t.ms", lambda: 1, home=tmp_path)
    assert "Nobody guessed" in repr(timed.against_prediction(tmp_path))
    assert "<img" not in timed.against_prediction(tmp_path)._repr_html_()
    ledger.predict("t.ms", 10, home=tmp_path)
    assert "record the ratio" in repr(timed.against_prediction(tmp_path))
    ledger.predict("t.zero", .9, scale="share", home=tmp_path)
    assert "no logarithmic axis" in repr(ledger.record("t.zero", 0, home=tmp_path).against_prediction(tmp_path))
    ledger.predict("t.low", 10, home=tmp_path)
    low = ledger.record("t.low", 200, unit="x", home=tmp_path).against_prediction(tmp_path)
    assert "20 times too low" in repr(low) and "<img alt=" in low._repr_html_()
    ledger.predict("t.hit", 10, home=tmp_path)
    assert "within a tenth" in repr(ledger.record("t.hit", 10.5, home=tmp_path).against_prediction(tmp_path))
    ledger.predict("t.share", 0.97, scale="share", home=tmp_path)
    share = ledger.record("t.share", 0.955, home=tmp_path).against_prediction(tmp_path)
    assert "you expected 3 % to be missing, and 4.5 % is" in repr(share)
    ledger.predict("t.all", 1, scale="share", home=tmp_path)
    assert "nothing is missing, and 0.04 of" in repr(ledger.record("t.all", 0.96, home=tmp_path).against_prediction(tmp_path))
    with pytest.raises(ValueError, match="from 0 to 1"): ledger.predict("t.all", 97, scale="share", home=tmp_path)


def test_the_form_stores_what_was_clicked(tmp_path):
    form = ledger.GuessForm("t.form", home=tmp_path)
    assert [v for _, v in form.steps.options] == [1, 3, 10, 30, 100, 300, 1_000] and form.steps.value is None
    assert (form.sure.min, form.sure.max) == (50, 100)
    form.button.click()
    assert ledger.prediction("t.form", tmp_path) is None and "Choose" in form.said.value
    form.steps.label, form.sure.value, form.why.value = "300x", 90, "because <b>"
    form.button.click()
    form.button.click()
    stored, = ledger.predictions("t.form", tmp_path)
    assert (stored.guess, stored.sure, stored.why, stored.late) == (300, 90, "because <b>", False)
    assert all(c.disabled for c in (form.steps, form.sure, form.why, form.button))
    assert "On record" in ledger.GuessForm("t.form", home=tmp_path).said.value
    assert all(c.tabbable for c in (form.steps, form.sure, form.why, form.button))


def test_outside_jupyter_predict_says_how_and_goes_on(tmp_path):
    code = "import sys; from rap_analyzer import ledger; " \
           "ledger.predict('t.x', home=sys.argv[1]); ledger.predict('t.x', 3, home=sys.argv[1]); " \
           "ledger.predict('t.x', home=sys.argv[1]); print('went on')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=True)
    asked, known, end = done.stdout.splitlines()
    assert '`predict("t.x"' in asked and "you guessed 3x" in known and end == "went on"


@pytest.mark.parametrize("somebody", [True, False])
def test_a_kernel_shows_the_form_only_where_somebody_can_answer(tmp_path, somebody):
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ, "MPLBACKEND": "agg"})
    shown, errors = [], []
    def listen(msg):
        if msg["msg_type"] == "execute_result": shown.append(msg["content"]["data"])
        if msg["msg_type"] == "error": errors.append(msg["content"]["evalue"])
    try:
        code = f"from rap_analyzer import ledger\nledger.predict('t.k', home={str(tmp_path)!r})"
        client.execute_interactive(code, allow_stdin=somebody, output_hook=listen, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert not errors and ("application/vnd.jupyter.widget-view+json" in shown[0]) == somebody
    assert 'predict("t.k"' in shown[0]["text/plain"], "every front end gets the plain way as well"


# --- prose and claims

def test_say_reads_recorded_runs_and_cites_them(tmp_path):
    run = ledger.record("a.b.c", 12.345, unit="ms", recall=.987, home=tmp_path)
    said = ledger.say("{a.b.c.p50:.1f} {a.b.c.unit}, recall {a.b.c.recall:.2f}, {{literal}}", home=tmp_path)
    assert str(said) == said._repr_markdown_() == "12.3 ms, recall 0.99, {literal}" and said.cites == (run.id,)
    cmp = comparison(tmp_path, halfvec=[2.0] * 6, other=[1.0] * 6)
    text = ledger.say("{o.halfvec.p50:.0f} {o.n} {r:.1f} {r.low:.1f} {x:,.0f} {a.b.c.n}", home=tmp_path,
                      o=cmp, r=cmp.ratio("halfvec", "other"), x=1e6)
    assert str(text) == "2 6 2.0 2.0 1,000,000 1" and cmp.halfvec.id in text.cites
    assert str(ledger.say("{a}", a=1, home=tmp_path)) == "1"


@pytest.mark.parametrize("field", [
    "x.__class__", "x.__init__.__globals__", "x._private", "x.values.__class__", "x.samples", "x.against_prediction", "x",
    "x.values[recall]", "x[0]", "", "0", "f", "f.__globals__", "f.func_globals", "m.path", "m.os.system", "g.gi_frame",
    "a.b.__class__", "a.b.values", "a.b.params", "a.b", "a.nothing.p50", "a.b.p59", "a..b", "a.b.p50 ", "é.p50", "x.p50.real",
    "x.p50.__class__", "x.p95", "A.b.p50", "x.__doc__", "o._secret", "o.klass.secret",
])
def test_say_refuses(tmp_path, field):
    run = ledger.record("a.b", 1, home=tmp_path)
    generator = (i for i in [1])
    hiding = types.SimpleNamespace(_secret=5, klass=type("Klass", (), {"secret": 5}))
    allowed = {"x.p50.real"}
    try: said = str(ledger.say("{" + field + "}", home=tmp_path, x=run, f=len, m=os, g=generator, o=hiding))
    except LabError as e: assert field not in allowed and str(e)
    else: assert field in allowed and said == "1.0"


def test_say_refuses_nested_templates_too(tmp_path):
    run = ledger.record("a.b", 1, home=tmp_path)
    with pytest.raises(LabError): ledger.say("{x.p50:{x.__class__}}", x=run, home=tmp_path)
    with pytest.raises(LabError, match="did you mean p95"): ledger.say("{a.b.p59}", home=tmp_path)
    with pytest.raises(LabError, match="did you mean a.b"): ledger.say("{a.bb.p50}", home=tmp_path)
    with pytest.raises(LabError, match=r"\{a.b.p50\}"): ledger.say("{a.b}", home=tmp_path)


def test_claims(tmp_path):
    ledger.record("t.run", 3.5, unit="ms", home=tmp_path)
    sourced = ledger.claim("t.b", "800 to 120.", source="a talk", kind="sourced", value=120, unit="ms", home=tmp_path)
    measured = ledger.claim("t.a", "Fast.", source="t.run", kind="measured", home=tmp_path)
    made_up = ledger.claim("t.c", "Suppose ten.", source="ours", kind="illustrative", home=tmp_path)
    assert ledger.claims(tmp_path) == [measured, sourced, made_up]
    assert (measured.value, measured.unit) == (3.5, "ms") and "measured here: t.run, 3.5 ms" in repr(measured)
    assert "*[sourced: a talk]*" in sourced._repr_markdown_() and "illustrative" in repr(made_up)
    again = ledger.claim("t.c", "Suppose twelve.", source="ours", kind="illustrative", home=tmp_path)
    assert ledger.claims(tmp_path)[-1] == again and len(ledger.claims(tmp_path)) == 3
    for bad in ({"kind": "true"}, {"source": " "}, {"text": ""}, {"kind": "measured", "source": "t.run", "value": 1}):
        with pytest.raises(ValueError, match="expected|leave"):
            ledger.claim(**{"key": "t.d", "text": "x", "source": "y", "kind": "sourced", **bad}, home=tmp_path)
    with pytest.raises(LabError, match="nothing is recorded"):
        ledger.claim("t.d", "x", source="t.never", kind="measured", home=tmp_path)


def test_importing_the_ledger_is_cheap():
    code = "import sys, rap_analyzer.ledger; print([m for m in ('matplotlib', 'ipywidgets', 'IPython', 'pandas') " \
           "if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_default_home_is_the_lab(tmp_path):
    code = "from rap_analyzer import ledger; print(ledger.record('t.home', 1).id)"
    env = {**os.environ, "RAP_LAB_HOME": str(tmp_path)}
    name = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip()
    assert (tmp_path / "runs" / "t.home" / f"{name}.json").exists()
