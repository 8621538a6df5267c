"Replication: a replica that repeats, reads never older than allowed, one primary at a time, and what an acknowledgement is worth."
import json
import math
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
from helpers import until
from psycopg.conninfo import make_conninfo

from rap_analyzer.core import LabError, PostgresSection, settings
from rap_analyzer.deadline import Unavailable
from rap_analyzer.lab import Lab
from rap_analyzer.search.sessions import Pool, Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve import chaos
from rap_analyzer.serve.failover import HARMS, Ack, fence, judge_failover, make_pair, rehearse
from rap_analyzer.serve.proxy import Proxy
from rap_analyzer.serve.reads import Positions, Reads
from rap_analyzer.serve.replica import ROLE, add_replica, caught_up
from rap_analyzer.serve.restore import backups_of, prune_archive

NAMES = Query("SELECT id FROM tenants ORDER BY id")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    "A lab with tables and two tenants, its replica, and the line between them."
    lab = Lab(tmp_path_factory.mktemp("пара с пробелом")).up()
    migrate(lab)
    for tenant in ("demo", "rival"): Store(lab, tenant).register()
    line = Proxy("127.0.0.1", lab.notes.read()["postgres_port"]).start()
    primary, replica = add_replica(lab, line.port)
    until(lambda: caught_up(primary, replica))
    yield lab, primary, replica, line
    replica.stop(), line.close(), lab.down(), lab.close()
    assert not [*primary.processes(), *replica.processes()]


@pytest.fixture
def both(pair, monkeypatch):
    "A lab that knows its replica by configuration only, and the two nodes and the line."
    lab, primary, replica, line = pair
    monkeypatch.setenv("DATABASE_REPLICA_URL", make_conninfo(**replica.conninfo(lab.database, "rap_app")))
    yield Lab(lab.home), primary, replica, line
    line.dead, line.delay_s = False, 0


