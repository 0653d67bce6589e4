"""What each recipe learns from, and that the hash of a phase knows everything that shapes its result."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import tfidf, training
from pipeline.artifacts import Gold, Label
from pipeline.errors import UserError
from pipeline.params import Tfidf
from pipeline.training import Data, Examples, Phase

LABELS = ["negative", "positive", "mixed"]


def label(id_: str, probabilities: list[float], split: str) -> Label:
    best = int(np.argmax(probabilities))
    return Label(id_, LABELS[best], probabilities, probabilities[best], split, "k")


DATA = Data(
    LABELS,
    {f"s{i}": f"sampled {i}" for i in range(6)},
    [
        label("s3", [0.1, 0.7, 0.2], "train"),
        label("s0", [0.8, 0.1, 0.1], "train"),
        label("s1", [0.0, 0.4, 0.6], "held_out"),
    ],
    [
        Gold("g1", "person 1", "h", "mixed", "train"),
        Gold("g2", "person 2", "h", "negative", "validation"),
        Gold("g3", "person 3", "h", "negative", "train"),
        Gold("g4", "person 4", "h", "positive", "test"),
    ],
)


def test_recipes_join_by_id_and_never_see_test_gold() -> None:
    (llm,) = DATA.phases("llm", soft=True)
    (gold,) = DATA.phases("gold", soft=True)
    first, second = DATA.phases("combined", soft=True)
    assert (llm.name, llm.train.texts, llm.validation.texts) == ("llm", ["sampled 3", "sampled 0"], ["sampled 1"])
    assert (gold.name, gold.train.texts, gold.validation.texts) == ("gold", ["person 1", "person 3"], ["person 2"])
    assert [p.name for p in (first, second)] == ["llm", "gold"]
    assert (first.train.texts, second.train.texts) == (llm.train.texts, gold.train.texts)


def test_mixed_is_one_phase_and_strong_labels_come_after_weak_ones() -> None:
    (mixed,) = DATA.phases("mixed", soft=True)
    assert mixed.train.texts == ["sampled 3", "sampled 0", "person 1", "person 3"]
    assert mixed.train.targets.tolist() == [[0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0, 0, 1], [1, 0, 0]]
    assert mixed.validation.texts == ["person 2"]
    strong = [Gold("x1", "strong 1", "h", "mixed", "train"), Gold("x2", "strong 2", "h", "negative", "train")]
    weak, last = replace(DATA, strong=strong).phases("weak_strong", soft=True)
    assert weak.train.texts == ["sampled 3", "sampled 0"]
    assert (last.train.texts, last.validation.texts) == (["strong 1", "strong 2"], ["sampled 1"])


def test_teachers_learn_gold_after_llm_labels_where_there_is_gold() -> None:
    for recipe in training.TAUGHT:
        assert [p.name for p in DATA.phases(recipe, soft=True)] == ["llm", "gold"]
        assert [p.name for p in replace(DATA, gold=[]).phases(recipe, soft=True)] == ["llm"]


def test_targets_are_probabilities_or_certain() -> None:
    soft, hard = DATA.phases("combined", soft=True), DATA.phases("combined", soft=False)
    assert soft[0].train.targets.tolist() == [[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]]
    assert hard[0].train.targets.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert hard[0].validation.targets.tolist() == [[0, 0, 1]]
    for phases in (soft, hard):
        assert phases[1].train.targets.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("data", "recipe", "expected"),
    [
        (replace(DATA, llm=[]), "llm", "recipe 'llm' has 0 llm texts to train on and 0 to validate on: raise"),
        (replace(DATA, llm=DATA.llm[:2]), "combined", "'combined' has 2 llm texts to train on and 0 to validate on"),
        (replace(DATA, gold=DATA.gold[1:2]), "gold", "recipe 'gold' has 0 gold texts to train on and 1 to validate on"),
        (replace(DATA, llm=DATA.llm[1:]), "llm", "all 1 llm texts have one label; one class teaches nothing"),
    ],
)
def test_too_little_to_learn_from_is_said(data: Data, recipe: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        data.phases(recipe, soft=True)


def test_class_weights_balance_and_are_one_on_average() -> None:
    targets = np.eye(3)[[0, 0, 0, 1]] * 0.9 + 0.1 / 3
    weights = training.class_weights(targets)
    np.testing.assert_allclose(targets.mean(0) * weights, 1 / 3)
    assert (targets @ weights).mean() == pytest.approx(1)
    assert np.isfinite(training.class_weights(np.eye(3)[[0, 1]])).all()


def test_the_fingerprint_changes_with_each_input_and_with_nothing_else() -> None:
    a = Examples(["x", "y"], np.array([[0.3, 0.7], [1.0, 0.0]]))
    b = Examples(["z"], np.array([[0.5, 0.5]]))
    settings = {"seed": 1, "labels": ["a", "b"]}
    base = ("minilm", Phase("llm", a, b), settings)
    others = [
        ("minilm2", base[1], settings),
        ("minilm", Phase("gold", a, b), settings),
        ("minilm", base[1], settings | {"seed": 2}),
        ("minilm", base[1], settings | {"labels": ["b", "a"]}),
        ("minilm", Phase("llm", Examples(["x", "Y"], a.targets), b), settings),
        ("minilm", Phase("llm", Examples(["y", "x"], a.targets), b), settings),
        ("minilm", Phase("llm", Examples(a.texts, np.add(a.targets, 1e-9)), b), settings),
        ("minilm", Phase("llm", a, Examples(["zz"], b.targets)), settings),
        ("minilm", Phase("llm", a, Examples(b.texts, 1 - b.targets + 1e-9)), settings),
        ("minilm", Phase("llm", b, a), settings),
    ]
    found = {training.fingerprint(*case) for case in [base, *others]}
    assert len(found) == 1 + len(others)
    assert {len(value) for value in found} == {24}
    reordered = Examples(list(a.texts), np.asfortranarray(a.targets))
    same = training.fingerprint("minilm", Phase("llm", reordered, b), dict(reversed(settings.items())))
    assert same == training.fingerprint(*base)


WORDS = [["dull", "awful"], ["fine", "lovely"], ["uneven", "so-so"]]


def toy(hard: bool = False, count: int = 90) -> Examples:
    texts = [f"a {WORDS[i % 3][i // 3 % 2]} film number {i}" for i in range(count)]
    targets = np.eye(3)[[i % 3 for i in range(count)]]
    return Examples(texts, targets if hard else targets * 0.8 + 0.2 / 3)


@pytest.mark.parametrize("params", [Tfidf(kind="tfidf"), Tfidf(kind="tfidf", words=None, chars=(2, 4))])
@pytest.mark.parametrize("hard", [True, False])
def test_tfidf_learns_and_comes_back_from_disk(tmp_path, params: Tfidf, hard: bool) -> None:
    pipeline = tfidf.fit(params, toy(hard), seed=1)
    tfidf.save(pipeline, tmp_path)
    texts = [f"{word} film" for words in WORDS for word in words]
    logits = tfidf.logits(tmp_path, texts)
    assert logits.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(np.exp(logits).sum(1), 1)
    np.testing.assert_array_equal(logits, pipeline.predict_log_proba(texts))


def test_tfidf_learns_doubt_from_soft_targets() -> None:
    texts, strong = ["good film", "bad film", "odd film"], Tfidf(kind="tfidf", c=1e4)
    targets = np.array([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]])
    learned = tfidf.fit(strong, Examples(texts, targets), seed=1).predict_proba(texts)
    np.testing.assert_allclose(learned, targets, atol=0.01)


def test_tfidf_weights_classes_when_asked() -> None:
    examples = Examples(["film"] * 40, np.array([[0.9, 0.1]] * 36 + [[0.1, 0.9]] * 4))
    plain, weighted = (
        tfidf.fit(Tfidf(kind="tfidf", class_weights=on), examples, seed=1).predict_proba(["film"])[0, 1]
        for on in (False, True)
    )
    assert plain == pytest.approx((36 * 0.1 + 4 * 0.9) / 40, abs=0.03)
    assert weighted == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_label_without_texts_keeps_its_column(tmp_path, absent: int) -> None:
    every = toy(hard=True)
    rows = np.flatnonzero(every.targets[:, absent] == 0)
    tfidf.save(
        tfidf.fit(Tfidf(kind="tfidf"), Examples([every.texts[i] for i in rows], every.targets[rows]), 1), tmp_path
    )
    logits = tfidf.logits(tmp_path, every.texts)
    assert logits.shape == every.targets.shape
    assert (logits[rows].argmax(1) == every.targets[rows].argmax(1)).all()
    assert np.exp(logits[:, absent]).max() < 0.01
