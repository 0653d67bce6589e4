"""A toy model whose profile is of short film reviews, and texts that are like them or not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import toy_project

from serving import profiles
from serving.engine import Engine
from serving.files import sha256
from serving.models import DRIFT, GOLDEN, MANIFEST
from serving.profiles import Profile, Scored
from serving.schemas import Manifest

WEIGHTS = {"good": 1.0, "fine": 0.5, "bad": -1.0, "dull": -0.4, "film": 0.1}
_SHARES = [0.2, 0.15, 0.2, 0.15, 0.25, 0.05]


def texts(count: int, seed: int, shares: list[float] = _SHARES, words: int = 6) -> list[str]:
    """Words drawn by their shares; `odd` is in no vocabulary."""
    random = np.random.default_rng(seed)
    lengths = random.poisson(words, count) + 1
    return [" ".join(random.choice(["good", "fine", "bad", "dull", "film", "odd"], n, p=shares)) for n in lengths]


def others(count: int, seed: int = 5) -> list[str]:
    """Longer, happier texts of words that the corpus hardly has."""
    return texts(count, seed, [0.3, 0.2, 0.05, 0.05, 0.1, 0.3], words=12)


def described(directory: Path, reference: int = 600) -> Profile:
    """Write the model with its profile, as the stage export does."""
    toy_project.toy_export(directory, WEIGHTS)
    engine = Engine.open(directory, "fp32")
    gold = texts(400, 77)
    p = engine.classify(gold)
    actual = (np.random.default_rng(3).random(400) < p[:, 1]).astype(int)  # perfectly calibrated
    known = {"confidence": p.max(1).tolist(), "predicted": p.argmax(1).tolist(), "actual": actual.tolist()}
    scored = Scored.model_validate({"reference": "gold", "split": "test", **known})
    profile = profiles.make(engine, texts(reference, 1), texts(4 * reference, 2), scored)
    (directory / DRIFT).write_text(profile.model_dump_json())
    manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    golden = {"text": ["good"], "fp32 onnxruntime": [engine.classify(["good"])[0].tolist()]}
    pq.write_table(pa.table(golden), directory / GOLDEN)
    hashes = {"drift": sha256(directory / DRIFT), "golden": sha256(directory / GOLDEN)}
    sealed = manifest.model_copy(update=hashes)
    (directory / MANIFEST).write_text(sealed.model_dump_json())
    return profile


def bins(directory: Path, profile: Profile, some: list[str]) -> np.ndarray:
    """What a batch counts as."""
    engine = Engine.open(directory, "fp32")
    return profile.binned(profiles.numbers(profile, some, *engine.pieces(some), engine.classify(some)))
