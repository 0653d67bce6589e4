"""A text as a fine-tuned encoder sees it: the mean of its last hidden states."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import computing
from pipeline.training import Floats
from serving import batching
from serving.progress import progress
from serving.tokenizing import TextTokenizer, Truncation, mean_of_pieces


def embed(
    candidate: Path, texts: list[str], max_tokens: int, truncation: Truncation, max_batch_tokens: int = 8192
) -> Floats:
    """Mean of the last hidden states over a text's tokens, and over its pieces: [texts, width]."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "highest")
    model = AutoModelForSequenceClassification.from_pretrained(candidate, use_safetensors=True).eval().to(device)
    pad_id = AutoTokenizer.from_pretrained(candidate).pad_token_id
    ids, owners = TextTokenizer(candidate / "tokenizer.json", max_tokens, truncation).pieces(texts)
    result = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
    with progress("embed", len(ids)) as advance, torch.inference_mode():
        for rows in batching.plan([len(row) for row in ids], max_batch_tokens):
            inputs, mask = (torch.from_numpy(a).to(device) for a in batching.pad([ids[i] for i in rows], pad_id))
            computing.choose_attention(model, device.type, inputs.shape[1])
            states = model.base_model(inputs, attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1).to(states)
            result[rows] = ((states * weights).sum(1) / weights.sum(1)).cpu().numpy()
            advance(len(rows))
    return mean_of_pieces(result, owners, len(texts)).astype(np.float64)
