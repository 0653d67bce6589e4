"""The Batch API: every request ends in one answer or one error, whatever the endpoint does."""

# ruff: noqa: F811 - fixtures are imported

import json
from typing import Any

import pytest
from batch_client import COMPLETION, TEXTS, Serve, annotator, ask, check, requests, serve, spending, store  # noqa: F401 - serve and store are fixtures
from batch_server import BatchServer

from pipeline.errors import UserError
from pipeline.responses import ResponseStore


def test_files_within_their_limits_and_no_more_open_than_allowed(serve: Serve, store: ResponseStore) -> None:
    server = serve(seconds=0.05)
    asked = annotator(server.url, store)
    answers = ask(asked, store, [*TEXTS, TEXTS[0]])
    check(server, asked, store, TEXTS)
    assert (answers[0].prompt_tokens, answers[0].answer_tokens, answers[0].seconds) == (10, 1, 0.0)
    batches = server.batches()
    assert sorted(batch["request_counts"]["total"] for batch in batches) == [2, 4, 4]
    assert server.most_open == 2
    assert {batch["completion_window"] for batch in batches} == {"24h"}
    line = server.requests(batches[-1])[0]
    assert {name: line[name] for name in ("method", "url")} == {"method": "POST", "url": "/v1/chat/completions"}
    assert list(asked.answers(iter(requests(TEXTS)), store, spending())) == []


