"""The response store: every answer of an annotator, in SQLite, durable before it counts.

It outlives DVC's outs and is keyed by what was asked (model, decoding parameters, messages), so that a killed run
goes on where it stopped and nothing is paid for twice. Requests without an answer keep their error beside.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

_KEYS_PER_QUERY = 500
_ERROR = "error"  # the finish_reason of a request that failed
_CACHE_KIB = 16_384  # of pages in memory; keys are hashes and so in no order
_BUSY_S = 60.0  # to wait for another process that writes


class ErrorKind(StrEnum):
    """Why a request has no answer. All of them are tried again by the next run."""

    TIMEOUT = "time-out"
    CONNECTION = "connection lost"
    RATE_LIMIT = "rate limit"
    SERVER = "server error"
    MALFORMED = "malformed answer"
    EXPIRED = "batch expired"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an annotator said to one request."""

    key: str
    answer: str | None  # raw text, where the annotator gives text
    log_probabilities: list[float] | None  # (labels,), of each label's answer words, not normalised
    finish_reason: str  # choice, stop, length, content_filter, refused (the request itself), missing, error
    prompt_tokens: int
    answer_tokens: int
    seconds: float  # share of the compute or waiting time
    cut: bool
    error: str | None = None  # with finish_reason error: "kind: what was seen"

    @classmethod
    def failed(cls, key: str, kind: ErrorKind, seen: str) -> "Answer":
        """A request that was given up in this run."""
        return cls(key, None, None, _ERROR, 0, 0, 0.0, False, f"{kind}: {seen[:300]}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who was asked: kept beside answers and failures, so that they can be told apart and priced."""

    annotator: str | None = None  # its kind
    model: str | None = None
    prompt_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer as it is stored, and as teams pass it on."""

    key: str
    answer: str | None
    log_probabilities: list[float] | None
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    cut: bool
    created: str  # YYYY-MM-DD HH:MM:SS, UTC
    annotator: str | None  # this and the next two are unknown for answers of old stores
    model: str | None
    prompt_hash: str | None


@dataclass(frozen=True, slots=True)
class Totals:
    """What a set of requests has brought and used."""

    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cut: int = 0
    seconds: float = 0.0


_COLUMNS = [field.name for field in fields(Answer) if field.name != _ERROR]
_STORED = [field.name for field in fields(Stored)]
_ORIGIN = [field.name for field in fields(Origin)]
_ORIGIN_TYPES = ", ".join(f"{name} TEXT" for name in _ORIGIN)
_INSERT = "INSERT INTO responses ({}) VALUES ({})".format
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, answer TEXT, log_probabilities TEXT,
    finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, answer_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, cut INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    {_ORIGIN_TYPES}) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, error TEXT NOT NULL, runs INTEGER NOT NULL DEFAULT 1,
    seen TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, {_ORIGIN_TYPES}) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class ResponseStore:
    """One writer, any number of readers (write-ahead log). `key in store` says whether an answer is there."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __contains__(self, key: object) -> bool:
        return self._db.execute("SELECT 1 FROM responses WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM responses").fetchone()[0])

    def keys(self) -> set[str]:
        """Keys of all stored answers."""
        return {key for (key,) in self._db.execute("SELECT key FROM responses")}

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Stored answers by key, and failures where there is no answer; keys with neither are left out."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}
        for some, marks in _parts(wanted):
            query = f"SELECT {', '.join(_COLUMNS)} FROM responses WHERE key IN ({marks})"  # noqa: S608 - names of our own
            for key, text, scores, reason, asked, answered, seconds, cut in self._db.execute(query, some):
                log_probabilities = None if scores is None else json.loads(scores)
                found[key] = Answer(key, text, log_probabilities, reason, asked, answered, seconds, bool(cut))
        for some, marks in _parts([key for key in wanted if key not in found]):
            query = f"SELECT key, error FROM failures WHERE key IN ({marks})"  # noqa: S608 - marks of our own
            for key, error in self._db.execute(query, some):
                found[key] = Answer(key, None, None, _ERROR, 0, 0, 0.0, False, error)
        return found

    def totals(self, keys: Iterable[str]) -> Totals:
        """Sums over the answers to `keys`, each counted once."""
        with self._db:
            self._db.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
            try:
                self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in keys))
                row = self._db.execute(
                    "SELECT count(*), total(prompt_tokens), total(answer_tokens), total(cut), total(seconds) "
                    "FROM wanted JOIN responses USING (key)"
                ).fetchone()
            finally:
                self._db.execute("DROP TABLE wanted")
        answers, asked, answered, cut, seconds = row
        return Totals(answers, int(asked), int(answered), int(cut), seconds)

    def read(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Rows of a SELECT over responses, failures or notes."""
        return self._db.execute(query, values)

    def stored(self) -> Iterator[Stored]:
        """All answers in the order of their keys, as they are at the first one; a writer may go on meanwhile."""
        for row in self._db.execute(f"SELECT {', '.join(_STORED)} FROM responses ORDER BY key"):  # noqa: S608
            values: dict[str, Any] = dict(zip(_STORED, row, strict=True))
            scores = values["log_probabilities"]
            yield Stored(**values | {"cut": bool(values["cut"]), "log_probabilities": scores and json.loads(scores)})

    def add(self, answers: Iterable[Answer], origin: Origin | None = None) -> None:
        """Store new answers and failures in one durable transaction; an answer ends a failure.

        Raises:
            sqlite3.IntegrityError: an answer is stored already; it was paid for twice, which is a bug.
            UserError: the disk is full; what was stored before is kept.
        """
        came, who = list(answers), asdict(origin or Origin())
        rows = [_row(answer, _COLUMNS) | who for answer in came if answer.error is None]
        failed = [{"key": a.key, "error": _writable(a.error), **who} for a in came if a.error is not None]
        columns = [*_COLUMNS, *_ORIGIN]
        with self._writing():
            self._db.executemany(_INSERT(", ".join(columns), _named(columns)), rows)
            self._db.executemany("DELETE FROM failures WHERE key = ?", [(row["key"],) for row in rows])
            self._db.executemany(
                f"INSERT INTO failures (key, error, {', '.join(_ORIGIN)}) "  # noqa: S608 - names of our own
                f"VALUES (:key, :error, {_named(_ORIGIN)}) ON CONFLICT (key) DO UPDATE SET error = excluded.error, "
                "runs = runs + 1, seen = CURRENT_TIMESTAMP",
                failed,
            )

    def merge(self, rows: Iterable[Stored]) -> int:
        """Add answers of another store in one transaction, all or none; what is here is kept. Return their number.

        Raises:
            UserError: the disk is full; the store is what it was before.
        """
        numbers = count(1)
        given = (_row(row, _STORED) for row, _ in zip(rows, numbers, strict=False))
        with self._writing():
            command = _INSERT(", ".join(_STORED), _named(_STORED)) + " ON CONFLICT (key) DO NOTHING"
            self._db.executemany(command, given)
            self._db.execute("DELETE FROM failures WHERE key IN (SELECT key FROM responses)")
        return next(numbers) - 1

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._db:
                yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise UserError("no room on the disk for the response store: free some space and run again") from error
            raise

    def note(self, name: str) -> str | None:
        """What an annotator has written down under a name: what a server can do, which batches are open."""
        row = self._db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return row and str(row[0])

    def write_note(self, name: str, value: str | None) -> None:
        """Write a note down durably; None removes it."""
        with self._writing():
            if value is None:
                self._db.execute("DELETE FROM notes WHERE name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def notes(self, prefix: str) -> dict[str, str]:
        """All notes whose names begin with `prefix`."""
        rows = self._db.execute("SELECT name, value FROM notes WHERE substr(name, 1, ?) = ?", (len(prefix), prefix))
        return dict(rows.fetchall())


@contextmanager
def opened(path: Path) -> Iterator[ResponseStore]:
    """Open (and make) a store.

    Raises:
        UserError: the file is no response store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        connection.executescript(_SCHEMA)
        _migrate(connection)
        yield ResponseStore(connection)
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            raise UserError(f"{path} is not a response store: move it away, or restore it from a backup") from error
        raise
    finally:
        connection.close()


def _migrate(connection: sqlite3.Connection) -> None:
    """Give a store of an earlier version the columns of Origin."""

    def without() -> list[str]:
        tables = ("responses", "failures")
        return [t for t in tables if "model" not in {row[1] for row in connection.execute(f"PRAGMA table_info({t})")}]

    if without():
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # another process may be about to do the same
            for table in without():
                for name in _ORIGIN:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} TEXT")


def _parts(keys: list[str]) -> Iterator[tuple[list[str], str]]:
    """Some keys at a time, and as many marks."""
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        some = keys[start : start + _KEYS_PER_QUERY]
        yield some, ",".join("?" * len(some))


def _named(columns: Sequence[str]) -> str:
    return ", ".join(f":{name}" for name in columns)


def _row(answer: Answer | Stored, columns: Sequence[str]) -> dict[str, Any]:
    scores = answer.log_probabilities
    row = {name: getattr(answer, name) for name in columns}
    return row | {
        "answer": answer.answer and _writable(answer.answer),
        "log_probabilities": None if scores is None else json.dumps(scores),
    }


def _writable(text: str) -> str:
    """A server may cut an answer within a character; half a surrogate pair can't be stored."""
    return text.encode("utf-8", "replace").decode()
