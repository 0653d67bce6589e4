"""Whether texts are like those of the corpus: a test for each number, adjusted for their count.

Knows no files, models or texts. Counts of two samples in the same bins are compared by Pearson's test of homogeneity,
and their distance by the population stability index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erfc, exp, lgamma, log, sqrt

import numpy as np
from numpy.typing import NDArray

from serving.profiles import COMPONENTS, LABELS, SCALARS, Bins, Profile

MEASURES = (*SCALARS, LABELS, "content")
ALPHA = 0.05  # of all measures together
MIN_PSI = 0.1  # a smaller distance is not called drift, however sure it is: the usual bound of a minor shift
MIN_TEXTS = 100  # with fewer, bins are too empty for the test
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of a measure."""

    measure: str
    psi: float  # distance, less what chance gives on average
    p_value: float  # adjusted for the number of measures (Holm)
    verdict: str  # same, differs (surely, but little) or drift


class Window:
    """Bins of the last texts, in memory that does not grow."""

    def __init__(self, profile: Profile, size: int) -> None:
        self.profile, self.size, self.texts = profile, size, 0
        self._ring = np.zeros((size, len(profile.counts)), dtype=np.int32)
        self._next = 0
        self._counts = [np.zeros(len(counts), dtype=np.int64) for counts in profile.counts.values()]

    def add(self, bins: Bins) -> None:
        """Texts that have been served: the bins of each [texts, measures]. They push out as many of the oldest."""
        bins = bins[-self.size :]
        places = (self._next + np.arange(len(bins))) % self.size
        gone = self._ring[places[max(0, self.size - self.texts) :]]
        for i, counts in enumerate(self._counts):
            counts += np.bincount(bins[:, i], minlength=len(counts))
            counts -= np.bincount(gone[:, i], minlength=len(counts))
        self._ring[places] = bins
        self._next = int(self._next + len(bins)) % self.size
        self.texts = min(self.size, self.texts + len(bins))

    def findings(self) -> list[Finding]:
        """One for each measure; none while the texts are too few."""
        if self.texts < min(MIN_TEXTS, self.size):
            return []
        return findings(distances(self.profile, dict(zip(self.profile.counts, self._counts, strict=True))))


def tally(profile: Profile, bins: Bins) -> dict[str, NDArray[np.int64]]:
    """Texts in each bin."""
    names = profile.counts.items()
    return {name: np.bincount(bins[:, i], minlength=len(counts)) for i, (name, counts) in enumerate(names)}


def distances(profile: Profile, counts: Mapping[str, NDArray[np.int64]]) -> dict[str, tuple[float, float]]:
    """Distance and p-value of each measure; see `compare`.

    `content` is the most distant of its components, its p-value multiplied by their number. The test assumes that the
    texts of both samples are independent draws. Only more `unseen` tokens than the corpus's texts have is drift: texts
    of the corpus itself have none.
    """
    found = {name: compare(np.array(profile.counts[name]), counts[name]) for name in profile.counts}
    if _mean_bin(counts["unseen"]) < _mean_bin(np.array(profile.counts["unseen"])):
        found["unseen"] = (0.0, 1.0)
    parts = [found[f"content {i + 1}"] for i in range(COMPONENTS)]
    found["content"] = (max(psi for psi, _ in parts), min(1.0, COMPONENTS * min(p for _, p in parts)))
    return {name: found[name] for name in MEASURES}


def _mean_bin(counts: NDArray[np.int64]) -> float:
    return float(counts @ np.arange(len(counts)) / max(counts.sum(), 1))


def findings(found: Mapping[str, tuple[float, float]], alpha: float = ALPHA, min_psi: float = MIN_PSI) -> list[Finding]:
    """Judge distances with their p-values.

    These are adjusted by Holm (1979): without any drift one of them is below `alpha` in a share `alpha` of the batches
    at most.
    """
    adjusted = holm([p for _, p in found.values()])
    return [
        Finding(name, psi, p, ("drift" if psi >= min_psi else "differs") if p < alpha else "same")
        for (name, (psi, _)), p in zip(found.items(), adjusted, strict=True)
    ]


def compare(reference: NDArray[np.int64], batch: NDArray[np.int64]) -> tuple[float, float]:
    """Distance and p-value of two samples' counts in the same bins (bins,).

    Returns:
        The population stability index, the sum of (p - q) log(p / q) over bins, with half a text added to each, less
        its mean where both are draws of one population, (bins - 1) (1/n + 1/m) (Yurdakul & Naranjo 2020), and not
        below 0; the p-value of Pearson's chi-squared test of homogeneity.
    """
    n, m = int(reference.sum()), int(batch.sum())
    pooled = reference + batch
    used = pooled > 0
    p, q = ((c[used] + 0.5) / (c[used] + 0.5).sum() for c in (reference, batch))
    free = int(used.sum()) - 1
    chance = 1 / n + 1 / m
    psi = max(0.0, float(((q - p) * np.log(q / p)).sum()) - free * chance)
    share = pooled[used] / (n + m)
    statistic = float(((reference[used] / n - batch[used] / m) ** 2 / share).sum()) / chance
    return psi, chi2_tail(statistic, free)


def chi2_tail(x: float, free: int) -> float:
    """P(chi-squared > x), by the recurrence of the incomplete gamma function; SciPy is not in the service's image."""
    if x <= 0 or free < 1:
        return 1.0
    half, a = x / 2, 0.5 if free % 2 else 1.0
    tail = erfc(sqrt(half)) if free % 2 else exp(-half)
    while a < free / 2:
        tail += exp(a * log(half) - half - lgamma(a + 1))
        a += 1
    return min(1.0, tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order: those below alpha are found at a family-wise error of alpha (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
