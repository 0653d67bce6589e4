"""What goes in and comes out over HTTP; the OpenAPI document is made of these."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from serving.schemas import Frozen
from serving.shapes import Kind


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


_ONE = {"type": "string"}
_MANY = {"type": "array", "items": {"type": "string"}, "minItems": 1}


class Texts(Frozen):
    """One text, or a list of them."""

    texts: Annotated[
        list[str],
        BeforeValidator(_listed),
        Field(min_length=1),
        WithJsonSchema({"title": "Texts", "anyOf": [_ONE, _MANY], "examples": [["A fine film.", "Dull."]]}),
    ]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Result(_Answer):
    """What the model says of a text."""

    label: str  # of kind multi several, joined by |, or "none"
    confidence: Annotated[float, Field(ge=0, le=1)]  # the label's probability; of several that of the least sure one
    probabilities: dict[str, float]  # of every label, to six digits
    labels: list[str] | None = None  # of kind multi alone
    score: float | None = None  # of kind ordinal alone: the expected place on the scale


class ModelVersion(_Answer):
    """Which model it was."""

    name: str
    version: str | None  # in the registry; null for a directory
    model_hash: str


class Results(_Answer):
    """One result for each text, in their order."""

    model: ModelVersion
    results: list[Result]


class Limits(_Answer):
    """What a request may have."""

    texts: int
    chars: int
    body_bytes: int


class Model(ModelVersion):
    """What is known of the model that answers."""

    labels: list[str]
    kind: Kind  # single, multi or ordinal
    thresholds: list[float] | None  # of kind multi: probabilities from which labels are given; null: 0.5
    precision: str
    runtime: str
    max_tokens: int  # of a text; what is beyond is cut as `truncation` says
    truncation: str
    temperature: float
    files: dict[str, str]  # SHA-256 of each
    flips: float  # of texts whose label differs from torch's in fp32, measured at export
    max_difference: float  # of logits, likewise
    created_with: dict[str, str]
    metrics: dict[str, float]  # of the run in MLflow; empty for a directory
    limits: Limits


class Error(_Answer):
    """Why there are no labels."""

    field: str | None  # that is wrong
    message: str
    limit: int | None


class ErrorBody(_Answer):
    """The body of every answer that is not 200."""

    error: Error
