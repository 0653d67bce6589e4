"""Who labels what, so that an error target holds: encoder where it is sure, LLM where that is, people the rest.

The risk is the error rate of the whole labelled corpus, people's labels taken as right: the share of all its texts
whose label was accepted from the encoder or the LLM and is wrong. Two thresholds decide, on the probability that a
label is right (`Trust`). They are chosen by learn-then-test (Angelopoulos et al. 2021, arXiv 2110.01052) with fixed-
sequence testing: a path of thresholds leads from "people label all" to "the encoder labels all", cheapest plan first
at each predicted risk, laid without a look at the gold that tests it; its points are tested in turn, and the last one
before the first failure is taken. So the corpus keeps the target with the confidence asked for, whatever the path and
the probabilities are worth: bad ones cost money, not the guarantee. All that is assumed is that gold was drawn
uniformly without replacement from the corpus, and is right. Knows nothing of files, prompts or prices of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.scoring import Bools, Floats, Ints

_LEAST = 1e-6  # probabilities nearer to 0 or 1 say no more
_LEVELS = 64  # thresholds of each kind that the path is chosen from
_SPREADS = (1.0, 5.0, 0.7)  # standard deviations of a slope, of what all labels share, of what a label has of its own
_NEVER = np.inf


@dataclass(frozen=True)
class Opinions:
    """What encoder and LLM say of the same texts: probabilities (texts, labels), NaN where the LLM gave no label."""

    encoder: Floats
    llm: Floats

    def __len__(self) -> int:
        return len(self.encoder)

    def labels(self) -> tuple[Ints, Ints]:
        """Index of each one's label: (texts,), (texts,); -1 where the LLM gave none."""
        given = ~np.isnan(self.llm).any(axis=1)
        return self.encoder.argmax(axis=1), np.where(given, np.nan_to_num(self.llm).argmax(axis=1), -1)


@dataclass(frozen=True)
class Belief:
    """Probability that a label is right from the evidence for it: logistic, shifted for each label (Platt 1999)."""

    slopes: Floats  # (evidence,)
    shifts: Floats  # (labels,)

    def __call__(self, evidence: Floats, said: Ints) -> Floats:
        """Probabilities (texts,) of labels `said` (texts,) on `evidence` (texts, kinds)."""
        return _sigmoid(evidence @ self.slopes + self.shifts[said])

    @classmethod
    def fit(cls, evidence: Floats, said: Ints, right: Bools, labels: int, expected: Floats) -> "Belief":
        """The most probable one, given texts of known truth; with few of them it stays near `expected` slopes.

        Slopes are never negative: more evidence is never less reason to believe.
        """
        from scipy.optimize import minimize

        kinds = evidence.shape[1]
        features = np.hstack([evidence, np.ones((len(said), 1)), np.eye(labels)[said]])
        centre = np.concatenate([expected, np.zeros(1 + labels)])
        spread = np.repeat(_SPREADS, [kinds, 1, labels])

        def loss(values: Floats) -> tuple[float, Floats]:
            scores, away = features @ values, (values - centre) / spread
            wrong = _sigmoid(scores) - right
            nats = np.logaddexp(0.0, scores) - scores * right
            return float(nats.sum() + away @ away / 2), features.T @ wrong + away / spread

        bounds = [(0.0, None)] * kinds + [(None, None)] * (1 + labels)
        found = minimize(loss, centre, jac=True, bounds=bounds, method="L-BFGS-B").x
        return cls(found[:kinds], found[kinds] + found[kinds + 1 :])


@dataclass(frozen=True)
class Trust:
    """How far to believe encoder and LLM. The encoder's own doubt is evidence about the LLM's label as well."""

    encoder: Belief
    llm: Belief

    @classmethod
    def fit(cls, opinions: Opinions, truth: Ints) -> "Trust":
        """Learn from texts of known truth (texts,); none will do."""
        labels = opinions.encoder.shape[1]
        first, second = opinions.labels()
        given = second >= 0
        expected = np.array([1.0]), np.array([0.5, 0.5])
        of_llm = _about_llm(opinions, second)[given], second[given], (second == truth)[given]
        return cls(
            Belief.fit(_about_encoder(opinions), first, first == truth, labels, expected[0]),
            Belief.fit(*of_llm, labels, expected[1]),
        )

    def __call__(self, opinions: Opinions) -> "Scores":
        """The probability that each label is right."""
        first, second = opinions.labels()
        of_llm = self.llm(_about_llm(opinions, second), np.maximum(second, 0))
        of_llm = np.where(second >= 0, of_llm, -_NEVER)
        return Scores(self.encoder(_about_encoder(opinions), first), of_llm)


@dataclass(frozen=True)
class Scores:
    """Probabilities that the encoder's and the LLM's label are right: (texts,); -inf where the LLM gave none."""

    encoder: Floats
    llm: Floats


@dataclass(frozen=True)
class Prices:
    """Of one text, in one currency: asked of the LLM, labelled by a person."""

    llm: float
    person: float


