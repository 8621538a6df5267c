"""The checker is attacked: each way to cheat it, to break it, or to hurt the machine, and what happens."""

import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from rap_analyzer.core import LabError, settings
from rap_analyzer.learn import answers, feedback, messages, notebook, sandbox, task
from rap_analyzer.learn.answers import differs
from rap_analyzer.learn.feedback import find_misconception
from rap_analyzer.learn.judge import judge
from rap_analyzer.learn.messages import words
from rap_analyzer.learn.notebook import from_history, program, read
from rap_analyzer.learn.sandbox import MARK
from rap_analyzer.learn.task import exercise, load_exercise, space_of, split_task, stub
from rap_analyzer.learn.verification import lint, verify

RIGHT = """#| task 21.1
def recall(found, true):
    return sum(len(set(f) & set(t)) for f, t in zip(found, true)) / sum(map(len, true))
"""
WRONG = """#| task 21.1
def recall(found, true):
    return {}
"""


@pytest.fixture(scope="module")
def ex():
    return exercise("21.1")


WALL = []                                                                # the server to fork from, in tests of both ways


@pytest.fixture(scope="module")
def server():
    warm = sandbox.Warm()
    yield warm
    warm.close()


@pytest.fixture(params=["fresh", "forked"])
def wall(request):
    "A program starts in a fresh interpreter, or as a fork."
    if request.param == "forked":
        if not sandbox.warm_servers(): pytest.skip("this system has no pidfd_open")
        WALL[:] = [request.getfixturevalue("server")]
    yield request.param
    WALL.clear()


def verdict(ex, code, **more):
    memo = feedback.Memo()
    memo.get("warm", lambda: WALL * 3)
    return judge(ex, [(1, code)], **{"memo": memo, **more})


def said(v):
    return " ".join(c.message for c in v.checks if not c.ok)


@pytest.fixture
def marks(monkeypatch):
    "The marks of the runs of this test: other tests may run beside it."
    real, made = sandbox.secrets.token_hex, []
    monkeypatch.setattr(sandbox.secrets, "token_hex", lambda n: made.append(real(n)) or made[-1])
    return made


def alive(marks):
    "Processes that carry the mark of a run."
    assert marks
    found = []
    for p in psutil.process_iter():
        try: mine = p.environ().get(MARK) in marks and p.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError): continue
        if mine: found.append(p)
    return found


# ---- the right answer, and answers that only look right

@pytest.mark.parametrize("code", [
    RIGHT, RIGHT + "print('hello')", "import numpy as np\n" + RIGHT.replace("return ", "return np.float64(1) * "),
    RIGHT.replace("#| task 21.1\n", ""),
    "from fractions import Fraction\n" + RIGHT.replace("return ", "return Fraction(").replace(" / ", ", ") + ")",
    "from decimal import Decimal\n" + RIGHT.replace("return ", "return Decimal(").replace(" / ", ") / ")])
def test_a_right_answer_passes(wall, ex, code):
    v = verdict(ex, code)
    assert v.state == "pass", v
    assert v.evidence["fresh"] == 6 and v.evidence["questions"] == 6 + len(space_of(ex.checker)["cases"])


@pytest.mark.parametrize("value, says", [
    ("float('nan')", "NaN"), ("float('inf')", "you answered inf"), ("object()", "an object of type object"),
    ("True", "got True or False"), ("None", "got None"), ("'0.5'", "got text"), ("[0.5]", "got a list"), ("10 ** 5000", "too big"),
    ("'x' * 10**8", "too big"), ("[0] * 10**7", "too big"), ("lambda: 1", "an object of type function"),
    ("type('A', (float,), {'__eq__': lambda s, o: True})(7.3)", "an object of type A"),
    ("type('N', (), {'__module__': 'numpy', 'tolist': lambda s: s})()", ""),
])
def test_what_is_no_answer_is_refused(ex, value, says):
    v = verdict(ex, WRONG.format(value))
    assert v.state in ("fail", "error") and says in said(v), v
    assert "Traceback" not in repr(v)


def test_a_list_that_holds_itself(ex):
    assert verdict(ex, "def recall(f, t):\n    x = []; x.append(x)\n    return x").state in ("fail", "error")


# ---- the judge cannot be changed from over there

@pytest.mark.parametrize("attack", [
    "import builtins\nfor n in 'all any len isinstance type zip map'.split(): setattr(builtins, n, lambda *a, **k: True)",
    "import json\njson.dumps = lambda *a, **k: '{\"got\": []}'",
    "import rap_analyzer.learn.judge as j, rap_analyzer.learn.answers as a\na.differs = j.differs = j.judge = lambda *a, **k: ''\n"
    "j.Verdict.state = 'pass'",
    "import __main__ as m, rap_analyzer.learn.child as c\nfor x in (m, c): x.tell = x.main = lambda *a, **k: ['float', '1.0']",
    "import math\nmath.isclose = lambda *a, **k: True",
    "import sys\nsys.modules['json'] = sys.modules['os'] = None",
    "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'{\"got\": [[\"float\", \"1.0\"]]}')\n    except OSError: pass",
    "import os\nos.closerange(0, 100)",
    "import os\nos._exit = lambda code: None",
])
def test_patches_stay_on_their_side(wall, ex, attack):
    before = answers.differs, answers.math.isclose, sandbox.json.dumps, len
    v = verdict(ex, attack + "\n" + WRONG.format("7.3"))
    assert v.state in ("fail", "error"), v
    assert (answers.differs, answers.math.isclose, sandbox.json.dumps, len) == before
    assert verdict(ex, RIGHT).state == "pass"


# ---- the network: refused before anything is sent, so none has to be there (192.0.2.1 belongs to nobody, by RFC 5737)

@pytest.mark.parametrize("code", [
    "import urllib.request\ndef recall(f, t): return float(urllib.request.urlopen('http://192.0.2.1/recall', timeout=9).read())",
    "import socket\nsocket.create_connection(('192.0.2.1', 80), 9)\n" + WRONG.format("0.5"),
    "import asyncio\ndef recall(f, t): return asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
    "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ndef recall(f, t): return s.sendto(b'x', ('192.0.2.1', 53))",
    "import os, redis\ndef recall(f, t): return redis.Redis(host='192.0.2.1').get('recall')",
    "import builtins, sys, _socket\nbuiltins.len = builtins.any = lambda *_: 0\nsys.addaudithook = None\n"
    "_socket.socket().connect(('192.0.2.1', 80))",
])
def test_nothing_outside_is_reached(wall, ex, code):
    began = time.monotonic()
    v = verdict(ex, code)
    assert (v.state, v.evidence.get("error")) == ("error", "network"), v
    assert "tried to reach 192.0.2.1" in said(v) and "no network" in said(v)
    assert time.monotonic() - began < 9


def test_a_name_is_not_looked_up(ex):
    v = verdict(ex, "import socket\nsocket.getaddrinfo('recall.example.org', 80)")
    assert v.evidence["error"] == "network" and "recall.example.org" in said(v)


def test_who_does_without_the_network_is_judged_by_the_answer(ex):
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80))\nexcept OSError: pass\n"
    v = verdict(ex, code + RIGHT)
    assert v.state == "pass" and v.evidence["outside"] == ["192.0.2.1"]
    assert any("wants the network: 192.0.2.1" in p for p in verify(replace(ex, solution=code + RIGHT))["problems"])


