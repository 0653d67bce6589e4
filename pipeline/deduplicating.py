"""Repeated ids and texts, found with DuckDB on disk: memory stays the same for ten thousand rows and a billion."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pipeline.artifacts import STATE, Document, Duplicate, Table, Unusable
from pipeline.errors import UserError
from serving.corpus import excerpt
from serving.records import Reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_FOLDER = STATE / "ingest"
_FETCH_ROWS = 10_000
_MEMORY = "512MB"
# `file_row_number` counts rows from 0 in the order of the corpus: of equal rows the first one stays. A text is known by
# its hash, which takes 16 bytes as a uuid and 48 as a string.
_TABLES = """
create table documents as
    select file_row_number as n, id, text_hash::uuid as text from staged where reason is null;
create table repeated as
    select documents.n, $prefix || id as reason
    from documents join (select id, min(n) as n from documents group by id having count(*) > 1) as firsts using (id)
    where documents.n > firsts.n;
delete from documents where n in (select n from repeated);
"""
_UNUSABLE = """
select source, row, coalesce(staged.reason, repeated.reason), left(text, 400)
from staged left join repeated on n = file_row_number
where staged.reason is not null or repeated.reason is not null order by file_row_number
"""
_DUPLICATES = """
select later.id, first.id
from (select text, min(n) as n from documents group by text having count(*) > 1) as groups
join documents as first on first.n = groups.n
join documents as later on later.text = groups.text and later.n > groups.n
order by later.n
"""


@dataclass(frozen=True, slots=True)
class Staged:
    """A row that was read: a document, or unusable where there is a reason (`text` is then the excerpt)."""

    source: str
    row: int
    id: str | None
    text: str | None
    text_hash: str | None
    reason: str | None

    @classmethod
    def of(cls, source: str, row: int, judged: Document | Unusable) -> Self:
        """Join a row's place and what it was judged to be."""
        if isinstance(judged, Unusable):
            return cls(source, row, None, judged.excerpt, None, judged.reason)
        return cls(source, row, judged.id, judged.text, judged.text_hash, None)


@contextmanager
def staging() -> Iterator[Table[Staged]]:
    """Yield a table to write the rows to; it is gone at the end."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
    try:
        yield Table(_FOLDER / "rows.parquet", Staged)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


class Index:
    """What is repeated among the staged rows."""

    def __init__(self, staged: Table[Staged], *, made_ids: bool) -> None:
        """Group the rows by id and text. With made ids a repeated id is a repeated text."""
        import duckdb

        self.staged = staged
        self.room = (duckdb.OutOfMemoryException, duckdb.IOException)
        spill = staged.path.with_name("spill")
        config: dict[str, Any] = {"memory_limit": _MEMORY, "threads": 2, "temp_directory": str(spill)}
        self.db: DuckDBPyConnection = duckdb.connect(staged.path.with_name("index.duckdb"), config=config)
        self.db.execute("set preserve_insertion_order = false")  # every query orders by row itself
        self.db.read_parquet(str(staged.path), file_row_number=True).create_view("staged")
        prefix = f"{Reason.DUPLICATE} " if made_ids else f"{Reason.ID_USED}: "
        with self._roomy():
            for statement in _TABLES.split(";")[:-1]:
                self.db.execute(statement, {"prefix": prefix} if "$prefix" in statement else None)

    def close(self) -> None:
        """Let go of the files."""
        self.db.close()

    @contextmanager
    def _roomy(self) -> Iterator[None]:
        try:
            yield
        except self.room as error:
            raise UserError(f"no room to look for duplicates in {self.staged.path.parent}: {error}") from error

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        with self._roomy():
            result = self.db.cursor().execute(query)
            while rows := result.fetchmany(_FETCH_ROWS):
                yield from rows

    def unusable(self) -> Iterator[Unusable]:
        """Stream the rows that can't be used, repeated ids among them, in the order of the corpus."""
        for source, row, reason, text in self._stream(_UNUSABLE):
            yield Unusable(source, row, reason, excerpt(text))

    def duplicates(self) -> Iterator[Duplicate]:
        """Stream the documents whose text an earlier one has."""
        return (Duplicate(*ids) for ids in self._stream(_DUPLICATES))

    def documents(self) -> Iterator[Document]:
        """Stream what can be used, in the order of the corpus."""
        repeated = self._stream("select n from repeated order by n")
        skip = next(repeated, (-1,))[0]
        for n, row in enumerate(self.staged):
            if n == skip:
                skip = next(repeated, (-1,))[0]
            elif row.id is not None and row.text is not None and row.text_hash is not None:
                yield Document(row.id, row.text, row.text_hash)
