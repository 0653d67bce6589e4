"""certificate.json: what is known of the labels beside it. Strict, frozen, without dates: reruns are equal."""

from typing import Annotated

from pydantic import Field

from serving.schemas import Count, Frozen, Sha256, Share
from serving.shapes import Kind

METHODS = {
    "classical": "Clopper-Pearson interval of the gold alone",
    "ppi": "PPI++ with power tuning (arXiv 2311.01453), Korn-Graubard interval at the effective sample size",
}
ASSUMPTIONS = [
    "The gold ids begin a seeded permutation of the corpus (checked), so they are a uniform draw without replacement.",
    "The gold labels are right: where people err, that error is the labels' error here.",
    "Neither the model nor any label of the corpus was made from these gold labels.",
    "Intervals hold one at a time; all of them at once hold less often.",
]


class Range(Frozen):
    """A share with its interval."""

    value: Share
    low: Share
    high: Share


class Estimate(Frozen):
    """A figure by both methods."""

    gold: Count  # texts that it rests on
    classical: Range
    ppi: Range
    tuning: Share  # lambda: how far the probabilities are believed
    effective_gold: Annotated[float, Field(ge=0)]  # texts that the classical interval would need to be as narrow


class ClassCertificate(Frozen):
    """Figures of one label; null where no gold text tells of it."""

    rows: Count  # of the corpus that have it
    precision: Estimate | None
    recall: Estimate | None
    prevalence: Estimate | None


class Certified(Frozen):
    """All figures."""

    accuracy: Estimate
    per_class: dict[str, ClassCertificate]


class Certificate(Certified):
    """The file."""

    certifies: str  # directory of the labels
    kind: Kind = "single"  # multi: a text counts as right where all of its labels are
    rows: Count
    gold: Count
    confidence_level: Share
    seed: Count  # of the permutation
    gold_hash: Sha256  # of the ids and labels used
    model_hashes: list[Sha256]
    methods: dict[str, str] = METHODS
    assumptions: list[str] = ASSUMPTIONS
