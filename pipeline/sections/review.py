"""What people say of the errors on test gold: Table 3 of the paper (arXiv 2403.15938), and whom people side with."""

from collections.abc import Mapping
from typing import Any

from pipeline.reviewing import UNCLEAR
from pipeline.sections.base import Grid, Section

_MOST_LABELS = 12  # a wider table is not read
_SIDES = {"model": "the model", "gold": "gold", "another": "another label", UNCLEAR: "unclear or mixed"}


def section(figures: Mapping[str, Any]) -> Section | None:
    """The section, once somebody has looked at an error."""
    if not figures["reviewed"]:
        return None
    seen, total = figures["reviewed"], figures["errors"]
    text = f"People looked at {seen:,} of {total:,} errors of {figures['candidate']} on test gold"
    people = ", ".join(f"{name} at {count:,}" for name, count in sorted(figures["reviewers"].items()))
    paragraphs = [f"{text} ({people})."]
    paragraphs += [_agreed(pair) for pair in figures["agreement"]]
    if figures["contested"]:
        paragraphs.append(f"{figures['contested']:,} more, on which they differ, are not counted.")
    grids = [_table(figures["table"])] if len(figures["table"]) <= _MOST_LABELS else []
    return Section("Errors seen by people", paragraphs, [*grids, _sides(figures["sides"], exact=seen == total)])


def _agreed(pair: Mapping[str, Any]) -> str:
    one, other = pair["reviewers"]
    kappa = "" if pair["kappa"] is None else f" (Cohen's kappa {pair['kappa']:.2f})"
    return f"{one} and {other} agree on {pair['agree']:.1%} of the {pair['items']:,} items that both labelled{kappa}."


def _table(counts: Mapping[str, Mapping[str, int]]) -> Grid:
    people = list(dict.fromkeys(person for row in counts.values() for person in row))
    header = ["the model said", *(f"a person: {person}" for person in people)]
    rows = [[model, *(f"{row[person]:,}" for person in people)] for model, row in counts.items()]
    return Grid(header, rows, note="Every text here is one on which the model and gold differ.")


def _sides(sides: Mapping[str, Mapping[str, float]], *, exact: bool) -> Grid:
    rows = [
        [
            _SIDES[side],
            f"{n['count']:,}",
            f"{n['value']:.3f}" + ("" if exact else f" [{n['low']:.3f}, {n['high']:.3f}]"),
        ]
        for side, n in sides.items()
    ]
    note = (
        "All errors."
        if exact
        else "Wilson intervals; they hold if the texts were drawn uniformly and none was skipped."
    )
    return Grid(["people side with", "errors", "share"], rows, note=note)
