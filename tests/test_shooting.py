"""Examples come from training gold, never the text itself, and a rerun chooses the same ones."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_project

from pipeline import params, shooting
from pipeline.artifacts import GOLD, Gold
from pipeline.errors import UserError
from pipeline.prompts import Variant
from serving.corpus import text_hash

FOOD, CARS = ["soup", "bread", "cheese", "apple", "rice", "butter"], ["engine", "brake", "tyre", "gearbox", "bumper"]
TEXTS = {
    "negative": [f"The {thing} was bad." for thing in FOOD + CARS],
    "positive": [f"What a good {thing}!" for thing in FOOD + CARS],
}


def loaded(prompt: str = "", shots: str | None = "") -> params.Params:
    extra = "" if shots is None else f", shots: {{{shots}}}"
    text = toy_project.PARAMS.replace("GAIN", "0.0").replace(
        'prompt: {user: "{text}"}', f'prompt: {{user: "{{labels}} {{text}}"{prompt}{extra}}}'
    )
    text = text.replace("corpus: {path: corpus.csv}", "corpus: {path: corpus.csv}\n  gold_train: {path: gold.csv}")
    Path("params.yaml").write_text(text)
    return params.load()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(TEXTS)


def write(texts: dict[str, list[str]], split: str = "train", more: list[Gold] | None = None) -> None:
    rows = [(text, label) for label, some in texts.items() for text in some]
    GOLD.write([*(more or []), *(Gold(f"g{i}", t, text_hash(t), label, split) for i, (t, label) in enumerate(rows))])


def variants(texts: list[str], loaded: params.Params, purpose: str = "sample") -> list[Variant | None]:
    rows: list[shooting.Row] = [(purpose, f"s{i}", text, None) for i, text in enumerate(texts)]
    found = list(shooting.variants(iter(rows), loaded))
    assert [row for row, _ in found] == rows
    return [variant for _, variant in found]


def examples(text: str, shots: str, purpose: str = "sample") -> list[tuple[str, int]]:
    (variant,) = variants([text], loaded(shots=shots), purpose)
    assert variant is not None
    assert variant.order == (0, 1)
    return list(variant.examples)


def test_without_shots_or_shuffle_all_texts_share_one_prompt() -> None:
    assert variants(["a", "b"], loaded(shots=None)) == [None, None]


def test_nearest_are_near_in_turns_and_the_nearest_stands_last() -> None:
    found = examples("Fresh bread and cheese, a good lunch.", "per_label: 3")
    assert [label for _, label in found] == [0, 1, 0, 1, 0, 1]
    assert all(any(food in text for food in FOOD) for text, _ in found)
    embed = shooting.Embedder("embedded:minilm")
    near = (embed([text for text, _ in found]) @ embed(["Fresh bread and cheese, a good lunch."]).T)[:, 0]
    assert near[-1] == near.max()
    assert (np.diff(near[0::2]) > 0).all()
    assert (np.diff(near[1::2]) > 0).all()
    other = examples("Both brake discs were rusty, the worst car.", "per_label: 2")
    assert [label for _, label in other] == [1, 0, 1, 0]
    assert all(any(part in text for part in CARS) for text, _ in other)


@pytest.mark.parametrize("choose", ["nearest", "random"])
@pytest.mark.parametrize("text", [TEXTS["positive"][3], " What  a\ngood apple!\t"])
def test_a_text_is_never_its_own_example(choose: str, text: str) -> None:
    found = examples(text, f"choose: {choose}, per_label: 10")
    assert len({shot for shot, _ in found}) == 20
    assert TEXTS["positive"][3] not in [shot for shot, _ in found]
    assert Counter(label for _, label in found) == {0: 10, 1: 10}
    assert {shot for shot, label in found if label == 1} <= set(TEXTS["positive"])


@pytest.mark.parametrize("choose", ["nearest", "random"])
def test_evaluation_gold_is_never_shown(choose: str) -> None:
    hidden = [Gold(s, f"A {s} soup", text_hash(f"A {s} soup"), "negative", s) for s in ("validation", "test")]
    write(TEXTS, more=hidden)
    shown = {shot for variant in variants(["soup", *FOOD], loaded(shots=f"choose: {choose}, per_label: 9")) if variant
             for shot, _ in variant.examples}  # fmt: skip
    assert shown <= {text for texts in TEXTS.values() for text in texts}


def test_random_is_a_function_of_seed_and_text() -> None:
    texts = [f"text {i}" for i in range(40)]
    first = variants(texts, loaded(shots="choose: random, seed: 1"))
    assert variants(texts[::-1], loaded(shots="choose: random, seed: 1"))[::-1] == first
    assert variants(texts, loaded(shots="choose: random, seed: 2")) != first
    counts = Counter(shot for variant in first if variant for shot, _ in variant.examples)
    assert len(counts) > 15
    assert {variant.examples[0][1] for variant in first if variant} == {0, 1}


def test_nearest_is_the_same_whatever_the_company() -> None:
    texts = [f"{thing} {i}" for i in range(40) for thing in ("A soup", "An engine", "Love", "Rain " * (i + 1))]
    together = variants(texts, loaded())
    assert len(texts) < 256 < 2 * len(texts)  # a window, and more than one
    assert variants(texts[::-1] + texts, loaded())[: len(texts)] == together[::-1]
    for i in (0, 7, 90):
        assert variants([texts[i]], loaded()) == [together[i]]


def test_prompts_without_content_get_the_first_examples_of_gold() -> None:
    for choose in ("nearest", "random"):
        assert examples("N/A", f"choose: {choose}, per_label: 2", "content_free") == [
            (TEXTS["negative"][0], 0), (TEXTS["positive"][0], 1), (TEXTS["negative"][1], 0), (TEXTS["positive"][1], 1)
        ]  # fmt: skip


def test_shuffling_is_a_function_of_the_text_and_goes_with_shots() -> None:
    texts = [f"text {i}" for i in range(30)]
    plain, shuffled = variants(texts, loaded()), variants(texts, loaded(", shuffle: true"))
    assert variants(texts[::-1], loaded(", shuffle: true")) == shuffled[::-1]
    assert {variant.order for variant in shuffled if variant} == {(0, 1), (1, 0)}
    for before, after in zip(plain, shuffled, strict=True):
        assert before is not None
        assert after is not None
        assert sorted(before.examples) == sorted(after.examples)
    given = loaded(", shuffle: true, examples: [{text: a, label: negative}, {text: b, label: positive}]", None)
    orders = {variant.examples for variant in variants(texts, given) if variant}
    assert orders == {(("a", 0), ("b", 1)), (("b", 1), ("a", 0))}


@pytest.mark.parametrize("choose", ["nearest", "random"])
def test_too_little_gold_is_said_with_its_number(choose: str) -> None:
    few = {"negative": TEXTS["negative"][:3], "positive": TEXTS["positive"]}
    write(few)
    with pytest.raises(UserError, match=r"wants 4 examples of each label, .* has only 3 texts of 'negative'"):
        examples("x", f"choose: {choose}, per_label: 4")
    with pytest.raises(UserError, match=r"wants 3 examples of each label, .* has only 2 other texts of 'negative'"):
        examples(few["negative"][1], f"choose: {choose}, per_label: 3")
    assert len(examples("x", f"choose: {choose}, per_label: 3")) == 6


def test_no_text_no_encoder() -> None:
    assert variants([], loaded(shots="encoder: embedded:nothing")) == []
    with pytest.raises(UserError, match="'embedded:nothing' is unknown"):
        variants(["x"], loaded(shots="encoder: embedded:nothing"))


def test_embeddings_are_mean_pooled_unit_vectors() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from pipeline import weights

    directory = weights.encoder_directory("embedded:minilm")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory)
    texts = ["A soup.", "", "An engine that never starts when it rains, which is always."]
    found = shooting.Embedder("embedded:minilm")(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert shooting.Embedder("embedded:minilm")(["word " * 100_000]).shape == (1, 384)
