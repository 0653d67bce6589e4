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
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Self

from serving import layout
from serving.engine import Engine
from serving.layout import Row
from serving.precisions import PrecisionName, RuntimeName
from serving.progress import progress
from serving.records import Unusable
from serving.runtimes import Floats
from serving.schemas import Labelled, Part
from serving.shapes import Kind
from serving.targets import Directory, Target


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
    target.remove([layout.MANIFEST])
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
    table = layout.labelled(rows, scored.probabilities, engine, min_confidence, top)
    data = layout.as_parquet(table)
    if unusable:
        target.write(layout.unusable_name(shard), layout.as_parquet(layout.unusable_table(unusable)))
    target.write(layout.part_name(shard), data)
    part = Part(
        shard=shard,
        input=layout.input_hash(rows),
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
    layout.write(target, layout.sidecar_name(shard), part)
    return part


def finished(shard: int, rows: Sequence[Row], labeller: Labeller, target: Target, unusable: int = 0) -> Part | None:
    """The sidecar of a shard that is done with exactly these texts and this model, else None."""
    part = layout.sidecar(shard, target)
    if part is None or not labeller.gave(part):
        return None
    if (part.shard, part.input, part.unusable) != (shard, layout.input_hash(rows), unusable):
        return None
    try:
        file = hashlib.sha256(target.read(layout.part_name(shard))).hexdigest()
    except FileNotFoundError:
        return None
    return part if part.file == file else None


def finish(tally: Tally, labeller: Labeller, target: Target, *, made_ids: bool = False) -> None:
    """Remove the parts of an earlier, longer run, then say that the directory is complete."""
    named = {name(shard) for shard in tally.files for name in (layout.part_name, layout.sidecar_name)}
    named |= {layout.unusable_name(shard) for shard in tally.with_unusable}
    if surplus := [name for name in target.names() if layout.OURS.fullmatch(name) and name not in named]:
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
        parts={layout.part_name(shard): file for shard, file in sorted(tally.files.items())},
        unusable=tally.unusable,
        made_ids=made_ids,
        kind=labeller.kind,
        top=labeller.top,
    )
    layout.write(target, layout.MANIFEST, manifest)


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
