"""The other way: RoBERTa over padded batches, as transformers computes it (sdpa), in torch alone.

Every layer is computed for every token, padding included. Weights have the names that transformers gives them.
"""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

Config = dict[str, Any]


def config(hidden: int, layers: int, vocabulary: int = 50265) -> Config:
    """A config.json of RoBERTa's shape: heads of 64, feed-forward of 4 times the hidden size."""
    return {
        "model_type": "roberta", "hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocabulary,
        "num_attention_heads": hidden // 64, "intermediate_size": 4 * hidden, "hidden_act": "gelu", "num_labels": 2,
        "layer_norm_eps": 1e-5, "pad_token_id": 1, "max_position_embeddings": 514,
    }  # fmt: skip


class Padded(nn.Module):
    """Token ids and mask [texts, longest] to logits [texts, classes]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, self._heads = config["hidden_size"], config["num_attention_heads"]
        self.config = SimpleNamespace(model_type="padded roberta")  # what pipeline.graphs asks for
        self._pad_id = config["pad_token_id"]
        self.roberta = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {
                        "word_embeddings": nn.Embedding(config["vocab_size"], hidden),
                        "position_embeddings": nn.Embedding(config["max_position_embeddings"], hidden),
                        "token_type_embeddings": nn.Embedding(1, hidden),
                        "LayerNorm": nn.LayerNorm(hidden, config["layer_norm_eps"]),
                    }
                ),
                "encoder": nn.ModuleDict(
                    {"layer": nn.ModuleList(_layer(config) for _ in range(config["num_hidden_layers"]))}
                ),
            }
        )
        dense, out = nn.Linear(hidden, hidden), nn.Linear(hidden, config["num_labels"])
        self.classifier = nn.ModuleDict({"dense": dense, "out_proj": out})

    def forward(self, input_ids: Tensor, attention_mask: Tensor, full: bool = False) -> SimpleNamespace:
        """The result has one field, `logits`. `full`: there is no padding, and sdpa may take its fastest kernel."""
        embeddings: Any = self.roberta["embeddings"]
        positions = attention_mask.cumsum(1) * attention_mask + self._pad_id
        x = embeddings["word_embeddings"](input_ids) + embeddings["position_embeddings"](positions)
        x = embeddings["LayerNorm"](x + embeddings["token_type_embeddings"].weight[0])
        mask = None if full else attention_mask[:, None, None, :].bool()
        for layer in self.roberta["encoder"]["layer"]:  # type: ignore[index]
            x = self._through(layer, x, mask)
        first = torch.tanh(self.classifier["dense"](x[:, 0]))
        return SimpleNamespace(logits=self.classifier["out_proj"](first).float())

    def _through(self, layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ANN401 - modules by name
        attention = layer["attention"]
        q, k, v = (
            attention["self"][name](x).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = attention["output"]["LayerNorm"](attention["output"]["dense"](mixed) + x)
        wide = F.gelu(layer["intermediate"]["dense"](x))
        normed: Tensor = layer["output"]["LayerNorm"](layer["output"]["dense"](wide) + x)
        return normed


def _layer(config: Config) -> nn.ModuleDict:
    hidden, wide, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]

    def output(size: int) -> nn.ModuleDict:
        return nn.ModuleDict({"dense": nn.Linear(size, hidden), "LayerNorm": nn.LayerNorm(hidden, eps)})

    heads = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")})
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict({"self": heads, "output": output(hidden)}),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(hidden, wide)}),
            "output": output(wide),
        }
    )
