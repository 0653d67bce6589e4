"""What labels cost: prices times seconds or tokens, and the same for labelling everything with the LLM."""

import math
from dataclasses import dataclass

from pipeline.params import Report


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has used."""

    requests: int  # texts that the LLM was asked about
    tokens: int  # of the LLM, prompts and answers
    annotate_s: float
    train_s: float  # all candidates together
    label_s: float
    rows: int  # texts that the encoder labelled


@dataclass(frozen=True, slots=True)
class Costs:
    """In the currency of the params; None where the answers were recorded and nobody knows what they cost."""

    annotate: float | None
    train: float
    label: float
    everything_by_llm: float | None  # all `rows`, at what an answer has cost
    everything_by_llm_s: float | None  # likewise in seconds of this machine
    break_even: int | None  # texts from which on the encoder's way is the cheaper one

    @property
    def total(self) -> float:
        """What was paid, as far as it is known."""
        return (self.annotate or 0.0) + self.train + self.label


def costs(usage: Usage, prices: Report) -> Costs:
    """Price a run."""
    per_second = prices.machine_per_hour / 3600
    train, label = usage.train_s * per_second, usage.label_s * per_second
    annotate: float | None = None
    if prices.llm_per_million_tokens is not None and usage.tokens:
        annotate = usage.tokens / 1e6 * prices.llm_per_million_tokens
    elif prices.llm_per_million_tokens is None and usage.annotate_s:
        annotate = usage.annotate_s * per_second
    if annotate is None or not usage.requests:
        return Costs(annotate, train, label, None, None, None)
    by_llm = annotate / usage.requests
    by_encoder = label / usage.rows if usage.rows else 0.0
    saved = by_llm - by_encoder
    return Costs(
        annotate,
        train,
        label,
        everything_by_llm=by_llm * usage.rows,
        everything_by_llm_s=usage.annotate_s / usage.requests * usage.rows if usage.annotate_s else None,
        break_even=math.ceil((annotate + train) / saved) if saved > 0 else None,
    )
