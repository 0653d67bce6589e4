"""Pacing with a clock of our own: rates hold, a server that has too much to do gets less, and all wait together."""

import math
import random

import pytest

from pipeline.annotators.pacing import Bucket, Pace, backoff_s


def sends(pace: Pace, tokens: int, until: float) -> list[float]:
    """Times at which requests go if each is answered at once."""
    now, times = 0.0, []
    while (at := pace.ready_at(0, now)) < until:
        now = at
        pace.sent(tokens, now)
        times.append(now)
        pace.answered(tokens, tokens, now)
    return times


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= other < start + 60 for other in times) for start in times)


def test_requests_per_minute_hold_in_every_minute() -> None:
    times = sends(Pace(8, 120, None), 10, until=300)
    assert len(times) == pytest.approx(600, abs=3)
    assert most_in_a_minute(times) <= 122  # a second's worth may go at once


def test_a_slow_rate_spreads_its_requests() -> None:
    assert sends(Pace(8, 6, None), 1, until=35) == pytest.approx([0, 10, 20, 30])


def test_tokens_per_minute_hold() -> None:
    times = sends(Pace(8, None, 60_000), 500, until=120)
    assert len(times) * 500 == pytest.approx(120_000, rel=0.02)
    assert most_in_a_minute(times) * 500 <= 61_500


def test_a_request_beyond_a_whole_minute_of_tokens_goes_and_is_paid_off() -> None:
    assert sends(Pace(1, None, 600), 1200, until=250) == pytest.approx([0, 119.2, 239.2], abs=1)


def test_tokens_that_were_not_used_are_given_back() -> None:
    pace = Pace(8, None, 600)
    pace.sent(500, 0.0)
    assert pace.ready_at(0, 0.0) > 40
    pace.answered(500, 5, 0.0)
    assert pace.ready_at(0, 0.0) == 0.0


def test_a_bucket_does_not_fill_beyond_its_second_while_nobody_asks() -> None:
    bucket = Bucket(600)
    bucket.take(1, 0.0)
    times, now = [], 1000.0
    for _ in range(30):
        now = bucket.ready_at(now)
        bucket.take(1, now)
        times.append(now)
    assert sum(at <= 1000.0 for at in times) <= 11


def test_no_more_than_the_limit_is_in_flight() -> None:
    pace = Pace(4, None, None)
    assert [pace.ready_at(n, 0.0) for n in (0, 3, 4)] == [0.0, 0.0, math.inf]


def test_too_much_halves_once_for_all_that_was_in_flight() -> None:
    pace = Pace(64, None, None)
    for _ in range(20):  # sent together, refused together
        pace.overloaded(sent_at=1.0, now=2.0)
    assert pace.limit == 32
    pace.overloaded(sent_at=2.5, now=3.0)
    assert pace.limit == 16
    for i in range(10):
        pace.overloaded(sent_at=4.0 + i, now=4.5 + i)
    assert pace.limit == 1
    assert pace.ready_at(0, 20.0) == 20.0


def test_grows_by_one_per_window_up_to_the_limit() -> None:
    pace = Pace(8, None, None)
    pace.overloaded(1.0, 1.0)
    grown = []
    for _ in range(50):
        pace.answered(1, 1, 2.0)
        grown.append(pace.limit)
    assert grown[3:6] == [4, 5, 5]
    assert grown[-1] == 8
    assert max(grown) == 8


def test_finds_what_a_server_bears() -> None:
    """A server that refuses the 13th at once: nearly all of it is used, and few requests are refused."""
    pace, now, counts = Pace(64, None, None), 0.0, []
    refused = 0
    for _ in range(400):
        now += 1.0
        n = pace.limit
        counts.append(min(n, 12))
        for i in range(n):
            if i < 12:
                pace.answered(1, 1, now)
            else:
                refused += 1
                pace.overloaded(now - 1.0, now - 0.5)
    assert sum(counts) / len(counts) > 8
    assert refused / sum(counts) < 0.05


def test_what_one_is_told_to_wait_holds_for_all() -> None:
    pace = Pace(4, None, None)
    pace.pause(7.0, now=1.0)
    pace.pause(2.0, now=2.0)  # a shorter one takes nothing back
    assert pace.ready_at(0, 3.0) == 8.0
    assert pace.ready_at(0, 9.0) == 9.0


def test_an_outage_is_waited_for_longer_and_longer() -> None:
    pace, now, pauses = Pace(4, None, None), 0.0, []
    for _ in range(60):
        now = pace.ready_at(0, now)
        if (pause := pace.failed(now, now)) > 0:
            pauses.append(pause)
    assert pauses[:6] == [4, 8, 16, 32, 60, 60]
    pace.answered(1, 1, now)
    assert pace.failed(now, now) == 0.0


def test_one_window_of_failures_is_one_outage() -> None:
    pace = Pace(64, None, None)
    assert [pace.failed(sent_at=1.0, now=2.0 + i / 100) for i in range(64)].count(0.0) == 63
    assert pace.ready_at(0, 2.1) == pytest.approx(6.07)


def test_a_fault_among_answers_is_no_outage() -> None:
    pace, dice = Pace(64, None, None), random.Random(1)
    for i in range(2000):
        if dice.random() < 0.2:
            assert pace.failed(float(i), float(i)) == 0.0
        else:
            pace.answered(1, 1, float(i))


def test_back_off_is_exponential_jittered_and_bounded() -> None:
    assert [backoff_s(n, 1.0) for n in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 60.0]
    assert backoff_s(3, 0.0) == 1.0
