"""parse: sample + responses -> labels + rejected + teacher + metrics/parse.json

Every sampled text becomes exactly one row: a label, or a rejection with its reason.
"""

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from pipeline import parsing
from pipeline.artifacts import GOLD, LABELS, REJECTED, RESPONSES, SAMPLE, TEACHER, Label, Rejected, Response, metrics
from pipeline.errors import UserError
from pipeline.params import Params

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Calibrate on the sample, judge every response."""
    answered = list(RESPONSES)
    verdicts = {response.id: (response, verdict) for response, verdict in _judge(answered, params)}
    sampled = [(row.id, row.split) for row in SAMPLE]
    labels, rejected = _sorted_out(sampled, verdicts)
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
    shares = Counter(row.label for row in labels)
    metrics("parse").write(
        {
            "labelled": len(labels),
            "rejected": len(rejected),
            "yield": share,
            "rejected_by_reason": dict(Counter(row.reason for row in rejected)),
            "shares": {label: shares[label] / len(labels) for label in params.task.names},
            "mean_confidence": float(np.mean([row.confidence for row in labels])),
            "teacher": {"answered": len(teacher), "rejected": len(unanswered)},
        }
    )
    log.info("parse: %d labels, %d rejected (yield %.1f %%)", len(labels), len(rejected), 100 * share)


def _judge(answered: list[Response], params: Params) -> Iterable[tuple[Response, parsing.Verdict]]:
    scored = [row for row in answered if row.log_probabilities is not None]
    parser = parsing.TextParser(params.task, params.annotate.prompt.reasoning)
    yield from ((row, parser.parse(row.answer, row.finish_reason)) for row in answered if row.log_probabilities is None)
    if not scored:
        return
    scores = {
        p: np.array([row.log_probabilities for row in scored if row.purpose == p]) for p in ("sample", "content_free")
    }
    calibration = parsing.calibrate(scores["sample"], scores["content_free"], params.parse, params.task.names)
    for row, probabilities in zip(
        scored, calibration(np.array([row.log_probabilities for row in scored])), strict=True
    ):
        if row.purpose != "content_free":
            yield row, parsing.from_probabilities(probabilities, params.task, params.parse)


def _sorted_out(
    wanted: list[tuple[str, str]], verdicts: dict[str, tuple[Response, parsing.Verdict]]
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
