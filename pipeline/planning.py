"""What a run will need, before anything is paid: from the tokens of a random part of the texts to money and time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline import costing, weights
from pipeline.annotators import Request
from pipeline.annotators.cutting import CHARACTERS_PER_TOKEN, Cutter
from pipeline.annotators.tokens import prompt_tokens
from pipeline.errors import UserError
from pipeline.params import Endpoint, OpenAIAnnotator, Params, RecordedAnnotator
from pipeline.prompts import Template
from pipeline.spending import Prices, Spending
from pipeline.surveying import Pace
from serving.estimating import Estimate, Part, amount

_CHAT_TOKENS = 4  # of each message, for its role and ends
_NO_CUT = 1 << 20  # tokens


@dataclass(frozen=True, slots=True)
class Work:
    """Requests to the LLM and what they need; `smallest` is the least that one of them needs, in tokens."""

    requests: int
    prompt: Estimate
    answer_tokens: float  # of each answer
    smallest: tuple[int, int] = (0, 0)  # of its prompt, of its answer at most

    @classmethod
    def of(cls, part: Part[Request], count: Callable[[Request], int], answer_tokens: float, at_most: int) -> "Work":
        """Count the prompts of a random part."""
        prompts = [count(request) for request in part.items]
        smallest = (min(prompts, default=0), at_most)
        return cls(part.total, Estimate.scaled(prompts, part.total), answer_tokens, smallest)

    def part(self, share: float) -> "Work":
        """A share of it."""
        prompt = Estimate(self.prompt.value * share, self.prompt.margin * share)
        return replace(self, requests=round(self.requests * share), prompt=prompt)

    @property
    def answers(self) -> float:
        """Tokens of all answers."""
        return self.requests * self.answer_tokens

    def tokens(self, margins: float = 0.0) -> float:
        """Of prompts and answers, so many margins above the estimate."""
        return self.prompt.value + margins * self.prompt.margin + self.answers

    def seconds(self, params: Params, pace: Pace | None) -> float | None:
        """By the clock, as answers came so far and as the limits of the params allow; None if neither is known."""
        annotator, known = params.annotate.annotator, []
        if isinstance(annotator, OpenAIAnnotator):
            if pace is not None:
                known.append(costing.by_the_clock(params, pace.seconds * self.requests))
            if annotator.requests_per_minute is not None:
                known.append(60 * self.requests / annotator.requests_per_minute)
            if annotator.tokens_per_minute is not None:
                known.append(60 * self.tokens() / annotator.tokens_per_minute)
        elif pace is not None and not isinstance(annotator, Endpoint | RecordedAnnotator):
            known.append(pace.seconds_per_token * self.prompt.value)
        return max(known, default=None) if self.requests else 0.0

    def money(self, prices: Prices, seconds: float | None, margins: float = 0.0) -> float | None:
        """What it costs, so many margins above the estimate; None if the machine's time counts and is unknown."""
        if prices.per_hour and seconds is None:
            return None
        return prices.of(self.prompt.value + margins * self.prompt.margin, self.answers, seconds or 0.0)


class Counter:
    """Counts the tokens of prompts: by the model's own tokenizer where it is on this machine, else by characters."""

    def __init__(self, params: Params) -> None:
        annotator = params.annotate.annotator
        self._template = Template.of(params.annotate.prompt, params.task)
        self._endpoint = isinstance(annotator, Endpoint)
        name = annotator.tokenizer if isinstance(annotator, Endpoint) else annotator.model
        self._tokenizer = None if name is None or isinstance(annotator, RecordedAnnotator) else _tokenizer(name)
        if self._tokenizer is not None:
            self.how = f"counted with the tokenizer of {name}"
        else:
            why = f"the tokenizer of {name} is not here" if name else "annotate.annotator.tokenizer is not set"
            self.how = f"estimated, {CHARACTERS_PER_TOKEN} characters a token ({why})"
        limit = getattr(annotator, "max_text_tokens", None) or getattr(annotator, "max_model_len", None) or _NO_CUT
        self._cutter = Cutter(self._tokenizer, limit, getattr(annotator, "truncation", "head"))

    def __call__(self, request: Request) -> int:
        """Tokens of the prompt, as far as is known without asking the server."""
        if self._tokenizer is not None and not self._endpoint:
            return len(prompt_tokens(self._tokenizer, self._template, request, self._cutter)[0])
        text, _ = self._cutter(request.text)
        if self._template.style == "completion":
            return self._cutter.count(self._template.completion(text, request.variant))
        chat = self._template.messages(text, request.variant)
        return sum(self._cutter.count(turn["content"]) + _CHAT_TOKENS for turn in chat)


def _tokenizer(name: str) -> object | None:
    """The tokenizer, if it is on this machine: nothing is downloaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer: object = AutoTokenizer.from_pretrained(weights.language_model_directory(name), local_files_only=True)
    except (OSError, ValueError):
        return None
    return tokenizer


def budget(params: Params, work: Work, spent: Spending, seconds: float | None, prices: Prices) -> list[str]:
    """One sentence for each limit: whether it suffices.

    Args:
        params: with the limits.
        work: what is still to be asked.
        spent: what was spent before.
        seconds: that the work takes, if known.
        prices: of the annotator.

    Raises:
        UserError: there is room for not even one more request.
    """
    limits = params.annotate.budget
    prompt, answer = work.smallest
    money = work.money(prices, seconds, margins=1.0)
    one = prices.of(prompt, answer, 0.0)
    needs = [
        ("tokens", limits.tokens, float(spent.tokens), work.tokens(margins=1.0), float(prompt + answer)),
        ("money", limits.money, spent.money, money, one),
        ("minutes", limits.minutes, 0.0, None if seconds is None else seconds / 60, 0.0),
    ]
    return [
        _sentence(name, limit, before, needed, smallest, work.requests)
        for name, limit, before, needed, smallest in needs
        if limit is not None
    ]


def _sentence(name: str, limit: float, before: float, needed: float | None, smallest: float, requests: int) -> str:
    room, shown = limit - before, f"{limit:,.0f}" if name == "tokens" else f"{limit:,g}"
    if requests and (room < smallest or room <= 0):
        used = f"{_figure(name, before)} are spent, " if before else ""
        raise UserError(
            f"annotate.budget.{name} {shown} has no room for one request ({used}the smallest needs "
            f"{_figure(name, smallest)}): raise it"
        )
    if needed is None:
        return f"{name} {shown}: whether it suffices is unknown until some are answered"
    if needed <= room:
        return f"{name} {shown} suffices: {_figure(name, before + needed)} at most, as estimated"
    return f"{name} {shown} stops the run after about {int(requests * room / needed):,} of {requests:,} requests"


def _figure(name: str, value: float) -> str:
    return f"{value:,.0f}" if name == "tokens" else amount(value)
