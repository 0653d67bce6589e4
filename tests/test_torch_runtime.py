"""The runtime torch: what transformers gives, whatever a text is packed with, and one batch ahead."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serving.runtimes import Ids, torch_
from serving.runtimes.packed import Batch, Encoder, first_position, why_not

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 90,
    "max_position_embeddings": 64, "num_labels": 3, "initializer_range": 0.3, "type_vocab_size": 2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_act": "gelu_new"},
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 5},
    "electra": {"embedding_size": 16},
    "electra-large": {"embedding_size": 32},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny products take a minute where others use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def texts(count: int = 24, longest: int = 50, seed: int = 3) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    lengths = [longest, 1, *random.integers(2, longest, count - 2)]
    return [random.integers(6, 90, length) for length in lengths]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny model whose weights are exact in bf16, every one of them random: biases and norms, too."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(5)
    kind = request.param.removesuffix("-large")
    built = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **SIZES | KINDS[request.param]))
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.1 * torch.randn_like(weight)).copy_(weight.bfloat16().float())
    return built.eval()


def transformers_logits(model: Any, batch: Ids) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(row)[None]).logits.numpy() for row in batch])


def runtime(model: Any, directory: Path, device: torch.device = CPU) -> torch_.TorchRuntime:
    from pipeline.packing import write_bf16

    write_bf16(model, directory / "bf16.safetensors")
    return torch_.load(directory / "bf16.safetensors", None, device)


def encoder(model: Any, **settings: Any) -> Encoder:
    return Encoder(model.config.to_dict(), model.state_dict(), CPU, torch.float32, **settings)


def test_logits_are_those_of_transformers_whatever_a_text_is_packed_with(model: Any, tmp_path: Path) -> None:
    ours, rows = runtime(model, tmp_path), texts()
    expected = transformers_logits(model, rows)
    assert np.ptp(expected, axis=0).min() > 0.1  # texts differ, so the lines below mean something
    (together,) = ours.logits([rows])
    np.testing.assert_allclose(together, expected, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(list(ours.logits([row] for row in rows))), together, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(list(ours.logits([rows[:7], rows[7:]]))), together, atol=1e-5)
    (backwards,) = ours.logits([rows[::-1]])
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)


def test_a_padding_token_within_a_text_is_placed_as_transformers_places_it(model: Any, tmp_path: Path) -> None:
    rows = texts(4, 12)
    rows[2][1:3] = model.config.pad_token_id
    (ours,) = runtime(model, tmp_path).logits([rows])
    np.testing.assert_allclose(ours, transformers_logits(model, rows), atol=1e-4)


def test_the_last_layer_reads_no_other_token_than_the_first_after_attention(model: Any) -> None:
    ours = encoder(model)
    seen: list[int] = []
    for layer in ours._layers:
        whole = layer._expand
        layer._expand = lambda x, w, b, whole=whole: (seen.append(len(x)), whole(x, w, b))[1]
    rows = texts(5, 20)
    packed, lengths = torch_.pack(rows, first_position(model.config.to_dict()), None)
    ours(Batch(*torch.from_numpy(packed).split_with_sizes([sum(lengths), sum(lengths), 6]), lengths))
    assert seen == [sum(lengths)] * 2 + [5]


def test_one_batch_is_launched_before_the_one_before_is_yielded(model: Any, tmp_path: Path) -> None:
    taken = 0

    def batches() -> Iterator[Ids]:
        nonlocal taken
        for row in rows:
            taken += 1
            yield [row] * taken

    rows = texts(5)
    ours = runtime(model, tmp_path)
    ahead = []
    for i, logits in enumerate(ours.logits(batches())):
        ahead.append(taken - i)
        assert logits.shape == (i + 1, 3)
        np.testing.assert_allclose(logits, np.repeat(transformers_logits(model, [rows[i]]), i + 1, 0), atol=1e-4)
    assert ahead == [2, 2, 2, 2, 1]
    assert list(ours.logits([])) == []
    next(ours.logits(iter([[rows[0]], [rows[1]]])))  # left in the middle
    np.testing.assert_allclose(next(ours.logits([rows[:2]])), transformers_logits(model, rows[:2]), atol=1e-4)


def test_results_are_not_overwritten_by_later_batches(model: Any, tmp_path: Path) -> None:
    rows = texts(6)
    kept = list(runtime(model, tmp_path).logits([row] for row in rows))
    np.testing.assert_allclose(np.concatenate(kept), transformers_logits(model, rows), atol=1e-4)


def test_bf16_throughout_stays_close(model: Any) -> None:
    """What CUDA computes in, on a processor: weights and activations in bf16, with and without the approximate GELU."""
    rows, config = texts(), model.config.to_dict()
    expected = transformers_logits(model, rows)
    for approximate in (False, True):
        half = Encoder(config, model.state_dict(), CPU, torch.bfloat16, approximate=approximate)
        (ours,) = torch_.TorchRuntime(half, config, CPU).logits([rows])
        assert ours.dtype == np.float32
        assert 1e-4 < np.abs(ours - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_batches_in_flight_keep_apart_and_logits_are_those_of_bf16(model: Any, tmp_path: Path) -> None:
    """Many batches of all sizes through two buffers, against the same arithmetic on the processor in fp32."""
    rows = texts(600)
    expected = transformers_logits(model, rows)
    ours = runtime(model, tmp_path, torch.device("cuda"))
    for size in (1, 7, 600):
        kept = list(ours.logits(rows[start : start + size] for start in range(0, len(rows), size)))
        apart = np.sqrt(np.mean((np.concatenate(kept) - expected) ** 2)) / expected.std()
        assert 1e-4 < apart < 0.05


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "modernbert"}, "it is of the kind 'modernbert', not one of bert, electra, roberta,"),
        ({"hidden_act": "silu"}, "its activation is 'silu', not one of gelu,"),
        ({"position_embedding_type": "relative_key"}, "its positions are 'relative_key', not 'absolute'"),
        ({"is_decoder": True}, "it is a decoder"),
    ],
)
def test_other_encoders_are_refused(changes: dict[str, Any], reason: str) -> None:
    config = {"model_type": "bert", "hidden_act": "gelu"}
    assert why_not(config) is None
    assert str(why_not(config | changes)).startswith(reason)


def test_positions_and_bounds() -> None:
    packed, lengths = torch_.pack([np.array([7, 8, 9]), np.array([7]), np.array([7, 1, 8])], 2, pad_id=1)
    assert packed.tolist() == [*(7, 8, 9, 7, 7, 1, 8), *(2, 3, 4, 2, 2, 1, 3), *(0, 3, 4, 7)]
    assert (lengths, packed.dtype) == ([3, 1, 3], np.int32)
    packed, _ = torch_.pack([np.array([7, 1, 9])], 0, pad_id=None)
    assert packed.tolist() == [*(7, 1, 9), *(0, 1, 2), *(0, 3)]


def test_the_config_is_written_whole(model: Any, tmp_path: Path) -> None:
    runtime(model, tmp_path)
    config = json.loads((tmp_path / "bf16.json").read_text())
    assert {"model_type", "layer_norm_eps", "hidden_act", "pad_token_id", "num_attention_heads"} <= set(config)
