"""ingest: corpus and gold files -> corpus + duplicates + unusable + gold + metrics/ingest.json

Every row of a source becomes one document (or gold text), or a row of `unusable` with its reason. Until all sources
are read and found good enough, nothing but `unusable` is replaced.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain

from pipeline import gold
from pipeline.artifacts import CORPUS, DUPLICATES, GOLD, UNUSABLE, Gold, Unusable, metrics
from pipeline.deduplicating import Index, Staged, staging
from pipeline.errors import UserError
from pipeline.params import Ingest, Params
from serving import corpus
from serving.reading import records
from serving.records import Reason

log = logging.getLogger("llambert")
_LOG_EVERY = 1_000_000  # rows


def run(params: Params) -> None:
    """Read the gold, then the corpus in one pass.

    Raises:
        UserError: a source can't be read, has too many unusable rows or no usable one, or gold that can't serve.
    """
    start = time.monotonic()
    ingest = params.ingest
    splits, unusable_gold, gold_rows = _read_gold(params)
    with staging() as staged:
        rows = staged.write(_read_corpus(ingest))
        with closing(Index(staged, made_ids=ingest.corpus.id is None)) as index:
            reasons: Counter[Reason] = Counter()
            UNUSABLE.write(chain(*unusable_gold.values(), _counted(index.unusable(), reasons)))
            for split, unusable in unusable_gold.items():
                found = Counter(Reason.of(row.reason) for row in unusable)
                _refuse_too_many(f"ingest.gold_{split}", gold_rows[split], found, ingest.max_unusable_share)
            _refuse_too_many("ingest.corpus", rows, reasons, ingest.max_unusable_share)
            overlap = gold.Overlap(splits.gold)
            documents = CORPUS.write(overlap.watched(index.documents()))
            duplicates = DUPLICATES.write(index.duplicates())
    GOLD.write(splits.gold)
    sizes = Counter(row.split for row in splits.gold)
    leaks = splits.leaks | overlap.counts()
    metrics("ingest").write(
        {
            "documents": documents,
            "unusable": reasons.total(),
            "unusable_by_reason": {str(reason): count for reason, count in reasons.items()},
            "duplicates": duplicates,
            "gold": {split: sizes[split] for split in ("train", "validation", "test")}
            | splits.counts
            | {"unusable": sum(map(len, unusable_gold.values()))},
            "leaks": leaks,
            "seconds": round(time.monotonic() - start, 3),
        }
    )
    _tell(documents, duplicates, reasons, sizes, leaks)


def _read_gold(params: Params) -> tuple[gold.Splits, dict[str, list[Unusable]], dict[str, int]]:
    """Return the gold splits, and by split what could not be used and how many rows were read."""
    ingest = params.ingest
    sources = {"train": ingest.gold_train, "validation": ingest.gold_validation, "test": ingest.gold_test}
    rows: dict[str, list[Gold]] = {}
    unusable: dict[str, list[Unusable]] = {}
    for split, source in sources.items():
        if source is not None:
            rows[split], unusable[split] = gold.read(source, split, params.task, ingest.max_chars)
    splits = gold.divide(
        rows.get("train", []),
        rows.get("validation"),
        rows.get("test", []),
        ingest.validation_share,
        params.sample.seed,
    )
    return splits, unusable, {split: len(rows[split]) + len(unusable[split]) for split in rows}


def _read_corpus(ingest: Ingest) -> Iterator[Staged]:
    made_ids = ingest.corpus.id is None
    for count, record in enumerate(records(ingest.corpus, "ingest.corpus"), start=1):
        if count % _LOG_EVERY == 0:
            log.info("ingest: %s rows read", f"{count:,}")
        judged = corpus.check(record, ingest.max_chars, made_ids=made_ids)
        yield Staged.of(record.source, record.row, judged)


def _counted(rows: Iterable[Unusable], reasons: Counter[Reason]) -> Iterator[Unusable]:
    for row in rows:
        reasons[Reason.of(row.reason)] += 1
        yield row


def _refuse_too_many(key: str, rows: int, reasons: Counter[Reason], max_share: float) -> None:
    """Raise a UserError where too much of a source is lost. A duplicate loses nothing and doesn't count."""
    if rows == 0:
        raise UserError(f"{key}.path has no rows: an empty corpus can't be labelled")
    lost = reasons.total() - reasons[Reason.DUPLICATE]
    if lost / rows > max_share or lost == rows:
        reason, count = max(reasons.items(), key=lambda item: (item[0] != Reason.DUPLICATE, item[1]))
        raise UserError(
            f"{lost} of {rows} rows of {key} can't be used (ingest.max_unusable_share is {max_share}); the commonest "
            f"reason is: {reason} ({count} rows). Each is in {UNUSABLE.path} with its row and reason"
        )


def _tell(
    documents: int, duplicates: int, reasons: Counter[Reason], sizes: Counter[str], leaks: dict[str, int]
) -> None:
    log.info("ingest: %s documents, %s of them repeat a text (%s)", documents, duplicates, DUPLICATES.path)
    if reasons:
        listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        log.info("ingest: %s rows left out (%s): %s", reasons.total(), UNUSABLE.path, listed)
    log.info("ingest: gold of %s", ", ".join(f"{sizes[split]} {split}" for split in ("train", "validation", "test")))
    for leak, count in leaks.items():
        if count:
            log.info("ingest: %s gold texts %s", count, gold.LEAKS[leak])
