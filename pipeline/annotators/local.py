"""A causal language model run here: log-probabilities of the answer words after each prompt, in batches.

The tokens that all prompts share (instruction, examples) go through the model once; each batch continues from their
key-value cache. Only the last position meets the vocabulary. Answers of several tokens are scored whole.
"""

import copy
import json
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

from pipeline import computing, weights
from pipeline.annotators import Request
from pipeline.annotators.cutting import Cutter
from pipeline.annotators.tokens import Tokens, prompt_key, prompt_tokens
from pipeline.errors import UserError
from pipeline.params import LocalAnnotator
from pipeline.prompts import Template
from pipeline.responses import Answer
from pipeline.spending import Spending
from serving import batching

_WINDOW = 2048  # prompts that are sorted by length together, and held in memory


class Local:
    """transformers, any causal language model; right-padded batches bounded by tokens."""

    gives_log_probabilities = True

    def __init__(self, params: LocalAnnotator, template: Template) -> None:
        self._params, self._template = params, template
        self.model = weights.identity(params.model)
        self.decoding = json.dumps(
            {
                "answers": template.answers,
                "style": template.style,
                "dtype": params.dtype,
                "max_text_tokens": params.max_text_tokens,
                "truncation": params.truncation,
            }
        )

    def key(self, request: Request) -> str:
        """Model, decoding and messages."""
        return prompt_key(self.model, self.decoding, self._template, request)

    def answers(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending
    ) -> Iterator[list[Answer]]:
        """Yield a batch of answers at a time; within a window of requests the longest prompts come first."""
        stream = iter(requests)
        while spending.stopped is None and (window := list(islice(stream, _WINDOW))):
            yield from self._window(window, stored, spending)

    def _window(self, requests: list[Request], stored: Container[str], spending: Spending) -> Iterator[list[Answer]]:
        keys = [self.key(request) for request in requests]
        open_ = {key for key in keys if key not in stored}
        if not open_:
            return
        prompts = [self._prompt(request) for request in requests]
        prefix = _common_prefix([tokens for tokens, _ in prompts])
        lengths = [len(tokens) - len(prefix) for tokens, _ in prompts]
        cache = self._scorer.prefix_cache(prefix)
        for batch in batching.plan(lengths, self._params.max_batch_tokens):
            unique = list({keys[i]: int(i) for i in batch if keys[i] in open_}.values())
            open_ -= {keys[i] for i in unique}
            unique = [i for i in unique if spending.take(keys[i], len(prompts[i][0]), 0)]
            if not unique:
                continue
            start = time.perf_counter()
            scores = self._scorer.score([prompts[i][0][len(prefix) :] for i in unique], cache, len(prefix))
            seconds = (time.perf_counter() - start) / len(unique)
            yield [
                Answer(keys[i], None, row, "choice", len(prompts[i][0]), 0, seconds, prompts[i][1])
                for i, row in zip(unique, scores, strict=True)
            ]

    def _prompt(self, request: Request) -> tuple[Tokens, bool]:
        return prompt_tokens(self._scorer.tokenizer, self._template, request, self._scorer.cut)

    @cached_property
    def _scorer(self) -> "_Scorer":
        return _Scorer(self._params, self._template.answers)


