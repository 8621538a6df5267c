"scripts/test itself: what runs when, what the last lines say, and that nothing outlives the time limit."
import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import _tests  # noqa: E402

DAEMON = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], start_new_session=True)
if "stay" in sys.argv: time.sleep(99)
"""


@pytest.mark.parametrize("word", ["stay", "go"])
def test_nothing_survives_the_time_limit(monkeypatch, word):
    "Not even what left the process group and outlived its parent, as servers do."
    monkeypatch.setattr(_tests.end, "__defaults__", (0.2,))
    mark, until = f"test-{word}-{time.monotonic()}", time.monotonic() + 2
    if word == "stay":
        with pytest.raises(_tests.TimeIsUp, match="a long step"): _tests.run(["-c", DAEMON, word], until, mark, "a long step")
    else:
        assert _tests.run(["-c", DAEMON, word], until + 60, mark) == 0 and len(_tests.ours(mark)) == 1
        _tests.end(subprocess.Popen([sys.executable, "-c", ""]), mark)
    assert not _tests.ours(mark)


def test_the_limit_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(_tests.end, "__defaults__", (0.2,))
    monkeypatch.setattr(_tests, "LIMIT_S", 0)
    monkeypatch.setattr(_tests.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["scripts/test"])
    assert _tests.main() == 1
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("STOPPED: scripts/checks.py was still running after 0 minutes"), last


@pytest.mark.parametrize("args, shared, alone", [
    ([], "not alone", "alone"), (["-k", "drill"], "not alone", "alone"),
    (["-m", "slow or dear"], "(slow or dear) and not alone", "(slow or dear) and alone")])
def test_what_wants_to_be_alone_comes_last(args, shared, alone):
    first, last = _tests.phases(args, False)
    assert first[-1] == shared and "-n" in first and last[-1] == alone and "-n" not in last
    assert "-k" not in args or ("drill" in first and "drill" in last)


def test_no_file_with_a_test_that_wants_to_be_alone_is_left_out():
    def marks(file):
        nodes = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Attribute)]
        return any(n.attr == "alone" and "mark" in (getattr(n.value, "attr", ""), getattr(n.value, "id", "")) for n in nodes)
    files, last = [*Path(__file__).parent.glob("test_*.py")], _tests.phases([], False)[1]
    marked, given = {f.name for f in files if marks(f)}, {Path(a).name for a in last if a.endswith(".py")}
    assert {"test_jobs.py", "test_performance.py"} <= marked <= given and len(given) < len(files)


@pytest.mark.parametrize("args", [["--pdb"], ["-n0"], ["--collect-only", "tests/test_first.py"], ["-s"]])
def test_who_looks_inside_gets_one_process(args):
    assert _tests.phases(args, False) == [args]


TESTS = """
import pytest
@pytest.mark.alone
def test_alone(): assert {}
@pytest.fixture
def bad(): raise OSError
def test_one(): pass
def test_two({}): pass
"""


@pytest.mark.parametrize("alone, fixture, args, code, said", [
    ("True", "tmp_path", [], 0, "3 passed in"), ("False", "tmp_path", [], 1, "1 failed, 2 passed in"),
    ("True", "bad", [], 1, "2 passed, 1 error in"), ("False", "tmp_path", ["-k", "two"], 0, "1 passed in"),
    ("True", "bad", ["-x"], 2, "1 passed, 1 error in"), ("True", "bad", ["-k", "nothing"], 5, "no tests ran in")])
def test_the_last_lines_are_about_all_of_it(tmp_path, capfd, monkeypatch, alone, fixture, args, code, said):
    monkeypatch.setattr(_tests, "SECOND_TRY", 0)  # CI sets another
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a dozen of them take most of the time
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (tmp_path / "test_it.py").write_text(TESTS.format(alone, fixture))
    asked = [str(tmp_path), "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "-p", "xdist.plugin", *args]
    assert _tests.tests(asked, time.monotonic() + 100, "test-last-lines", False) == code
    lines = capfd.readouterr().out.strip().splitlines()
    assert lines[-1].startswith(said), lines
    assert any("dearest of" in line for line in lines)
    if alone == "False" and not args: assert lines[-2] == "FAILED test_it.py::test_alone"


FLAKY = """
from pathlib import Path
def fails(n, file=Path(__file__).with_name("tries")):
    tries = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (tries + 1))
    assert tries >= n
