"""The gate between a challenger and the alias `champion`, and what MLflow is told. Numbers in, verdict out.

The gate knows the validation set only: test gold never decides about a model.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import scoring
from pipeline.params import Evaluate
from serving.shapes import Shape

Figure = float | int | str | None
_RESAMPLING = Evaluate(resamples=10_000)
_FEW = 5  # texts of one label of many: a model that is right on half of them misses all of fewer more than 1 time in 20


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate, its figures, and the answer in a sentence."""

    name: str  # collapse, tfidf or champion
    passed: bool
    figures: dict[str, Figure]
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a version."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why not, one sentence for each failed check."""
        return [check.sentence for check in self.checks if not check.passed]

    def to_json(self) -> str:
        """As it is kept with the version."""
        return json.dumps([asdict(check) for check in self.checks], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Read it back."""
        return cls(tuple(Check(**check) for check in json.loads(text)))


def not_collapsed(
    predicted: Sequence[str], reference: Sequence[str], min_share: float, shape: Shape | None = None
) -> Check:
    """A label that is hardly ever predicted, or never rightly, means a model that has given up on it.

    Args:
        predicted: labels by the challenger [n].
        reference: labels to be found [n]; one that does not occur here is not asked for.
        min_share: smallest accepted ratio of a label's share in `predicted` to that in `reference`.
        shape: of the task, where a label may be a set of labels.
    """
    split = shape.names if shape else lambda label: [label]
    said, true = [split(label) for label in predicted], [split(label) for label in reference]
    figures: dict[str, Figure] = {}
    faults = []
    labels = sorted({label for labels in true for label in labels})
    for label in labels:
        given, there = (np.array([label in labels for labels in some]) for some in (said, true))
        share, expected = float(given.mean()), float(there.mean())
        recall = float(given[there].mean())
        figures |= {f"share_{label}": share, f"expected_{label}": expected, f"recall_{label}": recall}
        if len(labels) > 2 and there.sum() < _FEW:
            continue
        if share < min_share * expected or recall == 0:
            faults.append(f"'{label}' is predicted for {share:.1%} of the texts where {expected:.1%} have it")
    sentence = "every label is predicted about as often as it occurs"
    if faults:
        sentence = f"collapsed: {'; '.join(faults)} (register.min_predicted_share is {min_share})"
    return Check("collapse", not faults, figures, sentence)


def beats_tfidf(accuracy: float, tfidf: float, min_gain: float) -> Check:
    """An encoder costs more than TF-IDF + logistic regression and has to be worth it."""
    gain = accuracy - tfidf
    passed = _at_least(gain, min_gain)
    sentence = (
        f"accuracy {accuracy:.3f} on validation against {tfidf:.3f} of TF-IDF: "
        f"{gain:+.3f} where register.min_gain_over_tfidf asks for {min_gain:+.3f}"
    )
    return Check("tfidf", passed, {"accuracy": accuracy, "tfidf_accuracy": tfidf, "gain": gain}, sentence)


def beats_champion(challenger: NDArray[np.bool_], champion: NDArray[np.bool_], version: str, min_gain: float) -> Check:
    """Compare two models on the same texts, in pairs.

    Args:
        challenger: whether it is right [n].
        champion: whether that is right [n], in the same order.
        version: of the champion, for the sentence.
        min_gain: smallest accepted difference in accuracy.
    """
    n = len(challenger)
    found = scoring.paired(challenger, champion, _RESAMPLING)
    difference, low, high, p_value = (found[name] for name in ("value", "low", "high", "p_value"))
    figures: dict[str, Figure] = {
        "champion": version, "texts": n, "difference": difference, "low": low, "high": high,
        "p_value": p_value, "only_challenger_right": found["only_ours"], "only_champion_right": found["only_theirs"],
    }  # fmt: skip
    sentence = (
        f"against champion v{version} on the same {n:,} texts: {difference:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"p = {p_value:.2g}, where register.min_gain_over_champion asks for {min_gain:+.3f}"
    )
    return Check("champion", _at_least(difference, min_gain), figures, sentence)


def incomparable(version: str, reason: str) -> Check:
    """A champion of another task, or one that can't be opened any more, can't be compared with."""
    sentence = (
        f"can't be compared with champion v{version}: {reason}. Promote by hand (`llambert promote --force`), "
        "or give register.model_name another name"
    )
    return Check("champion", False, {"champion": version}, sentence)


def no_champion() -> Check:
    """The first version has nobody to beat."""
    return Check("champion", True, {"champion": None}, "there is no champion yet")


def _at_least(gain: float, minimum: float) -> bool:
    return gain >= minimum - 1e-9  # 0.85 - 0.80 is a little less than 0.05


def key(*parts: object) -> str:
    """Hash of JSON-able content, by which runs and verdicts are found again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested block as `outer.inner: value`, as MLflow takes them: values of at most 500 characters, plain names.

    Labels are names, too: `refund?` is written as `refund_3f_`.
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{_plain(name)}.")
        else:
            found[prefix + _plain(name)] = str(value)[:500]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^\w.\-: /]", lambda found: f"_{ord(found[0]):x}_", name)


def figures(evaluation: dict[str, Any], candidate: str) -> dict[str, float]:
    """All numbers that metrics/evaluate.json has on a candidate: `test.accuracy`, `test.accuracy_low`, ..."""
    found: dict[str, float] = {}
    for name in ("validation", "test", "held_out"):
        block = (evaluation.get(name) or {}).get("candidates", {}).get(candidate, {})
        for metric, value in block.items():
            if isinstance(value, dict) and "value" in value:
                found[f"{name}.{metric}"] = value["value"]
                found |= {f"{name}.{metric}_{side}": value[side] for side in ("low", "high") if side in value}
            elif isinstance(value, int | float):
                found[f"{name}.{metric}"] = value
    return {metric: float(value) for metric, value in found.items() if value is not None}


def curves(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, int]]:
    """Learning curves as (metric, value, step). Phases get a name of their own, for each counts its steps anew."""
    return [
        (f"{entry['phase']}.{metric}", float(entry[metric]), int(entry["step"]))
        for entry in history
        for metric in ("train_loss", "validation_loss", "validation_accuracy")
        if entry.get(metric) is not None
    ]
