"""What the service answers and is asked: made by scripts/client_models.py from /openapi.json, do not edit."""
# ruff: noqa: E501

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

class Base(BaseModel):
    "What all models have in common: fields of a newer service are left out."
    model_config = ConfigDict(extra="ignore", populate_by_name=True, protected_namespaces=())


class Accepted(Base):
    "The promise, and where to ask for it."
    job: UUID
    new: bool
    "false: the same work had been accepted before"
    state: str
    status: str
    "where to look"


class ActionIn(Base):
    "One action of a session."
    action: str
    "search, impression, click, play, skip, like, save, playlist_add, share, export, rate."
    time: datetime
    "When it happened (ISO 8601, with time zone)."
    track_id: int | None = None
    "Only a search has none."


class Analyzer(Base):
    "An analyzer or a plugin, and where it stands."
    name: str
    plugin_id: str | None
    "null: it is not registered"
    state: str
    "built in, listed, quarantined, installed (not registered), changed or missing"
    version: str
    source: str
    "the package that brings it"
    analyzers: list[str]
    "what it brings; known once it is registered"
    why: str
    "it is not asked"
    needs: list[str] = []
    "what it looks at: audio, words, or results of others (tempo?: if there is one)"
    checks: dict[str, str] = {}
    "each check, and how it went"
    cost_ms: float | None = None
    "per clip of eight seconds, when it was checked"
    asked: int = 0
    "songs among the last twenty that it was asked about"
    failed: int = 0
    "how many of them failed"
    registered_at: datetime | None = None
    registered_by: str = ""


class Answer(Base):
    "What could be answered, and what not."
    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] | None = None
    "message, path, locations; extensions: status, hint."
    extensions: dict[str, Any] | None = None
    "cost: how many objects were asked for, and of how many."


class ArtistTrack(Base):
    "A track of the artist, and what was done with it."
    track_id: int
    title: str
    plays: int
    skips: int
    saves: int


class Artwork(Base):
    "What covers have earned in the last four weeks."
    covers: list[Cover]


class AssignIn(Base):
    "Who is exposed."
    user_id: str | int
    "The listener: a number, or a text of at most 200 characters."


class Auction(Base):
    "An auction as it stands; after its end with the winner."
    auction_id: str
    track_id: int
    opening: int
    increment: int
    opened_at: datetime
    ends_at: datetime
    closed_at: datetime | None
    price: int | None
    "the highest bid; null: there is none"
    leader: int | None
    "whose bid it is"
    bid_id: str | None
    bids: int
    open: bool
    least: int
    "the least amount that would be taken now"
    winner: int | None
    "null until it is closed, and where no bid came"


class AuctionIn(Base):
    "A beat, and the terms of its auction. A retry sends the same `auction_id` again."
    track_id: int
    "The beat."
    auction_id: str | None = None
    "Given by the sender; made if absent."
    opening: int = 100
    "The least first bid, in cents."
    increment: int = 10
    "By how many cents a bid has to exceed the highest."
    seconds: float = 3600
    "Until its end."


class Bid(Base):
    "A bid that was taken: it is on disk, and it was the highest. The same request again gives the same answer."
    bid_id: str
    auction_id: str
    bidder: int
    amount: int
    placed_at: datetime


class BidIn(Base):
    "A bid. A retry sends the same `bid_id` again."
    bid_id: str
    "Given by the bidder, the same for each retry."
    user_id: int
    "The listener who bids."
    amount: int
    "In cents."


class Bill(Base):
    "A tenant's month: what was counted, and what it costs."
    tenant: str
    month: str
    running: bool
    calls: int
    parts: list[Part]
    amount: str
    days: dict[str, int]
    endpoints: dict[str, int]
    keys: dict[str, int]
    currency: str = "EUR"


class Change(Base):
    "A weight at which a rival draws level with the winner, the other weights keeping their proportions."
    criterion: str
    weight: float
    "As it was sent."
    at: float
    "Where the rival draws level."
    rival: str


