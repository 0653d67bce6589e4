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

    label: str
    confidence: float
    probabilities: dict[str, float]


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
        labels = self.engine.labels
        rows = self.engine.classify(list(model_input)).tolist()
        return [
            Answer(
                label=labels[row.index(max(row))],
                confidence=max(row),
                probabilities=dict(zip(labels, row, strict=True)),
            )
            for row in rows
        ]


mlflow.models.set_model(Labeller())
