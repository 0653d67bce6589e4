"""The options of `label INPUT OUTPUT`, for the command lines of both halves. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from serving.cores import THREADS
from serving.errors import UserError

INDEX, OF = "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"  # environment of a Kubernetes Indexed Job


def _number(_: object, tokens: Sequence[Token]) -> int | None:
    """A variable that is empty counts as not set, as in the service."""
    return int(tokens[0].value) if tokens[0].value else None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do and how, beside input and output.

    Parameters
    ----------
    verify
        Audit finished labels: `label --verify OUTPUT`, or with INPUT row by row; in a project alone, its own.
    plan
        Say how many rows and tokens there are, and what they will take, before labelling.
    finish
        Write manifest.json if all shards are there.
    restart
        Remove the labels in OUTPUT first, of whatever model.
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
    threads
        Of the matrix products, of all workers of a machine together; as many as the process may use if not given.
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
    top
        Write the probabilities of so many likeliest labels only, with their names; all in label order if not given.
    max_batch_tokens
        Bound on a batch, padding included.
    max_chars
        Longest text that is taken.
    price_per_hour
        Of one machine, for --plan.
    """

    verify: bool = False
    plan: bool = False
    finish: bool = False
    restart: bool = False
    model: Path | None = None
    precision: Literal["fp32", "int8", "fp16", "bf16"] = "int8"
    runtime: Literal["auto", "onnxruntime", "openvino", "torch"] = "auto"
    text_column: str = "text"
    id_column: str = "id"
    ids_from_text: bool = False
    format: Literal["auto", "csv", "jsonl", "parquet", "text", "hf"] = "auto"
    split: str | None = None
    workers: int = 1
    threads: Annotated[int | None, Parameter(env_var=THREADS, converter=_number)] = None
    executor: Literal["local", "ray"] = "local"
    index: Annotated[int | None, Parameter(env_var=INDEX)] = None
    of: Annotated[int | None, Parameter(env_var=OF)] = None
    shard_rows: int = 10_000
    min_confidence: float = 0.0
    top: int | None = None
    max_batch_tokens: int = 8192
    max_chars: int = 100_000
    price_per_hour: float = 0.10

    @property
    def another_task(self) -> bool:
        """Whether something else than labelling is asked for."""
        return self.verify or self.plan or self.finish or self.restart

    def __post_init__(self) -> None:
        if self.verify + self.plan + self.finish + self.restart > 1:
            raise UserError("--verify, --plan, --finish and --restart exclude each other: give one")
