"""The figures of metrics/evaluate.json: chosen on validation, measured on test, and never one for the other."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline import evaluating, measuring, scoring
from pipeline.evaluating import Candidate, Reference
from pipeline.params import Evaluate
from serving import shapes
from serving.shapes import softmax

LABELS = ["negative", "positive"]
PARAMS = Evaluate(resamples=200)
TRUTH = {
    "validation": [0, 1, 0, 1, 0, 1, 0, 1], "test": [0, 0, 0, 0, 0, 1, 1, 1, 1, 0], "held_out": [1, 1, 0, 0]
}  # fmt: skip


def reference(name: str, source: str = "gold") -> Reference:
    labels = np.array(TRUTH[name])
    ids = [f"{name}{i}" for i in range(len(labels))]
    return Reference(ids, [f"text of {id_}" for id_ in ids], labels, source)


def candidate(name: str, wrong: dict[str, Sequence[int]], scale: float = 2.0) -> Candidate:
    """A candidate that errs on the given texts of each set, as sure of errors as of the rest."""
    logits = {}
    for key, truth in TRUTH.items():
        right = np.where(np.isin(np.arange(len(truth)), wrong.get(key, ())), 1 - np.array(truth), truth)
        logits[key] = scale * np.eye(2)[right]
    encoder = name.split("-")[0]
    return Candidate(name, "tfidf" if encoder == "tfidf" else "transformer", name.rsplit("-", 1)[0], logits)


SETS = {"validation": reference("validation"), "test": reference("test"), "held_out": reference("held_out", "llm")}
CANDIDATES = [
    candidate("mini-llm-1", {"validation": [0, 1], "test": []}),  # best on test, but that is no reason
    candidate("mini-llm-2", {"validation": [0], "test": [0, 9], "held_out": [0]}),
    candidate("tfidf-llm-1", {"validation": []}),  # better still, and of another kind
]
TEACHER = {"test0": [0.9, 0.1], "test1": [0.2, 0.8], "test5": [0.3, 0.7], "elsewhere": [0.0, 1.0]}


def summary(sets: dict[str, Reference] = SETS, teacher: dict[str, list[float]] = TEACHER) -> dict:
    found = evaluating.summary(CANDIDATES, sets, teacher, LABELS, PARAMS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_the_best_is_chosen_on_validation_among_its_kind() -> None:
    assert summary()["best"] == "mini-llm-2"
    assert evaluating.best(CANDIDATES, "tfidf", SETS["validation"]).name == "tfidf-llm-1"
    with pytest.raises(ValueError, match="empty"):
        evaluating.best(CANDIDATES[:2], "tfidf", SETS["validation"])


def test_between_equals_the_lower_log_loss_decides() -> None:
    shy, sure = candidate("a-llm-1", {"validation": [3]}, 1.0), candidate("b-llm-1", {"validation": [3]}, 30.0)
    for order in ([shy, sure], [sure, shy]):
        assert evaluating.best(order, "transformer", SETS["validation"]) is shy


def test_validation_figures() -> None:
    found = summary()["validation"]
    assert (found["reference"], found["texts"]) == ("gold", 8)
    predicted = CANDIDATES[1].logits["validation"].argmax(1)
    scores = found["candidates"]["mini-llm-2"]
    assert scores["accuracy"] == accuracy_score(TRUTH["validation"], predicted) == 7 / 8
    assert scores["macro_f1"] == pytest.approx(f1_score(TRUTH["validation"], predicted, average="macro"))


def test_test_figures_of_candidates() -> None:
    found = summary()["test"]
    assert (found["texts"], found["majority_class_rate"]) == (10, 0.6)
    scores = found["candidates"]["mini-llm-2"]
    assert scores["accuracy"]["value"] == 0.8
    assert scores["accuracy"]["low"] < 0.8 < scores["accuracy"]["high"]
    assert scores["per_class"]["negative"] == {"precision": 1.0, "recall": pytest.approx(4 / 6), "support": 6}
    # Temperature comes from validation: 1 error of 8 with a margin of 2 is right at log(7).
    assert scores["temperature"] == pytest.approx(2 / np.log(7), rel=1e-3)
    assert scores["ece"] == pytest.approx(abs(softmax(np.array([2.0, 0]))[0] - 0.8))
    assert scores["ece_calibrated"] == pytest.approx(7 / 8 - 0.8, abs=1e-3)


def test_the_teacher_is_measured_on_what_it_answered() -> None:
    found = summary()["test"]
    assert found["teacher"]["texts"] == 3  # text 1 wrongly
    assert found["teacher"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert [row["texts"] for row in found["teacher"]["by_confidence"]] == [1, 1, 1]
    assert found["teacher"]["ece"] == pytest.approx((0.3 + 0.8 + 0.1) / 3)
    agreement = {name: scores["agreement_with_teacher"] for name, scores in found["candidates"].items()}
    assert agreement == pytest.approx({"mini-llm-1": 2 / 3, "mini-llm-2": 1 / 3, "tfidf-llm-1": 2 / 3})


def test_the_best_is_compared_text_by_text_with_llm_and_tfidf() -> None:
    found = summary()
    chosen = next(c for c in CANDIDATES if c.name == found["best"])
    right = chosen.logits["test"].argmax(axis=1) == SETS["test"].labels
    answered = [i for i, id_ in enumerate(SETS["test"].ids) if id_ in TEACHER]
    gain = np.mean(
        [float(right[i]) - (np.argmax(TEACHER[SETS["test"].ids[i]]) == SETS["test"].labels[i]) for i in answered]
    )
    assert found["test"]["paired"]["over_llm"]["value"] == pytest.approx(gain)
    assert found["test"]["paired"]["over_tfidf"]["only_ours"] >= 0
    assert summary(teacher={"elsewhere": [0.0, 1.0]})["test"]["paired"]["over_llm"] is None


def test_a_teacher_who_answered_nothing_has_no_figures() -> None:
    found = summary(teacher={"elsewhere": [0.0, 1.0]})["test"]
    assert found["teacher"] is None
    assert {scores["agreement_with_teacher"] for scores in found["candidates"].values()} == {None}


def test_without_gold_nothing_is_called_accuracy_on_test() -> None:
    sets = {"validation": SETS["held_out"], "held_out": SETS["held_out"]}
    blind = [Candidate(c.name, c.kind, c.recipe, dict.fromkeys(sets, c.logits["held_out"])) for c in CANDIDATES]
    found = evaluating.summary(blind, sets, {}, LABELS, PARAMS)
    assert found["test"] is None
    assert found["validation"]["reference"] == "llm"
    agreement = found["held_out"]["candidates"]["mini-llm-2"]["agreement_with_llm"]
    assert agreement == scoring.intervals(np.array([[2, 0], [1, 1]]), PARAMS)["accuracy"]


def test_recipes_are_means_over_seeds_on_test() -> None:
    found = summary()["recipes"]
    assert found["mini-llm"] == scoring.over_seeds([1.0, 0.8], PARAMS.confidence_level)
    assert found["tfidf-llm"] == {"seeds": 1, "accuracy_mean": 1.0, "accuracy_half_width": None}


def test_the_surest_errors_come_first() -> None:
    logits = np.array([[3.0, 0], [0, 9], [0, 5], [0, 1], [4, 0], [0, 2], [2, 0], [0, 7], [1, 0], [0, 6]])
    measure, shape = measuring.of("single", LABELS), shapes.of("single", LABELS, 2.0)
    rows = evaluating.worst(logits, SETS["test"], measure, shape, 3)
    assert [row["id"] for row in rows] == ["test1", "test9", "test2"]
    assert rows[0] == {
        "id": "test1", "reference": "negative", "predicted": "positive",
        "confidence": round(float(softmax(np.array([0, 4.5]))[1]), 4), "text": "text of test1",
    }  # fmt: skip
    assert len(evaluating.worst(logits, SETS["test"], measure, shape, 99)) == 6
