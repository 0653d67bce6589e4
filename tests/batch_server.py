"""A Batch API on loopback that keeps its state in a directory, answers as a function of the text, and misbehaves.

`python tests/batch_server.py DIRECTORY --port 8000` runs it alone. Words in a text decide what happens to its line:
[500] fails at its first submission, [dead] at each, [400] and [filter] are refused, [lost] is missing from the results
of its first batch, [torn] has half an answer there, [404] and [quota] say what no further request can change.
"""

import argparse
import json
import os
import socket
import struct
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
LABELS = ("negative", "positive")
FATAL = {
    "[404]": (404, "model_not_found", "no such model"),
    "[quota]": (429, "insufficient_quota", "You exceeded your current quota"),
}


def label(text: str) -> str:
    return LABELS["good" in text]


@dataclass
class Behaviour:
    seconds: float = 0.0  # until a batch has ended
    expire: int = 0  # batches that expire with half of their requests done
    cancel: int = 0
    fail_by_itself: int = 0
    strays: bool = False  # duplicates, unknown ids and half lines among the results
    room: int | None = None  # requests that may wait at once
    room_says: str = "create"  # or "batch": the batch is made and fails
    lose_create: int = 0  # batches are made, and the connection is reset
    refuse_create: int = 0  # 500, nothing is made
    reset_upload: int = 0
    half_download: int = 0
    away: int = 0  # requests of any kind that get 503
    page: int = 3  # batches in a page of the list
    key: str = "right"
    model: str = "known"
    html: bool = False
    batch_api: bool = True
    before: Callable[[str], None] = field(default=lambda _: None)  # called with "POST /v1/batches"
    after: Callable[[str], None] = field(default=lambda _: None)  # ... when done, not yet answered


