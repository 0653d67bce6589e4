"""The README.md that travels with a registered model."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline import measuring
from pipeline.params import Params


def render(
    params: Params, best: dict[str, Any], evaluation: dict[str, Any], manifest: dict[str, Any], teacher: str
) -> str:
    """Model card in Markdown.

    Args:
        params: of the run.
        best: data/best.json.
        evaluation: metrics/evaluate.json.
        manifest: export/manifest.json.
        teacher: model that gave the labels.
    """
    templates = Environment(  # noqa: S701 - Markdown, which is not rendered here
        loader=PackageLoader("pipeline", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    test = evaluation["test"]
    return templates.get_template("model_card.md.j2").render(
        params=params,
        best=best,
        encoder=params.encoders[best["candidate"].rsplit("-", 2)[0]],
        recipe=best["candidate"].rsplit("-", 2)[1],
        manifest=manifest,
        teacher=teacher,
        shown={"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
        | {name: title.replace("<br>", " ") for name, title in measuring.of(params.task.kind, []).shown.items()},
        test=test,
        scores=test["candidates"][best["candidate"]] if test else None,
        agreement=evaluation["held_out"]["candidates"][best["candidate"]]["agreement_with_llm"],
        held_out=evaluation["held_out"]["texts"],
    )
