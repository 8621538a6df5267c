"""Servers are killed, paths are strange, input is bad: what is promised then, on real servers."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from functools import partial

import helpers
import numpy as np
import psutil
import psycopg
import pytest
import redis

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.search.index import build, similar
from rap_analyzer.search.store import NoEmbedding, Store, UnknownTrack, fill, migrate

@pytest.fixture
def own(tmp_path):
    "Servers that a test may kill."
    lab = Lab(home=tmp_path).up()
    yield lab
    lab.down()
    lab.close()


def made(lab: Lab) -> Store:
    migrate(lab)
    return fill(Store(lab), 20)


def kill_all(lab: Lab) -> None:
    for p in lab.postgres.processes():
        with suppress(Exception):
            p.kill()
    time.sleep(0.3)


until = partial(helpers.until, wait_s=60)


@pytest.mark.parametrize("strange", ["a path with spaces", "Кириллица и пробел", "long-" + "x" * 120])
def test_strange_homes(tmp_path, strange, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("LANG", "C")
    home = tmp_path / strange
    with Lab(home=home) as lab:
        assert len(str(lab.sockets)) < 100
        with psycopg.connect(lab.dsn) as con:
            assert con.execute("SELECT lower('ПРИВЕТ'), to_tsvector('russian', 'кошками')::text").fetchone() == (
                "привет", "'кошк':1")
            assert con.execute("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user").fetchone() == (
                False, False)
        with redis.from_url(lab.redis_url) as r:
            assert r.ping()
    assert lab.postgres.postmaster() is None


def test_only_loopback_listens(own):
    def listening(p):
        try: return [c.laddr.ip for c in p.net_connections("tcp") if c.status == "LISTEN"]
        except psutil.NoSuchProcess: return []  # a worker of PostgreSQL that had just finished

    for name in ("postgres", "valkey"):
        ears = [ip for p in getattr(own, name).processes() for ip in listening(p)]
        assert ears and set(ears) == {"127.0.0.1"}


def test_secrets_are_private(own):
    assert (own.dir / "lab.json").stat().st_mode & 0o077 == 0
    assert own.postgres.folder.stat().st_mode & 0o077 == 0


WRITER = """
import sys, psycopg
con = psycopg.connect(sys.argv[1], autocommit=True)
n = 0
while True:
    con.execute("INSERT INTO drill VALUES (%s)", [n])
    n += 1
    print(n, flush=True)
