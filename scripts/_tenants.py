"""One tenant tries to reach another's data over HTTP, in every way that its owner could think of, while the other one works."""
import asyncio
import base64
import json
import random
import secrets
import time
from collections import Counter
from dataclasses import replace
from urllib.parse import quote

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.tokens import AUDIENCE, ISSUER, KIND, Issuer
from rap_analyzer.product.actions import make_event
from rap_analyzer.product.events import Events
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.web import serving

MARK, OWN, N, SEEN = "rosewood", "driftwood", 200, 7_771  # in every title of the victim's, of the attacker's; tracks; a listener
INJECTED = ("' OR tenant_id = 'victim", "'; SET app.tenant_id = 'victim'; --", "x' UNION SELECT title FROM tracks --",
            "$$; SELECT set_config('app.tenant_id', 'victim', false); --", "\\'; RESET ALL; --", "victim", "*:*", "%' OR '1'='1")
NAMED = ("X-Tenant", "X-Tenant-Id", "X-Forwarded-User", "X-Original-User", "Tenant", "Cookie", "X-Api-Tenant", "Forwarded")
SNAPSHOT = """SELECT (SELECT count(*) FROM tracks), (SELECT count(*) FROM events), (SELECT count(*) FROM listeners),
(SELECT count(*) FROM jobs), (SELECT md5(string_agg(title, ',' ORDER BY id)) FROM tracks)"""


def fill_tenant(lab: Lab, name: str, word: str) -> Store:
    "A tenant with its own word in every title; ids are the same in both."
    store = Store(lab, name).register()
    if not store.count():
        tracks = [replace(t, title=f"{word} {t.id}", artist=f"{word} band") for t in catalog.tracks(0, N)]
        store.load(tracks, catalog.embeddings(0, N))
        events = Events(store)
        events.register([*range(50), SEEN])
        events.load([make_event(SEEN, "like", n, f"{name}-{n}") for n in range(0, N, 2)])
    return store


def part(x: object) -> str: return base64.urlsafe_b64encode(json.dumps(x).encode()).rstrip(b"=").decode()


def make_proofs(issuer: Issuer, victim: Store) -> dict[str, list[str]]:
    "What an attacker may hold: forged and stale tokens, dead keys, and what is public about the victim's keys."
    keys, now, other = Keys(victim, "proof"), int(time.time()), ECKey.generate_key("P-256")
    (dead, about), (live, shown) = keys.create(["read", "write"]), keys.create(["read"])
    keys.revoke(about.id)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": shown.id, "tenant": victim.tenant, "scope": "read",
              "iat": now, "exp": now + 9_999}
    pair = issuer.load()[-1]
    head = {"alg": "ES256", "typ": KIND, "kid": pair["jwk"]["kid"]}
    a, b, c = issuer.sign("attacker", "me", ["read"]).split(".")
    elsewhere = jwt.encode(head, claims | {"aud": "billing"}, pair["key"], algorithms=["ES256"])
    return {
        "token none": [f"{part(head | {'alg': alg})}.{part(claims)}.{end}" for alg in ("none", "None", "") for end in ("", c)],
        "token forged": [jwt.encode(head, claims, other, algorithms=["ES256"])],
        "token swapped": [f"{a}.{part(claims)}.{c}", f"{part(head)}.{part(claims)}.{c}", f"{a}.{b}.{c[::-1]}"],
        "token expired": [issuer.sign(victim.tenant, shown.id, ["read"], life_s=-60)], "token for billing": [elsewhere],
        "key revoked": [dead], "key of an id": [shown.id, f"rap_{shown.id}", f"rap_{secrets.token_urlsafe(32)}"],
        "key changed": [live[:-3] + ("AAA" if live[-3:] != "AAA" else "BBB"), live.swapcase(), live[:-1]],
    }


