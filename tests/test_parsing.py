"""From an answer to a label, or to the reason why there is none. What answers say is tested in test_answers.py."""

import numpy as np
import pytest

from pipeline.params import Parse, Task
from pipeline.parsing import Reason, TextParser, from_probabilities

TASK = Task(
    name="reviews",
    criterion="Is it good?",
    labels={"negative": ["bad", "0"], "positive": ["good"], "mixed": []},
)


@pytest.mark.parametrize("label", TASK.names)
def test_a_label_named_is_certain(label: str) -> None:
    verdict = TextParser(TASK).parse(f"The review is {label}.")
    assert (verdict.label, verdict.reason, verdict.confidence) == (label, None, 1.0)
    assert verdict.probabilities == [float(name == label) for name in TASK.names]


@pytest.mark.parametrize(
    ("answer", "finish_reason", "reason"),
    [
        (None, "missing", Reason.MISSING),
        (None, "stop", Reason.MISSING),
        (None, "error", Reason.FAILED),
        (None, "content_filter", Reason.FILTERED),
        ("neutral", "stop", Reason.NO_LABEL),
    ],
)
def test_a_rejection_has_a_reason_and_no_probabilities(answer: str | None, finish_reason: str, reason: Reason) -> None:
    verdict = TextParser(TASK).parse(answer, finish_reason)
    assert (verdict.label, verdict.reason, verdict.probabilities, verdict.confidence) == (None, reason, [], 0.0)


def test_the_first_of_equal_labels_wins_and_unsure_ones_are_rejected() -> None:
    half = from_probabilities(np.array([0.2, 0.4, 0.4]), TASK, Parse())
    assert (half.label, half.confidence, half.probabilities) == ("positive", 0.4, [0.2, 0.4, 0.4])
    assert from_probabilities(np.array([0.2, 0.4, 0.4]), TASK, Parse(min_confidence=0.4)).label == "positive"
    unsure = from_probabilities(np.array([0.2, 0.4, 0.4]), TASK, Parse(min_confidence=0.41))
    assert (unsure.label, unsure.reason, unsure.probabilities) == (None, Reason.UNSURE, [0.2, 0.4, 0.4])
