"""From an answer to a label, or to the reason why there is none. What answers say is tested in test_answers.py."""

import numpy as np
import pytest

from pipeline.params import Parse, Task
from pipeline.parsing import Floats, Reason, TextParser, calibrate, from_probabilities, softmax

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


def scores(prefers: list[float], texts: int = 4000) -> tuple[Floats, Floats]:
    """(texts, 3) log-probabilities of a model that prefers some labels, and the true labels (texts,)."""
    random = np.random.default_rng(3)
    truth = random.integers(0, 3, size=texts)
    return random.normal(size=(texts, 3)) + 3 * np.eye(3)[truth] + prefers - 40, truth


def test_batch_calibration_removes_a_preference() -> None:
    seen, truth = scores([0, 4, -2])
    plain = calibrate(seen, np.zeros((1, 3)), Parse(), TASK.names)(seen)
    calibrated = calibrate(seen, np.zeros((1, 3)), Parse(calibration="batch"), TASK.names)(seen)
    np.testing.assert_allclose(plain, softmax(seen))
    assert (plain.argmax(1) == truth).mean() < 0.6
    assert (calibrated.argmax(1) == truth).mean() > 0.75
    np.testing.assert_allclose(calibrated.sum(1), 1)


def test_batch_calibration_is_the_formula_of_the_paper() -> None:
    seen, _ = scores([0, 1, -1], texts=5)
    probabilities = np.exp(seen) / np.exp(seen).sum(1, keepdims=True)
    expected = probabilities / probabilities.mean(0)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(calibrate(seen, seen[:1], Parse(calibration="batch"), TASK.names)(seen), expected)
    shifted = seen + np.arange(5)[:, None]  # log-probabilities are not normalised: a shift of a row means nothing
    np.testing.assert_allclose(calibrate(shifted, seen[:1], Parse(calibration="batch"), TASK.names)(shifted), expected)


def test_the_prior_is_by_label_and_calibration_reaches_it() -> None:
    prior = {"mixed": 0.0, "positive": 0.9, "negative": 0.1}
    seen, _ = scores([0, 4, -2])
    blank = np.array([[-3.0, -1.0, -2.0]])
    contextual = calibrate(seen, blank, Parse(calibration="contextual", prior=prior), TASK.names)
    np.testing.assert_allclose(contextual(blank), [[0.1, 0.9, 0]], atol=1e-8)
    skewed = calibrate(seen, blank, Parse(calibration="batch", prior=prior), TASK.names)(seen)
    shares = np.bincount(skewed.argmax(1), minlength=3) / len(seen)
    assert shares[1] > 0.6 > 0.3 > shares[0] > shares[2] == 0


def test_contextual_calibration_takes_the_mean_of_all_blank_prompts() -> None:
    seen, _ = scores([0, 0, 0], texts=5)
    blanks = np.log([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]) - 7
    calibrated = calibrate(seen, blanks, Parse(calibration="contextual"), TASK.names)
    expected = softmax(seen) / [0.5, 0.4, 0.1]
    np.testing.assert_allclose(calibrated(seen), expected / expected.sum(1, keepdims=True))


def test_softmax_of_extremes() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])
