"""Flags over real HTTP: who gets what, what a broken file changes, and how a canary ends."""

import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from helpers import own_database
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.core import LabError
from rap_analyzer.product import commands
from rap_analyzer.product.canary import Arm, Canary, Guardrail, Interfered, least_difference
from rap_analyzer.product.events import Events
from rap_analyzer.product.flags import UNASSIGNED, Flags, Once, choose_once
from rap_analyzer.product.rules import NoFlag, Rule, RuleFile, read_rule, read_rules, write_flag
from rap_analyzer.recommend import candidates
from rap_analyzer.search.index import build
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.top import parse_metrics, read_metrics
from rap_analyzer.web import serving

FLAG, AT = "recommend-order", "/api/recommend"


def wait_until(true, patience_s=20):
    ends = time.monotonic() + patience_s
    while not (found := true()) and time.monotonic() < ends: time.sleep(.05)
    return found


@pytest.fixture
def home(tmp_path): return tmp_path / "home"


@pytest.fixture
def file(home): return RuleFile(home)


@pytest.fixture
def flags(home):
    flags = Flags(home).start()
    yield flags
    flags.close()


def treated(flags, n=1_000, **about): return {i for i in range(n) if flags.choose(FLAG, str(i), **about).variant == "sound"}


# ---- the file

def test_a_rule_survives_the_file(file):
    some = Rule("sound", 7, ("producer", "researcher"), 1_900_000_000)
    for rule in (Rule("sound", 0), Rule("sound", 100), some, Rule("fused", 0)):
        file.change(FLAG, rule)
        assert read_rule(FLAG, json.loads(file.live.read_text())["flags"][FLAG]) == rule
    assert read_rule(FLAG, {"targeting": {}}) is None and read_rule(FLAG, {"metadata": 3}) is None


@pytest.mark.parametrize("text, says", [
    ("", "not JSON"), ("[" * 100_000, "not JSON"), ("[]", 'expected {"flags"'), ("null", "expected"),
    ('{"flags": []}', 'expected {"flags"'),
    ('{"flags": {"recommend-order": 3}}', "expected an object"), ("x" * 1_000_001, "1,000,000 at most"),
    (b"\xff\xfe", "not JSON"),
    ('{"flags": {"recommend-order": {"state": "ENABLED", "variants": ["fused"]}}}', "`variants` has to name"),
])
def test_a_file_that_makes_no_sense_is_refused_in_words(text, says):
    with pytest.raises(ValueError, match=says): read_rules(text)


@pytest.mark.parametrize("targeting, says", [
    ({"fractional": [["fused", 10], ["sound", 20]]}, "add up to 30"),
    ({"fractional": [["fused", 50], ["sund", 50]]}, "'sund' is no"),
    ({"fractional": [["fused", 150], ["sound", -50]]}, "whole numbers"), ({"fractional": []}, "whole numbers"),
    ({"fractional": [["fused"], ["sound"]]}, "whole numbers"), ({"if": [True, {"fractinal": []}]}, "no operator 'fractinal'"),
    ([], "`targeting` has to be an object"), ({"fractional": [[{"var": "x"}, 50], ["sound", 50]]}, "is no variant"),
])
def test_shares_and_operators_are_checked_wherever_they_stand(targeting, says):
    with pytest.raises(ValueError, match=says):
        read_rules(json.dumps({"flags": {FLAG: write_flag(FLAG, Rule("sound", 1)) | {"targeting": targeting}}}))


def test_changes_of_many_at_once_are_all_in_the_history_and_the_file_is_whole(file):
    def work(k):
        for i in range(10): file.change(FLAG, Rule("sound", (10 * k + i) % 101), f"by {k}")
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(file.changes(100)) == 40 and file.promote()[FLAG]["metadata"]["percent"] == file.changes(1)[0]["percent"]


