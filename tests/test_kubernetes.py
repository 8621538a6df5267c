"""The cluster's files, without a cluster: both overlays are built, each object is held to the schema that Kubernetes publishes, and
every name in them is followed: labels, ports, settings, secrets, metrics. What they share with the containers is compared."""
import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from rap_analyzer.music.analyzers import FIVE
from rap_analyzer.platform.identity import PUBLIC
from rap_analyzer.serve.jobs import OWN, QUEUES
from rap_analyzer.serve.metrics import Metrics, look

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "deploy" / "k8s"
STACK = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SCHEMA = json.loads((ROOT / "tests/data/kubernetes.json").read_text(encoding="utf-8"))
SECRETS = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.M))
OURS = "api", "worker", "events"
PODS = {"Deployment", "Job"}


# ---- kustomize, as far as these files use it; what they do not use is refused

class Named(dict):
    "An object, and what it was called before a suffix: a patch finds it by either."
    before = ""


def build(folder: Path, others: list[dict] = ()) -> list[dict]:
    "The objects of a kustomization; a component also changes the others."
    k = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = set(k) - {"apiVersion", "kind", "namespace", "labels", "resources", "images", "patches", "configMapGenerator",
                        "generatorOptions", "components", "nameSuffix"}
    assert not unknown and k["kind"] in ("Kustomization", "Component"), (folder, unknown)
    found = list(others)
    for name in k.get("resources", ()):
        path = folder / name
        found += build(path) if path.is_dir() else [Named(o) for o in yaml.safe_load_all(path.read_text(encoding="utf-8")) if o]
    found += [generate(folder, g, k["generatorOptions"]) for g in k.get("configMapGenerator", ())]
    for name in k.get("components", ()): found = build(folder / name, found)
    for p in k.get("patches", ()): patch(found, p["target"], yaml.safe_load(p["patch"]))
    names = {o["metadata"]["name"] for o in found}
    for o in found: finish(o, k, names)
    return found


def generate(folder: Path, g: dict, options: dict) -> dict:
    "A ConfigMap from files."
    assert options["disableNameSuffixHash"] is True
    data = {f: (folder / f).read_text(encoding="utf-8") for f in g["files"]}
    about = {"name": g["name"], "labels": options["labels"]}
    return Named({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data})


def patch(objects: list[dict], target: dict, operations: list[dict]) -> None:
    "JSON Patch, on what the target names; a place that is not there is an error."
    label = dict([target["labelSelector"].split("=")]) if "labelSelector" in target else {}
    named = [o for o in objects if o["kind"] == target["kind"] and target.get("name", o.before) in (o["metadata"]["name"], o.before)
             and label.items() <= o["metadata"].get("labels", {}).items()]
    assert named and (len(named) == 1 or "name" in target), target
    for o, op in ((o, op) for o in named for op in operations):
        *way, last = op["path"].split("/")[1:]
        part = o
        for step in way: part = part[int(step)] if isinstance(part, list) else part[step]
        last = int(last) if isinstance(part, list) else last
        assert (last in part) == (op["op"] != "add") if isinstance(part, dict) else last < len(part), op
        if op["op"] == "remove": del part[last]
        else: part[last] = {"replace": op["value"], "add": op["value"]}[op["op"]]


def finish(o: dict, k: dict, names: set[str]) -> None:
    "Suffix, namespace, labels and images of a kustomization, which made objects of these names."
    if suffix := k.get("nameSuffix"):
        o.before = o["metadata"]["name"]
        o["metadata"]["name"] += suffix
        if scaled := o["spec"].get("scaleTargetRef"): scaled["name"] += suffix * (scaled["name"] in names)
    if k.get("namespace") and o["kind"] != "Namespace": o["metadata"]["namespace"] = k["namespace"]
    for labels in k.get("labels", ()):
        o["metadata"]["labels"] = o["metadata"].get("labels", {}) | labels["pairs"]
        if o["kind"] in PODS: o["spec"]["template"]["metadata"]["labels"] |= labels["pairs"]
        if not labels.get("includeSelectors"): continue
        spread = pod(o).get("topologySpreadConstraints", ())
        chosen_by = (o["spec"].get("selector"), o["spec"].get("podSelector"), *(t["labelSelector"] for t in spread))
        for selector in chosen_by if "spec" in o else (): selector and selector["matchLabels"].update(labels["pairs"])
    for c in containers(o):
        name, _, tag = c["image"].rpartition(":")
        for i in k.get("images", ()):
            if i["name"] == name: c["image"] = f"{i.get('newName', name)}:{i.get('newTag', tag)}"


