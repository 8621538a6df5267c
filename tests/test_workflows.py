"The workflows for those who fork: the schema that GitHub publishes, and rules that it does not know."
import re
from pathlib import Path

import pytest
import yaml
from check_jsonschema.cli import main as validate
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
PIN = "checkout@fbc6f3992d24b796d5a048ff273f7fcc4a7b6c09"
WRITES = {"docs.yml": {"deploy": {"pages": "write", "id-token": "write"}}}  # the only job that may write anything, and what


def problems(text: str, name: str = "test.yml") -> list[str]:
    "What is careless in a workflow."
    w, found = yaml.safe_load(text), []
    if w.get("permissions") != {"contents": "read"}: found.append("permissions are not those to read")
    if re.search(r"\$\{\{[^}]*\bsecrets\b", text): found.append("it uses a secret")
    if "pull_request_target" in text: found.append("code of a stranger would run with our rights")
    if any("${{" in step.get("run", "") for job in w["jobs"].values() for step in job["steps"]):
        found.append("an expression in a command: hand it over as a variable")
    for id, job in w["jobs"].items():
        if job.get("permissions", {}) != WRITES.get(name, {}).get(id, {}): found.append(f"{id}: other permissions than meant")
        if "timeout-minutes" not in job: found.append(f"{id}: no limit of time")
        if not re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]): found.append(f"{id}: a machine that moves")
        for step in job["steps"]:
            uses, command = step.get("uses", ""), step.get("run", "")
            ours = re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", uses)
            if uses and not ours: found.append(f"{uses}: not GitHub's own, or not pinned")
            if uses.startswith("actions/checkout@") and step["with"].get("persist-credentials") is not False:
                found.append(f"{id}: the token stays in the folder")
            if command and not (ROOT / command.split()[0]).is_file(): found.append(f"{command}: there is no such script")
        found += [f"{id} waits for {n}, which is not there" for n in [job.get("needs", [])] if n and n not in w["jobs"]]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_workflow_is_valid_and_careful(file):
    said = CliRunner().invoke(validate, ["--builtin-schema", "vendor.github-workflows", str(file)])
    assert said.exit_code == 0, said.output
    assert problems(file.read_text(encoding="utf-8"), file.name) == []


def test_there_is_one_for_tests_book_and_site():
    text = {f.stem: f.read_text(encoding="utf-8") for f in FILES}
    assert set(text) == {"test", "book", "docs"}
    assert "./.ci/run" in text["test"] and "./scripts/book --profile" in text["book"] and "path: _build/site" in text["docs"]
    assert "_build/site" in (ROOT / "scripts/_site.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("old, new, says", [
    ("  contents: read\n", "  contents: write\n", "not those to read"), (PIN, "checkout@v5", "not pinned"),
    ("actions/setup-python@", "somebody/setup-python@", "not GitHub's own"), ("    timeout-minutes: 100\n", "", "no limit"),
    ("persist-credentials: false", "fetch-depth: 1", "token"), ("./.ci/run", "./.ci/walk", "no such script"),
    ("./.ci/run", "./.ci/run ${{ github.event.pull_request.title }}", "as a variable"), ("ubuntu-24.04", "ubuntu-latest", "moves"),
    ("  pull_request:", "  pull_request_target:", "stranger"),
    ("./.ci/run", "./.ci/run\n        env: {K: \"${{ secrets.K }}\"}", "secret")])
def test_a_careless_one_is_seen(old, new, says):
    text = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    assert old in text and any(says in p for p in problems(text.replace(old, new)))
