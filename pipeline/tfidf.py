"""The cheap candidate: TF-IDF n-grams and logistic regression (scikit-learn), stored with skops, never pickled."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.params import Tfidf
from pipeline.training import Examples, Floats, class_weights

FILE = "model.skops"
_LEAST = 1e-6  # targets below it don't count
_TRUSTED = ("numpy.", "scipy.", "sklearn.", "builtins.")


def fit(params: Tfidf, examples: Examples, seed: int) -> Any:  # noqa: ANN401 - a scikit-learn pipeline
    """Fit on soft targets: each text counts once a label, weighted by the label's probability."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    ranges = [("word", params.words), ("char_wb", params.chars)]
    features = make_union(
        *(TfidfVectorizer(analyzer=kind, ngram_range=ngrams, sublinear_tf=True) for kind, ngrams in ranges if ngrams)
    )
    counted = examples.targets > _LEAST
    counted[0] |= ~counted.any(axis=0)  # a label that no text has still gets its column
    rows, labels = np.nonzero(counted)
    weights = np.maximum(examples.targets[rows, labels], _LEAST)
    if params.class_weights:
        weights = weights * class_weights(examples.targets)[labels]
    matrix = features.fit_transform(examples.texts)
    model = LogisticRegression(C=params.c, max_iter=2000, random_state=seed).fit(matrix[rows], labels, weights)
    return make_pipeline(features, model)


def save(pipeline: Any, directory: Path) -> None:  # noqa: ANN401
    """Write the pipeline as `model.skops`."""
    from skops import io

    io.dump(pipeline, directory / FILE)


def logits(directory: Path, texts: list[str]) -> Floats:
    """Log-probabilities (texts, labels). Only types of numpy, scipy and scikit-learn are loaded."""
    from skops import io

    file = directory / FILE
    trusted = [name for name in io.get_untrusted_types(file=file) if name.startswith(_TRUSTED)]
    values: Floats = io.load(file, trusted=trusted).predict_log_proba(texts)
    return values
