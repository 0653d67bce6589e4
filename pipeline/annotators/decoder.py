"""A decoder of Llama's kind on a processor: the model's own weights, with little work between their products.

Prompts begin with the same tokens, whose keys and values are read once: the softmax over shared and own tokens is taken
apart and put together again, which is exact (Hydragen, arXiv 2402.05099). What transformers writes to memory between
two products takes much of its time on a processor; here most of it happens in place, and the last layer ends with the
tokens that are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.annotators.cached import padded
from pipeline.annotators.tokens import Tokens
from pipeline.computing import SHORT

_KNOWN = ("llama", "mistral", "qwen2", "qwen3")  # whose layers are these, and were compared with them
_FEW = 256  # shared tokens up to which plain products beat the fused kernel
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch's fused kernel, with the sums


@dataclass(frozen=True)
class Read:
    """Keys and values (texts, groups, tokens, size) of each layer."""

    layers: list[tuple[Tensor, Tensor]]
    tokens: int


@dataclass(frozen=True)
class Prompts:
    """A batch that was read."""

    shared: Read | None
    own: Read
    lengths: Tensor  # (texts,) own tokens


def supports(model: Any) -> bool:  # noqa: ANN401 - a transformers model
    """Whether all its layers are of the kind that is computed here, in full precision on a processor."""
    config = model.config
    return (
        config.model_type in _KNOWN
        and getattr(config, "sliding_window", None) is None
        and config.hidden_act == "silu"
        and getattr(config, "partial_rotary_factor", None) in (None, 1.0)
        and (model.device.type, model.dtype) == ("cpu", torch.float32)
    )


class Decoder:
    """Reads prompts with a model that is supported; see `cached.Cached` for what its methods give."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._model = model.base_model

    def prefix(self, tokens: Tokens) -> Read:
        """What all prompts begin with."""
        with torch.inference_mode():
            ids = torch.tensor([tokens])
            return self._through(ids, 0, None, None, None, torch.tensor([[len(tokens) - 1]]))[1]

    def read(self, suffixes: Sequence[Tokens], shared: Read | None) -> tuple[Tensor, Prompts]:
        """Read what follows the shared tokens in each prompt."""
        ids, lengths = padded(suffixes)
        with torch.inference_mode():
            hidden, own = self._through(ids, shared.tokens if shared else 0, shared, None, None, lengths[:, None] - 1)
        return hidden[:, 0], Prompts(shared, own, lengths)

    def follow(self, word: Tokens, prompts: Prompts) -> Tensor:
        """Read the same tokens after each prompt, which stay as they are."""
        texts, shared, own = len(prompts.lengths), prompts.shared, prompts.own
        with torch.inference_mode():
            unseen = torch.arange(own.tokens)[None] >= prompts.lengths[:, None]
            later = torch.arange(len(word))[None] > torch.arange(len(word))[:, None]
            parts = (unseen[:, None].expand(-1, len(word), -1), later[None].expand(texts, -1, -1))
            mask = _minus_infinity(torch.cat(parts, 2)[:, None])
            ids, ends = (torch.tensor(row).expand(texts, -1) for row in (word, range(len(word))))
            start = prompts.lengths[:, None] + (shared.tokens if shared else 0)
            return self._through(ids, start, shared, own, mask, ends)[0]

    def _through(
        self, ids: Tensor, start: Tensor | int, shared: Read | None, own: Read | None, mask: Tensor | None, ends: Tensor
    ) -> tuple[Tensor, Read]:
        """All layers.

        Args:
            ids: (texts, tokens), padded at the end.
            start: position of the first ones, (texts, 1) or the same for all.
            shared: what all texts begin with; of one text.
            own: what was read of each text after that.
            mask: (texts, 1, tokens, own tokens and these), 0 or -inf. None: each token sees those before it.
            ends: (texts, n), places in `ids` that are asked for.

        Returns:
            Hidden states (texts, n, width), and what was read of `own` and `ids`.
        """
        x = self._model.embed_tokens(ids)
        cos, sin = self._model.rotary_emb(x, position_ids=start + torch.arange(ids.shape[1])[None])
        half, last, done = cos.shape[-1] // 2, len(self._model.layers) - 1, []
        turn = torch.complex(cos[..., :half], sin[..., :half])[:, :, None]
        for i, layer in enumerate(self._model.layers):
            asked = ends if i == last else None
            attended, keys = _attention(
                layer.self_attn, _norm(layer.input_layernorm, x), turn,
                shared.layers[i] if shared else None, own.layers[i] if own else None, mask, asked,
            )  # fmt: skip
            done.append(keys)
            x = layer.self_attn.o_proj(attended).add_(x if asked is None else _at(x, asked))
            h, mlp = _norm(layer.post_attention_layernorm, x), layer.mlp
            x = mlp.down_proj(functional.silu(mlp.gate_proj(h), inplace=True).mul_(mlp.up_proj(h))).add_(x)
        return _norm(self._model.norm, x), Read(done, done[0][0].shape[2])


