"""A client for the rap-analyzer service.

    from rap_analyzer_client import Client

    with Client("http://127.0.0.1:8000") as client:
        for hit in client.tracks.similar(42, k=10).hits: print(hit.title, hit.score)

`AsyncClient` has the same methods; each is awaited, and what is iterated is iterated with `async for`. Every error is a `RapError`.
"""

from . import models
from .client import AsyncClient, Client
from .errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    JobFailed,
    NotFound,
    Problem,
    RapError,
    RateLimited,
    ServerError,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from .export import Exported
from .jobs import JobHandle
from .retries import Budget, Policy

__version__ = "0.1.0"
__all__ = ["AsyncClient", "BadAnswer", "BadRequest", "Budget", "Client", "Conflict", "Exported", "Forbidden", "Invalid",
           "JobFailed", "JobHandle", "NotFound", "Policy", "Problem", "RapError", "RateLimited", "ServerError",
           "TimedOut", "TooLarge", "Unauthenticated", "Unavailable", "Unreachable", "models"]
