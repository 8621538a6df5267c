"""The two benchmarks of the room serve, small: their shape, and that both sides did the same work. No test of speed."""

import json
import os

import pytest
from typer.testing import CliRunner

from rap_analyzer import cli
from rap_analyzer.core import LabError, settings
from rap_analyzer.lab import Lab
from rap_analyzer.search.index import build, similar
from rap_analyzer.search.store import Store, default_store, fill, migrate
from rap_analyzer.serve import bench_api, bench_tasks
from rap_analyzer.web import serving

N = 800


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A lab of its own, since the benchmark takes the default one."
    home, before = tmp_path_factory.mktemp("bench"), {k: os.environ.get(k) for k in ("RAP_LAB_HOME", "RAP_CATALOG_TRACKS")}
    os.environ |= {"RAP_LAB_HOME": str(home), "RAP_CATALOG_TRACKS": str(N)}
    settings.cache_clear(), default_store.cache_clear()
    lab = Lab(home).up()
    migrate(lab)
    store = fill(Store(lab).register(), N)
    build("hnsw_halfvec", store)
    yield store
    for k, v in before.items(): os.environ.pop(k) if v is None else os.environ.update({k: v})
    default_store.cache_clear()
    store.forget(), lab.down(), lab.close()


def test_api_asks_everybody_the_same_and_counts_every_answer(home, monkeypatch):
    asked = []
    def spy(ports, drive, ids):
        got = real(ports, drive, ids)
        asked.append((list(ids), {name: len(ms) for name, (_, ms) in got.items()}))
        return got
    real = bench_api.one_turn
    monkeypatch.setattr(bench_api, "one_turn", spy)
    r = bench_api.bench_api(n=30, turns=2)
    assert [row["name"] for row in r["rows"]] == list(bench_api.NAMES)
    assert all(set(row) == {"name", "rps", "p50_ms", "p95_ms"} and 0 < row["p50_ms"] <= row["p95_ms"] for row in r["rows"])
    assert set(r["ratios"]) == {"handler_over_asgi", "uncached_over_driver", "hit_over_miss"} and min(r["ratios"].values()) > 0
    (first, _), (one, counted), (two, _) = asked
    assert set(counted.values()) == {30} and not set(one) & set(two) and not set(first) & {*one, *two}
    assert len(bench_api.table(r).splitlines()) == 11
    with pytest.raises(ValueError, match="at most 800"): bench_api.bench_api(n=N + 1)


def test_the_bare_handler_and_the_service_give_one_answer(home):
    with bench_api.servers() as ports:
        import httpx
        ask = lambda what: httpx.get(f"http://127.0.0.1:{ports[what]}{bench_api.SIMILAR.format(42)}").json()
        bare, ours, cached = map(ask, ("asgi", "handler", "cached"))
    assert bare == ours == cached and [h["track_id"] for h in ours["hits"]] == [h.track_id for h in similar(42, store=home)]


def test_a_bad_answer_is_no_figure():
    async def refuses(scope, receive, send):
        if scope["type"] != "http": return
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
    with serving(refuses) as url, pytest.raises(LabError, match="503"): bench_api.call(int(url.rpartition(":")[2]), ["/x"] * 3)


def test_tasks_do_the_work_in_both_ways_and_leave_nothing(home):
    said = CliRunner().invoke(cli.app, ["bench", "tasks", "--workers", "1", "--ms", "1", "--json"])
    r = json.loads(said.output.splitlines()[-1])
    assert {"tasks_per_s", "pool_per_s", "ratio"} <= set(r) and r["ratio"] > 0 and r["workers"] == 1 and len(r["ratios"]) == 7
    assert not [p for p in (home.lab.home / "chaos").iterdir() if p.is_dir()]
    with bench_tasks.durable(1) as do_jobs: assert do_jobs(5, 1) > 0
    assert bench_tasks.burn(4) == bench_tasks.burn(4) and bench_tasks.burn(4) != bench_tasks.burn(5)
