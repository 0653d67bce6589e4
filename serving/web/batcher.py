"""One engine, its threads, and the pieces of texts that wait for it, from many requests. Knows no HTTP and no texts.

Batches are bounded by tokens and made of what waits at the moment a thread is free: nothing waits for company, nor for
another batch while a core is idle. On a GPU the runtime takes the next batch while the device works on the last one.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from serving.engine import Engine
from serving.runtimes import Floats, Ids
from serving.web.choosing import choose

log = logging.getLogger("llambert")
_BATCH_S = 0.15  # batches are kept this short where the engine is slow, so that requests can take turns
_MEMORY = 0.95  # of a batch's weight in the measured rate, for each batch since
_YIELD_S = 0.02  # between looks at whether the preferred engine is idle


class Observer(Protocol):
    """Hears of each batch."""

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """Pieces and real tokens of a batch, and how long the engine took."""


class Ticket:
    """The pieces of one request on their way; `done` is set on the event loop."""

    def __init__(self, pieces: Ids, classes: int) -> None:
        self.pieces = pieces
        # longest first: pieces of one request that wait side by side are of similar length
        self.waiting = sorted(range(len(pieces)), key=lambda i: -len(pieces[i]))
        self.lengths = [len(pieces[i]) for i in self.waiting]
        self.scores: Floats = np.empty((len(pieces), classes), dtype=np.float32)
        self.missing = len(pieces)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.submitted = time.perf_counter()
        self.began: float | None = None  # when the first piece was taken

    def take(self, places: Sequence[int]) -> list[int]:
        """Remove waiting pieces at these places, and return their indices."""
        taken = [self.waiting[place] for place in places]
        for place in sorted(places, reverse=True):
            del self.waiting[place], self.lengths[place]
        self.began = self.began or time.perf_counter()
        return taken

    def finish(self, error: Exception | None = None) -> None:
        """On the event loop: tell the one who waits, unless they have left."""
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


Chosen = list[tuple[Ticket, int]]  # and the index of the piece


class Batcher:
    """Computes tickets, on as many threads as the engine takes calls, until it is closed.

    Args:
        engine: nobody else may compute with it from now on.
        max_batch_tokens: bound on a batch, padding included.
        observer: hears of batches.
        busy: while this is true nothing is computed: another engine is preferred.
    """

    def __init__(
        self,
        engine: Engine,
        max_batch_tokens: int,
        observer: Observer,
        *,
        tokens_per_s: float,
        busy: Callable[[], bool] | None = None,
    ) -> None:
        self.engine = engine
        self.tokens = 0  # that wait, whether made or only announced
        self._max_batch_tokens, self._observer, self._busy = max_batch_tokens, observer, busy
        self._weighed = [tokens_per_s, 1.0]  # tokens, seconds
        self._queue: list[Ticket] = []  # whose turn it is stands first
        self._changed = threading.Condition()
        self._closed = False
        self._computing = 0  # threads
        self._delivered = 0.0  # when the last batch was
        self._threads = [threading.Thread(target=self._run, name="engine", daemon=True) for _ in range(engine.calls)]
        for thread in self._threads:
            thread.start()

    @property
    def tokens_per_s(self) -> float:
        """Real tokens, over the last batches."""
        return self._weighed[0] / self._weighed[1]

    @property
    def alive(self) -> bool:
        """Whether the threads are there."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is computed."""
        return not self.tokens and not self._computing

    @contextmanager
    def announced(self, tokens: int) -> Iterator[None]:
        """Count tokens that are about to come, so that nothing else is let in on their account."""
        with self._changed:
            self.tokens += tokens
        try:
            yield
        finally:
            with self._changed:
                self.tokens -= tokens

    @contextmanager
    def ticket(self, pieces: Ids, classes: int) -> Iterator[Ticket]:
        """Queue pieces, on an event loop. What still waits at the end of the block is forgotten: nobody wants it."""
        ticket = Ticket(pieces, classes)
        with self._changed:
            self._queue.append(ticket)
            self.tokens += sum(ticket.lengths)
            self._changed.notify()
        try:
            yield ticket
        finally:
            if ticket.waiting:
                self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)
                self.tokens -= sum(ticket.lengths)

    def close(self) -> None:
        """Finish what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while self._wait():
            self._compute()
            with self._changed:
                self._computing -= 1

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while not self._queue or self._held():
                if self._closed and not self._queue:
                    return False
                self._changed.wait(_YIELD_S if self._queue else None)
            self._computing += 1
            return True

    def _held(self) -> bool:
        return self._busy is not None and not self._closed and self._busy()

    def _compute(self) -> None:
        """Compute batch after batch for as long as something waits."""
        flying: deque[Chosen] = deque()
        began = time.perf_counter()
        try:
            for scores in self.engine.scores(self._batches(flying)):
                self._deliver(flying.popleft(), scores, began)
                began = time.perf_counter()
        except Exception as error:  # goes to those who wait for these batches; the next ones may succeed
            log.exception("the engine failed")
            self._fail({ticket for chosen in flying for ticket, _ in chosen}, error)

    def _batches(self, flying: deque[Chosen]) -> Iterator[Ids]:
        while chosen := self._take():
            flying.append(chosen)
            yield [ticket.pieces[piece] for ticket, piece in chosen]

    def _take(self) -> Chosen:
        """Pick a batch and remove it from the queue; the request whose turn it was goes to the end."""
        # a rate that was measured while the machine was busy may allow for less than a token
        room = max(1, min(self._max_batch_tokens, int(self.tokens_per_s * _BATCH_S / len(self._threads))))
        with self._changed:
            if self._held():
                return []
            queue = self._queue
            places: dict[int, list[int]] = {}
            for request, piece in choose([ticket.lengths for ticket in queue], room):
                places.setdefault(request, []).append(piece)
            chosen = [(queue[request], i) for request, some in places.items() for i in queue[request].take(some)]
            self.tokens -= sum(len(ticket.pieces[piece]) for ticket, piece in chosen)
            self._queue = [ticket for ticket in queue[1:] + queue[:1] if ticket.waiting]
            return chosen

    def _deliver(self, chosen: Chosen, scores: Floats, began: float) -> None:
        tokens, now, finished = sum(len(ticket.pieces[piece]) for ticket, piece in chosen), time.perf_counter(), []
        with self._changed:
            seconds = now - max(began, self._delivered)  # what other threads computed meanwhile counts once
            self._delivered = now
            self._weighed = [_MEMORY * self._weighed[0] + tokens, _MEMORY * self._weighed[1] + seconds]
            self._observer.batch(len(chosen), tokens, now - began)
            for (ticket, piece), row in zip(chosen, scores, strict=True):
                ticket.scores[piece] = row
                ticket.missing -= 1
                if not ticket.missing:
                    finished.append(ticket)
        for ticket in finished:
            ticket.loop.call_soon_threadsafe(ticket.finish)

    def _fail(self, tickets: set[Ticket], error: Exception) -> None:
        for ticket in tickets:
            self._drop(ticket)
            ticket.loop.call_soon_threadsafe(ticket.finish, error)
