"""Labels as they lie in a directory: names of files, columns, and what stands beside a part."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from serving.engine import Engine
from serving.records import Unusable
from serving.runtimes import Floats
from serving.schemas import Frozen, Part
from serving.shapes import Kind
from serving.targets import Target

Row = tuple[str, str]  # id, text
MANIFEST = "manifest.json"
OURS = re.compile(r"(?:part|unusable)-(\d+)\.(?:parquet|json)")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),  # probability of the label
        pa.field("abstained", pa.bool_(), nullable=False),  # confidence below min_confidence
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # in label order, as in manifest.json
        pa.field("source", pa.string(), nullable=False),
        pa.field("model_hash", pa.string(), nullable=False),
    ]
)
_EXTRA = {  # columns of other kinds than single, see `serving.shapes`
    "multi": pa.field("labels", pa.list_(pa.string()), nullable=False),  # those of `label`, one by one
    "ordinal": pa.field("score", pa.float32(), nullable=False),  # the expected place on the scale
}
_TOP = [
    pa.field("top_labels", pa.list_(pa.string()), nullable=False),  # the likeliest first
    pa.field("top_probabilities", pa.list_(pa.float32()), nullable=False),
]
_UNUSABLE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
    ]
)


def labelled(
    rows: Sequence[Row], probabilities: Floats, engine: Engine, min_confidence: float, top: int | None = None
) -> pa.Table:
    """Rows and their probabilities [n, classes] as a table of `schema`."""
    decided = engine.shape.decide(probabilities)
    columns = {
        "id": [row_id for row_id, _ in rows],
        "label": decided.labels,
        "labels": list(map(engine.shape.names, decided.labels)) if engine.shape.kind == "multi" else None,
        "score": decided.scores,
        "confidence": decided.confidence,
        "abstained": decided.confidence < np.float32(min_confidence),
        "probabilities": list(probabilities),
        "source": ["encoder"] * len(rows),
        "model_hash": [engine.model_hash] * len(rows),
    }
    if top:
        likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        columns["top_labels"] = list(np.array(engine.labels, dtype=object)[likeliest])
        columns["top_probabilities"] = list(np.take_along_axis(probabilities, likeliest, axis=1))
    wanted = schema(engine.shape.kind, top)
    return pa.table({name: columns[name] for name in wanted.names}, schema=wanted)


def schema(kind: Kind, top: int | None = None) -> pa.Schema:
    """The columns of labels of a kind; with `top` those of the likeliest labels in place of all probabilities."""
    found = SCHEMA.insert(SCHEMA.names.index("label") + 1, _EXTRA[kind]) if kind in _EXTRA else SCHEMA
    if not top:
        return found
    place = found.names.index("probabilities")
    for column in reversed(_TOP):
        found = found.insert(place + 1, column)
    return found.remove(place)


def sidecar(shard: int, target: Target) -> Part | None:
    """What stands beside a part; None if it is missing or broken."""
    try:
        return Part.model_validate_json(target.read(sidecar_name(shard)))
    except (FileNotFoundError, ValidationError):
        return None


def unusable_table(rows: Sequence[Unusable]) -> pa.Table:
    """Rows that could not be read."""
    return pa.Table.from_pylist([asdict(row) for row in rows], _UNUSABLE)


def input_hash(rows: Sequence[Row]) -> str:
    """Hash of ids and texts, each with its length in front, so that no two inputs run into the same bytes."""
    digest = hashlib.sha256()
    for row in rows:
        for value in row:
            data = value.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def part_name(shard: int) -> str:
    """The file of a shard's labels."""
    return f"part-{shard:05d}.parquet"


def sidecar_name(shard: int) -> str:
    """The file that says how they came about; its presence says that the shard is done."""
    return f"part-{shard:05d}.json"


def unusable_name(shard: int) -> str:
    """The file of a shard's rows that could not be read, with their reasons."""
    return f"unusable-{shard:05d}.parquet"


def as_parquet(table: pa.Table) -> bytes:
    """A table as a file's bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def write(target: Target, name: str, value: Frozen) -> None:
    """Write what stands beside parts."""
    target.write(name, (value.model_dump_json(indent=2) + "\n").encode())
