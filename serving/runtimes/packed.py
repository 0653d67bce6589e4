"""BERT's family of encoders over packed texts: their tokens stand in one row, without any padding.

Written for inference and torch alone. Knows nothing of files, pinned memory or batches to come.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

_ROBERTA = "roberta"
_PREFIXES = {"bert": "bert", "electra": "electra", _ROBERTA: _ROBERTA, "xlm-roberta": _ROBERTA, "camembert": _ROBERTA}
_GELU = {"gelu": "none", "gelu_python": "none", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}
Config = Mapping[str, Any]  # a model's config.json


class Batch(NamedTuple):
    """Packed texts; all tensors int32 and on the encoder's device."""

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens], see `first_position`
    bounds: Tensor  # [texts + 1], where each text begins; the last one is the number of tokens
    lengths: Sequence[int]  # of each text


def why_not(config: Config) -> str | None:
    """What keeps a model from being run here, or None: a check before weights are written."""
    kind = config.get("model_type")
    if kind not in _PREFIXES:
        return f"it is of the kind '{kind}', not one of {', '.join(_PREFIXES)}"
    if config["hidden_act"] not in _GELU:
        return f"its activation is '{config['hidden_act']}', not one of {', '.join(_GELU)}"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"its positions are '{config['position_embedding_type']}', not 'absolute'"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is a decoder"
    return None


def first_position(config: Config) -> int:
    """The position of a text's first token: 0, or the one after the id of padding in RoBERTa's family."""
    return config["pad_token_id"] + 1 if counts_padding(config) else 0


def counts_padding(config: Config) -> bool:
    """Whether a padding token within a text has no position of its own (RoBERTa's family)."""
    return _PREFIXES[config["model_type"]] == _ROBERTA


