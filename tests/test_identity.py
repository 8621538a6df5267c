"Who is asking: keys, tokens and tenants over real HTTP, and what is refused."
import asyncio
import base64
import hmac
import json
import logging
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import pytest
from helpers import own_database
from joserfc import jwt
from joserfc.jwk import ECKey
from typer.testing import CliRunner

from rap_analyzer import cli
from rap_analyzer.app import create_app
from rap_analyzer.core import LabError, settings
from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.platform import identity
from rap_analyzer.platform.identity import FRESH_S, NEEDS, PUBLIC, UNSEEN, Guard, Identity, is_loopback, needed_scope, refuse
from rap_analyzer.platform.keys import KEY, SCOPES, Keys, find_query, hash_key, make_key, read_found
from rap_analyzer.platform.tenants import Tenants, TenantStore
from rap_analyzer.platform.tokens import AUDIENCE, ISSUER, KIND, LIFE_S, BadToken, Issuer
from rap_analyzer.product import routes as product_routes
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import OneAtATime, serving

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))

A_FIRST, N = 500, 300                                           # `beta` has tracks of its own, with other titles and the same ids


@pytest.fixture(scope="module")
def own(lab):
    with own_database(lab, "test_identity") as mine: yield mine


@pytest.fixture(scope="module")
def alpha(own):
    store = fill(Store(own, "alpha"), N)
    build("hnsw_halfvec", store)
    Events(store).register(range(20), ["of alpha"] * 20)
    yield store
    store.forget()


@pytest.fixture(scope="module")
def beta(own, alpha):
    from dataclasses import replace
    store = Store(own, "beta").register()
    tracks = [replace(t, title=f"beta's {t.id}", artist="beta") for t in catalog.tracks(0, N)]
    store.load(tracks, catalog.embeddings(A_FIRST, A_FIRST + N))
    Events(store).register(range(20), ["of beta"] * 20)
    yield store
    store.forget()


@pytest.fixture(scope="module")
def app(alpha, beta): return create_app(alpha, auth="required", cache_s=60)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url: yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=20) as client: yield client


def keyed(store, *scopes, **more):
    "The headers of a new key."
    return {"Authorization": f"Bearer {Keys(store).create(scopes or ['read', 'write'], **more)[0]}"}


# ---- whose rows

def test_two_tenants_see_their_own_whatever_they_ask(http, alpha, beta):
    "In turns, so that caches, memos, pooled connections and counters have every chance to mix them up."
    who = {"alpha": keyed(alpha), "beta": keyed(beta)}
    for turn in range(3):
        for track in range(5):
            for name, headers in who.items():
                get = lambda path, h=headers: http.get(path, headers=h)
                assert get("/api/whoami").json()["tenant"] == name
                one = get(f"/api/tracks/{track}").json()
                hits = get(f"/api/tracks/similar?track_id={track}").json()["hits"]
                found = get("/api/tracks/search?q=beta").json()["hits"]
                advice = get(f"/api/recommend?user_id={track}&k=5").json()["hits"]
                theirs = lambda rows: {r["artist"] == "beta" for r in rows}
                assert theirs([one]) == theirs(hits) == theirs(advice) == {name == "beta"}, (turn, track, name)
                assert theirs(found) <= {name == "beta"} and bool(found) == (name == "beta")


def test_likes_counts_and_jobs_do_not_cross(http, alpha, beta):
    who = {"alpha": keyed(alpha), "beta": keyed(beta)}
    for n, (name, headers) in enumerate(who.items(), 1):
        for i in range(n):
            body = {"event_id": f"same-{i}", "user_id": 7, "action": "like", "track_id": 10 * n, "time": "2026-11-01T12:00:00Z"}
            assert http.post("/api/track_action", json=body, headers=headers).status_code == 200, name     # the same ids in both
    for n, headers in enumerate(who.values(), 1):
        assert http.get(f"/api/tracks/{10 * n}/counts", headers=headers).json()["counts"]["like"] == n
        assert http.get(f"/api/tracks/{30 - 10 * n}/counts", headers=headers).json()["counts"]["like"] == 0
    job = http.post("/api/analyze", json={"track_id": 3}, headers=who["alpha"]).json()["job"]
    assert [http.get(f"/api/jobs/{job}", headers=h).status_code for h in who.values()] == [200, 404]
    assert json.loads(http.get(f"/api/jobs/{job}/events", headers=who["beta"]).text.partition("data: ")[2].splitlines()[0])["error"]