"""


def test_kill_9_during_writes_loses_nothing_acknowledged(own):
    with psycopg.connect(own.url(None), autocommit=True) as con:
        con.execute("CREATE TABLE drill (n int)")
    for _ in range(3):
        with psycopg.connect(own.url(None), autocommit=True) as con:
            con.execute("TRUNCATE drill")
        writer = subprocess.Popen([sys.executable, "-c", WRITER, own.url(None)], stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.DEVNULL)
        first = writer.stdout.readline()  # it has begun
        time.sleep(0.5)
        own.postgres.postmaster().kill()
        time.sleep(0.1)
        own.up()
        writer.kill()
        acknowledged = int((first + writer.stdout.read()).split()[-1])
        with psycopg.connect(own.url(None)) as con:
            survived = con.execute("SELECT count(*) FROM drill").fetchone()[0]
        assert acknowledged > 0 and survived - acknowledged in (0, 1)


def test_valkey_keeps_what_it_acknowledged(own):
    with redis.from_url(own.redis_url) as r:
        for i in range(500):
            r.xadd("events", {"n": i})
    for p in own.valkey.processes():
        p.kill()
    own.up()
    with redis.from_url(own.redis_url) as r:
        assert r.xlen("events") == 500


def test_killed_parent_blocks_nothing(tmp_path):
    code = f"from rap_analyzer.lab import Lab; Lab(home={str(tmp_path)!r}).up(); print('up', flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    lab = Lab(home=tmp_path)
    before = lab.postgres.postmaster().pid
    with lab:
        assert lab.postgres.postmaster().pid == before  # attached to what the dead parent left
    assert lab.postgres.postmaster() is None  # and the last user stopped it


def test_start_is_interrupted_and_repeated(tmp_path):
    for wait in (0.05, 0.2, 0.4, 0.8, 1.2):
        code = f"from rap_analyzer.lab import Lab; Lab(home={str(tmp_path)!r}).up(); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
        time.sleep(0.6 + wait)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    with Lab(home=tmp_path) as lab, psycopg.connect(lab.dsn) as con:
        assert con.execute("SELECT 1").fetchone() == (1,)


def test_two_start_at_once(tmp_path):
    code = f"from rap_analyzer.lab import Lab\nwith Lab({str(tmp_path)!r}) as lab: print(lab.postgres.postmaster().pid); input()"
    two = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
           for _ in range(2)]
    pids = {p.stdout.readline() for p in two}
    assert len(pids) == 1
    for p in two:
        p.communicate("\n", timeout=60)
        assert p.returncode == 0
    assert Lab(home=tmp_path).postgres.postmaster() is None


def test_busy_port_is_one_sentence(tmp_path):
    code = textwrap.dedent(f"""
        import socket
        from rap_analyzer.core import LabError
        from rap_analyzer.lab import Lab
        s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
        import os; os.environ["RAP_POSTGRES_PORT"] = str(s.getsockname()[1])
        try: Lab(home={str(tmp_path)!r}).up()
        except LabError as e: print(e)
        """)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "is in use: change [postgres] port in settings.ini" in said and said.count("\n") == 1


def test_the_next_call_after_a_kill(own):
    migrate(own)
    store = fill(Store(own), 500)
    build("hnsw_halfvec", store)
    before = similar(7, store=store)
    done, failed, stop = [], [], threading.Event()

    def listen():
        while not stop.is_set():
            try:
                done.append(len(similar(7, store=store)))
            except LabError as e:
                failed.append(str(e))

    listeners = [threading.Thread(target=listen) for _ in range(4)]
    for t in listeners:
        t.start()
    until(lambda: len(done) > 20)
    kill_all(own)
    until(lambda: failed)
    own.up()
    assert similar(7, store=store) == before
    stop.set()
    for t in listeners:
        t.join()
    assert done and failed and all("does not answer" in f and "\n" not in f for f in failed)


def test_external_servers_by_configuration(own, tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", own.url(None))
    monkeypatch.setenv("REDIS_URL", own.redis_url)
    with Lab(home=tmp_path / "other") as lab:
        assert not (tmp_path / "other" / "lab" / "pg").exists()  # nothing was started
        migrate(lab)
        store = fill(Store(lab), 200)
        build("hnsw_halfvec", store)
        assert len(similar(3, store=store)) == 10
        with store.session() as s:
            assert s.con.execute("SELECT current_user").fetchone() == ("rap_app",)
    assert own.postgres.postmaster()
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/x")
    with pytest.raises(LabError, match="DATABASE_URL .127.0.0.1:1. does not answer") as e:
        Lab(home=tmp_path / "third").up()
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(("query", "k", "error", "says"), [
    (np.ones(128), 10, ValueError, "expected 512 dimensions, got 128"),
    (np.full(512, np.nan), 10, ValueError, "zero, NaN or infinite"),
    (np.zeros(512), 10, ValueError, "zero, NaN or infinite"),
    (np.full(512, 1e300), 10, ValueError, "zero, NaN or infinite"),
    (10**12, 10, UnknownTrack, "no track 1000000000000 in tenant 'demo'"),
    (-1, 10, ValueError, "expected a track id"),
    (2**63, 10, ValueError, "expected a track id"),
    ("7", 10, ValueError, "expected a track id"),
    (7, 0, ValueError, "expected k"),
    (7, 2_000, ValueError, "has only 2000 tracks"),
    (7, True, ValueError, "expected k"),
])
def test_bad_questions(small, query, k, error, says):
    with pytest.raises(error, match=says):
        similar(query, k, store=small)


def test_every_track_but_itself(small):
    assert len(similar(7, 1_999, store=small)) == 1_999


def test_track_without_embedding(own):
    migrate(own)
    store = fill(Store(own), 200)
    store.upsert([catalog.track(999)])
    with pytest.raises(NoEmbedding, match="track 999 has no embedding"):
        similar(999, store=store)


def test_bad_text_writes_nothing(own):
    import dataclasses

    migrate(own)
    store = fill(Store(own), 200)
    good, bad = catalog.track(300), dataclasses.replace(catalog.track(301), artist="caf\udce9")
    with pytest.raises(ValueError, match="artist has a lone surrogate at position 3"):
        store.upsert([good, bad])
    assert store.count() == 200


def test_tenants_cannot_see_each_other_whatever_they_try(own):
    migrate(own)
    fill(Store(own, "demo"), 200)
    rival = Store(own, "rival")
    rival.register()
    tries = ["SELECT count(*) FROM tracks", "SELECT count(*) FROM embeddings WHERE tenant_id = 'demo'",
             "SELECT count(*) FROM track_genres", "SELECT count(*) FROM tenants WHERE id = 'demo'",
             "WITH gone AS (DELETE FROM tracks RETURNING 1) SELECT count(*) FROM gone",
             "WITH theirs AS (UPDATE tracks SET title = 'x' RETURNING 1) SELECT count(*) FROM theirs"]
    with rival.session() as s:
        for sql in tries:
            assert s.con.execute(sql).fetchone() == (0,), sql
        for sql in ("SET ROLE rap_owner", "SET ROLE postgres", "ALTER TABLE tracks DISABLE ROW LEVEL SECURITY",
                    "SET row_security = off; SELECT count(*) FROM tracks"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                s.con.execute(sql)


def test_migrations_go_down_and_up(own):
    migrate(own)
    migrate(own, "base")
    with psycopg.connect(own.url(None)) as con:
        assert con.execute("SELECT to_regclass('tracks')").fetchone() == (None,)
    migrate(own)
    assert fill(Store(own), 100).count() == 100


@pytest.mark.parametrize("tenant", ["demo -c role=rap_loader", "Demo", "", "a" * 32, "demo\0", "демо"])
def test_a_tenant_is_a_plain_name(small, tenant):
    with pytest.raises(ValueError, match="expected a tenant"): Store(small.lab, tenant)


def test_a_small_tenant_beside_a_large_one_gets_all_its_neighbours(own):
    migrate(own)
    build("hnsw_halfvec", fill(Store(own), 1_500))
    X, tracks = catalog.embeddings(5_000, 5_300), list(catalog.tracks(5_000, 5_300))
    Store(own, "beside").load(tracks, X)

    class Impatient(Store):
        "Gives up after one row of somebody else's, as a real one does after 20,000."
        @property
        def dsn(self):
            parts = psycopg.conninfo.conninfo_to_dict(super().dsn)
            more = " -c hnsw.max_scan_tuples=1 -c enable_sort=off -c enable_seqscan=off"  # so few rows need no index by themselves
            return psycopg.conninfo.make_conninfo(**{**parts, "options": parts["options"] + more})

    hits = similar(X[0], k=200, ef=10, store=Impatient(own, "beside"))
    true = np.argsort(-(X.astype(np.float32) @ X[0].astype(np.float32)))[:200] + 5_000
    assert hits[0].why == "exact_halfvec"  # the index ran dry, so everything was compared
    assert len({h.track_id for h in hits} & set(true.tolist())) >= 199  # equals may swap at the border


def test_vectors_of_any_length_are_stored_with_length_one(own):
    store = made(own)
    X = catalog.embeddings(0, 20).astype(np.float32)
    assert store.upsert_embeddings(np.arange(20), X.astype(np.float64) * 37) <= 20
    for i in range(20):
        assert np.linalg.norm(store.embedding(i).astype(np.float32)) == pytest.approx(1, abs=2e-3)
    assert max(h.score for h in similar(3, store=store)) <= 1.002


def test_every_stale_session_is_forgotten(own):
    store = made(own)
    with store.session(), store.session(), store.session(): pass
    stale = [s for s in store._idle.idle if s]
    assert len(stale) == 3
    store.forget()
    assert all(s.con.closed for s in stale) and not any(store._idle.idle)
    assert len(store._idle.idle) == 8


def test_writing_after_a_restart(own):
    store = made(own)
    kill_all(own)
    own.up()
    assert store.upsert_embeddings(np.arange(20), catalog.embeddings(0, 20)) == 0
    assert set(store.upsert(list(catalog.tracks(20, 22)))) == {t.external_id for t in catalog.tracks(20, 22)}


def test_another_database_of_a_server_you_bring(own, tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", own.url(None))
    monkeypatch.setenv("REDIS_URL", own.redis_url)
    with Lab(home=tmp_path / "there", database="elsewhere") as lab:
        migrate(lab)
        store = fill(Store(lab), 50)
        with store.session() as s:
            assert s.con.execute("SELECT current_database(), current_user").fetchone() == ("elsewhere", "rap_app")
    with Lab(home=tmp_path / "there") as lab: assert lab.database == "rap"
    monkeypatch.setenv("DATABASE_URL", "postgresql://[::1")
    with pytest.raises(LabError, match="DATABASE_URL is not a connection string"): Lab(home=tmp_path / "x")


def test_an_orphan_that_stays_stops_the_start(own, monkeypatch):
    monkeypatch.setattr("rap_analyzer.postgres.psutil.wait_procs", lambda procs, timeout: ([], list(procs)))
    monkeypatch.setattr("rap_analyzer.postgres.psutil.Process.send_signal", lambda self, sent: None)
    with pytest.raises(LabError, match="do not end"): own.postgres._clear_orphans(0)
