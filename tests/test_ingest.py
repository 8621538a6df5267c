"""Files as they come: broken, strange, cut off, repeated, interrupted; on the real server."""

import os
import random
import shutil
import string
import subprocess
import tempfile
import threading
import time
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.processes import give
from rap_analyzer.search.index import build, similar
from rap_analyzer.search.ingest import Stopped, ingest, new_id, survey
from rap_analyzer.search.messy import HEADER, sample_rows, write_csv
from rap_analyzer.search.recipe import CSV_MODEL, vectors
from rap_analyzer.search.rows import BadFile, suggest_encoding
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate
from rap_analyzer.search.tables import layout, parse, rows_of

MINE = {"external_id": "nr", "title": "song", "artist": "by"}


@pytest.fixture(scope="module")
def importer(lab):
    "A tenant of its own in the test servers."
    migrate(lab)
    store = Store(lab, "importer").register()
    yield store
    store.forget()


@pytest.fixture
def source():
    "A name that no other test has imported under."
    return "".join(random.choices(string.ascii_lowercase, k=12))


def rows(n, seed=7): return list(sample_rows(n, seed))


def good(**cells):
    "One row without fault, with these cells instead."
    sound = {k: ".5" for k in ("danceability", "energy", "valence", "speechiness", "acousticness", "instrumentalness", "liveness")}
    return {**dict.fromkeys(HEADER, ""), "track_id": "a", "track_name": "A", "track_artist": "B", "tempo": "90", "key": "1",
            "loudness": "-7", "mode": "1", "duration_ms": "180000", "playlist_genre": "trap", **sound, **cells}


def test_all_that_is_usable_goes_in_and_again_nothing_is_written(importer, tmp_path, source):
    made = rows(3_000)
    path = write_csv(tmp_path / "songs.csv", iter(made))
    first = ingest(path, importer, source=source)
    assert first.rows == 3_000 and first.refused > 10 and first.merged > 100
    assert first.tracks == first.new == first.vectors and first.tracks + first.merged + first.refused == 3_000
    assert len(first.refusals) == first.refused and all(r.line > 1 and r.reason for r in first.refusals)
    again = ingest(path, importer, source=source)
    assert (again.new, again.changed, again.unchanged) == (0, 0, first.tracks)
    changed = [{**r, "track_name": r["track_name"] + "!"} if i == 5 else r for i, r in enumerate(made)]
    third = ingest(write_csv(tmp_path / "songs2.csv", iter(changed)), importer, source=source)
    assert (third.new, third.changed) == (0, 1)


def test_a_track_of_several_playlists_is_one_track_with_all_genres(importer, tmp_path, source):
    three = [good(playlist_genre=g, playlist_subgenre=s) for g, s in (("trap", "late"), ("drill", "late"), ("trap", "early"))]
    report = ingest(write_csv(tmp_path / "x.csv", iter(three)), importer, source=source)
    assert (report.tracks, report.merged, report.new) == (1, 2, 1)
    assert set(importer.tracks([new_id(source, "a")])[0].genres) == {"trap", "drill", "late", "early"}


@pytest.mark.parametrize(("cells", "why"), [
    ({"track_name": " "}, "title: missing"), ({"track_id": ""}, "external_id: missing"), ({"track_name": "NA"},
        "title: missing (NA)"),
    ({"track_artist": "NaN"}, "artist: missing (NaN)"),
    ({"track_name": "x" * 10_001}, "title: 10,001 characters"), ({"track_name": "a\0b"}, "title: it has a NUL"),
])
def test_a_bad_row_is_named_and_the_others_go_in(importer, tmp_path, source, cells, why):
    path = write_csv(tmp_path / "x.csv", iter([good(track_id="first"), good(**cells), good(track_id="last")]))
    report = ingest(path, importer, source=source)
    assert (report.new, report.refused) == (2, 1) and report.refusals[0].line == 3
    assert why in report.refusals[0].reason and why.split(":")[0] in repr(report)