class Counts(Base):
    "How often listeners did what with a track, up to a moment that is usually less than a second ago."
    track_id: int
    counts: dict[str, int]
    source: str
    "counters; or database, where there are none"


class Cover(Base):
    "One cover, among listeners of one taste."
    moods: list[str]
    "what these listeners like most; unknown tastes are in the first group"
    cover: str
    shown: int
    "once per listener, track and day"
    clicked: int
    "led to anything at all"
    kept: int
    "a play that was not skipped, or a save: what the bandit learns from"


class Error(Base):
    "A problem (RFC 9457): what kind it is, what is wrong this time, and what to do about it."
    error: str
    "The same as `detail`, under its older name."
    type: str = "about:blank"
    "The kind of problem: compare this, not the sentences."
    title: str = ""
    "The kind, for people; the same whenever the type is."
    status: int = 500
    "The HTTP status, for those who see only the body."
    detail: str = ""
    "What is wrong this time, in a sentence."
    instance: str | None = None
    "This one occurrence."
    hint: str = ""
    "What to do about it."
    request_id: str | None = None
    "Of the line in the log; also the header X-Request-ID."


class Event(Base):
    "An event as it is stored. The same request again gives the same answer."
    event_id: str
    time: datetime
    listener_id: int
    action: str
    track_id: int | None
    session_id: str | None
    position: int | None


class Flags(Base):
    "Whether the file of rules is in force, and what one listener gets by it."
    ok: bool
    problem: str
    "What is wrong with the file; the last good rules are in force meanwhile."
    since: str
    variants: dict[str, str]


class Forecast(Base):
    "Plays expected within the week that has begun, if it is like the last ones."
    expected: float
    low: float
    high: float


class Fraud(Base):
    "How unusual the actions are. A score is a reason to look, not a verdict."
    score: float
    "1: as far from the usual as one person in a hundred, in one respect."
    threshold: float
    flagged: bool
    events: int
    "Actions that were judged; 0: nothing is said."
    reasons: list[str]
    "The largest deviations, in words."


class Funnel(Base):
    "What listeners did. A share is null where there is nothing to take a share of, or where a week is not over yet."
    since: datetime
    until: datetime
    listeners: int
    funnel: dict[str, list[dict[str, Any]]]
    retention: list[dict[str, Any]]
    session: dict[str, float | None]
    saves: list[list[str | int]]
    note: str


class Gap(Base):
    "A score that is not known."
    alternative: str
    criterion: str


class Health(Base):
    "Which parts were asked, and that they answered."
    ok: bool
    checks: dict[str, str] = {}


class Hit(Base):
    "One track found; title, artist and genre are empty when titles were not asked for."
    track_id: int
    score: float
    "More is better. Of similar tracks: the cosine, 1 is the same direction."
    why: str
    "What found it: a method, words, a similar name."
    title: str | None = None
    artist: str | None = None
    genre: str | None = None


class Home(Base):
    "The rows of a home page; no track is on it twice."
    user_id: str
    recommendations: list[Row]
    layout: list[str]
    "Names of the rows, the first one on top."
    note: str = ""


class Infrastructure(Base):
    "Read from the running system; a part that did not answer has `away` in its place."
    managed_databases: dict[str, Any]
    "servers, versions, replicas, pool"
    ml_serving: dict[str, Any]
    "models by name: what the registry says, and what processes hold"
    monitoring: dict[str, Any]
    "servers that answer, promises and what became of them"
    security: dict[str, Any]
    "keys, policies, leaks, audit log"
    billing: dict[str, Any]
    "what is metered, and the quota"


class Insights(Base):
    "Four weeks of one artist."
    artist: str
    listeners: int
    "Who played any track."
    returning: int
    "Who did so on more than one day."
    tracks: list[ArtistTrack]
    "Most played first."
    forecast: Forecast | None
    "null: two whole weeks since the first play are needed."
    note: str = ""


