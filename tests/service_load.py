"""Clients that press a service, and waiting for what they are to see."""

import threading
import time
from collections import Counter

import httpx
from service_process import Service
from toy_model import TEXTS


class Load:
    """Clients that never stop asking, and what they were answered."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self._service, self._over = service, threading.Event()
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        with self._service.client() as client:
            while not self._over.is_set():
                try:
                    answer = client.post("/classify", json={"texts": TEXTS[:8]})
                except httpx.HTTPError:
                    self.statuses[0] += 1
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.versions[answer.json()["model"]["version"] or ""] += 1

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def until(condition: "object", seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
