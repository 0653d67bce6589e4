"""When a sample is large enough: rounds grow geometrically, and end where the held-out gain is below its own noise.

A round is compared with the last one that gained, on the same held-out texts, so that small gains of several rounds add
up. What is supposed: held-out texts are a uniform sample of the corpus, never trained on, and the texts' answers are
independent of each other. The models are taken as they are: another seed or sample of as many texts could gain more or
less. The same held-out texts are looked at after every round, so the score at the end leans a little to the lucky side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from pipeline.params import Stop
from pipeline.scoring import Bools

_POWER = 0.8


@dataclass(frozen=True, slots=True)
class Gain:
    """What a round gained over an earlier one, in accuracy on the same held-out texts."""

    over: int  # the earlier round, from 0
    value: float
    standard_error: float
    p_value: float  # one-sided: how often chance alone would give as much
    detectable: float  # the gain that would have been seen four times of five


@dataclass(frozen=True, slots=True)
class Saturation:
    """The rounds so far: what each gained over the last one that gained, and how many have not since."""

    gains: list[Gain | None]  # the first round has nothing to gain over
    idle: int
    over: bool


def totals(first: int, growth: float, most: int) -> list[int]:
    """Texts to train on after each round; the last round takes what would be left for a small one."""
    found = [min(first, most)]
    while found[-1] < most:
        grown = ceil(found[-1] * growth)
        found.append(most if ceil(grown * sqrt(growth)) > most else grown)
    return found


def gain(now: Bools, before: Bools, over: int, level: float) -> Gain:
    """Paired difference of two rounds' right answers (texts,), tested by McNemar's test with the mid p value.

    The mid p value of the binomial over texts on which one alone is right holds its level nearly exactly where the
    exact test is too careful (Fagerland et al. 2013, doi 10.1186/1471-2288-13-91).
    """
    from scipy.stats import binom, norm

    gained, lost, texts = int((now & ~before).sum()), int((~now & before).sum()), len(now)
    changed = gained + lost
    p_value = float(binom.sf(gained, changed, 0.5) + binom.pmf(gained, changed, 0.5) / 2) if changed else 0.5
    value = (gained - lost) / texts
    error = sqrt(max(changed / texts - value**2, 0.0) / texts)
    needed = (float(norm.ppf(level)) + float(norm.ppf(_POWER))) * sqrt(changed) / texts
    return Gain(over, value, error, p_value, needed)


def follow(right: Sequence[Bools], stop: Stop) -> Saturation:
    """Judge all rounds: whether each held-out text was answered rightly after each, (rounds, texts)."""
    gains: list[Gain | None] = []
    reference = 0
    for i, now in enumerate(right):
        found = gain(now, right[reference], reference, stop.confidence_level) if i else None
        gains.append(found)
        if found is not None and found.p_value < 1 - stop.confidence_level:
            reference = i
    idle = len(gains) - 1 - reference
    return Saturation(gains, idle, idle >= stop.patience)


def sentence(row: Mapping[str, Any], money: str | None) -> str:
    """A round as people follow it: size, agreement with its interval, what it gained, what it all has cost."""
    score, gained = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["score"]), row["gain"]
    parts = [f"{row['texts']:,} texts", f"agreement {score}"]
    if gained is not None:
        parts.append("{value:+.3f} over round {over} (p {p_value:.2f})".format(**gained | {"over": gained["over"] + 1}))
    return ", ".join([*parts, f"{row['tokens']:,} tokens", *([f"{money} spent"] if money else [])])
