"""A folder of songs: what is a song, what is done already, what a kill in the middle leaves, and what a thousand files cost."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rap_analyzer.core import LabError
from rap_analyzer.library import folder as serve_folder
from rap_analyzer.library.folder import Job, ingest_folder
from rap_analyzer.music.analyzers import Analyses, Analysis
from rap_analyzer.music.audio import Clip, wav
from rap_analyzer.music.files import UNKNOWN, audio_files, by_name, hear_any, lyrics_beside, names, read_lyrics, shown
from rap_analyzer.music.worker import stop_workers
from rap_analyzer.search.fulltext import find
from rap_analyzer.search.index import similar
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, migrate

SR = 8_000
QUICK = """
import sys, types
def module(name, **what): sys.modules["rap_analyzer.music." + name] = types.SimpleNamespace(**what)
def guess(label): return types.SimpleNamespace(label=label, confidence=.5, scores={label: 1.0})
def tempo(clip):
    bpm = 60 + 60 * float(abs(clip.samples).mean())
    return types.SimpleNamespace(bpm=bpm, confidence=.5, candidates=((90, 1),), beats=[.5])
def tags(clip, patches=None):
    import numpy as np
    x = np.abs(np.fft.rfft(clip.samples[:16_000])).reshape(-1)[:512]
    return types.SimpleNamespace(genre=guess("trap"), mood=guess("dark"), top=[("Hip-Hop", .9)], vector=x,
                                 distance=1.0)
def embed(tags=None, lyrics=None, tempo=None, rhythm=None):
    import numpy as np
    x = np.resize(np.asarray(tags.vector, dtype=np.float32), 512) + 1e-3
    return x / np.linalg.norm(x)
def lyrics(*args, **more): raise ValueError("not in this test")
def tempo_of(clip, curves=None): return tempo(clip)
module("tempo", tempo=tempo_of, onset_curves=lambda clip: None)
module("tags", tags=tags, strangeness=lambda d: .5), module("lyrics", lyrics=lyrics)
module("embedding", embed=embed, rhythm=lambda clip, tempo, curves: None, MODEL_ID="quick-1",
       SHARES={"audio": .6, "lyrics": .2, "rhythm": .2})
