"""Bring .venv to what the lock files say; called by scripts/_setup.sh with any Python 3.11 to 3.13, standard library only.

The file .venv/.setup tells how far things are. While something is being installed it says "installing"; afterwards it holds
a hash of the lock files, pyproject.toml, the Python version and the folder. A set-up that was cut short is therefore seen by
the next one, which starts from an empty .venv; downloads are kept in the installer's own cache.
"""
import os
import sys
from hashlib import sha256

LOCKS = "scripts/bootstrap.lock", "requirements.lock", "requirements-bench.lock"
INSTALLING = "installing"
NEEDS_GB = 3  # a new .venv and the lab's data; changing an existing .venv takes a third of it
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Stop(Exception):
    "Set-up cannot go on; the message is one sentence that says what to do."


def wanted(root: str, version: tuple[int, ...]) -> str:
    "What .venv/.setup holds when `root` is set up for this Python version."
    known = sha256(repr((os.path.realpath(root), tuple(version))).encode("utf-8", "surrogateescape"))
    for name in (*LOCKS, "pyproject.toml", "scripts/_setup.py"):
        with open(os.path.join(root, name), "rb") as f: known.update(sha256(f.read()).digest())
    return known.hexdigest()


def state(root: str) -> str | None:
    "What .venv/.setup says; None where there is no such file (somebody else made .venv, or nobody has yet)."
    try:
        with open(os.path.join(root, ".venv", ".setup"), encoding="utf-8") as f: return f.read().strip()
    except FileNotFoundError: return None


def ready(root: str) -> bool:
    "Called with .venv's own Python: is there nothing to do? RAP_PYTHON may ask for another version than the one there."
    if state(root) != wanted(root, sys.version_info[:3]): return False
    return not os.environ.get("RAP_PYTHON") or version_of(os.environ["RAP_PYTHON"]) == sys.version_info[:3]


def version_of(python: str) -> tuple[int, ...] | None:
    "The version of an interpreter; None if it does not run."
    import subprocess
    ask = [python, "-I", "-S", "-c", "import sys; print(*sys.version_info[:3])"]
    try: return tuple(map(int, subprocess.run(ask, capture_output=True, check=True).stdout.split()))
    except (OSError, ValueError, subprocess.CalledProcessError): return None


def mark(root: str, text: str) -> None:
    "Write .venv/.setup so that a reader sees the old text or the new one, never half of it."
    path = os.path.join(root, ".venv", ".setup")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(text + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".new", path)


def clear(root: str) -> None:
    "Empty .venv, but keep the note that it is being installed, so that being cut short here is seen too."
    import shutil
    mark(root, INSTALLING)
    for entry in list(os.scandir(os.path.join(root, ".venv"))):
        if entry.name == ".setup": continue
        if entry.is_dir(follow_symlinks=False): shutil.rmtree(entry.path)
        else: os.unlink(entry.path)


