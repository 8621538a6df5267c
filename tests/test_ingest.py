"""Files as they come: broken, strange, cut off, repeated, interrupted; on the real server."""

import random
import shutil
import string
import subprocess
import threading
import time
import zipfile

import numpy as np
import pytest

from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.processes import give
from rap_analyzer.search.index import build, similar
from rap_analyzer.search.ingest import CSV_MODEL, HEADER, BadFile, Stopped, ingest, new_id, sample_rows, vectors, write_csv
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate

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
    ({"track_name": " "}, "title: missing"), ({"track_id": ""}, "external_id: missing"),
    ({"tempo": "fast"}, "tempo: 'fast' is not a number"),
    ({"tempo": ""}, "tempo: '' is not a number"), ({"energy": "nan"}, "energy: 'nan'"), ({"energy": "inf"}, "energy: 'inf'"),
    ({"energy": "1_0"}, "energy: '1_0'"), ({"energy": "٠"}, "energy"),
    ({"track_popularity": "101"}, "popularity: 101 is not between"),
    ({"track_album_release_date": "2020-13"}, "date: '2020-13'"), ({"track_album_release_date": "02.05.1998"}, "date"),
    ({"track_name": "x" * 10_001}, "title: 10,001 characters"), ({"track_name": "a\0b"}, "title: it has a NUL"),
    ({"playlist_genre": "x" * 300}, "genre: 300 characters"), ({"key": "1.5"}, "key: 1.5 is not a whole"),
])
def test_a_bad_row_is_named_and_the_others_go_in(importer, tmp_path, source, cells, why):
    path = write_csv(tmp_path / "x.csv", iter([good(track_id="first"), good(**cells), good(track_id="last")]))
    report = ingest(path, importer, source=source)
    assert (report.new, report.refused) == (2, 1) and report.refusals[0].line == 3
    assert why in report.refusals[0].reason and why.split(":")[0] in repr(report)


@pytest.mark.parametrize("day", ["1998", "1998-05", "1998-05-02"])
def test_dates_in_three_forms(importer, tmp_path, source, day):
    ingest(write_csv(tmp_path / "x.csv", iter([good(track_album_release_date=day)])), importer, source=source)
    assert importer.tracks([new_id(source, "a")])[0].year == 1998


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
            "header only": (head.encode() + b"\n", "no rows"), "no header": (b"a,b,c\n1,2,3\n", "lacks track_id"),
            "cp1251": (text.replace(b",A,", ",Привет,".encode("cp1251")), "pass encoding='cp1251'"),
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
    disk = tmp_path / "disk"
    disk.mkdir()
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
