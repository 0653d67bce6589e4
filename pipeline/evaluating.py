"""From the candidates' logits to the figures of metrics/evaluate.json: who is best on validation, how good on gold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import measuring, scoring
from pipeline.measuring import Said, Single
from pipeline.params import Evaluate
from pipeline.scoring import Bools, Floats
from serving.shapes import Kind, Shape


@dataclass(frozen=True)
class Reference:
    """Texts with known labels (see `measuring`): gold, or the LLM's held-out labels under their own name."""

    ids: list[str]
    texts: list[str]
    labels: Any  # a measuring.Reference
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


def best(candidates: Sequence[Candidate], kind: str, validation: Reference, measure: Single | None = None) -> Candidate:
    """Highest on validation among a kind, in accuracy or what the task's kind ranks by; log loss decides when equal."""

    def rank(candidate: Candidate) -> tuple[float, float]:
        logits = candidate.logits["validation"]
        by = measure or Single(range(logits.shape[1]))  # type: ignore[arg-type] # the names don't matter
        said = Said.by(by.fit(logits, validation.labels), logits)
        return by.rates(said, validation.labels)[by.rank], -by.log_loss(logits, validation.labels)

    return max((candidate for candidate in candidates if candidate.kind == kind), key=rank)


def summary(
    candidates: Sequence[Candidate],
    sets: Mapping[str, Reference],
    teacher: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    params: Evaluate,
    kind: Kind = "single",
) -> dict[str, Any]:
    """The content of metrics/evaluate.json.

    Args:
        candidates: all of them.
        sets: validation and held_out, and test where there is gold for it.
        teacher: the LLM's probabilities (in label order) of gold texts that it answered, by id.
        labels: in order.
        params: resamples and level.
        kind: of the task.
    """
    measure = measuring.of(kind, labels)
    chosen = best(candidates, "transformer", sets["validation"], measure)
    tfidf = best(candidates, "tfidf", sets["validation"], measure)
    rivals = _Field(measure, candidates, sets, params)
    return {
        "best": chosen.name,
        "validation": rivals.validation(),
        "test": rivals.test(teacher) | {"paired": rivals.paired(chosen, tfidf, teacher)} if "test" in sets else None,
        "held_out": rivals.held_out(),
        "recipes": rivals.recipes(),
    }


class _Field:
    """All candidates, each with the temperature and thresholds that fit validation best."""

    def __init__(
        self, measure: Single, candidates: Sequence[Candidate], sets: Mapping[str, Reference], params: Evaluate
    ) -> None:
        self._measure, self._candidates, self._sets, self._params = measure, candidates, sets, params
        known = sets["validation"].labels
        self._shapes = {c.name: measure.fit(c.logits["validation"], known, params.thresholds) for c in candidates}

    def _said(self, candidate: Candidate, where: str) -> Said:
        return Said.by(self._shapes[candidate.name], candidate.logits[where])

    def _right(self, candidate: Candidate, where: str) -> Bools:
        return self._measure.right(self._said(candidate, where), self._sets[where].labels)

    def validation(self) -> dict[str, Any]:
        """Every metric of each candidate, without intervals."""
        known = self._sets["validation"]
        scores = {c.name: self._measure.rates(self._said(c, "validation"), known.labels) for c in self._candidates}
        return {"reference": known.source, "texts": len(known), "candidates": scores}

    def held_out(self) -> dict[str, Any]:
        """Agreement of each candidate with labels of the LLM that nobody was trained on."""
        known, agreement = self._sets["held_out"], {}
        for c in self._candidates:
            found = self._measure.intervals(self._said(c, "held_out"), known.labels, self._params)["accuracy"]
            agreement[c.name] = {"agreement_with_llm": found}
        return {"texts": len(known), "candidates": agreement}

    def test(self, teacher: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Every metric of each candidate and of the LLM with intervals."""
        measure, test = self._measure, self._sets["test"]
        answered, taught = self._taught(teacher)
        scores = {}
        for c in self._candidates:
            said, shape, logits = self._said(c, "test"), self._shapes[c.name], c.logits["test"]
            same = (said.given == taught.given).all(axis=1)[answered]
            scores[c.name] = measure.intervals(said, test.labels, self._params) | {
                "ece": measure.ece(measure.plain.probabilities(logits), test.labels),
                "ece_calibrated": measure.ece(said.probabilities, test.labels),
                "temperature": shape.temperature,
                "agreement_with_teacher": float(same.mean()) if answered.any() else None,
            }
        return {
            "texts": len(test),
            "majority_class_rate": measure.commonest(test.labels),
            "teacher": self._teacher(answered, taught) if answered.any() else None,
            "candidates": scores,
        }

    def _taught(self, teacher: Mapping[str, Sequence[float]]) -> tuple[Bools, Said]:
        """Which test texts the LLM answered, and what it said (nothing where it did not)."""
        test, size = self._sets["test"], len(self._measure.labels)
        answered = np.array([id_ in teacher for id_ in test.ids])
        sure = np.array([teacher.get(id_, [0.0] * size) for id_ in test.ids])
        return answered, Said(sure, self._measure.plain.given(sure))

    def _teacher(self, answered: Bools, taught: Said) -> dict[str, Any]:
        """How good the LLM is, and whether its confidence is to be believed: `by_confidence` has a row for each bin."""
        known = self._sets["test"].labels[answered]
        said = Said(taught.probabilities[answered], taught.given[answered])
        return {
            "texts": len(known),
            "ece": self._measure.ece(said.probabilities, known),
            "by_confidence": self._measure.reliability(said.probabilities, known),
        } | self._measure.intervals(said, known, self._params)

    def paired(
        self, chosen: Candidate, tfidf: Candidate, teacher: Mapping[str, Sequence[float]]
    ) -> dict[str, dict[str, float] | None]:
        """How much the best candidate gains over the LLM and over TF-IDF on the same texts."""
        right = self._right(chosen, "test")
        answered, taught = self._taught(teacher)
        by_llm = self._measure.right(taught, self._sets["test"].labels)
        return {
            "over_llm": scoring.paired(right[answered], by_llm[answered], self._params) if answered.any() else None,
            "over_tfidf": scoring.paired(right, self._right(tfidf, "test"), self._params),
        }

    def recipes(self) -> dict[str, Any]:
        """Mean accuracy over seeds."""
        where = "test" if "test" in self._sets else "validation"
        values: dict[str, list[float]] = {}
        for c in self._candidates:
            values.setdefault(c.recipe, []).append(float(self._right(c, where).mean()))
        return {recipe: scoring.over_seeds(found, self._params.confidence_level) for recipe, found in values.items()}


def worst(logits: Floats, reference: Reference, measure: Single, shape: Shape, count: int) -> list[dict[str, Any]]:
    """The surest errors: id, reference, predicted, confidence, text."""
    said = Said.by(shape, logits)
    decided, wrong = shape.decide(said.probabilities), ~measure.right(said, reference.labels)
    surest = [i for i in np.argsort(-decided.confidence, kind="stable") if wrong[i]]
    return [
        {
            "id": reference.ids[i], "reference": measure.name(reference.labels[i]), "predicted": decided.labels[i],
            "confidence": round(float(decided.confidence[i]), 4), "text": reference.texts[i],
        }
        for i in surest[:count]
    ]  # fmt: skip
