"""Where answers are kept: SQLite, every answer on the disk before the page says so, and nothing is ever overwritten.

An answer is a row; undoing marks it, changing one's mind adds another. What counts is a reviewer's last row of an item
that was not undone. Answers belong to id and text, not to a run: they survive that the pipeline runs again.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from pipeline.artifacts import STATE
from pipeline.errors import UserError
from pipeline.reviewing import GOLD, IMPORTED, Answer, Item

STORE = STATE / "review.sqlite"
_BUSY_S = 20.0  # to wait for another page that saves
_PACE_ROWS = 50
_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, id TEXT NOT NULL, text TEXT NOT NULL, text_hash TEXT NOT NULL,
    reason TEXT NOT NULL, label TEXT, confidence REAL, suggested TEXT, reference TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (seq INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL, reviewer TEXT NOT NULL,
    label TEXT, note TEXT NOT NULL, seconds REAL, time TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS answers_of ON answers (reviewer, item);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_LAST = """
SELECT item, reviewer, label, note, time FROM answers
WHERE seq IN (SELECT max(seq) FROM answers WHERE undone = 0 GROUP BY reviewer, item)
"""
_NAMES = [field.name for field in fields(Item)]
_PUT = f"""
INSERT INTO items (key, {", ".join(_NAMES)}) VALUES (?{", ?" * len(_NAMES)})
ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _NAMES)}
WHERE excluded.reason NOT IN ('{GOLD}', '{IMPORTED}')
"""  # noqa: S608 - names of our own


@dataclass(frozen=True, slots=True)
class Said:
    """What one reviewer has said of an item so far; a note may stand without a label."""

    label: str | None = None
    note: str = ""


class ReviewStore:
    """Any number of pages may read and write at the same time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All that is written in the block, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield

    def check(self) -> None:
        """Look for damage in the whole file; `opened` turns what this raises into a message."""
        if (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)

    def token(self) -> str:
        """The secret in the page's address; it stays, so that an open page goes on after a restart."""
        with self._whole():
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('token', ?)", (secrets.token_urlsafe(24),))
        return str(self._db.execute("SELECT value FROM facts WHERE name = 'token'").fetchone()[0])

    def put(self, items: Iterable[Item]) -> None:
        """Keep items, so that answers can be used and exported when the artifacts are others.

        Newer facts replace older ones, unless the newer item comes with none: of a gold sheet, or imported. So an
        answer counts as one for a gold sheet only if its text was never to be reviewed for another reason.
        """
        rows = [(item.key, *asdict(item).values()) for item in items]
        with self._whole():
            self._db.executemany(_PUT, rows)

    def items(self) -> dict[str, Item]:
        """All items that were ever shown or imported, by key."""
        query = f"SELECT key, {', '.join(_NAMES)} FROM items ORDER BY id, key"  # noqa: S608 - names of our own
        return {key: Item(*rest) for key, *rest in self._db.execute(query)}

    def said(self, reviewer: str) -> dict[str, Said]:
        """Whatever a reviewer has said, by item."""
        rows = self._db.execute(f"{_LAST} AND reviewer = ?", (reviewer,))
        return {item: Said(label, note) for item, _, label, note, _ in rows}

    def answers(self, reviewer: str | None = None) -> list[Answer]:
        """Everybody's labels, or one reviewer's; notes without a label are none."""
        rows = self._db.execute(f"{_LAST} AND label IS NOT NULL ORDER BY seq")
        found = [Answer(item, who, label, note, time) for item, who, label, note, time in rows]
        return [answer for answer in found if reviewer in (None, answer.reviewer)]

    def seconds(self) -> dict[tuple[str, str], float]:
        """How long each (item, reviewer) took at last, where that is known."""
        rows = self._db.execute("SELECT item, reviewer, seconds FROM answers WHERE undone = 0 AND seconds IS NOT NULL")
        return {(item, reviewer): seconds for item, reviewer, seconds in rows}

    def save(self, item: str, reviewer: str, said: Said, seconds: float | None, expected: str | None) -> str | None:
        """Add an answer, unless another page has answered since: then its label is not `expected` and is returned."""
        with self._whole():
            there = self._db.execute(f"{_LAST} AND reviewer = ? AND item = ?", (reviewer, item)).fetchone()
            if there and there[2] not in (None, expected, said.label):
                return str(there[2])
            if there and (there[2], there[3]) == (said.label, said.note):
                return None  # sent again, because the answer to the first time was lost
            self._insert([(item, reviewer, said.label, said.note, seconds, _now())])
        return None

    def add(self, answers: Sequence[Answer]) -> None:
        """Add imported answers, all or none."""
        with self._whole():
            self._insert([(a.item, a.reviewer, a.label, a.note, None, a.time) for a in answers])

    def _insert(self, rows: Sequence[tuple[object, ...]]) -> None:
        self._db.executemany(
            "INSERT INTO answers (item, reviewer, label, note, seconds, time) VALUES (?, ?, ?, ?, ?, ?)", rows
        )

    def undo(self, reviewer: str, items: Iterable[str]) -> str | None:
        """Take back the reviewer's last answer among `items`; return its item, or None if there is nothing to undo."""
        among = set(items)
        with self._whole():
            rows = self._db.execute(
                "SELECT seq, item FROM answers WHERE reviewer = ? AND undone = 0 ORDER BY seq DESC", (reviewer,)
            )
            last = next(((seq, item) for seq, item in rows if item in among), None)
            if last is None:
                return None
            self._db.execute("UPDATE answers SET undone = 1 WHERE seq = ?", last[:1])
            return str(last[1])

    def pace_s(self, reviewer: str) -> float | None:
        """Median seconds of the reviewer's last answers; None where there are fewer than three."""
        rows = self._db.execute(
            "SELECT seconds FROM answers WHERE reviewer = ? AND undone = 0 AND seconds IS NOT NULL "
            "ORDER BY seq DESC LIMIT ?",
            (reviewer, _PACE_ROWS),
        ).fetchall()
        return float(sorted(seconds for (seconds,) in rows)[len(rows) // 2]) if len(rows) > 2 else None


@contextmanager
def opened(path: Path = STORE) -> Iterator[ReviewStore]:
    """Open the store, and make it where there is none.

    Raises:
        UserError: the file is damaged or no store; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # the token is nobody else's
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # on the disk before the page is answered
            connection.executescript(_SCHEMA)
            yield ReviewStore(connection)
    except sqlite3.OperationalError:  # locked, full, read-only: not the file's fault
        raise
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path} can't be read ({error}): move it (and {path.name}-wal, if there is one) away to begin anew, then "
            "`llambert review import` your last export; `sqlite3 FILE .recover` may save what is in it"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
