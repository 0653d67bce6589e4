"""models, promote, rollback and label-text: what a person does with registered models.

Each returns the text that the command line prints. MLflow takes two seconds to import: only inside the functions.
"""

import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.registry import Registry, Version

CHALLENGER, CHAMPION = "challenger", "champion"
_SHOWN = 5  # labels of a text


def models() -> str:
    """List the registered versions: aliases, accuracy, and what the gate said."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    registry = _registry()
    aliases = registry.aliases()
    versions = registry.versions()
    if not versions:
        return f"'{registry.name}' has no version yet at {registry.uri}: run `dvc repro`"
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("version", "alias", "candidate", "validation", "test", "created", "gate"):
        table.add_column(column, overflow="fold")
    for version in versions:
        tags, number = version.tags, str(version.version)
        created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        held = ", ".join(sorted(alias for alias, holder in aliases.items() if holder == number))
        cells = (
            f"v{number}", held, tags.get("candidate", "?"), tags.get("validation_accuracy", "?"),
            _interval(tags.get("test_accuracy")), f"{created:%Y-%m-%d %H:%M}", _story(version),
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    console = Console(file=io.StringIO(), width=160)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def promote(version: str = CHALLENGER, *, force: bool = False) -> str:
    """Make a version the champion, if the gate let it pass.

    Parameters
    ----------
    version
        Number or alias.
    force
        Promote although the gate refused, or never judged.
    """
    registry = _registry()
    found = registry.get(version.removeprefix("v"))
    if found is None:
        raise UserError(f"'{registry.name}' has no version '{version}': `llambert models` lists them")
    reasons = _reasons(found)
    if reasons and not force:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise UserError(f"the gate refuses v{found.version}:\n{listed}\n`--force` promotes it all the same")
    registry.promote(found)
    registry.tag(found, {"promoted_at": datetime.now(UTC).isoformat(timespec="seconds"), "forced": str(bool(reasons))})
    return f"v{found.version} of {registry.name} is champion; `llambert rollback` takes it back"


def rollback() -> str:
    """Give the alias `champion` back to the version that had it before. Repeated, it goes further back."""
    registry = _registry()
    before, after = registry.rollback()
    return f"v{after} of {registry.name} is champion again, v{before} no more"


def label_text(*texts: str) -> str:
    """Label texts with the champion, and show the probability of each label.

    Parameters
    ----------
    texts
        One or more, each in quotes.
    """
    from serving.engine import Engine

    if not texts or not all(text.strip() for text in texts):
        raise UserError('give one or more texts that are not empty: llambert label-text "A fine film."')
    registry = _registry()
    champion = registry.get(CHAMPION)
    if champion is None:
        raise UserError(
            f"'{registry.name}' has no champion: run `dvc repro`; `llambert models` says what the gate found"
        )
    engine = Engine.open(registry.download(champion), params.load().label.precision)
    probabilities = engine.classify(texts)
    decided = engine.shape.decide(probabilities)
    scores = decided.scores if decided.scores is not None else [None] * len(texts)
    lines = []
    for text, row, label, score in zip(texts, probabilities.tolist(), decided.labels, scores, strict=True):
        ranked = sorted(zip(row, engine.labels, strict=True), reverse=True)
        parts = [f"{name} {probability:.3f}" for probability, name in ranked[:_SHOWN]]
        parts += [f"and {len(ranked) - _SHOWN} less likely ones"] * (len(ranked) > _SHOWN)
        said = [f"{label}:"] * (engine.shape.kind == "multi") + ([] if score is None else [f"score {score:.2f}:"])
        shown = text if len(text) <= 60 else f"{text[:59]}…"
        lines.append("  ".join([*said, *parts]) + f"  | {shown}")
    return "\n".join(lines)


def _registry() -> "Registry":
    from pipeline.registry import Registry

    return Registry(params.load().register_)


def _reasons(version: "Version") -> list[str]:
    from pipeline.registering import Verdict

    if "verdict" not in version.tags:
        return ["the gate has not judged it: run the stage register"]
    return Verdict.from_json(version.tags["verdict"]).reasons


def _story(version: "Version") -> str:
    reasons = _reasons(version)
    when = version.tags.get("promoted_at", "")[:16].replace("T", " ")
    if when:
        return f"promoted {when}" + (" by force" if version.tags.get("forced") == "True" else "")
    return f"refused: {'; '.join(reasons)}" if reasons else "passed"


def _interval(value: str | None) -> str:
    measured = json.loads(value or "null")
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**measured) if measured else "no gold"
