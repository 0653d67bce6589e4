"""Bulk labelling of anything: what is labelled, with which model, into which place, and by whom.

`job.json` is the first thing written to the place. Whoever comes later with another model, precision, runtime, input or
shard size is refused, so that labels of two kinds never mix. Shard s is the rows s x shard_rows and following of the
input, unusable ones included: every worker finds the same shards without asking anyone.
"""

import hashlib
import logging
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from serving import bulk, corpus, executors
from serving.bulk import Labeller, Tally
from serving.engine import Engine
from serving.errors import UserError
from serving.locating import Source, locate
from serving.precisions import PrecisionName, RuntimeName
from serving.progress import Advance, progress
from serving.reading import about, shards
from serving.records import Record, Unusable
from serving.schemas import Count, Frozen, Labelled, Part, Sha256, Share
from serving.targets import Target, open_target

log = logging.getLogger("llambert")
JOB = "job.json"
_AT_ONCE = 16  # sidecars that are read at the same time
_AHEAD = 2  # shards for each worker: one in work, one waiting


class Job(Frozen):
    """What all workers of a place must agree on."""

    input: Source
    files: Sha256  # of the names and sizes of the input's files
    max_chars: Count
    shard_rows: Annotated[int, Field(gt=0)]
    min_confidence: Share
    labels: list[str]
    model_hash: Sha256
    precision: PrecisionName
    runtime: RuntimeName

    @property
    def labeller(self) -> Labeller:
        """The part that decides about labels."""
        return Labeller(tuple(self.labels), self.model_hash, self.precision, self.runtime, self.min_confidence)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user asks for. Of the workers of an Indexed Job each does every `of`-th shard, from `index`."""

    input: Source
    output: str
    model: Path
    precision: str = "int8"
    runtime: str = "auto"
    shard_rows: int = 10_000
    min_confidence: float = 0.0
    max_batch_tokens: int = 8192
    max_chars: int = 100_000
    workers: int = 1
    executor: Literal["local", "ray"] = "local"
    index: int = 0
    of: int = 1

    @property
    def in_process(self) -> bool:
        """Whether this process labels by itself."""
        return self.executor == "local" and self.workers == 1

    def mine(self, shard: int) -> bool:
        """Whether this process has to see to a shard."""
        return shard % self.of == self.index


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


def claim(settings: Settings, target: Target) -> tuple[Job, Engine]:
    """Check the model, and that the place is empty or this job's; say in job.json whose it is.

    Where an earlier worker has settled what `auto` means, its runtime is taken.
    """
    names = target.names()  # before the job is looked for: whoever labels has written it by then
    before = written(target)
    settled = before is not None and (settings.runtime, settings.precision) == ("auto", before.precision)
    runtime = before.runtime if before and settled else settings.runtime
    engine = Engine.open(
        settings.model,
        settings.precision,
        runtime=runtime,
        threads=executors.threads(settings.workers) if settings.workers > 1 else None,
        max_batch_tokens=settings.max_batch_tokens,
    )
    engine.prove()
    job = Job(
        input=settings.input,
        files=_fingerprint(settings.input),
        max_chars=settings.max_chars,
        shard_rows=settings.shard_rows,
        min_confidence=settings.min_confidence,
        labels=list(engine.labels),
        model_hash=engine.model_hash,
        precision=engine.precision,
        runtime=engine.runtime,
    )
    if before is None:
        _refuse_strangers(names, target)
        before = written(target)  # another worker's, if it was faster
    if before is None:
        target.write(JOB, (job.model_dump_json(indent=2) + "\n").encode())
        before = written(target)
    if before != job:
        raise _mixed(target, before, job)
    return job, engine


def written(target: Target) -> Job | None:
    """The job of a place, if any."""
    try:
        return Job.model_validate_json(target.read(JOB))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise UserError(f"{JOB} in {target.name} can't be read: begin again with --restart") from None


def restart(place: str) -> None:
    """Remove what earlier jobs wrote to a place, and nothing else; the job last, so that a killed restart is none."""
    target = open_target(place)
    target.remove([bulk.MANIFEST])
    target.remove([name for name in target.names() if bulk.OURS.fullmatch(name)])
    target.remove([JOB])


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
        written_ones = [shard for shard in others if bulk.sidecar_name(shard) in there]
        for part in pool.map(lambda shard: bulk.sidecar(shard, target), written_ones):
            if part is not None and job.labeller.gave(part):
                outcome.all.add(part)
    outcome.missing = count - len(outcome.all.files)
    if not outcome.missing and not _manifest_fits(target, outcome.all):
        bulk.finish(outcome.all, job.labeller, target, made_ids=job.input.id is None)


def _manifest_fits(target: Target, tally: Tally) -> bool:
    """Whether the manifest names exactly these parts: then it stays as it is."""
    try:
        manifest = Labelled.model_validate_json(target.read(bulk.MANIFEST))
    except (FileNotFoundError, ValidationError):
        return False
    return manifest.parts == {bulk.part_name(shard): file for shard, file in tally.files.items()}


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
        job, there, count = self._job, set(self._target.names()), 0
        for shard, records in shards(job.input, "", job.shard_rows, self._settings.mine):
            count = shard + 1
            if records is None:
                continue
            rows, unusable = judged(records, job)
            part = None
            if bulk.sidecar_name(shard) in there and (not unusable or bulk.unusable_name(shard) in there):
                part = bulk.finished(shard, rows, job.labeller, self._target, len(unusable))
            if part is None:
                self._hand_out(shard, rows, unusable)
            else:
                self.outcome.found += 1
                self._count(part)
        self._collect(wait(self._pending).done)
        return count

    def _hand_out(self, shard: int, rows: list[bulk.Row], unusable: list[Unusable]) -> None:
        if self._advance is None:
            self._begin()
        self._pending.add(self._submit(shard, rows, unusable))
        if len(self._pending) >= _AHEAD * self._settings.workers:
            done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
            self._collect(done)

    def _begin(self) -> None:
        """The place is not complete from now on; the model is loaded by whoever labels."""
        self._target.remove([bulk.MANIFEST])
        settings, job, done = self._settings, self._job, self.outcome.all
        total = about(job.input, "") // settings.of
        self._advance = advance = self._stack.enter_context(
            progress("label", total, unit="rows", done=done.rows + done.unusable)
        )
        if settings.in_process and self._engine is not None:
            self._submit = executors.here(self._engine, self._target, job.min_confidence, advance)
            return
        self._engine = None
        task = executors.Task(
            settings.model, job.precision, job.runtime, settings.max_batch_tokens, settings.output, job.min_confidence
        )
        self._submit = self._stack.enter_context(executors.open_executor(settings.executor, task, settings.workers))

    def _collect(self, done: set[Future[Part]]) -> None:
        for future in done:
            self._count(future.result(), told=self._settings.in_process)

    def _count(self, part: Part, *, told: bool = False) -> None:
        self.outcome.all.add(part)
        if self._advance and not told:
            self._advance(part.rows + part.unusable)


def judged(records: list[Record], job: Job) -> tuple[list[bulk.Row], list[Unusable]]:
    """Rows that can be labelled, and those that can't."""
    rows: list[bulk.Row] = []
    unusable: list[Unusable] = []
    for record in records:
        row = corpus.check(record, job.max_chars, made_ids=job.input.id is None)
        if isinstance(row, Unusable):
            unusable.append(row)
        else:
            rows.append((row.id, row.text))
    return rows, unusable


def _fingerprint(source: Source) -> str:
    digest = hashlib.sha256()
    for file in locate(source, "").files:
        digest.update(f"{file.relative}\0{file.fs.size(file.path)}\n".encode())
    return digest.hexdigest()


def _refuse_strangers(names: list[str], target: Target) -> None:
    """Labels without a job.json: of a project's stage, or of an older version."""
    if strange := [name for name in names if bulk.OURS.fullmatch(name)]:
        raise UserError(
            f"{target.name} holds labels of another run ({strange[0]}, without {JOB}): name another output, or "
            "begin again with --restart, which removes them"
        )


def _mixed(target: Target, before: Job | None, job: Job) -> UserError:
    old, new = (before.model_dump() if before else {}), job.model_dump()
    names = {"files": "input files", "input": "input"}
    differing = [
        f"{names.get(key, key)} ({_short(old.get(key))} there, {_short(new[key])} now)"
        for key in new
        if old.get(key) != new[key]
    ]
    return UserError(
        f"{target.name} holds labels of another job; it differs in {', '.join(differing)}. Labels of two kinds are "
        "not mixed: name another output, or begin again with --restart, which removes the labels there"
    )


def _short(value: object) -> str:
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 else str(value)
