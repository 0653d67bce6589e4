"""responses: what the response store holds and has cost; export and import, so that a team pays once."""

from pathlib import Path

from pipeline import costing, params, responses, sharing, surveying
from pipeline.artifacts import STORE
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import locked
from pipeline.surveying import Failures, Source
from serving.estimating import amount, table

_HEAD = (
    "answers of",
    "by",
    "prompts",
    "answers",
    "unanswered",
    "prompt tokens",
    "answer tokens",
    "cost",
    "first",
    "last",
)
_FAILED = ("failed, tried again by the next run", "model", "requests", "last")
_EXAMPLE_CHARACTERS = 110
_UNKNOWN = "unknown"


def show() -> str:
    """Counts, tokens, cost and dates for each model; failures by kind.

    Raises:
        UserError: nothing is stored yet.
    """
    settings = params.load()
    with responses.opened(_store()) as store:
        sources, failures = surveying.sources(store), surveying.failures(store)
    rows = [_HEAD, *(_row(source, settings) for source in sources)]
    lines = table(rows) if sources else ["no answer is stored yet"]
    if failures:
        lines += ["", *_failed(failures)]
    return "\n".join([*lines, "", f"prices: {costing.origin(settings)}"])


def export(path: Path) -> str:
    """Write all answers to a file; a run may go on meanwhile.

    Raises:
        UserError: nothing is stored yet, or the name ends in neither .parquet nor .jsonl.
    """
    with responses.opened(_store()) as store:
        return f"{sharing.write(path, store.stored()):,} answers are in {path}"


def import_(path: Path) -> str:
    """Add the answers of a file to the store; those that are there stay as they are.

    Raises:
        UserError: a run works in this directory, or a row is no answer: then nothing is imported.
    """
    with locked(), responses.opened(STORE) as store:
        before = len(store)
        given = store.merge(sharing.read(path))
        came = len(store) - before
    return f"{came:,} answers are new; {given - came:,} were there already and stay as they are"


def _store() -> Path:
    if not STORE.is_file():
        raise UserError(f"{STORE} does not exist: no answer is stored yet")
    return STORE


def _row(source: Source, settings: Params) -> tuple[str, ...]:
    unpriced = source.annotator is None or not costing.is_priced(settings, source.annotator, source.model)
    prices = costing.of_model(settings, source.annotator, source.model)
    cost = prices.of(source.prompt_tokens, source.answer_tokens, source.seconds)
    return (
        source.model or _UNKNOWN,
        source.annotator or _UNKNOWN,
        f"{source.prompts:,}" if source.prompts else _UNKNOWN,
        f"{source.answers:,}",
        f"{source.unanswered:,}",
        f"{source.prompt_tokens:,}",
        f"{source.answer_tokens:,}",
        _UNKNOWN if unpriced else amount(cost),
        source.first[:10],
        source.last[:10],
    )


def _failed(failures: list[Failures]) -> list[str]:
    lines = table([_FAILED, *((f.kind, f.model or _UNKNOWN, f"{f.requests:,}", f.last[:10]) for f in failures)])
    examples = []
    for failure in failures:
        seen = " ".join(failure.example.split())
        examples.append(seen if len(seen) <= _EXAMPLE_CHARACTERS else seen[:_EXAMPLE_CHARACTERS] + " ...")
    return [*lines, *(f"  for example {example}" for example in examples)]
