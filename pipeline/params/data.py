"""The blocks task, ingest and sample: what is asked, of which texts."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.params.base import Block, Name, Positive, Seed, Share, Word
from serving.locating import GoldSource, Source


class Task(Block):
    """What is asked of each text. The order of `labels` is the order of every probability vector."""

    name: Name
    criterion: Annotated[str, Field(min_length=1)]
    labels: dict[Word, list[Word]]  # label -> other words that mean it (in answers and in gold files)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.labels) < 2:
            raise ValueError(f"at least two labels are needed (got {list(self.labels)})")
        owner: dict[str, str] = {}
        for label, synonyms in self.labels.items():
            for word in {label.casefold(), *(synonym.casefold() for synonym in synonyms)}:
                if owner.setdefault(word, label) != label:
                    raise ValueError(f"'{word}' stands for both '{owner[word]}' and '{label}'")
        return self

    @property
    def names(self) -> list[str]:
        """Labels in order."""
        return list(self.labels)


class Ingest(Block):
    """Which texts there are, and which of them people have labelled."""

    corpus: Source
    gold_train: GoldSource | None = None
    gold_validation: GoldSource | None = None
    gold_test: GoldSource | None = None
    validation_share: Share = 0.5  # of gold_train, where there is no gold_validation
    max_chars: Positive = 100_000
    max_unusable_share: Share = 0.1


class Sample(Block):
    """How many texts the LLM labels; part of them is held out to measure the student against its teacher."""

    size: Positive
    seed: Seed
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