def test_a_roll_back_works_on_a_broken_file_too(file):
    file.change(FLAG, Rule("sound", 25))
    file.rules.write_text("{")
    with pytest.raises(LabError, match="mend or delete it first"): file.change(FLAG, Rule("sound", 0))
    file.change(FLAG, Rule("sound", 0), "away", even_broken=True)
    assert file.promote()[FLAG]["metadata"]["percent"] == 0 and (file.folder / "rules.broken.json").read_text() == "{"


# ---- who gets what

def test_growing_moves_nobody_out(flags):
    before = set()
    for percent in (1, 10, 11, 50, 99, 100):
        flags.file.change(FLAG, Rule("sound", percent))
        assert wait_until(lambda p=percent: abs(len(treated(flags)) / 10 - p) < (4 if p < 100 else .01))
        now = treated(flags)
        assert before <= now
        before = now
    assert len(before) == 1_000


def test_the_same_listener_gets_the_same_from_every_process(flags, home):
    flags.file.change(FLAG, Rule("sound", 30))
    assert wait_until(lambda: treated(flags))
    program = ("import sys; from pathlib import Path; from rap_analyzer.product.flags import Flags; "
               "f = Flags(Path(sys.argv[1])).start();"
               f"print(*[i for i in range(1_000) if f.choose('{FLAG}', str(i)).variant == 'sound'])")
    other = subprocess.run([sys.executable, "-c", program, home], capture_output=True, text=True, timeout=60, check=True)
    assert set(map(int, other.stdout.split())) == treated(flags)


def test_personas_and_deadlines(flags):
    flags.file.change(FLAG, Rule("sound", 100, ("producer",)))
    assert wait_until(lambda: len(treated(flags, 50, persona="producer")) == 50)
    assert not treated(flags, 50, persona="enthusiast") and not treated(flags, 50)
    flags.file.change(FLAG, Rule("sound", 100, until=int(time.time()) + 3))
    assert wait_until(lambda: len(treated(flags, 50)) == 50)
    assert wait_until(lambda: not treated(flags, 50))                   # the file is as it was; the clock decided


@pytest.mark.parametrize("key", ["", None, 42, b"42"])
def test_no_key_no_variant(flags, key):
    with pytest.raises(ValueError, match="targeting key"): flags.choose(FLAG, key)


def test_an_unknown_flag_is_named(flags):
    with pytest.raises(NoFlag, match="no flag 'recommend-oder'; there is: recommend-order"): flags.choose("recommend-oder", "1")


def test_chosen_once_per_request(flags):
    flags.file.change(FLAG, Rule("sound", 100))
    assert wait_until(lambda: treated(flags, 10))
    scope = {}
    assert choose_once(scope, flags, FLAG, "7").variant == "sound"
    flags.file.change(FLAG, Rule("sound", 0))
    assert wait_until(lambda: not treated(flags, 10))
    assert choose_once(scope, flags, FLAG, "7") == ("sound", "chosen before")           # in the middle of a request nothing changes
    assert choose_once({}, None, FLAG, "7") == ("fused", "no flags")


# ---- a broken file

def test_a_broken_file_changes_nothing_but_the_state(flags, home, caplog):
    flags.file.change(FLAG, Rule("sound", 40))
    assert wait_until(lambda: treated(flags))
    before = treated(flags)
    for text in ("{", "{}", json.dumps({"flags": {FLAG: write_flag(FLAG, Rule("sound", 40)) | {"state": "on"}}})):
        flags.file.rules.write_text(text)
        assert wait_until(lambda: not flags.state.ok) and flags.state.problem and flags.state.since
        time.sleep(.6)
        assert treated(flags) == before
        again = Flags(home).start()                                      # a restart meanwhile
        assert treated(again) == before and not again.state.ok
        again.close()
    told = [r for r in caplog.records if "broken" in r.getMessage()]
    assert told and all(r.exc_info is None for r in told)
    flags.file.rules.unlink()
    assert wait_until(lambda: flags.state.ok and not treated(flags))     # no file: nobody is part of a roll-out