def test_tenants_at_once_stay_apart(app, url, alpha, beta):
    "Hundreds of requests of both on eight connections: each answer belongs to its asker."
    who = {"alpha": keyed(alpha), "beta": keyed(beta)}

    async def ask(client, n):
        name = "alpha" if n % 2 else "beta"
        track = (await client.get(f"/api/tracks/{n % 50}", headers=who[name])).json()
        return (track["artist"] == "beta") == (name == "beta")

    async def all_of_them():
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            return [r for i in range(0, 300, 30) for r in await asyncio.gather(*(ask(client, n) for n in range(i, i + 30)))]
    assert all(asyncio.run(all_of_them()))
    assert app.state.store.pool_stats()["pool_size"] <= 8            # one pool, whoever asks


def test_what_a_handler_keeps_stays_with_its_tenant(app, url, http, alpha, beta):
    for store in (alpha, beta): http.get("/api/tracks/1/counts", headers=keyed(store))
    views = app.state.guard.tenants.views
    assert views["alpha"].state.counters.tenant == "alpha" and views["beta"].state.counters.tenant == "beta"
    assert not hasattr(app.state, "counters") and views["beta"].state.metrics is app.state.metrics
    assert views["alpha"].state.store is app.state.store and views["beta"].state.cache_scope.endswith("/beta")


def test_a_write_of_one_tenant_makes_only_its_own_answers_old(app, http, alpha, beta):
    who = {"alpha": keyed(alpha), "beta": keyed(beta)}
    ask = lambda name: http.get("/api/tracks/similar?track_id=9&k=4", headers=who[name]).json()
    before = {name: ask(name) for name in who}
    hits = lambda: app.state.cache.counters()["hits"]
    app.state.guard.tenants.views["beta"].state.store.changed()
    seen = hits()
    assert ask("beta") == before["beta"] and hits() == seen           # computed again
    assert ask("alpha") == before["alpha"] and hits() == seen + 1


def test_views_are_few_and_made_once(alpha):
    made = []

    class Few(Tenants):
        async def make(self, app, tenant):
            made.append(tenant)
            await asyncio.sleep(.01)
            return tenant

    async def look():
        views = Few(most=3)
        assert await asyncio.gather(*(views.view(None, "t1") for _ in range(5))) == ["t1"] * 5 and made == ["t1"]
        for name in ("t2", "t3", "t1", "t4"): await views.view(None, name)
        assert list(views.views) == ["t3", "t1", "t4"]
    asyncio.run(look())
    with pytest.raises(ValueError, match="expected a tenant"): TenantStore(alpha, "Robert'); DROP TABLE")


def test_one_tenant_s_attempts_on_another(lab):
    "The proof in small: forged, stale and dead proofs, SQL in texts, headers, jobs, cached answers, writes under known ids."
    import _tenants
    mine = Lab(home=lab.home, database="test_cross").up()
    found = _tenants.cross(mine, n=600)
    lab.drop_database("test_cross")
    assert found["attempts"] == 600 and len(found["kinds"]) == 14
    assert (found["through"], found["changed"], found["missed"]) == ([], False, 0) and found["served"] > 10


# ---- who gets in

def test_without_a_key_only_what_is_public(http, app):
    routes = {(m, p.replace("{track_id}", "1").replace("{listener_id}", "1").replace("{name}", "x")) for p, ways in
              app.openapi()["paths"].items() for m in ways}
    pages = {("get", "/"), ("get", "/tracks/1")}
    for method, path in sorted(routes | pages):
        r = http.request(method, path)
        if path in PUBLIC: assert r.status_code not in (401, 403), path
        else:
            assert r.status_code == 401 and r.headers["www-authenticate"].startswith("Bearer"), (method, path)
            assert r.json()["hint"].startswith("send a header") and "Traceback" not in r.text


