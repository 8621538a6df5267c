"Predictions: stored when they are made, in time or late, and asked for only where somebody can answer."
import os
import subprocess
import sys

import pytest

from rap_analyzer import guess, ledger

def test_a_guess_after_the_truth_is_late(tmp_path):
    first = ledger.predict("t.gain", 30, sure=80, why="two\nlines", home=tmp_path)
    assert not first.late and first.why == "two lines"
    run = ledger.record("t.gain", 3, unit="x", home=tmp_path)
    second = ledger.predict("t.gain", 3, home=tmp_path)
    assert second.late and "late" in repr(second)
    assert guess.last_prediction("t.gain", tmp_path) == second
    assert [p.guess for p in guess.list_predictions("t.gain", tmp_path)] == [30, 3]
    assert ledger.predict("t.gain", 30, sure=80, why="two lines", home=tmp_path) == first, "the same cell, run again"
    assert len(guess.list_predictions("t.gain", tmp_path)) == 2
    shown = run.against_prediction(tmp_path)
    assert "you guessed 30x; it was 3x: 10 times too high" in repr(shown), "the guess made in time counts"
    assert shown.figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize(("kwargs", "match"), [
    ({"guess": 5, "scale": "ms"}, "how many times"), ({"scale": "milliseconds"}, "how many times"),
    ({"guess": 0}, "positive"), ({"guess": -1}, "positive"), ({"guess": float("nan")}, "positive"),
    ({"guess": float("inf")}, "positive"), ({"guess": "3"}, "positive"), ({"guess": True}, "positive"),
    ({"guess": 3, "sure": .9}, "50 to 100"), ({"guess": 3, "sure": 101}, "50 to 100"),
    ({"guess": 3, "scale": (1,)}, "two or more"), ({"guess": 3, "scale": (0, 1)}, "positive"),
])
def test_guesses_that_are_refused(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match): ledger.predict("t.x", home=tmp_path, **kwargs)
    assert guess.last_prediction("t.x", tmp_path) is None


def test_against_prediction_says_what_is_missing(tmp_path):
    timed = ledger.measure("t.ms", lambda: 1, home=tmp_path)
    assert "Nobody guessed" in repr(timed.against_prediction(tmp_path))
    assert "<img" not in timed.against_prediction(tmp_path)._repr_html_()
    ledger.predict("t.ms", 10, home=tmp_path)
    assert "record the ratio" in repr(timed.against_prediction(tmp_path))
    ledger.predict("t.zero", .9, scale="share", home=tmp_path)
    assert "no logarithmic axis" in repr(ledger.record("t.zero", 0, home=tmp_path).against_prediction(tmp_path))
    ledger.predict("t.low", 10, home=tmp_path)
    low = ledger.record("t.low", 200, unit="x", home=tmp_path).against_prediction(tmp_path)
    assert "20 times too low" in repr(low) and "<img alt=" in low._repr_html_()
    ledger.predict("t.hit", 10, home=tmp_path)
    assert "within a tenth" in repr(ledger.record("t.hit", 10.5, home=tmp_path).against_prediction(tmp_path))
    ledger.predict("t.share", 0.97, scale="share", home=tmp_path)
    share = ledger.record("t.share", 0.955, home=tmp_path).against_prediction(tmp_path)
    assert "you expected 3 % to be missing, and 4.5 % is" in repr(share)
    ledger.predict("t.all", 1, scale="share", home=tmp_path)
    assert "nothing is missing, and 0.04 of" in repr(ledger.record("t.all", 0.96, home=tmp_path).against_prediction(tmp_path))
    with pytest.raises(ValueError, match="from 0 to 1"): ledger.predict("t.all", 97, scale="share", home=tmp_path)


def test_the_form_stores_what_was_clicked(tmp_path):
    form = guess.GuessForm("t.form", home=tmp_path)
    assert [v for _, v in form.steps.options] == [1, 3, 10, 30, 100, 300, 1_000] and form.steps.value is None
    assert (form.sure.min, form.sure.max) == (50, 100)
    form.button.click()
    assert guess.last_prediction("t.form", tmp_path) is None and "Choose" in form.message.value
    form.steps.label, form.sure.value, form.why.value = "300x", 90, "because <b>"
    form.button.click()
    form.button.click()
    stored, = guess.list_predictions("t.form", tmp_path)
    assert (stored.guess, stored.sure, stored.why, stored.late) == (300, 90, "because <b>", False)
    assert all(c.disabled for c in (form.steps, form.sure, form.why, form.button))
    assert "On record" in guess.GuessForm("t.form", home=tmp_path).message.value
    assert all(c.tabbable for c in (form.steps, form.sure, form.why, form.button))


def test_outside_jupyter_predict_says_how_and_goes_on(tmp_path):
    code = "import sys; from rap_analyzer import ledger; " \
           "ledger.predict('t.x', home=sys.argv[1]); ledger.predict('t.x', 3, home=sys.argv[1]); " \
           "ledger.predict('t.x', home=sys.argv[1]); print('went on')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=True)
    asked, known, end = done.stdout.splitlines()
    assert '`predict("t.x"' in asked and "you guessed 3x" in known and end == "went on"


@pytest.mark.parametrize("somebody", [True, False])
def test_a_kernel_shows_the_form_only_where_somebody_can_answer(tmp_path, somebody):
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ, "MPLBACKEND": "agg"})
    shown, errors = [], []
    def listen(msg):
        if msg["msg_type"] == "execute_result": shown.append(msg["content"]["data"])
        if msg["msg_type"] == "error": errors.append(msg["content"]["evalue"])
    try:
        code = f"from rap_analyzer import ledger\nledger.predict('t.k', home={str(tmp_path)!r})"
        client.execute_interactive(code, allow_stdin=somebody, output_hook=listen, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert not errors and ("application/vnd.jupyter.widget-view+json" in shown[0]) == somebody
    assert 'predict("t.k"' in shown[0]["text/plain"], "every front end gets the plain way as well"
