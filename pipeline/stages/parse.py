"""parse: sample + responses -> labels + rejected + teacher + metrics/parse.json

Every sampled text becomes exactly one row: a label, or a rejection with its reason.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from pipeline import calibrating, parsing
from pipeline.artifacts import (
    GOLD,
    LABELS,
    REJECTED,
    RESPONSES,
    SAMPLE,
    TEACHER,
    Label,
    Rejected,
    Response,
    Sampled,
    metrics,
)
from pipeline.calibrating import Calibration
from pipeline.errors import UserError
from pipeline.params import Params

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Calibrate on the sample, judge every response."""
    sampled = [replace(row, text="") for row in SAMPLE]
    verdicts, calibration = _judged(list(RESPONSES), sampled, params)
    labels, rejected = _sorted_out(((row.id, row.split) for row in sampled), verdicts)
    REJECTED.write(rejected)
    share = len(labels) / max(len(sampled), 1)
    if share < params.parse.min_yield:
        raise UserError(
            f"only {share:.1%} of {len(sampled)} answers gave a label (parse.min_yield: {params.parse.min_yield:.0%}; "
            f"{_commonest(rejected)}): read {REJECTED.path}, mend the prompt or the synonyms, or lower parse.min_yield"
        )
    if len(seen := {row.label for row in labels}) < 2:
        raise UserError(
            f"every answer says {seen}: one class teaches nothing; mend annotate.prompt or parse.calibration"
        )
    known = [(row.id, "gold") for row in GOLD if row.id in verdicts]
    teacher, unanswered = _sorted_out(known, verdicts)
    LABELS.write(labels)
    TEACHER.write(teacher)
    even = {row.id for row in sampled if row.stratum == "uniform"}
    uniform = [row for row in labels if row.id in even]
    shares = Counter(row.label for row in uniform)
    metrics("parse").write(
        {
            "labelled": len(labels),
            "rejected": len(rejected),
            "yield": share,
            "rejected_by_reason": dict(Counter(row.reason for row in rejected)),
            "shares": {label: shares[label] / max(len(uniform), 1) for label in params.task.names},
            "mean_confidence": float(np.mean([row.confidence for row in uniform])) if uniform else None,
            "teacher": {"answered": len(teacher), "rejected": len(unanswered)},
            "calibration": {"method": calibration.method, "log_loss": calibration.log_loss} if calibration else None,
        }
    )
    log.info("parse: %d labels, %d rejected (yield %.1f %%)", len(labels), len(rejected), 100 * share)


def labels_of(answered: list[Response], sampled: Iterable[Sampled], params: Params) -> list[Label]:
    """Labels of a sample that is still growing; calibrated, where that is asked for, on its uniform part."""
    rows = list(sampled)
    verdicts, _ = _judged(answered, rows, params)
    return _sorted_out(((row.id, row.split) for row in rows), verdicts)[0]


def _judged(
    answered: list[Response], sampled: Iterable[Sampled], params: Params
) -> tuple[dict[str, tuple[Response, parsing.Verdict]], Calibration | None]:
    chosen = {row.id for row in sampled if row.stratum != "uniform"}
    calibration = _calibration([row for row in answered if row.id not in chosen], params)
    return {row.id: (row, verdict) for row, verdict in _judge(answered, params, calibration)}, calibration


def _judge(
    answered: list[Response], params: Params, calibration: Calibration | None
) -> Iterator[tuple[Response, parsing.Verdict]]:
    parser = parsing.TextParser(params.task, params.annotate.prompt.reasoning)
    for row in answered:
        if row.log_probabilities is None or calibration is None:
            yield row, parser.parse(row.answer, row.finish_reason)
        elif row.purpose != "content_free":
            probabilities = calibration(np.array(row.log_probabilities))
            yield row, parsing.from_probabilities(probabilities, params.task, params.parse)


def _calibration(answered: list[Response], params: Params) -> Calibration | None:
    """What removes the LLM's preference for a label; None where no answer has log-probabilities."""
    scores = {
        purpose: {
            row.id: row.log_probabilities
            for row in answered
            if row.purpose == purpose and row.log_probabilities is not None
        }
        for purpose in ("sample", "content_free", "gold")
    }
    if not any(scores.values()):
        return None
    gold = {row.id: row.label for row in GOLD if row.split == "validation" and row.id in scores["gold"]}
    found = calibrating.calibrate(
        calibrating.Scores(
            sample=np.array(list(scores["sample"].values())),
            content_free=np.array(list(scores["content_free"].values())),
            gold=np.array([scores["gold"][id_] for id_ in gold]),
            truth=list(gold.values()),
        ),
        params.parse,
        params.task.names,
    )
    if found.log_loss:
        log.info("parse: calibration %s (log loss on validation gold: %s)", found.method, _listed(found.log_loss))
    elif params.parse.calibration == "auto":
        log.info("parse: no calibration: there is too little validation gold to tell whether one helps")
    return found


def _listed(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{method} {loss:.3f}" for method, loss in losses.items())


def _sorted_out(
    wanted: Iterable[tuple[str, str]], verdicts: dict[str, tuple[Response, parsing.Verdict]]
) -> tuple[list[Label], list[Rejected]]:
    labels, rejected = [], []
    for id_, split in wanted:
        response, verdict = verdicts[id_]
        if verdict.label is None:
            rejected.append(Rejected(id_, str(verdict.reason), response.answer, split, response.key))
        else:
            labels.append(Label(id_, verdict.label, verdict.probabilities, verdict.confidence, split, response.key))
    return labels, rejected


def _commonest(rejected: list[Rejected]) -> str:
    reason, count = Counter(row.reason for row in rejected).most_common(1)[0]
    return f"the commonest reason is '{reason}', {count} times"
