"One id that finds everything a request caused; a dashboard, alert rules and panels over figures that exist."
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import helpers
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rap_analyzer.processes import find_free_port
from rap_analyzer.serve.logs import log_folder, trace
from rap_analyzer.serve.metrics import Metrics
from rap_analyzer.serve.top import Change, make_frame, parse_metrics

ROOT = Path(__file__).resolve().parent.parent
SIMILAR = "/api/tracks/similar?track_id="


until = partial(helpers.until, wait_s=40)


class System:
    "The service and its workers as processes of the test lab."
    def __init__(self, lab):
        self.lab, self.env = lab, {**os.environ, "RAP_LAB_HOME": str(lab.home), "PYTHONPATH": str(ROOT)}
        self.port = find_free_port()
        self.url, self.screen = f"http://127.0.0.1:{self.port}", lab.home / "screen.log"
        self.get = httpx.Client(base_url=self.url, timeout=30).get

    def popen(self, *words, **how): return subprocess.Popen(self.command(*words), env=self.env, **how)

    def command(self, *words): return [sys.executable, "-m", "rap_analyzer.cli", *words]

    def run(self, *words, code=0, **env):
        done = subprocess.run(self.command(*words), env=self.env | env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done

    def lines(self, request_id, wanted=lambda found: True):
        "The lines of a request, once they are what is wanted."
        def look():
            try: return (found := trace(request_id, self.lab.home)) and wanted(found) and found
            except LookupError: return None
        return until(look)


@pytest.fixture(scope="module")
def system(lab, small):
    s = System(lab)
    with s.screen.open("w") as out:
        crowd = [s.popen("serve", "--port", str(s.port), stdout=out, stderr=out), s.popen("worker", stdout=out, stderr=out)]
        def up():
            assert all(p.poll() is None for p in crowd), s.screen.read_text()
            try: return s.get("/health/ready").status_code == 200
            except httpx.HTTPError: return False
        try:
            until(up, wait_s=60)
            yield s
        finally:
            for p in crowd: p.terminate()
            for p in crowd: p.wait(30)
            lab.broker.stop()


class Blocked:
    "Nobody reads a table while this lasts."
    def __init__(self, store, table): self.con, self.table = store.admin("rap_owner"), table

    def __enter__(self): self.con.execute("BEGIN"), self.con.execute(f"LOCK TABLE {self.table} IN ACCESS EXCLUSIVE MODE")

    def __exit__(self, *_): self.con.execute("ROLLBACK"), self.con.close()


# ---- one id

def test_one_id_finds_service_queue_and_worker(system):
    headers = {"x-request-id": "trace-1", "content-type": "application/octet-stream"}
    said = httpx.post(f"{system.url}/api/analyze?name=OpenSesame.mp3", content=b"OpenSesame " * 99, headers=headers, timeout=30)
    job = said.json()["job"]
    found = system.lines("trace-1", lambda lines: any(x["event"].startswith("attempt 1 at analyze: dead") for x in lines))
    assert {x["process"].partition("-")[0] for x in found} == {"api", "worker"} and {x["request_id"] for x in found} == {"trace-1"}
    assert {x["job"] for x in found if "job" in x} == {job}
    [line] = [x for x in found if x["event"] == "request"]
    assert (line["status"], line["route"], line["method"]) == (202, "/api/analyze", "POST") and "name=" not in str(line)
    printed = json.loads(system.run("logs", "trace-1", "--json").stdout)
    assert printed == found and [x["timestamp"] for x in found] == sorted(x["timestamp"] for x in found)
    assert "attempt 1 at analyze: dead" in system.run("logs", "trace-1").stdout
    second = headers | {"x-request-id": "trace-2"}
    again = httpx.post(f"{system.url}/api/analyze?name=b.mp3", content=b"OpenSesame " * 99, headers=second, timeout=30)
    assert not again.json()["new"]  # the second request caused nothing, and its line names the first
    assert system.lines("trace-2")[0]["first_request"] == "trace-1"


def test_an_unknown_id_is_a_sentence(system):
    assert "no line in" in system.run("logs", "nobody-asked", code=1).stderr


def test_a_query_names_its_request_while_it_runs_and_in_the_servers_log(system, small):
    seen, ask = [], "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = 'slow-1' AND state = 'active'"
    with small.admin(None) as con, Blocked(small, "tracks"):
        asked = threading.Thread(target=lambda: seen.append(
            system.get(f"{SIMILAR}11", headers={"x-request-id": "slow-1", "x-timeout-ms": "1500"})))
        asked.start()
        assert until(lambda: con.execute(ask).fetchall() == [("Lock",)])
        asked.join()
    assert seen[0].status_code == 503
    found = system.lines("slow-1", lambda lines: any(x["process"] == "postgres" for x in lines))
    assert any("canceling statement" in x["event"] for x in found if x["process"] == "postgres")
    with small.admin(None) as con:
        until(lambda: not con.execute(ask).fetchall())  # the session goes back without the name of a request that is over


def test_how_an_answer_came_about(system, small):
    def ask(name): return system.get(f"{SIMILAR}12&k=4", headers={"x-request-id": name}).status_code
    with ThreadPoolExecutor(2) as pool, small.admin(None) as con:
        with Blocked(small, "tracks"):
            first = pool.submit(ask, "way-1")
            until(lambda: con.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'way-1'").fetchall())
            second = pool.submit(ask, "way-2")
            until(lambda: 'event="waits"} 0.0' not in system.get("/metrics").text)
        assert (first.result(), second.result(), ask("way-3")) == (200, 200, 200)
    ways = [system.lines(name)[-1]["cache"] for name in ("way-1", "way-2", "way-3")]
    assert ways == ["miss", "coalesced", "hit"]


def test_a_crowd_does_not_mix_its_ids(system):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: system.get(f"/api/tracks/{i}", headers={"x-request-id": f"crowd-{i}"}), range(60)))
    for i in range(60):
        [line] = system.lines(f"crowd-{i}")
        assert line["path"] == f"/api/tracks/{i}" and line["status"] == 200