class Job(Base):
    "Accepted work, and how far it is."
    id: UUID
    kind: str
    state: str
    "waiting, running, done, or dead (with a reason)"
    progress: float
    "0 to 1"
    attempt: int
    "how often it was begun"
    reason: str | None
    "why the last attempt failed"
    result: dict[str, Any] | None
    "what was found; null until the job is done"
    request_id: str | None
    "of the request that asked first"
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Kept(Base):
    "What was recommended after the latest like of a listener."
    listener_id: int
    event_id: str
    "the like"
    time: datetime
    "when the listener liked it"
    made: datetime
    hits: list[Hit]


class List(Base):
    "A page of the tracks, by id."
    k: int
    tracks: list[Listed]
    next: str | None = None
    "The cursor of the next page; null on the last one. Also in the header Link."


class Listed(Base):
    "A track as it stands in a list; what its source did not know is null."
    id: int
    external_id: str
    title: str
    artist: str
    genres: list[str]
    language: str | None
    year: int | None
    mood: str | None
    bpm: float | None
    key: str | None
    popularity: float | None


class Listener(Base):
    "A listener."
    listener_id: int


class Logged(Base):
    "It is written, and the audit log knows it."
    status: str
    "logged"
    number: str
    file: str
    "Its name in the tenant's folder."
    sha256: str
    "Of the file, as the audit log has it."


class Many(Base):
    "How many of them are new. The same request again: none."
    events: int
    new: int


class ManyIn(Base):
    "What listeners did, in one request."
    events: list[TrackIn]
    "Each with its event_id and its time."


class MarkIn(Base):
    "A score and what it rests on."
    score: float | None
    "From 0 to `top`; null: not known yet."
    evidence: str = "judgement"
    "The key of a run, a source, or \"judgement\"."


class Model(Base):
    "A version, and where it stands."
    name: str
    version: int
    kind: str
    schema_version: int
    sha256: str
    bytes: int
    stage: str
    "registered, shadow, canary, serving or retired"
    percent: int
    "of the listeners, while it is a canary"
    until: datetime | None
    replaced: int | None
    "the version that served before it"
    metrics: dict[str, float]
    data_from: datetime | None
    data_until: datetime | None
    code_hash: str
    created_at: datetime
    new: bool = False
    "false: it was registered before"


class ModelIn(Base):
    "A model, and what is known of it."
    name: str
    "A letter, then letters, digits or -."
    content: str
    "The file, in base64."
    sha256: str
    "Of the file: it is refused if it changed on its way."
    card: str
    "Markdown: what it is for, how it was made, where it fails."
    kind: str = "npz"
    "npz, lightgbm, or ranker: the file of a `Ranker`."
    metrics: dict[str, float] = {}
    "Figures, by name."
    data_from: datetime | None = None
    "When the data begins that it was trained on (with a time zone)."
    data_until: datetime | None = None
    "When it ends."
    code_hash: str = ""
    "Of the program that trained it."
    schema_version: int = 1
    "The form of the file."


class Optimize(Base):
    "Where the time goes, and what speaks for a change: what touches most of it comes first."
    profile: dict[str, Any]
    advice: list[dict[str, Any]]
    optimizations: list[dict[str, Any]]
    "The same as `advice`, under the name that the original notebook gives it."


class OptimizeQuery(Base):
    "Which component to profile."
    component: Literal["similarity_search", "filtered_search", "word_search", "hybrid_search", "cached_search"]
    "One of similarity_search, filtered_search, word_search, hybrid_search, cached_search."
    k: int | None = None
    "How many answers to each question."


class Part(Base):
    "Calls within one tier."
    calls: int
    price_per_1000: str
    amount: str


