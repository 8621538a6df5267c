"Each way past the tenants that we know of, planted on purpose: the check of that name finds it. And what pgrls can prove."
import asyncio
import dataclasses
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.platform.tenancy import CHECKS, MEANT, find_leaks
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate

OWNER, ADMIN = "rap_owner", None
LOUD = """CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql {rights} AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER loud BEFORE INSERT ON tracks FOR EACH ROW EXECUTE FUNCTION loud()"""
PINNED = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
REVOKE = "REVOKE ALL ON FUNCTION {0} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {0} TO rap_app"
LEAKS = {  # what somebody does: the check that has to find it, as whom, in which words
    "a table made without policies": ("row-security-off", OWNER,
        "CREATE TABLE notes (tenant_id text, id int, PRIMARY KEY (tenant_id, id))"),
    "security switched off for a repair": ("row-security-off", OWNER, "ALTER TABLE tracks DISABLE ROW LEVEL SECURITY"),
    "the owner let off": ("owner-exempt", OWNER, "ALTER TABLE tracks NO FORCE ROW LEVEL SECURITY"),
    "the policy dropped": ("unproven", OWNER, "DROP POLICY proven_tenant ON events"),
    "the floor for one role only": ("unproven", OWNER, "ALTER POLICY proven_tenant ON events TO rap_app"),
    "the floor with an OR": ("unproven", OWNER,
        "ALTER POLICY proven_tenant ON jobs USING (tenant_id = (SELECT verified_tenant()) OR true)"),
    "the floor FOR SELECT only": ("unproven-writes", OWNER, """DROP POLICY proven_tenant ON events;
        CREATE POLICY proven_tenant ON events AS RESTRICTIVE FOR SELECT USING (tenant_id = (SELECT verified_tenant()))"""),
    "rows written unchecked": ("unproven-writes", OWNER, "ALTER POLICY proven_tenant ON events WITH CHECK (true)"),
    "a job queue for all": ("wide-policy", OWNER,
        "CREATE POLICY workers ON jobs FOR SELECT TO rap_app USING (state = 'waiting')"),
    "a policy for everybody": ("policy-for-everybody", OWNER, "ALTER POLICY own_tenant ON tracks TO PUBLIC"),
    "a view without security_invoker": ("view-of-the-owner", OWNER,
        "CREATE VIEW v AS SELECT title FROM tracks; GRANT SELECT ON v TO rap_app"),
    "a view upon a careful view": ("view-of-the-owner", OWNER, """
        CREATE VIEW inner_v WITH (security_invoker = true) AS SELECT title FROM tracks;
        CREATE VIEW outer_v AS SELECT * FROM inner_v; GRANT SELECT ON inner_v, outer_v TO rap_app"""),
    "a materialised view": ("materialised-copy", ADMIN,
        "CREATE MATERIALIZED VIEW m AS SELECT title FROM tracks; GRANT SELECT ON m TO rap_app"),
    "a copy without a tenant": ("copy-without-tenant", ADMIN,
        "CREATE TABLE c AS SELECT title FROM tracks; GRANT SELECT ON c TO rap_app"),
    "a rule that copies": ("rewritten", OWNER, "CREATE RULE also AS ON DELETE TO tracks DO ALSO NOTHING"),
    "a function with the loader's rights": ("unguarded-definer", ADMIN, f"""
        CREATE FUNCTION top() RETURNS SETOF text LANGUAGE sql {PINNED}
        AS 'SELECT title FROM tracks'; {REVOKE.format('top')}"""),
    "a search that believes the setting": ("unguarded-definer", ADMIN, f"""
        CREATE FUNCTION mine() RETURNS SETOF text LANGUAGE sql {PINNED} AS $$
        SELECT title FROM tracks WHERE tenant_id = current_setting('app.tenant_id') $$; {REVOKE.format('mine')}"""),
    "a function on the caller's path": ("definer-path", OWNER, f"""CREATE FUNCTION me() RETURNS text LANGUAGE sql SECURITY DEFINER
        AS 'SELECT verified_tenant()'; {REVOKE.format('me')}"""),
    "a grant to PUBLIC": ("public-grant", OWNER, "GRANT SELECT ON tracks TO PUBLIC"),
    "the search for everybody": ("public-grant", ADMIN, "GRANT EXECUTE ON FUNCTION search_words TO PUBLIC"),
    "a column default": ("tenant-default", OWNER, "ALTER TABLE tracks ALTER tenant_id SET DEFAULT 'demo'"),
    "an id that is unique among all": ("key-without-tenant", OWNER, "CREATE UNIQUE INDEX taken ON tracks (external_id)"),
    "a reference across tenants": ("reference-without-tenant", OWNER, "ALTER TABLE job_effects ADD CONSTRAINT any_outbox "
                                   "FOREIGN KEY (attempt) REFERENCES outbox (id)"),
    "a trigger with rights": ("trigger-with-rights", OWNER, LOUD.format(rights=PINNED)),
    "an index that runs code": ("index-code", OWNER, """CREATE FUNCTION shout(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RETURN upper(t); END $$; CREATE INDEX shouted ON tracks (tenant_id, shout(title))"""),
    "leakproof, it says": ("leakproof-by-word", ADMIN, """
        CREATE FUNCTION peek(t text) RETURNS boolean LANGUAGE plpgsql LEAKPROOF COST 1e-4 AS
        $$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$"""),
    "tables sent to subscribers": ("published", ADMIN, "CREATE PUBLICATION out FOR TABLE tracks"),
    "a role for a report": ("role-that-bypasses", ADMIN, "GRANT rap_loader TO rap_app"),
    "the key for a debug page": ("key-in-reach", OWNER, "GRANT USAGE ON SCHEMA claims TO rap_app"),
    "a schema to build in": ("may-create", OWNER, "GRANT CREATE ON SCHEMA public TO rap_app"),
    "an import lock": ("shared-lock", OWNER, """CREATE FUNCTION import_lock() RETURNS void LANGUAGE sql AS
        'SELECT pg_advisory_xact_lock(42)'"""),
}

