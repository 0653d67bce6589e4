"""Fine-tune an encoder on target probabilities (transformers Trainer); a killed run goes on from its checkpoint."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset, Sampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from pipeline import computing, losses
from pipeline.artifacts import Json
from pipeline.errors import UserError
from pipeline.params import Transformer
from pipeline.training import Floats, Phase
from serving import shapes
from serving.progress import Advance, progress
from serving.shapes import Kind, Shape
from serving.tokenizing import TextTokenizer

_COMPLETE = "complete.json"  # written into a checkpoint when all its other files are there; it lists their names
_CHECKPOINTS_KEPT = 3  # the best, the last, and the one being written
_GROUPED_BATCHES = 50  # batches that are sorted by length together: little padding, still random


@dataclass(frozen=True)
class Tokens(Dataset[dict[str, Any]]):
    """Token ids with target probabilities."""

    ids: list[list[int]]
    targets: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": self.targets[index].tolist()}


class LengthGrouped(Sampler[int]):
    """Random order in which neighbours have similar lengths: a function of seed and epoch, so resuming repeats it."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = np.array(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self._seed, self._epoch])
        order = random.permutation(len(self._lengths))
        size = self._batch_size * _GROUPED_BATCHES
        for start in range(0, len(order), size):
            group = order[start : start + size]
            group = group[np.argsort(-self._lengths[group], kind="stable")]
            batches = [group[i : i + self._batch_size] for i in range(0, len(group), self._batch_size)]
            whole = len(group) // self._batch_size  # a batch that is not comes last: the loader cuts every batch_size
            for index in [*random.permutation(whole), *range(whole, len(batches))]:
                yield from map(int, batches[index])


