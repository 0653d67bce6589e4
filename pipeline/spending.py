"""What the LLM has cost so far, and whether another request still fits the budget."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.params import Budget as Limits
from pipeline.responses import Answer, Totals
from serving.estimating import amount


@dataclass(frozen=True, slots=True)
class Prices:
    """In the currency of the report; tokens by the million, machine time by the hour."""

    prompt_per_million: float = 0.0
    answer_per_million: float = 0.0
    per_hour: float = 0.0

    def of(self, prompt_tokens: float, answer_tokens: float, seconds: float) -> float:
        """Money."""
        tokens = prompt_tokens * self.prompt_per_million + answer_tokens * self.answer_per_million
        return tokens / 1e6 + seconds * self.per_hour / 3600


class Spending:
    """Counts what answers cost, together with what is under way, and says when to stop.

    A request takes what it may cost before it is sent, and gives back what it did not use when its answer comes: the
    limits hold for the worst case, whatever is in flight. Where prompts turn out longer than they were estimated, those
    under way are taken to be longer by the same factor.
    """

    def __init__(self, limits: Limits, prices: Prices, before: Totals) -> None:
        self._limits, self._prices = limits, prices
        self._prompt, self._answer, self._seconds = before.prompt_tokens, before.answer_tokens, before.seconds
        self._start = time.monotonic()
        self._taken: dict[str, tuple[int, int]] = {}  # key -> tokens of prompt and answer at most
        self._held_prompt = self._held_answer = 0  # their sums
        self._estimated = self._counted = 0  # prompt tokens of the answers that came
        self.stopped: str | None = None  # the limit that was reached, as the user should read it

    def take(self, key: str, prompt_tokens: int, answer_tokens: int) -> bool:
        """Whether the request fits; if so its cost is set aside, once for each key. Once False, it stays False.

        Raises:
            UserError: the budget is too small for even one request; nothing was sent.
        """
        limits = self._limits
        if self.stopped is None and limits.minutes is not None and self.minutes >= limits.minutes:
            self.stopped = f"budget.minutes {limits.minutes:g}"
        if self.stopped is not None or key in self._taken:
            return self.stopped is None
        prompt = math.ceil((self._held_prompt + prompt_tokens) * self._longer)
        answer = self._held_answer + answer_tokens
        tokens = self.tokens + prompt + answer
        money = self._prices.of(self._prompt + prompt, self._answer + answer, self._seconds)
        if limits.tokens is not None and tokens > limits.tokens:
            return self._stop(f"budget.tokens {limits.tokens:,}", f"{tokens:,} tokens")
        if limits.money is not None and money > limits.money:
            return self._stop(f"budget.money {limits.money:g}", f"{amount(money)} for {tokens:,} tokens")
        self._taken[key] = prompt_tokens, answer_tokens
        self._held_prompt += prompt_tokens
        self._held_answer += answer_tokens
        return True

    def settle(self, answers: Iterable[Answer]) -> None:
        """Replace what was set aside by what the answers cost."""
        for answer in answers:
            prompt_tokens, answer_tokens = self._taken.pop(answer.key, (0, 0))
            self._held_prompt -= prompt_tokens
            self._held_answer -= answer_tokens
            self._prompt += answer.prompt_tokens
            self._answer += answer.answer_tokens
            self._seconds += answer.seconds
            if prompt_tokens and answer.prompt_tokens:
                self._estimated += prompt_tokens
                self._counted += answer.prompt_tokens

    @property
    def tokens(self) -> int:
        """Of all answers, those of earlier runs included."""
        return self._prompt + self._answer

    @property
    def money(self) -> float:
        """For all answers, those of earlier runs included."""
        return self._prices.of(self._prompt, self._answer, self._seconds)

    @property
    def minutes(self) -> float:
        """Of this run."""
        return (time.monotonic() - self._start) / 60

    @property
    def _longer(self) -> float:
        return max(1.0, self._counted / self._estimated) if self._estimated else 1.0

    def _stop(self, limit: str, needed: str) -> bool:
        if not (self.tokens or self._seconds or self._taken):
            raise UserError(f"annotate.{limit} is too small for one request ({needed} at most): raise it")
        self.stopped = limit
        return False

    def __str__(self) -> str:
        money = f"{amount(self.money)} spent, " if self.money else ""
        return f"{money}{self.tokens:,} tokens"
