"""The label stage over the ingested corpus and over another one."""

import json
import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import toy_project

from pipeline import params
from pipeline.artifacts import CORPUS, EXPORT, LABELLED, Document, metrics
from pipeline.errors import UserError
from pipeline.stages import label


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy_project.toy_export(EXPORT, toy_project.RIGHT)


def settings(text: str) -> params.Params:
    Path("params.yaml").write_text(
        toy_project.PARAMS.replace("GAIN", "0").replace(
            "label: {precision: fp32}", f"label: {{precision: fp32, {text}}}"
        )
    )
    return params.load()


def labelled() -> dict[str, list]:
    return pq.read_table(sorted(LABELLED.glob("part-*.parquet"))).to_pydict()


def test_the_ingested_corpus(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llambert")
    texts = ["good film", "bad film", "film", "fine good"] * 5
    CORPUS.write(Document(f"c{i}", text, f"h{i}") for i, text in enumerate(texts))
    metrics("register").write({"promoted": False, "reasons": ["too few gold labels"]})
    label.run(settings("shard_rows: 6, min_confidence: 0.6"))
    figures = metrics("label").read()
    assert (figures["rows"], figures["shards"], figures["abstained"], figures["precision"]) == (20, 4, 5, "fp32")
    assert figures["shares"] == {"negative": 0.5, "positive": 0.5}
    assert figures["tokens"] == 5 * (4 + 4 + 3 + 4)
    assert figures["texts_per_s"] > 0
    assert labelled()["id"] == [f"c{i}" for i in range(20)]
    assert "was not promoted (too few gold labels); its labels may be poor" in caplog.text
    assert "label: 20 texts in labels (negative 50.0%, positive 50.0%)" in caplog.text


def test_another_corpus_whose_bad_rows_are_written_down(caplog: pytest.LogCaptureFixture) -> None:
    Path("more.csv").write_text("id,text\na,good film\nb,\nc,bad film\nd,dull film\n")
    label.run(settings("corpus: {path: more.csv}"))
    assert (labelled()["id"], labelled()["label"]) == (["a", "c", "d"], ["positive", "negative", "negative"])
    (bad,) = pq.read_table(LABELLED / "unusable.parquet").to_pylist()
    assert (bad["row"], "empty" in bad["reason"]) == (3, True)
    assert "1 rows can't be used" in caplog.text
    label.run(settings("corpus: {path: more.csv}, max_rows: 2"))
    assert labelled()["id"] == ["a", "c"]
    assert json.loads((LABELLED / "manifest.json").read_text())["rows"] == 2


def test_nothing_to_label_and_a_model_with_other_labels() -> None:
    with pytest.raises(UserError, match=r"corpus.parquet does not exist: run the stages before"):
        label.run(settings("max_rows: 5"))
    CORPUS.write([])
    with pytest.raises(UserError, match="there is no text to label"):
        label.run(settings("max_rows: 5"))
    toy_project.toy_export(EXPORT, toy_project.RIGHT, labels=["positive", "negative"])
    with pytest.raises(UserError, match="in this order"):
        label.run(settings("max_rows: 5"))
