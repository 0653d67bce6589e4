"""Shards of a source: the same rows whoever asks for which of them, and little work for those of others."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.locating import Source
from serving.reading import shards

_ROWS = [{"id": f"{i}", "text": f"text {i}"} for i in range(103)]
_CUTS = [0, 17, 17, 60, 103]  # rows of a file, one of them empty


def _parquet(folder: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    for i, (first, end) in enumerate(itertools.pairwise(_CUTS)):
        pq.write_table(pa.Table.from_pylist(_ROWS[first:end], schema), folder / f"{i}.parquet", row_group_size=9)


def _jsonl(folder: Path) -> None:
    for i, (first, end) in enumerate(itertools.pairwise(_CUTS)):
        (folder / f"{i}.jsonl").write_text("\n\n".join(map(json.dumps, _ROWS[first:end])))


def _csv(folder: Path) -> None:
    for i, (first, end) in enumerate(itertools.pairwise(_CUTS)):
        lines = ["id,text", *(f'{row["id"]},"{row["text"]}"' for row in _ROWS[first:end])]
        (folder / f"{i}.csv").write_text("\n".join(lines))


def _texts(folder: Path) -> None:
    for row in _ROWS:
        (folder / f"{int(row['id']):03}.txt").write_text(row["text"])


@pytest.mark.parametrize("write", [_parquet, _jsonl, _csv, _texts])
@pytest.mark.parametrize("size", [1, 10, 103, 200])
def test_workers_find_the_same_shards(write: Callable[[Path], None], size: int, tmp_path: Path) -> None:
    write(tmp_path)
    source = Source(path=str(tmp_path))
    whole = dict(shards(source, "", size, lambda _: True))
    assert [record.text for chunk in whole.values() for record in chunk or ()] == [
        row["text"].encode() if write is _texts else row["text"] for row in _ROWS
    ]
    for of in (2, 3):
        for index in range(of):
            mine = dict(shards(source, "", size, lambda shard: shard % of == index))  # noqa: B023 - used at once
            assert mine == {shard: whole[shard] if shard % of == index else None for shard in whole}


def test_row_groups_of_others_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _parquet(tmp_path)
    decoded: list[int] = []
    decode = pq.ParquetFile.iter_batches

    def spied(file: pq.ParquetFile, *args: object, **kwargs: object) -> object:
        decoded.extend(kwargs["row_groups"])
        return decode(file, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spied)
    assert len(list(shards(Source(path=str(tmp_path)), "", 10, lambda shard: shard == 3))) == 11
    assert decoded == [1, 2]  # of the third file, where rows 30 to 39 stand
