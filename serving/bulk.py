"""A corpus to labels, shard by shard; kill it at any moment and run it again.

`part-<shard>.parquet` is written whole, then its sidecar `part-<shard>.json`, and `manifest.json` when all shards are
there. A shard counts as done when its sidecar names the same texts, model, precision, runtime and threshold, and the
hash of the part beside it: so a restart is a listing, nothing is done twice, and parts come out byte for byte the same.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from serving.engine import Engine
from serving.files import replacing, sha256
from serving.progress import progress
from serving.runtimes import Floats
from serving.schemas import Frozen, Labelled, Part

Row = tuple[str, str]  # id, text
MANIFEST = "manifest.json"
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


def run(
    rows: Iterable[Row], engine: Engine, directory: Path, *, shard_rows: int, total: int, min_confidence: float = 0.0
) -> list[Part]:
    """Label `rows` (about `total` of them) into `directory`, `shard_rows` at a time; one such run at a time.

    Returns:
        The sidecars of all shards, those done by an earlier run among them.

    Raises:
        UserError: the disk is full or can't be written; what is there stays, and the next run goes on from it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    _remove(directory.glob(".*.tmp"))  # of killed runs
    parts: list[Part] = []
    stream: Iterator[tuple[int, list[Row]]] = enumerate(_chunks(rows, shard_rows))
    for shard, chunk in stream:
        if not (part := finished(shard, chunk, engine, directory, min_confidence)):
            stream = chain([(shard, chunk)], stream)
            break
        parts.append(part)
    with progress("label", total, done=sum(part.rows for part in parts)) as advance:
        for shard, chunk in stream:
            part = finished(shard, chunk, engine, directory, min_confidence)
            if part:
                advance(part.rows)
            parts.append(part or label_shard(shard, chunk, engine, directory, min_confidence, advance))
    _finish(parts, engine, directory, min_confidence)
    return parts


def label_shard(
    shard: int,
    rows: Sequence[Row],
    engine: Engine,
    directory: Path,
    min_confidence: float = 0.0,
    advance: Callable[[int], object] | None = None,
) -> Part:
    """Label one shard and publish it. Depends on its arguments alone, so any worker may do any shard, even twice."""
    start, tokens = time.monotonic(), engine.tokens
    table = labelled(rows, engine.classify([text for _, text in rows], advance), engine, min_confidence)
    with replacing(_parquet(directory, shard)) as temporary:
        pq.write_table(table, temporary, compression="zstd")
        digest = sha256(temporary)
    part = Part(
        shard=shard,
        input=input_hash(rows),
        model_hash=engine.model_hash,
        precision=engine.precision,
        runtime=engine.runtime,
        min_confidence=min_confidence,
        file=digest,
        rows=len(rows),
        tokens=engine.tokens - tokens,
        abstained=sum(table["abstained"].to_pylist()),
        counts=_counts(engine.labels, table["label"].to_pylist()),
        seconds=round(time.monotonic() - start, 3),
    )
    _write(_sidecar(directory, shard), part)
    return part


def labelled(rows: Sequence[Row], probabilities: Floats, engine: Engine, min_confidence: float) -> pa.Table:
    """Rows and their probabilities [n, classes] as a table of `SCHEMA`."""
    confidence = probabilities.max(axis=1)
    columns = {
        "id": [row_id for row_id, _ in rows],
        "label": [engine.labels[i] for i in probabilities.argmax(axis=1)],
        "confidence": confidence,
        "abstained": confidence < np.float32(min_confidence),
        "probabilities": list(probabilities),
        "source": ["encoder"] * len(rows),
        "model_hash": [engine.model_hash] * len(rows),
    }
    return pa.table(columns, schema=SCHEMA)


def finished(shard: int, rows: Sequence[Row], engine: Engine, directory: Path, min_confidence: float) -> Part | None:
    """The sidecar of a shard that is done with exactly these texts and this model, else None."""
    try:
        part = Part.model_validate_json(_sidecar(directory, shard).read_bytes())
        file = sha256(_parquet(directory, shard))
    except (FileNotFoundError, ValidationError):
        return None
    wanted = (shard, input_hash(rows), engine.model_hash, engine.precision, engine.runtime, min_confidence, file)
    given = (
        part.shard,
        part.input,
        part.model_hash,
        part.precision,
        part.runtime,
        part.min_confidence,
        part.file,
    )
    return part if given == wanted else None


def input_hash(rows: Sequence[Row]) -> str:
    """Hash of ids and texts, each with its length in front, so that no two inputs run into the same bytes."""
    digest = hashlib.sha256()
    for row in rows:
        for value in row:
            data = value.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _finish(parts: Sequence[Part], engine: Engine, directory: Path, min_confidence: float) -> None:
    """Remove the parts of an earlier, longer run, then say that the directory is complete."""
    named = {path(directory, part.shard) for part in parts for path in (_parquet, _sidecar)}
    if surplus := sorted({*directory.glob("part-*.parquet"), *directory.glob("part-*.json")} - named):
        logging.getLogger("llambert").info("removed %d files of an earlier run from %s", len(surplus), directory)
        _remove(surplus)
    manifest = Labelled(
        labels=list(engine.labels),
        model_hash=engine.model_hash,
        precision=engine.precision,
        runtime=engine.runtime,
        min_confidence=min_confidence,
        rows=sum(part.rows for part in parts),
        abstained=sum(part.abstained for part in parts),
        counts={label: sum(part.counts[label] for part in parts) for label in engine.labels},
        parts={_parquet(directory, part.shard).name: part.file for part in parts},
    )
    _write(directory / MANIFEST, manifest)


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    stream = iter(rows)
    while chunk := list(islice(stream, size)):
        yield chunk


def _counts(labels: Sequence[str], given: Iterable[str]) -> dict[str, int]:
    counts = Counter(given)
    return {label: counts[label] for label in labels}


def _parquet(directory: Path, shard: int) -> Path:
    return directory / f"part-{shard:05d}.parquet"


def _sidecar(directory: Path, shard: int) -> Path:
    return directory / f"part-{shard:05d}.json"


def _write(path: Path, value: Frozen) -> None:
    with replacing(path) as temporary:
        temporary.write_text(value.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
