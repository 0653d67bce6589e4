"""Which texts each round adds to a sample: some uniform ones, and some that the strategy draws.

The pool is cut once into texts to hold out, texts for the uniform stratum, and the rest, which the strategy draws from.
Each part is a uniform sample of the corpus and nothing moves between them, so that what a strategy likes never leaves
a gap in the uniform stratum: estimates on that need no correction, whatever the strategy.
"""

from collections.abc import Container
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from pipeline import choosing
from pipeline.artifacts import Document, Sampled
from pipeline.choosing import Drawn
from pipeline.params import Rounds
from pipeline.scoring import Floats


@dataclass(frozen=True)
class Frame:
    """A pool of texts in random order, cut into parts that are each a uniform sample of the corpus."""

    held_out: list[Document]
    uniform: list[Document]  # taken from the front: any beginning is a uniform sample as well
    rest: list[Document]

    @classmethod
    def of(cls, pool: list[Document], size: int, params: Rounds) -> "Frame":
        """Cut a pool in the order of its ranks; `size` is the most that will be labelled."""
        held_out, others = pool[: params.held_out], pool[params.held_out :]
        most = size - params.held_out
        uniform, _ = shares(most, params)
        return cls(held_out, others[:uniform], others[uniform:] if params.strategy != "uniform" else [])


def shares(total: int, params: Rounds) -> tuple[int, int]:
    """How many of the texts to train on are uniform, and how many the strategy's; a first round knows no encoder."""
    least = {"uniform": total, "diverse": 1, "uncertain": params.first}[params.strategy]
    uniform = min(max(ceil(params.uniform_share * total), least), total)
    return uniform, total - uniform


@dataclass
class Growing:
    """The sample after the rounds so far; the same from the same frame, masses and seed."""

    frame: Frame
    params: Rounds
    seed: int
    rows: list[Sampled] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)  # from frame.rest, one a round

    def __post_init__(self) -> None:
        self._add(self.frame.held_out, "held_out", "uniform", 0)

    def grow(self, total: int, number: int, masses: Floats | None) -> None:
        """Add round `number`, to `total` texts to train on; `masses` (rest,) are the strategy's, None: it has none."""
        uniform, others = shares(total, self.params)
        have = sum(row.stratum == "uniform" for row in self.rows) - len(self.frame.held_out)
        self._add(self.frame.uniform[have:uniform], "train", "uniform", number)
        if masses is None:
            return
        left = masses.copy()
        for before in self.drawn:
            left[before.indices] = 0.0
        wanted = others - sum(len(before.indices) for before in self.drawn)
        found = choosing.draw(left, wanted, np.random.default_rng([self.seed, number]))
        self.drawn.append(found)
        self._add([self.frame.rest[i] for i in found.indices], "train", self.params.strategy, number)

    def cut(self, number: int, answered: Container[str]) -> None:
        """Leave round `number` unfinished: its answered texts stay, to be trained on and nothing else.

        Which texts were answered may depend on their length, so no weight makes up for the others.
        """
        self.rows = [
            replace(row, stratum="unfinished", weight=None) if row.round == number else row
            for row in self.rows
            if row.round < number or row.id in answered
        ]

    def weighted(self) -> list[Sampled]:
        """The sample, with weights that make a mean over a stratum unbiased for the corpus."""
        chosen = sum(row.stratum == self.params.strategy != "uniform" for row in self.rows)
        probabilities = np.concatenate([np.empty(0), *(drawn.probabilities for drawn in self.drawn)])[:chosen]
        values = iter(choosing.weights(probabilities, len(self.frame.rest)).tolist())
        return [
            row if row.stratum in ("uniform", "unfinished") else replace(row, weight=next(values)) for row in self.rows
        ]

    def _add(self, documents: list[Document], split: str, stratum: str, number: int) -> None:
        self.rows += [Sampled(d.id, d.text, d.text_hash, split, stratum, 1.0, number) for d in documents]
