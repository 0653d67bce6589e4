"""The blocks register, export, label and report: what becomes of the best candidate."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Amount, Block, Positive, Share
from serving.locating import Source
from serving.precisions import PRECISIONS, PrecisionName, RuntimeName, runtimes_of


class Register(Block):
    """The gate between a challenger and the alias `champion`."""

    experiment: str = "llambert"
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    min_gain_over_tfidf: float = 0.0  # in accuracy on validation
    min_gain_over_champion: float = 0.0
    min_predicted_share: Share = 0.2  # of each label's share in the reference: below it the model has collapsed


class Export(Block):
    """A graph for each precision in each of the runtimes that can run it, and how far they may differ from torch.

    On a processor int8 is the fastest. For a GPU write `precisions: [fp32, bf16]` and `label: {precision: bf16}`: it
    runs in torch alone, in encoders of BERT's family; fp16 is any encoder's, in onnxruntime-gpu.
    """

    precisions: Annotated[list[PrecisionName], Field(min_length=1)] = ["fp32", "int8"]
    runtimes: Annotated[list[RuntimeName], Field(min_length=1)] = ["onnxruntime", "openvino", "torch"]
    parity_texts: Positive = 256
    reference_texts: Annotated[int, Field(ge=0)] = 1000  # of the corpus, for drift.json; 0: none
    max_flips: Share = 0.02
    max_difference: Annotated[float, Field(gt=0)] = 1e-3  # of logits, fp32 against torch

    @model_validator(mode="after")
    def _each_precision_has_a_runtime(self) -> Self:
        for precision in self.precisions:
            if not set(able := runtimes_of(precision)) & set(self.runtimes):
                one = "it" if len(able) == 1 else "one"
                raise ValueError(f"precision '{precision}' runs in {' and '.join(able)} only: add {one} to `runtimes`")
        return self


class LabelParams(Block):
    """The corpus to label (the ingested one if null), in shards."""

    corpus: Source | None = None
    max_rows: Positive | None = None
    precision: PrecisionName = "int8"
    runtime: RuntimeName | Literal["auto"] = "auto"  # auto: the fastest for the precision that proves itself here
    shard_rows: Positive = 10_000
    max_batch_tokens: Positive = 8192  # on a GPU 32768
    min_confidence: Share = 0.0  # below it a row is marked as abstained
    top: Positive | None = None  # write the probabilities of so many likeliest labels only (docs/tasks.md)
    target_error: Annotated[float, Field(gt=0, lt=1)] | None = None  # of the whole corpus; null: the encoder labels all
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95  # that the target holds
    person_price: Amount = 0.10  # of a text that a person labels, in report.currency: a placeholder for your own

    @model_validator(mode="after")
    def _the_runtime_can_run_the_precision(self) -> Self:
        if self.runtime != "auto" and self.precision not in PRECISIONS[self.runtime]:
            able = " and ".join(runtimes_of(self.precision))
            raise ValueError(f"runtime '{self.runtime}' can't run the precision '{self.precision}' ({able} can)")
        return self


class Report(Block):
    """What the page shows, and the price of this machine: a placeholder for your own. The LLM's: annotate.price."""

    currency: str = "USD"
    machine_per_hour: Amount = 0.10
    examples: Positive = 12
