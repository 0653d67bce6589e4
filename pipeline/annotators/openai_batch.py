"""The Batch API: files of requests, answered within a day at a lower price.

What was sent is written down before it is paid for, so that a process may die at any point:

    file uploaded -> note with its keys -> batch made -> its id noted -> batch ended -> answers stored -> note removed

A run takes up the batches that earlier runs left open. A note without an id may have a batch all the same: it is looked
for by its file before another one is made.
"""

import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from uuid import uuid4

from openai.types import Batch

from pipeline.annotators import Request
from pipeline.annotators.batch_api import BatchApi, NoRoomError, RefusedError, no_room
from pipeline.annotators.batch_files import Chunk, Line, Sent
from pipeline.annotators.batch_results import Fault, Results
from pipeline.annotators.endpoint import Asker
from pipeline.errors import UserError
from pipeline.params import OpenAIBatchAnnotator
from pipeline.prompts import Template
from pipeline.responses import Answer, ResponseStore
from pipeline.spending import Spending

log = logging.getLogger("llambert")
_PART = 2_000  # answers that are yielded, and stored, at once
_UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
_NOT_THE_FILE = ("server_error", "internal_error", "processing_error")  # codes of batches that failed by themselves


class OpenAIBatch:
    """Many requests a file, several files at once.

    Batches of an earlier run with the same address, model, decoding and prompt are taken up, and all their answers are
    yielded, also those that nobody asks for any more. A batch in which nothing is asked for is not waited for, and
    batches of another prompt are left alone (its words are needed to read their answers): the run that asks for their
    texts finds them.
    """

    def __init__(self, params: OpenAIBatchAnnotator, template: Template, reasoning: bool, store: ResponseStore) -> None:
        self._params, self._template, self._store = params, template, store
        self._asker = Asker(params, template, reasoning, store)
        self.model = params.model

    @property
    def decoding(self) -> str:
        """JSON of all that shapes an answer beside model and messages."""
        return self._asker.decoding

    @property
    def gives_log_probabilities(self) -> bool:
        """Whether the server does."""
        return self._asker.mode == "log_probabilities"

    def key(self, request: Request) -> str:
        """Model, decoding and messages."""
        return self._asker.key(request)

    def answers(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending
    ) -> Iterator[list[Answer]]:
        """Yield the answers of a batch as soon as it has ended, some thousands at a time."""
        address = self._params.base_url or os.environ.get("OPENAI_BASE_URL")
        asked = json.dumps([address, self.model, self.decoding, self._template.hash])
        prefix = f"batch {hashlib.sha256(asked.encode()).hexdigest()[:16]} "
        one_pass = _Pass(self._params, self._asker, self._store, stored, prefix)
        one_pass.take_up(spending)
        with ExitStack() as after:
            after.callback(one_pass.close)
            broken_off = after.enter_context(ExitStack())
            broken_off.callback(one_pass.say_what_stays_open)
            yield from one_pass.run(one_pass.new_lines(requests, spending))
            broken_off.pop_all()


