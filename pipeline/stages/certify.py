"""certify: labels/ (or final/) + gold of the corpus -> certificate.json + metrics/certify.json

One pass over the labels for sums and gold rows, one over their ids to see that the gold is a uniform draw.
"""

import hashlib
import json
import logging

from pipeline import certifying, dag, gold_corpus, shards
from pipeline.artifacts import CERTIFICATE, FINAL, LABELLED, metrics
from pipeline.certificates import Certificate
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.sections.certify import lines

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Certify, and log a table.

    Raises:
        UserError: there is no gold, or it is no uniform draw from what is labelled.
    """
    settings, gold = params.certify, gold_corpus.read(params)
    if settings is None or not gold:
        raise UserError("certify.gold has no rows: `llambert gold sample 200` draws texts to label")
    deferred = "defer" in dag.stages(params)
    place, shape = FINAL if deferred else LABELLED, params.task.shape
    files = shards.parts(place)
    gold_corpus.refuse_unless_uniform(gold, shards.first(files, settings.seed, len(gold)), settings.gold.path)
    used = gold_corpus.halves(gold)[1] if deferred else gold
    corpus, rows = shards.survey(files, shape, used)
    found = certifying.certify(corpus, shards.sample(used, rows, shape), shape.labels, settings.confidence_level)
    certificate = Certificate(
        **dict(found),
        certifies=str(place),
        kind=params.task.kind,
        rows=corpus.texts,
        gold=len(used),
        confidence_level=settings.confidence_level,
        seed=settings.seed,
        gold_hash=hashlib.sha256(json.dumps(sorted(used.items()), ensure_ascii=False).encode()).hexdigest(),
        model_hashes=sorted(rows.models),
    )
    CERTIFICATE.write(certificate.model_dump())
    metrics("certify").write(certificate.model_dump())
    log.info("%s", "\n".join(lines(certificate.model_dump())))
