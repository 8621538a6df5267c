"The audit log: what is written down, and which changes of it show. Real PostgreSQL, changed by its administrator."
import json
import threading
import time

import httpx
import psycopg
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.platform.audit import Audit, note_query
from rap_analyzer.platform.keys import Keys
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store
from rap_analyzer.web import serving

@pytest.fixture(scope="module")
def own(lab):
    with own_database(lab, "test_audit") as mine: yield mine


@pytest.fixture
def audit(own, request):
    store = Store(own, f"t{abs(hash(request.node.name)) % 10**9}").register()
    yield Audit(store)
    store.forget()


def filled(audit, batches=4, size=5):
    for b in range(batches):
        for i in range(size): audit.note("anna", "thing.done", f"{b}.{i}", weight=b * i)
        assert audit.seal().entries == size
    return audit.verify()


T = "tenant_id = %(t)s"
SECOND = f"(SELECT upto FROM audit_seals WHERE {T} AND n = 2)"
SOME = f"(SELECT id FROM audit_entries WHERE {T} ORDER BY id OFFSET 7 LIMIT 1)"
NEXT = f"(SELECT id FROM audit_entries WHERE {T} ORDER BY id OFFSET 8 LIMIT 1)"
TAMPERED = {
    "target": f"UPDATE audit_entries SET target = 'x' WHERE {T} AND id = {SOME}",
    "actor": f"UPDATE audit_entries SET actor = 'bob' WHERE {T} AND id = {SOME}",
    "detail": f"UPDATE audit_entries SET detail = '{{}}' WHERE {T} AND id = {SOME}",
    "time": f"UPDATE audit_entries SET at = at + interval '1 microsecond' WHERE {T} AND id = {SOME}",
    "request": f"UPDATE audit_entries SET request_id = 'r' WHERE {T} AND id = {SOME}",
    "row deleted": f"DELETE FROM audit_entries WHERE {T} AND id = {SOME}",
    "first row deleted": f"DELETE FROM audit_entries WHERE {T} AND id = (SELECT min(id) FROM audit_entries WHERE {T})",
    "rows exchanged": f"""UPDATE audit_entries a SET target = b.target, detail = b.detail FROM audit_entries b
        WHERE a.{T} AND b.{T} AND (a.id, b.id) IN (({SOME}, {NEXT}), ({NEXT}, {SOME}))""",
    "row moved to another batch": f"UPDATE audit_entries SET tx = {SECOND} WHERE {T} AND id = {SOME}",
    "row added": f"""INSERT INTO audit_entries (tenant_id, tx, actor, action, target)
        SELECT tenant_id, tx, 'a', 'b', 'c' FROM audit_entries WHERE {T} AND id = {SOME}""",
    "row deleted, count mended": f"""DELETE FROM audit_entries WHERE {T} AND id = {SOME};
        UPDATE audit_seals SET entries = entries - 1 WHERE {T} AND n = 2""",
    "tail deleted": f"DELETE FROM audit_entries WHERE {T} AND tx >= {SECOND}; DELETE FROM audit_seals WHERE {T} AND n > 2",
    "only the tail's seals": f"DELETE FROM audit_seals WHERE {T} AND n > 2",
    "only the tail's rows": f"DELETE FROM audit_entries WHERE {T} AND tx >= {SECOND}",
    "batch cut out": f"DELETE FROM audit_seals WHERE {T} AND n = 2",
    "batch cut out, renumbered": f"""DELETE FROM audit_seals WHERE {T} AND n = 2;
        UPDATE audit_seals SET n = n - 1 WHERE {T} AND n = 3; UPDATE audit_seals SET n = n - 1 WHERE {T} AND n = 4""",
    "seal changed": f"UPDATE audit_seals SET hash = sha256('x') WHERE {T} AND n = 3",
    "last seal changed": f"UPDATE audit_seals SET hash = sha256('x') WHERE {T} AND n = 4",
    "everything": f"DELETE FROM audit_entries WHERE {T}; DELETE FROM audit_seals WHERE {T}",
}


def change(audit, statement):
    with psycopg.connect(audit.store.lab.url(None), autocommit=True, cursor_factory=psycopg.ClientCursor) as con:
        con.execute(statement, {"t": audit.store.tenant})


@pytest.mark.parametrize("what", TAMPERED)
def test_what_an_administrator_changes_shows(audit, what):
    good = filled(audit)
    assert (good.problems, good.seals, good.entries, good.open) == ([], 4, 20, 0)
    change(audit, TAMPERED[what])
    assert audit.verify().problems, what