class Encoder:
    """An encoder with a classification head: the last layer is computed for the first token of each text only.

    Args:
        config: of the model; `why_not(config)` must be None.
        weights: as transformers names them, in any floating type.
        device: to compute on. Attention is FlashAttention's (half precision only) on CUDA.
        dtype: of weights and activations. Layer norms and softmax accumulate in fp32, the head is fp32 throughout.
        compiled: fuse each sum and its layer norm into one kernel by torch.compile, which takes a minute at the start.
        approximate: compute GELU within the matrix product, by the tanh formula whatever the config says. On CUDA it
            saves one of five passes over activations; it is 5e-4 at most from the exact function.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        approximate: bool = False,
    ) -> None:
        prefix = _PREFIXES[config["model_type"]]
        self._weights, self._prefix, self._device, self._dtype = weights, prefix, device, dtype
        self.classes = weights["classifier.bias" if prefix == "bert" else "classifier.out_proj.bias"].shape[0]
        self._words = self._take("embeddings.word_embeddings.weight")
        types = self._take("embeddings.token_type_embeddings.weight", torch.float32)[0]  # one segment: type 0
        positions = self._take("embeddings.position_embeddings.weight", torch.float32)
        self._positions = (positions + types).to(dtype)
        self._norm = self._pair("embeddings.LayerNorm")
        project = f"{prefix}.embeddings_project.weight" in weights  # ELECTRA's narrow embeddings
        self._project = self._pair("embeddings_project") if project else None
        eps: float = config["layer_norm_eps"]
        self._eps = eps
        add_norm = torch.compile(_add_norm, dynamic=True) if compiled else _add_norm
        exact = partial(_gelu_after_product, formula=_GELU[config["hidden_act"]])
        expand = _product_with_gelu if approximate else exact
        self._layers = [
            _Layer(self._layer(i), config["num_attention_heads"], eps, add_norm, expand)
            for i in range(config["num_hidden_layers"])
        ]
        self._head = self._classifier()
        del self._weights

    def __call__(self, batch: Batch) -> Tensor:
        """Logits [texts, classes] in fp32."""
        x = F.embedding(batch.ids, self._words) + F.embedding(batch.positions, self._positions)
        x = F.layer_norm(x, x.shape[-1:], *self._norm, self._eps)
        if self._project:
            x = F.linear(x, *self._project)
        for layer in self._layers[:-1]:
            x = layer(x, batch)
        return self._head(self._layers[-1].first_tokens(x, batch).float())

    def _take(self, name: str, dtype: torch.dtype | None = None, prefixed: bool = True) -> Tensor:
        tensor = self._weights[f"{self._prefix}.{name}" if prefixed else name]
        return tensor.to(self._device, dtype or self._dtype)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self._take(f"{name}.weight"), self._take(f"{name}.bias")

    def _layer(self, i: int) -> "_Weights":
        at = f"encoder.layer.{i}"
        thirds = [self._pair(f"{at}.attention.self.{name}") for name in ("query", "key", "value")]
        return _Weights(
            qkv=(torch.cat([weight for weight, _ in thirds]), torch.cat([bias for _, bias in thirds])),
            mix=self._pair(f"{at}.attention.output.dense"),
            mix_norm=self._pair(f"{at}.attention.output.LayerNorm"),
            expand=self._pair(f"{at}.intermediate.dense"),
            shrink=self._pair(f"{at}.output.dense"),
            shrink_norm=self._pair(f"{at}.output.LayerNorm"),
        )

    def _classifier(self) -> Callable[[Tensor], Tensor]:
        names = {"bert": ("bert.pooler.dense", "classifier")}.get(
            self._prefix, ("classifier.dense", "classifier.out_proj")
        )
        (w, b), (v, c) = (
            [self._take(f"{name}.{part}", torch.float32, prefixed=False) for part in ("weight", "bias")]
            for name in names
        )
        squash = F.gelu if self._prefix == "electra" else torch.tanh
        return lambda x: F.linear(squash(F.linear(x, w, b)), v, c)


_Pair = tuple[Tensor, Tensor]  # weight and bias


class _Weights(NamedTuple):
    """Of one layer; H is the hidden size, I the intermediate one."""

    qkv: _Pair  # [3 H, H], queries, keys and values in one product
    mix: _Pair  # [H, H]
    mix_norm: _Pair
    expand: _Pair  # [I, H]
    shrink: _Pair  # [H, I]
    shrink_norm: _Pair


class _Layer:
    """One layer, over all tokens or for the first one of each text."""

    def __init__(
        self,
        weights: _Weights,
        heads: int,
        eps: float,
        add_norm: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor],
        expand: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self._weights, self._heads, self._eps = weights, heads, eps
        self._add_norm, self._expand = add_norm, expand

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """[tokens, H] to the same."""
        qkv = F.linear(x, *self._weights.qkv).view(len(x), 3, self._heads, -1)
        queries, keys, values = qkv.unbind(1)
        return self._after_attention(x, attention(queries, keys, values, batch, batch.bounds))

    def first_tokens(self, x: Tensor, batch: Batch) -> Tensor:
        """[tokens, H] to [texts, H]. All tokens give keys and values; nothing else of the others is read any more."""
        weight, bias = self._weights.qkv
        size = x.shape[-1]
        first = x.index_select(0, batch.bounds[:-1])
        queries = F.linear(first, weight[:size], bias[:size]).view(len(first), self._heads, -1)
        keys, values = F.linear(x, weight[size:], bias[size:]).view(len(x), 2, self._heads, -1).unbind(1)
        each = torch.arange(len(first) + 1, dtype=torch.int32, device=x.device)
        return self._after_attention(first, attention(queries, keys, values, batch, each))

    def _after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        w = self._weights
        x = self._add_norm(F.linear(attended.flatten(1), *w.mix), x, *w.mix_norm, self._eps)
        return self._add_norm(F.linear(self._expand(x, *w.expand), *w.shrink), x, *w.shrink_norm, self._eps)


def attention(queries: Tensor, keys: Tensor, values: Tensor, batch: Batch, query_bounds: Tensor) -> Tensor:
    """Attention within each text.

    Args:
        queries: [tokens or texts, heads, size]: of all tokens, or one for each text.
        keys: [tokens, heads, size].
        values: likewise.
        batch: says where texts begin.
        query_bounds: int32 [texts + 1], where each text's queries begin.

    Returns:
        As `queries`.
    """
    whole = len(queries) == len(keys)
    if queries.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        longest = max(batch.lengths)
        out: Tensor = varlen_attn(  # type: ignore[assignment] # a pair only if asked for
            queries, keys, values, query_bounds, batch.bounds, longest if whole else 1, longest
        )
        return out
    sizes = list(batch.lengths)
    each = sizes if whole else [1] * len(sizes)
    parts = zip(
        queries.split_with_sizes(each), keys.split_with_sizes(sizes), values.split_with_sizes(sizes), strict=True
    )
    return torch.cat([_attention_of_one(*part) for part in parts])


def _attention_of_one(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """[tokens, heads, size] each, of one text."""
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)


def _add_norm(x: Tensor, before: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x + before, x.shape[-1:], weight, bias, eps)


def _gelu_after_product(x: Tensor, weight: Tensor, bias: Tensor, formula: str) -> Tensor:
    # in place: on a GPU the product is still in the cache where it was written
    return torch.ops.aten.gelu_(F.linear(x, weight, bias), approximate=formula)  # type: ignore[no-any-return]


def _product_with_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