def test_each_scope_opens_its_own_door(http, alpha):
    doors = {"read": ("GET", "/api/tracks/1"), "write": ("PUT", "/api/listeners/1"), "metrics": ("GET", "/metrics"),
             "operate": ("POST", "/api/optimize"), "export": ("GET", "/api/export")}
    assert set(doors) == set(SCOPES)
    for scope in SCOPES:
        headers = keyed(alpha, scope)
        for door, (method, path) in doors.items():
            r = http.request(method, path, headers=headers)
            assert (r.status_code == 403) == (door != scope), (scope, door, r.text)
            if door != scope: assert f"lacks the scope '{door}'" in r.json()["error"] and f"--scopes {door}" in r.json()["hint"]


def test_a_route_that_nobody_thought_of_is_not_open():
    assert needed_scope("GET", "/api/new") == "read" and needed_scope("POST", "/api/new") == needed_scope("BREW", "/") == "write"
    for path in NEEDS: assert needed_scope("GET", path) == needed_scope("DELETE", f"{path}/x") == NEEDS[path]
    assert not PUBLIC & set(NEEDS)


KEYLIKE = "rap_" + "A" * 43
WRONG = {
    "unknown": ({"X-API-Key": KEYLIKE}, 401, "no such key"), "short": ({"X-API-Key": "rap_x"}, 401, "neither a key"),
    "empty": ({"X-API-Key": ""}, 401, "neither a key"),
    "basic": ({"Authorization": "Basic eDp5"}, 401, "expected Authorization: Bearer"),
    "no scheme": ({"Authorization": KEYLIKE}, 401, "expected Authorization"),
    "alone": ({"Authorization": "Bearer"}, 401, "neither a key"),
    "both": ({"X-API-Key": KEYLIKE, "Authorization": f"Bearer {KEYLIKE}"}, 400, "more than one"),
    "two": ([("X-API-Key", KEYLIKE), ("X-API-Key", KEYLIKE)], 400, "more than one"),
    "list": ({"Authorization": f"Bearer {KEYLIKE}, Bearer {KEYLIKE}"}, 401, "neither a key"),
    "space": ({"Authorization": f"Bearer  {KEYLIKE}"}, 401, "neither a key"),
    "sql": ({"X-API-Key": "rap_' OR '1'='1"}, 401, "neither a key"),
    "long": ({"X-API-Key": "rap_" + "A" * 8_000}, 401, "neither a key"),
    "other letters": ({"X-API-Key": "rap_" + "\u0430" * 43}, 401, "neither a key"),
    "role": ({"X-Forwarded-For": "127.0.0.1", "X-Tenant": "beta", "X-Forwarded-User": "admin"}, 401, "who is asking"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_good_key_is_refused(http, name):
    headers, status, says = WRONG[name]
    pairs = [(k, v.encode()) for k, v in (headers.items() if isinstance(headers, dict) else headers)]
    r = http.get("/api/tracks/1", headers=pairs)
    assert r.status_code == status and says in r.json()["error"], r.text


def test_no_header_chooses_the_tenant(http, beta):
    good = keyed(beta) | {"X-Tenant": "alpha", "X-Tenant-Id": "alpha", "Host": "alpha.localhost", "X-Original-URL": "/metrics"}
    assert http.get("/api/whoami", headers=good | {"Host": "localhost"}).json()["tenant"] == "beta"
    assert http.get("/api/whoami?tenant=alpha", headers=good | {"Host": "localhost"}).json()["tenant"] == "beta"


def test_a_key_in_the_address_is_refused_though_it_is_good(http, beta):
    key = Keys(beta).create(["read"])[0]
    assert http.get("/api/whoami?" + "&".join("a" * 1_001), headers={"X-API-Key": key}).status_code == 400
    for query in (f"api_key={key}", f"q={key}", f"access_token={key}", "api_key=anything", f"k=3&x={key[:3]}%5F{key[4:]}"):
        for headers in ({}, {"X-API-Key": key}):
            r = http.get(f"/api/tracks/search?{query}", headers=headers)
            assert r.status_code == 400 and "rotate" in r.json()["hint"] and key not in r.text
    assert http.get("/api/tracks/search?q=rap_", headers={"X-API-Key": key}).status_code == 200


def test_a_body_of_a_stranger_is_not_read(url):
    "Refused before the upload: the answer is there while the body is still missing."
    import socket
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as s:
        s.sendall(f"POST /api/analyze HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000000\r\n\r\n".encode())
        assert s.recv(200).startswith(b"HTTP/1.1 401")


# ---- tokens

def ask_token(http, key, **form):
    return http.post("/oauth/token", data={"grant_type": "client_credentials", "client_secret": key} | form)


def test_a_token_stands_for_the_key_and_no_more(http, alpha, beta):
    key, about = Keys(beta).create(["read", "write"])
    whole, less = ask_token(http, key).json(), ask_token(http, key, scope="read", client_id=about.id).json()
    assert (whole["token_type"], whole["scope"], less["scope"], whole["expires_in"]) == ("Bearer", "read write", "read", LIFE_S)
    who = lambda t: http.get("/api/whoami", headers={"Authorization": f"Bearer {t['access_token']}"}).json()
    assert who(whole) == {"tenant": "beta", "subject": about.id, "scopes": ["read", "write"], "how": "token"}
    assert who(less)["scopes"] == ["read"]
    put = lambda t: http.put("/api/listeners/3", headers={"Authorization": f"Bearer {t['access_token']}"}).status_code
    assert (put(whole), put(less)) == (200, 403)
    basic = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(about.id, key))
    assert basic.status_code == 200 and basic.headers["cache-control"] == "no-store"
    as_key = http.get("/api/whoami", headers={"X-API-Key": whole["access_token"]})
    assert as_key.status_code == 401                                                        # a token is no key


def test_what_oauth_refuses(http, beta):
    key, about = Keys(beta).create(["read"])
    gone, was = Keys(beta).create(["read"])
    Keys(beta).revoke(was.id)
    for form, status, error in [
        ({"client_secret": KEYLIKE}, 401, "invalid_client"), ({"client_secret": gone}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"), ({"client_id": "0" * 12}, 401, "invalid_client"),
        ({"client_id": "\u00e9"}, 401, "invalid_client"), ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "unsupported_grant_type"), ({"scope": "write"}, 400, "invalid_scope"),
        ({"scope": "root"}, 400, "invalid_scope")]:
        r = ask_token(http, key, **form)
        assert (r.status_code, r.json()["error"]) == (status, error) and key not in r.text, form
        assert (status == 401) == ("www-authenticate" in r.headers)
    twice = http.post("/oauth/token", content=f"grant_type=client_credentials&client_secret={key}&client_secret={gone}",
                      headers={"Content-Type": "application/x-www-form-urlencoded"})
    typed = http.post("/oauth/token", json={"grant_type": "client_credentials", "client_secret": key})
    both = http.post("/oauth/token", data={"grant_type": "client_credentials", "client_secret": key}, auth=(about.id, key))
    odd = http.post("/oauth/token", content=b"\xff\xfe=1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert [(r.status_code, r.json()["error"]) for r in (twice, typed, both, odd)] == [(400, "invalid_request")] * 4
    assert http.get(f"/oauth/token?client_secret={key}").status_code == 400                    # in the address: refused at once


def test_the_attack_table(http, app, alpha, beta, own):
    "Tokens that have to be refused, each for one reason; a good one of the same make is accepted."
    issuer, now = app.state.issuer, int(time.time())
    pair = issuer.load()[-1]
    key, kid, other = pair["key"], pair["jwk"]["kid"], ECKey.generate_key("P-256")
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "alpha", "scope": "read", "iat": now, "exp": now + 300}
    part = lambda x: base64.urlsafe_b64encode(x if isinstance(x, bytes) else json.dumps(x).encode()).rstrip(b"=").decode()
    head = {"alg": "ES256", "typ": KIND, "kid": kid}

    def make(claims=good, key=key, **said): return jwt.encode(head | said, claims, key, algorithms=["ES256"])
    def without(name): return make({k: v for k, v in good.items() if k != name})
    def hs256(secret):
        said = f"{part(head | {'alg': 'HS256'})}.{part(good)}"
        return f"{said}.{part(hmac.digest(secret, said.encode(), 'sha256'))}"

    a, b, c = make().split(".")
    public = key.as_pem(private=False)
    attacks = {
        "none": f"{part(head | {'alg': 'none'})}.{part(good)}.", "None": f"{part(head | {'alg': 'None'})}.{part(good)}.{c}",
        "empty": f"{part(head | {'alg': ''})}.{part(good)}.", "no algorithm": f"{part({'typ': KIND, 'kid': kid})}.{b}.{c}",
        "public key as a secret": hs256(public), "public key, stripped": hs256(public.strip()),
        "forged": make(key=other), "swapped tenant": f"{a}.{part(good | {'tenant': 'beta'})}.{c}", "cut": f"{a}.{b}.{c[:-4]}",
        "more scopes": f"{a}.{part(good | {'scope': 'read operate'})}.{c}", "no signature": f"{a}.{b}.",
        "expired": make(good | {"exp": now - 60}), "not yet": make(good | {"iat": now + 600}),
        "before its time": make(good | {"nbf": now + 600}), "wrong audience": make(good | {"aud": "billing"}),
        "many audiences": make(good | {"aud": ["billing", "other"]}), "wrong issuer": make(good | {"iss": "staging"}),
        **{f"without {name}": without(name) for name in good}, "expiry as text": make(good | {"exp": "never"}),
        "wrong kid": make(kid="0" * 16), "path as kid": make(kid="../../lab.json"),
        "no kid": f"{part({'alg': 'ES256', 'typ': KIND})}.{b}.{c}", "number as kid": f"{part(head | {'kid': 1})}.{b}.{c}",
        "identity token": make(typ="JWT"),
        "own key": make(key=other, jwk=other.as_dict(private=False)),
        "key elsewhere": make(key=other, jku="http://127.0.0.1:1/jwks.json"), "unknown scope": make(good | {"scope": "root"}),
        "list of scopes": make(good | {"scope": ["read"]}), "no scope": make(good | {"scope": " "}),
        "strange tenant": make(good | {"tenant": "alpha' OR '1'='1"}), "tenant as a list": make(good | {"tenant": ["alpha"]}),
        "claims are a list": f"{a}.{part([1])}.{c}", "no JSON": f"{a}.{part(b'hello')}.{c}",
        "deep": f"{part(b'[' * 1_400)}.{b}.{c}", "encrypted": f"{a}.{b}.{c}.{b}.{c}",
    }
    ask = lambda t: http.get("/api/whoami", headers={"Authorization": f"Bearer {t}"})
    assert ask(make()).status_code == 200
    for name, token in attacks.items():
        r = ask(token)
        assert r.status_code == 401 and r.headers["www-authenticate"].startswith("Bearer") and token not in r.text, (name, r.text)
    rng = random.Random(16)
    for _ in range(300):                                       # one letter changed somewhere: never another tenant, never a crash
        i = rng.randrange(len(t := make()))
        r = ask(t[:i] + rng.choice("ABCxyz012_-.") + t[i + 1:])
        assert r.status_code == 401 or r.json()["tenant"] == "alpha"


def test_token_keys_are_private_and_replaced(own, tmp_path, monkeypatch):
    issuer = Issuer(own.home)
    before = issuer.sign("alpha", "x", ["read"])
    assert issuer.file.stat().st_mode & 0o777 == 0o600
    public = issuer.jwks()["keys"]
    assert public and all("d" not in k and k["alg"] == "ES256" for k in public)
    other = Issuer(own.home)                                   # another process of the service
    other.check(before)
    new = issuer.rotate()                                      # the other one follows, and both are good for a while
    assert other.check(issuer.sign("alpha", "x", ["read"])).tenant == "alpha" and other.check(before)
    assert [k["kid"] for k in other.jwks()["keys"]][-1] == new and len(other.jwks()["keys"]) == len(public) + 1
    issuer.rotate(overlap_s=0)
    with pytest.raises(BadToken, match="no longer, ours"): other.check(before)
    monkeypatch.setenv("TOKEN_KEYS", issuer.file.read_text())
    elsewhere = Issuer(tmp_path)
    assert elsewhere.check(issuer.sign("alpha", "x", ["read"])) and not (tmp_path / "lab").exists()
    with pytest.raises(LabError, match="TOKEN_KEYS"): elsewhere.rotate()


def test_public_keys_are_served(http, app):
    r = http.get("/.well-known/jwks.json")
    assert r.json() == app.state.issuer.jwks() and "max-age" in r.headers["cache-control"]


def test_a_token_outlives_its_key_by_minutes_at_most(http, beta):
    key, about = Keys(beta).create(["read"])
    token = ask_token(http, key).json()["access_token"]
    Keys(beta).revoke(about.id)
    assert http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).status_code == 200 and LIFE_S <= 300


