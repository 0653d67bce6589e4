"""The blocks encoders, train and evaluate: the candidates, and how sure their figures are."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Block, Name, Positive, Seed, Share


class Transformer(Block):
    """An encoder fine-tuned with the transformers Trainer: a Hugging Face id or a directory."""

    kind: Literal["transformer"]
    model: str = "embedded:minilm"
    max_tokens: Annotated[int, Field(ge=8)] = 256
    truncation: Literal["head", "head_tail", "windows"] = "head"  # windows: trained on the head, labels by their mean
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Share = 0.06
    epochs: Positive = 4
    patience: Positive = 2  # evaluations without a better validation loss
    evaluations_per_epoch: Positive = 1
    soft_labels: bool = True
    class_weights: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"


class Tfidf(Block):
    """TF-IDF + logistic regression, the candidate that an encoder has to beat to be worth its cost."""

    kind: Literal["tfidf"]
    words: tuple[Positive, Positive] | None = Field(default=(1, 2), strict=False)
    chars: tuple[Positive, Positive] | None = Field(default=None, strict=False)
    c: Annotated[float, Field(gt=0)] = 1.0
    soft_labels: bool = True
    class_weights: bool = False

    @model_validator(mode="after")
    def _features(self) -> Self:
        if self.words is None and self.chars is None:
            raise ValueError("give `words` or `chars`: n-gram ranges such as [1, 2]")
        if any(lengths and lengths[0] > lengths[1] for lengths in (self.words, self.chars)):
            raise ValueError("an n-gram range goes from the shorter to the longer: [1, 2]")
        return self


Encoder = Annotated[Transformer | Tfidf, Field(discriminator="kind")]


class Train(Block):
    """Candidates are encoders x recipes x seeds."""

    encoders: Annotated[list[Name], Field(min_length=1)]
    recipes: Annotated[list[Literal["llm", "gold", "combined"]], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    gold_sampled_only: bool = False  # gold of exactly the texts that the LLM labelled (to compare the two)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key, values in (("encoders", self.encoders), ("recipes", self.recipes), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"`{key}` names something twice: {values}")
        return self


class Evaluate(Block):
    """How sure the figures are."""

    resamples: Positive = 2000
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Seed = 0
    worst: Positive = 50  # errors written out
    thresholds: bool = True  # of kind multi: choose each label's by F1 on validation; false: 0.5
