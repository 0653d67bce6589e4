"""Arrow streams in and out, for clients in bulk. What comes in is not trusted.

A stream may claim lengths that it does not have, point outside of itself, or grow a thousandfold when it is
decompressed or its dictionaries are applied. So: one column of plain strings, no compression, every offset checked.
"""

import struct
from collections.abc import Iterator, Mapping

import pyarrow as pa
from flatbuffers import table

from serving.runtimes import Floats
from serving.shapes import Shape
from serving.web.intake import Refused

_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError, struct.error, IndexError)
_HEADER, _COMPRESSION = 8, 10  # offsets of these fields in vtables of Message and RecordBatch (Arrow's Message.fbs)


def texts_of(body: bytes, max_texts: int) -> list[str]:
    """The column `text` of a stream.

    Raises:
        Refused: it is no intact stream, or has something else than that column.
    """
    try:
        texts = list(_texts(body, max_texts))
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise Refused(400, f"the body is no intact Arrow stream: {reason}", field="body") from None
    if not texts:
        raise Refused(422, "the stream has no rows", field="text")
    return texts


def _texts(body: bytes, max_texts: int) -> Iterator[str]:
    _check_messages(body, max_texts)
    with pa.ipc.open_stream(body) as reader:
        _check_schema(reader.schema)
        rows = 0
        for batch in reader:
            rows += batch.num_rows
            if rows > max_texts:
                message = f"there are more than {max_texts} texts, which is what one request may have"
                raise Refused(422, message, field="text", limit=max_texts)
            batch.validate(full=True)  # offsets may point anywhere
            column = batch.column(0)
            if column.null_count:
                raise Refused(422, "a text is null", field="text")
            yield from column.to_pylist()


def _check_messages(body: bytes, max_texts: int) -> None:
    """Refuse compressed batches before anything is decompressed, and streams of endless empty batches."""
    batches = 0
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type == "dictionary":
            raise Refused(422, "dictionaries are not read: send plain strings", field="text")
        if message.type == "record batch":
            batches += 1
            if _compressed(message.metadata.to_pybytes()):
                raise Refused(422, "compressed batches are not read: write them without compression", field="body")
            if batches > max_texts:
                raise Refused(422, f"there are more than {max_texts} batches", field="body", limit=max_texts)


def _compressed(metadata: bytes) -> bool:
    """Whether the header of a record batch names a codec; Arrow has checked the flatbuffer."""
    message = table.Table(metadata, int.from_bytes(metadata[:4], "little"))
    header = message.Indirect(message.Pos + message.Offset(_HEADER))
    return bool(table.Table(metadata, header).Offset(_COMPRESSION))


def _check_schema(schema: pa.Schema) -> None:
    plain = [field for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    if schema.names != ["text"] or len(plain) != 1:
        raise Refused(422, "the stream must have one column, 'text', of the type string or large_string", field="text")


def answer(probabilities: Floats, shape: Shape, about: Mapping[str, str]) -> bytes:
    """A stream with label, confidence and probabilities (in the order of the metadata's `labels`) of each text.

    Of kind multi there is a list of labels beside the label, of kind ordinal a score.
    """
    decided = shape.decide(probabilities)
    columns = {
        "label": pa.array(decided.labels, pa.string()),
        "confidence": pa.array(decided.confidence),
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), len(shape.labels)),
    }
    if shape.kind == "multi":
        columns["labels"] = pa.array(list(map(shape.names, decided.labels)), pa.list_(pa.string()))
    if decided.scores is not None:
        columns["score"] = pa.array(decided.scores)
    batch = pa.RecordBatch.from_pydict(columns, metadata=dict(about))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
