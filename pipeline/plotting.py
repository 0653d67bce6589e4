"""The report's plots as inline SVG. Colours are CSS variables of the page, so that they follow light and dark."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# matplotlib wants real colours: each stands for the CSS variable that replaces it in the SVG.
INK, MUTED, LINE, FIRST, SECOND, THIRD = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second", THIRD: "--third"}
_STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": INK, "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE, "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "grid.color": LINE, "grid.linewidth": 0.6, "axes.grid": True,
    "axes.axisbelow": True, "figure.dpi": 72,
}  # fmt: skip
_MOST_LABELS_WITH_NUMBERS = 12
_MOST_LABELS = 20  # that a plot can show
_LONGEST_NAME = 32  # characters
Interval = Mapping[str, float]
Floats = NDArray[np.float64]


def _svg(name: str, draw: Callable[[Any], None], height: float = 3.1) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for attribute in (' xmlns="http://www.w3.org/2000/svg"', ' xmlns:xlink="http://www.w3.org/1999/xlink"'):
        drawn = drawn.replace(attribute, "")
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def intervals(measured: Mapping[str, Interval], what: str) -> str:
    """A point with its interval for each name, best on top."""

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        ranked = sorted(measured.items(), key=lambda item: item[1]["value"])
        for i, (name, m) in enumerate(ranked):
            colour = SECOND if name == "LLM" else THIRD if name.startswith("tfidf") else FIRST
            axes.plot([m["low"], m["high"]], [i, i], color=colour, linewidth=2.5, solid_capstyle="round", alpha=0.45)
            axes.plot(m["value"], i, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.set_xlabel(what)
        axes.grid(visible=False, axis="y")

    return _svg(what, draw, max(1.6, 0.32 * len(measured) + 0.8))


def confusion(actual: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> str:
    """Counts, coloured by the share of the actual label; with many labels the commonest mistakes instead."""
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    if len(labels) > _MOST_LABELS:
        return _mistakes(Counter(pair for pair in zip(actual, predicted, strict=True) if pair[0] != pair[1]))
    for true, said in zip(actual, predicted, strict=True):
        counts[index[true], index[said]] += 1
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        from matplotlib.patches import Rectangle

        for (i, j), share in np.ndenumerate(shares):
            colour = FIRST if i == j else SECOND
            axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, color=colour, alpha=0.08 + 0.55 * share, lw=0))
            if len(labels) <= _MOST_LABELS_WITH_NUMBERS:
                axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=12 if len(labels) < 6 else 8)
        ticks = range(len(labels))
        axes.set_xticks(ticks, labels, rotation=0 if len(labels) < 5 else 90)
        axes.set_yticks(ticks, labels)
        axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), xlabel="predicted", ylabel="actual")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return _svg("confusion matrix", draw, 3.1 if len(labels) < 8 else 5.0)


def _mistakes(pairs: Counter[tuple[str, str]]) -> str:
    """The pairs that are mistaken for each other most often."""
    common = pairs.most_common(_MOST_LABELS)

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        axes.barh(range(len(common)), [count for _, count in common], color=SECOND)
        names = [f"{_short(true)} → {_short(said)}" for (true, said), _ in common]
        axes.set_yticks(range(len(common)), names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(f"texts; {sum(pairs.values()):,} mistakes in all")
        axes.grid(visible=False, axis="y")

    return _svg("commonest mistakes", draw, max(1.6, 0.22 * len(common) + 0.8))


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 1]}…"


def reliability(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Accuracy against confidence in bins, one curve or two."""

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        for (name, bins), colour in zip(curves.items(), (SECOND, FIRST), strict=False):
            x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            axes.plot(x, y, "o-", color=colour, label=name, markersize=4)
        start = min((b["confidence"] for bins in curves.values() for b in bins), default=0.5)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(max(0.0, start - 0.05), 1.01), ylim=(0, 1.03))
        axes.legend()

    return _svg(f"reliability-{len(curves)}", draw)


def learning(history: Sequence[Mapping[str, Any]]) -> str:
    """Losses and validation accuracy by step; phases follow each other."""

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        offset: dict[str, int] = {}
        start = 0
        for entry in history:
            offset.setdefault(entry["phase"], start)
            start = offset[entry["phase"]] + entry["step"]
        for name, colour in (("train_loss", MUTED), ("validation_loss", SECOND), ("validation_accuracy", FIRST)):
            points = [(offset[e["phase"]] + e["step"], e[name]) for e in history if e.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name.replace("_", " "), markersize=3)
        axes.set(xlabel="step", ylim=(0, None))
        axes.legend()

    return _svg("learning curves", draw)


