"""Phases whose targets come from models of our own. Pure: knows neither encoders nor files.

self_trained  the teacher labels texts that nobody labelled; where it is sure, the student learns its probabilities
              beside the labels that there are (Scudder 1965; Xie et al. 2020, arXiv 1911.04252)
distilled     cross-fitting: the labels are cut into folds, and models that haven't learnt a fold say what they think of
              its texts; the student learns the mean of that and the label, so that a label which all that was learnt
              elsewhere contradicts says little (Dao et al. 2021, arXiv 2104.09732). An LLM's errors are systematic:
              what the models share with it no student unlearns.

The student starts from the encoder anew, and learns gold after that where there is gold.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.params import Student
from pipeline.training import Examples, Floats, Phase

_DIGITS = 4  # of taught targets, so that a killed run that asks its teacher again gets the same ones


def folds(texts: Sequence[str], count: int) -> npt.NDArray[np.int64]:
    """The fold (texts,) of each text, by its hash: equal texts stay together."""
    return np.array(
        [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % count for text in texts], dtype=np.int64
    )


def without(phases: Sequence[Phase], chosen: npt.NDArray[np.bool_]) -> list[Phase]:
    """The phases of a model that doesn't learn the `chosen` texts (texts,) of the first one."""
    first, *later = phases
    return [Phase(first.name, first.train.where(~chosen), first.validation), *later]


def self_trained(
    phases: Sequence[Phase], rest: Sequence[str], opinion: Floats, sure: Floats, student: Student
) -> list[Phase]:
    """The student's phases.

    Args:
        phases: the teacher's.
        rest: unlabelled texts.
        opinion: (rest, labels) the teacher's probabilities.
        sure: (rest,) the probability of what it would say of each text.
        student: what is sure enough.
    """
    first, *later = phases
    believed = Examples(list(rest), np.round(opinion, _DIGITS)).where(sure >= student.min_confidence)
    return [Phase("self_trained", first.train + believed, first.validation), *later]


def distilled(
    phases: Sequence[Phase], opinion: Floats, rest: Sequence[str], of_rest: Floats, student: Student
) -> list[Phase]:
    """The student's phases.

    Args:
        phases: the teachers', which have a fold of the first phase left out.
        opinion: (texts of the first phase, labels) mean probabilities that models without the text give.
        rest: unlabelled texts.
        of_rest: (rest, labels) mean probabilities of all models.
        student: the weight of a text's own label.
    """
    first, *later = phases
    targets = student.label_weight * first.train.targets + (1 - student.label_weight) * opinion
    learnt = Examples(first.train.texts + list(rest), np.round(np.concatenate([targets, of_rest]), _DIGITS))
    return [Phase("distilled", learnt, first.validation), *later]
