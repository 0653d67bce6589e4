"""What is asked of an endpoint, what its answers and errors mean, and how it is found out what it can do."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from llm_server import Behaviour, LLMServer

from pipeline import responses
from pipeline.annotators import Request, probing
from pipeline.annotators.endpoint import Asker
from pipeline.annotators.failures import MalformedError, trouble
from pipeline.errors import UserError
from pipeline.params import OpenAIAnnotator, Prompt, Task
from pipeline.prompts import Template, Variant
from pipeline.responses import Answer, ErrorKind, ResponseStore

TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
ALIKE = Task(name="topics", criterion="Which?", labels={"sports": [], "science": []})
CHAT = Prompt(system="Say one of {labels}.", user="{text}\nIs it good?")
COMPLETION = Prompt(style="completion", user="Review: {text}\nIt is")
REQUEST = Request("a", "A fine film.")
Make = Callable[..., Asker]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with responses.opened(tmp_path / "responses.sqlite") as opened:
        yield opened


@pytest.fixture
def make(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setattr(probing, "_PAUSES_S", (0.01, 0.01, 0.01, 0.01))

    def asker(
        base_url: str = "http://127.0.0.1:9/v1", prompt: Prompt = CHAT, task: Task = TASK, **values: Any
    ) -> Asker:
        reasoning = values.pop("reasoning", False)
        params = OpenAIAnnotator(kind="openai", **({"model": "toy", "base_url": base_url, "timeout_s": 2.0} | values))
        return Asker(params, Template.of(prompt, task), reasoning, store)

    return asker


def test_a_chat_asks_for_one_token_with_its_alternatives(make: Make) -> None:
    body, cut = make(mode="log_probabilities").body(REQUEST)
    assert not cut
    assert body == {
        "model": "toy", "max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20,
        "messages": [
            {"role": "system", "content": "Say one of negative, positive."},
            {"role": "user", "content": "A fine film.\nIs it good?"},
        ],
    }  # fmt: skip


def test_a_completion_asks_in_the_older_way(make: Make) -> None:
    asker = make(prompt=COMPLETION, mode="log_probabilities")
    assert asker.url == "/completions"
    body, _ = asker.body(REQUEST)
    assert body["prompt"] == "Review: A fine film.\nIt is"
    assert body["logprobs"] == 20
    assert "top_logprobs" not in body
    assert "messages" not in body


def test_labels_that_begin_alike_get_tokens_to_part(make: Make) -> None:
    assert make(task=ALIKE, mode="log_probabilities").max_answer_tokens() == 8
    assert make(task=ALIKE, mode="text", max_answer_tokens=5).max_answer_tokens() == 5


def test_other_modes_ask_for_one_of_the_labels(make: Make) -> None:
    schema = make(mode="json_schema").body(REQUEST)[0]["response_format"]["json_schema"]
    assert schema["schema"]["properties"]["label"]["enum"] == ["negative", "positive"]
    assert make(mode="choice").body(REQUEST)[0]["structured_outputs"] == {"choice": ["negative", "positive"]}
    assert {"logprobs", "response_format"}.isdisjoint(make(mode="text").body(REQUEST)[0])
    assert {"logprobs", "response_format"}.isdisjoint(make(reasoning=True, max_answer_tokens=99).body(REQUEST)[0])


def test_extra_body_adds_changes_and_leaves_out(make: Make) -> None:
    extra = {"seed": 7, "max_tokens": None, "max_completion_tokens": 3}
    body, _ = make(mode="text", temperature=None, extra_body=extra).body(REQUEST)
    assert {"temperature", "max_tokens"}.isdisjoint(body)
    assert (body["seed"], body["max_completion_tokens"]) == (7, 3)


def test_long_texts_are_cut_and_counted_as_they_are_sent(make: Make) -> None:
    asker = make(mode="text", max_text_tokens=10)
    body, cut = asker.body(Request("a", "word " * 100))
    assert cut
    assert len(body["messages"][-1]["content"]) < 70
    assert asker.prompt_tokens(Request("a", "word " * 100)) == asker.prompt_tokens(Request("b", "x" * 45))


def test_examples_of_a_texts_own_are_cut_and_counted_too(make: Make) -> None:
    asker = make(mode="text", max_text_tokens=10)
    variant = Variant((0, 1), (("shot " * 100, 0), ("short", 1)))
    body, cut = asker.body(Request("a", "word", variant))
    assert not cut
    assert [len(turn["content"]) < 70 for turn in body["messages"]] == [True] * 6
    more = asker.prompt_tokens(Request("a", "word", variant)) - asker.prompt_tokens(Request("a", "word"))
    shown = sum(len(turn["content"]) for turn in body["messages"][1:-1])
    assert more == pytest.approx(shown / 4, abs=3)


def test_the_key_tells_apart_all_that_shapes_an_answer(make: Make) -> None:
    other = [
        make(mode="text").key(Request("a", "Another film.")), make(mode="choice").key(REQUEST),
        make(mode="text", model="other").key(REQUEST), make(mode="text", temperature=0.5).key(REQUEST),
        make(mode="text", prompt=COMPLETION).key(REQUEST), make(mode="text", extra_body={"seed": 1}).key(REQUEST),
    ]  # fmt: skip
    assert len({make(mode="text").key(REQUEST), *other}) == 7
    same = make(mode="text", base_url="http://elsewhere/v1", timeout_s=9.0, max_concurrency=3)
    assert same.key(Request("another id", REQUEST.text)) == make(mode="text").key(REQUEST)


def said(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "positive"}
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    return {"model": "toy", "choices": [{"message": message, "finish_reason": "stop"} | choice], "usage": usage}


def test_an_answer_is_read(make: Make) -> None:
    asker = make(mode="text")
    assert asker.answer("k", said(), True, 0.5) == Answer("k", "positive", None, "stop", 9, 2, 0.5, True)
    assert asker.answer("k", said(finish_reason="length"), False, 0.0).finish_reason == "length"
    assert asker.answer("k", said(finish_reason=None), False, 0.0).finish_reason == "stop"
    uncounted = {name: value for name, value in said().items() if name != "usage"}
    assert asker.answer("k", uncounted, False, 0.0).prompt_tokens == 0


def test_an_answer_without_text_counts_where_the_reason_tells_why(make: Make) -> None:
    asker, silent = make(mode="text"), {"content": None}
    for reason in ("length", "content_filter"):  # all tokens spent on thinking; filtered
        answer = asker.answer("k", said(message=silent, finish_reason=reason), False, 0.0)
        assert (answer.answer, answer.finish_reason) == (None, reason)
    refused = asker.answer("k", said(message={"content": None, "refusal": "I can't."}), False, 0.0)
    assert refused.answer == "I can't."
    assert asker.answer("k", said(message={"content": ""}), False, 0.0).answer == ""


@pytest.mark.parametrize(
    "content",
    [
        "<html>", [], {}, {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{}]},
        {"error": {"message": "no"}}, said(message=None), said(message={"content": None}), said(message={"content": 3}),
        said(message={"content": [{"text": "positive"}]}), said() | {"usage": {"prompt_tokens": "many"}},
        said() | {"usage": [1]},
    ],
)  # fmt: skip
def test_what_is_no_answer_is_malformed(make: Make, content: Any) -> None:
    with pytest.raises(MalformedError):
        make(mode="text").answer("k", content, False, 0.0)


def test_log_probabilities_of_a_chat_and_of_a_completion(make: Make) -> None:
    top = [{"token": " Positive", "logprob": -0.2}, {"token": "neg", "logprob": -1.8}]
    place = {"token": " Positive", "logprob": -0.2, "top_logprobs": top}
    found = make(mode="log_probabilities").answer("k", said(logprobs={"content": [place]}), False, 0.0)
    assert found.log_probabilities == pytest.approx([-1.8, -0.2])
    assert found.finish_reason == "choice"
    old = {"tokens": [" bad"], "token_logprobs": [-0.3], "top_logprobs": [{" good": -2.0, " bad": -0.3}]}
    answers = {"negative": [" bad"], "positive": [" good"]}
    asker = make(prompt=COMPLETION.model_copy(update={"answers": answers}), mode="log_probabilities")
    content = {"choices": [{"text": " bad", "logprobs": old, "finish_reason": "length"}]}
    assert asker.answer("k", content, False, 0.0).log_probabilities == pytest.approx([-0.3, -2.0])


def test_without_a_token_for_a_label_the_text_is_left_to_be_parsed(make: Make) -> None:
    place = {"token": "Hm", "logprob": -0.2, "top_logprobs": [{"token": "Well", "logprob": -1.0}]}
    asker = make(mode="log_probabilities")
    answer = asker.answer("k", said(message={"content": "Hm"}, logprobs={"content": [place]}), False, 0.0)
    assert (answer.answer, answer.log_probabilities, answer.finish_reason) == ("Hm", None, "stop")
    for absent in (None, {}, {"content": None}):
        assert asker.answer("k", said(logprobs=absent), False, 0.0).log_probabilities is None
    with pytest.raises(MalformedError):
        asker.answer("k", said(logprobs={"content": [{"token": "x"}]}), False, 0.0)


@pytest.mark.parametrize(
    ("asked", "answers", "warned"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False), ("gpt-4o", "gpt-4o-mini", True),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", True),
        ("/models/SmolLM2", "smollm2", False), ("openai/gpt-4o", "gpt-4o", False), ("toy", "another", True),
        ("gpt-4-latest", "gpt-4-0613", False), ("toy", None, False),
    ],
)  # fmt: skip
def test_another_model_than_was_asked_is_warned_of_once(
    make: Make, caplog: pytest.LogCaptureFixture, asked: str, answers: str | None, warned: bool
) -> None:
    asker = make(mode="text", model=asked)
    with caplog.at_level(logging.WARNING, "llambert"):
        for _ in range(3):
            asker.answer("k", said() | {"model": answers}, False, 0.0)
    assert len(caplog.records) == warned


def status(http: int, headers: dict[str, str] | None = None, **error: Any) -> openai.APIStatusError:
    with openai.OpenAI(api_key="x", base_url="http://x") as client:
        answer = httpx2.Response(
            http, headers=headers, json={"error": error}, request=httpx2.Request("POST", "http://x")
        )
        return client._make_status_error_from_response(answer)


def test_errors_that_pass_and_errors_that_stay() -> None:
    assert trouble(status(429)).kind is ErrorKind.RATE_LIMIT
    assert trouble(status(429)).overloaded
    for code in (500, 502, 503, 504, 529, 408, 409):
        assert trouble(status(code)).kind is ErrorKind.SERVER
    assert trouble(status(503)).overloaded
    assert not trouble(status(500)).overloaded
    assert trouble(TimeoutError()).kind is ErrorKind.TIMEOUT
    assert trouble(MalformedError("what")).seen == "what"
    refused = [
        status(400, code="context_length_exceeded"),
        status(422),
        status(413),
        status(400, code="content_filter"),
    ]
    assert [(trouble(e).kind, trouble(e).fatal, trouble(e).filtered) for e in refused] == [
        (None, None, False), (None, None, False), (None, None, False), (None, None, True)
    ]  # fmt: skip
    assert trouble(status(403, message="flagged by moderation")).filtered
    for error in (status(401), status(403), status(404), status(402), status(429, code="insufficient_quota")):
        assert trouble(error).fatal


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "0.5"}, 0.5), ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None), ({"retry-after": "-3"}, None), ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "inf"}, None), ({"retry-after-ms": "-9"}, 0.0), ({"retry-after": "9" * 30}, 3600.0),
        ({"retry-after": formatdate(1e9, usegmt=True)}, 0.0),
    ],
)  # fmt: skip
def test_how_long_the_server_asks_to_wait(headers: dict[str, str], wait_s: float | None) -> None:
    assert trouble(status(429, headers)).wait_s == wait_s


def test_a_date_to_wait_for() -> None:
    wait_s = trouble(status(503, {"retry-after": formatdate(time.time() + 30, usegmt=True)})).wait_s
    assert wait_s == pytest.approx(30, abs=3)


@pytest.mark.parametrize("prompt", [CHAT, COMPLETION], ids=["chat", "completion"])
@pytest.mark.parametrize("features", [("log_probabilities", "choice"), ("json_schema", "choice"), ("choice",), ()])
def test_the_server_itself_tells_what_it_can_do(make: Make, prompt: Prompt, features: tuple[str, ...]) -> None:
    wanted = next((f for f in features if not (f == "json_schema" and prompt is COMPLETION)), "text")
    with LLMServer(Behaviour(features=features)) as server:
        assert make(server.url, prompt).mode == wanted


def test_the_server_is_asked_once_for_all_runs(make: Make) -> None:
    with LLMServer(Behaviour(features=["choice"])) as server:
        assert make(server.url).mode == "choice"
        asked = server.asked.total()
        assert make(server.url).mode == "choice"
        assert server.asked.total() == asked
        server.behaviour.features = ["json_schema"]
        assert make(server.url, CHAT.model_copy(update={"system": None})).mode == "json_schema"  # another prompt


def test_faults_that_pass_do_not_change_what_is_found(make: Make) -> None:
    for fault in ("429", "500", "reset", "half a body", "malformed", "empty choices", "null", "html"):
        with LLMServer(Behaviour(first=[fault, fault, ""])) as server:
            assert make(server.url).mode == "log_probabilities", fault


def test_a_model_that_wants_another_name_for_the_limit_gets_it(make: Make) -> None:
    with LLMServer(Behaviour(refuses=["max_tokens", "logprobs"])) as server:
        asker = make(server.url)
        assert asker.mode == "json_schema"
        assert make(server.url).body(REQUEST)[0]["max_completion_tokens"] == 16
        assert "max_tokens" not in asker.body(REQUEST)[0]


@pytest.mark.parametrize(
    ("behaviour", "values", "message"),
    [
        (Behaviour(key="another"), {}, "check OPENAI_API_KEY"),
        (Behaviour(model="other"), {}, "toy does not exist"),
        (Behaviour(always="quota"), {}, "no quota left"),
        (Behaviour(always="404"), {}, "knows no such model or address"),
        (Behaviour(always="html"), {}, "does not answer as an LLM's endpoint does"),
        (Behaviour(always="other json"), {}, "does not answer as an LLM's endpoint does"),
        (Behaviour(always="500"), {}, "does not answer as an LLM's endpoint does"),
        (Behaviour(always="reset"), {}, "does not answer (.*reset.*): check annotate.annotator.base_url"),
        (Behaviour(always="time-out"), {"timeout_s": 0.1}, "does not answer"),
        (Behaviour(always="trickle", hang_s=5), {"timeout_s": 0.2}, "does not answer .no whole answer in time"),
        (Behaviour(refuses=["temperature"]), {}, "'temperature' is not supported with this model.*a null"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_answered_the_user_is_told_at_once(
    make: Make, behaviour: Behaviour, values: dict[str, Any], message: str
) -> None:
    with LLMServer(behaviour) as server, pytest.raises(UserError, match=message):
        _ = make(server.url, **values).mode


def test_nobody_listens(make: Make) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1/ does not answer \(.*Connect call failed"):
        _ = make().mode


def test_a_server_that_does_not_speak_http(make: Make) -> None:
    import socketserver
    import threading

    class Ssh(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            self.request.recv(1 << 16)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Ssh) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(UserError, match="does not answer"):
                _ = make(f"http://127.0.0.1:{server.server_address[1]}/v1").mode
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_a_key_that_can_be_none(make: Make, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    if not key:
        monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        _ = make().mode


def test_a_tokenizer_that_is_none(make: Make, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none"}))
    with pytest.raises(UserError, match=r"annotate\.annotator\.tokenizer"):
        make(mode="text", tokenizer=str(tmp_path)).body(REQUEST)
