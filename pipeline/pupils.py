"""What a candidate says of texts after a round: trained once, and kept for when the run is killed."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import training, weights
from pipeline.artifacts import CHECKPOINTS, LEARNT
from pipeline.learning import Learner, discard
from pipeline.params import Tfidf, Transformer
from pipeline.scoring import Floats
from pipeline.training import Phase
from serving.files import replacing


@dataclass(frozen=True)
class Learnt:
    """Probabilities (texts, labels), and what they took."""

    probabilities: Floats
    seconds: float


def learn(encoder: Tfidf | Transformer, labels: list[str], phase: Phase, texts: Sequence[str], seed: int) -> Learnt:
    """Train on a phase and predict `texts`, unless that was done before; weights start as they were published."""
    if isinstance(encoder, Transformer):
        encoder = encoder.model_copy(update={"adapt": None})
    settings = encoder.model_dump(mode="json") | {"seed": seed, "labels": labels}
    base = weights.identity(encoder.model) if isinstance(encoder, Transformer) else encoder.kind
    trained = training.fingerprint(base, phase, settings)
    asked = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    kept = LEARNT / f"{trained}-{asked[:16]}.npz"
    if not kept.exists():
        start, work = time.perf_counter(), CHECKPOINTS / f"round-{trained}"
        learner = Learner("", encoder, seed, labels, lambda size: [], work)
        found = learner.opinion([phase], list(texts))
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, probabilities=found, seconds=time.perf_counter() - start)
        discard(work)
    with np.load(kept) as stored:
        return Learnt(stored["probabilities"], float(stored["seconds"]))
