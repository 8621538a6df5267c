"scripts/lab and scripts/test on poor machines: every failure is one plain sentence, and nothing here needs a network."
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = "sh", "dirname", "uname", "env", "sleep"  # what a bare machine has besides Python
REAL = os.path.realpath(sys.executable)


def load_setup(root: Path):
    "scripts/_setup.py of a copy, as a module."
    spec = importlib.util.spec_from_file_location("_setup_under_test", root / "scripts" / "_setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def say_hello(path: Path, text: str) -> None:
    "An executable shell script."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    "What set-up needs of the repository, in a folder with a difficult name."
    root = tmp_path / "мой рэп" / "a lab"
    root.mkdir(parents=True)
    (root / "scripts").mkdir()
    for name in ("lab", "test", "_setup.sh", "_setup.py", "bootstrap.lock"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    for name in ("pyproject.toml", "requirements.lock", "requirements-bench.lock"): shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def bin_(tmp_path):
    "A PATH with the barest tools and no Python."
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS: (folder / tool).symlink_to(shutil.which(tool))
    return folder


def call(clone: Path, bin_: Path, *args: str, cwd: Path = Path("/"), script: str = "lab", **env: str):
    "Run one of the scripts by its full path with nothing but `bin_` in PATH."
    clean = {"PATH": str(bin_), "HOME": str(bin_.parent), "LC_ALL": "C"} | env
    return subprocess.run([clone / "scripts" / script, *args], cwd=cwd, env=clean, capture_output=True, text=True,
                          encoding="utf-8", timeout=120)


def one_sentence(done, *words: str) -> None:
    "The script failed with exit code 1, one line of explanation that holds `words`, and no traceback."
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    sentences = [x for x in done.stderr.splitlines() if x[:1].isupper()]  # lines of progress begin with a small letter
    if sentences[1:]: assert sentences[1:] == ["What happened is written in work/setup.log."], done.stderr
    for word in words: assert word in sentences[0], done.stderr


def with_python(bin_: Path) -> None:
    "A real Python for the scripts to find."
    (bin_ / "python3").symlink_to(REAL)


def fake_venv(clone: Path, command: str = "exit 7\n") -> Path:
    "A .venv that counts as set up, with a rap-analyzer that is a shell script."
    venv.create(clone / ".venv", symlinks=True, with_pip=False)
    setup = load_setup(clone)
    setup.mark(str(clone), setup.wanted(str(clone), sys.version_info[:3]))
    say_hello(clone / ".venv" / "bin" / "rap-analyzer", command)
    return clone / ".venv"


@pytest.mark.parametrize("script", ["lab", "test"])
def test_no_python(clone, bin_, script):
    one_sentence(call(clone, bin_, script=script), "Python 3.11, 3.12 or 3.13 is needed and none was found", "RAP_PYTHON")


def test_old_python(clone, bin_):
    say_hello(bin_ / "python3", "echo '3.9 yes'\n")
    one_sentence(call(clone, bin_), "3.11, 3.12 or 3.13", "only python3 (3.9) was found")


def test_too_new_python(clone, bin_):
    say_hello(bin_ / "python3", "echo '3.14 yes'\n")
    one_sentence(call(clone, bin_), "only python3 (3.14) was found")


def test_python_of_a_version_manager_that_does_not_run(clone, bin_):
    say_hello(bin_ / "python3.13", "echo 'not installed' >&2; exit 127\n")
    say_hello(bin_ / "python3", "echo '3.10 yes'\n")
    one_sentence(call(clone, bin_), "only python3 (3.10) was found")


def test_python_without_venv(clone, bin_):
    say_hello(bin_ / "python3.12", "echo '3.12 no'\n")
    one_sentence(call(clone, bin_), "python3.12 (3.12), cannot make virtual environments", "apt install python3-venv")


def test_chosen_python_is_the_only_one_tried(clone, bin_):
    with_python(bin_)
    one_sentence(call(clone, bin_, RAP_PYTHON="/nowhere/python3"), "RAP_PYTHON=/nowhere/python3 does not run")


def test_windows_shell(clone, bin_):
    (bin_ / "uname").unlink()
    say_hello(bin_ / "uname", "echo MINGW64_NT-10.0\n")
    one_sentence(call(clone, bin_), "WSL2")


def test_no_network(clone, bin_):
    with_python(bin_)
    nowhere = "http://127.0.0.1:9"  # the discard port: the connection is refused at once
    done = call(clone, bin_, https_proxy=nowhere, http_proxy=nowhere, PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0")
    one_sentence(done, "The package index cannot be reached", "later runs do not")
    assert "making .venv" in done.stderr and "work/setup.log" in done.stderr
    assert "bootstrap.lock" in (clone / "work" / "setup.log").read_text(encoding="utf-8")
    assert (clone / ".venv" / ".setup").read_text().strip() == "installing"  # so that the next run begins anew


def test_wrong_hash(clone, bin_, tmp_path):
    with_python(bin_)
    wheel = tmp_path / "uv-0.0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("uv-0.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 0.0.1\n")
        z.writestr("uv-0.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("uv-0.0.1.dist-info/RECORD", "")
    (clone / "scripts" / "bootstrap.lock").write_text(f"uv==0.0.1 --hash=sha256:{hashlib.sha256(b'else').hexdigest()}\n")
    done = call(clone, bin_, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path), PIP_CONFIG_FILE=os.devnull)
    one_sentence(done, "does not have the hash that the lock file pins")


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
def test_no_disk(clone, bin_):
    with_python(bin_)
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount, not even root")
    small = 'mount -t tmpfs -o size=20m none "$1/small" && cp -r "$1/scripts" "$1"/*.lock "$1/pyproject.toml" "$1/small" && '
    (clone / "small").mkdir()
    done = subprocess.run(["unshare", "-m", "sh", "-c", small + 'PATH="$2" exec "$1/small/scripts/lab"', "sh", clone, bin_],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    one_sentence(done, "The disk has 0.0 GB free and the set-up needs 3 GB")


def test_folder_that_cannot_be_written(clone, bin_):
    with_python(bin_)
    (clone / "work").write_text("a file where a folder belongs")
    one_sentence(call(clone, bin_), "The set-up cannot use", "work")


def test_set_up_once_then_run_from_anywhere(clone, bin_, tmp_path):
    fake_venv(clone, 'printf "%s|" "$PWD" "$@"; exit 7\n')
    done = call(clone, bin_, "--check", "two words", cwd=tmp_path)  # no Python in PATH: .venv has to be enough
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{clone}|first|--check|two words|", "")
    relative = subprocess.run(["sh", "lab"], cwd=clone / "scripts", capture_output=True, text=True, encoding="utf-8")
    assert relative.returncode == 7 and relative.stdout.endswith("|first|")


def test_second_set_up_is_instant_and_offline(clone, bin_):
    fake_venv(clone, "exit 0\n")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert call(clone, bin_, https_proxy="http://127.0.0.1:9").returncode == 0
        took.append(time.perf_counter() - began)
    assert min(took) < 0.2


@pytest.mark.parametrize("what", ["requirements.lock", "requirements-bench.lock", "scripts/bootstrap.lock", "pyproject.toml",
                                  "half-done", "moved"])
def test_what_makes_set_up_run_again(clone, what):
    setup = load_setup(clone)
    fake_venv(clone)
    assert setup.ready(str(clone))
    if what == "half-done": setup.mark(str(clone), setup.INSTALLING)
    elif what == "moved": clone = clone.rename(clone.parent / "elsewhere")
    else: (clone / what).write_text((clone / what).read_text() + "\n# changed\n")
    assert not setup.ready(str(clone))


def test_another_python_makes_set_up_run_again(clone, monkeypatch):
    setup = load_setup(clone)
    fake_venv(clone)
    assert setup.wanted(str(clone), (3, 11, 0)) != setup.wanted(str(clone), (3, 12, 0))
    monkeypatch.setenv("RAP_PYTHON", sys.executable)
    assert setup.ready(str(clone))
    monkeypatch.setenv("RAP_PYTHON", "/nowhere/python3")
    assert not setup.ready(str(clone))


def test_clearing_can_be_cut_short(clone):
    setup, env = load_setup(clone), fake_venv(clone)
    setup.clear(str(clone))
    assert [p.name for p in env.iterdir()] == [".setup"] and setup.state(str(clone)) == setup.INSTALLING


HOLD = """
import importlib.util, subprocess, sys, time
spec = importlib.util.spec_from_file_location("s", sys.argv[1] + "/scripts/_setup.py")
s = importlib.util.module_from_spec(spec); spec.loader.exec_module(s)
lock = s.hold(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock]) if sys.argv[2] == "child" else None
print(child.pid if child else 0, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["alone", "child"])
def test_lock_outlives_nobody(clone, kind, capfd):
    "A killed set-up leaves no lock; one whose installer still runs does, until that ends."
    (clone / "work").mkdir()
    setup = load_setup(clone)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, clone, kind], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    with pytest.raises(setup.Stop, match="does not end"): setup.hold(str(clone), wait_s=0.3)
    assert "another set-up of this folder is running" in capfd.readouterr().err
    holder.kill()
    holder.wait()
    if child:
        with pytest.raises(setup.Stop): setup.hold(str(clone), wait_s=0.3)
        os.kill(child, signal.SIGKILL)
    os.close(setup.hold(str(clone), wait_s=5))
    holder.stdout.close()


@pytest.mark.parametrize("log, says", [
    ("x\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk filled up"),
    ("error: Hash mismatch for `numpy==2.4.6`", "does not have the hash"),
    ("error: Failed to fetch\n  Caused by: dns error: failed to lookup address", "cannot be reached"),
    ("ERROR: No matching distribution found for uv==0.13.9", "no file of a pinned package"),
    ("  x Failed to build `hnswlib==0.8.0`", "C++ compiler"),
    ("first\n\nsomething nobody has seen\n\n", "A step of the set-up failed: something nobody has seen"),
    ("", "it said nothing"),
])
def test_causes(log, says):
    assert says in load_setup(ROOT).cause(log)


def test_interrupt_is_quiet(clone, bin_):
    "Ctrl-C during an installation step: one line, exit code 130, and a note for the next run."
    with_python(bin_)
    slow = clone / "slow"
    say_hello(slow, f'[ "$3" = venv ] && exec sleep 30\nexec {REAL} "$@"\n')
    text = (clone / "scripts" / "_setup.py").read_text(encoding="utf-8")
    patched = text.replace("[base, ", f"[{str(slow)!r}, '-I', ")
    assert patched != text
    (clone / "scripts" / "_setup.py").write_text(patched, encoding="utf-8")
    run = subprocess.Popen([clone / "scripts" / "lab"], env={"PATH": str(bin_)}, stderr=subprocess.PIPE, text=True,
                           start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert "making .venv" in run.stderr.readline()
    time.sleep(0.3)
    os.killpg(run.pid, signal.SIGINT)
    rest = run.stderr.read()
    assert run.wait(20) in (130, -signal.SIGINT) and "Traceback" not in rest and "Stopped" in rest
    assert (clone / ".venv" / ".setup").read_text().strip() == "installing"


def test_this_checkout_is_set_up():
    "Where scripts/test made .venv, set-up has nothing left to do."
    python = ROOT / ".venv" / "bin" / "python"
    if not (ROOT / ".venv" / ".setup").exists(): pytest.skip(".venv was not made by scripts/test")
    done = subprocess.run([python, "-I", "-S", ROOT / "scripts" / "_setup.py", "--ready"], env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["scripts/lab", "scripts/test", "scripts/lock"])
def test_scripts_are_executable_posix_sh(name):
    file = ROOT / name
    assert os.access(file, os.X_OK) and file.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", file]).returncode == 0
    assert subprocess.run(["sh", "-n", ROOT / "scripts" / "_setup.sh"]).returncode == 0
