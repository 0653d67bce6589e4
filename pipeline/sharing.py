"""Paid answers in a file, for others to import: Parquet or JSON Lines, one row each. Floats keep their last bit."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field, ValidationError

from pipeline.artifacts import ROWS_PER_GROUP, Table
from pipeline.errors import UserError
from pipeline.params.base import Block
from pipeline.responses import Stored
from serving.files import replacing

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Format = Callable[..., Any]
_Row = tuple[int, Any]  # number from 1, and what stands there


def _unicode(text: str) -> str:
    text.encode()  # raises a ValueError at half a surrogate pair
    return text


_Text = Annotated[str, AfterValidator(_unicode)]


class _Checked(Block):
    """Stored, as strictly as an unknown file is to be read."""

    key: Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
    answer: _Text | None
    log_probabilities: Annotated[list[float], Field(min_length=2)] | None
    finish_reason: Literal["choice", "stop", "length", "content_filter", "refused", "missing"]
    prompt_tokens: _Count
    answer_tokens: _Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cut: bool
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")]
    annotator: _Text | None
    model: _Text | None
    prompt_hash: _Text | None


def write(path: Path, rows: Iterable[Stored]) -> int:
    """Write a file, whole or not at all; return the number of rows.

    Raises:
        UserError: the name ends in neither .parquet nor .jsonl, or there is no room.
    """
    count: int = _by_name(path, _write_parquet, _write_jsonl)(path, rows)
    return count


def read(path: Path) -> Iterator[Stored]:
    """Stream the rows of a file.

    Raises:
        UserError: the file can't be read, or a row is no answer; its number and what is wrong are named.
    """
    reader = _by_name(path, _read_parquet, _read_jsonl)
    try:
        for number, row in reader(path):
            try:
                yield Stored(**_Checked.model_validate(row).model_dump())
            except ValidationError as error:
                raise UserError(
                    f"{path}, row {number} is no answer ({_problem(error)}): nothing was imported"
                ) from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(f"{path} can't be read: {' '.join(str(error).split())}; nothing was imported") from error


def _by_name(path: Path, parquet: _Format, jsonl: _Format) -> _Format:
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"{path}: the name must end in .parquet or .jsonl")
    return parquet if path.suffix == ".parquet" else jsonl


def _write_parquet(path: Path, rows: Iterable[Stored]) -> int:
    return Table(path, Stored).write(rows)


def _write_jsonl(path: Path, rows: Iterable[Stored]) -> int:
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(
                json.dumps({name: getattr(row, name) for name in _Checked.model_fields}, ensure_ascii=False) + "\n"
            )
            count += 1
    return count


def _read_parquet(path: Path) -> Iterator[_Row]:
    with pq.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(ROWS_PER_GROUP):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _read_jsonl(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, row {number} is not JSON ({error}): nothing was imported") from None


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
