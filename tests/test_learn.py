"""The learner's loop, as a learner runs it: commands, a kernel, a journal that was edited, an exercise that moved on."""

import json
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rap_analyzer import core
from rap_analyzer.book import read as read_book
from rap_analyzer.core import LabError, settings
from rap_analyzer.giants.commands import GIANTS
from rap_analyzer.learn import commands, copies, course, journal, messages, progress, verification
from rap_analyzer.learn.task import exercise, exercises, ids

ID, BUGGY, GOOD = "21.1", "sum(a == b for a, b in zip(f, t))", "len(set(f) & set(t))"


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A learner who has just begun."
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    settings.cache_clear()
    return tmp_path


def rap(*words, **env):
    return subprocess.run([sys.executable, "-m", "rap_analyzer.cli", "learn", *words], capture_output=True, text=True,
                          timeout=120, stdin=subprocess.DEVNULL, env={**os.environ, **env})


def edit(line, name=ID):
    "Write a line into the learner's copy, as one would in JupyterLab."
    file = copies.copy_of(name)
    nb = json.loads(file.read_text(encoding="utf-8"))
    cell = next(c for c in nb["cells"] if "".join(c["source"]).startswith("#| task"))
    before = next(x for x in "".join(cell["source"]).splitlines() if "hits +=" in x)
    cell["source"] = "".join(cell["source"]).replace(before, f"        hits += {line}")
    file.write_text(json.dumps(nb), encoding="utf-8")


# ---- the commands

def test_from_start_to_pass_on_the_command_line(home):
    assert rap("next").stdout.startswith(f"{progress.next_exercise().id} ")
    assert "no copy of 28.1 yet" in rap("check", "28.1").stderr
    assert "Your copy:" in rap("start", ID).stdout and "is there" in rap("start", ID).stdout
    first = rap("check", ID, "--json")
    assert (first.returncode, json.loads(first.stdout)["state"]) == (1, "not attempted")
    edit("sum(i in t for i in f)")
    failed = rap("check", ID, "--json")
    said = json.loads(failed.stdout)
    assert failed.returncode == 1 and said["state"] == "fail" and set(said) >= {"id", "state", "checks", "evidence"}
    assert [c["belief"] for c in said["checks"] if not c["ok"]] == ["repeats"]
    assert set(said["checks"][0]) >= {"name", "ok", "message"}
    edit("len(f) / 0")
    assert json.loads(rap("check", ID, "--json").stdout)["state"] == "error"
    assert "Traceback" not in rap("check", ID).stdout
    edit(GOOD)
    passed = rap("check", ID)
    assert passed.returncode == 0 and passed.stdout.startswith("21.1  pass")
    assert "pass" in next(line for line in rap("progress").stdout.splitlines() if line.strip().startswith(ID))
    rows = json.loads(rap("list", "--json").stdout)
    assert next(r for r in rows if r["id"] == ID)["state"] == "pass"


def test_the_list_says_what_one_would_choose_by(home):
    rows = {r["id"]: r for r in json.loads(rap("list", "--json").stdout)}
    lines = {line.split()[0]: line for line in rap("list").stdout.splitlines()}
    assert set(lines) == set(rows) and rows["15.1"]["difficulty"] == 3 and rows["15.1"]["topic"]
    for id, r in rows.items():
        assert f"{r['minutes']} min" in lines[id] and r["topic"] in lines[id] and r["title"] in lines[id]
        assert ("easy", "medium", "hard")[r["difficulty"] - 1] in lines[id] and not set("*`") & set(lines[id])


def test_a_terminal_is_shown_no_markdown(home):
    copies.start("15.1")
    file = copies.copy_of("15.1")
    nb = json.loads(file.read_text(encoding="utf-8"))
    cell = next(c for c in nb["cells"] if "".join(c["source"]).startswith("#| task"))
    cell["source"] = "#| task 15.1\ndef rhymes(a, b): return a['spelling'][-2:] == b['spelling'][-2:]"
    file.write_text(json.dumps(nb), encoding="utf-8")
    shown, kept = rap("check", "15.1").stdout, json.loads(rap("check", "15.1", "--json").stdout)
    assert "*love*" in kept["checks"][-1]["message"] and "love and move" in " ".join(shown.split()) and "*" not in shown