def test_no_replica_is_configured_unless_one_is(monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_REPLICA_URL", raising=False)
    assert Lab(tmp_path).replica() is None


def test_row_level_security_holds_on_the_replica_and_nothing_can_be_written(both):
    lab, *_ = both
    there = Pool(lab.replica(), "demo")
    assert there.query(NAMES) == [("demo",)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction): there.query(Query("DELETE FROM tenants"))
    there.forget()


def test_the_password_of_the_replica_is_on_no_command_line_and_in_no_setting(both):
    _, primary, replica, _ = both
    word = primary.notes.read()["replica_password"]
    lines = [" ".join(p.cmdline()) for n in (primary, replica) for p in n.processes()]
    assert len(lines) > 8 and not any(word in x for x in lines)
    assert word not in str(replica.ask("SELECT setting FROM pg_settings")) + (replica.folder / "lab.conf").read_text()
    assert primary.notes.file.stat().st_mode & 0o777 == (replica.sockets / "replica.pass").stat().st_mode & 0o777 == 0o600
    assert primary.ask("SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = %s", (ROLE,)) == [(False,) * 3]


def test_a_read_is_never_older_than_allowed_and_the_callers_own_write_is_seen(both):
    lab, primary, replica, line = both
    primary.ask("CREATE TABLE IF NOT EXISTS ratings (n int); GRANT SELECT, INSERT ON ratings TO rap_app", database=lab.database)
    until(lambda: caught_up(primary, replica))
    reads = Reads(Pool(lab, "demo"), Pool(lab.replica(), "demo"), stale_s=1)
    count = Query("SELECT count(*)::int FROM ratings")
    line.delay_s = .3
    missed = len(reads.read(count)) - 1
    time.sleep(.7)                                                       # a position that the replica has reached is known by now
    for n in range(30):
        _, position = reads.write(Query("INSERT INTO ratings VALUES (%s) RETURNING n", (n,)))
        assert reads.read(count, after=position) == [(n + 1,)]           # whoever shows the position sees it
        missed += reads.read(count, stale_s=60) != [(n + 1,)]            # others may not, which is what the position is for
    assert missed > 0 and reads.counts["own write"] > 0 and reads.counts["replica"] >= 30
    until(lambda: caught_up(primary, replica))
    line.dead = True
    line.reset()
    reads.write(Query("INSERT INTO ratings VALUES (99) RETURNING n"))
    time.sleep(1.1)
    assert reads.read(count) == [(31,)] and reads.counts["too old"] == 1
    assert reads.read(count, stale_s=math.inf) == [(30,)]
    line.dead, line.delay_s = False, 0
    until(lambda: caught_up(primary, replica))
    before = reads.counts["replica"]
    assert reads.read(count) == [(31,)] and reads.counts["replica"] == before + 1
    reads.primary.forget(), reads.replica.forget()


def test_a_replica_that_is_away_costs_one_try_and_no_read(both):
    lab, *_ = both
    os.environ["DATABASE_REPLICA_URL"] = "postgresql://rap_app@127.0.0.1:1/rap"
    now = [0.0]
    reads = Reads(Pool(lab, "demo"), Pool(Lab(lab.home).replica(), "demo"), clock=lambda: now[0])
    assert [reads.read(NAMES) for _ in range(3)] == [[("demo",)]] * 3 and reads.counts == {"away": 3}
    with pytest.raises(Unavailable): reads.replica.query(NAMES)
    reads.primary.forget()


def test_an_unknown_age_is_too_old():
    now = [0.0]
    p = Positions(lambda: now[0])
    assert p.age_s(10**9) == math.inf
    p.note(0, 100)
    now[0] = 3
    p.note(3, 200)
    assert (p.age_s(99), p.age_s(100), p.age_s(250)) == (math.inf, 3, 0)


def test_a_copy_is_refused_where_something_lies(pair):
    _, primary, replica, _ = pair
    with pytest.raises(LabError, match="not empty"): replica.copy(primary)


# ---- failover

SMALL = PostgresSection(shared_buffers_mb=32, maintenance_work_mem_mb=32)


@pytest.fixture
def duo(tmp_path):
    "A small pair of new servers, asynchronous."
    sockets = Path(tempfile.mkdtemp(prefix="rap-"))
    pair = make_pair(tmp_path, sockets, SMALL)
    nodes = pair.primary, pair.replica
    yield pair
    pair.line.close()
    for node in nodes: fence(node, "the test is over")
    shutil.rmtree(sockets)


def rows(node): return node.ask("SELECT n FROM drill ORDER BY n")


@pytest.mark.alone
def test_after_every_kind_of_harm_there_is_one_primary_and_every_acknowledged_write(tmp_path):
    sockets = Path(tempfile.mkdtemp(prefix="rap-"))
    try: found = rehearse(tmp_path, sockets, len(HARMS), seed=5)
    finally: shutil.rmtree(sockets)
    assert {f.harm for f in found} == set(HARMS)
    assert [(f.split, f.lost) for f in found] == [(0, 0)] * len(HARMS)


def test_the_judge_sees_a_second_primary_and_a_lost_write():
    acks = [Ack(1.0, 1.1, 1, 10), Ack(2.0, 2.1, 1, 11), Ack(5.0, 5.1, 2, 12), Ack(5.05, 5.2, 1, 13), Ack(5.2, 5.3, 1, 14)]
    f = judge_failover("none", 3.0, 1, 2, acks, {10, 12, 13})
    assert (f.split, f.lost) == (1, 2) and round(f.recovery_s, 3) == 2.1  # 13 was asked for before the new one's first answer
    with pytest.raises(LabError, match="no write was acknowledged"): judge_failover("kill", 6.0, 1, 2, acks, set())


def test_what_was_acknowledged_and_did_not_arrive_is_lost_and_the_old_primary_returns_without_it(duo):
    old, new = duo.primary, duo.replica
    old.ask("INSERT INTO drill VALUES (1)")
    until(lambda: caught_up(old, new))
    duo.line.dead = True
    duo.line.reset()
    old.ask("INSERT INTO drill VALUES (2)")                                # acknowledged: asynchronous
    duo.failover()
    assert (duo.primary, rows(new)) == (new, [(1,)]) and not old.processes()
    new.ask("INSERT INTO drill VALUES (3)")
    with pytest.raises(LabError, match="fenced and does not start"): old.start()
    duo.line.dead = False
    duo.rejoin()
    until(lambda: caught_up(new, old))
    assert old.is_replica() and rows(old) == rows(new) == [(1,), (3,)]


def test_a_node_that_may_be_alive_is_neither_rewound_nor_left_to_a_supervisor(duo):
    old, new = duo.primary, duo.replica
    with pytest.raises(LabError, match="has to be fenced"): old.rewind(new)
    old.fence.write_text("by hand")                                        # the note alone does not kill
    with pytest.raises(LabError, match="has to be fenced"): old.rewind(new)
    for p in old.processes(): p.suspend()                                  # frozen: it would wake up later
    assert fence(old, "frozen") > 3 and not old.processes()
    child = duo.child(old)
    with pytest.raises(LabError, match="frozen"): child.start()
    assert not child.alive()


def test_a_failover_that_was_interrupted_is_finished_by_the_next(duo):
    old, new = duo.primary, duo.replica
    fence(old, "we were killed behind this line")
    duo.failover()
    assert (duo.primary, new.is_replica()) == (new, False)
    new.stop()
    new.start()
    assert not new.is_replica()                                            # the promotion outlives a restart


def test_a_replica_that_may_lack_writes_is_not_promoted_and_a_commit_waits_for_a_whole_one(duo):
    duo.sync = True
    with pytest.raises(LabError, match="may lack acknowledged writes"): duo.failover()
    assert not duo.primary.fence.exists() and not duo.primary.is_replica()
    duo.synchronise()
    duo.line.dead = True
    duo.line.reset()
    with pytest.raises(psycopg.errors.OperationalError), psycopg.connect(  # it waits until its session is ended
            make_conninfo(**duo.primary.conninfo()), autocommit=True) as con:
        threading.Timer(1, lambda: duo.primary.ask("SELECT pg_terminate_backend(%s)", (con.info.backend_pid,))).start()
        con.execute("INSERT INTO drill VALUES (7)")
    duo.relax()
    duo.primary.ask("INSERT INTO drill VALUES (8)")
    with pytest.raises(LabError, match="may lack acknowledged writes"): duo.failover()


def test_no_commit_waits_for_a_replica_that_does_not_follow(duo):
    duo.sync = True
    duo.line.dead = True
    duo.line.reset()
    with pytest.raises(LabError, match="did not happen within"): duo.synchronise(1)
    duo.primary.ask("INSERT INTO drill VALUES (7)")                        # it waited as long as the replica was away
    assert duo.primary.ask("SHOW synchronous_standby_names") == [("",)]
    duo.line.dead = False
    duo.synchronise()
    assert duo.replica.part.read()["whole"] and rows(duo.replica) == [(7,)]


@pytest.mark.alone
def test_the_stage_survives_the_death_of_its_primary(monkeypatch, tmp_path):
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    settings.cache_clear()
    v = chaos.run("kill-primary", seed=2)
    assert (v.lost, v.doubled, v.note) == (0, 0, "") and v.recovery_s and v.accepted > 10


# ---- restore

COUNT = "SELECT count(*)::int FROM tenants"


@pytest.fixture
def kept(monkeypatch, tmp_path):
    "A lab that archives its log, and the command line for it."
    from typer.testing import CliRunner

    from rap_analyzer.cli import app
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path / "living"))
    monkeypatch.setenv("RAP_POSTGRES_ARCHIVE", "true")
    settings.cache_clear()
    lab = Lab().up()
    migrate(lab)
    def command(*words):
        done = CliRunner().invoke(app, [*words])
        return done.exit_code, done.output, done.exception
    yield lab, command, tmp_path
    lab.down(), lab.close()
    settings.cache_clear()


