"""Every figure agrees with scikit-learn, with a loop that anyone can read, or with a case made by hand."""

import numpy as np
import pytest
from scipy.stats import t
from sklearn import metrics

from pipeline import scoring
from pipeline.params import Evaluate
from pipeline.scoring import softmax


def drawn(seed: int, labels: int, texts: int, right: float = 0.6) -> tuple[scoring.Ints, scoring.Ints]:
    """(reference, predicted), each (texts,), of unequal classes."""
    random = np.random.default_rng(seed)
    reference = random.choice(labels, size=texts, p=(p := np.arange(1.0, labels + 1)) / p.sum())
    predicted = np.where(random.random(texts) < right, reference, random.integers(0, labels, size=texts))
    return reference, predicted


@pytest.mark.parametrize("labels", [2, 3, 7])
@pytest.mark.parametrize("texts", [500, 3000])
def test_rates_are_those_of_scikit_learn(labels: int, texts: int) -> None:
    reference, predicted = drawn(labels, labels, texts)
    counts = scoring.confusion(reference, predicted, labels)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(reference, predicted))
    rates = scoring.rates(counts)
    assert rates["accuracy"] == pytest.approx(metrics.accuracy_score(reference, predicted))
    assert rates["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(reference, predicted))
    assert rates["macro_f1"] == pytest.approx(metrics.f1_score(reference, predicted, average="macro"))
    assert rates["mcc"] == pytest.approx(metrics.matthews_corrcoef(reference, predicted))
    precision, recall, _, support = metrics.precision_recall_fscore_support(reference, predicted)
    for i, (name, row) in enumerate(scoring.per_class(counts, [f"l{n}" for n in range(labels)]).items()):
        assert name == f"l{i}"
        assert list(row.values()) == pytest.approx([precision[i], recall[i], support[i]])


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    theirs = np.array([True] * 190 + [False] * 10)
    ours = np.array([True] * 184 + [False] * 6 + [False] * 10)
    found = scoring.paired(ours, theirs, Evaluate())
    assert (found["only_ours"], found["only_theirs"], found["value"]) == (0, 6, pytest.approx(-0.03))
    assert found["p_value"] == pytest.approx(2 * 0.5**6)
    assert found["high"] < 0  # though the two accuracies' own intervals overlap
    assert found["low"] == pytest.approx(-0.055, abs=0.01)
    drawn_ = np.random.default_rng(0).integers(200, size=(2000, 200))  # the loop that anyone can read
    low, high = np.quantile([ours[i].mean() - theirs[i].mean() for i in drawn_], [0.025, 0.975])
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.011), pytest.approx(high, abs=0.011))
    assert scoring.paired(ours, ours, Evaluate())["p_value"] == 1


def test_labels_that_are_never_there_or_never_predicted_count_as_zero() -> None:
    counts = np.array([[0, 0, 0], [0, 8, 0], [0, 2, 0]])  # nobody is 0, everyone is called 1
    rates = scoring.rates(counts)
    assert {name: float(value) for name, value in rates.items()} == pytest.approx(
        {"accuracy": 0.8, "balanced_accuracy": 1 / 3, "macro_f1": 16 / 18 / 3, "mcc": 0}
    )
    assert scoring.per_class(counts, "abc")["c"] == {"precision": 0.0, "recall": 0.0, "support": 2}


def test_rates_of_many_matrices_are_those_of_each() -> None:
    many = np.random.default_rng(0).integers(0, 9, size=(4, 5, 3, 3))
    for name, values in scoring.rates(many).items():
        assert values.shape == (4, 5)
        assert values[2, 3] == pytest.approx(float(scoring.rates(many[2, 3])[name]))


