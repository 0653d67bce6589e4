"""How fast a fine-tuned encoder labels texts on this processor, beside what users run otherwise.

    python benchmarks/engine_cpu.py [--texts 48] [--repeat 3] [--corpus FILE.parquet] [--shape base]

All get the same texts and the same weights: a classifier of roberta-base's shape with random weights (speed does not
depend on them), cut at 512 tokens. `llambert-*` is the engine as `llambert label` runs it, from text to probabilities.
Peers run as their users run them: transformers' `pipeline`, sentence-transformers (which sorts by length), the loop of
the LlamBERT authors (batches of 16 in the order of the corpus, padded to the longest); in bf16, too, where the
processor multiplies it faster than fp32; onnxruntime and OpenVINO on the same int8 graphs as ours, with their own
settings and that loop's batches. `kernel:NAME` is a bare runtime given our own tokens and sorted batches. Runs
alternate; the best of the repetitions counts, for other work on the machine only makes a run slower. `share` is the
arithmetic of the real tokens over time, as a part of what this machine's own 2048 x 2048 matrix product reached
between the runs, in fp32, or in int8 for int8.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pyarrow.parquet as pq

from pipeline import exporting, weights
from pipeline.artifacts import Json
from pipeline.params import Export
from serving import batching
from serving.engine import Engine
from serving.runtimes import CACHED_TOKENS, Ids
from serving.tokenizing import TextTokenizer

_RESULTS = Path(__file__).parent / "results" / "engine-cpu.json"
_IMDB = Path(__file__).parents[2] / "shared" / "data" / "imdb" / "test_dev.parquet"
_MAX_TOKENS = 512
_SHAPES = {"mini": (384, 6, 12, 1536), "base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
Run = Callable[[list[str]], object]
Compute = Callable[[Ids], object]  # of one batch


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--corpus", type=Path, default=_IMDB, help="Parquet with a column `text`")
    parser.add_argument("--shape", choices=_SHAPES, default="base")
    parser.add_argument("--only", help="comma-separated engines")
    arguments = parser.parse_args()
    texts = [str(t) for t in pq.read_table(arguments.corpus, columns=["text"])["text"][: arguments.texts].to_pylist()]
    with tempfile.TemporaryDirectory() as name:
        model, export = _model(Path(name), _SHAPES[arguments.shape], texts)
        lengths = [len(row) for row in _tokenizer(export)(texts)]
        runs = {n: run for n, run in _engines(export, model) if not arguments.only or n in arguments.only.split(",")}
        best, speeds = _race(runs, texts, arguments.repeat)
    rows = []
    for engine, seconds in best.items():
        kind = "int8" if "int8" in engine else "fp32"
        share = _operations(lengths, _SHAPES[arguments.shape]) / seconds / speeds[kind]
        rows.append(
            {
                "engine": engine,
                "precision": "bf16" if "bf16" in engine else kind,
                "texts_per_s": round(len(texts) / seconds, 2),
                "tokens_per_s": round(sum(lengths) / seconds),
                "share_of_gemm": None if "bf16" in engine else round(share, 3),
            }
        )
    print("| engine | texts/s | tokens/s | share of GEMM |\n|---|---|---|---|")
    for row in rows:
        print("| {engine} | {texts_per_s} | {tokens_per_s} | {share_of_gemm} |".format(**row))
    print(", ".join(f"{name} GEMM {speed / 1e9:.0f} G/s" for name, speed in speeds.items()))
    machine.write(
        _RESULTS, rows, gemm_per_s=speeds, texts=len(texts), mean_tokens=float(np.mean(lengths)), shape=arguments.shape
    )


def _race(runs: dict[str, Run], texts: list[str], repeat: int) -> tuple[dict[str, float], dict[str, float]]:
    """Best seconds of each engine, median operations/s of each kind of matrix product."""
    products = machine.rates()
    measured: dict[str, list[float]] = {name: [] for name in products}
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run(texts[:4])
    for _ in range(repeat):
        for name, run in runs.items():
            best[name] = min(best[name], machine.timed(lambda: run(texts)))  # noqa: B023 - called at once
            for kind, product in products.items():
                measured[kind] += [product() for _ in range(3)]
            print(f"  {name}: {len(texts) / best[name]:.2f} texts/s", flush=True)
    return best, {kind: float(np.median(values)) for kind, values in measured.items()}


def _model(directory: Path, shape: tuple[int, int, int, int], texts: list[str]) -> tuple[Any, Path]:
    import torch
    from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    hidden, layers, heads, inner = shape
    tokenizer = AutoTokenizer.from_pretrained(weights.locate("embedded:minilm"))
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=_MAX_TOKENS + 2, type_vocab_size=1, num_labels=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config).eval()
    candidate = directory / "candidate"
    model.save_pretrained(candidate)
    tokenizer.save_pretrained(candidate)
    facts = {"candidate": "random", "labels": ["no", "yes"], "max_tokens": _MAX_TOKENS, "truncation": "head"}
    Json(candidate / "candidate.json").write(facts)
    limits = Export(max_flips=1.0, max_difference=1.0)  # random weights decide nothing
    exporting.export(candidate, directory / "export", texts[:64], limits, 1.0)
    return model, directory / "export"


def _tokenizer(export: Path) -> TextTokenizer:
    return TextTokenizer(export / "tokenizer.json", _MAX_TOKENS, "head")


def _engines(export: Path, model: Any) -> Iterator[tuple[str, Run]]:  # noqa: ANN401 - a module
    yield "llambert-int8", Engine.open(export, "int8").classify
    yield "llambert-int8-onnxruntime", Engine.open(export, "int8", runtime="onnxruntime").classify
    yield "llambert-fp32", Engine.open(export, "fp32").classify
    yield "llambert-fp32-onnxruntime", Engine.open(export, "fp32", runtime="onnxruntime").classify
    tokenize, openvino, onnxruntime = _tokenizer(export), _openvino(export), _onnxruntime(export)
    yield "kernel:openvino-int8", lambda texts: _sorted(tokenize(texts), openvino)
    yield "kernel:onnxruntime-int8", lambda texts: _sorted(tokenize(texts), onnxruntime)
    yield "openvino-int8", lambda texts: _in_order(tokenize(texts), openvino)
    yield "onnxruntime-int8", lambda texts: _in_order(tokenize(texts), onnxruntime)
    for dtype in ("fp32", "bf16") if machine.multiplies_bf16() else ("fp32",):
        yield f"transformers-pipeline-{dtype}", _pipeline(model, export, dtype)
        yield f"sentence-transformers-{dtype}", _sentence_transformers(model, export, dtype)
    yield "authors-loop-fp32", _authors_loop(model, export)


def _openvino(export: Path) -> Compute:
    import openvino

    compiled = openvino.Core().compile_model(export / "int8.xml", "CPU")
    return lambda batch: compiled(batching.pad(batch, 1))


def _onnxruntime(export: Path) -> Compute:
    import onnxruntime

    session = onnxruntime.InferenceSession(export / "int8.onnx")
    names = [node.name for node in session.get_inputs()]
    return lambda batch: session.run(None, dict(zip(names, batching.pad(batch, 1), strict=True)))


def _sorted(ids: Ids, compute: Compute) -> None:
    for rows in batching.plan([len(row) for row in ids], CACHED_TOKENS):
        compute([ids[row] for row in rows])


def _in_order(ids: Ids, compute: Compute) -> None:
    for start in range(0, len(ids), 16):
        compute(ids[start : start + 16])


def _in(model: Any, dtype: str) -> Any:  # noqa: ANN401 - modules
    import copy

    import torch

    return copy.deepcopy(model).to(torch.bfloat16) if dtype == "bf16" else model


def _pipeline(model: Any, export: Path, dtype: str) -> Run:  # noqa: ANN401 - a module
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(export.parent / "candidate")
    classify = pipeline("text-classification", model=_in(model, dtype), tokenizer=tokenizer, device="cpu")
    return lambda texts: classify(texts, batch_size=16, truncation=True, max_length=_MAX_TOKENS)


def _sentence_transformers(model: Any, export: Path, dtype: str) -> Run:  # noqa: ANN401 - a module
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(export.parent / "candidate"), max_seq_length=_MAX_TOKENS)
    encoder = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), "cls")], device="cpu")
    if dtype == "bf16":
        encoder.bfloat16()
    return lambda texts: encoder.encode(texts, batch_size=32, show_progress_bar=False, convert_to_tensor=True)


def _authors_loop(model: Any, export: Path) -> Run:  # noqa: ANN401 - a module
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export.parent / "candidate")

    def run(texts: list[str]) -> None:
        with torch.inference_mode():
            for start in range(0, len(texts), 16):
                batch = texts[start : start + 16]
                inputs = tokenizer(
                    batch, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt",
                    return_token_type_ids=False,
                )  # fmt: skip
                model(**inputs)

    return run


def _operations(lengths: list[int], shape: tuple[int, int, int, int]) -> float:
    """Multiplications and additions of the real tokens, the last layer's rest for the first token only not counted."""
    hidden, layers, _, inner = shape
    tokens, pairs = sum(lengths), sum(n * n for n in lengths)
    weights_ = 4 * hidden * hidden + 2 * hidden * inner
    skipped = (tokens - len(lengths)) * (hidden * hidden + 2 * hidden * inner)
    return float(2 * (layers * weights_ * tokens - skipped) + 4 * layers * hidden * pairs)


if __name__ == "__main__":
    main()
