"""Combining annotators: it is what theory says it should be, and never worse than the best alone beyond noise."""

import numpy as np
import pytest

from pipeline import combining, comparing, scoring
from pipeline.combining import as_one_hot
from pipeline.scoring import Ints


def answers(truth: Ints, errors: list[float], shared: float, seed: int) -> Ints:
    """Two labels; each annotator errs at its rate, a share of that on the same hard texts as all the others."""
    random = np.random.default_rng(seed)
    hard = random.random(len(truth))
    columns = [
        np.where(random.random(len(truth)) < shared, hard, random.random(len(truth))) < error for error in errors
    ]
    return np.stack([np.where(wrong, 1 - truth, truth) for wrong in columns], axis=1)


def drawn(texts: int, errors: list[float], shared: float, seed: int = 0) -> tuple[Ints, Ints]:
    truth = np.random.default_rng([seed, 1]).integers(0, 2, texts)
    return answers(truth, errors, shared, seed), truth


def test_independent_annotators_are_multiplied_as_bayes_does() -> None:
    said, truth = drawn(20_000, [0.2, 0.2, 0.2], shared=0.0)
    found = combining.fit(as_one_hot(said[:4000], 2), truth[:4000])
    assert not found.labels_from_best
    probabilities = found(as_one_hot(np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]]), 2))[:, 1]
    odds = 0.8 / 0.2
    expected = [odds**3 / (1 + odds**3), odds / (1 + odds), 1 / (1 + odds), 1 / (1 + odds**3)]
    np.testing.assert_allclose(probabilities, expected, atol=0.03)
    combined = (found(as_one_hot(said[4000:], 2)).argmax(axis=1) == truth[4000:]).mean()
    assert combined > 0.885  # 0.896 in theory, 0.8 alone


def test_shared_errors_are_not_counted_twice() -> None:
    said, truth = drawn(20_000, [0.1, 0.1, 0.1], shared=0.95)
    found = combining.fit(as_one_hot(said[:2000], 2), truth[:2000])
    agreed = (said == 1).all(axis=1)
    sure = found(as_one_hot(np.array([[1, 1, 1]]), 2))[0, 1]
    assert sure == pytest.approx(truth[agreed].mean(), abs=0.02)  # about 0.92; independence would claim 0.999
    assert sure < 0.95


def test_one_strong_and_two_weak_that_err_together_do_not_outvote_it() -> None:
    gaps, votes = [], []
    for seed in range(6):
        said, truth = drawn(4000, [0.05, 0.2, 0.2], shared=0.9, seed=seed)
        found = combining.fit(as_one_hot(said[:200], 2), truth[:200])
        named = found(as_one_hot(said[200:], 2)).argmax(axis=1)
        alone = (said[200:, 0] == truth[200:]).mean()
        gaps.append((named == truth[200:]).mean() - alone)
        votes.append((comparing.plain_vote(said[200:], 2) == truth[200:]).mean() - alone)
    assert np.mean(votes) < -0.01
    assert min(gaps) > -0.005


def test_labels_that_it_can_not_choose_better_are_the_best_annotators() -> None:
    said, truth = drawn(3000, [0.05, 0.2, 0.2], shared=0.9)
    found = combining.fit(as_one_hot(said[:150], 2), truth[:150])
    assert found.labels_from_best
    probabilities = found(as_one_hot(said, 2))
    np.testing.assert_array_equal(probabilities.argmax(axis=1), said[:, found.best])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_with_hardly_any_gold_the_best_alone_answers_and_another_where_it_has_nothing() -> None:
    said, truth = drawn(20, [0.0, 0.2], shared=0.0)
    found = combining.fit(as_one_hot(said, 2), truth)
    assert (found.shape.family, found.best) == ("alone", 0)
    probabilities = found(as_one_hot(np.array([[1, 0], [-1, 0], [-1, -1]]), 2))
    assert probabilities[0, 1] == pytest.approx(21 / 22)  # Laplace: 20 right and one error more of 22
    assert probabilities[1, 0] == pytest.approx((said[:, 1] == truth).mean(), abs=0.06)
    np.testing.assert_allclose(probabilities[2], 0.5)


def test_soft_answers_count_by_how_sure_they_are() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 3, 3000)
    logits = random.normal(size=(3000, 2, 3)) * [[[1.0], [2.0]]] + 2 * np.eye(3)[truth][:, None, :]
    said = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    found = combining.fit(said[:1000], truth[:1000])
    combined = (found(said[1000:]).argmax(axis=1) == truth[1000:]).mean()
    alone = [(said[1000:, k].argmax(axis=1) == truth[1000:]).mean() for k in (0, 1)]
    assert found.best == 0
    assert combined > max(alone) + 0.01
    said[:, 1] = np.nan  # the second never answered
    assert (found(said[1000:]).argmax(axis=1) == truth[1000:]).mean() == pytest.approx(alone[0], abs=0.02)


def test_without_gold_there_is_no_fit() -> None:
    with pytest.raises(ValueError, match="without gold"):
        combining.fit(np.zeros((0, 2, 2)), np.zeros(0, dtype=np.int64))
    found = combining.in_order(2, 2)
    assert list(found(as_one_hot(np.array([[1, 0], [-1, 0]]), 2)).argmax(axis=1)) == [1, 0]


def test_skills_are_by_true_label_and_count_no_answer_as_wrong() -> None:
    said, truth = np.array([[0], [0], [1], [-1]]), np.array([0, 0, 0, 1])
    found = comparing.skills(said, truth, ["m"], ["no", "yes"], 0.95)["m"]
    assert found["accuracy"]["value"] == 0.5
    assert found["confusion"] == [[2, 1, 0], [0, 0, 1]]
    assert found["per_class"]["no"]["recall"]["value"] == pytest.approx(2 / 3)
    assert found["per_class"]["no"]["precision"]["value"] == 1
    assert found["per_class"]["yes"]["recall"]["low"] == 0


def test_wilson_is_the_textbooks() -> None:
    found = scoring.wilson(9, 10, 0.95)
    assert (found["low"], found["high"]) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


def test_phi_of_errors() -> None:
    said, truth = drawn(20_000, [0.1, 0.1, 0.1], shared=0.0)
    said[:, 2] = said[:, 0]
    pairs = comparing.errors_together(said, truth, ["a", "b", "c"], 0.95)
    assert pairs[0]["phi"]["low"] < 0 < pairs[0]["phi"]["high"]
    assert pairs[1]["phi"]["value"] == pytest.approx(1)
    assert pairs[0]["both_wrong"] == pytest.approx(pairs[0]["if_independent"], abs=0.003)


def test_disagreement_bounds_the_error_from_below() -> None:
    said, truth = drawn(5000, [0.1, 0.2], shared=0.5)
    bound = comparing.without_gold(said, ["a", "b"])[0]
    assert 0 < bound["mean_error_at_least"] <= (said != truth[:, None]).mean()
