"""Whether the annotator `openai` keeps a server busy: requests/s beside a bare load tool, on the same server.

    python benchmarks/saturation.py [--seconds 5] [--repeat 5] [--concurrency 64]

The server (tests/llm_server.py, a process of its own on loopback) works on 32 requests at once and takes 200, 100 or
50 ms for each; the last case answers at once, without a limit, and shows what the client's own arithmetic allows. The
load tool is an aiohttp loop that posts the same bodies, made beforehand, at the same concurrency, and parses the JSON
of the answers. `llambert` makes its bodies, paces, reads log-probabilities, and stores each answer durably. Both
alternate, and medians count. `CPU` is what one request costs the client, and `ceiling` the requests/s at which that
takes a whole core.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from pipeline import responses
from pipeline.annotators import Request
from pipeline.annotators.endpoint import Asker
from pipeline.annotators.openai_chat import OpenAIChat
from pipeline.params import Budget, OpenAIAnnotator, Prompt, Task
from pipeline.prompts import Template
from pipeline.responses import ResponseStore
from pipeline.spending import Prices, Spending

_SERVER = Path(__file__).parents[1] / "tests" / "llm_server.py"
_SLOTS = 32
_TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
_TEMPLATE = Template.of(Prompt(system="Say positive or negative.", user="{text}\nIs it good?"), _TASK)
_TEXT = "A film about people who wait for the rain and talk too long, and then it rains. " * 8


@dataclass(frozen=True)
class Speed:
    """Of one run."""

    per_s: float
    cpu_ms: float  # of the client, a request


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a run")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    arguments = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "any")
    print("server        limit/s  tool/s  llambert/s  ratio  CPU tool  CPU llambert  ceiling/s")
    for delay_s in (0.2, 0.1, 0.05, 0.0):
        limit = _SLOTS / delay_s if delay_s else None
        count = round((limit or 800) * arguments.seconds)
        with _server(delay_s) as url:
            pairs = [_pair(url, count, arguments.concurrency) for _ in range(arguments.repeat)]
        name = f"{delay_s * 1000:.0f} ms x {_SLOTS}" if delay_s else "at once"
        print(f"{name:<12} {limit or float('inf'):>8.0f} {_row(pairs)}", flush=True)


def _row(pairs: list[tuple[Speed, Speed]]) -> str:
    tool, ours = ([pair[i] for pair in pairs] for i in (0, 1))
    tool_s, ours_s = (statistics.median(run.per_s for run in runs) for runs in (tool, ours))
    tool_ms, ours_ms = (statistics.median(run.cpu_ms for run in runs) for runs in (tool, ours))
    ratio = statistics.median(mine.per_s / bare.per_s for bare, mine in pairs)
    return (
        f"{tool_s:>7.0f} {ours_s:>11.0f} {ratio:>6.2f} {tool_ms:>6.2f} ms {ours_ms:>10.2f} ms {1000 / ours_ms:>10.0f}"
    )


def _pair(url: str, count: int, concurrency: int) -> tuple[Speed, Speed]:
    """Speeds of the load tool and of the annotator."""
    params = OpenAIAnnotator(
        kind="openai", model="toy", base_url=url, mode="log_probabilities", max_concurrency=concurrency
    )
    with tempfile.TemporaryDirectory() as scratch, responses.opened(Path(scratch) / "responses.sqlite") as store:
        asker = Asker(params, _TEMPLATE, False, store)
        bodies = [asker.body(request)[0] for request in _requests(count)]
        return _measured(lambda: asyncio.run(_load(url, bodies, concurrency)), count), _measured(
            lambda: _annotate(params, store, count), count
        )


def _requests(count: int) -> Iterator[Request]:
    for i in range(count):
        yield Request(f"id{i}", f"#{i} {_TEXT}")


def _measured(work: Any, count: int) -> Speed:  # noqa: ANN401
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Speed(count / seconds, 1000 * cpu_s / count)


def _annotate(params: OpenAIAnnotator, store: ResponseStore, count: int) -> None:
    spending = Spending(Budget(), Prices(), store.totals([]))
    for answers in OpenAIChat(params, _TEMPLATE, False, store).answers(_requests(count), store, spending):
        store.add(answers)
        spending.settle(answers)
    if len(store) != count:
        raise SystemExit(f"{len(store)} of {count} requests were answered")


async def _load(url: str, bodies: list[dict[str, Any]], concurrency: int) -> None:
    waiting = iter(bodies)
    async with aiohttp.ClientSession() as session:

        async def post() -> None:
            for body in waiting:
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    json.loads(await response.read())

        await asyncio.gather(*(post() for _ in range(concurrency)))


@contextmanager
def _server(delay_s: float) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(_SERVER), "--port", str(port), "--delay", str(delay_s)]
    process = subprocess.Popen(command + (["--slots", str(_SLOTS)] if delay_s else []))
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
