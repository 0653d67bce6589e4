"""A misbehaving server and kill -9: each text answered once. `faults.py` is the long form."""

from pathlib import Path

import pytest
from faults import run

pytestmark = pytest.mark.slow


def test_nothing_is_lost_and_nothing_is_bought_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    outcome = run(300, faults=0.2, kills=3, seed=1, directory=tmp_path)
    assert outcome.texts == 300
    assert sum(outcome.faults.values()) > 30
    assert any(0 < stored < 300 for stored in outcome.stored_at_kills)
