"""Who labelled what under an error target, and what other targets would come to."""

from collections.abc import Mapping
from typing import Any

from pipeline.sections.base import Grid, Section
from serving.estimating import amount

_ROUTES = {
    "encoder": "the encoder, sure enough",
    "llm": "the LLM, where the encoder was not",
    "person": "people",
    "waiting": "waiting for people (the label kept so far is the likelier one)",
}
_SHOWN = 8  # other targets


def section(figures: Mapping[str, Any]) -> Section:
    """The section of metrics/defer.json."""
    gold, routes, rows = figures["gold"], figures["routes"], figures["rows"]
    target, confidence = f"{figures['target_error']:.1%}", f"{figures['confidence']:.0%}"
    holds = f"at most {target} of the final labels are wrong, with {confidence} confidence"
    if routes["waiting"]:
        holds = f"once people have answered the {routes['waiting']:,} texts that wait for them, {holds}"
    paragraphs = [
        f"{holds[0].upper()}{holds[1:]}, people's labels taken as right. {gold['texts']} gold texts tested it: "
        f"{gold['wrong']} are labelled wrongly at these thresholds, {gold['allowed']} may be.",
        f"The LLM's answers for this cost {amount(figures['money'])} {figures['currency']}; people, at the price in "
        f"label.person_price, {amount(figures['people_money'])} {figures['currency']}.",
    ]
    if figures["unclear"]:
        paragraphs.append(f"People called {figures['unclear']:,} texts unclear; these keep the label they had.")
    who = Grid(
        ("labelled by", "texts", "share"),
        [(_ROUTES[name], f"{count:,}", f"{count / rows:.1%}") for name, count in routes.items()],
    )
    found = figures["other_targets"]
    others = Grid(
        ("error target", "encoder", "LLM", "people", "cost of a text"),
        [
            (f"{row['target']:.1%}", *(f"{row[name]:.1%}" for name in ("encoder", "llm", "person")),
             amount(row["cost_per_text"]))
            for row in found[:: max(1, -(-len(found) // _SHOWN))]
        ],
        left=0,
        note="The smallest target that each plan would have kept with the same gold; shares are of held-out texts. "
        "A target chosen in view of this table is not certified by this gold: draw more.",
    )  # fmt: skip
    return Section("Error target", paragraphs, [who, others])
