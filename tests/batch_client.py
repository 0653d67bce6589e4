"""What tests of the Batch API share: a server with its ways, an annotator that asks it, and what must hold."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer, Behaviour, label

from pipeline.annotators import Request
from pipeline.annotators.openai_batch import OpenAIBatch
from pipeline.params import Budget, OpenAIBatchAnnotator, Prompt, Task
from pipeline.prompts import Template
from pipeline.responses import Answer, ResponseStore, Totals, opened
from pipeline.spending import Prices, Spending

TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
CHAT = Prompt(style="chat", system="Say positive or negative.", user="{text}\nIs it so?")
COMPLETION = Prompt(style="completion", user="{text}\nIt is")
TEXTS = [f"{'good' if i % 3 else 'dull'} film {i}" for i in range(10)]

Serve = Callable[..., BatchServer]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    monkeypatch.setattr("pipeline.annotators.batch_api._RETRIES", 1)  # the client's are half a second and more apart
    running: list[BatchServer] = []

    def start(name: str = "server", **behaviour: Any) -> BatchServer:
        running.append(BatchServer(tmp_path / name, Behaviour(**behaviour)).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with opened(tmp_path / "responses.sqlite") as opened_store:
        yield opened_store


def annotator(url: str, store: ResponseStore, prompt: Prompt = CHAT, **values: Any) -> OpenAIBatch:
    usual = {"model": "known", "mode": "text", "max_requests": 4, "max_open": 2, "poll_s": 0.01, "timeout_s": 5.0}
    params = OpenAIBatchAnnotator(kind="openai_batch", base_url=url, **(usual | values))
    return OpenAIBatch(params, Template.of(prompt, TASK), prompt.reasoning, store)


def requests(texts: list[str]) -> list[Request]:
    return [Request(f"id{i}", text) for i, text in enumerate(texts)]


def spending(**limits: Any) -> Spending:
    return Spending(Budget(**limits), Prices(), Totals())


def ask(asked: OpenAIBatch, store: ResponseStore, texts: list[str], limits: Spending | None = None) -> list[Answer]:
    """As the stage does: what comes is stored before the next is asked for. In the order of `texts`."""
    came: list[Answer] = []
    limits = limits or spending()
    for answers in asked.answers(iter(requests(texts)), store, limits):
        assert answers
        store.add(answers)
        limits.settle(answers)
        came += answers
    assert len({answer.key for answer in came}) == len(came)
    found = store.get(asked.key(request) for request in requests(texts))
    return [found[key] for request in requests(texts) if (key := asked.key(request)) in found]


def check(server: BatchServer, asked: OpenAIBatch, store: ResponseStore, texts: list[str]) -> None:
    """All is answered rightly, nothing is billed twice, nothing stays noted."""
    found = store.get(asked.key(request) for request in requests(texts))
    assert [found[asked.key(r)].answer for r in requests(texts)] == [label(text) for text in texts]
    assert all(found[key].error is None for key in found)
    assert set(server.billed.values()) == {1}
    assert set(server.billed) == set(found)
    assert store.notes("batch ") == {}
