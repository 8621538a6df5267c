"""The contract of analyzers: who is found, who is refused, and what a plugin that misbehaves costs (its own result)."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest

from rap_analyzer.music import analyzers, batch, plugins, worker
from rap_analyzer.music.analyzers import FIVE, Analyses, Analysis, analyze
from rap_analyzer.music.audio import BadAudio, Clip, save
from rap_analyzer.music.batch import analyze_file, analyze_files
from rap_analyzer.music.plugins import check_result, discover

SR = 16_000
HEAD = """
import os, sys, time
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def ok(clip): return Analysis({"n": len(clip.samples), "sr": clip.sr, "pid": os.getpid()}, 0.5, ("a warning",))
def one(look=ok, name=__name__, **more):
    return Analyzer(**{"name": name, "version": "1.0", "contract": 1, "analyze": look, "limit_s": 1.0, **more})
"""


BRINGS = "@hookimpl\ndef analyzers(): return "


@pytest.fixture
def install(tmp_path, monkeypatch):
    "Install a plugin as pip would: a module, and metadata with an entry point."
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name, code, tail=BRINGS + "[one(look)]\n"):
        (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(code) + "\n" + tail)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {name}\n")
        plugins._found_once.cache_clear()

    yield add
    worker.stop_workers()
    plugins._strikes.clear()
    plugins._found_once.cache_clear()


@pytest.fixture(scope="module")
def clip():
    t = np.arange(4 * SR) / SR
    return Clip(0.5 * np.sin(2 * np.pi * 220 * t) * (t % 0.5 < 0.1), SR)


def why(name):
    "Why a plugin was refused."
    return next(reason for who, reason in discover().refused.items() if who.startswith(name))


def test_the_five_come_through_the_same_door():
    found = discover()
    assert [p.name for p in found.plugins.values() if not p.isolated] == ["tempo", "genre", "mood", "lyrics", "embedding"]
    assert {p.source for p in found.plugins.values() if not p.isolated} == {"rap-analyzer 0.1.0"} and not found.refused
    assert "pluggy" in sys.modules and plugins.list_entry_points()[0].value == "rap_analyzer.music.analyzers:five"


def test_a_guest_is_asked_in_a_process_of_its_own(install, clip):
    install("guest", "look = ok")
    one, two = (analyze(clip, only=["guest"])["guest"] for _ in range(2))
    assert (one.value["n"], one.value["sr"], one.confidence, one.warnings) == (4 * SR, SR, 0.5, ("a warning",))
    assert one.value["pid"] == two.value["pid"] != os.getpid()          # kept
    assert one.version == "1.0" and one.name == "guest" and 0 < one.ms < 5_000 and one.error is None


BAD = {
    "raises": ("def look(clip): return 1 / 0", "ZeroDivisionError"),
    "raises_oddly": ("class Odd(Exception):\n    def __str__(self): return 1 / 0\ndef look(clip): raise Odd", "Odd"),
    "hangs": ("def look(clip): time.sleep(60)", "longer than 1 s"),
    "spins": ("def look(clip):\n    while True: pass", "longer than 1 s"),
    "exits": ("def look(clip): sys.exit(3)", "sys.exit(3)"),
    "exits_hard": ("def look(clip): os._exit(3)", "exit code 3"),
    "killed": ("import signal\ndef look(clip): os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "crashes": ("import ctypes\ndef look(clip): ctypes.string_at(0)", "SIGSEGV"),
    "interrupts": ("def look(clip): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "none": ("def look(clip): return None", "NoneType"),
    "nan": ("def look(clip): return Analysis({'x': float('nan')}, 1)", "JSON"),
    "object": ("def look(clip): return Analysis({'x': object()}, 1)", "JSON"),
    "circle": ("def look(clip):\n    x = {}; x['x'] = x; return Analysis(x, 1)", "JSON"),
    "sure": ("def look(clip): return Analysis({}, 1.01)", "confidence"),
    "unsure": ("def look(clip): return Analysis({}, float('nan'))", "confidence"),
    "endless": ("def look(clip): return Analysis({'x': 'y' * 2_000_000}, 1)", "at most"),
    "eats": ("def look(clip): bytearray(2**36)", "memory"),
    "recurses": ("def look(clip): return look(clip)", "RecursionError"),
    "writes": ("import glob\ndef look(clip):\n    fd = next(int(f) for f in os.listdir('/dev/fd') if int(f) > 2 and _sock(f))\n"
               "    os.write(fd, b'x' * 4096); time.sleep(60)\n"
               "def _sock(f):\n    import stat\n    try: return stat.S_ISSOCK(os.fstat(int(f)).st_mode)\n"
               "    except OSError: return False",
               "something else than an answer"),
}


def test_what_misbehaves_costs_its_own_result(install, clip):
    install("good", "look = ok")
    for name, (code, _) in BAD.items(): install(f"bad_{name}", code)
    first, again = (analyze(clip, only=["good", *(f"bad_{name}" for name in BAD)]) for _ in range(2))
    for got in (first, again):                                            # the second time in a new process, if need be
        assert len(got) == 1 + len(BAD) and got["good"].value["sr"] == SR
        for name, (_, said) in BAD.items():
            bad = got[f"bad_{name}"]
            assert bad.value is None and bad.confidence == 0 and said in bad.error and "\n" not in bad.error, (name, bad.error)
            assert f"bad_{name}: {bad.error}" in got.warnings and bad.ms < 5_000
    assert first["good"].value["pid"] == again["good"].value["pid"]


def test_one_that_fails_once_is_well_the_next_time(install, clip, tmp_path):
    install("moody", f"""
        def look(clip):
            if not os.path.exists({str(tmp_path / 'was')!r}): open({str(tmp_path / 'was')!r}, 'w').close(); os.abort()
            return ok(clip)""")
    first, second = analyze(clip, only=["moody"])["moody"], analyze(clip, only=["moody"])["moody"]
    assert "SIGABRT" in first.error and second.value["sr"] == SR


def test_after_three_stops_in_a_row_it_is_left_alone(install, clip):
    install("stuck", "def look(clip): time.sleep(60)", BRINGS + "[one(look, limit_s=.2)]")
    errors = [analyze(clip, only=["stuck"])["stuck"].error for _ in range(4)]
    assert all("longer" in e for e in errors[:3]) and "left alone" in errors[3]
    assert "left alone" in analyze(clip, only=["stuck"])["stuck"].error


def test_whatever_it_started_is_stopped_with_it(install, clip, tmp_path):
    install("parent", f"""
        import subprocess
        def look(clip):
            p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
            open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))
            time.sleep(60)""")
    assert "longer" in analyze(clip, only=["parent"])["parent"].error
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE: break
        time.sleep(0.05)
    else: pytest.fail("the child of a stopped plugin is still running")


def test_printing_does_not_reach_our_output(install, tmp_path, clip):
    install("chatty", """
        print("at import")
        def look(clip):
            print("x" * 1_000_000); os.write(1, b"raw"); os.write(2, b"raw"); sys.stderr.write("err")
            return ok(clip)""")
    code = ("import json; import numpy as np; from rap_analyzer.music.analyzers import analyze;"
            "from rap_analyzer.music.audio import Clip;"
            "x = np.sin(np.arange(64_000)); print(json.dumps(analyze(Clip(x, 16_000), only=['chatty']).as_dict()))")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert json.loads(done.stdout)["chatty"]["sr"] == 16_000 and done.stderr == ""


REFUSED = {
    "future": ("look = ok", "one(look, contract=2)", "contract 2"),
    "past": ("look = ok", "one(look, contract=0)", "update the plugin"),
    "texted": ("look = ok", "one(look, contract='1')", "contract '1'"),
    "nameless": ("look = ok", "one(look, name='Has Blanks')", "its name"),
    "reserved": ("look = ok", "one(look, name='warnings')", "its name"),
    "taken": ("look = ok", "one(look, name='tempo')", "taken, by rap-analyzer"),
    "endless": ("look = ok", "one(look, limit_s=float('inf'))", "its limit"),
    "needy": ("look = ok", "one(look, needs=('audio', 'crystal_ball'))", "needs crystal_ball"),
    "narcissus": ("look = ok", "one(look, 'narcissus', needs=('narcissus',))", "waits for narcissus"),
    "greedy": ("def look(clip, moon): pass", "one(look)", "asks for 'moon'"),
    "callless": ("look = 7", "one(look)", "no function"),
    "needless": ("look = ok", "one(look, needs='audio')", "its needs"),
    "stranger": ("look = ok", "object()", "its name"),
    "unserialisable": ("look = ok", "one(look, version=object())", "its version"),
}


def test_what_does_not_fit_is_refused_with_a_reason(install, clip):
    install("good", "look = ok")
    for name, (code, offer, _) in REFUSED.items(): install(f"no_{name}", code, f"{BRINGS}[{offer}]")
    refused = {who.rpartition("(no_")[2].removesuffix(" 1.0)"): reason for who, reason in discover().refused.items()}
    assert refused.keys() == REFUSED.keys() and all(REFUSED[name][2] in reason for name, reason in refused.items()), refused
    assert list(discover().plugins) == [*FIVE, "good"] and analyze(clip, only=["good"])["good"].value["sr"] == SR


LOADING = {
    "import_fails": ("import nothing_like_this", "", "ModuleNotFoundError"), "import_exits": ("sys.exit(1)", "", "sys.exit"),
    "import_dies": ("os._exit(7)", "", "exit code 7"),
    "brings_none": ("", BRINGS + "[]", "brings no analyzer"),
    "unmarked": ("", "def analyzers(): return [one(ok)]", "brings no analyzer"),
    "not_a_list": ("", BRINGS + "7", "TypeError"),
    "odd_hook": ("", "@hookimpl\ndef analyzers(moon): return []", "PluginValidationError"),
    "new_hook": ("", "@hookimpl\ndef teleport(): return []", "PluginValidationError"),
}


def test_what_cannot_be_loaded_is_refused(install):
    for name, (code, tail, _) in LOADING.items(): install(name, code, tail)
    for name, (_, _, said) in LOADING.items(): assert said in why(name)
    assert list(discover().plugins) == list(FIVE)


def test_loading_has_an_end(install, monkeypatch):
    monkeypatch.setattr(worker, "START_S", 1.0)
    install("import_hangs", "time.sleep(60)")
    assert "longer than 1 s" in why("import_hangs") and "tempo" in discover().plugins


def test_a_note_without_its_package_is_refused(install, tmp_path):
    install("gone", "look = ok")
    (tmp_path / "gone.py").unlink()
    plugins._found_once.cache_clear()
    assert "ModuleNotFoundError" in why("gone")


def test_needs_decide_the_order_and_what_is_passed(install, clip):
    install("zero", "def look(clip, results): return Analysis({'got': {k: a.value for k, a in results.items()}}, 1)",
            BRINGS + "[one(look, needs=('audio', 'zzz', 'nobody?'))]")
    install("zzz", "look = ok")
    order = list(discover().plugins)
    assert order.index("zzz") < order.index("zero")
    got = analyze(clip, only=["zero", "zzz"])
    assert got["zero"].value["got"] == {"zzz": got["zzz"].value}


def test_who_needs_one_that_failed_is_told_so(install, clip):
    install("after", "look = ok", BRINGS + "[one(needs=('before',)), one(name='maybe', needs=('before?', 'audio'))]")
    install("before", "def look(clip): 1 / 0")
    got = analyze(clip, only=["after", "before", "maybe"])
    assert "before, which failed" in got["after"].error and got["maybe"].value["sr"] == SR


def test_words_alone_and_sound_alone(install, clip):
    code = "def look(lyrics, profile): return Analysis({'said': lyrics, 'profile': profile}, 1)"
    install("verbatim", code, BRINGS + "[one(look, needs=('words',))]")
    install("sound", "look = ok")
    got = analyze(None, "a\nb", "fast", only=["verbatim", "sound"])
    assert got["verbatim"].value == {"said": "a\nb", "profile": "fast"}
    assert got["sound"].value is None and got["sound"].error is None
    got = analyze(clip, " \n ", only=["verbatim", "sound"])
    assert got["verbatim"] == Analysis(None, name="verbatim", version="1.0") and got["sound"].value["n"] == 4 * SR
    assert "verbatim" not in got.timing_ms and "sound" in got.timing_ms
    assert not [w for w in got.warnings if w.startswith("verbatim")]


@pytest.mark.parametrize("wrong, error", [
    (lambda c: analyze(c, profile="quick"), ValueError), (lambda c: analyze(c, b"bytes"), TypeError),
    (lambda c: analyze(None), ValueError),
    (lambda c: analyze(None, " "), ValueError), (lambda c: analyze(c, only=["nobody"]), LookupError),
    (lambda c: analyze(Clip(np.zeros(SR * 4), SR)), BadAudio), (lambda c: analyze(Clip(np.ones(1), SR)), BadAudio)])
def test_what_cannot_be_asked(wrong, error, clip):
    with pytest.raises(error) as e: wrong(clip)
    assert len(str(e.value)) > 15


def test_two_threads_share_one_process(install, clip):
    install("guest", "def look(clip): time.sleep(.05); return ok(clip)")
    got = []
    threads = [threading.Thread(target=lambda: got.append(analyze(clip, only=["guest"])["guest"])) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join(20)
    assert len(got) == 4 and len({a.value["pid"] for a in got}) == 1 and all(a.error is None for a in got)


def test_nobody_stays_behind(install, clip, tmp_path):
    install("stuck", f"def look(clip): open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    code = ("import numpy as np; from rap_analyzer.music.analyzers import analyze; from rap_analyzer.music.audio import Clip;"
            "analyze(Clip(np.sin(np.arange(64_000)), 16_000), only=['stuck'])")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    ours = subprocess.Popen([sys.executable, "-c", code], env=env)
    for _ in range(200):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(): break
        time.sleep(0.05)
    ours.send_signal(signal.SIGKILL)                                      # we are gone, and cannot stop it any more
    ours.wait(10)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if not psutil.pid_exists(pid): return
        time.sleep(0.05)
    pytest.fail("a stuck plugin outlived us by ten seconds")


def test_a_plugin_may_ask_how_long_the_whole_is(install, tmp_path, monkeypatch):
    for name, value in (("WHOLE_S", 20.0), ("PART_S", 2.0), ("PARTS", 4)): monkeypatch.setattr(batch, name, value)
    install("whole", "def look(clip, seconds): return Analysis({'part': len(clip.samples) / clip.sr, 'whole': seconds}, 1)")
    got = analyze_file(wav(tmp_path / "long.wav", 61), only=["whole"])["whole"].value
    assert got["part"] == 8 and got["whole"] == pytest.approx(61, abs=0.1)


def test_what_a_finding_may_be():
    got = check_result(Analysis({"a": (1, 2.5), "b": {"c": None}}, 1, ["w"] * 50))
    assert got.value == {"a": [1, 2.5], "b": {"c": None}} and got.confidence == 1.0 and len(got.warnings) == 20
    assert json.loads(json.dumps(Analyses({"x": got}).as_dict()))["x"]["a"] == [1, 2.5]


def wav(path, seconds=4.0, sr=SR, hz=220.0):
    "A file with something to hear in it."
    t = np.arange(round(seconds * sr)) / sr
    return save(Clip(0.5 * np.sin(2 * np.pi * hz * t) * (t % 0.5 < 0.1), sr), path)


def test_an_hour_is_heard_in_parts(install, tmp_path, monkeypatch):
    install("length", "def look(clip): return Analysis({'s': len(clip.samples) / clip.sr}, 1)")
    for name, value in (("WHOLE_S", 20.0), ("PART_S", 2.0), ("PARTS", 4)): monkeypatch.setattr(batch, name, value)
    got = analyze_file(wav(tmp_path / "long.wav", 61.5), only=["length"])
    assert got["length"].value["s"] == 8 and got.seconds == pytest.approx(61.5, abs=0.1) and "4 parts" in got.warnings[0]
    _, starts, _ = batch.load_parts(tmp_path / "long.wav")
    assert starts[0] == 0 and starts[-1] > 45 and len(starts) == 4
    assert analyze_file(wav(tmp_path / "short.wav", 10), only=["length"])["length"].value["s"] == 10


def test_parts_of_a_short_file_are_the_whole(tmp_path):
    clip, starts, seconds = batch.load_parts(wav(tmp_path / "a.wav", 10))    # a stream that did not say how long it is
    assert (clip.seconds, clip.sr, starts, seconds) == (10, SR, [], pytest.approx(10, abs=0.01))


def test_beats_of_parts_are_told_in_the_time_of_the_file(tmp_path, monkeypatch):
    for name, value in (("WHOLE_S", 20.0), ("PART_S", 2.0), ("PARTS", 4)): monkeypatch.setattr(batch, name, value)
    look = lambda **given: Analysis({"beats": [0.5, 2.5, 4.0, 7.5]}, 1)
    told = {"tempo": plugins.Plugin("tempo", "1", ("audio",), 1, "", look, False)}
    monkeypatch.setattr(analyzers, "discover", lambda: plugins.Discovery(told, {}))
    got = analyze_file(wav(tmp_path / "long.wav", 60))
    _, starts, _ = batch.load_parts(tmp_path / "long.wav")
    assert got["tempo"].value["beats"] == [starts[0] + 0.5, starts[1] + 0.5, starts[2], starts[3] + 1.5]


def test_a_batch_tells_of_every_file_once(install, tmp_path):
    install("shaky", "def look(clip): return ok(clip)")
    good = [wav(tmp_path / f"{i}.wav") for i in range(6)]
    (tmp_path / "page.mp3").write_text("<html>")
    (tmp_path / "empty.wav").touch()
    files = [*good, tmp_path / "page.mp3", tmp_path / "none.wav", tmp_path / "empty.wav"]
    got = dict(analyze_files(((f, None) for f in files), "fast"))
    assert got.keys() == set(files) and all(isinstance(got[f], Analyses) and got[f]["shaky"].value["sr"] == SR for f in good)
    assert [got[f].reason for f in files[6:]] == ["not_audio", "missing", "empty"]
    assert len({got[f]["shaky"].value["pid"] for f in good}) == 2       # a plugin's process for each of ours


def test_a_file_that_brings_its_process_down_costs_itself(install, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent("""
        import sys
        def spy(event, args):
            if event == "open" and str(args[0]).endswith("deadly.wav"): import os; os.abort()
            if event == "open" and str(args[0]).endswith("slow.wav"): import time; time.sleep(60)
        sys.addaudithook(spy)"""))
    install("guest", "look = ok")
    files = [wav(tmp_path / name) for name in ("a.wav", "deadly.wav", "b.wav", "slow.wav", "c.wav")]
    got = {f.stem: a for f, a in analyze_files(((f, None) for f in files), "fast", limit_s=4)}
    assert "SIGABRT" in str(got["deadly"]) and "longer than 4 s" in str(got["slow"])
    assert all(got[name]["guest"].value["sr"] == SR for name in "abc")


def test_a_batch_takes_no_more_than_it_works_on_and_can_be_left(install, tmp_path):
    install("guest", "look = ok")
    one, taken = wav(tmp_path / "a.wav"), []
    def jobs():
        for i in range(10_000): taken.append(i); yield one, None
    for n, _ in enumerate(analyze_files(jobs(), "fast")):
        if n == 5: break
    assert len(taken) < 25
    def broken(): yield one, None; raise OSError("the folder has gone")
    with pytest.raises(OSError, match="gone"): list(analyze_files(broken(), "fast"))
