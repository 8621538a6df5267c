"""The two clients."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from . import models
from .calls import Call, Flow, Upload, post
from .engine import Engine
from .jobs import JobHandle
from .retries import USUAL, Budget, Policy
from .rooms import Service
from .ways import Async, Bearer, Sync

What = int | str | os.PathLike[str] | bytes
See = Callable[[str, float], object]
LINES = httpx.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=30)

def check_url(url: str, insecure: bool) -> str:
    "Where the service is; ValueError, and no key is sent."
    at = urlsplit(url)
    if at.username or at.password: raise ValueError("a key in the address ends up in logs: give it as `key`")
    if at.scheme not in ("http", "https") or not at.hostname:
        raise ValueError(f"expected an address such as https://rap.example.com, got {url[:80]!r}")
    _ = at.port                                                             # ValueError: not one of 0 to 65535
    if at.query or at.fragment: raise ValueError(f"expected an address without ? and #, got {url[:80]!r}")
    try: near = at.hostname == "localhost" or ip_address(at.hostname).is_loopback
    except ValueError: near = False
    if at.scheme == "http" and not near and not insecure:
        raise ValueError(f"http://{at.hostname} would carry the key in clear text: use https, or say insecure=True")
    return url.rstrip("/")


def open_line(url: str, key: str, insecure: bool) -> tuple[Bearer, dict[str, Any]]:
    "What both kinds of connections have in common."
    if not re.fullmatch(r"[\x21-\x7e]*", key): raise ValueError("this key has characters that no key has")
    bearer, named = Bearer(key), {"User-Agent": "rap-analyzer-client/0.1.0"}
    at = check_url(url, insecure)
    how = {"headers": named, "limits": LINES, "follow_redirects": False, "verify": at.startswith("https")}     # http has none
    return bearer, {"base_url": at, "auth": bearer, **how}


def accept(engine: Engine, what: What, name: str | None, queue: str, see: See | None) -> Flow[models.Accepted]:
    "Send what is to be analysed: a track by its number, or a file."
    tell = partial(see, "upload") if see else None
    if isinstance(what, int):
        return engine.ask(post("/api/analyze", models.Accepted, {"track_id": what, "queue": queue}))
    source = what if isinstance(what, bytes) else Path(what)
    named = {"name": (name or (source.name if isinstance(source, Path) else "upload"))[-200:]}
    call: Call[models.Accepted] = Call("POST", "/api/analyze", models.Accepted, named, upload=Upload(source, tell), key=uuid4().hex)
    return engine.ask(call)


def watch(see: See | None) -> Callable[[models.Job], object] | None:
    "Progress of a job, as `on_progress` wants to be told it."
    return None if see is None else lambda job: see(job.state, job.progress)


class Client(Service[Sync]):
    """The service, as one key sees it. Close it, or use it in a `with`. Threads may share it; a fork may not.

    `key` may be left out where the service asks nobody for one. `policy` says how patient it is (seconds), `budget` how often it
    tries again; share one budget among the clients of a program. http leads to this machine only, unless `insecure`.
    """
    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str = "", *, policy: Policy = USUAL, budget: Budget | None = None,
        insecure: bool = False,
    ):
        bearer, line = open_line(url, key, insecure)
        self.url, self._http = line["base_url"], httpx.Client(**line)
        super().__init__(Engine(policy, budget or Budget(), bearer.hide), Sync(self._http))

    def __repr__(self) -> str: return f"{type(self).__name__}({self.url!r})"

    def __enter__(self) -> Self: return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: self.close()

    def close(self) -> None:
        "Close the connections."
        self._http.close()

    def job(self, id: str) -> JobHandle[Sync]:
        "A job that was accepted before, by its id."
        return JobHandle(self, id)

    def analyze(
        self, what: What, *, name: str | None = None, queue: str = "interactive", on_progress: See | None = None,
    ) -> JobHandle[Sync]:
        """Have a track (its number) or a file (its path, or its bytes) analysed; `.wait()` gives what was found.

        The same sound is analysed once. `queue` (of a track): interactive, or bulk where nobody waits. `on_progress` is told
        ("upload", share) and then the job's state and progress, 0 to 1. NotFound; TooLarge (64 MiB); OSError: no such file.
        """
        done = self._way.run(accept(self._engine, what, name, queue, on_progress))
        return JobHandle(self, done.job, done.new, watch(on_progress))


class AsyncClient(Service[Async]):
    "The same service for asyncio: each method is awaited, what is iterated is iterated with `async for`. See Client."
    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str = "", *, policy: Policy = USUAL, budget: Budget | None = None,
        insecure: bool = False,
    ):
        bearer, line = open_line(url, key, insecure)
        self.url, self._http = line["base_url"], httpx.AsyncClient(**line)
        super().__init__(Engine(policy, budget or Budget(), bearer.hide), Async(self._http))

    def __repr__(self) -> str: return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self: return self

    async def __aexit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        "Close the connections."
        await self._http.aclose()

    def job(self, id: str) -> JobHandle[Async]:
        "A job that was accepted before, by its id."
        return JobHandle(self, id)

    async def analyze(
        self, what: What, *, name: str | None = None, queue: str = "interactive", on_progress: See | None = None,
    ) -> JobHandle[Async]:
        "As Client.analyze; `on_progress` is a plain function, too."
        done = await self._way.run(accept(self._engine, what, name, queue, on_progress))
        return JobHandle(self, done.job, done.new, watch(on_progress))