def pod(o: dict) -> dict: return o["spec"]["template"]["spec"] if o["kind"] in PODS else {}


def containers(o: dict) -> list[dict]: return pod(o).get("containers", []) + pod(o).get("initContainers", [])


def matches(selector: dict, labels: dict) -> bool:
    "Whether a selector chooses a pod; an empty one chooses each."
    assert set(selector) <= {"matchLabels"}, selector
    return selector.get("matchLabels", {}).items() <= labels.items()


# ---- the schema, and rules that can fail

def schema_errors(o: dict) -> list[str]:
    "What the schema of Kubernetes says against an object."
    kind = f"{o.get('apiVersion')} {o.get('kind')}"
    if kind not in SCHEMA["kinds"]: return [f"there is no {kind}, or the schema for it is missing"]
    checker = jsonschema.Draft7Validator(SCHEMA["kinds"][kind] | {"$defs": SCHEMA["$defs"]})
    return [f"{kind} {o['metadata'].get('name')}: {e.json_path}: {e.message[:200]}" for e in checker.iter_errors(o)]


def problems(objects: list[dict]) -> list[str]:
    "What is wrong with the objects of an overlay."
    found = [e for o in objects for e in schema_errors(o)]
    if found: return found
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    found += [f"{n} is there twice" for n in set(names) if names.count(n) > 1]
    works = [o for o in objects if o["kind"] in PODS]
    for o in works: found += careless(o) + dangling(o, objects)
    for o in objects:
        look_at = FOLLOW.get(o["kind"], lambda *_: ())
        found += [f"{o['kind']} {o['metadata']['name']}: {e}" for e in look_at(o, works, objects)]
    nothing = [o for o in objects if o["kind"] == "NetworkPolicy" and o["spec"]["podSelector"] == {}
               and set(o["spec"]["policyTypes"]) == {"Ingress", "Egress"} and not {"ingress", "egress"} & set(o["spec"])]
    if not nothing: found.append("no policy denies everything")
    return found + unserved(objects)


def careless(o: dict) -> list[str]:
    "What a pod may do and should not, and what it lacks."
    spec, found, name = pod(o), [], o["metadata"]["name"]
    safe = spec.get("securityContext", {})
    if not safe.get("runAsNonRoot") or not safe.get("runAsUser"): found.append("runs as root")
    if safe.get("seccompProfile") != {"type": "RuntimeDefault"}: found.append("has no seccomp profile")
    if spec.get("automountServiceAccountToken") is not False: found.append("has a token for the cluster")
    for c in containers(o):
        safe = c.get("securityContext", {})
        if safe.get("readOnlyRootFilesystem") is not True: found.append("may write to its image")
        if safe.get("allowPrivilegeEscalation") is not False: found.append("may gain rights")
        if safe.get("capabilities") != {"drop": ["ALL"]}: found.append("has capabilities")
        if not {"cpu", "memory"} <= set(c.get("resources", {}).get("requests", {})): found.append("asks for no resources")
        if "memory" not in c.get("resources", {}).get("limits", {}): found.append("has no limit of memory")
        if not re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", c["image"]): found.append(f"image {c['image']} is not pinned")
        if o["kind"] == "Deployment" and "readinessProbe" not in c: found.append("has no probe")
        found += [f"{e['name']} is a secret in plain text" for e in c.get("env", ())
                  if re.search("PASSWORD|KEY|TOKEN|SECRET|AUTH", e["name"]) and "value" in e]
    return [f"{o['kind']} {name}: {f}" for f in found]


