"""A killed stage goes on where it was: the same artifacts, no answer bought twice. `killing.py` is the long form."""

import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killing import ARTIFACTS, STORE, kill_until_done

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", ARTIFACTS)
def test_killed_at_random_moments_ends_as_if_it_never_was(project: Path, tmp_path: Path, stage: str) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    assert kill_until_done(copy, stage, kills=2, seed=3)
    keys = {row["key"] for row in pq.read_table(copy / "data/responses.parquet", columns=["key"]).to_pylist()}
    with sqlite3.connect(copy / STORE) as db:
        stored = {key for (key,) in db.execute("SELECT key FROM responses")}
    assert stored == keys  # each once: the key is the store's primary key, and adding it twice raises
