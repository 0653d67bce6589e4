"""Labelled shards, streamed: sums for certificates, the rows of some ids, and the beginning of the permutation."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import certifying
from pipeline.artifacts import ROWS_PER_GROUP
from pipeline.certifying import Bools, Floats, Population, Sample
from pipeline.errors import UserError
from serving.shapes import Shape

_COLUMNS = ["id", "label", "probabilities", "model_hash"]


@dataclass(slots=True)
class Rows:
    """What was met of the wanted ids: id -> (labels, probabilities, how sure); and which models gave labels."""

    wanted: Collection[str]
    found: dict[str, tuple[Bools, Floats, float]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)


def parts(directory: Path) -> list[Path]:
    """Return the shards in order.

    Raises:
        UserError: there is none.
    """
    if not (found := sorted(directory.glob("part-*.parquet"))):
        raise UserError(f"{directory} holds no labels: run `dvc repro` (or `llambert label`) first")
    return found


def survey(files: Sequence[Path], shape: Shape, wanted: Collection[str] = ()) -> tuple[Population, Rows]:
    """Read all shards once, a batch at a time.

    Raises:
        UserError: they have another label, or an id that is wanted twice.
    """
    rows = Rows(wanted)
    return certifying.add_up(_batches(files, shape, rows), len(shape.labels)), rows


def _batches(files: Sequence[Path], shape: Shape, rows: Rows) -> Iterator[tuple[Bools, Floats, Floats]]:
    wanted = pa.array(sorted(rows.wanted), pa.string())
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=_COLUMNS):
                label = batch["label"].dictionary_encode()
                distinct = label.dictionary.to_pylist()
                flat = batch["probabilities"].flatten().to_numpy(zero_copy_only=False)
                known = set(shape.labels).issuperset(name for word in distinct for name in shape.names(word))
                if not known or len(flat) != len(label) * len(shape.labels):
                    raise UserError(f"{path} has other labels than task.labels: run `dvc repro label`")
                said = shape.rows(distinct)[label.indices.to_numpy()]
                probabilities = flat.reshape(-1, len(shape.labels)).astype(float)
                sure = shape.sure(said, probabilities)
                rows.models.update(pc.unique(batch["model_hash"]).to_pylist())
                _keep(batch["id"], said, probabilities, sure, wanted, rows)
                yield said, probabilities, sure


def _keep(ids: pa.Array, said: Bools, probabilities: Floats, sure: Floats, wanted: pa.Array, rows: Rows) -> None:
    for place in np.flatnonzero(pc.is_in(ids, wanted).to_numpy(zero_copy_only=False)):
        id_ = ids[place].as_py()
        if id_ in rows.found:
            raise UserError(
                f"the id {id_!r} stands twice among the labels: gold needs ids that are unique in the corpus"
            )
        rows.found[id_] = said[place], probabilities[place], float(sure[place])


def sample(gold: dict[str, str], rows: Rows, shape: Shape) -> Sample:
    """Put gold beside what the corpus says of it. All ids must have been found."""
    order = sorted(gold)
    said, probabilities, sure = (np.array(part) for part in zip(*(rows.found[id_] for id_ in order), strict=True))
    return Sample(shape.rows([gold[id_] for id_ in order]), said, probabilities, sure)


def first(files: Sequence[Path], seed: int, count: int) -> list[str]:
    """Return the ids that begin the permutation (`gold_corpus.rank`); memory is that of `count` ids."""
    import duckdb

    query = "SELECT id FROM read_parquet(?) ORDER BY sha256(? || id) LIMIT ?"
    with duckdb.connect() as connection:
        found = connection.execute(query, [list(map(str, files)), f"{seed}/", count]).fetchall()
    return [row[0] for row in found]
