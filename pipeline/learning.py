"""What a candidate says of texts after a round: trained once, and kept for when the run is killed."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import training, weights
from pipeline.artifacts import CHECKPOINTS, LEARNT
from pipeline.params import Tfidf, Transformer
from pipeline.scoring import Floats, softmax
from pipeline.training import Phase
from serving.files import replacing


@dataclass(frozen=True)
class Learnt:
    """Probabilities (texts, labels), and what they took."""

    probabilities: Floats
    seconds: float


def learn(encoder: Tfidf | Transformer, labels: list[str], phase: Phase, texts: Sequence[str], seed: int) -> Learnt:
    """Train on a phase and predict `texts`, unless that was done before."""
    settings = encoder.model_dump(mode="json") | {"seed": seed, "labels": labels}
    base = weights.identity(encoder.model) if isinstance(encoder, Transformer) else encoder.kind
    trained = training.fingerprint(base, phase, settings)
    asked = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    kept = LEARNT / f"{trained}-{asked[:16]}.npz"
    if not kept.exists():
        start = time.perf_counter()
        found = softmax(_logits(encoder, labels, phase, list(texts), seed, trained))
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, probabilities=found, seconds=time.perf_counter() - start)
    with np.load(kept) as stored:
        return Learnt(stored["probabilities"], float(stored["seconds"]))


def _logits(
    encoder: Tfidf | Transformer, labels: list[str], phase: Phase, texts: list[str], seed: int, trained: str
) -> Floats:
    if isinstance(encoder, Tfidf):
        from pipeline import tfidf

        found: Floats = tfidf.fit(encoder, phase.train, seed).predict_log_proba(texts)
        return found
    from pipeline import finetuning

    work = CHECKPOINTS / trained
    start = str(weights.encoder_directory(encoder.model))
    finetuning.fit(encoder, labels, start, phase, seed, work, work / "model")
    found = finetuning.logits(work / "model", texts, encoder.max_tokens, encoder.truncation)
    shutil.rmtree(work)
    return found
