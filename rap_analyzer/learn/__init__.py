"Checked exercises. `from rap_analyzer.learn import check, case` is all that a learner types; it loads when it is used."

HOMES = {"check": "course", "case": "course", "give_hint": "course", "give_solution": "course"}


def __getattr__(name: str) -> object:
    "A function of this room, from the module that holds it."
    if name not in HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
