"""The LLM's opinion of corpus texts, by the project's annotator and prompt, read as `parse` reads its answers."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline import annotators, asking, costing, shooting
from pipeline.annotators import Request
from pipeline.artifacts import DEFERRED, QUESTIONS, Document, Question, metrics
from pipeline.calibrating import Calibration
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.piloting import Judge, Tally
from pipeline.responses import Answer, ResponseStore
from pipeline.scoring import Floats
from pipeline.spending import Spending
from serving.progress import progress


class SecondOpinion:
    """Asks what is not stored yet. The budget is that of all that the project asks, the sample included."""

    def __init__(self, params: Params, store: ResponseStore) -> None:
        self._params, self._store = params, store
        self._annotator = annotators.create(params.annotate, params.task, store)
        found = metrics("parse").read()["calibration"]
        calibration = Calibration(found["method"], np.array(found["shift"])) if found else None
        self._judge = Judge(params, calibration=calibration)
        origin = asking.origin(params, self._annotator)
        self.hash = hashlib.sha256(f"{origin}\n{self._annotator.decoding}".encode()).hexdigest()

    def ask(self, what: str, documents: Iterable[Document]) -> None:
        """Ask about all of `documents`; the questions stay in `DEFERRED`, in this order.

        Raises:
            UserError: the budget or too many failures left questions open; the answers stay in the store.
        """
        params, store = self._params, self._store
        DEFERRED.write(self._questions(documents))
        keys = [asking.keys(table) for table in (QUESTIONS, DEFERRED) if table.path.is_file()]
        before = store.totals(key for some in keys for key in some)
        spending = Spending(params.annotate.budget, costing.prices(params), before)
        tally = Tally(self._judge, params.task.names)
        with progress(what, DEFERRED.count(), done=store.totals(asking.keys(DEFERRED)).answers) as advance:

            def seen(answers: list[Answer]) -> None:
                tally.add(answers)
                advance(len(answers), f"{spending}, {tally}")

            asking.ask(self._annotator, store, DEFERRED, spending, asking.origin(params, self._annotator), seen)
        self._complete(spending)

    def said(self, questions: Iterable[Question]) -> Floats:
        """Probabilities (questions, labels); NaN where the answer gives no label."""
        asked = list(questions)
        found = self._store.get(question.key for question in asked)
        verdicts = [self._judge(found[question.key]) for question in asked]
        nothing = [np.nan] * len(self._params.task.names)
        values: Floats = np.array([nothing if v.label is None else v.probabilities for v in verdicts])
        return values.reshape(len(asked), len(nothing))

    def money(self) -> float:
        """What all answers to the questions in `DEFERRED` have cost, those of earlier runs included."""
        totals = self._store.totals(asking.keys(DEFERRED))
        return costing.prices(self._params).of(totals.prompt_tokens, totals.answer_tokens, totals.seconds)

    def _questions(self, documents: Iterable[Document]) -> Iterator[Question]:
        rows = (("sample", document.id, document.text, None) for document in documents)
        for (purpose, id_, text, label), variant in shooting.variants(rows, self._params):
            key = self._annotator.key(Request(id_, text, variant))
            yield Question(id_, text, purpose, label, None if variant is None else variant.to_json(), key)

    def _complete(self, spending: Spending) -> None:
        errors, open_, total = Counter[str](), 0, DEFERRED.count()
        for questions in asking.chunks(DEFERRED):
            found = self._store.get(question.key for question in questions)
            open_ += sum(question.key not in found for question in questions)
            errors.update(a.error.split(":")[0] for q in questions if (a := found.get(q.key)) and a.error is not None)
        if open_ and spending.stopped is None:
            raise ValueError(f"{open_} requests have neither an answer nor an error. This is a bug.")
        if open_:
            raise UserError(
                f"annotate.{spending.stopped} is reached ({spending}): {total - open_:,} of {total:,} texts were asked "
                "about and their answers are kept; raise annotate.budget or label.target_error, and run again"
            )
        if (failed := errors.total()) > self._params.annotate.max_failed_share * total:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in errors.most_common())
            raise UserError(
                f"{failed:,} of {total:,} requests failed ({kinds}), more than annotate.max_failed_share "
                f"{self._params.annotate.max_failed_share:.0%}: the others are kept; run again to ask these once more"
            )