# ---- a key's life

def test_a_revoked_key_ends_within_a_second(http, beta):
    keys = Keys(beta)
    key, about = keys.create(["read"])
    ask = lambda: http.get("/api/tracks/1", headers={"X-API-Key": key})
    assert ask().status_code == 200
    keys.revoke(about.id)
    since, last_good = time.monotonic(), 0.0
    while time.monotonic() - since < FRESH_S + 1.5:
        at = time.monotonic() - since
        if (r := ask()).status_code == 200: last_good = at
        elif last_good < at: assert "revoked" in r.json()["error"]
        time.sleep(.02)
    assert last_good <= FRESH_S and ask().status_code == 401


def test_rotation_overlaps_and_ends(http, beta):
    keys = Keys(beta)
    old, about = keys.create(["read"], "app")
    new, after = keys.rotate(about.id)
    status = lambda key: http.get("/api/tracks/1", headers={"X-API-Key": key}).status_code
    assert (status(old), status(new), after.name, after.scopes) == (200, 200, "app", ["read"])
    leaked, about = keys.create(["read"])
    fresh, _ = keys.rotate(about.id, overlap_s=0)
    assert (status(leaked), status(fresh)) == (401, 200)
    with pytest.raises(LookupError, match="no key"): keys.rotate(about.id)
    with pytest.raises(LabError, match="replaced by"): keys.rotate(keys.list_all()[-1].id), keys.rotate(keys.list_all()[-1].id)
    with pytest.raises(ValueError, match="overlap_s"): keys.rotate(after.id, float("nan"))


