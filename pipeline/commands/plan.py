"""plan: what annotating and labelling will cost, before anything is paid. No server is asked, nothing is downloaded."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import NoReturn

from pipeline import annotators, costing, params, responses, sampling, shooting, surveying
from pipeline.annotators import Request
from pipeline.annotators.endpoint import Asker
from pipeline.artifacts import CORPUS, GOLD, SAMPLE, STORE, Document, Sampled, metrics
from pipeline.commands import plan_target
from pipeline.errors import UserError
from pipeline.params import Endpoint, Mode, Params, RecordedAnnotator
from pipeline.planning import Counter, Work, budget
from pipeline.prompts import Template
from pipeline.responses import ResponseStore, Totals
from pipeline.shooting import Row
from pipeline.spending import Prices, Spending
from serving import corpus
from serving.estimating import Part, amount, duration, table

_PART = 1_000  # texts whose tokens are counted
_PACE_AT_LEAST = 20  # answers, before they say how long an answer is


class _OfflineError(Exception):
    """The server would have to be asked."""


class _Offline(Asker):
    """An endpoint that is never asked."""

    def client(self) -> NoReturn:
        raise _OfflineError


def plan() -> str:
    """Requests, tokens, money and time of the LLM for the sample and for the whole corpus, and of the encoder.

    Raises:
        UserError: there is no sample yet, the budget has no room for one request, or the params don't fit.
    """
    settings = params.load()
    before = "sample" if settings.rounds is None else "ingest"
    for path in (CORPUS.path, GOLD.path, *([SAMPLE.path] if settings.rounds is None else [])):
        if not path.is_file():
            raise UserError(f"{path} does not exist: run `dvc repro {before}` first; it costs nothing")
    with _store() as store:
        parts = [_Plan(settings.asking(name), store).lines() for name in settings.annotator_names]
    for name, part in zip(settings.annotator_names[1:], parts[1:], strict=True):
        part[:0] = ["", f"annotators.{name}", ""]
    return "\n".join(chain.from_iterable(parts))


def _store() -> AbstractContextManager[ResponseStore]:
    return responses.opened(STORE if STORE.is_file() else Path(":memory:"))


class _Plan:
    """What is read and counted."""

    def __init__(self, settings: Params, store: ResponseStore) -> None:
        self._params, self._store = settings, store
        self._annotator = settings.annotate.annotator
        self._recorded = isinstance(self._annotator, RecordedAnnotator)
        self._prices = costing.prices(settings)
        key, name, mode, self._answer_at_most = self._identity()
        self._mode = mode
        self._pace = surveying.pace(store, self._annotator.kind, name)
        missing: Part[Request] = Part(_PART)
        self._before = self._survey(missing, key)
        self._count = Counter(settings)
        self._sample = self._work(missing)
        self._corpus, self._corpus_name = self._whole()

    def lines(self) -> list[str]:
        """The table, and how its figures came about."""
        seconds = self._sample.seconds(self._params, self._pace)
        spent = Spending(self._params.annotate.budget, self._prices, self._before)
        limits = budget(self._params, self._sample, spent, seconds, self._prices)
        stored = amount(spent.money) + " spent" if spent.money else ""
        rows = [
            ("", "requests", "prompt tokens", "answer tokens", self._params.report.currency, "time"),
            self._row(f"LLM labels the sample and gold{', at most' if self._params.rounds else ''}", self._sample),
            ("  stored already, free", f"{self._before.answers:,}", "", "", stored, ""),
            self._row(f"LLM labels {self._corpus_name}", self._corpus),
            self._encoder(),
        ]
        more, why = self._target()
        rows += more
        notes = [
            ("tokens", self._tokens_note()),
            ("answers", self._answers_note()),
            ("prices", self._prices_note()),
            ("times", self._times_note()),
            ("target", why),
            *(
                ("budget", line)
                for line in limits or ["none is set (annotate.budget): the run ends when all is answered"]
            ),
        ]
        return [*table(rows), "", *(f"{name:<9}{note}" for name, note in notes if note)]

    def _identity(self) -> tuple[Callable[[Request], str] | None, str, Mode | None, int]:
        """How answers are found in the store (None: the server's mode must be known first), model, mode, tokens."""
        if not isinstance(self._annotator, Endpoint):
            annotator = annotators.create(self._params.annotate, self._params.task, self._store)
            thinks = self._params.annotate.prompt.reasoning
            at_most = getattr(self._annotator, "max_answer_tokens", 0) if thinks else 0
            mode: Mode = "log_probabilities" if annotator.gives_log_probabilities else "text"
            return annotator.key, annotator.model, mode, at_most
        prompt = self._params.annotate.prompt
        asker = _Offline(self._annotator, Template.of(prompt, self._params.task), prompt.reasoning, self._store)
        try:
            return asker.key, self._annotator.model, asker.mode, asker.max_answer_tokens()
        except _OfflineError:
            return None, self._annotator.model, None, self._annotator.max_answer_tokens

    def _survey(self, missing: Part[Request], key: Callable[[Request], str] | None) -> Totals:
        """Sort all questions into those that are stored, which are summed up, and those that are missing."""

        def keys() -> Iterator[str]:
            for request in self._requests(self._questions()):
                found = None if key is None else key(request)
                if found is None or found not in self._store:
                    missing.add(request)
                if found is not None:
                    yield found

        return self._store.totals(keys())

    def _questions(self) -> Iterator[Row]:
        """As annotate asks them."""
        annotate = self._params.annotate
        blanks = annotate.prompt.content_free if self._mode in ("log_probabilities", None) else []
        gold = ((("gold", g.id, g.text, g.label)) for g in GOLD if self._params.annotators or g.split != "train")
        return chain(
            (("content_free", f"content_free:{i}", text, None) for i, text in enumerate(blanks)),
            gold if annotate.gold else (),
            (("sample", row.id, row.text, None) for row in self._sampled()),
        )

    def _sampled(self) -> Iterable[Sampled | Document]:
        """The sample; where it grows in rounds, as many texts as it may have at most."""
        sample = self._params.sample
        if self._params.rounds is None:
            return SAMPLE
        evaluation = {row.text_hash for row in GOLD if row.split != "train"}
        return sampling.draw(CORPUS, sample.size, sample.seed, evaluation)[0]

    def _requests(self, rows: Iterator[Row]) -> Iterator[Request]:
        return (Request(id_, text, variant) for (_, id_, text, _), variant in shooting.variants(rows, self._params))

    def _whole(self) -> tuple[Work, str]:
        """All texts that `label` will label, or the ingested corpus where those are not on this machine."""
        label, texts = self._params.label, Part[str](_PART)
        source = label.corpus if label.corpus and Path(label.corpus.path).exists() else None
        rows = corpus.read(source, self._params.ingest.max_chars, "label.corpus") if source else CORPUS
        for row in rows:
            if isinstance(row, Document):
                texts.add(row.text)
            if texts.total == label.max_rows:
                break
        part: Part[Request] = Part(_PART)
        part.items = list(self._requests(("sample", "", text, None) for text in texts.items))
        part.total = texts.total * self._params.requests_per_text
        return self._work(part), "the corpus" if source or not label.corpus else "the ingested corpus"

    def _work(self, part: Part[Request]) -> Work:
        known = self._pace is not None and self._pace.answers >= _PACE_AT_LEAST
        each = self._pace.answer_tokens if self._pace and known else float(self._answer_at_most)
        return Work.of(part, (lambda _: 0) if self._recorded else self._count, each, self._answer_at_most)

    def _row(self, name: str, work: Work) -> tuple[str, ...]:
        if self._recorded:
            return name, f"{work.requests:,}", "-", "-", "0" if work is self._sample else "unknown", "-"
        seconds = work.seconds(self._params, self._pace)
        money = None if costing.unpriced(self._params) else work.money(self._prices, seconds)
        tokens = str(work.prompt), f"{work.answers:,.0f}"
        return name, f"{work.requests:,}", *tokens, _money(money), duration(seconds)

    def _encoder(self) -> tuple[str, ...]:
        done = metrics("label")
        seconds = self._corpus.requests / done.read()["texts_per_s"] if done.path.is_file() else None
        per_hour = Prices(per_hour=self._params.report.machine_per_hour)
        money = None if seconds is None else per_hour.of(0, 0, seconds)
        texts = f"{self._corpus.requests:,}"
        return f"encoder labels {self._corpus_name}", texts, "-", "-", _money(money), duration(seconds)

    def _target(self) -> tuple[list[tuple[str, ...]], str | None]:
        """Rows about the error target, and how they came about or why there are none."""

        def llm(name: str, requests: int) -> tuple[str, ...]:
            share = requests / max(self._corpus.requests, 1)
            return self._row(name, self._corpus.part(share))

        try:
            found = plan_target.rows(self._params, self._corpus.requests, llm, _money)
        except UserError as error:
            return [], str(error)
        how = (
            "as likely as not more, or less, from held-out texts and the gold there is; `llambert defer` then tests it"
        )
        return found, how if found else None

    def _tokens_note(self) -> str:
        if self._recorded:
            return "none: the answers are there already"
        whole = max(self._sample.requests, self._corpus.requests) <= _PART
        part = "all texts" if whole else f"{_PART:,} random texts (± is a 95 % interval)"
        return f"{self._count.how}, on {part}"

    def _answers_note(self) -> str | None:
        if not self._answer_at_most:
            return None
        unasked = "" if self._mode else "; the server was not asked yet what it can do"
        if self._pace is not None and self._pace.answers >= _PACE_AT_LEAST:
            return f"{self._pace.answer_tokens:.3g} tokens each, as {self._pace.answers:,} stored ones have{unasked}"
        return f"{self._answer_at_most:,} tokens each at most{unasked}"

    def _prices_note(self) -> str:
        return costing.unpriced(self._params) or costing.origin(self._params)

    def _times_note(self) -> str:
        kind = self._annotator.kind
        if kind == "openai_batch":
            llm = "of the LLM: a batch takes up to its completion_window"
        elif self._pace is not None and not self._recorded:
            llm = f"of the LLM: as {self._pace.answers:,} stored answers took"
        elif self._sample.requests and self._sample.seconds(self._params, None) is not None:
            llm = "of the LLM: what its limits a minute allow at best"
        else:
            llm = "of the LLM: unknown until some are answered"
        known = metrics("label").path.is_file()
        return f"{llm}; of the encoder: {'as in its last run' if known else 'unknown until it has labelled once'}"


def _money(amount_: float | None) -> str:
    return "unknown" if amount_ is None else amount(amount_)
