"""Whose price holds: the user's, the table's, the machine's, or nobody's; and what a run cost by it."""

from pathlib import Path

import pytest
import toy_project

from pipeline import costing, params
from pipeline.costing import Asked, Usage, costs
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.spending import Prices

OPENAI = "{kind: openai, model: gpt-4o-mini}"


def settings(tmp_path: Path, annotator: str, more: str = "", report: str = "{}") -> Params:
    text = toy_project.PARAMS.replace("GAIN", "0.0").replace("report: {}", f"report: {report}")
    begins = text.index("annotate:")
    block = f'annotate: {{annotator: {annotator}, prompt: {{user: "{{text}}"}}{more}}}\n'
    (tmp_path / "params.yaml").write_text(text[:begins] + block + text[text.index("parse:") :])
    return params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("model", "prompt", "answer"),
    [
        ("gpt-4o", 2.5, 10.0),
        ("gpt-4o-2024-08-06", 2.5, 10.0),
        ("gpt-4o-2024-05-13", 5.0, 15.0),
        ("gpt-4o-mini-2024-07-18", 0.15, 0.6),
        ("gpt-4.1-nano", 0.1, 0.4),
        ("gpt-5", 1.25, 10.0),
    ],
)
def test_listed_models_and_their_dated_names(tmp_path: Path, model: str, prompt: float, answer: float) -> None:
    found = settings(tmp_path, f"{{kind: openai, model: {model}}}")
    assert costing.prices(found) == Prices(prompt, answer)
    assert costing.unpriced(found) is None


@pytest.mark.parametrize("model", ["gpt-5-pro", "gpt-4o-audio-preview", "my-gpt-4o", "Qwen/Qwen3-8B", "gpt-4o-2024"])
def test_a_model_that_only_begins_like_a_listed_one_has_no_price(tmp_path: Path, model: str) -> None:
    found = settings(tmp_path, f"{{kind: openai, model: {model}}}")
    assert costing.prices(found) == Prices()
    assert costing.unpriced(found) == f"the price of {model} in USD is unknown: set annotate.price"


def test_the_batch_api_has_its_discount_and_the_users_price_none(tmp_path: Path) -> None:
    batch = "{kind: openai_batch, model: gpt-4o}"
    assert costing.prices(settings(tmp_path, batch)) == Prices(1.25, 5.0)
    half = settings(tmp_path, batch, ", price: {prompt_per_million: 2.0}")
    assert costing.prices(half) == Prices(2.0, 5.0)
    both = settings(tmp_path, batch, ", price: {prompt_per_million: 0.0, answer_per_million: 4.0}")
    assert costing.prices(both) == Prices(0.0, 4.0)


def test_list_prices_hold_in_their_currency_only(tmp_path: Path) -> None:
    euros = settings(tmp_path, OPENAI, report="{currency: EUR}")
    assert costing.prices(euros) == Prices()
    assert "gpt-4o-mini in EUR is unknown" in str(costing.unpriced(euros))


def test_half_a_price_of_an_unlisted_model_is_not_enough(tmp_path: Path) -> None:
    unlisted = "{kind: openai, model: mine}"
    assert costing.unpriced(settings(tmp_path, unlisted, ", price: {prompt_per_million: 2.0}"))
    whole = settings(tmp_path, unlisted, ", price: {prompt_per_million: 2.0, answer_per_million: 3.0}")
    assert costing.unpriced(whole) is None
    assert costing.prices(whole) == Prices(2.0, 3.0)


@pytest.mark.parametrize("annotator", ["{kind: local}", "{kind: vllm, model: mine}"])
def test_a_model_that_runs_here_costs_the_machines_time(tmp_path: Path, annotator: str) -> None:
    assert costing.prices(settings(tmp_path, annotator, report="{machine_per_hour: 0.5}")) == Prices(per_hour=0.5)
    own = settings(tmp_path, annotator, ", price: {per_hour: 3.0}")
    assert costing.prices(own) == Prices(per_hour=3.0)
    assert costing.origin(own) == "3 USD for an hour of the LLM's machine; 0.1 USD for an hour of this machine"


def test_recorded_answers_are_free_and_nobody_knows_what_they_cost(tmp_path: Path) -> None:
    found = settings(tmp_path, "{kind: recorded, model: m, files: [{path: a.csv, answer: [label]}]}")
    assert costing.prices(found) == Prices()
    assert "recorded elsewhere" in str(costing.unpriced(found))


