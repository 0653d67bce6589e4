"""What `llambert drift` found, as a page and as lines for a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline import plotting
from serving.files import replacing

_MOST_BARS = 20
_FEW = 100  # effective gold texts


def write(path: Path, found: Mapping[str, Any]) -> None:
    """The page; it loads nothing from elsewhere."""
    templates = Environment(
        loader=PackageLoader("pipeline", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    plots = {name: Markup(plot) for name, plot in _plots(found).items()}  # noqa: S704 - our own SVG
    with replacing(path) as temporary:
        temporary.write_text(templates.get_template("drift.html.j2").render(found=found, plots=plots, number=number))


def shown(found: Mapping[str, Any]) -> str:
    """Table, estimates and verdict, for a terminal."""
    lines = [f"{found['texts']:,} texts of {found['input']} against {found['reference_texts']:,} of the corpus", ""]
    lines.append(f"{'measure':<11} {'corpus':>8} {'new':>8} {'PSI':>6} {'p':>8}  verdict")
    for row in found["measures"]:
        sides = f"{number(row['reference']):>8} {number(row['batch']):>8}"
        lines.append(
            f"{row['measure']:<11} {sides} {row['psi']:6.3f} {row['p_value']:8.1g}  {row['verdict']:<8} {row['what']}"
        )
    lines += ["", *_accuracy(found), "", verdict(found)]
    return "\n".join(lines)


def verdict(found: Mapping[str, Any]) -> str:
    """The sentence that a reader wants first."""
    of = {kind: [r["measure"] for r in found["measures"] if r["verdict"] == kind] for kind in ("drift", "differs")}
    if of["drift"]:
        return f"drift: {', '.join(of['drift'])}"
    if of["differs"]:
        return f"no drift; small differences that are no chance: {', '.join(of['differs'])}"
    return "no drift was found"


def number(value: float | None) -> str:
    """Three digits that count; empty for nothing."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _accuracy(found: Mapping[str, Any]) -> list[str]:
    if (gold := found["gold"]) is None:
        return ["accuracy can't be estimated: the model has no evaluated texts"]
    what = "accuracy" if gold["reference"] == "gold" else "agreement with the LLM"
    lines = [f"{what} on {gold['texts']:,} texts of {gold['split']}: {gold['accuracy']:.3f}; on the new ones probably,"]
    for row in found["estimates"]:
        effective = row["effective_texts"]
        note = "" if effective is None else f"; worth {effective:,.0f} gold texts"
        note += ": too few, don't rely on it" if effective is not None and effective < _FEW else ""
        interval = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"  {row['name']:<14} {interval}  if {row['assumes']}{note}")
    return [*lines, "intervals are of chance alone: they do not cover a false assumption"]


def _plots(found: Mapping[str, Any]) -> dict[str, str]:
    plots = {}
    for name, counts in found["counts"].items():
        ticks = found["labels"] if name == "labels" else _ticks(found["edges"][name])
        if len(ticks) <= _MOST_BARS:
            plots[name] = plotting.two_samples(ticks, counts["reference"], counts["batch"], f"drift of {name}")
    return plots


def _ticks(edges: Sequence[float]) -> list[str]:
    """Bins of the corpus's deciles by their ends."""
    if not edges:
        return ["all"]
    inner = [f"to {edge:.3g}" for edge in edges[1:]]
    return [f"< {edges[0]:.3g}", *inner, f"≥ {edges[-1]:.3g}"]
