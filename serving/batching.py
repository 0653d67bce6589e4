"""Batches bounded by tokens. Knows nothing about texts, tokenizers or models.

Attention and matrix products run over padding as over text: on IMDb random batches of 32 cost 1.9 times the real
tokens, sorted ones 1.00 to 1.02 times.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plan(lengths: Sequence[int], max_batch_tokens: int) -> list[NDArray[np.intp]]:
    """Group texts of similar length, longest first (so that too little memory shows at once).

    Args:
        lengths: tokens of each text, shape [n].
        max_batch_tokens: bound on rows x longest row of a batch; a text longer than that goes alone.

    Returns:
        Index arrays; every index from 0 to n - 1 stands in exactly one. The first of each is its longest.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, max_batch_tokens // max(1, lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def pad(
    rows: Sequence[NDArray[np.int64]], pad_id: int, step: int = 1, max_width: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, both [rows, width], padded on the right.

    `width` is that of the longest row, or the next multiple of `step` if that is at most `max_width`.
    """
    longest = max(len(row) for row in rows)
    width = max(longest, min(-(-longest // step) * step, max_width))
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