@pytest.fixture(scope="module")
def tables(lab):
    "The tables as the migrations make them."
    mine = Lab(lab.home, "leaks").up()
    migrate(mine)
    store = Store(mine, "demo").register()
    yield store
    store.forget()
    mine.drop_database("leaks")
    mine.close()


def test_no_known_way_is_open(tables):
    assert find_leaks(tables) == []


def test_every_exception_is_still_needed(tables):
    assert {(leak.check, leak.where) for leak in find_leaks(tables, {})} == set(MEANT)


def test_every_check_has_a_leak():
    assert {check for check, *_ in LEAKS.values()} == set(CHECKS) and len(LEAKS) >= 20


def test_the_command_names_what_is_open_and_fails(tables, monkeypatch):
    from typer.testing import CliRunner

    from rap_analyzer.platform.commands import app
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: tables)
    clean = CliRunner().invoke(app, ["tenant", "check"])
    assert clean.exit_code == 0 and f"{len(CHECKS)} checks" in clean.output
    with tables.admin() as con:
        con.execute("GRANT SELECT ON tracks TO PUBLIC")
        try: found = CliRunner().invoke(app, ["tenant", "check", "--json"])
        finally: con.execute("REVOKE SELECT ON tracks FROM PUBLIC")
    assert found.exit_code == 1 and '"public-grant"' in found.output and '"tracks"' in found.output


@pytest.mark.parametrize("what", LEAKS)
def test_a_planted_leak_is_found_by_its_check(tables, what):
    check, role, words = LEAKS[what]
    with tables.admin(role) as con, con.transaction(force_rollback=True):
        con.execute(words)
        found = look(con)
    assert check in found, found
    assert find_leaks(tables) == []


def look(con) -> set[str]:
    "What the checks find inside a transaction that will be rolled back."
    class Here:
        def admin(self, _): return Kept(con)
    con.execute("SET LOCAL ROLE NONE")
    return {leak.check for leak in find_leaks(Here())}


class Kept:
    "A connection that stays open."
    def __init__(self, con): self.con = con
    def __enter__(self): return self.con
    def __exit__(self, *_): pass


# ---- what is proven

