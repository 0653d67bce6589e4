"""The budget holds for the worst case, whatever is in flight, over restarts, and says when it is too small."""

import random

import pytest

from pipeline import spending
from pipeline.errors import UserError
from pipeline.params import Budget
from pipeline.responses import Answer, ErrorKind, Totals
from pipeline.spending import Prices, Spending
from serving.estimating import amount

PRICES = Prices(prompt_per_million=2.0, answer_per_million=10.0)


def answer(key: str, prompt: int = 100, answered: int = 1, seconds: float = 0.0) -> Answer:
    return Answer(key, "yes", None, "stop", prompt, answered, seconds, False)


def test_prices_are_by_the_million_tokens_and_by_the_hour() -> None:
    assert PRICES.of(1_000_000, 100_000, 99.0) == pytest.approx(3.0)
    assert Prices(per_hour=1.8).of(1_000_000, 1_000_000, 7200) == pytest.approx(3.6)


def test_what_is_in_flight_counts_at_its_worst() -> None:
    left = Spending(Budget(tokens=1000), Prices(), Totals())
    assert all(left.take(f"{i}", 100, 100) for i in range(5))
    assert not left.take("5", 1, 0)
    assert left.stopped == "budget.tokens 1,000"
    assert left.tokens == 0


def test_an_answer_gives_back_what_it_did_not_use() -> None:
    left = Spending(Budget(tokens=1000), Prices(), Totals())
    for i in range(9):  # 101 each, of which 100 + 100 are set aside
        assert left.take(f"{i}", 100, 91)
        left.settle([answer(f"{i}")])
    assert left.tokens == 909
    assert left.take("9", 1, 90)
    assert not left.take("10", 1, 0)


def test_once_stopped_it_stays_stopped() -> None:
    left = Spending(Budget(tokens=300), Prices(), Totals())
    assert left.take("a", 100, 100)
    assert not left.take("b", 200, 0)
    left.settle([answer("a", prompt=1, answered=1)])
    assert not left.take("c", 1, 1)
    assert left.stopped is not None


def test_a_key_is_set_aside_once_and_given_back_when_it_fails() -> None:
    left = Spending(Budget(tokens=400), Prices(), Totals())
    assert left.take("a", 100, 100)
    assert left.take("a", 100, 100)  # a second attempt at the same request
    assert left.take("b", 100, 100)
    left.settle([Answer.failed("a", ErrorKind.TIMEOUT, "60 s")])
    assert left.take("c", 100, 100)
    assert not left.take("d", 100, 100)


def test_earlier_runs_count_in_money_and_tokens() -> None:
    before = Totals(answers=10, prompt_tokens=900_000, answer_tokens=10_000, seconds=50.0)
    tokens = Spending(Budget(tokens=1_000_000), PRICES, before)
    assert tokens.take("a", 80_000, 10_000)
    assert not tokens.take("b", 1, 0)
    money = Spending(Budget(money=2.0), PRICES, before)  # 1.90 of them are spent
    assert money.money == pytest.approx(1.9)
    assert money.take("a", 45_000, 900)
    assert not money.take("b", 1_000, 0)
    assert money.stopped == "budget.money 2"


def test_the_machines_time_counts_as_money_when_it_is_known() -> None:
    left = Spending(Budget(money=1.0), Prices(per_hour=3600.0), Totals())
    assert left.take("a", 100, 0)
    left.settle([answer("a", seconds=0.75)])
    assert left.take("b", 100, 0)
    left.settle([answer("b", seconds=0.75)])
    assert left.money == pytest.approx(1.5)
    assert not left.take("c", 100, 0)


def test_minutes_count_this_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(spending.time, "monotonic", lambda: now)
    left = Spending(Budget(minutes=2.0), Prices(), Totals(answers=9, seconds=9e9))
    now += 119
    assert left.take("a", 1, 1)
    now += 1
    assert not left.take("b", 1, 1)
    assert left.stopped == "budget.minutes 2"
    assert not left.take("a", 1, 1)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Budget(tokens=10), "annotate.budget.tokens 10 is too small for one request (116 tokens at most): raise it"),
        (
            Budget(money=1e-6),
            "annotate.budget.money 1e-06 is too small for one request (0.00036 for 116 tokens at most",
        ),
    ],
)
def test_a_budget_too_small_for_one_request_is_said_before_any_is_sent(limits: Budget, said: str) -> None:
    with pytest.raises(UserError) as error:
        Spending(limits, PRICES, Totals()).take("a", 100, 16)
    assert str(error.value).startswith(said)


def test_a_budget_that_is_used_up_is_reached_not_too_small() -> None:
    left = Spending(Budget(tokens=10), PRICES, Totals(answers=1, prompt_tokens=9))
    assert not left.take("a", 100, 16)
    assert left.stopped == "budget.tokens 10"


def test_prompts_longer_than_estimated_make_those_in_flight_longer() -> None:
    left = Spending(Budget(tokens=10_000), Prices(), Totals())
    assert left.take("a", 100, 0)
    left.settle([answer("a", prompt=400, answered=0)])  # a script of which 4 characters are 4 tokens
    taken = sum(left.take(f"{i}", 100, 0) for i in range(100))
    assert taken == (10_000 - 400) // 400


def test_no_order_of_events_exceeds_the_limits() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        limits = Budget(tokens=chance.randrange(500, 5000), money=chance.uniform(0.001, 0.02))
        left, flying = Spending(limits, PRICES, Totals()), {}
        for i in range(200):
            asked, at_most = chance.randrange(1, 200), chance.randrange(1, 50)
            if left.take(f"{i}", asked, at_most):
                flying[f"{i}"] = asked, at_most
            if flying and chance.random() < 0.5:
                key = chance.choice(sorted(flying))
                asked, at_most = flying.pop(key)
                left.settle([answer(key, asked, chance.randrange(at_most + 1))])
        left.settle([answer(key, *worst) for key, worst in flying.items()])
        assert left.stopped is not None
        assert left.tokens <= limits.tokens
        assert left.money <= limits.money + 1e-12


def test_without_limits_nothing_stops() -> None:
    left = Spending(Budget(), PRICES, Totals())
    assert all(left.take(f"{i}", 10**9, 10**9) for i in range(100))


@pytest.mark.parametrize(
    ("money", "shown"),
    [(0, "0.00"), (0.00123, "0.0012"), (1.4e-5, "0.000014"), (0.5, "0.50"), (12.345, "12.35"), (1234.5, "1,234")],
)
def test_money_is_shown_with_the_digits_that_matter(money: float, shown: str) -> None:
    assert amount(money) == shown
    before = Totals(answers=1, seconds=money)
    said = str(Spending(Budget(), Prices(per_hour=3600.0), before))
    assert said == (f"{shown} spent, 0 tokens" if money else "0 tokens")
