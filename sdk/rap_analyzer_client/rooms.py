"""What can be asked, each once: the two clients differ only in how it is carried out."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from . import models
from .calls import Call, Flow, Stream, check_key, get, part, post
from .engine import Engine
from .export import MOST, Exported, export
from .ways import Room, W, method, stream

class Tracks(Room[W]):
    "Tracks: one, similar ones, those that are found by their words, all."

    @method
    def get(self, track_id: int) -> Call[models.Track]:
        "One track with everything that is known of it; what is not known is None. `bpm` is in beats a minute. NotFound."
        return get(f"/api/tracks/{part(track_id)}", models.Track)

    @method
    def similar(
        self, track_id: int, k: int = 10, *, ef: int | None = None, genre: str | None = None, mood: str | None = None,
        bpm: str | None = None, year: str | None = None, artist: str | None = None, titles: bool = True,
    ) -> Call[models.Similar]:
        """The `k` tracks (1 to 1,000) that sound most like one, nearest first; a hit's `score` is a cosine, at most 1.

        `ef` (1 to 1,000) is the search width: wider misses less and takes longer. `bpm` and `year` are ranges such as "80-100".
        NotFound: no such track. Conflict: it has no embedding. Invalid: a condition makes no sense.
        """
        return get("/api/tracks/similar", models.Similar, track_id=track_id, k=k, ef=ef, genre=genre, mood=mood, bpm=bpm,
                   year=year, artist=artist, titles=titles)

    @stream
    def search(
        self, q: str, *, limit: int | None = None, page: int = 50, genre: str | None = None, mood: str | None = None,
        bpm: str | None = None, year: str | None = None, artist: str | None = None, titles: bool = True,
    ) -> Stream[models.Hit]:
        """Tracks by their words, best first, one by one: a page of `page` hits (1 to 1,000) is asked for when it is needed.

        `limit`: so many at most; None: all there are. Invalid: a condition makes no sense.
        """
        asked = get("/api/tracks/search", models.Search, q=q, k=page, genre=genre, mood=mood, bpm=bpm, year=year, artist=artist,
                    titles=titles)
        return self._engine.pages(asked, "hits", limit)

    @method
    def search_like(
        self, q: str, like: int, k: int = 10, *, genre: str | None = None, mood: str | None = None, bpm: str | None = None,
        year: str | None = None, artist: str | None = None,
    ) -> Call[models.Search]:
        "Of the tracks with these words the `k` that sound most like the track `like`. NotFound, Conflict, Invalid."
        return get("/api/tracks/search", models.Search, q=q, like=like, k=k, genre=genre, mood=mood, bpm=bpm, year=year,
                   artist=artist)

    @stream
    def all(self, *, limit: int | None = None, page: int = 200) -> Stream[models.Listed]:
        "Every track by its id, one by one; a page of `page` tracks (1 to 200) is asked for when it is needed."
        return self._engine.pages(get("/api/tracks", models.List, k=page), "tracks", limit)

    @method
    def counts(self, track_id: int) -> Call[models.Counts]:
        "How often a track was played, skipped, liked and saved, up to about a second ago."
        return get(f"/api/tracks/{part(track_id)}/counts", models.Counts)

    @method
    def audio(self, track_id: int, seconds: float = 15) -> Call[bytes]:
        "The beginning of a track (1 to 30 seconds) as the bytes of a WAV file. NotFound: it has no sound."
        return get(f"/api/tracks/{part(track_id)}/audio", bytes, seconds=seconds)


class Listeners(Room[W]):
    "Listeners: known ones may do things."

    @method
    def register(self, listener_id: int) -> Call[models.Listener]:
        "Make a listener known; again changes nothing."
        return Call("PUT", f"/api/listeners/{part(listener_id)}", models.Listener)

    @method
    def recommendations(self, listener_id: int) -> Call[models.Kept]:
        "What was recommended after the latest like. NotFound until the first like has had its effect."
        return get(f"/api/listeners/{part(listener_id)}/recommendations", models.Kept)


class Service(Room[W]):
    "What both clients can do."
    tracks: Tracks[W]
    listeners: Listeners[W]

    def __init__(self, engine: Engine, way: W):
        super().__init__(engine, way)
        self.tracks, self.listeners = Tracks(engine, way), Listeners(engine, way)

    @method
    def whoami(self) -> Call[models.Who]:
        "The tenant and the scopes of the key. Unauthenticated."
        return get("/api/whoami", models.Who)

    @method
    def recommend(
        self, user_id: str | int = "", *, liked: Sequence[int] = (), k: int = 10, genre: str | None = None,
        mood: str | None = None, bpm: str | None = None, year: str | None = None, artist: str | None = None,
        hour: float | None = None, activity: str | None = None, device: str | None = None, session: Sequence[int] = (),
    ) -> Call[models.Recommend]:
        """At most `k` tracks (1 to 100) for a listener, best first, each with its reason in `why`.

        `liked`: tracks the listener likes, the latest last; without it, what they did last counts. `hour`: 0 up to 24, on the
        listener's clock. NotFound: a liked track does not exist. Invalid: a condition makes no sense.
        """
        return get("/api/recommend", models.Recommend, user_id=str(user_id), liked=list(liked) or None, k=k, genre=genre,
                   mood=mood, bpm=bpm, year=year, artist=artist, hour=hour, activity=activity, device=device,
                   session=list(session) or None)

    @method
    def home(self, user_id: str | int, *, k: int | None = None, hour: float | None = None) -> Call[models.Home]:
        "The rows of a listener's home page with at most `k` tracks (1 to 50) each, and the reason for each row."
        return get("/api/home", models.Home, user_id=str(user_id), k=k, hour=hour)

    @method
    def playlist(
        self, ids: Sequence[int] = (), *, like: int | None = None, k: int = 10, start: int | None = None, end: int | None = None,
        arc: str = "free",
    ) -> Call[models.Playlist]:
        """Tracks in the order in which they should be played: `ids`, or `k` tracks that are similar to `like`.

        `arc` says how the energy develops (free, rise, ...). NotFound, Conflict, Invalid.
        """
        return get("/api/playlist", models.Playlist, ids=list(ids) or None, track_id=like, k=k, start=start, end=end, arc=arc)

    @method
    def trends(self, *, hours: int | None = None, action: str | None = None, k: int | None = None) -> Call[models.Trends]:
        "What more listeners than usual did something with, within the last `hours`."
        return get("/api/trends", models.Trends, hours=hours, action=action, k=k)

    @method
    def track_action(
        self, user_id: int, action: str, track_id: int | None = None, *, session_id: str | None = None,
        position: int | None = None, time: datetime | None = None, key: str | None = None,
    ) -> Call[models.Event]:
        """Record what a listener did: play, skip, like, save, search, ... Once, however often the line breaks.

        The key is made once per call and sent with each try; give your own `key` (1 to 64 visible characters) if the call itself
        may be made again, after a crash of your program. `position` is a place on a page, from 1; `time` needs a time zone, and
        is now if it is missing. NotFound: an unknown listener or track. Conflict: the key was used for something else.
        """
        if time is not None and time.tzinfo is None: raise ValueError(f"expected a time with a time zone, got {time}")
        return post("/api/track_action", models.Event, {
            "user_id": user_id, "action": action, "track_id": track_id, "session_id": session_id, "position": position,
            "time": time.isoformat() if time else None}, key)

    @method
    def track_actions(self, events: Sequence[models.TrackIn]) -> Call[models.Many]:
        "Record up to 250 actions, all or none; each has an `event_id` and a `time`. NotFound, Conflict, Invalid."
        return post("/api/track_actions", models.Many, {"events": [e.model_dump(mode="json", exclude_none=True) for e in events]})

    @method
    def tech_selection(
        self, weights: Mapping[str, float], alternatives: Mapping[str, Mapping[str, Any]], *, question: str | None = None,
        top: float | None = None, around: float | None = None,
    ) -> Call[models.Selection]:
        """Who wins a weighted decision matrix, and how little would change it; nothing is stored.

        `weights` are shares of 1. An alternative maps criteria to scores from 0 to `top` (10): a number, None for what is not
        known, or a dict of `score` and `evidence`. Invalid: the table makes no sense.
        """
        asked = {"question": question, "weights": weights, "alternatives": alternatives, "top": top, "around": around}
        return replace(post("/api/tech_selection", models.Selection, asked), key="", reads=True)

    @method
    def graphql(
        self, query: str, variables: Mapping[str, Any] | None = None, *, operation_name: str | None = None,
    ) -> Call[models.Answer]:
        """Ask in GraphQL; what was found is `data`, what was not is in `errors`.

        Where nothing at all could be answered the error is raised, like those of other calls. A mutation is done once.
        """
        asked = {"query": query, "variables": variables, "operationName": operation_name}
        call = post("/graphql", models.Answer, asked)
        return call if "mutation" in query else replace(call, key="", reads=True)

    @method
    def export(
        self, what: str, to: str | os.PathLike[str], *, form: str = "csv", rows: int = MOST, timeout_s: float = 120,
        on_progress: Callable[[int], object] | None = None,
    ) -> Flow[Exported]:
        """All tracks, or all events, into a file, which appears when it is complete. Needs the scope `export`.

        `form` csv: one file. parquet: a file for each `rows` rows (1 to 50,000), to, to-2, ... A part that breaks off is asked
        for again. `timeout_s` is for one part. `on_progress` is told the bytes of the file so far. Forbidden, RateLimited.
        """
        return export(self._engine, what, to, form, rows, timeout_s, on_progress)

    @method
    def ask(self, operation: str, key: str | None = None, /, **about: Any) -> Call[Any]:
        """Any operation of the schema by its method and path: `ask("POST /api/optimize", component="similarity_search")`.

        What the path names in braces is taken from `about`; the rest is the query, or the body. The answer is the model that
        the schema names. ValueError: there is no such operation.
        """
        if operation not in models.OPERATIONS:
            near = difflib.get_close_matches(operation, models.OPERATIONS, n=1)
            raise ValueError(f"the schema has no operation {operation!r}" + (f"; did you mean {near[0]}?" if near else ""))
        verb, _, path = operation.partition(" ")
        path = re.sub(r"\{(\w+)\}", lambda m: part(about.pop(m[1])), path)
        if verb == "GET": return get(path, models.OPERATIONS[operation], **about)
        return Call(verb, path, models.OPERATIONS[operation], json=about or None, key=check_key(key) if verb == "POST" else "")
