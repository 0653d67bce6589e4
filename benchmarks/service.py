"""What the HTTP service makes of its engine: throughput, latency, overload, beside BentoML's adaptive batching.

    python benchmarks/service.py --model DIRECTORY [--corpus FILE.parquet] [--parts throughput,latency,...]

The load comes from another process (benchmarks/load.py), which shares the machine: what it takes is in the figures.
The engine's own rate is measured in the same run, before and after, from text to probabilities. Requests are real
reviews. `p99 / p50` is the p99 at half of the capacity (requests of one text; evenly spaced, and at random moments)
over the p50 of a client that is alone. Overload offers ten times the capacity; `at capacity` is what 64 clients of one
text see, each waiting for its answer. --queued is the service's LLAMBERT_MAX_QUEUED_TOKENS: choose it by the wait that
you accept.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pyarrow.parquet as pq

from serving.engine import Engine

_HERE = Path(__file__).parent
_IMDB = _HERE.parents[1] / "shared" / "data" / "imdb" / "test_dev.parquet"
_COMMANDS = {
    "llambert": [sys.executable, "-m", "serving", "serve", "--host", "127.0.0.1", "--port"],
    "adaptive": [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "adaptive_service:Adaptive",
        "--host",
        "127.0.0.1",
        "--port",
    ],
}
Row = dict[str, Any]


@dataclass
class Answers:
    """What came back from a load; times in seconds."""

    status: np.ndarray[Any, Any]
    sent: np.ndarray[Any, Any]
    took: np.ndarray[Any, Any]
    cpu_s: float

    def rate(self) -> float:
        """Good answers a second, from the first request to the last answer."""
        good = self.status == 200
        ended = (self.sent + self.took)[good].max(initial=0)
        return float(good.sum() / max(1e-9, ended - self.sent.min()))

    def ms(self, percentile: float, status: int = 200) -> float:
        """A percentile of the answers with a status."""
        took = self.took[self.status == status]
        return round(1000 * float(np.percentile(took, percentile)), 1) if len(took) else float("nan")

    def counts(self) -> dict[str, int]:
        """Status -> answers; 0: the connection was lost."""
        return {
            str(status): int(count) for status, count in zip(*np.unique(self.status, return_counts=True), strict=True)
        }


class Target:
    """A running service."""

    def __init__(self, name: str, port: int, process: "subprocess.Popen[bytes]", bodies: dict[int, list[str]]) -> None:
        self.name, self._port, self._process, self._bodies = name, port, process, bodies

    def load(self, texts: int, seconds: float, **how: object) -> Answers:
        """Send requests of so many texts."""
        plan = {
            "host": "127.0.0.1", "port": self._port, "path": "/classify", "seconds": seconds,
            "headers": {"content-type": "application/json"}, "bodies": self._bodies[texts],
        } | how  # fmt: skip
        done = subprocess.run(
            [sys.executable, _HERE / "load.py"], input=json.dumps(plan).encode(), stdout=subprocess.PIPE, check=True
        )
        found = json.loads(done.stdout)
        return Answers(*np.array(found["answers"]).T, cpu_s=found["cpu_s"])

    def memory_mib(self) -> float:
        """Resident memory of the workers."""
        children = subprocess.run(
            ["ps", "-o", "rss=", "--ppid", str(self._process.pid)], capture_output=True, text=True
        )
        return sum(map(int, children.stdout.split())) / 1024


@contextmanager
def target(name: str, model: Path, bodies: dict[int, list[str]], queued: int) -> Iterator[Target]:
    """Start a service, wait until it answers, warm it up; end it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {
            "LLAMBERT_MODEL": str(model), "LLAMBERT_PRECISION": "int8", "LLAMBERT_MAX_QUEUED_TOKENS": str(queued),
            "BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONPATH": f"{_HERE.parent}:{_HERE}",
        }  # fmt: skip
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen([*_COMMANDS[name], str(port)], env=environment, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/readyz", process)
            running = Target(name, port, process, bodies)
            running.load(1, 3, clients=4)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit(f"no answer from {url}")


def throughput(running: Target, engine: float, seconds: float) -> tuple[list[Row], float]:
    """Requests of 64 texts and of one; and the rate of the latter."""
    rows, rate = [], 0.0
    for texts, clients in ((64, 4), (1, 64)):
        answers = running.load(texts, seconds, clients=clients)
        rate = texts * answers.rate()
        row = {
            "service": running.name, "texts a request": texts, "clients": clients, "texts/s": round(rate, 1),
            "of the engine": round(rate / engine, 3), "p50 ms": answers.ms(50), "p99 ms": answers.ms(99),
            "answers": answers.counts(), "load's cpu": round(answers.cpu_s / seconds, 3),
        }  # fmt: skip
        rows.append(row)
    return rows, rate


def latency(running: Target, capacity: float, seconds: float) -> list[Row]:
    """Alone, then at half of the capacity."""
    alone = running.load(1, seconds / 2, clients=1)
    rows = [{"service": running.name, "load": "one client", "p50 ms": alone.ms(50), "p99 ms": alone.ms(99)}]
    for name, random in (("half, evenly", False), ("half, at random", True)):
        half = running.load(1, seconds, rate=capacity / 2, random=random)
        ratio = round(half.ms(99) / alone.ms(50), 2)
        rows.append(
            {"service": running.name, "load": name, "p50 ms": half.ms(50), "p99 ms": half.ms(99), "p99 / p50": ratio}
        )
    return rows


def overload(running: Target, capacity: float, at_capacity_p99: float, seconds: float) -> Row:
    """Ten times what it can do."""
    before = running.memory_mib()
    answers = running.load(1, seconds, rate=10 * capacity)
    after = running.memory_mib()
    running.load(1, 2, clients=1)
    return {
        "service": running.name, "offered/s": round(10 * capacity), "sent/s": round(len(answers.status) / seconds),
        "seconds": seconds, "answers": answers.counts(), "accepted/s": round(answers.rate(), 1),
        "accepted p50 ms": answers.ms(50), "accepted p99 ms": answers.ms(99), "at capacity p99 ms": at_capacity_p99,
        "503 p50 ms": answers.ms(50, 503), "503 p99 ms": answers.ms(99, 503), "503 max ms": answers.ms(100, 503),
        "503 within 50 ms": round(float((answers.took[answers.status == 503] <= 0.05).mean()), 4),
        "MiB before": round(before), "MiB after": round(after),
        "load's cpu": round(answers.cpu_s / seconds, 3),
    }  # fmt: skip


def _engine_rate(model: Path, texts: list[str]) -> float:
    """Texts/s of the engine alone, in a process of its own as `label` runs it."""
    engine = Engine.open(model, "int8")
    engine.classify(texts[:32])
    return max(len(texts) / machine.timed(lambda: engine.classify(texts)) for _ in range(2))


def _bodies(texts: list[str], directory: Path) -> dict[int, list[str]]:
    bodies: dict[int, list[str]] = {}
    for size in (1, 64):
        bodies[size] = []
        for start in range(0, len(texts) - size + 1, size):
            path = directory / f"{size}-{start}.json"
            path.write_text(json.dumps({"texts": texts[start : start + size]}))
            bodies[size].append(str(path))
    return bodies


def _print(rows: list[Row]) -> None:
    if rows:
        print(f"\n| {' | '.join(rows[-1])} |\n|{'---|' * len(rows[-1])}")
        for row in rows:
            print(f"| {' | '.join(str(row.get(name, '')) for name in rows[-1])} |", flush=True)


def main() -> None:
    """Measure, print tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model with int8")
    parser.add_argument("--corpus", type=Path, default=_IMDB, help="Parquet with a column `text`")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=15, help="of each load")
    parser.add_argument("--overload-s", type=float, default=60)
    parser.add_argument("--queued", type=int, default=20_000)
    parser.add_argument("--parts", default="throughput,latency,adaptive,overload")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    texts = [str(t) for t in pq.read_table(arguments.corpus, columns=["text"])["text"][: arguments.texts].to_pylist()]
    before = _engine_rate(arguments.model, texts)
    print(f"engine alone: {before:.1f} texts/s", flush=True)
    results: dict[str, list[Row]] = {"throughput": [], "latency": [], "overload": []}
    with tempfile.TemporaryDirectory() as directory:
        bodies = _bodies(texts, Path(directory))
        for name in ("llambert", *(["adaptive"] if "adaptive" in parts else [])):
            with target(name, arguments.model, bodies, 131_072) as running:
                rows, capacity = throughput(running, before, arguments.seconds)
                results["throughput"] += rows
                _print(rows)
                if "latency" in parts:
                    rows = latency(running, capacity, arguments.seconds)
                    results["latency"] += rows
                    _print(rows)
        if "overload" in parts:
            with target("llambert", arguments.model, bodies, arguments.queued) as running:
                busy = running.load(1, arguments.seconds, clients=64)
                results["overload"].append(overload(running, busy.rate(), busy.ms(99), arguments.overload_s))
                _print(results["overload"])
    after = _engine_rate(arguments.model, texts)
    print(f"\nengine alone, at the end: {after:.1f} texts/s")
    rows = [{"part": part} | row for part, some in results.items() for row in some]
    machine.write(
        _HERE / "results" / "service.json", rows, engine_texts_per_s={"before": before, "after": after},
        texts=len(texts), model=Engine.open(arguments.model, "int8").model_hash, queued_tokens=arguments.queued,
    )  # fmt: skip


if __name__ == "__main__":
    main()
