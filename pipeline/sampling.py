"""Which texts the LLM labels: a uniform sample that depends on the seed and the texts, not on their order or number.

A bottom-k sketch: every text has a pseudo-random rank, and the k lowest ranks are the sample (Cohen & Kaplan,
"Summarizing data using bottom-k sketches", PODC 2007). One pass, memory for k texts, and a sample of 500 is the
beginning of one of 600.
"""

import heapq
from collections.abc import Collection, Iterable
from hashlib import blake2b

from pipeline.artifacts import Document, Sampled


def rank(text_hash: str, seed: int, purpose: str) -> int:
    """Return a number uniform in [0, 2**64) that seed, purpose (at most 16 letters) and text decide."""
    key, person = seed.to_bytes(8, "big"), purpose.encode()
    return int.from_bytes(blake2b(text_hash.encode(), digest_size=8, key=key, person=person).digest(), "big")


def draw(documents: Iterable[Document], size: int, seed: int, excluded: Collection[str]) -> tuple[list[Document], int]:
    """Draw `size` distinct texts, uniformly and without replacement; all of them where there are fewer.

    Args:
        documents: one pass over the corpus. Of documents with equal text the one with the smallest id stands for all.
        size: how many.
        seed: another seed gives an independent sample.
        excluded: text hashes that must not be drawn (a set).

    Returns:
        The sample in the order of rank, and the number of documents that were eligible (repeated texts counted).
    """
    kept: dict[str, Document] = {}  # by text hash
    highest: list[tuple[int, str]] = []  # heap of (-rank, text hash)
    eligible = 0
    for document in documents:
        text = document.text_hash
        if text in excluded:
            continue
        eligible += 1
        if text in kept:
            kept[text] = min(kept[text], document, key=lambda same: same.id)
            continue
        entry = (-rank(text, seed, "sample"), text)
        if len(kept) < size:
            heapq.heappush(highest, entry)
        elif entry > highest[0]:
            del kept[heapq.heapreplace(highest, entry)[1]]
        else:
            continue
        kept[text] = document
    return [kept[text] for _, text in sorted(highest, reverse=True)], eligible


def split(sample: list[Document], held_out_share: float, seed: int) -> list[Sampled]:
    """Hold out about `held_out_share` of at least two texts, one at least and never all; the order stays.

    A text keeps its side when the sample grows, unless the sample is so small that a side would be empty.
    """
    ranks = {document.text_hash: rank(document.text_hash, seed, "held_out") for document in sample}
    wanted = sum(value < held_out_share * 2**64 for value in ranks.values())
    held_out = set(sorted(ranks, key=lambda text: ranks[text])[: min(max(wanted, 1), len(sample) - 1)])
    sides = ("train", "held_out")
    return [Sampled(d.id, d.text, d.text_hash, sides[d.text_hash in held_out]) for d in sample]
