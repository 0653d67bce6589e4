"""An audit of labels that are there: every file, every row, every id; and, with the input at hand, every text.

Nothing is believed: parts are read and hashed again. Memory stays flat; hashes of ids wait in temporary files.
"""

import hashlib
import io
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from serving import jobs, layout, shapes
from serving.errors import UserError
from serving.jobs import Settings
from serving.layout import MANIFEST, part_name, sidecar_name, unusable_name
from serving.reading import shards
from serving.repeating import RepeatedIds
from serving.schemas import Labelled, Part
from serving.targets import Target, open_target

_SHOWN = 20


@dataclass
class Audit:
    """What was found so far."""

    target: Target
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def wrong(self, problem: str) -> None:
        """One more thing that must not be."""
        self.problems.append(problem)


def verify(place: str | Path, settings: Settings | None = None) -> str:
    """Audit the labels in a place, against the input if `settings` name one.

    Returns:
        What is there, in a sentence or two.

    Raises:
        UserError: something is wrong; all that is wrong is listed.
    """
    target = open_target(place)
    names = set(target.names())
    manifest = _manifest(target, names)
    audit = Audit(target)
    ours = map(layout.OURS.fullmatch, names | manifest.parts.keys())
    count = max((int(match[1]) for match in ours if match), default=-1) + 1
    totals: Counter[str] = Counter()
    inputs: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as scratch, RepeatedIds(Path(scratch)) as ids:
        for shard in range(count):
            part = _shard(shard, names, manifest, audit, ids)
            if part is not None:
                inputs[shard] = part.input
                totals.update(part.counts)
                totals.update({" abstained": part.abstained, " unusable": part.unusable})
        _repeated_inputs(inputs, audit)
        _repeated_ids(ids, count, manifest, audit)
    _sums(manifest, totals, audit)
    if settings is not None:
        _against_input(settings, inputs, audit)
    return _report(audit, manifest)


def _manifest(target: Target, names: set[str]) -> Labelled:
    if not any(layout.OURS.fullmatch(name) for name in names) and MANIFEST not in names:
        raise UserError(f"{target.name} holds no labels")
    try:
        return Labelled.model_validate_json(target.read(MANIFEST))
    except FileNotFoundError:
        raise UserError(
            f"{target.name} has no {MANIFEST}: the labelling is not finished; run it again, or --finish"
        ) from None
    except ValidationError:
        raise UserError(f"{MANIFEST} in {target.name} can't be read: run the labelling again") from None


def _shard(shard: int, names: set[str], manifest: Labelled, audit: Audit, ids: RepeatedIds) -> Part | None:
    """Check the files of a shard; its sidecar, if that can be read."""
    name, beside = part_name(shard), sidecar_name(shard)
    part = layout.sidecar(shard, audit.target) if beside in names else None
    if beside not in names:
        audit.wrong(f"{beside} is missing")
    elif part is None:
        audit.wrong(f"{beside} can't be read")
    if name not in manifest.parts:
        audit.wrong(f"{name} is not in {MANIFEST}")
    if name not in names:
        audit.wrong(f"{name} is missing")
        return part
    data = audit.target.read(name)
    wanted = {manifest.parts.get(name), part and part.file} - {None}
    if wanted != {hashlib.sha256(data).hexdigest()}:
        audit.wrong(f"{name} was altered: its hash is not the one that {beside} and {MANIFEST} name")
    rows = _rows(name, data, manifest, audit)
    audit.rows += len(rows)
    ids.add(rows)
    if part is not None:
        _beside(shard, part, len(rows), names, manifest, audit)
    return part


def _rows(name: str, data: bytes, manifest: Labelled, audit: Audit) -> list[str]:
    """The ids of a part."""
    try:
        table = pq.read_table(io.BytesIO(data), columns=["id", "label", "model_hash"])
    except (pa.ArrowException, OSError) as error:
        audit.wrong(f"{name} can't be read: {' '.join(str(error).split())}")
        return []
    if strange := set(table["model_hash"].unique().to_pylist()) - {manifest.model_hash}:
        audit.wrong(f"{name} holds labels of another model ({', '.join(sorted(strange))[:8]}…)")
    names = shapes.of(manifest.kind, manifest.labels).names
    said = {name for label in table["label"].unique().to_pylist() for name in names(label)}
    if strange := said - set(manifest.labels):
        audit.wrong(f"{name} holds unknown labels: {', '.join(sorted(strange))}")
    ids: list[str] = table["id"].to_pylist()
    return ids


