"""Parts are broken on purpose, one at a time and in a drawn order. Do exactly the decisions turn red that rest on them?

Between two breaks everything is in its place, and nothing may be red then. What is measured, and what each break should turn red,
stands in the notebooks `nbs/decisions/21_rig.ipynb` and `22_living.ipynb`.
"""
import random
from collections.abc import Callable

from rap_analyzer.decide.adr import decisions
from rap_analyzer.decide.living import broken, judge
from rap_analyzer.decide.rig import BREAKS, Rig

def break_all(rig: Rig, rounds: int, seed: int,
              each: Callable[[str, set[str]], None] = lambda name, red: None) -> dict[str, object]:
    "Break each part so many times; how often exactly the right decisions were red, and what was red otherwise."
    rng, found, wrong, tried, least = random.Random(seed), decisions(), [], 0, len(BREAKS)
    for _ in range(rounds):
        for name in rng.sample(sorted(BREAKS), len(BREAKS)):
            for what, rest in ((name, set(BREAKS[name].rest)), ("", set())):
                if what:
                    with BREAKS[what].act(rig): verdicts = judge(found, rig)
                else: verdicts = judge(found, rig)
                red, tried = broken(verdicts), tried + 1
                least = min(least, sum(v.state == "holds" for v in verdicts) + len(red))
                each(what or "nothing", red)
                if red != rest: wrong.append(f"{what or 'nothing'} broken: {', '.join(sorted(red)) or 'none'} red")
    return {"tried": tried, "right": tried - len(wrong), "wrong": wrong, "measured": least}
