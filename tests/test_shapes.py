"""What logits mean in each kind of task, and how good that is, against scikit-learn and scipy."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, f1_score, hamming_loss, matthews_corrcoef
from toy_project import toy_export

from pipeline import dag, measuring, registering, training
from pipeline.artifacts import Gold, Label
from pipeline.measuring import Said
from pipeline.params import Evaluate, Params, Task
from pipeline.training import Data
from serving import layout, shapes
from serving.engine import Engine
from serving.errors import UserError
from serving.schemas import Manifest

ROOT = Path(__file__).parents[1]
TOPICS = ["sport", "politics", "money"]
RANDOM = np.random.default_rng(0)


def task(**values: object) -> Task:
    return Task.model_validate({"name": "t", "criterion": "c", **values})


def test_a_set_is_one_string_whatever_people_write() -> None:
    topics = task(kind="multi", labels={"sport": ["sports"], "politics": [], "money": None})
    assert topics.read(" Money | SPORTS") == topics.read(["money", "sport"]) == "sport|money"
    assert topics.read("none") == topics.read("None ") == topics.read([]) == "none"
    assert topics.read("") is topics.read(None) is topics.read("sport|") is topics.read("sport|film") is None
    assert [topics.shape.names(label) for label in ("none", "sport|money")] == [[], ["sport", "money"]]
    assert task(labels=["a|b", "none"]).read("A|B") == "a|b"  # of kind single they are labels like any other
    with pytest.raises(ValueError, match="can't be a label of kind multi"):
        task(kind="multi", labels=["a|b", "c"])


def test_decisions() -> None:
    logits = np.array([[3.0, -3.0, 0.1], [-2.0, -2.0, -2.0]], dtype=np.float32)
    sets = shapes.of("multi", TOPICS, temperature=2.0, thresholds=[0.5, 0.5, 0.9])
    probabilities = sets.probabilities(logits)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits / 2)), rtol=1e-6)
    decided = sets.decide(probabilities)
    assert decided.labels == ["sport", "none"]
    assert decided.confidence[0] == pytest.approx(1 - probabilities[0, 2])  # its least sure decision is a no
    stars = shapes.of("ordinal", ["1", "2", "10"])
    decided = stars.decide(np.array([[0.5, 0.25, 0.25]], dtype=np.float32))
    assert decided.labels == ["1"]
    assert decided.scores == pytest.approx([3.5])
    assert shapes.scale(["poor", "2", "good"]).tolist() == [1, 2, 3]
    np.testing.assert_array_equal(shapes.sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])


def test_flips_are_texts_of_which_any_label_changes() -> None:
    before, after = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1.0, -0.5], [1.0, -0.1]])
    assert shapes.of("multi", TOPICS[:2]).flips(after, before) == 0.5
    assert shapes.of("single", TOPICS[:2]).flips(after, before) == 0.0


def said(kind: shapes.Kind, logits: np.ndarray, labels: list[str]) -> Said:
    return Said.by(shapes.of(kind, labels), logits)


def test_metrics_of_sets() -> None:
    truth = RANDOM.random((300, 3)) < [0.5, 0.2, 0.1]
    given = said("multi", truth * 2.0 - 1 + RANDOM.normal(size=truth.shape), TOPICS)
    measure = measuring.of("multi", TOPICS)
    found = measure.intervals(given, truth, Evaluate(resamples=200))
    assert found["micro_f1"]["value"] == pytest.approx(f1_score(truth, given.given, average="micro"))
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(truth, given.given, average="macro"))
    assert found["label_accuracy"]["value"] == pytest.approx(1 - hamming_loss(truth, given.given))
    assert found["accuracy"]["value"] == (truth == given.given).all(axis=1).mean()
    mcc = np.mean([matthews_corrcoef(truth[:, i], given.given[:, i]) for i in range(3)])
    assert found["mcc"]["value"] == pytest.approx(mcc)
    for metric in ("micro_f1", "macro_f1", "accuracy", "mcc"):
        assert found[metric]["low"] < found[metric]["value"] < found[metric]["high"]
    assert found["per_class"]["money"]["support"] == truth[:, 2].sum()
    assert measure.reference(["none", "sport|money"]).tolist() == [[False] * 3, [True, False, True]]
    assert [measure.name(row) for row in measure.reference(["none", "sport|money"])] == ["none", "sport|money"]


def test_metrics_of_an_order() -> None:
    labels = ["1", "2", "3", "4", "5"]
    truth = RANDOM.integers(0, 5, 400)
    logits = -np.abs(np.arange(5) - truth[:, None] + RANDOM.normal(size=(400, 1)))
    given, measure = said("ordinal", logits, labels), measuring.of("ordinal", labels)
    found = measure.intervals(given, truth, Evaluate(resamples=200))
    scores = given.probabilities @ np.arange(1, 6)
    predicted = given.probabilities.argmax(axis=1)
    assert found["mae"]["value"] == pytest.approx(np.abs(scores - truth - 1).mean())
    assert found["qwk"]["value"] == pytest.approx(cohen_kappa_score(truth, predicted, weights="quadratic"))
    assert found["spearman"]["value"] == pytest.approx(spearmanr(scores, truth)[0])
    assert found["spearman"]["low"] < found["spearman"]["value"] < found["spearman"]["high"]
    # a resample with repeated texts has the correlation of those texts
    rows = RANDOM.integers(0, 400, 400)
    weights = np.bincount(rows, minlength=400).astype(float)[None]
    mine = measuring._spearman(scores, truth.astype(float), weights)[0]
    assert mine == pytest.approx(spearmanr(scores[rows], truth[rows])[0])


def test_thresholds_are_those_of_the_highest_f1_where_enough_texts_have_the_label() -> None:
    truth = np.zeros((200, 2), dtype=bool)
    truth[:40, 0], truth[:9, 1] = True, True
    logits = np.where(truth, -1.0, -3.0) + 0.3 * RANDOM.normal(size=truth.shape)
    shape = measuring.of("multi", TOPICS[:2]).fit(logits, truth)
    first, second = shape.thresholds  # type: ignore[attr-defined]
    assert second == 0.5
    values = shape.probabilities(logits)[:, 0]
    best = max(f1_score(truth[:, 0], values >= t) for t in values)
    assert f1_score(truth[:, 0], values >= first) == pytest.approx(best)


def test_targets_of_sets() -> None:
    gold = [Gold(f"g{i}", "t", "h", label, "train") for i, label in enumerate(["none", "sport|money"])]
    gold += [Gold("v", "t", "h", "politics", "validation")]
    llm = [Label("s", "sport", [0.9, 0.2, 0.4], 0.6, "train", "k")]
    phase = Data(TOPICS, {"s": "t"}, llm, gold, kind="multi").phases("gold", True)[0]
    assert phase.train.targets.tolist() == [[0, 0, 0], [1, 0, 1]]
    assert isinstance(phase.train, training.Examples)


def test_the_gate_asks_for_rare_labels_only_where_there_are_enough() -> None:
    reference = ["a"] * 50 + ["b"] * 50 + ["c"] * 4
    assert registering.not_collapsed(["a"] * 50 + ["b"] * 54, reference, 0.2).passed
    assert not registering.not_collapsed(["a"] * 50 + ["b"] * 55, [*reference, "c"], 0.2).passed
    sets = shapes.of("multi", ["a", "b"])
    assert registering.not_collapsed(["a|b", "none"] * 10, ["a|b", "b"] * 10, 0.2, sets).passed
    assert not registering.not_collapsed(["a", "none"] * 10, ["a|b", "b"] * 10, 0.2, sets).passed


def test_manifests_of_before_are_single_and_keep_their_hash(tmp_path: Path) -> None:
    written = toy_export(tmp_path, {"good": 1.0})
    values = json.loads((tmp_path / "manifest.json").read_text())
    old = {name: value for name, value in values.items() if name not in ("kind", "thresholds")}
    assert Manifest.model_validate(old).model_hash == written
    sealed = {name: value for name, value in old.items() if name != "model_hash"}
    multi = Manifest.model_validate(sealed | {"kind": "multi", "thresholds": [0.2, 0.5]})
    assert multi.model_hash not in (written, Manifest.model_validate(sealed | {"kind": "multi"}).model_hash)
    with pytest.raises(UserError, match=r"of task\.kind single, but multi is expected"):
        Engine.open(tmp_path, "fp32", expect_kind="multi")


def test_only_the_likeliest_labels_are_written(tmp_path: Path) -> None:
    toy_export(tmp_path, {"good": 4.0, "bad": -4.0}, ["no", "yes", "perhaps"])
    engine = Engine.open(tmp_path, "fp32")
    rows = [("1", "good film"), ("2", "bad film")]
    probabilities = engine.classify([text for _, text in rows])
    table = layout.labelled(rows, probabilities, engine, 0.0, top=2)
    assert table.schema.equals(layout.schema("single", 2))
    assert "probabilities" not in table.schema.names
    assert table["top_labels"].to_pylist() == [["yes", "no"], ["no", "perhaps"]]
    np.testing.assert_allclose(table["top_probabilities"].to_pylist(), -np.sort(-probabilities, axis=1)[:, :2])


def snippets() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/tasks.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("snippet", snippets())
def test_the_examples_of_the_docs_are_valid_params(snippet: str) -> None:
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(ROOT / "pipeline/template/params.yaml")
    for name, block in yaml.load(snippet).items():
        values[name] = block if name in ("task", "annotate", "encoders") else values[name] | block
    made = Params.model_validate(values)
    assert ("task.kind" in dag.render(made)) == (made.task.kind != "single")