def _beside(shard: int, part: Part, rows: int, names: set[str], manifest: Labelled, audit: Audit) -> None:
    """Check a sidecar against its part and the manifest."""
    beside = sidecar_name(shard)
    if part.shard != shard:
        audit.wrong(f"{beside} is that of shard {part.shard}")
    if part.rows != rows:
        audit.wrong(f"{part_name(shard)} has {rows:,} rows, {beside} says {part.rows:,}")
    for key in ("model_hash", "precision", "runtime", "min_confidence", "top"):
        if getattr(part, key) != getattr(manifest, key):
            audit.wrong(f"{beside} is of another {key} ({getattr(part, key)}) than {MANIFEST}")
    if part.unusable and unusable_name(shard) not in names:
        audit.wrong(f"{unusable_name(shard)} is missing")


def _repeated_inputs(inputs: dict[int, str], audit: Audit) -> None:
    first: dict[str, int] = {}
    for shard, digest in inputs.items():
        if (other := first.setdefault(digest, shard)) != shard:
            audit.wrong(f"{part_name(shard)} holds the same rows as {part_name(other)}")


def _repeated_ids(ids: RepeatedIds, count: int, manifest: Labelled, audit: Audit) -> None:
    """Ids that stand more than once. Hashes of 64 bits find them; the ids themselves decide."""
    repeated = ids.found(count, audit.target)
    if not repeated:
        return
    name, where = next(iter(repeated.items()))
    files = f"{part_name(where[0])} and {part_name(where[1])}"
    shown = f"{len(repeated):,} ids stand more than once, such as {name!r} in {files}"
    if manifest.made_ids:
        audit.notes.append(f"{shown}: the input has equal texts")
    else:
        audit.wrong(f"{shown}: the input has them more than once, or rows were copied")


def _sums(manifest: Labelled, totals: Counter[str], audit: Audit) -> None:
    if audit.rows != manifest.rows:
        audit.wrong(f"there are {audit.rows:,} rows, {MANIFEST} says {manifest.rows:,}")
    wanted = {**manifest.counts, " abstained": manifest.abstained, " unusable": manifest.unusable}
    if any(totals[name] != number for name, number in wanted.items()):
        audit.wrong(f"the sidecars' counts of labels do not add up to those of {MANIFEST}")


def _against_input(settings: Settings, inputs: dict[int, str], audit: Audit) -> None:
    """Every row of the input must stand in its shard."""
    job = jobs.written(audit.target)
    if job is None:
        raise UserError(f"{audit.target.name} has no {jobs.JOB}: leave out the input to verify it by itself")
    count = 0
    for shard, records in shards(settings.input, "", job.shard_rows, lambda _: True):
        count = shard + 1
        rows, _ = jobs.judged(records or [], job)
        if inputs.get(shard) not in (layout.input_hash(rows), None):
            audit.wrong(
                f"{part_name(shard)} was made from other texts or ids than rows {shard * job.shard_rows + 1:,} "
                f"and following of {settings.input.path}"
            )
    if count != len(inputs):
        audit.wrong(f"{settings.input.path} has {count:,} shards, {audit.target.name} has {len(inputs):,}")


def _report(audit: Audit, manifest: Labelled) -> str:
    if audit.problems:
        shown = "\n".join(f"  - {problem}" for problem in audit.problems[:_SHOWN])
        more = f"\n  and {len(audit.problems) - _SHOWN:,} more" if len(audit.problems) > _SHOWN else ""
        raise UserError(
            f"{audit.target.name} is not as it should be:\n{shown}{more}\nRun the same labelling again: it does what "
            "is missing or damaged"
        )
    lines = [
        f"{audit.target.name} is complete: {audit.rows:,} rows in {len(manifest.parts):,} parts, all hashes right, "
        f"one model ({manifest.model_hash[:8]}…, {manifest.precision} of {manifest.runtime})"
    ]
    if manifest.unusable:
        lines.append(f"{manifest.unusable:,} rows of the input could not be used; unusable-*.parquet says why")
    return "\n".join([*lines, *audit.notes])
