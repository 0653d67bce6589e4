"""From a torch module to ONNX graphs for onnxruntime. Knows nothing of manifests or parity."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MAX_PROTOBUF_BYTES = 1_900_000_000  # a protobuf message ends at 2 GiB; larger graphs keep their weights beside them


def write_graphs(model: Any, directory: Path, precisions: Sequence[str]) -> None:  # noqa: ANN401 - a module
    """Write `<precision>.onnx` for each: inputs input_ids and attention_mask [batch, tokens], output logits."""
    import onnx

    with _quiet():
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

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    ids = torch.full((2, 16), 5)  # sizes 0 and 1 would be taken for constants
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    program = torch.onnx.export(
        Logits().eval(),
        (ids, mask),
        dynamo=True,
        dynamic_shapes=({0: "batch", 1: "tokens"},) * 2,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return optimize_for_ort(program.model, clear_metadata=True)[0]


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
def _quiet() -> Iterator[None]:
    """Hide the exporters' warnings: they speak of their own insides, and parity is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
