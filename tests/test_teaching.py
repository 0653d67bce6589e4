"""What students learn from models of our own: only what is sure, and targets that errors of labels weigh less in."""

from pathlib import Path

import numpy as np
import pytest
from test_finetuning import LABELS, encoder, examples, settings

from pipeline import learning, teaching
from pipeline.artifacts import CHECKPOINTS
from pipeline.learning import Learner
from pipeline.params import Student, Tfidf
from pipeline.training import Examples, Phase

__all__ = ["encoder"]  # the fixture
TFIDF = Tfidf(kind="tfidf", c=10.0)


def phase(texts: list[str], targets: list[list[float]]) -> Phase:
    return Phase("llm", Examples(texts, np.array(targets)), Examples(["v"], np.array([[1.0, 0.0]])))


def test_equal_texts_share_a_fold_and_folds_are_of_similar_size() -> None:
    texts = [f"text {i}" for i in range(600)]
    found = teaching.folds([*texts, *texts], 3)
    assert (found[:600] == found[600:]).all()
    assert np.bincount(found[:600], minlength=3).min() > 150


def test_self_training_believes_what_is_sure_and_keeps_the_labels() -> None:
    gold = phase(["g"], [[0.0, 1.0]])
    opinion = np.array([[0.95, 0.05], [0.6, 0.4], [0.1, 0.9]])
    first, last = teaching.self_trained(
        [phase(["a"], [[1.0, 0.0]]), gold], ["x", "y", "z"], opinion, opinion.max(axis=1), Student(min_confidence=0.9)
    )
    assert first.train.texts == ["a", "x", "z"]
    np.testing.assert_allclose(first.train.targets, [[1, 0], [0.95, 0.05], [0.1, 0.9]])
    assert last is gold


def test_distilled_targets_are_between_a_label_and_the_opinion_of_those_who_have_not_learnt_it() -> None:
    first = teaching.distilled(
        [phase(["a"], [[1.0, 0.0]])], np.array([[0.1, 0.9]]), ["x"], np.array([[0.3, 0.7]]), Student(label_weight=0.5)
    )[0]
    assert first.train.texts == ["a", "x"]
    np.testing.assert_allclose(first.train.targets, [[0.55, 0.45], [0.3, 0.7]])


def test_distillation_moves_wrong_labels_towards_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    truth, noisy = examples(300, 1), examples(300, 1)
    wrong = np.arange(300) % 10 == 0
    noisy.targets[wrong] = noisy.targets[wrong][:, ::-1]
    phases = [Phase("llm", noisy, examples(20, 2))]
    learner = Learner("tfidf", TFIDF, 1, LABELS, lambda count: [f"a good film {i}" for i in range(count)])
    student = learning.taught("distilled", [learner], phases, Student(texts=3))[0].train
    known = (student.targets[:300] * truth.targets).sum(axis=1)
    assert known[wrong].mean() > 0.25  # the label says 0, the others nearly 1; a half of each
    assert known[~wrong].min() > 0.5
    assert (student.targets[300:, 1] > 0.7).all()  # unlabelled texts, labelled by all models
    np.testing.assert_allclose(student.targets.sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("recipe", ["self_trained", "distilled"])
def test_sets_are_taught_label_by_label(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    targets = (random.random((200, 2)) < 0.5).astype(float)
    texts = [f"{'goal' * int(a)} {'vote' * int(b)} today {i}" for i, (a, b) in enumerate(targets)]
    phases = [Phase("llm", Examples(texts, targets), Examples(["goal"], np.array([[1.0, 0.0]])))]
    rest = ["goal vote today", "today"]
    learner = Learner("tfidf", Tfidf(kind="tfidf", c=100.0), 1, ["sport", "politics"], lambda _: rest, kind="multi")
    student = learning.taught(recipe, [learner], phases, Student(texts=2, min_confidence=0.6))[0].train
    assert student.texts == texts + rest
    np.testing.assert_array_equal(student.targets.round(), np.concatenate([targets, [[1, 1], [0, 0]]]))


def test_an_encoder_teaches_itself_with_tfidf_beside_it_and_is_asked_once(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    phases = [Phase("llm", examples(48, 1), examples(16, 2))]
    own = Learner("tiny", settings(model=str(encoder), epochs=1), 1, LABELS, lambda _: ["a lovely film", "a dull film"])
    beside = Learner("beside", TFIDF, 1, LABELS, own.corpus)
    asked = [learning.taught("distilled", [own, beside], phases, Student(texts=2))[0].train.targets for _ in range(2)]
    np.testing.assert_array_equal(*asked)
    assert len(list(CHECKPOINTS.glob("*/phase.json"))) == 2  # a model for each of two folds, trained once
    (alone,) = learning.taught("self_trained", [own, beside], phases, Student(texts=2, min_confidence=0.0))
    assert len(alone.train) == 50
    assert len(list(CHECKPOINTS.glob("*/phase.json"))) == 3
