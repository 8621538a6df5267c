"What the schema promises, and what every route does with bad input: each operation is taken from the schema, none by hand."
import json
import socket
from contextlib import closing
from urllib.parse import quote

import httpx
import pytest
from helpers import own_database
from pydantic import TypeAdapter

from rap_analyzer.app import ROOMS, create_app
from rap_analyzer.platform.bodies import DEEPEST, find_fault
from rap_analyzer.platform.edge import BODY_BYTES
from rap_analyzer.platform.identity import PUBLIC, needed_scope
from rap_analyzer.problems import ERRORS, NAMES, PROBLEM, ErrorOut, clean, describe_problem
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

WANTED = ["/api/tracks/{track_id}", "/api/tracks/similar", "/api/tracks/search", "/api/tracks", "/api/similarity_search",
          "/api/recommend", "/api/playlist", "/api/home", "/api/analyze", "/api/jobs/{job_id}", "/api/track_action",
          "/api/analyze_system", "/api/product_strategy", "/api/optimize", "/api/trends", "/api/export",
          "/api/tech_selection", "/api/log_adr", "/api/session"]
JSON = "application/json"


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_api_contract") as own:
        store = fill(Store(own, "contract"), 300)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


@pytest.fixture(scope="module")
def app(store): return create_app(store, timeout_s=15, cache_s=0)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url: yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=30) as client: yield client


SCHEMA = create_app().openapi()
OPERATIONS = [(path, method.upper(), way) for path, ways in SCHEMA["paths"].items() for method, way in ways.items()]
POSTS = [(path, way) for path, method, way in OPERATIONS if method == "POST"]


def address(path: str) -> str:
    "An address of a route, its parameters filled in."
    return path.replace("{job_id}", "0198c0de-0000-4000-8000-000000000000").replace("{name}", "none").replace(
        "{track_id}", "1").replace("{listener_id}", "1").replace("{auction_id}", "none")


def rows(store) -> dict[str, int]:
    "How many rows each table of tenants' data has."
    with store.admin(None) as con:
        names = [n for n, in con.execute("""SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE a.attname = 'tenant_id' AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace""").fetchall()]
        return {n: con.execute(f'SELECT count(*) FROM "{n}"').fetchone()[0] for n in names}


def is_problem(r: httpx.Response, way: dict | None = None) -> dict:
    "A refusal in the one form that there is, documented where it is known what was asked."
    body = r.json()
    assert r.headers["content-type"] == PROBLEM and set(body) == set(ErrorOut.model_fields), r.text
    assert body["status"] == r.status_code and body["type"] == f"/problems#{NAMES[r.status_code]}"
    assert body["request_id"] == r.headers["x-request-id"] and body["instance"].endswith(body["request_id"])
    assert body["detail"].isprintable() and "Traceback" not in r.text and 'File "' not in r.text
    if way: assert str(r.status_code) in way["responses"], (r.status_code, sorted(way["responses"]), r.text)
    return body


# ---- what the schema says

def test_every_wanted_address_is_there(): assert set(WANTED) <= set(SCHEMA["paths"])


@pytest.mark.parametrize("path, method, way", OPERATIONS, ids=[f"{m} {p}" for p, m, _ in OPERATIONS])
def test_an_operation_says_what_may_go_wrong(path, method, way):
    errors = {code: answer for code, answer in way["responses"].items() if code >= "4"}
    assert {"400", "408", "413", "421", "429", "500", "503"} <= set(errors)
    assert ({"401", "403"} <= set(errors)) == (path not in PUBLIC) or path == "/oauth/token"
    for code, answer in errors.items():
        body = answer["content"][PROBLEM]
        assert set(answer["content"]) == {PROBLEM} or path == "/graphql"
        assert body["schema"] == {"$ref": "#/components/schemas/ErrorOut"}
        example = ErrorOut.model_validate(body["example"], strict=True)
        assert example.status == int(code) and example.type == f"/problems#{NAMES[int(code)]}" and answer["description"]
        assert ("Retry-After" in answer["headers"]) == (code in ("429", "503")) and "X-Request-ID" in answer["headers"]
    if path in PUBLIC: assert way["security"] == []
    else: assert way["x-scope"] == needed_scope(method, path) and len(way["security"]) == 2
    if JSON in way.get("requestBody", {}).get("content", ()): assert "422" in errors
    if set(way.get("requestBody", {}).get("content", ())) == {JSON}: assert "415" in errors
    if method == "POST" and path not in PUBLIC:
        assert "409" in errors and "Idempotency-Key" in {p["name"] for p in way["parameters"]}


def test_the_schema_refers_to_nothing_that_is_missing():
    text = json.dumps(SCHEMA)
    assert "HTTPValidationError" not in text
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(SCHEMA["components"]["schemas"])


