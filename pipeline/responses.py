"""The response store: every answer of an annotator, in SQLite, durable before it counts.

It outlives DVC's outs and is keyed by what was asked (model, decoding parameters, messages), so that a killed run
goes on where it stopped and nothing is paid for twice.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.errors import UserError

_KEYS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What an annotator said to one request."""

    key: str
    answer: str | None  # raw text, where the annotator gives text
    log_probabilities: list[float] | None  # (labels,), of each label's answer words, not normalised
    finish_reason: str  # choice, stop, length, missing
    prompt_tokens: int
    answer_tokens: int
    seconds: float  # share of the compute or waiting time
    cut: bool


class ResponseStore:
    """One writer, any number of readers (write-ahead log)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def keys(self) -> set[str]:
        """Keys of all stored answers."""
        return {key for (key,) in self._db.execute("SELECT key FROM responses")}

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Stored answers by key; keys without an answer are left out."""
        wanted, found = list(dict.fromkeys(keys)), {}
        columns = ", ".join(field.name for field in fields(Answer))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            some = wanted[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT {columns} FROM responses WHERE key IN ({marks})"  # noqa: S608 - names and marks of our own
            for key, text, scores, reason, asked, answered, seconds, cut in self._db.execute(query, some):
                log_probabilities = None if scores is None else json.loads(scores)
                found[key] = Answer(key, text, log_probabilities, reason, asked, answered, seconds, bool(cut))
        return found

    def add(self, answers: Iterable[Answer]) -> None:
        """Store new answers in one durable transaction.

        Raises:
            sqlite3.IntegrityError: an answer is stored already; it was paid for twice, which is a bug.
            UserError: the disk is full; what was stored before is kept.
        """
        rows = [
            {**asdict(a), "log_probabilities": a.log_probabilities and json.dumps(a.log_probabilities)} for a in answers
        ]
        names = [field.name for field in fields(Answer)]
        command = f"INSERT INTO responses ({', '.join(names)}) VALUES ({', '.join(':' + n for n in names)})"  # noqa: S608
        try:
            with self._db:
                self._db.executemany(command, rows)
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise UserError("no room on the disk for the response store: free some space and run again") from error
            raise


@contextmanager
def opened(path: Path) -> Iterator[ResponseStore]:
    """Open (and make) a store.

    Raises:
        UserError: the file is no response store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, answer TEXT, log_probabilities TEXT, "
            "finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, answer_tokens INTEGER NOT NULL, "
            "seconds REAL NOT NULL, cut INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) "
            "WITHOUT ROWID"
        )
        yield ResponseStore(connection)
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            raise UserError(f"{path} is not a response store: move it away, or restore it from a backup") from error
        raise
    finally:
        connection.close()
