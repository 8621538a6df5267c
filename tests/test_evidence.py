"What the exercises stand on: statements that are undone, a night that clears up, a table that is made anew, questions."

import random
import time

import pytest

from rap_analyzer.core import settings
from rap_analyzer.learn.task import exercise, exercises, space_of
from rap_analyzer.search import effects
from rap_analyzer.search import evidence as ev

COPY = "COPY night_tracks FROM STDIN (FORMAT csv)"


@pytest.fixture(autouse=True)
def servers(lab, lab_home, monkeypatch):
    "The practice tables live in the servers of the tests."
    monkeypatch.setenv("RAP_LAB_HOME", str(lab_home))
    settings.cache_clear()


def count(store, table):
    with store.admin() as con:
        there = con.execute("SELECT to_regclass(%s)", [table]).fetchone()[0]
        return con.execute(f"SELECT count(*) FROM {table}").fetchone()[0] if there else None


# ---- scratch

def test_what_is_done_in_scratch_is_undone():
    with ev.scratch() as con:
        con.execute("DELETE FROM practice_tracks WHERE id < 100")
        con.execute("CREATE TABLE left_over (id int)")
        con.execute("SET enable_seqscan = off")
        assert con.execute("SELECT count(*) FROM practice_tracks").fetchone()[0] == ev.ROWS - 100
    store = ev.practice()
    assert count(store, "practice_tracks") == ev.ROWS and count(store, "left_over") is None
    with ev.scratch() as con: assert con.execute("SHOW enable_seqscan").fetchone()[0] == "on"


def test_scratch_is_undone_after_an_error_and_lets_go():
    with pytest.raises(ZeroDivisionError), ev.scratch() as con:
        con.execute("DELETE FROM practice_tracks")
        1 / 0  # noqa: B018
    assert con.closed and count(ev.practice(), "practice_tracks") == ev.ROWS


def test_scratch_has_a_clock_that_statements_cannot_reach():
    began = time.monotonic()
    with pytest.raises(Exception, match="cancel") as e, ev.scratch(seconds=0.5) as con:
        con.execute("SET statement_timeout = 0")
        con.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - began < 15 and "had not finished" in ev.server_said(e.value, 0.5)


def test_an_error_of_ours_is_not_taken_for_one_of_the_server():
    with pytest.raises(KeyError): ev.server_said(KeyError("x"))


# ---- the table of spread vectors

def test_the_spread_table_has_the_index_that_was_asked_for_and_no_other():
    def indexes(store):
        with store.admin() as con:
            found = con.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'spread_tracks' ORDER BY indexname").fetchall()
            return [d.partition(" USING ")[2] for (d,) in found], con.execute("SELECT 'spread_tracks'::regclass::oid").fetchone()[0]
    none, first = indexes(ev.spread_store(None))
    assert none == ["btree (id)"]
    flat, second = indexes(ev.spread_store("ivfflat (embedding vector_ip_ops) WITH (lists = 10)"))
    assert len(flat) == 2 and flat[0].startswith("ivfflat (embedding vector_ip_ops) WITH (lists='10')") and second != first
    again, third = indexes(ev.spread_store("ivfflat (embedding vector_ip_ops) WITH (lists = 10)"))
    assert (again, third) == (flat, second)                                # the same once more: nothing is made


def test_a_damaged_spread_table_is_made_anew():
    store = ev.spread_store(None)
    with store.admin() as con: con.execute("DELETE FROM spread_tracks WHERE id = 7")
    assert count(ev.spread_store(None), "spread_tracks") == ev.SPREAD
    with store.admin() as con: con.execute("CREATE INDEX own ON spread_tracks (id)")
    ev.spread_store(None)
    with store.admin() as con: assert con.execute("SELECT to_regclass('own')").fetchone()[0] is None


# ---- a night

def test_a_whole_night():
    lines = effects.delivery(random.Random(3), 40)
    night = effects.run_night([(COPY, "\n".join(lines))], lines)
    assert (night.whole, night.new, night.statements, night.index, night.error) == (True, 40, 1, True, "")
    assert count(ev.practice(), "night_tracks") is None                    # and cleared up


def test_rows_that_are_there_but_not_as_they_were_sent():
    lines = effects.delivery(random.Random(3), 40)
    other = [line.replace("]", "9]") for line in lines[:5]] + lines[5:]
    night = effects.run_night([(COPY, "\n".join(other))], lines)
    assert night.new == 35 and not night.whole and night.error == ""


@pytest.mark.parametrize("steps, statements, new, index", [
    (["DROP INDEX night_index"], 1, 0, False),
    (["DELETE FROM night_tracks WHERE id = 3"], 1, 0, True),
    (["DROP INDEX night_index", "CREATE INDEX night_index ON night_tracks USING hnsw (embedding vector_ip_ops)"], 2, 0, False),
    (["DROP TABLE night_tracks"], 1, 0, False),
    ([("INSERT INTO night_tracks VALUES (%s, %s, %s)", [[1_000_000 + i, "x", str([0.5] * 16)] for i in range(7)])], 7, 7, True),
    (["BEGIN", "INSERT INTO night_tracks SELECT 1000000, 'x', embedding FROM night_tracks LIMIT 1"], 2, 0, True),
])
def test_what_is_left_in_the_morning(steps, statements, new, index):
    night = effects.run_night(steps, effects.delivery(random.Random(3), 7))
    assert (night.statements, night.index) == (statements, index) and not night.whole
    assert effects.run_night(steps).new == new


def test_a_night_stops_at_the_first_error_and_is_cancelled_in_time():
    lines = effects.delivery(random.Random(3), 30)
    bad = effects.break_line(random.Random(1), lines)
    assert sum(a != b for a, b in zip(lines, bad, strict=True)) == 1
    night = effects.run_night([(COPY, "\n".join(bad)), "DROP INDEX night_index"], lines)
    assert "invalid input syntax" in night.error and (night.new, night.index, night.statements) == (0, True, 0)
    began = time.monotonic()
    assert "had not finished" in effects.run_night(["SELECT pg_sleep(30)", "DROP INDEX night_index"], seconds=0.5).error
    assert time.monotonic() - began < 15 and count(ev.practice(), "night_tracks") is None


def test_one_delivery_is_like_another_and_has_real_titles():
    assert effects.delivery(random.Random(1)) == effects.delivery(random.Random(1)) != effects.delivery(random.Random(2))
    text = "\n".join(effects.delivery(random.Random(1)))
    assert len(text.splitlines()) == 800 and '""Rain""' in text and "\\DC" in text and '"Amber, Night' in text


# ---- what exercises ask for

def asked(own, seed):
    asks = own["asks"]
    return asks(random.Random(seed)) if callable(asks) else asks


@pytest.mark.parametrize("name, which", [(ex.id, which) for ex in exercises() for which in ("task", "again")
                                         if "asks" in (space_of(ex.checker) if which == "task" else
                                                       space_of(ex.checker).get("again", {}))])
def test_asks_are_questions_that_the_answer_has_a_name_for(name, which):
    ex = exercise(name)
    own = space_of(ex.checker)
    own, answer = (own, ex.solution) if which == "task" else (own["again"], ex.again[0])
    answer = "\n".join([*ex.given, answer])                                # what is asked may be made of it above the task
    one, same = asked(own, 5), asked(own, 5)
    assert one == same                                                     # a seed repeats them
    for said, target, args in one:
        assert isinstance(said, str) and said.strip() and (args is None or isinstance(args, list))
        assert f"def {target}(" in answer if args is not None else f"{target} = " in answer, target
    if callable(own["asks"]): assert asked(own, 6) != one                  # and another one changes them
