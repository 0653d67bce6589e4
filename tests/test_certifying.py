"""Certificates: the numbers are the textbook's, intervals cover (also at extremes), and streaming gives whole sums."""

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from pipeline import certifying
from pipeline.certifying import Population, Sample

LABELS = ["a", "b", "c"]


def world(texts: int, seed: int = 0, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and calibrated probabilities of three labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(texts, 3)) * sharp + [1.0, 0.0, -1.0]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (random.random((texts, 1)) > probabilities.cumsum(1)).sum(1)
    return truth, probabilities


def batch(said, probabilities):
    rows = np.eye(3, dtype=bool)[said]
    return rows, probabilities, (rows * probabilities).sum(1)


def sample(truth, said, probabilities):
    return Sample(np.eye(3, dtype=bool)[truth], *batch(said, probabilities))


def certify(truth, probabilities, drawn):
    said = probabilities.argmax(1)
    corpus = certifying.add_up([batch(said, probabilities)], 3)
    return certifying.certify(corpus, sample(truth[drawn], said[drawn], probabilities[drawn]), LABELS, 0.95)


def test_the_classical_interval_is_clopper_and_pearsons_and_the_estimates_are_those_of_the_papers():
    truth, p = world(100_000)
    drawn = np.arange(150)
    found = certify(truth, p, drawn)
    said = p.argmax(1)
    exact = binomtest(int((said == truth)[drawn].sum()), 150).proportion_ci(0.95, "exact")
    assert found.accuracy.classical.low == pytest.approx(exact.low, abs=1e-3)
    assert found.accuracy.classical.high == pytest.approx(exact.high, abs=1e-3)
    hits = int(((said == 0) & (truth == 0))[drawn].sum())
    exact = binomtest(hits, int((truth[drawn] == 0).sum())).proportion_ci(0.95, "exact")
    assert found.per_class["a"].recall.classical.low == pytest.approx(exact.low, abs=1e-3)
    y, f = (truth[drawn] == 1).astype(float), p[drawn, 1]
    tuning = np.cov(y, f)[0, 1] / f.var(ddof=1)
    got = found.per_class["b"].prevalence
    assert got.tuning == pytest.approx(min(tuning, 1))
    assert got.ppi.value == pytest.approx(y.mean() + got.tuning * (p[:, 1].mean() - f.mean()))


@pytest.mark.parametrize(("texts", "gold"), [(60, 30), (200, 100), (400, 40), (300, 299)])
def test_classical_intervals_cover_every_truth_of_a_finite_corpus(texts, gold):
    """Exact: each possible number of errors, weighed by the hypergeometric distribution."""
    size = gold * certifying._without_replacement(gold / texts)
    limits = [certifying.interval(hits / gold, size, 0.95) for hits in range(gold + 1)]
    for right in range(texts + 1):
        covers = [limit.low <= right / texts + 1e-12 and right / texts - 1e-12 <= limit.high for limit in limits]
        assert hypergeom.pmf(np.arange(gold + 1), texts, right, gold) @ covers >= 0.95


def test_all_of_the_corpus_leaves_no_doubt():
    truth, p = world(50)
    accuracy = certify(truth, p, np.arange(50)).accuracy
    assert accuracy.classical.low == accuracy.classical.high == (p.argmax(1) == truth).mean()
    assert accuracy.ppi.low == accuracy.ppi.high == pytest.approx(accuracy.classical.value)


