"""Tables and plots of the runs that are over, beside the published figures: studies/results/NAME.md and NAME.svg.

A cell is the mean accuracy over seeds in percent with the half width of Student's 95 % interval, which speaks of the
seeds; [low, high] is Wilson's 95 % interval for one run, which speaks of the test texts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from pipeline import reviewing, scoring
from pipeline.params import Evaluate
from serving.files import replacing

RESULTS = Path("studies/results")
CONDITIONS = {
    "imdb": ["gold", "llm", "llm_extra", "combined"],
    "umls": ["gold", "llm", "combined", "mixed", "distilled"],
}
Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """The runs of one condition: their accuracies by seed, in percent, and their numbers of test texts."""

    by_seed: dict[int, float]
    texts: int
    right: dict[int, str] = field(default_factory=dict)  # a bit a test text, in hexadecimal, by seed

    def __str__(self) -> str:
        """Mean and interval."""
        over = scoring.over_seeds(list(self.by_seed.values()), 0.95)
        if over["accuracy_half_width"] is not None:
            return f"{over['accuracy_mean']:.2f} ± {over['accuracy_half_width']:.2f} ({len(self.by_seed)})"
        share = scoring.wilson(round(over["accuracy_mean"] / 100 * self.texts), self.texts, 0.95)
        return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**{name: 100 * value for name, value in share.items()})

    def gain(self, base: "Cell") -> str:
        """Difference to another condition: over seeds that both have, or on the same texts where it is one seed."""
        seeds = sorted(self.by_seed.keys() & base.by_seed.keys())
        if not seeds:
            return ""
        over = scoring.over_seeds([self.by_seed[seed] - base.by_seed[seed] for seed in seeds], 0.95)
        if over["accuracy_half_width"] is not None:
            return f"{over['accuracy_mean']:+.2f} ± {over['accuracy_half_width']:.2f}"
        if not (self.right.get(seeds[0]) and base.right.get(seeds[0])):
            return f"{over['accuracy_mean']:+.2f}"
        ours, theirs = (cell.bits(seeds[0]) for cell in (self, base))
        found = scoring.paired(ours, theirs, Evaluate())
        return "{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(
            **{key: 100 * found[key] for key in ("value", "low", "high")}
        )

    def bits(self, seed: int) -> scoring.Bools:
        """Whether each test text was labelled right (texts,)."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.right[seed]), dtype=np.uint8))[: self.texts].astype(bool)


def write(name: str) -> str:
    """Write and return the table of a study; a plot too where it has one."""
    published = YAML(typ="safe", pure=True).load(Path(__file__).with_name("published.yaml"))
    runs = [json.loads(path.read_text()) for path in sorted((RESULTS / name).glob("*.json"))]
    makers = {"imdb": _grid, "umls": _grid, "size": _curve, "flips": _curve, "recipes": _recipes, "errors": _errors}
    text: str = makers[name](name, runs, published.get(name, {}))
    with replacing(RESULTS / f"{name}.md") as temporary:
        temporary.write_text(text + "\n")
    return text


def cells(runs: Runs, *keys: str) -> dict[tuple[Any, ...], Cell]:
    """Runs put together by these of their facts."""
    grouped: dict[tuple[Any, ...], Runs] = {}
    for run in runs:
        grouped.setdefault(tuple(run.get(key) for key in keys), []).append(run)
    return {
        key: Cell(
            {run["seed"]: 100 * run["accuracy"] for run in found},
            found[0]["test_texts"],
            {run["seed"]: run.get("right_bits", "") for run in found},
        )
        for key, found in grouped.items()
    }


def _grid(name: str, runs: Runs, published: Mapping[str, Mapping[str, Any]]) -> str:
    columns = CONDITIONS[name]
    found = cells(runs, "encoder", "size", "extra", "condition")
    rows = []
    for encoder, size, extra in dict.fromkeys(key[:3] for key in found):
        title = encoder if size is None else f"{encoder}, {size:,} + {extra:,} extra"
        rows.append([title, *(str(found.get((encoder, size, extra, column), "")) for column in columns)])
    rows += [[f"published: {who}", *(str(row.get(column, "")) for column in columns)] for who, row in published.items()]
    return "\n\n".join([_table(["", *columns], rows), *_chosen(name, runs)])


