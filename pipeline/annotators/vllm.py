"""vLLM in this process: log-probabilities of the answer words or, where the prompt asks for reasoning, free text.

The beginnings of all answers form a tree. Each inner node of it is one prompt, of which vLLM reports the
log-probabilities of the tokens that may come next: answers of one token take one forward pass a text, longer ones are
scored whole, and the prefix cache keeps what their prompts share.
"""

import json
import os
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import weights
from pipeline.annotators import Request
from pipeline.annotators.cutting import Cutter
from pipeline.annotators.tokens import Tokens, prompt_key, prompt_tokens
from pipeline.errors import UserError
from pipeline.params import VllmAnnotator
from pipeline.prompts import Template
from pipeline.responses import Answer, ErrorKind
from pipeline.spending import Spending

Text = tuple[str, str | None, int]  # answer, finish reason, tokens
Node = tuple[tuple[int, ...], Tokens]  # the beginning of an answer, and tokens that may follow it
_TOKENS_OF_A_NODE = 128  # that vLLM reports the log-probabilities of at once: sampling_params.MAX_LOGPROB_TOKEN_IDS


class Vllm:
    """Any model that vLLM can serve, a window of texts at a time: a killed run loses at most one."""

    def __init__(self, params: VllmAnnotator, template: Template, reasoning: bool) -> None:
        self._params, self._template, self._reasoning = params, template, reasoning
        self.gives_log_probabilities = not reasoning
        self.model = weights.identity(params.model)
        self._answer_tokens = params.max_answer_tokens if reasoning else 0
        shape = {
            "answers": template.answers, "style": template.style, "dtype": params.dtype, "engine": params.engine,
            "quantization": params.quantization, "lora": params.lora and weights.identity(params.lora),
            "max_text_tokens": params.max_text_tokens, "max_model_len": params.max_model_len,
            "truncation": params.truncation, "max_answer_tokens": self._answer_tokens,
        }  # fmt: skip
        self.decoding = json.dumps(shape, sort_keys=True)

    def key(self, request: Request) -> str:
        """Model, decoding and messages."""
        return prompt_key(self.model, self.decoding, self._template, request)

    def answers(
        self, requests: Iterable[Request], stored: Container[str], spending: Spending
    ) -> Iterator[list[Answer]]:
        """Yield the answers of one window at a time."""
        stream = iter(requests)
        while spending.stopped is None and (window := list(islice(stream, self._params.window))):
            keyed = ((self.key(request), request) for request in window)
            open_ = {key: request for key, request in keyed if key not in stored}
            if open_ and (answers := self._window(open_, spending)):
                yield answers

    def _window(self, requests: dict[str, Request], spending: Spending) -> list[Answer]:
        engine, start = self._engine, time.perf_counter()
        prompts: dict[str, tuple[Tokens, bool]] = {}
        for key, request in requests.items():
            tokens, cut = self._prompt(request)
            if not spending.take(key, len(tokens), self._answer_tokens):
                break
            prompts[key] = tokens, cut
        engine.forget()
        asked = [tokens for tokens, _ in prompts.values()]
        said: Sequence[list[float] | Text] = (
            engine.texts(asked, self._answer_tokens) if self._reasoning else self._scores(asked)
        )
        seconds = (time.perf_counter() - start) / max(len(prompts), 1)
        return [
            _answer(key, len(tokens), cut, seconds, one)
            for (key, (tokens, cut)), one in zip(prompts.items(), said, strict=True)
        ]

    def _prompt(self, request: Request) -> tuple[Tokens, bool]:
        """Token ids of the prompt and whether the text was cut: to max_text_tokens, and to what the model has room for.

        Raises:
            UserError: not even the rules fit.
        """
        engine, deepest = self._engine, max(len(beginning) for beginning, _ in self._tree)
        limit = engine.max_model_len - (self._answer_tokens if self._reasoning else deepest + 1)
        room = min(self._params.max_text_tokens or limit, limit)
        while room > 0:
            cutter = Cutter(engine.tokenizer, room, self._params.truncation)
            tokens, cut = prompt_tokens(engine.tokenizer, self._template, request, cutter)
            if len(tokens) <= limit:
                return tokens, cut
            room -= len(tokens) - limit
        raise UserError(
            f"the rules of annotate.prompt and the answer leave no room for a text in {engine.max_model_len} tokens: "
            "shorten them, or raise annotate.annotator.max_model_len"
        )

    def _scores(self, prompts: list[Tokens]) -> list[list[float]]:
        """Log-probability of each label's answers after each prompt: (prompts, labels)."""
        nodes = self._tree
        asked = [([*prompt, *beginning], following) for prompt in prompts for beginning, following in nodes]
        found = self._engine.next_log_probabilities(asked)
        rows = []
        for start in range(0, len(found), len(nodes)):
            after: dict[tuple[int, ...], float] = {}  # beginning of an answer -> log-probability of its last token
            for (beginning, _), values in zip(nodes, found[start : start + len(nodes)], strict=True):
                after |= {(*beginning, token): value for token, value in values.items()}
            totals = [
                [sum(after[tuple(word[: i + 1])] for i in range(len(word))) for word in words] for words in self._words
            ]
            rows.append([float(np.logaddexp.reduce(words)) for words in totals])
        return rows

    @cached_property
    def _words(self) -> list[list[Tokens]]:
        """(label, word) -> token ids of the answer."""
        tokenizer = self._engine.tokenizer
        return [
            [tokenizer(word, add_special_tokens=False).input_ids for word in words] for words in self._template.answers
        ]

    @cached_property
    def _tree(self) -> list[Node]:
        """Its inner nodes, at most 128 tokens in each."""
        following: dict[tuple[int, ...], set[int]] = {}
        for word in (word for words in self._words for word in words):
            for i, token in enumerate(word):
                following.setdefault(tuple(word[:i]), set()).add(token)
        return [
            (beginning, sorted(tokens)[start : start + _TOKENS_OF_A_NODE])
            for beginning, tokens in following.items()
            for start in range(0, len(tokens), _TOKENS_OF_A_NODE)
        ]

    @cached_property
    def _engine(self) -> "_Engine":
        return _Engine(self._params)


