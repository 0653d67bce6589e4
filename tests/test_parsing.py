"""From an answer to a label, or to the reason why there is none. Golden lines are answers that models really give."""

import numpy as np
import pytest

from pipeline.params import Parse, Task
from pipeline.parsing import Floats, Reason, TextParser, calibrate, from_probabilities, softmax

TASK = Task(
    name="reviews",
    criterion="Is it good?",
    labels={"negative": ["bad", "0"], "positive": ["good", "thumbs  up", "don’t miss"], "mixed": []},
)
GOLDEN = {
    "positive": "positive", "Positive": "positive", " POSITIVE.\n": "positive", '"positive"': "positive",
    "**Positive**": "positive", "_positive_": "positive", "`negative`.": "negative", "“mixed”": "mixed",
    "<positive>": "positive", "Sentiment=positive": "positive", "Label: negative\n": "negative", "0": "negative",
    "Sure! The sentiment of this review is: positive.": "positive", "Good!!!": "positive", "thumbs\n up": "positive",
    "Don't miss": "positive", "I'd say it is mixed (mixed).": "mixed", "bad, really bad": "negative",
    "It is not long. Positive": "positive", "No, it is bad": "negative", "Negative - I can't recommend it": "negative",
    # Rejected
    "positive/negative": Reason.SEVERAL, "Neither positive nor negative": Reason.SEVERAL,
    "good, not bad": Reason.SEVERAL, "positive\n\nReview: Dull.\nSentiment: negative": Reason.SEVERAL,
    "not positive": Reason.NEGATED, "It isn’t good": Reason.NEGATED, "not a good film": Reason.NEGATED,
    "not at all good": Reason.NEGATED, "This can't be called positive": Reason.NEGATED, "Hardly bad.": Reason.NEGATED,
    "cannot be considered positive": Reason.NEGATED, "no good": Reason.NEGATED, "non-positive": Reason.NEGATED,
    "far from good": Reason.NEGATED, "never a very good idea": Reason.NEGATED, "good? Not good!": Reason.NEGATED,
    "positively": Reason.NO_LABEL, "goodish and badly": Reason.NO_LABEL, "10": Reason.NO_LABEL,
    "I'm sorry, I can't help with that.": Reason.NO_LABEL, "neutral": Reason.NO_LABEL, "?": Reason.NO_LABEL,
    "\U0001f44d": Reason.NO_LABEL,
    "": Reason.EMPTY, " \n\t": Reason.EMPTY, "...": Reason.EMPTY, '""': Reason.EMPTY, None: Reason.MISSING,
}  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), GOLDEN.items())
def test_golden_lines(answer: str | None, expected: str) -> None:
    verdict = TextParser(TASK).parse(answer)
    assert (verdict.label or verdict.reason) == expected
    assert (verdict.label is None) is isinstance(expected, Reason)
    assert verdict.probabilities == ([float(name == expected) for name in TASK.names] if verdict.label else [])
    assert verdict.confidence == (1.0 if verdict.label else 0.0)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("It is not spam.", "not spam"),
        ("This is spam", "spam"),
        ("not  SPAM", "not spam"),
        ("C++ it is", "C++"),
        ("Is it C?", "C"),
    ],
)
def test_labels_that_hold_a_negation_each_other_or_signs(answer: str, label: str) -> None:
    task = Task(name="t", criterion="?", labels={"spam": [], "not spam": [], "C": [], "C++": []})
    assert TextParser(task).parse(answer).label == label


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
