"""From metrics and rows to the content of report.html: the verdict, the three numbers, tables, plots and examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import costing, measuring, plotting
from pipeline.artifacts import Prediction
from pipeline.costing import Usage
from pipeline.measuring import Said
from pipeline.params import FIRST, Params
from serving.shapes import Shape

Interval = Mapping[str, float]
_SHORT = ("macro_f1", "mcc", "micro_f1", "label_accuracy", "mae", "qwk", "spearman")  # as far as the kind has them
AGREEMENT = "agreement with held-out LLM labels"


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the three numbers; `measured` is None where nothing is known."""

    name: str  # LLM, encoder or TF-IDF
    detail: str
    what: str  # accuracy, or AGREEMENT where there is no gold
    measured: Interval | None

    def __str__(self) -> str:
        return f"{self.name:<8} {self.what} {interval(self.measured)}"


@dataclass(frozen=True, slots=True)
class Example:
    """A text on which two opinions differ."""

    id: str
    text: str
    reference: str
    llm: str | None
    encoder: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Rows:
    """What the page shows besides figures."""

    predictions: Sequence[Prediction]  # of the best candidate, on test, or held_out where there is no gold
    texts: Mapping[str, str]  # of those
    teacher: Mapping[str, str]  # the LLM's label of gold texts
    rejected: Sequence[Mapping[str, str | None]]  # id, reason, answer, text
    unusable: Sequence[Mapping[str, Any]]
    candidates: Sequence[Mapping[str, Any]]  # candidate.json
    provenance: Mapping[str, str]


def interval(measured: Interval | None) -> str:
    """As everything here shows it: 0.885 [0.840, 0.925]."""
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**measured) if measured else "unknown"


def headlines(evaluation: Mapping[str, Any], best: Mapping[str, Any], annotator: str) -> list[Headline]:
    """The three numbers: accuracy on test gold, else agreement with the LLM under that name."""
    test, held_out = evaluation["test"], evaluation["held_out"]["candidates"]
    students = (("encoder", best["candidate"]), ("TF-IDF", best["tfidf"]))
    if test is None:
        found = [Headline(name, c, AGREEMENT, held_out[c]["agreement_with_llm"]) for name, c in students]
        return [Headline("LLM", annotator, "accuracy", None), *found]
    found = [Headline(name, c, "accuracy", test["candidates"][c]["accuracy"]) for name, c in students]
    teacher = test["teacher"]
    return [Headline("LLM", annotator, "accuracy", teacher["accuracy"] if teacher else None), *found]


