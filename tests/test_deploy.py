"Versions that take over behind one socket, migrations beside readers, and what an old version would stumble over."
import http.client
import os
import sys
import threading
from importlib import import_module
from pathlib import Path

import httpx
import pytest

from rap_analyzer.core import LabError, settings
from rap_analyzer.lab import Lab
from rap_analyzer.platform import deploy
from rap_analyzer.platform.deploy import Fleet, alter, check_migration, find_breaks, migrate_live, statements
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.serve.stage import SERVERS
from rap_analyzer.serve.supervisor import Supervisor
from rap_analyzer.web import wait_for

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))

import _deploy  # noqa: E402 (it lies in scripts/)

PROGRAM = """
import os, sys
version, words = sys.argv[1], dict(zip(sys.argv[2::2], map(int, sys.argv[3::2])))
if version == "broken": raise SystemExit("a typing error")
from rap_analyzer.platform.deploy import serve_inherited
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"): await receive(), await send({"type": f"lifespan.{what}.complete"})
        return
    status = 503 if version == "never-ready" and scope["path"] == "/health/ready" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": f"{version} {os.getpid()}".encode()})
serve_inherited(app, words["--fd"], words.get("--notify"), ready_s=2, log_level="critical")
"""


def command(version): return [sys.executable, "-c", PROGRAM, version]


@pytest.fixture
def fleet():
    with Fleet(command("v1"), "127.0.0.1", 0, env=dict(os.environ)) as f:
        wait_for(f.url)
        yield f


def answer(fleet): return httpx.get(fleet.url, timeout=20).text.split()


def keep_asking(fleet, ended, said, failed, kept):
    "Ask until told to stop, on new connections or on one that is kept as long as the service allows; nothing is repeated."
    host, port = fleet.url.removeprefix("http://").split(":")
    con = None
    while not ended.is_set():
        con = con or http.client.HTTPConnection(host, int(port), timeout=20)
        try:
            con.request("GET", "/")
            r = con.getresponse()
            said.append(r.read().decode().split()[0])
            if not kept or r.will_close: con.close(); con = None
        except (OSError, http.client.HTTPException) as e: failed.append(repr(e)); con = None


def test_a_new_version_takes_over_and_no_request_fails(fleet):
    ended, said, failed = threading.Event(), [], []
    askers = [threading.Thread(target=keep_asking, args=(fleet, ended, said, failed, kept)) for kept in (True, True, False)]
    for t in askers: t.start()
    try:
        for version in ("v2", "v3"):
            fleet.command = command(version)
            done = fleet.replace()
            assert 0 < done.ready_s <= done.gone_s and answer(fleet)[0] == version
    finally:
        ended.set()
        for t in askers: t.join(30)
    assert failed == [] and {"v1", "v2", "v3"} <= set(said)
    assert said[-1] == "v3" and len(said) > 100


@pytest.mark.parametrize("version", ["broken", "never-ready"])
def test_a_version_that_does_not_become_ready_changes_nothing(fleet, version):
    before, processes = answer(fleet), list(fleet.processes)
    fleet.command = command(version)
    with pytest.raises(LabError, match="did not become ready"): fleet.replace()
    assert answer(fleet) == before and fleet.processes == processes and fleet.alive()


def test_callers_of_a_process_that_died_wait_for_the_next_one(fleet):
    _, pid = answer(fleet)
    supervisor = Supervisor([fleet.child()])
    fleet.processes[0].kill(), fleet.processes[0].wait(10)
    assert not fleet.alive()
    waiting = []
    caller = threading.Thread(target=lambda: waiting.append(answer(fleet)))
    caller.start()                                                        # nobody is there to accept: the connection waits
    supervisor.look()
    caller.join(30)
    assert waiting and waiting[0][0] == "v1" and waiting[0][1] != pid and supervisor.restarts["api"] == 1


def test_one_of_two_may_leave_while_the_other_goes_on():
    with Fleet(command("v1"), "127.0.0.1", 0, n=2, env=dict(os.environ)) as fleet:
        wait_for(fleet.url)
        fleet.processes[0].terminate(), fleet.processes[0].wait(20)
        assert {answer(fleet)[1] for _ in range(30)} == {str(fleet.processes[1].pid)}


def test_a_fleet_grows_and_shrinks_and_no_request_fails(fleet):
    ended, said, failed = threading.Event(), [], []
    askers = [threading.Thread(target=keep_asking, args=(fleet, ended, said, failed, kept)) for kept in (True, False)]
    for t in askers: t.start()
    try:
        assert fleet.resize(2) == 1 and len(fleet.processes) == 2 and fleet.alive()
        assert fleet.resize(1) == 2 and len(fleet.processes) == 1 and fleet.alive()
    finally:
        ended.set()
        for t in askers: t.join(30)
    assert failed == [] and said
    with pytest.raises(ValueError, match="1 to 64"): fleet.resize(0)
    fleet.command = command("broken")
    with pytest.raises(LabError, match="did not become ready"): fleet.resize(2)
    assert fleet.n == 1 and fleet.alive()


