"""From rows to documents: every row of a source becomes one document, or is unusable with its reason."""

from collections.abc import Iterator
from hashlib import blake2b

from serving.locating import Source
from serving.reading import records
from serving.records import Document, Reason, Record, Unusable

_EXCERPT = 80  # characters


def read(source: Source, max_chars: int, key: str = "ingest.corpus") -> Iterator[Document | Unusable]:
    """Stream a source: documents, and what could not be used. Repeated ids and texts are not looked for.

    Args:
        source: where the rows are.
        max_chars: longest text that is taken.
        key: where params.yaml describes the source; messages name it.

    Raises:
        UserError: the source as a whole can't be read (see `reading.records`).
    """
    for record in records(source, key):
        yield check(record, max_chars, made_ids=source.id is None)


def check(record: Record, max_chars: int, *, made_ids: bool) -> Document | Unusable:
    """Judge a row. With `made_ids` its id is the hash of its text."""
    text = record.text.decode("utf-8", "surrogateescape") if isinstance(record.text, bytes) else record.text
    identity = _identity(record.id)
    reason = record.fault or _text_fault(text, max_chars) or (None if made_ids else _id_fault(identity))
    if reason is not None or not isinstance(text, str):
        return Unusable(record.source, record.row, reason or Reason.NOT_TEXT, excerpt(text))
    digest = text_hash(text)
    return Document(digest if made_ids else identity, text, digest)


def text_hash(text: str) -> str:
    """128 bits of BLAKE2b in hex, of the text with its white space collapsed: equal for texts equal up to it."""
    return blake2b(" ".join(text.split()).encode(), digest_size=16).hexdigest()


def excerpt(value: object) -> str:
    """Show the beginning of a value in at most 80 printable characters."""
    shown = "" if value is None else " ".join(str(value)[: 4 * _EXCERPT].split())[:_EXCERPT]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def _text_fault(text: object, max_chars: int) -> str | None:
    if text is None:
        return Reason.EMPTY
    if not isinstance(text, str):
        return f"{Reason.NOT_TEXT}: {type(text).__name__}"
    if not text.strip():
        return Reason.EMPTY
    if len(text) > max_chars:
        return f"{Reason.TOO_LONG}: {len(text)} characters where {max_chars} are taken"
    return None if _is_unicode(text) else Reason.ENCODING


def _identity(value: object) -> str:
    """Return an id as a string, empty if the value is no id."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value if value.strip() else ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _id_fault(identity: str) -> str | None:
    if not identity:
        return Reason.NO_ID
    return None if _is_unicode(identity) else f"{Reason.ENCODING} in the id"


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written: surrogates stand for bytes that were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
