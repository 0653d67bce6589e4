"""The blocks task, ingest and sample: what is asked, of which texts."""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.params.base import Block, Name, Positive, Seed, Share, Word
from serving import shapes
from serving.locating import GoldSource, Source
from serving.shapes import NONE, SEPARATOR, Kind, Shape

YES_NO: dict[str, list[str]] = {"no": ["false"], "yes": ["true"]}


def _mapped(labels: object) -> object:
    """Labels may be a list, and numbers: YAML reads `1` as one."""
    if isinstance(labels, list):
        labels = dict.fromkeys(labels)
    if not isinstance(labels, dict):
        return labels
    whole = {str(label) if type(label) is int else label: words for label, words in labels.items()}
    return {label: [] if words is None else words for label, words in whole.items()}


class Task(Block):
    """What is asked of each text. The order of `labels` is the order of every probability vector."""

    name: Name
    criterion: Annotated[str, Field(min_length=1)]
    kind: Kind = "single"  # multi: any number of the labels applies; ordinal: they are in order (docs/tasks.md)
    labels: Annotated[dict[Word, list[Word]], BeforeValidator(_mapped)]  # label -> other words that mean it

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.labels) < 2:
            raise ValueError(f"at least two labels are needed (got {list(self.labels)})")
        if self.kind == "multi":
            for word in chain(self.labels, *self.labels.values()):
                if SEPARATOR in word or word.casefold() == NONE:
                    raise ValueError(f"'{word}' can't be a label of kind multi: '{SEPARATOR}' and '{NONE}' write sets")
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

    @property
    def writing(self) -> str:
        """How people write a label, in words."""
        listed = ", ".join(self.labels)
        return f"'{NONE}', or any of {listed} with {SEPARATOR} between" if self.kind == "multi" else f"one of {listed}"

    @property
    def shape(self) -> Shape:
        """What probabilities of these labels mean."""
        return shapes.of(self.kind, self.names)

    def fitted(self, best: Mapping[str, Any]) -> Shape:
        """What logits of the best candidate mean, with the temperature and thresholds in data/best.json."""
        return shapes.of(self.kind, self.names, best["temperature"], best.get("thresholds"))

    @property
    def asked(self) -> "Task":
        """The task as the LLM sees it: of kind multi it says yes or no to one label of one text at a time."""
        if self.kind != "multi":
            return self
        return Task(name=self.name, criterion=self.criterion, labels=YES_NO)

    @cached_property
    def _words(self) -> dict[str, str]:
        return {word.casefold(): label for label, more in self.labels.items() for word in (label, *more)}

    def read(self, said: object) -> str | None:
        """The label that people mean by any of its words, in any case, or by a number; None if it is none of them.

        Of kind multi a set is a list, or words with | between; `none` is the empty one.
        """
        words = self._words
        if self.kind != "multi":
            return words.get(_word(said))
        if said is None:
            return None
        parts = said if isinstance(said, list) else str(said).split(SEPARATOR)
        if not isinstance(said, list) and _word(said) == NONE:
            return NONE
        found = [words.get(_word(part)) for part in parts]
        known = [name for name in found if name is not None]
        return self.shape.written(known) if len(known) == len(found) else None


def _word(said: object) -> str:
    whole = int(said) if isinstance(said, float) and said.is_integer() else said  # integers with gaps are floats
    return str(whole).strip().casefold()


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