@pytest.mark.parametrize("words, says", [
    (("check", "99.9"), "there is no exercise '99.9'; there are: 11.1, 13.1"), (("start", ""), "there is no exercise"),
    (("check", ID, "--notebook", "nowhere.ipynb"), "there is no notebook nowhere.ipynb"),
    (("check", ID, "--notebook", "README.md"), "README.md is not a notebook"),
    (("next", "--path", "nowhere"), "no reading path"),
    (("import", "README.md"), "is not exported progress"), (("import", "nowhere"), "cannot be read"),
    (("hint", "x"), "no exercise"),
])
def test_bad_words_get_one_sentence(home, words, says):
    done = rap(*words)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_what_never_reached_the_answer_is_no_attempt(home):
    copies.start(ID)
    file = copies.copy_of(ID)
    nb = json.loads(file.read_text(encoding="utf-8"))
    nb["cells"].insert(0, {"cell_type": "code", "id": "own", "metadata": {}, "source": "rows = open('/nowhere/log.csv')"})
    file.write_text(json.dumps(nb), encoding="utf-8")
    edit(GOOD)
    told = rap("check", ID)
    assert told.returncode == 1 and "cell 1, line 1" in told.stdout and "does not count as an attempt" in told.stdout
    assert [e.kind for e in journal.events()] == ["start"] and journal.standing(ID, journal.events()).attempts == 0
    edit("1 / 0")
    nb = json.loads(file.read_text(encoding="utf-8"))
    nb["cells"][0]["source"] = "#| look\n" + nb["cells"][0]["source"]
    file.write_text(json.dumps(nb), encoding="utf-8")
    assert course.check(ID).evidence["error"] == "asked" and journal.standing(ID, journal.events()).attempts == 1


def test_the_traceback_comes_with_debug(home):
    copies.start(ID)
    edit("1 / 0")
    command = [sys.executable, "-m", "rap_analyzer.cli", "--debug", "learn", "check", ID]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" in done.stdout and done.returncode == 1


def test_checking_waits_for_nothing_heavy(home):
    copies.start(ID)
    edit(GOOD)
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "rap_analyzer.cli", "learn", "check", ID], capture_output=True,
                          text=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "rap_analyzer.learn.course" in loaded
    assert not loaded & {"numpy", "psycopg", "pandas", "IPython", "matplotlib", "nbformat", "fastapi", "redis"}


# ---- in a kernel

def test_the_same_verdict_in_a_cell(home, tmp_path):
    import nbformat
    from nbclient import NotebookClient
    copies.start(ID)
    edit("sum(i in t for i in f)")
    file = copies.copy_of(ID)
    nb = nbformat.reads(file.read_text(encoding="utf-8"), 4)
    nb.cells = [c for c in nb.cells if "predict(" not in c.source and "against_prediction" not in c.source]
    nb.cells.insert(-1, nbformat.v4.new_code_cell("1 + 1"))
    edit(BUGGY)                                                          # the file is older than what was run
    NotebookClient(nb, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}).execute()
    out = nb.cells[-1].outputs[0].data
    assert "21.1  not yet" in out["text/plain"] and "comes back twice" in " ".join(out["text/plain"].split())
    assert 'role="status"' in out["text/html"]
    assert [e.facts["sign"][0] for e in journal.events() if e.kind == "attempt"] == ["repeats"]
    edit("sum(i in t for i in f)")
    on_file = course.check(ID, file)
    assert [(c.name, c.ok, c.belief) for c in on_file.checks] == [("your code runs", True, ""), ("the answers", False, "repeats")]


# ---- help

