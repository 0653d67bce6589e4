"""The texts of a project that later ones are compared with, and its model's answers whose truth is known.

Texts that the model was trained on are no reference: it is surer of them than of others like them.
"""

import logging
from typing import Any

import numpy as np

from pipeline import sampling
from pipeline.artifacts import CORPUS, PREDICTIONS, SAMPLE, Document, Prediction
from pipeline.params import Params
from serving import profiles
from serving.drifting import MIN_TEXTS
from serving.engine import Engine
from serving.profiles import Profile, Scored
from serving.shapes import softmax

log = logging.getLogger("llambert")
_SEED = 9  # another one than that of the sample and of the parity texts
_OTHERS = 4  # texts that tokens and directions come from, for each of the reference
_MOST_SCORED = 5000


def draw(size: int) -> list[Document]:
    """Distinct texts of the corpus, uniformly, none of which the LLM labelled; the same ones every time."""
    sampled = frozenset(row.text_hash for row in SAMPLE)
    documents, _ = sampling.draw(CORPUS, size, _SEED, sampled)
    return documents


def describe(engine: Engine, best: dict[str, Any], params: Params) -> Profile | None:
    """The profile that travels with the model; None where it is not wanted or the corpus is too small."""
    if not (size := params.export.reference_texts):
        return None
    documents = draw(2 * size)
    documents = documents[: min(size, len(documents) // 2)]  # of few, half are left for tokens and directions
    hashes = frozenset(document.text_hash for document in documents)
    if len(documents) < MIN_TEXTS:
        log.info("export: %d texts of the corpus are not sampled: too few for a profile of drift", 2 * len(documents))
        return None
    others, _ = sampling.draw(CORPUS, _OTHERS * len(documents), _SEED, hashes)
    texts, rest = ([document.text for document in part] for part in (documents, others))
    return profiles.make(engine, texts, rest, scored(best, params.task.names))


def evaluated(candidate: str) -> tuple[str, list[Prediction]]:
    """The answers of a candidate to test gold, else to what it was chosen on, and which of the two it is."""
    rows = [row for row in PREDICTIONS if row.candidate == candidate]
    split = "test" if any(row.set == "test" for row in rows) else "validation"
    return split, [row for row in rows if row.set == split]


def scored(best: dict[str, Any], labels: list[str]) -> Scored | None:
    """How sure the best candidate is of evaluated texts, and whether it is right. Of many, an even part."""
    split, rows = evaluated(best["candidate"])
    rows = rows[:: -(-len(rows) // _MOST_SCORED) or 1]
    if not rows:
        return None
    probabilities = softmax(np.array([row.logits for row in rows]) / best["temperature"])
    return Scored.model_validate(
        {
            "reference": "gold" if split == "test" else best["reference"],
            "split": split,
            "confidence": probabilities.max(axis=1).round(6).tolist(),
            "predicted": probabilities.argmax(axis=1).tolist(),
            "actual": [labels.index(row.reference) for row in rows],
        }
    )
