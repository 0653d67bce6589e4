"""Domain-adaptive pre-training: an encoder reads texts of the corpus with words masked, before it sees any label.

Gururangan et al. 2020, arXiv 2004.10964. The masked-word head is new where the checkpoint has none (MiniLM's), tied to
the word embeddings; it is thrown away afterwards.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from pipeline import computing, finetuning
from pipeline.errors import UserError
from pipeline.params import Adapt, Transformer
from serving.progress import progress
from serving.tokenizing import TextTokenizer

_SEED = 0  # one adapted encoder serves the candidates of all seeds
_CHECKPOINTS = 10  # a run


class _Masked(Dataset[dict[str, list[int]]]):
    """Each text `epochs` times; what is masked is a function of the place alone, so that a resumed run masks the same.

    Of the chosen words 80 % are masked, 10 % replaced by any word and 10 % left (Devlin et al. 2019, arXiv 1810.04805).
    """

    def __init__(self, ids: list[list[int]], adapt: Adapt, tokenizer: Any) -> None:  # noqa: ANN401
        self._ids, self._adapt, self._tokenizer = ids, adapt, tokenizer

    def __len__(self) -> int:
        return len(self._ids) * self._adapt.epochs

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids = np.array(self._ids[index % len(self._ids)])
        random = np.random.default_rng([_SEED, index])
        rank = random.random(len(ids)) + np.isin(ids, self._tokenizer.all_special_ids)  # those are 1 or more
        chosen = (rank < max(self._adapt.mask_share, rank.min() + 1e-9)) & (rank < 1)  # one at least
        labels, fate = np.where(chosen, ids, -100), random.random(len(ids))
        ids[chosen & (fate < 0.8)] = self._tokenizer.mask_token_id
        replaced = chosen & (fate >= 0.9)
        ids[replaced] = random.integers(0, len(self._tokenizer), int(replaced.sum()))
        return {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}


def fingerprint(start: str, params: Transformer, texts: list[str]) -> str:
    """24 hex digits over all that decides the result."""
    settings = {name: getattr(params, name) for name in ("max_tokens", "truncation", "batch_size", "dtype")}
    adapt = params.adapt.model_dump() if params.adapt else None
    return hashlib.sha256(json.dumps([start, settings, adapt, texts]).encode()).hexdigest()[:24]


def fit(params: Transformer, start: str, texts: list[str], work: Path, target: Path) -> None:
    """Train `start` (a directory or Hugging Face id) on masked `texts`; save encoder and tokenizer to `target`.

    Complete checkpoints in `work` of a killed run are gone on from. `params.adapt` must be given.

    Raises:
        UserError: the tokenizer has no mask.
    """
    adapt = params.adapt
    if adapt is None:
        raise ValueError("This is a bug: there is nothing to adapt")
    shutil.rmtree(target, ignore_errors=True)  # what a process that was killed while it saved has left
    set_seed(_SEED)
    torch.set_float32_matmul_precision("medium")
    tokenizer = AutoTokenizer.from_pretrained(start)
    if tokenizer.mask_token_id is None:
        raise UserError(f"encoder '{start}' has no mask token: take `adapt` out of its settings")
    model: Any = AutoModelForMaskedLM.from_pretrained(start, use_safetensors=True, dtype=torch.float32)
    computing.choose_attention(model, "cuda" if torch.cuda.is_available() else "cpu", params.max_tokens)
    tokenizer.save_pretrained(target)
    tokenize = TextTokenizer(target / "tokenizer.json", params.max_tokens, params.truncation)
    masked = _Masked([ids.tolist() for ids in tokenize(texts)], adapt, tokenizer)
    steps = -(-len(masked) // params.batch_size)
    every = max(steps // _CHECKPOINTS, 1)
    arguments = TrainingArguments(
        **_usual(params, work), learning_rate=adapt.learning_rate, num_train_epochs=1,
        warmup_steps=int(params.warmup_share * steps), logging_steps=every, save_strategy="steps", save_steps=every,
    )  # fmt: skip
    with progress(f"adapt to {len(texts):,} texts", steps, "steps") as advance:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=masked,
            data_collator=DataCollatorForTokenClassification(tokenizer),
            callbacks=[finetuning.watch(1, advance)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=finetuning.last_complete(work))
    model.save_pretrained(work / "masked")
    AutoModel.from_pretrained(work / "masked", use_safetensors=True).save_pretrained(target)


def _usual(params: Transformer, work: Path) -> dict[str, Any]:
    return {
        "output_dir": str(work), "per_device_train_batch_size": params.batch_size, "save_total_limit": 2,
        "weight_decay": params.weight_decay, "seed": _SEED, "bf16": finetuning.use_bf16(params),
        "use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True, "report_to": "none", "log_level": "error",
    }  # fmt: skip