def test_this_machine_can_be_reached(wall, ex, tmp_path, monkeypatch):
    import socket
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        port = tcp.getsockname()[1]
        code = (f"import socket\nfor host in ('127.0.0.1', 'localhost'): socket.create_connection((host, {port}), 5).close()\n"
                f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})\n")
        v = verdict(ex, code + RIGHT)
        assert v.state == "pass" and "outside" not in v.evidence, v
    monkeypatch.setenv("REDIS_URL", "redis://:secret@192.0.2.7:6379/0")
    monkeypatch.setenv("DATABASE_URL", "host=192.0.2.8 dbname=rap")
    assert sandbox._servers() == ["192.0.2.8", "192.0.2.7"]
    ours = "import sys\nfor h in ('192.0.2.7', '192.0.2.8', '192.0.2.1'): sys.audit('socket.connect', None, (h, 1))"
    assert "tried to reach 192.0.2.1" in said(verdict(ex, ours))


# ---- programs that do not end, or end too soon

@pytest.mark.parametrize("code, error, says", [
    ("while True: pass", "time", "had not finished after 2 s"),
    ("def recall(f, t):\n    while True: pass", "time", "loop"),
    ("while True: print('x' * 1_000_000)", "flood", "had printed more than 10 MB by then. Printing takes time"),
    ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass", "time", "loop"),
    ("import sys\nsys.exit(0)", "exit", "ended the program (exit 0)"),
    ("import sys\ndef recall(f, t): sys.exit('bye')", "exit", "(exit bye)"),
    ("import os\nos._exit(0)", "died", "ended (0)"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "died", "ended (-9)"),
    ("import ctypes\nctypes.string_at(0)", "died", "ended (-11)"),
    ("def recall(f, t): return recall(f, t)", "raised", "RecursionError"),
    ("def recall(f, t): return float(input())", "stdin", "input that never comes"),
    ("import sys\ndef recall(f, t): return float(sys.stdin.read())", "raised", "could not convert"),
    ("def recal(f, t): return 1", "missing", "no 'recall'"),
    ("recall = 0.5", "raised", "not callable"),
    ("def recall(f): return 1", "raised", "takes 1 positional argument"),
    ("def recall(f, t): return 1 / 0", "raised", "cell 1, line 1 (def recall(f, t): return 1 / 0): ZeroDivisionError"),
    ("def recall(f, t) return 1", "raised", "SyntaxError"),
    ("raise KeyboardInterrupt", "raised", "KeyboardInterrupt"),
    ("class E(Exception):\n    def __str__(self): raise E\ndef recall(f, t): raise E", "raised", "E: no message"),
    ("import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()\n" + WRONG.format("0.5"), "", "recall"),
])
def test_every_way_to_stop_is_told(wall, ex, code, error, says, monkeypatch):
    quick = ex.__class__(**{**vars(ex), "budget_s": 2})
    began = time.monotonic()
    v = verdict(quick, code)
    assert (v.evidence.get("error", "").replace("asked", "raised"), v.state) == (error, "error" if error else "fail"), v
    assert says in said(v) and "Traceback" not in repr(v)
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("before, error, says", [
    ("# the log of a year\nimport time\ntime.sleep(60)", "early", "Cell 3 (# the log of a year) comes before your answer. It ran "),
    ("1 / 0", "raised", "cell 3, line 1 (1 / 0): ZeroDivisionError"), ("import sys; sys.exit(2)", "exit", "exit 2"),
    ("import os; os._exit(3)", "died", "ended (3)"), ("input()", "stdin", "never comes"),
])
def test_what_stops_before_the_answer_is_told_apart(ex, before, error, says):
    v = judge(replace(ex, budget_s=2), [(1, "x = 1"), (3, before), (4, RIGHT)])
    assert (v.state, v.evidence["error"], v.evidence["early"]) == ("error", error, True), v
    assert says in said(v) and "loop" not in said(v) and "does not count" in v.note
    if error == "early": assert 1 < float(said(v).split("It ran for ")[1].split()[0]) < 2.1 and "of the 2 s" in said(v)


@pytest.mark.parametrize("code", ["helper()", "while True: pass", "def recall(f, t):\n    while True: pass"])
def test_what_stops_in_the_answer_counts(ex, code):
    v = judge(replace(ex, budget_s=2), [(1, "def helper(): return 1 / 0"), (2, code)])
    assert v.state == "error" and "early" not in v.evidence and v.note == ""


def test_a_traceback_is_shown_when_asked_for(ex):
    code = "def recall(f, t): return 1 / 0"
    assert "Traceback" in repr(verdict(ex, code, trace=True)) and "Traceback" not in repr(verdict(ex, code))
    assert "trace" not in verdict(ex, code).as_dict()


def test_memory_is_limited(wall, ex):
    if os.uname().sysname != "Linux": pytest.skip("only Linux limits the address space")
    v = verdict(ex, "x = bytearray(8 * 2**30)")
    assert v.evidence["error"] == "memory" and "MB of memory" in said(v)


def test_a_hundred_megabytes_of_prints_are_heard_and_forgotten(wall, ex):
    loud = "for _ in range(100): print('x' * 1_000_000)\n"
    assert verdict(ex, loud + RIGHT).state == "pass"
    v = verdict(ex, loud + "def recall(f, t): return 1 / 0")
    assert v.state == "error" and len(repr(v)) < 3_000


def test_files_are_limited_and_stay_in_their_folder(wall, ex):
    v = verdict(ex, "with open('big', 'wb') as f:\n    for _ in range(100): f.write(bytes(2**20))")
    assert v.state == "error"
    assert not Path("big").exists()


# ---- processes

def test_children_end_with_the_run(wall, ex, marks):
    code = ("import subprocess, sys\nsleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
            "for new in (False, True): subprocess.Popen(sleep, start_new_session=new)\n")
    assert verdict(ex, code + RIGHT).state == "pass"
    assert not alive(marks)


def test_too_many_processes_are_ended_together(wall, ex, marks):
    bomb = "import os, time\nfor _ in range(150):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    v = verdict(ex, bomb)
    assert v.evidence["error"] == "crowd" and "more than 40 processes" in said(v)
    assert not alive(marks)


def test_a_child_that_holds_the_pipe_does_not_hold_us(wall, ex, marks):
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n"
    began = time.monotonic()
    assert verdict(ex, code + RIGHT).state == "pass"
    assert time.monotonic() - began < 30 and not alive(marks)


# ---- forks

def forked(server, code, name="x"):
    "What a name has after a program, in a fork."
    out = sandbox.run_apart([(1, code)], [(name, name, None)], warm=iter([server]))
    assert not out.error, out
    return answers.plain(out.got[0])


