"Each operation of the schema is asked by Schemathesis, within the schema and beyond it: a small form of `scripts/soak contract`."
import sys
from pathlib import Path

import pytest

from rap_analyzer.app import create_app
from rap_analyzer.lab import Lab
from rap_analyzer.web import serving

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))


@pytest.fixture(scope="module")
def service(lab):
    import _contract
    store, key = _contract.prepare(Lab(home=lab.home, database="test_contract").up())
    with serving(create_app(store, auth="required", cache_s=60, timeout_s=20)) as url: yield url, key
    store.forget()
    lab.drop_database("test_contract")


def test_every_answer_is_one_that_the_schema_announces(service):
    import _contract
    found = _contract.explore(*service, n=10, seed=7)
    assert not found["wrong"], "\n".join(f"{where}: {said}" for where, said in found["wrong"].items())
    assert found["operations"] > 30 and {200, 401, 422} <= set(found["statuses"]), found
