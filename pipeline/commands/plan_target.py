"""The part of a plan that is about label.target_error: what share of the corpus goes where, and what that costs."""

from collections.abc import Callable

from pipeline import cascade
from pipeline.artifacts import BEST, PREDICTIONS, metrics
from pipeline.errors import UserError
from pipeline.params import Params

Cells = tuple[str, ...]


def rows(params: Params, corpus: int, llm: Callable[[str, int], Cells], money: Callable[[float], str]) -> list[Cells]:
    """Rows for the table of `plan`: what the encoder keeps, what the LLM is asked about, what people label.

    Args:
        params: with a target, or there are no rows.
        corpus: texts in all.
        llm: makes the row of a number of requests.
        money: writes an amount.

    Raises:
        UserError: the target can't be certified, there is no gold of the corpus, or no encoder was evaluated yet.
    """
    if (target := params.label.target_error) is None:
        return []
    missing = [file for file in (PREDICTIONS, BEST, metrics("parse")) if not file.path.is_file()]
    if missing:
        raise UserError("what share goes where is known after `dvc repro evaluate`")
    _, shares = cascade.foreseen(params, corpus)
    texts = {name: round(share * corpus) for name, share in shares.items()}
    people = money(texts["person"] * params.label.person_price)
    return [
        (f"error of {target:.1%} or less: encoder keeps", f"{texts['encoder']:,}", "-", "-", "", ""),
        llm("  LLM is asked about the rest", texts["llm_asked"]),
        ("  people label what that leaves", f"{texts['person']:,}", "-", "-", people, "-"),
    ]
