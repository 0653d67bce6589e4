"""A server that misbehaves, and a run that is killed again and again: nothing is lost, nothing is asked twice.

python tests/e2e/faults.py [--requests 10000] [--faults 0.2] [--kills 20]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm_server import Behaviour, LLMServer

from pipeline import responses
from pipeline.annotators import Request
from pipeline.annotators.openai_chat import OpenAIChat
from pipeline.params import Budget, Mode, OpenAIAnnotator, Prompt, Task
from pipeline.prompts import Template
from pipeline.responses import Answer, ResponseStore
from pipeline.spending import Prices, Spending

CONCURRENCY = 32
TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
PROMPT = Prompt(user="{text}\nIs it good?")


@dataclass(frozen=True)
class Outcome:
    """What a run with kills came to."""

    texts: int  # answered, or given up with a reason
    given_up: int  # of them; answered by a run without faults afterwards
    stored_at_kills: list[int]
    asked: int
    bought_twice: int  # in flight when the process was killed
    faults: dict[str, int]
    calm_s: float
    killed_s: float


def requests(count: int) -> Iterator[Request]:
    for i in range(count):
        yield Request(f"id{i}", f"#{i} is a text")


def annotator(url: str, store: ResponseStore, mode: Mode | Literal["auto"]) -> OpenAIChat:
    params = OpenAIAnnotator(
        kind="openai", model="toy", base_url=url, mode=mode, timeout_s=2.0, max_concurrency=CONCURRENCY
    )
    return OpenAIChat(params, Template.of(PROMPT, TASK), False, store)


def ask(url: str, path: Path, count: int) -> None:
    """What the stage does: ask for what is not stored, store it."""
    with responses.opened(path) as store:
        chat = annotator(url, store, "auto")
        spending = Spending(Budget(), Prices(), store.totals([]))
        for answers in chat.answers(requests(count), store, spending):
            store.add(answers)
            spending.settle(answers)


def run(count: int, faults: float, kills: int, seed: int, directory: Path) -> Outcome:
    """Ask calmly, then with faults and kills; compare.

    Raises:
        SystemExit: something was lost, was asked again though it was stored, or differs from the calm run.
    """
    start, path = time.monotonic(), directory / "killed.sqlite"
    with LLMServer(Behaviour()) as server:
        finish(child(server.url, directory / "calm.sqlite", count))
    calm, calm_s, start = contents(directory / "calm.sqlite", count), time.monotonic() - start, time.monotonic()
    check(len(calm) == count, f"the calm run answered {len(calm)} of {count}")
    with LLMServer(Behaviour(faults=faults, seed=seed)) as server:
        server.keep_bodies = False
        at_kills = kill_and_restart(server, path, count, kills, seed)
        first = contents(path, count)
        check(len(first) == count, f"{count - len(first)} texts have neither an answer nor a reason")
        server.behaviour.faults = 0.0
        finish(child(server.url, path, count))  # what was given up is asked for once more
        found = contents(path, count)
        check(found == calm, f"{sum(found.get(key) != calm[key] for key in calm)} answers differ from a calm run's")
        bought = Counter({text: times for text, times in server.answered.items() if text.startswith("#")})
    twice = bought.total() - len(bought)
    check(twice <= 2 * CONCURRENCY * kills, f"{twice} answers were bought twice")
    return Outcome(
        len(first), sum(answer.error is not None for answer in first.values()), at_kills, server.asked.total(), twice,
        dict(server.seen_faults), calm_s, time.monotonic() - start,
    )  # fmt: skip


def kill_and_restart(server: LLMServer, path: Path, count: int, kills: int, seed: int) -> list[int]:
    """Kill the run when so and so many answers are given, at random; let the last one end. Return what was stored."""
    dice, at_kills = random.Random(seed), []
    for point in sorted(dice.randrange(count) for _ in range(kills)):
        before = asked_of_stored(server, path, count)
        process = child(server.url, path, count)
        while server.answered.total() < point and process.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        check_not_asked_again(server, before)
        at_kills.append(len(asked_of_stored(server, path, count)))
    before = asked_of_stored(server, path, count)
    finish(child(server.url, path, count))
    check_not_asked_again(server, before)
    return at_kills


def child(url: str, path: Path, count: int) -> subprocess.Popen[bytes]:
    """A process of its own that asks."""
    return subprocess.Popen([sys.executable, __file__, "--child", url, str(path), "--requests", str(count)])


def finish(process: subprocess.Popen[bytes]) -> None:
    check(process.wait() == 0, "a run that was not killed failed")


def check(fine: bool, message: str) -> None:
    if not fine:
        raise SystemExit(message)


def check_not_asked_again(server: LLMServer, before: dict[str, int]) -> None:
    again = [text for text, times in before.items() if server.asked[text] != times]
    check(not again, f"{len(again)} texts were asked about again though their answers were stored")


def contents(path: Path, count: int) -> dict[str, Answer]:
    """All answers and failures, without their times."""
    with responses.opened(path) as store:
        chat = annotator("http://127.0.0.1:9/v1", store, "log_probabilities")
        return {key: replace(a, seconds=0.0) for key, a in store.get(map(chat.key, requests(count))).items()}


def asked_of_stored(server: LLMServer, path: Path, count: int) -> dict[str, int]:
    """How often the server was asked about each text whose answer is stored."""
    with responses.opened(path) as store:
        chat, keys = annotator("http://127.0.0.1:9/v1", store, "log_probabilities"), store.keys()
        stored = [request.id for request in requests(count) if chat.key(request) in keys]
    return {f"#{id_[2:]}": server.asked[f"#{id_[2:]}"] for id_ in stored}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--faults", type=float, default=0.2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", nargs=2, metavar=("URL", "STORE"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        ask(a.child[0], Path(a.child[1]), a.requests)
        return
    os.environ["OPENAI_API_KEY"] = "any"
    with tempfile.TemporaryDirectory() as scratch:
        outcome = run(a.requests, a.faults, a.kills, a.seed, Path(scratch))
    for name, value in asdict(outcome).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