def test_bytes_bound_a_file_too(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    size = max(len(json.dumps(line)) + 1 for line in _lines(server, store))
    asked = annotator(server.url, store, max_requests=100, max_bytes=3 * size)
    ask(asked, store, [f"longer {text}" for text in TEXTS])
    sizes = [(server.directory / batch["input_file_id"]).stat().st_size for batch in server.batches()[:-1]]
    assert max(sizes) <= 3 * size
    assert len(sizes) > 3
    with pytest.raises(UserError, match="max_bytes 90 of a whole file"):
        ask(annotator(server.url, store, max_bytes=90), store, ["another"])


def test_a_file_of_some_megabytes(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    texts = [f"good {i} {'long ' * 3000}" for i in range(150)]
    asked = annotator(server.url, store, max_requests=200)
    ask(asked, store, texts)
    check(server, asked, store, texts)


def _lines(server: BatchServer, store: ResponseStore) -> list[dict[str, Any]]:
    ask(annotator(server.url, store, max_requests=100), store, TEXTS)
    return server.requests(server.batches()[0])


def test_the_mode_is_found_out_and_log_probabilities_are_read(serve: Serve, store: ResponseStore) -> None:
    asked = annotator(serve().url, store, mode="auto")
    assert asked.gives_log_probabilities
    answers = ask(asked, store, ["a good film", "a dull one"])
    assert [answer.log_probabilities for answer in answers] == [[-2.5, -0.1], [-0.1, -2.5]]
    assert {answer.finish_reason for answer in answers} == {"choice"}


def test_plain_completions_go_to_their_own_address(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    asked = annotator(server.url, store, COMPLETION)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)
    assert {batch["endpoint"] for batch in server.batches()} == {"/v1/completions"}


def test_what_failed_for_the_moment_is_sent_again_and_the_rest_is_not(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    texts = [*TEXTS, "good [500] 1", "good [lost] 2", "[500] 3"]
    asked = annotator(server.url, store, max_requests=6)
    ask(asked, store, texts)
    check(server, asked, store, texts)


def test_a_batch_with_nothing_but_an_error_file(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    asked = annotator(server.url, store)
    texts = ["[500] good", "[500] dull"]
    ask(asked, store, texts)
    check(server, asked, store, texts)
    assert [batch["output_file_id"] is None for batch in server.batches()] == [False, True]


def test_half_an_answer_is_none_and_is_asked_for_again(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    asked = annotator(server.url, store)
    answers = ask(asked, store, ["[torn] good"])
    assert [answer.answer for answer in answers] == ["positive"]
    assert list(server.billed.values()) == [2]


def test_refused_requests_count_as_answered_and_dead_ones_as_failed(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    asked = annotator(server.url, store, max_attempts=2)
    texts = ["good [400]", "good [filter]", "good [dead]", "good"]
    limits = spending()
    refused, filtered, dead, fine = ask(asked, store, texts, limits)
    assert [a.finish_reason for a in (refused, filtered, dead, fine)] == ["refused", "content_filter", "error", "stop"]
    assert dead.error == "server error: 500 try again"
    assert sum(asked.key(requests(texts)[2]) in json.dumps(server.requests(b)) for b in server.batches()) == 2
    assert store.notes("batch ") == {}
    assert limits.tokens == 11
    assert not limits._taken  # nothing stays set aside
    made = len(server.batches())
    ask(asked, store, texts)  # only the failed one is tried again, by the next run
    assert [batch["request_counts"]["total"] for batch in server.batches()[: -made or None]] == [1, 1]


@pytest.mark.parametrize("what", ["expire", "cancel"])
def test_the_finished_part_of_an_expired_batch_is_used(serve: Serve, store: ResponseStore, what: str) -> None:
    server = serve(**{what: 2})
    asked = annotator(server.url, store)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)


def test_a_request_that_expires_each_time_fails(serve: Serve, store: ResponseStore) -> None:
    server = serve(expire=9)
    answers = ask(annotator(server.url, store, max_attempts=2), store, ["good"])
    assert [answer.error for answer in answers] == [
        "batch expired: batch_expired This request could not be executed in time."
    ]
    assert len(server.batches()) == 2


def test_a_batch_that_failed_by_itself_is_made_again(serve: Serve, store: ResponseStore) -> None:
    server = serve(fail_by_itself=1)
    asked = annotator(server.url, store)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)


def test_stray_result_lines_are_ignored_and_named(
    serve: Serve, store: ResponseStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(strays=True)
    asked = annotator(server.url, store, max_requests=100)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)
    assert "1 broken, 1 duplicate, 1 of unknown requests" in caplog.text


@pytest.mark.parametrize("says", ["create", "batch"])
def test_where_there_is_no_room_it_waits(serve: Serve, store: ResponseStore, says: str) -> None:
    server = serve(room=5, room_says=says, seconds=0.1)
    asked = annotator(server.url, store, max_open=4)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)
    assert [b["request_counts"]["total"] for b in server.batches() if b["status"] == "completed"] == [2, 4, 4]


@pytest.mark.parametrize("says", ["create", "batch"])
def test_a_file_too_large_for_the_endpoint_is_halved(serve: Serve, store: ResponseStore, says: str) -> None:
    server = serve(room=3, room_says=says)
    asked = annotator(server.url, store, max_requests=8)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)


def test_no_room_for_a_single_request(serve: Serve, store: ResponseStore) -> None:
    with pytest.raises(UserError, match="no room for a batch of one request"):
        ask(annotator(serve(room=0).url, store), store, TEXTS)
    assert store.notes("batch ") == {}


@pytest.mark.parametrize("fault", ["lose_create", "refuse_create", "reset_upload", "half_download", "away"])
def test_faults_of_the_connection_pass_and_cost_nothing(
    serve: Serve, store: ResponseStore, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    server = serve()
    asked = annotator(server.url, store)

    def arm(what: str) -> None:
        if what.startswith("GET /v1/batches/"):  # the endpoint has answered before
            server.does.before = lambda _: None
            setattr(server.does, fault, 3)

    server.does.before, server.does.seconds = arm, 0.05
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)
    assert getattr(server.does, fault) < 3
    assert "ignored" not in caplog.text


def test_the_budget_ends_the_run_with_what_it_bought(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    asked = annotator(server.url, store, max_requests=8)
    each = asked._asker.prompt_tokens(requests(TEXTS)[0]) + 16
    limits = spending(tokens=5 * each)
    assert len(ask(asked, store, TEXTS, limits)) == 5
    assert limits.stopped
    assert len(server.billed) == 5


MISTAKES = {
    "the endpoint refuses the key": {"key": "another"},
    "has no Batch API .*: use annotate.annotator.kind openai": {"batch_api": False},
    "does not answer .*no object of the Batch API": {"html": True},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_the_user_sees(serve: Serve, store: ResponseStore, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(annotator(serve(**MISTAKES[message]).url, store), store, TEXTS)


def test_an_unknown_model_nothing_listening_and_no_key(
    serve: Serve, store: ResponseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    with pytest.raises(UserError, match=r"refuses a batch of 4 requests: line 1: .* not supported .*model_not_found"):
        ask(annotator(server.url, store, model="unknown"), store, TEXTS)
    server.does.model = "unknown"  # the other batch of that run has failed as well
    asked = annotator(server.url, store, model="unknown")
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)
    with pytest.raises(UserError, match="does not answer"):
        ask(annotator("http://127.0.0.1:9/v1", store), store, TEXTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        ask(annotator(server.url, store), store, TEXTS)


@pytest.mark.parametrize(("mark", "message"), [("[quota]", "no quota left"), ("[404]", "no such model")])
def test_what_came_before_a_fatal_line_is_kept(serve: Serve, store: ResponseStore, mark: str, message: str) -> None:
    server = serve()
    asked = annotator(server.url, store)
    texts = ["good", "dull", mark]
    with pytest.raises(UserError, match=message):
        ask(asked, store, texts)
    assert len(store) == 2
    assert store.notes("batch ") == {}
    ask(asked, store, texts[:2])
    assert set(server.billed.values()) == {1}
