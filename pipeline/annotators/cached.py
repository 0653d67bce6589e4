"""Prompts that begin with the same tokens, as transformers reads them: any causal language model, on any device."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pipeline import computing
from pipeline.annotators.tokens import Tokens


@dataclass(frozen=True)
class Prompts:
    """A batch that was read."""

    suffixes: Sequence[Tokens]
    shared: Any  # of transformers, like the next
    cache: Any
    seen: Tensor  # (texts, tokens) whether a token is one, or padding
    ends: Tensor  # (texts,) positions of what follows


class Cached:
    """Reads the shared tokens once, and copies their keys for each text of a batch."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - of transformers
        self._model, self._device = model, model.device
        self._window: int | None = getattr(model.config, "sliding_window", None)

    def prefix(self, tokens: Tokens) -> Any:  # noqa: ANN401 - a transformers cache
        """What all prompts begin with."""
        computing.choose_attention(self._model, self._device.type, len(tokens))
        ids = torch.tensor([tokens], device=self._device)
        with torch.inference_mode():
            return self._model.base_model(ids, past_key_values=_cache(), use_cache=True).past_key_values

    def read(self, suffixes: Sequence[Tokens], shared: Any) -> tuple[Tensor, Prompts]:  # noqa: ANN401 - of `prefix`
        """Hidden state (texts, width) of the last token of each prompt, and what `follow` goes on from."""
        hidden, lengths, cache, seen = self._run(suffixes, shared)
        ends = lengths + (shared.get_seq_length() if shared else 0)
        return hidden[torch.arange(len(hidden)), lengths - 1], Prompts(suffixes, shared, cache, seen, ends)

    def follow(self, word: Tokens, prompts: Prompts) -> Tensor:
        """Hidden states (texts, tokens, width) of the same tokens after each prompt, which stay as they are."""
        places = torch.arange(len(word), device=self._device)
        if self._window is not None and prompts.seen.shape[1] + len(word) > self._window:
            # Windows count what lies in the cache, padding too: the prompt is read again, with the word right behind.
            hidden, lengths, _, _ = self._run([[*suffix, *word] for suffix in prompts.suffixes], prompts.shared)
            return hidden[torch.arange(len(hidden))[:, None], (lengths - len(word))[:, None] + places]
        ids = torch.tensor([word], device=self._device).expand(len(prompts.ends), -1)
        mask = torch.cat([prompts.seen, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        hidden = self._forward(ids, mask, prompts.ends[:, None] + places, prompts.cache)
        prompts.cache.crop(-len(word))
        return hidden

    def _run(self, rows: Sequence[Tokens], shared: Any) -> tuple[Tensor, Tensor, Any, Tensor]:  # noqa: ANN401
        """Hidden states (texts, tokens, width), lengths (texts,), cache, and which tokens of it are none of padding."""
        ids, lengths = (tensor.to(self._device) for tensor in padded(rows))
        (texts, width), before = ids.shape, shared.get_seq_length() if shared else 0
        computing.choose_attention(self._model, self._device.type, width)
        cache = copy.deepcopy(shared) if shared else _cache()
        if shared:
            cache.batch_repeat_interleave(texts)
        seen = torch.arange(before + width, device=self._device)[None] < (before + lengths)[:, None]
        positions = torch.arange(before, before + width, device=self._device)[None].expand_as(ids)
        return self._forward(ids, seen, positions, cache), lengths, cache, seen

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:  # noqa: ANN401
        with torch.inference_mode():
            hidden: Tensor = self._model.base_model(
                input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return hidden


def padded(rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Token ids (texts, tokens) padded on the right, and lengths (texts,)."""
    lengths = [len(row) for row in rows]
    return torch.tensor([[*row, *[0] * (max(lengths) - len(row))] for row in rows]), torch.tensor(lengths)


def _cache() -> Any:  # noqa: ANN401 - of transformers
    """An empty cache that keeps all tokens: one of a sliding window would lose a short text behind its padding."""
    return DynamicCache()