def ask(lab, query):
    with psycopg.connect(lab.url(None), autocommit=True) as con: return con.execute(query).fetchone()[0]


@pytest.mark.parametrize("dead", [False, True])
def test_the_moment_before_a_mistake_is_restored_beside_the_living_server(kept, dead):
    lab, command, home = kept
    assert command("backup", "--json")[0] == 0
    for tenant in ("one", "two"): Store(lab, tenant).register()
    with psycopg.connect(lab.url(None), autocommit=True) as con:
        for _ in range(2): con.execute("SELECT pg_switch_wal()"), con.execute("CREATE TABLE IF NOT EXISTS filler (n int)")
    moment = ask(lab, "SELECT clock_timestamp()::text")
    assert ask(lab, "WITH gone AS (DELETE FROM tenants RETURNING 1) SELECT count(*)::int FROM gone") == 2
    Store(lab, "three").register()
    if dead: lab.postgres.postmaster().kill()                              # what was not archived yet lies in its folder
    code, said, error = command("restore", "--to", moment, "--into", str(home / "beside"), "--json")
    assert code == 0, (said, error)
    with Lab(home / "beside") as second: assert ask(second, COUNT) == 2
    second.down()
    if not dead: assert ask(lab, COUNT) == 1                               # the living one was left alone


def test_a_restore_that_cannot_be_exact_is_refused(kept):
    lab, command, home = kept
    early = ask(lab, "SELECT clock_timestamp()::text")
    assert "no backup was whole" in str(command("restore", "--to", early)[2])
    command("backup")
    assert "no backup was whole" in str(command("restore", "--to", early)[2])
    assert "the log ends" in str(command("restore", "--to", "2100-01-01", "--into", str(home / "late"))[2])
    assert "exists" in str(command("restore", "--to", "2100-01-01", "--into", str(home))[2])


def test_only_the_newest_backups_are_kept_and_the_log_that_they_need(kept):
    lab, command, _ = kept
    made = [json.loads(command("backup", "--json")[1])["backup"] for _ in range(3) if ask(lab, "SELECT pg_switch_wal()")]
    assert [str(p) for p in backups_of(lab)] == made[1:]
    def archived(): return sorted(p.name[:24] for p in lab.postgres.archive.iterdir())
    first = min(p.name for p in (backups_of(lab)[0] / "pg_wal").iterdir() if len(p.name) == 24)
    until(lambda: archived()[-1:] >= [first])                              # the server archives when it finds the time
    (lab.postgres.archive / f"{0:024X}").touch()
    prune_archive(lab)
    assert archived()[0] == first and not (lab.sockets / "backup.pass").exists()
