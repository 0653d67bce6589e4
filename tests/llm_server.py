"""An OpenAI-compatible server on loopback whose answers are a function of the text, and which misbehaves on demand.

python tests/llm_server.py --port 8123 --faults 0.2 [--seed 1] [--delay 0.1 --slots 32]

GET /stats tells what was asked and answered, by the marker `#NUMBER` in each text.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FAULTS = (
    "429", "429 Retry-After", "500", "503", "time-out", "reset", "half a body", "malformed", "empty choices",
    "wrong model", "trickle", "twice", "twice, late", "null", "html",
)  # fmt: skip
HARMLESS = ("wrong model", "twice", "twice, late")  # the answer is there all the same
LABELS = ("negative", "positive")


@dataclass
class Behaviour:
    """What the server can do, and what it does wrong."""

    model: str = "toy"
    key: str | None = None  # any if None
    labels: Sequence[str] = LABELS
    features: Sequence[str] = ("log_probabilities", "json_schema", "choice")
    faults: float = 0.0  # share of requests
    kinds: Sequence[str] = FAULTS
    seed: int = 0
    delay_s: float = 0.0
    slots: int | None = None  # requests that are worked on at once; the others wait
    most_at_once: int | None = None  # beyond that: 429
    first: list[str] = field(default_factory=list)  # what happens to the first requests, one after the other
    always: str | None = None  # to every request: a fault, "quota", "404", "html" or "other json"
    refuses: Sequence[str] = ()  # fields that are answered with 400, as reasoning models do
    counts: bool = True  # tokens, in `usage`
    numbers: bool = True  # answers, in `id`
    hang_s: float = 30.0
    retry_after: str = "0.2"


class LLMServer:
    """`with LLMServer(Behaviour()) as server:` runs in a thread of its own; `server.url` is the base URL."""

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self.behaviour, self._port = behaviour, port
        self.asked: Counter[str] = Counter()  # text -> requests
        self.answered: Counter[str] = Counter()  # text -> complete good answers that were sent
        self.bodies: list[dict[str, Any]] = []
        self.keep_bodies = True
        self.seen_faults: Counter[str] = Counter()
        self.most_under_way = self._under_way = 0
        self._count = 0
        self._random = random.Random(behaviour.seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> "LLMServer":
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()))
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def serve(self) -> None:
        """Until stopped."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._slots = asyncio.Semaphore(self.behaviour.slots or 10**9)
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                await self._respond(head, body, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went, or the server goes
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _respond(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        path, b = head.split(" ")[1], self.behaviour
        if path == "/stats":
            stats = {"asked": self.asked, "answered": self.answered, "faults": self.seen_faults}
            return _send(writer, 200, stats)
        if b.key is not None and f"bearer {b.key}".casefold() not in head.casefold():
            return _send(writer, 401, _error("Incorrect API key provided", "invalid_api_key"))
        if not body or b.always == "404":
            return _send(writer, 404, _error("no such address", None))
        question = json.loads(body)
        if question["model"] != b.model:
            return _send(writer, 404, _error(f"The model {question['model']} does not exist", "model_not_found"))
        if self.keep_bodies:
            self.bodies.append(question)
        prompt = question["prompt"] if "prompt" in question else question["messages"][-1]["content"]
        marker = re.search(r"#\d+", prompt)
        text = marker[0] if marker else prompt
        self.asked[text] += 1
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            if b.most_at_once is not None and self._under_way > b.most_at_once:
                return _send(writer, 429, _error("too many at once", "rate_limit_exceeded"))
            if (refusal := self._refusal(question, prompt)) is not None:
                return _send(writer, 400, refusal)
            async with self._slots:
                if b.delay_s:
                    await asyncio.sleep(b.delay_s)
                await self._answer(self._fault(), text, question, writer)
        finally:
            self._under_way -= 1

    def _fault(self) -> str | None:
        b = self.behaviour
        if b.always:
            return b.always
        if b.first:
            return b.first.pop(0) or None
        return self._random.choice(b.kinds) if self._random.random() < b.faults else None

    def _refusal(self, question: dict[str, Any], prompt: str) -> dict[str, Any] | None:
        for name in self.behaviour.refuses:
            if name in question:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return _error(f"Unsupported parameter: '{name}' is not supported with this model.{hint}", None)
        if "[filter]" in prompt:
            return _error("The response was filtered", "content_filter")
        return _error("maximum context length is 10 tokens", "context_length_exceeded") if "[long]" in prompt else None

    async def _answer(
        self, fault: str | None, text: str, question: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        answer = self._completion(text, question)
        nothing = {"choices": [{"index": 0, "message": {"role": "assistant", "content": None}}]}
        wrong: dict[str, tuple[int, object]] = {
            "429": (429, _error("injected", None)), "429 Retry-After": (429, _error("injected", None)),
            "quota": (429, _error("You exceeded your current quota", "insufficient_quota")),
            "500": (500, _error("injected", None)), "503": (503, _error("injected", None)),
            "malformed": (200, json.dumps(answer).encode()[:-9]), "other json": (200, {"hello": "world"}),
            "html": (200, b"<html><body>Welcome to nginx</body></html>"),
            "empty choices": (200, answer | {"choices": []}), "null": (200, answer | nothing),
        }  # fmt: skip
        if fault is not None:
            self.seen_faults[fault] += 1
        if fault in wrong:
            wait = f"Retry-After: {self.behaviour.retry_after}\r\n" if fault == "429 Retry-After" else ""
            _send(writer, *wrong[fault], wait, "text/html" if fault == "html" else "application/json")
        elif fault is None or fault in HARMLESS:
            self.answered[text] += 1
            _send(writer, 200, answer | ({"model": "another"} if fault == "wrong model" else {}))
            if fault in ("twice", "twice, late"):
                await asyncio.sleep(0.005 if fault == "twice, late" else 0.0)
                _send(writer, 200, answer)
        else:
            await self._interrupt(fault, _bytes(200, answer), writer)

    async def _interrupt(self, fault: str, whole: bytes, writer: asyncio.StreamWriter) -> None:
        """Begin an answer, and never end it."""
        if fault == "half a body":
            writer.write(whole[:-100])
            writer.close()
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif fault == "time-out":
            await asyncio.sleep(self.behaviour.hang_s)
            writer.close()
        else:  # a trickle, as long as somebody drinks
            for byte in whole:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.behaviour.hang_s / 100)

    def label(self, text: str) -> str:
        """The right one."""
        return self.behaviour.labels[zlib.crc32(text.encode()) % len(self.behaviour.labels)]

    def _completion(self, text: str, question: dict[str, Any]) -> dict[str, Any]:
        """A label by the text's hash, said in the way that was asked for, if that is one of the server's features."""
        b, digest = self.behaviour, zlib.crc32(text.encode())
        answer = label = self.label(text)
        if "json_schema" in b.features and "response_format" in question:
            allowed = question["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
            answer = json.dumps({"label": allowed[digest % len(allowed)]})
        elif "choice" in b.features and "structured_outputs" in question:
            allowed = question["structured_outputs"]["choice"]
            answer = allowed[digest % len(allowed)]
        said: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
        scores = {name: -0.1 - (digest >> 8) % 7 / 10 if name == label else -3.5 for name in b.labels}
        plain = "prompt" in question
        if question.get("logprobs") and "log_probabilities" in b.features:
            top = [{"token": name, "logprob": value, "bytes": None} for name, value in scores.items()]
            chat = {"content": [{"token": label, "logprob": scores[label], "bytes": None, "top_logprobs": top}]}
            said["logprobs"] = chat if not plain else {
                "tokens": [label], "token_logprobs": [scores[label]], "top_logprobs": [scores], "text_offset": [0]
            }  # fmt: skip
        said |= {"text": answer} if plain else {"message": {"role": "assistant", "content": answer}}
        asked = len(json.dumps(question.get("messages") or question["prompt"])) // 4
        usage = {"prompt_tokens": asked, "completion_tokens": 1, "total_tokens": asked + 1}
        kind = "text_completion" if plain else "chat.completion"
        self._count += 1
        id_ = f"answer-{self._count}" if b.numbers else "x"
        return {"id": id_, "object": kind, "created": 1, "model": b.model, "choices": [said]} | (
            {"usage": usage} if b.counts else {}
        )


def _error(message: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": code, "param": None}}


def _bytes(status: int, content: object, headers: str = "", kind: str = "application/json") -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _send(
    writer: asyncio.StreamWriter, status: int, content: object, headers: str = "", kind: str = "application/json"
) -> None:
    writer.write(_bytes(status, content, headers, kind))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that an answer takes")
    parser.add_argument("--slots", type=int, help="requests that are worked on at once")
    parser.add_argument("--hang", type=float, default=30.0, help="seconds that a time-out lasts")
    a = parser.parse_args()
    behaviour = Behaviour(faults=a.faults, seed=a.seed, delay_s=a.delay, slots=a.slots, hang_s=a.hang)
    server = LLMServer(behaviour, a.port)
    server.keep_bodies = False
    asyncio.run(server.serve())


if __name__ == "__main__":
    main()