class Placed(Base):
    "A track at its place; what is not known is null."
    track_id: int
    title: str | None
    artist: str | None
    bpm: float | None
    camelot: str | None
    "The key: a place on the wheel, A for minor, B for major."
    energy: float | None
    step: Step | None
    "From the track before; null for the first."


class Playlist(Base):
    "Tracks in the order in which they should be played."
    cost: float
    random_cost: float
    "What a random order of the same tracks costs on average."
    method: str
    "exact: no order is cheaper; near: improved until no single change helped."
    tracks: list[Placed]
    note: str = ""
    "What is not known of which track, and what was done about it."


class PluginIn(Base):
    "Which installed plugin."
    plugin: str
    "The name of its entry point."


class Processed(Base):
    "What is known of the track, what is like it, the event as it is stored, and where the time went."
    analysis: dict[str, Any]
    "state; found, where it is done; job, where it is on its way"
    search_results: list[dict[str, Any]]
    "tracks of the same genre: track_id, score, why"
    event: dict[str, Any]
    "as it is stored; new: false for a repetition"
    ms: dict[str, float]
    "of validation, analysis, search, event"


class QuestionIn(Base):
    "A question in GraphQL."
    query: str
    "The document."
    variables: dict[str, Any] | None = None
    "What the document's variables stand for."
    operationName: str | None = None
    "Which operation, of several."
    extensions: dict[str, Any] | None = None
    "Ignored; some clients send it."


class Recommend(Base):
    "Tracks for a listener, best first; nothing the listener likes already, and no track twice."
    user_id: str
    k: int
    hits: list[Recommended]
    order: str = "fused"
    "fused: all sources; sound: by sound. Decided by the flag recommend-order."
    ordered_by: str = "the blend"
    "Whose order it is: the blend's, or the serving model's by name and version."
    note: str = ""
    "That nothing is known of the listener; which sources are left out; or what there is, where nothing was found."
    missing: list[str] = []
    "Sources that are left out of this answer: late, busy or down."


class Recommended(Base):
    "A track, what each source contributed to its place, and each analyzer to its similarity to a liked track; each in sum 1."
    track_id: int
    score: float
    "More is better. Of similar tracks: the cosine, 1 is the same direction."
    why: str
    "What found it: a method, words, a similar name."
    title: str | None = None
    artist: str | None = None
    genre: str | None = None
    shares: dict[str, float] = {}
    analyzers: dict[str, float] = {}
    "tempo, genre, mood, lyrics, embedding; empty: nothing to compare."


class RecordIn(Base):
    "A decision in the parts of a record."
    title: str
    context: str
    options: str
    decision: str
    consequences: str
    evidence: str
    "Keys of recorded runs between backticks, or \"none: \" and why."
    status: Literal["proposed", "accepted", "rejected", "deprecated"] = "accepted"
    supersedes: list[str] = []
    "Decisions whose place it takes."
    number: str | None = None
    "Default: the next free one."


class Registered(Base):
    "It is registered."
    status: str
    "registered"
    plugin_id: str
    "what was checked: the plugin, and the version of its package"


class Row(Base):
    "A row of the home page."
    name: str
    title: str
    reason: str
    hits: list[Hit]


class Search(Base):
    "The tracks found, best first."
    q: str
    k: int
    hits: list[Hit]
    model_id: str | None = None
    "With a liked track: the embeddings by which its sound was compared."
    next: str | None = None
    "The cursor of the next page; null on the last one. Also in the header Link."
    note: str = ""
    "That the names are only similar; or what there is, where nothing was found."
    engine: str = "PostgreSQL full text"
    "Which engine found them."
    instead: str = ""
    "Why the engine that is configured did not answer; empty where it did."


