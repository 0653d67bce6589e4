"""What a candidate is trained on: recipes turn LLM labels and gold into phases of texts with target probabilities.

llm           the LLM's labels
gold          what people labelled
combined      the LLM's labels, then gold (Csanady et al. 2024, arXiv 2403.15938)
mixed         both in one phase
weak_strong   the LLM's labels, then those that a stronger LLM gave to fewer texts (`train.strong`)
self_trained  what the candidate itself says of unlabelled texts, beside the labels (pipeline/teaching.py)
distilled     what models that haven't learnt a text say of it, beside its label (pipeline/teaching.py)
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import Gold, Label
from pipeline.errors import UserError
from serving import shapes
from serving.shapes import Kind

Floats = npt.NDArray[np.float64]
TAUGHT = ("self_trained", "distilled")  # recipes whose last phases need a teacher of our own first


@dataclass(frozen=True)
class Examples:
    """Texts with the probability of each label: targets (texts, labels); rows sum to 1, but for kind multi."""

    texts: list[str]
    targets: Floats

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: "Examples") -> "Examples":
        return Examples(self.texts + other.texts, np.concatenate([self.targets, other.targets]))

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """Those that are `chosen` (texts,)."""
        return Examples([text for text, keep in zip(self.texts, chosen, strict=True) if keep], self.targets[chosen])


@dataclass(frozen=True)
class Phase:
    """One pass of fine-tuning: what to learn, and what decides when to stop."""

    name: str
    train: Examples
    validation: Examples


@dataclass(frozen=True)
class Data:
    """All labelled texts of a project."""

    labels: list[str]
    texts: dict[str, str]  # of the sample, by id
    llm: list[Label]
    gold: list[Gold]
    strong: list[Gold] = field(default_factory=list)  # what a stronger LLM labelled, none of it evaluation texts
    rest: list[str] = field(default_factory=list)  # texts that nobody labelled
    kind: Kind = "single"

    def phases(self, recipe: str, soft: bool) -> list[Phase]:
        """The phases of a recipe; of one that is `TAUGHT` those of its teacher.

        Raises:
            UserError: there are no texts for it, or all have one label.
        """
        llm = ("llm", self._llm("train", soft), self._llm("held_out", soft))
        gold = ("gold", self._gold("train"), self._gold("validation"))
        strong = ("strong", self._people(self.strong), llm[2])
        mixed = ("mixed", llm[1] + gold[1], gold[2])
        taught = [llm, gold] if len(gold[1]) else [llm]
        wanted = {
            "llm": [llm], "gold": [gold], "combined": [llm, gold], "mixed": [mixed], "weak_strong": [llm, strong],
            "self_trained": taught, "distilled": taught,
        }[recipe]  # fmt: skip
        for name, train, validation in wanted:
            if not len(train) or not len(validation):
                raise UserError(f"recipe '{recipe}' has {len(train)} {name} texts to train on and {len(validation)} to "
                                "validate on: raise sample.size, or give more gold")  # fmt: skip
            if len(np.unique(shapes.of(self.kind, self.labels).given(train.targets), axis=0)) < 2:
                raise UserError(
                    f"recipe '{recipe}': all {len(train)} {name} texts have one label; one class teaches nothing"
                )
        return [Phase(*parts) for parts in wanted]

    def _llm(self, split: str, soft: bool) -> Examples:
        rows = [row for row in self.llm if row.split == split]
        targets = np.array([row.probabilities for row in rows]) if soft else self._one_hot([row.label for row in rows])
        return Examples([self.texts[row.id] for row in rows], targets.reshape(-1, len(self.labels)))

    def _gold(self, split: str) -> Examples:
        return self._people([row for row in self.gold if row.split == split])

    def _people(self, rows: Sequence[Gold]) -> Examples:
        return Examples([row.text for row in rows], self._one_hot([row.label for row in rows]))

    def _one_hot(self, names: Sequence[str]) -> Floats:
        """1 for each label that a text has; of kind multi, there may be several or none."""
        return shapes.of(self.kind, self.labels).rows(names).astype(float)


def class_weights(targets: Floats) -> Floats:
    """Inverse frequency of each label, 1 on average over the texts: (labels,)."""
    share = targets.mean(axis=0)
    weights: Floats = 1 / np.maximum(share * len(share), 1e-3)
    return weights


def fingerprint(start: str, phase: Phase, settings: dict[str, Any]) -> str:
    """24 hex digits over all that decides a phase's result: where it starts, its texts and targets, the settings."""
    digest = hashlib.sha256(json.dumps([start, phase.name, settings], sort_keys=True).encode())
    for examples in (phase.train, phase.validation):
        digest.update(json.dumps(examples.texts).encode())
        digest.update(np.ascontiguousarray(examples.targets).tobytes())
    return digest.hexdigest()[:24]
