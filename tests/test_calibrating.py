"""Calibration: what it does to probabilities, and when it is switched on."""

from typing import Any

import numpy as np
import pytest

from pipeline.calibrating import Calibration, Scores, calibrate
from pipeline.params import Parse
from pipeline.scoring import Floats
from serving.shapes import softmax

LABELS = ["negative", "positive", "mixed"]
NO_GOLD = np.zeros((0, 3))


def shift(
    sample: Floats, method: Any, content_free: Floats = NO_GOLD, prior: dict[str, float] | None = None
) -> Calibration:
    found = calibrate(Scores(sample, content_free, NO_GOLD, []), Parse(calibration=method, prior=prior), LABELS)
    assert found.method == method
    return found


def scores(prefers: list[float], texts: int = 4000) -> tuple[Floats, Floats]:
    """(texts, 3) log-probabilities of a model that prefers some labels, and the true labels (texts,)."""
    random = np.random.default_rng(3)
    truth = random.integers(0, 3, size=texts)
    return random.normal(size=(texts, 3)) + 3 * np.eye(3)[truth] + prefers - 40, truth


def test_batch_calibration_removes_a_preference() -> None:
    seen, truth = scores([0, 4, -2])
    plain = shift(seen, "none")(seen)
    calibrated = shift(seen, "batch")(seen)
    np.testing.assert_allclose(plain, softmax(seen))
    assert (plain.argmax(1) == truth).mean() < 0.6
    assert (calibrated.argmax(1) == truth).mean() > 0.75
    np.testing.assert_allclose(calibrated.sum(1), 1)


def test_batch_calibration_is_the_formula_of_the_paper() -> None:
    seen, _ = scores([0, 1, -1], texts=5)
    probabilities = np.exp(seen) / np.exp(seen).sum(1, keepdims=True)
    expected = probabilities / probabilities.mean(0)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(shift(seen, "batch")(seen), expected)
    shifted = seen + np.arange(5)[:, None]  # log-probabilities are not normalised: a shift of a row means nothing
    np.testing.assert_allclose(shift(shifted, "batch")(shifted), expected)


def test_the_prior_is_by_label_and_calibration_reaches_it() -> None:
    prior = {"mixed": 0.0, "positive": 0.9, "negative": 0.1}
    seen, _ = scores([0, 4, -2])
    blank = np.array([[-3.0, -1.0, -2.0]])
    contextual = shift(seen, "contextual", blank, prior=prior)
    np.testing.assert_allclose(contextual(blank), [[0.1, 0.9, 0]], atol=1e-8)
    skewed = shift(seen, "batch", prior=prior)(seen)
    shares = np.bincount(skewed.argmax(1), minlength=3) / len(seen)
    assert shares[1] > 0.6 > 0.3 > shares[0] > shares[2] == 0


def test_contextual_calibration_takes_the_mean_of_all_blank_prompts() -> None:
    seen, _ = scores([0, 0, 0], texts=5)
    blanks = np.log([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]) - 7
    calibrated = shift(seen, "contextual", blanks)
    expected = softmax(seen) / [0.5, 0.4, 0.1]
    np.testing.assert_allclose(calibrated(seen), expected / expected.sum(1, keepdims=True))


def test_softmax_of_extremes() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def chosen(sample: Floats, gold: Floats, truth: Floats, content_free: Floats = NO_GOLD) -> Calibration:
    return calibrate(Scores(sample, content_free, gold, [LABELS[i] for i in truth]), Parse(), LABELS)


def loss(probabilities: Floats, truth: Floats) -> float:
    return float(-np.log(probabilities[np.arange(len(truth)), truth]).mean())


def test_it_is_switched_on_where_gold_is_likelier_with_it() -> None:
    seen, truth = scores([0, 4, -2])
    found = chosen(seen, seen[:50], truth[:50], content_free=np.array([[0.0, 9.0, 0.0]]))
    assert found.method == "batch"
    assert found.log_loss["batch"] == pytest.approx(loss(shift(seen, "batch")(seen[:50]), truth[:50]))
    assert found.log_loss["none"] == pytest.approx(loss(softmax(seen[:50]), truth[:50]))
    assert found.log_loss["batch"] < found.log_loss["none"]
    contextual = chosen(seen[:1], seen[:50], truth[:50], content_free=np.array([[-9.0, -5.0, -11.0]]))
    assert contextual.method == "contextual"


def test_it_stays_off_where_it_does_not_help() -> None:
    seen, truth = scores([0, 0, 0])
    rare = seen[truth == 2]  # of a corpus of one class, batch calibration makes three
    found = chosen(rare, rare[:40], truth[truth == 2][:40])
    assert (found.method, found.shift.tolist()) == ("none", [0, 0, 0])
    assert found.log_loss["batch"] > found.log_loss["none"] == found.log_loss["contextual"]


@pytest.mark.parametrize("gold", [0, 19])
def test_too_little_gold_decides_nothing(gold: int) -> None:
    seen, truth = scores([0, 4, -2])
    found = chosen(seen, seen[:gold], truth[:gold])
    assert (found.method, found.log_loss) == ("none", {})