def test_a_short_life_ends_by_itself(http, beta):
    key, _ = Keys(beta).create(["read"], days=1e-9)
    r = http.get("/api/tracks/1", headers={"X-API-Key": key})
    assert r.status_code == 401 and "expired" in r.json()["error"]
    for days in (0, -1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="expected days"): Keys(beta).create(["read"], days=days)
    for scopes in ([], ["root"], ["read", ""]):
        with pytest.raises(ValueError, match="expected scopes"): Keys(beta).create(scopes)


def test_the_table_holds_no_key_and_shows_only_ones_own(own, alpha, beta):
    key, about = Keys(beta).create(["read"])
    assert KEY.fullmatch(key) and about.id == hash_key(key).hex()[:12]
    with alpha.admin(None) as con: assert key not in str(con.execute("SELECT * FROM api_keys").fetchall())
    assert about.id not in {k.id for k in Keys(alpha).list_all()}
    with pytest.raises(LookupError): Keys(alpha).revoke(about.id)
    assert alpha.query(Query("SELECT count(*) FROM api_keys WHERE hash = %s", (hash_key(key),))) == [(0,)]
    assert read_found(alpha.query(find_query(hash_key(key)))).tenant == "beta"        # one row, by its hash
    assert read_found(alpha.query(find_query(hash_key(make_key())))) is None
    for statement in ("UPDATE api_keys SET scopes = '{operate}'", "UPDATE api_keys SET hash = hash", "DELETE FROM api_keys",
                      "DELETE FROM audit_entries", "UPDATE audit_entries SET at = now()", "DELETE FROM audit_seals"):
        with pytest.raises(Exception, match="permission denied"): beta.query(Query(statement))


