"""From the candidates' logits to the figures of metrics/evaluate.json: who is best on validation, how good on gold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import scoring
from pipeline.params import Evaluate
from pipeline.scoring import Floats, Ints, softmax


@dataclass(frozen=True)
class Reference:
    """Texts with known labels (indices into the task's): gold, or the LLM's held-out labels under their own name."""

    ids: list[str]
    texts: list[str]
    labels: Ints
    source: str  # gold or llm

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Candidate:
    """A candidate's logits (texts, labels) on each reference set: validation, test, held_out."""

    name: str
    kind: str
    recipe: str  # with its encoder: minilm-llm
    logits: Mapping[str, Floats]


def best(candidates: Sequence[Candidate], kind: str, validation: Reference) -> Candidate:
    """Highest accuracy on validation among a kind; the lower log loss decides between equals."""

    def rank(candidate: Candidate) -> tuple[float, float]:
        logits = candidate.logits["validation"]
        return accuracy(logits, validation.labels), -scoring.log_loss(logits, validation.labels)

    return max((candidate for candidate in candidates if candidate.kind == kind), key=rank)


def accuracy(logits: Floats, reference: Ints) -> float:
    """Share of texts whose highest logit is the reference's."""
    return float((logits.argmax(axis=1) == reference).mean())


def summary(
    candidates: Sequence[Candidate],
    sets: Mapping[str, Reference],
    teacher: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    params: Evaluate,
) -> dict[str, Any]:
    """The content of metrics/evaluate.json.

    Args:
        candidates: all of them.
        sets: validation and held_out, and test where there is gold for it.
        teacher: the LLM's probabilities (in label order) of gold texts that it answered, by id.
        labels: in order.
        params: resamples and level.
    """
    chosen = best(candidates, "transformer", sets["validation"])
    return {
        "best": chosen.name,
        "validation": _validation(candidates, sets["validation"]),
        "test": _test(candidates, sets, teacher, labels, params)
        | {"paired": _paired(chosen, best(candidates, "tfidf", sets["validation"]), sets["test"], teacher, params)}
        if "test" in sets
        else None,
        "held_out": {
            "texts": len(sets["held_out"]),
            "candidates": {
                c.name: {"agreement_with_llm": _agreement(c.logits["held_out"], sets["held_out"].labels, params)}
                for c in candidates
            },
        },
        "recipes": _recipes(candidates, sets, params),
    }


def _validation(candidates: Sequence[Candidate], reference: Reference) -> dict[str, Any]:
    scores = {}
    for c in candidates:
        logits = c.logits["validation"]
        counts = scoring.confusion(reference.labels, logits.argmax(1), logits.shape[1])
        scores[c.name] = {name: float(value) for name, value in scoring.rates(counts).items()}
    return {"reference": reference.source, "texts": len(reference), "candidates": scores}


def _test(
    candidates: Sequence[Candidate],
    sets: Mapping[str, Reference],
    teacher: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    params: Evaluate,
) -> dict[str, Any]:
    test, size = sets["test"], len(labels)
    answered = np.array([id_ in teacher for id_ in test.ids])
    sure = np.array([teacher.get(id_, [0.0] * size) for id_ in test.ids])
    answers = sure.argmax(axis=1)
    scores = {}
    for c in candidates:
        logits = c.logits["test"]
        temperature = scoring.fit_temperature(c.logits["validation"], sets["validation"].labels)
        predicted = logits.argmax(axis=1)
        scores[c.name] = _measured(scoring.confusion(test.labels, predicted, size), labels, params) | {
            "ece": scoring.expected_calibration_error(softmax(logits), test.labels),
            "ece_calibrated": scoring.expected_calibration_error(softmax(logits / temperature), test.labels),
            "temperature": temperature,
            "agreement_with_teacher": float((predicted == answers)[answered].mean()) if answered.any() else None,
        }
    return {
        "texts": len(test),
        "majority_class_rate": float(np.bincount(test.labels).max() / len(test)),
        "teacher": _teacher(sure[answered], test.labels[answered], labels, params) if answered.any() else None,
        "candidates": scores,
    }


def _teacher(sure: Floats, reference: Ints, labels: Sequence[str], params: Evaluate) -> dict[str, Any]:
    """How good the LLM is, and whether its confidence is to be believed: `by_confidence` has a row for each bin."""
    counts = scoring.confusion(reference, sure.argmax(axis=1), len(labels))
    return {
        "texts": len(reference),
        "ece": scoring.expected_calibration_error(sure, reference),
        "by_confidence": scoring.reliability(sure, reference),
    } | _measured(counts, labels, params)


def _paired(
    chosen: Candidate, tfidf: Candidate, test: Reference, teacher: Mapping[str, Sequence[float]], params: Evaluate
) -> dict[str, dict[str, float] | None]:
    """How much the best candidate gains over the LLM and over TF-IDF on the same texts."""
    right = chosen.logits["test"].argmax(axis=1) == test.labels
    answered = np.array([id_ in teacher for id_ in test.ids])
    taught = np.array(
        [id_ in teacher and np.argmax(teacher[id_]) == label for id_, label in zip(test.ids, test.labels, strict=True)]
    )
    return {
        "over_llm": scoring.paired(right[answered], taught[answered], params) if answered.any() else None,
        "over_tfidf": scoring.paired(right, tfidf.logits["test"].argmax(axis=1) == test.labels, params),
    }


def _measured(counts: Ints, labels: Sequence[str], params: Evaluate) -> dict[str, Any]:
    return scoring.intervals(counts, params) | {"per_class": scoring.per_class(counts, labels)}


def _agreement(logits: Floats, reference: Ints, params: Evaluate) -> dict[str, float]:
    return scoring.intervals(scoring.confusion(reference, logits.argmax(1), logits.shape[1]), params)["accuracy"]


def _recipes(candidates: Sequence[Candidate], sets: Mapping[str, Reference], params: Evaluate) -> dict[str, Any]:
    where = "test" if "test" in sets else "validation"
    values: dict[str, list[float]] = {}
    for c in candidates:
        values.setdefault(c.recipe, []).append(accuracy(c.logits[where], sets[where].labels))
    return {recipe: scoring.over_seeds(found, params.confidence_level) for recipe, found in values.items()}


def worst(
    logits: Floats, reference: Reference, labels: Sequence[str], temperature: float, count: int
) -> list[dict[str, Any]]:
    """The surest errors: id, reference, predicted, confidence, text."""
    probabilities = softmax(logits / temperature)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = [i for i in np.argsort(-confidence, kind="stable") if predicted[i] != reference.labels[i]]
    return [
        {
            "id": reference.ids[i], "reference": labels[reference.labels[i]], "predicted": labels[predicted[i]],
            "confidence": round(float(confidence[i]), 4), "text": reference.texts[i],
        }
        for i in wrong[:count]
    ]  # fmt: skip
