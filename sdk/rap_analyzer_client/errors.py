"""Every error of this package, made from what the service says about it (RFC 9457) or from the silence of the line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import Job

class RapError(Exception):
    "Everything that this package raises on its own."
    status: int = 0  # of the answer; 0: there was none
    hint: str = ""  # what to do about it
    request_id: str = ""  # names the request in the service's log
    retry_after: float | None = None  # seconds until it makes sense to ask again, if the service said so
    tries: int = 1  # how often it was asked

    def __init__(self, detail: str, **about: object):
        super().__init__(detail)
        self.detail = detail
        self.__dict__ |= about

    def __str__(self) -> str:
        tried = f"after {self.tries} tries" if self.tries > 1 else ""
        named = f"request {self.request_id}" if self.request_id else ""
        more = ", ".join(part for part in (tried, named) if part)
        return self.detail + (f" ({self.hint})" if self.hint else "") + (f" [{more}]" if more else "")


class Unreachable(RapError):
    "No answer came. `sent` says whether the service may have got the request, and so may have done what it asked for."
    sent: bool = True


class TimedOut(Unreachable):
    "No answer came in time."


class BadAnswer(RapError):
    "What answered does not speak as the service does: another program, a redirect, or a version with other fields."


class JobFailed(RapError):
    "A job has ended without a result; `job` says how far it came, and `detail` why."
    job: Job


class Problem(RapError):
    "The service refused, or failed. `type` is what to compare: it stays when the sentences are improved."
    type: str = ""
    title: str = ""
    body: Mapping[str, object] = {}  # all that it said


class BadRequest(Problem): "400: a header or the address makes no sense."
class Unauthenticated(Problem): "401: no key, or none that is good."
class Forbidden(Problem): "403: the key lacks a scope."
class NotFound(Problem): "404: there is no such thing."
class Conflict(Problem): "409: it does not fit what is there already, or is under way."
class TooLarge(Problem): "413: the body is too large."
class Invalid(Problem): "422: a parameter or the body is missing or wrong."
class RateLimited(Problem): "429: too often; `retry_after` (seconds) says when to come back."
class ServerError(Problem): "500 or above: something went wrong on their side."
class Unavailable(ServerError): "503: too much to do, or a server behind this one is away."


KINDS: dict[str, type[Problem]] = {
    "bad-request": BadRequest, "unauthenticated": Unauthenticated, "forbidden": Forbidden, "not-found": NotFound,
    "conflict": Conflict, "body-too-large": TooLarge, "invalid-request": Invalid, "too-many-requests": RateLimited,
    "internal-error": ServerError, "unavailable": Unavailable}
STATUSES = {400: BadRequest, 401: Unauthenticated, 403: Forbidden, 404: NotFound, 409: Conflict, 413: TooLarge, 422: Invalid,
            429: RateLimited, 503: Unavailable}


def read_after(said: str | None, now: Callable[[], float] = time.time) -> float | None:  # seconds; None: it says nothing
    "A Retry-After header: seconds, or a date."
    if said is None: return None
    try: seconds = float(said)
    except ValueError:
        try: seconds = parsedate_to_datetime(said).timestamp() - now()
        except (TypeError, ValueError): return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def read_problem(
    status: int, headers: Mapping[str, str], body: bytes,
    request_id: str = "",  # as it was sent
    hide: Callable[[str], str] = str,  # takes secrets out of a text
) -> Problem:
    "The error that an answer stands for: by its `type`, or by its status where a proxy has answered."
    try: said = json.loads(hide(body.decode("utf-8", "replace")))
    except ValueError: said = {}
    if not isinstance(said, dict): said = {}
    def text(name: str) -> str: return said[name] if isinstance(said.get(name), str) else ""
    made = KINDS.get(text("type").rpartition("#")[2]) or STATUSES.get(status) or (ServerError if status >= 500 else Problem)
    detail = text("detail") or text("error") or f"the answer was {status} without a word about it"
    number = text("request_id") or headers.get("x-request-id") or request_id
    return made(detail, status=status, type=text("type"), title=text("title"), hint=text("hint"), request_id=number,
                retry_after=read_after(headers.get("retry-after")), body=said)
