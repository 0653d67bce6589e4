"""Ask an annotator a table of questions: what is stored is not asked again, what comes is stored before it counts."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from pyarrow.parquet import ParquetFile

from pipeline.annotators import Annotator, Request
from pipeline.artifacts import Question, Table
from pipeline.params import Params
from pipeline.prompts import Template, Variant
from pipeline.responses import Answer, Origin, ResponseStore
from pipeline.spending import Spending

_ROWS = 5_000  # that are looked up in the store at once


def ask(
    annotator: Annotator,
    store: ResponseStore,
    questions: Iterable[Question],
    spending: Spending,
    origin: Origin,
    seen: Callable[[list[Answer]], None],
) -> bool:
    """Answer what is not stored yet, tell `seen` of each group of new answers, and return whether there were any."""
    asked, known = False, Known(store)
    for answers in annotator.answers(known.requests(questions), known, spending):
        store.add(answers, origin)
        spending.settle(answers)
        seen(answers)
        asked = True
    return asked


class Known:
    """Which answers are stored, looked up by the thousand while the requests go by."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._lately: deque[set[str]] = deque(maxlen=2)

    def requests(self, questions: Iterable[Question]) -> Iterator[Request]:
        """The questions as an annotator takes them."""
        for chunk in chunks(questions):
            keys = json.dumps([question.key for question in chunk])
            stored = self._store.read(
                "SELECT key FROM responses WHERE key IN (SELECT value FROM json_each(?))", (keys,)
            )
            self._lately.append({key for (key,) in stored})
            for q in chunk:
                yield Request(q.id, q.text, None if q.variant is None else Variant.from_json(q.variant))

    def __contains__(self, key: object) -> bool:
        return any(key in some for some in self._lately) or key in self._store


def keys(questions: Table[Question]) -> Iterator[str]:
    """Where the store has the answers, question by question."""
    with ParquetFile(questions.path) as file:
        for batch in file.iter_batches(columns=["key"]):
            yield from batch.column(0).to_pylist()


def chunks(questions: Iterable[Question]) -> Iterator[list[Question]]:
    """Some thousand at a time."""
    stream = iter(questions)
    while chunk := list(islice(stream, _ROWS)):
        yield chunk


def origin(params: Params, annotator: Annotator) -> Origin:
    """Who is asked, and by which prompt."""
    return Origin(
        params.annotate.annotator.kind, annotator.model, Template.of(params.annotate.prompt, params.task).hash
    )