def test_a_database_that_is_away_is_no_reason_to_let_anybody_in(own, tmp_path):
    guard = Guard("required")

    class Away:
        tenant, _pool = "alpha", True
        def guard(self): raise LabError("PostgreSQL does not answer.")
    from rap_analyzer.platform.edge import Refused
    with pytest.raises(Refused) as e: asyncio.run(guard.find(Away(), make_key()))
    assert e.value.args[0] == 503 and not guard.known and not guard.asking


def test_a_flood_of_one_key_is_one_question_and_made_up_keys_wait_in_their_own_short_queue(monkeypatch):
    guard, key, regular, asked, go = Guard("required"), make_key(), make_key(), Counter(), asyncio.Event()

    class Lane:
        def __init__(self, store, lane): self.lane = lane
        async def aquery(self, query):
            asked[self.lane] += 1
            await go.wait()
            return [("alpha", "its-id", ["read"], "good")]
    monkeypatch.setattr(identity, "TenantStore", Lane)
    guard.known[hash_key(regular)] = 0.0, Identity("beta", frozenset(), "its-id", "key")        # it was good, a while ago

    async def flood():
        one = [asyncio.ensure_future(guard.find(None, key)) for _ in range(50)]
        many = [asyncio.ensure_future(guard.find(None, make_key())) for _ in range(UNSEEN + 9)]
        known = asyncio.ensure_future(guard.find(None, regular))
        while asked[identity.HOUSE] < 1: await asyncio.sleep(0)
        go.set()
        return [Counter(type(x).__name__ for x in await asyncio.gather(*some, return_exceptions=True))
                for some in (one, many, [known])]
    assert asyncio.run(flood()) == [{"Identity": 50}, {"Identity": UNSEEN - 1, "Busy": 10}, {"Identity": 1}]
    assert asked == {identity.STRANGERS: UNSEEN, identity.HOUSE: 1} and not guard.asking


