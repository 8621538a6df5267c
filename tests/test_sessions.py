"What one borrower of a connection can do to the next, and a forked child to its parent: nothing. Real servers."
import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import psycopg
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.search.cache import Cache, answer_from_cache
from rap_analyzer.search.index import similar
from rap_analyzer.search.sessions import Pool, Query

WHO = Query("SELECT current_setting('app.tenant_id'), current_user, current_setting('statement_timeout'), "
            "current_setting('hnsw.iterative_scan'), pg_backend_pid()")


@pytest.fixture
def pool(small):
    pool = Pool(small.lab, "demo", size=1, wait_s=1)  # one connection: the next borrower gets the same
    yield pool
    pool.forget()


def end_in_a_transaction(s):
    s.con.execute("BEGIN")
    s.con.execute("SELECT 1 / 0")


MANNERS = {
    "fails in its own transaction": end_in_a_transaction,
    "leaves a transaction open": lambda s: s.con.execute("BEGIN"),
    "leaves a transaction open by autocommit": lambda s: (setattr(s.con, "autocommit", False), s.con.execute("SELECT 1")),
    "changes the tenant": lambda s: s.con.execute("SELECT set_config('app.tenant_id', 'rival', false)"),
    "forgets the tenant": lambda s: s.con.execute("RESET app.tenant_id; SET app.tenant_id = ''"),
    "changes settings": lambda s: s.con.execute("SET statement_timeout = 1; SET hnsw.iterative_scan = off; SET search_path = x"),
    "turns the width by hand": lambda s: s.con.execute("SET hnsw.ef_search = 1"),
    "reads rows as dicts": lambda s: setattr(s.cur, "row_factory", psycopg.rows.dict_row),
    "discards everything": lambda s: s.con.execute("DISCARD ALL"),
    "closes the connection": lambda s: s.con.close(),
    "hides tables": lambda s: s.con.execute("SET temp_tablespaces = ''; CREATE TEMP TABLE tracks (id int)"),
    "is in the middle of a copy": lambda s: s.con.cursor().copy("COPY (SELECT 1) TO STDOUT").__enter__(),
    "is interrupted": lambda s: (_ for _ in ()).throw(KeyboardInterrupt),
}


@pytest.mark.parametrize("how", MANNERS)
def test_nothing_a_borrower_does_reaches_the_next(pool, small, how):
    first, want = pool.query(WHO)[0], [h.track_id for h in similar(42, store=small)]
    with suppress(psycopg.Error, KeyboardInterrupt), pool.session() as s: MANNERS[how](s)
    assert pool.query(WHO)[0][:4] == first[:4]
    assert pool.query(Query("SELECT count(*) FROM tracks")) == [(small.count(),)]
    assert small.query(WHO)[0][:4] == first[:4] and [h.track_id for h in similar(42, store=small)] == want


def test_a_query_that_changes_the_tenant_changes_it_for_itself_alone(pool):
    change = Query("SELECT set_config('app.tenant_id', 'rival', false)")
    assert pool.query(change) == [("rival",)] and pool.query(WHO)[0][0] == "demo"
    async def twice():
        await pool.aopen(1)
        try: return await pool.aquery(change), await pool.aquery(WHO)
        finally: await pool.aclose()
    assert [rows[0][0] for rows in asyncio.run(twice())] == ["rival", "demo"]


def test_a_session_serves_the_tenant_it_is_asked_for_and_the_next_one_its_own(pool):
    with pool.session("rival") as s:
        assert s.fetch(WHO)[0][0] == "rival" and s.fetch(Query("SELECT count(*) FROM tracks")) == [(0,)]
    assert pool.query(WHO)[0][0] == "demo"
    with pytest.raises(ValueError, match="expected a tenant"), pool.session(""): pass


def test_a_session_that_nobody_borrowed_sees_no_tenant(pool):
    with pool.session() as s: pass
    assert s.con.execute("SELECT count(*) FROM tracks").fetchone() == (0,)


# ---- forks

def forked(do):
    "What a forked child made of it: `ok`, or a line about the error. It may not hang."
    reader, writer = os.pipe()
    if not (child := os.fork()):
        signal.alarm(20)
        try: said = do() or "ok"
        except BaseException as e: said = f"{type(e).__name__}: {e}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer: said = answer.read().decode()
    os.waitpid(child, 0)
    return said


def test_a_forked_child_answers_and_leaves_the_parent_its_connections(small):
    want, pid = similar(7, store=small), small.query(WHO)[0][4]
    def child():
        assert similar(7, store=small) == want
        assert small.query(WHO)[0][4] != pid
    assert [forked(child) for _ in range(3)] == ["ok"] * 3
    assert similar(7, store=small) == want and small.query(WHO)[0][4] == pid


def test_a_child_forked_inside_a_loan_borrows_its_own(small):
    with small.session() as s:
        def child():
            with pytest.raises(LabError, match="borrow another"): s.fetch(WHO)
            assert small.query(WHO)[0][0] == "demo"
        assert forked(child) == "ok"
        assert s.fetch(WHO)[0][0] == "demo"


def test_a_child_forked_while_threads_hold_every_lock(small):
    "Threads ask and compute as fast as they can; each child finds the locks free."
    cache, stop = Cache(small.lab, "forks"), threading.Event()
    def busy(i):
        while not stop.is_set(): similar(i, store=small), answer_from_cache(i, store=small, cache=cache), cache.counters()
    threads = [threading.Thread(target=busy, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    def child(): assert len(similar(9, store=small)) == len(answer_from_cache(9, store=small, cache=cache)) == 10
    try: said = [forked(child) for _ in range(8)]
    finally:
        stop.set()
        for t in threads: t.join()
    assert said == ["ok"] * 8


def test_an_async_pool_is_not_inherited(small):
    async def ask():
        await small.aopen(1)
        try: return await asyncio.to_thread(forked, lambda: asyncio.run(small.aquery(WHO)) and "answered")
        finally: await small.aclose()
    assert "call aopen() first" in asyncio.run(ask())


def test_a_forked_child_that_ends_does_not_stop_the_servers(tmp_path):
    "Its end runs our exit handlers, and the lock that says `in use` was inherited from the parent."
    code = textwrap.dedent(f"""
        import os, sys
        from rap_analyzer.lab import Lab
        lab = Lab({str(tmp_path)!r}).up()
        if not (child := os.fork()): sys.exit(0)
        os.waitpid(child, 0)
        print(bool(lab.postgres.postmaster()), bool(lab.valkey.processes()))
        """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True True\n", done.stderr
    assert Lab(tmp_path).postgres.postmaster() is None


def test_a_forked_child_keeps_the_servers_when_its_parent_ends(tmp_path):
    lab, (ready, told) = Lab(tmp_path).up(), os.pipe()
    if not (child := os.fork()):
        os.write(told, b"!"), signal.alarm(60), signal.pause()
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"!"
        lab.close()
        assert lab.postgres.postmaster()
    finally: os.kill(child, signal.SIGKILL), os.waitpid(child, 0)
    with open(lab.dir / "users.lock", "a") as lease: fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lab.down()
