"""Many requests at once against a real server that misbehaves: each text answered once, nothing asked again."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from llm_server import FAULTS, LABELS, Behaviour, LLMServer

from pipeline import responses
from pipeline.annotators import Request, openai_chat, pacing
from pipeline.annotators.openai_chat import OpenAIChat
from pipeline.errors import UserError
from pipeline.params import Budget, OpenAIAnnotator, Prompt, Task
from pipeline.prompts import Template
from pipeline.responses import Answer, ResponseStore
from pipeline.spending import Prices, Spending

TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
PROMPT = Prompt(user="{text}\nIs it good?")


@dataclass
class Asking:
    """An annotator of one server, its store, and what a stage does with them."""

    annotator: OpenAIChat
    store: ResponseStore
    spending: Spending

    def stored(self, requests: Iterable[Request]) -> list[Answer]:
        """Ask, and store as the stage does."""
        came: list[Answer] = []
        for answers in self.annotator.answers(requests, self.store, self.spending):
            self.store.add(answers)
            self.spending.settle(answers)
            came += answers
        return came


Make = Callable[..., Asking]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(pacing, "_BACKOFF_S", 0.02)
    monkeypatch.setattr(pacing, "_OUTAGE_PAUSE_S", 0.1)
    with responses.opened(tmp_path / "responses.sqlite") as store:

        def asking(
            server: LLMServer, prices: Prices | None = None, budget: Budget | None = None, **values: Any
        ) -> Asking:
            usual = {"model": "toy", "base_url": server.url, "mode": "log_probabilities", "timeout_s": 5.0}
            params = OpenAIAnnotator(kind="openai", **(usual | values))
            spending = Spending(budget or Budget(), prices or Prices(), store.totals([]))
            return Asking(OpenAIChat(params, Template.of(PROMPT, TASK), False, store), store, spending)

        yield asking


def texts(count: int, start: int = 0) -> list[Request]:
    return [Request(f"id{i}", f"#{i} is a text") for i in range(start, start + count)]


def test_every_text_is_answered_once_and_with_its_own_answer(make: Make) -> None:
    with LLMServer(Behaviour()) as server:
        asking = make(server)
        came = asking.stored(texts(200))
        right = {asking.annotator.key(r): server.label(f"#{i}") for i, r in enumerate(texts(200))}
    assert {a.key: a.answer for a in came} == right
    assert len(came) == 200
    assert set(server.answered.values()) == {1}
    assert all(a.log_probabilities and a.prompt_tokens and a.finish_reason == "choice" for a in came)
    for answer in came:
        assert answer.log_probabilities is not None
        assert LABELS[answer.log_probabilities.index(max(answer.log_probabilities))] == answer.answer


def test_what_is_stored_is_not_asked_again_and_needs_no_key(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMServer(Behaviour()) as server:
        make(server).stored(texts(30))
        assert len(make(server).stored(texts(40))) == 10
        assert set(server.asked.values()) == {1}
        monkeypatch.delenv("OPENAI_API_KEY")
        assert make(server).stored(texts(40)) == []


@pytest.mark.parametrize("delay_s", [0.0, 0.2])
def test_texts_that_are_the_same_are_asked_about_once(make: Make, delay_s: float) -> None:
    twins = [Request(f"twin {i}", f"#{i % 3} is a text") for i in range(30)]
    with LLMServer(Behaviour(delay_s=delay_s)) as server:
        assert len(make(server).stored(twins)) == 3
    assert set(server.asked.values()) == {1}


def test_failed_texts_are_tried_again_by_the_next_run_only(make: Make) -> None:
    with LLMServer(Behaviour(always="500")) as server:
        came = make(server, max_attempts=2).stored([*texts(3), *texts(3)])
        assert [a.error and a.error.startswith("server error: ") for a in came] == [True] * 3
        assert set(server.asked.values()) == {2}
        server.behaviour.always = None
        came = make(server).stored(texts(3))
    assert [a.error for a in came] == [None] * 3


def test_an_answer_that_is_given_twice_is_never_taken_for_another_text(make: Make) -> None:
    with LLMServer(Behaviour(faults=0.2, kinds=["twice, late"])) as server:
        asking = make(server, max_concurrency=8)
        came = asking.stored(texts(300))
    right = {asking.annotator.key(r): server.label(f"#{i}") for i, r in enumerate(texts(300))}
    assert {a.key: a.answer for a in came} == right
    assert server.asked.total() > 310  # it did happen


def test_a_server_whose_ids_mean_nothing_is_asked_once_for_each_text_all_the_same(make: Make) -> None:
    with LLMServer(Behaviour(numbers=False)) as server:
        assert len(make(server).stored(texts(300))) == 300
        assert server.asked.total() < 300 * 1.5


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_is_borne(make: Make, fault: str) -> None:
    with LLMServer(Behaviour(faults=0.3, kinds=[fault], seed=2)) as server:
        asking = make(server, timeout_s=0.4, max_concurrency=8)
        came = asking.stored(texts(40))
    assert sorted(a.key for a in came) == sorted(asking.annotator.key(r) for r in texts(40))
    assert server.seen_faults[fault] >= 5
    assert [a.error for a in came] == [None] * 40
    assert all(a.answer in LABELS for a in came)
    assert {a.key: a.answer for a in came} == {
        asking.annotator.key(r): server.label(f"#{i}") for i, r in enumerate(texts(40))
    }
    assert set(server.answered.values()) == {1} or fault.startswith("twice")


def test_the_kind_of_a_failure_is_told(make: Make) -> None:
    kinds = {
        "429": "rate limit", "500": "server error", "reset": "connection lost", "half a body": "connection lost",
        "time-out": "time-out", "trickle": "time-out", "malformed": "malformed answer", "null": "malformed answer",
        "empty choices": "malformed answer", "html": "malformed answer",
    }  # fmt: skip
    for i, (fault, kind) in enumerate(kinds.items()):
        with LLMServer(Behaviour(always=fault)) as server:
            [came] = make(server, max_attempts=1, timeout_s=0.3).stored(texts(1, start=i))
        assert str(came.error).split(": ")[0] == kind, fault


def test_a_trickle_ends_with_the_time_out(make: Make) -> None:
    with LLMServer(Behaviour(always="trickle", hang_s=10)) as server:
        start = time.monotonic()
        [came] = make(server, timeout_s=0.5, max_attempts=1).stored(texts(1))
    assert time.monotonic() - start < 2
    assert came.error == "time-out: no whole answer in time"


def test_what_the_server_refuses_is_kept_and_not_asked_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bad = [Request("a", "#1 [filter]"), Request("b", "#2 [long]"), Request("c", "#3"), Request("d", "#4 [long]")]
    with LLMServer(Behaviour()) as server:
        came = {a.key: a for a in make(server).stored(bad)}
        assert make(server).stored(bad) == []
        assert set(server.asked.values()) == {1}
        asking = make(server)
        reasons = [came[asking.annotator.key(r)].finish_reason for r in bad]
    assert reasons == ["content_filter", "refused", "choice", "refused"]
    assert len(caplog.records) == 1
    assert [a.answer for a in came.values() if a.finish_reason == "refused"] == [None, None]


def test_concurrency_is_bounded_and_used(make: Make) -> None:
    with LLMServer(Behaviour(delay_s=0.05)) as server:
        start = time.monotonic()
        make(server, max_concurrency=7).stored(texts(70))
        assert time.monotonic() - start < 70 * 0.05 / 2
    assert server.most_under_way == 7


def test_adapts_to_what_the_server_bears(make: Make) -> None:
    with LLMServer(Behaviour(delay_s=0.02, most_at_once=6)) as server:
        came = make(server, max_concurrency=64, max_attempts=12).stored(texts(400))
    assert [a.error for a in came] == [None] * 400
    assert server.asked.total() < 400 * 1.6  # 64 at first are refused, after that few


def test_all_wait_as_long_as_the_server_asks_one_to(make: Make) -> None:
    behaviour = Behaviour(first=["", "", "", "429 Retry-After"], retry_after="1", delay_s=0.01)
    with LLMServer(behaviour) as server:
        asking, start = make(server, max_concurrency=4), time.monotonic()
        asking.stored(texts(4))
        late = asking.stored(texts(1, start=4))
        assert time.monotonic() - start >= 1
        assert len(late) == 1
        behaviour.first[:] = ["429 Retry-After"]
        moments: list[float] = []
        start = time.monotonic()
        for answers in make(server, max_concurrency=2).annotator.answers(texts(40, start=10), {}, asking.spending):
            moments += [time.monotonic() - start] * len(answers)
        assert sum(moment < 0.9 for moment in moments) <= 2  # the one beside it


def test_requests_per_minute_are_kept(make: Make) -> None:
    with LLMServer(Behaviour()) as server:
        start = time.monotonic()
        make(server, requests_per_minute=1200).stored(texts(40))  # 20 at once, then 20 a second
        assert 0.9 < time.monotonic() - start < 4


def test_requests_are_read_as_they_are_needed(make: Make) -> None:
    read = yielded = most = 0

    def stream() -> Iterator[Request]:
        nonlocal read, most
        for request in texts(300):
            read += 1
            most = max(most, read - yielded)
            yield request

    with LLMServer(Behaviour(faults=0.3, kinds=["500"])) as server:
        asking = make(server, max_concurrency=8)
        for answers in asking.annotator.answers(stream(), asking.store, asking.spending):
            asking.store.add(answers)
            yielded += len(answers)
    assert yielded == 300
    assert most <= 4 * 8  # in flight, waiting for a retry, answered and not yet taken


def test_a_budget_is_kept_and_what_was_bought_is_there(make: Make) -> None:
    with LLMServer(Behaviour(delay_s=0.02)) as server:
        asking = make(server, budget=Budget(tokens=1000), max_concurrency=16)
        came = asking.stored(texts(500))
    assert asking.spending.stopped == "budget.tokens 1,000"
    assert 0 < len(came) == server.answered.total() < 500
    assert 700 < sum(a.prompt_tokens + a.answer_tokens for a in came) <= 1000


def test_without_counts_from_the_server_our_own_are_taken(make: Make) -> None:
    with LLMServer(Behaviour(counts=False)) as server:
        asking = make(server)
        came = asking.stored(texts(3))
    assert all(a.prompt_tokens >= len("#0 is a text\nIs it good?") // 4 for a in came)
    assert all(a.answer_tokens == 2 for a in came)


@pytest.mark.parametrize("fatal", ["quota", "404"])
def test_where_it_cannot_go_on_it_stops_and_keeps_what_was_answered(make: Make, fatal: str) -> None:
    def stream(behaviour: Behaviour) -> Iterator[Request]:
        yield from texts(30)
        behaviour.always = fatal  # three of the thirty are still in flight
        yield from texts(70, start=30)

    with LLMServer(Behaviour(delay_s=0.05)) as server:
        asking = make(server, max_concurrency=4)
        with pytest.raises(UserError, match=r"annotate stopped: the .* are kept"):
            asking.stored(stream(server.behaviour))
        assert 26 <= len(asking.store) == server.answered.total() <= 30
        assert server.asked.total() <= 34


def test_an_endpoint_that_is_gone_does_not_use_up_the_sample(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_LONGEST_PAUSE_S", 0.2)
    with LLMServer(Behaviour(always="reset")) as server:
        asking = make(server, max_concurrency=4, max_attempts=2)
        with pytest.raises(UserError, match=r"not answered 2\d requests in a row \(connection lost: ConnectionReset"):
            asking.stored(texts(1000))
        failed = asking.store.get(asking.annotator.key(request) for request in texts(1000))
    assert 20 <= len(failed) <= 28
    assert all(answer.error for answer in failed.values())


def test_an_outage_is_waited_for(make: Make) -> None:
    with LLMServer(Behaviour(always="503")) as server:
        asking = make(server, max_concurrency=16)
        timer = threading.Timer(1.0, lambda: setattr(server.behaviour, "always", None))
        timer.start()
        came = asking.stored(texts(100))
        timer.join()
    assert Counter(a.error for a in came) == {None: 100}


def test_a_caller_that_stops_early_leaves_nothing_open(make: Make) -> None:
    with LLMServer(Behaviour(delay_s=0.1)) as server:
        asking = make(server, max_concurrency=8)
        generator = asking.annotator.answers(texts(50), asking.store, asking.spending)
        asking.store.add(next(generator))
        time.sleep(0.05)
        generator.close()  # sockets and tasks that stay open are errors in these tests
        left = 50 - len(asking.store)
        assert 42 <= left < 50
        assert len(asking.stored(texts(50))) == left


@pytest.mark.usefixtures("interruptible")
def test_control_c_hands_over_what_was_answered(make: Make) -> None:
    with LLMServer(Behaviour(delay_s=0.3)) as server:
        asking = make(server, max_concurrency=8)
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            asking.stored(texts(500))
        timer.join()
        assert 8 <= len(asking.store) <= server.answered.total() <= len(asking.store) + 8


def test_storing_slowly_does_not_starve_the_server(make: Make) -> None:
    """The requests in flight go on while the caller stores, and come in groups."""
    with LLMServer(Behaviour(delay_s=0.1)) as server:
        asking, start, groups = make(server, max_concurrency=16), time.monotonic(), 0
        for answers in asking.annotator.answers(texts(160), asking.store, asking.spending):
            time.sleep(0.01)
            asking.store.add(answers)
            groups += 1
        assert time.monotonic() - start < 10 * 0.1 * 4
    assert groups <= 40


def test_the_loop_is_ours_alone(make: Make) -> None:
    with LLMServer(Behaviour()) as server:
        make(server).stored(texts(3))
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_long_waits_are_told(make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_chat, "_LONG_PAUSE_S", 0.15)
    with LLMServer(Behaviour(first=["429 Retry-After"])) as server, caplog.at_level(logging.WARNING, "llambert"):
        make(server).stored(texts(3))
    assert [r.getMessage() for r in caplog.records] == ["waiting 0 s for the endpoint: Error code: 429 - injected"]
