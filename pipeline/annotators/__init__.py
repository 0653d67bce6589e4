"""Annotators: whoever labels a text. One file each behind one Protocol.

local      a causal language model run here by transformers: log-probabilities of the answer words
recorded   answers read from files, joined by id
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.params import Annotate, LocalAnnotator, Task
from pipeline.prompts import Template
from pipeline.responses import Answer


@dataclass(frozen=True, slots=True)
class Request:
    """One text to ask about."""

    id: str
    text: str


class Annotator(Protocol):
    """Answers requests. Loading is lazy: where everything is stored, no model is loaded."""

    model: str  # who answers, with a digest of local weights
    decoding: str  # JSON of all that shapes an answer beside model and messages
    gives_log_probabilities: bool

    def key(self, request: Request) -> str:
        """What the store finds the answer by."""

    def answers(self, requests: Sequence[Request], stored: Container[str]) -> Iterator[list[Answer]]:
        """Yield answers to the requests whose key is not in `stored`, batch by batch, each key once.

        Batches are a function of `requests` alone, so that a resumed run computes exactly what an undisturbed one does.
        """


def create(params: Annotate, task: Task) -> Annotator:
    """The annotator that params ask for."""
    template = Template.of(params.prompt, task)
    if isinstance(params.annotator, LocalAnnotator):
        from pipeline.annotators.local import Local

        return Local(params.annotator, template)
    from pipeline.annotators.recorded import Recorded

    return Recorded(params.annotator)
