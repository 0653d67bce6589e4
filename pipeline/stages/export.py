"""export: best candidate + corpus -> export/ + metrics/export.json

The best candidate as ONNX, measured against torch on texts drawn from the corpus.
"""

import logging
import time

from pipeline import sampling
from pipeline.artifacts import BEST, CORPUS, EXPORT, MODELS, metrics
from pipeline.errors import UserError
from pipeline.params import Params

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Export, measure, and write down how far each precision is from torch."""
    from pipeline import exporting

    start, best = time.perf_counter(), BEST.read()
    texts = _texts(params.export.parity_texts)
    fitted = best["temperature"], best.get("thresholds")
    manifest = exporting.export(MODELS / best["candidate"], EXPORT, texts, params.export, *fitted)
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
