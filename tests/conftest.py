"""One lab of its own for the tests: never the learner's."""

import pytest

from rap_analyzer.core import settings

@pytest.fixture(scope="session")
def lab_home(tmp_path_factory):
    "A home folder for the test servers."
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab(lab_home):
    "Servers that live as long as the test run."
    from rap_analyzer.lab import Lab

    lab = Lab(home=lab_home).up()
    yield lab
    lab.down()
    lab.close()


@pytest.fixture(scope="session")
def small(lab):
    "A store with 2,000 tracks and its index, to be read and not written."
    from rap_analyzer.search.index import build
    from rap_analyzer.search.store import Store, fill, migrate

    migrate(lab)
    store = fill(Store(lab), 2_000)
    build("hnsw_halfvec", store)
    yield store
    store.forget()


@pytest.fixture(autouse=True)
def _fresh_settings():
    "Settings are read anew by each test."
    settings.cache_clear()
    yield
    settings.cache_clear()
