"""How good what is said of texts is, by the kind of their task. Single is what `scoring` measures.

A reference is what is known of texts: an index of a label each, or of kind multi a row of yes and no.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline import scoring
from pipeline.params import Evaluate
from pipeline.scoring import Bools, Floats, Ints
from serving import shapes
from serving.shapes import Kind, Multi, Shape

Reference = Ints | Bools  # (texts,), or of kind multi (texts, labels)
_RESAMPLES_AT_ONCE = 100  # of texts, held in memory
_ENOUGH = 10  # texts with a label; fewer choose no threshold


@dataclass(frozen=True)
class Said:
    """What a model says of texts: probabilities (texts, labels), and which labels it gives (texts, labels)."""

    probabilities: Floats
    given: Bools

    @classmethod
    def by(cls, shape: Shape, logits: Floats) -> "Said":
        """What a model of this shape makes of its logits."""
        probabilities = shape.probabilities(logits)
        return cls(probabilities, shape.given(probabilities))


class Single:
    """One label of several."""

    rank = "accuracy"  # what the best candidate has most of
    shown: ClassVar[Mapping[str, str]] = {"macro_f1": "macro F1", "mcc": "MCC"}  # beside accuracy

    def __init__(self, labels: Sequence[str], kind: Kind = "single") -> None:
        self.labels, self.kind = list(labels), kind
        self.plain = shapes.of(kind, labels)
        self.named = [*self.labels, *([shapes.NONE] if kind == "multi" else [])]  # that `pairs` name

    def reference(self, names: Sequence[str]) -> Any:  # noqa: ANN401 - a Reference
        """From labels as rows have them."""
        return np.array([self.labels.index(name) for name in names], dtype=np.int64)

    def name(self, one: Any) -> str:  # noqa: ANN401 - an element of a Reference
        """An element of a reference as rows have it."""
        return str(self.labels[one])

    def fit(self, logits: Floats, reference: Any, thresholds: bool = True) -> Shape:  # noqa: ANN401
        """The shape with the temperature, and of kind multi the thresholds, that fit a validation set best."""
        return shapes.of(self.kind, self.labels, scoring.fit_temperature(logits, reference))

    def log_loss(self, logits: Floats, reference: Any) -> float:  # noqa: ANN401
        """Of the reference, in nats."""
        return scoring.log_loss(logits, reference)

    def right(self, said: Said, reference: Any) -> Bools:  # noqa: ANN401
        """Whether each text has the right label: (texts,)."""
        hits: Bools = said.probabilities.argmax(axis=1) == reference
        return hits

    def rates(self, said: Said, reference: Any) -> dict[str, float]:  # noqa: ANN401
        """Every metric."""
        return {name: float(value) for name, value in scoring.rates(self._counts(said, reference)).items()}

    def intervals(self, said: Said, reference: Any, params: Evaluate) -> dict[str, Any]:  # noqa: ANN401
        """Every metric with its bootstrap interval, and per_class."""
        counts = self._counts(said, reference)
        return scoring.intervals(counts, params) | {"per_class": scoring.per_class(counts, self.labels)}

    def reliability(self, probabilities: Floats, reference: Any) -> list[dict[str, float]]:  # noqa: ANN401
        """See `scoring.reliability`."""
        return scoring.reliability(probabilities, reference)

    def ece(self, probabilities: Floats, reference: Any) -> float:  # noqa: ANN401
        """See `scoring.expected_calibration_error`."""
        return scoring.expected_calibration_error(probabilities, reference)

    def pairs(self, said: Said, reference: Any) -> list[dict[str, str]]:  # noqa: ANN401
        """Actual and predicted, of each text or, for sets, of each decision."""
        predicted = said.probabilities.argmax(axis=1)
        return [
            {"actual": self.labels[a], "predicted": self.labels[p]} for a, p in zip(reference, predicted, strict=True)
        ]

    def shares(self, reference: Any) -> dict[str, float]:  # noqa: ANN401
        """Share of the texts that have each label."""
        have = reference if reference.ndim == 2 else reference[:, None] == np.arange(len(self.labels))
        return dict(zip(self.labels, have.mean(axis=0).tolist(), strict=True))

    def commonest(self, reference: Any) -> float:  # noqa: ANN401
        """The share of the commonest label, or set of labels."""
        _, counts = np.unique(reference, axis=0, return_counts=True)
        return float(counts.max() / len(reference))

    def _counts(self, said: Said, reference: Any) -> Ints:  # noqa: ANN401
        return scoring.confusion(reference, said.probabilities.argmax(axis=1), len(self.labels))


class Ordinal(Single):
    """Labels in order; besides, how far off.

    mae is that of the score, the expected place on the scale (see `serving.shapes`). qwk is Cohen's kappa of labels,
    weighted by the squared distance of their ranks (Cohen 1968). spearman is the correlation of ranks of score and
    reference.
    """

    rank = "qwk"
    shown: ClassVar = {
        "macro_f1": "macro F1",
        "mae": "mean error<br>of the score",
        "qwk": "QWK",
        "spearman": "Spearman",
    }

    def rates(self, said: Said, reference: Ints) -> dict[str, float]:
        """Those of single and those of the order."""
        once = np.ones((1, len(reference)))
        return super().rates(said, reference) | {
            n: float(v[0]) for n, v in self._ordered(said, reference)(once).items()
        }

    def intervals(self, said: Said, reference: Ints, params: Evaluate) -> dict[str, Any]:
        """Likewise, by the bootstrap over texts."""
        return super().intervals(said, reference, params) | _bootstrap(
            self._ordered(said, reference), len(reference), params
        )

    def _ordered(self, said: Said, reference: Ints) -> "_Metrics":
        size, places = len(self.labels), shapes.scale(self.labels)
        scores = (said.probabilities @ places).astype(np.float64)
        predicted, misses = said.probabilities.argmax(axis=1), np.abs(scores - places[reference])
        cells = np.eye(size * size)[reference * size + predicted]  # (texts, cells)
        off = np.subtract.outer(np.arange(size), np.arange(size)).ravel() ** 2.0

        def metrics(weights: Floats) -> dict[str, Floats]:
            counts = (weights @ cells).reshape(-1, size, size)
            expected = counts.sum(2)[:, :, None] * counts.sum(1)[:, None, :] / weights.sum(1)[:, None, None]
            seen, chance = (table.reshape(-1, size * size) @ off for table in (counts, expected))
            return {
                "mae": weights @ misses / weights.sum(1),
                "qwk": 1 - np.divide(seen, chance, out=np.ones_like(seen), where=chance > 0),
                "spearman": _spearman(scores, places[reference].astype(np.float64), weights),
            }

        return metrics


class Labels(Single):
    """Any number of labels: accuracy is that of whole sets, the others are of single decisions, yes or no.

    label_accuracy is the share of right decisions, micro_f1 that of all labels together, macro_f1, balanced_accuracy
    and mcc are means over labels. A label that neither stands in the reference nor is given counts 0, as in `scoring`.
    """

    rank = "micro_f1"
    shown: ClassVar = {
        "micro_f1": "micro F1",
        "macro_f1": "macro F1",
        "label_accuracy": "right decisions",
        "mcc": "MCC",
    }

    def reference(self, names: Sequence[str]) -> Bools:
        """A row of yes and no for each."""
        return self.plain.rows(names)

    def name(self, one: Bools) -> str:
        """The set as one string."""
        return shapes.joined(self.labels, one)

    def fit(self, logits: Floats, reference: Bools, thresholds: bool = True) -> Shape:
        """Temperature by log loss; the threshold of each label by F1, where ten texts or more have it, else 0.5."""
        temperature = scoring.fit_temperature(*_binary(logits, reference))
        if not thresholds:
            return Multi(tuple(self.labels), temperature)
        probabilities = Multi(tuple(self.labels), temperature).probabilities(logits)
        best = [_best_threshold(p, r) for p, r in zip(probabilities.T, reference.T, strict=True)]
        return Multi(tuple(self.labels), temperature, thresholds=tuple(best))

    def log_loss(self, logits: Floats, reference: Bools) -> float:
        """Mean over all decisions."""
        return scoring.log_loss(*_binary(logits, reference))

    def right(self, said: Said, reference: Bools) -> Bools:
        """Whether the whole set is right."""
        hits: Bools = (said.given == reference).all(axis=1)
        return hits

    def rates(self, said: Said, reference: Bools) -> dict[str, float]:
        """Every metric."""
        metrics = self._metrics(said, reference)(np.ones((1, len(reference))))
        return {name: float(value[0]) for name, value in metrics.items()}

    def intervals(self, said: Said, reference: Bools, params: Evaluate) -> dict[str, Any]:
        """By the bootstrap over texts."""
        right, given, true = (said.given & reference).sum(0), said.given.sum(0), reference.sum(0)
        f1 = 2 * right / np.maximum(given + true, 1)
        per_class = {
            label: {
                "precision": float(right[i] / max(given[i], 1)), "recall": float(right[i] / max(true[i], 1)),
                "f1": float(f1[i]), "accuracy": float((said.given == reference)[:, i].mean()), "support": int(true[i]),
            }
            for i, label in enumerate(self.labels)
        }  # fmt: skip
        found = _bootstrap(self._metrics(said, reference), len(reference), params)
        return found | {"per_class": per_class}

    def reliability(self, probabilities: Floats, reference: Bools) -> list[dict[str, float]]:
        """Of all decisions: confidence in yes or no, and how often that is right."""
        return scoring.reliability(*_pairs(probabilities, reference))

    def ece(self, probabilities: Floats, reference: Bools) -> float:
        """Likewise."""
        return scoring.expected_calibration_error(*_pairs(probabilities, reference))

    def pairs(self, said: Said, reference: Bools) -> list[dict[str, str]]:
        """Of each label that a text has or is given: which it has, which it is given."""
        cells = np.argwhere(said.given | reference)
        return [
            {
                "actual": self.labels[j] if reference[i, j] else shapes.NONE,
                "predicted": self.labels[j] if said.given[i, j] else shapes.NONE,
            }
            for i, j in cells
        ]

    def _metrics(self, said: Said, reference: Bools) -> "_Metrics":
        given, exact = said.given, self.right(said, reference).astype(np.float64)
        cells = [given & reference, given & ~reference, ~given & reference]
        stats = np.concatenate(cells, axis=1).astype(np.float64)  # (texts, 3 x labels): hits, false alarms, misses

        def metrics(weights: Floats) -> dict[str, Floats]:
            total = weights.sum(axis=1)
            hits, alarms, misses = np.split(weights @ stats, 3, axis=1)
            calm = total[:, None] - hits - alarms - misses
            spread = np.sqrt((hits + alarms) * (hits + misses) * (calm + alarms) * (calm + misses))
            return {
                "accuracy": weights @ exact / total,
                "label_accuracy": (hits + calm).sum(1) / (total * hits.shape[1]),
                "micro_f1": _ratio(2 * hits.sum(1), (2 * hits + alarms + misses).sum(1)),
                "macro_f1": _ratio(2 * hits, 2 * hits + alarms + misses).mean(1),
                "balanced_accuracy": ((_ratio(hits, hits + misses) + _ratio(calm, calm + alarms)) / 2).mean(1),
                "mcc": _ratio(hits * calm - alarms * misses, spread).mean(1),
            }

        return metrics


_Metrics = Callable[[Floats], dict[str, Floats]]  # weights of texts (resamples, texts) to metrics (resamples,)


def of(kind: Kind, labels: Sequence[str]) -> Single:
    """What measures a kind of task."""
    return {"single": Single, "multi": Labels, "ordinal": Ordinal}[kind](labels, kind)


def _bootstrap(metrics: _Metrics, texts: int, params: Evaluate) -> dict[str, dict[str, float]]:
    """Each metric with its percentile interval over resampled texts: {metric: {value, low, high}}."""
    random, drawn = np.random.default_rng(params.seed), []
    for start in range(0, params.resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, params.resamples - start)
        drawn.append(metrics(random.multinomial(texts, np.full(texts, 1 / texts), size=size).astype(np.float64)))
    tail = (1 - params.confidence_level) / 2
    found = {}
    for name, value in metrics(np.ones((1, texts))).items():
        low, high = np.quantile(np.concatenate([some[name] for some in drawn]), [tail, 1 - tail])
        found[name] = {"value": float(value[0]), "low": float(low), "high": float(high)}
    return found


def _best_threshold(probabilities: Floats, reference: Bools) -> float:
    """The probability from which saying yes gives the highest F1 (Lipton et al. 2014, arXiv 1402.1892)."""
    if reference.sum() < _ENOUGH:
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(reference[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + reference.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = 0.0  # equal probabilities can't be told apart
    best = int(f1.argmax())
    following = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + following) / 2)


def _spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Rank correlation of two (texts,) for each row of `weights` (resamples, texts); 0 where one is constant."""
    a, b = _ranks(x, weights), _ranks(y, weights)
    total = weights.sum(axis=1, keepdims=True)
    a, b = (ranks - (weights * ranks).sum(axis=1, keepdims=True) / total for ranks in (a, b))
    spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    return _ratio((weights * a * b).sum(1), spread)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Mean rank of each text (resamples, texts) where each stands `weights` times; equal values share theirs."""
    _, group = np.unique(values, return_inverse=True)
    sizes = np.zeros((len(weights), group.max() + 1))
    np.add.at(sizes.T, group, weights.T)
    ranks: Floats = (sizes.cumsum(axis=1) - (sizes - 1) / 2)[:, group]
    return ranks


def _binary(logits: Floats, reference: Bools) -> tuple[Floats, Ints]:
    """Each decision as a text with the labels no and yes."""
    flat = logits.ravel()
    return np.stack([np.zeros_like(flat), flat], axis=1), reference.ravel().astype(np.int64)


def _pairs(probabilities: Floats, reference: Bools) -> tuple[Floats, Ints]:
    flat = probabilities.ravel()
    return np.stack([1 - flat, flat], axis=1), reference.ravel().astype(np.int64)


def _ratio(a: Floats, b: Floats) -> Floats:
    ratio: Floats = np.divide(a, b, out=np.zeros_like(a), where=b > 0)
    return ratio
