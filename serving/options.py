"""The options of `label INPUT OUTPUT`, for the command lines of both halves. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

INDEX, OF = "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"  # environment of a Kubernetes Indexed Job


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """How to label, beside input and output.

    Parameters
    ----------
    model
        Directory of an exported model.
    precision
        fp32, int8, fp16 or bf16; it must be among those that were exported.
    runtime
        auto takes the fastest that is installed and proves itself; all workers get the same.
    text_column
        Name of the column with the text.
    id_column
        Name of the column with the id.
    ids_from_text
        There is no id: take a hash of the text.
    format
        auto goes by the names of the files.
    split
        Of a Hugging Face dataset directory.
    workers
        Processes (or Ray actors) that share the cores.
    executor
        local: this machine; ray: the cluster of RAY_ADDRESS, or a local one.
    index
        This worker labels every `of`-th shard from here. Kubernetes sets it in an Indexed Job.
    of
        Number of such workers.
    shard_rows
        Rows of a part; the unit of work that a kill can cost.
    min_confidence
        Below it a row is marked as abstained.
    max_batch_tokens
        Bound on a batch, padding included.
    max_chars
        Longest text that is taken.
    price_per_hour
        Of one machine, for --plan.
    """

    model: Path | None = None
    precision: Literal["fp32", "int8", "fp16", "bf16"] = "int8"
    runtime: Literal["auto", "onnxruntime", "openvino", "torch"] = "auto"
    text_column: str = "text"
    id_column: str = "id"
    ids_from_text: bool = False
    format: Literal["auto", "csv", "jsonl", "parquet", "text", "hf"] = "auto"
    split: str | None = None
    workers: int = 1
    executor: Literal["local", "ray"] = "local"
    index: Annotated[int | None, Parameter(env_var=INDEX)] = None
    of: Annotated[int | None, Parameter(env_var=OF)] = None
    shard_rows: int = 10_000
    min_confidence: float = 0.0
    max_batch_tokens: int = 8192
    max_chars: int = 100_000
    price_per_hour: float = 0.10
