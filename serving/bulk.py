"""A corpus to labels, shard by shard; kill it at any moment and run it again.

`part-<shard>.parquet` is written whole, then its sidecar `part-<shard>.json`, and `manifest.json` when all shards are
there. A shard counts as done when its sidecar names the same texts, model, precision, runtime and threshold, and the
hash of the part beside it: so a restart is a listing, nothing is done twice, and parts come out byte for byte the same.
"""

import hashlib
import io
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from serving.engine import Engine
from serving.precisions import PrecisionName, RuntimeName
from serving.progress import progress
from serving.records import Unusable
from serving.runtimes import Floats
from serving.schemas import Frozen, Labelled, Part
from serving.shapes import Kind
from serving.targets import Directory, Target

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


@dataclass(frozen=True, slots=True)
class Labeller:
    """All that decides about a label besides the text."""

    labels: tuple[str, ...]
    model_hash: str
    precision: PrecisionName
    runtime: RuntimeName
    min_confidence: float
    kind: Kind = "single"
    top: int | None = None  # likeliest labels whose probabilities are written; all if None

    @classmethod
    def of(cls, engine: Engine, min_confidence: float, top: int | None = None) -> Self:
        """An engine and the threshold below which a row is marked as abstained."""
        model = engine.model_hash, engine.precision, engine.runtime
        return cls(engine.labels, *model, min_confidence, engine.shape.kind, top)

    def gave(self, part: Part) -> bool:
        """Whether a shard was labelled by exactly this one."""
        given = (part.model_hash, part.precision, part.runtime, part.min_confidence, part.top)
        return given == (self.model_hash, self.precision, self.runtime, self.min_confidence, self.top)


