"""Answers that exist already: published experiments, or labels that a user brings. Joined by id, never by position."""

import hashlib
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.annotators import Request
from pipeline.errors import UserError
from pipeline.params import RecordedAnnotator, RecordedFile
from pipeline.responses import Answer
from pipeline.spending import Spending
from serving.files import sha256

if TYPE_CHECKING:
    import duckdb

_BATCH = 10_000  # ids that are looked up in one pass over the files
_GROUP = 5_000  # answers that are handed over, and stored, together


class Recorded:
    """Looks answers up in Parquet, CSV or JSON Lines files; the first file that has an id wins."""

    gives_log_probabilities = False
    decoding = "{}"

    def __init__(self, params: RecordedAnnotator) -> None:
        self._files = params.files
        for file in params.files:
            if not Path(file.path).is_file():
                raise UserError(f"annotate.annotator.files: {file.path} does not exist")
        digest = hashlib.sha256("".join(sha256(Path(f.path)) + f.model_dump_json() for f in params.files).encode())
        self.model = f"{params.model}@{digest.hexdigest()[:12]}"

    def key(self, request: Request) -> str:
        """Answers belong to ids, so the id is what was asked."""
        return hashlib.sha256(f"{self.model}\n{request.id}".encode()).hexdigest()

    def answers(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending
    ) -> Iterator[list[Answer]]:
        """Yield the recorded answer of each request; `finish_reason` is missing where there is none. They are free."""
        missing = ((self.key(request), request.id) for request in requests)  # texts are not needed
        while window := dict(islice(((key, id_) for key, id_ in missing if key not in stored), _BATCH)):
            wanted = set(window.values())
            found: dict[str, str] = {}
            for file in reversed(self._files):
                found.update(_read(file, wanted))
            answers = (_answer(key, found.get(id_)) for key, id_ in window.items())
            while group := list(islice(answers, _GROUP)):
                yield group


def _answer(key: str, text: str | None) -> Answer:
    return Answer(key, text, None, "missing" if text is None else "stop", 0, 0, 0.0, False)


def _open(db: "duckdb.DuckDBPyConnection", path: str) -> "duckdb.DuckDBPyRelation":
    if path.endswith(".parquet"):
        return db.read_parquet(path)
    if path.endswith((".jsonl", ".json")):  # as text: ids that look like dates must stay what they are
        return db.read_json(path, columns=dict.fromkeys(db.read_json(path).columns, "VARCHAR"))
    return db.read_csv(path, all_varchar=True, quotechar='"', escapechar='"')


def _read(file: RecordedFile, wanted: set[str]) -> Iterator[tuple[str, str]]:
    import duckdb

    try:
        with duckdb.connect() as db:
            yield from _rows(_open(db, file.path), file, wanted)
    except (duckdb.Error, OSError) as error:  # OSError: what Arrow makes of an error in a later batch
        raise UserError(f"annotate.annotator.files: {file.path} can't be read: {str(error).splitlines()[0]}") from None


def _rows(relation: "duckdb.DuckDBPyRelation", file: RecordedFile, wanted: set[str]) -> Iterator[tuple[str, str]]:
    columns = [file.id, *file.answer]
    if absent := [column for column in columns if column not in relation.columns]:
        raise UserError(f"{file.path} has no column {', '.join(absent)}; there are {', '.join(relation.columns)}")
    quoted = ['"' + column.replace('"', '""') + '"' for column in columns]
    answer = "coalesce(" + ", ".join(f"CAST({column} AS VARCHAR)" for column in quoted[1:]) + ", NULL)"
    rows = relation.project(f"CAST({quoted[0]} AS VARCHAR), {answer}")
    for batch in rows.to_arrow_reader(_BATCH):
        pairs = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        yield from ((id_, text) for id_, text in pairs if text is not None and id_ in wanted)