def dangling(o: dict, objects: list[dict]) -> list[str]:
    "Names in a pod that lead nowhere."
    maps = {m["metadata"]["name"]: m.get("data", {}) for m in objects if m["kind"] == "ConfigMap"}
    accounts, found = {a["metadata"]["name"] for a in objects if a["kind"] == "ServiceAccount"}, []
    volumes = {v["name"] for v in pod(o).get("volumes", ())}
    if pod(o).get("serviceAccountName", "default") not in accounts | {"default"}: found.append("its account is not there")
    found += [f"the ConfigMap {v['configMap']['name']} is not there" for v in pod(o).get("volumes", ())
              if "configMap" in v and v["configMap"]["name"] not in maps]
    for c in containers(o):
        ports, known = {p["name"] for p in c.get("ports", ())}, []
        for e in c.get("envFrom", ()):
            if e["configMapRef"]["name"] not in maps: found.append(f"the ConfigMap {e['configMapRef']['name']} is not there")
        for e in c.get("env", ()):
            ref = e.get("valueFrom", {}).get("secretKeyRef")
            if ref and (ref["name"] != "rap-secrets" or ref["key"] not in SECRETS): found.append(f"{ref} is not in .env.example")
            for used in re.findall(r"\$\((\w+)\)", e.get("value", "")):
                if used not in known: found.append(f"{e['name']} uses {used}, which does not stand above it")
            known.append(e["name"])
        found += [f"there is no volume {m['name']}" for m in c.get("volumeMounts", ()) if m["name"] not in volumes]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = c.get(probe, {}).get("httpGet")
            if get and get["port"] not in ports: found.append(f"{probe} asks at the port {get['port']}, which is not there")
    return [f"{o['kind']} {o['metadata']['name']}: {f}" for f in found]


def follow_deployment(o, works, objects):
    scaled = {h["spec"]["scaleTargetRef"]["name"] for h in objects if h["kind"] == "HorizontalPodAutoscaler"}
    if not matches(o["spec"]["selector"], o["spec"]["template"]["metadata"]["labels"]): yield "its selector misses its own pods"
    if o["metadata"]["name"] in scaled and "replicas" in o["spec"]: yield "each roll-out would undo what the autoscaler did"
    for t in pod(o).get("topologySpreadConstraints", ()):
        if not matches(t["labelSelector"], o["spec"]["template"]["metadata"]["labels"]): yield "it spreads other pods than its own"


def queues_of(o: dict) -> list[str]:
    "The queues that the processes of a deployment work for; `*` for those of all analyzers that have one."
    words = containers(o)[0].get("args", [])
    if words[:2] != ["rap-analyzer", "worker"]: return []
    return [q for w, at in zip(words, words[1:], strict=False) if w == "--queues" for q in at.split(",")] or [*QUEUES, "*"]


def unserved(objects: list[dict]) -> list[str]:
    "Queues that are set and have no pods, and pods whose queue is not set or has others."
    own = "".join(o["data"].get("RAP_WORKER_OWN_QUEUES", "") for o in objects if o["kind"] == "ConfigMap")
    set_, served = {*QUEUES, *(OWN + name for name in own.split())}, {}
    for o in objects:
        if o["kind"] == "Deployment": served |= {q: [*served.get(q, ()), o["metadata"]["name"]] for q in set(queues_of(o))}
    read = [o for o in objects if own and o["kind"] == "Deployment" and o["metadata"]["name"] in ("api", "worker")]
    for o in read:
        if o["spec"]["template"]["metadata"].get("annotations", {}).get("rap/own-queues") != own:
            return [f"{o['metadata']['name']} is not restarted with the list {own!r}"]
    if own and "*" in served: return [f"{served['*'][0]} starts a process for each analyzer's queue besides its pods"]
    found = [f"no pod works for {q}" for q in sorted(set_ - set(served))]
    found += [f"{who[0]} works for {q}, which is not set" for q, who in served.items() if q not in {*set_, "*"}]
    return found + [f"{' and '.join(who)} both work for {q}" for q, who in served.items() if len(who) > 1]


