"""Your own music, as a new user has it: a folder and a table go in, and every printed command works as printed; over HTTP too."""

import dataclasses
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from typer.testing import CliRunner

from rap_analyzer.cli import app
from rap_analyzer.giants import spotify
from rap_analyzer.giants.releases import run_releases
from rap_analyzer.giants.success import train
from rap_analyzer.library import folder, neighbours
from rap_analyzer.library.neighbours import find_own, try_own
from rap_analyzer.music.audio import save
from rap_analyzer.music.catalog import MODEL_ID as CATALOG
from rap_analyzer.music.catalog import SIZE, track
from rap_analyzer.music.embedding import MODEL_ID as HEARD
from rap_analyzer.music.render import render
from rap_analyzer.recommend import candidates
from rap_analyzer.search import ingest
from rap_analyzer.search import store as stores
from rap_analyzer.search.ingest import CSV_MODEL, new_id
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill, migrate
from rap_analyzer.serve.analysis import hear
from rap_analyzer.serve.worker import Refused

TENANT = "own-music"


@pytest.fixture(scope="module")
def home(lab, tmp_path_factory):
    "A tenant with 300 catalog tracks, a folder with three songs and a broken file, and two tables."
    migrate(lab)
    store, home = fill(Store(lab, TENANT).register(), 300), tmp_path_factory.mktemp("own")
    (home / "songs").mkdir()
    for i in range(3): save(render(track(SIZE + 10 + i), 8, 22_050), home / "songs" / f"0{i} - Mira Salt - Night's Yard {i}.wav")
    (home / "songs" / "page.mp3").write_text("<html>")
    head = "id,title,artist,danceability,energy,valence,tempo,loudness,speechiness,acousticness,instrumentalness,liveness,lyrics"
    rows = [f"{i},Copper 'Kettle' {i},Ann Ode;Ben Rue,.{i},.5,.5,9{i},-7,.1,.1,0,.1,\"an odd word: zwieback\"" for i in range(1, 8)]
    (home / "list.csv").write_text("\n".join([head, *rows]))
    (home / "bare.csv").write_text("title,artist\nOnly A Name,Ada\n")
    yield home
    store.forget()