class Selection(Base):
    "Totals, the winner, how sure, and what is left open."
    scores: dict[str, float | None]
    "Totals, best first; null where a score is missing."
    winner: str | None
    "Null: a tie, or a gap that decides."
    verdict: str
    sure: Sure | None
    "Null as long as a score is missing."
    ranges: dict[str, list[float]]
    "Lowest and highest total, where a score is missing."
    ties: dict[str, list[str]]
    "Criteria whose best score is shared, and by whom."
    idle: list[str]
    "Criteria with the same score for all: they decide nothing."
    gaps: list[Gap]
    rests_on: dict[str, float]
    "Shares of the weight: run, source, judgement, gap."


class SelectionIn(Base):
    "A weighted decision matrix."
    weights: dict[str, float]
    "By criterion: shares that sum to 1."
    alternatives: dict[str, dict[str, float | MarkIn | None]]
    "Two or more, each with its scores by criterion."
    question: str = ""
    "What is decided."
    top: float = 10
    "The highest score."
    around: float = 50
    "How close to your weights the random ones stay: 50 is near."


class Session(Base):
    "Three answers to one session."
    search_results: list[Hit]
    recommendations: list[Hit]
    fraud_risk: Fraud
    notes: list[str] = []
    "What had to be done without, and why."


class SessionIn(Base):
    "A session so far. Nothing of it is stored."
    user_id: int | None = None
    "The listener; without one, what is played most."
    search_query: str = ""
    "Words; empty: no search."
    viewed_tracks: list[int] = []
    "Tracks of this session, the latest last."
    actions: list[ActionIn] = []
    "What was done, in any order; judged for fraud."
    k: int = 10
    "How many tracks at most, of each kind."


class Similar(Base):
    "The tracks most similar to one, nearest first."
    track_id: int
    k: int
    hits: list[Hit]
    model_id: str = ""
    "The embeddings that were compared: scores of two models do not compare."
    note: str = ""
    "What there is, where nothing was found."


class Step(Base):
    "What the transition to a track costs: a unit is 6 % of tempo, a place on the Camelot wheel, a third of the energy's range."
    tempo: float
    key: float
    energy: float


class Strategy(Base):
    "Computed from events; null where no event tells, with the reason beside it."
    user_personas: dict[str, dict[str, Any]]
    feature_priorities: dict[str, list[dict[str, Any]]]
    success_metrics: dict[str, dict[str, Any]]
    measured: dict[str, Any]


class StrategyIn(Base):
    "Which days to look at, and how much a release holds."
    days: int = 28
    "So many days."
    until: str = ""
    "Up to this moment (ISO 8601, with time zone); default: the last event."
    weeks: float = 8.0
    "Person-weeks of a release."
    effort: dict[str, float] = {}
    "Person-weeks of features, in place of our estimates."
    tried: list[str] = []
    "Features that an experiment has shown to work."


class Sure(Base):
    "What the winner's name is worth."
    share_of_wins: dict[str, float]
    "Over random weights near those that were sent."
    share_of_any: dict[str, float]
    "Over all weights there are, each as likely as any other."
    smallest_change: Change | None
    "Null: there is no winner, or no single weight unseats it."


class System(Base):
    "The system as it is, its targets, what stands between them, remedies, and what ten times as much would take."
    current_state: dict[str, Any]
    scale_targets: list[dict[str, Any]]
    bottlenecks_identified: list[dict[str, Any]]
    solutions: list[dict[str, Any]]
    prediction: dict[str, Any]


class Token(Base):
    "A token, and how long it is good for."
    access_token: str
    expires_in: int
    scope: str
    token_type: str = "Bearer"


class Track(Base):
    "A track as the store keeps it; what its source did not know is null."
    id: int
    external_id: str
    title: str
    artist: str
    artist_id: int | None
    genres: list[str]
    language: str | None
    year: int | None
    mood: str | None
    bpm: float | None
    key: str | None
    swing: float | None
    rhyme_scheme: str | None
    lyrics: str | None
    popularity: float | None


