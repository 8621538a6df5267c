"""Two ways to do what a flow asks for, blocking and awaited, and how one description becomes a method of both clients."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

from .calls import Call, Do, Emit, Flow, Lost, Pause, Reply, Send, Stream
from .engine import Engine

P = ParamSpec("P")
T = TypeVar("T")

class Bearer(httpx.Auth):
    "Puts the key into a request at the last moment, and shows it to nobody."
    def __init__(self, key: str):
        # No attribute holds the text: it is in no repr, in no vars(), and not among the names of a frame.
        self._key: Callable[[], str] = lambda: key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        "The header, if there is a key."
        if self._key(): request.headers["Authorization"] = f"Bearer {self._key()}"
        yield request

    def hide(self, text: str) -> str:
        "A text without the key."
        return text.replace(self._key(), "***") if self._key() else text


def explain(e: httpx.HTTPError) -> Lost:
    "What went wrong on the line. httpx's own error stays here: it holds the request, and the request holds the key."
    unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
    late = isinstance(e, httpx.TimeoutException)
    said = "no answer in time" if late else str(e) or type(e).__name__
    return Lost(f"{'no connection' if isinstance(e, unsent) else 'no answer'} ({said})", not isinstance(e, unsent), late)


def make_request(http: httpx.Client | httpx.AsyncClient, step: Send) -> httpx.Request:
    "A step as a request."
    call, timeout = step.call, httpx.Timeout(step.attempt_s, connect=step.connect_s)
    how: dict[str, Any] = {"params": call.query} if call.json is None else {"params": call.query, "json": call.json}
    if call.upload: how["content"] = call.upload.awaited() if isinstance(http, httpx.AsyncClient) else iter(call.upload)
    try: return http.build_request(call.method, call.path, headers=step.headers, timeout=timeout, **how)
    except httpx.InvalidURL as e: said = str(e)
    raise ValueError(f"{call.method} {call.path}: {said}")


class Way:
    "How what a flow asks for is done."


class Sync(Way):
    "Blocks."
    def __init__(self, http: httpx.Client): self.http = http

    def steps(self, flow: Generator[Any, Any, T], came_to: list[T]) -> Iterator[Any]:
        "Do what a flow asks for; yields what it emits, and leaves what it comes to in the list."
        given: Any = None
        parts: Any = None
        lost, response = None, None
        try:
            while True:
                try: step = flow.throw(lost) if lost else flow.send(given)
                except StopIteration as end: return came_to.append(end.value)
                given, lost = None, None
                if isinstance(step, Emit): yield step.item
                elif isinstance(step, Pause): time.sleep(step.seconds)
                elif isinstance(step, Do): given = step.work()
                else:
                    try:
                        if isinstance(step, Send):
                            if response: response.close()
                            response = self.http.send(make_request(self.http, step), stream=True)
                            parts, given = response.iter_bytes(), Reply(response.status_code, response.headers)
                        else: given = next(parts, b"")
                    except httpx.HTTPError as e: lost = explain(e)
        finally:
            flow.close()
            if response: response.close()

    def run(self, flow: Flow[T]) -> T:
        "What a flow comes to."
        came_to: list[T] = []
        for _ in self.steps(flow, came_to): pass
        return came_to[0]

    def iterate(self, stream: Stream[T]) -> Iterator[T]:
        "What a stream emits."
        return self.steps(stream, [])


class Async(Way):
    "Awaits."
    def __init__(self, http: httpx.AsyncClient): self.http = http

    async def steps(self, flow: Generator[Any, Any, T], came_to: list[T]) -> AsyncIterator[Any]:
        "As in Sync."
        given: Any = None
        parts: Any = None
        lost, response = None, None
        try:
            while True:
                try: step = flow.throw(lost) if lost else flow.send(given)
                except StopIteration as end:
                    came_to.append(end.value)
                    return
                given, lost = None, None
                if isinstance(step, Emit): yield step.item
                elif isinstance(step, Pause): await asyncio.sleep(step.seconds)
                elif isinstance(step, Do): given = await asyncio.to_thread(step.work)
                else:
                    try:
                        if isinstance(step, Send):
                            if response: await response.aclose()
                            response = await self.http.send(make_request(self.http, step), stream=True)
                            parts, given = response.aiter_bytes(), Reply(response.status_code, response.headers)
                        else: given = await anext(parts, b"")
                    except httpx.HTTPError as e: lost = explain(e)
        finally:
            flow.close()
            if response: await response.aclose()

    async def run(self, flow: Flow[T]) -> T:
        "What a flow comes to."
        came_to: list[T] = []
        async for _ in self.steps(flow, came_to): pass
        return came_to[0]

    def iterate(self, stream: Stream[T]) -> AsyncIterator[T]:
        "What a stream emits."
        return self.steps(stream, [])


W = TypeVar("W", bound=Way)

class Room(Generic[W]):
    "Methods that belong together. Each is written once, as a description; the way decides how it is carried out."
    def __init__(self, engine: Engine, way: W): self._engine, self._way = engine, way


class Described:
    "What `method` and `stream` have in common: the words and the parameters of the description stay."
    def __init__(self, describe: Callable[..., Any]):
        self.describe, told = describe, inspect.signature(describe)
        self.signature, self.__doc__ = told.replace(parameters=[*told.parameters.values()][1:]), describe.__doc__

    def bind(self, room: Room[Any], carry_out: Callable[[Any], Any]) -> Callable[..., Any]:
        "The description as a method of one room."
        @wraps(self.describe)
        def bound(*args: Any, **named: Any) -> Any: return carry_out(self.describe(room, *args, **named))
        bound.__signature__ = self.signature  # type: ignore[attr-defined]
        return bound


class method(Described, Generic[P, T]):
    "A description of one call, or of a flow of several, as a method: it returns a T, or an awaitable of one."
    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T] | Flow[T]]): super().__init__(describe)

    @overload
    def __get__(self, room: None, owner: type) -> method[P, T]: ...
    @overload
    def __get__(self, room: Room[Sync], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, room: Room[Async], owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, room: Any, owner: type) -> Any:
        if room is None: return self
        def carry_out(said: Any) -> Any: return room._way.run(room._engine.ask(said) if isinstance(said, Call) else said)
        return self.bind(room, carry_out)


class stream(Described, Generic[P, T]):
    "A description of something that is iterated: it returns an iterator, or an async iterator, and asks as it goes."
    def __init__(self, describe: Callable[Concatenate[Any, P], Stream[T]]): super().__init__(describe)

    @overload
    def __get__(self, room: None, owner: type) -> stream[P, T]: ...
    @overload
    def __get__(self, room: Room[Sync], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, room: Room[Async], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, room: Any, owner: type) -> Any: return self if room is None else self.bind(room, room._way.iterate)