def test_the_bootstrap_is_the_naive_one_without_its_loop() -> None:
    reference, predicted = drawn(1, 3, 150)
    params = Evaluate(resamples=20_000, confidence_level=0.9)
    found = scoring.intervals(scoring.confusion(reference, predicted, 3), params)
    random = np.random.default_rng(99)
    naive = []
    for _ in range(4000):
        rows = random.integers(0, len(reference), size=len(reference))
        naive.append([float(v) for v in scoring.rates(scoring.confusion(reference[rows], predicted[rows], 3)).values()])
    low, high = np.quantile(naive, [0.05, 0.95], axis=0)
    for i, interval in enumerate(found.values()):
        assert interval["low"] < interval["value"] < interval["high"]
        assert [interval["low"], interval["high"]] == pytest.approx([low[i], high[i]], abs=0.012)


def test_an_interval_is_seeded_and_its_level_counts() -> None:
    counts = np.array([[30, 10], [20, 40]])
    wide, narrow = (scoring.intervals(counts, Evaluate(confidence_level=level))["accuracy"] for level in (0.99, 0.6))
    assert wide["low"] < narrow["low"] < 0.7 < narrow["high"] < wide["high"]
    assert scoring.intervals(counts, Evaluate()) == scoring.intervals(counts, Evaluate())
    assert scoring.intervals(counts, Evaluate(seed=1)) != scoring.intervals(counts, Evaluate())
    perfect = scoring.intervals(np.diag([5, 5]), Evaluate())["accuracy"]
    assert perfect == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_temperature_is_found_again(temperature: float) -> None:
    random = np.random.default_rng(5)
    calibrated = random.normal(scale=2, size=(20_000, 3))
    truth = np.array([random.choice(3, p=p) for p in softmax(calibrated)])
    found = scoring.fit_temperature(calibrated * temperature, truth)
    assert found == pytest.approx(temperature, rel=0.05)
    before = scoring.expected_calibration_error(softmax(calibrated * temperature), truth)
    after = scoring.expected_calibration_error(softmax(calibrated * temperature / found), truth)
    assert after < 0.015
    assert temperature == 1 or after < before / 3


def test_temperature_has_bounds_where_everything_is_right_or_wrong() -> None:
    logits = np.array([[5.0, -5.0], [-5.0, 5.0]])
    assert scoring.fit_temperature(logits, np.array([0, 1])) <= 0.8
    assert scoring.fit_temperature(logits, np.array([1, 0])) == pytest.approx(20, rel=0.01)


def test_log_loss_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(2)
    logits, truth = random.normal(size=(50, 3)), random.integers(0, 3, size=50)
    assert scoring.log_loss(logits, truth) == pytest.approx(metrics.log_loss(truth, softmax(logits)))
    assert scoring.log_loss(logits, truth, 2) == pytest.approx(metrics.log_loss(truth, softmax(logits / 2)))
    assert np.isfinite(scoring.log_loss(np.array([[1e4, 0]]), np.array([1])))


def test_calibration_by_hand() -> None:
    # 15 bins: 0.61 and 0.65 share [0.600, 0.667), 0.99 and 1.0 the last; 0.68 is alone
    sure = np.array([0.61, 0.65, 0.99, 1.0, 0.68])
    hits = np.array([1, 0, 1, 1, 0])
    probabilities = np.stack([sure, 1 - sure], axis=1)
    bins = scoring.reliability(probabilities, 1 - hits)
    assert [list(row.values()) for row in bins] == [
        pytest.approx(row) for row in ([0.63, 0.5, 2], [0.68, 0, 1], [0.995, 1, 2])
    ]
    expected = (1 * 0.68 + 2 * 0.13 + 2 * 0.005) / 5
    assert scoring.expected_calibration_error(probabilities, 1 - hits) == pytest.approx(expected)


def test_seeds_have_a_mean_and_the_half_width_of_students_interval() -> None:
    values = [0.9, 0.92, 0.94, 0.95]
    found = scoring.over_seeds(values, 0.95)
    low, high = t.interval(0.95, 3, loc=np.mean(values), scale=np.std(values, ddof=1) / 2)
    assert list(found) == ["seeds", "accuracy_mean", "accuracy_half_width"]
    assert list(found.values()) == pytest.approx([4, np.mean(values), (high - low) / 2])
    assert scoring.over_seeds([0.9], 0.95) == {"seeds": 1, "accuracy_mean": 0.9, "accuracy_half_width": None}
