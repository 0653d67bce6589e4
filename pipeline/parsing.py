"""From answers to labels: log-probabilities or text become a label with a confidence, or a rejection with a reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from pipeline.params import Parse, Task

Floats = npt.NDArray[np.float64]
_AROUND = "'\"`.*_! "  # what may stand around an answer that is nothing but a label
# In front of a label, at most three words away. Better an answer rejected than a label that says the contrary.
_NEGATION = re.compile(
    r"(?:\b(?:not|never|neither|nor|hardly|cannot|without|far from)|n't)\s+(?:\w+\s+){0,3}$|\b(?:no\s+|non-)$"
)


class Reason(StrEnum):
    """Why an answer gave no label."""

    MISSING = "no answer"
    EMPTY = "empty answer"
    NO_LABEL = "no label named"
    SEVERAL = "several labels named"
    NEGATED = "label negated"
    UNSURE = "confidence below parse.min_confidence"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A label with the probabilities of all labels (in order), or a reason why there is none."""

    label: str | None
    probabilities: list[float]
    reason: Reason | None = None

    @property
    def confidence(self) -> float:
        """The probability of the label."""
        return max(self.probabilities, default=0.0)


class TextParser:
    """Finds the one label that an answer names, by its name or a synonym, whatever stands around it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._owner = {_plain(word): label for label, words in task.labels.items() for word in [label, *words]}
        longest_first = sorted(self._owner, key=len, reverse=True)
        self._words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def parse(self, answer: str | None) -> Verdict:
        """Free text to a verdict; a label that is named is certain."""
        if answer is None:
            return Verdict(None, [], Reason.MISSING)
        text = _plain(answer)
        if not text.strip(_AROUND):
            return Verdict(None, [], Reason.EMPTY)
        if whole := self._owner.get(text.strip(_AROUND)):
            return self._certain(whole)
        matches = list(self._words.finditer(text))
        named = {self._owner[match.group()] for match in matches}
        if not named:
            return Verdict(None, [], Reason.NO_LABEL)
        if len(named) > 1:
            return Verdict(None, [], Reason.SEVERAL)
        if any(_NEGATION.search(text[: match.start()]) for match in matches):
            return Verdict(None, [], Reason.NEGATED)
        return self._certain(named.pop())

    def _certain(self, label: str) -> Verdict:
        return Verdict(label, [float(name == label) for name in self._task.names])


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


def from_probabilities(probabilities: Floats, task: Task, params: Parse) -> Verdict:
    """(labels,) probabilities to a verdict; the first of equal labels wins."""
    values = [float(p) for p in probabilities]
    verdict = Verdict(task.names[int(np.argmax(probabilities))], values)
    if verdict.confidence < params.min_confidence:
        return Verdict(None, values, Reason.UNSURE)
    return verdict


def calibrate(log_probabilities: Floats, content_free: Floats, params: Parse, labels: Sequence[str]) -> "Calibration":
    """The shift that removes the language model's own preference for a label.

    Args:
        log_probabilities: (texts, labels) of the sample, not normalised.
        content_free: (prompts, labels) of prompts without content; used by contextual calibration only.
        params: method and the assumed share of each label in the corpus.
        labels: in the order of the columns.

    Returns:
        Contextual calibration divides by the mean answer to content-free prompts (Zhao et al. 2021, arXiv 2102.09690),
        batch calibration by the mean answer over the sample (Zhou et al. 2023, arXiv 2309.17249); both in log space.
    """
    share = params.prior or {label: 1 / len(labels) for label in labels}
    prior = np.log([max(share[label], 1e-9) for label in labels])
    if params.calibration == "none":
        return Calibration(np.zeros(len(labels)))
    seen = content_free if params.calibration == "contextual" else log_probabilities
    return Calibration(prior - np.log(softmax(seen).mean(axis=0)))


@dataclass(frozen=True)
class Calibration:
    """A shift of each label's log-probability: (labels,)."""

    shift: Floats

    def __call__(self, log_probabilities: Floats) -> Floats:
        """(texts, labels) log-probabilities to probabilities."""
        return softmax(log_probabilities + self.shift)


def softmax(logits: Floats) -> Floats:
    """Along the last axis, safe for large values."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return total
