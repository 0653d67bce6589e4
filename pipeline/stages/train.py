"""train: sample + labels + gold -> models/<candidate>/ + plots/learning/<candidate>.csv

A candidate is ENCODER-RECIPE-SEED. Checkpoints live outside DVC's outs, under a hash of all that shapes the result.
"""

import csv
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import training, weights
from pipeline.artifacts import CHECKPOINTS, GOLD, LABELS, MODELS, PLOTS, SAMPLE, Json
from pipeline.errors import UserError
from pipeline.params import Params, Tfidf, Transformer
from pipeline.training import Data, Examples, Phase
from serving.files import replacing
from serving.shapes import Kind

log = logging.getLogger("llambert")
_CURVE = ["step", "phase", "train_loss", "validation_loss", "validation_accuracy"]


def run(params: Params, candidate: str) -> None:
    """Train one candidate and write it whole or not at all."""
    if candidate not in params.candidates:
        raise UserError(f"there is no candidate '{candidate}': params.yaml makes {', '.join(params.candidates)}")
    name, recipe, seed = candidate.rsplit("-", 2)
    encoder, start = params.encoders[name], time.perf_counter()
    data = _data(params)
    phases = data.phases(recipe, encoder.soft_labels)
    target = MODELS / candidate
    built = CHECKPOINTS / f"{candidate}.built"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    if isinstance(encoder, Tfidf):
        details = _baseline(encoder, data.kind, phases, int(seed), built)
    else:
        details = _finetune(encoder, data, phases, name, int(seed), built)
    facts: dict[str, Any] = {
        "candidate": candidate, "encoder": name, "kind": encoder.kind, "recipe": recipe, "seed": int(seed),
        "labels": data.labels, "task": data.kind, "history": [],
        "texts": {phase.name: len(phase.train) for phase in phases},
    }  # fmt: skip
    facts |= {"seconds": time.perf_counter() - start} | details
    Json(built / "candidate.json").write(facts)
    _write_curve(candidate, facts["history"])
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    built.rename(target)
    log.info("train: %s from %s, %.0f s", candidate, facts["texts"], facts["seconds"])


def _data(params: Params) -> Data:
    gold = list(GOLD)
    sample = list(SAMPLE)
    if params.train.gold_sampled_only:
        hashes = {row.text_hash for row in sample}
        gold = [row for row in gold if row.split != "train" or row.text_hash in hashes]
    return Data(params.task.names, {row.id: row.text for row in sample}, list(LABELS), gold, params.task.kind)


def _baseline(encoder: Tfidf, kind: Kind, phases: list[Phase], seed: int, built: Path) -> dict[str, Any]:
    from pipeline import tfidf

    texts = [text for phase in phases for text in phase.train.texts]
    examples = Examples(texts, np.concatenate([phase.train.targets for phase in phases]))
    tfidf.save(tfidf.fit(encoder, examples, seed, kind), built)
    settings = encoder.model_dump(mode="json") | {"seed": seed} | _of(kind)
    return {"fingerprint": training.fingerprint("tfidf", phases[-1], settings)}


def _finetune(
    encoder: Transformer, data: Data, phases: list[Phase], name: str, seed: int, built: Path
) -> dict[str, Any]:
    settings = encoder.model_dump(mode="json") | {"seed": seed, "labels": data.labels} | _of(data.kind)
    base, start = weights.identity(encoder.model), weights.encoder_directory(encoder.model)
    history: list[dict[str, Any]] = []
    seconds = 0.0
    for phase in phases:
        base = training.fingerprint(base, phase, settings)
        work = CHECKPOINTS / base
        done = Json(work / "phase.json")
        sibling = _finished(f"{name}-llm-{seed}", base) if phase is not phases[-1] else None
        if sibling is None and not done.path.exists():
            done.write(_phase(encoder, data, start, phase, seed, work))
            for checkpoint in work.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        directory, result = sibling or (work / "model", done.read())
        start = str(directory)
        history += result["history"]
        seconds += result["seconds"]
    shutil.copytree(start, built, dirs_exist_ok=True)
    shutil.rmtree(CHECKPOINTS / base)
    return {
        "fingerprint": base, "history": history, "seconds": seconds,
        "max_tokens": encoder.max_tokens, "truncation": encoder.truncation,
    }  # fmt: skip


def _of(kind: Kind) -> dict[str, str]:
    """What a fingerprint holds of the kind; nothing of single, so that those of before stay."""
    return {} if kind == "single" else {"task": kind}


def _phase(encoder: Transformer, data: Data, start: str, phase: Phase, seed: int, work: Path) -> dict[str, Any]:
    """Train a phase into `work`/model."""
    from pipeline import finetuning

    began = time.perf_counter()
    history = finetuning.fit(encoder, data.labels, start, phase, seed, work, work / "model", data.kind)
    return {"history": history, "seconds": time.perf_counter() - began}


def _finished(candidate: str, fingerprint: str) -> tuple[Path, dict[str, Any]] | None:
    """The llm candidate of the same encoder and seed, if it is exactly the first phase that is needed."""
    path = MODELS / candidate / "candidate.json"
    if not path.exists() or (facts := Json(path).read())["fingerprint"] != fingerprint:
        return None
    log.info("train: starting from %s, which learned the same LLM labels", candidate)
    return MODELS / candidate, facts


def _write_curve(candidate: str, history: list[dict[str, Any]]) -> None:
    with replacing(PLOTS / "learning" / f"{candidate}.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, _CURVE, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