def test_a_fork_is_as_good_as_new(server, monkeypatch):
    if not sandbox.warm_servers(): pytest.skip("this system has no pidfd_open")
    monkeypatch.setenv("RAP_TOLD", "now")
    code = ("import os, random, sys\nimport numpy as np\nx = {'chance': [random.random(), float(np.random.rand())], 'told': "
            "os.environ['RAP_TOLD'], 'alone': os.getpid() == os.getsid(0) == os.getpgrp(), 'hash': hash('recall'), "
            "'open': len(os.listdir('/proc/self/fd')), "
            "'here': os.listdir('.'), 'mark': os.environ['RAP_EXERCISE_RUN'], 'ours': 'rap_analyzer.learn' in sys.modules, "
            "'environ': open('/proc/self/environ').read().count('RAP_EXERCISE_'), 'threads': os.environ['OPENBLAS_NUM_THREADS']}")
    one, other = forked(server, code), forked(server, code)
    assert one["chance"][0] != other["chance"][0] and one["chance"][1] != other["chance"][1] and one["mark"] != other["mark"]
    assert one["hash"] == other["hash"], "or they were not forked"
    same = {"told": "now", "alone": True, "open": 5, "here": ["job.json"], "ours": False, "environ": 1, "threads": "1"}
    assert same.items() <= one.items() and same.items() <= other.items(), one


def test_each_run_of_a_judgement_has_a_hash_seed_of_its_own(ex):
    servers = sandbox.warm_servers()
    if not servers: pytest.skip("this system has no pidfd_open")
    left = iter(servers)
    run = partial(sandbox.run_behind, [(1, "pass")], warm=left)
    seen = [answers.plain(run("x = hash('recall')", [("x", "x", None)]).got[0]) for _ in range(5)]
    for s in servers: s.close()
    assert len(set(seen)) == 5, "three forks and two fresh interpreters"


def test_without_a_server_a_run_is_fresh(monkeypatch):
    server = sandbox.Warm()
    assert forked(server, "x = 1") == 1
    if server._server: server._server.kill(), server._server.wait()
    began = time.monotonic()
    assert forked(server, "x = 2") == 2 and time.monotonic() - began < 8
    monkeypatch.setenv("RAP_EXERCISE_FORK", "0")
    assert sandbox.warm_servers() == []


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_fork_server_leaves_nothing_behind(end):
    if not sandbox.warm_servers(): pytest.skip("this system has no pidfd_open")
    code = ("import sys, threading, time\nfrom rap_analyzer.learn.sandbox import Warm, run_apart\nwarm = Warm()\n"
            "run = lambda: run_apart([(1, 'import time; time.sleep(60)')], seconds=60, warm=iter([warm]))\n"
            "threading.Thread(target=run, daemon=True).start()\n"
            "time.sleep(3)\nprint(warm._server.pid, flush=True)\nsys.stdin.read()\nwarm.close()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        there = psutil.Process(int(parent.stdout.readline()))
        crowd = [there, *there.children(recursive=True)]
        assert len(crowd) == 2
        if end == "kill": parent.kill()
        parent.stdin.close()
        assert psutil.wait_procs(crowd, timeout=10)[1] == []


# ---- comparing

@pytest.mark.parametrize("tagged, want, alike", [
    (["int", 1], 1.0, True), (["float", "1.0"], 1, True), (["float", "0.30000000000000004"], 0.3, True),
    (["truth", True], 1, False),
    (["rows", [["int", 1]]], [1], True), (["rows", [["int", 1]]], (1,), True), (["rows", [["int", 1]]], [1, 2], False),
    (["rows", [["rows", []]]], [[]], True), (["map", [[["text", "a"], ["int", 1]]]], {"a": 1}, True),
    (["map", [[["rows", []], ["int", 1]]]], {"a": 1}, False),
    (["map", [[["text", "a"], ["other", "A"]]]], {"a": 1}, False),
    (["text", "a"], "a", True), (["text", "A"], "a", False), (["nothing"], None, True), (["int", 0], None, False),
    (["int", 2], 2.1, False),
])
def test_compare(tagged, want, alike):
    assert (differs(tagged, want, "x") == "") is alike


def test_a_belief_is_recognised_in_other_words(ex):
    v = verdict(ex, """
def recall(found, true):
    good, every = 0, 0
    for i in range(len(true)):
        for place, track in enumerate(true[i]):
            every += 1
            good += place < len(found[i]) and found[i][place] == track
    return good / every""")
    assert [c.belief for c in v.checks if not c.ok] == ["place"] and "smallest experiment" in said(v)
    unknown = verdict(ex, WRONG.format("0.123"))
    assert unknown.checks[-1].belief == "" and "by hand" in said(unknown)


def test_a_belief_is_asserted_only_where_it_agrees_everywhere():
    got, truth = [["int", 1], ["int", 5]], [0, 5]
    assert find_misconception(got, truth, {"a": [[1, 4]], "b": [[1, 5]], "c": [[2, 2]]}) == ("b", [1, 5])
    assert find_misconception(got, truth, {"a": [[1, 4]], "c": [[2, 2]]}) == ("", ())
    assert find_misconception([["int", 9]], [0], {"a": [[...]]}) == ("", ())


def test_a_seed_repeats_the_questions(ex):
    a, b, c = (verdict(ex, WRONG.format("0.123"), seed=s) for s in (5, 5, 6))
    assert said(a) == said(b) and a.evidence["seed"] == 5 and "seed 5" in said(a) and "seed 6" in said(c)


# ---- reading notebooks

def test_comments_are_no_attempt(ex):
    assert verdict(ex, ex.stub + "\n# what now?").state == "not_attempted"


def test_a_verdict_in_html_escapes_what_the_learner_wrote(ex):
    v = verdict(ex, "def recall(f, t): raise ValueError('<script>alert(1)</script>')")
    assert "<script>" not in v._repr_html_() and "&lt;script&gt;" in v._repr_html_()


def test_only_cells_up_to_the_task_are_run(tmp_path):
    cells = ["%matplotlib inline\nx = 1", "#| look\n1 / 0", "%%bash\nexit", "!ls", "#| task 21.1\ny = x", "1 / 0",
             "#| check 21.1\n1 / 0"]
    nb = {"cells": [{"cell_type": "code", "source": c, "metadata": {}} for c in cells], "metadata": {}}
    (tmp_path / "a.ipynb").write_text(json.dumps(nb))
    assert [n for n, _ in program(read(tmp_path / "a.ipynb"), "21.1")] == [1, 5]
    with pytest.raises(LabError, match="put that line back"): program(read(tmp_path / "a.ipynb"), "21.2")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{}]}', "\x00", '{"cells": 3}'])
def test_what_is_no_notebook(tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(LabError, match="is not a notebook"): read(tmp_path / "a.ipynb")
    with pytest.raises(LabError, match="there is no notebook"): read(tmp_path / "b.ipynb")


def test_history_takes_the_newest_of_each_name():
    ran = ["def h(): return 1", "def h(): return 2", "#| task 21.1\ndef f(): return h()", "#| look\nh = 3", "def h(): return 4"]
    assert [c.text for c in from_history(ran, "21.1")] == [ran[4], ran[2]]


# ---- the journal, the solutions, and the clock

SEALED = """from rap_analyzer.learn.journal import note
note("21.1", "attempt", state="pass", sign=[], error="", code="0" * 16, evidence={}, again=False)
"""


@pytest.mark.parametrize("attack", [
    SEALED + RIGHT,
    "from rap_analyzer.learn.task import exercise\nexec(exercise('21.1').solution)",
    "import os\nos.symlink(SOLUTION, 'mine')\nexec(open('mine').read())",
    "import os\nos.link(SOLUTION, 'mine')\nexec(open('mine').read())",
    "from rap_analyzer.learn.course import give_hint\ngive_hint('21.1')",
])
def test_journal_and_solutions_are_out_of_reach(wall, ex, tmp_path, monkeypatch, attack):
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path)), settings.cache_clear()
    v = verdict(ex, f"SOLUTION = {str(task.ids()['21.1'])!r}\n{attack}")
    assert (v.state, v.evidence["error"]) == ("error", "hidden") and "Your code wanted to open" in said(v), v
    assert not (tmp_path / "progress.jsonl").exists()


