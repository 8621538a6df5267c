"""The schema is a promise: what it allows, and what it does not, is asked over HTTP, with and without a key. GraphQL, too."""
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import graphql
import httpx

from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.platform.graphql import SCHEMA
from rap_analyzer.platform.identity import PUBLIC
from rap_analyzer.platform.keys import SCOPES, Keys
from rap_analyzer.product.events import Events
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.web import serving

DEAR = {"/api/optimize", "/api/analyze_system", "/api/product_strategy", "/api/export"}  # seconds each: a few are enough
TRACES = "Traceback (most recent", 'File "/', "psycopg.", "site-packages"
LISTENERS, TRACKS = 20, 300


def prepare(lab: Lab) -> tuple[Store, str]:  # the store, and a key with all scopes
    "A small tenant with tracks, listeners and a key."
    migrate(lab)
    store = fill(Store(lab, "contract"), TRACKS)
    build("hnsw_halfvec", store)
    Events(store).register(range(LISTENERS))
    return store, Keys(store, "contract").create(list(SCOPES))[0]


# ---- REST

def checks() -> list[Callable]:
    "What is asked of each answer, besides that it is no 500."
    import schemathesis
    schemathesis.checks.load_all_checks()
    names = ("status_code_conformance", "content_type_conformance", "response_headers_conformance", "response_schema_conformance")
    return [getattr(schemathesis.checks, name) for name in names]


def judge(case: object, response: object, asked: list[Callable]) -> Iterator[tuple[str, str]]:  # the check, what is wrong
    "What is wrong with one answer."
    from schemathesis.core.errors import InvalidSchema
    from schemathesis.core.failures import FailureGroup
    text = response.content.decode("utf-8", "replace")
    if response.status_code == 500: yield "server error", text[:200]
    if any(trace in text for trace in TRACES): yield "trace", text[:200]
    try: case.validate_response(response, checks=asked)
    except InvalidSchema as e:
        if "prefixItems" not in json.dumps(case.operation.schema.raw_schema): raise AssertionError(str(e)) from None
        return                                      # a tuple in an answer: its validator reads the keyword of another draft
    except FailureGroup as group:
        for e in group.exceptions:
            if "event-stream" in str(e) and response.status_code >= 400: continue  # listed under the stream's type
            yield type(e).__name__, " ".join(f"{getattr(e, 'title', '')}: {e}".split())[:300]


def ask_operation(operation: object, url: str, n: int, seed: int, headers: dict, seen: Counter, wrong: dict) -> None:
    "Questions to one operation, half of them as the schema allows, half not."
    import hypothesis
    from schemathesis.generation import GenerationMode
    asked, label = checks(), f"{operation.method.upper()} {operation.path}"
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=max(1, n // 2), deadline=None, database=None, phases=[hypothesis.Phase.generate],
                             suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: object) -> None:
            response = case.call(base_url=url, headers=headers, timeout=40)
            seen[response.status_code] += 1
            bad = list(judge(case, response, asked))
            if not headers and operation.path not in PUBLIC and response.status_code not in (400, 401, 408, 413, 421):
                bad.append(("no key asked for", str(response.status_code)))
            for check, said in bad:
                wrong.setdefault((label, check, response.status_code), f"{case.as_curl_command()[:400]}\n    {said}")
        try: ask()
        except hypothesis.errors.Unsatisfiable: continue                     # there is nothing that it refuses
        except Exception as e:
            if type(e).__name__ not in ("Unsatisfiable", "SkipTest", "Skipped"): raise


def explore(url: str, key: str, n: int = 20, seed: int = 7, only: str = "") -> dict[str, object]:
    "About n questions to each operation with a key, and a few without."
    import schemathesis
    schema, seen, wrong, operations = schemathesis.openapi.from_url(f"{url}/openapi.json"), Counter(), {}, 0
    warnings.simplefilter("ignore")
    for result in schema.get_all_operations():
        operation = result.ok()
        if only not in operation.path: continue
        operations += 1
        few = min(n, 4) if urlsplit(operation.path).path in DEAR else n
        ask_operation(operation, url, few, seed, {"Authorization": f"Bearer {key}"}, seen, wrong)
        ask_operation(operation, url, min(n, 4), seed, {}, seen, wrong)
    return {"operations": operations, "questions": seen.total(), "statuses": dict(sorted(seen.items())), "wrong": wrong}


# ---- GraphQL

TEXTS = ("", "a", "night", "42", "7", "-1", "9" * 25, "\u0000", "🔥", "' OR 1=1 --", "true", "waiting",
         "drill", "80-100", "rise", "x" * 300, "é\u202e")
SPOILT = ("", "{", "}", "(", '"', "$", "...", "\u0000", "🔥", "#", "@skip(if: true)", "{ id }")
ODD = (None, "Q", "R", 1, {}, [], "")
NUMBERS = (0, 1, 2, 3, 5, 10, -1, 101, 2**31 - 1, 2**40)