@dataclass(frozen=True)
class Path:
    """Thresholds (points,), from strict to lax: labels are accepted from these probabilities on; inf: never."""

    encoder: Floats
    llm: Floats

    def __len__(self) -> int:
        return len(self.encoder)

    @classmethod
    def lay(cls, scores: Scores, prices: Prices) -> "Path":
        """The cheapest thresholds for each predicted risk, given unlabelled texts of the corpus.

        Where the LLM is never accepted it is not asked, so a path may lead from people to the encoder alone.
        """
        cuts = [_cuts(scores.encoder), _cuts(scores.llm[scores.llm >= 0])]
        kept, sure = (s[:, None] >= c for s, c in zip((scores.encoder, scores.llm), cuts, strict=True))
        left, texts = ~kept, len(scores.encoder)
        doubt = np.where(scores.llm >= 0, 1 - scores.llm, 0.0)
        risk = (kept * (1 - scores.encoder)[:, None]).mean(axis=0)[:, None] + (left * doubt[:, None]).T @ sure / texts
        asked = left.mean(axis=0)[:, None] * np.isfinite(cuts[1])
        people = left.mean(axis=0)[:, None] - left.T.astype(float) @ sure / texts
        money = prices.llm * asked + prices.person * people
        order = np.lexsort((money.ravel(), risk.ravel()))
        cheaper = money.ravel()[order]
        best = np.concatenate([[np.inf], np.minimum.accumulate(cheaper)[:-1]])
        rows, columns = np.unravel_index(order[cheaper < best], risk.shape)
        return cls(cuts[0][rows], cuts[1][columns])

    def at(self, point: int) -> "Path":
        """One point alone."""
        return Path(self.encoder[[point]], self.llm[[point]])

    def routes(self, scores: Scores) -> tuple[Bools, Bools, Bools]:
        """Whose label each text gets at each point, (texts, points): the encoder's, the LLM's, a person's."""
        first = scores.encoder[:, None] >= self.encoder
        second = ~first & (scores.llm[:, None] >= self.llm)
        return first, second, ~first & ~second

    def errors(self, scores: Scores, right: tuple[Bools, Bools]) -> npt.NDArray[np.int64]:
        """Wrong labels among those accepted, (points,), given whether encoder and LLM are right: (texts,) each."""
        first, second, _ = self.routes(scores)
        wrong: Ints = (first & ~right[0][:, None]).sum(axis=0) + (second & ~right[1][:, None]).sum(axis=0)
        return wrong


def allowed(gold: int, corpus: int, target: float, confidence: float) -> int:
    """How many of `gold` texts may be labelled wrongly so that thresholds count as certified; -1: not even none may.

    Exact: a corpus with more than its share `target` of errors shows this few of them with a probability of at most
    1 - `confidence` (hypergeometric, for gold is drawn without replacement; the binomial's limit for large corpora).
    """
    from scipy.stats import hypergeom

    worst = int(np.floor(target * corpus + 1e-9)) + 1  # errors of the best corpus that misses the target
    if worst > corpus:
        return gold
    seen = hypergeom.cdf(np.arange(gold + 1), corpus, worst, gold)
    return int((seen <= 1 - confidence).sum()) - 1


def certified(errors: Sequence[int] | Ints, limit: int) -> int:
    """Index of the last point of a path before the first with more than `limit` errors; -1 if that is the first."""
    over = np.flatnonzero(np.asarray(errors) > limit)
    return int(over[0]) - 1 if len(over) else len(errors) - 1


def bound(errors: int, gold: int, confidence: float) -> float:
    """The smallest target that `gold` texts with so many errors certify (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return float(beta.ppf(confidence, errors + 1, gold - errors)) if errors < gold else 1.0


def gold_needed(target: float, confidence: float) -> int:
    """The smallest number of gold texts that can certify a target: without an error among them."""
    return int(np.ceil(np.log(1 - confidence) / np.log1p(-target)))


def foreseen(path: Path, scores: Scores, gold: int, limit: int) -> int:
    """The point that testing will as likely pass as not, by the predicted risk alone: an index of `path`."""
    from scipy.stats import binom

    first, second, _ = path.routes(scores)
    doubts = np.nan_to_num(1 - scores.llm, posinf=0.0)
    risk = np.where(first, (1 - scores.encoder)[:, None], np.where(second, doubts[:, None], 0.0)).mean(axis=0)
    likely = binom.cdf(limit, gold, risk) >= 0.5
    return int(np.flatnonzero(likely)[-1]) if likely.any() else -1


def _cuts(scores: Floats) -> Floats:
    """Thresholds to choose from, never first: quantiles of the scores."""
    if not len(scores):
        return np.array([_NEVER])
    levels = np.unique(np.quantile(scores, np.linspace(0, 1, _LEVELS), method="lower"))[::-1]
    return np.concatenate([[_NEVER], levels])


def _about_encoder(opinions: Opinions) -> Floats:
    return _logit(opinions.encoder.max(axis=1))[:, None]


def _about_llm(opinions: Opinions, said: Ints) -> Floats:
    """Its own confidence, and the encoder's in the same label."""
    rows, label = np.arange(len(said)), np.maximum(said, 0)
    return np.stack([_logit(np.nan_to_num(opinions.llm)[rows, label]), _logit(opinions.encoder[rows, label])], axis=1)


def _logit(probabilities: Floats) -> Floats:
    p = np.clip(probabilities, _LEAST, 1 - _LEAST)
    logits: Floats = np.log(p) - np.log1p(-p)
    return logits


def _sigmoid(scores: Floats) -> Floats:
    from scipy.special import expit

    values: Floats = expit(scores)
    return values
