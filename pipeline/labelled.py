"""The labelled corpus, part by part: what the encoder said, joined by id with the texts."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import CORPUS, LABELLED, Document
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.scoring import Floats
from serving import corpus


def documents(params: Params) -> Iterator[Document]:
    """What the stage `label` labels, in its order."""
    if params.label.corpus is None:
        rows = iter(CORPUS)
    else:
        read = corpus.read(params.label.corpus, params.ingest.max_chars, "label.corpus")
        rows = (row for row in read if isinstance(row, Document))
    return islice(rows, params.label.max_rows)


def parts() -> list[Path]:
    """Finished parts of `labels/`, in order.

    Raises:
        UserError: the corpus is not labelled, or only partly.
    """
    if not (LABELLED / "manifest.json").is_file():
        raise UserError(f"{LABELLED} is not complete: run `dvc repro label` first")
    return sorted(LABELLED.glob("part-*.parquet"))


def rows() -> int:
    """How many texts are labelled."""
    return sum(int(pq.read_metadata(path).num_rows) for path in parts())


def joined(params: Params) -> Iterator[tuple[Path, pa.Table, list[Document]]]:
    """Each part with its texts.

    Raises:
        UserError: the corpus is another one than that which was labelled.
    """
    texts = documents(params)
    for path in parts():
        table = pq.read_table(path)
        found = list(islice(texts, table.num_rows))
        if [document.id for document in found] != table["id"].to_pylist():
            raise UserError(f"{path} holds labels of another corpus: run `dvc repro label` first")
        yield path, table, found


def probabilities(table: pa.Table) -> Floats:
    """(rows, labels) of a part."""
    column = table["probabilities"].combine_chunks()
    values: Floats = column.flatten().to_numpy().reshape(table.num_rows, -1).astype(np.float64)
    return values
