"""Bulk labelling of anything: what is labelled, with which model, into which place, and by whom.

`job.json` is the first thing written to the place. Whoever comes later with another model, precision, runtime, input or
shard size is refused, so that labels of two kinds never mix. Shard s is the rows s x shard_rows and following of the
input, unusable ones included: every worker finds the same shards without asking anyone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from serving import cores, corpus, layout
from serving.bulk import Labeller
from serving.engine import Engine
from serving.errors import UserError
from serving.locating import Source, locate
from serving.precisions import PrecisionName, RuntimeName
from serving.records import Record, Unusable
from serving.schemas import Count, Frozen, Sha256, Share
from serving.shapes import Kind
from serving.targets import Target, open_target

JOB = "job.json"


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
    kind: Kind = "single"
    top: Annotated[int, Field(gt=0)] | None = None

    @property
    def labeller(self) -> Labeller:
        """The part that decides about labels."""
        model = self.model_hash, self.precision, self.runtime
        return Labeller(tuple(self.labels), *model, self.min_confidence, self.kind, self.top)


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
    threads: int | None = None  # of all workers together
    executor: Literal["local", "ray"] = "local"
    index: int = 0
    of: int = 1
    top: int | None = None  # likeliest labels whose probabilities are written; all if None

    @property
    def in_process(self) -> bool:
        """Whether this process labels by itself."""
        return self.executor == "local" and self.workers == 1

    def mine(self, shard: int) -> bool:
        """Whether this process has to see to a shard."""
        return shard % self.of == self.index


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
        threads=cores.threads(settings.threads, settings.workers),
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
        kind=engine.shape.kind,
        top=settings.top,
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
    target.remove([layout.MANIFEST])
    target.remove([name for name in target.names() if layout.OURS.fullmatch(name)])
    target.remove([JOB])


def judged(records: list[Record], job: Job) -> tuple[list[layout.Row], list[Unusable]]:
    """Rows that can be labelled, and those that can't."""
    rows: list[layout.Row] = []
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
    if strange := [name for name in names if layout.OURS.fullmatch(name)]:
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