def test_hints_are_offered_after_two_similar_failures(home):
    copies.start(ID)
    edit("sum(i in t for i in f)")
    assert course.check(ID).note == ""
    edit("len(f) + 10")
    assert course.check(ID).note == ""                                     # another mistake
    edit("len(f) + 10 # the same")
    assert "learn hint 21.1" in course.check(ID).note
    ex = exercise(ID)
    assert [course.give_hint(ID) for _ in range(4)] == [f"Hint {n} of 3. {ex.hints[n - 1]}" for n in (1, 2, 3, 3)]
    edit("len(f) + 11")
    assert "learn solution 21.1" in course.check(ID).note                   # three different ones, and no hint is left


def test_the_same_way_is_the_same_error_and_the_same_belief(home):
    copies.start(ID)
    def note_after(*lines):
        for line in lines: edit(line); v = course.check(ID)
        return v.note
    assert note_after("1 / 0", "nowhere") == ""                            # two errors, but not of one kind
    assert note_after("len(f) + 10", "[][1]", "here") == messages.words("offer.solution", id=ID)
    assert "The same mistake twice" in note_after("somewhere")
    assert note_after("sum(i in t for i in f)").startswith("After three")
    assert "The same mistake twice" in note_after("sum(x in t for x in f)")
    assert note_after(BUGGY.replace("a ==", "b ==")).startswith("After three")
    assert "Not right twice." in note_after("0.123", "0.124")


def test_a_wrong_answer_after_a_pass_is_not_sent_on(home):
    copies.start(ID)
    edit(GOOD)
    assert "learn next" in course.check(ID).note
    edit("2")
    v = course.check(ID)
    assert v.state == "fail" and v.note == "" and journal.standing(ID, journal.events()).state == "pass"
    edit("3"), course.check(ID)
    edit(GOOD)
    assert "learn next" in course.check(ID).note


def test_progress_says_how_well_one_guesses(home):
    from rap_analyzer.ledger import predict, record
    assert "No guesses yet" in rap("progress").stdout
    for key, guess, truth, scale in [("a.near", 10, 19.0, "ratio"), ("b.far", 3, 60.0, "ratio"), ("c.share", 0.99, 0.9, "share"),
                                     ("d.share", 0.2, 0.3, "share"), ("e.whole", 1, 1.0, "share")]:
        predict(key, guess, scale=scale)
        record(key, truth)
    assert [round(g.off, 2) for g in progress.guesses()] == [1.9, 20, 10, 1.5, 1]
    line = "5 guesses, 3 of them within a factor of two. The worst surprise: b.far, guessed 3, measured 60."
    assert line in rap("progress").stdout.splitlines() and line in progress.progress_page()
    predict("f.all", 1, scale="share")
    record("f.all", 0.98)
    assert progress.guesses()[-1].off == float("inf") and "f.all, guessed 1, measured 0.98" in rap("progress").stdout


def test_the_solution_opens_after_three_different_attempts(home):
    copies.start(ID)
    for line in ("1", "1  # again", "1 + 0", "1"):
        edit(line)
        course.check(ID)
    with pytest.raises(LabError, match="so far: 2"): course.give_solution(ID)
    edit("2")
    course.check(ID)
    told = course.give_solution(ID)
    assert GOOD in told and "### " not in told and "Why it works" in told and "How it is checked" not in told
    assert next(r for r in progress.overview() if r["id"] == ID)["revealed"]


def test_whoever_has_read_the_solution_can_pass_the_variant(home):
    copies.start(ID)
    for line in ("1", "2", "3"): edit(line), course.check(ID)
    course.give_solution(ID)
    edit(GOOD)
    assert "learn again 21.1" in course.check(ID).note
    assert "follows your answer" in rap("again", ID).stdout and copies.add_variant(ID) == copies.add_variant(ID)
    assert json.loads(rap("check", ID, "--json").stdout)["state"] == "not attempted"
    file, (solved, opened) = copies.copy_of(ID), exercise(ID).again
    nb = json.loads(file.read_text())
    worn = [c for c in nb["cells"] if "".join(c["source"]) == opened]
    assert len(worn) == 1
    worn[0]["source"] = solved
    file.write_text(json.dumps(nb))
    assert course.check(ID).state == "pass" and journal.standing(ID, journal.events()).again
    assert "no variant: there are eight mistakes" in copies.add_variant("29.1")
    assert "a new case" in copies.add_variant("29.2")