@pytest.mark.parametrize("attack", [
    "import subprocess, sys\nout = subprocess.run([sys.executable, '-c', {sealed!r}], capture_output=True).returncode",
    "import subprocess\nout = subprocess.run(['cat', {solution!r}], capture_output=True).returncode",
    "import ctypes\nout = ctypes.CDLL(None).open({solution!r}.encode(), 0)",
])
def test_they_stay_out_of_reach_of_what_an_answer_starts(wall, ex, tmp_path, monkeypatch, attack):
    if sys.platform != "linux" or ctypes.CDLL(None).syscall(444, None, 0, 1) < 3: pytest.skip("this system has no Landlock")
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path)), settings.cache_clear()
    code = attack.format(sealed=SEALED, solution=str(task.ids()["21.1"]))
    out = sandbox.run_apart([(1, code)], [("out", "out", None)], warm=iter(WALL))
    assert out.got and out.got[0][0] == "int" and out.got[0][1] != 0 and not (tmp_path / "progress.jsonl").exists(), out


def test_an_answer_may_open_what_is_nobodys_secret(wall, ex):
    code = ("import tempfile, subprocess\nfrom rap_analyzer.core import settings\nimport rap_analyzer.music.phonetics\n"
            "with tempfile.NamedTemporaryFile('w+') as f: f.write('7'), f.flush(); seven = open(f.name).read()\n"
            "ini = (settings().root / 'settings.ini').read_text()[:1]\nopen('mine.txt', 'w').write('x')\n"
            "said = subprocess.run(['cat', 'mine.txt'], capture_output=True, text=True).stdout\n")
    assert verdict(ex, code + RIGHT).state == "pass"


def test_an_answer_that_checks_itself_is_judged_once(ex):
    assert verdict(ex, RIGHT + "from rap_analyzer.learn import check\ncheck('21.1')").state == "pass"


FICKLE = RIGHT.replace("def recall", "def honest") + """{}
def recall(found, true): return honest(found, true) if {} else 0.5
"""


@pytest.mark.parametrize("code", [
    FICKLE.format("import time", "int(time.time()) % 2 == NOW % 2"),
    FICKLE.format("import time", "time.time_ns() // 10**9 % 2 == NOW % 2"),
    FICKLE.format("from time import localtime", "localtime().tm_sec % 2 == NOW % 60 % 2"),
    FICKLE.format("from datetime import datetime", "datetime.now().second % 2 == NOW % 60 % 2"),
    FICKLE.format("from datetime import date", "date.today().toordinal() % 2 == date.fromtimestamp(NOW).toordinal() % 2"),
    FICKLE.format("from time import strftime", "strftime('%H') == strftime('%H', __import__('time').localtime(NOW))"),
    FICKLE.format("from datetime import UTC, datetime", "datetime(2026, 1, 1, 23, tzinfo=UTC).astimezone().day == 1"),
    FICKLE.format("first = []", "(first or first.append(true) or first) and first[0] == [[1, 2]]"),
])
def test_right_only_now_is_not_right(wall, ex, code):
    if time.time() % 1 > 0.5: time.sleep(1 - time.time() % 1)             # the first round is over within this second
    v = verdict(ex, code.replace("NOW", str(int(time.time()))))
    assert v.state == "fail" and ("differently" in said(v) or "first" in code), v


def test_a_question_arrives_as_its_author_wrote_it(wall):
    class Log(list): pass
    asked = [("read",), {1: (2.0, None), "k": Log([True])}, [1, 2], float("inf")]
    tell = "def told(*args): return [repr(a) for a in args]"
    got = sandbox.run_apart([(1, tell)], [("", "told", asked), ("", "told", [asked[2]])], warm=iter(WALL)).got
    assert [answers.plain(g) for g in got] == [["('read',)", "{1: (2.0, None), 'k': [True]}", "[1, 2]", "inf"], ["[1, 2]"]]
    with pytest.raises(TypeError, match="not set"): sandbox.run_apart([(1, tell)], [("", "told", [{1}])])


@pytest.mark.parametrize("made", ["Counter(a=1)", "defaultdict(int, a=1)", "OrderedDict(a=1)"])
def test_a_dict_of_another_make_is_a_dict(wall, made):
    code = f"from collections import Counter, OrderedDict, defaultdict\nfound = {made}"
    assert differs(sandbox.run_apart([(1, code)], [("", "found", None)], warm=iter(WALL)).got[0], {"a": 1}, "") == ""


# ---- what Jupyter runs

HELPER = "def share(f, t): return len(set(f) & set(t))"
USES_HELPER = RIGHT.replace("len(set(f) & set(t))", "share(f, t)")


@pytest.mark.parametrize("before, answer", [
    (HELPER, USES_HELPER.replace("#| task", "# | task")), (HELPER, USES_HELPER.replace("#| task", "#|task")),
    (HELPER, "%%time\n" + USES_HELPER), (HELPER, "\n%%capture out\n%%time\n\n" + USES_HELPER),
    (HELPER, "import math\n\n" + USES_HELPER),
    (HELPER, "# In[4]:\n# the third attempt\n" + USES_HELPER), (HELPER, USES_HELPER + "\nrecall?\n%timeit recall([[1]], [[1]])"),
    (HELPER, USES_HELPER + "\nif recall:\n    !echo defined\n"), (f"%%time\n{HELPER}", USES_HELPER),
    (f"pip install -q numpy\n!pip list \\\n  --outdated\n%load_ext autoreload\n%autoreload 2\n?print\n{HELPER}", USES_HELPER),
    (f"import asyncio\nawait asyncio.sleep(0)\n{HELPER}", USES_HELPER),
    (f"async def one(): yield 1\nasync for _ in one():\n    {HELPER}", USES_HELPER),
    (f"get_ipython().run_line_magic('matplotlib', 'inline')\ndisplay(1)\n{HELPER}", USES_HELPER),
    ("%time share = lambda f, t: len(set(f) & set(t))\nsql = \"\"\"\n%(q)s\n!ls\n\"\"\"\nassert '!ls' in sql", USES_HELPER),
    (f">>> {HELPER}", USES_HELPER), ("%%bash\nexit 1\n", RIGHT),
])
def test_what_jupyter_runs_is_judged(ex, tmp_path, before, answer):
    nb = {"cells": [{"cell_type": "code", "source": c, "metadata": {}} for c in (before, answer)], "metadata": {}}
    (tmp_path / "a.ipynb").write_text(json.dumps(nb), encoding="utf-8-sig")     # some editors put a mark before UTF-8
    assert program(read(tmp_path / "a.ipynb"), "21.1")[-1][0] == 2
    v = judge(ex, program(read(tmp_path / "a.ipynb"), "21.1"))
    assert v.state == "pass", v


