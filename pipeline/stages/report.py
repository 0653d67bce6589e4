"""report: metrics + rows -> report.html, one page that needs nothing else, and metrics.json, the figures in short."""

import logging
import platform
import shutil
import subprocess
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline import __version__, dag, reporting, sections
from pipeline.artifacts import (
    BEST,
    EXPORT,
    GOLD,
    MODELS,
    PREDICTIONS,
    REJECTED,
    REPORT,
    RESPONSES,
    SAMPLE,
    SUMMARY,
    TEACHER,
    UNUSABLE,
    Json,
    metrics,
)
from pipeline.params import Params
from pipeline.reporting import Rows
from pipeline.sections.base import Section
from serving import estimating
from serving.files import replacing

log = logging.getLogger("llambert")
_STAGES = ("ingest", "sample", "annotate", "parse", "evaluate", "export", "register", "label")
_EXCERPT = 400  # characters of a text that are shown


def run(params: Params) -> None:
    """Read what the stages wrote, render, and log where the page is with the three numbers."""
    ran = [*_STAGES, *(["consult"] if params.annotators else [])]
    stages, best = {stage: metrics(stage).read() for stage in ran}, BEST.read()
    gold = stages["evaluate"]["test"] is not None
    content = reporting.content(params, stages, best, _rows(params, best["candidate"], gold))
    with replacing(REPORT) as temporary:
        temporary.write_text(render(content | {"sections": _sections(params)}))
    SUMMARY.write(reporting.summary(stages, best))
    for headline in content["headlines"]:
        log.info("%s", headline)
    if not gold:
        log.info("no gold for testing: agreement with the LLM is not accuracy")
    log.info("%-8s %s", "report", REPORT)


def render(content: dict[str, Any]) -> str:
    """The page. Texts, labels and answers are data: Jinja2 escapes all but our own SVG."""
    templates = Environment(
        loader=PackageLoader("pipeline", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"interval": reporting.interval, "duration": estimating.duration, "excerpt": excerpt}
    plots = {title: Markup(svg) for title, svg in content["plots"].items()}  # noqa: S704 - matplotlib escapes its texts
    templates.filters["drawn"] = Markup
    return templates.get_template("report.html.j2").render({"sections": []} | content | {"plots": plots})


def _sections(params: Params) -> list[Section]:
    """Of the stages that params.yaml wants and that were run; a stage that was taken out leaves its metrics behind.

    A review is no stage: people make it.
    """
    wanted = [
        stage for stage in (*dag.stages(params), "review") if stage in sections.ALL and metrics(stage).path.is_file()
    ]
    found = [sections.ALL[stage](metrics(stage).read()) for stage in wanted]
    return [section for section in found if section is not None]


def excerpt(text: str | None) -> str:
    """Head and tail of a long text."""
    if text is None:
        return ""
    half = _EXCERPT // 2
    return text if len(text) <= _EXCERPT else f"{text[:half]} […] {text[-half:]}"


def _rows(params: Params, candidate: str, gold: bool) -> Rows:
    shown = "test" if gold else "held_out"
    sampled = {row.id: row.text for row in SAMPLE}
    rejected = [row for row, _ in zip(REJECTED, range(params.report.examples), strict=False)]
    return Rows(
        predictions=[row for row in PREDICTIONS if row.candidate == candidate and row.set == shown],
        texts={row.id: row.text for row in GOLD if row.split == "test"} if gold else sampled,
        teacher={row.id: row.label for row in TEACHER},
        rejected=[{"reason": r.reason, "answer": r.answer, "text": sampled.get(r.id)} for r in rejected],
        unusable=[
            {"place": f"{row.source}, row {row.row}", "reason": row.reason, "excerpt": row.excerpt}
            for row, _ in zip(UNUSABLE, range(params.report.examples), strict=False)
        ],
        candidates=[Json(MODELS / name / "candidate.json").read() for name in params.candidates],
        provenance=_provenance(),
    )


def _provenance() -> dict[str, str]:
    git = shutil.which("git") and subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return {
        "git": (git and git.stdout.strip()) or "no commit",
        "model": str(Json(EXPORT / "manifest.json").read()["model_hash"])[:16],
        "prompt": next((row.prompt_hash[:16] for row in RESPONSES), "none"),
        "versions": ", ".join(
            [f"llambert {__version__}", f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime", "scikit-learn")]
        ),
    }
