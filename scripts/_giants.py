"""`scripts/soak giants`: the five platforms of the chapter Giants, one call after the other, at the size of the whole catalog.

57,000 tracks, 5,000 synthetic listeners with two weeks of events, a trained model for those whose features are kept online. A call
goes to the class, without HTTP; each is for another listener. The studio is asked about songs whose sound was analysed before: the
first analysis of a song is timed by itself and has no bound.
"""
import asyncio
import copy
import inspect
import random
import time
from collections.abc import Callable, Sequence

import numpy as np
from _recommend import ACTIVITIES, serve_model

from rap_analyzer.giants.amazon import MarketplaceMLPlatform, make_session
from rap_analyzer.giants.ebay import MusicMarketplacePlatform
from rap_analyzer.giants.netflix import MusicStreamingPlatform
from rap_analyzer.giants.spans import LIMIT_MS
from rap_analyzer.giants.spotify import MusicAIStudioPlatform
from rap_analyzer.giants.uber import MusicRecommendationPlatform
from rap_analyzer.lab import Lab
from rap_analyzer.music import catalog
from rap_analyzer.product.audience import simulate
from rap_analyzer.recommend.rehearsal import load_audience
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.stage import scratch

P95_MS = 200.0  # of each platform: what the original notebook promises for Spotify and eBay, and Uber's own LIMIT_MS
SONGS = 20  # the studio is asked about


def ask_around(rng: random.Random, people: Sequence[int], tracks: int) -> dict[str, Callable]:  # by company: platform -> its answer
    "One request for each platform, drawn anew with each call."
    who, track = (lambda: rng.choice(people)), (lambda: rng.randrange(tracks))
    moment = lambda: {"hour": rng.randrange(24), "activity": rng.choice(ACTIVITIES)}
    def session() -> object:
        t, seen = next(iter(catalog.tracks(n := track(), n + 1))), [track() for _ in range(3)]
        words = rng.choice((f"{t.mood} {t.genres[0]}", t.artist, t.title))
        return make_session(who(), words, seen, [("play", i, 20_000.0 * n) for n, i in enumerate(seen)])
    action = lambda: {"user_id": who(), "action": rng.choice(("play", "like", "skip")), "track_id": track()}
    return {"uber": lambda p: p.get_recommendations(who(), moment()),
            "netflix": lambda p: p.personalize_homepage(who(), moment()),
            "amazon": lambda p: p.process_user_session(session()),
            "spotify": lambda p: p.analyze_and_recommend(rng.randrange(SONGS), {"listener_id": who()}),
            "ebay": lambda p: p.process_user_action(action())}


async def time_calls(platform: object, ask: Callable, warm: int, calls: int) -> list[float]:
    "Milliseconds of each call; what fills the memory comes before."
    ms = []
    for n in range(warm + calls):
        began = time.perf_counter()
        if inspect.isawaitable(said := ask(platform)): await said
        if n >= warm: ms.append(1e3 * (time.perf_counter() - began))
    return ms


async def visit(store: Store, people: Sequence[int], tracks: int, calls: int, seed: int, each: Callable[[str], None]) -> dict:
    "All five platforms over one store: p50 and p95 of each, and the first analyses of some songs."
    asks, found, mine = ask_around(random.Random(seed), people, tracks), {}, copy.copy(store)
    await mine.aopen(4)
    try:
        uber, netflix, studio = MusicRecommendationPlatform(mine), MusicStreamingPlatform(mine, seed=1), MusicAIStudioPlatform(mine)
        first = []
        for song in range(SONGS):
            began = time.perf_counter()
            await studio.analyze_and_recommend(song)
            first.append(1e3 * (time.perf_counter() - began))
        found["spotify_first_p50_ms"] = round(float(np.median(first)), 1)
        all_five = {"uber": uber, "netflix": netflix, "amazon": MarketplaceMLPlatform(mine), "spotify": studio,
                    "ebay": MusicMarketplacePlatform(store)}
        for name, platform in all_five.items():
            ms = await time_calls(platform, asks[name], calls // 5, calls)
            found |= {f"{name}_p{q}_ms": round(float(np.percentile(ms, q)), 1) for q in (50, 95)}
            each(f"{name:8} p50 {found[f'{name}_p50_ms']} ms, p95 {found[f'{name}_p95_ms']} ms")
        await asyncio.gather(uber.ranker.close(), netflix.ranker.close())
    finally: await mine.aclose()
    return found


def visit_giants(
    tracks: int = 57_000, listeners: int = 5_000, calls: int = 500, seed: int = 12, each: Callable[[str], None] = lambda _: None,
) -> dict:
    "Measure the five platforms on servers of their own."
    events = simulate(14, listeners, seed)
    plays = events.listener_id[events.action == "play"].value_counts()
    known = random.Random(seed).sample(sorted(plays.index[plays >= 8]), min(600, int((plays >= 8).sum())))
    with scratch() as home, Lab(home) as lab:
        migrate(lab)
        build("hnsw_halfvec", store := fill(Store(lab, "giants"), tracks))
        load_audience(store, events)
        serve_model(store, events, known)
        each("loaded")
        found = asyncio.run(visit(store, known, tracks, calls, seed, each))
        store.forget()
    return found | {"held": held(found)}


def held(found: dict) -> bool:
    "Whether each platform keeps its promise."
    bounds = {"uber": LIMIT_MS, "netflix": P95_MS, "amazon": P95_MS, "spotify": P95_MS, "ebay": P95_MS}
    return all(found[f"{name}_p95_ms"] <= most for name, most in bounds.items())
