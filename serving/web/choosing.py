"""Which waiting pieces go into the next batch. Numbers in, numbers out.

Requests take turns, so that a request of a thousand texts holds up one of a single text for a batch or two. Pieces of
one batch are of similar length: those of other requests join the oldest one only where little of it would be padding.
"""

from collections.abc import Iterator, Sequence

_AHEAD = 8  # batches whose worth of pieces is looked at
_MIN_FILL = 0.8  # real tokens of a batch, as a part of rows x longest row
# Rows of a batch: runtimes prepare themselves for each shape that they have not seen, so let there be few.
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
Place = tuple[int, int]  # request, piece


def choose(waiting: Sequence[Sequence[int]], max_tokens: int) -> list[Place]:
    """Pick a batch.

    Args:
        waiting: tokens of each waiting piece of each request, the request whose turn it is first. None is empty.
        max_tokens: bound on rows x longest row; a piece longer than that goes alone.

    Returns:
        Places of the pieces, the first request's first piece among them; empty if nothing waits.
    """
    places = list(_in_turns(waiting, _AHEAD * max_tokens))
    if not places:
        return []
    lead = places[0]
    places.sort(key=lambda place: waiting[place[0]][place[1]])
    lengths = [waiting[request][piece] for request, piece in places]
    first = places.index(lead)
    low, high = _window(lengths, first, max_tokens)
    rows = max(count for count in _ROWS if count <= high - low + 1)
    high = max(first, low + rows - 1)  # fewer than fit: the longest are left out, but not the lead
    return places[high - rows + 1 : high + 1]


def _in_turns(waiting: Sequence[Sequence[int]], max_tokens: int) -> Iterator[Place]:
    """One piece of each request, then a second one, until there are enough."""
    tokens, piece = 0, 0
    while tokens < max_tokens:
        before = tokens
        for request, lengths in enumerate(waiting):
            if piece < len(lengths) and tokens < max_tokens:
                tokens += lengths[piece]
                yield request, piece
        if tokens == before:
            return
        piece += 1


def _window(lengths: Sequence[int], lead: int, max_tokens: int) -> tuple[int, int]:
    """Grow from `lead`, in rising `lengths`, towards the neighbour nearer in length, while the bounds hold."""
    low = high = lead
    real = lengths[lead]
    sides = {-1, 1}
    while sides:
        ends = {-1: low - 1, 1: high + 1}
        sides = {side for side in sides if 0 <= ends[side] < len(lengths)}
        if not sides:
            break
        side = min(sides, key=lambda s: (abs(lengths[ends[s]] - lengths[lead]), s))
        added = ends[side]
        padded = (high - low + 2) * lengths[max(high, added)]
        if padded > max_tokens or real + lengths[added] < _MIN_FILL * padded:
            sides.discard(side)
            continue
        real += lengths[added]
        low, high = min(low, added), max(high, added)
    return low, high
