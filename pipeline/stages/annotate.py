"""annotate: sample + gold -> responses + metrics/annotate.json

Every answer goes into the response store before it counts; the artifact is written from the store. A first hundred
answers are looked at before the rest is paid for.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from heapq import nsmallest
from itertools import chain, islice
from typing import Any

from pipeline import annotators, asking, costing, piloting, responses, shooting
from pipeline.annotators import Annotator, Request
from pipeline.artifacts import (
    GOLD,
    QUESTIONS,
    RESPONSES,
    SAMPLE,
    STORE,
    Gold,
    Question,
    Response,
    Sampled,
    Table,
    metrics,
)
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.piloting import Judge, Tally
from pipeline.prompts import Template
from pipeline.responses import Answer, ResponseStore, Totals
from pipeline.spending import Spending
from serving.progress import Advance, progress

log = logging.getLogger("llambert")
_OF_ANSWER = [field.name for field in fields(Answer)]  # what a response has of its answer


def run(params: Params) -> None:
    """Ask for what is not stored yet, then write all responses."""
    metrics("annotate").write(answered(params, RESPONSES))


def answered(params: Params, table: Table[Response]) -> dict[str, Any]:
    """Ask the annotator of `params.annotate`, write its responses to `table`, return what they have used."""
    start = time.perf_counter()
    if not SAMPLE.count():
        raise UserError(
            "the sample is empty: there is nothing to annotate; look at sample.size and data/unusable.parquet"
        )
    with responses.opened(STORE) as store:
        annotator = annotators.create(params.annotate, params.task, store)
        QUESTIONS.write(_questions(params, annotator, SAMPLE))
        before, prices = store.totals(_keys()), costing.prices(params)
        spending = Spending(params.annotate.budget, prices, before)
        with progress("annotate", QUESTIONS.count(), done=before.answers) as advance:
            asked = _ask(params, annotator, store, spending, advance)
        table.write(_responses(params, annotator, store, spending))
        totals = store.totals(_keys()) if asked else before
    money = prices.of(totals.prompt_tokens, totals.answer_tokens, totals.seconds)
    new, seconds = totals.answers - before.answers, time.perf_counter() - start
    log.info("annotate: %d answers, %d of them new, %.1f s", totals.answers, new, seconds)
    return asdict(totals) | {"model": annotator.model, "money": money}


@dataclass(frozen=True)
class Asked:
    """What came back for a sample that grows."""

    responses: list[Response]
    totals: Totals
    stopped: str | None  # the limit that left questions open


def ask(params: Params, sample: Iterable[Sampled], what: str) -> Asked:
    """Ask about a part of a sample that is not written yet; the budget is that of all answers to it.

    Raises:
        UserError: too many failures; or the budget is too small for one request.
    """
    with responses.opened(STORE) as store:
        annotator = annotators.create(params.annotate, params.task, store)
        QUESTIONS.write(_questions(params, annotator, sample))
        before = store.totals(_keys())
        spending = Spending(params.annotate.budget, costing.prices(params), before)
        with progress(what, QUESTIONS.count(), done=before.answers) as advance:
            _ask(params, annotator, store, spending, advance)
        found = list(_responses(params, annotator, store, spending, partly=True))
        return Asked(found, store.totals(_keys()), spending.stopped)


def _questions(params: Params, annotator: Annotator, sampled: Iterable[Sampled]) -> Iterator[Question]:
    """The pilot first: prompts without content to calibrate by, some gold to measure the teacher by, some sample.

    The sample is in random order already; gold may be sorted by label.
    """
    size, blanks = params.annotate.pilot, params.annotate.prompt.content_free
    free = ((f"content_free:{i}", text) for i, text in enumerate(blanks if annotator.gives_log_probabilities else []))
    gold = nsmallest(size, _gold(params), key=lambda row: row.text_hash)
    early, sample = {row.id for row in gold}, ((row.id, row.text) for row in sampled)
    ordered = chain(
        (("content_free", id_, text, None) for id_, text in free),
        (("gold", row.id, row.text, row.label) for row in gold),
        (("sample", id_, text, None) for id_, text in islice(sample, size)),
        (("gold", row.id, row.text, row.label) for row in _gold(params) if row.id not in early),
        (("sample", id_, text, None) for id_, text in sample),
    )
    for (purpose, id_, text, label), variant in shooting.variants(ordered, params):
        key = annotator.key(Request(id_, text, variant))
        yield Question(id_, text, purpose, label, None if variant is None else variant.to_json(), key)


def _gold(params: Params) -> Iterator[Gold]:
    """Gold that is never trained on; where several annotators are measured, all of it."""
    asked = (row for row in GOLD if params.annotators or row.split != "train")
    yield from asked if params.annotate.gold else ()


def _ask(params: Params, annotator: Annotator, store: ResponseStore, spending: Spending, advance: Advance) -> bool:
    """Answer the pilot, look at it, answer the rest; say whether anything was left to ask."""
    judge, pilot, asked = Judge(params), list(_pilot(params.annotate.pilot * params.requests_per_text)), False
    for questions in (pilot, islice(QUESTIONS, len(pilot), None)):
        tally = Tally(judge, params.task.asked.names)

        def seen(answers: list[Answer], tally: Tally = tally) -> None:
            tally.add(answers)
            advance(len(answers), f"{spending}, {tally}")

        asked |= asking.ask(annotator, store, questions, spending, asking.origin(params, annotator), seen)
        if questions is pilot and pilot:
            judge = _look_at(params, pilot, store)
    return asked


def _pilot(size: int) -> Iterator[Question]:
    """The first `size` of the sample and of gold, and what calibrates; nothing where `size` is 0."""
    seen = Counter[str]()
    for question in QUESTIONS if size else ():
        seen[question.purpose] += 1
        if question.purpose != "content_free" and seen[question.purpose] > size:
            return
        yield question


def _look_at(params: Params, pilot: list[Question], store: ResponseStore) -> Judge:
    """Judge the first answers; stop where asking on would be a waste."""
    found = store.get(question.key for question in pilot)
    by_purpose: dict[str, list[tuple[Question, Answer]]] = {"sample": [], "gold": [], "content_free": []}
    for question in pilot:
        if question.key in found:
            by_purpose[question.purpose].append((question, found[question.key]))
    sample, free = ([answer for _, answer in by_purpose[purpose]] for purpose in ("sample", "content_free"))
    if params.task.kind == "multi":  # most labels apply to few texts: that the LLM mostly says no is no objection
        by_purpose["gold"] = []
    validation = {row.id for row in GOLD if row.split == "validation"}
    people = [(question.id, str(question.label), answer) for question, answer in by_purpose["gold"]]
    judge = Judge(params, sample, free, [(label, answer) for id_, label, answer in people if id_ in validation])
    gold = [(label, judge(answer)) for _, label, answer in people]
    why = piloting.objection(list(map(judge, sample)), gold, judge.min_yield)
    if why is not None:
        raise UserError(
            f"annotate stopped after its pilot: {why}. Look at annotate.prompt, or ask on with annotate.pilot: 0; "
            f"the {len(found)} answers are kept"
        )
    return judge


def _responses(
    params: Params, annotator: Annotator, store: ResponseStore, spending: Spending, partly: bool = False
) -> Iterator[Response]:
    """What came back for each question.

    Raises:
        UserError: the budget (unless `partly`) or too many failures left questions open; the answers stay in the store.
    """
    prompt_hash, errors, answered, total = _prompt_hash(params), Counter[str](), 0, 0
    for questions in asking.chunks(QUESTIONS):
        found = store.get(question.key for question in questions)
        total += len(questions)
        for q in questions:
            if (answer := found.get(q.key)) is None:
                continue
            answered += 1
            if answer.error is not None:
                errors[answer.error.split(":")[0]] += 1
            yield Response(
                id=q.id, purpose=q.purpose, variant=q.variant, prompt_hash=prompt_hash, model=annotator.model,
                decoding=annotator.decoding, **{name: getattr(answer, name) for name in _OF_ANSWER},
            )  # fmt: skip
    if answered < total and not (partly and spending.stopped):
        if spending.stopped is None:
            raise ValueError(f"{total - answered} requests have neither an answer nor an error. This is a bug.")
        raise UserError(
            f"annotate.{spending.stopped} is reached ({spending}): {answered:,} of {total:,} texts were asked about "
            "and their answers are kept; raise annotate.budget or lower sample.size, and run again"
        )
    if (failed := errors.total()) > params.annotate.max_failed_share * total:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in errors.most_common())
        raise UserError(
            f"{failed:,} of {total:,} requests failed ({kinds}), more than annotate.max_failed_share "
            f"{params.annotate.max_failed_share:.0%}: the others are kept; run again to ask these once more"
        )


def _keys() -> Iterator[str]:
    return asking.keys(QUESTIONS)


def _prompt_hash(params: Params) -> str:
    return Template.of(params.annotate.prompt, params.task).hash