class TrackIn(Base):
    "What a listener did. A retry sends the same `event_id` again."
    action: str
    "search, impression, click, play, skip, like, save, playlist_add, share, export, rate; track_saved means save."
    event_id: str | None = None
    "Given by the sender, the same for each retry; made if absent."
    user_id: int | None = None
    "The listener."
    listener_id: int | None = None
    "The listener, by another name."
    track_id: int | None = None
    "Only a search has none."
    session_id: str | None = None
    position: int | None = None
    "On a page, from 1."
    time: str | None = None
    "When it happened (ISO 8601, with time zone); default: now."


class TrendingGenre(Base):
    "A genre that is listened to: the first genre of each track counts."
    genre: str
    listeners: int
    events: int


class TrendingTrack(Base):
    "A track that is listened to."
    track_id: int
    title: str | None
    artist: str | None
    listeners: int
    "Who did it, each counted once."
    events: int
    "How often it was done."
    plays: int | None
    "Since the beginning, by the counters; null where there are none."


class Trends(Base):
    "What many listen to lately; most listeners first."
    hours: int
    action: str
    tracks: list[TrendingTrack]
    genres: list[TrendingGenre]


class UserActionIn(Base):
    "What a listener did with a track. A retry sends the same `event_id` again."
    user_id: int
    "The listener."
    action: str
    "search, impression, click, play, skip, like, save, playlist_add, share, export, rate; track_saved means save."
    track_id: int
    "The track."
    event_id: str | None = None
    "Given by the sender, the same for each retry; made if absent."


class Variant(Base):
    "A listener's variant, the same for as long as the experiment runs."
    experiment: str
    user_id: str
    variant: str
    propensity: float
    "the chance with which it was chosen"
    first_seen: datetime | None = None
    "of the first exposure; null if none is recorded"


class Who(Base):
    "Who you are to this service."
    tenant: str
    subject: str
    scopes: list[str]
    how: str


OPERATIONS: dict[str, Any] = {
    "GET /.well-known/jwks.json": Any,
    "POST /api/analyze": Accepted,
    "POST /api/analyze_system": System,
    "GET /api/analyzers": list[Analyzer],
    "GET /api/artists/{artist}/insights": Insights,
    "GET /api/artwork": Artwork,
    "POST /api/auctions": Auction,
    "GET /api/auctions/{auction_id}": Auction,
    "POST /api/auctions/{auction_id}/bids": Bid,
    "POST /api/experiments/{name}/assign": Variant,
    "GET /api/flags": Flags,
    "GET /api/home": Home,
    "GET /api/infrastructure": Infrastructure,
    "GET /api/jobs/{job_id}": Job,
    "PUT /api/listeners/{listener_id}": Listener,
    "GET /api/listeners/{listener_id}/recommendations": Kept,
    "POST /api/log_adr": Logged,
    "GET /api/models": list[Model],
    "POST /api/models": Model,
    "POST /api/optimize": Optimize,
    "GET /api/playlist": Playlist,
    "POST /api/process_action": Processed,
    "GET /api/product/funnel": Funnel,
    "POST /api/product_strategy": Strategy,
    "GET /api/recommend": Recommend,
    "POST /api/register_analyzer": Registered,
    "POST /api/session": Session,
    "GET /api/similarity_search": Similar,
    "POST /api/tech_selection": Selection,
    "POST /api/track_action": Event,
    "POST /api/track_actions": Many,
    "GET /api/tracks": List,
    "GET /api/tracks/search": Search,
    "GET /api/tracks/similar": Similar,
    "GET /api/tracks/{track_id}": Track,
    "GET /api/tracks/{track_id}/counts": Counts,
    "GET /api/trends": Trends,
    "GET /api/usage": Bill,
    "GET /api/variant": Variant,
    "GET /api/whoami": Who,
    "POST /graphql": Answer,
    "GET /health/live": Health,
    "GET /health/ready": Health,
    "POST /oauth/token": Token,
}
"Each operation, and what it answers with."
