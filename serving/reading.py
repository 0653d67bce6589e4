"""Rows as they stand in a source, whatever its format, one at a time. What makes a text usable is not known here."""

import csv
import json
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, islice, repeat
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from serving import reaching
from serving.errors import UserError
from serving.locating import File, GoldSource, Source, locate
from serving.records import Columns, Reason, Record, setting

_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
_BATCH_ROWS = 1000
_PROBE_BYTES = 2**20
_MAX_FIELD = 2**23  # characters of a CSV field; what is longer is a quote left open
csv.field_size_limit(_MAX_FIELD)
Needed = Callable[[int, int], bool]  # whether any row from the first up to (not with) the second, from 0, is asked for


def records(source: Source, key: str) -> Iterator[Record]:
    """Stream the rows of a source: files in the order of their names, rows in theirs.

    Raises:
        UserError: nothing stands at the path, a column is missing, or a file as a whole can't be read. A row or a
            row group that can't be read is no error but a record with a `fault`.
    """
    return (record for record in _stream(source, key, lambda first, end: True) if record is not None)


def _stream(source: Source, key: str, needed: Needed) -> Iterator[Record | None]:
    """All rows. In place of one that is not needed there may be None, where that saves reading or decoding it."""
    columns = Columns(key, source.text, source.id, source.label if isinstance(source, GoldSource) else None)
    found = locate(source, key)
    if found.format == "hf":
        yield from _hf(source, columns)
        return
    before = 0  # rows of earlier files
    for file in found.files:
        row = there = 0
        try:
            for record in _READERS[found.format](file, columns, partial(_shifted, needed, before)):
                there += 1
                row = record.row if record else row
                yield record
        except (*_UNREADABLE, *reaching.errors()) as error:
            if reaching.passing(error):
                raise reaching.unreached(file.name, error) from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{file.name} can't be read after row {row}: {reason}: mend it or take it away") from error
        before += there


def _shifted(needed: Needed, before: int, first: int, end: int) -> bool:
    return needed(before + first, before + end)


