"""What is written beside a model and beside its labels: strict, frozen, and checked when read back."""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from serving.precisions import PrecisionName, RuntimeName
from serving.shapes import Kind

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Frozen(BaseModel):
    """Strict, frozen, no unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Graph(Frozen):
    """The model in one precision for one runtime, and how far it is from torch in fp32 on real texts."""

    files: Annotated[dict[str, Sha256], Field(min_length=1)]  # see `serving.runtimes.files`
    bytes: Count
    flips: Share  # texts whose label differs
    max_difference: Annotated[float, Field(ge=0)]  # of logits


class Manifest(Frozen):
    """Everything that gives a label besides the text. `model_hash` covers all of it; an edited manifest is refused."""

    candidate: str
    labels: Annotated[list[str], Field(min_length=2)]  # the order of every probability vector
    max_tokens: Annotated[int, Field(gt=2)]
    truncation: Literal["head", "head_tail", "windows"]
    pad_id: Count
    temperature: Annotated[float, Field(gt=0)]  # logits are divided by it
    tokenizer: Sha256
    golden: Sha256
    drift: Sha256 | None = None  # of drift.json, which older models don't have
    precisions: Annotated[dict[PrecisionName, dict[RuntimeName, Graph]], Field(min_length=1)]
    parity_texts: Count
    created_with: dict[str, str]  # library -> version
    kind: Kind = "single"  # what logits mean, see `serving.shapes`
    thresholds: list[Share] | None = None  # of each label of kind multi; null: 0.5
    model_hash: Sha256 = ""

    @property
    def common(self) -> dict[str, Sha256]:
        """The files that all precisions and runtimes share, and their hashes."""
        files = {"tokenizer.json": self.tokenizer, "golden.parquet": self.golden}
        return files if self.drift is None else files | {"drift.json": self.drift}

    @model_validator(mode="before")
    @classmethod
    def _sealed(cls, values: object) -> object:
        if isinstance(values, dict) and "model_hash" not in values:
            return {**values, "model_hash": _hash(values)}
        return values

    @model_validator(mode="after")
    def _untouched(self) -> Self:
        if self.model_hash != _hash(self.model_dump()):
            raise ValueError("model_hash does not fit the rest: the manifest was edited")
        if self.thresholds is not None and (self.kind != "multi" or len(self.thresholds) != len(self.labels)):
            raise ValueError("thresholds are for kind multi, one for each label")
        return self


class Registered(Frozen):
    """Under what name a model was fetched from a registry."""

    name: str
    version: str
    model_hash: Sha256  # of the manifest beside it
    metrics: dict[str, float]  # of its run


class Part(Frozen):
    """A labelled shard: what went in, what gave the labels, what came out. Beside it as `part-<shard>.json`."""

    shard: Count
    input: Sha256  # of ids and texts
    model_hash: Sha256
    precision: PrecisionName
    runtime: RuntimeName
    min_confidence: Share
    file: Sha256  # of the Parquet file
    rows: Count
    tokens: Count  # real ones, without padding
    abstained: Count
    counts: dict[str, Count]  # label -> rows
    seconds: Annotated[float, Field(ge=0)]  # that the labelling took
    unusable: Count = 0  # rows of the shard that could not be read; they stand in unusable-<shard>.parquet
    top: Annotated[int, Field(gt=0)] | None = None  # likeliest labels whose probabilities are written; null: all


class Labelled(Frozen):
    """`manifest.json` of a labelled corpus; it is there only while the directory is complete."""

    labels: list[str]
    model_hash: Sha256
    precision: PrecisionName
    runtime: RuntimeName
    min_confidence: Share
    rows: Count
    abstained: Count
    counts: dict[str, Count]
    parts: dict[str, Sha256]  # file name -> hash of the file
    unusable: Count = 0
    made_ids: bool = False  # ids are hashes of texts: equal texts share one
    kind: Kind = "single"
    top: Annotated[int, Field(gt=0)] | None = None


def _hash(values: dict[str, object]) -> str:
    """Hash of the fields that decide about labels; figures, versions, golden texts and drift.json may differ."""
    precisions = TypeAdapter(dict[PrecisionName, dict[RuntimeName, Graph]]).validate_python(values["precisions"])
    files = {name: {runtime: graph.files for runtime, graph in p.items()} for name, p in precisions.items()}
    names: tuple[str, ...] = ("labels", "max_tokens", "truncation", "pad_id", "tokenizer")
    if values.get("kind", "single") != "single":  # older manifests have none of these
        names += ("kind", "thresholds")
    temperature = float(values["temperature"])  # type: ignore[arg-type]
    decisive = {name: values.get(name) for name in names} | {"files": files, "temperature": temperature}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
