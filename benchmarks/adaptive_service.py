"""The engine behind BentoML's own adaptive batching, for benchmarks/service.py to stand beside the service."""

import os
from pathlib import Path
from typing import Any

import bentoml

from serving.engine import Engine


@bentoml.service(name="adaptive", workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Adaptive:
    """As BentoML's documentation has it."""

    def __init__(self) -> None:
        self.engine = Engine.open(Path(os.environ["LLAMBERT_MODEL"]), os.environ["LLAMBERT_PRECISION"])
        self.engine.prove()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=60_000)
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Texts to results."""
        labels = self.engine.labels
        rows = self.engine.classify(texts).tolist()
        return [
            {
                "label": labels[row.index(max(row))],
                "confidence": max(row),
                "probabilities": dict(zip(labels, row, strict=True)),
            }
            for row in rows
        ]
