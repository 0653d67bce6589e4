"""Bulk labelling: whatever kills it, the next run goes on, and the files come out byte for byte the same."""

import json
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_model import LABELS, TEXTS, exported

from serving import bulk, layout
from serving.engine import Engine
from serving.errors import UserError

ROWS = [(f"id-{i}", f"{text} {i}") for i, text in enumerate(TEXTS * 12)]
RUN = """
import sys
from pathlib import Path
from serving import bulk
from serving.engine import Engine
import json
rows = [tuple(row) for row in json.loads(Path(sys.argv[3]).read_text())]
bulk.run(rows, Engine.open(Path(sys.argv[1]), "int8", threads=1), Path(sys.argv[2]), shard_rows=30, total=len(rows))
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.open(exported(), "int8", threads=1)


def label(engine: Engine, out: Path, rows: list[tuple[str, str]] = ROWS, **options: float) -> list[bulk.Part]:
    return bulk.run(rows, engine, out, **{"shard_rows": 30, "total": len(rows), **options})  # type: ignore[arg-type]


def contents(out: Path) -> dict[str, bytes]:
    """Bytes of all but the sidecars, which say how long it took."""
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if not path.name.startswith("part-") or path.suffix != ".json"
    }


def table(out: Path) -> dict[str, list]:
    return pq.read_table(sorted(out.glob("part-*.parquet"))).to_pydict()


def test_rows_come_out_once_each_in_order_with_the_engines_probabilities(engine: Engine, tmp_path: Path) -> None:
    rows = ROWS[:100]
    parts = label(engine, tmp_path, rows, min_confidence=0.6)
    result = table(tmp_path)
    assert [part.rows for part in parts] == [30, 30, 30, 10]
    assert result["id"] == [row_id for row_id, _ in rows]
    expected = np.concatenate([engine.classify([text for _, text in rows[i : i + 30]]) for i in range(0, 100, 30)])
    np.testing.assert_array_equal(np.array(result["probabilities"], dtype=np.float32), expected)
    assert result["label"] == [LABELS[i] for i in expected.argmax(axis=1)]
    np.testing.assert_array_equal(np.float32(result["confidence"]), expected.max(axis=1))
    assert result["abstained"] == [bool(row.max() < np.float32(0.6)) for row in expected]
    assert 0 < sum(result["abstained"]) < 100
    assert (set(result["source"]), set(result["model_hash"])) == ({"encoder"}, {engine.model_hash})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["rows"], manifest["labels"], len(manifest["parts"])) == (100, LABELS, 4)
    assert manifest["abstained"] == sum(result["abstained"])
    assert sum(manifest["counts"].values()) == 100
    assert sum(part.tokens for part in parts) > 300


def test_a_second_run_writes_no_part_again(engine: Engine, tmp_path: Path) -> None:
    first = label(engine, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    tokens = engine.tokens
    assert label(engine, tmp_path) == first
    assert engine.tokens == tokens
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    assert (tmp_path / "manifest.json").exists()


def redone(engine: Engine, out: Path, rows: list[tuple[str, str]] = ROWS, **options: float) -> list[int]:
    before = {path.name: path.stat().st_ino for path in out.glob("part-*.parquet")}
    parts = label(engine, out, rows, **options)
    return [
        p.shard
        for p in parts
        if before.get(f"part-{p.shard:05d}.parquet") != (out / f"part-{p.shard:05d}.parquet").stat().st_ino
    ]


def test_only_what_does_not_fit_is_done_again(engine: Engine, tmp_path: Path) -> None:
    rows = ROWS[:120]
    label(engine, tmp_path, rows)
    whole = contents(tmp_path)
    (tmp_path / "part-00001.parquet").write_bytes(b"PAR1")
    (tmp_path / "part-00002.json").unlink()
    (tmp_path / "part-00003.json").write_text("{")
    (tmp_path / f".part-00000.parquet.{socket.gethostname()}-999999999-0123abcd.tmp").write_text("of a killed run")
    assert redone(engine, tmp_path, rows) == [1, 2, 3]
    assert contents(tmp_path) == whole
    assert redone(engine, tmp_path, [*rows[:35], ("id-35", "another text"), *rows[36:]]) == [1]
    assert redone(engine, tmp_path, [*rows[:1], ("another id", rows[1][1]), *rows[2:]]) == [0, 1]
    assert redone(engine, tmp_path, rows, min_confidence=0.5) == [0, 1, 2, 3]
    fp32 = Engine.open(exported(), "fp32", threads=1)
    assert redone(fp32, tmp_path, rows, min_confidence=0.5) == [0, 1, 2, 3]
    assert redone(engine, tmp_path, rows) == [0, 1, 2, 3]
    assert contents(tmp_path) == whole


def test_a_sidecar_that_outlived_its_part_is_not_believed(engine: Engine, tmp_path: Path) -> None:
    """Killed between part and sidecar under another model, then run under the first one again."""
    rows = ROWS[:30]
    label(engine, tmp_path, rows)
    whole, sidecar = contents(tmp_path), (tmp_path / "part-00000.json").read_bytes()
    label(Engine.open(exported(), "fp32", threads=1), tmp_path, rows)
    (tmp_path / "part-00000.json").write_bytes(sidecar)
    assert redone(engine, tmp_path, rows) == [0]
    assert contents(tmp_path) == whole


def test_a_shorter_corpus_leaves_no_part_of_the_longer_one(engine: Engine, tmp_path: Path) -> None:
    label(engine, tmp_path, ROWS[:120])
    (tmp_path / "notes.txt").write_text("mine")
    assert redone(engine, tmp_path, ROWS[:45]) == [1]
    assert table(tmp_path)["id"] == [row_id for row_id, _ in ROWS[:45]]
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt", "manifest.json", *(f"part-0000{i}.{end}" for i in (0, 1) for end in ("json", "parquet"))
    }  # fmt: skip


def test_kill_and_run_again(engine: Engine, tmp_path: Path) -> None:
    label(engine, tmp_path / "whole")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    out = tmp_path / "killed"
    command = [sys.executable, "-c", RUN, str(exported()), str(out), str(tmp_path / "rows.json")]
    kills, stamps = 0, {}
    for parts, delay_s in ((0, 0.0), (1, 0.0), (5, 0.003), (12, 0.001), (20, 0.007), (28, 0.002)):
        process = subprocess.Popen(command)
        while len(list(out.glob("part-*.json"))) < parts and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.json")}
        assert stamps.items() <= after.items()  # a finished shard is never done again
        stamps = after
        assert not (out / "manifest.json").exists()
    assert kills == 6
    subprocess.run(command, check=True)
    final = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.json")}
    assert stamps.items() <= final.items()
    assert contents(out) == contents(tmp_path / "whole")


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let the operating system refuse files of more than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_the_next_run_goes_on(engine: Engine, tmp_path: Path) -> None:
    label(engine, tmp_path, ROWS[:60])
    with (
        room(500),
        pytest.raises(UserError, match=r"no room on the disk while writing .*part-00002.parquet: free some"),
    ):
        label(engine, tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    assert not (tmp_path / "manifest.json").exists()  # that of the shorter run would call this complete
    assert redone(engine, tmp_path)[0] == 2
    assert table(tmp_path)["id"] == [row_id for row_id, _ in ROWS]


def test_input_hash_keeps_ids_and_texts_apart() -> None:
    assert layout.input_hash([("a", "bc")]) != layout.input_hash([("ab", "c")])
    assert layout.input_hash([("a", "b"), ("c", "d")]) != layout.input_hash([("c", "d"), ("a", "b")])