def pgrls(store, *words):
    "A run of pgrls on the store's database: exit code and text."
    tool = Path(sys.executable).with_name("pgrls")
    done = subprocess.run([tool, *words, "--schemas", "public"], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parent, env={**os.environ, "DATABASE_URL": store.lab.url(None)})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def axis(tmp_path_factory):
    "The table of tenants calls its own column `id`."
    file = tmp_path_factory.mktemp("pgrls") / "pgrls.toml"
    file.write_text('[lint.rules.SEC021]\nidentity_columns = ["tenant_id", "id"]\n')
    return "--config", str(file)


@pytest.mark.parametrize("mode", ["cross-tenant", "write"])
def test_isolation_is_proven_for_each_table(tables, axis, mode):
    with tables.admin(None) as con:
        names = con.execute("SELECT DISTINCT relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid").fetchall()
    code, said = pgrls(tables, "verify", "--strict", "--mode", mode, *axis)
    assert code == 0 and f"{len(names)} proven isolated, 0 leaking, 0 unverified" in said, said
    for (name,) in names: assert re.search(rf"^public[.]{name} +PROVEN", said, re.M), name


def test_a_proof_that_fails_is_told(tables, axis):
    with tables.admin() as con:
        con.execute("CREATE TABLE open (tenant_id text PRIMARY KEY); ALTER TABLE open ENABLE ROW LEVEL SECURITY; ALTER TABLE open "
                    "FORCE ROW LEVEL SECURITY; CREATE POLICY p ON open TO rap_app USING (tenant_id = (SELECT current_setting("
                    "'app.tenant_id', true)) OR tenant_id = 'shared')")
        try: code, said = pgrls(tables, "verify", "--strict", "--mode", "cross-tenant", *axis)
        finally: con.execute("DROP TABLE open")
    assert code and "public.open" in said


NEAR = """CREATE TABLE near_table (tenant_id text NOT NULL, id int, v vector(3), PRIMARY KEY (tenant_id, id));
ALTER TABLE near_table ENABLE ROW LEVEL SECURITY; ALTER TABLE near_table FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON near_table TO rap_app, rap_owner USING (tenant_id = (SELECT current_setting('app.tenant_id', true)));
INSERT INTO near_table VALUES ('demo', 1, '[1,0,0]'), ('rival', 2, '[0,1,0]'); GRANT SELECT ON near_table TO rap_app;
CREATE FUNCTION near(q vector, n int) RETURNS SETOF near_table LANGUAGE sql STABLE {rights}
AS $$ SELECT * FROM near_table {where} ORDER BY v <-> q LIMIT n $$; {grant}; SELECT claims.secure_table('near_table')"""
PROBE = "vector", "--probe-role", "rap_app", "--set", "app.tenant_id=demo"


def test_no_function_gives_back_neighbours_that_the_tables_would_not(tables):
    "pgrls looks for columns of type `vector`, and ours are `halfvec`: so a table of its kind is made to see that it would notice."
    code, said = pgrls(tables, *PROBE)
    assert code == 0 and "LEAK" not in said, said
    for where, leak in (("WHERE tenant_id = (SELECT verified_tenant())", False), ("", True)):
        with tables.admin(None) as con:
            con.execute(NEAR.format(rights=PINNED, where=where, grant=REVOKE.format("near")))
            try: code, said = pgrls(tables, *PROBE)
            finally: con.execute("DROP FUNCTION near; DROP TABLE near_table")
        assert bool(code) == leak and ("near" in said), said


def test_every_table_with_a_tenant_asks_for_the_proof_after_a_migration(tables):
    with tables.admin() as con: con.execute("CREATE TABLE fresh (tenant_id text PRIMARY KEY)")
    assert {leak.where for leak in find_leaks(tables)} >= {"fresh"}
    migrate(tables.lab)
    try: assert find_leaks(tables) == []
    finally:
        with tables.admin() as con: con.execute("DROP TABLE fresh")


# ---- what no catalog shows

