"""`llambert review` and what belongs to it. Imports nothing heavy: help is quick."""

import sys
from pathlib import Path
from typing import Literal

from cyclopts import App

app = App(name="review", help="Let people label or check texts on a local page; use what they say.", group="Projects")
SHEET = Path("data/gold_sheet.csv")


@app.default
def open_(
    *,
    items: Literal["errors", "disagreements", "low-confidence", "queue", "gold-sheet"] = "errors",
    count: int = 100,
    reason: str | None = None,
    reviewer: str | None = None,
    show: bool = False,
    seed: int | None = None,
    port: int | None = None,
    sheet: Path = SHEET,
) -> None:
    """Open a page on this machine to label texts with the keyboard; every answer is saved at once (docs/review.md).

    Parameters
    ----------
    items
        errors: of the encoder on test gold; disagreements: with the LLM, on held-out texts; low-confidence: texts of
        the corpus of which the encoder is least sure; queue: what stages put aside (data/review.parquet); gold-sheet:
        rows of --sheet that have no label.
    count
        At most so many: the least sure ones of low-confidence, the first ones of a sheet, else drawn uniformly.
    reason
        Only items with this reason, such as likely_wrong.
    reviewer
        Whose answers these are; the default is the login name.
    show
        Show the model's label beforehand. By default it is hidden until the person has chosen, for it biases.
    seed
        Decides draw and order; the default is sample.seed.
    port
        Where to listen; the default is 8420, or any that is free.
    sheet
        A CSV file with the columns id, text and label.
    """
    from pipeline.commands import review

    _say(review.open_(items, count, reason, reviewer, seed, port, sheet, show=show))


@app.command
def apply(
    *,
    to: Literal["corrections", "gold", "sheet"] = "corrections",
    reviewer: str | None = None,
    sheet: Path = SHEET,
    test_gold: bool = False,
) -> None:
    """Use the answers on which all reviewers agree.

    Parameters
    ----------
    to
        corrections: data/reviewed.csv, labels of corpus texts that stages read; gold: change labels in the gold files,
        and append new texts to that of ingest.gold_train; sheet: fill in the labels of --sheet.
    reviewer
        Take this one's answers alone.
    sheet
        The sheet that was labelled.
    test_gold
        Change test gold as well, although that flatters a model of whose errors alone people have judged.
    """
    from pipeline.commands import review

    _say(review.apply(to, reviewer, sheet, test_gold=test_gold))


@app.command
def table(*, reviewer: str | None = None) -> None:
    """Show what the model said of its errors against what people say, and how far reviewers agree.

    Parameters
    ----------
    reviewer
        Take this one's answers alone.
    """
    from pipeline.commands import review

    _say(review.measure(reviewer))


@app.command(name="export")
def export(file: Path) -> None:
    """Write items and answers as JSON that Label Studio imports.

    Parameters
    ----------
    file
        Ends in .json.
    """
    from pipeline.commands import review

    _say(review.export(file))


@app.command(name="import")
def import_(file: Path) -> None:
    """Add the annotations of a Label Studio export (JSON) to the answers.

    Parameters
    ----------
    file
        All of it is taken, or nothing.
    """
    from pipeline.commands import review

    _say(review.import_(file))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
