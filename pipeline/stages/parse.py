"""parse: sample + responses -> labels + rejected + teacher + metrics/parse.json

Every sampled text becomes exactly one row: a label, or a rejection with its reason.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline import calibrating, consulting, parsing
from pipeline.artifacts import (
    GOLD,
    LABELS,
    OPINIONS,
    REJECTED,
    RESPONSES,
    SAMPLE,
    TEACHER,
    Label,
    Opinion,
    Rejected,
    Response,
    Sampled,
    consulted,
    metrics,
)
from pipeline.calibrating import Calibration
from pipeline.consulting import Consulted
from pipeline.errors import UserError
from pipeline.params import FIRST, Params, Parse, Task
from pipeline.prompts import Variant

log = logging.getLogger("llambert")
Judged = dict[str, tuple[Response, parsing.Verdict]]  # by id


def run(params: Params) -> None:
    """Calibrate on the sample, judge every response."""
    sampled = [replace(row, text="") for row in SAMPLE]
    verdicts, calibration = _verdicts(list(RESPONSES), params, _chosen(sampled))
    together = _consulted(verdicts, [row.id for row in sampled], params)
    verdicts = (
        {id_: (response, together.verdicts[id_]) for id_, (response, _) in verdicts.items()} if together else verdicts
    )
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
    chosen = _chosen(sampled)
    uniform = [row for row in labels if row.id not in chosen]
    shares = Counter(name for row in uniform for name in params.task.shape.names(row.label))
    metrics("parse").write(
        {
            "labelled": len(labels),
            "rejected": len(rejected),
            "yield": share,
            "rejected_by_reason": dict(Counter(row.reason for row in rejected)),
            "shares": {name: shares[name] / max(len(uniform), 1) for name in params.task.names},  # of sets: more than 1
            "mean_confidence": float(np.mean([row.confidence for row in uniform])) if uniform else None,
            "teacher": {"answered": len(teacher), "rejected": len(unanswered)},
            "calibration": calibration,
            "annotators": together.figures if together else None,
        }
    )
    log.info("parse: %d labels, %d rejected (yield %.1f %%)", len(labels), len(rejected), 100 * share)


def labels_of(answered: list[Response], sampled: Iterable[Sampled], params: Params) -> list[Label]:
    """Labels of a sample that is still growing; calibrated, where that is asked for, on its uniform part."""
    rows = list(sampled)
    verdicts, _ = _verdicts(answered, params, _chosen(rows))
    return _sorted_out(((row.id, row.split) for row in rows), verdicts)[0]


def _chosen(sampled: Iterable[Sampled]) -> set[str]:
    """Texts that were picked for what they teach, so that nothing is estimated from them."""
    return {row.id for row in sampled if row.stratum != "uniform"}


def _consulted(first: Judged, sample: list[str], params: Params) -> Consulted | None:
    """All annotators together, where there are several; what each said goes into `data/opinions.parquet`."""
    if not params.annotators:
        OPINIONS.write([])
        return None
    unsure = params.model_copy(update={"parse": params.parse.model_copy(update={"min_confidence": 0.0})})
    said = {FIRST: {id_: verdict for id_, (_, verdict) in first.items()}}
    for name in params.annotators:
        verdicts, _ = _verdicts(list(consulted(name)), unsure.asking(name))
        said[name] = {id_: verdict for id_, (_, verdict) in verdicts.items()}
    OPINIONS.write(
        Opinion(id_, name, verdict.label, verdict.confidence)
        for name, of in said.items()
        for id_, verdict in of.items()
    )
    truth = {row.id: row.label for row in GOLD if row.split != "test"}
    found = consulting.combine(said, truth, sample, params)
    if not found.figures["gold"]:
        log.warning(
            "parse: no gold says whom to believe, so labels are those of annotate.annotator; where annotators differ, "
            "look at the texts (`llambert queue`)"
        )
    log.info("parse: %d annotators, %s", len(said), found.combination.shape.family)
    return found


def _verdicts(
    answered: list[Response], params: Params, chosen: Collection[str] = ()
) -> tuple[Judged, dict[str, Any] | None]:
    """By id, and how the answers were calibrated, which those on `chosen` texts have no part in.

    Of kind multi, the answers on each label by themselves first.
    """
    gold = {row.id: row.label for row in GOLD if row.split == "validation"}
    if params.task.kind != "multi":
        even = [row for row in answered if row.id not in chosen]
        calibration = _calibration(even, params.task, params.parse, gold)
        judged = _judge(answered, params, params.parse, calibration)
        return {response.id: (response, verdict) for response, verdict in judged}, _figures(calibration)
    if params.requests_per_text == 1:
        return {row.id: (row, parsing.from_set(row.answer, params.task)) for row in answered}, None
    return _each_label(answered, params, gold)


def _figures(found: Calibration | None) -> dict[str, Any] | None:
    return {"method": found.method, "log_loss": found.log_loss, "shift": found.shift.tolist()} if found else None


def _each_label(
    answered: list[Response], params: Params, gold: Mapping[str, str]
) -> tuple[Judged, dict[str, Any] | None]:
    task, said = params.task, defaultdict[str, list[tuple[Response, parsing.Verdict]]](list)
    methods: dict[str, str] = {}
    of_label = defaultdict[str | None, list[Response]](list)
    for row in answered:
        of_label[Variant.from_json(row.variant or "").label].append(row)
    for label in task.names:
        truth = {id_: "yes" if label in task.shape.names(names) else "no" for id_, names in gold.items()}
        share = None if params.parse.prior is None else params.parse.prior[label]
        prior = None if share is None else {"no": 1 - share, "yes": share}
        parse = params.parse.model_copy(update={"prior": prior, "min_confidence": 0.0})
        calibration = _calibration(of_label[label], task.asked, parse, truth)
        methods[label] = calibration.method if calibration else "none"
        for row, verdict in _judge(of_label[label], params, parse, calibration):
            said[row.id].append((row, verdict))
    verdicts = {}
    for id_, rows in said.items():
        verdict = parsing.together([verdict for _, verdict in rows], task, params.parse)
        failed = next((row for row, one in rows if one.label is None), rows[0][0])
        verdicts[id_] = replace(failed, key=" ".join(row.key for row, _ in rows)), verdict
    kinds = set(methods.values())
    return verdicts, {"method": kinds.pop() if len(kinds) == 1 else "some", "log_loss": {}, "by_label": methods}


def _judge(
    answered: list[Response], params: Params, parse: Parse, calibration: Calibration | None
) -> Iterator[tuple[Response, parsing.Verdict]]:
    task = params.task.asked
    parser = parsing.TextParser(task, params.annotate.prompt.reasoning)
    for row in answered:
        if row.purpose == "content_free":
            continue
        if row.log_probabilities is None or calibration is None:
            yield row, parser.parse(row.answer, row.finish_reason)
        else:
            yield row, parsing.from_probabilities(calibration(np.array(row.log_probabilities)), task, parse)


def _calibration(
    answered: list[Response], task: Task, parse: Parse, validation: Mapping[str, str]
) -> Calibration | None:
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
    gold = {id_: label for id_, label in validation.items() if id_ in scores["gold"]}
    found = calibrating.calibrate(
        calibrating.Scores(
            sample=np.array(list(scores["sample"].values())),
            content_free=np.array(list(scores["content_free"].values())),
            gold=np.array([scores["gold"][id_] for id_ in gold]),
            truth=list(gold.values()),
        ),
        parse,
        task.names,
    )
    if found.log_loss:
        log.info("parse: calibration %s (log loss on validation gold: %s)", found.method, _listed(found.log_loss))
    elif parse.calibration == "auto":
        log.info("parse: no calibration: there is too little validation gold to tell whether one helps")
    return found


def _listed(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{method} {loss:.3f}" for method, loss in losses.items())


def _sorted_out(wanted: Iterable[tuple[str, str]], verdicts: Judged) -> tuple[list[Label], list[Rejected]]:
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
