"""Labelled shards, streamed: sums for certificates, the rows of some ids, and the beginning of the permutation."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import certifying
from pipeline.artifacts import ROWS_PER_GROUP
from pipeline.certifying import Floats, Ints, Population, Sample
from pipeline.errors import UserError

_COLUMNS = ["id", "label", "probabilities", "model_hash"]


@dataclass(slots=True)
class Rows:
    """What was met of the wanted ids: id -> (label index, probabilities); and which models gave labels."""

    wanted: Collection[str]
    found: dict[str, tuple[int, npt.NDArray[np.float64]]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)


def parts(directory: Path) -> list[Path]:
    """Return the shards in order.

    Raises:
        UserError: there is none.
    """
    if not (found := sorted(directory.glob("part-*.parquet"))):
        raise UserError(f"{directory} holds no labels: run `dvc repro` (or `llambert label`) first")
    return found


def survey(files: Sequence[Path], labels: Sequence[str], wanted: Collection[str] = ()) -> tuple[Population, Rows]:
    """Read all shards once, a batch at a time.

    Raises:
        UserError: they have another label, or an id that is wanted twice.
    """
    rows = Rows(wanted)
    return certifying.add_up(_batches(files, labels, rows), len(labels)), rows


def _batches(files: Sequence[Path], labels: Sequence[str], rows: Rows) -> Iterator[tuple[Ints, Floats]]:
    names, wanted = pa.array(labels), pa.array(sorted(rows.wanted), pa.string())
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=_COLUMNS):
                said = pc.index_in(batch["label"], names)
                flat = batch["probabilities"].flatten().to_numpy(zero_copy_only=False)
                if said.null_count or len(flat) != len(said) * len(labels):
                    raise UserError(f"{path} has other labels than task.labels: run `dvc repro label`")
                indices = said.to_numpy().astype(np.int64)
                probabilities = flat.reshape(-1, len(labels)).astype(float)
                rows.models.update(pc.unique(batch["model_hash"]).to_pylist())
                _keep(batch["id"], indices, probabilities, wanted, rows)
                yield indices, probabilities


def _keep(ids: pa.Array, said: Ints, probabilities: Floats, wanted: pa.Array, rows: Rows) -> None:
    for place in np.flatnonzero(pc.is_in(ids, wanted).to_numpy(zero_copy_only=False)):
        id_ = ids[place].as_py()
        if id_ in rows.found:
            raise UserError(
                f"the id {id_!r} stands twice among the labels: gold needs ids that are unique in the corpus"
            )
        rows.found[id_] = int(said[place]), probabilities[place]


def sample(gold: dict[str, str], rows: Rows, labels: Sequence[str]) -> Sample:
    """Put gold beside what the corpus says of it. All ids must have been found."""
    order = sorted(gold)
    index = {label: i for i, label in enumerate(labels)}
    return Sample(
        truth=np.array([index[gold[id_]] for id_ in order], np.int64),
        said=np.array([rows.found[id_][0] for id_ in order], np.int64),
        probabilities=np.array([rows.found[id_][1] for id_ in order]),
    )


def first(files: Sequence[Path], seed: int, count: int) -> list[str]:
    """Return the ids that begin the permutation (`gold_corpus.rank`); memory is that of `count` ids."""
    import duckdb

    query = "SELECT id FROM read_parquet(?) ORDER BY sha256(? || id) LIMIT ?"
    with duckdb.connect() as connection:
        found = connection.execute(query, [list(map(str, files)), f"{seed}/", count]).fetchall()
    return [row[0] for row in found]