def test_a_forged_id_and_a_forged_line(system):
    r = system.get("/nowhere%0A%7B%22request_id%22:%22x%22%7D%1B[2J", headers={"x-request-id": 'a" b'})
    [line] = system.lines(r.headers["x-request-id"])
    assert re.fullmatch("[0-9a-f]{32}", line["request_id"]) and "\x1b" not in line["path"] and line["status"] == 404


def test_logs_hold_no_secret_and_no_upload(system):
    notes = [json.loads(f.read_text()) for f in (system.lab.home / "lab").rglob("lab.json")]
    secrets = [v for n in notes for k, v in n.items() if "password" in k]
    wanted, there = {"api", "worker", "worker-any", "worker-interactive", "postgres"}, log_folder(system.lab.home)
    until(lambda: wanted <= {f.stem for f in there.glob("*.log")})
    files = [*there.glob("*.log*"), system.screen]
    assert len(secrets) >= 3
    for f in files:
        text = f.read_text(errors="replace")
        assert not [s for s in [*secrets, "OpenSesame"] if s in text], f
    for line in (log_folder(system.lab.home) / "api.log").read_text().splitlines(): assert json.loads(line)["process"] == "api"


# ---- rap-analyzer top

def test_top_tells_what_happened_between_two_readings(system):
    ended = threading.Event()
    def load():
        while not ended.wait(.02): system.get(f"{SIMILAR}31"), system.get("/api/tracks/-1")
    asking = threading.Thread(target=load)
    asking.start()
    try: frame = json.loads(system.run("top", "--once", "--json", "--interval", "1", "--url", system.url).stdout)
    finally: ended.set(), asking.join()
    similar = next(r for r in frame["routes"] if r["route"] == "/api/tracks/similar")
    assert similar["per_s"] > 1 and 0 < similar["p50_ms"] <= similar["p95_ms"] and similar["errors"] == 0
    assert frame["requests"]["per_s"] > similar["per_s"] and frame["cache"]["hits"] > .5
    assert [q["queue"] for q in frame["queues"]] == ["interactive", "bulk"] and frame["pool"]["most"] == 8
    assert frame["servers"] == {"postgres": True, "valkey": True, "broker": True} and frame["saves_per_min"] == 0
    until(lambda: json.loads(system.run("top", "--once", "--json", "--interval", ".1", "--url", system.url).stdout)["workers"] == 2)


