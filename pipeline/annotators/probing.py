"""Find out in which way an endpoint says labels: by asking it, not by its name.

Servers ignore fields that they don't know, with status 200: only the answer tells.
"""

import asyncio
import json
from collections.abc import Iterator

from openai import AsyncOpenAI

from pipeline.annotators import Request
from pipeline.annotators.endpoint import Asker
from pipeline.annotators.failures import FAILURES, Trouble, trouble
from pipeline.errors import UserError
from pipeline.params import Mode
from pipeline.prompts import Template
from pipeline.responses import Answer, ErrorKind

_BEST_FIRST: tuple[Mode, ...] = ("log_probabilities", "json_schema", "choice", "text")
_PAUSES_S = (0.25, 0.5, 1.0, 2.0)  # after momentary faults, in all
_LONGEST_WAIT_S = 30.0
_NONSENSE = "qx7"  # nobody says that who was not made to
_UNREACHABLE = (ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.RATE_LIMIT)


def find_mode(asker: Asker) -> Mode:
    """Ask one harmless question in each way, best first, and take the first that the server really answers so.

    Raises:
        UserError: nothing can be answered.
    """
    return asyncio.run(_find(asker))


async def _find(asker: Asker) -> Mode:
    pauses = iter(_PAUSES_S)
    async with asker.client() as client:
        for mode in _BEST_FIRST:
            if mode == "json_schema" and asker.template.style == "completion":
                continue
            found = await _answer(asker, client, mode, pauses)
            if isinstance(found, Answer):
                if mode == "text" or _follows(found, mode, asker.template):
                    return mode
            elif found.fatal:
                raise UserError(f"{client.base_url}: {found.fatal}")
            elif found.kind in _UNREACHABLE:
                raise UserError(f"{client.base_url} does not answer ({found.seen}): check annotate.annotator.base_url")
        if isinstance(found, Answer):
            raise ValueError("the mode text follows whatever is answered. This is a bug.")
        if found.kind is None:
            raise UserError(
                f"{client.base_url} refuses what it is asked ({found.seen}): mend annotate.annotator (a null, also in "
                "extra_body, leaves a field out)"
            )
        raise UserError(f"{client.base_url} does not answer as an LLM's endpoint does ({found.seen})")


async def _answer(asker: Asker, client: AsyncOpenAI, mode: Mode, pauses: Iterator[float]) -> Answer | Trouble:
    """Ask until there is an answer, a refusal, or no patience left."""
    request = Request("probe", "This is a test.", asker.template.variant)
    while True:
        body, _ = asker.body(request, mode)
        if mode == "choice":
            body["structured_outputs"] = {"choice": [_NONSENSE]}
        try:
            return asker.answer("", await asker.ask(client, body), False, 0.0, mode)
        except FAILURES as error:
            found = trouble(error)
        if found.kind is None and "max_completion_tokens" in found.seen and asker.limit_field == "max_tokens":
            asker.limit_field = "max_completion_tokens"
            continue
        if found.kind is None or found.fatal or (pause := next(pauses, None)) is None:
            return found
        await asyncio.sleep(max(pause, min(found.wait_s or 0.0, _LONGEST_WAIT_S)))


def _follows(answer: Answer, mode: Mode, template: Template) -> bool:
    text = answer.answer or ""
    if mode == "log_probabilities":
        return answer.log_probabilities is not None
    if mode == "choice":
        return text.strip() == _NONSENSE
    try:
        return json.loads(text).get("label") in template.names
    except (ValueError, AttributeError):
        return False
