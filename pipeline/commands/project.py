"""init, check, dag and results: what a person does with a project directory before and between runs."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline import dag, params
from pipeline.artifacts import BEST, REPORT, metrics
from pipeline.errors import UserError
from pipeline.params import Endpoint, Params, Source

_TEMPLATE = Path(dag.__file__).with_name("template")
_IGNORED = ".llambert/\nmlflow.db\nmlartifacts/\ndrift/\n"
_NEXT = """{directory} is a project. Now:
  1. put your texts at data/corpus.csv (columns id, text), or let params.yaml point at them
  2. put a few hundred texts that people labelled at data/gold_train.csv and data/gold_test.csv (id, text, label),
     or delete both from params.yaml, set train.recipes to [llm], and run `llambert dag`
  3. say in params.yaml what you want to know: task.criterion, task.labels, annotate.prompt
  4. llambert check
  5. dvc repro, then open report.html"""
_PEEK_ROWS = 1000
_SHOWN = 8  # labels
_FREE_BYTES = 2 << 30


def init(directory: Path) -> str:
    """Make a project directory and say what comes next.

    Raises:
        UserError: there is a params.yaml already.
    """
    if (directory / "params.yaml").exists():
        raise UserError(f"{directory} holds a params.yaml already: choose another directory")
    (directory / "data").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_TEMPLATE / "params.yaml", directory / "params.yaml")
    (directory / ".gitignore").write_text(_IGNORED)
    (directory / "dvc.yaml").write_text(dag.render(params.load(directory / "params.yaml")))
    _version(directory)
    return _NEXT.format(directory=directory)


def _version(directory: Path) -> None:
    """Put the project under git and DVC, where it is not."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"`{' '.join(command)}` failed in {directory}: {done.stderr.strip()}")
        return done.stdout.strip()

    def dvc(*arguments: str) -> None:
        run(sys.executable, "-m", "dvc", *arguments)

    if shutil.which("git") is None:
        dvc("init", "--no-scm", "--quiet")
        return
    inside = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=directory, capture_output=True, check=False)
    if inside.returncode:
        run("git", "init", "--quiet")
    top = Path(run("git", "rev-parse", "--show-toplevel"))
    if not any((place / ".dvc").is_dir() for place in (directory.resolve(), top)):
        dvc("init", "--quiet", *([] if top == directory.resolve() else ["--subdir"]))
    dvc("config", "core.analytics", "false")


def check() -> str:
    """Look at everything that a run needs; say what it will do.

    Raises:
        UserError: with all that was found wrong.
    """
    settings = params.load()
    if problems := list(_problems(settings)):
        raise UserError("this project can't run yet:\n" + "\n".join(f"  {problem}" for problem in problems))
    annotator, most = settings.annotate.annotator, "" if settings.rounds is None else "at most "
    return "\n".join(
        [
            f"task        {settings.task.name}: {settings.task.criterion} ({_listed(settings.task.names)})",
            f"corpus      {settings.ingest.corpus.path}",
            f"sample      {most}{settings.sample.size:,} texts, labelled by {annotator.model} ({annotator.kind})",
            f"candidates  {', '.join(settings.candidates)}",
            "all is there: `dvc repro`",
        ]
    )


def _listed(labels: Sequence[str]) -> str:
    shown = labels if len(labels) <= _SHOWN else [*labels[:_SHOWN], f"and {len(labels) - _SHOWN} others"]
    return ", ".join(shown)


def _problems(settings: Params) -> Iterator[str]:
    for block in ("corpus", "gold_train", "gold_validation", "gold_test"):
        yield from _source_problems(getattr(settings.ingest, block), f"ingest.{block}")
    yield from _source_problems(settings.label.corpus, "label.corpus")
    yield from (p for name in settings.annotator_names for p in _annotator_problems(settings.asking(name)))
    yield from _model_problems(settings)
    path = Path("dvc.yaml")
    there = path.read_text() if path.is_file() else ""
    if _data_lines(there) != _data_lines(dag.render(settings)):
        yield "dvc.yaml does not follow params.yaml (or is missing): run `llambert dag`"
    if (free := shutil.disk_usage(".").free) < _FREE_BYTES:
        yield f"only {free / 1e9:.1f} GB are free on this disk: checkpoints and exports want 2 GB and more"


def _source_problems(source: Source | None, key: str) -> Iterator[str]:
    from serving.reading import records

    if source is None:
        return
    try:
        rows = list(islice(records(source, key), _PEEK_ROWS))
    except UserError as error:
        yield str(error)
        return
    if not rows:
        yield f"{key}.path: {source.path} has no rows"


def _annotator_problems(settings: Params) -> Iterator[str]:
    from pipeline import annotators, costing, responses

    try:
        costing.prices(settings)
        with responses.opened(Path(":memory:")) as store:
            annotators.create(settings.annotate, settings.task, store)
        if isinstance(settings.annotate.annotator, Endpoint):
            from pipeline.annotators import endpoint

            endpoint.client(settings.annotate.annotator)
    except UserError as error:
        yield str(error)


def _model_problems(settings: Params) -> Iterator[str]:
    from pipeline import weights

    for name, encoder in settings.encoders.items():
        try:
            if encoder.kind == "transformer":
                weights.encoder_directory(encoder.model)
        except UserError as error:
            yield f"encoders.{name}: {error}"


def _data_lines(text: str) -> set[Any]:
    """Stages of a dvc.yaml, and parameters that it depends on as files: `${ingest.corpus.path}` and the like."""
    return set(dag.OPTIONAL.findall(text)) | set(dag.STAGE.findall(text))


def write_dag(code: str | None) -> str:
    """Write dvc.yaml."""
    Path("dvc.yaml").write_text(dag.render(params.load(), code))
    return "dvc.yaml is written; `dvc repro` runs it"


def results() -> str:
    """The three numbers, the gate's word, and the report.

    Raises:
        UserError: there are none yet.
    """
    from pipeline import reporting

    evaluation, best, gate = metrics("evaluate").read(), BEST.read(), metrics("register").read()
    if not REPORT.is_file():
        raise UserError(f"{REPORT} does not exist: run `dvc repro`")
    lines = [str(line) for line in reporting.headlines(evaluation, best, metrics("annotate").read()["model"])]
    named = f"{gate['model_name']} v{gate['version']}"
    lines.append(
        f"model    {named} is champion"
        if gate["promoted"]
        else f"model    {named} is not promoted: " + "; ".join(gate["reasons"])
    )
    return "\n".join([*lines, f"report   {REPORT.resolve()}"])
