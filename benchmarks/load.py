"""Load for a service over HTTP: one process, bare connections, little time of the processor for itself.

    python benchmarks/load.py < plan.json

The plan names host, port, path, headers, bodies (files), and either `clients` (each sends its next request when the
last is answered) or `rate` (requests/s, whatever comes back, evenly or at random moments), and `seconds`. Out comes
JSON: for each request its status, when it was sent, and how long the answer took.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any


class _Connection(asyncio.Protocol):
    """One request at a time; knows answers with a content-length only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        self.transport = transport

    async def ask(self, request: bytes) -> int:
        self._answer = self._loop.create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) >= length and not self._answer.done():
            self._buffer = body[length:]
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)


class _Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        bodies = []
        for path in plan["bodies"]:
            with open(path, "rb") as file:
                bodies.append(file.read())
        head = f"POST {plan['path']} HTTP/1.1\r\nhost: {plan['host']}\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in plan["headers"].items()
        )
        self._requests = itertools.cycle(
            f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        )
        self._free: list[_Connection] = []
        self.answers: list[tuple[int, float, float]] = []

    async def one(self, due: float | None = None) -> None:
        """Send the next request; late ones count from when they were due."""
        loop = asyncio.get_running_loop()
        start = due if due is not None else time.perf_counter()
        while self._free and self._free[-1].transport.is_closing():
            self._free.pop()
        if self._free:
            connection = self._free.pop()
        else:
            _, connection = await loop.create_connection(_Connection, self._plan["host"], self._plan["port"])
        status = await connection.ask(next(self._requests))
        self.answers.append((status, start, time.perf_counter() - start))
        if status:
            self._free.append(connection)

    async def clients(self) -> None:
        end = time.perf_counter() + self._plan["seconds"]

        async def client() -> None:
            while time.perf_counter() < end:
                await self.one()

        await asyncio.gather(*(client() for _ in range(self._plan["clients"])))

    async def rate(self) -> None:
        tasks = set()
        start = time.perf_counter()
        for moment in self._moments():
            await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
            task = asyncio.ensure_future(self.one(start + moment))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    def _moments(self) -> Iterator[float]:
        """When requests are due, in seconds from the beginning."""
        chance, moment = random.Random(1), 0.0
        while moment < self._plan["seconds"]:
            yield moment
            gap = 1 / self._plan["rate"]
            moment += chance.expovariate(1) * gap if self._plan.get("random") else gap


async def _main() -> None:
    plan = json.load(sys.stdin)
    load = _Load(plan)
    before = time.process_time()
    await (load.rate() if "rate" in plan else load.clients())
    json.dump({"answers": load.answers, "cpu_s": time.process_time() - before}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
