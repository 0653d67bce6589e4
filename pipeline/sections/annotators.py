"""The report's section on several annotators: each alone, whether their errors go together, what they come to."""

from collections.abc import Mapping
from typing import Any

from pipeline.sections.base import Grid, Section

_HOW = {
    "alone": "No combination was measurably better than the best annotator alone, so its labels are used as they are.",
    "weights": "They are combined by one weight each.",
    "weights by label": "They are combined by a weight for each annotator and label.",
    "agreements": "They are combined by weights for each annotator, label and agreement of two.",
}


def section(figures: Mapping[str, Any]) -> Section | None:
    """Of metrics/parse.json; None where there is one annotator."""
    found = figures.get("annotators")
    if found is None:
        return None
    together = found["combination"]
    said = f"They disagree on {100 * found['disagree']:.1f} % of the sampled texts."
    if not found["gold"]:
        without = "No gold says whom to believe, so labels are those of the first. Agreement is no accuracy."
        return Section("Several annotators", [without, said], [_bounds(found)])
    labels = list(next(iter(found["alone"].values()))["per_class"])
    alone = Grid(
        ["annotator", "accuracy", *(f"recall of {label}" for label in labels), "weight"],
        [
            [
                name,
                _figure(a["accuracy"]),
                *(_figure(a["per_class"][label]["recall"]) for label in labels),
                f"{together['weights'][name]:.2f}",
            ]
            for name, a in found["alone"].items()
        ],
        note=f"On {found['gold']:,} gold texts that test nothing, with 95 % intervals. A weight of 1 is what an "
        "annotator counts for alone, or beside others if errors were independent.",
    )
    pairs = Grid(
        ["errors of", "phi", "both wrong", "if independent", "disagree"],
        [
            [" and ".join(p["pair"]), "–" if p["phi"] is None else _figure(p["phi"])]
            + [f"{100 * p[key]:.2f} %" for key in ("both_wrong", "if_independent", "disagree")]
            for p in found["errors_together"]
        ],
        note="Phi is 0 where errors are independent and 1 where both are wrong on the same texts.",
    )
    return Section("Several annotators", [_verdict(together), said], [alone, pairs])


def _verdict(together: Mapping[str, Any]) -> str:
    best, how = together["best"], _HOW[together["how"]]
    if together["log_loss"] is None:
        return f"There is too little gold to combine them: labels are those of {best}."
    if together["how"] == "alone":
        return f"{how} The best is {best}."
    loss = together["log_loss"]
    chosen = (
        f"it did not choose better labels than {best}, whose labels are used with its probabilities"
        if together["labels_from_best"]
        else f"it was right alone on {together['only_combined_right']} gold texts, {best} alone on "
        f"{together['only_best_right']}, so its labels are used"
    )
    return f"{how} Out of fold, log loss is {loss['combined']:.3f} rather than {loss['best_alone']:.3f}; {chosen}."


def _bounds(found: Mapping[str, Any]) -> Grid:
    return Grid(
        ["pair", "disagree", "their mean error is at least"],
        [
            [" and ".join(p["pair"]), f"{100 * p['disagree']:.1f} %", f"{100 * p['mean_error_at_least']:.1f} %"]
            for p in found["without_gold"]
        ],
        note="That is all that disagreement proves; errors made together are not seen in it.",
    )


def _figure(measured: Mapping[str, float]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**measured)