class _Quiet(ThreadingHTTPServer):
    """Clients that were killed are none of its errors."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class BatchServer:
    """`with BatchServer(directory) as server:`; `server.billed` counts the answers of each request."""

    def __init__(self, directory: Path, behaviour: Behaviour | None = None, port: int = 0) -> None:
        self.directory, self.does = directory, behaviour or Behaviour()
        directory.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.most_open = 0  # batches that waited at once
        handler = type("Handler", (_Handler,), {"state": self})
        self.http = _Quiet(("127.0.0.1", port), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> "BatchServer":
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def batches(self) -> list[Json]:
        """Newest first, as the API lists them."""
        found = [json.loads(path.read_text()) for path in self.directory.glob("batch_*.json")]
        return sorted(found, key=lambda batch: -batch["order"])

    def requests(self, batch: Json) -> list[Json]:
        return [json.loads(line) for line in (self.directory / batch["input_file_id"]).read_text().splitlines()]

    @property
    def billed(self) -> Counter[str]:
        """Answers of each request, also of batches that nobody looked after."""
        with self.lock:
            for batch in self.batches():
                self.look(batch)
            return self._counts("billed.json")

    def _counts(self, name: str) -> Counter[str]:
        path = self.directory / name
        return Counter(json.loads(path.read_text())) if path.exists() else Counter()

    def take(self, name: str) -> bool:
        """Whether a misbehaviour is due once more."""
        with self.lock:
            left = getattr(self.does, name)
            setattr(self.does, name, max(left - 1, 0))
            return left > 0

    def save_file(self, data: bytes) -> Json:
        name = f"file-{uuid.uuid4().hex}"
        (self.directory / name).write_bytes(data)
        return {"id": name, "object": "file", "bytes": len(data), "created_at": int(time.time()),
                "filename": "x.jsonl", "purpose": "batch", "status": "processed"}  # fmt: skip

    def save(self, batch: Json) -> None:
        path = self.directory / f"{batch['id']}.json"
        path.with_suffix(".new").write_text(json.dumps(batch))
        os.replace(path.with_suffix(".new"), path)

    def waiting(self) -> int:
        under_way = [batch for batch in self.batches() if batch["status"] == "in_progress"]
        return sum(batch["request_counts"]["total"] for batch in under_way)

    def make(self, asked: Json) -> Json | None:
        """A new batch; None where there is no room."""
        batch: Json = {
            "id": f"batch_{uuid.uuid4().hex}", "object": "batch", "created_at": int(time.time()), "order": time.time(),
            "status": "in_progress", "errors": None, "output_file_id": None, "error_file_id": None, **asked,
        }  # fmt: skip
        requests = self.requests(batch)
        batch["request_counts"] = {"total": len(requests), "completed": 0, "failed": 0}
        full = self.does.room is not None and self.waiting() + len(requests) > self.does.room
        wrong = {line["body"]["model"] for line in requests} != {self.does.model}
        if full and self.does.room_says == "create":
            return None
        error = None
        if full:
            error = ("token_limit_exceeded", "Enqueued token limit reached for known.")
        elif wrong:
            error = ("model_not_found", "The provided model is not supported by the Batch API.")
        elif self.take("fail_by_itself"):
            error = ("server_error", "Something went wrong.")
        if error:
            said = {"code": error[0], "message": error[1], "line": 1 if wrong else None, "param": None}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [said]}}
        self.save(batch)
        self.most_open = max(self.most_open, sum(other["status"] == "in_progress" for other in self.batches()))
        return batch

    def look(self, batch: Json) -> Json:
        """The batch as it is now; its answers are made when somebody looks after its time."""
        if batch["status"] != "in_progress" or time.time() < batch["order"] + self.does.seconds:
            return batch
        requests = self.requests(batch)
        status = next(
            (s for name, s in (("expire", "expired"), ("cancel", "cancelled")) if self.take(name)), "completed"
        )
        done = requests if status == "completed" else requests[: len(requests) // 2]
        billed, seen, out, errors = self._counts("billed.json"), self._seen(requests), list[str](), list[str]()
        for request in done:
            line = self._result(request, seen[request["custom_id"]])
            if line is not None and '"status_code": 200' in line:
                billed[request["custom_id"]] += 1
                out.append(line)
            elif line is not None:
                errors.append(line)
        code = {"code": f"batch_{status}", "message": "This request could not be executed in time."}
        late = {"response": None, "error": code}
        errors += [json.dumps({"custom_id": request["custom_id"], **late}) for request in requests[len(done) :]]
        if self.does.strays and out:
            stranger = out[0].replace(json.loads(out[0])["custom_id"], "stranger")
            other = out[0].replace("positive", "x").replace("negative", "x")
            out = [out[0][: len(out[0]) // 2], *out, other, stranger, ""]
        for name, lines in (("output_file_id", out), ("error_file_id", errors)):
            if lines:
                batch[name] = self.save_file("\n".join(lines).encode())["id"]
        batch["request_counts"] |= {"completed": len(out), "failed": len(errors)}
        (self.directory / "billed.json").write_text(json.dumps(billed))
        self.save(batch | {"status": status})
        return batch | {"status": status}

    def _seen(self, requests: list[Json]) -> Counter[str]:
        """How often each request was looked at before; counted on."""
        seen = self._counts("seen.json")
        counts = seen + Counter(request["custom_id"] for request in requests)
        (self.directory / "seen.json").write_text(json.dumps(counts))
        return seen

    def _result(self, request: Json, before: int) -> str | None:
        text = _text(request["body"])
        status, body = 200, answer(request["body"])
        for mark, (code, name, message) in FATAL.items():
            if mark in text:
                status, body = code, {"error": {"code": name, "message": message}}
        if "[dead]" in text or ("[500]" in text and not before):
            status, body = 500, {"error": {"code": "server_error", "message": "try again"}}
        elif "[400]" in text:
            status, body = 400, {"error": {"code": "invalid_value", "message": "not this one"}}
        elif "[filter]" in text:
            status, body = 400, {"error": {"code": "content_filter", "message": "filtered"}}
        elif "[torn]" in text and not before:
            body = {"choices": []}
        elif "[lost]" in text and not before:
            return None
        response = {"status_code": status, "request_id": "r", "body": body}
        return json.dumps({"id": "x", "custom_id": request["custom_id"], "response": response, "error": None})


def _text(body: Json) -> str:
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def answer(body: Json) -> Json:
    """The JSON of a completion that says the label of the text."""
    said = label(_text(body))
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    if "messages" not in body:
        return {"model": body["model"], "choices": [{"text": said, "finish_reason": "stop"}], "usage": usage}
    choice: Json = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    if body.get("logprobs"):
        tops = [{"token": word, "logprob": -0.1 if word == said else -2.5} for word in LABELS]
        choice["logprobs"] = {"content": [{"token": said, "logprob": -0.1, "top_logprobs": tops}]}
    return {"model": body["model"], "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: BatchServer

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        state, url = self.state, urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        state.does.before(f"{method} {url.path}")
        if state.take("away"):
            return self._send(503, {"error": {"message": "away"}})
        if state.does.html:
            return self._send(200, b"<html>hello</html>", "text/html")
        if self.headers.get("authorization") != f"Bearer {state.does.key}":
            return self._send(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        with state.lock:
            return self._route(method, url.path.removeprefix("/v1").strip("/").split("/"), url.query, data)

    def _route(self, method: str, path: list[str], query: str, data: bytes) -> None:
        match method, path:
            case "POST", ["chat", "completions"] | ["completions"]:
                return self._send(200, answer(json.loads(data)))
            case _ if not self.state.does.batch_api:
                return self._send(404, {"detail": "Not Found"})
            case "POST", ["files"]:
                return self._upload(data)
            case "GET", ["files", name, "content"]:
                return self._download(self.state.directory / name)
            case "POST", ["batches"]:
                return self._make(json.loads(data))
            case "GET", ["batches"]:
                return self._list(parse_qs(query).get("after", [None])[0])
            case "GET", ["batches", name]:
                file = self.state.directory / f"{name}.json"
                if not file.exists():
                    return self._send(404, {"error": {"message": f"No batch found with id '{name}'."}})
                return self._send(200, self.state.look(json.loads(file.read_text())))
        return self._send(404, {"detail": "Not Found"})

    def _upload(self, data: bytes) -> None:
        if self.state.take("reset_upload"):
            return self._reset()
        kind = self.headers["content-type"].encode()
        parts = message_from_bytes(b"content-type: " + kind + b"\r\n\r\n" + data).get_payload()
        named = {part.get_param("name", header="content-disposition"): part for part in parts}  # type: ignore[union-attr]
        if named["purpose"].get_payload() != "batch":
            return self._send(400, {"error": {"message": "wrong purpose"}})
        return self._send(200, self.state.save_file(named["file"].get_payload(decode=True)))

    def _download(self, path: Path) -> None:
        if not path.exists():
            return self._send(404, {"error": {"message": f"No such File object: {path.name}"}})
        if self.state.take("half_download"):
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        return self._send(200, path.read_bytes(), "application/octet-stream")

    def _make(self, asked: Json) -> None:
        if self.state.take("refuse_create"):
            return self._send(500, {"error": {"message": "try again"}})
        if not (self.state.directory / asked["input_file_id"]).exists():
            return self._send(400, {"error": {"message": f"Cannot find file {asked['input_file_id']}"}})
        if (batch := self.state.make(asked)) is None:
            return self._send(
                429, {"error": {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}}
            )
        return self._reset() if self.state.take("lose_create") else self._send(200, batch)

    def _list(self, after: str | None) -> None:
        found = self.state.batches()
        ids = [batch["id"] for batch in found]
        start = ids.index(after) + 1 if after else 0
        some = found[start : start + self.state.does.page]
        self._send(200, {"object": "list", "data": some, "has_more": start + len(some) < len(found)})

    def _send(self, status: int, content: Json | bytes, kind: str = "application/json") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.state.does.after(f"{self.command} {urlsplit(self.path).path}")
        try:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:  # the client was killed
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    with BatchServer(arguments.directory, Behaviour(arguments.seconds), arguments.port) as alone:
        print(alone.url, flush=True)
        threading.Event().wait()
