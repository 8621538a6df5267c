"""A job: accepted work, followed over server-sent events until it has ended."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import NamedTuple
from uuid import UUID

from . import models
from .calls import READ, Call, Emit, Flow, Lost, Pause, Reply, Stream, get, part
from .engine import Engine, tap
from .errors import BadAnswer, JobFailed, NotFound, TimedOut, Unreachable
from .ways import Room, W, method, stream

QUIET_S = 20.0  # a stream that says nothing for so long is cut
GOES_ON = "it goes on: wait again, or look at its status later"

class Event(NamedTuple):
    "A server-sent event."
    name: str
    data: str


class EventReader:
    "Server-sent events out of bytes that arrive in any parts (WHATWG HTML, 9.2)."
    def __init__(self) -> None:
        self.rest, self.name, self.retry_s = "", "", 0.5
        self.data: list[str] = []
        self.decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode

    def feed(self, chunk: bytes) -> Iterator[Event]:
        "The events that are complete by now."
        text = self.rest + self.decode(chunk)
        held = text[-1:] == "\r"  # its "\n" may be on the way
        lines = (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.rest = lines.pop() + "\r" * held
        for line in lines:
            if line: self.note(line)
            elif self.data:
                yield Event(self.name or "message", "\n".join(self.data))
                self.name, self.data = "", []
            else: self.name = ""

    def note(self, line: str) -> None:
        "One field of an event."
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data": self.data.append(value)
        elif name == "event": self.name = value
        elif name == "retry" and value.isascii() and value.isdigit(): self.retry_s = min(60.0, int(value) / 1000)


def follow(engine: Engine, job_id: str, timeout_s: float) -> Stream[models.Job]:
    "A job whenever it has changed, until it has ended. The service ends each stream after some seconds; the next one goes on."
    end, seen = engine.clock() + timeout_s, None
    call: Call[object] = Call("GET", f"/api/jobs/{job_id}/events", object, attempt_s=QUIET_S)
    late = f"job {job_id} had not ended after {timeout_s:g} s"
    def opened(reply: Reply, until: float) -> Flow[None]:
        return
        yield
    while True:
        yield from engine.perform(call, opened, min(engine.policy.deadline_s, max(0.001, end - engine.clock())))
        reader, cut = EventReader(), None
        try:
            while cut is None and (chunk := (yield READ)):
                for event in reader.feed(chunk):
                    job = read_event(event, job_id)
                    if (now := (job.state, job.progress, job.attempt)) != seen: yield Emit(job)
                    seen = now
                    if job.ended_at: return
                if engine.clock() > end: raise TimedOut(late, hint=GOES_ON)
        except Lost as e: cut = e
        if engine.clock() < end and cut and not engine.budget.spend(): raise Unreachable(f"the stream of job {job_id} broke: {cut}")
        yield Pause(engine.rng.uniform(0.5, 1) * reader.retry_s)
        if engine.clock() > end: raise TimedOut(late, hint=GOES_ON)


def read_event(event: Event, job_id: str) -> models.Job:
    "A job out of an event; NotFound, BadAnswer."
    if event.name == "unknown": raise NotFound(f"no job {job_id}", status=404, hint="analyze() gives a job")
    try: return models.Job.model_validate_json(event.data)
    except ValueError: pass
    raise BadAnswer(f"an event of job {job_id} has another form")


class JobHandle(Room[W]):
    "Accepted work. `id` is its number, `new` is False where the same work had been accepted before."
    def __init__(self, room: Room[W], id: UUID | str, new: bool = True, see: Callable[[models.Job], object] | None = None):
        super().__init__(room._engine, room._way)
        self.id, self.new, self._see = UUID(str(id)), new, see

    def __repr__(self) -> str: return f"<JobHandle {self.id}>"

    @method
    def status(self) -> Call[models.Job]:
        "The job as it is now; its `progress` runs from 0 to 1. NotFound."
        return get(f"/api/jobs/{part(self.id)}", models.Job)

    @stream
    def events(self, timeout_s: float = 600) -> Stream[models.Job]:
        "The job whenever it has changed, the last time when it has ended. TimedOut after `timeout_s` seconds; the job goes on."
        return follow(self._engine, str(self.id), timeout_s)

    @method
    def wait(self, timeout_s: float = 600, on_progress: Callable[[models.Job], object] | None = None) -> Flow[models.Job]:
        """The job with its `result`, once it is done.

        `on_progress` is shown the job whenever it has changed. JobFailed if it ended without a result; TimedOut after
        `timeout_s` seconds, and then it goes on: wait again.
        """
        see = on_progress or self._see or (lambda job: None)
        job = yield from tap(follow(self._engine, str(self.id), timeout_s), see)
        assert job is not None  # a stream ends with a job, or raises
        if job.state == "done": return job
        raise JobFailed(f"job {self.id} is {job.state}: {job.reason or 'no reason was given'}", job=job,
                        request_id=job.request_id or "")
