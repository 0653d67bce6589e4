"""The block rounds: the sample grows while it helps. Without it sample.size texts are labelled at once."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.base import Block, Name, Positive

Strategy = Literal["uniform", "diverse", "uncertain"]


class Stop(Block):
    """A gain on the held-out texts counts if it is this sure; so many rounds without one end the growth."""

    confidence_level: Annotated[float, Field(ge=0.5, lt=1)] = 0.8  # one-sided, of a gain above none
    patience: Positive = 3  # rounds


class Rounds(Block):
    """How the sample grows from round to round, to `sample.size` at most. Money and tokens: annotate.budget."""

    candidate: Name  # of the block `encoders`: what is trained and measured after each round
    first: Positive = 500  # texts to train on after the first round
    growth: Annotated[float, Field(gt=1, le=10)] = 1.5  # from round to round, of all texts to train on
    held_out: Annotated[int, Field(ge=50)] = 500  # uniform, labelled first, never trained on
    strategy: Strategy = "uniform"
    uniform_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the texts to train on; the rest is the strategy's
    pool: Positive | None = None  # texts that a strategy looks at; null: five times sample.size
    clusters: Annotated[int, Field(ge=2)] = 100  # of diverse
    stop: Stop = Stop()
    max_minutes: Annotated[float, Field(gt=0)] | None = None  # of all rounds, asking and training; killed runs count
