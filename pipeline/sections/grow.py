"""Rounds of annotation: what each brought and cost, and why there was no further one."""

from collections.abc import Mapping
from typing import Any

from pipeline import plotting
from pipeline.sections.base import Grid, Section
from serving.estimating import amount

_HEADER = ("round", "texts", "of them uniform", "agreement", "gain", "p", "seen from", "tokens", "spent")


def section(figures: Mapping[str, Any]) -> Section:
    """The rounds of metrics/grow.json."""
    rounds = figures["rounds"]
    grid = Grid(
        _HEADER,
        [_row(number, row) for number, row in enumerate(rounds, 1)],
        note="Agreement with the LLM on held-out texts, which are uniform and never trained on, with its interval. "
        "The gain is over the last round that gained; p: how often chance alone gives as much (one-sided McNemar test, "
        "mid p). A gain as large as 'seen from' would be found four times of five; smaller ones may have been missed.",
    )
    last = rounds[-1]
    why = {
        "saturation": f"the last {last['idle']} brought no gain that stands out from its own noise",
        "sample.size": "sample.size is reached; more texts may still help",
    }.get(figures["stopped"], f"{figures['stopped']} is reached; more texts may still help")
    said = f"{last['texts']:,} texts were labelled in {len(rounds)} complete rounds ({figures['strategy']}): {why}."
    plots = {"Agreement by texts labelled": plotting.rounds(rounds)}
    return Section("Rounds", [said], [grid], plots)


def _row(number: int, row: Mapping[str, Any]) -> tuple[str, ...]:
    gain = row["gain"]
    gained = (f"{gain['value']:+.3f}", f"{gain['p_value']:.2f}", f"{gain['detectable']:.3f}") if gain else ("", "", "")
    score = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["score"])
    spent = "unknown" if row["money"] is None else amount(row["money"])
    return (str(number), f"{row['texts']:,}", f"{row['uniform']:,}", score, *gained, f"{row['tokens']:,}", spent)