def test_a_solution_read_after_the_pass_is_no_stain(home):
    copies.start(ID)
    edit(GOOD)
    course.check(ID)
    course.give_solution(ID)
    assert not journal.standing(ID, journal.events()).revealed


# ---- the journal

def test_an_edited_journal_is_shown_as_not_verified(home):
    copies.start(ID)
    edit("2")
    course.check(ID)
    file = home / "progress.jsonl"
    file.write_text(file.read_text().replace('"fail"', '"pass"'))
    assert journal.standing(ID, journal.events()).state == "not_verified"
    assert "not verified" in rap("progress").stdout
    assert "not verified" in progress.progress_page()


@pytest.mark.parametrize("junk", ["", "{", "null", "[]", '{"at": 1}', "\x00\xff",
                                  '{"at":"","exercise":"21.1","kind":"attempt","facts":{}}'])
def test_junk_in_the_journal_is_survived(home, junk):
    journal.note(ID, "start")
    with open(home / "progress.jsonl", "a", encoding="utf-8") as f: f.write(junk)
    journal.note(ID, "hint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = journal.standing(ID, journal.events())
        assert s.hints == 1 and s.state != "pass"
        assert ID in progress.overview_text(progress.overview())


def test_many_write_at_once(home):
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda i: journal.note(ID, "hint", n=i), range(200)))
    found = journal.events()
    assert len(found) == 200 and all(e.verified for e in found)


def test_progress_moves_to_another_home(home, tmp_path):
    copies.start(ID)
    edit(GOOD)
    course.check(ID)
    other = tmp_path / "other"
    assert "events written" in rap("export", str(tmp_path / "p.jsonl")).stdout
    assert rap("import", str(tmp_path / "p.jsonl"), RAP_LAB_HOME=str(other)).stdout.startswith("2 events added, 0 of them")
    assert rap("import", str(tmp_path / "p.jsonl"), RAP_LAB_HOME=str(other)).stdout.startswith("0 events added")
    assert journal.standing(ID, journal.events(other)).state == "pass"


