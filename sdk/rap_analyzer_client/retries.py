"""When a request is made again: only where that is safe, from a budget, after a random pause, and before the deadline."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from .errors import Conflict, Problem, RapError, Unreachable

AGAIN = {502, 503, 504}  # nobody knows what was done
BEFORE = {408, 429}  # nothing was done

class Budget:
    "Retries as a share of the requests: each call saves a part of one, each retry spends a whole one. Shared by threads."
    def __init__(
        self,
        share: float = 0.1,  # retries per call, in the long run
        most: float = 10,  # and so many in a row, after a calm time
    ):
        if not 0 <= share <= 1 or most < 0: raise ValueError(f"expected share (0 to 1) and most (from 0), got {share}, {most}")
        self.share, self.most, self.saved, self._lock = share, most, float(most), threading.Lock()

    def save(self) -> None:
        "A call was begun."
        with self._lock: self.saved = min(self.most, self.saved + self.share)

    def spend(self) -> bool:  # False: there is no retry left
        "Pay for a retry."
        with self._lock:
            if self.saved < 1: return False
            self.saved -= 1
            return True


@dataclass(frozen=True)
class Policy:
    "How patient a client is. Seconds, all of them."
    tries: int = 4  # of one call, with the first
    deadline_s: float = 30.0  # of one call, all tries and pauses together
    attempt_s: float = 12.0  # of one try: a little longer than the service itself takes to give up
    connect_s: float = 3.0
    first_s: float = 0.1  # the first pause is at most that, each further one at most twice the one before
    most_s: float = 5.0  # and none is longer, unless the service asks for it

    def __post_init__(self) -> None:
        times = (self.deadline_s, self.attempt_s, self.connect_s, self.first_s, self.most_s)
        if self.tries < 1 or not all(0 < s < float("inf") for s in times):
            raise ValueError(f"expected tries from 1 and times above 0, got {self}")

    def pause_s(
        self,
        error: RapError,
        tried: int,  # so often until now
        rng: random.Random,
    ) -> float:  # seconds
        "Full jitter: anything from nothing to the limit, after what the service asked for."
        return (error.retry_after or 0.0) + rng.uniform(0, min(self.most_s, self.first_s * 2 ** (tried - 1)))


USUAL = Policy()


def may_repeat(
    error: RapError,
    repeatable: bool,  # doing it twice is doing it once: by its method, or by its key
) -> bool:
    "Whether the same request may be sent again after this error."
    if isinstance(error, Unreachable): return repeatable or not error.sent
    if not isinstance(error, Problem): return False
    if isinstance(error, Conflict): return repeatable and error.retry_after is not None  # the first try is still under way
    return error.status in BEFORE or (repeatable and error.status in AGAIN)
