"""Exercises of the Performance chapter that put code to work: right answers of other kinds pass, wrong ones are understood."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from rap_analyzer.core import settings
from rap_analyzer.learn.judge import judge
from rap_analyzer.learn.sandbox import run_behind, why
from rap_analyzer.learn.task import exercise

@pytest.fixture
def servers(lab, lab_home, monkeypatch):
    "What is measured is measured on the servers of the tests."
    monkeypatch.setenv("RAP_LAB_HOME", str(lab_home))
    settings.cache_clear()


@pytest.fixture(autouse=True)
def _shared(memo_of):
    "Judgements share what they can."
    MEMO_OF[:] = [memo_of]


MEMO_OF = []


def hand_in(name, code, seed=3):
    "A verdict about a task cell."
    ex = exercise(name)
    memo = None if ex.measured else MEMO_OF[0](name, seed)
    given = list(enumerate(ex.given, 1))
    return judge(ex, [*given, (len(given) + 1, f"#| task {name}\n{code}")], seed, memo=memo)


def said(v): return " ".join(c.message for c in v.checks)


def beliefs(v):
    return {c.belief for c in v.checks if not c.ok}


def test_a_program_is_put_to_work_in_a_fresh_process():
    cells = [(1, "import os\nkept = []"), (2, "def add(x): kept.append(x); return len(kept), os.getpid()")]
    one, two = (run_behind(cells, "out = [add(1), add(2)]", [("out", "out", None)]) for _ in range(2))
    counts, pids = zip(*[[row[1][0][1] for row in o.got[0][1]] for o in (one, two)], strict=True), {
        row[1][1][1] for o in (one, two) for row in o.got[0][1]}
    assert list(counts) == [(1, 1), (2, 2)] and len(pids) == 2
    assert "had not finished after 0.5 s" in why(run_behind(cells, "while True: pass", seconds=0.5))
    assert "cell 3, line 1" in why(run_behind(cells, "add()"))


# ---- 24.1, 24.2: what a cache would have done

KEPT = "def after_cache(requests, kept, miss_ms, hit_ms):\n    pop = {t for t, _ in Counter(requests).most_common(kept)}\n"
TIMES = KEPT + "    x = [hit_ms if t in pop else m for t, m in zip(requests, miss_ms)]\n"


@pytest.mark.parametrize("code, belief", [
    (TIMES + "    import numpy as np\n    return np.mean(x), np.percentile(x, 95)", "rank"),
    (TIMES + "    return sum(x) / len(x), p95(miss_ms)", "misses"),
    (TIMES + "    return sum(x) / len(x), p95(miss_ms) * sum(x) / sum(miss_ms)", "share"),
    (TIMES + "    import statistics as s\n    return s.fmean(x), s.fmean(x) + 1.645 * s.pstdev(x)", "pile"),
    (TIMES + "    m = [m for t, m in zip(requests, miss_ms) if t not in pop] or [hit_ms]\n"
     "    return sum(x) / len(x), (hit_ms + p95(m)) / 2",
     "weights"),
    (TIMES + "    h = sum(t in pop for t in requests) / len(requests)\n    old = sum(miss_ms) / len(miss_ms)\n"
     "    return h * hit_ms + (1 - h) * old, p95(x)", "blend"),
    (TIMES + "    y = [v for v in x if v != hit_ms]\n    return sum(y) / max(1, len(y)), p95(x)", "gone"),
    (TIMES.replace("{t for t, _ in Counter(requests).most_common(kept)}", "set(requests[:kept])")
     + "    return sum(x) / len(x), p95(x)", "recent"),
])
def test_beliefs_about_the_top_hundred(code, belief):
    v = hand_in("24.1", code)
    assert v.state == "fail" and beliefs(v) == {belief}, v


@pytest.mark.parametrize("old, new, belief, told", [
    ("else m ", "else m + hit_ms ", "on_top", "25"), ("hit_ms if", "min(m, hit_ms) if", "quicker", ""),
    ("hit_ms if", "0 if", "free", ""), ("(kept)", "(kept + 1)", "one_off", ""), ("p95(x)", "sorted(x)[int(.95 * len(x)) - 1]",
        "rank", ""),
    (".most_common(kept)", ".most_common()[-kept:]", "rarest", ""), ("sum(x) / len(x), p95(x)", "p95(x), sum(x) / len(x)",
        "turned", ""),
    ("p95(x)", "max(x)", "", "the p95 is the time within which 95 of 100 are done"),
    ("p95(x)", "x[-(-95 * len(x) // 100) - 1]", "unsorted", ""),
    ("most_common(kept)} ", "items() if _ > 1} ", "", "the `kept` tracks that the log asks for most often"),
    ("sum(x) / len(x)", "sum(x) // len(x)", "", "item 1: expected "),
])
def test_what_no_belief_explains_is_told_by_its_rule(old, new, belief, told):
    code = TIMES.replace("(kept)}", "(kept)} ") + "    return sum(x) / len(x), p95(x)"
    assert code.count(old) == 1
    v = hand_in("24.1", code.replace(old, new))
    assert v.state == "fail" and beliefs(v) == {belief} and told in v.checks[-1].message, v
    assert belief or "Work the example out by hand." in v.checks[-1].message


PLAY = ("def decide(trace, size):\n    kept, hits = [], 0\n    for t in trace:\n        if t in kept: hits += 1{}\n"
        "        elif len(kept) >= size: kept.pop(0)\n        {}kept.append(t)\n    return 'lru' if {} else 'none'")


@pytest.mark.parametrize("code, belief", [
    (PLAY.format("; kept.remove(t)", "", "hits >= len(trace) / 5"), "lru"), (PLAY.format("; kept.remove(t)", "", "hits"), "any"),
    (PLAY.format("", "if t not in kept: ", "hits >= len(trace) / 5"), "fifo"),
    ("def decide(trace, size): return 'lfu'", "any"), ("def decide(trace, size): return 'none' if size else 0", "never"),
    ("def decide(trace, size): return 'none' if len(set(trace)) > len(trace) / 2 else 'lru'", "bigger"),
    ("def decide(trace, size):\n    from collections import Counter\n    n = sum(v for _, v in Counter(trace).most_common(size))\n"
     "    return 'lru' if n / len(trace) > 0.2 else 'none'", "top"),
])
def test_beliefs_about_what_a_page_needs(code, belief):
    v = hand_in("24.2", code)
    assert v.state == "fail" and belief in beliefs(v), v


def test_a_cache_that_misses_nothing_is_asked_for_last():
    v = hand_in("24.1", TIMES + "    y = [m for t, m in zip(requests, miss_ms) if t not in pop]\n    y[0]\n"
                                "    return sum(x) / len(x), p95(x)")
    assert [c.ok for c in v.checks] == [True, True, False, True] and beliefs(v) == {""} and "IndexError" in v.checks[2].message, v


@pytest.mark.parametrize("old, new, belief", [
    ("5 * hits[best] >= len(trace)", "round(hits[best] / len(trace), 1) >= 0.2", "rounded"),
    ("    best =", "    hits['lru'] = sum(t in trace[max(0, i - size):i] for i, t in enumerate(trace))\n    best =", "window"),
    ("best = max(hits, key=hits.get)", "best = 'lfu' if hits['lfu'] > 1.05 * hits['lru'] else 'lru'", ""),
    ("(asked[t], kept[t])", "asked[t]", "born"), ("(asked[t], kept[t])", "(asked[t], t)", "number"),
    ("(asked[t], kept[t])", "(asked[t], -kept[t])", "tie"), ("best = max(hits, key=hits.get)",
     "best = max(hits, key=lambda p: (hits[p], p == 'lfu'))", "border"),
    ("5 * hits[best] >= len", "5 * hits[best] > len", "border"), ("del kept[out], asked[out]", "del kept[out]", "ever"),
    ("5 * hits[best] >= len(trace)", "5 * hits[best] >= len(trace) - len(set(trace))", "first"),
    ("5 * hits[best] >= len(trace)", "5 * hits[best] >= max(1, len(trace) - len(set(trace)))", "first"),
    ("5 * hits[best] >= len(trace)", "5 * hits[best] >= len(set(trace))", "tracks"),
    ("5 * hits[best] >= len(trace)", "5 * hits[best] >= len(trace) - hits[best]", "misses"),
    ("5 * hits[best] >= len(trace)", "5 * min(hits.values()) >= len(trace)", "both"), ("max(hits", "min(hits", "turned"),
    ("(asked[t], kept[t])", "(trace.count(t), kept[t])", "future"), ("(asked[t], kept[t])", "(-asked[t], kept[t])", "most"),
    ("elif len(kept) == size", "elif len(kept) > size", "one_off"), ("max(hits, key=hits.get)",
     "next((p for p in hits if 5 * hits[p] >= len(trace)), 'lru')", "enough"),
    ("5 * hits[best] >= len(trace)", "hits[best] >= 5", ""), ("5 * hits", "2 * hits", ""),
])
def test_a_rule_that_is_read_carelessly_is_named(old, new, belief):
    right = exercise("24.2").solution
    assert right.count(old) == 1
    v = hand_in("24.2", right.partition("\n")[2].replace(old, new))
    assert v.state == "fail" and beliefs(v) == {belief}, v


# ---- 28.1: the p95 of a page

PILE = "[t for w in workers for t in w]"


@pytest.mark.parametrize("returned, belief, told", [
    ("__import__('numpy').percentile(sum(workers, []), 95, method='inverted_cdf')", None, "All 27"),
    (f"min(t for t in {PILE} if 100 * sum(u <= t for u in {PILE}) >= 95 * len({PILE}))", None, "All 27"),
    ("p95([t for w in workers for t in w or [0]])", "nothing", "[]]): expected 19, you answered 18"), (f"p95(set({PILE}))",
        "distinct", ""),
    (f"{PILE}[-(-95 * len({PILE}) // 100) - 1]", "unsorted", ""), (f"max({PILE})", "worst", ""), ("p95(workers[0] or [0])",
        "some", ""),
    (f"sorted({PILE})[int(0.95 * len({PILE})) - 1]", "rank", ""), (f"sorted({PILE})[::-1][-(-95 * len({PILE}) // 100) - 1]",
        "end", ""),
    ("sum(p95(w) for w in workers if w) / len(workers)", "average", ""), ("min(p95(w) for w in workers if w)", "best", ""),
    (f"__import__('statistics').median({PILE})", "means", ""), ("p95([sum(w) / len(w) for w in workers if w])", "means", ""),
    (f"sorted({PILE})[-(-99 * len({PILE}) // 100) - 1]", "", "within which 95 of 100 are done"), (f"round(p95({PILE}))", "",
        "expected 1.5"),
    (f"p95({PILE}) / 1000", "", "No known misconception explains this"),
])
def test_beliefs_about_a_page(returned, belief, told):
    v = hand_in("28.1", f"def page_p95(workers):\n    return {returned}")
    assert (v.state, beliefs(v)) == (("pass", set()) if belief is None else ("fail", {belief})) and told in v.checks[-1].message, v


# ---- 24.3: the crowd

CACHED = "def cached(r, key, ttl_s, compute, longest_s):\n"
LOCKED = (CACHED + "    v = r.get(key)\n    if v is not None: return v\n    with r.lock(key + ':l'{}, sleep=0.02{}):\n"
          "        v = r.get(key)\n"
          "        if v is None: v = compute(); r.set(key, v, ex=ttl_s)\n        return v")


@pytest.mark.parametrize("code, belief", [
    ("from time import time, sleep\nfrom secrets import token_bytes as said\n"
     "from redis.exceptions import LockNotOwnedError as own\n"
     "P = r = thread = {}\n" + CACHED + "    end = time() + 60\n    while (v := r.get(key)) is None and time() < end:\n"
     "        l = r.lock(key + ':l', timeout=longest_s)\n"
     "        if not l.acquire(blocking=False): sleep(0.01 * len(said(2))); continue\n"
     "        try:\n            v = r.get(key)\n            if v is None: v = compute(); r.set(key, v, ex=ttl_s)\n"
     "            return v\n        finally:\n            try: l.release()\n            except own: pass\n    return v", None),
    (LOCKED.format("", ""), "forever"),
    (LOCKED.format(", timeout=20 * longest_s", ""), "too_long"), (LOCKED.format(", timeout=ttl_s", ""), "as_value"),
    (CACHED + "    with r.lock(key + ':l', timeout=longest_s, sleep=0.02):\n"
     "        v = compute(); r.set(key, v, ex=ttl_s)\n    return v", "recheck"),
    (LOCKED.format(", timeout=longest_s", ", blocking_timeout=0.05"), "nothing"),
    (CACHED + "    while (v := r.get(key)) is None:\n        if r.exists(key + ':l'): time.sleep(0.02); continue\n"
     "        r.set(key + ':l', 1, px=int(longest_s * 1000))\n        try: v = compute(); r.set(key, v, ex=ttl_s)\n"
     "        finally: r.delete(key + ':l')\n    return v", "gap"),
    ("import threading\nONE, OLD = threading.Lock(), {}\n" + LOCKED.format(", timeout=longest_s", "").replace(
        "    v = r.get(key)\n    if v is not None: return v\n", "    if key in OLD: return OLD[key]\n", 1).replace(
        "        return v", "        OLD[key] = v\n        return v"), "memory"),
])
def test_beliefs_about_a_crowd(servers, lab, code, belief):
    import redis
    with closing(redis.Redis.from_url(lab.redis_url, socket_timeout=5)) as r:
        r.set("exercise:learners-own", "stays"), r.set("old:exercise:24.3:x", "left by a crash a moment ago")
        v = hand_in("24.3", code)
        assert (v.state, belief in beliefs(v)) == (("fail", True) if belief else ("pass", False)), v
        assert sorted(r.scan_iter("*exercise:*")) == [b"exercise:learners-own", b"old:exercise:24.3:x"]      # all of ours is gone
        r.delete("exercise:learners-own", "old:exercise:24.3:x")
        if not belief: assert (v.evidence["computed"], v.evidence["computed_again"], v.evidence["clients"]) == (1, 1, 50)


@pytest.mark.parametrize("old, new, belief", [
    ("px=int(1000 * longest_s)", "ex=int(longest_s)", "short"), ("time.sleep(0.02)", "time.sleep(longest_s)", "asleep"),
    ("                value = compute()\n", "                value = compute()\n"
        "                if r.get(lock) != mine.encode(): continue\n", "others"),
    ("time.sleep(0.02)", "r.blpop(key + ':d', 9)", "one_wakes"),
    ("        finally: r.eval(give_back, 1, lock, mine)", "        finally:\n            with r.pipeline() as p:\n"
        "                p.watch(lock)\n                if p.get(lock) == mine.encode():\n"
        "                    p.multi(); p.delete(lock)\n                    try: p.execute()\n"
        "                    except __import__('redis').WatchError: pass", None),                # looked at and deleted, watched
    ("int(1000 * longest_s)", "int(500 * longest_s)", "short"), ("value, ex=ttl_s", "value, px=ttl_s", "brief"),
    ("        finally:", "        except ValueError: return None\n        finally:", "swallow"), ('f"{key}:lock"', '"lock"',
        "one_for_all"),
    ("                value = compute()\n", "                value = compute()\n"
        "                if r.get(lock) != mine.encode(): raise RuntimeError\n", "lost"),
    ("secrets.token_hex(8)", "'me'", "token"), ("                r.set(key, value, ex=ttl_s)\n", "", ""),
])
def test_a_point_of_the_protocol_that_is_left_out_is_named(servers, lab, old, new, belief):
    right = exercise("24.3").solution.partition("\n")[2]
    assert right.count(old) == 1
    v = hand_in("24.3", right.replace(old, new))
    if belief is None: assert v.state == "pass", v
    else: assert v.state == "fail" and beliefs(v) <= {"", belief} and belief in beliefs(v), v


# ---- 23.1: words or vectors

ROUTE = ("def route(log, limit_ms):\n    out = {}\n    for kind in {q['kind'] for q in log}:\n"
         "        m = [q for q in log if q['kind'] == kind]\n")
RULE = (ROUTE + "        g = {e: sum(ndcg(q[e], q['graded']) for q in m) for e in ('words', 'vector')}\n"
        "        t = {e: %s([q[e + '_ms'] for q in m]) for e in g}\n        f = [e for e in g if t[e] <= limit_ms]\n"
        "        out[kind] = max(f, key=g.get) if f else %s\n    return out")


@pytest.mark.parametrize("code, belief", [
    (RULE % ("p95", "min(t, key=t.get)"), None), (RULE % ("max", "min(t, key=t.get)"), "once"),
    (RULE % ("sum", "min(t, key=t.get)"), "mean"), (RULE % ("p95", "max(g, key=g.get)"), "both"),
    (ROUTE + "        out[kind] = 'words' if kind in ('name', 'typo') else 'vector'\n    return out", "names"),
    ("def route(log, limit_ms): return {q['kind']: 'words' for q in log}", "vectors"),
    (RULE % ("p95", "max(t, key=t.get)"), "both"), (RULE % ("p95", "'nobody'"), "both"),
    (RULE.replace("max(f, key=g.get)", "'words' if 'words' in f else 'vector'") % ("p95", "min(t, key=t.get)"), "vectors"),
    (RULE.replace("q['graded'])", "q['graded'], 5)") % ("p95", "min(t, key=t.get)"), "cut"),
    (RULE.replace("q['graded'])", "[(i, 1) for i, _ in q['graded']])") % ("p95", "min(t, key=t.get)"), "flat"),
    (RULE.replace("q['graded'])", "q['graded']) * (q[e + '_ms'] <= limit_ms)") % ("p95", "min(t, key=t.get)"), "late"),
    (RULE % ("(lambda x: sorted(x)[95 * len(x) // 100])", "min(t, key=t.get)"), "percentile"),
    (RULE.replace("max(f, key=g.get)", "max(f, key=lambda e: g[e] / t[e])") % ("p95", "min(t, key=t.get)"), "trade"),
    (RULE.replace("max(f, key=g.get)", "min(f, key=g.get)") % ("p95", "min(t, key=t.get)"), "worse"),
    (RULE.replace("        g =", "        n = [q for q in m if any(ndcg(q[e], q['graded']) > 0 for e in ('words', 'vector'))]\n"
                  "        if n: m = n\n        g =") % ("p95", "min(t, key=t.get)"), "nothing"),
])
def test_beliefs_about_who_should_answer(servers, code, belief):
    v = hand_in("23.1", code.replace("sum([q[e", "(lambda x: sum(x) / len(x))([q[e"))
    assert (v.state, belief in beliefs(v)) == (("pass", False) if belief is None else ("fail", True)), v
    if belief is None:                                     # both engines were asked, just now
        assert v.evidence["name"]["words"] > v.evidence["name"]["vector"] and v.evidence["like"]["chosen"] == "vector"


@pytest.mark.parametrize("code, rule", [("out[kind] = 'words'; continue", False), ("out[kind] = 'vector'; continue", False),
                                        ("m = log", True)])
def test_a_kind_with_few_questions_counts_like_any_other(servers, code, rule):
    "Where many rules fail no one rule is quoted, and the shortest of the questions that failed is shown."
    given = RULE.replace("        g =", f"        if len(m) < 5: {code}\n        g =") % ("p95", "min(t, key=t.get)")
    v = hand_in("23.1", given.replace("sum([q[e", "(lambda x: sum(x) / len(x))([q[e"))
    told = said(v)
    assert v.state == "fail" and beliefs(v) == {""} and "No known misconception explains this" in told, v
    assert ("each kind is decided by its own questions alone" in told, "no single rule explains it" in told) == (rule, not rule), v
    assert rule or told.partition("For example: ")[2].partition(", for '")[0].count("; ") == 1, v        # one kind, not two


# ---- 28.2: bounded memory

JOB = ("def per_genre(con, query, k):\n    c, h = {}, {}\n    for g, i, ms in %s:\n        c.setdefault(g, Counter())[ms] += 1\n"
       "        x = h.setdefault(g, [])\n        heapq.heappush(x, %s)\n        if len(x) > k: heapq.heappop(x)\n    def at(n):\n"
       "        left = -(-95 * n.total() // 100)\n        for ms in sorted(n):\n            left -= n[ms]\n"
       "            if left <= 0: return ms\n"
       "    return {g: [at(c[g]), [abs(i) for _, i in sorted(h[g], reverse=True)]] for g in c}")
IN_SQL = """def per_genre(con, query, k):
    p = con.execute(f"SELECT genre, percentile_disc(0.95) WITHIN GROUP (ORDER BY ms) FROM ({query}) x GROUP BY 1").fetchall()
    t = con.execute(f"SELECT genre, id FROM (SELECT *, row_number() OVER (PARTITION BY genre ORDER BY ms DESC, id) n "
                    f"FROM ({query}) x) y WHERE n <= %s ORDER BY genre, n", [k]).fetchall()
    return {g: [v, [i for name, i in t if name == g]] for g, v in p}"""


@pytest.mark.parametrize("code, belief", [
    (IN_SQL, None),
    ("import datetime as time\nfrom array import array\nfrom bisect import bisect\n"
     "seen, P, con, memory = deque(), 0.95, None, bisect\n"
     + (JOB % ("(seen.append(r) or seen.pop() for cur in [con.cursor('x')] for r in cur.execute(query))", "(ms, -i)")).replace(
         "at(c[g])", "at(c[g]) + array('i', [P > 1])[memory([7], 3)]"), None),        # the learner's names stay what they are
    (IN_SQL.replace("_disc", "_cont"), "rank"), (JOB % ("con.execute(query)", "(ms, -i)"), "client"),
    (JOB % ("con.execute(query).fetchall()", "(ms, -i)"), "fetchall"),
    (JOB % ("con.execute(query)", "(-ms, i)"), "heap"), (JOB % ("con.execute(query)", "(ms, i)"), "ties"),
    ((JOB % ("con.execute(query)", "(ms, -i)")).replace(", reverse=True", ""), "order"),
    ((JOB % ("con.execute(query)", "(ms, -i)")).replace(
        "at(c[g])", "int(sum(m * n for m, n in c[g].items()) / c[g].total())"), "formula"),
    (JOB % ("(row for cur in [con.cursor('x')] for _ in [cur.execute(query)] for rows in iter(lambda: cur.fetchmany(500_000), []) "
            "for row in rows)", "(ms, -i)"), "portion"),
    (JOB % ("con.execute(query + ' LIMIT 20000')", "(ms, -i)"), "first"),
])
def test_beliefs_about_memory(servers, code, belief):
    v = hand_in("28.2", code)
    assert (v.state, belief in beliefs(v)) == (("fail", True) if belief else ("pass", False)), v
    if not belief: assert v.evidence["grows_mb"] < 2.5 and v.evidence["rows"] == 1_000_000


def test_a_bounded_deque_is_told_what_it_kept(servers):
    "The last rows are not the slowest, and no known misconception explains a p95 of the last rows."
    job = JOB % ("con.cursor('x').execute(query)", "(ms, -i)")
    v = hand_in("28.2", job.replace("h.setdefault(g, [])", "h.setdefault(g, deque(maxlen=k))").replace("heapq.heappush(x, ",
                                                                                                      "deque.append(x, "))
    assert beliefs(v) == {"heap"} and "For example" in said(v) and "In g-funk" not in said(v), v
    v = hand_in("28.2", job.replace("c.setdefault(g, Counter())[ms] += 1", "c.setdefault(g, deque(maxlen=2_000)).append(ms)")
                .replace("at(c[g])", "sorted(c[g])[-(-95 * len(c[g]) // 100) - 1]"))
    assert v.state == "fail" and beliefs(v) == {""} and "No known misconception explains this" in said(v), v


# ---- 28.3: which of the five

BOOKS = ("def first_to_mend(tuesday, today):\n    w = {r['query']: r for r in tuesday}\n    def was(r, k): return "
    "w.get(r['query'], {}).get(k, 0)\n"
         "    return max(%s, key=lambda r: %s)['query']")
SPENT = "r['total_ms'] - was(r, 'total_ms')"


@pytest.mark.parametrize("code, belief", [
    (BOOKS % ("today", SPENT), None),
    (BOOKS % ("today", "r['calls'] * r['mean_ms'] - was(r, 'calls') * was(r, 'mean_ms')"), None),
    (BOOKS % ("today", f"-({SPENT})"), "least"), (BOOKS % ("today", "(r['calls'] - was(r, 'calls')) * r['mean_ms']"),
        "means_of_today"),
    (BOOKS % ("[r for r in today if r['query'] not in w] or today", SPENT), "newest"), (BOOKS % ("tuesday", "r['total_ms']"),
        "past"),
    (BOOKS % ("today", f"({SPENT}) / max(1, r['rows'] - was(r, 'rows'))"), "a_row"),
    (BOOKS % ("today", "r['calls'] / (was(r, 'calls') or r['calls'])"), "growth"),
    (BOOKS % ("today", "r['mean_ms'] - w.get(r['query'], r)['mean_ms']"), "worse"),
    (BOOKS % ("today", f"({SPENT}) / (r['calls'] - was(r, 'calls') or 1) - was(r, 'mean_ms')"), "worse"),
    (BOOKS % ("today", "(r['calls'] - was(r, 'calls')) * r['max_ms']"), "worst"),
    (BOOKS % ("today", f"({SPENT}) / r['total_ms']"), "growth"),
    (BOOKS % ("today", "r['max_ms'] - was(r, 'max_ms')"), ""),
])
def test_beliefs_about_the_five(servers, code, belief):
    v = hand_in("28.3", code)
    assert (v.state, beliefs(v)) == (("pass", set()) if belief is None else ("fail", {belief})), v
    if belief == "": assert "No known misconception explains this" in v.checks[-1].message


# ---- 29.1: the review

@pytest.fixture(scope="module")
def sketch():
    "The functions of the sketch as the learner gets them, by name, with their decorators."
    return {re.search(r"def (\w+)", part)[1]: part for part in re.split(r"\n\n(?=def|@)", exercise("29.1").stub.partition("\n")[2])}


LEFT = 'def variant(user_id):\n    return "AB"[hash(user_id) % 2]'
GOOD = {"best": 'def best(tracks, k=10):\n    return sorted(tracks, key=lambda t: t["score"], reverse=True)[:k]',
        "p95": "import numpy\ndef p95(times):\n    return numpy.percentile(times, 95, method='inverted_cdf')",
        "variant": 'import zlib\ndef variant(user_id):\n    return "AB"[zlib.crc32(user_id.encode()) >> 7 & 1]'}


def whole(sketch, mended): return "\n\n".join({**sketch, **mended}.values())


def changed(code, *pairs):
    for old, new in pairs:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def reviewed(sketch, mended=None, part="", change="", **_):
    "The code that a test below hands in."
    if mended is not None: return whole(sketch, GOOD | mended)
    code = change if isinstance(change, str) else changed(sketch[part], *change)
    return whole(sketch, {**{k: GOOD[k] for k in ("best", "p95")}, part: code})


@pytest.fixture(scope="module")
def reviews(request, sketch, memo_of) -> dict[str, Future]:
    "The verdicts by code. Each waits two seconds for a search that hangs, and computes little: so four are judged at a time."
    MEMO_OF[:] = [memo_of]
    asked = [i.callspec.params for i in request.session.items if "reviews" in getattr(i, "fixturenames", ())]
    with ThreadPoolExecutor(4) as pool:
        return {code: pool.submit(hand_in, "29.1", code) for code in dict.fromkeys(reviewed(sketch, **p) for p in asked)}


@pytest.mark.parametrize("mended, belief", [
    ({}, None),
    ({"variant": 'import random\ndef variant(user_id):\n    random.seed(4)\n    return random.choice("AB")'}, "even"),
    ({"variant": 'def variant(user_id):\n    return "AB"[hash(("new page", user_id)) % 2]'}, "seed"),
    ({"p95": "def p95(times):\n    return times[int(0.95 * len(times)) - 1]"}, "unsorted"),
    ({"p95": "import numpy\ndef p95(times):\n    return numpy.percentile(times, 95)"}, "rank"),
    ({"p95": "import statistics as s\ndef p95(times):\n    return s.mean(times) + 2 * s.pstdev(times)"}, "formula"),
    ({"variant": "def variant(user_id): return 'A'"}, "even"),
    ({"variant": LEFT, "over_budget": "def over_budget(component, latency_ms):\n"
      "    budget = {'search': 200, 'cache': 20, 'render': 100}.get(component)\n    return latency_ms > budget"}, "nameless"),
    ({"variant": LEFT, "recommend": "@timed\nasync def recommend(user_id, cache, "
      "search):\n    kept = cache.get(user_id)\n    if kept: return kept.decode().split(',')\n    start = time.monotonic()\n"
      "    tracks = await search(user_id)\n    if time.monotonic() - start > LIMIT_S: raise TimeoutError\n"
      "    ids = [t['id'] for t in best(tracks)]\n    cache.set(user_id, ','.join(ids), ex=60)\n    return ids"}, "after"),
    ({"best": 'def best(tracks, k=10):\n    return sorted(tracks, key=lambda t: t["score"])[-k:]'}, "order"),
    ({"variant": LEFT, "over_budget": "def over_budget(c, ms):\n    return ms > BUDGET_MS.get(c, 0)"}, "strict"),
    ({"best": 'def best(tracks, k=10):\n    tracks.sort(key=lambda t: -t["score"])\n    return tracks[:k]'}, ""),
    ({"timed": "def timed(f): return f"}, ""),
])
def test_a_review(sketch, reviews, mended, belief):
    v = reviews[reviewed(sketch, mended)].result()
    assert (v.state, belief in beliefs(v)) == (("pass", False) if belief is None else ("fail", True)), v
    said = " ".join(c.message for c in v.checks)
    untimed = belief is not None and "timed" not in mended
    assert ("recommendation takes microseconds" in said) is untimed and "to_thread" not in said
    if belief is None: assert "Not mended, and not asked for: timed, waits, blocks, budget, benchmark." in said


GET, SET, ASK = "cache.get(user_id)", 'cache.set(user_id, ",".join(ids), ex=60)', "await search(user_id)"
IN_A_THREAD = ("await asyncio.to_thread(cache.get, user_id)", 'await asyncio.to_thread(cache.set, user_id, ",".join(ids), ex=60)')
CLOCK, AWAITED = ("def wrapper", "async def wrapper"), ("return f(*args)", "return await f(*args)")
RULED = "def over_budget(component, latency_ms):\n    return latency_ms %s"
ASKS = ("def benchmark(search, n=20):\n    times = []\n    for i in range(n):\n        v = %s\n        start = "
        "time.perf_counter()\n        search(v)\n        times.append(time.perf_counter() - start)\n    return %s")


@pytest.mark.parametrize("part, change, belief, told", [
    ("recommend", [(GET, IN_A_THREAD[0]), (SET, IN_A_THREAD[1])], None, "best, blocks, p95"),
    ("recommend", [(GET, IN_A_THREAD[0]), (SET, "asyncio.ensure_future(asyncio.to_thread(cache.setex, user_id, 60, "
        "','.join(ids)))")],
     None, "best, blocks, p95"),
    ("recommend", [(GET, IN_A_THREAD[0])], "half", "everybody: cache.set"),
    ("recommend", [(GET, "await " + GET)], "awaitable", "'await' expression"),
    ("recommend", [(GET, f"await asyncio.to_thread({GET})")], "called", "not callable"),
    ("recommend", [("kept = " + GET, "async with asyncio.timeout(0.02): kept = " + GET)], "limit", "time limit of 0.02 s"),
    ("recommend", [(GET, "__import__('concurrent.futures').futures.ThreadPoolExecutor(1).submit(cache.get, user_id).result()")],
     "joined", "until that thread is done"),
    ("recommend", [(SET, SET.replace(", ex=60", ""))], "", "for ever"),
    ("recommend", [("tracks = " + ASK, "try: tracks = await asyncio.wait_for(search(user_id), LIMIT_S)\n"
                    "    except TimeoutError: return []")], None, "best, waits, p95"),
    ("recommend", [(ASK, "await asyncio.wait_for(search(user_id), BUDGET_MS['search'])")], "unit", "200 s; LIMIT_S is 0.5 s"),
    ("recommend", [(ASK, "await asyncio.wait_for(search(user_id), 1)")], "", "1 s; LIMIT_S is 0.5 s"),
    ("recommend", [(ASK, "await asyncio.wait_for(search(user_id), 0.2)")], "hasty", "given up after 0.2"),
    ("recommend", [("tracks = " + ASK, "try: tracks = await search(user_id)\n    except TimeoutError: return []")], "nobody",
        "goes on"),
    ("recommend", [("    tracks = " + ASK, "    while True:\n        try: tracks = await asyncio.wait_for(search(user_id), "
        "LIMIT_S); "
                    "break\n        except TimeoutError: pass")], "retry", "asked again"),
    ("recommend", [("tracks = " + ASK, "task = asyncio.ensure_future(search(user_id))\n"
                    "    if not (await asyncio.wait({task}, timeout=LIMIT_S))[0]: raise TimeoutError\n    tracks = task.result()")],
     "goes_on", "goes on"),
    ("recommend", [("tracks = " + ASK, "task = asyncio.ensure_future(search(user_id))\n"
                    "    if not (await asyncio.wait({task}, timeout=LIMIT_S))[0]:\n        task.cancel()\n        return []\n"
                    "    tracks = task.result()")], None, "best, waits, p95"),
    ("recommend", [("tracks = " + ASK, "try: tracks = await asyncio.wait_for(search(user_id), LIMIT_S)\n"
                    "    except Exception: return []")], "swallowed", "reaches the caller"),
    ("recommend", [(GET, IN_A_THREAD[0]), (SET, IN_A_THREAD[1].removeprefix("await "))], "unawaited", "never awaited"),
    ("best", "from time import time\nlook = ask = seen = tried = None\ndef best(tracks, k=10): "
     "return sorted(tracks, key=lambda t: -t['score'])[:k * (time() > 0)]", "", "2 of the eight are mended: best, p95"),
    ("timed", [CLOCK, AWAITED], None, "best, timed, p95"),
    ("timed", [CLOCK, ("try: return f(*args)\n        finally: TIMES", "out = await f(*args)\n        TIMES"),
               ("    return wrapper", "        return out\n    return wrapper")], "errors", "0 times in TIMES"),
    ("timed", [CLOCK, AWAITED, ("(time.", "(1000 * time."), ("start = time.", "start = 1000 * time.")], "unit",
     "in TIMES"),
    ("timed", [CLOCK, AWAITED, ("- start", "- began"), ("def timed(f):", "def timed(f):\n    began = "
               "time.perf_counter()")], "since", "in TIMES"),
    ("variant", "import itertools\nturns = itertools.cycle('AB')\ndef variant(user_id): return next(turns)", "turns", "second "
        "time"),
    ("variant", "def variant(user_id): return 'AB'[int(user_id.split('-')[1]) % 2]", "", "variant('ann')"),
    ("best", "def best(tracks, k=10): return sorted(tracks[:k], key=lambda t: -t['score'])", "cut", "the best three have"),
    ("best", "def best(tracks, k=10): return sorted(tracks, key=lambda t: t['score'])[:k][::-1]", "turned", "the best three have"),
    ("p95", "def p95(times): return sorted(times)[int(0.95 * len(times)) - 1]", "rank", "of 1 to 30 28 (29)"),
    ("p95", "def p95(times): return sorted(times, reverse=True)[-(-95 * len(times) // 100) - 1]", "end", "of 1 to 100 6 (95)"),
    ("p95", "def p95(times): return sorted(times)[-(-90 * len(times) // 100) - 1]", "", "of 1 to 100 90 (95)"),
    ("over_budget", RULED % ">= BUDGET_MS[component]", "border", "says True; it may take 200 ms"),
    ("benchmark", ASKS % ("[0.1 * (i + 1)] * 512", "p95(times)"), "few", "multiples of each other"),
    ("benchmark", ASKS % ("[(i * j) % 7 for j in range(1, 513)]", "1000 * p95(times)"), "few", "7 were for different"),
    ("benchmark", ASKS % ("[(i + 2) ** j % 991 for j in range(512)]", "1000 * p95(times)"), "", "returned 12000"),
    ("benchmark", (ASKS % ("[(i + 2) ** j % 991 for j in range(512)]", "p95(times)")).replace("(n)", "(20)"), "", "30) 20 times"),
])
def test_each_of_the_eight_by_itself(sketch, reviews, part, change, belief, told):
    v = reviews[reviewed(sketch, part=part, change=change)].result()
    said = " ".join(c.message for c in v.checks)
    assert (v.state, told in said) == ("fail" if belief is not None else "pass", True), v
    assert beliefs(v) <= {"", belief}, v                                            # and no other belief than that one
    if belief: assert belief in beliefs(v), v


def test_one_cause_is_told_once(sketch):
    timed = sketch["timed"].replace("    def wrapper", "    async def wrapper")
    v = hand_in("29.1", whole(sketch, GOOD | {"timed": timed}))
    assert [c.name for c in v.checks if c.belief] == ["timed"] and beliefs(v) == {"", "unawaited"}, v
    assert sum("coroutine" in c.message for c in v.checks) == 1


# ---- 25.1: the night

INTO = "COPY night_tracks (id, title, embedding) FROM STDIN (FORMAT csv{})"
NIGHT = ("def nightly(lines):\n    return ['BEGIN', 'DROP INDEX night_index', ({!r}, {}),\n"
         "            'CREATE INDEX {} night_index ON night_tracks USING hnsw (embedding vector_l2_ops{})', 'COMMIT']")
TEXT = "'\\n'.join(lines)"


@pytest.mark.parametrize("code, belief, told", [
    (NIGHT.format(INTO.format(", HEADER"), TEXT, "", ""), "header", "799 of 800"),
    ("def nightly(lines):\n    return ['INSERT INTO night_tracks (id, title, embedding) VALUES ' + ', '.join(\n"
     "        f\"({i}, '{t}', '{v}')\" for i, t, v in csv.reader(lines))]", "quoted", "syntax error"),
    (NIGHT.format("COPY night_tracks FROM STDIN (DELIMITER '~')", "'\\n'.join('~'.join(r) for r in csv.reader(lines))", "", ""),
     "text", "of 800"),
    (NIGHT.format(INTO.format(""), TEXT, "", ") WITH (m = 8"), "definition", "another definition"),
    (NIGHT.format(INTO.format(""), TEXT, "CONCURRENTLY", ""), "inside", "transaction block. Nothing more was sent."),
    (NIGHT.format(INTO.format(""), TEXT, "", "").replace("_l2_", "_cosine_"), "definition", "there with another definition"),
    (NIGHT.format(INTO.format(""), TEXT, "", "").replace("'CREATE", "'SELECT 1' or 'CREATE"), "dropped",
     "night_index is not there"),
    (NIGHT.format(INTO.format(""), TEXT, "", "").replace(", 'COMMIT'", ""), "open", "0 of 800"),
    (NIGHT.format(INTO.format(""), "'\\n'.join(','.join(r) for r in csv.reader(lines))", "", ""), "plain", "PostgreSQL said"),
    (NIGHT.format(INTO.format(""), "''.join(lines)", "", ""), "one_line", "extra data"),
    (NIGHT.format(INTO.format(""), "'\\n'.join(lines[1:])", "", ""), "header", "799 of 800"),
    (NIGHT.format(INTO.format(""), TEXT, "", "").replace(" night_index ON", " other_index ON"), "renamed", "night_index is not "
        "there"),
    (NIGHT.format(INTO.format(""), TEXT, "", "").replace("'DROP", "'TRUNCATE night_tracks', 'DROP"), "replaced", "it is not "
        "the table"),
    (NIGHT.format("COPY night_tracks FROM STDIN", "'\\n'.join(lines).replace(',', chr(9))", "", ""), "plain", "PostgreSQL said"),
    (NIGHT.format("COPY no_table FROM STDIN (FORMAT csv)", TEXT, "", ""), "", "does not exist. Nothing more was sent."),
])
def test_beliefs_about_a_night(servers, code, belief, told):
    v = hand_in("25.1", code)
    assert v.state == "fail" and beliefs(v) == {belief} and told in v.checks[1].message, v