def test_a_price_or_a_limit_that_can_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="per_hour is for an LLM that runs on this machine"):
        costing.prices(settings(tmp_path, OPENAI, ", price: {per_hour: 1.0}"))
    with pytest.raises(UserError, match=r"budget\.money can't be kept: the price of mine in USD is unknown"):
        costing.prices(settings(tmp_path, "{kind: openai, model: mine}", ", budget: {money: 5.0}"))
    assert costing.prices(settings(tmp_path, OPENAI, ", budget: {money: 5.0}")) == Prices(0.15, 0.6)


def test_prices_of_stored_answers_are_those_of_who_gave_them(tmp_path: Path) -> None:
    found = settings(tmp_path, OPENAI, ", price: {prompt_per_million: 7.0}", "{machine_per_hour: 0.5}")
    assert costing.of_model(found, "openai", "gpt-4o-mini") == Prices(7.0, 0.6)
    assert costing.of_model(found, "openai", "gpt-4o") == Prices(2.5, 10.0)
    assert costing.of_model(found, "openai_batch", "gpt-4o-mini") == Prices(0.075, 0.3)
    assert costing.of_model(found, "local", "embedded:smollm2@123") == Prices(per_hour=0.5)
    assert costing.of_model(found, None, None) == Prices()
    assert costing.is_priced(found, "openai", "gpt-4o")
    assert not costing.is_priced(found, "openai", "mine")


def test_where_prices_come_from_is_said(tmp_path: Path) -> None:
    said = costing.origin(settings(tmp_path, OPENAI))
    assert said.startswith("0.15 and 0.6 USD for a million tokens of prompts and answers (list prices of 2025-08")
    own = settings(tmp_path, OPENAI, ", price: {prompt_per_million: 1.0, answer_per_million: 2.0}")
    assert "list prices" not in costing.origin(own)


def test_requests_to_an_endpoint_wait_beside_each_other(tmp_path: Path) -> None:
    assert costing.by_the_clock(settings(tmp_path, "{kind: openai, model: m, max_concurrency: 8}"), 80.0) == 10.0
    assert costing.by_the_clock(settings(tmp_path, "{kind: local}"), 80.0) == 80.0


def test_costs_of_a_run() -> None:
    usage = Usage({"annotate": Asked(1000, 500_000, 2.0, 3600)}, train_s=1800, label_s=360, rows=100_000)
    found = costs(usage, machine_per_hour=2.0)
    assert (found.annotate, found.train, found.label) == pytest.approx((2.0, 1.0, 0.2))
    assert found.total == pytest.approx(3.2)
    assert found.everything_by_llm == pytest.approx(200.0)
    assert found.everything_by_llm_s == pytest.approx(360_000)
    assert found.break_even == 1502  # 3 / (0.002 - 0.000002)


def test_an_llm_that_is_cheaper_than_the_encoder_is_never_overtaken() -> None:
    assert (
        costs(Usage({"annotate": Asked(10, 0, 1e-6, 1.0)}, 1.0, label_s=3600, rows=10), machine_per_hour=2.0).break_even
        is None
    )


def test_unknown_costs_stay_unknown() -> None:
    unknown, strong = Asked(1000, 0, None, 0.0), Asked(1000, 9, 3.0, 60)
    found = costs(Usage({"annotate": unknown}, 1800, 360, 100_000), machine_per_hour=2.0)
    assert (found.annotate, found.everything_by_llm) == (0, None)
    assert found.total == pytest.approx(1.2)
    usage = Usage({"annotate": unknown, "strong": strong}, 1800, 360, 100_000)
    assert costs(usage, machine_per_hour=2.0).total == pytest.approx(4.2)
    assert usage.seconds == 2220


def test_who_is_consulted_is_paid_for_before_the_encoder_saves_anything() -> None:
    both = {"annotate": Asked(1000, 500_000, 2.0, 3600), "strong": Asked(1000, 9, 3.0, 60)}
    found = costs(Usage(both, train_s=1800, label_s=360, rows=100_000), machine_per_hour=2.0)
    assert found.everything_by_llm == pytest.approx(200.0)
    assert found.break_even == 3004  # 6 / (0.002 - 0.000002)


def test_the_table_is_dated_and_whole() -> None:
    assert costing.table().as_of == "2025-08"
    assert all(len(pair) == 2 and 0 < pair[0] < pair[1] for pair in costing.table().models.values())