def shards(
    source: Source, key: str, size: int, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, list[Record] | None]]:
    """Cut the rows of a source into shards of `size`, unusable rows included; None for those that are not wanted."""
    rows = _stream(source, key, lambda first, end: any(map(wanted, range(first // size, -(-end // size)))))
    for shard in count():
        if wanted(shard):
            chunk = [record for record in islice(rows, size) if record is not None]
            if chunk:
                yield shard, chunk
            there = len(chunk)
        else:
            there = sum(1 for _ in islice(rows, size))
            if there:
                yield shard, None
        if there < size:
            return


def about(source: Source, key: str) -> int:
    """Rows of a source, for showing progress: exact for Parquet, else from the first megabyte of the first file."""
    found = locate(source, key)
    if found.format == "hf":
        return len(_dataset(source, key))
    if found.format == "text":
        return len(found.files)
    if found.format == "parquet":
        return sum(map(_footer_rows, found.files))
    with found.files[0].binary() as stream:
        part = stream.read(_PROBE_BYTES)
    size = sum(file.fs.size(file.path) or 0 for file in found.files)
    return max(1, part.count(b"\n") * size // max(1, len(part)))


def _footer_rows(file: File) -> int:
    try:
        with file.binary() as stream:
            return int(pq.read_metadata(stream).num_rows)
    except _UNREADABLE:  # told when it is its turn
        return 0


class _Lines:
    """Lines with a way back: a record that turns out broken costs its first line only, not what a quote swallowed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.number = stream, 0
        self.taken: list[str] = []
        self.returned: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.returned.popleft() if self.returned else next(self.stream)
        self.taken.append(line)
        self.number += 1
        return line

    def retreat(self) -> str:
        first, *rest = self.taken
        self.returned.extendleft(reversed(rest))
        self.number -= len(rest)
        return first


def _csv(file: File, columns: Columns, needed: Needed) -> Iterator[Record]:
    with file.text(newline="") as stream:
        lines = _Lines(stream)
        rows = csv.reader(lines, delimiter="\t" if ".tsv" in file.name else ",", strict=True)
        try:
            header = next(rows, None)
        except csv.Error as error:
            raise UserError(f"{file.name}, line 1: {error}: the first line must name the columns") from None
        if header is None:
            raise UserError(f"{file.name} is empty: its first line must name the columns")
        columns.require(header, file.name)
        while True:
            lines.taken.clear()
            number = lines.number + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                fault = f"{Reason.MALFORMED}: {error}"
                yield Record(file.name, number, None, lines.retreat(), fault=fault)
                continue
            if len(cells) == len(header):
                yield columns.record(file.name, number, dict(zip(header, cells, strict=True)))
            elif cells:  # a blank line is no row
                fault = f"{Reason.MALFORMED}: {len(cells)} fields where the header has {len(header)}"
                yield Record(file.name, number, None, lines.taken[0], fault=fault)


def _jsonl(file: File, columns: Columns, needed: Needed) -> Iterator[Record | None]:
    known, row = False, -1
    with file.text() as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row += 1
            if not needed(row, row + 1):
                yield None
                continue
            try:
                value = json.loads(line)
                fault = None if isinstance(value, dict) else f"{Reason.MALFORMED}: not a JSON object"
            except (ValueError, RecursionError) as error:
                fault = f"{Reason.MALFORMED}: not JSON ({error})"
            if fault is not None:
                yield Record(file.name, number, None, line, fault=fault)
                continue
            if not known:
                columns.require(list(value), f"{file.name}, line {number},")
                known = True
            yield columns.record(file.name, number, value)


def _parquet(file: File, columns: Columns, needed: Needed) -> Iterator[Record | None]:
    with file.binary() as stream, pq.ParquetFile(stream, buffer_size=2**20) as table:
        columns.require(table.schema_arrow.names, file.name)
        end = 0
        for group in range(table.num_row_groups):
            first, end = end + 1, end + table.metadata.row_group(group).num_rows
            row = first - 1
            if not needed(row, end):
                yield from repeat(None, end - row)
                continue
            try:
                batches = table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns.names, use_threads=False)
                for row, values in enumerate(_rows(batches), start=first):
                    yield columns.record(file.name, row, values)
            except (pa.ArrowException, OSError) as error:
                if reaching.passing(error) or (
                    isinstance(error, OSError) and error.errno is not None
                ):  # the disk's or network's, not the file's
                    raise
                fault = f"{Reason.ROW_GROUP} {group + 1}: {' '.join(str(error).split())}"
                yield from (Record(file.name, lost, None, None, fault=fault) for lost in range(row + 1, end + 1))


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        names = batch.schema.names
        for values in zip(*map(_values, batch.columns), strict=True):
            yield dict(zip(names, values, strict=True))


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # Arrow doesn't check UTF-8 on reading: hand over bytes
        return list(column.cast(pa.binary()).to_pylist())


def _text(file: File, columns: Columns, needed: Needed) -> Iterator[Record | None]:
    if columns.label is not None:
        raise UserError(f"{columns.key}: plain text files have no labels: give csv, jsonl, parquet or hf")
    if not needed(0, 1):
        yield None
        return
    with file.binary() as stream:
        yield Record(file.name, 1, file.relative, stream.read())


def _dataset(source: Source, key: str) -> Any:  # noqa: ANN401 - datasets is not always there
    try:
        import datasets
    except ImportError:
        raise UserError("Hugging Face dataset directories need the library: `pip install datasets`") from None
    try:
        loaded = datasets.load_from_disk(source.path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{setting(key, 'path')}: {source.path} is no Hugging Face dataset directory: {error}"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if source.split not in loaded:
            raise UserError(f"{source.path} has the splits {', '.join(loaded)}: name one in {setting(key, 'split')}")
        loaded = loaded[source.split]
    return loaded


def _hf(source: Source, columns: Columns) -> Iterator[Record]:
    loaded = _dataset(source, columns.key)
    columns.require(loaded.column_names, source.path)
    batches = loaded.select_columns(columns.names).with_format("arrow").iter(_BATCH_ROWS)
    for row, values in enumerate(_rows(batches), start=1):
        yield columns.record(source.path, row, values)


_READERS: dict[str, Callable[[File, Columns, Needed], Iterator[Record | None]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "text": _text,
}