def test_broken_from_the_first_day(home):
    file = RuleFile(home)
    file.make_folder()
    file.rules.write_text("{")
    flags = Flags(home).start()
    assert not treated(flags, 20) and not flags.state.ok
    file.rules.write_text(json.dumps({"flags": {FLAG: write_flag(FLAG, Rule("sound", 100))}}))
    assert wait_until(lambda: len(treated(flags, 20)) == 20) and flags.state.ok
    flags.close()


def test_flagds_logger_says_each_thing_once(flags, caplog):
    flags.file.live.unlink()
    time.sleep(1.6)
    lines = [r for r in caplog.records if r.name == "openfeature.contrib" and "not valid" in r.getMessage()]
    assert len(lines) <= 1 and all(r.exc_info is None for r in lines)
    assert sum(isinstance(f, Once) for f in logging.getLogger("openfeature.contrib").filters) == 1


# ---- over HTTP

@pytest.fixture(scope="module")
def store(lab, tmp_path_factory):
    with own_database(lab, "test_flags") as own:
        store = fill(Store(own, "flags"), 900)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


@pytest.fixture(scope="module")
def url(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "LIMIT_S", 10)                                           # this machine may be busy
        with serving(create_app(store)) as url: yield url
    RuleFile(store.lab.home).rules.unlink(missing_ok=True)


@pytest.fixture
def get(url):
    with httpx.Client(base_url=url, timeout=20) as client:
        yield lambda **params: client.get(AT, params={"liked": 42, **params}).json()


def test_a_flag_changes_the_answer_at_once_although_answers_are_kept(get, store):
    file = RuleFile(store.lab.home)
    file.change(FLAG, Rule("sound", 0))
    assert wait_until(lambda: get(user_id="anna")["order"] == "fused")
    fused = get(user_id="anna")
    file.change(FLAG, Rule("sound", 100))
    assert wait_until(lambda: get(user_id="anna")["order"] == "sound")
    sound, unknown = get(user_id="anna"), get()
    assert [h["track_id"] for h in sound["hits"]] != [h["track_id"] for h in fused["hits"]] and unknown["order"] == "fused"
    near = [float(h["why"].partition("(")[2][:4]) for h in sound["hits"]]
    assert near == sorted(near, reverse=True)
    file.change(FLAG, Rule("sound", 0))
    assert wait_until(lambda: get(user_id="anna") == fused)               # the cached answer of the other order is not used


def test_requests_are_counted_by_variant(get, url, store):
    RuleFile(store.lab.home).change(FLAG, Rule("sound", 50))
    assert wait_until(lambda: len({get(user_id=str(i))["order"] for i in range(20)}) == 2)
    count = lambda variant: read_metrics(url).value("rap_variant_requests_total", flag=FLAG, variant=variant, status="200") or 0
    before = {v: count(v) for v in ("fused", "sound", UNASSIGNED)}
    seen = [get(user_id=str(i))["order"] for i in range(40)]
    get()
    assert {v: count(v) - before[v] for v in before} == {"fused": seen.count("fused"), "sound": seen.count("sound"), UNASSIGNED: 1}
    assert read_metrics(url).value("rap_flag_rules_ok") == 1


@contextmanager
def listening(url):
    ended = threading.Event()
    def ask():
        rng = random.Random(3)
        with httpx.Client(base_url=url, timeout=20) as client:
            while not ended.is_set(): client.get(AT, params={"user_id": str(rng.randrange(10**6)), "k": 1, "titles": False})
    thread = threading.Thread(target=ask)
    thread.start()
    try: yield
    finally:
        ended.set()
        thread.join()