def _attention(
    module: Any,  # noqa: ANN401 - a layer's attention
    x: Tensor,
    turn: Tensor,
    shared: tuple[Tensor, Tensor] | None,
    own: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
    asked: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Queries of `asked` tokens, or all, to the shared keys and their own: (texts, queries, heads x size), and keys."""
    key = _heads(module, "k", x, turn).transpose(1, 2)
    value = module.v_proj(x).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
    if own is not None:
        key, value = torch.cat([own[0], key], 2), torch.cat([own[1], value], 2)
    if asked is not None:
        x, turn = _at(x, asked), _at(turn.expand(len(x), -1, -1, -1).flatten(2), asked)[:, :, None]
    query = _heads(module, "q", x, turn).transpose(1, 2).mul(module.scaling)
    batch, heads, length, size = query.shape
    groups, tokens = key.shape[1], key.shape[2]
    if mask is None and length == tokens > SHORT:
        out, sums = _flash(
            query, *(t.repeat_interleave(heads // groups, 1) for t in (key, value)), is_causal=True, scale=1
        )
        out, sums = (t.reshape(batch, groups, -1, *t.shape[3:]).transpose(0, 1) for t in (out, sums[..., None]))
    else:
        seen = mask if mask is not None else _causal(length, tokens, asked)
        rows = query.reshape(batch, groups, -1, size).transpose(0, 1)
        scores = rows @ key.permute(1, 0, 3, 2)  # (groups, texts, heads of a group x queries, tokens)
        scores.view(groups, batch, -1, length, tokens).add_(seen)
        out, sums = _softmax(scores, value.transpose(0, 1))
    out, sums = (t.reshape(groups, -1, t.shape[-1]) for t in (out, sums))
    if shared is not None:
        rows = query.reshape(batch, groups, -1, size).transpose(0, 1).reshape(groups, -1, size)
        out = _with_shared(rows, shared, out, sums)
    out = out.view(groups, batch, -1, length, size).permute(1, 3, 0, 2, 4)
    return out.reshape(batch, length, -1), (key, value)


def _with_shared(rows: Tensor, shared: tuple[Tensor, Tensor], out: Tensor, sums: Tensor) -> Tensor:
    """Put what rows (groups, rows, size) find in shared keys together with `out`, which they found in their own."""
    keys, values = shared
    if keys.shape[2] > _FEW:
        found, logs = _flash(rows[None], keys, values, scale=1)
        found, logs = found[0], logs[0, ..., None]
    else:
        found, logs = _softmax(rows @ keys[0].transpose(1, 2), values[0])
    return out.lerp(found, (logs - sums).sigmoid())


def _softmax(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of values by the softmax of scores, which are overwritten, and the logs of its denominators."""
    highest = scores.amax(dim=-1, keepdim=True)
    total = scores.sub_(highest).exp_().sum(dim=-1, keepdim=True)
    return (scores @ values).div_(total), total.log_().add_(highest)


def _heads(module: Any, which: str, x: Tensor, turn: Tensor) -> Tensor:  # noqa: ANN401 - a layer's attention
    """Queries or keys (texts, tokens, heads, size), turned by their positions; halves interleaved, in both alike."""
    rows = getattr(module, f"{which}_proj")(x).unflatten(-1, (-1, module.head_dim))
    if (norm := getattr(module, f"{which}_norm", None)) is not None:
        rows = _norm(norm, rows)
    half = module.head_dim // 2
    return torch.view_as_real(torch.complex(rows[..., :half], rows[..., half:]).mul_(turn)).flatten(-2)


def _norm(module: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - an RMS norm
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    normed: Tensor = x * squares.div_(x.shape[-1]).add_(module.variance_epsilon).rsqrt_()
    return normed.mul_(module.weight)


def _causal(length: int, tokens: int, asked: Tensor | None) -> Tensor:
    """0 where a query (1 or texts, 1, queries, tokens) sees a token, else -inf."""
    at = torch.arange(length)[None] if asked is None else asked
    return _minus_infinity(torch.arange(tokens) > at[:, None, :, None])


def _minus_infinity(hidden: Tensor) -> Tensor:
    """-inf where something is hidden, else 0."""
    return torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """(texts, n, width) of (texts, tokens, width)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
