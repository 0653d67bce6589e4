"""annotate: sample + gold -> responses + metrics/annotate.json

Every answer goes into the response store before it counts; the artifact is written from the store.
"""

import logging
import time
from collections.abc import Iterable, Iterator

from pipeline import annotators, responses
from pipeline.annotators import Annotator, Request
from pipeline.artifacts import GOLD, RESPONSES, SAMPLE, STORE, Response, metrics
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.prompts import Template
from serving.progress import progress

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Ask for what is not stored yet, then write all responses."""
    start = time.perf_counter()
    annotator = annotators.create(params.annotate, params.task)
    asked = list(_requests(params, annotator.gives_log_probabilities))
    if not asked:
        raise UserError(
            "the sample is empty: there is nothing to annotate; look at sample.size and data/unusable.parquet"
        )
    with responses.opened(STORE) as store:
        bought = _ask(annotator, [request for _, request in asked], store)
        answers = store.get(annotator.key(request) for _, request in asked)
    prompt_hash = Template.of(params.annotate.prompt, params.task).hash
    rows = [_row(purpose, request, annotator, prompt_hash, answers) for purpose, request in asked]
    RESPONSES.write(rows)
    paid = {row.key: row for row in rows}.values()
    metrics("annotate").write(
        {
            "model": annotator.model,
            "requests": len(paid),
            "prompt_tokens": sum(row.prompt_tokens for row in paid),
            "answer_tokens": sum(row.answer_tokens for row in paid),
            "cut": sum(row.cut for row in paid),
            "seconds": sum(row.seconds for row in paid),
        }
    )
    log.info("annotate: %d answers, %d of them new, %.1f s", len(rows), bought, time.perf_counter() - start)


def _requests(params: Params, scores: bool) -> Iterator[tuple[str, Request]]:
    """(purpose, request): the sample, gold to measure the teacher by, and prompts without content to calibrate by."""
    sampled: set[str] = set()
    for row in SAMPLE:
        sampled.add(row.id)
        yield "sample", Request(row.id, row.text)
    if params.annotate.gold:
        yield from (("gold", Request(g.id, g.text)) for g in GOLD if g.split != "train" and g.id not in sampled)
    if scores:
        blanks = params.annotate.prompt.content_free
        yield from (("content_free", Request(f"content_free:{i}", text)) for i, text in enumerate(blanks))


def _ask(annotator: Annotator, requests: list[Request], store: responses.ResponseStore) -> int:
    stored = store.keys() & {annotator.key(request) for request in requests}
    total = len({annotator.key(request) for request in requests})
    bought = 0
    with progress("annotate", total, done=len(stored)) as advance:
        for answers in annotator.answers(requests, stored):
            store.add(answers)
            bought += len(answers)
            advance(len(answers), f"{sum(answer.prompt_tokens for answer in answers):,} tokens a batch")
    return bought


def _row(
    purpose: str, request: Request, annotator: Annotator, prompt_hash: str, answers: dict[str, responses.Answer]
) -> Response:
    answer = answers[annotator.key(request)]
    return Response(
        id=request.id,
        purpose=purpose,
        prompt_hash=prompt_hash,
        model=annotator.model,
        decoding=annotator.decoding,
        **{name: getattr(answer, name) for name in _COPIED},
    )


_COPIED: Iterable[str] = responses.Answer.__slots__