@pytest.mark.parametrize(("cells", "why"), [
    ({"tempo": "fast"}, "tempo: 'fast' is not a number"), ({"energy": "inf"}, "energy: 'inf'"),
    ({"energy": "1_0"}, "energy: '1_0'"), ({"energy": "٠"}, "energy"), ({"loudness": "1.2.3"}, "loudness: '1.2.3' is not a number"),
    ({"track_popularity": "101"}, "popularity: 101 is not between"), ({"tempo": "-5"}, "tempo: -5 is not between"),
    ({"track_album_release_date": "2020-13"}, "date: '2020-13'"), ({"track_album_release_date": "05/04/13"}, "date"),
    ({"playlist_genre": "x" * 300}, "genre: 300 characters"), ({"key": "1.5"}, "key: 1.5 is not a whole"),
    ({"key": "H sharp"}, "key"),
])
def test_an_odd_cell_costs_neither_its_row_nor_a_word(importer, tmp_path, source, cells, why):
    path = write_csv(tmp_path / "x.csv", iter([good(track_id="first"), good(track_id="odd", **cells)]))
    report = ingest(path, importer, source=source)
    assert (report.new, report.refused, report.cells, report.vectors) == (2, 0, 1, 2)
    assert report.odd[0].line == 3 and why in report.odd[0].reason and why in repr(report)
    assert sum(report.odd_why.values()) == 1


def one(text, **named):
    "The first row of a file, parsed."
    named["path"].write_bytes(text if isinstance(text, bytes) else text.encode())
    at = layout(named["path"], named.get("mapping"))
    return parse(next(rows_of(named["path"], at))[1], at)


@pytest.mark.parametrize("cell", ["", "NA", "N/A", "NaN", "NULL", "None", "\\N", "-", "#N/A", "0", "0.0", " nan "])
def test_an_unknown_tempo_is_unknown(importer, tmp_path, source, cell):
    report = ingest(write_csv(tmp_path / "x.csv", iter([good(tempo=cell)])), importer, source=source)
    (track,) = importer.tracks([new_id(source, "a")])
    assert (report.new, report.cells, report.vectors) == (1, 0, 1) and track.bpm is None and track.key == "C# major"


@pytest.mark.parametrize(("column", "cell", "value"), [
    ("tempo", "120,5", 120.5), ("tempo", "120.500", 120.5), ("tempo", "1.205e2", 120.5), ("tempo", "121 BPM", 121),
    ("tempo", "140,123", 140.123),
    ("duration_ms", "215,000", 215_000), ("duration_ms", "215.000", 215_000), ("duration_ms", "215 000", 215_000),
    ("duration_ms", "215\u202f000", 215_000), ("duration_ms", "215'000", 215_000), ("duration_ms", "215000.0", 215_000),
    ("duration_ms", "3:35", 215_000), ("duration_ms", "1:00:05", 3_605_000), ("duration_ms", "1,215,000", 1_215_000),
    ("loudness", "-7,25", -7.25), ("loudness", "−7.25", -7.25), ("loudness", "-7.25 dB", -7.25), ("energy", "80%", .8),
    ("energy", "0,8", .8),
    ("key", "C#", 1), ("key", "Db major", 1), ("key", "B", 11), ("mode", "Minor", 0), ("mode", "1.0", 1),
    ("energy", "0,512", .512)])
def test_numbers_as_people_write_them(tmp_path, column, cell, value):
    row = parse_good(tmp_path, **{column: cell})
    assert row.numbers[column] == pytest.approx(value) and not row.odd


def parse_good(folder, **cells):
    "A good row with these cells instead, parsed."
    return one(write_csv(folder / "g.csv", iter([good(**cells)])).read_bytes(), path=folder / "h.csv")


@pytest.mark.parametrize(("column", "cell"), [
    ("loudness", "-1,234,5"), ("tempo", "1 2 3"), ("duration_ms", "3 min"), ("tempo", "12,34,56")])
def test_what_can_be_read_in_no_way_or_in_two_is_left_out(tmp_path, column, cell):
    row = parse_good(tmp_path, **{column: cell})
    assert column not in row.numbers and len(row.odd) == 1


DAYS = ["1998", "1998-05", "1998-05-02", "1998.0", "1998-05-02T10:00:00Z", "1998-05-02 10:00:00+00:00", "1998-00-00",
        "02.05.1998", "5/2/1998", "25/12/1998", "1998/05/02", "19980502", "May 2, 1998", "2 May 1998",
        "02-May-1998", "1998-05-02T10:00:00.000Z"]


@pytest.mark.parametrize("day", DAYS)
def test_dates_in_many_forms(tmp_path, day):
    row = parse_good(tmp_path, track_album_release_date=day)
    assert row.year == 1998 and not row.odd