def _answer(key: str, prompt_tokens: int, cut: bool, seconds: float, said: list[float] | Text) -> Answer:
    if isinstance(said, list):
        return Answer(key, None, said, "choice", prompt_tokens, 0, seconds, cut)
    text, reason, answer_tokens = said
    if reason not in ("stop", "length"):
        return Answer.failed(key, ErrorKind.SERVER, f"vLLM ended the answer with the reason {reason}")
    return Answer(key, text, None, reason, prompt_tokens, answer_tokens, seconds, cut)


class _Engine:
    """The loaded model: prompts in, log-probabilities or texts out."""

    def __init__(self, params: VllmAnnotator) -> None:
        if find_spec("vllm") is None:
            raise UserError(
                "annotate.annotator.kind vllm needs vLLM, in an environment of its own: `make vllm` makes .venv-vllm "
                "(or `pip install 'llambert[vllm]'`); then `.venv-vllm/bin/python -m pipeline annotate`"
            )
        # In this process: schedules don't depend on timing, and a killed run leaves no other behind on the GPU.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from transformers import AutoTokenizer
        from vllm import LLM, EngineArgs
        from vllm.lora.request import LoRARequest

        if unknown := set(params.engine) - {field.name for field in fields(EngineArgs)}:
            raise UserError(f"annotate.annotator.engine: vLLM has no argument {sorted(unknown)}")
        directory, lora = weights.language_model_directory(params.model), _lora_arguments(params.lora)
        arguments: dict[str, Any] = {"enable_prefix_caching": True, **lora, **params.engine}
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
            self._llm: Any = LLM(
                directory, dtype=params.dtype, quantization=params.quantization, max_model_len=params.max_model_len,
                tensor_parallel_size=params.tensor_parallel_size, load_format="safetensors", trust_remote_code=False,
                gpu_memory_utilization=params.gpu_memory_utilization, **arguments,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            seen = " ".join(str(error).split())[:400]
            hint = "; see max_model_len, gpu_memory_utilization, quantization, tensor_parallel_size"
            raise UserError(
                f"annotate.annotator: vLLM can't serve '{params.model}' ({seen}){hint if 'memory' in seen else ''}"
            ) from error
        self._lora = LoRARequest("adapter", 1, params.lora) if params.lora else None
        self.max_model_len: int = self._llm.model_config.max_model_len

    def forget(self) -> None:
        """Empty the prefix cache, so that what is computed depends on the window alone."""
        self._llm.reset_prefix_cache()

    def next_log_probabilities(self, prompts: list[tuple[Tokens, Tokens]]) -> list[dict[int, float]]:
        """For each (prompt, tokens): the log-probability of each of the tokens after the prompt."""
        from vllm import SamplingParams

        how = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=wanted, detokenize=False)
            for _, wanted in prompts
        ]
        outputs = self._generate([prompt for prompt, _ in prompts], how)
        return [
            {token: output.outputs[0].logprobs[0][token].logprob for token in wanted}
            for output, (_, wanted) in zip(outputs, prompts, strict=True)
        ]

    def texts(self, prompts: list[Tokens], max_tokens: int) -> list[Text]:
        """The likeliest continuation of each prompt."""
        from vllm import SamplingParams

        outputs = self._generate(prompts, [SamplingParams(max_tokens=max_tokens, temperature=0.0)] * len(prompts))
        said = [output.outputs[0] for output in outputs]
        return [(one.text, one.finish_reason, len(one.token_ids)) for one in said]

    def _generate(self, prompts: list[Tokens], how: list[Any]) -> list[Any]:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs: list[Any] = self._llm.generate(asked, how, use_tqdm=False, lora_request=self._lora)
        return outputs


def _lora_arguments(lora: str | None) -> dict[str, Any]:
    if lora is None:
        return {}
    config, file = Path(lora) / "adapter_config.json", Path(lora) / "adapter_model.safetensors"
    if not (config.is_file() and file.is_file()):
        raise UserError(f"annotate.annotator.lora '{lora}' has no adapter_config.json and adapter_model.safetensors")
    rank: int = json.loads(config.read_text())["r"]
    return {"enable_lora": True, "max_lora_rank": max(8, 1 << (rank - 1).bit_length())}  # vLLM takes no rank between
