"""export: best candidate + corpus + sample + predictions -> export/ + metrics/export.json

The best candidate as ONNX, measured against torch on texts drawn from the corpus, with a profile of the corpus that
later texts are compared with.
"""

import logging
import time
from functools import partial

from pipeline import reference, sampling
from pipeline.artifacts import BEST, CORPUS, EXPORT, MODELS, metrics
from pipeline.errors import UserError
from pipeline.params import Params

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Export, measure, and write down how far each precision is from torch."""
    from pipeline import exporting

    start, best = time.perf_counter(), BEST.read()
    texts = _texts(params.export.parity_texts)
    manifest = exporting.export(
        MODELS / best["candidate"],
        EXPORT,
        texts,
        params.export,
        best["temperature"],
        partial(reference.describe, best=best, params=params),
        best.get("thresholds"),
    )
    figures = {
        precision: {
            runtime: {"bytes": graph.bytes, "flips": graph.flips, "max_difference": graph.max_difference}
            for runtime, graph in graphs.items()
        }
        for precision, graphs in manifest.precisions.items()
    }
    metrics("export").write(
        {
            "candidate": manifest.candidate,
            "model_hash": manifest.model_hash,
            "precisions": figures,
            "texts": len(texts),
            "seconds": time.perf_counter() - start,
        }
    )
    shown = ", ".join(
        f"{precision} {runtime} {f['bytes'] / 1e6:.0f} MB, {f['flips']:.2%} flips"
        for precision, graphs in figures.items()
        for runtime, f in graphs.items()
    )
    log.info("export: %s, measured on %d texts: %s", manifest.candidate, len(texts), shown)


def _texts(size: int) -> list[str]:
    """Distinct texts of the corpus, drawn uniformly, the same ones every time."""
    documents, _ = sampling.draw(CORPUS, size, seed=0, excluded=frozenset())
    if not documents:
        raise UserError(f"{CORPUS.path} has no texts to measure the export on: see ingest.corpus")
    return [document.text for document in documents]
