"""Several annotators become one: weights, measured on gold, for what each says and for what two of them agree on.

Errors of LLMs go together (on IMDb phi is 0.6 to 0.7), so neither a vote nor a product of independent likelihoods is
right. The model is a conditional logit over labels y,

    score(y) = b_y + sum_c (w_c + d_cy) x_c(y),

with a channel c for each annotator, x = log of its answer blurred by its error rate, and one for each pair of them,
x = 1 where both name y. With w = 1 for all annotators and the rest 0 it is naive Bayes (independent errors), with
w = 1 for one and 0 for the others it is that one alone, and to this the ridge penalty draws. Knows nothing of prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.scoring import Floats, Ints
from serving.shapes import softmax

Family = Literal["alone", "weights", "weights by label", "agreements"]
_RIDGES = (30.0, 3.0, 0.3)  # strong to weak, in units of the summed log loss
_FAMILIES: tuple[Family, ...] = ("weights", "weights by label", "agreements")  # simple to complex
_FOLDS = 5
_BLURS = np.geomspace(1e-3, 0.9, 60)
_EDGE = 1e-6  # by which a label that must win does
ENOUGH = 30  # gold texts; with fewer the best alone answers


@dataclass(frozen=True)
class Shape:
    """One way to combine: how many parameters, and how strongly they are held."""

    family: Family
    ridge: float = np.inf


@dataclass(frozen=True)
class Combination:
    """What turns the annotators' probabilities into one.

    `labels_from_best` says that the combination knows how sure to be, but has not shown that it chooses better than the
    best annotator alone: then its label is that one's (where it has none, the next best one's).
    """

    shape: Shape
    order: Ints  # annotators, the best first
    blur: Floats  # (annotators,)
    bias: Floats  # (labels,)
    weights: Floats  # (channels, labels)
    labels_from_best: bool = True
    gold: int = 0  # texts that it was fitted to
    losses: tuple[tuple[Shape, float, float], ...] = ()  # cross-validated log loss, and accuracy
    gain: tuple[int, int] = (0, 0)  # texts on which it alone is right, and the best alone, cross-validated

    @property
    def best(self) -> int:
        """The annotator that fits gold best."""
        return int(self.order[0])

    def __call__(self, said: Floats) -> Floats:
        """(texts, annotators, labels) probabilities, NaN where one gave none, to (texts, labels)."""
        x = _channels(said, self.blur)
        answered = ~np.asarray(np.isnan(said).any(axis=2))
        leader = self.order[answered[:, self.order].argmax(axis=1)]  # the best that answered
        rows = np.arange(len(said))
        if self.shape.family == "alone":
            return softmax(x[rows, leader])
        probabilities = softmax(self.bias + np.einsum("ncl,cl->nl", x, self.weights))
        return _led_by(probabilities, said[rows, leader]) if self.labels_from_best else probabilities


def fit(said: Floats, truth: Ints, seed: int = 0) -> Combination:
    """Choose and fit a combination on gold.

    Each shape is cross-validated (5 folds, everything inside: error rates, the choice of the best, weights); the
    simplest within one standard error (of the paired difference) of the least log loss is taken (Breiman et al. 1984).
    It may name other labels than the best annotator only where, out of fold, it is right more often by more than one
    standard error. With fewer than 30 gold texts the best answers alone.

    Args:
        said: (texts, annotators, labels) probabilities, one-hot for hard answers, NaN where there is none.
        truth: (texts,) labels of a uniform sample of the texts that will be combined.
        seed: of the folds.

    Raises:
        ValueError: there is no gold: accuracy can't be measured without it.
    """
    if not len(truth):
        raise ValueError("without gold nothing says whom to believe: agreement is no accuracy where errors go together")
    if len(truth) < ENOUGH:
        return fit_alone(said, truth)
    shapes = [Shape("alone"), *(Shape(family, ridge) for family in _families(said) for ridge in _RIDGES)]
    fold = np.random.default_rng(seed).permutation(len(truth)) % _FOLDS
    loss, right = np.zeros((len(shapes), len(truth))), np.zeros((len(shapes), len(truth)), dtype=bool)
    for part in range(_FOLDS):
        train, test = fold != part, fold == part
        single = _alone(said[train], truth[train])
        for i, shape in enumerate(shapes):
            found = _beyond(single, said[train], truth[train], shape)(said[test])
            loss[i, test] = -np.log(np.maximum(found[np.arange(len(found)), truth[test]], 1e-12))
            right[i, test] = found.argmax(axis=1) == truth[test]
    chosen = _simplest(loss)
    gained, lost = int((right[chosen] & ~right[0]).sum()), int((~right[chosen] & right[0]).sum())
    return replace(
        _beyond(_alone(said, truth), said, truth, shapes[chosen]),
        labels_from_best=bool(gained - lost <= np.sqrt(gained + lost)),
        losses=tuple((s, float(x.mean()), float(r.mean())) for s, x, r in zip(shapes, loss, right, strict=True)),
        gain=(gained, lost),
    )


def fit_alone(said: Floats, truth: Ints) -> Combination:
    """The annotator that fits gold best, with its measured error rate; arguments as of `fit`."""
    return _alone(said, truth)


def in_order(annotators: int, labels: int) -> Combination:
    """What is left without gold: the first annotator's answers as they are, the next one's where it has none."""
    weights = np.zeros((_channel_count(annotators), labels))
    return Combination(Shape("alone"), np.arange(annotators), np.full(annotators, 1e-3), np.zeros(labels), weights)


def filled(said: Floats) -> Floats:
    """(texts, annotators, labels) with the uniform distribution where there is no answer, which says nothing."""
    known: Floats = np.where(np.isnan(said), 1 / said.shape[-1], said)
    return known


def _simplest(loss: Floats) -> int:
    """Index of the first (simplest) row of (shapes, texts) within one standard error of the least mean."""
    least = loss[loss.mean(axis=1).argmin()]
    for i, row in enumerate(loss):
        worse = row - least
        if worse.mean() <= worse.std(ddof=1) / np.sqrt(len(worse)):
            return i
    raise ValueError("the least is within its own error. This is a bug.")


def _families(said: Floats) -> tuple[Family, ...]:
    return _FAMILIES if said.shape[1] > 1 else ()


def _alone(said: Floats, truth: Ints) -> Combination:
    blur = np.array([_blur(said[:, k], truth) for k in range(said.shape[1])])
    annotators, labels = said.shape[1:]
    logs = _channels(said, blur)[:, :annotators]
    order = np.argsort(-logs[np.arange(len(truth)), :, truth].mean(axis=0), kind="stable")  # by mean log-likelihood
    weights = np.zeros((_channel_count(annotators), labels))
    weights[order[0]] = 1
    return Combination(Shape("alone"), order, blur, np.zeros(labels), weights, gold=len(truth))


def _beyond(alone: Combination, said: Floats, truth: Ints, shape: Shape) -> Combination:
    """Fit the parameters of a shape, drawn to those of the best alone."""
    if shape.family == "alone":
        return alone
    used = slice(None) if shape.family == "agreements" else slice(said.shape[1])
    bias, fitted = _minimised(_channels(said, alone.blur)[:, used], truth, alone.weights[used], shape)
    weights = alone.weights.copy()
    weights[used] = fitted
    return replace(alone, shape=shape, bias=bias, weights=weights, labels_from_best=False)


def _minimised(x: Floats, truth: Ints, start: Floats, shape: Shape) -> tuple[Floats, Floats]:
    """Bias (labels,) and weights (channels, labels) with the least penalised log loss."""
    from scipy.optimize import minimize

    channels, labels = start.shape
    by_label = shape.family != "weights"
    flat_rows = np.column_stack([x.reshape(len(x), -1), truth])
    rows, times = np.unique(flat_rows, axis=0, return_counts=True)  # hard answers make few distinct rows
    x, target = rows[:, :-1].reshape(-1, channels, labels), np.eye(labels)[rows[:, -1].astype(np.int64)]

    def parts(flat: Floats) -> tuple[Floats, Floats]:
        bias, shared, own = np.split(flat, [labels, labels + channels])
        return bias, start + shared[:, None] + (own.reshape(channels, labels) if by_label else 0)

    def loss(flat: Floats) -> tuple[float, Floats]:
        bias, weights = parts(flat)
        found = softmax(bias + (x * weights).sum(axis=1))
        wrong = (found - target) * times[:, None]
        slope = (x * wrong[:, None, :]).sum(axis=0)  # (channels, labels)
        gradient = [wrong.sum(axis=0), slope.sum(axis=1), *([slope.ravel()] if by_label else [])]
        surprise = -np.log(np.maximum((found * target).sum(axis=1), 1e-12)) @ times
        return float(surprise + shape.ridge / 2 * (flat**2).sum()), np.concatenate(gradient) + shape.ridge * flat

    size = labels + channels + (channels * labels if by_label else 0)
    return parts(minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B").x)


def _channels(said: Floats, blur: Floats) -> Floats:
    """(texts, annotators + pairs, labels): blurred log-probabilities, then whether a pair agrees on a label."""
    labels = said.shape[-1]
    logs = np.log(filled(said) * (1 - blur[:, None]) + blur[:, None] / labels)
    named = np.where(np.isnan(said).any(axis=-1), -1, filled(said).argmax(axis=-1))  # (texts, annotators)
    pairs = combinations(range(said.shape[1]), 2)
    agreed = [
        np.where((named[:, a] == named[:, b])[:, None], np.eye(labels + 1)[named[:, a]][:, :labels], 0)
        for a, b in pairs
    ]
    return np.concatenate([logs, np.stack(agreed, axis=1)], axis=1) if agreed else logs


def _channel_count(annotators: int) -> int:
    return annotators + annotators * (annotators - 1) // 2


def _blur(said: Floats, truth: Ints) -> float:
    """Share of the uniform distribution to mix in: the likeliest on gold, never less than what its size can tell."""
    labels = said.shape[-1]
    own = filled(said)[np.arange(len(truth)), truth]
    mixed = np.log(own[:, None] * (1 - _BLURS) + _BLURS / labels).sum(axis=0)
    at_least = labels / (labels - 1) / (len(truth) + 2)  # Laplace: one error more
    return float(min(max(_BLURS[mixed.argmax()], at_least), _BLURS[-1]))


def _led_by(probabilities: Floats, leader: Floats) -> Floats:
    """The least change after which the leader's label is the likeliest, where it has one.

    What the likeliest of the others has more is shared equally between the two.
    """
    led = probabilities.copy()
    rows = np.flatnonzero(~np.isnan(leader).any(axis=1))
    own, top = leader[rows].argmax(axis=1), probabilities[rows].argmax(axis=1)
    rows, own, top = (part[own != top] for part in (rows, own, top))
    half = (probabilities[rows, own] + probabilities[rows, top]) / 2
    led[rows, own], led[rows, top] = half * (1 + _EDGE), half * (1 - _EDGE)
    return led


def mean_weights(found: Combination, names: Sequence[str]) -> dict[str, float]:
    """Of each annotator, over the labels: 1 is what it counts for alone, and if errors were independent."""
    return {name: float(found.weights[i].mean()) for i, name in enumerate(names)}


def as_one_hot(answers: npt.NDArray[np.int64], labels: int) -> Floats:
    """(texts, annotators) label indices, negative where there is none, to (texts, annotators, labels)."""
    hot: Floats = np.eye(labels)[np.maximum(answers, 0)]
    hot[answers < 0] = np.nan
    return hot
