"""The blocks annotate and parse: who labels the sample, how it is asked, what counts as a label."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Block, Positive, Share, Word


class Example(Block):
    """A few-shot example."""

    text: str
    label: str


class Prompt(Block):
    """How the LLM is asked: `chat` through its own template, or `completion` of plain text.

    `{text}` stands exactly once in `user`; `{criterion}` and `{labels}` may. `answers` are the words whose
    log-probability after the prompt counts for a label; without them, the label's own name.
    """

    style: Literal["chat", "completion"] = "chat"
    system: str | None = None
    user: str
    examples: list[Example] = []
    answers: dict[str, Annotated[list[Word], Field(min_length=1)]] | None = None
    content_free: Annotated[list[str], Field(min_length=1)] = ["", "N/A", "[MASK]"]

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.user.count("{text}") != 1 or (self.system and "{text}" in self.system):
            raise ValueError("`{text}` must stand exactly once, in `user`")
        if self.style == "completion" and self.system:
            raise ValueError("a completion prompt has no `system` part: write it at the start of `user`")
        return self


class LocalAnnotator(Block):
    """A causal language model run here by transformers: a Hugging Face id, a directory, or a .gguf file."""

    kind: Literal["local"]
    model: str = "embedded:smollm2"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_text_tokens: Positive = 1024  # longer texts keep head and tail
    max_batch_tokens: Positive = 4096


class RecordedFile(Block):
    """Answers that exist already. `answer` names columns; the first that is not null counts."""

    path: str
    id: str = "id"
    answer: list[str]


class RecordedAnnotator(Block):
    """Answers read from files and joined by id: published experiments, or labels that a user brings."""

    kind: Literal["recorded"]
    model: str  # who gave the answers
    files: Annotated[list[RecordedFile], Field(min_length=1)]


class Annotate(Block):
    """Who labels the sample, and how it is asked."""

    annotator: Annotated[LocalAnnotator | RecordedAnnotator, Field(discriminator="kind")]
    prompt: Prompt
    gold: bool = True  # ask for the gold texts too, to measure the teacher


class Parse(Block):
    """From answers to labels. Calibration removes the LLM's preference for a label (arXiv 2309.17249, 2102.09690)."""

    calibration: Literal["none", "batch", "contextual"] = "none"
    prior: dict[str, Annotated[float, Field(ge=0)]] | None = None  # share of each label in the corpus; uniform if null
    min_confidence: Share = 0.0
    min_yield: Share = 0.5
