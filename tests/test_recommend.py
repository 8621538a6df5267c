"""Recommendations over real HTTP: what comes back, what never comes back, and what a contract is made of."""

import asyncio
import re
from collections import Counter

import httpx
import numpy as np
import pytest
from helpers import own_database

from rap_analyzer.app import create_app
from rap_analyzer.music import catalog
from rap_analyzer.recommend import candidates
from rap_analyzer.recommend.ensemble import UNKNOWN
from rap_analyzer.recommend.minimal import NEAR, recommend
from rap_analyzer.search.filters import Filter
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill
from rap_analyzer.web import serving

AT, N = "/api/recommend", 900


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_recommend") as own:
        store = fill(Store(own, "taste"), N)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


@pytest.fixture(scope="module", autouse=True)
def patient():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "LIMIT_S", 10)                                            # this machine may be busy
        yield


@pytest.fixture(scope="module")
def url(store):
    with serving(create_app(store)) as url: yield url


@pytest.fixture
def get(url):
    with httpx.Client(base_url=url, timeout=20) as client: yield lambda **params: client.get(AT, params=params)


@pytest.fixture(scope="module")
def plays(): return np.array([t.popularity for t in catalog.tracks(0, N)])


def test_without_likes_in_the_question_those_of_the_listener_count_at_once(store, url, get):
    """What a listener liked, of this tenant only; what the question says comes first."""
    with httpx.Client(base_url=url, timeout=20) as client:
        assert client.put("/api/listeners/4711").status_code == 201
        assert get(user_id="4711").json()["note"] == UNKNOWN
        for n, track in enumerate((11, 12)):
            body = {"event_id": f"like-{track}", "user_id": 4711, "action": "like", "track_id": track}
            assert client.post("/api/track_action", json=body).status_code == 200
            r = get(user_id="4711")
            said = {int(re.match(r"sounds like track (\d+) ", h["why"])[1]) for h in r.json()["hits"]}
            assert said <= {11, 12} and len(said) == n + 1 and not said & set(ids(r)) and r.json()["note"] == ""
        assert all(h["why"].startswith("sounds like track 50 ") for h in get(user_id="4711", liked=50).json()["hits"])
        assert [get(user_id=u).json()["note"] for u in ("4712", "anna", "9" * 30, "-1")] == [UNKNOWN] * 4


def ids(r): return [h["track_id"] for h in r.json()["hits"]]


def test_a_like_brings_its_neighbours_with_a_reason_and_never_itself(get, plays):
    X = catalog.embeddings(0, N).astype(np.float32)
    for liked in range(0, 60, 7):
        r = get(liked=liked, user_id="anna")
        body, near = r.json(), set(np.argsort(-(X @ X[liked]))[:NEAR + 8].tolist())
        assert (r.status_code, body["user_id"], body["k"], body["note"], len(body["hits"])) == (200, "anna", 10, "", 10)
        assert liked not in ids(r) and len(set(ids(r))) == 10 and len(near & set(ids(r))) >= 8
        for h in body["hits"]:
            said = re.fullmatch(r"sounds like track (\d+) \((0\.\d\d)\), which you liked; .*?([\d,]+) plays a month.*", h["why"])
            assert said and int(said[1]) == liked and h["title"] and h["genre"]
            assert abs(float(said[2]) - X[h["track_id"]] @ X[liked]) < .02
            assert int(said[3].replace(",", "")) == plays[h["track_id"]]
        assert sorted((h["score"] for h in body["hits"]), reverse=True) == [h["score"] for h in body["hits"]]


def test_plays_have_a_say_and_do_not_decide(get, plays):
    alone = np.argsort(-plays)[:10].tolist()
    lists = [ids(get(liked=i)) for i in range(0, 200, 10)]
    seen = Counter(i for found in lists for i in found)
    assert max(seen.values()) < len(lists) / 2                         # it is not one list for everybody
    assert np.median([np.median(plays[found]) for found in lists]) > 1.1 * np.median(plays)
    assert any(set(found).isdisjoint(alone) for found in lists)


def test_each_of_several_tastes_has_its_share(get):
    T = list(catalog.tracks(0, N))
    first = lambda genre: next(t.id for t in T if t.genres[0] == genre)
    for pair in (("lo-fi", "trap"), ("g-funk", "drill")):
        likes = [first(g) for g in pair]
        whys = Counter(re.search(r"track (\d+)", h["why"])[1] for h in get(liked=likes, k=20).json()["hits"])
        assert set(whys) == {str(i) for i in likes} and min(whys.values()) >= 4
        assert get(liked=likes).json() == get(liked=",".join(map(str, likes))).json()   # both spellings, no like lost


