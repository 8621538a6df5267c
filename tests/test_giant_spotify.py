"""A studio in one call: from a file to what is heard, what goes with it, an order, and a chance; and what it says to bad input."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from helpers import own_database

from rap_analyzer.core import LabError
from rap_analyzer.giants import spotify
from rap_analyzer.giants.releases import run_releases
from rap_analyzer.giants.spotify import FIFTY, MusicAIStudioPlatform, demo
from rap_analyzer.giants.success import train
from rap_analyzer.library.folder import ingest_folder
from rap_analyzer.music import catalog
from rap_analyzer.music.embedding import MODEL_ID
from rap_analyzer.music.render import render
from rap_analyzer.recommend import candidates
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import NoEmbedding, Store, UnknownTrack, fill

@pytest.fixture(autouse=True)
def patient(monkeypatch): monkeypatch.setattr(candidates, "LIMIT_S", 10)                   # this machine may be busy


@pytest.fixture(scope="module")
def trained(): return train(run_releases(70, 30, 300, 7))


@pytest.fixture(scope="module")
def store(lab, tmp_path_factory):
    with own_database(lab, "test_spotify") as own:
        store, folder = fill(Store(own, "studio"), 1_500), tmp_path_factory.mktemp("songs")
        clip = render(catalog.track(catalog.SIZE + 7), 12)
        soundfile.write(folder / "Somebody - A song.ogg", clip.samples, clip.sr, format="OGG", subtype="VORBIS")
        (folder / "broken.ogg").write_bytes((folder / "Somebody - A song.ogg").read_bytes()[:3_000])
        report = ingest_folder(folder, store, "fast", 1)
        assert (report.new, report.refused) == (1, 1), report
        store.song, store.file = report.heard[0].id, folder / "Somebody - A song.ogg"
        yield store
        store.forget()


def studio(store, trained, *calls):
    "Answers of one studio, one after the other; an exception is an answer, too."
    async def go(s):
        await store.aopen(4)
        try: return [(await asyncio.gather(s.analyze_and_recommend(*call), return_exceptions=True))[0] for call in calls]
        finally: await store.aclose()
    return asyncio.run(go(MusicAIStudioPlatform(store, trained=trained)))


def test_a_file_becomes_an_analysis_recommendations_a_playlist_and_a_chance(store, trained):
    found, again, other = studio(store, trained, (store.song,), (store.song,), (42, {"listener_id": 10**12, "activity": "party"}))
    assert set(found["analysis"]) >= {"tempo", "genre", "mood", "lyrics", "embedding"} and found["analysis"]["tempo"]["bpm"] > 0
    ids = [r["track_id"] for r in found["recommendations"]]
    assert found["neighbours"] == FIFTY and len({*ids}) == 10 and store.song not in ids
    assert all(r["why"] for r in found["recommendations"])
    order = found["playlist"]
    assert sorted(order["ids"]) == sorted([store.song, *ids]) and order["ids"][0] == store.song and order["cost"] <= order["random"]
    said = found["success"]
    odds = said["average"] + sum(r["log_odds"] for r in said["reasons"])
    assert said["chance"] == pytest.approx(1 / (1 + np.exp(-odds))) and any("no key" in n for n in found["notes"])
    assert [r["track_id"] for r in again["recommendations"]] == ids
    assert again["timing_ms"]["analysis, neighbours"] < found["timing_ms"]["analysis, neighbours"], "it was heard twice"
    assert len(other["recommendations"]) == 10 and other["playlist"]["ids"][0] == 42


def test_recommendations_are_neighbours_in_the_heard_space(store, trained):
    (found,) = studio(store, trained, (7,))
    near = {i for i, in store.query(Query("""SELECT e.track_id FROM embeddings e, embeddings o WHERE o.track_id = 7
        AND o.model_id = %s AND e.model_id = %s AND e.track_id <> 7
        ORDER BY e.embedding <#> o.embedding LIMIT 80""", 2 * (MODEL_ID,)))}
    assert {r["track_id"] for r in found["recommendations"]} <= near


def test_bad_input_gets_an_answer_or_a_clear_error(store, trained):
    asked = (10**9,), (42, {"listener_id": "x"}), (42, {"moon": "full"}), (store.song,)
    unknown, listener, odd, song = studio(store, trained, *asked)
    assert isinstance(unknown, UnknownTrack) and "no track 1000000000" in str(unknown)
    assert isinstance(listener, ValueError) and "a listener id" in str(listener)
    assert isinstance(odd, ValueError) and "'moon'" in str(odd) and song["analysis"]
    content = store.file.read_bytes()
    for left in (None, content[:3_000]):                                               # the file has gone, or is broken now
        store.file.unlink() if left is None else store.file.write_bytes(left)
        store.memo.clear()
        (found,) = studio(store, trained, (store.song,))
        assert found["analysis"] is None and len(found["recommendations"]) == 10
        assert any(n.startswith("no analysis: ") for n in found["notes"]), found["notes"]
    store.file.write_bytes(content)
    store.upsert([replace(catalog.track(3), id=900_001, external_id="row-1")], None, source="mine.csv")
    (unheard,) = studio(store, trained, (900_001,))
    assert isinstance(unheard, NoEmbedding) and "900001" in str(unheard)
    empty = Store(store.lab, "studio-empty").register()
    with pytest.raises(LabError, match="has no tracks"): MusicAIStudioPlatform(empty, trained=trained)


def test_the_command_takes_the_newest_song(store, trained, monkeypatch):
    monkeypatch.setattr(spotify, "load", lambda file: trained)
    said = demo(store)
    assert said["track"].startswith(f"{store.song}: A song by Somebody") and len(said["playlist"]) == 11 and "%" in said["chance"]
