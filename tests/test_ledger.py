"The ledger: what is said and claimed comes from what was recorded, whatever the template."
import os
import subprocess
import sys
import types

import pytest

from rap_analyzer import ledger, runs, stats, timing
from rap_analyzer.core import LabError

def comparison(home, **samples):
    "A comparison of given samples, recorded like measured ones."
    kept = {k: runs.save_run(f"t.{k}", v, "ms", None, None, {}, len(v), home) for k, v in samples.items()}
    return timing.Comparison("t", kept)


@pytest.mark.parametrize("key", ["../x", "a/b", "A", "a..b", ".a", "a.", "", "a b", "a\n", "x" * 200, None])
def test_bad_keys(tmp_path, key):
    for call in (lambda: runs.list_runs(key, tmp_path), lambda: ledger.record(key, 1, home=tmp_path),
                 lambda: ledger.measure(key, lambda: 1, home=tmp_path), lambda: ledger.predict(key, 1, home=tmp_path),
                 lambda: ledger.claim(key, "x", source="y", kind="sourced", home=tmp_path)):
        with pytest.raises(ValueError, match="expected a key"): call()
    assert not list(tmp_path.rglob("*.json"))


def test_no_percentile_from_too_few(tmp_path):
    assert stats.summary(range(19))["p95"] is None and stats.summary(range(20))["p95"] is not None
    run = ledger.measure("t.few", lambda: 1, n=5, home=tmp_path)
    assert run.p95 is None and "no p95" in repr(run)
    with pytest.raises(LabError, match="needs 20 samples"): ledger.say("{t.few.p95:.1f}", home=tmp_path)
    assert stats.summary([3])["spread"] is None
    for bad in ([], [1, float("nan")], [float("inf")], [[1, 2]]):
        with pytest.raises(ValueError, match="expected"): stats.summary(bad)


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
    assert ledger.list_claims(tmp_path) == [measured, sourced, made_up]
    assert (measured.value, measured.unit) == (3.5, "ms") and "measured here: t.run, 3.5 ms" in repr(measured)
    assert "*[sourced: a talk]*" in sourced._repr_markdown_() and "illustrative" in repr(made_up)
    again = ledger.claim("t.c", "Suppose twelve.", source="ours", kind="illustrative", home=tmp_path)
    assert ledger.list_claims(tmp_path)[-1] == again and len(ledger.list_claims(tmp_path)) == 3
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
