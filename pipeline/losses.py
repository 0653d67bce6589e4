"""What training minimises for each kind of task, on target probabilities; soft labels teach what hard ones lose."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.training import Examples, class_weights
from serving.shapes import Kind


def of(kind: Kind, examples: Examples, weighted: bool) -> Callable[..., Any]:
    """A loss as the Trainer calls it, with outputs and targets (texts, labels); the mean over texts.

    single   cross-entropy
    multi    binary cross-entropy, the mean over labels
    ordinal  cross-entropy and the ranked probability score, the squared distance of cumulative distributions (Epstein
             1969; proper, as cross-entropy is: Gneiting & Raftery 2007): a miss by one place costs less than by three

    Args:
        kind: of the task.
        examples: to be trained on.
        weighted: whether rare labels count for more; of kind multi, their yes.
    """
    import torch

    shares = np.clip(examples.targets.mean(axis=0), 1e-3, 1 - 1e-3)
    plain = np.ones(examples.targets.shape[1])
    if kind == "multi":
        positive = torch.tensor((1 - shares) / shares if weighted else plain)

        def binary(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ANN401
            logits = outputs.logits.float()
            return torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels.to(logits), pos_weight=positive.to(logits)
            )

        return binary
    weights = torch.tensor(class_weights(examples.targets) if weighted else plain)

    def cross_entropy(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ANN401
        log_probabilities = outputs.logits.float().log_softmax(dim=-1)
        return -(log_probabilities * labels * weights.to(labels)).sum(dim=-1).mean()

    if kind == "single":
        return cross_entropy

    def ordered(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ANN401
        difference = outputs.logits.float().softmax(dim=-1) - labels
        return cross_entropy(outputs, labels) + difference.cumsum(dim=-1).square().sum(dim=-1).mean()

    return ordered
