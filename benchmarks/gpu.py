"""How fast texts are labelled on this machine's GPU, beside padded batches and the published loop.

    python benchmarks/gpu.py [--compile] [--texts 8192] [--repeat 3] [--shapes base large]

One GPU, no network; torch and numpy are enough (onnxruntime-gpu, onnx and onnxscript add a row). Weights are random, of
roberta-base's and roberta-large's shape; lengths are drawn from those of IMDb's reviews (`lengths.json`), tokens at
random. What is timed is the way from token ids in memory to logits in memory: tokenizing is not.

Engines: `packed` is `serving.runtimes.torch_`, as an exported model is served in bf16 (other rows name their switches);
`kernel:torch-padded` sorts by length, pads, and runs torch's sdpa on the same weights; `published loop` is the LlamBERT
authors': batches of 16 in the order of the corpus, padded to the longest, one after the other, in fp32 (as transformers
loads a model) and, kindly, in bf16; `onnxruntime` is the graph that the stage export writes. An engine's logits must be
those of `packed`: `apart` is the root mean square of the differences over the spread of the logits.

`share_of_matmul`: the arithmetic of a whole encoder over real tokens (no padding; the last layer, of which `packed`
leaves out most, in full) for each second, as a part of what products of 8192 x 8192 reach here, timed before and after.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # nothing of ours is installed where the GPU is

from padded import Config, Padded, config

from serving.batching import pad, plan
from serving.runtimes.packed import Encoder
from serving.runtimes.torch_ import TorchRuntime

_ROOT = Path(__file__).parents[1]
_SHAPES = {"base": (768, 12), "large": (1024, 24)}
_LOOP_BATCH = 16
_FP32, _HALF = 1e-4, 0.2  # how far engines may be apart; random weights blow the rounding of bf16 up to 0.05
Texts = list[NDArray[np.int64]]  # token ids of each
Label = Callable[[Texts], NDArray[np.float32]]
Row = dict[str, Any]


def main() -> None:
    """Measure, print a table, and write it after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a test of the logic: nothing in it is a measurement")
    parser.add_argument("--compile", action="store_true", help="rows with norms fused by torch.compile as well")
    parser.add_argument("--shapes", nargs="+", choices=list(_SHAPES), default=list(_SHAPES))
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[32768, 8192, 16384, 65536])
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results" / "engine-gpu.json")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.texts, arguments.repeat, arguments.batch_tokens = 16, 1, [1024, 2048]
    rows: list[Row] = []
    print("| engine | model | precision | batch tokens | texts/s | tokens/s | share of matmul |\n" + "|---" * 7 + "|")
    for row in _rows(arguments):
        rows.append(row)
        shown = f"{row['texts_per_s']:.0f} | {row['tokens_per_s']:.0f} | {row['share_of_matmul']:.1%}"
        print(
            "|", *(f"{row[key]} |" for key in ("engine", "model", "precision", "batch_tokens")), shown, "|", flush=True
        )
        _write(arguments, rows)


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    device = torch.device(arguments.device)
    for name in arguments.shapes:
        hidden, layers = (128, 2) if arguments.tiny else _SHAPES[name]
        shape = config(hidden, layers, 1000 if arguments.tiny else 50265)
        torch.manual_seed(1)
        model = _random(Padded(shape).to(device))
        texts = _texts(arguments.texts, shape["vocab_size"])
        expected: NDArray[np.float32] | None = None
        for engine, precision, budget, label in _engines(arguments, shape, model):
            few = texts[: len(texts) // 8] if engine == "published loop" else texts  # it is slow
            row, logits = _measure(label, few, shape, arguments)
            expected = logits if expected is None else expected
            apart = float(np.sqrt(np.mean((logits - expected[: len(few)]) ** 2)) / expected.std())
            if not apart <= (_FP32 if precision == "fp32" and device.type == "cpu" else _HALF):
                raise SystemExit(f"{engine} in {precision} gives other logits than packed: {apart:.2%} of their spread")
            known = {"engine": engine, "model": f"roberta-{name}", "precision": precision, "batch_tokens": budget}
            yield known | row | {"apart": apart}


def _engines(
    arguments: argparse.Namespace, shape: Config, model: Padded
) -> Iterator[tuple[str, str, int | None, Label]]:
    """Name, precision, token budget of a batch, and what labels. The first one is what the others must agree with."""
    device = torch.device(arguments.device)
    best = arguments.batch_tokens[0]
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    name = "bf16" if device.type == "cuda" else "fp32"
    weights = model.state_dict()
    switches: dict[str, dict[str, bool]] = {"packed": {}, "packed, GELU in the product": {"approximate": True}}
    if arguments.compile:
        switches |= {
            "packed, norms compiled": {"compiled": True},
            "packed, GELU in the product, norms compiled": {"approximate": True, "compiled": True},
        }
    for engine, given in switches.items():
        runtime = TorchRuntime(Encoder(shape, weights, device, half, **given), shape, device)
        for budget in arguments.batch_tokens if not given else [best]:
            yield engine, name, budget, _planned(budget, lambda batches: runtime.logits(batches))  # noqa: B023
    yield "published loop", "fp32", None, lambda texts: _loop(model, texts, device)
    if find_spec("onnxscript") and find_spec("onnx") and find_spec("onnxruntime"):
        yield from _onnxruntime(model, best, arguments)
    else:
        print("no row of onnxruntime: onnxscript, onnx or onnxruntime is missing", file=sys.stderr)
    lean = model.to(half)
    yield "kernel:torch-padded", name, best, _planned(best, lambda batches: _padded(lean, batches, device))
    yield "published loop", name, None, lambda texts: _loop(lean, texts, device)


def _onnxruntime(model: Padded, budget: int, arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, Label]]:
    """In fp16, if onnxruntime can use the GPU; graph and session are made when it is asked for."""
    import onnxruntime

    if arguments.device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        print("no row of onnxruntime: this one was built without CUDA", file=sys.stderr)
        return
    from pipeline.graphs import write_graphs
    from serving.runtimes.onnxruntime_ import OnnxRuntime

    device = next(model.parameters()).device
    with tempfile.TemporaryDirectory() as directory:
        write_graphs(model.to("cpu"), Path(directory), ["fp16"])
        model.to(device)
        runtime = OnnxRuntime(Path(directory) / "fp16.onnx", 1, None)
        if runtime.device == device.type:
            yield "onnxruntime", "fp16", budget, _planned(budget, runtime.logits)
        else:
            print("no row of onnxruntime: it can't use this GPU", file=sys.stderr)


