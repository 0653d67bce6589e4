"""Which model answers: puts a new one in the old one's place, and lets a second one answer unseen.

A model that is loaded has an engine and a batcher of its own. A new one is made ready beside the old; requests that
have begun end on the model that they began with.
"""

import asyncio
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.core import GaugeMetricFamily

from serving import registry
from serving.cores import yielding
from serving.errors import Unreachable, UserError
from serving.registry import Version
from serving.web.batcher import Batcher, Observer
from serving.web.drift import Watch
from serving.web.loading import Loaded, find, load
from serving.web.metrics import Metrics
from serving.web.settings import Settings

log = logging.getLogger("llambert")
_RETRY_S = 5.0  # while there is no model at all
_SHADOW_SHARE = 8  # the shadow's queue is this part of the other
_SHADOW_REQUESTS = 100
T = TypeVar("T")


@dataclass(eq=False)
class Served:
    """A model that answers, or did a moment ago."""

    loaded: Loaded
    batcher: Batcher
    watch: Watch | None = None  # whether texts are still what the model was made for
    users: int = 0  # requests that have begun with it

    @contextmanager
    def in_use(self) -> Any:  # noqa: ANN401 - an iterator that contextmanager turns into something else
        """While a request needs this model."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def __str__(self) -> str:
        version = self.loaded.version
        return f"{version.name} v{version.number}" if version.number else version.name


@dataclass
class _Watch:
    """A model's name, and what became of it so far."""

    model: str
    take: Callable[[Loaded], None]
    version: Version | None = None  # that is loaded
    refused: Version | None = None
    said: str = ""  # the last complaint

    @property
    def over(self) -> bool:
        """Whether it can't change any more."""
        reference = registry.parse(self.model)
        return self.version is not None and (reference is None or reference.alias is None)


class _Unheard:
    """The shadow's batches are no part of the service's figures."""

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """Nothing."""