NO_EXAMPLE = {"GET /api/export"}  # a file


def test_each_answer_has_an_example_that_its_model_takes():
    routes = {f"{m} {r.path}": r for room in ROOMS for r in room.router.routes for m in getattr(r, "methods", ())}
    for path, method, way in OPERATIONS:
        name = f"{method} {path}"
        for code, answer in way["responses"].items():
            shown = answer.get("content", {}).get(JSON)
            if not code.startswith("2") or shown is None or not (model := getattr(routes[name], "response_model", None)): continue
            assert "example" in shown or name in NO_EXAMPLE or path not in WANTED, name
            if "example" in shown: TypeAdapter(model).validate_json(json.dumps(shown["example"]), strict=True)


def test_a_body_brings_the_example_of_its_model():
    body = SCHEMA["components"]["schemas"]["TrackIn"]
    assert body["examples"][0]["action"] == "like"


def test_the_page_of_problems_has_each_kind(http):
    r = http.get("/problems")
    assert r.status_code == 200 and set(NAMES) == set(ERRORS)
    for code, name in NAMES.items(): assert f'id="{name}"' in r.text and describe_problem(code, "x").type == f"/problems#{name}"


# ---- every POST and every body that nobody should send

BAD = {"nothing": b"", "half": b"{", "a list": b"[]", "null": b"null", "a text": b'"x"', "no JSON": b"a=b",
       "not UTF-8": b"\xff\xfe{}",
       "a BOM": b'\xef\xbb\xbf{"x": 1}',
       "UTF-16": '{"track_id": 1}'.encode("utf-16"), "a name twice": b'{"track_id": 1, "track_id": 2}',
       "deep": b'{"x":' * 5_000 + b"1" + b"}" * 5_000, "deep list": b"[" * 30_000, "deeper than allowed": b"[" * 40 + b"]" * 40,
       "NaN": b'{"k": NaN}', "infinite": b'{"k": -1e999}', "long number": b'{"k": ' + b"9" * 5_000 + b"}",
       "half a character": b'{"action": "\\ud800"}', "half a name": b'{"\\udfff": 1}', "NUL": b'{"action": "a\\u0000b"}',
       "ANSI": b'{"action": "\\u001b[2J\\u001b]0;owned\\u0007", "x\\u001b[31m": 1}', "ten thousand ids": json.dumps(
           {"ids": list(range(10_000)), "events": list(range(10_000))}).encode(),
       "unknown fields": b'{"__proto__": {}, "constructor": 1}',
       "injection": b'{"name": "x\\r\\nSet-Cookie: a=b", "track_id": "1; DROP TABLE tracks", "component": "../../etc/passwd"}'}
CAUGHT = {"a name twice", "deeper than allowed", "NaN", "infinite", "half a character", "half a name", "NUL", "deep"}  # by the edge


@pytest.mark.parametrize("path, way", POSTS, ids=[p for p, _ in POSTS])
def test_no_post_does_anything_with_a_bad_body(http, store, path, way):
    before, asks = rows(store), "requestBody" in way
    for name, body in BAD.items():
        if not asks and name not in CAUGHT: continue                       # what a route does not read is nothing to it
        if name in ("nothing", "null") and not way.get("requestBody", {}).get("required"): continue
        r = http.post(address(path), content=body, headers={"content-type": JSON})
        assert 400 <= r.status_code < 500, (path, name, r.status_code, r.text[:300])
        said = is_problem(r, way)
        if name in CAUGHT: assert r.status_code == 422, (path, name, said)
    assert rows(store) == before


@pytest.mark.parametrize("path, way", POSTS, ids=[p for p, _ in POSTS])
def test_no_post_reads_what_is_of_another_kind(http, store, path, way):
    before = rows(store)
    if set(way.get("requestBody", {}).get("content", ())) == {JSON}:
        for kind in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""):
            r = http.post(address(path), content=b'{"track_id": 1}', headers={"content-type": kind})
            assert r.status_code == 415 and is_problem(r, way), (path, kind, r.text)
    assert rows(store) == before


