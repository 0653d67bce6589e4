"""Batches outlive the run that sent them: whoever is killed, each request is answered and paid for once."""

# ruff: noqa: F811 - fixtures are imported

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batch_client import CHAT, TEXTS, Serve, annotator, ask, check, requests, serve, spending, store  # noqa: F401 - serve and store are fixtures
from batch_server import BatchServer

from pipeline.annotators.openai_batch import OpenAIBatch
from pipeline.errors import UserError
from pipeline.responses import Answer, ResponseStore, opened


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_leaves_its_batches_and_the_next_takes_them_up(
    serve: Serve, store: ResponseStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(seconds=60.0)
    polls = itertools.count(1)

    def interrupt(what: str) -> None:
        if what.startswith("GET /v1/batches/") and next(polls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    server.does.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        ask(annotator(server.url, store), store, TEXTS)
    assert "2 batches go on at the endpoint" in caplog.text
    assert len(store.notes("batch ")) == 2
    server.does.seconds = 0.0
    asked = annotator(server.url, store)
    limits = spending()
    ask(asked, store, TEXTS, limits)
    check(server, asked, store, TEXTS)
    assert not limits._taken  # nothing stays set aside
    assert len(server.batches()) == 3


def _leave_open(asked: OpenAIBatch, texts: list[str], server: BatchServer, store: ResponseStore) -> None:
    """Send what fits, and go away."""
    server.does.seconds = 60.0
    polled = 0

    def interrupt(what: str) -> None:
        nonlocal polled
        polled += what.startswith("GET /v1/batches/")
        server.does.key = "gone" if polled > 2 else "right"

    server.does.before = interrupt
    with pytest.raises(UserError, match="refuses the key"):
        ask(asked, store, texts)
    server.does.before, server.does.key, server.does.seconds = (lambda _: None), "right", 0.0


def test_resumed_batches_with_trouble_are_sent_again(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    texts = ["[500] good", "[lost] dull", *TEXTS]
    _leave_open(annotator(server.url, store), texts, server, store)
    assert len(store) == 0
    server.does.expire = 1
    asked = annotator(server.url, store)
    limits = spending()
    ask(asked, store, texts, limits)
    check(server, asked, store, texts)
    assert not limits._taken  # nothing stays set aside


def test_open_batches_count_in_the_budget_and_are_collected_beyond_it(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    asked = annotator(server.url, store)
    _leave_open(asked, TEXTS, server, store)
    each = asked._asker.prompt_tokens(requests(TEXTS)[0]) + 16
    limits = spending(tokens=8 * each)
    ask(annotator(server.url, store, max_open=3), store, [*TEXTS[8:], *TEXTS[:8]], limits)
    assert (len(store), limits.stopped is not None) == (8, True)


def test_only_batches_that_hold_what_is_asked_for_are_waited_for(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    _leave_open(annotator(server.url, store), TEXTS, server, store)
    server.does.seconds = 60.0
    asked = annotator(server.url, store, max_open=3)
    store.add([Answer(asked.key(r), "x", None, "stop", 1, 1, 0.0, False) for r in requests(TEXTS[:8])][:4])
    assert list(asked.answers(iter(requests(TEXTS[:4])), store, spending())) == []  # the pilot, say
    server.does.seconds = 0.0
    ask(asked, store, TEXTS)
    assert len(server.batches()) == 3
    assert len(store) == 10
    assert store.notes("batch ") == {}


def test_batches_of_another_prompt_are_left_alone_until_it_comes_back(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    _leave_open(annotator(server.url, store), TEXTS, server, store)
    other = annotator(server.url, store, CHAT.model_copy(update={"system": "Another."}))
    ask(other, store, TEXTS)
    assert len(store.notes("batch ")) == 2
    first = annotator(server.url, store)
    ask(first, store, TEXTS)
    assert len(store) == 20
    assert set(server.billed.values()) == {1}
    assert store.notes("batch ") == {}


def test_batches_and_files_that_the_endpoint_has_lost_are_sent_anew(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    _leave_open(annotator(server.url, store), TEXTS, server, store)
    lost, kept = server.batches()
    (server.directory / f"{lost['id']}.json").unlink()
    note = next(name for name, value in store.notes("batch ").items() if json.loads(value)["batch"] == kept["id"])
    value = json.loads(store.notes("batch ")[note])
    store.write_note(note, json.dumps(value | {"batch": None, "file": "file-gone"}))
    (server.directory / f"{kept['id']}.json").unlink()
    asked = annotator(server.url, store)
    ask(asked, store, TEXTS)
    check(server, asked, store, TEXTS)


def test_a_batch_without_a_noted_id_is_found_on_later_pages_of_the_list(serve: Serve, store: ResponseStore) -> None:
    server = serve()
    _leave_open(annotator(server.url, store), TEXTS, server, store)
    for name, value in store.notes("batch ").items():
        store.write_note(name, json.dumps(json.loads(value) | {"batch": None}))
    other = annotator(server.url, store, CHAT.model_copy(update={"system": "Another."}), max_requests=2)
    ask(other, store, TEXTS)
    assert len(server.batches()) == 2 + 5 > server.does.page
    ask(annotator(server.url, store), store, TEXTS)
    assert len(server.batches()) == 3 + 5
    assert set(server.billed.values()) == {1}


Run = Callable[[BatchServer, Path, str, int], int]
# Imports once and forks a run for each line that it reads; says the run's process id, then its exit status.
RUNS = """
import os, signal, sys, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from batch_client import TEXTS, annotator, requests, spending
from pipeline.responses import opened

def run(url, path, moment, count):
    moments = 0
    def die(at):
        nonlocal moments
        moments += moment == at
        if moments == count:
            os.kill(os.getpid(), signal.SIGKILL)
    with opened(Path(path)) as store:
        limits = spending()
        for answers in annotator(url, store).answers(iter(requests([*TEXTS, "[500] good"])), store, limits):
            die("unstored")
            store.add(answers)
            die("stored")
            limits.settle(answers)

for line in sys.stdin:
    url, path, moment, count = line.split("\\t")
    if not (child := os.fork()):
        try:
            run(url, path, moment, int(count))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def run() -> Iterator[Run]:
    """Run until the end, or until the `count`th moment of a kind, where it is killed; the exit status."""
    arguments = [sys.executable, "-c", RUNS, str(Path(__file__).parent)]
    key = os.environ | {"OPENAI_API_KEY": "right"}
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=key) as runs:
        assert runs.stdin
        assert runs.stdout

        def run_once(server: BatchServer, path: Path, moment: str, count: int) -> int:
            seen, known, child = 0, threading.Event(), 0

            def kill(_: str) -> None:
                nonlocal seen
                seen += 1
                if seen == count and known.wait(10):
                    os.kill(child, signal.SIGKILL)
                    raise ConnectionAbortedError  # what was sent is not read, what was done is not answered

            server.does.before = kill if moment == "before" else lambda _: None
            server.does.after = kill if moment == "after" else lambda _: None
            print(server.url, path, moment, count, sep="\t", file=runs.stdin, flush=True)
            child = int(runs.stdout.readline())
            known.set()
            return int(runs.stdout.readline())

        yield run_once
        runs.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after", "unstored", "stored"])
def test_killed_once_at_each_request_or_commit(serve: Serve, run: Run, tmp_path: Path, moment: str) -> None:
    points = 0
    for point in itertools.count(1):
        server, path = serve(f"server{point}"), tmp_path / f"{point}.sqlite"
        status = run(server, path, moment, point)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert run(server, path, "never", -1) == 0
        _check_all(server, path)
        points = point
    assert points >= {"before": 15, "after": 15, "unstored": 3, "stored": 3}[moment]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after", "unstored", "stored"])
def test_killed_again_and_again(serve: Serve, run: Run, tmp_path: Path, moment: str) -> None:
    """The first run at its first moment, the next at its second, and so on, until one comes to its end."""
    server, path, runs = serve(), tmp_path / "killed.sqlite", 1
    while (status := run(server, path, moment, runs)) != 0:
        assert status == -signal.SIGKILL
        runs += 1
    assert runs > 2
    _check_all(server, path)


def _check_all(server: BatchServer, path: Path) -> None:
    with opened(path) as store:
        check(server, annotator(server.url, store), store, [*TEXTS, "[500] good"])
