"""The whole flow with real parts: dvc, an LLM, an encoder, MLflow, onnxruntime; and its stages killed."""

import json
import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import task_project
from flow_project import STAGES, run, set_params
from killing import ARTIFACTS, STORE, kill_until_done

from pipeline import params

pytestmark = pytest.mark.slow


def rows(path: Path) -> list[dict[str, object]]:
    return pq.read_table(path).to_pylist()


def test_every_sampled_text_ends_in_labels_or_in_rejected_once(project: Path) -> None:
    sampled = [row["id"] for row in rows(project / "data/sample.parquet")]
    judged = [row["id"] for name in ("labels", "rejected") for row in rows(project / f"data/{name}.parquet")]
    assert sorted(sampled) == sorted(judged)


def test_no_evaluation_text_is_in_the_sample(project: Path) -> None:
    evaluation = {row["text_hash"] for row in rows(project / "data/gold.parquet") if row["split"] != "train"}
    assert not evaluation & {row["text_hash"] for row in rows(project / "data/sample.parquet")}


def test_the_whole_corpus_is_labelled_once(project: Path) -> None:
    corpus = [row["id"] for row in rows(project / "data/corpus.parquet")]
    labelled = [row["id"] for part in sorted((project / "labels").glob("part-*.parquet")) for row in rows(part)]
    assert labelled == corpus


def test_second_repro_runs_nothing_and_a_changed_param_only_what_depends_on_it(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    assert "Data and pipelines are up to date" in run(copy, "dvc", "repro")
    set_params(copy, {"label.min_confidence": 0.9})
    ran = [line for line in run(copy, "dvc", "repro").splitlines() if line.startswith("Running stage")]
    # register logs all params, so it runs too; it finds the version that it made before
    assert ran == ["Running stage 'register':", "Running stage 'label':", "Running stage 'report':"]
    assert json.loads((copy / "metrics/register.json").read_text())["version"] == "1"
    assert "label.min_confidence" in run(copy, "dvc", "params", "diff")
    assert "abstained" in run(copy, "dvc", "metrics", "diff")


def test_dvc_shows_metrics_and_plots(project: Path) -> None:
    shown = run(project, "dvc", "metrics", "show", "--md")
    assert all(
        name in shown for name in ("metrics.json", "accuracy.llm", "accuracy.encoder", "accuracy.tf-idf", "yield")
    )
    page = run(project, "dvc", "plots", "show", "--out", "plots_page").strip()
    html = Path(page.removeprefix("file://")).read_text()
    assert all(name in html for name in ("Confusion matrix", "Reliability", "validation_loss"))


def test_results_models_and_label_text(project: Path) -> None:
    shown = run(project, "llambert", "results")
    assert [line.split()[0] for line in shown.splitlines()] == ["LLM", "encoder", "TF-IDF", "model", "report"]
    assert "challenger" in run(project, "llambert", "models")
    run(project, "llambert", "promote", "--force")
    labelled = run(project, "llambert", "label-text", "I love it. Excellent.")
    assert "positive" in labelled
    assert "negative" in labelled


def test_without_gold_the_report_says_agreement_not_accuracy(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    text = (copy / "params.yaml").read_text()
    kept = [line for line in text.splitlines() if not line.strip().startswith(("gold_train:", "gold_test:"))]
    (copy / "params.yaml").write_text("\n".join(kept) + "\n")
    small = task_project.encoder(tmp_path / "encoder", [row["text"] for row in rows(copy / "data/sample.parquet")])
    set_params(copy, {"encoders.minilm.model": small, "export.max_flips": 1.0})
    assert "llambert dag" in run(copy, "llambert", "check", code=2)
    run(copy, "llambert", "dag")
    run(copy, "llambert", "check")
    listed = {line.split("@")[0] for line in run(copy, "dvc", "stage", "list", "--name-only").splitlines()}
    assert listed == set(STAGES)
    assert "Running stage 'ingest'" in run(copy, "dvc", "repro", "--dry")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task_project.run(params.load())  # in this process, which has imported all that stages want
    evaluation = json.loads((copy / "metrics/evaluate.json").read_text())
    assert evaluation["test"] is None
    assert evaluation["validation"]["reference"] == "llm"
    assert "agreement with held-out LLM labels" in run(copy, "llambert", "results")


@pytest.mark.parametrize("stage", ARTIFACTS)
def test_killed_at_random_moments_ends_as_if_it_never_was(project: Path, tmp_path: Path, stage: str) -> None:
    """`killing.py` is the long form."""
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    assert kill_until_done(copy, stage, kills=2, seed=3)
    keys = {row["key"] for row in rows(copy / "data/responses.parquet")}
    with sqlite3.connect(copy / STORE) as db:
        stored = {key for (key,) in db.execute("SELECT key FROM responses")}
    assert stored == keys  # each once: the key is the store's primary key, and adding it twice raises
