"""The block annotate.annotator: one type for each kind of annotator."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Block, Positive, Share, Word

Truncation = Literal["head", "head_tail"]
Mode = Literal["log_probabilities", "json_schema", "choice", "text"]


class LocalAnnotator(Block):
    """A causal language model run here by transformers: a Hugging Face id, a directory, or a .gguf file."""

    kind: Literal["local"]
    model: str = "embedded:smollm2"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    truncation: Truncation = "head_tail"
    max_text_tokens: Positive = 1024
    max_batch_tokens: Positive = 2048


class RecordedFile(Block):
    """Answers that exist already. `answer` names columns; the first that is not null counts."""

    path: str
    id: str = "id"
    answer: list[str]


class RecordedAnnotator(Block):
    """Answers read from files and joined by id: published experiments, or labels that a user brings."""

    kind: Literal["recorded"]
    model: str  # who gave the answers
    files: Annotated[list[RecordedFile], Field(min_length=1)]


class Endpoint(Block):
    """What all annotators behind an OpenAI-compatible endpoint share. The key is read from OPENAI_API_KEY."""

    model: Word
    base_url: str | None = None  # null: OPENAI_BASE_URL, else OpenAI's own
    mode: Literal["auto"] | Mode = "auto"  # auto: one request finds out what the server can do
    tokenizer: str | None = None  # directory or Hugging Face id, to count and cut; null: 4 characters are a token
    truncation: Truncation = "head_tail"
    max_text_tokens: Positive = 4096
    max_answer_tokens: Positive = 16  # of a free answer; give a reasoning model some thousands
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0  # null where the model refuses it
    top_log_probabilities: Annotated[int, Field(ge=2, le=20)] = 20
    extra_body: dict[str, Any] = {}  # merged into each request
    timeout_s: Annotated[float, Field(gt=0)] = 60.0


class OpenAIAnnotator(Endpoint):
    """An endpoint asked one text at a time, many at once."""

    kind: Literal["openai"]
    max_concurrency: Positive = 64  # requests in flight; fewer while the server says 429
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    max_attempts: Positive = 6  # at one request, before it counts as failed


class OpenAIBatchAnnotator(Endpoint):
    """The Batch API: files of requests, answered within a day at a lower price."""

    kind: Literal["openai_batch"]
    completion_window: str = "24h"
    max_requests: Annotated[int, Field(gt=0, le=50_000)] = 50_000  # of a file
    max_bytes: Annotated[int, Field(gt=0, le=200_000_000)] = 200_000_000  # of a file
    max_open: Positive = 4  # batches that wait at the same time
    max_attempts: Positive = 3  # submissions of one request, before it counts as failed
    poll_s: Annotated[float, Field(gt=0)] = 60.0


class VllmAnnotator(Block):
    """vLLM in this process: `pip install 'llambert[vllm]'` in an environment of its own."""

    kind: Literal["vllm"]
    model: Word  # a Hugging Face id or a directory
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: str | None = None
    lora: str | None = None  # directory of an adapter
    tensor_parallel_size: Positive = 1
    max_model_len: Positive | None = None
    gpu_memory_utilization: Annotated[Share, Field(gt=0)] = 0.9
    truncation: Truncation = "head_tail"
    max_text_tokens: Positive | None = None  # null: what max_model_len leaves beside the rules
    max_answer_tokens: Positive = 16  # where it answers in text
    window: Positive = 4096  # texts that are given to vLLM at once; a killed run loses at most these
    engine: dict[str, Any] = {}  # further arguments of vllm.LLM

    @model_validator(mode="after")
    def _own_arguments(self) -> Self:
        if taken := {"model", "trust_remote_code", *VllmAnnotator.model_fields} & set(self.engine):
            raise ValueError(f"`engine` must not hold {sorted(taken)}: they have keys of their own, or are not allowed")
        return self
