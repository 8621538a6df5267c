"""Everything as a file: streamed, part by part, and there only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

from .calls import READ, Do, Flow, Lost, Reply, get
from .engine import Engine, read_cursor

MOST = 50_000  # rows that the service puts into one answer

@dataclass(frozen=True)
class Exported:
    "What an export has written."
    paths: list[Path]
    size: int  # bytes
    parts: int  # answers of the service


def name_part(to: Path, number: int) -> Path:
    "Where a part goes that is a file of its own: songs.parquet, songs-2.parquet, ..."
    return to if number == 1 else to.with_name(f"{to.stem}-{number}{to.suffix}")


def save(
    engine: Engine, file: BinaryIO, headless: bool, timeout_s: float, see: Callable[[int], object],
) -> Callable[[Reply, float], Flow[Mapping[str, str]]]:  # comes to the headers
    "What writes an answer to the end of a file, each time it is called anew; without its first line if `headless`."
    start, end = file.tell(), engine.clock() + timeout_s
    def take(reply: Reply, until: float) -> Flow[Mapping[str, str]]:
        yield Do(lambda: (file.seek(start), file.truncate()))
        skipping = headless
        while chunk := (yield READ):
            if engine.clock() > end: raise Lost(f"the file was not complete after {timeout_s:g} s", late=True)
            if skipping: skipping, chunk = b"\n" not in chunk, chunk.partition(b"\n")[2]
            yield Do(partial(file.write, chunk))
            see(file.tell())
        return reply.headers
    return take


def export(
    engine: Engine,
    what: str,
    to: str | os.PathLike[str],
    form: str,
    rows: int,  # of one answer
    timeout_s: float,  # for each answer
    see: Callable[[int], object] | None,  # is told the bytes of the file that is being written
) -> Flow[Exported]:
    "All tracks, or all events, into files that appear when they are complete."
    if form not in ("csv", "parquet"): raise ValueError(f"expected form csv or parquet, got {form!r}")
    to, paths, size = Path(to), [], 0
    draft, call = to.with_name(f".{to.name}.part"), get("/api/export", bytes, what=what, form=form, k=rows)
    try:
        for number in count(1):
            goes_on = form == "csv" and number > 1
            with draft.open("ab" if goes_on else "wb") as file:
                before, take = file.tell(), save(engine, file, goes_on, timeout_s, see or (lambda n: None))
                cursor = read_cursor((yield from engine.perform(call, take, timeout_s)))
                size += file.tell() - before
            if form == "parquet" or not cursor:
                paths.append(name_part(to, number) if form == "parquet" else to)
                os.replace(draft, paths[-1])
            if not cursor: break
            call = replace(call, query={**call.query, "cursor": cursor})
    finally: draft.unlink(missing_ok=True)
    return Exported(paths, size, number)