def test_an_answer_that_was_asked_for_long_ago_is_not_waited_for(monkeypatch):
    guard, key = Guard("required"), make_key()

    async def look():
        stuck = asyncio.get_running_loop().create_future()
        guard.asking[hash_key(key)] = time.monotonic() - .1, stuck                              # begun more than a second ago
        monkeypatch.setattr(guard, "ask", lambda *a: asyncio.sleep(0, refuse(401, "revoked", "")))
        with pytest.raises(identity.Refused, match="revoked"): await guard.find(None, key)
    asyncio.run(look())


def test_a_tenant_that_polls_a_report_does_not_keep_it_from_the_others(http, alpha, beta, monkeypatch):
    monkeypatch.setattr(product_routes, "REPORTING", one := OneAtATime("report is being made"))
    ask = lambda headers: http.get("/api/product/funnel?days=7", headers=headers).status_code
    loud, quiet = (partial(ask, keyed(s, "read")) for s in (alpha, beta))
    with one.turn("alpha"): assert quiet() == 429                        # loud has it at that moment
    assert [loud(), loud(), quiet(), loud()] == [429, 429, 200, 200]


# ---- development

@pytest.fixture(scope="module")
def open_url(alpha):
    with serving(create_app(alpha, cache_s=0)) as url: yield url


@pytest.mark.parametrize("auth, host, lenient", [
    ("development", "127.0.0.1", True), ("development", "::1", True), ("development", "localhost", True),
    ("development", "0.0.0.0", False), ("development", "::", False), ("development", "10.1.2.3", False),
    ("development", "example.org", False), ("required", "127.0.0.1", False), ("open", "0.0.0.0", True)])
def test_development_depends_on_the_address_that_is_bound_and_on_the_setting(auth, host, lenient):
    assert Guard(auth, host).lenient == lenient


def test_addresses():
    assert [is_loopback(h) for h in ("127.9.9.9", "0:0:0:0:0:0:0:1", "127.0.0.1.example.org", "")] == [True, True, False, False]


