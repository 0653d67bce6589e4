"""One request to an OpenAI-compatible endpoint, there and back: what is sent, what an answer or an error means.

Knows nothing of concurrency, retries or files: `openai_chat` and `openai_batch` do. What may go wrong is `failures`.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import openai
from httpx2 import Limits
from openai import AsyncOpenAI, DefaultAioHttpClient

from pipeline import choices, weights
from pipeline.annotators import Request
from pipeline.annotators.cutting import Cutter
from pipeline.annotators.failures import MalformedError as MalformedError
from pipeline.annotators.failures import trouble as trouble
from pipeline.errors import UserError
from pipeline.params import Endpoint, Mode
from pipeline.prompts import Template
from pipeline.responses import Answer, ResponseStore

log = logging.getLogger("llambert")
_REASONS = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_SHARED_BEGINNING_TOKENS = 8  # generated where labels begin alike, so that they part
_DATE = re.compile(r"[-@:]?(\d{4}-?\d{2}-?\d{2}|\d{4}|latest)$")  # at the end of a model's name


class Asker:
    """Requests and answers of one endpoint, model and template."""

    def __init__(self, params: Endpoint, template: Template, reasoning: bool, store: ResponseStore) -> None:
        self.params, self.template, self._reasoning, self._store = params, template, reasoning, store
        self._warned = False

    @cached_property
    def cutter(self) -> Cutter:
        """Counts and cuts texts; loads the tokenizer."""
        tokenizer = None
        if self.params.tokenizer is not None:
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(weights.language_model_directory(self.params.tokenizer))
            except (OSError, ValueError) as error:
                raise UserError(
                    f"annotate.annotator.tokenizer '{self.params.tokenizer}' can't be loaded: {error}"
                ) from error
        return Cutter(tokenizer, self.params.max_text_tokens, self.params.truncation)

    @property
    def url(self) -> str:
        """Where requests go, relative to the base URL."""
        return "/completions" if self.template.style == "completion" else "/chat/completions"

    @cached_property
    def mode(self) -> Mode:
        """How labels come back: what params say, or what the server turned out to be able to do."""
        if self._reasoning:
            return "text"
        if self.params.mode != "auto":
            return self.params.mode
        name = f"mode {self._address} {self._template_hash}"
        if (known := self._store.note(name)) is None:
            from pipeline.annotators import probing

            known = probing.find_mode(self)
            self._store.write_note(name, known)
        return cast("Mode", known)

    @property
    def limit_field(self) -> str:
        """What the server calls the largest number of tokens in an answer; newer models refuse the old name."""
        return self._store.note(f"limit {self._address}") or "max_tokens"

    @limit_field.setter
    def limit_field(self, name: str) -> None:
        self._store.write_note(f"limit {self._address}", name)

    @property
    def _address(self) -> str:
        return f"{self.params.base_url or os.environ.get('OPENAI_BASE_URL')} {self.params.model} {self.url}"

    @cached_property
    def _template_hash(self) -> str:
        return self.template.hash

    @cached_property
    def decoding(self) -> str:
        """JSON of all that shapes an answer beside model and messages."""
        p = self.params
        shape: dict[str, Any] = {
            "mode": self.mode, "temperature": p.temperature, "answers": self.template.answers,
            "max_text_tokens": p.max_text_tokens, "truncation": p.truncation, "tokenizer": p.tokenizer,
        }  # fmt: skip
        if self.mode == "log_probabilities":
            shape["top"] = p.top_log_probabilities
        else:
            shape["max_answer_tokens"] = p.max_answer_tokens
        return json.dumps(shape | {"extra_body": p.extra_body}, sort_keys=True)

    def key(self, request: Request) -> str:
        """Model, decoding and messages."""
        rules = [self.params.model, self.decoding, self._template_hash, self.template.style]
        messages = self.template.messages_as_json(request.text, request.variant)
        return hashlib.sha256(f"{json.dumps(rules)[:-1]}, {messages}]".encode()).hexdigest()

    def body(self, request: Request, mode: Mode | None = None) -> tuple[dict[str, Any], bool]:
        """What is posted to `url`, and whether the text was cut."""
        p, mode = self.params, mode or self.mode
        text, cut = self.cutter(request.text)
        variant = self.cutter.variant(request.variant)
        body: dict[str, Any] = {"model": p.model, self.limit_field: self.max_answer_tokens(mode)}
        if p.temperature is not None:
            body["temperature"] = p.temperature
        completion = self.template.style == "completion"
        if completion:
            body["prompt"] = self.template.completion(text, variant)
        else:
            body["messages"] = self.template.messages(text, variant)
        if mode == "log_probabilities" and completion:
            body["logprobs"] = p.top_log_probabilities
        elif mode == "log_probabilities":
            body |= {"logprobs": True, "top_logprobs": p.top_log_probabilities}
        elif mode == "json_schema":
            body["response_format"] = _schema(self.template)
        elif mode == "choice":
            body["structured_outputs"] = {"choice": [words[0].strip() for words in self.template.answers]}
        asked = body | p.extra_body
        return {name: value for name, value in asked.items() if value is not None}, cut

    def max_answer_tokens(self, mode: Mode | None = None) -> int:
        """The most that one answer can cost."""
        if (mode or self.mode) != "log_probabilities":
            return self.params.max_answer_tokens
        return 1 if choices.distinct_at_once(self.template.answers) else _SHARED_BEGINNING_TOKENS

    def prompt_tokens(self, request: Request) -> int:
        """Tokens of a prompt, counted or estimated."""
        text, _ = self.cutter(request.text)
        variant = self.cutter.variant(request.variant)
        rules = self._rules_tokens if variant is None else self.cutter.count(self.template.rules(variant))
        return rules + self.cutter.count(text)

    @cached_property
    def _rules_tokens(self) -> int:
        return self.cutter.count(self.template.rules())

    async def ask(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Post a body once. The time-out is one of the whole: a byte a second is no answer."""
        async with asyncio.timeout(self.params.timeout_s):
            return cast("Mapping[str, Any]", await client.post(self.url, body=body, cast_to=object))

    def answer(
        self, key: str, content: Mapping[str, Any], cut: bool, seconds: float, mode: Mode | None = None
    ) -> Answer:
        """Read the JSON of a response. An answer of another model than was asked is warned of, once.

        Raises:
            MalformedError: it is no answer of an LLM.
        """
        try:
            said = content["choices"][0]
            completion = "text" in said
            text = said["text"] if completion else said["message"].get("content")
            if text is None and not completion:
                text = said["message"].get("refusal")
            reason = _REASONS.get(said.get("finish_reason") or "stop", "stop")
            usage = content.get("usage") or {}
            asked, answered = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            scores = None
            if (mode or self.mode) == "log_probabilities":
                tokens = _tokens(said.get("logprobs") or {}, completion)
                scores = choices.label_log_probabilities(tokens, self.template.answers)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise MalformedError(f"{type(error).__name__} {error} in {json.dumps(content)[:200]}") from error
        if text is not None and not isinstance(text, str):
            raise MalformedError(f"the answer is no text: {json.dumps(text)[:200]}")
        if text is None and scores is None and reason == "stop":
            raise MalformedError(f"there is no text in {json.dumps(content)[:200]}")
        self._check_model(content.get("model"))
        return Answer(key, text, scores, "choice" if scores else reason, asked, answered, seconds, cut)

    def _check_model(self, answered: object) -> None:
        asked, name = _bare(self.params.model), _bare(str(answered))
        if answered and asked != name and not self._warned:
            self._warned = True
            log.warning("%s was asked for, and '%s' answers", self.params.model, answered)

    def client(self) -> AsyncOpenAI:
        """A client of its own."""
        return client(self.params)


