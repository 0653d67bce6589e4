"""A job run by this process or by workers that it starts: finds the shards that are missing and hands them out."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from pydantic import ValidationError

from serving import bulk, executors, layout
from serving.bulk import Tally
from serving.engine import Engine
from serving.errors import UserError
from serving.jobs import JOB, Job, Settings, claim, judged, written
from serving.progress import Advance, progress
from serving.reading import about, shards
from serving.records import Unusable
from serving.schemas import Labelled, Part
from serving.targets import Target, open_target

_AT_ONCE = 16  # sidecars that are read at the same time
_AHEAD = 2  # shards for each worker: one in work, one waiting
_Shard = tuple[list[layout.Row], list[Unusable], Part | None]
_T = TypeVar("_T")


@dataclass
class Outcome:
    """What a run did, and what there is now; `missing` shards are other workers' and not there yet."""

    target: str
    all: Tally = field(default_factory=Tally)
    found: int = 0  # shards that were done before
    missing: int = 0


def run(settings: Settings) -> Outcome:
    """Label what is missing; write manifest.json if nothing is missing then.

    Raises:
        UserError: the input, the model or the place can't be used, the place holds labels of another job, a worker
            died, or the disk is full. What is there stays, and the same command goes on from it.
    """
    target = open_target(settings.output)
    job, engine = claim(settings, target)
    target.sweep()
    with ExitStack() as stack:
        running = _Run(settings, job, target, engine, stack)
        count = running.drive()
    complete(job, count, target, running.outcome)
    return running.outcome


def finish(settings: Settings) -> Outcome:
    """Write manifest.json if all shards are there; label nothing."""
    target = open_target(settings.output)
    job = written(target)
    if job is None:
        raise UserError(f"{target.name} has no {JOB}: nothing was labelled there yet")
    outcome = Outcome(target.name)
    count = sum(1 for _ in shards(job.input, "", job.shard_rows, lambda _: False))
    complete(job, count, target, outcome)
    return outcome


def complete(job: Job, count: int, target: Target, outcome: Outcome) -> None:
    """Gather the sidecars of all `count` shards; if they are there, write manifest.json."""
    if not count:
        raise UserError(f"{job.input.path} has no rows: there is nothing to label")
    others = [shard for shard in range(count) if shard not in outcome.all.files]
    there = set(target.names()) if others else set()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        written_ones = [shard for shard in others if layout.sidecar_name(shard) in there]
        for part in pool.map(lambda shard: layout.sidecar(shard, target), written_ones):
            if part is not None and job.labeller.gave(part):
                outcome.all.add(part)
    outcome.missing = count - len(outcome.all.files)
    if not outcome.missing and not _manifest_fits(target, outcome.all):
        bulk.finish(outcome.all, job.labeller, target, made_ids=job.input.id is None)


def _manifest_fits(target: Target, tally: Tally) -> bool:
    """Whether the manifest names exactly these parts: then it stays as it is."""
    try:
        manifest = Labelled.model_validate_json(target.read(layout.MANIFEST))
    except (FileNotFoundError, ValidationError):
        return False
    return manifest.parts == {layout.part_name(shard): file for shard, file in tally.files.items()}


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items; each is made on a thread while the one before is used."""
    with ThreadPoolExecutor(1, "read") as pool:
        following = pool.submit(list, islice(items, 1))
        while made := following.result():
            following = pool.submit(list, islice(items, 1))
            yield made[0]


class _Run:
    """Finds the shards that are missing and hands them out; starts workers with the first of them."""

    def __init__(self, settings: Settings, job: Job, target: Target, engine: Engine, stack: ExitStack) -> None:
        self._settings, self._job, self._target, self._stack = settings, job, target, stack
        self._engine: Engine | None = engine
        self._advance: Advance | None = None
        self._pending: set[Future[Part]] = set()
        self.outcome = Outcome(target.name)

    def drive(self) -> int:
        """See to all shards that are this process's; return how many there are in all."""
        count = 0
        for shard, mine in _ahead(self._looked_at()):
            count = shard + 1
            if mine is None:
                continue
            rows, unusable, part = mine
            if part is None:
                self._hand_out(shard, rows, unusable)
            else:
                self.outcome.found += 1
                self._count(part)
        self._collect(wait(self._pending).done)
        return count

    def _looked_at(self) -> Iterator[tuple[int, _Shard | None]]:
        """All shards; of those of this process what is in them, and their sidecar if they are done."""
        job, there = self._job, set(self._target.names())
        for shard, records in shards(job.input, "", job.shard_rows, self._settings.mine):
            if records is None:
                yield shard, None
                continue
            rows, unusable = judged(records, job)
            part = None
            if layout.sidecar_name(shard) in there and (not unusable or layout.unusable_name(shard) in there):
                part = bulk.finished(shard, rows, job.labeller, self._target, len(unusable))
            yield shard, (rows, unusable, part)

    def _hand_out(self, shard: int, rows: list[layout.Row], unusable: list[Unusable]) -> None:
        if self._advance is None:
            self._begin()
        self._pending.add(self._submit(shard, rows, unusable))
        if len(self._pending) >= _AHEAD * self._settings.workers:
            done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
            self._collect(done)

    def _begin(self) -> None:
        """The place is not complete from now on; the model is loaded by whoever labels."""
        self._target.remove([layout.MANIFEST])
        settings, job, done = self._settings, self._job, self.outcome.all
        total = about(job.input, "") // settings.of
        self._advance = advance = self._stack.enter_context(
            progress("label", total, unit="rows", done=done.rows + done.unusable)
        )
        if settings.in_process and self._engine is not None:
            self._submit = self._stack.enter_context(
                executors.here(self._engine, self._target, job.min_confidence, advance, job.top)
            )
            return
        self._engine = None
        task = executors.Task(
            settings.model,
            job.precision,
            job.runtime,
            settings.max_batch_tokens,
            settings.output,
            job.min_confidence,
            settings.threads,
            job.top,
        )
        self._submit = self._stack.enter_context(executors.open_executor(settings.executor, task, settings.workers))

    def _collect(self, done: set[Future[Part]]) -> None:
        for future in done:
            self._count(future.result(), told=self._settings.in_process)

    def _count(self, part: Part, *, told: bool = False) -> None:
        self.outcome.all.add(part)
        if self._advance and not told:
            self._advance(part.rows + part.unusable)