def shares(groups: Mapping[str, Mapping[str, float]], all_labels: Sequence[str]) -> str:
    """Share of each label among the LLM's labels, the corpus, and gold; of many labels the most frequent."""
    labels = all_labels
    if len(labels) > _MOST_LABELS:
        labels = sorted(labels, key=lambda label: -max(found.get(label, 0.0) for found in groups.values()))
        labels = labels[:_MOST_LABELS]

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        width = 0.8 / len(groups)
        for i, ((name, found), colour) in enumerate(zip(groups.items(), (SECOND, FIRST, THIRD), strict=False)):
            places = np.arange(len(labels)) + (i - (len(groups) - 1) / 2) * width
            axes.barh(places, [100 * found.get(label, 0.0) for label in labels], width * 0.92, color=colour, label=name)
        axes.set_yticks(range(len(labels)), list(map(_short, labels)))
        axes.invert_yaxis()
        axes.set_xlabel(
            "% of texts" if labels is all_labels else f"% of texts, {len(labels)} of {len(all_labels)} labels"
        )
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3)

    return _svg("label shares", draw, max(2.2, (0.5 if len(labels) < 8 else 0.3) * len(labels) + 1.2))


def coverage(confidence: Floats, right: NDArray[np.bool_]) -> str:
    """Accuracy of the surest part of the texts: what abstaining below a confidence would buy."""
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    accuracy = right[order].cumsum() / kept
    start = min(len(order) - 1, max(9, len(order) // 20))  # accuracy of fewer texts is noise

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        axes.plot(100 * kept[start:] / len(order), accuracy[start:], color=FIRST)
        axes.set(xlabel="% of texts labelled, the surest first", ylabel="accuracy", xlim=(0, 101))

    return _svg("coverage", draw)


def two_samples(ticks: Sequence[str], reference: Sequence[int], batch: Sequence[int], name: str) -> str:
    """Shares of two samples in the same bins."""

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        places = np.arange(len(ticks))
        for i, (label, counts, colour) in enumerate((("corpus", reference, MUTED), ("new texts", batch, FIRST))):
            heights = 100 * np.array(counts) / max(1, sum(counts))
            axes.bar(places + (i - 0.5) * 0.42, heights, 0.4, color=colour, label=label)
        axes.set_xticks(places, ticks, rotation=35 if len(ticks) > 4 else 0, ha="right" if len(ticks) > 4 else "center")
        axes.set_ylabel("% of texts")
        axes.grid(visible=False, axis="x")
        axes.legend()

    return _svg(name, draw)


def pairs(measured: Mapping[str, tuple[Interval, Interval]], names: tuple[str, str], what: str) -> str:
    """Two intervals for each name, one above the other, the first on top."""

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        for side, (name, colour) in enumerate(zip(names, (THIRD, FIRST), strict=True)):
            for i, both in enumerate(measured.values()):
                m, place = both[side], i + 0.28 * (side - 0.5)
                axes.plot([m["low"], m["high"]], [place] * 2, color=colour, linewidth=2.5, alpha=0.5)
                axes.plot(m["value"], place, "o", color=colour, markersize=5, label=None if i else name)
        axes.set_yticks(range(len(measured)), list(measured))
        axes.set_ylim(len(measured) - 0.4, -0.6)
        axes.set_xlabel(what)
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2 - 0.5 / len(measured)), ncols=2)

    return _svg(f"{what}-pairs", draw, max(2.0, 0.36 * len(measured) + 1.3))


def rounds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Agreement with held-out labels, with its interval, against the number of texts that were labelled."""

    def draw(axes: Any) -> None:  # noqa: ANN401 - untyped library
        texts, scores = [row["texts"] for row in rows], [row["score"] for row in rows]
        low, value, high = ([score[key] for score in scores] for key in ("low", "value", "high"))
        axes.fill_between(texts, low, high, color=FIRST, alpha=0.15, linewidth=0)
        axes.plot(texts, value, "o-", color=FIRST, markersize=4)
        axes.set(xlabel="texts labelled", ylabel="agreement")

    return _svg("rounds", draw)