def client(params: Endpoint) -> AsyncOpenAI:
    """A client that leaves retries to its caller.

    Its transport is aiohttp, which takes half the time of the client's own, and drops a connection on which more was
    answered than asked (the other hands it to the next request).

    Raises:
        UserError: there is no key, or none that can be sent.
    """
    limits = Limits(max_connections=0)  # none: callers bound what is in flight
    transport = DefaultAioHttpClient(timeout=params.timeout_s, limits=limits)
    try:
        made = AsyncOpenAI(base_url=params.base_url, http_client=transport, max_retries=0)
    except openai.OpenAIError as error:
        raise UserError(
            "annotate.annotator: there is no key: set OPENAI_API_KEY (any value where the server asks for none)"
        ) from error
    if not (made.api_key.isascii() and made.api_key.isprintable()):
        raise UserError("OPENAI_API_KEY holds characters that no key has: set it anew")
    return made


def _bare(model: str) -> str:
    """A model's name without the folder, organisation or date."""
    return _DATE.sub("", model.rstrip("/").rsplit("/", 1)[-1].casefold())


def _schema(template: Template) -> dict[str, Any]:
    choice = {"type": "object", "properties": {"label": {"type": "string", "enum": list(template.names)}}}
    strict = choice | {"required": ["label"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": strict}}


def _tokens(log_probabilities: Mapping[str, Any], completion: bool) -> list[choices.Token]:
    if completion:
        texts, places = log_probabilities.get("tokens") or [], log_probabilities.get("top_logprobs") or []
        own = log_probabilities.get("token_logprobs") or []
        return [
            choices.Token(text, {text: value, **(place or {})})
            for text, value, place in zip(texts, own, places, strict=True)
        ]
    return [
        choices.Token(
            place["token"],
            {place["token"]: place["logprob"]} | {top["token"]: top["logprob"] for top in place["top_logprobs"]},
        )
        for place in log_probabilities.get("content") or []
    ]