def test_a_chain_written_anew_is_not_the_one_that_was_noted(audit, tmp_path):
    filled(audit)
    change(audit, TAMPERED["target"] + f"; DELETE FROM audit_seals WHERE {T}")
    forger = Audit(audit.store, tmp_path)
    forger.seal()
    for i in range(4): forger.note("bob", "thing.done", str(i)), forger.seal()
    assert not forger.verify().problems                        # consistent in itself, and longer than before
    assert ["chain was written anew" in p for p in audit.verify().problems] == [True]


def test_the_head_itself(audit):
    filled(audit)
    kept = audit.head.read_text()
    assert audit.head.stat().st_mode & 0o777 == 0o600
    for content in ("", "{", "[]", "{}"):
        audit.head.write_text(content)
        assert "damaged" in audit.verify().problems[0]
    audit.head.unlink()
    assert "missing" in audit.verify().problems[0]
    audit.head.write_text(kept)
    assert not audit.verify().problems
    audit.note("anna", "later"), audit.seal()
    assert json.loads(audit.head.read_text())["n"] == 5 and not audit.verify().problems


def test_an_entry_of_a_slow_transaction_is_sealed_later_and_not_lost(audit):
    "The one with the lower number commits last."
    query = note_query("slow", "thing.done", "began first")
    with audit.store.session() as s:
        s.con.autocommit = False
        s.con.execute(query.sql, query.params)
        audit.note("quick", "thing.done", "ended first")
        assert audit.seal() is None and audit.verify().open == 1              # somebody is still under way: not complete
        s.con.commit()
    assert audit.seal().entries == 2 and audit.seal() is None
    assert audit.verify()[:4] == ([], 1, 2, 0)


def test_many_writers_and_two_sealers(audit):
    ended, other = threading.Event(), Audit(Store(audit.store.lab, audit.store.tenant))
    def write(k):
        for i in range(40): audit.note(f"writer {k}", "thing.done", str(i))
    def seal(a):
        while not ended.is_set(): a.seal()
    sealers = [threading.Thread(target=seal, args=(a,)) for a in (audit, other)]
    writers = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for t in (*sealers, *writers): t.start()
    for t in writers: t.join()
    ended.set()
    for t in sealers: t.join()
    audit.seal()
    r = audit.verify()
    assert (r.problems, r.entries, r.open) == ([], 160, 0) and audit.read_head()[0] == r.seals
    other.store.forget()


def test_tenants_have_logs_of_their_own(own, audit):
    rival = Audit(Store(own, "rival").register())
    audit.note("anna", "mine"), audit.seal()
    assert rival.verify()[:4] == ([], 0, 0, 0) and rival.head != audit.head
    with pytest.raises(psycopg.Error, match="row-level security"):
        insert = "INSERT INTO audit_entries (tenant_id, actor, action, target) VALUES (%s, 'a', 'b', 'c') RETURNING id"
        rival.store.query(Query(insert, (audit.store.tenant,)))
    rival.store.forget()


def test_keys_and_their_entries_are_one_transaction(audit):
    keys = Keys(audit.store, "anna")
    _, about = keys.create(["read"], "app")
    _, newer = keys.rotate(about.id, 60)
    keys.revoke(about.id)
    with pytest.raises(LookupError): keys.revoke("0" * 12)
    rows = audit.store.query(Query("SELECT actor, action, target, detail FROM audit_entries ORDER BY id"))
    assert [r[:3] for r in rows] == [("anna", a, about.id) for a in ("key.created", "key.rotated", "key.revoked")]
    assert rows[0][3] == {"scopes": ["read"], "name": "app"} and rows[1][3]["to"] == newer.id


def test_what_operates_the_service_is_noted_and_sealed(audit):
    key, about = Keys(audit.store).create(["read", "operate"])
    heads = {"X-API-Key": key, "X-Request-Id": "night-1"}
    with serving(create_app(audit.store, auth="required")) as url, httpx.Client(base_url=url, timeout=20, headers=heads) as http:
        assert http.get("/api/whoami").status_code == 200
        http.post("/api/optimize", json={"component": "nothing"})
        end = time.monotonic() + 5
        while audit.verify().open and time.monotonic() < end: time.sleep(.05)
    last = audit.store.query(Query("SELECT actor, action, request_id FROM audit_entries ORDER BY id DESC LIMIT 1"))[0]
    assert last == (about.id, "POST /api/optimize", "night-1")
    r = audit.verify()
    assert (r.problems, r.open, r.entries) == ([], 0, 2)