def _planned(budget: int, logits: Callable[[Iterator[Texts]], Iterator[NDArray[np.float32]]]) -> Label:
    """Sorted batches, as the engine makes them."""

    def label(texts: Texts) -> NDArray[np.float32]:
        result = np.empty((len(texts), 2), np.float32)
        batches = plan([len(text) for text in texts], budget)
        for rows, part in zip(batches, logits([texts[row] for row in rows] for rows in batches), strict=True):
            result[rows] = part
        return result

    return label


def _padded(model: Padded, batches: Iterator[Texts], device: torch.device) -> Iterator[NDArray[np.float32]]:
    """All batches are launched before the first result is asked for."""
    with torch.inference_mode():
        launched = [_logits(model, batch, device) for batch in batches]
    yield from (logits.cpu().numpy() for logits in launched)


def _loop(model: Padded, texts: Texts, device: torch.device) -> NDArray[np.float32]:
    batches = (texts[start : start + _LOOP_BATCH] for start in range(0, len(texts), _LOOP_BATCH))
    with torch.inference_mode():
        return np.concatenate([_logits(model, batch, device).cpu().numpy() for batch in batches])


def _logits(model: Padded, batch: Texts, device: torch.device) -> torch.Tensor:
    ids, mask = pad(batch, 1)
    there = [torch.from_numpy(array).to(device, non_blocking=True) for array in (ids, mask)]
    logits: torch.Tensor = model(*there, full=bool(mask.all())).logits
    return logits


def _measure(
    label: Label, texts: Texts, shape: Config, arguments: argparse.Namespace
) -> tuple[Row, NDArray[np.float32]]:
    """The best of the repetitions: other work on the machine only ever makes a run slower."""
    logits = label(texts)  # warms up all sizes of batches as well
    before, seconds = _matmul_flops(arguments), float("inf")
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        label(texts)
        seconds = min(seconds, time.perf_counter() - start)
    rate = (before + _matmul_flops(arguments)) / 2
    tokens = sum(len(text) for text in texts)
    return {
        "texts": len(texts),
        "texts_per_s": len(texts) / seconds,
        "tokens_per_s": tokens / seconds,
        "share_of_matmul": _arithmetic(shape, texts) / seconds / rate,
        "matmul_tflops": rate / 1e12,
    }, logits


def _arithmetic(shape: Config, texts: Texts) -> float:
    """FLOP of all layers over real tokens: for each 2 (4 H^2 + 2 H I), and 4 H for each pair of tokens of a text."""
    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    products = 2 * (4 * hidden**2 + 2 * hidden * wide) * sum(len(text) for text in texts)
    attention = 4 * hidden * sum(len(text) ** 2 for text in texts)
    return float(shape["num_hidden_layers"] * (products + attention))


def _matmul_flops(arguments: argparse.Namespace) -> float:
    """FLOP/s of this device's product of two square matrices of random numbers in bf16."""
    size, device = 256 if arguments.tiny else 8192, arguments.device
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run(3)
    times = 3 if arguments.tiny else 30
    return 2 * size**3 * times / run(times)


def _texts(count: int, vocabulary: int) -> Texts:
    """Random tokens, of real lengths."""
    random = np.random.default_rng(1)
    counts = np.array(json.loads((_ROOT / "benchmarks" / "lengths.json").read_text())["counts"])
    lengths = random.choice(len(counts), count, p=counts / counts.sum())
    return [random.integers(5, vocabulary, length) for length in lengths]


def _random(model: Padded) -> Padded:
    """Weights of 0.02 as before training, but for the norms; and a head that tells texts well apart."""
    for name, weight in model.named_parameters():
        if "LayerNorm" not in name:
            weight.data.normal_(0, 0.2 if name.startswith("classifier") else 0.02)
        weight.data.copy_(weight.data.bfloat16())  # so that every precision starts from the same numbers
    return model.eval()


def _write(arguments: argparse.Namespace, rows: list[Row]) -> None:
    cuda = torch.cuda.get_device_properties(0) if arguments.device == "cuda" else None
    commit = subprocess.run(["git", "-C", _ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    values = {
        "rows": rows,
        "machine": f"{cuda.name}, {cuda.total_memory / 2**30:.0f} GiB" if cuda else platform.machine(),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {name: _version(name) for name in ("torch", "numpy", "onnxruntime", "onnxruntime-gpu")},
        "commit": commit or None,
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(values, indent=2) + "\n")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