def draw_value(rng: random.Random, kind: graphql.GraphQLInputType) -> object:
    "Something for an argument, mostly of its type."
    if graphql.is_non_null_type(kind): return draw_value(rng, kind.of_type)
    if rng.random() < .03: return rng.choice([None, {}, [], "odd", 1.5, True])
    if graphql.is_list_type(kind): return [draw_value(rng, kind.of_type) for _ in range(rng.choice((0, 1, 2, 3, 40)))]
    name = graphql.get_named_type(kind).name
    if name == "Int": return rng.choice(NUMBERS)
    if name == "Float": return rng.choice((0, 8.5, 23.9, -1, 24, 1e300))
    if name == "ID": return str(rng.randrange(TRACKS + 20)) if rng.random() < .8 else rng.choice(TEXTS)
    return rng.choice(TEXTS)


def write(value: object) -> str:
    "A value as GraphQL writes it."
    if isinstance(value, dict): return "{" + ", ".join(f"{k}: {write(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list): return "[" + ", ".join(map(write, value)) + "]"
    return json.dumps(value)


def draw_field(rng: random.Random, kind: graphql.GraphQLObjectType, deep: int, variables: dict) -> str:
    "A field of a type, with arguments and what lies in it."
    fields = [(n, f) for n, f in kind.fields.items() if deep or graphql.is_leaf_type(graphql.get_named_type(f.type))]
    if not fields or rng.random() < .02: return rng.choice(("__typename", "nothing", "id"))
    name, field = rng.choice(fields)
    given = []
    for argument, about in field.args.items():
        if not graphql.is_non_null_type(about.type) and rng.random() < .6: continue
        value = rng.choice((1, 2, 3)) if argument == "k" and rng.random() < .8 else draw_value(rng, about.type)
        if rng.random() < .2: variables[v := f"v{len(variables)}"] = (str(about.type), value); given.append(f"{argument}: ${v}")
        else: given.append(f"{argument}: {write(value)}")
    inside = graphql.get_named_type(field.type)
    alias = f"a{rng.randrange(9)}: " if rng.random() < .1 else ""
    within = "" if graphql.is_leaf_type(inside) else draw_selection(rng, inside, deep - 1, variables)
    return f"{alias}{name}{'(' + ', '.join(given) + ')' if given else ''}{within}"


def draw_selection(rng: random.Random, kind: graphql.GraphQLNamedType, deep: int, variables: dict) -> str:
    "Some fields between braces."
    parts = [draw_field(rng, kind, deep, variables) for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < .05: parts.append(rng.choice(("...f", f"... on {kind.name} {{ __typename }}", "... { __typename }", "...g")))
    return " { " + " ".join(parts) + " }"


def draw_document(rng: random.Random) -> dict[str, object]:
    "A request: mostly one that the schema allows, sometimes spoilt."
    variables: dict[str, tuple[str, object]] = {}
    change = rng.random() < .1
    root = SCHEMA._schema.mutation_type if change else SCHEMA._schema.query_type
    inside = draw_selection(rng, root, rng.choice((1, 2, 3, 4, 6)), variables)
    declared = "(" + ", ".join(f"${v}: {kind}" for v, (kind, _) in variables.items()) + ")" if variables else ""
    text = f"{'mutation' if change else 'query'} Q{declared}{inside}"
    if "...f" in text or rng.random() < .05:
        text += f" fragment f on {rng.choice(('Query', 'Track', 'Hit'))} {{ __typename {rng.choice(('', '...f', '...g'))} }}"
    if rng.random() < .2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(SPOILT) + text[at + rng.randrange(4):]
    body: dict[str, object] = {"query": text, "variables": {v: value for v, (_, value) in variables.items() if rng.random() < .95}}
    if rng.random() < .05: body[rng.choice(("operationName", "extensions", "query", "variables", "other"))] = rng.choice(ODD)
    return body


def fuzz(url: str, key: str, n: int = 300, seed: int = 7) -> dict[str, object]:  # wrong: what came, and for which request
    "Documents at random: each has an answer, none a trace, and none makes the service fail."
    rng, seen, wrong = random.Random(seed), Counter(), []
    with httpx.Client(base_url=url, timeout=40, headers={"Authorization": f"Bearer {key}"}) as client:
        for _ in range(n):
            body = draw_document(rng)
            r = client.post("/graphql", content=json.dumps(body), headers={"Content-Type": "application/json"})
            seen[r.status_code] += 1
            said = r.json()
            fine = r.status_code < 500 and ("data" in said or "error" in said) and not any(t in r.text for t in TRACES)
            if not fine: wrong.append((r.status_code, r.text[:300], json.dumps(body)[:600]))
    return {"documents": n, "statuses": dict(sorted(seen.items())), "wrong": wrong}


def contract(lab: Lab, examples: int = 200, documents: int = 5_000, seed: int = 7) -> dict[str, object]:
    "Both, at full size."
    store, key = prepare(lab)
    with serving(create_app(store, auth="required", cache_s=60, timeout_s=20)) as url:
        rest, said_graphql = explore(url, key, examples, seed), fuzz(url, key, documents, seed)
    store.forget()
    said = {"operations": rest["operations"], "questions": rest["questions"], "documents": said_graphql["documents"]}
    said |= {"statuses": rest["statuses"], "graphql": said_graphql["statuses"]}
    wrong = [f"{label}: {check} ({status})" for label, check, status in rest["wrong"]]
    return said | {"wrong": wrong, "failed": len(said_graphql["wrong"])}