@pytest.mark.parametrize(("day", "odd"), [
    ("0000", 0), ("0000-00-00", 0), ("NA", 0), ("", 0), ("May-98", 1), ("35917", 1), ("1998-02-30", 1),
    ("13/13/1998", 1), ("1066", 1), ("2999", 1), ("soon", 1)])
def test_a_date_that_says_no_year_is_unknown(tmp_path, day, odd):
    row = parse_good(tmp_path, track_album_release_date=day)
    assert row.year is None and len(row.odd) == odd


@pytest.mark.parametrize(("cell", "artist"), [
    ("Ann Ode;Ben Rue", "Ann Ode, Ben Rue"), ("['Ann Ode', \"Ben O'Rue\"]", "Ann Ode, Ben O'Rue"),
    ("Ann Ode, Ben Rue", "Ann Ode, Ben Rue"),
    ("[Ann", "[Ann"), ("Tyler, The Creator", "Tyler, The Creator"), ('["Solo"]', "Solo"), ("Ann ; Ben;", "Ann, Ben")])
def test_several_artists(tmp_path, cell, artist): assert parse_good(tmp_path, track_artist=cell).artist == artist


@pytest.mark.parametrize("name", ["Nan", "Null", "None of Us", "n/a/b", "-", "?", "0", "Unknown"])
def test_a_song_may_have_an_odd_name(tmp_path, name): assert parse_good(tmp_path, track_name=name).title == name


FORMS = {
    "114k": (",track_id,artists,album_name,track_name,popularity,duration_ms,danceability,energy,key,loudness,mode,speechiness,"
             "acousticness,"
             "instrumentalness,liveness,valence,tempo,track_genre\n0,q1,A;B,C,Salt,7,200000,.5,.5,1,-7,1,.1,.1,0,.1,.5,90,hip-hop\n"),
    "2023": ('track_name,artist(s)_name,artist_count,released_year,released_month,streams,bpm,key,mode,danceability_%,valence_%,'
             'energy_%,'
             'acousticness_%,instrumentalness_%,liveness_%,speechiness_%\n'
             'Salt,"A, B",2,2023,7,"1,234,567",90,C#,Major,80,89,83,3,0,8,4\n'),
    "playlist": ("Track URI,Track Name,Artist Name(s),Album Name,Release Date,Duration (ms),Popularity,Genres,Danceability,Energy,"
                 "Key,Loudness,Mode,"
                 "Speechiness,Acousticness,Instrumentalness,Liveness,Valence,Tempo\nspotify:track:q,Salt,A;B,C,2023-01-02,200000,7,"
                 '"trap, drill",.5,.5,1,-7,1,.1,.1,0,.1,.5,90\n'),
    "names": "Title\tArtist\tYear\tBPM\nSalt\tA, B\t2023\t90\n", "sep": "sep=;\r\nsong;band;bpm\r\nSalt;A, B;90\r\n",
    "about": "My songs,,\nmade by me,,\n\ntitle,artist,tempo\nSalt,\"A, B\",90\n",
    "lone quote": 'title\tartist\ttempo\nSalt\tA, B\t90\n"Cut\tC\t80\n'}


@pytest.mark.parametrize("form", FORMS)
def test_known_forms_need_no_options(importer, tmp_path, source, form):
    (tmp_path / "x.csv").write_bytes(FORMS[form].encode())
    report = ingest(tmp_path / "x.csv", importer, source=source)
    ids = [i for (i,) in importer.query(Query("SELECT id FROM tracks WHERE source = %s AND title = 'Salt'", (source,)))]
    (track,) = importer.tracks(ids)
    assert (track.artist, track.bpm) == ("A, B", 90) and report.refused == report.cells == 0
    assert report.vectors == (form in ("114k", "2023", "playlist"))
    assert (report.vectors or "no column for danceability" in repr(report))
    if form in ("114k", "2023", "playlist"): assert track.key == "C# major" and track.mood
    if form in ("2023", "playlist", "names"): assert track.year == 2023
    assert ingest(tmp_path / "x.csv", importer, source=source).unchanged == report.tracks     # made ids are the same ones


def test_lyrics_and_the_words_of_a_search(importer, tmp_path, source):
    from rap_analyzer.search.fulltext import find
    (tmp_path / "x.csv").write_text('titel,wer,Jahr,Tempo,lyrics\nSalt,Mira,1998,90,"ein Leuchtturm\nim Nebel"\n', encoding="utf-8")
    mapping = {"title": "titel", "artist": "wer", "year": "Jahr", "bpm": "Tempo"}
    assert ingest(tmp_path / "x.csv", importer, mapping, source=source).new == 1
    (hit,) = find("leuchtturm nebel", 1, store=importer)
    (track,) = importer.tracks([hit.track_id])
    assert (track.year, track.bpm, track.lyrics) == (1998, 90, "ein Leuchtturm\nim Nebel")