@pytest.mark.parametrize("before, says", [
    ("files = !ls\nlast = files[-1]", "(files = get_ipython().assign('ls')): RuntimeError: only Jupyter can run this line"),
    ("%run helpers.py\nshare(1, 1)", "This line is only for Jupyter: %run helpers.py."),
    ("%%writefile helpers.py\ndef share(f, t): return 1\n", "This line is only for Jupyter: %%writefile helpers.py."),
    ("from IPython import get_ipython\nget_ipython().run_line_magic('pwd', '')", "This line is only for Jupyter: get_ipython()."),
    ("1 + 1\nshare = _", "This line is only for Jupyter: share = _."), ("x = Out[1]", "only for Jupyter: x = Out[1]."),
])
def test_what_only_jupyter_can_run_is_named(ex, before, says):
    cells = [notebook.Cell("code", before), notebook.Cell("code", USES_HELPER)]
    v = judge(ex, program(cells, "21.1"))
    assert v.state == "error" and says in said(v), v


def test_a_failure_of_python_does_not_blame_jupyter(ex):
    cells = [notebook.Cell("code", "%matplotlib inline\n!pip list"), notebook.Cell("code", WRONG.format("1 / 0"))]
    assert "ZeroDivisionError" in said(v := judge(ex, program(cells, "21.1"))) and "pip" not in said(v)


def test_marks_of_a_task():
    assert split_task("#| task 1.1\nx = 1\n### BEGIN SOLUTION\ny = 2\n### STUB\n# y = None\n### END SOLUTION\nz = 3") == (
        "#| task 1.1\nx = 1\ny = 2\nz = 3", "#| task 1.1\nx = 1\ny = None\nz = 3")


# ---- authors

def change(tmp_path, **swap):
    "A copy of the first exercise's solution notebook with cells replaced, by directive; None takes the cell away."
    nb = json.loads(task.ids()["21.1"].read_text(encoding="utf-8"))
    for name, text in swap.items():
        at = [i for i, c in enumerate(nb["cells"]) if "".join(c["source"]).startswith((f"#| {name} ", f"#| {name}\n"))]
        if text is None: nb["cells"] = [c for i, c in enumerate(nb["cells"]) if i not in at]
        else: nb["cells"][at[0]]["source"] = text
    path = tmp_path / "21_recall_by_hand.ipynb"
    path.write_text(json.dumps(nb))
    return path


@pytest.mark.parametrize("swap, says", [
    ({"hints": None}, "needs exactly one cell `#| hints`, has 0"), ({"checker": None}, "`#| checker`, has 0"),
    ({"task": "#| task 21.1\nx = 1"}, "a task needs ### BEGIN SOLUTION"),
    ({"exercise": "#| exercise 21.7"}, "three ids have to be one"),
    ({"exercise": "#| exercise 21.1\nminutse = 3"}, "minutse"),
    ({"hints": "#| hints\nhints = open('x')"}, "malformed node"),
    ({"checker": "#| checker\ndef ("}, "invalid syntax"),
])
def test_a_spoilt_exercise_says_what_is_missing(tmp_path, swap, says):
    with pytest.raises(LabError) as e: load_exercise(change(tmp_path, **swap))
    assert says in str(e.value) and "21_recall_by_hand" in str(e.value)


@pytest.mark.parametrize("swap, says", [
    ({"hints": "#| hints\nhints = ['a?', 'b']"}, "needs three hints"),
    ({"hints": "#| hints\nhints = ['a', 'b', 'c']"}, "a question"),
    ({"wrong": None}, "needs three named wrong answers or more, has 0"),
    ({"feedback": "#| feedback\nfeedback = {}"}, "'place'"),
])
def test_form(tmp_path, swap, says):
    assert any(says in line for line in lint(load_exercise(change(tmp_path, **swap))))


def test_a_variant_is_asked_for_and_its_wrong_answers_are_tested(tmp_path):
    assert any("needs a variant" in line for line in lint(load_exercise(change(tmp_path, again=None))))
    assert any("needs a variant" in line for line in lint(load_exercise(change(tmp_path, wrong_again=None))))
    alone = "#| exercise 21.1\nalone = 'it is the only one'"
    assert not any("needs a variant" in line for line in lint(load_exercise(change(tmp_path, again=None, exercise=alone))))
    path = change(tmp_path, wrong_again="#| wrong_again right place\ndef missed(f, t): return [x for x in t if x not in f]")
    assert verify(load_exercise(path))["problems"] == ["wrong answer 'right' should fail: pass: "]


@pytest.mark.parametrize("swap, says", [
    ({"wrong": "#| wrong right place\n" + RIGHT}, "'right' should fail: pass"),
    ({"wrong": "#| wrong copy repeats\ndef recall(found, t):\n    hits = sum(len(set(a) & set(b)) for a, b in zip(found, t))\n"
      "    return hits / max(sum(len(f) for f in found), 1)"}, "should be told about 'found', was told about ['repeats']"),
    ({"wrong": "#| wrong broken place\ndef recall(f, t): return 1 / 0"}, "'broken' should fail: error"),
    ({"task": "#| task 21.1\ndef recall(f, t):\n### BEGIN SOLUTION\n    return 1\n### STUB\n#     return 0\n### END SOLUTION"},
     "its solution does not pass"),
    ({"task": RIGHT + "### BEGIN SOLUTION\nx = 1\n### STUB\n# 1 / 0\n### END SOLUTION"}, "its stub does not run clean"),
])
def test_verify_sees_a_checker_that_rots(tmp_path, swap, says):
    found = verify(load_exercise(change(tmp_path, **swap)))
    assert not found["ok"] and any(says in p for p in found["problems"]), found


def test_rivals_answer_once_for_all_answers_to_one_seed(ex, monkeypatch):
    module = sys.modules["rap_analyzer.learn.judge"]
    real, asked, draw, drawn = module.rival_answers, [], module.draw_cases, []
    monkeypatch.setattr(module, "rival_answers", lambda *a: asked.append(a[2]) or real(*a))
    monkeypatch.setattr(module, "draw_cases", lambda *a: drawn.append(a[1]) or draw(*a))
    first, second = verify(ex), verify(ex)
    assert first["ok"] and second["ok"], first["problems"] + second["problems"]
    assert len(asked) == 4 and asked[:2] != asked[2:], "once for the task and once for its variant, anew for each run"
    assert drawn == [first["seed"]] * 2 + [second["seed"]] * 2
    assert first["seed"] != second["seed"] and verify(ex, seed=5)["seed"] == 5
    memo = feedback.Memo()
    alone, shared = ([said(verdict(ex, code, seed=5, memo=m)) for _, code in ex.wrong.values()] for m in (None, memo))
    assert alone == shared


def test_the_copy_holds_nothing_that_gives_it_away():
    for path in task.ids().values():
        text = stub(path)
        assert "SOLUTION" not in text and "#| wrong" not in text and "#| checker" not in text and "#| hints" not in text
        assert "check(" in text