def test_a_canary_over_http_goes_to_everybody_or_back(url, store):
    file, read = RuleFile(store.lab.home), lambda: read_metrics(url)
    how = {"steps": (20, 100), "hold_s": .5, "least": 5, "every_s": .1, "most_s": 20}
    with listening(url):
        well = Canary(FLAG, "sound", read, store.lab.home, **how).run()
        assert well.promoted and [s["percent"] for s in well.steps] == [20, 100], well
        assert read_rule(FLAG, file.promote()[FLAG]) == Rule("sound", 100)
        file.change(FLAG, Rule("sound", 0))
        impossible = Guardrail(slow=.2, within_s=.00025)                                  # no side meets it: no difference
        assert Canary(FLAG, "sound", read, store.lab.home, guardrail=impossible, **how).run().promoted
    quiet = Canary(FLAG, "sound", read, store.lab.home, steps=(10,), hold_s=.2, every_s=.05, most_s=.4).run()
    assert not quiet.promoted and "too few" in quiet.why and file.promote()[FLAG]["metadata"]["percent"] == 0
    assert file.changes(1)[0]["why"].startswith("canary: 0 requests")


# ---- how a canary ends

def lines(variant, ok, failed, slow=0):
    n = ok + failed
    return (f'rap_variant_requests_total{{flag="{FLAG}",variant="{variant}",status="200"}} {ok}\n'
            f'rap_variant_requests_total{{flag="{FLAG}",variant="{variant}",status="500"}} {failed}\n'
            f'rap_variant_seconds_bucket{{flag="{FLAG}",variant="{variant}",le="0.2"}} {n - slow}\n'
            f'rap_variant_seconds_bucket{{flag="{FLAG}",variant="{variant}",le="+Inf"}} {n}\n'
            f'rap_variant_seconds_count{{flag="{FLAG}",variant="{variant}"}} {n}\n')


def growing(**rates):
    "Readings in which each look adds so many requests: variant=(ok, failed, slow)."
    looks = iter(range(1, 10_000))
    def read():
        k = next(looks)
        return parse_metrics("".join(lines(v, *(k * x for x in each)) for v, each in rates.items()), time.monotonic())
    return read


QUICK = {"steps": (5, 50, 100), "hold_s": .2, "every_s": .02, "least": 30, "most_s": 2, "grace_s": 2}


@pytest.mark.parametrize("rates, ends", [
    ({"sound": (10, 0, 0), "fused": (100, 1, 1)}, "promoted"),
    ({"sound": (9, 1, 0), "fused": (100, 0, 0)}, "requests failed"),
    ({"sound": (10, 0, 4), "fused": (100, 0, 5)}, "took longer than 200 ms"),
    ({"sound": (8, 2, 5), "fused": (80, 20, 50)}, "promoted"),               # as bad as the rest: not the variant's fault
    ({"sound": (0, 0, 0), "fused": (100, 0, 0)}, "too few"),
])
def test_endings(file, home, rates, ends):
    went = Canary(FLAG, "sound", growing(**rates), home, **QUICK).run()
    rule = read_rule(FLAG, file.promote()[FLAG])
    assert (went.promoted, rule) == ((True, Rule("sound", 100)) if ends == "promoted" else (False, Rule("sound", 0)))
    assert ends == "promoted" or (ends in went.why and went.why in file.changes(1)[0]["why"])


def test_a_service_that_goes_away_and_a_ctrl_c_take_it_back(file, home):
    for error in (LabError("no service answers"), KeyboardInterrupt(), SystemExit(143)):
        good, looks = growing(sound=(10, 0, 0), fused=(10, 0, 0)), iter(range(100))
        def read(good=good, looks=looks, error=error):
            if next(looks) > 3: raise error
            return good()
        canary = Canary(FLAG, "sound", read, home, **QUICK)
        if isinstance(error, LabError): assert "no service answers" in canary.run().why
        else:
            with pytest.raises(type(error)): canary.run()
        assert read_rule(FLAG, file.promote()[FLAG]) == Rule("sound", 0)


def test_without_a_service_nothing_is_changed(file, home):
    def read(): raise LabError("no service answers")
    with pytest.raises(LabError): Canary(FLAG, "sound", read, home, **QUICK).run()
    assert file.changes() == []


