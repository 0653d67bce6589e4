"""Batches hold every text once, stay inside their budget and pad little."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import weights
from serving.batching import pad, plan
from serving.runtimes import CACHED_TOKENS, openvino_
from serving.tokenizing import TextTokenizer

IMDB = Path(__file__).parents[2] / "shared" / "data" / "imdb" / "test_dev.parquet"


@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_every_text_once_inside_the_budget(seed: int, budget: int) -> None:
    lengths = np.random.default_rng(seed).integers(0, 50, size=seed * 41).tolist()
    batches = plan(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert longest == lengths[batch[0]]
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_a_batch_is_as_full_as_its_budget_allows() -> None:
    assert [len(batch) for batch in plan([10] * 25, 100)] == [10, 10, 5]
    assert [batch.tolist() for batch in plan([3, 500, 4], 100)] == [[1], [2, 0]]


def test_padding_is_at_most_two_per_cent_on_lengths_like_those_of_reviews() -> None:
    lengths = np.random.default_rng(1).lognormal(5.4, 0.6, size=2000).clip(12, 512).astype(int).tolist()
    padded = sum(len(batch) * lengths[batch[0]] for batch in plan(lengths, 8192))
    assert padded / sum(lengths) <= 1.02
    random_batches = np.random.default_rng(2).permutation(lengths)[:1984].reshape(-1, 32)
    assert (32 * random_batches.max(axis=1)).sum() / random_batches.sum() > 1.5


def test_padding_stands_on_the_right_and_is_masked() -> None:
    ids, mask = pad([np.array([5, 6, 7]), np.array([8])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.skipif(not IMDB.is_file(), reason="../shared/data is not there")
def test_padding_of_a_window_of_reviews_is_below_two_percent() -> None:
    texts = pq.read_table(IMDB, columns=["text"])["text"][:4096].to_pylist()
    ids, _ = TextTokenizer(Path(weights.locate("embedded:minilm"), "tokenizer.json"), 512, "head").pieces(texts)
    batches = plan([len(row) for row in ids], CACHED_TOKENS)
    padded = sum(pad([ids[row] for row in rows], 0, openvino_._STEP, 512)[0].size for rows in batches)
    real = sum(map(len, ids))
    assert real < padded < 1.02 * real
