"""From a random part to the whole, and figures as a person says them."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Generic, TypeVar

_NORMAL_95 = 1.96

T = TypeVar("T")


class Part(Generic[T]):
    """A uniformly random part of a stream, `size` items at most, and how long the stream was."""

    def __init__(self, size: int) -> None:
        self._size, self._random = size, random.Random(0)
        self.items: list[T] = []
        self.total = 0

    def add(self, item: T) -> None:
        """One more item of the stream (Vitter 1985, algorithm R)."""
        self.total += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (place := self._random.randrange(self.total)) < self._size:
            self.items[place] = item


@dataclass(frozen=True, slots=True)
class Estimate:
    """A sum over all texts; `margin` is the half width of its 95 % interval, 0 where all were counted."""

    value: float
    margin: float = 0.0

    @classmethod
    def scaled(cls, part: Sequence[float], total: int) -> "Estimate":
        """From a random part of `total` values."""
        if not part:
            return cls(0.0)
        unseen = 1 - len(part) / total
        spread = stdev(part) if len(part) > 1 else 0.0
        return cls(fmean(part) * total, _NORMAL_95 * total * spread * math.sqrt(max(unseen, 0.0) / len(part)))

    def __str__(self) -> str:
        return f"{self.value:,.0f}" + (f" ± {self.margin:,.0f}" if self.margin >= 1 else "")


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"


def amount(money: float) -> str:
    """Money with as many digits as matter: 1,234 or 12.34 or 0.0012."""
    if money >= 100:
        return f"{money:,.0f}"
    if money >= 0.01 or not money:
        return f"{money:,.2f}"
    return f"{money:.{1 - math.floor(math.log10(money))}f}"  # two digits that are not zero
