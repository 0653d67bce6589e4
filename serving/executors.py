"""Who labels shards: this process, processes of this machine, or Ray actors. None of them knows about input."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from serving import bulk, cores, layout
from serving.engine import Engine
from serving.errors import UserError
from serving.precisions import PrecisionName, RuntimeName
from serving.records import Unusable
from serving.schemas import Part
from serving.targets import Target, open_target

Submit = Callable[[int, Sequence[layout.Row], Sequence[Unusable]], Future[Part]]


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to know besides its shards. Precision and runtime are settled: no `auto` here."""

    model: Path
    precision: PrecisionName
    runtime: RuntimeName
    max_batch_tokens: int
    output: str
    min_confidence: float
    threads: int | None  # of all workers of a machine together
    top: int | None = None  # see `bulk.Labeller`


class Worker:
    """A loaded model and a place to write to."""

    def __init__(self, task: Task, threads: int | None) -> None:
        self._task, self._target = task, open_target(task.output)
        self._engine = Engine.open(
            task.model,
            task.precision,
            runtime=task.runtime,
            threads=threads,
            max_batch_tokens=task.max_batch_tokens,
        )
        self._engine.prove()

    def label(self, shard: int, rows: Sequence[layout.Row], unusable: Sequence[Unusable]) -> Part:
        """Label one shard and publish it."""
        task = self._task
        return bulk.label_shard(shard, rows, self._engine, self._target, task.min_confidence, unusable, top=task.top)


@contextmanager
def here(
    engine: Engine, target: Target, min_confidence: float, advance: Callable[[int], object], top: int | None = None
) -> Iterator[Submit]:
    """Label in this process, and publish on a thread while the next shard is labelled. `advance` hears of batches."""
    with ThreadPoolExecutor(1, "publish") as pool:

        def submit(shard: int, rows: Sequence[layout.Row], unusable: Sequence[Unusable]) -> Future[Part]:
            scored = bulk.score(rows, engine, advance)
            advance(len(unusable))
            return pool.submit(bulk.publish, shard, rows, scored, engine, target, min_confidence, unusable, top)

        yield submit


def open_executor(name: str, task: Task, workers: int) -> AbstractContextManager[Submit]:
    """Start workers; they end with the context."""
    return on_ray(task, workers) if name == "ray" else processes(task, workers)


@contextmanager
def processes(task: Task, workers: int) -> Iterator[Submit]:
    """Processes of this machine, which share its cores.

    Raises:
        UserError: one of them died; the others are stopped.
    """
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(task, cores.threads(task.threads, workers)),
    )
    try:
        yield lambda shard, rows, unusable: pool.submit(_label, shard, rows, unusable)
    except BrokenProcessPool:
        raise _died("process") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: Worker | None = None  # of a worker process


def _start(task: Task, threads: int | None) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker = Worker(task, threads)


def _die_with_parent() -> None:
    """A parent that is killed can't stop its workers: without this they would wait for work for ever."""
    if parent := parent_process():
        parent.join()
    os._exit(1)


def _label(shard: int, rows: Sequence[layout.Row], unusable: Sequence[Unusable]) -> Part:
    if _worker is None:
        raise RuntimeError("a worker was given a shard before it was started. This is a bug.")
    return _worker.label(shard, rows, unusable)


@contextmanager
def on_ray(task: Task, workers: int) -> Iterator[Submit]:
    """Actors on the Ray cluster of RAY_ADDRESS, or on a local one; the shard goes to the least busy.

    Raises:
        UserError: Ray is not installed, or an actor died and could not be started again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed: `pip install 'llambert[ray]'`, or leave out --executor ray") from None
    ray.init(log_to_driver=False, include_dashboard=False if "RAY_ADDRESS" not in os.environ else None)
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
        share = max(1, int(resources.get("CPU", 1)) // workers)
        actor = ray.remote(num_cpus=share, num_gpus=int(task.runtime == "torch"), max_restarts=1)(Worker)
        actors = [actor.remote(task, share) for _ in range(workers)]
        yield _least_busy(actors)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    except ray.exceptions.RayActorError:
        raise _died("Ray actor") from None
    finally:
        ray.shutdown()


def _least_busy(actors: Sequence[Any]) -> Submit:
    load: Counter[int] = Counter()

    def submit(shard: int, rows: Sequence[layout.Row], unusable: Sequence[Unusable]) -> Future[Part]:
        chosen = min(range(len(actors)), key=lambda i: load[i])
        load[chosen] += 1
        future: Future[Part] = actors[chosen].label.remote(shard, rows, unusable).future()
        future.add_done_callback(lambda _: load.subtract([chosen]))
        return future

    return submit


def _died(what: str) -> UserError:
    return UserError(
        f"a worker ({what}) was killed before it was done: by a person, or by the system because memory ran out. "
        "Finished shards are kept: run the same command again, with fewer --workers if memory was short"
    )