def chosen(selector, works): return [w for w in works if matches(selector, w["spec"]["template"]["metadata"]["labels"])]


def follow_service(o, works, objects):
    if o["spec"].get("type") == "ExternalName": return
    if len(pods := chosen({"matchLabels": o["spec"]["selector"]}, works)) != 1: yield f"it leads to {len(pods)} sets of pods"
    ports = {p["name"]: p["containerPort"] for w in pods for c in containers(w) for p in c.get("ports", ())}
    yield from (f"the port {p['targetPort']} is not there" for p in o["spec"]["ports"] if p["targetPort"] not in ports)


def follow_budget(o, works, objects):
    if not [w for w in chosen(o["spec"]["selector"], works) if w["kind"] == "Deployment"]: yield "it protects nothing"
    if "minAvailable" in o["spec"]: yield "a single pod would keep its node from being emptied"


def metric_names() -> set[str]:
    "Every metric that the service reports."
    said = Metrics().render().decode() + Path(look.__code__.co_filename).read_text(encoding="utf-8")
    return set(re.findall(r"rap_[a-z_]+", said))


def follow_autoscaler(o, works, objects):
    spec, low = o["spec"], o["spec"]["minReplicas"]
    target = spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]
    if target not in [(w["kind"], w["metadata"]["name"]) for w in works]: yield "what it scales is not there"
    if not low <= spec["maxReplicas"]: yield "it may have fewer at most than at least"
    adapter = yaml.safe_load((K8S / "adapter.yaml").read_text(encoding="utf-8"))
    served = {r["name"]["as"] for r in adapter["rules"]["external"]}
    for m in spec["metrics"]:
        if m["type"] == "External" and (name := m["external"]["metric"]["name"]) not in served & metric_names():
            yield f"nobody serves the metric {name}"
        scaled = [q for w in works if w["metadata"]["name"] == target[1] for q in queues_of(w)]
        if m["type"] == "External" and scaled and m["external"]["metric"]["selector"]["matchLabels"]["queue"] not in scaled:
            yield "it follows the queue of others"
    down = spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    if down <= spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"]: yield "down as fast as up: it will oscillate"


def follow_policy(o, works, objects):
    pods, spec = chosen(o["spec"]["podSelector"], works), o["spec"]
    if not pods: yield "it is about no pod"
    named = {p["name"] for w in pods for c in containers(w) for p in c.get("ports", ())}
    for rule in spec.get("ingress", ()):
        asked = [p["port"] for p in rule["ports"] if isinstance(p["port"], str)]
        yield from (f"the port {port} is not there" for port in asked if port not in named)
    for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
        peers = rule.get("from") or rule.get("to")
        if not rule.get("ports") or not peers: yield "a rule without a port, or for everybody"
        for peer in peers or ():
            if set(peer) == {"podSelector"} and not chosen(peer["podSelector"], works): yield "a peer that is not there"
            if peer.get("ipBlock", {}).get("cidr", "").endswith("/0"): yield "a rule for everybody"


def follow_ingress(o, works, objects):
    services = {s["metadata"]["name"]: {p["name"] for p in s["spec"].get("ports", ())} for s in objects if s["kind"] == "Service"}
    hosts = {h for t in o["spec"].get("tls", ()) for h in t["hosts"]}
    names = [n for m in objects if m["kind"] == "ConfigMap" for n in m["data"].get("RAP_API_NAMES", "").split()]
    for r in o["spec"]["rules"]:
        if r["host"] not in hosts: yield f"{r['host']} has no TLS"
        if r["host"] not in names: yield f"the service does not answer to {r['host']}"
        for p in r["http"]["paths"]:
            to = p["backend"]["service"]
            if to["port"]["name"] not in services.get(to["name"], ()): yield f"{to['name']} is not there"


