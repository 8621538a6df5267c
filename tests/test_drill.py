"""Fault drills on real servers: the symptom shows, a wrong remedy does not pass, the right one does, a crash breaks nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest
import redis

import rap_analyzer.serve.commands  # noqa: F401 (it offers further drills)
from rap_analyzer.core import LabError, settings
from rap_analyzer.lab import Lab
from rap_analyzer.search import drill, faults, signs
from rap_analyzer.search.index import build, built
from rap_analyzer.search.store import Store, fill, migrate

ANSWERS = {k: "Somebody felt something, and this is a sentence." for k in drill.FIELDS}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("drill")


@pytest.fixture(scope="module")
def ill(home):
    "A learner's lab, small, with a small Valkey; servers of its own, since they are stopped and started here."
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "REDIS_URL"): patch.delenv(name, raising=False)
        patch.setenv("RAP_VALKEY_MAXMEMORY_MB", "24")
        patch.setenv("RAP_LAB_HOME", str(home))
        settings.cache_clear()
        lab = Lab(home=home).up()
        migrate(lab)
        store = fill(Store(lab), 3_000)
        build("hnsw_halfvec", store)
        yield store
        store.forget()
        lab.down()
        lab.close()
        settings.cache_clear()


@pytest.fixture(autouse=True)
def nothing_left(ill):
    "Whatever a test did, the next one finds no drill."
    yield
    if drill.opened(ill.lab): drill.stop(ill)


def restart(store):
    "Both servers, as somebody would who has no better idea."
    store.forget()
    store.lab.down()
    store.lab.up()


def valkey(store): return redis.from_url(store.lab.redis_url, socket_timeout=10)


def analyze(store): store.tidy()


def cancel(store):
    with store.admin(None) as con:
        con.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'catalog-export%'")


def end(store):
    with store.admin(None) as con:
        con.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'catalog-export%'")


def kill_process(store):
    for p in holders(store): p.kill()
    with store.admin(None) as con:                    # the server notices by itself
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'catalog-export%'"
        assert comes(lambda: not con.execute(left).fetchone()[0])


def larger_memory(store):
    with store.admin(None) as con:
        con.execute("ALTER SYSTEM SET effective_cache_size = '4GB'")
        con.execute("SELECT pg_reload_conf()")


def warm(store): signs.SIGNS["hits"].read(store)


def plain_vacuum(store):
    with store.admin() as con: con.execute("VACUUM (ANALYZE) track_genres")


def full_vacuum(store):
    with store.admin() as con: con.execute("VACUUM (FULL, ANALYZE) track_genres")


def other_index(store):
    with store.admin() as con: con.execute("CREATE INDEX too_many ON embeddings (model_id)")


def delete_sessions(store):
    with valkey(store) as r:
        for key in r.scan_iter("session:*", count=1_000): r.unlink(key)


def let_them_go(store):
    with valkey(store) as r: r.config_set("maxmemory-policy", "allkeys-lru")


def holders(store):
    "The forgotten sessions of this lab: other labs on this machine may have theirs."
    words = [(p, p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    return [p for p, said in words if str(store.lab.home) in said and any("catalog-export" in w for w in said)]


def comes(condition, wait_s=30):
    "Does it hold, sooner or later?"
    end_at = time.monotonic() + wait_s
    while not (holds := condition()) and time.monotonic() < end_at: time.sleep(0.02)
    return holds


CASES = {
    "dropped-index": (["similar"], [analyze, restart, other_index, larger_memory], [lambda s: build("hnsw_halfvec", s)]),
    "bloated-table": (["genres", "size"], [analyze, restart, plain_vacuum, larger_memory], [full_vacuum]),
    "cold-cache": (["hits"], [analyze, restart, warm, larger_memory], [delete_sessions, let_them_go]),
    "idle-transaction": (["saves"], [cancel, warm, plain_vacuum, larger_memory], [end, kill_process]),  # ANALYZE would wait, too
}


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_drill_from_symptom_to_post_mortem(ill, name):
    signs, wrong, right = CASES[name]
    for i, mend in enumerate(right):
        r = drill.start(name, ill)
        assert r.off == signs and r.state == "open" and (ill.lab.dir / "keep").exists()
        said = repr(r).lower()
        assert all(w not in said for w in ("index", "vacuum", "ttl", "transaction", "lock", "cause", name)), said
        for remedy in wrong if i == 0 else ():
            remedy(ill)
            assert drill.check(ill).off == signs, remedy.__name__
        mend(ill)
        r = drill.check(ill)
        assert (r.state, r.off, drill.opened(ill.lab)) == ("passed", [], None)
        assert faults.FAULTS[name].cause not in repr(r) and not (ill.lab.dir / "keep").exists()
        assert faults.FAULTS[name].cause in repr(drill.post_mortem(ANSWERS, ill))
        with valkey(ill) as v: v.config_set("maxmemory-policy", "volatile-lru")
    assert drill.finished(ill.lab)[-1].post_mortem == ANSWERS and name in drill.history(ill.lab)[-1]
    with ill.admin() as con: con.execute("DROP INDEX IF EXISTS too_many")


def test_what_is_left_of_the_fault_is_cleared_and_named(ill):
    drill.start("bloated-table", ill)
    full_vacuum(ill)
    r = drill.check(ill)
    assert r.state == "passed" and r.put_back == ["autovacuum of track_genres was still off and is on again"]
    with ill.admin() as con:
        assert con.execute("SELECT reloptions FROM pg_class WHERE relname = 'track_genres'").fetchone() == (None,)
    drill.start("cold-cache", ill)
    let_them_go(ill)
    r = drill.check(ill)
    assert r.state == "passed" and "keys of somebody else's sessions" in r.put_back[0]
    with valkey(ill) as v:
        assert not list(v.scan_iter("session:*"))
        v.config_set("maxmemory-policy", "volatile-lru")


def test_a_bigger_cache_is_no_answer_to_a_cache_that_is_full_of_others(ill):
    drill.start("cold-cache", ill)
    with valkey(ill) as v: v.config_set("maxmemory", "64mb")
    r = drill.check(ill)
    assert (r.state, r.off) == ("open", ["room"]) and "the cache may take" in repr(r)
    r = drill.stop(ill)
    assert r.off == [] and "the memory that Valkey may take is what it was" in r.put_back
    with valkey(ill) as v: assert v.config_get("maxmemory")["maxmemory"] == str(24 * 2**20)


def test_the_pages_of_a_bloated_table_show_whatever_its_size(ill):
    before = signs.read_signs(ill)
    r = drill.start("bloated-table", ill)
    assert r.broken["genres"][1] > 5 * before["genres"][1] and r.broken["size"][1] > 5 * before["size"][1]
    drill.stop(ill)
    assert signs.read_signs(ill)["genres"][1] <= before["genres"][1]


@pytest.mark.parametrize("name", faults.FAULTS)
def test_stop_puts_everything_back_and_tells(ill, name):
    drill.start(name, ill)
    r = drill.stop(ill)
    assert r.state == "stopped" and r.off == [] and faults.FAULTS[name].cause in repr(r)
    assert drill.opened(ill.lab) is None and not holders(ill) and not (ill.lab.dir / "keep").exists()
    with pytest.raises(LabError, match="no drill is open"): drill.check(ill)


START = "import sys; from rap_analyzer.search.drill import start; print(start(sys.argv[1]).state, flush=True)"


@pytest.mark.parametrize("name", faults.FAULTS)
def test_killed_at_any_moment_stop_puts_everything_back(ill, home, name):
    file = home / "drills" / "open.json"
    for wait in (0, 0.05, 0.3):                       # from the moment in which the fault is written down
        ill.forget()
        child = subprocess.Popen([sys.executable, "-c", START, name], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        assert comes(lambda: file.exists() or child.poll() is not None, 60)  # noqa: B023
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
        assert file.exists()
        with pytest.raises(LabError, match="a drill is open"): drill.start("random", ill)
        if drill.opened(ill.lab).state == "breaking":
            with pytest.raises(LabError, match="interrupted"): drill.check(ill)
        assert drill.stop(ill).off == []
        assert comes(lambda: not holders(ill)) and "hnsw_halfvec" in built(ill, fresh=True)
        with valkey(ill) as v:
            assert v.config_get("maxmemory")["maxmemory"] == str(24 * 2**20) and not list(v.scan_iter("session:*"))


def test_the_session_ends_with_the_servers(ill):
    drill.start("idle-transaction", ill)
    assert len(holders(ill)) == 1
    restart(ill)
    assert comes(lambda: not holders(ill))
    assert drill.check(ill).state == "passed"


def test_the_session_ends_when_the_file_of_the_drill_is_gone(ill, home):
    drill.start("idle-transaction", ill)
    kept = (home / "drills" / "open.json").rename(home / "drills" / "elsewhere.json")
    assert comes(lambda: not holders(ill))
    kept = kept if kept.exists() else home / "drills" / "elsewhere.json"
    kept.rename(home / "drills" / "open.json")


def test_no_drill_starts_from_illness(ill):
    drill.start("dropped-index", ill)
    kept = faults.drill_file(ill.lab).read_text()
    faults.drill_file(ill.lab).unlink()
    with pytest.raises(LabError, match="the index over the vectors is missing"): drill.start("cold-cache", ill)
    assert drill.opened(ill.lab) is None
    faults.drill_file(ill.lab).write_text(kept)
    drill.stop(ill)
    with ill.session() as s:
        s.con.execute("BEGIN; LOCK TABLE tracks IN SHARE ROW EXCLUSIVE MODE")
        try:
            with pytest.raises(LabError, match="changes to a track cannot be saved"): drill.start("cold-cache", ill)
        finally: s.con.execute("ROLLBACK")
    with pytest.raises(LabError, match="fewer than 1,000 tracks"): drill.start("cold-cache", Store(ill.lab, "nobody").register())


def test_servers_of_others_are_not_broken(ill, monkeypatch):
    monkeypatch.setattr(ill.lab, "external_redis", ill.lab.redis_url)
    with pytest.raises(LabError, match="not the lab's own"): drill.start("dropped-index", ill)
    assert drill.opened(ill.lab) is None


@pytest.mark.parametrize("said, what", [
    ({}, "impact: Who felt what"), ({**ANSWERS, "cause": "dunno"}, "cause: What was it"),
    ({**ANSWERS, "blame": "x y z"}, "unknown field 'blame'")])
def test_a_post_mortem_has_four_sentences(ill, said, what):
    with pytest.raises(ValueError, match=what): drill.post_mortem(said, ill)


def test_a_damaged_file_says_what_to_do(ill, home):
    (home / "drills" / "open.json").write_text("{")
    with pytest.raises(LabError, match="move it away, then run .*rap-analyzer setup"): drill.check(ill)
    (home / "drills" / "open.json").unlink()


def test_the_baseline_is_measured_warm(ill, monkeypatch):
    "After a restart nothing is in memory: whatever is timed has been asked once before the clock starts."
    restart(ill)
    asked, timed, real, select = [], [], signs.time_in_turns, signs.select_similar
    monkeypatch.setattr(signs, "select_similar", lambda i, name: (asked.append((i, name)), select(i, name=name))[1])
    monkeypatch.setattr(signs, "time_in_turns", lambda *calls: (timed.append(len(asked)), real(*calls))[1])
    signs.SIGNS["similar"].read(ill)
    before, after = asked[:timed[0]], asked[timed[0] + 4:]               # two turns, of two calls each, warm up the reference
    way = before[0][1]
    assert len(after) > 40 and {a for a in after if a[1] == way} <= set(before)


def test_the_means_to_repair(ill, home, tmp_path):
    def rap(*words, **more):
        command = [sys.executable, "-m", "rap_analyzer.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    ill.forget()
    assert rap("sql", "-c", "SELECT 6 * 7 AS answer", stdin=subprocess.DEVNULL).stdout.split()[2] == "42"
    assert rap("sql", "--role", "rap_owner", "-c", "SELECT current_user").stdout.split()[2] == "rap_owner"
    assert "postgres" in rap("sql", input="SELECT current_user;\n").stdout
    wrong = rap("sql", "-c", "SELECT nothing")
    assert wrong.returncode and "does not exist" in wrong.stderr and rap("sql", "--role", "root").returncode
    assert json.loads(rap("valkey", "CONFIG", "GET", "maxmemory", "--json").stdout)["maxmemory"]
    assert "unknown command" in rap("valkey", "NOPE").stderr
    with ill.lab.up() as lab:
        secret = {lab.notes.read()[k] for k in ("admin_password", "app_password", "valkey_password")}
        status = rap("lab", "status")
        command = json.loads(rap("lab", "status", "--json").stdout)["connect"]
        assert command in status.stdout and not any(s in status.stdout for s in secret)
        done = subprocess.run([*shlex.split(command), "-Atc", "SELECT current_user"], capture_output=True, text=True, timeout=60)
        assert done.stdout == "postgres\n" and (lab.dir / "pgpass").stat().st_mode & 0o777 == 0o600
        held = subprocess.Popen([sys.executable, "-m", "rap_analyzer.cli", "sql", "-c", "SELECT pg_sleep(20)"])
        try:
            asleep = lambda: [p for p in psutil.Process(held.pid).children(recursive=True) if "psql" in p.name()]
            assert comes(lambda: any("pg_sleep" in " ".join(p.cmdline()) for p in asleep()))
            assert not any(s in " ".join(p.cmdline()) for s in secret for p in [*asleep(), psutil.Process(held.pid)])
        finally:
            for p in asleep(): p.kill()
            held.wait(20)


def test_on_the_command_line(ill, home, tmp_path):
    def rap(*words):
        return subprocess.run([sys.executable, "-m", "rap_analyzer.cli", *words], capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)
    ill.forget()
    assert "no drill is open" in rap("drill", "status").stdout and rap("drill", "check").returncode == 1
    assert "there is no drill 'x'" in rap("drill", "start", "x").stderr
    listed = rap("drill", "list").stdout
    assert set(json.loads(rap("drill", "list", "--json").stdout)) == set(faults.all_faults())
    begun = rap("drill", "start", "random", "--json")
    assert begun.returncode == 0, begun.stderr
    said = json.loads(begun.stdout)
    assert said["name"] == "random" and said["off"] and "cause" not in said
    assert said["users_say"] not in listed and all(f.users_say not in listed for f in faults.all_faults().values())
    assert "a drill is open" in rap("drill", "start", "random").stderr
    failed = rap("drill", "check")
    assert failed.returncode == 1 and "<--" in failed.stdout
    faults.all_faults()[drill.opened(ill.lab).name].undo(ill, drill.opened(ill.lab).facts)
    end = time.monotonic() + 90                     # some drills look back over some seconds
    while (passed := rap("drill", "check")).returncode: assert time.monotonic() < end, passed
    assert "Passed" in passed.stdout and "The fault (" not in passed.stdout
    assert "A sentence, please" in rap("drill", "postmortem", "--impact", "none").stderr
    file = tmp_path / "pm.toml"
    file.write_text("\n".join(f'{k} = "{v}"' for k, v in ANSWERS.items()))
    told = rap("drill", "postmortem", "--file", str(file))
    assert told.returncode == 0 and "The fault (" in told.stdout, told.stderr
    assert "cannot be read as TOML" in rap("drill", "postmortem", "--file", "nowhere.toml").stderr
    assert "post-mortem written" in rap("learn", "progress").stdout
