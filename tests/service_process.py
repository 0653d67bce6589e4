"""The service as a real process on loopback, and what tests ask of it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

LIMITS = {"MAX_TEXTS": "40", "MAX_CHARS": "3000", "MAX_BODY_BYTES": "200000", "MAX_QUEUED_TOKENS": "3000"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Service:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)  # type: ignore[arg-type]

    def classify(self, texts: object, **headers: str | bytes) -> httpx.Response:
        with self.client() as client:
            return client.post("/classify", json={"texts": texts}, headers=headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        total = 0.0
        for line in lines:
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= has.items():
                    total += float(found[3])
        return total

    def workers(self) -> list[int]:
        """Processes under the supervisor."""
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def wait_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the service is not ready:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            for pid in [*self.workers(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
            raise


@contextmanager
def serving(model: Path | str, ready: bool = True, **environment: str) -> Iterator[Service]:
    """Start it; variables are given without their prefix."""
    with tempfile.TemporaryDirectory() as temporary:
        port, log = free_port(), Path(temporary) / "log"
        variables = {
            "LLAMBERT_MODEL": str(model),
            "LLAMBERT_RUNTIME": "onnxruntime",
            "LLAMBERT_THREADS": "1",
            "BENTOML_HOME": f"{temporary}/bentoml",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        } | {name if name.isupper() and "_" in name and name.startswith("MLFLOW") else f"LLAMBERT_{name}": value
             for name, value in environment.items()}  # fmt: skip
        command = [sys.executable, "-m", "serving", "serve", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | variables, cwd=temporary)
        service = Service(port, process, log)
        try:
            if ready:
                service.wait_ready()
            yield service
        finally:
            service.stop()


def texts_of(answer: httpx.Response) -> list[str]:
    """The labels of an answer."""
    assert answer.status_code == 200, answer.text
    return [result["label"] for result in json.loads(answer.content)["results"]]