def test_a_page_with_guesses(home):
    from rap_analyzer.ledger import predict, record
    predict("a.b", 30)
    record("a.b", 10.0)
    predict("a.b", 10)                                                    # too late to count
    assert progress.guesses() == [("a.b", 30.0, 10.0, 3.0)]
    assert "page.html" in rap("progress", "--html", str(home / "page.html")).stdout
    assert rap("progress", "--html").stdout.strip() == str(home / "progress.html") and (home / "progress.html").exists()
    page = (home / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1 and "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "").replace("https://matplotlib.org", "")
    assert all(f"<td>{e}" in page for e in ids())


# ---- copies

def test_an_update_keeps_what_the_learner_wrote(home):
    copies.start(ID)
    edit(GOOD)
    file, base = copies.copy_of(ID), home / "exercises" / ".base" / copies.copy_of(ID).name
    was = json.loads(base.read_text())
    was["cells"][1]["source"] = "an older story"                          # the course has moved on since
    mine = json.loads(file.read_text())
    mine["cells"][1]["source"] = "an older story"
    mine["cells"].append(mine["cells"][-1] | {"id": "own", "source": "my = 1"})
    base.write_text(json.dumps(was)), file.write_text(json.dumps(mine))
    assert "up to date" in copies.start(ID)
    now = json.loads(file.read_text())
    assert now["cells"][-1]["source"] == "my = 1" and "an older story" not in json.dumps(now)
    assert course.check(ID).state == "pass"
    assert "an older story" in file.with_suffix(".before-update.ipynb").read_text()
    assert "is there" in copies.start(ID)


def test_a_copy_that_is_no_notebook_is_not_overwritten(home):
    copies.start(ID)
    file = copies.copy_of(ID)
    file.write_text("half a file")
    (home / "exercises" / ".base" / file.name).unlink()
    with pytest.raises(LabError, match="is not a notebook"): copies.start(ID)
    assert file.read_text() == "half a file"
    assert "fresh copy" in copies.reset(ID) and "half a file" in [p.read_text() for p in file.parent.glob("*.old1.ipynb")]


def test_deleting_the_checker_cell_changes_nothing(home):
    copies.start(ID)
    edit("2")
    nb = json.loads(copies.copy_of(ID).read_text())
    nb["cells"] = [c for c in nb["cells"] if "#| check" not in "".join(c["source"])]
    copies.copy_of(ID).write_text(json.dumps(nb))
    assert course.check(ID).state == "fail"
    nb["cells"] = [c for c in nb["cells"] if "#| task" not in "".join(c["source"])]
    copies.copy_of(ID).write_text(json.dumps(nb))
    with pytest.raises(LabError, match="put that line back"): course.check(ID)


def test_a_missing_checker_is_an_error_not_a_pass(home, tmp_path, monkeypatch):
    copies.start(ID)
    (tmp_path / "repo" / "exercises").mkdir(parents=True)
    (tmp_path / "repo" / "exercises" / "ids.toml").write_text('"21.1" = "21_recall_by_hand"')
    (tmp_path / "repo" / "settings.ini").write_text("")
    monkeypatch.setenv("RAP_SETTINGS", str(tmp_path / "repo" / "settings.ini"))
    settings.cache_clear()
    with pytest.raises(LabError, match="there is no notebook"): course.check(ID)


# ---- what is next

def test_next_follows_the_reading_path(home, tmp_path, monkeypatch):
    repo = tmp_path / "repo"
    (repo / "nbs").mkdir(parents=True)
    (repo / "exercises").symlink_to(settings().root / "exercises")
    (repo / "settings.ini").write_text("")
    last = list(ids())[-1]
    book = repo / "nbs" / "book.toml"
    book.write_text(f'[[path]]\nname = "taste"\ntitle = "T"\nminutes = 9\nnotebooks = ["START", "exercises/{ids()[last].stem}"]\n')
    monkeypatch.setenv("RAP_SETTINGS", str(repo / "settings.ini"))
    settings.cache_clear()
    assert progress.next_exercise().id == last and [e.id for e in progress.order("taste")] == [last]
    with pytest.raises(LabError, match="no reading path 'nowhere'; there are: taste"): progress.order("nowhere")
    book.write_text('[[chapter]]\nfolder = "x"\ntitle = "X"\nabout = ""\n'
                    'notebooks = [{file = "10_index", topic = "T", question = "Q?", exercises = ["21.1", "13.2"]}]\n'
                    '[[path]]\nname = "weekend"\ntitle = "W"\nminutes = 9\n'
                    'notebooks = ["START", "x/10_index", "exercises/28_which_p95"]')
    assert [e.id for e in progress.order("weekend")] == ["21.1", "13.2", "28.1"]


def test_a_chosen_path_is_followed_until_another_one_or_none_is(home):
    ask = lambda *words: CliRunner().invoke(commands.app, ["learn", *words])
    listed, before, first = ask("path").output, ask("next").output, progress.order("ebay")[0].id
    assert "\n  ebay " in listed and "*" not in listed and "learn path NAME" in listed
    chosen = ask("path", "ebay").output
    assert "is your path now" in chosen and f"\n{first}  " in chosen
    assert ask("next").output.startswith(f"{first}  ") and "Your path: Weekend: eBay" in ask("next").output
    assert "\n* ebay " in ask("path").output and ask("next", "--path", "ears").output.startswith(progress.order("ears")[0].id)
    wrong = rap("path", "etsy")
    assert wrong.returncode == 1 and "there is no reading path 'etsy'; there are: taste, weekend, uber" in wrong.stderr
    assert "Traceback" not in wrong.stderr and progress.chosen_path() == "ebay"
    for ex in progress.order("ebay"): journal.note(ex.id, "attempt", state="pass", code="", sign=[], evidence={})
    done = ask("next").output
    assert "every exercise of the path Weekend: eBay" in done and "50_ebay.ipynb" in done and "--mine" in done
    assert "all paths again" in ask("path", "--clear").output and ask("next").output == before and progress.chosen_path() == ""
    assert ask("path", "ebay", "--clear").exit_code == 2
    progress.choose_path("uber")
    file = home / "progress.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace('"path": "uber"', '"path": "words"'), encoding="utf-8")
    assert progress.chosen_path() == ""                                            # a line that was changed by hand chooses nothing


def test_a_weekend_is_a_choice_of_paths_that_end_with_a_giant_and_take_as_long_as_they_say():
    sys.path.insert(0, str(settings().root / "scripts"))
    from _paths import needs
    paths, ids = {p.name: p for p in read_book().paths if p.problem}, {e.id: e for e in exercises()}
    assert set(paths) == {"weekend", *GIANTS}
    owned = {n.path: n.exercises for n in read_book().notebooks}
    for name in GIANTS:
        p = paths[name]
        assert re.fullmatch(rf"nbs/giants/\d\d_{name}\.ipynb", p.pages[-1]) and 3 <= len(p.pages) <= 5
        assert f"giants {name} --mine" in p.about
        least = sum(needs(settings().root / x, 20) + sum(ids[i].minutes for i in owned[x]) for x in p.pages)
        assert .9 * least <= p.minutes <= 1.8 * least, f"{name}: {p.minutes} minutes stated, {least} counted"


def test_next_and_check_know_that_start_holds_the_first_exercise(home):
    told = progress.next_text()
    assert told.startswith("21.1  Mend one line  (in ") and "START.ipynb" in told and "learn start 21.1" in told
    from_start = rap("check", ID)
    assert from_start.returncode == 1 and from_start.stdout.startswith("21.1  not attempted")
    copies.start(ID)
    assert progress.next_text().startswith(f"21.1  {exercise(ID).title}")


def test_start_is_the_learners_own_copy_and_moves_on_with_the_course(home):
    chapter = settings().root / "nbs" / "START.ipynb"
    was, own = chapter.read_bytes(), copies.own_start()
    links = re.findall(r"\]\(([^)]+\.ipynb)\)", own.read_text(encoding="utf-8"))
    assert own.parent == home and links and all((home / x).resolve().is_relative_to(chapter.parent) for x in links)
    assert all((home / x).exists() for x in links)
    text = own.read_text(encoding="utf-8")
    own.write_text(text.replace(BUGGY, GOOD), encoding="utf-8")
    assert "START.ipynb" in progress.next_text() and str(chapter) not in progress.next_text()
    base = home / "exercises" / ".base" / own.name
    base.write_text(text.replace("Press play if you like", "Press it"), encoding="utf-8")  # so the course was when they began
    assert copies.own_start() == own and GOOD in own.read_text(encoding="utf-8") and "Press play" in own.read_text(encoding="utf-8")
    again = own.read_bytes()
    assert copies.own_start().read_bytes() == again
    checked = rap("check", ID)
    assert checked.returncode == 0 and checked.stdout.startswith("21.1  pass"), checked
    assert rap("check", ID, "--notebook", str(own)).returncode == 0 and chapter.read_bytes() == was


def test_of_start_only_what_the_answer_rests_on_is_run(home, tmp_path, monkeypatch):
    repo = tmp_path / "repo"
    (repo / "nbs").mkdir(parents=True)
    (repo / "exercises").symlink_to(settings().root / "exercises")
    (repo / "settings.ini").write_text("")
    nb = json.loads((settings().root / "nbs" / "START.ipynb").read_text(encoding="utf-8"))
    task = next(c for c in nb["cells"] if "".join(c["source"]).startswith("#| task"))
    task["source"] = "".join(task["source"]).replace(BUGGY, GOOD)
    nb["cells"].insert(nb["cells"].index(task), {"cell_type": "code", "source": "raise SystemExit('nothing rests on this cell')"})
    (repo / "nbs" / "START.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    (repo / "nbs" / "book.toml").write_text('[[chapter]]\nfolder = "."\ntitle = "Start"\nabout = ""\n'
                                            'notebooks = [{file = "START", topic = "T", question = "Q?"}]')
    monkeypatch.setenv("RAP_SETTINGS", str(repo / "settings.ini"))
    settings.cache_clear()
    for given in (None, repo / "nbs" / "START.ipynb"):
        v = course.check(ID, given)
        assert v.state == "pass", v
    assert progress.next_exercise().id != ID


@pytest.mark.parametrize("path, spelt", [("", ".venv/bin/rap-analyzer"), ("bin", "rap-analyzer")])
def test_commands_in_messages_can_be_pasted(home, tmp_path, monkeypatch, path, spelt):
    for folder in (tmp_path / "repo" / ".venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / "rap-analyzer").write_text("#!/bin/sh\n")
        (folder / "rap-analyzer").chmod(0o755)
    (tmp_path / "repo" / "settings.ini").write_text("")
    for name in ("exercises", "nbs"): (tmp_path / "repo" / name).symlink_to(settings().root / name)
    monkeypatch.setenv("RAP_SETTINGS", str(tmp_path / "repo" / "settings.ini"))
    monkeypatch.setenv("PATH", str(tmp_path / path) if path else "/nowhere")
    settings.cache_clear()
    assert core.shell_command("lab up") == f"{spelt} lab up" and messages.words("offer.next").endswith(f": {spelt} learn next")
    assert progress.next_text().endswith(f": {spelt} learn start {progress.next_exercise().id}")
    (tmp_path / "repo" / ".venv" / "bin" / "rap-analyzer").unlink()
    assert core.shell_command() == "rap-analyzer"


def test_no_message_spells_the_command_by_itself():
    "Whatever is said to a reader asks `core.shell_command` (or says {rap}); documents may name it bare."
    import ast
    bad = []
    for file in (settings().root / "rap_analyzer").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        said = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        bad += [f"{file.name}:{n.lineno}: {n.value[:60]}" for n in said if re.search(r"(?<!`)rap-analyzer [a-z]+", n.value)]
    assert bad == []


def test_what_the_commands_confirm_can_be_translated(home, monkeypatch):
    said = verification.catalog()
    assert {"cli.exported", "cli.imported", "verify.line", "drill.open", "drill.passed", "drill.none"} <= set(said)
    monkeypatch.setitem(messages.MESSAGES, "cli.exported", "{n} -> {file}")
    from typer.testing import CliRunner

    from rap_analyzer.cli import app
    assert CliRunner().invoke(app, ["learn", "export", str(home / "p.jsonl")]).output.strip() == f"0 -> {home / 'p.jsonl'}"


# ---- the form of the exercises in a repository

def test_form_sees_what_differs(tmp_path):
    import shutil
    root = Path(shutil.copytree(settings().root / "exercises", tmp_path / "exercises"))
    assert verification.form(root) == []
    copy = root / "21_recall_by_hand.ipynb"
    copy.write_text(copy.read_text().replace("Change one line", "Change two lines"))
    (root / "solutions" / "21_other.ipynb").write_text("{}")
    (root / "ids.toml").write_text((root / "ids.toml").read_text() + '"21.9" = "21_recall_by_hand"\n"21.8" = ""\n')
    said = "\n".join(verification.form(root))
    for what in ("not what its solution notebook makes", "21_other.ipynb has no id", "a number never changes"): assert what in said