@pytest.mark.parametrize("path, way", POSTS, ids=[p for p, _ in POSTS])
def test_no_post_reads_more_than_it_may(app, http, store, path, way):
    most, before = app.user_middleware[0].kwargs["bodies"].get(path, BODY_BYTES), rows(store)
    def drops():
        for _ in range(most // 60_000 + 2): yield b" " * 60_000
    for content in (b" " * (most + 1), drops()):
        try: r = http.post(address(path), content=content, headers={"content-type": JSON})
        except httpx.TransportError: continue                              # it hung up while we were still sending: as good
        assert r.status_code == 413 and is_problem(r, way)
    assert rows(store) == before


@pytest.mark.parametrize("path, way", POSTS, ids=[p for p, _ in POSTS])
def test_no_post_waits_for_a_body_in_drops(store, path, way):
    head = f"POST {address(path)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: 90\r\n\r\n{{"
    with serving(create_app(store, timeout_s=.3, cache_s=0)) as url, closing(
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)) as s:
        s.sendall(head.encode())
        said = b"".join(iter(lambda: s.recv(65_536), b""))
    top, _, body = said.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 408") and PROBLEM.encode() in top and json.loads(body)["status"] == 408


@pytest.mark.parametrize("path, method, way", OPERATIONS, ids=[f"{m} {p}" for p, m, _ in OPERATIONS])
def test_no_route_answers_to_another_name_or_to_forged_headers(http, url, path, method, way):
    r = http.request(method, address(path), headers={"host": "evil.example"})
    assert r.status_code == 421
    is_problem(r, way)
    ask = f"{method} {address(path)} HTTP/1.1\r\nHost: evil.example\r\nX-Request-ID: a\x0bb\r\n X-Folded: c\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)) as s:
        s.sendall(ask.encode("latin-1"))
        said = s.recv(65_536).partition(b"\r\n\r\n")[0]
    assert said.split(b" ")[1] in (b"400", b"421") and b"X-Folded" not in said and b"a\x0bb" not in said


@pytest.mark.parametrize("path, way", POSTS, ids=[p for p, _ in POSTS])
def test_a_key_that_makes_no_sense_is_refused_before_anything_is_done(http, store, path, way):
    if path in PUBLIC: return
    before = rows(store)
    for key in ("", "x" * 65, "two words", "tab\there", "a\u00e9".encode("latin-1")):
        r = http.post(address(path), content=b"{}", headers={"content-type": JSON, "idempotency-key": key})
        assert r.status_code == 400, (path, key, r.text)
        is_problem(r, way)
    two = [("content-type", JSON), ("idempotency-key", "a"), ("idempotency-key", "b")]
    assert http.post(address(path), content=b"{}", headers=two).status_code == 400
    assert rows(store) == before


# ---- every GET with parameters that nobody should send

STRANGE = ["", "-1", str(2**63), "9" * 300, "1e9", "NaN", "\x00", "\x1b[2J", "%ED%A0%80", "a\r\nSet-Cookie: x=y",
           "../../etc/passwd",
           "é" * 300, ",".join(map(str, range(10_000))), "٣", "' OR 1=1 --"]


@pytest.mark.parametrize("path, way", [(p, w) for p, m, w in OPERATIONS if m == "GET" and p.startswith("/api/") and "{" not in p])
def test_no_get_fails_over_its_parameters(http, path, way):
    for name in [p["name"] for p in way.get("parameters", ()) if p["in"] == "query"]:
        for value in STRANGE:
            r = http.get(f"{path}?{name}={quote(value, safe=',')}")
            assert r.status_code < 500, (path, name, value[:40], r.text[:300])
            assert "set-cookie" not in r.headers and str(r.status_code) in way["responses"], (path, name, value[:40], r.status_code)
            if r.status_code >= 400: is_problem(r, way)


# ---- the parts

def test_what_is_not_printable_does_not_get_through():
    assert clean("a\x1b[2J\ud800\0\n\u202eb") == "a\ufffd[2J\ufffd\ufffd\ufffd\ufffdb" and len(clean("x" * 9_000)) == 500


@pytest.mark.parametrize("body, says", [
    (b'{"a": 1, "a": 1}', "twice"), (b'{"b": [{"a": 1, "\\u0061": 2}]}', "twice"), (b"NaN", "NaN"), (b"[Infinity]", "Infinity"),
    (b"[1e400]", "too large"), (b'["\\ud83d"]', "half a character"), (b'{"\\u0000": 1}', "NUL"),
    (b"[" * 33 + b"]" * 33, str(DEEPEST)),
    (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, str(DEEPEST)), (b"\xff", "UTF-8"), (b'\xef\xbb\xbf{"a": 1, "a": 1}', "twice"),
    *(('{"a": 1, "a": 1}'.encode(code), "UTF-8") for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"))])
def test_a_fault_is_named(body, says): assert says in find_fault(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 32 + b"]" * 32, b'["\\ud83d\\ude00", "\\\\u0000", "\\\\ud800"]',
                                  b"[1e308]", b"\xef\xbb\xbf{}", '{"ключ": "значение 🎤"}'.encode(), b'[{"a": 1}, {"a": 2}]'])
def test_what_is_no_fault_passes(body): assert find_fault(body) == ""