@pytest.mark.parametrize(
    ("sharp", "bias", "gold"), [(2.0, 1.0, 100), (9.0, 1.0, 100), (3.0, 0.3, 150), (3.0, 3.0, 100)]
)
def test_intervals_cover_and_are_narrower_also_at_extremes_and_with_wrong_confidence(sharp, bias, gold):
    truth, p = world(20_000, sharp=sharp)
    biased = p**bias / (p**bias).sum(1, keepdims=True)
    corpus, said = certifying.add_up([batch(p.argmax(1), biased)], 3), p.argmax(1)
    random, seen = np.random.default_rng(1), []
    for _ in range(300):
        drawn = random.choice(len(truth), gold, replace=False)
        found = certifying.certify(corpus, sample(truth[drawn], said[drawn], biased[drawn]), LABELS, 0.95)
        row = found.per_class["b"]
        for m, true in (
            (found.accuracy, (said == truth).mean()),
            (row.prevalence, (truth == 1).mean()),
            (row.recall, (said[truth == 1] == 1).mean()),
            (row.precision, (truth[said == 1] == 1).mean()),
        ):
            width = (m.ppi.high - m.ppi.low) / (m.classical.high - m.classical.low)
            seen.append((m.classical.low <= true <= m.classical.high, m.ppi.low <= true <= m.ppi.high, width))
    figures = np.array(seen, float).reshape(300, 4, 3)
    assert (figures[:, :, :2].mean(0) >= 0.925).all()  # 0.95 less two standard errors of 300 draws
    assert (figures[:, :, 2].mean(0) < 1).all()
    assert figures[:, 1, 2].mean() < 0.75  # prevalence gains most


def test_of_sets_each_label_has_its_figures_and_a_text_is_right_where_all_are():
    random = np.random.default_rng(5)
    p = random.beta(0.4, 0.8, size=(20_000, 3))
    truth, said = random.random(p.shape) < p, p >= 0.5
    sure = np.where(said, p, 1 - p).prod(1)
    corpus, covered = certifying.add_up([(said, p, sure)], 3), []
    assert corpus.texts == 20_000 < corpus.counts.sum() + (~said.any(1)).sum()
    for _ in range(200):
        drawn = random.choice(len(p), 150, replace=False)
        found = certifying.certify(corpus, Sample(truth[drawn], said[drawn], p[drawn], sure[drawn]), LABELS, 0.95)
        for m, true in (
            (found.accuracy, (said == truth).all(1).mean()),
            (found.per_class["c"].prevalence, truth[:, 2].mean()),
            (found.per_class["c"].recall, said[truth[:, 2], 2].mean()),
            (found.per_class["c"].precision, truth[said[:, 2], 2].mean()),
        ):
            covered.append((m.classical.low <= true <= m.classical.high, m.ppi.low <= true <= m.ppi.high))
        assert found.accuracy.classical.value == (said == truth)[drawn].all(1).mean()
    assert (np.array(covered).reshape(200, 4, 2).mean(0) >= 0.92).all()  # 0.95 less two standard errors of 200 draws


def test_no_error_and_no_gold_of_a_label():
    p = np.array([[0.9, 0.05, 0.05]] * 1000 + [[0.2, 0.7, 0.1]] * 1000)
    truth = p.argmax(1)
    found = certify(truth, p, np.arange(100))
    assert found.accuracy.ppi.value == 1
    assert found.accuracy.ppi.low == found.accuracy.classical.low < 0.97  # no width is gained from luck
    assert found.per_class["c"].rows == 0
    assert (found.per_class["b"].precision, found.per_class["b"].recall) == (None, None)
    assert found.per_class["b"].prevalence.classical.high > 0


def test_sums_do_not_depend_on_batches():
    _, p = world(1000)
    said = p.argmax(1)
    whole, parts = (certifying.add_up([batch(said[i::n], p[i::n]) for i in range(n)], 3) for n in (1, 7))
    assert whole.texts == parts.texts == 1000
    for name in ("counts", "confidence", "mass", "sure", "squares"):
        assert np.allclose(getattr(whole, name), getattr(parts, name))


def test_power_is_the_least_gold_that_is_narrow_enough():
    corpus = Population(100_000, np.full(2, 50_000), np.full(2, 45_000.0), np.full(2, 5e4), 90_000.0, 82_500.0)
    found = certifying.needed(corpus, 0.06, 0.95)
    assert found["accuracy"] == pytest.approx(0.9)
    for n, wide in ((found["classical"], False), (found["classical"] - 1, True)):
        got = certifying.interval(0.9, n * certifying._without_replacement(n / 100_000), 0.95)
        assert (got.high - got.low > 0.06) == wide
    assert found["ppi"] == pytest.approx(found["classical"] * found["ratio"] ** 2, rel=0.02)
    assert certifying.needed(corpus, 0.06, 0.95, 0.99)["classical"] < found["classical"]
