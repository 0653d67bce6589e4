"""Attention of a batch of short prompts that begin with the same tokens: those tokens' keys and values are read once.

Copied for each text, as caches of transformers do it, they are most of the work under a long instruction. The softmax
over shared and own tokens is taken apart and put together again, which is exact (Hydragen, arXiv 2402.05099).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "llambert_shared_prefix"
_KNOWN = ("llama", "mistral", "qwen2", "qwen3")  # whose attention is this one, and was compared with it
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch's fused kernel, with the sums
_prefix: ContextVar[Any] = ContextVar("prefix")


def supports(model: Any) -> bool:  # noqa: ANN401 - a transformers model
    """Whether all layers attend to all tokens before, in the way that is computed here."""
    config = model.config
    return config.model_type in _KNOWN and getattr(config, "sliding_window", None) is None


@contextmanager
def sharing(cache: Any) -> Iterator[None]:  # noqa: ANN401 - a transformers cache
    """Within, prompts go on after the tokens of `cache`: one text, as the model left it."""
    token = _prefix.set(cache)
    try:
        yield
    finally:
        _prefix.reset(token)


def attend(
    module: Any,  # noqa: ANN401 - a layer's attention
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,  # noqa: ANN401 - what other kinds of attention want
) -> tuple[Tensor, None]:
    """Queries (B, H, L, D) to the shared keys (1, K, P, D) and their own (B, K, T, D); H is a multiple of K.

    The mask (B, 1, L, T) is added to the scores of own keys; shared ones come before all. Returns (B, L, H, D).
    """
    layer = _prefix.get().layers[module.layer_idx]
    batch, heads, length, size = query.shape
    groups, own = key.shape[1:3]
    # (K, B * H/K * L, D): the texts' queries are rows of one product with the shared keys.
    rows = query.view(batch, groups, -1, length, size).permute(1, 0, 2, 3, 4).reshape(groups, -1, size)
    out, sums = _flash(rows[None], layer.keys, layer.values, scale=scaling)  # sums: logs of the softmax's denominators
    scores = (rows * scaling).view(groups, batch, -1, size) @ key.permute(1, 0, 3, 2)  # (K, B, H/K * L, T)
    scores.view(groups, batch, -1, length, own).add_(attention_mask[None, :, :, :, :own])
    highest = scores.amax(dim=-1, keepdim=True)
    total = scores.sub_(highest).exp_().sum(dim=-1, keepdim=True)
    own_out = (scores @ value.transpose(0, 1)).div_(total).view(groups, -1, size)
    share = (sums[0, ..., None] - (highest + total.log()).view(groups, -1, 1)).sigmoid()  # of the shared tokens
    out = own_out.lerp(out[0], share.to(own_out.dtype))
    out = out.view(groups, batch, -1, length, size).permute(1, 3, 0, 2, 4)
    return out.reshape(batch, length, heads, size), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
