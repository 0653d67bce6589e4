"""How models compute on this machine: data types, attention, memory."""

import ctypes
import sys
from typing import Any

SHORT = 192  # tokens: at 64 plain attention makes MiniLM 1.6 times as fast on 2 cores, at 256 0.7 times
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> None:
    """Have the C library keep the memory of freed tensors for new ones.

    glibc hands large blocks back to the system, and each page of the next one is a fault, which costs a
    small model on a processor a good part of its time. Other C libraries are left alone.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def best_dtype(device: str) -> Any:  # noqa: ANN401 - a torch dtype
    """bfloat16 on a GPU, float32 elsewhere: processors that report bfloat16 multiply it slower as often as faster."""
    import torch

    return torch.bfloat16 if device == "cuda" else torch.float32


def choose_attention(model: Any, device: str, width: int) -> None:  # noqa: ANN401 - a transformers model
    """Set how attention over `width` new tokens is computed: a function of their number alone, so resumed runs agree.

    On a processor plain products beat torch's fused kernel on short texts, and lose on long ones.
    """
    if device == "cpu":
        plain = width <= SHORT or getattr(model.config, "attn_logit_softcapping", None)  # which the kernel ignores
        model.set_attn_implementation("eager" if plain else "sdpa")
