"""The queue for people: likely wrong labels stand in front, and each says why it is there."""

import numpy as np
import pytest

from pipeline import queueing
from pipeline.params import Tfidf
from pipeline.queueing import Labelled, Suspect
from pipeline.training import Examples

NAMES = ["negative", "positive"]
WORDS = (["dull", "bad", "boring", "awful"], ["fine", "good", "lovely", "great"])


def reviews(count: int, flipped: float) -> tuple[list[str], Labelled, np.ndarray]:
    """Texts of four telling words, labels of which a share is wrong, and which."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, count)
    texts = [" ".join([*random.choice(WORDS[label], 4), f"film{i}"]) for i, label in enumerate(truth)]
    wrong = random.random(count) < flipped
    labels = np.where(wrong, 1 - truth, truth)
    encoder = Tfidf(kind="tfidf")
    found, others = queueing.out_of_sample(encoder, Examples(texts, np.eye(2)[labels]), ["a good film"], 5, 0)
    assert others[0, 1] > 0.5
    return texts, Labelled([f"i{n}" for n in range(count)], labels, np.ones(count), found), wrong


def test_flipped_labels_are_found() -> None:
    _, rows, wrong = reviews(400, flipped=0.05)
    found = queueing.ranked(queueing.likely_wrong(rows, NAMES, rows.doubt), 20)
    hit = [wrong[int(s.id[1:])] for s in found]
    assert np.mean(hit) > 0.8
    assert {s.reason for s in found} == {"likely_wrong"}
    assert all(s.suggested != s.label for s in found)


def test_a_text_stands_once_for_its_strongest_reason_and_keeps_a_suggestion() -> None:
    rows = [
        Suspect("a", "no", 0.9, "low_confidence", None, 0.4),
        Suspect("a", "no", 0.9, "disagreement", "yes", 0.3),
        Suspect("b", "no", 0.9, "disagreement", "yes", 0.35),
        Suspect("c", "no", 0.9, "disagreement", "yes", 0.1),
    ]
    found = queueing.ranked(rows, 2)
    assert [(s.id, s.reason, s.suggested) for s in found] == [
        ("a", "low_confidence", "yes"),
        ("b", "disagreement", "yes"),
    ]


def test_the_least_sure_are_taken_from_a_stream() -> None:
    stream = ((f"i{n}", "yes", 0.5 + n / 1000) for n in range(400))
    found = queueing.unsure(stream, 3)
    assert [s.id for s in found] == ["i0", "i1", "i2"]
    assert found[1].doubt == pytest.approx(0.499)


def test_doubt_becomes_the_share_of_wrong_labels_on_gold() -> None:
    random = np.random.default_rng(0)
    doubt = random.random(4000)
    wrong = random.random(4000) < 0.3 * doubt
    found = queueing.calibrated(doubt, doubt, wrong)
    top = found > np.quantile(found, 0.8)
    assert found[top].mean() == pytest.approx(wrong[top].mean(), abs=0.05)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(doubt))
    np.testing.assert_array_equal(queueing.calibrated(doubt, doubt[:9], np.zeros(9, dtype=bool)), doubt)


def test_only_labels_that_are_not_the_likeliest_are_contradicted() -> None:
    rows = Labelled(["a", "b"], np.array([0, 1]), np.array([0.8, 0.9]), np.array([[0.3, 0.7], [0.1, 0.9]]))
    (found,) = queueing.contradicted(rows, NAMES, rows.doubt)
    assert found == Suspect("a", "negative", 0.8, "disagreement", "positive", pytest.approx(0.7))