FOLLOW = {"Deployment": follow_deployment, "Service": follow_service, "PodDisruptionBudget": follow_budget,
          "HorizontalPodAutoscaler": follow_autoscaler, "NetworkPolicy": follow_policy, "Ingress": follow_ingress}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "The overlays, and `prod` as the README makes it for a queue per analyzer."
    copy_ = shutil.copytree(ROOT / "deploy", tmp_path_factory.mktemp("k8s") / "deploy") / "k8s"
    with open(copy_ / "overlays/prod/kustomization.yaml", "a", encoding="utf-8") as f: f.write("components: [../../queues]\n")
    return {"dev": K8S / "overlays/dev", "prod": K8S / "overlays/prod", "queues": copy_ / "overlays/prod"}


@pytest.fixture(scope="module")
def overlays(folders): return {name: build(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", ["dev", "prod", "queues"])
def test_an_overlay_is_whole(overlays, name):
    objects = overlays[name]
    assert problems(objects) == []
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] != "Namespace"} == {"rap"}
    own = {f"worker-{n}" for n in FIVE if name == "queues"}
    for kind in ("PodDisruptionBudget", "HorizontalPodAutoscaler"):
        there = {o["metadata"]["name"] for o in objects if o["kind"] == kind}
        assert there == (set(OURS) if kind == "PodDisruptionBudget" else {"api", "worker"}) | own


@pytest.mark.parametrize("name", ["dev", "prod", "queues"])
def test_kubectl_builds_the_same(overlays, folders, name):
    if not shutil.which("kubectl"): pytest.skip("there is no kubectl on PATH")
    made = subprocess.run(["kubectl", "kustomize", folders[name]], capture_output=True, text=True, timeout=60, check=True).stdout
    plain = lambda objects: {(o["kind"], o["metadata"]["name"]): json.loads(json.dumps(o)) for o in objects}
    assert plain(yaml.safe_load_all(made)) == plain(overlays[name])


def test_the_analyzers_have_pods_that_differ_in_the_name_alone(overlays):
    of = {o["metadata"]["name"]: queues_of(o) for o in overlays["queues"] if o["kind"] == "Deployment"}
    assert of["worker"] == ["interactive", "interactive", "bulk"] and not of["api"]
    assert {n: of[f"worker-{n}"] for n in FIVE} == {n: [OWN + n] for n in FIVE}
    texts = {(K8S / "queues" / n / "kustomization.yaml").read_text(encoding="utf-8").replace(n, "NAME") for n in FIVE}
    assert len(texts) == 1


def test_only_what_is_meant_differs_between_overlays(overlays):
    of = lambda name: {(o["kind"], o["metadata"]["name"]) for o in overlays[name]}
    assert of("dev") - of("prod") == {("Deployment", n) for n in ("db", "valkey", "queue")} | {
        ("ConfigMap", "postgres-init"), ("NetworkPolicy", "users")}
    assert of("prod") - of("dev") == {("Ingress", "api")}
    prod = {(o["kind"], o["metadata"]["name"]): o for o in overlays["prod"]}
    images = [c["image"] for key in prod for c in containers(prod[key])]
    assert all(i.startswith("registry.example.com/rap-analyzer") for i in images) and len(images) == 4
    assert [m["type"] for m in prod["HorizontalPodAutoscaler", "worker"]["spec"]["metrics"]] == ["Resource", "External", "External"]


