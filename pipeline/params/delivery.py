"""The blocks register, export, label and report: what becomes of the best candidate."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.base import Amount, Block, Positive, Share
from serving.locating import Source


class Register(Block):
    """The gate between a challenger and the alias `champion`."""

    experiment: str = "llambert"
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    min_gain_over_tfidf: float = 0.0  # in accuracy on validation
    min_gain_over_champion: float = 0.0
    min_predicted_share: Share = 0.2  # of each label's share in the reference: below it the model has collapsed


class Export(Block):
    """Graphs for each precision and runtime, and how far they may differ from torch."""

    precisions: Annotated[list[Literal["fp32", "int8", "fp16"]], Field(min_length=1)] = ["fp32", "int8"]
    runtimes: Annotated[list[Literal["onnxruntime", "openvino"]], Field(min_length=1)] = ["onnxruntime", "openvino"]
    parity_texts: Positive = 256
    max_flips: Share = 0.02
    max_difference: Annotated[float, Field(gt=0)] = 1e-3  # of logits, fp32 against torch


class LabelParams(Block):
    """The corpus to label (the ingested one if null), in shards."""

    corpus: Source | None = None
    max_rows: Positive | None = None
    precision: Literal["fp32", "int8", "fp16"] = "int8"
    runtime: Literal["auto", "onnxruntime", "openvino"] = "auto"  # auto: the fastest that proves itself here
    shard_rows: Positive = 10_000
    max_batch_tokens: Positive = 8192
    min_confidence: Share = 0.0  # below it a row is marked as abstained


class Report(Block):
    """What the page shows, and the price of this machine: a placeholder for your own. The LLM's: annotate.price."""

    currency: str = "USD"
    machine_per_hour: Amount = 0.10
    examples: Positive = 12
