"""Remove a language model's own preference for a label from its log-probabilities, where that helps."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline import scoring
from pipeline.params import Parse
from pipeline.scoring import Floats
from serving.shapes import softmax

_ENOUGH = 20  # gold texts; fewer decide nothing


@dataclass(frozen=True)
class Calibration:
    """A shift of each label's log-probability: (labels,)."""

    method: str
    shift: Floats
    log_loss: dict[str, float] = field(default_factory=dict)  # on gold by method, where gold decided

    def __call__(self, log_probabilities: Floats) -> Floats:
        """(texts, labels) log-probabilities to probabilities."""
        return softmax(log_probabilities + self.shift)


@dataclass(frozen=True)
class Scores:
    """Log-probabilities, not normalised: (texts, labels)."""

    sample: Floats
    content_free: Floats  # of prompts without content
    gold: Floats
    truth: Sequence[str]  # label of each row of `gold`


def calibrate(scores: Scores, params: Parse, labels: Sequence[str]) -> Calibration:
    """The shift that params ask for; `auto` takes the one with the lowest log loss on gold.

    Contextual calibration divides by the mean answer to content-free prompts (Zhao et al. 2021, arXiv 2102.09690),
    batch calibration by the mean answer over the sample (Zhou et al. 2023, arXiv 2309.17249); both in log space, and
    both assume the share of each label in the corpus. They may help or hurt: `auto` is none where there are fewer than
    20 gold texts, or none is as good. Log loss decides, not accuracy: fifty texts tell few methods apart by counting,
    and the encoder learns probabilities.
    """
    if params.calibration != "auto":
        return Calibration(params.calibration, _shift(params.calibration, scores, params, labels))
    if len(scores.truth) < _ENOUGH:
        return Calibration("none", np.zeros(len(labels)))
    truth = np.array([labels.index(label) for label in scores.truth])
    shifts = {method: _shift(method, scores, params, labels) for method in ("none", "batch", "contextual")}
    losses = {method: scoring.log_loss(scores.gold + shift, truth) for method, shift in shifts.items()}
    best = min(losses, key=lambda method: losses[method])  # the first of equals: none, if nothing is better
    return Calibration(best, shifts[best], losses)


def _shift(method: str, scores: Scores, params: Parse, labels: Sequence[str]) -> Floats:
    seen = {"batch": scores.sample, "contextual": scores.content_free}.get(method)
    if seen is None or not len(seen):
        return np.zeros(len(labels))
    share = params.prior or {label: 1 / len(labels) for label in labels}
    prior = np.log([max(share[label], 1e-9) for label in labels])
    shift: Floats = prior - np.log(softmax(seen).mean(axis=0))
    return shift