WORDS = {"cp1251": "Тихий двор и ночная вода", "koi8-r": "Тихий двор и ночная вода", "cp1252": "Forêt brûlée, où va l'été ?",
         "cp1250": "Źródło żółtej łąki", "cp932": "夜のうた", "cp866": "Тихий двор и вода", "mac_roman": "Forêt brûlée",
         "cp1253": "Το τραγούδι της νύχτας", "cp1255": "שיר הלילה, דני וגם מיכל"}


@pytest.mark.parametrize("code", WORDS)
def test_the_suggested_encoding_fits_the_file(importer, tmp_path, source, code):
    (tmp_path / "x.csv").write_bytes(f'title,artist\n"{WORDS[code]}",Ada\n'.encode(code))
    with pytest.raises(BadFile, match=f"--encoding {code}"): ingest(tmp_path / "x.csv", importer, source=source)
    ingest(tmp_path / "x.csv", importer, source=source, encoding=code)
    assert importer.query(Query("SELECT title FROM tracks WHERE source = %s", (source,))) == [(WORDS[code],)]


def test_without_evidence_nothing_is_suggested():
    assert suggest_encoding(bytes(range(128, 256))) is None and suggest_encoding(b"plain") is None


def test_an_encoding_is_guessed_in_one_place(monkeypatch):
    "Tables and lyrics cannot disagree about the same bytes."
    from rap_analyzer.music import files
    monkeypatch.setattr(files, "guess_encoding", lambda data: "cp1250")
    assert suggest_encoding("Тихий двор".encode("cp1251")) == "cp1250"


def test_one_damaged_byte_costs_one_row(importer, tmp_path, source):
    lines = ["title,artist", *(f"Тихий двор {i},Мира" for i in range(20))]
    (tmp_path / "x.csv").write_bytes("\n".join(lines).encode().replace("двор 7".encode(), "дв".encode() + b"\xff"))
    report = ingest(tmp_path / "x.csv", importer, source=source)
    assert (report.new, report.refused) == (19, 1) and report.refusals[0] == (9, "title: damaged, a byte in it is not UTF-8")


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder"])
def test_only_regular_files_are_opened(importer, tmp_path, kind):
    path = {"device": Path("/dev/zero"), "folder": tmp_path}.get(kind, tmp_path / "x.csv")
    if kind == "fifo": os.mkfifo(path)
    if kind == "link": path.symlink_to("/dev/zero")
    with pytest.raises(BadFile, match="no regular file|a folder"): ingest(path, importer)


def test_tenants_do_not_wait_for_each_other(importer, tmp_path, source):
    from rap_analyzer.search.ingest import alone
    other, path = Store(importer.lab, "importer-3"), write_csv(tmp_path / "x.csv", iter([good()]))
    with alone(importer): assert ingest(path, other, source=source).new == 1
    other.forget()


def spoil(r, data):
    "Bytes with some damage."
    data = bytearray(data)
    for _ in range(r.randint(1, 12)):
        at, what = r.randrange(len(data)), r.randrange(5) if len(data) > 200 else 2
        if what == 0: data[at] = r.randrange(256)
        elif what == 1: del data[at:at + r.randint(1, 40)]
        elif what == 2: data[at:at] = r.choice([b'"', b",", b"\n", b"\r", b"\0", b";", b"\t", b"\xff\xfe", b"[", b"9" * 60, b"NA",
            b"%", "я".encode()])
        elif what == 3: data[at:at] = data[r.randrange(len(data)):][:r.randint(1, 200)]
        else: data[at:at] = bytes(r.randrange(256) for _ in range(r.randint(1, 9)))
    return bytes(data)


