"""train: sample + labels + gold -> models/<candidate>/ + plots/learning/<candidate>.csv

A candidate is ENCODER-RECIPE-SEED. Checkpoints live outside DVC's outs, under a hash of all that shapes the result.
"""

import csv
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import gold as people
from pipeline import learning, sampling, training
from pipeline.artifacts import CHECKPOINTS, CORPUS, GOLD, LABELS, MODELS, PLOTS, SAMPLE, Gold, Json
from pipeline.errors import UserError
from pipeline.learning import Learner
from pipeline.params import Params
from pipeline.training import Data
from serving.files import replacing

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
    learner = Learner(name, encoder, int(seed), data.labels, _unlabelled, kind=data.kind)
    teachers = CHECKPOINTS / f"{candidate}.teachers"
    if recipe in training.TAUGHT and params.train.student:
        phases = learning.taught(recipe, _teachers(learner, params, teachers), phases, params.train.student)
    target = MODELS / candidate
    built = CHECKPOINTS / f"{candidate}.built"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    learning.discard(target)
    details = learner.learn(phases, built)
    facts: dict[str, Any] = {
        "candidate": candidate, "encoder": name, "kind": encoder.kind, "recipe": recipe, "seed": int(seed),
        "labels": data.labels, "task": data.kind, "history": [],
        "texts": {phase.name: len(phase.train) for phase in phases},
    }  # fmt: skip
    facts |= {"seconds": time.perf_counter() - start} | details
    Json(built / "candidate.json").write(facts)
    _write_curve(candidate, facts["history"])
    target.parent.mkdir(exist_ok=True)
    built.rename(target)
    for done in (CHECKPOINTS / facts["fingerprint"], teachers):
        learning.discard(done)
    log.info("train: %s from %s, %.0f s", candidate, facts["texts"], facts["seconds"])


def _data(params: Params) -> Data:
    gold = list(GOLD)
    sample = list(SAMPLE)
    evaluation = {row.text_hash for row in gold if row.split != "train"}
    if params.train.gold_sampled_only:
        hashes = {row.text_hash for row in sample}
        gold = [row for row in gold if row.split != "train" or row.text_hash in hashes]
    strong: list[Gold] = []
    if params.train.strong is not None:
        read = people.read(params.train.strong, "train", params.task, params.ingest.max_chars, "train.strong")
        strong = [row for row in read[0] if row.text_hash not in evaluation]
    return Data(
        params.task.names, {row.id: row.text for row in sample}, list(LABELS), gold, strong, kind=params.task.kind
    )


def _unlabelled(count: int) -> list[str]:
    """Distinct texts of the corpus that nobody labelled and nothing is evaluated on; the same ones every time."""
    known = {row.text_hash for table in (GOLD, SAMPLE) for row in table}
    return [document.text for document in sampling.draw(CORPUS, count, 0, known)[0]]


def _teachers(student: Learner, params: Params, place: Path) -> list[Learner]:
    """Who teaches: the student's own encoder, and TF-IDF beside it."""
    beside = params.train.student and params.train.student.beside
    own = replace(student, place=place)
    return [own, replace(own, name="beside", encoder=beside)] if beside and student.encoder.kind != "tfidf" else [own]


def _write_curve(candidate: str, history: list[dict[str, Any]]) -> None:
    with replacing(PLOTS / "learning" / f"{candidate}.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, _CURVE, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
