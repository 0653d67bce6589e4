"""From a torch module to what the runtime `torch` reads: weights in bf16, and the config beside them."""

from pathlib import Path
from typing import Any

from pipeline.errors import UserError


def write_bf16(model: Any, path: Path) -> None:  # noqa: ANN401 - a module
    """Write `path` (.safetensors, names as in transformers) and its config (.json).

    Raises:
        UserError: the runtime has no such encoder.
    """
    import torch
    from safetensors.torch import save_file

    from serving.runtimes.packed import why_not

    if reason := why_not(model.config.to_dict()):
        raise UserError(
            f"export.precisions: the runtime torch can't run this encoder in bf16: {reason}. Take bf16 out; fp16 of "
            "onnxruntime runs any encoder on a GPU"
        )
    save_file({name: w.to(torch.bfloat16).contiguous() for name, w in model.state_dict().items()}, path)
    model.config.to_json_file(path.with_suffix(".json"), use_diff=False)