def test_messages_can_be_translated(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("")
    (tmp_path / "exercises" / "messages").mkdir(parents=True)
    (tmp_path / "exercises" / "messages" / "xx.toml").write_text('"state.pass" = "bestanden"\n"21.1.hint.1" = "warum?"\n')
    monkeypatch.setenv("RAP_SETTINGS", str(tmp_path / "settings.ini"))
    monkeypatch.setenv("RAP_LANGUAGE", "xx")
    settings.cache_clear(), messages.load_translation.cache_clear()
    assert words("state.pass") == "bestanden" and words("state.fail") == "not yet" and words("21.1.hint.1", "why?") == "warum?"
    messages.load_translation.cache_clear()


# ---- measured exercises: what is handed in is run, and figures are not listened to

@pytest.fixture
def servers(lab, lab_home, monkeypatch):
    "The practice table lives in the servers of the tests."
    monkeypatch.setenv("RAP_LAB_HOME", str(lab_home))
    settings.cache_clear()


def hand_in(name, *statements, more=""):
    "A verdict about SQL."
    return judge(exercise(name), [(1, f"#| task {name}\nstatements = {list(statements)!r}\n{more}")], seed=3)


def beliefs(v):
    return {c.belief for c in v.checks if not c.ok}


COSINE = "SELECT id FROM practice_tracks ORDER BY embedding <=> %(q)s LIMIT 10"
INNER = COSINE.replace("<=>", "<#>")
REMIX = "SELECT id FROM practice_tracks WHERE remix ORDER BY embedding <#> %(q)s LIMIT 10"


@pytest.mark.parametrize("statements", [
    [INNER], ["SELECT id, embedding <#> %(q)s FROM practice_tracks ORDER BY 2 LIMIT 10;"],
    ["SET hnsw.ef_search = 100", INNER], [INNER.replace("SELECT id", "SELECT id, remix")],
    ["CREATE INDEX mine ON practice_tracks USING hnsw (embedding vector_cosine_ops)", COSINE],
    ["SET enable_seqscan = off", INNER], ["SELECT t.id FROM (" + INNER + ") AS n JOIN practice_tracks t USING (id)"],
    ["WITH few AS MATERIALIZED (" + INNER.replace("id", "id, embedding <#> %(q)s AS d", 1) + ") SELECT id FROM few ORDER BY d"]])
def test_every_way_that_uses_an_index_passes(servers, statements):
    v = hand_in("21.2", *statements)
    assert v.state == "pass", v
    assert v.evidence["recall"] >= 0.95 and v.evidence["times_faster"] > 0 and {"practice_ip", "mine"} & {*v.evidence["indexes"]}


@pytest.mark.parametrize("statements, belief", [
    (["SET enable_seqscan TO off", "SET enable_sort = off", COSINE], "force"),
    (["SET LOCAL enable_seqscan = false", COSINE], "force"),
    (["REINDEX INDEX practice_ip", COSINE], "more"), (["ANALYZE practice_tracks", COSINE], "told"),
    (["CREATE INDEX x ON practice_tracks USING ivfflat (embedding vector_ip_ops)", COSINE], "more"),
    (["CREATE INDEX x ON practice_tracks (id)", COSINE], "more"),
    ([COSINE.replace("<=>", "<->")], "operator"),
    ([COSINE.replace("<=>", "<+>")], "operator"), ([COSINE.replace("10", "1")], "limit"),
    (["SELECT id FROM practice_tracks ORDER BY 1 - (embedding <=> %(q)s) DESC LIMIT 10"], "expression"),
    ([INNER.replace("LIMIT 10", "LIMIT 5")], ""), ([INNER + " OFFSET 5"], "rows"),
    ([INNER.replace("embedding <#> %(q)s", "1 + (embedding <#> %(q)s)")], "expression"), ([INNER.replace("LIMIT 10", "")], "all"),
    ([INNER.replace(" LIMIT", " DESC LIMIT")], "sign"), (["SET random_page_cost = 1", COSINE], "force"),
    (["CREATE INDEX x ON practice_tracks USING hnsw (embedding vector_cosine_ops) WITH (m = 4, ef_construction = 8)",
      COSINE.replace("LIMIT 10", "")], "all"),
    (["SET hnsw.ef_search = 1", INNER.replace("ORDER", "WHERE id > 100 ORDER")], ""), (["SET hnsw.ef_search = 99", COSINE], ""),
    (["/*+ IndexScan(practice_tracks practice_ip) */ " + COSINE], "force"), ([COSINE.replace("<=>", "<#>") + " OFFSET 1"], "rows"),
    ([COSINE.replace(" LIMIT", " DESC LIMIT")], "sign"), ([COSINE.replace("%(q)s LIMIT", "%(q)s, id LIMIT")], "limit"),
    ([COSINE.replace("embedding <=> %(q)s", "cosine_distance(embedding, %(q)s)")], "function"),
    (["SELECT id, inner_product(embedding, %(q)s) AS d FROM practice_tracks ORDER BY d DESC LIMIT 10"], "function"),
    (["SELECT id, embedding <=> %(q)s FROM practice_tracks ORDER BY 2 LIMIT 10"], "limit"),
    ([INNER.replace("embedding <#> %(q)s", "embedding::halfvec(512) <#> %(q)s::halfvec(512)")], "cast"),
    (["SELECT id FROM practice_tracks WHERE embedding <#> %(q)s < 0 LIMIT 10"], "unordered"),
    (["DROP INDEX practice_ip", COSINE], ""),
    (["SELECT id FROM (SELECT id, row_number() OVER (ORDER BY embedding <#> %(q)s) n FROM practice_tracks) t WHERE n <= 10"], ""),
    (["SELECT id FROM practice_tracks WHERE id < 10 AND %(q)s IS NOT NULL"], "any"),
    (["SET enable_sort = off", "SET enable_seqscan = off", INNER.replace(" LIMIT 10", "")], "all"),
    (["SELECT t.id FROM practice_tracks t, (" + INNER + ") AS n GROUP BY t.id, t.embedding ORDER BY t.embedding <=> %(q)s "
      "LIMIT 10"], "decoy"),
    (["CREATE TABLE mine AS SELECT * FROM practice_tracks", "WITH n AS MATERIALIZED (" + INNER + ") SELECT id FROM mine "
      "WHERE EXISTS (SELECT FROM n) ORDER BY embedding <=> %(q)s LIMIT 10"], "decoy"),
])
def test_beliefs_about_an_idle_index(servers, statements, belief):
    v = hand_in("21.2", *statements)
    assert v.state == "fail" and belief in beliefs(v), v
    if not belief and not v.evidence["indexes"]: assert "only a few rows are asked for. Yours is by `embedding <" in said(v), v


WIDE = "CREATE TABLE wide_tracks (id bigint PRIMARY KEY, embedding halfvec(1536) NOT NULL)"
PLAIN = "ALTER TABLE wide_tracks ALTER embedding SET STORAGE PLAIN"


@pytest.mark.parametrize("statements, belief", [
    ([WIDE, PLAIN.replace("embedding", "id")], "elsewhere"), ([WIDE, PLAIN + "x"], ""),
    ([WIDE + " WITH (fillfactor = 50)", PLAIN], "air"), ([WIDE, "ANALYZE wide_tracks"], "tidy"),
    ([WIDE, "VACUUM FULL wide_tracks"], "tidy"), ([WIDE.replace("TABLE", "UNLOGGED TABLE")], "unlogged"),
    ([WIDE + " PARTITION BY RANGE (id)", "CREATE TABLE one PARTITION OF wide_tracks DEFAULT"], "apart"),
    ([WIDE.replace("halfvec", "vector").replace("NULL", "NULL, small halfvec(1536) GENERATED ALWAYS AS (embedding::halfvec) "
      "STORED")], "beside"),
    ([WIDE, PLAIN, "CREATE RULE few AS ON INSERT TO wide_tracks WHERE NEW.id > 50 DO INSTEAD NOTHING"], "dropped"),
    ([WIDE.replace("halfvec", "vector"), PLAIN, PLAIN.replace("SET STORAGE PLAIN", "TYPE halfvec(1536)")], "reset"),
    ([WIDE, "ALTER TABLE wide_tracks SET (toast.autovacuum_enabled = off)"], ""),
])
def test_beliefs_about_half_a_vector(servers, statements, belief):
    v = hand_in("20.1", *statements)
    assert v.state == "fail" and beliefs(v) == {belief}, v
    if "autovacuum" in statements[-1]: assert "its value does not lie in it" in said(v), v


@pytest.mark.parametrize("statements", [
    [WIDE.replace("NOT", "STORAGE MAIN NOT")], [WIDE + " WITH (toast_tuple_target = 4080)"],
    [WIDE.replace("halfvec", "vector"), PLAIN.replace("SET STORAGE PLAIN", "TYPE halfvec(1536)"), PLAIN.lower() + ";"]])
def test_every_way_to_keep_half_a_vector_in_its_row_passes(servers, statements):
    v = hand_in("20.1", *statements)
    assert v.state == "pass", v


@pytest.mark.parametrize("statements", [
    ["SET hnsw.iterative_scan = relaxed_order", REMIX], [REMIX.replace("embedding <#> %(q)s", "(embedding <#> %(q)s) + 0")],
    ["SET enable_indexscan = off", REMIX], ["SET hnsw.ef_search = 10", "SET hnsw.iterative_scan = strict_order", REMIX],
    ["SELECT id FROM practice_tracks ORDER BY remix DESC, embedding <#> %(q)s LIMIT 10"],
    ["WITH few AS MATERIALIZED (SELECT * FROM practice_tracks WHERE remix) SELECT id FROM few ORDER BY embedding <#> %(q)s "
     "LIMIT 10"]])
def test_every_way_to_the_other_remixes_passes(servers, statements):
    v = hand_in("22.1", *statements)
    assert v.state == "pass", v


@pytest.mark.parametrize("statements, belief", [
    (["SET hnsw.ef_search = 400", REMIX], "wider"), ([REMIX.replace("LIMIT 10", "LIMIT 100")], "trim"),
    (["SET hnsw.max_scan_tuples = 90000", REMIX], "dial"), (["SET hnsw.iterative_scan = off", REMIX], "switch"),
    (["WITH r AS (SELECT * FROM practice_tracks WHERE remix) SELECT id FROM r ORDER BY embedding <#> %(q)s LIMIT 10"], "fence"),
    (["SET work_mem = '64MB'", REMIX], "force"), (["SET search_path = public", REMIX], ""),
    ([REMIX.replace("LIMIT 10", "DESC LIMIT 10")], "turned"),
    ([REMIX.replace("embedding <#> %(q)s", "-(embedding <#> %(q)s)")], "turned"), (["SET ivfflat.probes = 100", REMIX], "other"),
    (["SET hnsw.iterative_scan = strict_order", "SET hnsw.max_scan_tuples = 500", REMIX], "bound"),
    (["SET hnsw.iterative_scan = strict_order", REMIX.replace("LIMIT 10", "LIMIT 5")], ""),
    (["SET hnsw.iterative_scan = on", REMIX], "switch"), (["SET hnsw.iterative_scan = strict_order", REMIX + " OFFSET 2"], ""),
    (["SELECT id FROM practice_tracks WHERE id IN (SELECT id FROM practice_tracks ORDER BY embedding <#> %(q)s LIMIT 99) "
      "AND remix"], "later"),
    (["WITH x AS (UPDATE practice_tracks SET remix = remix WHERE id = 7) " + REMIX], "built"),
    ([REMIX.replace("LIMIT 10", "LIMIT 20")], "more"), ([REMIX.replace("remix ", "remix IS TRUE ")], "where"),
    (["DROP INDEX practice_ip", REMIX], "built"), (["CREATE INDEX mine ON practice_tracks (remix)", REMIX], "built"),
    ([REMIX.replace("WHERE remix ", "")], "fill"), ([REMIX.replace("<#>", "<=>") + " OFFSET 3"], ""),
    (["SELECT id FROM practice_tracks WHERE remix AND %(q)s IS NOT NULL LIMIT 10"], "any"),
    (["SELECT id FROM (SELECT * FROM practice_tracks ORDER BY embedding <#> %(q)s LIMIT 500) a WHERE remix LIMIT 10"], "handed"),
    (["SELECT id FROM practice_tracks WHERE false AND %(q)s IS NOT NULL"], ""),
])
def test_beliefs_about_the_other_remixes(servers, statements, belief):
    v = hand_in("22.1", *statements)
    assert v.state == "fail" and belief in beliefs(v), v


@pytest.mark.parametrize("lost, state", [((0.02, 0.02), "pass"), ((0.02, 0), "fail"), ((0.05, 0.02), "fail")])
def test_what_the_graph_itself_misses_is_nobodys_mistake(servers, monkeypatch, lost, state):
    from rap_analyzer.search import evidence
    real, left = evidence.collect, list(lost)
    def unlucky(*args, **kw): return replace(e := real(*args, **kw), recall=e.recall - left.pop(0))
    monkeypatch.setattr(evidence, "collect", unlucky)
    v = hand_in("22.1", "SET hnsw.iterative_scan = relaxed_order", REMIX)
    assert v.state == state and not left, v


def test_a_wide_search_that_passes_is_told_what_helped(servers):
    v = hand_in("22.1", "SET hnsw.ef_search = 1000", REMIX)
    assert v.state == "pass" and "and not the width" in v.checks[-1].message, v


def test_a_checker_tells_its_questions_in_its_own_words():
    ex = exercise("23.1")
    v = judge(ex, [*enumerate(ex.given, 1), (9, ex.wrong["more_often_ahead"][1])], seed=4)
    assert beliefs(v) == {"votes"} and "5 x 'like': mean nDCG words 0.600, vector 0.957" in said(v), v


@pytest.mark.parametrize("given, says", [
    ("[]", "list of SQL statements"), ("'SELECT 1'", "list of SQL statements"), ("[1]", "list of SQL statements"),
    ("['SELECT 1']", "%(q)s"), ("[object()]", "list of SQL statements"), ("float('nan')", "list of SQL"),
    ("['x %(q)s'] * 30", "at most 20"), ("['SELEC %(q)s']", "syntax error"), ("['SELECT %(p)s, %(q)s']", "PostgreSQL said"),
    ("['SELECT %d, %(q)s']", "PostgreSQL said"), ("['SELECT 1 WHERE %(q)s IS NULL']", "rows"),
    ("['DROP TABLE practice_tracks', " + repr(REMIX) + "]", "does not exist"),
    ("['COPY practice_tracks TO STDOUT', " + repr(REMIX) + "]", "PostgreSQL said"),
    ("['SELECT a.id FROM practice_tracks a, practice_tracks b WHERE %(q)s IS NOT NULL']", "more than 10,000 rows"),
])
def test_what_cannot_be_run_is_told(servers, given, says):
    v = judge(exercise("22.1"), [(1, f"statements = {given}")])
    assert v.state == "fail" and says in said(v) and "Traceback" not in repr(v), v


def test_figures_and_patches_from_the_learner_are_not_listened_to(servers):
    patch = "import rap_analyzer.search.evidence as e\ne.collect = lambda *a: 1"
    v = hand_in("22.1", REMIX, more=f"recall = 1.0; rows = [10, 10]\n{patch}")
    assert v.state == "fail" and v.evidence["recall"] < 0.5


def test_what_a_learner_commits_is_mended(servers):
    assert hand_in("22.1", "DELETE FROM practice_tracks", "COMMIT", REMIX).state == "fail"
    assert hand_in("22.1", "SET hnsw.iterative_scan = strict_order", REMIX).state == "pass"


def test_statements_that_do_not_end_are_cancelled(servers):
    from rap_analyzer.search.evidence import collect, nearest, vectors
    q = vectors()[1][:1]
    began = time.monotonic()
    e = collect(["SET statement_timeout = 0", "SELECT 1 FROM pg_sleep(60) WHERE %(q)s IS NOT NULL"], q, nearest(q), seconds=1)
    assert "cancelled" in e.error and time.monotonic() - began < 10


# ---- p95, from outside

@pytest.mark.parametrize("body, belief", [
    ("return sum(map(p95, filter(None, workers))) / len(workers)", "average"),
    ("import statistics; return statistics.mean(p95(w) for w in workers if w)", "average"),
    ("return max(map(p95, filter(None, workers)))", "worst"), ("return sorted(p95(w) for w in workers if w)[-1]", "worst"),
    ("every = [t for w in workers for t in w]; return sum(every) / len(every)", "means"),
    ("n = sum(map(len, workers)); return sum(p95(w) * len(w) for w in workers if w) / n", "weights"),
])
def test_beliefs_about_the_p95_of_a_page(body, belief):
    ex = exercise("28.1")
    v = judge(ex, [(1, ex.given[0]), (2, f"def page_p95(workers):\n    {body}")])
    assert v.state == "fail" and beliefs(v) == {belief}, v


@pytest.mark.parametrize("measure", [
    "float(ids[:1] == [max(graded, key=lambda g: g[1])[0]])", "float(bool(ids) and ids[0] in dict(map(tuple, graded)))",
    "next((1 / n for n, i in enumerate(ids, 1) if i in dict(map(tuple, graded))), 0)",
    "dict(map(tuple, graded)).get(next(iter(ids), None), 0)"])
def test_a_router_that_looks_at_the_first_place_is_told_so(measure):
    ex = exercise("23.1")
    right = ex.solution.replace("ndcg(q[e], q[", "good_at(q[e], q[")
    v = judge(ex, [(1, ex.given[0]), (2, f"def good_at(ids, graded): return {measure}\n{right}")], seed=4)
    assert v.state == "fail" and beliefs(v) == {"top"} and "its first place" in said(v), v


@pytest.mark.parametrize("body, belief", [
    ("return sum(x in b for a, b in zip(found, true) for x in a) / sum(map(len, true))", "repeats"),
    ("import statistics; return statistics.mean(sum(x == y for x, y in zip(a, b)) / len(b) for a, b in zip(found, true))", "place"),
    ("return sum(sorted(a) == sorted(b) for a, b in zip(found, true)) / len(true)", "whole"),
    ("return sum(a == b for a, b in zip(found, true)) / len(true)", "whole"),
    ("return sum(len(set(a) & set(b)) / max(1, len(set(a))) for a, b in zip(found, true)) / len(true)", "found"),
    ("f = sum(found, []); return len(set(f) & set(sum(true, []))) / len(sum(true, []))", "pooled"),
    ("ab = [*zip(found, true)]; return sum(len({*a} & {*b}) for a, b in ab) / sum(min(len(a), len(b)) for a, b in ab)", "found"),
    ("return sum(a[:1] == b[:1] for a, b in zip(found, true)) / len(true)", "nearest"),
    ("return round(sum(len(set(a) & set(b)) for a, b in zip(found, true)) / sum(map(len, true)), 2)", "told"),
    ("return sum(len(set(a) & set(b)) for a, b in zip(found, true)) / (10 * len(true))", "sizes"),
    ("return max(len(set(a) & set(b)) / len(b) for a, b in zip(found, true))", "one"),
    ("return sum(len({*a[:len(b)]} & {*b}) for a, b in zip(found, true)) / sum(map(len, true))", "short"),
    ("return sum(len(a and b) for a, b in zip(found, true)) / sum(map(len, true))", ""),
])
def test_beliefs_about_recall(ex, body, belief):
    v = verdict(ex, f"def recall(found, true):\n    {body}")
    assert v.state == "fail" and beliefs(v) == {belief}, v
    quoted, spread = ("It tests this rule of the task:" in said(v), "so no single rule explains it" in said(v))
    assert quoted == bool(belief) and spread != quoted and "expected " in said(v), v


@pytest.mark.parametrize("code, says", [
    ("NIGHT_INDEX", True), ("def night(*_): return NIGHT_INDEX\nnight()", True), ("NIGHTS", False)])
def test_a_name_that_only_a_look_makes_is_explained(code, says):
    ex = exercise("25.1")
    v = judge(ex, [(1, f"{ex.given[0] if ex.given else ''}\n{code}")])
    assert v.state == "error" and "is not defined" in said(v)
    assert ("NIGHT_INDEX is made in a `#| look` cell" in said(v)) is says, v


def test_the_template_is_an_exercise(tmp_path):
    path = tmp_path / "00_template.ipynb"
    path.write_text((settings().root / "exercises" / "solutions" / "_template.ipynb").read_text(encoding="utf-8"))
    ex = load_exercise(path)
    assert lint(ex) == [] and verify(ex)["ok"], verify(ex)
    assert "def half_all" not in stub(path)


def test_a_name_inside_the_task_is_not_the_sessions_name_of_the_same_sound():
    "A parameter or a loop variable hides the session's; what a function takes from outside is found, also through others."
    session = ["true, found = slow_measurement(), slow_measurement()", "for f in range(3): t = f", "import math", "half = 0.5",
               "def share(x): return math.floor(x) * half",
               "#| task 21.1\ndef recall(found, true):\n    return share(sum(f in t for f, t in zip(found, true)))",
               "recall([], [])"]
    kept = [c.text for c in notebook.from_history(session, "21.1")]
    assert kept == [session[2], session[3], session[4], session[5]]
    code = "x = [y for y in z]\nclass A:\n    b = c\ndef f(p, q=r):\n    global g\n    g = p + s"
    assert notebook.find_names(code) == ({"x", "A", "f", "g"}, {"z", "c", "r", "s", "g"})
