"""Annotators: whoever labels a text. One file each behind one Protocol.

local         a causal language model run here by transformers: log-probabilities of the answer words
vllm          the same by vLLM, for GPUs
openai        any OpenAI-compatible endpoint, many requests at once
openai_batch  the Batch API: files of requests, answered within a day at a lower price
recorded      answers read from files, joined by id
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.params import (
    Annotate,
    LocalAnnotator,
    OpenAIAnnotator,
    OpenAIBatchAnnotator,
    RecordedAnnotator,
    Task,
    VllmAnnotator,
)
from pipeline.prompts import Template, Variant
from pipeline.responses import Answer, ResponseStore
from pipeline.spending import Spending


@dataclass(frozen=True, slots=True)
class Request:
    """One text to ask about, with its own examples and order of labels where the prompt asks for that."""

    id: str
    text: str
    variant: Variant | None = None


class Annotator(Protocol):
    """Answers requests. Loading is lazy: where everything is stored, no model is loaded and no server is asked."""

    @property
    def model(self) -> str:
        """Who answers, with a digest of local weights."""

    @property
    def decoding(self) -> str:
        """JSON of all that shapes an answer beside model and messages."""

    @property
    def gives_log_probabilities(self) -> bool:
        """Whether answers carry log-probabilities of the labels, and prompts without content can calibrate them."""

    def key(self, request: Request) -> str:
        """What the store finds the answer by."""

    def answers(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending
    ) -> Iterator[list[Answer]]:
        """Yield answers to the requests whose key is not in `stored`, some at a time, each key once.

        Every answer that was paid for is yielded. `stored` holds an answer as soon as the next one is asked for. A
        request is sent only if `spending.take` allows it; after a refusal what is under way is waited for, and the
        iterator ends. A request that fails for good gives an Answer with an error. Memory is bounded, whatever the
        number of requests. Where the company of a text may change its answer in the last bits (batches), that company
        is a function of `requests` alone, so that a resumed run computes what an undisturbed one does.

        Raises:
            UserError: nothing can be answered: a wrong key, an unknown model, no quota, no LLM at that address.
        """


def create(params: Annotate, task: Task, store: ResponseStore) -> Annotator:
    """The annotator that params ask for."""
    template = Template.of(params.prompt, task)
    match params.annotator:
        case LocalAnnotator():
            from pipeline.annotators.local import Local

            return Local(params.annotator, template)
        case VllmAnnotator():
            from pipeline.annotators.vllm import Vllm

            return Vllm(params.annotator, template, params.prompt.reasoning)
        case OpenAIAnnotator():
            from pipeline.annotators.openai_chat import OpenAIChat

            return OpenAIChat(params.annotator, template, params.prompt.reasoning, store)
        case OpenAIBatchAnnotator():
            from pipeline.annotators.openai_batch import OpenAIBatch

            return OpenAIBatch(params.annotator, template, params.prompt.reasoning, store)
        case RecordedAnnotator():
            from pipeline.annotators.recorded import Recorded

            return Recorded(params.annotator)