def test_whatever_a_file_holds_it_is_read_or_refused_in_a_sentence(tmp_path):
    r, path, seen = random.Random(91), tmp_path / "x.csv", Counter()
    whole = write_csv(tmp_path / "w.csv", sample_rows(25, seed=5)).read_bytes()
    seeds = [whole, whole.replace(b",", b";"), whole.decode().encode("utf-16"), *(f.encode() for f in FORMS.values())]
    tracemalloc.start()
    try:
        for _ in range(600):
            path.write_bytes(spoil(r, r.choice(seeds)))
            try: found = survey(path, layout(path)).report
            except BadFile as e: seen["refused"] += 1; assert "\n" not in str(e) and len(str(e)) < 700
            else: seen["read"] += 1; assert found.rows == found.tracks + found.merged + found.refused
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally: tracemalloc.stop()
    assert min(seen.values()) > 100, seen


@pytest.mark.parametrize("title", ['Say "Nine", twice', "Two\nlines\r\nand a half", "=HYPERLINK(\"x\")", "'; DROP TABLE tracks; --",
                                   "مرحبا", "🎤🎶", "Ёлка", "\u202eback", "a" * 10_000])
def test_any_unicode_comes_back_as_it_was(importer, tmp_path, source, title):
    ingest(write_csv(tmp_path / "x.csv", iter([good(track_name=title)])), importer, source=source)
    assert importer.tracks([new_id(source, "a")])[0].title == title


@pytest.mark.parametrize(("form", "encoding"), [({}, "utf-8-sig"), ({}, "utf-16"), ({}, "utf-16-le"), ({"delimiter": ";"}, "utf-8"),
                                                ({"delimiter": "\t", "lineterminator": "\r\n"}, "utf-8")])
def test_every_common_form_is_read(importer, tmp_path, source, form, encoding):
    text = write_csv(tmp_path / "x.csv", iter([good(), good(track_id="b", track_name="Ж")]), **form).read_bytes().decode()
    (tmp_path / "y.csv").write_bytes(text.encode(encoding))
    assert ingest(tmp_path / "y.csv", importer, source=source).new == 2


def bad_files(folder):
    "Each way in which a whole file can be wrong, and what is said."
    text = write_csv(folder / "whole.csv", iter([good(), good(track_id="b")])).read_bytes()
    with zipfile.ZipFile(folder / "a.zip", "w") as z: z.writestr("x", "y")
    head = ",".join(HEADER)
    return {"empty": (b"", "is empty"), "blank": (b"\n\n \r\n", "is empty"), "zip": ((folder / "a.zip").read_bytes(), "ZIP"),
            "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), "PNG"), "binary": (bytes(range(256)) * 9, "binary"),
            "header only": (head.encode() + b"\n", "no rows"), "no header": (b"a,b,c\n1,2,3\n", "lacks track_name"),
            "cp1251": (text.replace(b",A,", ",Привет,".encode("cp1251")), "encoding='cp1251'"),
            "cut off": (text[:-20] + b'"abc', "never closed"),
            "1 MB cell": (text.replace(b",A,", b"," + b"x" * 1_000_000 + b","), "a cell"),
            "one long line": (text + b"x" * 3_000_000, "line"), "many columns": ((head + ",x" * 230).encode() + b"\n", "columns"),
            "column twice": ((head + ",tempo").encode() + b"\n", "more than once")}


@pytest.mark.parametrize("kind", ["empty", "blank", "zip", "png", "binary", "header only", "no header", "cp1251", "cut off",
                                  "1 MB cell", "one long line", "many columns", "column twice"])
def test_a_broken_file_loads_nothing_and_says_one_sentence(importer, tmp_path, source, kind):
    data, says = bad_files(tmp_path)[kind]
    (tmp_path / "bad.csv").write_bytes(data)
    with pytest.raises(BadFile, match=says) as e: ingest(tmp_path / "bad.csv", importer, source=source)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500
    assert importer.query(Query("SELECT count(*) FROM tracks WHERE source = %s", (source,))) == [(0,)]


def test_cp1251_can_be_named(importer, tmp_path, source):
    (tmp_path / "x.csv").write_bytes("nr;song;by\n1;Тихий двор;Мира\n".encode("cp1251"))
    ingest(tmp_path / "x.csv", importer, MINE, source=source, encoding="cp1251")
    assert importer.tracks([new_id(source, "1")])[0].title == "Тихий двор"
    for wrong in ("no-such-code", "utf-8"):
        with pytest.raises(BadFile): ingest(tmp_path / "x.csv", importer, MINE, source=source, encoding=wrong)


