"""The token batcher: what goes into a batch, whose turn it is, and what is not computed because nobody waits for it."""

import asyncio
import random

import numpy as np
import pytest
from toy_model import TEXTS, exported

from serving.engine import Engine
from serving.web.batcher import Batcher
from serving.web.choosing import choose


def lengths(waiting: list[list[int]], places: list[tuple[int, int]]) -> list[int]:
    return [waiting[request][piece] for request, piece in places]


@pytest.mark.parametrize("seed", range(20))
def test_batches_hold_their_bounds_and_take_the_first(seed: int) -> None:
    chance = random.Random(seed)
    waiting = [
        sorted((chance.randrange(3, 512) for _ in range(chance.randrange(1, 30))), reverse=True)
        for _ in range(chance.randrange(1, 40))
    ]
    places = choose(waiting, 4096)
    taken = lengths(waiting, places)
    assert (0, 0) in places
    assert len(set(places)) == len(places)
    assert len(taken) * max(taken) <= 4096
    assert sum(taken) >= 0.6 * len(taken) * max(taken)


def test_nothing_waits() -> None:
    assert choose([], 100) == []


def test_a_piece_beyond_the_bound_goes_alone() -> None:
    assert choose([[500, 500], [500]], 100) == [(0, 0)]


def test_a_thousand_texts_do_not_hold_up_a_single_one() -> None:
    waiting = [[100] * 1000, *[[100]] * 5]
    taken = choose(waiting, 1000)
    assert {request for request, _ in taken} == set(range(6))


def test_what_is_of_another_length_waits_for_its_turn() -> None:
    waiting = [[10], [500], [11], [490]]
    assert sorted(lengths(waiting, choose(waiting, 4096))) == [10, 11]


class Heard:
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        self.batches.append((texts, tokens))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.open(exported(), "fp32", runtime="onnxruntime", threads=1)


def test_every_request_gets_what_the_engine_says(engine: Engine) -> None:
    expected = engine.classify(TEXTS)
    heard = Heard()
    batcher = Batcher(engine, 200, heard, tokens_per_s=1e9)

    async def one(start: int, count: int) -> None:
        texts = TEXTS[start : start + count]
        pieces, owners = engine.pieces(texts)
        with batcher.ticket(pieces, 3) as ticket:
            await ticket.done
        given = engine.probabilities(ticket.scores, owners, len(texts))
        np.testing.assert_allclose(given, expected[start : start + count], atol=1e-5)

    async def everything() -> None:
        await asyncio.gather(*(one(i * 3 % 80, 1 + i % 9) for i in range(60)))

    asyncio.run(everything())
    assert batcher.tokens == 0
    assert max(texts for texts, _ in heard.batches) > 1
    assert all(tokens <= 200 for _, tokens in heard.batches)
    batcher.close()
    assert not batcher.alive


def test_what_nobody_waits_for_is_not_computed(engine: Engine) -> None:
    heard, busy = Heard(), [True]
    batcher = Batcher(engine, 8192, heard, tokens_per_s=1e9, busy=lambda: busy[0])

    async def leave_and_stay() -> None:
        pieces, _ = engine.pieces(TEXTS[:5])
        with batcher.ticket(pieces, 3), batcher.announced(7):
            assert batcher.tokens == sum(map(len, pieces)) + 7
        assert batcher.tokens == 0
        with batcher.ticket(pieces[:2], 3) as ticket:
            assert not heard.batches  # another engine is preferred for now
            busy[0] = False
            await ticket.done

    asyncio.run(leave_and_stay())
    assert sum(texts for texts, _ in heard.batches) == 2
    batcher.close()


def test_a_failure_reaches_those_who_wait_and_no_others(engine: Engine) -> None:
    batcher = Batcher(engine, 8192, Heard(), tokens_per_s=1e9)

    async def fail_and_go_on() -> None:
        beyond = [np.array([10**9])]  # no such token: the runtime refuses
        with batcher.ticket(beyond, 3) as ticket, pytest.raises(Exception, match=r"(?i)indices|bounds"):
            await ticket.done
        pieces, owners = engine.pieces(TEXTS[:1])
        with batcher.ticket(pieces, 3) as ticket:
            await ticket.done
        np.testing.assert_allclose(
            engine.probabilities(ticket.scores, owners, 1), engine.classify(TEXTS[:1]), atol=1e-5
        )

    asyncio.run(fail_and_go_on())
    assert batcher.tokens == 0
    batcher.close()


def test_a_rate_of_almost_nothing_holds_nobody_up(engine: Engine) -> None:
    """As it is measured where a model proves itself on a machine that is busy with other things."""
    batcher = Batcher(engine, 8192, Heard(), tokens_per_s=0.1)

    async def one() -> None:
        with batcher.ticket(engine.pieces(TEXTS[:3])[0], 3) as ticket:
            await asyncio.wait_for(ticket.done, 10)

    asyncio.run(one())
    batcher.close()