def test_one(): fails({})
def test_two(): assert {}
"""


@pytest.mark.parametrize("fails, two, allowed, code, said", [
    (1, "True", 3, 0, "2 passed in"), (1, "True", 0, 1, "1 failed, 1 passed in"), (2, "True", 3, 1, "1 failed, 1 passed in"),
    (1, "False", 1, 1, "2 failed in"), (1, "False", 3, 1, "1 failed, 1 passed in")])
def test_what_fails_may_be_tried_once_more_and_is_named(tmp_path, capfd, monkeypatch, fails, two, allowed, code, said):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(_tests, "SECOND_TRY", allowed)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (tmp_path / "test_it.py").write_text(FLAKY.format(fails, two))
    asked = [str(tmp_path), "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "-p", "xdist.plugin"]
    assert _tests.tests(asked, time.monotonic() + 100, "test-second-try", False) == code
    lines = capfd.readouterr().out.strip().splitlines()
    assert lines[-1].startswith(said), lines
    assert ("FLAKY test_it.py::test_one: it failed, and passed alone" in lines) == (fails == 1 and allowed == 3)
    assert ("FAILED test_it.py::test_two" in lines) == (two == "False")


@pytest.mark.parametrize("file, runs, does_not", [
    ("nbs/analyzer/10_catalog.ipynb", "test_catalog test_faults test_render", "test_suite"),
    ("scripts/_setup.py", "test_scripts", "test_catalog test_drill"), ("tests/test_audio.py", "test_audio", "test_catalog"),
    ("exercises/solutions/21_hnsw.ipynb", "test_exercises test_learn", "test_audio"), ("README.md", "test_house", "test_audio"),
    ("tests/conftest.py", "", "")])
def test_what_a_change_touches(file, runs, does_not):
    chosen = _tests.touched(ROOT, [file])
    if file.endswith("conftest.py"): assert chosen == ["tests"]
    assert {f"tests/{name}.py" for name in runs.split()} <= {*chosen}
    assert not {f"tests/{name}.py" for name in does_not.split()} & {*chosen}


def test_a_red_book_does_not_hide_the_tests(monkeypatch, capsys):
    "CI has one run in which to say everything that is wrong; only red checks end it at once."
    codes = {"scripts/checks.py": [0], "scripts/_book.py": [1, 1], "scripts/_site.py": [0]}
    begun = []
    def run(command, *_, **__): return (begun.append(command[0]), codes[command[0]].pop(0))[1]
    monkeypatch.setattr(_tests, "run", run)
    monkeypatch.setattr(_tests, "SECOND_TRY", 6)
    monkeypatch.setattr(_tests, "tests", lambda *_: begun.append("pytest") or 0)
    assert _tests.steps([], 0, "", cover=False) == 1
    assert begun == ["scripts/checks.py", "scripts/_book.py", "scripts/_book.py", "pytest"]
    assert "the tests run all the same" in capsys.readouterr().out
    begun.clear(), codes.update({"scripts/checks.py": [0, 1], "scripts/_book.py": [1, 0]})
    assert _tests.steps([], 0, "", cover=False) == 0
    assert begun == ["scripts/checks.py", "scripts/_book.py", "scripts/_book.py", "scripts/_site.py", "pytest"]
    begun.clear()
    assert _tests.steps([], 0, "", cover=False) == 1 and begun == ["scripts/checks.py"]