def test_a_session_that_changes_tenants_leaves_nothing_behind(tables):
    "What one tenant's request leaves in a session would run with the next tenant's claim."
    other = Store(tables.lab, "rival", size=1).register()
    traps = ("CREATE TEMP TABLE tracks (title text)", "PREPARE trap AS SELECT title FROM tracks", "SET search_path = pg_temp",
             "CREATE TEMP VIEW loot AS SELECT * FROM public.tracks", "LISTEN trap")
    with other._lend("demo") as s:
        pid = s.con.info.backend_pid
        for trap in traps: s.con.execute(trap)
    with other._lend("rival") as s:
        assert s.con.info.backend_pid == pid
        left = s.con.execute("SELECT (SELECT count(*) FROM pg_prepared_statements WHERE name = 'trap'), "
                             "current_setting('search_path'), to_regclass('pg_temp.tracks'), "
                             "(SELECT count(*) FROM pg_listening_channels())").fetchone()
        assert left == (0, '"$user", public', None, 0)
        assert s.fetch(Query("SELECT verified_tenant()")) == [("rival",)]
    other.forget()


def test_an_async_connection_that_changes_tenants_leaves_nothing_behind(tables):
    from rap_analyzer.platform.tenants import TenantStore
    base = Store(tables.lab, "demo", size=1)
    other, who = TenantStore(base, "rival"), Query("SELECT verified_tenant()")
    async def both():
        await base.aopen(1)
        try:
            for trap in ("PREPARE trap AS SELECT title FROM tracks", "CREATE TEMP VIEW loot AS SELECT * FROM public.tracks"):
                async with base._pool.connection() as con: await con.execute(trap)
            first = await base.aquery(who)
            second = await other.aquery(Query("SELECT verified_tenant(), (SELECT count(*) FROM pg_prepared_statements WHERE name = "
                                              "'trap'), to_regclass('pg_temp.loot')"))
            return first, second, await base.aquery(who)
        finally: await base.aclose()
    assert asyncio.run(both()) == ([("demo",)], [("rival", 0, None)], [("demo",)])


def test_a_cache_key_names_its_tenant(tables):
    from rap_analyzer.search.keys import key_of, scope_of
    a, b = tables, Store(tables.lab, "rival")
    assert key_of("t", scope_of(a), "q") != key_of("t", scope_of(b), "q")


def test_a_job_is_not_read_across_tenants(tables):
    from rap_analyzer.serve.jobs import Jobs, UnknownJob
    other = Store(tables.lab, "rival").register()
    job, _ = Jobs(other).enqueue("nap", {}, "secret")
    with pytest.raises(UnknownJob): Jobs(tables).get(job.id)
    assert Jobs(other).get(job.id).id == job.id
    other.forget()


# ---- claims

def refused(store, *words):
    "The SQLSTATE that counting a session's tracks ends with, after these statements; None if it works."
    with store.session() as s:
        try:
            for w in words: s.con.execute(w)
            s.con.execute("SELECT count(*) FROM tracks")
        except psycopg.Error as e: return e.sqlstate
    return None


