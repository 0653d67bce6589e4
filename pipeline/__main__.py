"""The command line: `llambert COMMAND`, or `python -m pipeline COMMAND`. dvc.yaml calls the stages."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cyclopts import App, Parameter

import pipeline
from pipeline import groups
from pipeline.groups import say
from pipeline.options import Options as DriftOptions
from pipeline.review import cli as review
from serving.__main__ import speaking
from serving.options import Options

app = App(
    name="llambert",
    help="Label a huge text corpus cheaply: an LLM labels a sample, its answers fine-tune an encoder, "
    "the encoder labels everything. `dvc repro` runs all stages; each is a command as well.",
    version=pipeline.__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
_LABEL = Options()
_DRIFT = DriftOptions()
STAGES = {
    "ingest": "read the corpus and the gold labels; find duplicates, leaks and unusable rows",
    "sample": "draw the texts for the LLM, uniformly, by seed",
    "grow": "label texts in rounds until more don't help; in place of `sample`, where params.yaml has `rounds`",
    "annotate": "ask the LLM; every answer is stored before it counts",
    "consult": "ask the further annotators (block annotators) about the same texts",
    "parse": "turn answers into labels or rejections",
    "evaluate": "measure all candidates on gold, with intervals",
    "export": "write the best encoder as ONNX and check it against torch",
    "register": "log to MLflow, register the version, and let the gate decide on promotion",
    "defer": "pass what the encoder is unsure of to the LLM, and what that is unsure of to people (label.target_error)",
    "certify": "measure the labels of the whole corpus on gold drawn from it, with intervals",
    "report": "write report.html",
}


def _stage(name: str) -> Callable[[], None]:
    def command() -> None:
        from pipeline import params
        from pipeline.project import locked

        with locked():
            import_module(f"pipeline.stages.{name}").run(params.load())

    command.__doc__ = STAGES[name][0].upper() + STAGES[name][1:] + "." if name in STAGES else None
    return command


for _name in STAGES:
    app.command(_stage(_name), name=_name, group="Stages")


@app.command(group="Stages")
def train(candidate: str) -> None:
    """Train one candidate: ENCODER-RECIPE-SEED, such as minilm-llm-1.

    Parameters
    ----------
    candidate
        Its name; `llambert check` lists them.
    """
    from pipeline import params
    from pipeline.project import locked
    from pipeline.stages import train as stage

    with locked():
        stage.run(params.load(), candidate)


@app.command(group="Stages")
def label(
    input: str | None = None,
    output: str | None = None,
    *,
    options: Options = _LABEL,
) -> None:
    """Label the project's corpus with its encoder; or, given INPUT and OUTPUT, anything (docs/label.md).

    Parameters
    ----------
    input
        A file, folder, glob or URL of CSV, JSONL, Parquet or text files. None: the project's corpus, into labels/.
    output
        A directory or URL.
    options
        How to label INPUT; for the project's corpus params.yaml says it.
    """
    from pipeline.commands import label as commands

    if input is None and output is None and not options.another_task:
        _stage("label")()
    else:
        say(commands.label(input, output, options))


@app.command(group="Projects")
def init(directory: Path) -> None:
    """Make a project directory: params.yaml to fill in, dvc.yaml, and a DVC repository around them.

    Parameters
    ----------
    directory
        Must not hold a params.yaml yet.
    """
    from pipeline.commands import project

    say(project.init(directory))


@app.command(group="Projects")
def check() -> None:
    """Check params, files, columns, models and disk before any work."""
    from pipeline.commands import project

    say(project.check())


@app.command(group="Projects")
def dag(*, code: str | None = None) -> None:
    """Write dvc.yaml as params.yaml wants it.

    Parameters
    ----------
    code
        Where `pipeline` and `serving` stand, seen from here, for projects inside llambert's own repository.
    """
    from pipeline.commands import project

    say(project.write_dag(code))


@app.command(group="Projects")
def results() -> None:
    """Print the three numbers of the last run, what the gate said, and where the report is."""
    from pipeline.commands import project

    say(project.results())


@app.command(group="Projects")
def queue(*, size: int = 500, folds: int = 5, seed: int = 0) -> None:
    """Write data/review.parquet: the labels that are likeliest wrong, for people to look at.

    Parameters
    ----------
    size
        Texts in it, beside those that were deferred.
    folds
        Of the cross-validation that finds likely wrong labels.
    seed
        Of the folds.
    """
    from pipeline.commands import queue as commands

    say(commands.queue(size, folds, seed))


@app.command(group="Projects")
def plan() -> None:
    """Say what the LLM and the encoder will cost in requests, tokens, money and time, before anything is paid."""
    from pipeline.commands import plan as commands

    say(commands.plan())


for _group in (groups.responses, groups.gold, review.app):
    app.command(_group)


@app.command(group="Models")
def drift(input: str, *, options: DriftOptions = _DRIFT) -> None:
    """Compare INPUT with the corpus that a model was made for, and estimate its accuracy there (docs/drift.md).

    Parameters
    ----------
    input
        A file, folder, glob or URL of CSV, JSONL, Parquet or text files.
    options
        What to compare and how.
    """
    from pipeline.commands import drift as commands

    text, drifted = commands.drift(input, options)
    say(text)
    if drifted and options.fail:
        sys.exit(1)


@app.command(group="Models")
def models() -> None:
    """List the registered versions: aliases, accuracy, and what the gate said."""
    from pipeline.commands import models as commands

    say(commands.models())


@app.command(group="Models")
def promote(version: str = "challenger", *, force: bool = False) -> None:
    """Make a version the champion, if the gate let it pass.

    Parameters
    ----------
    version
        Number or alias.
    force
        Promote although the gate refused, or never judged.
    """
    from pipeline.commands import models as commands

    say(commands.promote(version, force=force))


@app.command(group="Models")
def rollback() -> None:
    """Give the alias champion back to the version that had it before. Repeated, it goes further back."""
    from pipeline.commands import models as commands

    say(commands.rollback())


@app.command(group="Models")
def label_text(*texts: str) -> None:
    """Label texts with the champion, and show the probability of each label.

    Parameters
    ----------
    texts
        One or more, each in quotes.
    """
    from pipeline.commands import models as commands

    say(commands.label_text(*texts))


def main() -> None:
    """Run the command line; a UserError becomes one message and its exit code."""
    speaking(app)


if __name__ == "__main__":
    main()