BREAKS = {  # what somebody changes: where, and what is said
    "a name that Kubernetes does not know": ("Deployment", "api", "spec.template.spec.containers.0.probe", {}, "'probe'"),
    "an old version": ("HorizontalPodAutoscaler", "api", "apiVersion", "autoscaling/v2beta2", "there is no autoscaling/v2beta2"),
    "a number for a text": ("ConfigMap", "rap", "data.RAP_CATALOG_TRACKS", 3000, "is not of type"),
    "root": ("Deployment", "api", "spec.template.spec.securityContext.runAsNonRoot", False, "runs as root"),
    "a writable image": ("Deployment", "worker", "spec.template.spec.containers.0.securityContext.readOnlyRootFilesystem", False,
                         "may write"),
    "another label": ("Deployment", "worker", "spec.template.metadata.labels.app.kubernetes.io/name", "work", "misses its own"),
    "a port that went": ("Deployment", "api", "spec.template.spec.containers.0.ports.0.name", "web", "is not there"),
    "a settings file that went": ("ConfigMap", "rap", "metadata.name", "settings", "the ConfigMap rap is not there"),
    "a secret that nobody makes": ("Deployment", "api", "spec.template.spec.containers.0.env.0.valueFrom.secretKeyRef.key", "X",
                                   "is not in"),
    "a password in the file": ("Job", "setup-0-1-0", "spec.template.spec.containers.0.env.1",
                               {"name": "VALKEY_PASSWORD", "value": "x"}, "plain text"),
    "a metric with a typing error": ("HorizontalPodAutoscaler", "worker", "spec.metrics.1.external.metric.name", "rap_queue_len",
                                     "nobody serves"),
    "a scaler of nothing": ("HorizontalPodAutoscaler", "worker", "spec.scaleTargetRef.name", "workers", "is not there"),
    "one that swings": ("HorizontalPodAutoscaler", "worker", "spec.behavior.scaleDown.stabilizationWindowSeconds", 0, "oscillate"),
    "a number that the scaler owns": ("Deployment", "api", "spec.replicas", 3, "undo what the autoscaler did"),
    "a budget for nobody": ("PodDisruptionBudget", "api", "spec.selector.matchLabels.app.kubernetes.io/name", "app", "protects"),
    "an open door": ("NetworkPolicy", "servers", "spec.egress.0.to.0.ipBlock.cidr", "0.0.0.0/0", "for everybody"),
    "no closed door": ("NetworkPolicy", "nothing", "spec.policyTypes", ["Ingress"], "no policy denies"),
    "another host": ("Ingress", "api", "spec.rules.0.host", "www.example.com", "has no TLS"),
    "a queue without pods": ("Deployment", "worker-mood", "spec.template.spec.containers.0.args", ["rap-analyzer", "api"],
                             "no pod works for analyze-mood"),
    "pods without a queue": ("ConfigMap", "rap", "data.RAP_WORKER_OWN_QUEUES", "", "which is not set"),
    "a list that restarts no pod": ("ConfigMap", "rap", "data.RAP_WORKER_OWN_QUEUES", "tempo genre lyrics mood",
                                   "is not restarted"),
    "processes besides the pods": ("Deployment", "worker", "spec.template.spec.containers.0.args", ["rap-analyzer", "worker"],
                                   "besides its pods"),
    "another one's queue": ("HorizontalPodAutoscaler", "worker-mood", "spec.metrics.1.external.metric.selector.matchLabels.queue",
                            "analyze-genre", "the queue of others"),
    "a floating image": ("Deployment", "api", "spec.template.spec.containers.0.image", "rap-analyzer:latest", "not pinned"),
}


WITH_QUEUES = {"a queue without pods", "a list that restarts no pod", "pods without a queue", "processes besides the pods",
               "another one's queue"}


def change(o: dict, path: str, value: object) -> None:
    "Set a place in an object; a label's dots belong to its name."
    label = "app.kubernetes.io/name"
    *way, last = path.replace(label, "LABEL").split(".")
    for step in way: o = o[int(step)] if isinstance(o, list) else o[step]
    last = int(last) if isinstance(o, list) else last.replace("LABEL", label)
    o[last] = value


