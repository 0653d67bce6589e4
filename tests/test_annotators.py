"""Annotators answer each request once, and the same however requests are batched, stored or resumed."""

import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from pipeline import annotators, weights
from pipeline.annotators import Request
from pipeline.annotators.local import Local
from pipeline.errors import UserError
from pipeline.params import Annotate, LocalAnnotator, Prompt, RecordedAnnotator, RecordedFile, Task
from pipeline.prompts import Template
from pipeline.responses import Answer

os.environ["HF_HUB_OFFLINE"] = "1"
TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
ANSWERS = {"negative": [" bad", " not good at all"], "positive": [" good", " really very good", " great"]}
COMPLETION = Prompt(
    style="completion", user="Review: {text}\nOverall, it was", answers=ANSWERS, examples=[
        {"text": "Dull.", "label": "negative"}, {"text": "A joy.", "label": "positive"}
    ],
)  # fmt: skip
CHAT = Prompt(style="chat", system="Say positive or negative.", user="{text}\nIs it good?")
BARE = Prompt(style="completion", user="{text}", answers=ANSWERS)
WORDS = "a fine film about dull people who wait for rain and talk of love too long".split()
TEXTS = ["", "x", *(" ".join(WORDS[i % 5 :] * (i % 4 + 1)) + f" {i}" for i in range(12)), "naïve 東京 \U0001f600\n\n"]


def requests(texts: list[str]) -> list[Request]:
    return [Request(f"id{i}", text) for i, text in enumerate(texts)]


def local(prompt: Prompt, model: str = "embedded:smollm2", **values: Any) -> Local:
    usual = {"dtype": "float32", "max_batch_tokens": 256, "max_text_tokens": 64}
    return Local(LocalAnnotator(kind="local", model=model, **(usual | values)), Template.of(prompt, TASK))


def asked(annotator: Any, texts: list[str], stored: dict[str, Answer] | None = None) -> dict[str, Answer]:
    batches = list(annotator.answers(requests(texts), stored or {}))
    found = {answer.key: answer for batch in batches for answer in batch}
    assert len(found) == sum(map(len, batches))  # each key once
    return found


@cache
def plain() -> tuple[Any, Any]:
    """Model and tokenizer, as anyone would load them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = weights.language_model_directory("embedded:smollm2")
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(directory)


def scored(prompt: str, answers: tuple[tuple[str, ...], ...]) -> list[float]:
    """Log-probability of each label: one text, one answer at a time, no cache, no padding."""
    import torch

    model, tokenizer = plain()
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    totals: list[list[float]] = []
    for words in answers:
        totals.append([])
        for word in words:
            after = tokenizer(word, add_special_tokens=False).input_ids
            with torch.inference_mode():
                logits = model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
            at = range(len(before) - 1, len(before) + len(after) - 1)
            totals[-1].append(sum(float(logits[i, token]) for i, token in zip(at, after, strict=True)))
    return [float(np.logaddexp.reduce(values)) for values in totals]


def rendered(prompt: Prompt, text: str) -> str:
    template = Template.of(prompt, TASK)
    if prompt.style == "completion":
        return template.completion(text)
    return plain()[1].apply_chat_template(template.messages(text), add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("prompt", [COMPLETION, CHAT], ids=["completion", "chat"])
def test_scores_are_those_of_plain_transformers(prompt: Prompt) -> None:
    annotator = local(prompt)
    found = asked(annotator, TEXTS)
    template = Template.of(prompt, TASK)
    for request in requests(TEXTS):
        answer = found[annotator.key(request)]
        expected = scored(rendered(prompt, request.text), template.answers)
        np.testing.assert_allclose(answer.log_probabilities, expected, atol=1e-3)
        assert (answer.answer, answer.finish_reason, answer.cut) == (None, "choice", False)
        assert answer.prompt_tokens == len(plain()[1](rendered(prompt, request.text)).input_ids)


def test_answers_of_several_tokens_are_really_there() -> None:
    tokenizer = plain()[1]
    assert len(tokenizer(" not good at all").input_ids) == 4
    assert scored(rendered(COMPLETION, "x"), ((" bad",), (" not good at all",)))[0] > -20


def test_a_prompt_of_nothing_is_the_start_of_a_document_and_a_single_one_needs_no_prefix() -> None:
    annotator = local(BARE)
    together = asked(annotator, ["", *TEXTS])
    for text in ("", TEXTS[3]):
        (alone,) = asked(annotator, [text]).values()
        expected = scored(text or "<|im_end|>", Template.of(BARE, TASK).answers)
        np.testing.assert_allclose(alone.log_probabilities, expected, atol=1e-3)
        np.testing.assert_allclose(together[alone.key].log_probabilities, expected, atol=1e-3)


def test_long_texts_keep_head_and_tail() -> None:
    annotator = local(COMPLETION, max_text_tokens=21)
    words = [f"{word}," for word in WORDS * 400]  # a word is a token, and so is its comma
    for count, cut in ((10, False), (11, True), (len(words), True)):
        text = " ".join(words[:count])
        (answer,) = asked(annotator, [text, "x"]).values() if False else [asked(annotator, [text])[annotator.key(Request("", text))]]
        kept = f"{' '.join(words[:5])} {words[5][:-1]} ... {' '.join(words[count - 5 : count])}" if cut else text
        assert answer.cut is cut
        np.testing.assert_allclose(answer.log_probabilities, scored(rendered(COMPLETION, kept), Template.of(COMPLETION, TASK).answers), atol=1e-3)
