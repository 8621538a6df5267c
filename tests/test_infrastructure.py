"`GET /api/infrastructure` is read from the running system; a part that is away costs only its own lines."
import asyncio
import copy
import io
import json

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from rap_analyzer import cli
from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.platform import infrastructure
from rap_analyzer.platform.audit import Audit
from rap_analyzer.platform.keys import Keys
from rap_analyzer.recommend.registry import Models
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.web import serving

PATH = "/api/infrastructure"
PARTS = ["managed_databases", "ml_serving", "monitoring", "security", "billing"]


@pytest.fixture(scope="module")
def store(lab):
    mine = Lab(lab.home, "infrastructure").up()
    migrate(mine)
    yield fill(Store(mine, "demo").register(), 60)
    mine.drop_database("infrastructure")
    mine.close()


@pytest.fixture(scope="module")
def url(store):
    with serving(create_app(store)) as address: yield address
    store.forget()


def ask(url, **headers):
    said = httpx.get(url + PATH, headers=headers, timeout=30)
    assert said.status_code == 200, said.text
    return said.json()


def model(fill_with):
    np.savez_compressed(file := io.BytesIO(), weights=np.full(2, fill_with))
    return file.getvalue()


def away(part, path=""):
    if not isinstance(part, dict): return []
    return [path] if "away" in part else [p for k, v in part.items() for p in away(v, f"{path}.{k}".lstrip("."))]