def _chosen(name: str, runs: Runs) -> Iterable[str]:
    """Which condition validation chooses, by the mean log loss: test had no part in it."""
    if name != "umls" or not runs:
        return
    losses: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        losses.setdefault((run["encoder"], run["condition"]), []).append(run["validation_log_loss"])
    ranked = sorted(losses, key=lambda key: float(np.mean(losses[key])))
    rows = [
        [
            *key,
            f"{np.mean(losses[key]):.4f}",
            f"{100 * np.mean([r['validation_accuracy'] for r in runs if (r['encoder'], r['condition']) == key]):.2f}",
        ]
        for key in ranked
    ]
    yield "On validation gold, the lowest log loss first:"
    yield _table(["encoder", "condition", "log loss", "accuracy"], rows)


def _curve(name: str, runs: Runs, published: Mapping[str, Mapping[int, float]]) -> str:
    x = "size" if name == "size" else "share"
    found = cells(runs, "encoder", "condition", x)
    lines = list(dict.fromkeys((encoder, condition) for encoder, condition, _ in sorted(found)))
    points = sorted({key[2] for key in found} | {p for row in published.values() for p in row})
    head = [
        x,
        *(f"{encoder} {condition}" for encoder, condition in lines),
        *(f"roberta-large {c}, published" for c in published),
    ]
    rows = [
        [
            f"{p:,}",
            *(str(found.get((*line, p), "")) for line in lines),
            *(str(row.get(p, "")) for row in published.values()),
        ]
        for p in points
    ]
    _plot(name, x, {line: {p: found[(*line, p)] for p in points if (*line, p) in found} for line in lines}, published)
    return _table(head, rows)


def _plot(
    name: str,
    x: str,
    lines: Mapping[tuple[str, str], Mapping[int, Cell]],
    published: Mapping[str, Mapping[int, float]],
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), replacing(RESULTS / f"{name}.svg") as temporary:
        figure = Figure(figsize=(6.5, 4), layout="constrained")
        axes = figure.subplots()
        for (encoder, condition), at in lines.items():
            over = [scoring.over_seeds(list(cell.by_seed.values()), 0.95) for cell in at.values()]
            bars = [o["accuracy_half_width"] or 0 for o in over]
            axes.errorbar(list(at), [o["accuracy_mean"] for o in over], bars, fmt="o-", label=f"{encoder} {condition}")
        for condition, row in published.items():
            axes.plot(list(row), list(row.values()), ":", color="gray", label=f"published, roberta-large {condition}")
        axes.set(xlabel="training texts" if x == "size" else "% of labels flipped", ylabel="accuracy, %")
        if x == "size":
            axes.set_xscale("log", base=2)
        axes.legend(fontsize=8)
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def _recipes(_: str, runs: Runs, __: Any) -> str:  # noqa: ANN401
    umls = [json.loads(path.read_text()) | {"corpus": "umls"} for path in sorted((RESULTS / "umls").glob("*.json"))]
    found = cells([*umls, *runs], "corpus", "encoder", "condition")
    rows = []
    for corpus, encoder, condition in sorted(found, key=lambda key: (key[0], key[1])):
        base = found.get((corpus, encoder, "llm" if (corpus, encoder, "llm") in found else "gold"))
        cell = found[(corpus, encoder, condition)]
        rows.append([corpus, encoder, condition, str(cell), cell.gain(base) if base and base is not cell else ""])
    return _table(["corpus", "encoder", "recipe", "accuracy (seeds)", "against llm, or gold where there is none"], rows)


def _errors(_: str, __: Runs, published: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    """Table 3: what people say of the surest errors of the project studies/imdb, where they were asked."""
    rows = [
        [f"published: {who}, {said}", *map(str, counts)]
        for who, row in published.items()
        for said, counts in row.items()
    ]
    errors, reviewed = Path("studies/imdb/data/errors.csv"), Path("studies/imdb/data/reviewed.csv")
    if errors.is_file() and reviewed.is_file():
        people = reviewing.read_reviewed(reviewed)
        said = [
            (row["predicted"], people[row["id"]].label)
            for row in reviewing.read_rows(errors, ("id", "predicted"))
            if row["id"] in people
        ]
        for model, counts in reviewing.table(said, ("positive", "negative")).items():
            rows.insert(0, [f"studies/imdb, model said {model}", *map(str, counts.values())])
    return _table(["", "a person said positive", "negative", "mixed"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
