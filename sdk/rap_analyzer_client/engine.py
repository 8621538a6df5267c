"""What a call goes through, written once: tries, pauses, the deadline, the answer. No input, no output: that is in ways.py."""

from __future__ import annotations

import logging
import random
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from .calls import READ, Call, Emit, Flow, Lost, Pause, Reply, Send, Stream
from .errors import BadAnswer, RapError, TimedOut, Unreachable, read_problem
from .retries import Budget, Policy, may_repeat

T = TypeVar("T")
MOST = 64 * 2**20  # bytes of an answer that is read into memory
log = logging.getLogger("rap_analyzer_client")

@lru_cache(maxsize=256)
def adapter(kind: Any) -> TypeAdapter[Any]:
    "What reads an answer of one kind."
    return TypeAdapter(kind)


def tap(stream: Stream[T], see: Callable[[T], object]) -> Flow[T | None]:  # what came last
    "A stream inside a flow: what it emits is shown to `see`."
    given, lost, last = None, None, None
    try:
        while True:
            try: step = stream.throw(lost) if lost else stream.send(given)
            except StopIteration: return last
            given, lost = None, None
            if isinstance(step, Emit):
                last = step.item
                see(last)
                continue
            try: given = yield step
            except Lost as e: lost = e
    finally: stream.close()


def read_cursor(headers: Mapping[str, str]) -> str:  # empty: this was the last page
    "The cursor in `Link: rel=next`."
    for target, how in re.findall(r"<([^>]*)>([^,<]*)", headers.get("link", "")):
        if re.search(r'rel="?next"?', how): return str(parse_qs(urlsplit(target).query).get("cursor", [""])[0])
    return ""


class Engine:
    "What all calls of one client have in common."
    def __init__(
        self,
        policy: Policy,
        budget: Budget,
        hide: Callable[[str], str] = str,  # takes the key out of a text
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ):
        self.policy, self.budget, self.hide, self.clock, self.rng = policy, budget, hide, clock, rng or random.Random()

    def ask(self, call: Call[T]) -> Flow[T]:
        "A call to its end, and its answer as the model that it names."
        def take(reply: Reply, until: float) -> Flow[T]: return self.read(call, (yield from self.whole(until)))
        return (yield from self.perform(call, take))

    def read(self, call: Call[T], body: bytes) -> T:
        "An answer as its model; BadAnswer."
        if call.answer is bytes: return body  # type: ignore[return-value]
        try: return adapter(call.answer).validate_json(body)  # type: ignore[no-any-return]
        except ValidationError as e: wrong = e.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, wrong["loc"])) or "the answer"
        raise BadAnswer(f"{call.method} {call.path} was answered in another form: {place}: {wrong['msg']}",
                        hint="does the address lead to the service, and does this client fit its version?")

    def whole(self, until: float) -> Flow[bytes]:
        "The body of an answer."
        parts, size = [], 0
        while chunk := (yield READ):
            size += len(chunk)
            if size > MOST: raise BadAnswer(f"the answer has more than {MOST:,} bytes")
            if self.clock() > until: raise Lost("the answer did not end in time", late=True)
            parts.append(chunk)
        return b"".join(parts)

    def perform(
        self,
        call: Call[Any],
        take: Callable[[Reply, float], Flow[T]],  # reads a good answer; is called again if the line breaks meanwhile
        deadline_s: float = 0,  # 0: the policy's
    ) -> Flow[T]:
        "Try until there is an answer, or no reason to try again."
        end, tried = self.clock() + (deadline_s or self.policy.deadline_s), 0
        self.budget.save()
        while True:
            found, error = yield from self.attempt(call, take, end)
            tried += 1
            if error is None: return found  # type: ignore[return-value]
            error.tries = tried
            pause_s = self.find_pause(call, error, tried, end)
            if pause_s is None: raise error
            log.info("%s %s: %s; again in %.2f s", call.method, call.path, type(error).__name__, pause_s)
            yield Pause(pause_s)

    def find_pause(self, call: Call[Any], error: RapError, tried: int, end: float) -> float | None:  # None: give up
        "How long to wait before the next try, if there is one."
        if tried >= self.policy.tries or not may_repeat(error, call.repeatable): return None
        pause_s = self.policy.pause_s(error, tried, self.rng)
        return pause_s if self.clock() + pause_s < end and self.budget.spend() else None

    def attempt(
        self, call: Call[Any], take: Callable[[Reply, float], Flow[T]], end: float,
    ) -> Flow[tuple[T | None, RapError | None]]:  # what was taken, or what went wrong
        "One try."
        now, request_id = self.clock(), uuid4().hex
        attempt_s = max(0.001, min(end - now, call.attempt_s or self.policy.attempt_s))
        try:
            reply = yield Send(call, self.headers(call, request_id, attempt_s), attempt_s, min(attempt_s, self.policy.connect_s))
            if reply.status < 300:
                self.heed(call, reply)
                return (yield from take(reply, now + attempt_s)), None
            body = yield from self.whole(now + attempt_s)
        except Lost as lost: kind, said, sent = TimedOut if lost.late else Unreachable, str(lost), lost.sent
        else:
            if reply.status >= 400: return None, read_problem(reply.status, reply.headers, body, request_id, self.hide)
            return None, BadAnswer(f"{call.method} {call.path} was answered with {reply.status}", status=reply.status,
                                   hint="give the address that it leads to: a key is not sent along to another one")
        return None, kind(f"{call.method} {call.path}: {self.hide(said)}", sent=sent, request_id=request_id if sent else "")

    def headers(self, call: Call[Any], request_id: str, attempt_s: float) -> dict[str, str]:
        "What each request carries; how long we wait, too, so that nobody works for an answer that is not awaited."
        head = {"X-Request-ID": request_id, "X-Timeout-Ms": str(max(1, round(950 * attempt_s)))}
        if call.key: head["Idempotency-Key"] = call.key
        if call.upload: head |= {"Content-Type": "application/octet-stream", "Content-Length": str(call.upload.size)}
        return head

    def heed(self, call: Call[Any], reply: Reply) -> None:
        "Pass on that an address will be taken away."
        if "deprecation" not in reply.headers: return
        until = reply.headers.get("sunset", "some day")
        warnings.warn(f"{call.method} {call.path} goes away ({until})", DeprecationWarning, stacklevel=2)

    def pages(self, call: Call[Any], name: str, limit: int | None) -> Stream[Any]:
        "What stands in the list `name` of each page; the next page is asked for when somebody wants it."
        if limit is not None and limit < 0: raise ValueError(f"expected a limit from 0, or None, got {limit}")
        left = limit
        while left != 0:
            page = yield from self.ask(call)
            for item in getattr(page, name)[:left]:
                yield Emit(item)
                if left is not None: left -= 1
            if not page.next: return
            call = replace(call, query={**call.query, "cursor": page.next})
