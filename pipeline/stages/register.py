"""register: models/* + metrics + export/ -> MLflow runs, a registered version, a verdict, metrics/register.json

The gate judges what will be served: the exported graph in `label.precision`, on validation texts. The only stage that
needs a tracking server. Killed or repeated, it finds what it has done by content and does the rest.
"""

import json
import logging
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import model_card, registering
from pipeline.artifacts import BEST, EXPORT, GOLD, LABELS, MODELS, PREDICTIONS, SAMPLE, Json, metrics
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.registering import Check, Verdict
from pipeline.registry import CHAMPION, Registry, Version
from serving.files import sha256

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Log every candidate, register the best, and let the gate decide."""
    best, manifest = BEST.read(), Json(EXPORT / "manifest.json").read()
    if manifest["candidate"] != best["candidate"]:
        raise UserError(
            f"{EXPORT} holds {manifest['candidate']}, but {best['candidate']} is best: run the stage export"
        )
    evaluation, registry = metrics("evaluate").read(), Registry(params.register_)
    runs = _log_candidates(registry, params, evaluation)
    card = model_card.render(params, best, evaluation, manifest, metrics("annotate").read()["model"])
    example, run_id = [next(iter(SAMPLE)).text], runs[best["candidate"]]
    version = registry.add(EXPORT, manifest["model_hash"], run_id, card, example, params.label.precision)
    test = (evaluation["test"] or {}).get("candidates", {}).get(best["candidate"], {}).get("accuracy")
    registry.tag(
        version,
        {
            "candidate": best["candidate"],
            "params_hash": registering.key(_dump(params)),
            "validation_accuracy": f"{best['accuracy']:.4f}",
            "test_accuracy": json.dumps(test),
            "run_id": run_id,
        },
    )
    registry.challenge(version)
    verdict = _decide(registry, version, params, best)
    promoted = registry.aliases().get(CHAMPION) == str(version.version)
    reasons = verdict.reasons or ["a person has moved the alias since; `llambert promote` moves it here"]
    metrics("register").write(
        {
            "model_name": registry.name,
            "version": str(version.version),
            "run_id": run_id,
            "promoted": promoted,
            "reasons": [] if promoted else reasons,
            "checks": {c.name: {"passed": c.passed, "sentence": c.sentence, **c.figures} for c in verdict.checks},
        }
    )
    log.info("register: %s v%s is %s", registry.name, version.version, "champion" if promoted else "challenger only")
    for reason in [] if promoted else reasons:
        log.info("  not promoted: %s", reason)


def _log_candidates(registry: Registry, params: Params, evaluation: dict[str, Any]) -> dict[str, str]:
    """A run for this pipeline run and one in it for each candidate; candidate -> run id."""
    facts = {name: Json(MODELS / name / "candidate.json").read() for name in params.candidates}
    data = {f"data.{table.path.stem}": sha256(table.path) for table in (LABELS, GOLD, SAMPLE)}
    common = {"sample.size": str(params.sample.size), "sample.seed": str(params.sample.seed), **data}
    git = _commit()
    whole = registering.key(_dump(params), data, facts, evaluation)
    tags = {"mlflow.source.git.commit": git} if git else {}
    about = registering.flat({name: block for name, block in _dump(params).items() if name != "encoders"}) | common
    parent = registry.log_run(whole, {"mlflow.runName": f"pipeline-{whole[:8]}", **tags}, about)
    runs = {}
    for name, fact in facts.items():
        about = registering.flat(_dump(params)["encoders"][fact["encoder"]], "encoder.") | common
        about |= {"recipe": fact["recipe"], "seed": str(fact["seed"])} | registering.flat(fact["texts"], "texts.")
        values = [(metric, value, 0) for metric, value in registering.figures(evaluation, name).items()]
        values += [*registering.curves(fact["history"]), ("seconds", float(fact["seconds"]), 0)]
        named = {"mlflow.runName": name, "mlflow.parentRunId": parent, "candidate": name, **tags}
        runs[name] = registry.log_run(registering.key(whole, name), named, about, values)
    return runs


def _decide(registry: Registry, version: Version, params: Params, best: dict[str, Any]) -> Verdict:
    """The recorded verdict on this version where the question is the same, else a new one; move the alias once."""
    rows = [row for row in PREDICTIONS if row.set == "validation" and row.candidate == best["candidate"]]
    question = registering.key(
        params.register_.model_dump(), params.label.precision, best, [[row.id, row.reference] for row in rows]
    )
    version = registry.get(str(version.version))
    if version.tags.get("question") == question:
        verdict = Verdict.from_json(version.tags["verdict"])
    else:
        verdict = _judge(registry, version, params, best, {row.id: row.reference for row in rows})
        registry.tag(version, {"verdict": verdict.to_json(), "question": question})
    if verdict.passed and version.tags.get("promoted_by") != question:
        registry.promote(version)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        registry.tag(version, {"promoted_at": now, "promoted_by": question})
    return verdict


def _judge(
    registry: Registry, version: Version, params: Params, best: dict[str, Any], references: dict[str, str]
) -> Verdict:
    source = (g for g in GOLD if g.split == "validation") if best["reference"] == "gold" else iter(SAMPLE)
    texts = {row.id: row.text for row in source if row.id in references}
    reference = np.array([references[id_] for id_ in texts])
    said = np.array(_labels(EXPORT, params, list(texts.values())))
    gate = params.register_
    checks = [
        registering.not_collapsed(said.tolist(), reference.tolist(), gate.min_predicted_share, params.task.shape),
        registering.beats_tfidf(float((said == reference).mean()), best["tfidf_accuracy"], gate.min_gain_over_tfidf),
    ]
    champion = registry.get(CHAMPION)
    if champion is None or champion.version == version.version:
        return Verdict((*checks, registering.no_champion()))
    return Verdict((*checks, _against(champion, registry, params, list(texts.values()), reference, said)))


def _against(
    champion: Version,
    registry: Registry,
    params: Params,
    texts: list[str],
    reference: NDArray[np.str_],
    said: NDArray[np.str_],
) -> Check:
    number = str(champion.version)
    try:
        directory = registry.download(champion)
        manifest = Json(directory / "manifest.json").read()
        theirs, kind = manifest["labels"], manifest.get("kind", "single")
        before = np.array(_labels(directory, params, texts))
    except UserError as error:
        return registering.incomparable(number, str(error))
    if kind != params.task.kind:
        return registering.incomparable(number, f"it is of task.kind {kind}, this model of {params.task.kind}")
    if set(theirs) != set(params.task.names):
        return registering.incomparable(number, f"it has the labels {theirs}, this model has {params.task.names}")
    return registering.beats_champion(
        said == reference, before == reference, number, params.register_.min_gain_over_champion
    )


def _labels(directory: Path, params: Params, texts: Sequence[str]) -> list[str]:
    from serving.engine import Engine

    has = Json(directory / "manifest.json").read()["precisions"]
    precision = params.label.precision if params.label.precision in has else next(iter(has))
    engine = Engine.open(directory, precision, max_batch_tokens=params.label.max_batch_tokens)
    return engine.shape.decide(engine.classify(texts)).labels


def _dump(params: Params) -> dict[str, Any]:
    return params.model_dump(mode="json", by_alias=True)


def _commit() -> str | None:
    if shutil.which("git") is None:
        return None
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None
