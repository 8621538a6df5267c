"""Two models in one table: the second is filled on demand, and a song of your own finds its style in it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rap_analyzer.library import neighbours as module
from rap_analyzer.library.neighbours import fill_heard, neighbours, ready, whereabouts
from rap_analyzer.music import catalog
from rap_analyzer.music.analyzers import Analyses, Analysis
from rap_analyzer.music.audio import BadAudio, Clip, mp3
from rap_analyzer.music.catalog import GENRES, SIZE, tracks
from rap_analyzer.music.embedding import MODEL_ID
from rap_analyzer.music.generator import embeddings
from rap_analyzer.music.render import render
from rap_analyzer.search.index import built, drop, similar
from rap_analyzer.search.store import NoEmbedding, Store, fill, migrate

@pytest.fixture(scope="module")
def shelf(lab):
    "A tenant with 2,100 tracks and both models."
    migrate(lab)
    store = fill(Store(lab, "t-heard"), 2_100)
    with pytest.raises(NoEmbedding, match=MODEL_ID): similar(3, store=store, model_id=MODEL_ID, name="exact_halfvec")
    assert fill_heard(store) == 2_100
    yield ready(store)
    store.forget()


@pytest.fixture(scope="module")
def guest():
    "A song that is in nobody's store, of each style, with where it lies."
    songs = [next(t for t in tracks(SIZE, SIZE + 400) if t.genres == (g,)) for g in GENRES]
    return {t: whereabouts(render(t, 12), t.lyrics) for t in songs}


def test_both_models_stand_side_by_side(shelf):
    assert shelf.count(MODEL_ID) == shelf.count(catalog.MODEL_ID) == 2_100
    np.testing.assert_array_equal(shelf.embedding(1_234, MODEL_ID), embeddings(1_234, 1_235)[0])
    np.testing.assert_array_equal(shelf.embedding(1_234), catalog.embeddings(1_234, 1_235)[0])
    assert fill_heard(shelf) == 0
    assert "hnsw_halfvec" in built(shelf, MODEL_ID, fresh=True)


def test_the_index_and_the_exact_search_agree(shelf, guest):
    for x in guest.values():
        a, b = ([h.track_id for h in similar(x, 10, 100, shelf, name, MODEL_ID)] for name in ("hnsw_halfvec", "exact_halfvec"))
        assert len(set(a) & set(b)) >= 9


def test_a_song_of_your_own_finds_its_style(shelf, guest):
    share, first = {}, []
    for t, x in guest.items():
        near = shelf.tracks([h.track_id for h in neighbours(x, store=shelf)])
        share[t.genres[0]] = sum(n.genres[0] == t.genres[0] for n in near) / len(near)
        other = shelf.tracks([h.track_id for h in similar(x, 10, store=shelf, name="exact_halfvec")])
        first.append(sum(n.genres[0] == t.genres[0] for n in other) / len(other))
    assert np.mean(list(share.values())) > 0.8 and min(share.values()) >= 0.5, share
    assert np.mean(first) < 0.6, "the first model has never heard a note"


def test_a_file_is_asked_about_in_one_call(shelf, tmp_path):
    t = next(t for t in tracks(SIZE, SIZE + 100) if t.genres == ("lo-fi",))
    file = tmp_path / "mine.mp3"
    file.write_bytes(mp3(render(t, 12)))
    hits = neighbours(file, k=7, store=shelf)
    assert len(hits) == 7 and [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert sum(n.genres[0] == "lo-fi" for n in shelf.tracks([h.track_id for h in hits])) >= 4


def test_what_is_missing_is_added_after_an_interruption(shelf, monkeypatch):
    with shelf.session() as s: s.con.execute("DELETE FROM embeddings WHERE model_id = %s AND track_id >= 1000", [MODEL_ID])
    shelf.changed()
    monkeypatch.setattr(module, "BLOCK", 300)
    real, calls = Store.upsert_embeddings, []
    def breaks(self, *args):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return real(self, *args)
    monkeypatch.setattr(Store, "upsert_embeddings", breaks)
    with pytest.raises(KeyboardInterrupt): fill_heard(shelf)
    assert shelf.count(MODEL_ID) == 1_600
    assert fill_heard(shelf) == 500
    np.testing.assert_array_equal(shelf.embedding(2_099, MODEL_ID), embeddings(2_099, 2_100)[0])


def test_a_track_is_known_by_its_name_and_songs_of_yours_are_left_alone(lab):
    store = Store(lab, "t-heard-two").register()
    some = list(tracks(40, 43))
    ids = store.upsert(some, catalog.embeddings(40, 43))
    yours = store.upsert([replace(some[0], id=9_000_001, external_id="abc")], source="files")
    assert fill_heard(store) == 3
    np.testing.assert_array_equal(store.embedding(ids["syn-0000041"], MODEL_ID), embeddings(41, 42)[0])
    with pytest.raises(NoEmbedding): store.embedding(yours["abc"], MODEL_ID)
    store.forget()


def test_a_dropped_index_comes_back(shelf):
    drop("hnsw_halfvec", shelf, MODEL_ID)
    assert "hnsw_halfvec" not in built(shelf, MODEL_ID, fresh=True)
    ready(shelf)
    assert "hnsw_halfvec" in built(shelf, MODEL_ID, fresh=True)


def test_what_cannot_be_heard_is_refused(shelf, monkeypatch):
    with pytest.raises(BadAudio): neighbours(Clip(np.zeros(22_050 * 5, np.float32), 22_050), store=shelf)
    with pytest.raises(ValueError, match="512"): neighbours(np.ones(3, np.float32), store=shelf)
    monkeypatch.setattr(module, "analyze", lambda *_: Analyses({"embedding": Analysis(None, error="the network is missing")}))
    with pytest.raises(ValueError, match="the network is missing"): whereabouts(Clip(np.full(22_050, 0.1, np.float32), 22_050))


def test_the_command_line_fills_the_model_when_it_is_asked_for(shelf, monkeypatch):
    from typer.testing import CliRunner

    from rap_analyzer.cli import app
    from rap_analyzer.search import store as stores

    with shelf.session() as s: s.con.execute("DELETE FROM embeddings WHERE model_id = %s AND track_id >= 2000", [MODEL_ID])
    shelf.changed()
    monkeypatch.setattr(stores, "default_store", lambda: shelf)
    done = CliRunner().invoke(app, ["similar", "2050", "--model", MODEL_ID, "--json"])
    hits = json.loads(done.output)
    genre = shelf.tracks([2050])[0].genres[0]
    assert len(hits) == 10 and sum(h["genres"][0] == genre for h in hits) >= 6, done.output
    assert shelf.count(MODEL_ID) == 2_100