def make_attempt(rng: random.Random, proofs: dict[str, list[str]], mine: str, job: str) -> tuple[str, str, str, dict, object]:
    "A kind, and the request: method, path, headers, body."
    i, own = rng.randrange(N), {"Authorization": f"Bearer {mine}"}
    reads = (f"/api/tracks/{i}", f"/api/tracks/similar?track_id={i}", f"/api/tracks/search?q={MARK}", f"/api/tracks/{i}/counts",
             f"/api/recommend?user_id={SEEN}", f"/tracks/{i}", f"/api/listeners/{SEEN}/recommendations", "/api/whoami", "/")
    path, kind = rng.choice(reads), rng.choice(("own key", "sql", "header", "job", "write", "parameter", *proofs))
    if kind in proofs: return kind, "GET", path, {"Authorization": f"Bearer {rng.choice(proofs[kind])}"}, None
    if kind == "sql":
        text = quote(rng.choice(INJECTED))
        way = rng.choice(("search?q={}", "search?q=a&artist={}", "similar?track_id={}", "similar?track_id=1&genre={}"))
        return kind, "GET", f"/api/tracks/{way.format(text)}", own, None
    if kind == "header":
        return kind, "GET", path, own | {rng.choice(NAMED): rng.choice(("victim", "tenant=victim", "for=victim"))}, None
    if kind == "job": return kind, "GET", f"/api/jobs/{job}{rng.choice(('', '/events'))}", own, None
    if kind == "parameter":
        return kind, "GET", f"{path}{'&' if '?' in path else '?'}{rng.choice(('tenant', 'tenant_id', 'user'))}=victim", own, None
    if kind == "write":
        body = {"event_id": f"victim-{i}", "user_id": SEEN, "action": "like", "track_id": i, "time": "2026-11-01T12:00:00Z"}
        return kind, "POST", "/api/track_action", own, body
    return kind, "GET", path, own, None


async def run(url: str, plans: list[tuple], theirs: str) -> tuple[Counter, list[str], Counter]:
    "Attempts by kind, those that came through, and how often the victim, working meanwhile, got its own data."
    kinds, through, served, gate = Counter(), [], Counter(), asyncio.Semaphore(12)

    async def attack(client: httpx.AsyncClient, kind: str, method: str, path: str, headers: dict, body: object) -> None:
        async with gate:
            if kind == "own key" and method == "GET" and path.startswith("/api/tracks"):    # just answered, so it is in the cache
                r = await client.get(path, headers={"Authorization": f"Bearer {theirs}"})
                served["own" if MARK in r.text or path.endswith("counts") else "missed"] += 1
            r = await client.request(method, path, headers=headers, json=body)
            kinds[kind] += 1
            said = r.text.replace(quote(MARK), "").replace(f'"q":"{MARK}"', "")             # an echo of the question is no answer
            named = r.status_code == 200 and path.startswith("/api/whoami") and r.json()["tenant"] == "victim"
            seen = MARK in said or named or (kind == "job" and '"kind"' in said)
            if seen or r.status_code >= 500: through.append(f"{kind} {path}: {r.status_code}")
            if kind.split()[0] in ("token", "key") and r.status_code != 401: through.append(f"{kind} {path}: {r.status_code}")

    async with httpx.AsyncClient(base_url=url, timeout=30) as client: await asyncio.gather(*(attack(client, *p) for p in plans))
    return kinds, through, served


def cross(lab: Lab, n: int = 10_000, seed: int = 16) -> dict[str, object]:
    "So many attempts of one tenant on another."
    migrate(lab)
    attacker, victim = fill_tenant(lab, "attacker", OWN), fill_tenant(lab, "victim", MARK)
    mine, theirs = (Keys(s, "proof").create(["read", "write"])[0] for s in (attacker, victim))
    app = create_app(attacker, auth="required", cache_s=60)
    with serving(app) as url:
        head = {"Authorization": f"Bearer {theirs}"}
        job = httpx.post(f"{url}/api/analyze", json={"track_id": 3}, headers=head, timeout=20).json()["job"]
        before, proofs = victim.query(Query(SNAPSHOT)), make_proofs(app.state.issuer, victim)
        rng = random.Random(seed)
        plans = [make_attempt(rng, proofs, mine, job) for _ in range(n)]
        kinds, through, served = asyncio.run(run(url, plans, theirs))
    changed = victim.query(Query(SNAPSHOT)) != before
    attacker.forget(), victim.forget()
    return {"attempts": kinds.total(), "kinds": dict(kinds), "through": through[:20], "succeeded": len(through), "changed": changed,
            "served": served["own"], "missed": served["missed"]}
