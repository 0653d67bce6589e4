"""From a torch module to an OpenVINO graph in int8: NNCF measures the activations' ranges on real texts."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.graphs import classifying_module, example, quiet
from serving.runtimes import Ids

_SAMPLES = 300


def write_int8(model: Any, path: Path, ids: Ids) -> None:  # noqa: ANN401 - a module
    """Write `path` (.xml) and its weights (.bin): int8 weights per channel and activations per tensor.

    Args:
        model: a transformers model.
        path: of the graph.
        ids: token ids of texts like those to be labelled; 300 are enough.
    """
    import nncf
    import openvino

    samples = [{"input_ids": row[None], "attention_mask": np.ones((1, len(row)), np.int64)} for row in ids[:_SAMPLES]]
    with quiet(), classifying_module(model) as module:
        graph = openvino.convert_model(module, example_input=example())
        quantised = nncf.quantize(
            graph, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
        )
        openvino.save_model(quantised, path, compress_to_fp16=False)
