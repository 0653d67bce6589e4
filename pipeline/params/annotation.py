"""The blocks annotate and parse: who labels the sample, how it is asked, what it may cost, what counts as a label."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.annotators import (
    LocalAnnotator,
    OpenAIAnnotator,
    OpenAIBatchAnnotator,
    RecordedAnnotator,
    VllmAnnotator,
)
from pipeline.params.base import Amount, Block, Positive, Seed, Share, Word

_REASONING_TOKENS = 64


class Example(Block):
    """A few-shot example."""

    text: str
    label: str


class Shots(Block):
    """Few-shot examples from gold_train, chosen for each text anew, as many of each label as `per_label` says."""

    choose: Literal["nearest", "random"] = "nearest"  # by cosine of the encoder's mean-pooled states, or by seed
    per_label: Positive = 1
    encoder: str = "embedded:minilm"
    seed: Seed = 0


class Prompt(Block):
    """How the LLM is asked: `chat` through its own template, or `completion` of plain text.

    `{text}` stands exactly once in `user`; `{criterion}` and `{labels}` may. `answers` are the words whose
    log-probability after the prompt counts for a label; without them, the label's own name.
    """

    style: Literal["chat", "completion"] = "chat"
    system: str | None = None
    user: str
    examples: list[Example] = []
    shots: Shots | None = None
    answers: dict[str, Annotated[list[Word], Field(min_length=1)]] | None = None
    content_free: Annotated[list[str], Field(min_length=1)] = ["", "N/A", "[MASK]"]
    delimiters: tuple[Word, Word] | None = Field(default=None, strict=False)  # around each text; broken up inside it
    shuffle: bool = False  # labels and examples in an order of its own for each text
    reasoning: bool = False  # let it think first; what follows the last "Answer:" is parsed

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.user.count("{text}") != 1 or (self.system and "{text}" in self.system):
            raise ValueError("`{text}` must stand exactly once, in `user`")
        if self.style == "completion" and self.system:
            raise ValueError("a completion prompt has no `system` part: write it at the start of `user`")
        if self.examples and self.shots:
            raise ValueError("give `examples`, or let `shots` choose them from gold: not both")
        if self.style == "completion" and self.reasoning:
            raise ValueError("`reasoning` asks for the style chat: a plain completion does not know when to stop")
        return self


class Price(Block):
    """What the LLM costs, in the currency of `report`. Unset parts come from the table of `llambert plan`."""

    prompt_per_million: Amount | None = None  # tokens
    answer_per_million: Amount | None = None  # tokens
    per_hour: Amount | None = None  # of the machine, for annotators that run here


class Budget(Block):
    """Where to stop. Money and tokens count what the same requests have cost before; minutes count this run."""

    money: Amount | None = None
    tokens: Positive | None = None
    minutes: Amount | None = None


AnyAnnotator = Annotated[
    LocalAnnotator | RecordedAnnotator | OpenAIAnnotator | OpenAIBatchAnnotator | VllmAnnotator,
    Field(discriminator="kind"),
]


class Annotate(Block):
    """Who labels the sample, and how it is asked."""

    annotator: AnyAnnotator
    prompt: Prompt
    gold: bool = True  # ask for the gold texts too, to measure the teacher
    pilot: Annotated[int, Field(ge=0)] = 100  # answers to look at before the rest is asked; 0: don't
    max_failed_share: Share = 0.02  # of requests without an answer after all attempts
    price: Price = Price()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _room_to_think(self) -> Self:
        room = getattr(self.annotator, "max_answer_tokens", None)
        if self.prompt.reasoning and (room is None or room < _REASONING_TOKENS):
            raise ValueError(
                f"prompt.reasoning wants an annotator that answers in text, with annotator.max_answer_tokens of "
                f"{_REASONING_TOKENS} or more (got kind {self.annotator.kind}, {room})"
            )
        return self


class Further(Block):
    """Another annotator of the same texts. Its answers are combined with the others by what gold says of them."""

    annotator: AnyAnnotator
    prompt: Prompt | None = None  # null: annotate.prompt
    pilot: Annotated[int, Field(ge=0)] = 100
    max_failed_share: Share = 0.02
    price: Price = Price()
    budget: Budget = Budget()

    def like(self, first: Annotate) -> Annotate:
        """The block `annotate` with this annotator in the place of the first."""
        own = {name: getattr(self, name) for name in Further.model_fields if name != "prompt"}
        return first.model_copy(update=own | ({} if self.prompt is None else {"prompt": self.prompt}))


class Parse(Block):
    """From answers to labels. Calibration removes the LLM's preference for a label (arXiv 2309.17249, 2102.09690)."""

    calibration: Literal["auto", "none", "batch", "contextual"] = "auto"  # auto: what fits gold best
    prior: dict[str, Annotated[float, Field(ge=0)]] | None = None  # share of each label in the corpus; uniform if null
    min_confidence: Share = 0.0
    min_yield: Share = 0.5
