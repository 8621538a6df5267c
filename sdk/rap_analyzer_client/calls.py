"""A request as data. Nothing here opens a connection, so the sync client and the async one send the same."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote
from uuid import uuid4

T = TypeVar("T")
CHUNK = 65_536  # bytes of a file that are sent at a time

class Upload:
    "A file on its way out, in parts. Each try begins anew, and so does what `see` is told."
    def __init__(
        self,
        source: Path | bytes,  # where the bytes are
        see: Callable[[float], object] | None = None,  # is told the share that was sent, 0 to 1
    ):
        self.source, self.see = source, see
        self.size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if not self.size: raise ValueError("there is nothing in it: an upload needs the bytes of a sound file")

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        with io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb") as file:
            while part := file.read(CHUNK):
                yield part
                sent += len(part)
                if self.see: self.see(min(1.0, sent / self.size))

    async def awaited(self) -> AsyncIterator[bytes]:
        "The same parts, read in a thread."
        parts = iter(self)
        while part := await asyncio.to_thread(next, parts, b""): yield part


@dataclass(frozen=True)
class Call(Generic[T]):
    "One request, and what its answer is read as. A key is made with it, once: every try sends the same one."
    method: str
    path: str
    answer: Any  # what pydantic can read, or bytes
    query: Mapping[str, object] = field(default_factory=dict)
    json: object = None
    upload: Upload | None = None
    key: str = ""  # the Idempotency-Key
    reads: bool = False  # a POST that changes nothing
    attempt_s: float = 0  # of one try; 0: the policy's

    @property
    def repeatable(self) -> bool:
        "Whether doing it twice is doing it once."
        return bool(self.key) or self.reads or self.method in ("GET", "HEAD", "PUT", "DELETE")


def get(path: str, answer: type[T], **query: object) -> Call[T]:
    "A question: what is None is not asked."
    return Call("GET", path, answer, {name: value for name, value in query.items() if value is not None})


def post(path: str, answer: type[T], json: Mapping[str, object], key: str | None = None) -> Call[T]:
    "Something to be done once, whatever the line does: its key is made here unless one is given."
    return Call("POST", path, answer, json={k: v for k, v in json.items() if v is not None}, key=check_key(key))


def check_key(key: str | None) -> str:
    "An Idempotency-Key: a new one, or the one given; ValueError."
    if key is None: return uuid4().hex
    if not re.fullmatch(r"[\x21\x23-\x7e]{1,64}", key): raise ValueError(f"a key has 1 to 64 visible characters, got {key[:80]!r}")
    return key


def part(value: object) -> str:
    "A value as one part of a path; ValueError."
    text = str(value)
    if not text.strip("."): raise ValueError(f"expected an id or a name, got {text!r}")
    return quote(text, safe="")


# ---- what a flow asks of its client: see ways.py

class Lost(Exception):
    "The line broke, or nothing came in time."
    def __init__(self, said: str, sent: bool = True, late: bool = False):
        super().__init__(said)
        self.sent, self.late = sent, late


@dataclass(frozen=True)
class Reply:
    "The head of an answer."
    status: int
    headers: Mapping[str, str]  # names in small letters


@dataclass(frozen=True)
class Send:
    "Send a request; gives a Reply. Its body is then read with Read."
    call: Call[Any]
    headers: Mapping[str, str]
    attempt_s: float
    connect_s: float


@dataclass(frozen=True)
class Read: "The next part of the body (bytes); empty at its end."
@dataclass(frozen=True)
class Pause:
    "Wait."
    seconds: float


@dataclass(frozen=True)
class Do:
    "Something that may block for a moment, such as writing into a file."
    work: Callable[[], object]


@dataclass(frozen=True)
class Emit(Generic[T]):
    "Hand something to whoever iterates."
    item: T


READ = Read()
Step: TypeAlias = Send | Read | Pause | Do
Flow: TypeAlias = Generator[Step, Any, T]  # comes to a T
Stream: TypeAlias = Generator[Step | Emit[T], Any, None]  # emits each T