def test_nothing_known_is_what_is_played_most_and_says_so(get, plays):
    for asked in ({}, {"user_id": "new"}):
        r = get(**asked)
        assert plays[ids(r)[0]] == max(plays) and set(ids(r)) <= set(np.argsort(-plays)[:60].tolist())   # two of an artist at most
        assert "nothing is known" in r.json()["note"] and all(h["why"].startswith("popular: ") for h in r.json()["hits"])


def test_conditions_hold_for_every_hit(get, store):
    where = Filter(genre="drill", bpm=(135, 150))
    for liked in ([], [42], [42, 7]):
        found = ids(get(liked=liked, genre="Drill", bpm="135-150"))
        assert found and all(where.admits(t) for t in store.tracks(found)) and not set(liked) & set(found)
    none = get(liked=42, genre="polka").json()
    assert none["hits"] == [] and "no track has genre 'polka'; there is:" in none["note"]


def test_few_that_fit_are_filled_up_and_never_twice(get, store):
    rare = catalog.name_artist(int(catalog.BY_RANK[0]))
    want = {t.id for t in catalog.tracks(0, N) if Filter(artist=rare).admits(t)}
    liked = min(want)
    assert set(ids(get(liked=liked, k=100, artist=rare))) == want - {liked}
    found = ids(get(liked=liked, k=100))
    assert len(found) == len(set(found)) == 100


@pytest.mark.parametrize("asked, status, says", [
    ({"liked": "intro"}, 422, "liked = 'intro': expected a list, each a whole number from 0"),
    ({"liked": "-1"}, 422, "liked = '-1'"),
    ({"liked": ""}, 422, "liked = ''"), ({"liked": "4,,2"}, 422, "liked = ''"), ({"liked": str(2**63)}, 422, "liked"),
    ({"liked": ",".join(["1"] * 201)}, 422, "at most 200 of them"),
    ({"k": 0}, 422, "from 1 to 100"), ({"k": 101}, 422, "from 1 to 100"),
    ({"user_id": "x" * 65}, 422, "at most 64"), ({"bpm": "fast"}, 422, "bpm|LO-HI"), ({"likes": "1"}, 422, "no parameter 'likes'"),
    ({"liked": "42,123456"}, 404, "no track 123456"),
])
def test_what_makes_no_sense_is_refused(get, asked, status, says):
    r = get(**asked)
    assert r.status_code == status and re.search(says, r.json()["error"]), r.text


def test_the_schema_gives_the_list_and_its_limits(url):
    said = {p["name"]: p for p in httpx.get(f"{url}/openapi.json").json()["paths"][AT]["get"]["parameters"]}
    assert said["liked"]["schema"]["type"] == "array" and said["liked"]["schema"]["items"]["minimum"] == 0
    moment = {"hour", "activity", "device", "session"}
    assert {"user_id", "liked", "k", "titles", "genre", "mood", "bpm", "year", "artist"} | moment == set(said)


def test_answers_are_kept_apart_and_counted_by_route(get, url):
    one, other = get(liked=3, user_id="a"), get(liked=3, user_id="b")
    assert (one.json()["user_id"], other.json()["user_id"]) == ("a", "b") and ids(one) == ids(other)
    counted = rf'rap_requests_total{{method="GET",route="{AT}",status="200"}} ([\d.]+)'
    before = float(re.search(counted, httpx.get(f"{url}/metrics").text)[1])
    get(liked=3)
    assert float(re.search(counted, httpx.get(f"{url}/metrics").text)[1]) == before + 1


def test_another_tenant_gets_nothing_of_ours(store):
    with serving(create_app(Store(store.lab, "rival"))) as url:
        assert httpx.get(f"{url}{AT}").json()["hits"] == []
        assert httpx.get(f"{url}{AT}?liked=42").status_code == 404


def test_only_the_last_likes_count(store):
    async def go():
        await store.aopen(2)
        try: return [await recommend(liked, store=store) for liked in ([*range(100, 180)], [*range(160, 180)])]
        finally: await store.aclose()
    long, short = asyncio.run(go())
    assert {h.why.split()[3] for h in long} <= {str(i) for i in range(160, 180)} and len(short) == 10