def test_the_development_identity_is_told_once_and_a_key_counts_besides(alpha, beta, caplog):
    with caplog.at_level(logging.INFO, "rap_analyzer.api"), serving(create_app(alpha, cache_s=0)) as url:
        who = httpx.get(f"{url}/api/whoami", headers={"X-Forwarded-For": "203.0.113.9"}).json()
        assert (who["tenant"], who["how"], set(who["scopes"])) == ("alpha", "development", set(SCOPES))
        assert httpx.get(f"{url}/api/whoami", headers=keyed(beta)).json()["tenant"] == "beta"
        assert httpx.get(f"{url}/api/whoami", headers={"X-API-Key": KEYLIKE}).status_code == 401      # wrong is not absent
    told = [r for r in caplog.records if "without a key" in r.getMessage()]
    assert len(told) == 1 and "tenant alpha" in told[0].getMessage()
    lines = [r for r in caplog.records if getattr(r, "path", "") == "/api/whoami" and r.status == 200]
    assert [(r.tenant, r.by == "development") for r in lines] == [("alpha", True), ("beta", False)]


@pytest.mark.parametrize("headers, status", [
    ({}, 200), ({"Origin": "http://127.0.0.1:8888"}, 200),
    ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://[::"}, 403),
    ({"Origin": "http://127.0.0.1.evil.example"}, 403), ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403)])
def test_a_page_of_another_site_is_not_the_developer(open_url, headers, status):
    change = httpx.post(f"{open_url}/api/optimize", json={"component": "x"}, headers=headers)
    assert change.status_code == (422 if status == 200 else 403)
    assert httpx.get(f"{open_url}/api/whoami", headers=headers).status_code == status


def test_a_mistake_of_the_guard_is_a_500_and_nobody_gets_in(alpha):
    app = create_app(alpha, cache_s=0)
    async def wrong(scope): raise ZeroDivisionError("a secret")
    app.user_middleware[0].kwargs["guard"] = wrong
    with serving(app) as url: r = httpx.get(f"{url}/api/whoami")
    assert r.status_code == 500 and "request id" in r.json()["hint"] and "secret" not in r.text


def test_the_setting_is_checked(monkeypatch):
    monkeypatch.setenv("RAP_API_AUTH", "off")
    settings.cache_clear()
    with pytest.raises(LabError, match="development, required, open"): settings()
    monkeypatch.setenv("RAP_API_AUTH", "required")
    settings.cache_clear()
    assert not create_app().state.guard.lenient


# ---- commands

def test_a_team_gets_its_key_by_two_commands(own, monkeypatch, alpha, url):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: alpha)
    def run(words, code=0):
        done = CliRunner().invoke(cli.app, words.split())
        assert done.exit_code == code, done.output
        return done
    assert json.loads(run("tenant create gamma --json").output) == {"tenant": "gamma", "new": True}
    assert json.loads(run("tenant create gamma --json").output)["new"] is False
    assert "gamma" in json.loads(run("tenant list --json").output)
    made = json.loads(run("key create --tenant gamma --scopes read,write --scopes metrics --name app --json").output)
    assert KEY.fullmatch(made["key"]) and made["scopes"] == ["metrics", "read", "write"]
    monkeypatch.setenv("RAP_KEY", made["key"])
    assert json.loads(run(f"whoami --url {url} --json").output)["tenant"] == "gamma"
    monkeypatch.setenv("RAP_KEY", KEYLIKE)
    assert "no such key" in str(run(f"whoami --url {url}", 1).exception)
    assert [e["action"] for e in json.loads(run("audit list --tenant gamma --json").output)] == ["key.created", "tenant.created"]
    assert "2 entries in 2 sealed batches" in run("audit verify --tenant gamma").output
    listed = run("key list --tenant gamma").output
    assert made["id"] in listed and made["key"] not in listed
    newer = json.loads(run(f"key rotate {made['id']} --tenant gamma --overlap 0 --json").output)
    assert newer["key"] != made["key"] and newer["scopes"] == made["scopes"]
    assert json.loads(run(f"key revoke {newer['id']} --tenant gamma --json").output)["state"] == "revoked"
    assert "tenant create nobody" in str(run("key list --tenant nobody", 1).exception)
    for words, says in (("key create --tenant gamma --scopes root", "expected scopes"),
                        ("key revoke abc --tenant gamma", "key list"),
                        ("tenant create Robert'--", "expected a tenant")):
        assert says in str(run(words, 1).exception)
