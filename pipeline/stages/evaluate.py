"""evaluate: models/* + gold + labels -> predictions + best + errors + plots + metrics/evaluate.json

The best candidate is chosen on validation; test gold is looked at here and nowhere before.
"""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import evaluating, measuring, tfidf
from pipeline.artifacts import (
    BEST,
    ERRORS,
    GOLD,
    LABELS,
    MODELS,
    PLOTS,
    PREDICTIONS,
    SAMPLE,
    TEACHER,
    Json,
    Prediction,
    metrics,
)
from pipeline.evaluating import Candidate, Reference
from pipeline.measuring import Said, Single
from pipeline.params import Params
from pipeline.scoring import Floats
from serving.files import replacing
from serving.shapes import Shape

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Predict with every candidate, then measure."""
    measure = measuring.of(params.task.kind, params.task.names)
    sets = _references(measure)
    if "test" not in sets:
        log.info("evaluate: no test gold, so accuracy is unknown; agreement with held-out LLM labels is not accuracy")
    candidates = [_predict(name, sets) for name in params.candidates]
    teacher = {row.id: row.probabilities for row in TEACHER}
    summary = evaluating.summary(candidates, sets, teacher, params.task.names, params.evaluate, params.task.kind)
    validation = sets["validation"]
    chosen = next(c for c in candidates if c.name == summary["best"])
    baseline = evaluating.best(candidates, "tfidf", validation, measure)
    shape = measure.fit(chosen.logits["validation"], validation.labels, params.evaluate.thresholds)
    PREDICTIONS.write(
        Prediction(id_, c.name, name, measure.name(reference.labels[i]), c.logits[name][i].tolist())
        for c in candidates
        for name, reference in sets.items()
        for i, id_ in enumerate(reference.ids)
    )
    shown = "test" if "test" in sets else "held_out"
    _write(ERRORS, evaluating.worst(chosen.logits[shown], sets[shown], measure, shape, params.evaluate.worst))
    _plots(chosen.logits[shown], sets[shown].labels, measure, shape)
    metrics("evaluate").write(summary)
    BEST.write(
        {
            "candidate": chosen.name,
            "temperature": shape.temperature,
            "thresholds": list(getattr(shape, "thresholds", ())) or None,
            "reference": validation.source,
            "accuracy": summary["validation"]["candidates"][chosen.name]["accuracy"],
            "tfidf": baseline.name,
            "tfidf_accuracy": summary["validation"]["candidates"][baseline.name]["accuracy"],
        }
    )
    log.info("evaluate: %s is best on %d validation texts (%s)", chosen.name, len(validation), validation.source)


def _references(measure: Single) -> dict[str, Reference]:
    texts = {row.id: row.text for row in SAMPLE}
    held_out = [(row.id, texts[row.id], row.label) for row in LABELS if row.split == "held_out"]
    gold = list(GOLD)
    sets = {"held_out": _reference(held_out, measure, "llm")}
    for split in ("validation", "test"):
        if rows := [(row.id, row.text, row.label) for row in gold if row.split == split]:
            sets[split] = _reference(rows, measure, "gold")
    return {"validation": sets["held_out"], **sets}


def _reference(rows: list[tuple[str, str, str]], measure: Single, source: str) -> Reference:
    ids, texts, names = ([row[i] for row in rows] for i in range(3))
    return Reference(ids, texts, measure.reference(names), source)


def _predict(name: str, sets: Mapping[str, Reference]) -> Candidate:
    facts = Json(MODELS / name / "candidate.json").read()
    texts = list(dict.fromkeys(text for reference in sets.values() for text in reference.texts))
    if facts["kind"] == "tfidf":
        scores = tfidf.logits(MODELS / name, texts)
    else:
        from pipeline import predicting

        scores = predicting.logits(MODELS / name, texts, facts["max_tokens"], facts["truncation"])
    row = {text: i for i, text in enumerate(texts)}
    logits = {key: scores[[row[text] for text in reference.texts]] for key, reference in sets.items()}
    return Candidate(name, facts["kind"], f"{facts['encoder']}-{facts['recipe']}", logits)


def _plots(logits: Floats, reference: Any, measure: Single, shape: Shape) -> None:  # noqa: ANN401 - a Reference
    plain, said = measure.plain.probabilities(logits), Said.by(shape, logits)
    _write(PLOTS / "confusion.csv", measure.pairs(said, reference))
    curves: dict[str, Floats] = {"before": plain, "after": said.probabilities}
    _write(
        PLOTS / "reliability.csv",
        [{"stage": stage, **row} for stage, p in curves.items() for row in measure.reliability(p, reference)],
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
