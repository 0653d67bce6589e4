"""Progress of long work: a live bar with rate and ETA on a terminal, a line every ten seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_LOG_EVERY_S = 10.0


class Advance(Protocol):
    """Report `count` more units done; `note` replaces the text at the end of the line."""

    def __call__(self, count: int, note: str = "") -> None: ...  # noqa: D102


@contextmanager
def progress(what: str, total: int, unit: str = "texts", done: int = 0) -> Iterator[Advance]:
    """Show progress of `total` units on standard error; the rate leaves out the `done` ones that were there before."""
    if sys.stderr.isatty():
        with _bar(what, total, unit, done) as advance:
            yield advance
    else:
        yield _Lines(what, total, unit, done)


@contextmanager
def _bar(what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="", note="")
        lines = _Lines(what, total, unit, done)

        def advance(count: int, note: str = "") -> None:
            lines.done += count
            bar.update(task, completed=lines.done, rate=lines.rate(), note=note)

        yield advance


class _Lines:
    """Progress for a log file: one line every ten seconds, and one at the end."""

    def __init__(self, what: str, total: int, unit: str, done: int) -> None:
        self.what, self.total, self.unit, self.done, self.before = what, total, unit, done, done
        self.start = self.last = time.monotonic()

    def rate(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        per_s = (self.done - self.before) / seconds
        left = (self.total - self.done) / per_s if per_s else 0.0
        return f"{per_s:,.1f} {self.unit}/s, {left:,.0f} s left"

    def __call__(self, count: int, note: str = "") -> None:
        self.done += count
        if time.monotonic() - self.last >= _LOG_EVERY_S:
            self.last = time.monotonic()
            parts = f"{self.what}: {self.done:,}/{self.total:,}", self.rate(), note
            sys.stderr.write(", ".join(filter(None, parts)) + "\n")
