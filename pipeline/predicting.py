"""What a fine-tuned encoder makes of texts, in torch and full precision: logits, or the mean of its hidden states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import computing
from pipeline.training import Floats
from serving import batching
from serving.progress import progress
from serving.tokenizing import TextTokenizer, Truncation, mean_of_pieces

_Take = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]  # model, ids, mask -> (texts, width)


def logits(
    directory: Path, texts: list[str], max_tokens: int, truncation: Truncation, max_batch_tokens: int = 8192
) -> Floats:
    """Logits (texts, labels) of a saved model."""

    def take(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        found: torch.Tensor = model(ids, attention_mask=mask).logits
        return found

    return _through("evaluate", "num_labels", take, directory, texts, max_tokens, truncation, max_batch_tokens)


def embed(
    directory: Path, texts: list[str], max_tokens: int, truncation: Truncation, max_batch_tokens: int = 8192
) -> Floats:
    """Mean of the last hidden states over a text's tokens, and over its pieces: (texts, width)."""

    def take(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        states: torch.Tensor = model.base_model(ids, attention_mask=mask).last_hidden_state.float()
        counted = mask.unsqueeze(-1).to(states)
        return (states * counted).sum(1) / counted.sum(1)

    return _through("embed", "hidden_size", take, directory, texts, max_tokens, truncation, max_batch_tokens)


def _through(
    doing: str,
    width: str,
    take: _Take,
    directory: Path,
    texts: list[str],
    max_tokens: int,
    truncation: Truncation,
    max_batch_tokens: int,
) -> Floats:
    """What `take` reads from the model for each text, in batches sorted by length; config says how wide that is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "highest")
    model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True).eval().to(device)
    pad_id = AutoTokenizer.from_pretrained(directory).pad_token_id
    ids, owners = TextTokenizer(directory / "tokenizer.json", max_tokens, truncation).pieces(texts)
    result = np.zeros((len(ids), getattr(model.config, width)), dtype=np.float32)
    with progress(doing, len(ids)) as advance, torch.inference_mode():
        for rows in batching.plan([len(row) for row in ids], max_batch_tokens):
            inputs, mask = (torch.from_numpy(a).to(device) for a in batching.pad([ids[i] for i in rows], pad_id))
            computing.choose_attention(model, device.type, inputs.shape[1])
            result[rows] = take(model, inputs, mask).float().cpu().numpy()
            advance(len(rows))
    return mean_of_pieces(result, owners, len(texts)).astype(np.float64)