def test_a_file_that_breaks_meanwhile_does_not_stop_the_way_back(file, home):
    bad = growing(sound=(5, 5, 0), fused=(100, 0, 0))
    looks = iter(range(100))
    def read():
        if next(looks) == 1: file.rules.write_text("{")
        return bad()
    went = Canary(FLAG, "sound", read, home, **QUICK).run()
    assert not went.promoted and read_rule(FLAG, file.promote()[FLAG]) == Rule("sound", 0)


def test_one_canary_per_flag_and_a_person_has_the_last_word(file, home):
    first = Canary(FLAG, "sound", growing(sound=(1, 0, 0), fused=(10, 0, 0)), home, **QUICK | {"hold_s": 30, "most_s": 60})
    thread = threading.Thread(target=first.run)
    thread.start()
    assert wait_until(lambda: file.changes())
    with pytest.raises(LabError, match="under way"): Canary(FLAG, "sound", growing(), home, **QUICK).run()
    file.change(FLAG, Rule("fused", 0), "a person")
    thread.join(20)
    assert not thread.is_alive() and file.changes(1)[0]["why"] == "a person" and isinstance(Interfered("x"), LabError)


def test_killed_at_any_moment_nobody_keeps_the_variant(home):
    program = f"""import sys, time
from pathlib import Path
from rap_analyzer.product.canary import Canary
from rap_analyzer.serve.top import parse_metrics
quiet = lambda: parse_metrics("rap_up 1\\n", time.monotonic())
Canary("{FLAG}", "sound", quiet, Path(sys.argv[1]), steps=(25, 100), hold_s=1, most_s=1.5, grace_s=1).run()
"""
    flags = Flags(home).start()
    process = subprocess.Popen([sys.executable, "-c", program, home])
    assert wait_until(lambda: 15 < len(treated(flags)) / 10 < 35, 60)
    process.kill()
    process.wait()
    assert wait_until(lambda: not treated(flags))
    assert flags.file.changes(1)[0]["percent"] == 25                       # nobody has written anything since
    flags.close()


def test_the_interval_covers_what_it_promises():
    rng = random.Random(5)
    draw = lambda n, p: sum(rng.random() < p for _ in range(n))
    wrong = sum(least_difference(draw(n, .03), n, draw(900, .03), 900, 3) > 0 for n in (5, 30, 300) for _ in range(400))
    assert wrong <= 12                                                                     # 1,200 looks at no difference at all
    assert Guardrail().broken(Arm(20, 0, 0), Arm()) == "" and Guardrail().broken(Arm(5, 5, 0), Arm())


def test_the_state_is_visible_over_http(url, store):
    file = RuleFile(store.lab.home)
    file.change(FLAG, Rule("sound", 100))
    ask = lambda **params: httpx.get(f"{url}/api/flags", params=params).json()
    assert wait_until(lambda: ask(user_id="7")["variants"][FLAG] == "sound") and ask()["variants"] == {}
    file.rules.write_text("{")
    assert wait_until(lambda: not ask()["ok"]) and "not JSON" in ask()["problem"]
    assert ask(user_id="7")["variants"] == {FLAG: "sound", "home-layout": "rows"}
    assert wait_until(lambda: read_metrics(url).value("rap_flag_rules_ok") == 0)
    file.change(FLAG, Rule("sound", 0), even_broken=True)
    assert wait_until(lambda: ask()["ok"] and ask(user_id="7")["variants"][FLAG] == "fused")  # two threads look at two files


def test_a_rule_for_a_persona_asks_the_database_who_it_is(get, url, store):
    Events(store).register([1, 2, 3], ["producer", "enthusiast", None])
    RuleFile(store.lab.home).change(FLAG, Rule("sound", 100, ("producer",)))
    assert wait_until(lambda: get(user_id="1")["order"] == "sound")
    assert [get(user_id=u)["order"] for u in ("2", "3", "4", "anna", "", "٣", "9" * 30)] == ["fused"] * 7