def test_top_fits_into_80_columns(system):
    said = system.run("top", "--once", "--interval", ".2", "--url", system.url, COLUMNS="80").stdout
    assert max(map(len, said.splitlines())) <= 80
    for word in ("/api/tracks/similar", "interactive", "workers", "pool", "every server answers"): assert word in said


def test_top_without_a_service_says_what_to_do(system):
    nowhere = f"http://127.0.0.1:{find_free_port()}"
    said = system.run("top", "--once", "--url", nowhere, code=1).stderr
    assert "no service answers" in said and "serve" in said and "Traceback" not in said
    assert "expected an address" in system.run("top", "--once", "--url", "file:///etc/passwd", code=1).stderr


def test_saves_have_a_row_as_soon_as_they_are_counted():
    a = parse_metrics('rap_up{server="postgres"} 1\ntrack_saved_total 10\n', 0.0)
    b = parse_metrics('rap_up{server="postgres"} 1\ntrack_saved_total 4\n', 30.0)
    assert make_frame(Change(a, b))["saves_per_min"] == 8  # the process was started again: 4 since then


# ---- deploy/prometheus and deploy/grafana

DEPLOY = ROOT / "deploy"
RULES = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
COUNTED = {"up": {"job", "instance"}}  # what Prometheus itself adds
PLAIN = {"and", "or", "unless", "by", "on", "offset", "sum", "min", "max", "rate", "increase", "histogram_quantile", "absent",
         "vector", "count", "avg", "without", "ignoring"}
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="promtool and prometheus are not on PATH: Debian's package prometheus has both (.ci/run unpacks it)")


def exported(text) -> dict[str, set[str]]:
    "Each series that the service can export, by name, with its labels: counters from the registry, the rest from /metrics."
    found = dict(COUNTED)
    counts = Metrics()
    for metric in (m for m in vars(counts).values() if hasattr(m, "_labelnames")):
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}[metric._type]
        for end in endings: found[metric._name + end] = {*metric._labelnames, *["le"] * (end == "_bucket")}
    for family in text_string_to_metric_families(text):
        for s in family.samples: found.setdefault(s.name, set()).update(s.labels)
    return found


def rules() -> list[dict]: return [r for f in RULES for g in yaml.safe_load(f.read_text())["groups"] for r in g["rules"]]


def panels() -> list[str]:
    "The queries of the dashboard, for every route."
    board = json.loads((DEPLOY / "grafana/dashboards/service.json").read_text())
    queries = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
    return [q.replace("$__rate_interval", "1m").replace("$route", ".*") for q in queries]


