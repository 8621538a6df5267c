"""What the rooms bring is put together: every route is served, every command is there, and both doors obey the same settings."""

import importlib
import json
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi.testclient import TestClient
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer import cli
from rap_analyzer.app import create_app
from rap_analyzer.core import settings
from rap_analyzer.music.catalog import MODEL_ID
from rap_analyzer.platform.edge import TRANSLATED, Edge, translate
from rap_analyzer.search import store as stores
from rap_analyzer.search.filters import Filter, read_filter
from rap_analyzer.search.index import build
from rap_analyzer.search.routes import Conditions
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.metrics import Metrics
from rap_analyzer.web import RequestModel, describe_errors, read_parameters

ROOT = Path(cli.__file__).resolve().parent


def modules_named(pattern: str) -> list:
    "The modules of the package whose file fits."
    names = sorted(".".join(p.relative_to(ROOT.parent).with_suffix("").parts) for p in ROOT.glob(pattern))
    return [importlib.import_module(name) for name in names]


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_assembly") as own:
        store = fill(Store(own, "doors"), 300)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


def test_every_room_s_routes_are_served():
    rooms = modules_named("*/routes.py")
    served = create_app().openapi()["paths"]
    assert len(rooms) >= 2
    for room in rooms:
        bare = FastAPI()
        bare.include_router(room.router)
        own = bare.openapi()["paths"]
        assert own and {path: set(ways) for path, ways in own.items()} == {p: set(served.get(p, ())) for p in own}, room.__name__


def test_every_room_s_commands_are_there():
    rooms = [*modules_named("*/*commands.py"), *modules_named("*commands.py"), *modules_named("launcher.py")]
    named = lambda app: {id(info) for info in [*app.registered_commands, *app.registered_groups]}
    assert len(rooms) >= 7 and set().union(*(named(room.app) for room in rooms)) == named(cli.app)


def test_a_route_explains_itself_wherever_it_lies():
    "Every route with a request model brings an example, and the example is one that its model accepts."
    for room in modules_named("*/routes.py"):
        for route in room.router.routes:
            fields, example = read_parameters(route.endpoint)
            if not fields: continue
            assert example.startswith("/"), f"{room.__name__}.{route.endpoint.__name__} has no example"
            if "?" in example: assert {part.split("=")[0] for part in example.partition("?")[2].split("&")} <= set(fields) | {"k"}


def test_a_new_route_needs_nothing_but_its_router():
    "A model, a function, a decorator: with an edge around it, its errors come out like all others."
    router = APIRouter()

    class Bars(RequestModel):
        example = "/api/bars?count=4"
        count: int

    @router.get("/api/bars", responses=describe_errors(422))
    async def show_bars(asked: Annotated[Bars, Query()]) -> dict[str, int]: return {"bars": asked.count}

    app = FastAPI()
    app.add_middleware(Edge, metrics=Metrics())
    for kind in TRANSLATED: app.add_exception_handler(kind, translate)
    app.include_router(router)
    client = TestClient(app)
    assert client.get("/api/bars?count=4").json() == {"bars": 4}
    wrong = client.get("/api/bars?count=four")
    assert (wrong.status_code, wrong.json()["hint"]) == (422, "for example /api/bars?count=4")
    assert client.get("/api/bars?count=4&counts=4").json()["hint"] == "did you mean count?"



def test_conditions_over_http_are_those_of_the_filter():
    fields = set(Filter.__dataclass_fields__)
    assert set(Conditions.model_fields) == fields == set(read_filter.__annotations__) - {"return"}
    said = dict(genre="drill", mood="calm", bpm="80-100", year="1990-", artist="Me")
    assert Conditions(**said).where() == read_filter(**said)


@pytest.mark.parametrize("words, path", [(["similar", "42"], "/api/tracks/similar?track_id=42"),
                                         (["search", "lantern"], "/api/tracks/search?q=lantern")])
def test_both_doors_take_k_and_the_model_from_one_place(store, monkeypatch, words, path):
    monkeypatch.setattr(stores, "default_store", lambda: store)
    monkeypatch.setenv("RAP_SEARCH_K", "3")
    settings.cache_clear()
    try:
        typed = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).output)
        with TestClient(create_app(store, cache_s=0), "http://localhost") as client: asked = client.get(path).json()
        named = json.loads(CliRunner().invoke(cli.app, [*words, "--k", "2", "--json"]).output)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert (len(typed), asked["k"], len(named)) == (3, 3, 2)
    assert [(h["track_id"], h["score"], h["why"]) for h in typed] == [(h["track_id"], h["score"], h["why"]) for h in asked["hits"]]
    assert store.count(MODEL_ID) == 300


def test_k_zero_is_refused_and_not_replaced_by_the_default(store, monkeypatch):
    monkeypatch.setattr(stores, "default_store", lambda: store)
    done = CliRunner().invoke(cli.app, ["similar", "42", "--k", "0"])
    assert done.exit_code == 1 and "from 1 to 10,000" in str(done.exception)
