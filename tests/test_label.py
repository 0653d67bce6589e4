"""The label stage over the ingested corpus and over another one."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import toy_project

from pipeline import params
from pipeline.artifacts import CORPUS, EXPORT, LABELLED, Document, metrics
from pipeline.errors import UserError
from pipeline.stages import label

ROOT = Path(__file__).parents[1]


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


def llambert(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "label", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_projects_labels_are_planned_and_verified_by_the_command() -> None:
    settings("shard_rows: 6, min_confidence: 0.6")
    assert "corpus.parquet does not exist" in llambert("--plan").stderr
    CORPUS.write(Document(f"c{i}", text, f"h{i}") for i, text in enumerate(["good film", "bad film"] * 10))
    plan = llambert("--plan")
    assert (plan.returncode, bool(re.search("left, on this machine +20 +80 ", plan.stdout))) == (0, True), plan
    assert not LABELLED.exists()
    done = llambert()
    assert (done.returncode, "label: 20 texts in labels" in done.stderr) == (0, True), done
    assert llambert("--verify").stdout.startswith("labels is complete: 20 rows in 4 parts")
    assert re.search("labelled already +20", llambert("--plan").stdout)
    (LABELLED / "part-00001.parquet").unlink()
    broken = llambert("--verify")
    assert (broken.returncode, "part-00001.parquet is missing" in broken.stderr) == (2, True)
    assert llambert().returncode == 0
    assert llambert("--verify").returncode == 0


def test_anything_else_is_labelled_by_the_same_command() -> None:
    Path("more.csv").write_text("number,review\n1,good film\n2,\n3,bad film\n")
    options = ["--text-column", "review", "--id-column", "number", "--precision", "fp32"]
    done = llambert("more.csv", "more", *options)
    assert (done.returncode, "2 texts in 1 shards are labelled in more" in done.stdout) == (0, True), done
    assert pq.read_table("more/part-00000.parquet")["label"].to_pylist() == ["positive", "negative"]
    assert llambert("--verify", "more").stdout.startswith("more is complete: 2 rows in 1 parts")
    assert "--finish and --restart are for label INPUT OUTPUT" in llambert("--restart").stderr