def test_no_file_and_bad_arguments(importer, tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(BadFile, match="cannot read"): ingest(path, importer)
    path = write_csv(tmp_path / "x.csv", iter([good()]))
    for wrong in ({"source": "My Source"}, {"batch": 0}, {"mapping": {"titel": "x"}}, {"mapping": {"title": "x"}}):
        with pytest.raises(ValueError): ingest(path, importer, **wrong)


def test_tenants_import_the_same_file_apart(importer, tmp_path, source):
    path = write_csv(tmp_path / "x.csv", iter([good()]))
    other = Store(importer.lab, "importer-2")
    other.register()
    assert ingest(path, importer, source=source).new == ingest(path, other, source=source).new == 1
    assert other.count() == 1
    other.forget()


def test_the_same_row_has_the_same_vector_whatever_else_is_in_the_file():
    numbers = [{k: float(r[k]) for k in ("danceability", "energy", "valence", "speechiness", "acousticness", "instrumentalness",
                                         "liveness", "loudness", "tempo", "key", "mode", "duration_ms")}
               for r in [good(tempo=str(60 + 9 * i), energy=f"0.{i}") for i in range(9)]]
    X = vectors(numbers)
    assert X.shape == (9, 512) and X.dtype == np.float16
    assert np.allclose(np.linalg.norm(X.astype(float), axis=1), 1, atol=2e-3)
    for i in range(9): assert np.array_equal(vectors(numbers[i:i + 1])[0], X[i])


def test_groups_find_each_other_through_an_index(importer, tmp_path, source):
    made = [r for r in rows(1_500, seed=11)]
    ingest(write_csv(tmp_path / "x.csv", iter(made)), importer, source=source)
    build("hnsw_halfvec", importer, model_id=CSV_MODEL)
    liked = next(r["track_id"] for r in made if r["track_id"].startswith("lofi"))
    hits = similar(new_id(source, liked), 10, store=importer, model_id=CSV_MODEL)
    assert sum(t.external_id.startswith("lofi") for t in importer.tracks([h.track_id for h in hits])) >= 8


def test_killed_in_the_middle_and_run_again(tmp_path):
    path = write_csv(tmp_path / "x.csv", sample_rows(6_000))
    own = Lab(home=tmp_path / "home").up()
    try:
        migrate(own)
        store = Store(own).register()

        def kill():
            end = time.monotonic() + 60
            while time.monotonic() < end and store.count() < 400: time.sleep(0.01)
            for p in own.postgres.processes(): p.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(Stopped) as e: ingest(path, store, batch=200)
        killer.join()
        assert isinstance(e.value, LabError) and f"from_line={e.value.line}" in str(e.value)
        own.up()
        there = store.count()
        assert there >= e.value.report.new >= 400 and there % 200 == 0  # whole batches
        rest = ingest(path, store, batch=200)
        assert rest.new + rest.unchanged == rest.tracks == store.count() == store.count(CSV_MODEL) and rest.unchanged == there
        assert ingest(path, store, batch=200).unchanged == rest.tracks
    finally:
        own.down()
        own.close()


def test_a_full_disk_in_the_middle_leaves_whole_batches_and_the_rest_goes_in_later(lab, tmp_path):
    disk = Path(tempfile.mkdtemp(prefix="rap-disk-"))  # where the servers' user can get at it
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode: pytest.skip("needs a small disk, which only root may mount")
    try:
        give(disk)
        with Store(lab).admin(None) as con:
            con.execute(f"CREATE TABLESPACE small_disk LOCATION '{disk}'")
            con.execute("CREATE DATABASE test_full_disk OWNER rap_owner TABLESPACE small_disk")
        own = Lab(home=lab.home, database="test_full_disk").up()
        migrate(own)
        store, path = Store(own), write_csv(tmp_path / "songs.csv", sample_rows(8_000))
        used_kb = shutil.disk_usage(disk).used // 1024
        subprocess.run(["mount", "-o", f"remount,size={used_kb + 6_000}k", str(disk)], check=True)
        with pytest.raises(Stopped, match="disk is full") as e: ingest(path, store, batch=200)
        there = store.count()
        assert there == e.value.report.new >= 200 and there % 200 == 0 and store.count(CSV_MODEL) == there
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        rest = ingest(path, store, batch=200)
        assert rest.unchanged == there and rest.unchanged + rest.new == rest.tracks == store.count() == store.count(CSV_MODEL)
        store.forget()
    finally:
        lab.drop_database("test_full_disk")
        with Store(lab).admin(None) as con: con.execute("DROP TABLESPACE IF EXISTS small_disk")
        subprocess.run(["umount", str(disk)], check=False)
        disk.rmdir()
