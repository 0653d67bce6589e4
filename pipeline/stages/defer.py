"""defer: labels/ + gold of the corpus + LLM + people -> final/ + data/review.parquet + metrics/defer.json

Thresholds that keep label.target_error are chosen on the calibrating half of the gold; the LLM is asked about what the
encoder is unsure of; people get what it is unsure of, too, and what they have answered is taken over.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import cascade, deferring, gold_corpus, labelled, responses
from pipeline.artifacts import DEFERRED, FINAL, REVIEW, REVIEWED, STORE, Document, Json, ToReview, metrics
from pipeline.cascade import Learnt
from pipeline.deferring import Opinions
from pipeline.errors import UserError
from pipeline.finishing import SOURCES, Finisher
from pipeline.params import Params
from pipeline.reviewing import UNCLEAR, read_reviewed
from pipeline.scoring import Floats, Ints
from pipeline.second_opinion import SecondOpinion
from serving.files import replacing, sha256, sweep

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Choose thresholds, ask, and write the final labels."""
    texts, encoder, truth = _gold(params)
    rows = labelled.rows()
    most = cascade.limit(params, len(texts), rows)
    learnt = Learnt.of(params, without={document.text_hash for document in texts})
    people = _people(params)
    with responses.opened(STORE) as store:
        llm = SecondOpinion(params, store)
        llm.ask("ask about gold", texts)
        opinions = Opinions(encoder, llm.said(DEFERRED))
        first, second = opinions.labels()
        errors = learnt.path.errors(learnt.trust(opinions), (first == truth, second == truth))
        at = deferring.certified(errors, most)
        finish = Finisher(params.task.names, learnt.trust, learnt.path.at(at), llm.hash, people)
        if asks := bool(np.isfinite(finish.point.llm[0])):
            llm.ask("ask about the rest", chain(texts, _unsure(params, finish)))
        found = _write(params, finish, llm if asks else None, len(texts))
        money = llm.money()
    people_texts = found["routes"]["person"] + found["routes"]["waiting"]
    metrics("defer").write(
        found
        | {
            "target_error": params.label.target_error, "confidence": params.label.confidence, "rows": rows,
            "gold": {"texts": len(texts), "wrong": int(errors[at]), "allowed": most, "taught_by": learnt.taught_by},
            "thresholds": {"encoder": _finite(finish.point.encoder[0]), "llm": _finite(finish.point.llm[0])},
            "money": money, "people_money": people_texts * params.label.person_price,
            "currency": params.report.currency,
            "other_targets": _others(params, learnt, errors, len(texts)),
        }
    )  # fmt: skip
    shown = ", ".join(f"{source} {count / rows:.1%}" for source, count in found["routes"].items())
    log.info("defer: %d texts in %s: %s", rows, FINAL, shown)
    if waiting := found["routes"]["waiting"]:
        log.info("defer: the target holds once people have answered %d texts of %s", waiting, REVIEW.path)


def _gold(params: Params) -> tuple[list[Document], Floats, Ints]:
    """Calibrating gold in the corpus's order: texts, the encoder's probabilities (texts, labels), truth (texts,)."""
    gold, _ = gold_corpus.halves(gold_corpus.read(params))
    texts: list[Document] = []
    encoder: list[Floats] = []
    for _, table, documents in labelled.joined(params):
        at = [i for i, document in enumerate(documents) if document.id in gold]
        texts += [documents[i] for i in at]
        encoder.append(labelled.probabilities(table)[at])
    if len(texts) < len(gold):
        lost = sorted(gold.keys() - {document.id for document in texts})
        raise UserError(
            f"{len(lost)} of {len(gold)} gold texts of the corpus are not labelled, such as {lost[0]!r}: "
            "certify.gold must be drawn from the corpus that the stage label labels"
        )
    return texts, np.concatenate(encoder), np.array([params.task.names.index(gold[d.id]) for d in texts])


def _people(params: Params) -> dict[str, str]:
    """What people answered so far; the last answer counts."""
    return {id_: row.label for id_, row in read_reviewed(REVIEWED, params.task.names).items()}


def _unsure(params: Params, finish: Finisher) -> Iterator[Document]:
    for _, table, documents in labelled.joined(params):
        for i in np.flatnonzero(finish.unsure(labelled.probabilities(table))):
            yield documents[i]


def _write(params: Params, finish: Finisher, llm: SecondOpinion | None, gold: int) -> dict[str, Any]:
    """Write the parts, the queue, and the manifest last; return counts.

    The questions in `DEFERRED` behind those about gold are in the order of the rows that the encoder is unsure of.
    """
    routes, labels, files = Counter[str](), Counter[str](), dict[str, str]()
    asked = islice(DEFERRED, gold, None)
    manifest = Json(FINAL / "manifest.json")
    manifest.path.unlink(missing_ok=True)
    FINAL.mkdir(exist_ok=True)
    sweep(FINAL)

    def reviews() -> Iterator[ToReview]:
        for path, table, documents in labelled.joined(params):
            encoder = labelled.probabilities(table)
            said = np.full_like(encoder, np.nan)
            unsure = finish.unsure(encoder)
            if llm is not None:
                said[unsure] = llm.said(islice(asked, int(unsure.sum())))
            part, waiting = finish(table, Opinions(encoder, said), documents)
            with replacing(FINAL / path.name) as temporary:
                pq.write_table(part, temporary, compression="zstd")
            files[path.name] = sha256(FINAL / path.name)
            labels.update(part["label"].to_pylist())
            routes.update(part["source"].filter(pc.invert(part["abstained"])).to_pylist())
            yield from waiting

    kept = [row for row in REVIEW if row.reason != "deferred"] if REVIEW.path.is_file() else []
    waiting = REVIEW.write(chain(reviews(), kept)) - len(kept)
    for path in FINAL.glob("part-*.parquet"):
        if path.name not in files:  # of an earlier, longer run
            path.unlink()
    found = {
        "routes": {name: routes[name] for name in SOURCES} | {"waiting": waiting},
        "shares": {name: labels[name] / labels.total() for name in params.task.names},
        "unclear": sum(label == UNCLEAR for label in finish.people.values()),
    }
    manifest.write({"parts": files, "rows": labels.total(), "labels": params.task.names} | found)
    return found


def _others(params: Params, learnt: Learnt, errors: Ints, gold: int) -> list[dict[str, float]]:
    """What other targets would come to with this gold: one row for each number of errors that it may show."""
    found: list[dict[str, float]] = []
    for limit in np.unique(np.maximum.accumulate(errors)):
        shares = learnt.shares(deferring.certified(errors, limit))
        money = learnt.money(shares)
        found.append(
            {"target": deferring.bound(limit, gold, params.label.confidence), "cost_per_text": money, **shares}
        )
    return found


def _finite(threshold: float) -> float | None:
    return float(threshold) if np.isfinite(threshold) else None
