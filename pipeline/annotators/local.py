"""A causal language model run here: log-probabilities of the answer words after each prompt, in batches.

The tokens that all prompts share (instruction, examples) go through the model once; each batch continues from what is
kept of them. Only the last position meets the vocabulary. Answers of several tokens are scored whole.
"""

import json
import time
from collections.abc import Container, Iterable, Iterator, Sequence
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
        shared = self._scorer.prefix(prefix)
        for batch in batching.plan(lengths, self._params.max_batch_tokens):
            unique = list({keys[i]: int(i) for i in batch if keys[i] in open_}.values())
            open_ -= {keys[i] for i in unique}
            unique = [i for i in unique if spending.take(keys[i], len(prompts[i][0]), 0)]
            if not unique:
                continue
            start = time.perf_counter()
            scores = self._scorer.score([prompts[i][0][len(prefix) :] for i in unique], shared)
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

    def prefix(self, tokens: Tokens) -> Any:  # noqa: ANN401 - what `score` wants
        """What is kept of the tokens that all prompts begin with, or None."""
        return self._reader.prefix(tokens) if tokens else None

    def score(self, suffixes: list[Tokens], shared: Any) -> list[list[float]]:  # noqa: ANN401 - of `prefix`
        """Log-probability of each label's answers after each prompt: (prompts, labels)."""
        import torch

        with torch.inference_mode():
            hidden, prompts = self._reader.read(suffixes, shared)
            first = self._log_softmax(hidden)
            columns = []
            for words in self._answers:
                totals = [self._total(word, first, prompts) for word in words]
                columns.append(torch.logsumexp(torch.stack(totals), dim=0))
            scores: list[list[float]] = torch.stack(columns, dim=1).tolist()
        return scores

    def _total(self, word: Tokens, first: Any, prompts: Any) -> Any:  # noqa: ANN401 - tensors
        """Log-probability (prompts,) of all tokens of one answer."""
        import torch

        if len(word) == 1:
            return first[:, word[0]]
        then = self._log_softmax(self._reader.follow(word[:-1], prompts))  # (prompts, tokens, vocabulary)
        following = torch.tensor([word[1:]], device=self.device).expand(len(first), -1)
        return first[:, word[0]] + then.gather(2, following[..., None]).sum(dim=(1, 2))

    @cached_property
    def _reader(self) -> Any:  # noqa: ANN401 - a Decoder or Cached, whose modules import torch
        from pipeline.annotators.cached import Cached
        from pipeline.annotators.decoder import Decoder, supports

        return Decoder(self._model) if supports(self._model) else Cached(self._model)

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
