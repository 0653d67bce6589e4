"""The cheap candidate: TF-IDF n-grams and logistic regression (scikit-learn), stored with skops, never pickled."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.params import Tfidf
from pipeline.training import Examples, Floats, class_weights
from serving.shapes import Kind

FILE = "model.skops"
_LEAST = 1e-6  # targets below it don't count
_TRUSTED = ("numpy.", "scipy.", "sklearn.", "builtins.")


def fit(params: Tfidf, examples: Examples, seed: int, kind: Kind = "single") -> Any:  # noqa: ANN401 - see below
    """Fit on soft targets: each text counts once a label, weighted by the label's probability.

    Returns:
        A scikit-learn pipeline; of kind multi the features and a model of yes and no for each label.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union

    ranges = [("word", params.words), ("char_wb", params.chars)]
    features = make_union(
        *(TfidfVectorizer(analyzer=kind, ngram_range=ngrams, sublinear_tf=True) for kind, ngrams in ranges if ngrams)
    )
    matrix, targets = features.fit_transform(examples.texts), examples.targets
    if kind != "multi":
        weights = class_weights(targets) if params.class_weights else np.ones(targets.shape[1])
        return make_pipeline(features, _regression(params, matrix, targets, weights, seed))
    models = []
    for share in targets.T:  # of each label, as a task of two
        both = np.stack([1 - share, share], axis=1)
        weights = class_weights(both) if params.class_weights else np.ones(2)
        models.append(_regression(params, matrix, both, weights, seed))
    return {"features": features, "models": models}


def _regression(params: Tfidf, matrix: Any, targets: Floats, weights: Floats, seed: int) -> Any:  # noqa: ANN401
    from sklearn.linear_model import LogisticRegression

    counted = targets > _LEAST
    counted[0] |= ~counted.any(axis=0)  # a label that no text has still gets its column
    rows, labels = np.nonzero(counted)
    each = np.maximum(targets[rows, labels], _LEAST) * weights[labels]
    return LogisticRegression(C=params.c, max_iter=2000, random_state=seed).fit(matrix[rows], labels, each)


def save(model: Any, directory: Path) -> None:  # noqa: ANN401
    """Write what `fit` returned as `model.skops`."""
    from skops import io

    io.dump(model, directory / FILE)


def logits(directory: Path, texts: list[str]) -> Floats:
    """Log-probabilities (texts, labels), of kind multi log-odds. Only types of the known libraries are loaded."""
    from skops import io

    file = directory / FILE
    trusted = [name for name in io.get_untrusted_types(file=file) if name.startswith(_TRUSTED)]
    model = io.load(file, trusted=trusted)
    if isinstance(model, dict):
        matrix = model["features"].transform(texts)
        return np.stack([each.decision_function(matrix) for each in model["models"]], axis=1)
    values: Floats = model.predict_log_proba(texts)
    return values