def test_commands(home, monkeypatch):
    monkeypatch.setenv("RAP_LAB_HOME", str(home))
    run = lambda *words: CliRunner().invoke(commands.app, list(words))
    assert run("flags", "set", FLAG, "sound", "--percent", "10", "--persona", "producer", "--why", "they asked").exit_code == 0
    shown = json.loads(run("flags", "show", "--json").stdout)
    assert shown["ok"] and "percent=10" in shown["flags"][0]["rule"] and "they asked" in run("flags", "history").stdout
    for words in (("flags", "set", FLAG, "sund"), ("flags", "set", "order", "sound"), ("canary", FLAG, "sound", "--steps", "5,x")):
        assert isinstance(run(*words).exception, ValueError | LookupError)
    assert isinstance(run("canary", FLAG, "sound", "--url", "http://127.0.0.1:9").exception, LabError)
    RuleFile(home).rules.write_text("{")
    assert "BROKEN" in run("flags", "show").stdout and isinstance(run("flags", "set", FLAG, "sound").exception, LabError)


def spoil(file, kind):
    if kind == "pipe": os.mkfifo(file)
    elif kind == "folder": file.mkdir()
    elif kind == "endless": file.symlink_to("/dev/zero")
    else: file.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless", "noise"])
def test_whatever_lies_in_the_place_of_the_file_is_a_problem_in_words_and_nobody_waits(tmp_path, kind):
    flags = Flags(tmp_path)
    flags.file.make_folder()
    flags.file.change(FLAG, Rule("sound", 100))
    flags.file.rules.unlink()
    spoil(flags.file.rules, kind)
    assert not flags.look().ok and read_rule(FLAG, flags.file.read_live()[FLAG]) == Rule("sound", 100)


@pytest.mark.parametrize("kind", ["pipe", "endless", "noise"])
def test_a_spoilt_copy_is_made_anew(tmp_path, kind):
    flags = Flags(tmp_path)
    flags.file.make_folder()
    flags.file.change(FLAG, Rule("sound", 100))
    flags.file.live.unlink()
    spoil(flags.file.live, kind)
    assert flags.look().ok and read_rule(FLAG, flags.file.read_live()[FLAG]) == Rule("sound", 100)


def test_a_huge_file_is_not_read_whole(tmp_path):
    (file := RuleFile(tmp_path)).make_folder()
    with file.rules.open("wb") as f: f.truncate(2**40)      # a sparse file: more than any memory
    with pytest.raises(ValueError, match="at most are read"): file.promote()


def test_a_rule_that_could_not_be_read_again_changes_nothing(tmp_path):
    file = RuleFile(tmp_path)
    file.change(FLAG, Rule("sound", 5))
    before = file.rules.read_bytes()
    for odd in ({"personas": ("x" * 41,)}, {"personas": ("\udcff",)}, {"personas": "producer"}, {"personas": ("a,b",)},
                {"personas": (3,)}, {"personas": tuple(f"p{i:039}" for i in range(30_000))}, {"until": float("nan")},
                {"until": "x"}, {"until": 10**400}):
        with pytest.raises(ValueError): file.change(FLAG, Rule("sound", 6, **odd))
    assert file.rules.read_bytes() == before and len(file.changes()) == 1


def test_a_history_with_a_line_cut_short_is_read_and_any_reason_is_kept(tmp_path):
    file = RuleFile(tmp_path)
    file.change(FLAG, Rule("sound", 5), "because \udcff")
    with file.history.open("a") as f: f.write('{"at": "2026}\n{}\n{"at": 5}\n[]\n\n')
    file.change(FLAG, Rule("sound", 6), "later")
    assert [(x["percent"], x["why"]) for x in file.changes()] == [(5, "because ?"), (6, "later")]
