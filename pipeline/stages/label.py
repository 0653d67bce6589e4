"""label: export/ + corpus -> labels/ + metrics/label.json

The ingested corpus, or another one, goes through the engine in shards; a killed run goes on where it was.
"""

import logging
from collections.abc import Iterator

from pipeline import labelled
from pipeline.artifacts import CORPUS, EXPORT, LABELLED, Table, Unusable, metrics
from pipeline.errors import UserError
from pipeline.params import Params
from serving import bulk, corpus
from serving.engine import Engine

log = logging.getLogger("llambert")
_SHOWN = 8  # labels
UNUSABLE_ROWS = Table(LABELLED / "unusable.parquet", Unusable)


def run(params: Params) -> None:
    """Label every text once."""
    settings = params.label
    _warn_if_refused()
    engine = Engine.open(
        EXPORT,
        settings.precision,
        runtime=settings.runtime,
        max_batch_tokens=settings.max_batch_tokens,
        expect_labels=params.task.names,
        expect_kind=params.task.kind,
    )
    engine.prove()
    total = min(_survey(params), settings.max_rows or 2**63)
    if not total:
        raise UserError("there is no text to label: see label.corpus (the ingested corpus if null)")
    rows = ((document.id, document.text) for document in labelled.documents(params))
    parts = bulk.run(
        rows,
        engine,
        LABELLED,
        shard_rows=settings.shard_rows,
        total=total,
        min_confidence=settings.min_confidence,
        top=settings.top,
    )
    count, seconds = sum(part.rows for part in parts), sum(part.seconds for part in parts)
    shares = {name: sum(part.counts[name] for part in parts) / count for name in engine.labels}
    metrics("label").write(
        {
            "rows": count,
            "shards": len(parts),
            "tokens": sum(part.tokens for part in parts),
            "seconds": seconds,  # of labelling, those of earlier, killed runs included
            "texts_per_s": count / max(seconds, 1e-3),
            "abstained": sum(part.abstained for part in parts),
            "shares": shares,
            "model_hash": engine.model_hash,
            "precision": engine.precision,
            "runtime": engine.runtime,
        }
    )
    common = sorted(shares, key=lambda name: -shares[name])[:_SHOWN] if len(shares) > _SHOWN else list(shares)
    shown = ", ".join([f"{name} {shares[name]:.1%}" for name in common] + ["..."] * (len(shares) > len(common)))
    log.info("label: %d texts in %s (%s)", count, LABELLED, shown)


def _survey(params: Params) -> int:
    """Number of documents. A corpus that was not ingested is read through once before the work of hours begins."""
    if params.label.corpus is None:
        return CORPUS.count() if CORPUS.path.is_file() else sum(1 for _ in CORPUS)
    documents = 0

    def unusable() -> Iterator[Unusable]:
        nonlocal documents
        for row in corpus.read(source, params.ingest.max_chars, "label.corpus"):
            if isinstance(row, Unusable):
                yield row
            else:
                documents += 1

    source = params.label.corpus
    log.info("label: counting the texts of %s", source.path)
    if bad := UNUSABLE_ROWS.write(unusable()):
        log.warning("label: %d rows can't be used; they stand with their reasons in %s", bad, UNUSABLE_ROWS.path)
    return documents


def _warn_if_refused() -> None:
    gate = metrics("register")
    if gate.path.is_file() and not (verdict := gate.read())["promoted"]:
        log.warning("label: this model was not promoted (%s); its labels may be poor", "; ".join(verdict["reasons"]))