"""


@pytest.fixture
def quick(tmp_path_factory, monkeypatch):
    "Every Python process that is started hears in no time: what is tested here is the bookkeeping."
    place = tmp_path_factory.mktemp("quick")
    (place / "sitecustomize.py").write_text(QUICK)
    monkeypatch.syspath_prepend(str(place))
    yield place
    stop_workers()


@pytest.fixture
def mine(lab, request):
    "A tenant with nothing in it."
    migrate(lab)
    store = Store(lab, "t" + "".join(c for c in request.node.name if c.isalnum()).lower()[:25]).register()
    yield store
    store.forget()


def song(path, hz=220.0, seconds=3.2, sr=SR, **facts):
    "A file with a tone that comes and goes."
    t = np.arange(round(seconds * sr)) / sr
    with soundfile.SoundFile(path, "w", sr, 1) as f:
        for k, v in facts.items(): setattr(f, k, v)
        f.write(0.5 * np.sin(2 * np.pi * hz * t) * (t % 0.5 < 0.2))
    return path


@pytest.fixture
def songs(tmp_path):
    "Six songs, two of them with words, one twice, and three files that are none."
    home = tmp_path / "songs"
    (home / "more").mkdir(parents=True)
    for i in range(6): song(home / ("more" if i > 3 else "") / f"{i:02} - Mira Salt - Night Yard {i}.wav", 200 + 30 * i)
    (home / "00 - Mira Salt - Night Yard 0.txt").write_text("every lantern\nin the cavern\n", encoding="utf-8")
    words = "[ar:Mira]\n[00:01.00]на дворе\n[00:02.00]в ноябре"
    (home / "01 - Mira Salt - Night Yard 1.lrc").write_text(words, encoding="utf-8")
    (home / "copy.wav").write_bytes((home / "00 - Mira Salt - Night Yard 0.wav").read_bytes())
    (home / "page.mp3").write_text("<html>", encoding="utf-8")
    (home / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    (home / "cut.wav").write_bytes((home / "02 - Mira Salt - Night Yard 2.wav").read_bytes()[:9_000])
    (home / "silent.wav").write_bytes(wav(Clip(np.zeros(4 * SR), SR)))
    return home


def rows(store):
    "What is stored of files, by title; each must be there once."
    sql = "SELECT title, artist, lyrics, bpm, mood, external_id FROM tracks WHERE source = 'files' ORDER BY title"
    return store.query(Query(sql))


def test_a_folder_is_heard_stored_and_found(quick, mine, songs):
    report = ingest_folder(songs, mine, "fast")
    assert (report.files, report.new, report.copies, report.refused, report.without_vector) == (10, 6, 1, 3, 0)
    assert report.why == {"not_audio": 1, "truncated": 1, "silent": 1} and report.model_id == "quick-1"
    assert sorted(Path(r.file).name for r in report.refusals) == ["cut.wav", "page.mp3", "silent.wav"]
    assert "web page" in repr(report) and "6 new" in repr(report)
    stored = rows(mine)
    assert [r[0] for r in stored] == [f"Night Yard {i}" for i in range(6)] and {r[1] for r in stored} == {"Mira Salt"}
    assert stored[0][2] == "every lantern\nin the cavern" and stored[1][2] == "на дворе\nв ноябре" and stored[2][2] is None
    assert mine.count("quick-1") == 6 and stored[3][3] > 60 and stored[3][4] == "dark"
    lantern = find("lantern", store=mine)
    assert len(lantern) == 1 and len(find("ноябре", store=mine)) == 1
    near = similar(lantern[0].track_id, k=5, store=mine, model_id="quick-1")
    assert len({h.track_id for h in near} - {lantern[0].track_id}) == 5 and near[0].score > near[-1].score


def test_again_nothing_is_heard_and_nothing_is_written(quick, mine, songs, monkeypatch):
    ingest_folder(songs, mine, "fast")
    before = rows(mine)
    asked, real = [], serve_folder.analyze_files
    monkeypatch.setattr(serve_folder, "analyze_files", lambda jobs, *a: real((asked.append(j) or j for j in jobs), *a))
    report = ingest_folder(songs, mine, "fast")
    assert (report.new, report.changed, report.unchanged, report.copies, report.refused) == (0, 0, 6, 1, 3)
    assert len(asked) == 3 and rows(mine) == before                       # only the broken ones are looked at again
    (songs / "02 - Mira Salt - Night Yard 2.txt").write_text("new words", encoding="utf-8")
    (songs / "more" / "04 - Mira Salt - Night Yard 4.wav").rename(songs / "other name.wav")
    report = ingest_folder(songs, mine, "fast")
    assert (report.new, report.changed, report.unchanged) == (0, 1, 5) and rows(mine)[2][2] == "new words"
    assert ingest_folder(songs, mine, "fast", again=True).changed == 6 and mine.count() == 6 == mine.count("quick-1")


def test_titles_come_from_the_file_or_its_name(tmp_path):
    flac = song(tmp_path / "a - b.flac", title="Ночной двор", artist="Mira\n Salt", date="2003-05")
    assert names(flac) == ("Mira Salt", "Ночной двор", 2003)
    assert names(song(tmp_path / "07 - Ada & Co. - Salt - Steel.wav")) == ("Ada & Co.", "Salt - Steel", None)
    assert names(tmp_path / "gone.wav") == (UNKNOWN, "gone", None)
    assert names(song(tmp_path / "x.flac", title="\x01\x02", artist=" ")) == (UNKNOWN, "x", None)


@pytest.mark.parametrize("stem, said", [
    ("03 - A - B", ("A", "B")), ("A - B", ("A", "B")), ("03. B", (UNKNOWN, "B")), ("1999", (UNKNOWN, "1999")),
    ("", (UNKNOWN, UNKNOWN)),
    ("2-900-111", (UNKNOWN, "2-900-111")), ("5_55", (UNKNOWN, "5_55")), ("98.6 C", (UNKNOWN, "98.6 C")),
    ("9.81", (UNKNOWN, "9.81")),
    ("07. 99 Knots", (UNKNOWN, "99 Knots")),
    ("50 ways", (UNKNOWN, "50 ways")), ("a_b_c", (UNKNOWN, "a b c")), ("A – B – C", ("A", "B - C")), ("99-B", (UNKNOWN, "B")),
    (os.fsdecode(b"caf\xe9 - x"), ("caf\ufffd", "x")), ("A\x00 - \x1bB", ("A", "B")), ("x" * 9_999, (UNKNOWN, "x" * 500))])
def test_what_a_name_says(stem, said):
    assert by_name(stem) == said


@pytest.mark.parametrize("name", ["a.xm", "a.it", "a.s3m", "a.mod", "a.gsm", "a.m4b", "a.tta"])
def test_sound_that_we_cannot_read_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x01" * 3_000)
    ((file, got),) = hear_any(tmp_path)
    assert file.endswith(name) and got.reason == "not_audio" and name in str(got), got


def test_what_counts_as_sound(tmp_path):
    wav = song(tmp_path / "a.wav").read_bytes()
    (tmp_path / "no_suffix").write_bytes(wav), (tmp_path / "odd.data").write_bytes(wav), (tmp_path / "notes.data").write_text("x")
    (tmp_path / ".hidden.wav").write_bytes(wav), (tmp_path / "b.mp3").touch(), (tmp_path / "c.txt").write_bytes(wav)
    (tmp_path / "dir.wav").mkdir(), os.mkfifo(tmp_path / "pipe.wav"), os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere"), (tmp_path / "loop").symlink_to(tmp_path)
    assert [p.name for p in audio_files(tmp_path)] == ["a.wav", "b.mp3", "gone.wav", "no_suffix", "odd.data"]
    with pytest.raises(LabError, match="cannot read"): list(audio_files(tmp_path / "nowhere"))
    with pytest.raises(LabError, match="no folder"): ingest_folder(tmp_path / "a.wav", store=object())


@pytest.mark.parametrize("data, text", [
    ("а\nб".encode(), "а\nб"), ("а".encode("utf-16"), "а"), ("\ufeffа".encode(), "а"),
    ("дождь".encode("cp1251"), "дождь"), (b"", ""),
    (b"[ti:X]\r\n[00:01.20][00:09.20]la <00:01.90>la\r\n\r\n[02:03]lo", "la la\n\nlo"), (b"[Chorus]\nhey", "[Chorus]\nhey"),
    (b"a\x00b" + b"c" * 500, "ab" + "c" * 500), ("🙂 no vowls".encode(), "🙂 no vowls")])
def test_lyrics_of_any_kind(data, text, tmp_path):
    (tmp_path / "x.txt").write_bytes(data)
    assert read_lyrics(tmp_path / "x.txt") == text and (lyrics_beside(tmp_path / "x.wav")[0] or "") == text


def test_what_is_no_lyrics(tmp_path):
    (tmp_path / "x.txt").write_bytes(bytes(9_999)), (tmp_path / "y.txt").write_bytes(b"la " * 700_000)
    for name, said in (("x.txt", "no text"), ("y.txt", "MB"), ("z.txt", "cannot read")):
        with pytest.raises(ValueError, match=said): read_lyrics(tmp_path / name)
        assert lyrics_beside(tmp_path / name)[0] is None


def test_lyrics_that_cannot_be_read_are_named(quick, mine, tmp_path):
    "A song goes in without them, and the report, the summary and the JSON say which file was left out."
    made = song(tmp_path / "x.wav")
    (tmp_path / "x.lrc").write_bytes(bytes(9_999)), os.mkfifo(tmp_path / "x.LRC")
    words, wrong = lyrics_beside(made)
    assert words is None and [w.partition(":")[0] for w in wrong] == ["lyrics left out"] * 2, wrong
    assert "x.lrc is no text" in wrong[0] and "x.LRC: it is no regular file" in wrong[1], wrong
    report = ingest_folder(tmp_path, mine)
    assert report.new == 1 and report.warnings == wrong and f"warning: {wrong[0]}" in repr(report)
    assert all(set(wrong) <= set(got.warnings) for what in (made, tmp_path) for _, got in hear_any(what, profile="fast"))
    (tmp_path / "x.txt").write_text("la la", encoding="utf-8")
    assert lyrics_beside(made) == ("la la", wrong[:1])                          # and the next file that can be read is taken


def test_shown_is_what_a_database_holds():
    assert shown("a\0b\n\tc \x1b[31m\ud800") == "a b c [31m\ufffd" and shown("\udcff\ud800") == "\ufffd\ufffd"


def start(home, tenant, folder, *more, profile="fast"):
    "The command, in a process of its own."
    env = {**os.environ, "RAP_LAB_HOME": str(home), "RAP_API_TENANT": tenant, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "rap_analyzer.cli", "ingest", str(folder), "--profile", profile, "--json", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, **pipes, text=True, start_new_session=True)


def test_killed_in_the_middle_nothing_twice_nothing_lost(quick, mine, lab_home, tmp_path):
    (quick / "sitecustomize.py").write_text(QUICK.replace("def tempo(clip):", "def tempo(clip):\n    import time; time.sleep(.05)"))
    home = tmp_path / "many"
    home.mkdir()
    for i in range(120): song(home / f"{i:03}.wav", 150 + 3 * i)
    for kills in (1, 2):
        p, was = start(lab_home, mine.tenant, home), mine.count()
        for _ in range(600):
            if mine.count() >= was + 20: break
            time.sleep(0.05)
        os.kill(p.pid, signal.SIGKILL)
        p.communicate(timeout=30)
        assert was < mine.count() < 120, f"kill {kills} came too late to prove anything"
    done = mine.count()
    out, err = start(lab_home, mine.tenant, home).communicate(timeout=120)
    report = json.loads(out)
    assert report["unchanged"] == done and report["new"] == 120 - done and report["refused"] == 0, err
    stored = rows(mine)
    assert [r[0] for r in stored] == [f"{i:03}" for i in range(120)]
    assert len({r[5] for r in stored}) == 120 == mine.count("quick-1")


def test_a_stop_by_hand_keeps_what_was_heard(quick, mine, tmp_path, monkeypatch):
    home = tmp_path / "many"
    home.mkdir()
    for i in range(12): song(home / f"{i:03}.wav", 150 + 3 * i)
    real, seen = serve_folder.analyze_files, []
    def tired(*args):
        for got in real(*args):
            seen.append(got)
            yield got
            if len(seen) == 5: raise KeyboardInterrupt
    monkeypatch.setattr(serve_folder, "analyze_files", tired)
    with pytest.raises(KeyboardInterrupt): ingest_folder(home, mine, "fast")
    assert mine.count() == 5 == mine.count("quick-1")


def test_ctrl_c_says_that_the_work_is_kept(quick, mine, lab_home, tmp_path):
    (quick / "sitecustomize.py").write_text(QUICK.replace("def tempo(clip):", "def tempo(clip):\n    import time; time.sleep(.2)"))
    home = tmp_path / "many"
    home.mkdir()
    for i in range(120): song(home / f"{i:03}.wav", 150 + 3 * i)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a run in the background hands on that it is ignored
    p = start(lab_home, mine.tenant, home)
    signal.signal(signal.SIGINT, before)
    for _ in range(600):
        if mine.count(): break
        time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "the same command goes on" in err and "Traceback" not in err and out == ""
    assert 0 < mine.count() < 120


def test_a_thousand_files_of_which_fifty_are_broken(quick, mine, tmp_path):
    home, good = tmp_path / "thousand", wav(Clip(np.random.default_rng(1).uniform(-0.5, 0.5, 3 * SR + 80), SR))
    home.mkdir()
    kinds = [lambda x: b"", lambda x: x[:len(x) // 2], lambda x: b"<html>" + x[:99], lambda x: x[:44] + bytes(len(x) - 44),
             lambda x: wav(Clip(np.ones(9), SR))]
    for i in range(1_000):
        x = good[:-4] + i.to_bytes(4, "little")
        (home / f"{i:04}.wav").write_bytes(kinds[i // 20 % 5](x) if i % 20 == 7 else x)
    tracemalloc.start()
    report = ingest_folder(home, mine, "fast")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (report.files, report.new, report.refused) == (1_000, 950, 50) and mine.count() == 950 == mine.count("quick-1")
    assert report.why == {"empty": 10, "truncated": 10, "not_audio": 10, "silent": 10, "too_short": 10}
    assert peak < 40e6, f"{peak / 1e6:.0f} MB in the process that keeps the books"


def test_one_import_at_a_time(mine, tmp_path):
    from rap_analyzer.search.ingest import alone
    (tmp_path / "x").mkdir()
    with alone(mine), pytest.raises(LabError, match="another import"): ingest_folder(tmp_path / "x", mine)


def test_a_crash_is_a_refusal(quick, mine, songs):
    spy = textwrap.dedent("""
        def spy(event, args):
            worker = "serve(int" in " ".join(sys.orig_argv)
            if worker and event == "open" and str(args[0]).endswith("02 - Mira Salt - Night Yard 2.wav"):
                import os; os.abort()
        sys.addaudithook(spy)""")
    (quick / "sitecustomize.py").write_text(QUICK + spy)
    report = ingest_folder(songs, mine, "fast")
    crashed = [r.text for r in report.refusals if r.reason == "crashed"]
    assert report.new == 5 and len(crashed) == 1 == report.why["crashed"] and "SIGABRT" in crashed[0]


def test_an_embedding_that_is_missing_is_told(mine, tmp_path):
    job = Job(song(tmp_path / "a.wav"), "f" * 32, None)
    report = serve_folder.FolderReport()
    serve_folder.write(mine, [(job, Analyses({"tempo": Analysis({"bpm": 90.0}, 1)}))], report)
    assert report.without_vector == 1 and mine.count() == 1 and rows(mine)[0][3] == 90 and "by their words" in repr(report)
