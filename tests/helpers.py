"""What several test files need that is no fixture."""

import time
from contextlib import contextmanager

import pytest

from rap_analyzer.core import settings
from rap_analyzer.lab import Lab
from rap_analyzer.search.store import Store, migrate

def until(true, wait_s=30, what="it"):
    "Wait until something is so, and return it."
    end = time.monotonic() + wait_s
    while not (said := true()):
        assert time.monotonic() < end, f"{what} did not come about within {wait_s} s"
        time.sleep(.05)
    return said


@contextmanager
def own_database(lab, name):
    "A database of the servers that other tests use, too, with its tables; gone afterwards."
    own = Lab(home=lab.home, database=name).up()
    migrate(own)
    yield own
    lab.drop_database(name)


@contextmanager
def learners_lab(home, **settings_of):
    "A learner's lab with servers of its own, the one that commands find, too; settings_of: environment variables."
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL", "BROKER_URL"): patch.delenv(name, raising=False)
        for name, value in {"RAP_LAB_HOME": str(home), **settings_of}.items(): patch.setenv(name, value)
        settings.cache_clear()
        lab = Lab(home=home).up()
        migrate(lab)
        yield lab
        lab.down()
        lab.close()
        settings.cache_clear()


@contextmanager
def learners_store(home):
    "The store of a learner's lab, as `learners_lab` has it."
    with learners_lab(home) as lab:
        store = Store(lab).register()
        yield store
        store.forget()