class _Scorer:
    """The loaded model: prompts in, log-probabilities of the answers out."""

    def __init__(self, params: LocalAnnotator, answers: Sequence[Sequence[str]]) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        computing.keep_memory()
        directory = weights.language_model_directory(params.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_float32_matmul_precision("high" if self.device.type == "cuda" else "medium")
        dtype = getattr(torch, params.dtype) if params.dtype != "auto" else computing.best_dtype(self.device.type)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
            model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"annotate.annotator.model '{params.model}' can't be loaded: {error}") from error
        self._model = model.eval().to(self.device)
        self.cut = Cutter(self.tokenizer, params.max_text_tokens, params.truncation)
        # (label, word) -> token ids of the answer
        self._answers: list[list[Tokens]] = [
            [self.tokenizer(word, add_special_tokens=False).input_ids for word in words] for words in answers
        ]

    def prefix_cache(self, prefix: Tokens) -> Any:  # noqa: ANN401 - a transformers cache
        """Key-value cache of the tokens that all prompts begin with, or None."""
        import torch

        if not prefix:
            return None
        computing.choose_attention(self._model, self.device.type, len(prefix))
        with torch.inference_mode():
            ids = torch.tensor([prefix], device=self.device)
            return self._model.base_model(ids, past_key_values=self._cache(), use_cache=True).past_key_values

    def score(self, suffixes: list[Tokens], prefix_cache: Any, prefix_length: int) -> list[list[float]]:  # noqa: ANN401
        """Log-probability of each label's answers after each prompt: (prompts, labels)."""
        import torch

        lengths = torch.tensor([len(tokens) for tokens in suffixes], device=self.device)
        width = int(lengths.max())
        ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in suffixes], device=self.device)
        positions = torch.arange(prefix_length, prefix_length + width, device=self.device)[None].expand_as(ids)
        with self._after(prefix_cache, width, len(suffixes)) as (cache, cached), torch.inference_mode():
            seen = torch.arange(cached + width, device=self.device)[None] < (cached + lengths)[:, None]
            out = self._forward(ids, seen, positions, cache)
            after_prompt = self._log_softmax(out.last_hidden_state[torch.arange(len(suffixes)), lengths - 1])
            columns = []
            for words in self._answers:
                totals = [
                    self._continue(word, after_prompt, out.past_key_values, seen, prefix_length + lengths)
                    for word in words
                ]
                columns.append(torch.logsumexp(torch.stack(totals), dim=0))
            scores: list[list[float]] = torch.stack(columns, dim=1).tolist()
        return scores

    @contextmanager
    def _after(self, prefix_cache: Any, width: int, texts: int) -> Iterator[tuple[Any, int]]:  # noqa: ANN401
        """Choose how `width` tokens of each text attend to the prefix; the cache to go on with, and its tokens.

        The choice depends on the number of tokens alone, so that resumed runs choose alike.
        """
        if prefix_cache is None:
            computing.choose_attention(self._model, self.device.type, width)
            yield self._cache(), 0
        elif self.device.type == "cpu" and width <= computing.SHORT and self._prefix_attention.supports(self._model):
            self._model.set_attn_implementation(self._prefix_attention.NAME)
            with self._prefix_attention.sharing(prefix_cache):
                yield self._cache(), 0
        else:
            computing.choose_attention(self._model, self.device.type, width)
            cache = copy.deepcopy(prefix_cache)
            cache.batch_repeat_interleave(texts)
            yield cache, prefix_cache.get_seq_length()

    def _cache(self) -> Any:  # noqa: ANN401 - a transformers cache
        """An empty cache that keeps all tokens: one of a sliding window would lose a short text behind its padding."""
        from transformers import DynamicCache

        return DynamicCache()

    @cached_property
    def _prefix_attention(self) -> Any:  # noqa: ANN401 - a module that imports torch and transformers
        from pipeline.annotators import prefix_attention

        return prefix_attention

    def _continue(self, word: Tokens, after_prompt: Any, cache: Any, seen: Any, ends: Any) -> Any:  # noqa: ANN401 - tensors
        """Log-probability (prompts,) of all tokens of one answer."""
        import torch

        total = after_prompt[:, word[0]]
        if len(word) == 1:
            return total
        ids = torch.tensor([word[:-1]], device=self.device).expand(len(total), -1)
        positions = ends[:, None] + torch.arange(ids.shape[1], device=self.device)
        mask = torch.cat([seen, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        hidden = self._forward(ids, mask, positions, cache).last_hidden_state
        cache.crop(-ids.shape[1])
        following = torch.tensor([word[1:]], device=self.device).expand(len(total), -1)
        return total + self._log_softmax(hidden).gather(2, following[..., None]).sum(dim=(1, 2))

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:  # noqa: ANN401 - tensors
        return self._model.base_model(
            input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True
        )

    def _log_softmax(self, hidden: Any) -> Any:  # noqa: ANN401 - tensors
        """Over the vocabulary, with what some kinds of models do to their logits."""
        config = self._model.config
        logits = self._model.get_output_embeddings()(hidden).float()
        logits *= getattr(config, "logit_scale", None) or 1.0  # Cohere
        logits /= getattr(config, "logits_scaling", None) or 1.0  # Granite
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = (logits / cap).tanh() * cap
        return logits.log_softmax(dim=-1)


def _common_prefix(prompts: Sequence[Tokens]) -> Tokens:
    """The longest run of tokens that all prompts begin with, leaving each at least one of its own."""
    first, last = min(prompts), max(prompts)
    room = min(len(tokens) for tokens in prompts) - 1
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), room)
    return first[: min(length, room)]