@dataclass
class Tally:
    """The sums of finished shards; of each shard itself only the hash of its file is kept."""

    rows: int = 0
    abstained: int = 0
    unusable: int = 0
    tokens: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    files: dict[int, str] = field(default_factory=dict)  # shard -> hash of its part
    with_unusable: set[int] = field(default_factory=set)

    def add(self, part: Part) -> None:
        """One more shard; one that was added before counts once."""
        if part.shard in self.files:
            return
        self.files[part.shard] = part.file
        for name in ("rows", "abstained", "unusable", "tokens", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.counts.update(part.counts)
        if part.unusable:
            self.with_unusable.add(part.shard)


def run(
    rows: Iterable[Row],
    engine: Engine,
    directory: Path,
    *,
    shard_rows: int,
    total: int,
    min_confidence: float = 0.0,
    top: int | None = None,
) -> list[Part]:
    """Label `rows` (about `total` of them) into `directory`, `shard_rows` at a time; one such run at a time.

    Returns:
        The sidecars of all shards, those done by an earlier run among them.

    Raises:
        UserError: the disk is full or can't be written; what is there stays, and the next run goes on from it.
    """
    target, labeller = Directory(directory), Labeller.of(engine, min_confidence, top)
    target.remove([MANIFEST])
    target.sweep()
    parts: list[Part] = []
    stream: Iterator[tuple[int, list[Row]]] = enumerate(_chunks(rows, shard_rows))
    for shard, chunk in stream:
        if not (part := finished(shard, chunk, labeller, target)):
            stream = chain([(shard, chunk)], stream)
            break
        parts.append(part)
    with progress("label", total, done=sum(part.rows for part in parts)) as advance:
        for shard, chunk in stream:
            part = finished(shard, chunk, labeller, target)
            if part:
                advance(part.rows)
            parts.append(part or label_shard(shard, chunk, engine, target, min_confidence, advance=advance, top=top))
    tally = Tally()
    for part in parts:
        tally.add(part)
    finish(tally, labeller, target)
    return parts


def label_shard(
    shard: int,
    rows: Sequence[Row],
    engine: Engine,
    target: Target,
    min_confidence: float = 0.0,
    unusable: Sequence[Unusable] = (),
    advance: Callable[[int], object] | None = None,
    top: int | None = None,
) -> Part:
    """Label one shard and publish it. Depends on its arguments alone, so any worker may do any shard, even twice."""
    return publish(shard, rows, score(rows, engine, advance), engine, target, min_confidence, unusable, top)


class Scored(NamedTuple):
    """What the engine made of a shard."""

    probabilities: Floats  # [rows, classes]
    tokens: int  # real ones
    seconds: float


def score(rows: Sequence[Row], engine: Engine, advance: Callable[[int], object] | None = None) -> Scored:
    """The first half of labelling a shard."""
    start, before = time.monotonic(), engine.tokens
    probabilities = engine.classify([text for _, text in rows], advance)
    return Scored(probabilities, engine.tokens - before, time.monotonic() - start)


def publish(
    shard: int,
    rows: Sequence[Row],
    scored: Scored,
    engine: Engine,
    target: Target,
    min_confidence: float,
    unusable: Sequence[Unusable],
    top: int | None = None,
) -> Part:
    """The other half. Asks the engine for its name only: any thread may do it while the engine works on."""
    start = time.monotonic()
    table = labelled(rows, scored.probabilities, engine, min_confidence, top)
    data = _parquet(table)
    if unusable:
        target.write(unusable_name(shard), _parquet(pa.Table.from_pylist([asdict(u) for u in unusable], _UNUSABLE)))
    target.write(part_name(shard), data)
    part = Part(
        shard=shard,
        input=input_hash(rows),
        model_hash=engine.model_hash,
        precision=engine.precision,
        runtime=engine.runtime,
        min_confidence=min_confidence,
        file=hashlib.sha256(data).hexdigest(),
        rows=len(rows),
        tokens=scored.tokens,
        abstained=sum(table["abstained"].to_pylist()),
        counts=_counts(engine, table["label"].to_pylist()),
        seconds=round(scored.seconds + time.monotonic() - start, 3),
        unusable=len(unusable),
        top=top,
    )
    _write(target, sidecar_name(shard), part)
    return part


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


def finished(shard: int, rows: Sequence[Row], labeller: Labeller, target: Target, unusable: int = 0) -> Part | None:
    """The sidecar of a shard that is done with exactly these texts and this model, else None."""
    part = sidecar(shard, target)
    if part is None or not labeller.gave(part):
        return None
    if (part.shard, part.input, part.unusable) != (shard, input_hash(rows), unusable):
        return None
    try:
        file = hashlib.sha256(target.read(part_name(shard))).hexdigest()
    except FileNotFoundError:
        return None
    return part if part.file == file else None


def sidecar(shard: int, target: Target) -> Part | None:
    """What stands beside a part; None if it is missing or broken."""
    try:
        return Part.model_validate_json(target.read(sidecar_name(shard)))
    except (FileNotFoundError, ValidationError):
        return None


def finish(tally: Tally, labeller: Labeller, target: Target, *, made_ids: bool = False) -> None:
    """Remove the parts of an earlier, longer run, then say that the directory is complete."""
    named = {name(shard) for shard in tally.files for name in (part_name, sidecar_name)}
    named |= {unusable_name(shard) for shard in tally.with_unusable}
    if surplus := [name for name in target.names() if OURS.fullmatch(name) and name not in named]:
        logging.getLogger("llambert").info("removed %d files of an earlier run from %s", len(surplus), target.name)
        target.remove(surplus)
    manifest = Labelled(
        labels=list(labeller.labels),
        model_hash=labeller.model_hash,
        precision=labeller.precision,
        runtime=labeller.runtime,
        min_confidence=labeller.min_confidence,
        rows=tally.rows,
        abstained=tally.abstained,
        counts={label: tally.counts[label] for label in labeller.labels},
        parts={part_name(shard): file for shard, file in sorted(tally.files.items())},
        unusable=tally.unusable,
        made_ids=made_ids,
        kind=labeller.kind,
        top=labeller.top,
    )
    _write(target, MANIFEST, manifest)


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


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    stream = iter(rows)
    while chunk := list(islice(stream, size)):
        yield chunk


def _counts(engine: Engine, given: Iterable[str]) -> dict[str, int]:
    """Rows of each label; a row of several counts for each."""
    counts: Counter[str] = Counter()
    for label, rows in Counter(given).items():
        counts.update(dict.fromkeys(engine.shape.names(label), rows))
    return {label: counts[label] for label in engine.labels}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _write(target: Target, name: str, value: Frozen) -> None:
    target.write(name, (value.model_dump_json(indent=2) + "\n").encode())
