"""What the logits of a model mean: one label of several, any number of labels, or a place on a scale.

single    one of the labels; softmax, and the likeliest is the label
multi     each label applies or not; a sigmoid for each, and those that reach their thresholds are the labels
ordinal   labels in order; softmax, and beside the likeliest label a score: the expected place on the scale

A text has one label as a string in every shape: a set of labels is written as `sport|politics`, in the task's order,
and the empty set as `none`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["single", "multi", "ordinal"]
Bools = NDArray[np.bool_]
Floats = NDArray[Any]  # float32 of an engine, float64 where candidates are measured
SEPARATOR, NONE = "|", "none"  # of a set of labels, and the set without any


@dataclass(frozen=True, slots=True)
class Decision:
    """What is said of n texts."""

    labels: list[str]  # a set as one string
    confidence: Floats  # [n], of the label; of a set the probability of its least sure yes or no
    scores: Floats | None = None  # [n], on the scale of an ordinal task


@dataclass(frozen=True)
class Shape:
    """One label of several; what the others have in common with it."""

    labels: tuple[str, ...]
    temperature: float = 1.0
    kind: Kind = "single"

    def probabilities(self, logits: Floats) -> Floats:
        """[n, classes] logits to calibrated probabilities."""
        return softmax(logits / logits.dtype.type(self.temperature))

    def given(self, probabilities: Floats) -> Bools:
        """Which labels each text gets: [n, classes]."""
        best: Bools = probabilities.argmax(axis=1)[:, None] == np.arange(len(self.labels))
        return best

    def decide(self, probabilities: Floats) -> Decision:
        """[n, classes] probabilities to labels."""
        return Decision([self.labels[i] for i in probabilities.argmax(axis=1)], probabilities.max(axis=1))

    def sure(self, given: Bools, probabilities: Floats) -> Floats:
        """[n] probability that what is given to a text is right, from [n, classes] of both."""
        own: Floats = (probabilities * given).sum(axis=1)
        return own

    def flips(self, logits: Floats, reference: Floats) -> float:
        """Share of texts that get another label from `logits` than from `reference`, both [n, classes]."""
        ours, theirs = (self.given(self.probabilities(some)) for some in (logits, reference))
        return float((ours != theirs).any(axis=1).mean())

    def names(self, label: str) -> list[str]:
        """The labels that a text's label, as one string, consists of."""
        return [label]

    def knows(self, label: str) -> bool:
        """Whether a text may have this label, as one string."""
        names = set(self.names(label))
        return names.issubset(self.labels) and (self.kind != "multi" or label == self.written(names))

    def rows(self, labels: Sequence[str]) -> Bools:
        """Labels of texts, each as one string, as [n, classes]."""
        sets = [set(self.names(label)) for label in labels]
        given = [[name in names for name in self.labels] for names in sets]
        return np.array(given, dtype=bool).reshape(len(labels), len(self.labels))

    def written(self, names: Collection[str]) -> str:
        """A set of labels as one string, in the task's order."""
        return joined(self.labels, [name in names for name in self.labels])


class Ordinal(Shape):
    """Labels in order. Numbers stand where they say on the scale, other labels at 1, 2, 3, ..."""

    def decide(self, probabilities: Floats) -> Decision:
        """The likeliest label, and the expected value as score."""
        likeliest = super().decide(probabilities)
        scores: Floats = (probabilities @ scale(self.labels)).astype(np.float32)
        return Decision(likeliest.labels, likeliest.confidence, scores)


@dataclass(frozen=True)
class Multi(Shape):
    """Labels that apply or don't, each on its own."""

    kind: Kind = "multi"
    thresholds: tuple[float, ...] = ()  # of each label; none: 0.5 for all

    def probabilities(self, logits: Floats) -> Floats:
        """[n, classes] logits to calibrated probabilities, which don't sum to 1."""
        return sigmoid(logits / logits.dtype.type(self.temperature))

    def given(self, probabilities: Floats) -> Bools:
        """Which labels reach their threshold: [n, classes]."""
        least = np.array(self.thresholds or [0.5] * len(self.labels), dtype=np.float32)
        reached: Bools = probabilities >= least
        return reached

    def decide(self, probabilities: Floats) -> Decision:
        """The labels that reach their thresholds."""
        given = self.given(probabilities)
        confidence = np.where(given, probabilities, 1 - probabilities).min(axis=1)
        return Decision([joined(self.labels, row) for row in given], confidence)

    def sure(self, given: Bools, probabilities: Floats) -> Floats:
        """[n] that each yes and no is right, as if they were independent."""
        each: Floats = np.where(given, probabilities, 1 - probabilities).prod(axis=1)
        return each

    def names(self, label: str) -> list[str]:
        """The labels of a set."""
        return [] if label == NONE else label.split(SEPARATOR)


def of(kind: Kind, labels: Sequence[str], temperature: float = 1.0, thresholds: Sequence[float] | None = None) -> Shape:
    """The shape of a task or a model."""
    if kind == "multi":
        return Multi(tuple(labels), temperature, thresholds=tuple(thresholds or ()))
    return (Ordinal if kind == "ordinal" else Shape)(tuple(labels), temperature, kind)


def joined(labels: Sequence[str], given: Bools | Collection[bool]) -> str:
    """A set of labels as one string."""
    return SEPARATOR.join(label for label, yes in zip(labels, given, strict=True) if yes) or NONE


def scale(labels: Sequence[str]) -> Floats:
    """Where each label of an ordinal task stands: at its own number if all are numbers, else at 1, 2, 3, ..."""
    try:
        places = [float(label) for label in labels]
    except ValueError:
        places = [float(i + 1) for i in range(len(labels))]
    return np.array(places, dtype=np.float32)


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: Floats) -> Floats:
    """The logistic function, safe for large values."""
    powers = np.exp(-np.abs(logits))
    probabilities: Floats = np.where(logits >= 0, 1, powers) / (1 + powers)
    return probabilities