def test_a_port_that_is_in_use_is_refused_and_a_stopped_fleet_leaves_it(fleet):
    port = int(fleet.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"): Fleet(command("v1"), "127.0.0.1", port).launch()
    fleet.stop()
    assert fleet.processes == [] and not fleet.alive()
    with pytest.raises(httpx.ConnectError): httpx.get(f"http://127.0.0.1:{port}", timeout=5)


# ---- migrations beside readers

@pytest.fixture
def tables(lab):
    mine = Lab(lab.home, "deploys").up()
    migrate(mine, "0013")
    store = Store(mine, "demo")
    yield store
    store.forget()
    mine.drop_database("deploys")
    mine.close()


def test_a_migration_lets_readers_pass_while_it_cannot_have_its_lock(tables):
    with tables.admin(None) as report, tables.admin(None) as reader:
        report.execute("BEGIN"), report.execute("SELECT count(*) FROM tracks")          # holds the table for readers
        job = threading.Thread(target=migrate_live, args=(tables.lab, "0014"))
        job.start()
        reader.execute("SET statement_timeout = '20s'")
        for _ in range(40): reader.execute("SELECT count(*) FROM tracks")               # behind a patient ALTER these would wait
        assert job.is_alive()
        report.execute("COMMIT")
        job.join(60)
    with tables.admin() as con: assert con.execute("SELECT version_num FROM alembic_version").fetchone() == ("0014",)


def test_other_errors_are_raised_at_once_and_a_table_that_is_never_free_is_named():
    tried = []
    def fails():
        tried.append(1)
        raise ValueError("no such column")
    with pytest.raises(ValueError, match="no such column"): alter(fails)
    assert len(tried) == 1
    class Busy(Exception): sqlstate = deploy.BUSY
    def busy():
        tried.append(1)
        raise Busy
    with pytest.raises(LabError, match="never free"): alter(busy, tries=3)
    assert len(tried) == 4


# ---- the check

FITS = ["ALTER TABLE tracks ADD COLUMN mood2 text", "ALTER TABLE tracks ADD COLUMN n int NOT NULL DEFAULT 0",
        "ALTER TABLE tracks ADD n bigint GENERATED ALWAYS AS (id + 1) STORED NOT NULL", "CREATE INDEX ON tracks (title)",
        "CREATE TABLE notes (id int NOT NULL UNIQUE); ALTER TABLE notes ADD CHECK (id > 0); CREATE UNIQUE INDEX u ON notes (id)",
        "ALTER TABLE tracks ALTER COLUMN mood DROP NOT NULL", "ALTER TABLE tracks DROP CONSTRAINT old",
        "GRANT SELECT ON tracks TO rap_app",
        "REVOKE ALL ON FUNCTION find_key(bytea) FROM PUBLIC", "-- ALTER TABLE tracks RENAME title TO name\nSELECT 1",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE scratch; END $$",
        "CREATE TABLE IF NOT EXISTS notes (id int); CREATE POLICY p ON notes AS RESTRICTIVE USING (true)"]
BREAKS = {"DROP TABLE tracks": "drops something", "ALTER TABLE tracks DROP COLUMN mood": "drops a column",
          "ALTER TABLE ONLY tracks\n  DROP mood": "drops a column", "alter table tracks rename column title to name": "renames",
          "ALTER TABLE tracks RENAME TO songs": "renames", "ALTER TABLE tracks ALTER year TYPE bigint": "changes a type",
          "ALTER TABLE tracks ALTER COLUMN year SET DATA TYPE bigint": "changes a type",
          "ALTER TABLE tracks ADD COLUMN n int NOT NULL": deploy.UNWRITTEN,
          "ALTER TABLE tracks ADD a text, ADD COLUMN n int NOT NULL, ADD b int NOT NULL DEFAULT 1": deploy.UNWRITTEN,
          "ALTER TABLE tracks ALTER mood SET NOT NULL": deploy.UNWRITTEN,
          "ALTER TABLE tracks ALTER n DROP DEFAULT": "takes a default away",
          "ALTER TABLE tracks ADD CONSTRAINT c CHECK (year > 1900) NOT VALID": "checks what the old version writes",
          "ALTER TABLE tracks ADD FOREIGN KEY (artist_id) REFERENCES artists": "checks what the old version writes",
          "CREATE UNIQUE INDEX one ON tracks (title)": "makes unique what was not", "DROP FUNCTION search_words": "drops something",
          "REVOKE SELECT ON tracks FROM rap_app": "takes a right away",
          "CREATE POLICY p ON tracks AS RESTRICTIVE USING (true)": "hides rows"}


@pytest.mark.parametrize("text", FITS)
def test_what_an_old_version_does_not_notice_is_allowed(text): assert find_breaks([text]) == []


@pytest.mark.parametrize("text", BREAKS)
def test_what_an_old_version_stumbles_over_is_named(text):
    assert {why.partition(":")[0] for why in find_breaks([text])} == {BREAKS[text]}


def versions():
    names = sorted(p.stem for p in (ROOT / "rap_analyzer" / "migrations" / "versions").glob("0*.py"))
    return {name: import_module(f"rap_analyzer.migrations.versions.{name}") for name in names}


def test_every_migration_since_the_rule_fits_the_version_before_it_or_says_that_it_contracts():
    found = {name: check_migration(m) for name, m in versions().items() if name > "0015"}
    assert {name: why for name, why in found.items() if why} == {}


def test_a_migration_from_before_the_rule_is_found_and_the_mark_lets_one_pass(monkeypatch):
    claims = versions()["0014_claims"]
    assert any("drops something: DROP FUNCTION" in why for why in check_migration(claims))
    assert any("secure_tables" in s for s in statements(claims))
    monkeypatch.setattr(claims, "phase", "contract", raising=False)
    assert check_migration(claims) == []


# ---- the real service

@pytest.mark.alone
def test_the_service_is_replaced_after_a_migration_and_no_request_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    for name in SERVERS: monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    with Lab(tmp_path) as lab: found = _deploy.deploy(lab, rate=15, seconds=10, times=1, tracks=300)
    assert _deploy.held(found, 1), found


def test_the_proof_can_fail():
    good = {"failed": 0, "deploys": 3, "wrong": "", "requests": 100}
    assert _deploy.held(good, 3)
    for bad in ({"failed": 1}, {"deploys": 2}, {"wrong": "not ready"}, {"requests": 0}): assert not _deploy.held(good | bad, 3)
