"""label, beyond the stage: anything that is not the project's corpus, and audits and plans of what is.

The work is that of `serving.commands`; here stands what a project knows: its champion, its corpus, its prices.
"""

from dataclasses import replace
from pathlib import Path

from pipeline import params
from pipeline.artifacts import CORPUS, EXPORT, LABELLED
from pipeline.errors import UserError
from serving import commands
from serving.options import Options

_PARAMS = Path("params.yaml")


def label(input: str | None, output: str | None, options: Options) -> str:
    """See `serving.commands.label`; without an input it is about the project's own labels."""
    if input is None:
        if options.finish or options.restart:
            raise UserError("--finish and --restart are for label INPUT OUTPUT; the project's stage goes on by itself")
        if options.verify:
            return commands.label(str(LABELLED), None, options)
        input, output, options = _project(options)
    elif not (options.verify or options.finish):
        options = replace(options, model=options.model or _model())
    return commands.label(input, output, options)


def _project(options: Options) -> tuple[str, str, Options]:
    """What the stage would label, and how."""
    settings = params.load()
    block, source = settings.label, settings.label.corpus
    if source is None and not CORPUS.path.is_file():
        raise UserError(f"{CORPUS.path} does not exist: run `dvc repro ingest` first")
    options = replace(
        options,
        model=options.model or EXPORT,
        precision=block.precision,
        runtime=block.runtime,
        text_column=source.text if source else "text",
        id_column=(source.id or "") if source else "id",
        ids_from_text=source is not None and source.id is None,
        format=source.format if source else "auto",
        split=source.split if source else None,
        min_confidence=block.min_confidence,
        top=block.top,
        max_batch_tokens=block.max_batch_tokens,
        max_chars=settings.ingest.max_chars,
        price_per_hour=settings.report.machine_per_hour,
    )
    return source.path if source else str(CORPUS.path), str(LABELLED), options


def _model() -> Path:
    """The project's champion; where there is none, or no project, the directory export/."""
    if not _PARAMS.is_file():
        return EXPORT
    from pipeline.registry import Registry

    registry = Registry(params.load().register_)
    champion = registry.get("champion")
    return EXPORT if champion is None else registry.download(champion)
