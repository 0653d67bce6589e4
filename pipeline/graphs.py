"""From a torch module to ONNX graphs for onnxruntime. Knows nothing of manifests or parity."""

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FIRST_TOKEN = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
_MAX_PROTOBUF_BYTES = 1_900_000_000  # a protobuf message ends at 2 GiB; larger graphs keep their weights beside them


def write_graphs(model: Any, directory: Path, precisions: Collection[str]) -> None:  # noqa: ANN401 - a module
    """Write `<precision>.onnx` for each: inputs input_ids and attention_mask [batch, tokens], output logits."""
    import onnx

    with quiet():
        fused = fuse(model)
        source = directory / "fp32.onnx"
        save(fused, source)
        if "int8" in precisions:
            _write_int8(onnx.load(source), directory / "int8.onnx")
        if "fp16" in precisions:
            _write_fp16(onnx.load(source), directory / "fp16.onnx")
        if "fp32" not in precisions:
            for path in directory.glob("fp32.onnx*"):
                path.unlink()


def fuse(model: Any) -> Any:  # noqa: ANN401 - modules and graphs of untyped libraries
    """A graph of `model` in fp32, attention and normalisation fused by onnxscript for onnxruntime."""
    import torch
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    with classifying_module(model) as module:
        program = torch.onnx.export(
            module,
            example(),
            dynamo=True,
            dynamic_shapes=({0: "batch", 1: "tokens"},) * 2,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return optimize_for_ort(program.model, clear_metadata=True)[0]


def example() -> tuple[Any, Any]:
    """Token ids and mask to trace with: sizes 0 and 1 would be taken for constants."""
    import torch

    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 9:] = 0
    return torch.full((2, 16), 5), mask


@contextmanager
def classifying_module(model: Any) -> Iterator[Any]:  # noqa: ANN401 - modules
    """Yield a module of two tensors that gives logits, and of the last layer computes the first token only.

    All that follows attention in the last layer is done for each token on its own, and classification reads the first
    one: the result is the same, and 6 % of a base encoder's work is saved. In kinds of models that are put together in
    another way the layer stays whole.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    after_attention: Any = None
    if model.config.model_type in _FIRST_TOKEN:
        after_attention = model.base_model.encoder.layer[-1].attention.output
        whole = after_attention.forward
        after_attention.forward = lambda hidden, before: whole(hidden[:, :1], before[:, :1])
    try:
        yield Logits().eval()
    finally:
        if after_attention is not None:
            del after_attention.forward


def save(graph: Any, path: Path, max_bytes: int = _MAX_PROTOBUF_BYTES) -> None:  # noqa: ANN401 - untyped library
    """Write a graph, with its weights in `<name>.data` beside it if they exceed `max_bytes`."""
    import onnx_ir

    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    onnx_ir.save(graph, path, external_data=f"{path.name}.data" if size > max_bytes else None)


def _write_int8(graph: Any, path: Path) -> None:  # noqa: ANN401 - untyped library
    """Weights in int8 per channel, activations quantised as they come (one scale per batch)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del graph.graph.value_info[:]  # shapes of fused nodes, on which the quantiser's shape inference fails
    quantize_dynamic(
        graph,
        path,
        weight_type=QuantType.QInt8,  # unsigned weights run at half the rate
        per_channel=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # of the fused nodes' outputs
    )


def _write_fp16(graph: Any, path: Path) -> None:  # noqa: ANN401 - untyped library
    """Weights and activations in fp16, logits in fp32. Made for GPUs: on a CPU it is slower than fp32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(graph, keep_io_types=True, disable_shape_infer=True), path)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporters' warnings: they speak of their own insides, and parity is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
