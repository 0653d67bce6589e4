"""Our own decoder gives the scores of transformers, for every kind of model that it is used with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pipeline import weights
from pipeline.annotators import Request, decoder
from pipeline.annotators.local import Local
from pipeline.params import Budget, LocalAnnotator, Prompt, Task
from pipeline.prompts import Template
from pipeline.responses import Totals
from pipeline.spending import Prices, Spending

TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
ANSWERS = {"negative": [" not good at all"], "positive": [" good", " a really fine thing"]}
PROMPT = Prompt(style="completion", user="A long rule that all prompts share. " * 4 + "{text}\nIt is", answers=ANSWERS)
TEXTS = ["", "A fine film.", "Dull and far too long, and then it rains. " * 3, "fish"]
LONG = "Dull, and far too long. " * 50  # more tokens than plain attention is used for
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "initializer_range": 0.8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
KINDS = {
    "llama": (True, {}),
    "mistral": (True, {"sliding_window": None}),
    "qwen2": (True, {}),
    "qwen3": (True, {}),
    "gemma2": (False, {"sliding_window": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "granite": (False, {"logits_scaling": 4.0}),
    "cohere": (False, {"logit_scale": 0.25}),
}


def save(kind: str, directory: Path, more: dict[str, Any]) -> str:
    """A small model of random weights, sure of what it says."""
    torch.manual_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.language_model_directory("embedded:smollm2"))
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SIZES, **HEADS, **more)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def scores(annotator: Local, texts: list[str] = TEXTS) -> Any:
    requests = [Request(str(i), text) for i, text in enumerate(texts)]
    spending = Spending(Budget(), Prices(), Totals())
    found = {a.key: a for batch in annotator.answers(requests, set(), spending) for a in batch}
    return np.array([found[annotator.key(request)].log_probabilities for request in requests])


def plain_scores(model: str, template: Template, texts: list[str] = TEXTS) -> Any:
    """Each text and answer through transformers alone, without a cache."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    llm = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def score(text: str, word: str) -> float:
        prompt, answer = tokenizer(template.completion(text)).input_ids, tokenizer(word).input_ids
        with torch.inference_mode():
            found = llm(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
        return sum(float(found[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))

    return np.array(
        [[np.logaddexp.reduce([score(t, word) for word in words]) for words in template.answers] for t in texts]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_scores_as_copied_keys_and_plain_transformers_do(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, more = KINDS[kind]
    params = LocalAnnotator(kind="local", model=save(kind, tmp_path, more), dtype="float32")
    template = Template.of(PROMPT, TASK)
    annotator = Local(params, template)
    found = scores(annotator)
    assert isinstance(annotator._scorer._reader, decoder.Decoder) is used
    monkeypatch.setattr(decoder, "supports", lambda model: False)
    np.testing.assert_allclose(found, scores(Local(params, template)), atol=1e-3)
    np.testing.assert_allclose(found, plain_scores(params.model, template), atol=1e-3)
    assert np.ptp(found, axis=0).min() > 0.1  # or the figures above would say nothing


@pytest.mark.parametrize(
    ("user", "texts"),
    [
        ("{text}\nIt is", ["A fine film.", LONG, "fish"]),  # nothing shared
        ("A rule. {text}\nIt is", ["A fine film.", LONG, LONG[:-9], "fish"]),
        ("A long rule that all prompts share. " * 40 + "{text}\nIt is", ["A fine film.", "fish"]),
        ("A long rule that all prompts share. " * 40 + "{text}\nIt is", [LONG, LONG[:-30]]),
    ],
)
def test_whatever_is_short_and_long(user: str, texts: list[str], tmp_path: Path) -> None:
    params = LocalAnnotator(kind="local", model=save("llama", tmp_path, {}), dtype="float32", max_text_tokens=1000)
    template = Template.of(PROMPT.model_copy(update={"user": user}), TASK)
    annotator = Local(params, template)
    np.testing.assert_allclose(scores(annotator, texts), plain_scores(params.model, template, texts), atol=1e-3)
    assert isinstance(annotator._scorer._reader, decoder.Decoder)
