"""The code that MLflow stores beside a registered model ("models from code": nothing is pickled) and runs to load it.

It is copied into the model with the package `serving`, so it must import nothing else of ours.
"""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel


class Answer(BaseModel):
    """What the model says of a text."""

    label: str  # of kind multi several, joined by |
    confidence: float
    probabilities: dict[str, float]
    score: float | None = None  # of kind ordinal


class Labeller(PythonModel):
    """A list of texts in, a list of answers out; the engine is the one that labels the corpus."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the exported model among the artifacts."""
        from serving.engine import Engine

        self.engine = Engine.open(Path(context.artifacts["export"]), context.model_config["precision"])

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[Answer]:
        """Label texts."""
        shape = self.engine.shape
        probabilities = self.engine.classify(list(model_input))
        decided = shape.decide(probabilities)
        scores = [None] * len(model_input) if decided.scores is None else decided.scores.tolist()
        rows = zip(decided.labels, decided.confidence.tolist(), probabilities.tolist(), scores, strict=True)
        return [
            Answer(label=label, confidence=sure, probabilities=dict(zip(shape.labels, row, strict=True)), score=score)
            for label, sure, row, score in rows
        ]


mlflow.models.set_model(Labeller())
