"Files that are whole or not there, and a lock that the kernel releases: on real processes."
import os
import signal
import subprocess
import sys
import time

import pytest

from rap_analyzer.core import LabError
from rap_analyzer.disk import locked, write_whole

HOLDER = """
import sys, time
from rap_analyzer.disk import locked
with locked(sys.argv[1]): print("mine", flush=True); time.sleep(60)
"""
FORKED = """
import os, sys, time
from rap_analyzer.disk import locked
with locked(sys.argv[1]):
    if not os.fork(): time.sleep(5); os._exit(0)
print("released", flush=True)
"""
VISITOR = """
import sys
from pathlib import Path
from rap_analyzer.disk import locked, write_whole
count = Path(sys.argv[1])
for _ in range(20):
    with locked(count.with_suffix(".lock")): write_whole(count, str(int(count.read_text()) + 1))
"""


def python(code: str, *words: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True)


def test_no_update_is_lost_between_processes(tmp_path):
    count = write_whole(tmp_path / "count", "0")
    visitors = [python(VISITOR, count) for _ in range(4)]
    assert [v.wait(120) for v in visitors] == [0] * 4
    assert count.read_text() == "80"


def test_a_killed_holder_leaves_the_lock_and_its_file(tmp_path):
    lock = tmp_path / "x.lock"
    holder = python(HOLDER, lock)
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(LabError, match="another process holds"), locked(lock, .1): pass
    with pytest.raises(LabError, match="^come back later$"), locked(lock, 0, "come back later"): pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    start = time.monotonic()
    with locked(lock, 10): assert time.monotonic() - start < 5 and lock.exists()


def test_a_child_that_is_forked_does_not_keep_the_lock(tmp_path):
    parent = python(FORKED, tmp_path / "x.lock")
    assert parent.stdout.readline() == "released\n"
    with locked(tmp_path / "x.lock", 2): pass
    parent.wait(20)


def test_a_lock_makes_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone" / "x.lock"): pass
    assert not (tmp_path / "gone").exists()


def test_an_error_inside_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "x.lock"): raise KeyError
    with locked(tmp_path / "x.lock", 0): pass


def test_permissions_stay_and_new_ones_follow_the_umask(tmp_path):
    secret = write_whole(tmp_path / "secret", "a", mode=0o600)
    assert write_whole(secret, "b").stat().st_mode & 0o777 == 0o600
    before = os.umask(0o027)
    try: assert write_whole(tmp_path / "usual", b"\0").stat().st_mode & 0o777 == 0o640
    finally: os.umask(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "usual"], "a draft was left behind"


@pytest.mark.parametrize("name", ["Кириллица" * 12 + ".json", "x" * 250])
def test_long_names(tmp_path, name):
    assert write_whole(tmp_path / name, "ы").read_text(encoding="utf-8") == "ы"