def test_hmac_in_the_database_is_hmac(tables):
    "RFC 4231: what the function computes of a key's two pads."
    from rap_analyzer.search.claims import Key, pads
    cases = [(b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
             (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
             (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
             (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
             (b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First",
              "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")]
    with tables.admin() as con:
        for key, message, want in cases:
            inner, outer = pads(Key(key))
            got = con.execute("SELECT encode(sha256(%s::bytea || sha256(%s::bytea || %s::bytea)), 'hex')", [outer, inner, message])
            assert got.fetchone() == (want,)


CHANGED = "SELECT set_config('app.claim', regexp_replace(current_setting('app.claim'), '{}', '{}'), false)"
FORGED = {
    "another tenant": ("42501", "SET app.tenant_id = 'rival'"),
    "made up": ("42501", "SET app.claim = 'x'"),
    "a good form": ("42501", f"SET app.claim = '{16 * 'a'}.1.9999999999.{64 * 'a'}'"),
    "a longer life": ("42501", CHANGED.format("[.][0-9]{10}[.]", ".9999999999.")),
    "another slot": ("42501", CHANGED.format("[.][0-9]+[.]", ".99.")),
    "a number too large": ("22003", f"SET app.claim = '{16 * 'a'}.99999999999.999999999999.{64 * 'a'}'"),
    "another role": ("42501", "SELECT set_config('role', 'rap_loader', false)"),
    "no security": ("42501", "SET row_security = off"),
    "the key": ("42501", "SELECT * FROM claims.keys"),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_claim_is_refused(tables, how):
    state, words = FORGED[how]
    assert refused(tables) is None and refused(tables, words) == state


def test_no_altered_claim_is_accepted(tables):
    "Two thousand changes of a real claim: one character, one part of another session's, of another tenant's, of another time."
    rng, refusals = random.Random(7), 0
    with tables.session() as s, tables.session("rival") as other:
        ask = lambda x: x.con.execute("SELECT current_setting('app.claim')").fetchone()[0]
        mine, theirs, later = ask(s), ask(other), tables.sign("demo", dataclasses.replace(s.backend, start=other.backend.start))
        for _ in range(2_000):
            parts, donor = mine.split("."), rng.choice((theirs, later)).split(".")
            if rng.random() < .5:
                text, at = list(mine), rng.randrange(len(mine))
                text[at] = rng.choice("0123456789abcdef.".replace(text[at], ""))
                claim = "".join(text)
            else: claim = ".".join(rng.choice(pair) for pair in zip(parts, donor, strict=True))
            tenant = rng.choice(("demo", "rival"))
            if (claim, tenant) == (mine, "demo"): continue
            s.con.execute("SELECT set_config('app.tenant_id', %s, false), set_config('app.claim', %s, false)", [tenant, claim])
            try: s.con.execute("SELECT count(*) FROM tracks"), pytest.fail(f"accepted: {claim} for {tenant}")
            except psycopg.Error: refusals += 1
    assert refusals >= 1_500


def test_a_session_without_a_claim_sees_nothing(tables):
    tables.upsert([song()])
    for words in ("SET app.claim = ''", "RESET app.claim", "SET app.tenant_id = ''", "RESET ALL"):
        with tables.session() as s:
            s.con.execute(words)
            assert s.con.execute("SELECT count(*) FROM tracks").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                s.con.execute("INSERT INTO outbox (tenant_id, event_id) VALUES ('demo', 'e')")
    assert tables.count() == 1


def song():
    return next(catalog.tracks(0, 1))


def test_an_expired_claim_is_refused_and_the_pool_renews_its_own(tables, monkeypatch):
    from rap_analyzer.search import claims
    old = tables.connect(valid_s=-1)
    with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification, match="has expired"):
        old.con.execute("SELECT count(*) FROM tracks")
    old.con.close()
    with tables.session() as s:
        s.renew_at = claims.seconds() - 1
        before = s.con.execute("SELECT current_setting('app.claim')").fetchone()
        s.fetch(Query("SELECT 1"))
        assert s.renew_at > claims.seconds() and before


def test_a_claim_of_another_session_is_refused(tables):
    with tables.session() as a, tables.session() as b:
        stolen = a.con.execute("SELECT current_setting('app.claim')").fetchone()[0]
        b.con.execute("SELECT set_config('app.claim', %s, false)", [stolen])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not signed for this session"):
            b.con.execute("SELECT count(*) FROM tracks")


def test_two_keys_count_while_one_takes_over(tables):
    from rap_analyzer.search.claims import read_keys
    from rap_analyzer.search.store import retire_keys, rotate_key
    lab, kept = tables.lab, read_keys(tables.lab)
    tables.sign.look_s, tables.sign._next = 0, float("-inf")
    with tables.session() as s:
        new, old = rotate_key(lab)[:2]
        assert read_keys(lab)[0] == tables.sign.key() == new and old == kept[0]
        s.con.execute("SELECT count(*) FROM tracks")              # under way, signed by the old key
        assert tables.count() >= 0                                # signed by the new one
        assert retire_keys(lab) == new
        with pytest.raises(psycopg.errors.InsufficientPrivilege): s.con.execute("SELECT count(*) FROM tracks")
        assert tables.count() >= 0 and read_keys(lab) == [new] and lab.notes.file.stat().st_mode & 0o777 == 0o600
    time.sleep(1.1)                                               # until the signers of the other tests' stores have looked