class Keeper:
    """The served model and the shadow; to be used on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.current: Served | None = None
        self.metrics = Metrics(self.gauges)
        self._shadow: Served | None = None
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = ExitStack()

    def start(self) -> None:
        """Begin to load; returns at once."""
        settings = self._settings
        cache = settings.cache or Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="llambert-")))
        self._spawn(self._watch(_Watch(settings.model, self._take_over), cache))
        if settings.shadow_model:
            self._spawn(self._watch(_Watch(settings.shadow_model, self._take_shadow), cache))

    async def stop(self) -> None:
        """End, when no request is left."""
        for task in tuple(self._tasks):
            task.cancel()
        for served in (self.current, self._shadow):
            if served:
                await asyncio.to_thread(served.batcher.close)
        self._stack.close()

    @property
    def alive(self) -> bool:
        """False if a thread that should compute is gone."""
        return self.current is None or self.current.batcher.alive

    def gauges(self) -> Iterable[GaugeMetricFamily]:
        """What is so at the moment."""
        waiting = GaugeMetricFamily("llambert_queue_tokens", "Tokens that wait for the engine")
        waiting.add_metric([], self.current.batcher.tokens if self.current else 0)
        yield waiting
        if self.current:
            names = ["name", "version", "model_hash", "precision", "runtime"]
            info = GaugeMetricFamily("llambert_model_info", "The served model", labels=names)
            loaded = self.current.loaded
            version, engine = loaded.version, loaded.engine
            info.add_metric([version.name, version.number, engine.model_hash, engine.precision, engine.runtime], 1)
            yield info
            took = GaugeMetricFamily("llambert_model_load_seconds", "Time to load and prove the served model")
            took.add_metric([], loaded.seconds)
            yield took
            if self.current.watch:
                yield from self.current.watch.gauges()

    def follow(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Let the shadow answer the same texts when there is time."""
        shadow = self._shadow
        if shadow is None:
            return
        limit = self._settings.max_queued_tokens // _SHADOW_SHARE
        if shadow.batcher.tokens > limit or shadow.users > _SHADOW_REQUESTS:
            self.metrics.shadow_dropped.inc(len(texts))
        else:
            self._spawn(self._compare(shadow, texts, labels))

    async def _compare(self, shadow: Served, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Count on how many texts the shadow agrees; labels are compared by name."""
        engine = shadow.loaded.engine
        with shadow.in_use():
            pieces, owners = await asyncio.to_thread(engine.pieces, texts)
            with shadow.batcher.ticket(pieces, len(engine.labels)) as ticket:
                await ticket.done
            given = engine.shape.decide(engine.probabilities(ticket.scores, owners, len(texts))).labels
        agreeing = sum(one == other for one, other in zip(given, labels, strict=True))
        self.metrics.shadow.labels("true").inc(agreeing)
        self.metrics.shadow.labels("false").inc(len(texts) - agreeing)

    async def _watch(self, watch: _Watch, cache: Path) -> None:
        """Load a model, then look at its alias for ever."""
        poll_s = self._settings.poll_s
        while not watch.over:
            await self._look(watch, cache)
            if watch.version and not poll_s:
                return
            await asyncio.sleep(poll_s if watch.version else min(_RETRY_S, poll_s or _RETRY_S))

    async def _look(self, watch: _Watch, cache: Path) -> None:
        """Load what the name means now, unless it is there or was refused."""
        found: Version | None = None
        try:
            found = await _on_thread(partial(find, watch.model))
            if found not in (watch.version, watch.refused):
                watch.take(await _on_thread(partial(load, watch.model, found, self._settings, cache)))
                watch.version = found
            if found == watch.version:
                watch.refused, watch.said = None, ""
        except Unreachable as error:
            self._complain(watch, str(error))
        except UserError as error:
            self._refuse(watch, found, str(error))
        except Exception as error:  # whatever is wrong with a new model, the old one goes on
            log.exception("%s can't be loaded", watch.model)
            self._refuse(watch, found, repr(error))

    def _refuse(self, watch: _Watch, found: Version | None, reason: str) -> None:
        if watch.version:
            watch.refused = found
            self.metrics.swaps.labels("refused").inc()
            reason = f"version {found.number if found else '?'} is refused, {watch.version.number} goes on: {reason}"
        self._complain(watch, reason)

    def _complain(self, watch: _Watch, reason: str) -> None:
        if reason != watch.said:
            log.error("%s: %s", watch.model, reason)
        watch.said = reason

    def _serve(self, loaded: Loaded, observer: Observer, busy: Callable[[], bool] | None = None) -> Served:
        limit = self._settings.max_batch_tokens
        return Served(loaded, Batcher(loaded.engine, limit, observer, tokens_per_s=loaded.tokens_per_s, busy=busy))

    def _take_over(self, loaded: Loaded) -> None:
        """From now on requests begin with the new model."""
        old, self.current = self.current, self._serve(loaded, self.metrics)
        if loaded.profile and self._settings.drift_window:
            self.current.watch = Watch(loaded.profile, self._settings.drift_window)
        engine = loaded.engine
        took = f"{engine.precision} of {engine.runtime}, loaded in {loaded.seconds:.1f} s"
        log.info("%s answers: %s", self.current, took)
        if old:
            self.metrics.swaps.labels("done").inc()
            if old.loaded.engine.labels != engine.labels:
                log.warning("the labels changed from %s to %s", old.loaded.engine.labels, engine.labels)
            self._spawn(self._retire(old))

    def _take_shadow(self, loaded: Loaded) -> None:
        old, self._shadow = self._shadow, self._serve(loaded, _Unheard(), self._busy)
        log.info("%s answers unseen", self._shadow)
        if old:
            self._spawn(self._retire(old))

    def _busy(self) -> bool:
        return self.current is None or not self.current.batcher.idle

    async def _retire(self, old: Served) -> None:
        """When the last request that began with it has ended: free its memory, and its files if they are ours."""
        while old.users:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(old.batcher.close)
        if self._settings.cache is None and old.loaded.fetched:
            await asyncio.to_thread(shutil.rmtree, old.loaded.directory, ignore_errors=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of the service failed. This is a bug.", exc_info=error)


async def _on_thread(work: Callable[[], T]) -> T:
    """On a thread that the end of the process does not wait for: a registry may take minutes to say no.

    Threads that a model begins here yield to the event loop, as this one does.
    """
    future: Future[T] = Future()

    def run() -> None:
        yielding()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await asyncio.wrap_future(future)