def test_five_keys_and_what_the_servers_themselves_say(store, url):
    said = ask(url)
    assert list(said) == PARTS
    postgres, pool = said["managed_databases"]["postgres"], said["managed_databases"]["pool"]
    assert postgres["version"] == store.query(Query("SELECT current_setting('server_version')"))[0][0] and postgres["takes_writes"]
    assert postgres["pgvector"] == store.query(Query("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))[0][0]
    with store.admin() as con: revision = con.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    assert said["managed_databases"]["tables"] == {"tables_version": revision, "replicas": []}
    assert 1 <= pool["pool_size"] <= pool["pool_max"]
    assert said["monitoring"]["servers"]["postgres"] is True and said["monitoring"]["servers"]["valkey"] is True


def test_requests_are_counted_between_two_reports(url):
    before = ask(url)["monitoring"]["requests"]
    for _ in range(5): httpx.get(f"{url}/api/tracks/1")
    assert ask(url)["monitoring"]["requests"] >= before + 5


def test_the_serving_version_follows_promotion_and_roll_back(store, url):
    models = Models(store)
    first, second = (models.register("followed", model(x), card="For a test.")[0].version for x in (1, 2))
    def serving_now(): return ask(url)["ml_serving"]["models"]["followed"]["serving"]["version"]
    models.promote("followed", first)
    assert serving_now() == first
    models.promote("followed", second)
    assert serving_now() == second
    models.rollback("followed")
    assert serving_now() == first and ask(url)["ml_serving"]["models"]["followed"]["registered"] == 2


def test_a_table_without_its_policy_and_a_new_key_show(store, url):
    before = ask(url)["security"]
    assert before["policies"]["leaks"] == [] and before["policies"]["proven"] == before["policies"]["tables"] > 10
    key, made = Keys(store).create(["read"], "for a test")
    Audit(store).seal()
    with store.admin() as con: con.execute("DROP POLICY proven_tenant ON track_genres")
    try: after = ask(url)["security"]
    finally:
        with store.admin() as con: con.execute("SELECT claims.secure_tables()")
    assert {"check": "unproven", "where": "track_genres"} in after["policies"]["leaks"]
    assert after["policies"]["proven"] == before["policies"]["proven"] - 1
    assert after["keys"]["good"] == before["keys"]["good"] + 1
    assert after["audit"]["whole"] and after["audit"]["entries"] > before["audit"]["entries"]
    assert after["audit"]["head"] != before["audit"]["head"]
    assert key not in json.dumps(after) and ask(url)["security"]["policies"]["leaks"] == []


def test_a_cut_audit_log_shows(store, url):
    audit = Audit(store)
    audit.note("tester", "test.noted"), audit.seal()
    head = audit.head.read_text()
    audit.head.unlink()
    try: assert ask(url)["security"]["audit"]["whole"] is False
    finally: audit.head.write_text(head)
    assert ask(url)["security"]["audit"]["whole"] is True


def test_a_server_that_is_away_costs_its_own_lines(store):
    elsewhere = copy.copy(store)
    elsewhere.lab = copy.copy(store.lab)
    elsewhere.lab.external_redis = "redis://127.0.0.1:1/0"
    with serving(create_app(elsewhere, cache_s=0)) as url: said = ask(url)
    assert away(said) == ["managed_databases.valkey", "managed_databases.broker"]
    assert said["monitoring"]["servers"] == {"broker": False, "postgres": True, "valkey": False}
    assert said["security"]["policies"]["leaks"] == [] and "version" in said["managed_databases"]["postgres"]


def test_what_only_an_administrator_sees_is_said_to_be_away(store, url, monkeypatch):
    monkeypatch.setattr(Lab, "may_administer", lambda self: False)
    said = ask(url)
    assert set(away(said)) - {"managed_databases.broker"} == {"managed_databases.tables", "security.policies"}
    assert "administrator" in said["security"]["policies"]["away"] and said["security"]["audit"]["whole"] in (True, False)


def test_a_bug_is_not_an_outage():
    async def bug(): raise KeyError("version")
    async def outage(): raise LabError("the registry is away")
    async def silence(): await asyncio.Event().wait()
    with pytest.raises(KeyError): asyncio.run(infrastructure.settle(bug()))
    assert asyncio.run(infrastructure.settle(outage())) == {"away": "the registry is away"}
    assert asyncio.run(infrastructure.settle(silence(), .05)) == {"away": "no answer within 0.05 s"}


def test_only_an_operator_may_ask_and_one_at_a_time(store, url):
    reader, operator = (Keys(store).create([scope], "test")[0] for scope in ("read", "operate"))
    assert httpx.get(url + PATH, headers={"X-API-Key": reader}).status_code == 403
    assert list(ask(url, **{"X-API-Key": operator})) == PARTS
    with infrastructure.ONE.turn("another"): busy = httpx.get(url + PATH)
    assert busy.status_code == 429 and "retry-after" in busy.headers and list(ask(url)) == PARTS


def test_another_tenant_sees_its_own_keys_models_and_log(store, url):
    other = Store(store.lab, "other").register()
    key, _ = Keys(other).create(["operate"], "of the other")
    Models(store).register("only-of-demo", model(3), card="For a test.")
    said = ask(url, **{"X-API-Key": key})
    assert said["security"]["keys"]["good"] == 1 and said["ml_serving"]["models"] == {}
    assert "only-of-demo" in ask(url)["ml_serving"]["models"]
    other.forget()


def test_the_command_prints_what_the_service_says(url):
    run = CliRunner()
    said = json.loads(run.invoke(cli.app, ["infrastructure", "--json", "--url", url]).output)
    assert list(said) == PARTS and said["managed_databases"]["postgres"]["takes_writes"] is True
    lines = run.invoke(cli.app, ["infrastructure", "--url", url]).output
    assert "managed_databases.postgres.version" in lines and "security.policies.leaks" in lines
    gone = run.invoke(cli.app, ["infrastructure", "--url", "http://127.0.0.1:9"])
    assert gone.exit_code != 0


COUNTED = "INSERT INTO usage_counts (tenant_id, day, subject, endpoint, writer, calls) VALUES (%s, %s, %s, '/api/x', %s, %s)"


def test_billing_is_what_was_counted_this_month_for_this_tenant(store, url):
    with store.admin() as con: today, = con.execute("SELECT (now() AT TIME ZONE 'UTC')::date").fetchone()
    before, other = ask(url)["billing"], Store(store.lab, "other-payer").register()
    for s, day, subject, calls in ((store, today, "a", 40_000), (store, today, "b", 2), (store, today.replace(year=2020), "a", 500),
                                   (other, today, "a", 1_000)):
        with s.session() as session: session.con.execute(COUNTED, [s.tenant, day, subject, "0" * 16, calls])
    after = ask(url)["billing"]
    other.forget()
    assert 40_002 <= after["calls"] - before["calls"] <= 40_500                 # our own requests are counted meanwhile
    assert float(after["amount"]) > float(before["amount"]) and after["keys_that_called"] >= before["keys_that_called"] + 2
    assert [t["calls"] for t in after["tiers"]][0] == 10_000 and sum(t["calls"] for t in after["tiers"]) == after["calls"]
