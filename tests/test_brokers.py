"""Two brokers compared: marks from runs, times of single events, and who takes over from a dead consumer."""

from uuid import uuid4

import pytest

from rap_analyzer.core import LabError
from rap_analyzer.decide.brokers import DIES, delivery_times, score_runs, take_over_s
from rap_analyzer.product.stream import ValkeyStream

@pytest.fixture
def broker(lab):
    "The broker's address, and a stream of this test's own."
    url = lab.start_broker()
    stream = ValkeyStream(url, f"test:{uuid4().hex}", idle_ms=300)
    yield url, stream
    stream.r.delete(stream.key)


def test_marks_are_in_proportion_to_the_best():
    assert score_runs({"a": 100, "b": 50, "c": 25}) == {"a": 10, "b": 5, "c": 2.5}
    assert score_runs({"a": 2, "b": 8}, lower=True, top=1) == {"a": 1, "b": .25}
    for bad in ({}, {"a": 0}, {"a": 1, "b": -1}):
        with pytest.raises(ValueError, match="positive"): score_runs(bad)


def test_every_event_is_timed_once(broker):
    took = delivery_times({"one": broker[1]}, n=8, per_s=200)
    assert len(took["one"]) == 8 and min(took["one"]) > 0 and broker[1].groups()["watch"]["pending"] == 0


def test_what_a_killed_consumer_held_goes_to_the_next_one(broker):
    url, stream = broker
    assert take_over_s(stream, DIES["streams"], (url, stream.key)) > 0
    assert stream.groups()["heirs"] == {"lag": 0, "pending": 10}                             # the heir's now


def test_a_consumer_that_held_nothing_is_an_error(broker):
    with pytest.raises(LabError, match="held no events"): take_over_s(broker[1], "raise SystemExit", ())