class _Trainer(Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ANN401
        tokens: Any = train_dataset or self.train_dataset
        return LengthGrouped([len(ids) for ids in tokens.ids], self.args.train_batch_size, self.args.seed)


class _Watch(TrainerCallback):
    """Shows progress, stops early, and marks checkpoints as complete.

    When to stop is a function of the logged losses, which checkpoints hold: a resumed run stops where an undisturbed
    one does. (transformers' EarlyStoppingCallback begins to count anew.)
    """

    def __init__(self, patience: int, advance: Advance) -> None:
        self.patience, self.advance, self.note, self.over = patience, advance, "", False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.over = control.should_training_stop = self._enough(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.advance(1, self.note)
        if self.over:  # killed when all was done: the Trainer takes a step before it looks, which must leave no trace
            control.should_log = control.should_evaluate = control.should_save = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ANN401
        self.note = f"validation loss {more['metrics']['eval_loss']:.3f}"
        control.should_training_stop |= self._enough(state)

    def _enough(self, state: Any) -> bool:  # noqa: ANN401
        losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
        return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= self.patience

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        Json(checkpoint / _COMPLETE).write({"files": sorted(path.name for path in checkpoint.iterdir())})


def fit(
    params: Transformer,
    labels: list[str],
    start: str,
    phase: Phase,
    seed: int,
    work: Path,
    target: Path,
    kind: Kind = "single",
) -> list[dict[str, Any]]:
    """Fine-tune `start` (a directory or Hugging Face id) on a phase and save the best state to `target`.

    Args:
        params: the encoder's settings.
        labels: in the order of the targets' columns; they become the model's id2label.
        start: where the weights come from; a new classification head is added where it has none.
        phase: texts to train and to validate on; the state with the lowest validation loss wins.
        seed: of the head, the order of texts and dropout.
        work: checkpoints; if it holds complete ones of a killed run, training goes on from the last.
        target: receives model, tokenizer and config in the format of save_pretrained.
        kind: of the task; it decides what is minimised.

    Returns:
        The learning curve: a row with step, epoch, train_loss, validation_loss, validation_accuracy per evaluation.
    """
    shutil.rmtree(target, ignore_errors=True)  # what a process that was killed while it saved has left
    set_seed(seed)
    torch.set_float32_matmul_precision("medium")
    model, tokenizer = load(start, labels, params.max_tokens)
    computing.choose_attention(model, "cuda" if torch.cuda.is_available() else "cpu", params.max_tokens)
    tokenizer.save_pretrained(target)
    tokenize = TextTokenizer(target / "tokenizer.json", params.max_tokens, params.truncation)
    train, validation = (
        Tokens([ids.tolist() for ids in tokenize(e.texts)], e.targets) for e in (phase.train, phase.validation)
    )
    _check_room(model, work)
    arguments = _arguments(params, len(train), seed, work)
    total = int(arguments.num_train_epochs * -(-len(train) // params.batch_size))
    with progress(f"train on {len(train):,} {phase.name} labels", total, "steps") as advance:
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_loss_func=losses.of(kind, phase.train, params.class_weights),
            compute_metrics=_accuracy(shapes.of(kind, labels)),
            callbacks=[watch(params.patience, advance)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last_complete(work))
    model.save_pretrained(target)
    return _curve(trainer.state.log_history, phase.name)


def load(start: str, labels: list[str], max_tokens: int) -> tuple[Any, Any]:
    """An encoder with a classification head for `labels`, and its tokenizer.

    Raises:
        UserError: it can't be loaded, has no fast tokenizer with a vocabulary, or no positions for `max_tokens`.
    """
    names = dict(enumerate(labels))
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            start, num_labels=len(labels), id2label=names, label2id={v: k for k, v in names.items()},
            use_safetensors=True, dtype=torch.float32,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(start)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"encoder '{start}' can't be loaded: {' '.join(str(error).split())[:300]}") from error
    except RuntimeError as error:  # transformers has logged the shapes
        raise UserError(
            f"encoder '{start}' has weights of other shapes than its config.json and {len(labels)} labels ask for: "
            "if it is a classifier, give the encoder that it was made from"
        ) from error
    if set(tokenizer("a", add_special_tokens=False).input_ids) <= {tokenizer.unk_token_id}:
        raise UserError(f"encoder '{start}' has no vocabulary: its tokenizer.json is missing or of something else")
    if not tokenizer.is_fast:
        raise UserError(f"encoder '{start}' has no tokenizer.json: the engine needs a fast tokenizer")
    # RoBERTa and its kin count positions from the padding id + 1.
    offset = tokenizer.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    positions = getattr(model.config, "max_position_embeddings", max_tokens + offset) - offset
    if max_tokens > positions:
        raise UserError(f"encoder '{start}' reads {positions} tokens at most: lower max_tokens (got {max_tokens})")
    return model, tokenizer


def watch(patience: int, advance: Advance) -> TrainerCallback:
    """What shows progress, marks checkpoints as complete, and stops after `patience` evaluations without a gain."""
    return _Watch(patience, advance)


def use_bf16(params: Transformer) -> bool:
    """Whether matrices are multiplied in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return params.dtype == "bfloat16" or (params.dtype == "auto" and computing.best_dtype(device) == torch.bfloat16)


def _check_room(model: Any, work: Path) -> None:  # noqa: ANN401
    """Raise a UserError before hours of work where a full disk would end them: torch reports that as a crash."""
    wanted = _CHECKPOINTS_KEPT * 3 * sum(parameter.nbytes for parameter in model.parameters())  # weights, two moments
    work.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(work).free) < wanted:
        raise UserError(
            f"checkpoints want {wanted / 1e9:.1f} GB at {work}, {free / 1e9:.1f} GB are free: make room and run again"
        )


def _arguments(params: Transformer, texts: int, seed: int, work: Path) -> TrainingArguments:
    per_epoch = -(-texts // params.batch_size)
    every = max(per_epoch // params.evaluations_per_epoch, 1)
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=4 * params.batch_size,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        warmup_steps=int(params.warmup_share * per_epoch * params.epochs),
        eval_strategy="steps",
        eval_steps=every,
        logging_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=seed,
        data_seed=seed,
        bf16=use_bf16(params),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


def _accuracy(shape: Shape) -> Any:  # noqa: ANN401 - a function of transformers' EvalPrediction
    """Share of texts with the right label, or set of labels."""

    def accuracy(prediction: Any) -> dict[str, float]:  # noqa: ANN401
        said = shape.given(shape.probabilities(prediction.predictions))
        return {"accuracy": float((said == shape.given(prediction.label_ids)).all(axis=-1).mean())}

    return accuracy


def last_complete(work: Path) -> str | None:
    """The newest checkpoint with all its files; remove those that were half written or half removed."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in checkpoints:
        if not _whole(checkpoint):
            shutil.rmtree(checkpoint)
    complete = [str(checkpoint) for checkpoint in checkpoints if checkpoint.exists()]
    return complete[-1] if complete else None


def _whole(checkpoint: Path) -> bool:
    marker = Json(checkpoint / _COMPLETE)
    return marker.path.exists() and all((checkpoint / name).exists() for name in marker.read()["files"])


def _curve(history: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    trained = {row["step"]: row["loss"] for row in history if "loss" in row}
    return [
        {
            "phase": phase,
            "step": row["step"],
            "epoch": row["epoch"],
            "train_loss": trained.get(row["step"]),
            "validation_loss": row["eval_loss"],
            "validation_accuracy": row["eval_accuracy"],
        }
        for row in history
        if "eval_loss" in row
    ]
