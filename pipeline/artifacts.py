"""Everything that one stage hands to another: its path, its row type, and how it is written (whole or not at all).

Paths are relative to the project directory, which is the working directory of a stage.
"""

import json
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from serving.files import replacing
from serving.records import Document as Document
from serving.records import Unusable as Unusable

ROWS_PER_GROUP = 10_000  # rows held in memory at a time, and in a Parquet row group


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document whose text an earlier one has."""

    id: str
    duplicate_of: str


@dataclass(frozen=True, slots=True)
class Gold:
    """A text that a person has labelled; `split` is train, validation or test."""

    id: str
    text: str
    text_hash: str
    label: str
    split: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """A text for the LLM to label; `split` is train or held_out. Estimates over the corpus want the stratum uniform."""

    id: str
    text: str
    text_hash: str
    split: str
    stratum: str = "uniform"  # or the strategy that drew it (pipeline/choosing.py), or unfinished: the budget ended
    weight: float | None = 1.0  # that makes a mean over its stratum unbiased for the corpus; null: none does
    round: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What an annotator is asked, in the order in which it is asked."""

    id: str
    text: str
    purpose: str  # sample, gold or content_free
    label: str | None  # the true one, of gold
    variant: str | None  # JSON: order of the labels, and examples, where they differ from text to text
    key: str  # of the answer in the response store


@dataclass(frozen=True, slots=True)
class Response:
    """What an annotator answered to one text. Its `key` finds it in the response store."""

    id: str
    purpose: str  # sample, gold or content_free
    key: str
    prompt_hash: str
    model: str
    decoding: str  # JSON
    answer: str | None
    log_probabilities: list[float] | None  # of each label, in label order, not normalised
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    cut: bool  # the text did not fit and lost its end, or its middle
    error: str | None  # of a request that failed: "kind: what was seen"
    variant: str | None  # as in Question


@dataclass(frozen=True, slots=True)
class Label:
    """A label that an LLM's answer was parsed to. `key` leads to the answer."""

    id: str
    label: str
    probabilities: list[float]  # in label order
    confidence: float
    split: str  # train, held_out, or gold for a text whose true label is known
    key: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An answer that gave no label, and why (one of `parsing.Reason`)."""

    id: str
    reason: str
    answer: str | None
    split: str
    key: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a candidate says of an evaluation text; `reference` is gold, or the LLM's label in the set held_out."""

    id: str
    candidate: str
    set: str  # validation, test or held_out
    reference: str
    logits: list[float]  # in label order


Row = TypeVar("Row")
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), list[float]: pa.list_(pa.float64())}


def _field(name: str, hint: Any) -> pa.Field:  # noqa: ANN401 - a type hint
    nullable = isinstance(hint, types.UnionType)
    return pa.field(name, _TYPES[get_args(hint)[0] if nullable else hint], nullable=nullable)


@dataclass(frozen=True)
class Table(Generic[Row]):
    """A Parquet file whose schema is a dataclass."""

    path: Path
    row: type[Row]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, from the dataclass's annotations."""
        hints = get_type_hints(self.row)
        return pa.schema([_field(f.name, hints[f.name]) for f in fields(self.row)])  # type: ignore[arg-type]

    def write(self, rows: Iterable[Row]) -> int:
        """Stream `rows` to the file, whole or not at all; return their number."""
        names, count = self.schema.names, 0
        with replacing(self.path) as temporary, pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
            stream = iter(rows)
            while group := list(islice(stream, ROWS_PER_GROUP)):
                columns = {name: [getattr(row, name) for row in group] for name in names}
                writer.write_table(pa.table(columns, schema=self.schema))
                count += len(group)
        return count

    def __iter__(self) -> Iterator[Row]:
        """Stream the rows."""
        self._check()
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                columns = [batch.column(name).to_pylist() for name in self.schema.names]
                yield from map(self.row, *columns)

    def _check(self) -> None:
        if not self.path.is_file():
            raise UserError(f"{self.path} does not exist: run the stages before this one first (`dvc repro`)")

    def count(self) -> int:
        """Number of rows, from the file's footer."""
        self._check()
        return int(pq.read_metadata(self.path).num_rows)


@dataclass(frozen=True)
class Json:
    """A JSON object with sorted keys."""

    path: Path

    def write(self, value: dict[str, Any]) -> None:
        """Write it whole or not at all."""
        with replacing(self.path) as temporary:
            temporary.write_text(
                json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
            )

    def read(self) -> dict[str, Any]:
        """Read it back."""
        if not self.path.is_file():
            raise UserError(f"{self.path} does not exist: run the stages before this one first (`dvc repro`)")
        value: dict[str, Any] = json.loads(self.path.read_text())
        return value


CORPUS = Table(Path("data/corpus.parquet"), Document)
DUPLICATES = Table(Path("data/duplicates.parquet"), Duplicate)
UNUSABLE = Table(Path("data/unusable.parquet"), Unusable)
GOLD = Table(Path("data/gold.parquet"), Gold)
SAMPLE = Table(Path("data/sample.parquet"), Sampled)
RESPONSES = Table(Path("data/responses.parquet"), Response)
LABELS = Table(Path("data/labels.parquet"), Label)
REJECTED = Table(Path("data/rejected.parquet"), Rejected)
TEACHER = Table(Path("data/teacher.parquet"), Label)  # the LLM's answers on gold texts
PREDICTIONS = Table(Path("data/predictions.parquet"), Prediction)
BEST = Json(Path("data/best.json"))  # the candidate that is best on validation, and its temperature
MODELS = Path("models")  # models/<candidate>/
EXPORT = Path("export")
LABELLED = Path("labels")  # part-*.parquet, sidecars, manifest.json
FINAL = Path("final")  # the same after the error target: labels of the encoder, the LLM and people
CERTIFICATE = Json(Path("certificate.json"))
ERRORS = Path("data/errors.csv")
PLOTS = Path("plots")
ROUNDS = PLOTS / "rounds.csv"
REPORT = Path("report.html")
SUMMARY = Json(Path("metrics.json"))  # the figures in short, for `dvc metrics`
STATE = Path(".llambert")  # outlives DVC's outs: response store, checkpoints, converted weights, lock
STORE = STATE / "responses.sqlite"
QUESTIONS = Table(STATE / "questions.parquet", Question)
CHECKPOINTS = STATE / "checkpoints"
LEARNT = STATE / "rounds"  # what the candidate of a round says of texts


def metrics(stage: str) -> Json:
    """The metrics of a stage."""
    return Json(Path("metrics") / f"{stage}.json")
