"""Record an answer of each operation for the schema: `scripts/record_examples.py` asks a real service in a lab of its own.

Each request is the example that its model brings. Lists are cut to two entries (five, of numbers or texts) and texts to 200
characters; the rest is what came. Run it after a change of a route's answer: `tests/test_api_contract.py` compares each example
with its model.
"""
import json
import shutil
import tempfile
from pathlib import Path

import httpx

from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.web import read_parameters, serving

FILE = Path(__file__).resolve().parent.parent / "rap_analyzer" / "platform" / "examples.json"
FIRST = ("PUT /api/listeners/{listener_id}", "POST /api/analyze")  # others ask for what these have made


def shorten(value: object) -> object:
    "The same value with short lists and texts."
    if isinstance(value, dict): return {k: shorten(v) for k, v in value.items()}
    if isinstance(value, list): return [shorten(v) for v in value[:2 if value and isinstance(value[0], dict | list) else 5]]
    return value[:200] if isinstance(value, str) else value


def ask(client: httpx.Client, method: str, path: str, example: str, job: str) -> httpx.Response:
    "One request: the example of its model, or the bare address."
    where, _, body = (example or path).partition(" with ")
    if path.endswith("/{track_id}"): where = path                                           # its example is another route's
    where = where.replace("0198c0de-0000-4000-8000-000000000000", job).replace("{track_id}", "42").replace("{listener_id}", "7")
    if "{" in where: return httpx.Response(404)
    if path.rpartition("/")[2] in ("counts", "audio") and "?" not in where: where = path.replace("{track_id}", "42")
    return client.request(method, where, **({"json": json.loads(body)} if body else {}))


def main() -> None:
    "Ask every operation that answers with JSON, and keep what it said."
    lab = Lab(home=tempfile.mkdtemp(prefix="examples-")).up()
    try:
        migrate(lab)
        store = fill(Store(lab, "demo"), 500)
        build("hnsw_halfvec", store)
        Events(store).register(range(20))
        app, found, job = create_app(store, timeout_s=30, cache_s=0), {}, ""
        routes = {f"{m} {r.path}": r for r in every_route(app) for m in r.methods}
        with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            asked = [f"{m.upper()} {p}" for p, ways in app.openapi()["paths"].items() for m in ways]
            for name in sorted(asked, key=lambda n: n not in FIRST):
                method, path = name.split(" ")
                example = read_parameters(routes[name].endpoint)[1] if name in routes else ""
                if path == "/api/analyze": example = '/api/analyze with {"track_id": 42}'
                r = ask(client, method, path, example.replace("tap-1", "tap-2") if path.endswith("s") else example, job)
                if path == "/api/analyze" and r.is_success: job = r.json()["job"]
                if r.is_success and r.headers.get("content-type", "") == "application/json": found[name] = shorten(r.json())
                else: print(f"{name}: {r.status_code}, no example")
        FILE.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{len(found)} answers in {FILE.name}")
    finally:
        store.forget(), lab.close()
        shutil.rmtree(lab.home), shutil.rmtree(lab.sockets, ignore_errors=True)


def every_route(app: object) -> list:
    "The routes of all rooms."
    from rap_analyzer.app import ROOMS
    return [r for room in ROOMS for r in room.router.routes if getattr(r, "methods", None)]


if __name__ == "__main__": main()