class _Pass:
    """One call of `answers`: what is open, what is to be sent again."""

    def __init__(
        self, params: OpenAIBatchAnnotator, asker: Asker, store: ResponseStore, stored: Container[str], prefix: str
    ) -> None:
        self._params, self._asker, self._store, self._stored, self._prefix = params, asker, store, stored, prefix
        self._api = BatchApi(params, asker)
        self._open: dict[str, Chunk] = {}  # by name; each takes one of max_open places
        self._held: dict[str, Chunk | None] = {}  # keys not to be asked now -> the file they are in
        self._again: deque[Line] = deque()  # of one file at most, before new lines
        self._most = params.max_requests  # of a file; fewer while the endpoint has no room for more
        self._full = False  # no room until a batch has ended
        self._said = ""

    def take_up(self, spending: Spending) -> None:
        """Read the notes of earlier runs and set the cost of what is under way aside."""
        for name, note in self._store.notes(self._prefix).items():
            chunk = Chunk.noted(name, note)
            left = [key for key in chunk.requests if key not in self._stored]
            if not left:  # killed between the last answer and the note
                self._store.write_note(name, None)
                chunk.lines.close()
                continue
            self._open[name] = chunk
            self._held.update(dict.fromkeys(left, chunk))
            for key in left:
                spending.take(key, chunk.requests[key].prompt_tokens, self._asker.max_answer_tokens())
        if self._open:
            log.info("annotate: %d batches of an earlier run are taken up", len(self._open))

    def new_lines(self, requests: Iterable[Request], spending: Spending) -> Iterator[Line]:
        """Requests that are neither stored nor under way, until the budget is used up."""
        for request in requests:
            key = self._asker.key(request)
            if key in self._held:
                chunk = self._held[key]
                if chunk is not None and chunk.found:
                    chunk.wanted = True
                    chunk.lines.write(self._line(key, request)[0])
                continue
            if key in self._stored:
                continue
            data, cut = self._line(key, request)
            tokens = self._asker.prompt_tokens(request)
            if not spending.take(key, tokens, self._asker.max_answer_tokens()):
                for chunk in self._open.values():  # paid for: wait for all of them
                    chunk.wanted = True
                return
            self._held[key] = None
            yield Line(key, data, Sent(1, tokens, cut))

    def run(self, new: Iterator[Line]) -> Iterator[list[Answer]]:
        """Send and collect until all is sent and nothing that is asked for is under way."""
        while not self._fill(new) or any(chunk.wanted for chunk in self._open.values()):
            yield from self._collect()

    def say_what_stays_open(self) -> None:
        """For a run that ends early."""
        if count := sum(chunk.batch is not None for chunk in self._open.values()):
            log.warning("annotate: %d batches go on at the endpoint; the next run collects their answers", count)

    def close(self) -> None:
        """Let go of connections and lines; the notes stay."""
        self._api.close()
        for chunk in self._open.values():
            chunk.lines.close()

    def _line(self, key: str, request: Request) -> tuple[bytes, bool]:
        body, cut = self._asker.body(request)
        line = {"custom_id": key, "method": "POST", "url": f"/v1{self._asker.url}", "body": body}
        data = json.dumps(line).encode() + b"\n"
        if len(data) > self._params.max_bytes:
            raise UserError(
                f"one request has {len(data):,} bytes, more than annotate.annotator.max_bytes "
                f"{self._params.max_bytes:,} of a whole file: raise it, or lower max_text_tokens"
            )
        return data, cut

    def _fill(self, new: Iterator[Line]) -> bool:
        """Send as many files as may wait at once; whether all is sent."""
        for chunk in [chunk for chunk in self._open.values() if chunk.batch is None]:
            if not self._full:
                self._make(chunk)
        while (line := self._next(new)) is not None:
            self._again.appendleft(line)
            if self._full or len(self._open) >= self._params.max_open:
                return False
            self._make(self._upload(new))
        return True

    def _next(self, new: Iterator[Line]) -> Line | None:
        return self._again.popleft() if self._again else next(new, None)

    def _upload(self, new: Iterator[Line]) -> Chunk:
        """Write the next lines into a file within its limits, upload and note it."""
        chunk = Chunk(f"{self._prefix}{uuid4().hex}")
        size = 0
        while len(chunk.requests) < self._most and (line := self._next(new)) is not None:
            if (size := size + len(line.data)) > self._params.max_bytes:
                self._again.appendleft(line)
                break
            chunk.add(line)
        with ExitStack() as failed:
            failed.callback(chunk.lines.close)
            chunk.file = self._api.upload(chunk.lines)
            failed.pop_all()
        self._open[chunk.name] = chunk
        self._held.update(dict.fromkeys(chunk.requests, chunk))
        self._store.write_note(chunk.name, chunk.note())
        return chunk

    def _make(self, chunk: Chunk) -> None:
        """Have the endpoint work on a file, if it has room."""
        chunk.alone = not any(other.batch for other in self._open.values())
        try:
            chunk.batch = self._api.make(chunk.file, chunk.name, chunk.doubtful)
        except NoRoomError as error:
            log.info("annotate: no room for a further batch (%s)", error)
            chunk.doubtful, self._full = False, True
            return
        except RefusedError as error:
            self._leave(chunk, chunk.requests)
            if not chunk.found:
                raise
            log.warning("annotate: a file of an earlier run is of no use: its requests are sent anew (%s)", error)
            return
        self._store.write_note(chunk.name, chunk.note())

    def _collect(self) -> Iterator[list[Answer]]:
        """Yield the answers of a batch that has ended; where none has, wait."""
        counts = {"open": 0, "completed": 0, "failed": 0, "total": 0}
        for chunk in list(self._open.values()):
            if chunk.batch is None:
                continue
            batch = self._api.state(chunk.batch)
            if batch is None or batch.status not in _UNDER_WAY:
                self._full = False
                yield from self._end(chunk, batch)
                return
            counts["open"] += 1
            if (requests := batch.request_counts) is not None:
                counts["completed"] += requests.completed
                counts["failed"] += requests.failed
                counts["total"] += requests.total
        said = "annotate: {open} batches, {completed:,} of {total:,} requests done, {failed:,} failed".format(**counts)
        if counts["open"] and said != self._said:
            log.info(said)
            self._said = said
        if not counts["open"]:
            self._make_smaller()
        time.sleep(self._params.poll_s)

    def _end(self, chunk: Chunk, batch: Batch | None) -> Iterator[list[Answer]]:
        """Yield what a batch has brought, and line up the rest to be sent again."""
        if batch is None:
            log.warning("annotate: the endpoint has no batch %s: its requests are sent anew", chunk.batch)
            self._leave(chunk, chunk.requests)
            return
        if batch.status == "failed" and self._turned_away(chunk, batch):
            return
        cut = {key: sent.cut for key, sent in chunk.requests.items()}
        results = Results(self._asker, cut, self._stored, Fault.of_batch(batch.status))
        for file in (batch.output_file_id, batch.error_file_id):
            with self._api.downloaded(file) as lines:
                answers = results.read(lines)
                while part := list(islice(answers, _PART)):
                    yield part
        again, failed = {}, []
        for key, fault in results.missing.items():
            sent = chunk.requests[key]
            if sent.attempt < self._params.max_attempts:
                again[key] = sent._replace(attempt=sent.attempt + 1)
            else:
                failed.append(Answer.failed(key, fault.kind, fault.seen))
        if failed and results.fatal is None:
            yield failed
        self._leave(chunk, again)
        results.report(batch.id, len(again))
        if results.fatal is not None:
            raise UserError(results.fatal)
        self._most = min(2 * self._most, self._params.max_requests)

    def _turned_away(self, chunk: Chunk, batch: Batch) -> bool:
        """Whether a failed batch has to do with its file or the room for it; False if it failed by itself."""
        errors = (batch.errors.data if batch.errors else None) or []
        seen = "; ".join(
            f"{'' if error.line is None else f'line {error.line}: '}{error.message} ({error.code})"
            for error in errors[:3]
        )
        if no_room(seen):
            chunk.batch, self._full = None, True
            self._store.write_note(chunk.name, chunk.note())
            return True
        if all(error.code in _NOT_THE_FILE for error in errors):
            return False
        self._leave(chunk, chunk.requests)
        if chunk.found:  # what was wrong then may be mended
            log.warning("annotate: a batch of an earlier run failed (%s): its requests are sent anew", seen)
            return True
        raise UserError(f"the endpoint refuses a batch of {len(chunk.requests):,} requests: {seen}")

    def _make_smaller(self) -> None:
        """Where there is no room though nothing else of ours was under way: send half as much at a time."""
        self._full = False
        for chunk in [chunk for chunk in self._open.values() if chunk.alone]:
            self._leave(chunk, chunk.requests)
            if len(chunk.requests) == 1:
                raise UserError(
                    "the endpoint has no room for a batch of one request (its limit of enqueued tokens is reached): "
                    "wait until other batches of the account have ended, and run again"
                )
            self._most = len(chunk.requests) // 2

    def _leave(self, chunk: Chunk, again: Mapping[str, Sent]) -> None:
        """All that a batch has brought is stored: nobody looks for it any more; `again` is to be sent again.

        Where the text of a request has not come by in this run, it is asked for as a new one when it does.
        """
        self._store.write_note(chunk.name, None)
        del self._open[chunk.name]
        self._held.update(dict.fromkeys(chunk.requests))  # failed ones are not asked again in this run
        unseen = dict(again)
        self._again.extend(chunk.take_out(unseen))
        for key in chunk.requests:
            if key in unseen or key in self._stored:
                self._held.pop(key, None)