def hold(root: str, wait_s: float = 1800) -> int:
    """Wait for the set-up lock and return its file descriptor.

    The kernel lets go of the lock when the last process that holds the descriptor ends, however it ends. Installers inherit
    it, so one that outlives its killed parent still keeps the next set-up out.
    """
    import errno
    import fcntl
    import time
    lock = os.open(os.path.join(root, "work", "setup.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(lock, True)
    began, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EACCES): raise
        if not told: say("another set-up of this folder is running; waiting for it")
        told = True
        if time.monotonic() - began > wait_s: raise Stop("Another set-up of this folder does not end: stop it and run this again.")
        time.sleep(0.2)


def say(line: str) -> None:
    "One line of progress; results go to standard output, progress does not."
    print(line, file=sys.stderr, flush=True)


CAUSES = (  # the first that the log contains decides, so what is certain comes before what is likely
    (("No space left on device", "os error 28", "Disk quota exceeded"),
     "The disk filled up while installing: free {gb} GB and run this again."),
    (("DO NOT MATCH THE HASHES", "Hash mismatch", "hash mismatch", "hashes are required"),
     "A downloaded package does not have the hash that the lock file pins, so it was not installed: try again on another "
     "network; if it stays, report it."),
    (("Failed to establish a new connection", "NewConnectionError", "ConnectTimeoutError", "Read timed out", "ProxyError",
      "dns error", "error sending request", "Network connectivity is disabled", "Temporary failure in name resolution",
      "SSLError", "invalid peer certificate", "client error (Connect)", "operation timed out"),
     "The package index cannot be reached: the first set-up needs a network connection (or a configured package mirror); "
     "later runs do not."),
    (("Failed to build", "error: command", "build backend returned an error"),
     "A package had to be built and that failed: it needs a C++ compiler and Python's headers."),
    (("Could not find a version that satisfies", "No matching distribution", "was not found in the package registry",
      "there is no version of", "no wheels with a matching", "no wheel"),
     "The package index has no file of a pinned package for this system and this Python: check the index that pip and uv are "
     "configured with."),
    (("ensurepip", ), "This Python cannot make virtual environments: install that part of Python (on Debian and Ubuntu: apt "
     "install python3-venv) and run this again."),
)


def cause(log: str) -> str:
    "The sentence for a failed step, from what it printed."
    for signs, sentence in CAUSES:
        if any(s in log for s in signs): return sentence.format(gb=NEEDS_GB)
    return f"A step of the set-up failed: {next((line for line in reversed(log.splitlines()) if line.strip()), 'it said nothing')}"


def run(log: str, what: str, command: list[str], lock: int, again: bool = False) -> None:
    "Run one step with its output in the log and the passing seconds on a terminal; raises Stop with the likely cause."
    import subprocess
    import time
    env = os.environ | {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_REQUIREMENT"): env.pop(name, None)
    began, tty = time.monotonic(), sys.stderr.isatty()
    if not tty and not again: say(what)
    with open(log, "ab") as out:
        start = out.tell()
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        step = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, pass_fds=[lock])
        try:
            while True:
                if tty: print(f"\r{what} ... {time.monotonic() - began:.0f} s ", end="", file=sys.stderr, flush=True)
                try: code = step.wait(1 if tty else None)
                except subprocess.TimeoutExpired: continue
                break
        except KeyboardInterrupt:
            step.wait()
            raise
        finally:
            if tty: say("")
    if code:
        with open(log, "rb") as f:
            f.seek(start)
            raise Stop(cause(f.read().decode("utf-8", "replace").partition("\n$ ")[2].partition("\n")[2]))


def from_cache(log: str, what: str, command: list[str], lock: int) -> None:
    "Run a step of uv from its cache alone, which is quick and needs no network; where the cache does not do, for real."
    try: run(log, what, [*command, "--offline"], lock)
    except Stop: run(log, what, command, lock, again=True)


def index_for_uv(python: str) -> None:
    "A mirror that pip is configured with is meant for uv as well, which does not read pip's settings."
    import subprocess
    if any(os.environ.get(n) for n in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")): return
    url = os.environ.get("PIP_INDEX_URL") or subprocess.run(
        [python, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True).stdout.strip()
    if url: os.environ["UV_DEFAULT_INDEX"] = url


def install(root: str, lock: int) -> None:
    "Make or mend .venv; only called by the holder of the lock."
    import shutil
    import time
    began, venv, log = time.monotonic(), os.path.join(root, ".venv"), os.path.join(root, "work", "setup.log")
    python, here = os.path.join(venv, "bin", "python"), sys.version_info[:3]
    if state(root) == wanted(root, here) and version_of(python) == here: return  # another set-up has just done it
    new = state(root) == INSTALLING or version_of(python) != here or not moved_in(venv)
    need, free = NEEDS_GB if new else NEEDS_GB / 3, shutil.disk_usage(root).free / 1e9
    if free < need: raise Stop(f"The disk has {free:.1f} GB free and the set-up needs {need:.0f} GB: make room and run this again.")
    with open(log, "w", encoding="utf-8") as f: f.write(f"set-up of {root} with Python {'.'.join(map(str, here))}\n")
    base = getattr(sys, "_base_executable", sys.executable)  # the Python under .venv, when .venv's own runs this
    if base.startswith(venv): base = os.path.realpath(base)
    if new: clear(root)
    mark(root, INSTALLING)
    if new: run(log, f"making .venv with Python {here[0]}.{here[1]}", [base, "-m", "venv", venv], lock)
    pip = [python, "-m", "pip", "install", "--retries", "2", "--require-hashes", "-r", "scripts/bootstrap.lock"]
    run(log, "installing the installer from scripts/bootstrap.lock", pip, lock)
    index_for_uv(python)
    uv = [os.path.join(venv, "bin", "uv"), "pip"]
    with open(os.path.join(root, "requirements.lock"), encoding="utf-8") as f: packages = sum(line[:1].isalnum() for line in f)
    hashed, built = ["--python", python, "--require-hashes"], ["--no-build-isolation", "--no-deps"]
    from_cache(log, f"installing {packages} packages from requirements.lock (once, about a minute)",
               [*uv, "sync", *hashed, *LOCKS[:2]], lock)
    try: from_cache(log, "building hnswlib, the bar to compare with", [*uv, "install", *hashed, *built, "-r", LOCKS[2]], lock)
    except Stop as e: say(f"hnswlib is left out and NumPy will be the floor. {e} To try again: rm .venv/.setup")
    run(log, "installing this project", [*uv, "install", "--python", python, *built, "-e", root], lock)
    ears = "from rap_analyzer.music.weights import fetch_network; fetch_network('msd'), fetch_network('mtt')"
    try: run(log, "fetching a network that hears", [python, "-c", ears], lock)
    except Stop: say("The network that hears (29 MB) could not be fetched now; the first analysis will try again.")
    mark(root, wanted(root, here))
    say(f"ready in {time.monotonic() - began:.0f} s")


def moved_in(venv: str) -> bool:
    "Was this .venv made where it stands? A moved one has the old folder in all its scripts."
    try:
        with open(os.path.join(venv, "bin", "activate"), encoding="utf-8") as f: text = f.read()
    except (OSError, UnicodeDecodeError): return False
    return venv in text or os.path.realpath(venv) in text


def main() -> int:
    "The command: exit code 0 when .venv is ready, else one sentence and 1."
    if "--ready" in sys.argv: return 0 if ready(ROOT) else 1
    try:
        os.makedirs(os.path.join(ROOT, "work"), exist_ok=True)
        lock = hold(ROOT)
        install(ROOT, lock)
        return 0
    except Stop as e: say(str(e))
    except KeyboardInterrupt:
        say("\nStopped; run it again to go on.")
        return 130
    except OSError as e:
        full = e.errno == 28
        say(CAUSES[0][1].format(gb=NEEDS_GB) if full else f"The set-up cannot use {e.filename or ROOT}: {e.strerror}.")
    if os.path.exists(os.path.join(ROOT, "work", "setup.log")): say("What happened is written in work/setup.log.")
    return 1


if __name__ == "__main__": sys.exit(main())
