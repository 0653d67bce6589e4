"""The options of `drift INPUT`. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare and how.

    Parameters
    ----------
    model
        Directory of an exported model.
    precision
        fp32, int8, fp16 or bf16. None: the one that params.yaml labels with, else int8, else what there is.
    texts
        Drawn uniformly from INPUT, at most.
    output
        Directory for drift.json and drift.html.
    alpha
        Share of false alarms, over all measures together.
    min_psi
        A smaller distance is not called drift, however sure it is.
    embeddings
        Compare the encoder's embeddings too, where its project is here.
    fail
        Exit with 1 where there is drift.
    text_column
        Name of the column with the text.
    id_column
        Name of the column with the id.
    ids_from_text
        There is no id: take a hash of the text.
    format
        auto goes by the names of the files.
    """

    model: Path = Path("export")
    precision: Literal["fp32", "int8", "fp16", "bf16"] | None = None
    texts: int = 2000
    output: Path = Path("drift")
    alpha: float = 0.05
    min_psi: float = 0.1
    embeddings: Annotated[bool, Parameter(negative="--no-embeddings")] = True
    fail: bool = False
    text_column: str = "text"
    id_column: str = "id"
    ids_from_text: bool = False
    format: Literal["auto", "csv", "jsonl", "parquet", "text", "hf"] = "auto"
