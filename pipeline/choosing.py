"""Which texts a strategy wants labelled next, with the probabilities by which it draws them.

uniform     as the corpus is
diverse     every cluster of texts gets as many draws, however many texts it has
uncertain   the less the encoder tells its two likeliest labels apart, the likelier; any text may be drawn

Draws follow one another without replacement, each with known probabilities, so that weights can undo what a strategy
prefers. A text is never out of reach: weights stay bounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scoring import Floats, Ints

_DIMENSIONS = 64  # of the texts' vectors
_FEATURES = 20_000


@dataclass(frozen=True)
class Drawn:
    """Indices into a frame of texts in the order of their draws, and the probability that each draw had: (draws,)."""

    indices: Ints
    probabilities: Floats


def draw(masses: Floats, count: int, random: np.random.Generator) -> Drawn:
    """Draw `count` times without replacement, each time in proportion to the masses of what is left.

    The highest sums of log mass and Gumbel noise, in order, are such draws (Kool et al. 2019, arXiv 1903.06059).

    Args:
        masses: (texts,), positive; 0 for a text that is drawn already.
        count: at most as many as there are texts with a mass.
        random: decides.
    """
    with np.errstate(divide="ignore"):
        keys = np.log(masses) + random.gumbel(size=len(masses))
    indices = np.argsort(-keys, kind="stable")[: min(count, int((masses > 0).sum()))]
    drawn = masses[indices]
    left = masses.sum() - drawn.cumsum() + drawn  # before each draw
    return Drawn(indices, np.clip(drawn / np.maximum(left, drawn), 0.0, 1.0))


def weights(probabilities: Floats, frame: int) -> Floats:
    """What each draw must count for a mean over the draws to be unbiased for the frame's: (draws,).

    Levelled unbiased risk estimation (Farquhar et al. 2021, arXiv 2101.11665, eq. 3). It supposes that the number of
    draws was not chosen after a look at what is to be estimated.

    Args:
        probabilities: of all draws, in order.
        frame: texts that there were before the first draw.
    """
    draws = len(probabilities)
    m = np.arange(1, draws + 1)
    after = np.maximum(frame - m, 1)  # 0 only where the whole frame was drawn; its factor is 0 as well
    found: Floats = 1 + (frame - draws) / after * (1 / ((frame - m + 1) * probabilities) - 1)
    return found


def uncertain(probabilities: Floats) -> Floats:
    """Masses that fall with the rank of the margin between the two likeliest labels: (texts, labels) to (texts,).

    Mass 1/rank is the softrank acquisition of Kirsch et al. 2021 (arXiv 2106.12059, beta 1): a batch of the very
    least certain texts alone repeats itself and collects what is mislabelled or undecidable.
    """
    top = np.sort(probabilities, axis=1)[:, -2:]
    margin = top[:, 1] - top[:, 0]
    masses = np.empty(len(margin))
    masses[np.argsort(margin, kind="stable")] = 1 / np.arange(1, len(margin) + 1)
    return masses


def diverse(clusters: Ints) -> Floats:
    """Masses that sum to the same in every cluster: (texts,) numbers of clusters to (texts,)."""
    masses: Floats = 1 / np.bincount(clusters)[clusters]
    return masses


def clusters(vectors: Floats, count: int, seed: int) -> Ints:
    """k-means of unit vectors (texts, dimensions): the number of each text's cluster."""
    from sklearn.cluster import MiniBatchKMeans

    k = min(count, len(vectors))
    found: Ints = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096).fit_predict(vectors).astype(np.int64)
    return found


def vectors(texts: Sequence[str], seed: int) -> Floats:
    """Unit vectors of what texts are about: TF-IDF of their words, cut down to 64 dimensions (texts, 64)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    tfidf = TfidfVectorizer(max_features=_FEATURES, sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    dimensions = min(_DIMENSIONS, tfidf.shape[1] - 1)
    if dimensions < 1:
        return np.ones((len(texts), 1))
    found: Floats = normalize(TruncatedSVD(dimensions, random_state=seed).fit_transform(tfidf)).astype(np.float64)
    return found
