"Row-level security, read by a tool that knows the usual holes: every table is guarded, and each exception has its reason."
import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store, migrate

MEANT = {
    ("PERF003", "public.outbox.own_tenant"): "the relay reads it in the order of all tenants; each tenant only adds to it",
    ("PERF003", "public.outbox.proven_tenant"): "the same",
    ("SEC001", "public.alembic_version"): "which migrations have run; it belongs to no tenant",
    ("SEC014", "public.credited"): "searches a tenant's own tables through an index that policies would hide; see 0003 and 0005",
    ("SEC014", "public.search_names"): "the same",
    ("SEC014", "public.search_titles"): "the same",
    ("SEC014", "public.search_words"): "the same",
    ("SEC014", "public.find_key"): "finds a key before its tenant is known, one row by its hash; see 0013",
    ("SEC035", "public.api_keys (api_keys_hash_key)"): "a key is one tenant's, and is found by its hash before we know whose",
    ("SEC014", "public.verified_tenant"): "reads the key that nobody else may read, and gives back a tenant or nothing; see 0014",
    ("SEC016", "rap_loader"): "loads and sweeps for all tenants: BYPASSRLS is what it is for, and nobody can log in as it",
}


@pytest.fixture(scope="module")
def database(lab):
    "The tables as the migrations make them, and nothing that a test has left."
    mine = Lab(lab.home, "policies").up()
    migrate(mine)
    yield mine.url(None)
    mine.drop_database("policies")
    mine.close()


def lint(database: str, *words: str) -> set[tuple[str, str]]:  # rule, place
    "What pgrls finds, hints aside."
    pgrls = Path(sys.executable).with_name("pgrls")
    done = subprocess.run([pgrls, "lint", "--schemas", "public", "--format", "json", *words], capture_output=True, text=True,
                          env={**os.environ, "DATABASE_URL": database}, timeout=60, cwd=Path(__file__).parent)
    assert done.stdout.startswith("{"), done.stderr
    return {(v["rule_id"], v["location"]) for v in json.loads(done.stdout)["violations"] if v["severity"] != "info"}


def test_every_table_is_guarded_and_exceptions_have_a_reason(database):
    assert lint(database) == set(MEANT)


ROWS = {  # of the newest tables
    "analyzer_plugins": """name, version, source, code, analyzers, checks, cost_ms)
        VALUES (%s, 'p', '1', 's', repeat('a', 64), '{x}', '{}', 1""",
    "auctions": "id, track_id, opening, increment, opened_at, ends_at) VALUES (%s, 'a', 1, 1, 1, now(), now() + interval '1 h'",
    "bids": "id, auction_id, bidder, amount, placed_at) VALUES (%s, 'b', 'a', 1, 1, now()",
    "cover_exposures": """listener_id, day, track_id, exposure_id, variant, propensity, taste)
        VALUES (%s, 1, now(), 1, 'cover-sun-0123456789abcdef', 'sun', .5, 0""",
    "homes": "listener_id, region) VALUES (%s, 1, 'us'", "residents": "listener_id) VALUES (%s, 1"}


def test_a_tenant_neither_sees_nor_writes_what_is_another_s(database, lab):
    mine = Lab(lab.home, "policies")
    ours, theirs = (Store(mine, name).register() for name in ("ours", "theirs"))
    put = {table: f"INSERT INTO {table} (tenant_id, {rest})" for table, rest in ROWS.items()}
    with ours.session() as s:
        for sql in put.values(): s.con.execute(sql, ["ours"])
    with theirs.session() as s:
        for table, sql in put.items():
            assert s.con.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"): s.con.execute(sql, ["ours"])
        for change in ("UPDATE auctions SET bids = bids", "UPDATE homes SET epoch = epoch + 1", "UPDATE residents SET open = false",
                       "UPDATE analyzer_plugins SET state = 'quarantined'", "DELETE FROM analyzer_plugins",
                       "DELETE FROM cover_exposures"):
            assert s.con.execute(change).rowcount == 0
        with pytest.raises(psycopg.DatabaseError, match="not at home"): s.con.execute("SELECT hold_home(1, 1)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation): s.con.execute(put["bids"], ["theirs"])       # of our auction
    with ours.session() as s:
        for table in ROWS: assert s.con.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
    ours.forget(), theirs.forget()


def test_a_table_without_a_policy_and_one_for_everybody_are_seen(database):
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("""CREATE TABLE forgotten (tenant_id text); CREATE TABLE open (tenant_id text);
            ALTER TABLE open ENABLE ROW LEVEL SECURITY; ALTER TABLE open FORCE ROW LEVEL SECURITY;
            CREATE POLICY all_of_them ON open USING (tenant_id = (SELECT current_setting('app.tenant_id', true)))""")
        new = {where for _, where in lint(database) - set(MEANT)}
        con.execute("DROP TABLE forgotten, open")
    assert {"public.forgotten", "public.open.all_of_them"} <= new
