"""`label INPUT OUTPUT`: what the command line of both halves does. Each function returns the text to print."""

from pathlib import Path

from serving import jobs, labelling
from serving.errors import UserError
from serving.jobs import Settings
from serving.labelling import Outcome
from serving.locating import Source
from serving.options import INDEX, OF, Options

MODEL = Path("export")


def label(input: str | None, output: str | None, options: Options) -> str:
    """Label, or do one of the other four things; see the command's help."""
    if options.verify:
        return _verify(input, output, options)
    if input is None or (output is None and not options.plan):
        raise UserError("name what to label and where its labels go: label INPUT OUTPUT")
    settings = make_settings(input, output or "", options)
    if options.plan:
        from serving import probing

        return probing.plan(settings, options.price_per_hour)
    if options.finish:
        return summary(labelling.finish(settings))
    if options.restart:
        if settings.of > 1:
            raise UserError("--restart with --index would remove what the other workers do: run it once without")
        jobs.restart(settings.output)
    return summary(labelling.run(settings))


def make_settings(place: str, output: str, options: Options) -> Settings:
    """Check the options and put them together."""
    for name in ("workers", "threads", "shard_rows", "max_batch_tokens", "max_chars"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more (got {value})")
    if options.top is not None and options.top < 1:
        raise UserError(f"--top must be 1 or more (got {options.top})")
    if not 0 <= options.min_confidence <= 1:
        raise UserError(f"--min-confidence must be between 0 and 1 (got {options.min_confidence})")
    index, of = _share(options)
    return Settings(
        input=Source(
            path=place,
            format=options.format,
            text=options.text_column,
            id=None if options.ids_from_text else options.id_column,
            split=options.split,
        ),
        output=output,
        model=options.model or MODEL,
        precision=options.precision,
        runtime=options.runtime,
        shard_rows=options.shard_rows,
        min_confidence=options.min_confidence,
        top=options.top,
        max_batch_tokens=options.max_batch_tokens,
        max_chars=options.max_chars,
        workers=options.workers,
        threads=options.threads,
        executor=options.executor,
        index=index,
        of=of,
    )


def summary(outcome: Outcome) -> str:
    """What a run did, and what there is now."""
    tally, target = outcome.all, outcome.target
    shares = ", ".join(f"{name} {count / max(1, tally.rows):.1%}" for name, count in tally.counts.items())
    lines = [f"{tally.rows:,} texts in {len(tally.files):,} shards are labelled in {target} ({shares})"]
    if outcome.found:
        lines.append(f"{outcome.found:,} of these shards were there already")
    if tally.unusable:
        lines.append(f"{tally.unusable:,} rows can't be used; their reasons stand in {target}/unusable-*.parquet")
    if outcome.missing:
        lines.append(f"{outcome.missing:,} shards of other workers are missing: the last writes manifest.json")
    return "\n".join(lines)


def _share(options: Options) -> tuple[int, int]:
    """Which shards are ours: all, or those of a worker of an Indexed Job."""
    if options.index is None and options.of is None:
        return 0, 1
    if options.index is None or options.of is None:
        given, other = (INDEX, f"--of or {OF}") if options.of is None else (OF, f"--index or {INDEX}")
        raise UserError(f"{given} (or its option) is set, but not {other}: a worker must know both, or neither")
    if not 0 <= options.index < options.of:
        raise UserError(f"--index {options.index} of {options.of}: it must be from 0 to {options.of - 1}")
    return options.index, options.of


def _verify(first: str | None, second: str | None, options: Options) -> str:
    from serving import verifying

    if first is None:
        raise UserError("name the place of the labels: label --verify OUTPUT, or label INPUT OUTPUT --verify")
    if second is None:
        return verifying.verify(first)
    return verifying.verify(second, make_settings(first, second, options))
