"""A row as it stands in a source, the columns that are asked for, and the reasons why a row can't be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serving.errors import UserError

_OPTIONS = {"path": "INPUT", "text": "--text-column", "id": "--id-column", "format": "--format", "split": "--split"}


def setting(key: str, field: str) -> str:
    """How a user knows a field of a source: below `key` in params.yaml, or as an option where `key` is empty."""
    return f"{key}.{field}" if key else _OPTIONS.get(field, field)


class Reason(StrEnum):
    """Why a row can't be used. `Unusable.reason` begins with one of these; details may follow."""

    EMPTY = "empty text"
    ENCODING = "invalid UTF-8"
    MALFORMED = "malformed row"
    NOT_TEXT = "not text"
    TOO_LONG = "too long"
    NO_ID = "missing id"
    ID_USED = "id already used"
    DUPLICATE = "duplicate of"
    ROW_GROUP = "broken row group"

    @classmethod
    def of(cls, reason: str) -> "Reason":
        """Find the reason that a written one begins with."""
        return next(kind for kind in cls if reason.startswith(kind))


@dataclass(frozen=True, slots=True)
class Record:
    """A row before any check; values have the type that the format gives them (text may be bytes)."""

    source: str
    row: int  # line of a CSV or JSONL file, row of others, from 1
    id: object
    text: object
    label: object = None
    fault: str | None = None  # the row can't be read; `text` is then what is there of it


@dataclass(frozen=True, slots=True)
class Document:
    """A usable text of the corpus. Equal `text_hash` means equal text up to white space."""

    id: str
    text: str
    text_hash: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that could not be used: where it stood and why."""

    source: str
    row: int  # line of a CSV or JSONL file, row of a Parquet file, both from 1
    reason: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a source is asked for; `key` is where params.yaml names them (see `setting`)."""

    key: str
    text: str
    id: str | None
    label: str | None

    @property
    def names(self) -> list[str]:
        """Their distinct names."""
        return list(dict.fromkeys(name for name in (self.text, self.id, self.label) if name is not None))

    def require(self, there: Sequence[str], name: str) -> None:
        """Raise a UserError unless all of them are among those that are `there`."""
        for field, column in (("text", self.text), ("id", self.id), ("label", self.label)):
            if column is not None and column not in there:
                null = f"set {self.key}.id: null" if self.key else "give --ids-from-text"
                hint = f"; or {null} to make ids from content" if field == "id" else ""
                where = setting(self.key, field)
                raise UserError(
                    f"{name} has no column {column!r} ({where}); it has {', '.join(map(repr, there))}: "
                    f"name the right one in {where}{hint}"
                )

    def record(self, name: str, row: int, values: dict[str, Any]) -> Record:
        """Take what is asked for out of a row."""
        identity = None if self.id is None else values.get(self.id)
        return Record(name, row, identity, values.get(self.text), self.label and values.get(self.label))
