"""The gate's arithmetic, and the stage against a real MLflow."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import toy_project

from pipeline import artifacts, registering
from pipeline.errors import UserError
from pipeline.registry import CHAMPION, Registry, requirements
from pipeline.stages import register


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch, database):
    shutil.copy(database, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_label_that_is_given_up_is_a_collapse():
    reference = ["a"] * 50 + ["b"] * 50
    assert registering.not_collapsed(reference, reference, 0.2).passed
    assert registering.not_collapsed(
        ["a"] * 90 + ["b"] * 10, reference, 0.2
    ).passed  # 10 % where 20 % of 50 % is the limit
    assert not registering.not_collapsed(["a"] * 91 + ["b"] * 9, reference, 0.2).passed
    check = registering.not_collapsed(["a"] * 100, reference, 0.0)
    assert not check.passed  # recall 0, whatever the share
    assert "'b' is predicted for 0.0% of the texts where 50.0% have it" in check.sentence
    assert not registering.not_collapsed(["b"] * 50 + ["a"] * 50, reference, 0.2).passed  # never rightly
    assert registering.not_collapsed(["a"] * 10, ["a"] * 10, 0.2).passed  # a label that does not occur is not asked for


def test_tfidf_has_to_be_beaten_by_the_margin_to_the_digit():
    assert registering.beats_tfidf(0.85, 0.80, 0.05).passed  # 0.85 - 0.80 < 0.05 in floating point
    assert not registering.beats_tfidf(0.849, 0.80, 0.05).passed


def test_champion_comparison_is_paired():
    challenger = np.array([True] * 9 + [False] * 1 + [True] * 90)
    champion = np.array([False] * 9 + [True] * 1 + [True] * 90)
    check = registering.beats_champion(challenger, champion, "3", 0.0)
    assert check.passed
    assert check.figures["difference"] == pytest.approx(0.08)
    assert check.figures["p_value"] == pytest.approx(22 / 1024)  # 2 * (1 + 10) / 2^10
    assert 0.0 < check.figures["low"] < 0.08 < check.figures["high"] < 0.16
    assert not registering.beats_champion(challenger, champion, "3", 0.081).passed
    assert not registering.beats_champion(champion, challenger, "3", 0.0).passed
    same = registering.beats_champion(challenger, challenger, "3", 0.0)
    assert same.passed
    assert same.figures["p_value"] == 1.0


def test_verdict_survives_its_storage():
    verdict = registering.Verdict((registering.no_champion(), registering.beats_tfidf(0.5, 0.9, 0.0)))
    again = registering.Verdict.from_json(verdict.to_json())
    assert again == verdict
    assert not again.passed
    assert again.reasons == [verdict.checks[1].sentence]


def test_what_mlflow_is_told():
    assert registering.flat({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": "1", "a.c": "[1, 2]", "d": "None"}
    entry = {"phase": "gold", "step": 3, "train_loss": 0.5, "validation_loss": None, "validation_accuracy": 0.9}
    assert registering.flat({"task": {"labels": {"refund?": [], "jó": ["好"]}}}) == {
        "task.labels.refund_3f_": "[]", "task.labels.jó": "['好']",
    }  # fmt: skip
    assert registering.curves([entry]) == [("gold.train_loss", 0.5, 3), ("gold.validation_accuracy", 0.9, 3)]
    toy_project.write()
    figures = registering.figures(artifacts.metrics("evaluate").read(), "mini-llm-1")
    assert figures["test.accuracy_low"] == 0.7
    assert figures["held_out.agreement_with_llm"] == 0.8


def test_first_version_is_logged_registered_and_promoted_once():
    params = toy_project.write()
    register.run(params)
    first = artifacts.metrics("register").read()
    assert first["promoted"]
    assert first["version"] == "1"
    register.run(params)
    assert artifacts.metrics("register").read() == first
    registry = Registry(params.register_)
    assert len(registry.versions()) == 1
    assert len(registry.client.search_runs([registry.experiment])) == 3  # the pipeline's and one for each candidate
    run = registry.client.get_run(first["run_id"])
    assert run.data.metrics["test.accuracy"] == 0.8
    assert run.data.params["sample.size"] == "40"
    assert [m.value for m in registry.client.get_metric_history(first["run_id"], "llm.train_loss")] == [0.6, 0.3]
    assert not list(Path("mlartifacts").rglob("*.pkl"))
    model = registry.mlflow.pyfunc.load_model(f"models:/toys@{CHAMPION}")
    assert model.metadata.signature is not None
    assert [answer.label for answer in model.predict(["good film", "dull film"])] == ["positive", "negative"]
    exported = next(Path("mlartifacts").rglob("artifacts/export"))
    assert "0.800 [0.700, 0.900]" in (exported / "README.md").read_text()
    for file in artifacts.EXPORT.iterdir():
        assert (exported / file.name).read_bytes() == file.read_bytes()


def test_worse_challenger_is_refused_with_figures_and_the_champion_stays():
    register.run(toy_project.write())
    register.run(toy_project.write(toy_project.RIGHT | {"fine": -1.0}, tfidf=0.5))
    verdict = artifacts.metrics("register").read()
    assert verdict["version"] == "2"
    assert not verdict["promoted"]
    assert [name for name, check in verdict["checks"].items() if not check["passed"]] == ["champion"]
    assert verdict["checks"]["champion"]["only_champion_right"] == 10
    assert Registry(toy_project.write().register_).aliases() == {"champion": "1", "challenger": "2"}


def test_collapsed_model_is_refused_without_gold_too():
    register.run(toy_project.write({"good": 1.0, "bad": 1.0, "fine": 1.0, "dull": 1.0}, gold=False, tfidf=0.1))
    verdict = artifacts.metrics("register").read()
    assert not verdict["promoted"]
    assert not verdict["checks"]["collapse"]["passed"]


def test_champion_of_another_task_cannot_be_compared():
    params = toy_project.write({"good": 1.0})
    registry = Registry(params.register_)
    model_hash = toy_project.toy_export(Path("other"), toy_project.RIGHT, labels=["no", "yes"])
    run_id = registry.log_run("k", {"mlflow.runName": "other"}, {})
    registry.promote(registry.add(Path("other"), model_hash, run_id, "card", ["good"], "fp32"))
    register.run(toy_project.write())
    reasons = artifacts.metrics("register").read()["reasons"]
    assert len(reasons) == 1
    assert "it has the labels ['no', 'yes']" in reasons[0]
    assert "--force" in reasons[0]


def test_what_a_killed_run_left_is_healed():
    params = toy_project.write()
    register.run(params)
    registry = Registry(params.register_)
    run_id, version = artifacts.metrics("register").read()["run_id"], registry.get("1")
    registry.client.update_run(run_id, status="RUNNING")
    registry.client.delete_registered_model_alias("toys", CHAMPION)  # killed after the verdict, before the alias
    registry.client.delete_model_version_tag("toys", "1", "promoted_by")
    assert version is not None
    register.run(params)
    healed = artifacts.metrics("register").read()
    assert healed["promoted"]
    assert healed["version"] == "1"
    assert [run.info.status for run in registry.client.search_runs([registry.experiment])] == ["FINISHED"] * 3
    registry.client.delete_registered_model("toys")  # killed after the model was logged, before it was registered
    register.run(params)
    assert artifacts.metrics("register").read()["promoted"]
    assert len(list(Path("mlartifacts").rglob("MLmodel"))) == 1


def test_a_rollback_is_not_undone_by_the_next_run():
    register.run(toy_project.write({"good": 2.0, "fine": 2.0, "bad": -2.0, "dull": -2.0}))
    params = toy_project.write()
    register.run(params)
    registry = Registry(params.register_)
    assert registry.rollback() == ("2", "1")
    register.run(params)
    verdict = artifacts.metrics("register").read()
    assert not verdict["promoted"]
    assert "a person has moved the alias" in verdict["reasons"][0]


def test_stale_export_is_refused():
    params = toy_project.write()
    artifacts.BEST.write(artifacts.BEST.read() | {"candidate": "mini-llm-2"})
    with pytest.raises(UserError, match="holds mini-llm-1, but mini-llm-2 is best"):
        register.run(params)


def test_unreachable_server_is_named_at_once(monkeypatch):
    params = toy_project.write()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"MLflow can't be used at http://127\.0\.0\.1:9 .*MLFLOW_TRACKING_URI"):
        register.run(params)
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_real_server(tmp_path, monkeypatch):
    port = 18_000 + os.getpid() % 10_000
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        f"{tmp_path}/server",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        _wait(uri)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        params = toy_project.write()
        register.run(params)
        register.run(params)
        assert artifacts.metrics("register").read()["promoted"]
        registry = Registry(params.register_)
        assert registry.aliases() == {"champion": "1", "challenger": "1"}
        assert (registry.download(registry.get(CHAMPION)) / "manifest.json").is_file()
        assert not Path("mlartifacts").exists()
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait(uri):
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    pytest.fail(f"no server at {uri}")


def test_checks_are_written_as_plain_json():
    register.run(toy_project.write())
    checks = json.loads(Path("metrics/register.json").read_text())["checks"]
    assert list(checks) == ["champion", "collapse", "tfidf"]
    assert checks["tfidf"]["accuracy"] == 1.0


def test_a_model_in_bf16_asks_for_torch_and_others_do_not():
    assert not [line for line in requirements("int8") if line.startswith("torch")]
    (torch,) = [line for line in requirements("bf16") if line.startswith("torch")]
    assert "+" not in torch