@pytest.mark.parametrize("name", BREAKS)
def test_a_mistake_is_seen(overlays, name):
    kind, who, path, value, says = BREAKS[name]
    objects = copy.deepcopy(overlays["queues" if name in WITH_QUEUES else "prod"])
    change(next(o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, who)), path, value)
    assert any(says in e for e in problems(objects)), problems(objects)


# ---- the same as the containers

def test_cluster_and_compose_agree(overlays):
    dev = {o["metadata"]["name"].partition("-")[0]: o for o in overlays["dev"] if o["kind"] in PODS}
    units = {"Mi": "m", "Gi": "g"}
    for name in (*OURS, "setup", "db", "valkey", "queue"):
        spec, c = STACK["services"][name], containers(dev[name])[0]
        limit = c["resources"]["limits"]["memory"]
        assert limit[:-2] + units[limit[-2:]] == spec["mem_limit"], name
        assert c["image"] == spec["image"] and (name not in OURS or c.get("args") == spec.get("command")), name
        if "user" in spec: assert spec["user"] == "{runAsUser}:{runAsGroup}".format(**pod(dev[name])["securityContext"])
        env = {e["name"]: e for e in c.get("env", ())}
        for key, value in spec["environment"].items():
            secret = re.fullmatch(r"\$\{(\w+):\?[^}]*\}", str(value))
            if secret: assert env[key]["valueFrom"]["secretKeyRef"]["key"] == secret[1], (name, key)
            elif "_URL" in key and key != "DATABASE_REPLICA_URL":
                assert env[key]["value"] == re.sub(r"\$\{(\w+):\?[^}]*\}", r"$(\1)", value), (name, key)
    assert containers(dev["db"])[0]["args"] == STACK["services"]["db"]["command"]
    for name in ("valkey", "queue"):
        assert containers(dev[name])[0]["command"] == [w.replace("$$", "$") for w in STACK["services"][name]["command"]]
    assert "USER 10001" in (ROOT / "Dockerfile").read_text() and pod(dev["api"])["securityContext"]["runAsUser"] == 10001


def test_probes_ask_for_what_the_service_answers_without_a_key(overlays):
    asked = {c[p]["httpGet"]["path"] for o in overlays["prod"] for c in containers(o)
             for p in ("startupProbe", "livenessProbe", "readinessProbe") if "httpGet" in c.get(p, {})}
    assert asked == {"/health/live", "/health/ready", "/metrics"} and asked - {"/metrics"} <= PUBLIC       # a worker's has no keys
    api = next(o for o in overlays["prod"] if (o["kind"], o["metadata"]["name"]) == ("Deployment", "api"))
    assert containers(api)[0]["livenessProbe"]["httpGet"]["path"] == "/health/live"


def test_only_the_migration_sees_the_administrators_password(overlays):
    has = lambda o: "POSTGRES_PASSWORD" in json.dumps(pod(o))
    assert [o["metadata"]["name"] for o in overlays["prod"] if has(o)] == ["setup-0-1-0"]
    job = next(o for o in overlays["prod"] if o["kind"] == "Job")
    assert job["metadata"]["name"] == "setup-" + containers(job)[0]["image"].rpartition(":")[2].replace(".", "-")


def test_the_roll_out_migrates_first(tmp_path):
    "The script, with a kubectl that writes down what it is asked for."
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "kubectl").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", K8S / "apply.sh", "dev"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    at = lambda words: next(i for i, line in enumerate(asked) if words in line)
    assert at("rap/first=true") < at("secret rap-secrets") < at("name=setup") < at("condition=complete") < at("rollout status")
    whole = [i for i, line in enumerate(asked) if line.startswith("apply") and "--selector" not in line]
    assert len(whole) == 1 and at("condition=complete") < whole[0]
    first = {(o["kind"], o["metadata"]["name"]) for o in build(K8S / "overlays/dev")
             if o["metadata"].get("labels", {}).get("rap/first") == "true"}
    assert {("Namespace", "rap"), ("ConfigMap", "rap"), ("ServiceAccount", "rap"), ("Service", "db"), ("Deployment", "db")} <= first
