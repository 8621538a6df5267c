"A plugin is tried out before it is let in, asked about its tenant's songs only, and taken away when it fails at work."
import json
import shutil
import sys
import textwrap
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer import cli
from rap_analyzer.app import create_app
from rap_analyzer.music import batch, plugins, worker
from rap_analyzer.music.audio import Clip, wav
from rap_analyzer.music.plugins import GROUP
from rap_analyzer.platform import marketplace
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.marketplace import MOST, TOO_MANY, Plugins
from rap_analyzer.platform.probation import CHECKS, Failed, check_manifest, check_plugin, find_entry
from rap_analyzer.problems import PROBLEM
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store
from rap_analyzer.serve import analysis
from rap_analyzer.serve.jobs import Jobs
from rap_analyzer.serve.worker import run_job
from rap_analyzer.web import serving

SOURCE = Path(__file__).parent.parent / "exercises" / "plugin_loudness"
HEAD = """
import os, sys, time
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def sure(clip): return min(1.0, clip.seconds / 3) if clip.samples.any() else 0.0
def ok(clip): return Analysis({"n": len(clip.samples)}, sure(clip))
def one(look=ok, name=__name__, **more):
    return Analyzer(**{"name": name, "version": "1.0", "contract": 1, "analyze": look, "limit_s": 2.0, **more})
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "Where plugins are installed in this file."
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as m:
        m.syspath_prepend(str(folder))
        start_over()
        yield folder
    start_over()


def start_over():
    "Whoever looked for plugins looks again."
    analysis.ears().close()
    analysis.ears.cache_clear()
    worker.stop_workers()
    plugins._found_once.cache_clear()


@pytest.fixture
def install(site):
    "As pip would: a module, and metadata with an entry point; what a test has installed goes with it."
    there = set(site.iterdir())
    def add(name, code="look = ok", brings="[one(look)]", version="1.0"):
        for old in site.glob(f"{name}-*"): shutil.rmtree(old)
        (site / f"{name}.py").write_text(f"{HEAD}{textwrap.dedent(code)}\n@hookimpl\ndef analyzers(): return {brings}\n")
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}\n")
        return find_entry(name)
    yield add
    for p in set(site.iterdir()) - there: shutil.rmtree(p) if p.is_dir() else p.unlink()


@pytest.fixture(scope="module")
def loudness(site):
    "The example of the exercises, as it would be installed."
    shutil.copy(SOURCE / "rap_loudness.py", site)
    info = site / "rap_loudness-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rap-loudness\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nloudness = rap_loudness\n")
    return find_entry("loudness")


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_marketplace") as own:
        store = Store(own, "buyer").register()
        yield store
        store.forget()


def song(level=.5, seconds=4, sr=22_050):
    "Clicks, as the bytes of a file; another level is another song."
    x = np.zeros(seconds * sr)
    for at in range(0, len(x) - 400, sr // 2): x[at:at + 400] = level * np.random.default_rng(1).uniform(-1, 1, 400)
    x[0] = level
    return wav(Clip(x, sr))


# ---- the checks

BAD = {  # name: code, what it brings, the check that fails, words of the reason
    "writes": ("def look(clip):\n    clip.samples.flags.writeable = True; clip.samples[:] = 0\n    return ok(clip)",
               "[one(look)]", "sound", "changed the samples"),
    "hashes": ("def look(clip): return Analysis({'hash': hash('x')}, sure(clip))", "[one(look)]", "determinism", "another process"),
    "counts": ("n = []\ndef look(clip):\n    n.append(1)\n    return Analysis({'n': len(n)}, sure(clip))", "[one(look)]",
               "determinism", "two answers"),
    "unsure": ("def look(clip): return Analysis({}, float('nan'))", "[one(look)]", "clicks", "confidence"),
    "modest": ("def look(clip): return Analysis({}, 0.0)", "[one(look)]", "confidence", "as sure of silence"),
    "broken": ("import nmupy", "[one()]", "contract", "nmupy"),
}


FITS = {"name": "x", "version": "1", "contract": 1, "needs": ["audio"], "limit_s": 2.0, "takes": ["clip"]}


@pytest.mark.parametrize("more, check, why", [
    ({"name": "tempo"}, "contract", "one of the five"), ({"needs": ["audio", "stranger"]}, "contract", "'stranger'"),
    ({"name": "theirs"}, "contract", "taken by the plugin 'other'"), ({"limit_s": 30}, "time", "at most 10"),
    ({"contract": 2}, "contract", "contract 2"), ({"takes": ["moon"]}, "contract", "'moon'"),
    ({"needs": ["tempo", "sky?"]}, "", "")])
def test_a_manifest_is_read_before_anything_is_asked(more, check, why):
    try: check_manifest(FITS | more, {"theirs": "other"})
    except Failed as e: assert (e.check, why in e.why) == (check, True), e
    else: assert not check


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_names_the_check(install, name):
    code, brings, check, why = BAD[name]
    report = check_plugin(install(f"bad_{name}", code, brings))
    assert (report.failed, why in report.why) == (check, True), report
    assert report.checks == {check: report.why} and check in CHECKS


def test_a_plugin_that_is_never_ready_runs_into_a_limit(install, monkeypatch):
    monkeypatch.setattr("rap_analyzer.platform.probation.IMPORT_S", .5)
    report = check_plugin(install("bad_import", "time.sleep(600)"))
    assert report.failed == "time" and "longer than 0.5 s" in report.why and report.took_s < 15
    assert not [w for w in worker.WORKERS if "probation" in w.role]      # no process is left


def test_the_example_passes_and_two_analyzers_may_share_a_plugin(install, loudness):
    report = check_plugin(loudness)
    assert (report.failed, report.analyzers, report.source) == ("", ("loudness",), "rap-loudness 1.0.0"), report
    assert set(report.checks) == set(CHECKS) and report.cost_ms > 0 and len(report.code) == 64
    both = check_plugin(install("pair", "", "[one(name='pair_a'), one(name='pair_b', needs=('audio', 'tempo'))]"))
    assert both.failed == "" and both.analyzers == ("pair_a", "pair_b"), both
    assert "rap_loudness" not in sys.modules


# ---- at work

def hear(store, level):
    "A job about a song: its result."
    job, _ = analysis.accept_upload(store, song(level), "song.wav")
    if job.state == "waiting": assert run_job(Jobs(store), str(job.id)) == "done"
    return job.id, Jobs(store).get(job.id).result


def test_what_fails_at_work_is_taken_away_and_the_rest_goes_on(store, install, loudness):
    start_over()
    shop, other = Plugins(store, "tester"), Store(store.lab, "other").register()
    install("fragile", "def look(clip): return Analysis({'at': [1, 2, 3][int(4 * abs(clip.samples).max() * .9)]}, sure(clip))")
    before, result = hear(store, .5)
    assert set(result["analyses"]) == {"tempo", "genre", "mood", "lyrics"} and "left_out" not in result   # nobody registered
    for name in ("loudness", "fragile"): assert shop.register(name)[1]
    after, result = hear(store, .5)
    assert after != before and hear(store, .5)[0] == after                # with other analyzers it is other work, once
    assert result["analyses"]["loudness"]["value"]["lufs"] < 0 and result["analyses"]["fragile"]["value"] == {"at": 2}
    assert result["left_out"] == {} and set(hear(other, .5)[1]["analyses"]) == {"tempo", "genre", "mood", "lyrics"}
    for n in range(TOO_MANY):
        result = hear(store, .9 + n / 100)[1]
        assert "IndexError" in result["left_out"]["fragile"] and "loudness" in result["analyses"]
        assert result["analyses"]["tempo"]["value"]
    found = shop.find("fragile")
    assert found.state == "quarantined" and found.recent == "." + "x" * TOO_MANY and "IndexError" in found.why
    rows = store.query(Query("SELECT count(*) FROM analyses WHERE analyzer = 'fragile' AND value IS NULL"))
    assert rows == [(0,)] and shop.find("loudness").recent == "." * (TOO_MANY + 1)
    result = hear(store, .6)[1]
    assert "fragile" not in result["analyses"] | result["left_out"] and "loudness" in result["analyses"]
    assert shop.release("fragile").state == "listed" and "fragile" in hear(store, .55)[1]["analyses"]
    assert store.query(Query("SELECT count(*) FROM audit_entries WHERE action = 'analyzer.quarantined'")) == [(1,)]
    for name in ("loudness", "fragile"): shop.remove(name)
    other.forget()


def test_another_version_than_the_one_that_was_checked_is_not_asked(store, install, monkeypatch):
    monkeypatch.setattr(batch, "LOOK_S", 0)
    shop = Plugins(store, "tester")
    install("moving")
    assert shop.register("moving")[0].id == "moving@1.0" and batch.admit({"moving": "moving 1.0"}) == (["moving"], {})
    install("moving", "look = ok  # other code")
    with pytest.raises(Failed, match="version: its code has changed"): shop.register("moving")
    install("moving", "look = ok  # other code", version="1.1")
    asked, others = batch.admit({"moving": "moving 1.0", "gone": "gone 1.0"})
    assert asked == [] and "moving 1.1 is installed, moving 1.0 was registered" in others["moving"].error
    assert "not installed" in others["gone"].error
    assert next(x["state"] for x in shop.shelf() if x["name"] == "moving") == "changed"
    assert shop.register("moving")[0].id == "moving@1.1"
    monkeypatch.setattr(marketplace, "MOST", 1)
    install("sixth")
    with pytest.raises(ValueError, match="at most 1 can be"): shop.register("sixth")
    shop.remove("moving")
    assert MOST * 10 <= analysis.HEAR_S / 2                               # all of them may hang, and the five are still heard


# ---- over HTTP, and by hand

def test_who_may_register_and_what_is_written_down(store, install, loudness):
    install("bad_sure", "def look(clip): return Analysis({}, 1.0)")
    key = lambda *scopes: {"X-API-Key": Keys(store).create(scopes)[0]}
    operator, other = key("read", "operate"), Store(store.lab, "rival").register()
    app = create_app(store, timeout_s=60, auth="required", cache_s=0)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        ask = lambda plugin, headers, **more: http.post("/api/register_analyzer", json={"plugin": plugin, **more}, headers=headers)
        assert ask("loudness", {}).status_code == 401 and ask("loudness", key("read", "write")).status_code == 403
        said = ask("loudness", operator)
        assert (said.status_code, said.json()) == (201, {"status": "registered", "plugin_id": "loudness@1.0.0"})
        assert ask("loudness", operator).json() == said.json()
        refused = ask("bad_sure", operator)
        assert refused.status_code == 422 and refused.headers["content-type"] == PROBLEM
        assert "the check 'confidence' failed: it is as sure of silence" in refused.json()["detail"]
        assert ask("nobody", operator).status_code == 404 and ask("../../etc/passwd", operator).status_code == 422
        assert ask("loudness", operator, code="import os").status_code == 422
        mine = {x["name"]: x for x in http.get("/api/analyzers", headers=key("read")).json()}
        stranger = {"X-API-Key": Keys(other).create(["read"])[0]}
        theirs = {x["name"]: x for x in http.get("/api/analyzers", headers=stranger).json()}
    assert list(mine)[:5] == ["tempo", "genre", "mood", "lyrics", "embedding"] and mine["tempo"]["state"] == "built in"
    found = mine["loudness"]
    assert found["state"] == "listed" and found["checks"]["silence"] == "passed" and found["cost_ms"] > 0
    assert (mine["bad_sure"]["state"], theirs["loudness"]["state"]) == ("installed", "installed")
    trail = store.query(Query("SELECT actor, target, request_id FROM audit_entries WHERE action = 'analyzer.registered' "
                              "AND target = 'loudness@1.0.0' ORDER BY id DESC LIMIT 1"))
    assert trail[0][0] == mine["loudness"]["registered_by"] and len(trail[0][0]) == 12
    Plugins(store).remove("loudness")
    other.forget()


def test_the_commands(store, install, loudness, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: store)
    install("bad_zero", "def look(clip): return Analysis({'x': 1 / int(clip.samples.any())}, sure(clip))")
    def run(words, code=0):
        done = CliRunner().invoke(cli.app, ["plugin", *words.split()])
        assert done.exit_code == code, done.output
        return done
    bad = json.loads(run("check bad_zero --json", 1).output)
    assert bad["failed"] == "silence" and "ZeroDivisionError" in bad["checks"]["silence"]
    assert isinstance(run("register bad_zero --tenant buyer", 1).exception, Failed)
    assert json.loads(run("register loudness --tenant buyer --json").output)["plugin_id"] == "loudness@1.0.0"
    listed = {r["name"]: r["state"] for r in json.loads(run("list --tenant buyer --json").output)}
    assert (listed["tempo"], listed["loudness"], listed["bad_zero"]) == ("built in", "listed", "installed")
    assert json.loads(run("release loudness --tenant buyer --json").output)["state"] == "listed"
    assert "loudness" in run("list --tenant buyer").output
    assert "no longer registered" in run("remove loudness --tenant buyer").output
    assert isinstance(run("release loudness --tenant buyer", 1).exception, LookupError)
