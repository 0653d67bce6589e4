"""Commands of two words: `llambert responses ...` and `llambert gold ...`. Imports nothing heavy: help is quick."""

import sys
from pathlib import Path

from cyclopts import App

responses = App(name="responses", help="Show the LLM's stored answers: counts, cost, failures.", group="Projects")


@responses.default
def show_responses() -> None:
    """Show counts, tokens, cost and failures for each model."""
    from pipeline.commands import responses as commands

    say(commands.show())


@responses.command(name="export")
def export_responses(file: Path) -> None:
    """Write all stored answers to a file, for others to import.

    Parameters
    ----------
    file
        Ends in .parquet or .jsonl.
    """
    from pipeline.commands import responses as commands

    say(commands.export(file))


@responses.command(name="import")
def import_responses(file: Path) -> None:
    """Add exported answers to the store, so that nobody pays for them again; what is there is kept.

    Parameters
    ----------
    file
        Ends in .parquet or .jsonl.
    """
    from pipeline.commands import responses as commands

    say(commands.import_(file))


gold = App(name="gold", help="Gold drawn from the corpus, to certify its labels (docs/certify.md).", group="Projects")


@gold.command(name="sample")
def gold_sample(count: int, *, sheet: Path = Path("data/gold_sheet.csv")) -> None:
    """Write a sheet of texts for people to label, drawn uniformly from the corpus.

    Parameters
    ----------
    count
        Gold texts wanted in all, those labelled before included.
    sheet
        A CSV that is not there yet.
    """
    from pipeline.commands import gold as commands

    say(commands.sample(count, sheet))


@gold.command(name="add")
def gold_add(sheet: Path) -> None:
    """Check a labelled sheet and add its labels to certify.gold, whole or not at all.

    Parameters
    ----------
    sheet
        A CSV with the columns id and label.
    """
    from pipeline.commands import gold as commands

    say(commands.add(sheet))


@gold.command(name="power")
def gold_power(*, width: float, accuracy: float | None = None) -> None:
    """Say how many gold texts an interval of accuracy needs to be narrow enough.

    Parameters
    ----------
    width
        Of the interval, high minus low, such as 0.05.
    accuracy
        Expected. None: the mean confidence of the labels.
    """
    from pipeline.commands import gold as commands

    say(commands.power(width, accuracy))


def say(text: str) -> None:
    """Print what a command found out."""
    sys.stdout.write(text + "\n")
