"""One lab of its own for the tests: never the learner's."""

from functools import cache

import httpx._transports.default as transports
import pytest

from rap_analyzer.core import settings

transports.create_ssl_context = cache(transports.create_ssl_context)  # read certificates once: all servers here speak HTTP

DEAREST = ("first", "stack", "drill", "faults", "catalog", "folder", "api", "book", "performance", "analyzers",
           "compose")  # begun first
SPREAD = "exercises", "exercises_performance", "exercises_music", "learn"  # last; any worker takes any of their tests
TOGETHER = "::test_a_review[", "::test_each_of_the_eight_by_itself["  # not these: a dear fixture (pytest 9.2 drops xdist_group)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    "Workers begin with the dearest files and leave what can be cut small to the end, so that they end together."
    if hasattr(config, "workerinput"):
        rank = {f"test_{name}.py": n for n, name in enumerate((*DEAREST, "", *SPREAD))}
        items.sort(key=lambda item: rank.get(item.path.name, len(DEAREST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "A file's tests stay together, so its fixtures are made once; SPREAD and TOGETHER say otherwise."
    if config.getoption("dist") != "loadgroup": return None
    from xdist.scheduler import LoadGroupScheduling

    class Files(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            group, file = super()._split_scope(nodeid), nodeid.partition("::")[0]
            if any(name in nodeid for name in TOGETHER): return "together"
            alone = file.rpartition("test_")[2].removesuffix(".py") in SPREAD
            return group if group != nodeid or alone else file

    return Files(config, log)

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


@pytest.fixture(scope="session")
def memo_of():
    "What the judgements of one exercise with one seed share: questions, rivals, fork servers. Not for a measured exercise."
    from rap_analyzer.learn.feedback import Memo
    from rap_analyzer.learn.sandbox import warm_servers

    memos, servers = {}, warm_servers()

    def shared(name, seed):
        memo = memos.setdefault((name, seed), Memo())
        memo.get("warm", lambda: servers)
        return memo

    yield shared
    for s in servers: s.close()


@pytest.fixture(autouse=True)
def _fresh_settings():
    "Settings are read anew by each test."
    settings.cache_clear()
    yield
    settings.cache_clear()
