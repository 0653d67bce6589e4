"""Rounds that stop at saturation, and three strategies, on texts whose labels are known: what they save, what they cost.

    python studies/rounds.py [--data ../shared/data] [--seeds 10] [--learners tfidf] [--only stop|strategies]

Labels of IMDb are those that Llama-2-70b-chat gave to 25,000 training reviews in the published experiments, of AG News
gold; accuracy is on gold of `test_dev` and `test`. Each finished run is a file in studies/rounds/, so a killed study goes
on; the tables are made from the files. Learners: `tfidf` (words and pairs of words, logistic regression) and `embedding`
(MiniLM's mean states, not fine-tuned, logistic regression).

"labels" counts held-out texts as well. The fixed sample holds a tenth of its 10,000 out, as `sample.held_out_share` does.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pipeline import choosing, growing
from pipeline.artifacts import Document
from pipeline.drawing import Frame, Growing
from pipeline.params import Rounds
from pipeline.scoring import Bools, Floats, Ints
from serving.corpus import text_hash

RESULTS = Path(__file__).parent / "rounds"
CACHE = Path(".llambert") / "study-rounds"
FIXED, HELD_OUT_SHARE = 10_000, 0.1
STRATEGIES = ("uniform", "diverse", "uncertain")


@dataclass(frozen=True)
class Corpus:
    """Texts with an annotator's labels, and a test set with gold; features by learner."""

    name: str
    documents: list[Document]
    labels: Ints
    test: list[str]
    gold: Ints
    sizes: list[int]  # texts to train on, where strategies are compared


@dataclass(frozen=True)
class Learner:
    """Features (texts, features) of corpus and test; fitted on nothing but the corpus's texts."""

    name: str
    train: Any
    test: Any
    c: float

    def fit(self, rows: Ints, labels: Ints) -> LogisticRegression:
        """Logistic regression on some texts of the corpus."""
        return LogisticRegression(C=self.c, max_iter=2000, tol=1e-3).fit(self.train[rows], labels[rows])
