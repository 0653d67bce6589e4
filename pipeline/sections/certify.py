"""The certificate as people read it: in the report, and in the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import plotting
from pipeline.sections.base import Grid, Section

_MOST_IN_PLOT = 6  # labels


def section(figures: Mapping[str, Any]) -> Section:
    """Table and plot of all figures, and what they rest on."""
    level = f"{100 * figures['confidence_level']:g} %"
    rows = list(_figures(figures))
    table = [
        [name, f"{found['gold']:,}", _shown(found["classical"]), _shown(found["ppi"]), f"{_ratio(found):.2f}"]
        for name, found in rows
    ]
    shown = rows[: 1 + 3 * _MOST_IN_PLOT]
    pairs = {name: (found["classical"], found["ppi"]) for name, found in shown}
    return Section(
        "Certificate of the labelled corpus",
        [
            f"{figures['gold']:,} gold texts drawn uniformly from the corpus speak for all {figures['rows']:,} labels "
            f"in {figures['certifies']}/. {' '.join(figures['assumptions'])}"
        ],
        [
            Grid(
                ["figure", "gold", f"classical, {level} interval", f"PPI++, {level} interval", "width ratio"],
                table,
                note=f"{figures['methods']['classical']}; {figures['methods']['ppi']}.",
            )
        ],
        {f"Intervals ({level}) of the corpus": plotting.pairs(pairs, ("gold alone", "PPI++"), "share")},
    )


def lines(figures: Mapping[str, Any]) -> list[str]:
    """A table for the terminal."""
    head = ("", "gold", "classical", "PPI++", "width")
    body = [
        (name, f"{found['gold']:,}", _shown(found["classical"]), _shown(found["ppi"]), f"x {_ratio(found):.2f}")
        for name, found in _figures(figures)
    ]
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(5)]
    table = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *body]
    ]
    said = f"{figures['rows']:,} labels in {figures['certifies']}/, certified by {figures['gold']:,} gold texts"
    return [f"{said}, {100 * figures['confidence_level']:g} % intervals", *(line.rstrip() for line in table)]


def _figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "accuracy" + " of whole sets" * (figures["kind"] == "multi"), figures["accuracy"]
    for label, found in figures["per_class"].items():
        for name in ("precision", "recall", "prevalence"):
            if found[name] is not None:
                yield f"{name} of {label}", found[name]


def _shown(found: Mapping[str, float]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)


def _ratio(found: Mapping[str, Any]) -> float:
    """Width of PPI++'s interval over that of the classical one."""
    plain, ours = ((m["high"] - m["low"]) for m in (found["classical"], found["ppi"]))
    return float(ours / plain) if plain else 1.0
