"""The block certify: gold drawn from the corpus itself, which certifies the labels of all of it."""

from typing import Annotated

from pydantic import Field

from pipeline.params.base import Block, Seed, Word


class CorpusGold(Block):
    """A CSV with the columns id and label (and note, if you like), which `llambert gold add` writes."""

    path: Word = "data/gold_corpus.csv"


class Certify(Block):
    """Whom to ask for the truth, and how sure the intervals are. Another seed is another draw: keep it."""

    gold: CorpusGold = CorpusGold()
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Seed = 20240321  # of the permutation of the corpus whose beginning is the gold
