"""The blocks encoders, train and evaluate: the candidates, and how sure their figures are."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Block, Name, Positive, Seed, Share
from serving.locating import GoldSource

Recipe = Literal["llm", "gold", "combined", "mixed", "weak_strong", "self_trained", "distilled"]


class Adapt(Block):
    """Masked-language-model training on texts of the corpus before any label is seen (arXiv 2004.10964)."""

    texts: Positive = 20_000
    epochs: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15


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
    adapt: Adapt | None = None


class Tfidf(Block):
    """TF-IDF + logistic regression, the candidate that an encoder has to beat to be worth its cost."""

    kind: Literal["tfidf"]
    words: tuple[Positive, Positive] | None = Field(default=(1, 2), strict=False)
    chars: tuple[Positive, Positive] | None = Field(default=None, strict=False)
    c: Annotated[float, Field(gt=0)] = 1.0
    soft_labels: bool = False  # doubts cost it accuracy (studies/README.md, recipes)
    class_weights: bool = False

    @model_validator(mode="after")
    def _features(self) -> Self:
        if self.words is None and self.chars is None:
            raise ValueError("give `words` or `chars`: n-gram ranges such as [1, 2]")
        if any(lengths and lengths[0] > lengths[1] for lengths in (self.words, self.chars)):
            raise ValueError("an n-gram range goes from the shorter to the longer: [1, 2]")
        return self


Encoder = Annotated[Transformer | Tfidf, Field(discriminator="kind")]


class Student(Block):
    """How the recipes self_trained and distilled teach (pipeline/teaching.py)."""

    texts: Annotated[int, Field(ge=0)] = 10_000  # unlabelled ones of the corpus
    min_confidence: Share = 0.9  # of what self_trained believes
    folds: Annotated[int, Field(ge=2)] = 2  # distilled: parts of the labels, each judged by models of the others
    label_weight: Share = 0.5  # distilled: of a text's own label against those models
    beside: Tfidf | None = Tfidf(kind="tfidf")  # distilled: who is asked beside an encoder, since it errs differently


class Train(Block):
    """Candidates are encoders x recipes x seeds."""

    encoders: Annotated[list[Name], Field(min_length=1)]
    recipes: Annotated[list[Recipe], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    gold_sampled_only: bool = False  # gold of exactly the texts that the LLM labelled (to compare the two)
    strong: GoldSource | None = None  # labels that a stronger LLM gave, for weak_strong
    student: Student | None = None

    @model_validator(mode="after")
    def _has_what_recipes_need(self) -> Self:
        if "weak_strong" in self.recipes and self.strong is None:
            raise ValueError("recipe weak_strong needs `strong`: a file of texts with the labels of a stronger LLM")
        if (taught := {"self_trained", "distilled"} & set(self.recipes)) and self.student is None:
            raise ValueError(f"recipes {sorted(taught)} need `student`; `student: {{}}` takes the usual settings")
        return self

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