def strangers(expr, known) -> set[str]:
    "The names and labels in a query that are not exported."
    bare = re.sub(r'"[^"]*"', '""', expr)
    chosen = re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", bare)
    used = {(name, label) for name, inside in chosen for label in re.findall(r"(\w+)\s*[=!]", inside)}
    wrong = {f"{name}.{label}" for name, label in used if label not in known.get(name, ())}
    grouped = {label for labels in re.findall(r"\bby\s*\(([^)]*)\)", bare) for label in re.findall(r"\w+", labels)}
    rest = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby\s*\([^)]*\)|offset \w+", " ", bare)
    names = {n for n in re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*", rest) if n not in PLAIN}
    labels = set().union(*(known.get(n, set()) for n in names))
    return wrong | (names - known.keys()) | (grouped - labels)


def known_names(system) -> dict:
    "What rules and panels may name: exported series, and recorded ones with the labels that they keep."
    system.get("/api/recommend?user_id=7")                  # a variant and an event: their series begin with the first one
    httpx.put(f"{system.url}/api/listeners/7", timeout=20)
    httpx.post(f"{system.url}/api/track_action", json={"user_id": 7, "action": "save", "track_id": 1}, timeout=20)
    known = exported(system.get("/metrics").text)
    for r in rules():
        if "record" in r: known[r["record"]] = {"route"} if r["record"].startswith("route:") else set(r.get("labels", ()))
    return known


def test_alerts_and_panels_name_what_is_exported(system):
    known = known_names(system)
    assert len(RULES) >= 1 and len([r for r in rules() if "alert" in r]) >= 10 and len(panels()) >= 15
    for expr in [*(r["expr"] for r in rules()), *panels()]: assert not strangers(expr, known), expr


@pytest.mark.parametrize("expr, wrong", [
    ("sum(rap_imaginary) > 0", {"rap_imaginary"}), ('rap_jobs{status="dead"} > 0', {"rap_jobs.status"}),
    ("sum by (kind) (rap_jobs)", {"kind"}), ('rate(rap_requests[5m]) and rap_up{server="x"}', {"rap_requests"}),
    ("route:rap_requests:rate9m > 1", {"route:rap_requests:rate9m"}), ("sum by (queue) (rap_jobs offset 5m) > 0", set())])
def test_a_name_that_is_not_exported_is_found(system, expr, wrong): assert strangers(expr, known_names(system)) == wrong


def test_every_alert_says_what_is_noticed_and_what_to_do():
    for r in (r for r in rules() if "alert" in r):
        assert r["labels"]["severity"] in ("page", "ticket") and r["annotations"].keys() == {"summary", "action"}, r


def test_the_dashboard_is_what_its_program_prints():
    made = subprocess.run([sys.executable, DEPLOY / "grafana/make.py"], capture_output=True, text=True, check=True).stdout
    assert made == (DEPLOY / "grafana/dashboards/service.json").read_text()
    board, source = json.loads(made), yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    ids = [p["id"] for p in board["panels"]]
    assert len(ids) == len(set(ids)) and board["templating"]["list"][0]["name"] == "route"
    assert {t["datasource"]["uid"] for p in board["panels"] for t in p.get("targets", [])} == {source["datasources"][0]["uid"]}
    stack = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    files = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/files.yml").read_text())
    folder = files["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in stack["grafana"]["volumes"]
    asked = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert {c["job_name"] for c in asked} <= stack.keys() and "9101" in stack["worker"]["command"]


@needs_prometheus
def test_promtool_accepts_config_and_rules(tmp_path):
    tool = lambda *words: subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert tool("check", "config", DEPLOY / "prometheus/prometheus.yml").returncode == 0
    for test in sorted((DEPLOY / "prometheus/tests").glob("*.yml")):
        done = tool("test", "rules", test)
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "p")  # and it fails for an alert that never rings
    bad = tmp_path / "p/rules/service.yml"
    bad.write_text(bad.read_text().replace("> 0.02", "> 2"))
    assert tool("test", "rules", tmp_path / "p/tests/service_test.yml").returncode == 1


@needs_prometheus
def test_a_real_prometheus_answers_every_query(system, tmp_path):
    port, config = find_free_port(), yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(f) for f in RULES]
    config["scrape_configs"] = [{"job_name": "api", "static_configs": [{"targets": [f"127.0.0.1:{system.port}"]}]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    words = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10)

    def ask(expr):
        said = http.get("/query", params={"query": expr}).json()
        assert said["status"] == "success", (expr, said)
        return said["data"]["result"]

    def counted():
        assert server.poll() is None, server.stderr.read()
        system.get(f"{SIMILAR}77")
        try: return any(s["metric"]["route"] == "/api/tracks/similar" for s in ask("route:rap_requests:rate5m > 0"))
        except (httpx.HTTPError, ValueError): return False  # it says so in plain text while it starts
    try:
        until(counted)
        answers = {expr: ask(expr) for expr in panels()}
        assert [s["value"][1] for s in answers["min by (server) (rap_up)"]] == ["1"] * 3
        assert sum(bool(found) for found in answers.values()) > len(answers) / 2
        assert not [r for g in http.get("/rules").json()["data"]["groups"] for r in g["rules"] if r["health"] == "err"]
        [p95] = [float(s["value"][1]) for s in ask('route:rap_request_seconds:p95_5m{route="/api/tracks/similar"}')]
        assert 0 < p95 < 20 and not ask('ALERTS{alertstate="firing"}')
    finally:
        server.terminate(), server.communicate(timeout=30)
