"""Several annotators from params.yaml to labels: asked, combined by gold, queued where they differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_project
from ruamel.yaml import YAML

from pipeline import params
from pipeline.artifacts import (
    GOLD,
    LABELLED,
    LABELS,
    OPINIONS,
    REJECTED,
    REVIEW,
    SAMPLE,
    TEACHER,
    Gold,
    Sampled,
    ToReview,
    consulted,
    metrics,
)
from pipeline.commands import queue
from pipeline.errors import UserError
from pipeline.sections import annotators as section
from pipeline.stages import annotate, consult, parse

LABELS_ = ["negative", "positive"]
TEXTS, PEOPLE = 300, 240


def recorded(name: str) -> dict[str, Any]:
    return {"kind": "recorded", "model": name, "files": [{"path": f"{name}.csv", "answer": ["answer"]}]}


def project(gold: bool = True) -> params.Params:
    """A weak first annotator (0.8) and a strong second one (0.97), whose errors are independent."""
    values: Any = YAML(typ="safe", pure=True).load(toy_project.PARAMS.replace("GAIN", "0.0"))
    values["annotate"] = {"annotator": recorded("weak"), "prompt": {"user": "{text}"}, "pilot": 0}
    values["annotators"] = {"strong": {"annotator": recorded("strong"), "pilot": 0, "max_failed_share": 1.0}}
    YAML().dump(values, Path("params.yaml"))
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, TEXTS + PEOPLE)
    SAMPLE.write(
        Sampled(f"s{i}", ("good film" if truth[i] else "dull film") + f" {i}", f"h{i}", "train") for i in range(TEXTS)
    )
    split = ("train", "validation", "test")
    GOLD.write(
        Gold(f"g{i}", f"film {i}", f"p{i}", LABELS_[truth[TEXTS + i]], split[i % 3])
        for i in range(PEOPLE if gold else 0)
    )
    ids = [f"s{i}" for i in range(TEXTS)] + [f"g{i}" for i in range(PEOPLE)]
    for name, error in (("weak", 0.2), ("strong", 0.03)):
        said = np.where(random.random(len(truth)) < error, 1 - truth, truth)
        lines = [f"{id_},{LABELS_[label]}" for id_, label in zip(ids, said, strict=True)]
        if name == "strong":
            lines[0] = "s0,who knows"
        Path(f"{name}.csv").write_text("\n".join(["id,answer", *lines]) + "\n")
    return params.load()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_labels_follow_the_better_annotator_and_every_text_has_one(caplog: pytest.LogCaptureFixture) -> None:
    settings = project()
    for stage in (annotate, consult, parse):
        stage.run(settings)
    labels, opinions = {row.id: row for row in LABELS}, list(OPINIONS)
    assert len(labels) == TEXTS
    assert REJECTED.count() == 0
    said = {(row.annotator, row.id): row.label for row in opinions}
    assert len(said) == len(opinions) == 2 * (TEXTS + PEOPLE)
    assert said["strong", "s0"] is None
    assert labels["s0"].label == said["annotate", "s0"]
    assert all(labels[f"s{i}"].label == said["strong", f"s{i}"] for i in range(1, TEXTS))
    figures = metrics("parse").read()["annotators"]
    assert figures["gold"] == PEOPLE * 2 // 3  # what tests is not learnt from
    assert figures["combination"]["best"] == "strong"
    agreed = [row.confidence for row in LABELS if said["annotate", row.id] == said["strong", row.id]]
    differ = [row.confidence for row in LABELS if {said["annotate", row.id], said["strong", row.id]} == set(LABELS_)]
    assert min(agreed) > max(differ)
    assert metrics("consult").read()["annotators"]["strong"]["answers"] == TEXTS + PEOPLE
    truth = {row.id: row.label for row in GOLD if row.split == "test"}
    right = [row.label == truth[row.id] for row in TEACHER if row.id in truth]
    assert np.mean(right) > 0.9
    page = section.section(metrics("parse").read())
    assert page is not None
    assert "strong" in page.paragraphs[0]
    assert [row[0] for row in page.grids[0].rows] == ["annotate", "strong"]


def test_without_gold_the_first_is_believed_and_the_user_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = project(gold=False)
    for stage in (annotate, consult, parse):
        stage.run(settings)
    assert "no gold says whom to believe" in caplog.text
    first = {row.id: row.label for row in OPINIONS if row.annotator == "annotate"}
    assert {row.id: row.label for row in LABELS} == first
    page = section.section(metrics("parse").read())
    assert page is not None
    assert "Agreement is no accuracy" in page.paragraphs[0]


def test_the_queue_has_disagreements_first_and_keeps_what_was_deferred() -> None:
    settings = project()
    for stage in (annotate, consult, parse):
        stage.run(settings)
    REVIEW.write([ToReview("far", "text", "positive", 0.6, "deferred", None)])
    said = queue.queue(size=40, folds=2, seed=0)
    rows = list(REVIEW)
    assert (rows[0].id, rows[0].reason) == ("far", "deferred")
    assert len({row.id for row in rows}) == len(rows) == 41
    assert "disagreement" in said
    labels = {row.id: row for row in LABELS}
    assert all(row.label == labels[row.id].label != row.suggested for row in rows[1:])
    again = queue.queue(size=40, folds=2, seed=0)
    assert again == said
    assert list(REVIEW) == rows
    with pytest.raises(UserError, match="--folds 2 or more"):
        queue.queue(size=40, folds=1, seed=0)


def test_the_encoder_and_the_corpus_have_a_say_in_the_queue() -> None:
    toy_project.write(weights={"good": -4.0, "fine": 4.0, "bad": -4.0, "dull": -4.0})  # "good" is got wrong
    OPINIONS.write([])
    table = pa.table({"id": ["c1", "c2"], "label": ["negative", "positive"], "confidence": [0.51, 0.99]})
    LABELLED.mkdir()
    pq.write_table(table, LABELLED / "part-0.parquet")
    queue.queue(size=200, folds=2, seed=0)
    rows = {row.id: row for row in REVIEW}
    assert (rows["c1"].reason, rows["c1"].label, rows["c1"].suggested) == ("low_confidence", "negative", None)
    contradicted = [row for row in rows.values() if row.reason == "disagreement"]
    assert contradicted
    assert all("good" in row.text and (row.label, row.suggested) == ("positive", "negative") for row in contradicted)
    people = [row for row in rows.values() if row.reason == "likely_wrong" and row.id.startswith("g")]
    assert {row.id for row in people} == {"g0", "g1", "g2", "g3"}  # the teacher contradicts these, the encoder more


def test_one_annotator_has_no_opinions_and_no_section() -> None:
    settings = project().model_copy(update={"annotators": None})
    for stage in (annotate, parse):
        stage.run(settings)
    assert OPINIONS.count() == 0
    assert section.section(metrics("parse").read()) is None
    assert not consulted("strong").path.exists()


def test_what_is_wrong_with_a_further_annotator_is_said_by_its_name() -> None:
    project()
    values: Any = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    values["annotators"]["strong"]["annotator"]["modle"] = "x"
    values["annotators"]["annotate"] = values["annotators"]["strong"]
    YAML().dump(values, Path("params.yaml"))
    with pytest.raises(UserError, match=r"annotators\.strong\.annotator\.modle: Extra inputs"):
        params.load()
    Path("strong.csv").unlink()
    del values["annotators"]["annotate"], values["annotators"]["strong"]["annotator"]["modle"]
    YAML().dump(values, Path("params.yaml"))
    with pytest.raises(UserError, match=r"annotators\.strong .*strong\.csv does not exist"):
        consult.run(params.load())
