"""Any OpenAI-compatible endpoint, one text a request, many at once.

One thread: the event loop runs while the caller waits for answers, and stands still while the caller stores them. What
is in flight goes on at the server meanwhile. Answers are handed over some at a time, so that little time is lost so.
"""

import asyncio
import heapq
import itertools
import logging
import math
import random
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from openai import AsyncOpenAI

from pipeline.annotators import Request
from pipeline.annotators.endpoint import Asker
from pipeline.annotators.failures import FAILURES, MalformedError, Trouble, trouble
from pipeline.annotators.pacing import Pace, backoff_s
from pipeline.errors import UserError
from pipeline.params import OpenAIAnnotator
from pipeline.prompts import Template
from pipeline.responses import Answer, ErrorKind, ResponseStore
from pipeline.spending import Spending

log = logging.getLogger("llambert")
_GROUP_S = 0.05  # answers of this time are handed over, and stored, together
_LONG_PAUSE_S = 10.0  # worth a line in the log
_LATEST = 10_000  # answers whose ids are remembered
_REPEATED_AT_MOST = (10, 0.3)  # answers, or a share of all; where more come twice, their ids mean nothing
_GIVEN_UP_IN_A_ROW = 20  # at least; requests without an answer after all attempts: the endpoint is gone


class OpenAIChat:
    """Requests in flight are bounded, and adapt to what the server bears."""

    def __init__(self, params: OpenAIAnnotator, template: Template, reasoning: bool, store: ResponseStore) -> None:
        self._params = params
        self._asker = Asker(params, template, reasoning, store)
        self.model = params.model

    @cached_property
    def decoding(self) -> str:
        """JSON of all that shapes an answer beside model and messages."""
        return self._asker.decoding

    @cached_property
    def gives_log_probabilities(self) -> bool:
        """Whether the endpoint says how likely each label is; may ask it."""
        return self._asker.mode == "log_probabilities"

    def key(self, request: Request) -> str:
        """Model, decoding and messages."""
        return self._asker.key(request)

    def answers(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending
    ) -> Iterator[list[Answer]]:
        """Yield answers as they come. At most two requests per slot are in memory: in flight, or waiting for a retry.

        Raises:
            UserError: nothing can be answered; raised after all that was answered has been yielded.
        """
        taken: set[str] = set()  # keys in flight, answered but not stored yet, or failed
        jobs = self._jobs(requests, stored, spending, taken)
        if (first := next(jobs, None)) is None:
            return
        crowd = _Crowd(self._asker, self._params, itertools.chain([first], jobs))
        with asyncio.Runner() as runner:
            try:
                while answers := runner.run(crowd.some()):
                    yield answers
                    taken.difference_update(answer.key for answer in answers if answer.error is None)
            except KeyboardInterrupt:
                if answers := crowd.take():
                    yield answers
                raise
            finally:
                runner.run(crowd.close())
        if crowd.fatal is not None:
            raise UserError(f"annotate stopped: {crowd.fatal}; the answers so far are kept")

    def _jobs(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending, taken: set[str]
    ) -> Iterator["_Job"]:
        for request in requests:
            key = self._asker.key(request)
            if key in taken or key in stored:
                continue
            tokens = self._asker.prompt_tokens(request)
            if not spending.take(key, tokens, self._asker.max_answer_tokens()):
                return
            taken.add(key)
            body, cut = self._asker.body(request)
            yield _Job(key, body, cut, tokens, tokens + self._asker.max_answer_tokens())


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way."""

    key: str
    body: dict[str, Any]
    cut: bool
    prompt_tokens: int  # counted or estimated
    tokens: int  # at most, with the answer's
    attempts: int = 0
    sent_at: float = 0.0


@dataclass(order=True, slots=True)
class _Retry:
    """A job that waits for its next attempt."""

    at: float
    job: _Job = field(compare=False)


class _Ids:
    """Of the latest answers; by them an answer that is given twice is known, where a server numbers its answers."""

    def __init__(self) -> None:
        self._latest: dict[str, None] = {}
        self._answers = self._repeated = 0

    def repeated(self, id_: object) -> bool:
        """Whether an answer of this id came before; never, where ids turn out to mean nothing."""
        if not isinstance(id_, str) or not id_:
            return False
        self._answers += 1
        if id_ not in self._latest:
            self._latest[id_] = None
            if len(self._latest) > _LATEST:
                del self._latest[next(iter(self._latest))]
            return False
        self._repeated += 1
        return self._repeated <= max(_REPEATED_AT_MOST[0], _REPEATED_AT_MOST[1] * self._answers)


async def _close_after(client: AsyncOpenAI, users: set[asyncio.Task[Any]]) -> None:
    try:
        await asyncio.wait(users)
    finally:
        await client.close()


class _Crowd:
    """The requests in flight, those that wait for a retry, and the answers that nobody has taken yet."""

    def __init__(self, asker: Asker, params: OpenAIAnnotator, jobs: Iterator[_Job]) -> None:
        self._asker, self._params, self._jobs = asker, params, jobs
        self._pace = Pace(params.max_concurrency, params.requests_per_minute, params.tokens_per_minute)
        self._client: AsyncOpenAI = asker.client()
        self._retiring: list[asyncio.Task[None]] = []  # clients that were replaced
        self._ids = _Ids()
        self._in_flight: dict[asyncio.Task[Answer | Trouble], _Job] = {}
        self._ended: list[asyncio.Task[Answer | Trouble]] = []
        self._retries: list[_Retry] = []  # a heap
        self._woken = asyncio.Event()
        self._given_up = 0  # in a row
        self._warned = False
        self._done: list[Answer] = []
        self.fatal: str | None = None  # why nothing more is sent

    async def some(self) -> list[Answer]:
        """Keep requests in flight until there are answers to hand over; none: all is answered."""
        until = time.monotonic() + _GROUP_S
        while True:
            self._settle()
            next_at = self._send()
            full = len(self._done) >= self._params.max_concurrency or time.monotonic() >= until
            if (self._done and full) or (not self._in_flight and next_at == math.inf):
                return self.take()
            await self._wait(min(next_at, until) if self._done else next_at)

    def take(self) -> list[Answer]:
        """All that is answered and was not taken yet."""
        self._settle()
        answers, self._done = self._done, []
        return answers

    async def close(self) -> None:
        """Drop what is in flight."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        await asyncio.gather(*self._retiring)
        await self._client.close()

    async def _wait(self, until: float) -> None:
        """Until a request ends, or the time has come."""
        loop = asyncio.get_running_loop()
        timer = None if until == math.inf else loop.call_later(max(until - time.monotonic(), 0.0), self._woken.set)
        await self._woken.wait()
        self._woken.clear()
        if timer is not None:
            timer.cancel()

    def _send(self) -> float:
        """Send what may be sent now; return when there may be more to send, infinity if a request must end first."""
        if self.fatal is not None:
            self._retries.clear()
            return math.inf
        while True:
            now = time.monotonic()
            at = self._pace.ready_at(len(self._in_flight), now)
            if at > now:
                return at
            if (job := self._next(now)) is None:
                return self._retries[0].at if self._retries else math.inf
            job.attempts, job.sent_at = job.attempts + 1, now
            self._pace.sent(job.tokens, now)
            task = asyncio.get_running_loop().create_task(self._ask(job))
            self._in_flight[task] = job
            task.add_done_callback(self._end)

    def _next(self, now: float) -> _Job | None:
        if self._retries and self._retries[0].at <= now:
            return heapq.heappop(self._retries).job
        return next(self._jobs, None) if len(self._retries) < self._params.max_concurrency else None

    async def _ask(self, job: _Job) -> Answer | Trouble:
        try:
            client = self._client
            content = await self._asker.ask(client, job.body)
            self._check_whose(content, client)
            # Of the waiting time, the share of one among all that wait: the sum is the time of the run.
            seconds = (time.monotonic() - job.sent_at) / max(len(self._in_flight), 1)
            return self._asker.answer(job.key, content, job.cut, seconds)
        except FAILURES as error:
            return trouble(error)

    def _check_whose(self, content: object, client: AsyncOpenAI) -> None:
        """Refuse another request's answer, which a server that answers twice leaves on the connection.

        That connection stays out of step: all that follows goes over new ones.

        Raises:
            MalformedError: this answer was given before.
        """
        if not isinstance(content, Mapping) or not self._ids.repeated(content.get("id")):
            return
        if client is self._client:
            self._client = self._asker.client()
            retired = asyncio.get_running_loop().create_task(_close_after(client, set(self._in_flight)))
            self._retiring.append(retired)
            retired.add_done_callback(self._retiring.remove)
        raise MalformedError("the answer to an earlier request came once more")

    def _end(self, task: asyncio.Task[Answer | Trouble]) -> None:
        self._ended.append(task)
        self._woken.set()

    def _settle(self) -> None:
        """Look at what has ended."""
        ended, self._ended = self._ended, []
        for task in ended:
            job, now = self._in_flight.pop(task), time.monotonic()
            match task.result():
                case Answer() as answer:
                    self._answered(job, answer, now)
                case Trouble() as found:
                    self._failed(job, found, now)

    def _answered(self, job: _Job, answer: Answer, now: float) -> None:
        if not answer.prompt_tokens:  # the server does not count
            words = self._asker.cutter.count(answer.answer or "")
            answer = replace(answer, prompt_tokens=job.prompt_tokens, answer_tokens=words)
        self._pace.answered(job.tokens, answer.prompt_tokens + answer.answer_tokens, now)
        self._given_up = 0
        self._done.append(answer)

    def _failed(self, job: _Job, found: Trouble, now: float) -> None:
        if found.fatal is not None:
            self.fatal = found.fatal
        elif found.kind is None:
            self._refused(job, found, now)
        else:
            self._slow_down(job, found, now)
            if job.attempts < self._params.max_attempts:
                at = now + backoff_s(job.attempts, random.random()) + (found.wait_s or 0.0)
                heapq.heappush(self._retries, _Retry(at, job))
            else:
                self._give_up(job, found.kind, found.seen)

    def _refused(self, job: _Job, found: Trouble, now: float) -> None:
        if not self._warned:
            self._warned = True
            log.warning("the endpoint refuses a request, which is not asked again: %s", found.seen)
        self._pace.answered(job.tokens, 0, now)
        reason = "content_filter" if found.filtered else "refused"
        self._done.append(Answer(job.key, None, None, reason, 0, 0, now - job.sent_at, job.cut))

    def _slow_down(self, job: _Job, found: Trouble, now: float) -> None:
        pause_s = self._pace.failed(job.sent_at, now)
        if found.overloaded:
            self._pace.overloaded(job.sent_at, now)
        if found.wait_s is not None:
            self._pace.pause(found.wait_s, now)
        if max(pause_s, found.wait_s or 0.0) >= _LONG_PAUSE_S:
            log.warning("waiting %.0f s for the endpoint: %s", max(pause_s, found.wait_s or 0.0), found.seen)

    def _give_up(self, job: _Job, kind: ErrorKind, seen: str) -> None:
        self._given_up += 1
        self._done.append(Answer.failed(job.key, kind, seen))
        if self._given_up >= max(_GIVEN_UP_IN_A_ROW, self._params.max_concurrency):
            self.fatal = f"the endpoint has not answered {self._given_up} requests in a row ({kind}: {seen})"
