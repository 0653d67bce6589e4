"""From a torch module to an OpenVINO graph in int8: NNCF measures the activations' ranges on real texts."""

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pipeline.graphs import classifying_module, example, quiet
from serving import batching
from serving.runtimes import Floats, Ids
from serving.shapes import Shape

log = logging.getLogger("llambert")
_SAMPLES = 300
_MAX_BATCH_TOKENS = 4096
_DOWN = r"layer\.({layers})\.output\.dense/"  # the projection that ends a layer's feed-forward part


@dataclass(frozen=True)
class Pieces:
    """Token ids of real texts and torch's logits of them (pieces, classes)."""

    ids: Ids
    logits: Floats
    pad_id: int


def write_int8(candidate: Path, layers: int, path: Path, pieces: Pieces, max_flips: float, shape: Shape) -> None:
    """Write `path` (.xml) and its weights (.bin): int8 weights per channel and activations per tensor.

    Where more labels flip than allowed, layers whose activations have outliers stay in fp32, as few as will do: the
    ends of the last quarter's feed-forward parts, then of all (Bondarenko et al. 2021, arXiv 2109.12948).

    Args:
        candidate: directory of the transformers model.
        layers: that it has.
        path: of the graph.
        pieces: of texts like those to be labelled; 300 are enough.
        max_flips: share of pieces that may get another label.
        shape: what logits mean.
    """
    # In a process of its own: what NNCF holds in memory goes with it.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for kept in _ladder(layers):
            pool.submit(_quantise, candidate, path, pieces.ids[:_SAMPLES], kept).result()
            flips = shape.flips(_logits(path, pieces), pieces.logits)
            if flips <= max_flips:
                return
            log.info("export: int8 of openvino flips %.2f %% of the labels (kept in fp32: %s)", 100 * flips, kept)


def _ladder(layers: int) -> list[list[str]]:
    """Patterns of what stays in fp32, step by step."""
    last = range(layers - max(layers // 4, 1), layers)
    return [[], [_DOWN.format(layers="|".join(map(str, last)))], [_DOWN.format(layers=r"\d+")]]


def _quantise(candidate: Path, path: Path, ids: Ids, kept: list[str]) -> None:
    import nncf
    import openvino
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(candidate, use_safetensors=True).float().eval()
    samples = [{"input_ids": row[None], "attention_mask": np.ones((1, len(row)), np.int64)} for row in ids]
    with quiet(), classifying_module(model) as module:
        graph = openvino.convert_model(module, example_input=example())
        quantised = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(patterns=[f".*{pattern}.*" for pattern in kept], validate=False),
        )
        openvino.save_model(quantised, path, compress_to_fp16=False)


def _logits(path: Path, pieces: Pieces) -> Floats:
    from serving.runtimes.openvino_ import OpenVino

    logits = np.empty_like(pieces.logits)
    batches = batching.plan([len(ids) for ids in pieces.ids], _MAX_BATCH_TOKENS)
    parts = OpenVino(path, pieces.pad_id, 0, None).logits([pieces.ids[row] for row in rows] for rows in batches)
    for rows, part in zip(batches, parts, strict=True):
        logits[rows] = part
    return logits