def environment(lab_home):
    "What a process needs to work in this lab, as this tenant."
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "RAP_LAB_HOME": str(lab_home), "RAP_API_TENANT": TENANT, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def cli(lab, home):
    "Run a command as it is printed, in the user's folder and in this process: what is tested is what it does."
    store = Store(lab, TENANT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for module in (stores, ingest, folder): patch.setattr(module, "default_store", lambda: store)

        def run(command, code=0):
            words = shlex.split(command)
            done = CliRunner().invoke(app, words[1:] if words[0].endswith("rap-analyzer") else words)
            assert done.exit_code == code, (command, done.output, done.exception)
            return done.output if code == 0 else f"{done.output}{done.exception}"
        yield run


@pytest.fixture(scope="module")
def told(cli):
    "What the import of the folder and of the table print."
    return cli("ingest songs --profile fast"), cli("ingest list.csv")


@pytest.fixture(scope="module")
def url(lab, home, lab_home):
    "The service in a process of its own."
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "rap_analyzer.app:create_app", "--port", str(port)]
    server = subprocess.Popen(command, cwd=home, env=environment(lab_home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None
            try:
                if httpx.get(f"{address}/health/ready").status_code == 200: break
            except httpx.HTTPError: pass
            time.sleep(0.05)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def printed(text):
    "The commands that a report prints, by what they are for."
    return {what.strip(): command for what, command in re.findall(r"^  ([a-z ]+):\s+(.*rap-analyzer .*)$", text, re.M)}


def test_the_folder_says_what_was_heard_and_every_command_works_as_printed(cli, told, home):
    report = told[0]
    assert "4 files: 3 new" in report and "web page" in report
    assert len(re.findall(r"^ *[0-9]{16} +[0-9]+ BPM  [a-z].* Night's Yard [0-2] · Mira Salt$", report, re.M)) == 3
    commands = printed(report)
    assert set(commands) == {"like it", "by words", "both", "play it"}
    said = {what: cli(command) for what, command in commands.items()}
    assert "Night's Yard" in said["by words"] and all(f"by model {HEARD}" in said[what] for what in ("like it", "both"))
    assert len(said["like it"].splitlines()) == 11
    (wav,) = home.glob("track-*.wav")
    assert "from" in said["play it"] and str(wav.name) in said["play it"]


def test_play_plays_the_file(cli, told, home):
    hit = json.loads(cli("search 'Night Yard 2' --json --k 1"))[0]
    facts = json.loads(cli(f"play {hit['track_id']} --seconds 3 --out heard.wav --json"))
    assert facts["from"].endswith("Night's Yard 2.wav") and facts["seconds"] == 3
    (x, sr), (y, rate) = soundfile.read(home / "heard.wav"), soundfile.read(facts["from"])
    x = np.interp(np.arange(3 * rate) / rate, np.arange(len(x)) / sr, x if x.ndim == 1 else x.mean(1))
    assert np.corrcoef(x, (y if y.ndim == 1 else y.mean(1))[:3 * rate])[0, 1] > 0.9


def test_sound_over_http_is_the_tracks_own_and_bounded(url, told, cli, home):
    hit = json.loads(cli("search 'Night Yard 2' --json --k 1"))[0]
    facts = json.loads(cli(f"play {hit['track_id']} --seconds 3 --out beside.wav --json"))
    get = lambda id, seconds=3, **heads: httpx.get(f"{url}/api/tracks/{id}/audio?seconds={seconds}", headers=heads, timeout=20)
    own, made = get(hit["track_id"]), get(42)
    for r in (own, made):
        assert r.status_code == 200 and r.headers["content-type"] == "audio/wav" and r.headers["accept-ranges"] == "bytes"
    (x, sr), (y, rate) = soundfile.read(io.BytesIO(own.content)), soundfile.read(facts["file"])
    y = np.interp(np.arange(len(x)) / sr, np.arange(len(y)) / rate, y if y.ndim == 1 else y.mean(1))
    assert len(x) / sr == 3 and np.corrcoef(x, y)[0, 1] > 0.8
    part = get(42, range="bytes=40-99")
    assert (part.status_code, part.content) == (206, made.content[40:100])
    assert part.headers["content-range"] == f"bytes 40-99/{len(made.content)}"
    assert get(42, range="bytes=99999999-").status_code == 416 and get(42, range="bytes=x,0-").content == made.content
    assert [get(i).status_code for i in (new_id("spotify_songs", "1"), 4_000_000_000, -1)] == [404, 404, 422]
    assert "came from a table" in get(new_id("spotify_songs", "1")).json()["error"]
    assert [get(42, s).status_code for s in ("0", "31", "1e9", "nan", "inf", "x")] == [422] * 6
    page = httpx.get(f"{url}/tracks/{hit['track_id']}")
    assert "controls" in re.search("<audio[^>]*>", page.text)[0] and "media-src 'self'" in page.headers["content-security-policy"]


def test_the_table_prints_commands_that_work(cli, told):
    commands = printed(told[1])
    assert "7 new" in told[1] and "7 with a vector" in told[1] and set(commands) == {"by words", "what is near"}
    for command in commands.values(): assert "Copper 'Kettle'" in cli(command)
    assert [h["model_id"] for h in json.loads(cli(commands["what is near"] + " --json"))] == [CSV_MODEL] * 6     # there are no more
    row = new_id("spotify_songs", "1")
    assert "has no sound" in cli(f"play {row}", 1) and "has no sound" in cli(f"analyze {row}", 1)
    assert "Copper" in cli("search zwieback") and "Copper" in cli(f"search zwieback --like {row}")
    assert "Copper" in cli("search copper --artist 'ben rue'")


def test_a_row_without_numbers_says_which_columns_it_would_take(cli, told):
    report = cli("ingest bare.csv")
    assert "no column for danceability, energy" in report and set(printed(report)) == {"by words"}
    (hit,) = json.loads(cli("search 'only a name' --json --k 1"))
    assert "by its words and not by its sound" in cli(f"similar {hit['track_id']}", 1)


def test_one_file_goes_in_alone_and_moves(cli, told, home):
    (home / "songs" / "02 - Mira Salt - Night's Yard 2.wav").rename(home / "moved.wav")
    report = cli("ingest moved.wav --profile fast")
    assert "1 already there" in report and f"from {home / 'moved.wav'}" in cli(printed(report)["play it"])
    (home / "moved.wav").rename(home / "songs" / "gone.txt")
    assert "not at" in cli(printed(report)["play it"], 1)


@pytest.mark.parametrize("command", [
    "ingest songs/page.mp3", "analyze songs/page.mp3", "analyze refused --json", "ingest refused.csv", "ingest refused"])
def test_where_everything_was_refused_the_exit_code_says_so(cli, home, command):
    (home / "refused").mkdir(exist_ok=True)
    (home / "refused" / "page.mp3").write_text("<html>")
    (home / "refused.csv").write_text("title,artist\nNA,Ada\n,Bo\n")
    assert re.search("page|missing", cli(command, 1))


def test_what_there_is_where_a_filter_fits_nothing(cli, told):
    assert re.search("there is: .*trap", cli("similar 42 --genre polka"))
    assert "there is" in cli("search lantern --year 1700-1701") and "Ben Rue" in cli("search copper --artist 'Ben Ruh'")
    assert cli("search copper --mood sad --bpm 300-301 --json").startswith(("[]", "no track"))
    assert cli("search 'Coper Ketl'").startswith("no track has these words; similar names:")


def test_the_model_is_named_over_http_too(url, told, cli):
    get = lambda path, **asked: httpx.get(url + path, params=asked, timeout=20).json()
    song = json.loads(cli("search 'Night Yard 1' --json --k 1"))[0]["track_id"]
    row = new_id("spotify_songs", "1")
    models = {i: get("/api/tracks/similar", track_id=i) for i in (42, song, row)}
    assert [m["model_id"] for m in models.values()] == [CATALOG, HEARD, CSV_MODEL] and all(m["hits"] for m in models.values())
    assert get("/api/tracks/search", q="copper", like=row)["model_id"] == CSV_MODEL
    assert get("/api/tracks/search", q="Coper Ketl")["note"] == "similar names"
    assert "there is: " in get("/api/tracks/similar", track_id=42, genre="polka")["note"]


def test_an_import_in_another_process_reaches_the_running_service_at_once(url, home, lab_home):
    ask = lambda: [h["title"] for h in httpx.get(f"{url}/api/tracks/search", params={"q": "quokka"}, timeout=20).json()["hits"]]
    assert ask() == ask() == []                                # the second answer is a kept one
    (home / "late.csv").write_text("title,artist\nQuokka Parade,Ada\n")
    command = [sys.executable, "-m", "rap_analyzer.cli", "ingest", "late.csv"]
    subprocess.run(command, cwd=home, env=environment(lab_home), check=True, capture_output=True, timeout=120)
    assert ask() == ["Quokka Parade"]


def test_an_id_that_another_track_has_is_refused_in_a_sentence(lab, home):
    store, one = Store(lab, TENANT), track(SIZE + 99)
    store.upsert([dataclasses.replace(one, id=77_000_001, external_id="first")], source="mine")
    with pytest.raises(ValueError, match="belongs to another track already, nothing was stored"):
        store.upsert([dataclasses.replace(one, id=77_000_001 + i, external_id=f"other {i}") for i in range(2)], source="mine")
    assert store.upsert([dataclasses.replace(one, id=5, external_id="first")], source="mine") == {"first": 77_000_001}
    assert store.query(Query("SELECT count(*) FROM tracks WHERE source = 'mine'")) == [(1,)]


@pytest.fixture(scope="module")
def trained(): return train(run_releases(70, 30, 300, 7))


@pytest.fixture
def quiet(trained, monkeypatch):
    "A forecast from few releases, and sources that may take their time: this machine may be busy."
    monkeypatch.setattr(spotify, "load", lambda file: trained)
    monkeypatch.setattr(candidates, "LIMIT_S", 10)


def test_each_giant_runs_on_your_songs(cli, told, lab, home, quiet):
    store = Store(lab, TENANT)
    own, ask = find_own(store), lambda words: json.loads(cli(f"giants {words} --json"))
    heard = find_own(store, sound=True)
    assert len(heard) >= 3 and own[:len(heard)] == heard and len(own) > len(heard)
    uber, netflix, amazon = (ask(f"{name} --mine") for name in ("uber", "netflix", "amazon"))
    assert uber["requests"] == 20 and f"sounds like track {own[0]} " in uber["first track"]
    assert "10 tracks, everything that is known, together" in netflix["For you"] and netflix["listener"] == "nobody that we know"
    assert "Night's" in store.tracks([own[0]])[0].title and "sounds like what you play" in amazon["search"]
    assert re.search("sounds like track [0-9]{16}", amazon["recommendation"]) and "do not count" in amazon["notes"]
    less, most = map(float, amazon["fraud, a person"].split(" of "))
    assert less < most
    one = heard[-1]
    studio, market = ask(f"spotify --track {one}"), ask(f"ebay --track {one}")
    assert studio["track"].startswith(f"{one}: ") and "BPM" in studio["heard"] and studio["playlist"][0] == one
    sound = (home / "songs" / "00 - Mira Salt - Night's Yard 0.wav").read_bytes()
    assert market["track"].startswith(f"{one}: ") and market["winner"] == "listener 2 at 110 cents"
    kept = store.query(Query("SELECT content FROM uploads"))
    assert len(kept) == 1 and len(kept[0][0]) == len(sound) and market["analysis"] == "waiting"      # its own bytes are analysed
    new = track(SIZE + 44)
    save(render(new, 8, 22_050), home / "44 - Ann Ode - New one.wav")
    assert "New one by Ann Ode" in ask("ebay --file '44 - Ann Ode - New one.wav'")["track"]
    assert len(find_own(store, 99)) == len(own) + 1


def test_a_job_analyses_the_file_of_your_song_and_makes_none_up(lab, told):
    store = Store(lab, TENANT)
    heard, there = find_own(store, sound=True), 0
    for i in heard:
        try: file = folder.file_of(store, i)
        except folder.NoSound:
            with pytest.raises(Refused, match="any more: ingest the folder"): hear(store, {"track_id": i})
            continue
        assert hear(store, {"track_id": i}).seconds == pytest.approx(soundfile.info(file).duration, abs=.1)
        there += 1
    row = next(i for i in find_own(store, 99) if i not in heard)
    with pytest.raises(Refused, match="has no sound to play"): hear(store, {"track_id": row})
    assert there


def test_a_giant_says_what_is_wrong_with_your_songs(cli, told, lab, home, quiet, monkeypatch):
    (home / "page.mp3").write_text("<html>")
    row = next(i for i in find_own(Store(lab, TENANT), 99) if i not in find_own(Store(lab, TENANT), 99, sound=True))
    for words, said in (("uber --track 123456", "no track 123456"), ("ebay --file page.mp3", "page.mp3 is a web page"),
                        ("ebay --file songs", "is no file"), (f"ebay --track {row}", "a row of a table has no sound"),
                        ("amazon --file none.mp3", "cannot read none.mp3: No such file"),
                        (f"ebay --file {'a' * 300}", "name too long"), (f"spotify --track {row}", f"{row}"),
                        ("etsy --mine", "no giant is called 'etsy'")):
        assert said in (told := cli(f"giants {words}", 1)) and "Traceback" not in told and "\n" not in told.strip(), told
    assert "expected one of --mine" in cli("giants uber --mine --track 1", 2)
    empty = Store(lab, "own-nothing").register()
    for module in (stores, neighbours): monkeypatch.setattr(module, "default_store", lambda: empty)
    for name in ("uber", "ebay"): assert "there are no songs of yours yet" in cli(f"giants {name} --mine", 1)
    assert "no songs of yours yet" in try_own(lambda store, own: {})


def test_pipes_and_devices_hold_nothing_up(cli, home):
    "A folder with a pipe for a song and a pipe for its words, and a link to a device: passed over, or refused by name."
    odd = home / "odd"
    odd.mkdir()
    save(render(track(SIZE + 20), 8, 22_050), odd / "song.wav")
    for name in ("pipe.wav", "song.lrc", "pipe"): os.mkfifo(odd / name)
    (odd / "song.txt").symlink_to("/dev/zero"), (odd / "zero.mp3").symlink_to("/dev/zero")
    assert "1 new" in cli("ingest odd --profile fast")
    for name in ("pipe.wav", "zero.mp3"): assert re.search("no regular file|no file", cli(f"ingest odd/{name}", 1))


def test_sigterm_ends_an_import_whose_worker_never_answers(lab_home, home, tmp_path):
    slow = "import sys\nif 'serve(int' in ' '.join(sys.orig_argv):\n    import time\n    time.sleep(600)\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    (tmp_path / "music").mkdir()
    save(render(track(SIZE + 30), 8, 22_050), tmp_path / "music" / "a.wav")
    env = environment(lab_home)
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    command = [sys.executable, "-m", "rap_analyzer.cli", "ingest", "music", "--profile", "fast"]
    run = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    children = lambda: [p for p in psutil.Process(run.pid).children(recursive=True) if "serve(int" in " ".join(p.cmdline())]
    try:
        for _ in range(1_200):
            if run.poll() is not None or children(): break
            time.sleep(0.05)
        below = children()
        run.terminate()
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 143 and "the same command goes on" in said and "Traceback" not in said
        assert below and not any(p.is_running() for p in below)
    finally:
        if run.poll() is None: run.kill(), run.wait()
