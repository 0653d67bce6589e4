"""What labels cost: prices times seconds or tokens, and the same for labelling everything with the LLM."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import Endpoint, OpenAIAnnotator, Params, Price
from pipeline.params.base import Block
from pipeline.spending import Prices

_TABLE = "prices.yaml"
_ENDPOINTS = ("openai", "openai_batch")
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class PriceTable(Block):
    """prices.yaml: list prices of one date."""

    as_of: str
    currency: str
    batch_discount: float
    models: dict[str, list[float]]  # name -> prompt, answer; per million tokens


@cache
def table() -> PriceTable:
    """The list prices that come with the package."""
    from ruamel.yaml import YAML

    return PriceTable.model_validate(YAML(typ="safe", pure=True).load(Path(__file__).with_name(_TABLE)))


def prices(params: Params) -> Prices:
    """What the annotator costs: tokens of an endpoint, time of this machine otherwise; recorded answers are free.

    Raises:
        UserError: a price or a limit is set that this annotator can't have.
    """
    annotator, price = params.annotate.annotator, params.annotate.price
    if price.per_hour is not None and isinstance(annotator, Endpoint):
        raise UserError(
            "annotate.price.per_hour is for an LLM that runs on this machine; for an endpoint set "
            "prompt_per_million and answer_per_million"
        )
    if params.annotate.budget.money is not None and isinstance(annotator, Endpoint) and (why := unpriced(params)):
        raise UserError(f"annotate.budget.money can't be kept: {why}")
    return of_model(params, annotator.kind, annotator.model)


def is_priced(params: Params, kind: str, model: str | None) -> bool:
    """Whether the prices of answers that a model gave by an annotator of some kind are known."""
    price = _own(params, kind, model)
    given = price.prompt_per_million is not None and price.answer_per_million is not None
    return kind not in _ENDPOINTS or given or _listed(params, kind, model) is not None


def of_model(params: Params, kind: str | None, model: str | None) -> Prices:
    """Prices of answers that a model gave by an annotator of some kind; annotate.price holds for its own."""
    if kind is None or kind == "recorded":
        return Prices()
    price, endpoint = _own(params, kind, model), kind in _ENDPOINTS
    prompt, answer = (_listed(params, kind, model) if endpoint else None) or (0.0, 0.0)
    per_hour = params.report.machine_per_hour if price.per_hour is None else price.per_hour
    return Prices(
        prompt if price.prompt_per_million is None else price.prompt_per_million,
        answer if price.answer_per_million is None else price.answer_per_million,
        0.0 if endpoint else per_hour,
    )


def unpriced(params: Params) -> str | None:
    """Why nobody knows what the annotator costs, or None."""
    annotator = params.annotate.annotator
    if annotator.kind == "recorded":
        return "the LLM's answers were recorded elsewhere: what they cost is not known here"
    if is_priced(params, annotator.kind, annotator.model):
        return None
    return f"the price of {annotator.model} in {params.report.currency} is unknown: set annotate.price"


def origin(params: Params) -> str:
    """Where the prices come from, as a person reads it."""
    price, currency = prices(params), params.report.currency
    parts = []
    if price.prompt_per_million or price.answer_per_million:
        own = params.annotate.price
        set_ = own.prompt_per_million is not None and own.answer_per_million is not None
        listed = params.annotate.annotator.kind in _ENDPOINTS and not set_
        source = f" (list prices of {table().as_of}: check yours)" if listed else ""
        tokens = f"{price.prompt_per_million:g} and {price.answer_per_million:g} {currency}"
        parts.append(f"{tokens} for a million tokens of prompts and answers{source}")
    here = params.report.machine_per_hour
    if price.per_hour and price.per_hour != here:
        parts.append(f"{price.per_hour:g} {currency} for an hour of the LLM's machine")
    return "; ".join([*parts, f"{here:g} {currency} for an hour of this machine"])


def _own(params: Params, kind: str, model: str | None) -> Price:
    """annotate.price where it is meant for this model."""
    annotator = params.annotate.annotator
    same = kind == annotator.kind and (model == annotator.model or kind not in _ENDPOINTS)
    return params.annotate.price if same else Price()


def _listed(params: Params, kind: str, model: str | None) -> tuple[float, float] | None:
    """Prompt and answer per million tokens, where the table has the model and its currency is the report's."""
    name = model or ""
    found = table().models.get(name) or table().models.get(_DATE.sub("", name))
    if found is None or table().currency != params.report.currency:
        return None
    discount = table().batch_discount if kind == "openai_batch" else 0.0
    return found[0] * (1 - discount), found[1] * (1 - discount)


def by_the_clock(params: Params, seconds: float) -> float:
    """Seconds of many answers, by the clock: an endpoint's requests wait beside each other."""
    annotator = params.annotate.annotator
    return seconds / annotator.max_concurrency if isinstance(annotator, OpenAIAnnotator) else seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """What an annotator of a run has used."""

    requests: int  # texts that it was asked about
    tokens: int  # prompts and answers
    money: float | None  # None where nobody knows
    seconds: float  # by the clock


def asked(params: Params, figures: Mapping[str, Any]) -> Asked:
    """Price what an annotator, that of the block `annotate`, says of itself in its metrics."""
    prompt, answer, seconds = (figures[key] for key in ("prompt_tokens", "answer_tokens", "seconds"))
    money = None if unpriced(params) else prices(params).of(prompt, answer, seconds)
    return Asked(figures["answers"], prompt + answer, money, by_the_clock(params, seconds))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has used."""

    annotators: Mapping[str, Asked]  # the first, and those who were consulted
    train_s: float  # all candidates together
    label_s: float
    rows: int  # texts that the encoder labelled

    @property
    def first(self) -> Asked:
        """The LLM that labels."""
        return next(iter(self.annotators.values()))

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(each.seconds for each in self.annotators.values()) + self.train_s + self.label_s


@dataclass(frozen=True, slots=True)
class Costs:
    """In the currency of the params; None where nobody knows what the LLM's answers cost."""

    annotate: float  # by all annotators, as far as it is known
    train: float
    label: float
    everything_by_llm: float | None  # all `rows` by the first annotator, at what an answer has cost
    everything_by_llm_s: float | None  # likewise in seconds by the clock
    break_even: int | None  # texts from which on the encoder's way is the cheaper one

    @property
    def total(self) -> float:
        """What was paid, as far as it is known."""
        return self.annotate + self.train + self.label


def costs(usage: Usage, machine_per_hour: float) -> Costs:
    """Price a run; training and labelling at what an hour of this machine costs."""
    per_second = machine_per_hour / 3600
    train, label = usage.train_s * per_second, usage.label_s * per_second
    llm, annotate = usage.first, sum(each.money or 0.0 for each in usage.annotators.values())
    if llm.money is None or not llm.requests:
        return Costs(annotate, train, label, None, None, None)
    by_llm = llm.money / llm.requests
    by_encoder = label / usage.rows if usage.rows else 0.0
    saved = by_llm - by_encoder
    return Costs(
        annotate,
        train,
        label,
        everything_by_llm=by_llm * usage.rows,
        everything_by_llm_s=llm.seconds / llm.requests * usage.rows if llm.seconds else None,
        break_even=math.ceil((annotate + train) / saved) if saved > 0 else None,
    )
