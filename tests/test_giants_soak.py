"""The five platforms of the chapter Giants, in small: `scripts/soak giants` times them at full size."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import _giants

from rap_analyzer.core import settings
from rap_analyzer.serve.stage import SERVERS

@pytest.mark.alone
def test_each_platform_answers_other_listeners_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RAP_LAB_HOME", str(tmp_path))
    for name in SERVERS: monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    said = []
    found = _giants.visit_giants(3_000, 120, 20, each=said.append)
    assert [s.split()[0] for s in said] == ["loaded", "uber", "netflix", "amazon", "spotify", "ebay"]
    assert all(0 < found[f"{n}_p50_ms"] <= found[f"{n}_p95_ms"] for n in ("uber", "netflix", "amazon", "spotify", "ebay"))
    late = {n: found | {f"{n}_p95_ms": 201.0} for n in ("uber", "netflix", "amazon", "spotify", "ebay")}
    assert not any(map(_giants.held, late.values()))