def summary(stages: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in short: a dozen columns that `dvc metrics diff` can show beside each other."""
    three = headlines(stages["evaluate"], best, "")
    test = stages["evaluate"]["test"]
    encoder = test["candidates"][best["candidate"]] if test else {}
    labelled = stages["label"]
    return {
        "accuracy" if test else "agreement": {h.name.lower(): h.measured["value"] for h in three if h.measured},
        "encoder": {name: encoder[name]["value"] for name in _SHORT if name in encoder}
        | ({"ece": encoder["ece_calibrated"]} if encoder else {}),
        "sampled": stages["sample"]["sampled"],
        "yield": stages["parse"]["yield"],
        "flips": max(f["flips"] for graphs in stages["export"]["precisions"].values() for f in graphs.values()),
        "promoted": stages["register"]["promoted"],
        "labelled": labelled["rows"],
        "abstained": labelled["abstained"],
    }


def verdict(three: Sequence[Headline], paired: Mapping[str, Interval | None]) -> str:
    """The first sentence that a reader wants.

    Args:
        three: the three numbers.
        paired: over_llm and over_tfidf, the encoder's gains on the same texts; empty where there is no test gold.
    """
    encoder = three[1].measured
    if encoder is None:
        raise ValueError("the encoder is always measured. This is a bug.")
    share = f"{encoder['value']:.1%}"
    if three[1].what == AGREEMENT:
        return f"Accuracy is unknown: no gold. The encoder agrees with the LLM on {share} of held-out texts."
    over_llm, over_tfidf = paired["over_llm"], paired["over_tfidf"]
    if over_llm is None or over_tfidf is None:
        return f"The encoder is right on {share} of the gold texts; the LLM was not asked about them."
    return f"The encoder is {_gain(over_llm)} the LLM that taught it and {_gain(over_tfidf)} TF-IDF."


def _gain(difference: Interval) -> str:
    figures = "({value:+.3f} [{low:+.3f}, {high:+.3f}])".format(**difference)
    if difference["low"] <= 0 <= difference["high"]:
        return f"not measurably different {figures} from"
    return f"better {figures} than" if difference["low"] > 0 else f"worse {figures} than"


def examples(rows: Rows, shape: Shape) -> list[Example]:
    """Every evaluated text with all opinions of it, the encoder's surest first."""
    found = []
    decided = shape.decide(shape.probabilities(np.array([prediction.logits for prediction in rows.predictions])))
    for prediction, said, sure in zip(rows.predictions, decided.labels, decided.confidence.tolist(), strict=True):
        llm = prediction.reference if prediction.set == "held_out" else rows.teacher.get(prediction.id)
        text = rows.texts[prediction.id]
        found.append(Example(prediction.id, text, prediction.reference, llm, said, sure))
    return sorted(found, key=lambda example: -example.confidence)


def disagreements(all_: Iterable[Example], gold: bool, limit: int) -> dict[str, list[Example]]:
    """Title -> examples: who is wrong about what."""
    if not gold:
        return {"The encoder contradicts the LLM": [e for e in all_ if e.encoder != e.reference][:limit]}
    wrong = [e for e in all_ if e.encoder != e.reference or e.llm not in (None, e.reference)]
    groups = {
        "The encoder is wrong where the LLM was right": [e for e in wrong if e.llm == e.reference],
        "The encoder is right where the LLM was wrong": [e for e in wrong if e.encoder == e.reference],
        "Both are wrong": [e for e in wrong if e.encoder != e.reference and e.llm not in (None, e.reference)],
        "The encoder is wrong, and the LLM gave no answer": [e for e in wrong if e.llm is None],
    }
    return {title: found[:limit] for title, found in groups.items() if found}


def plots(rows: Rows, params: Params, stages: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, str]:
    """Title -> SVG."""
    labels, evaluation = params.task.names, stages["evaluate"]
    logits = np.array([prediction.logits for prediction in rows.predictions])
    measure = measuring.of(params.task.kind, labels)
    reference = measure.reference([prediction.reference for prediction in rows.predictions])
    said = Said.by(params.task.fitted(best), logits)
    sure, right = params.task.fitted(best).decide(said.probabilities).confidence, measure.right(said, reference)
    actual = "gold" if evaluation["test"] else "LLM"
    history = next(c["history"] for c in rows.candidates if c["candidate"] == best["candidate"])
    groups = {"LLM's labels": stages["parse"]["shares"], "corpus": stages["label"]["shares"]}
    if evaluation["test"]:
        groups["gold (test)"] = measure.shares(reference)
    curves = {
        "before": measure.reliability(measure.plain.probabilities(logits), reference),
        "after temperature": measure.reliability(said.probabilities, reference),
    }
    teacher = evaluation["test"] and evaluation["test"]["teacher"]
    pairs = measure.pairs(said, reference)
    doubts = teacher["by_confidence"] if teacher else []
    return {
        "All candidates, with intervals": plotting.intervals(_measured(evaluation), _what(evaluation)),
        f"Confusion of the encoder ({actual} against predicted)": plotting.confusion(
            [pair["actual"] for pair in pairs], [pair["predicted"] for pair in pairs], measure.named
        ),
        "Is its confidence to be believed?": plotting.reliability(curves),
        "What abstaining would buy": plotting.coverage(sure, right),
        "How it learnt": plotting.learning(history),
        "Shares of the labels": plotting.shares(groups, labels),
    } | ({"Is the LLM's confidence to be believed?": plotting.reliability({"LLM": doubts})} if len(doubts) > 1 else {})


def _what(evaluation: Mapping[str, Any]) -> str:
    return "accuracy on test gold" if evaluation["test"] else AGREEMENT


def _measured(evaluation: Mapping[str, Any]) -> dict[str, Interval]:
    if (test := evaluation["test"]) is None:
        return {name: c["agreement_with_llm"] for name, c in evaluation["held_out"]["candidates"].items()}
    found = {name: c["accuracy"] for name, c in test["candidates"].items()}
    return found | ({"LLM": test["teacher"]["accuracy"]} if test["teacher"] else {})


def content(params: Params, stages: Mapping[str, Any], best: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Everything that report.html.j2 names.

    Args:
        params: of the run.
        stages: stage -> its metrics.
        best: data/best.json.
        rows: what is shown besides figures.
    """
    three = headlines(stages["evaluate"], best, stages["annotate"]["model"])
    all_ = examples(rows, params.task.fitted(best))
    figures = {FIRST: stages["annotate"]} | stages.get("consult", {}).get("annotators", {})
    annotators = {name: costing.asked(params.asking(name), found) for name, found in figures.items()}
    train_s, label = sum(c["seconds"] for c in rows.candidates), stages["label"]
    usage = Usage(annotators, train_s, label["seconds"], label["rows"])
    gold = stages["evaluate"]["test"] is not None
    paired = stages["evaluate"]["test"]["paired"] if gold else {}
    validated = stages["evaluate"]["validation"]["candidates"]
    return {
        "params": params, "stages": stages, "best": best, "rows": rows, "gold": gold,
        "headlines": three, "verdict": verdict(three, paired), "usage": usage,
        "costs": costing.costs(usage, params.report.machine_per_hour), "prices": costing.origin(params),
        "unpriced": costing.unpriced(params),
        "plots": plots(rows, params, stages, best), "metrics": measuring.of(params.task.kind, []).shown,
        "trained_on": sum(next(c["texts"] for c in rows.candidates if c["candidate"] == best["candidate"]).values()),
        "disagreements": disagreements(all_, gold, params.report.examples),
        "candidates": sorted(rows.candidates, key=lambda c: -validated[c["candidate"]]["accuracy"]),
    }  # fmt: skip
