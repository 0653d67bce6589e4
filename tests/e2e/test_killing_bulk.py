"""Bulk labelling killed at random moments. `killing_bulk.py` is the long form."""

from pathlib import Path

import pytest
from killing_bulk import kill_until_done


@pytest.mark.slow
def test_killed_at_random_moments_every_row_is_there_once(tmp_path: Path) -> None:
    happened = kill_until_done(tmp_path, kills=2, rows=4000, workers=2, seed=3)
    assert happened["killed"] == 2
