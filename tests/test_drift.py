"""`llambert drift`, the profile that the stage export makes, and the gauges of a real service."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import toy_project
from drifting_texts import described, others, texts
from service_process import serving

from pipeline import params, reference
from pipeline.artifacts import BEST, CORPUS, EXPORT, Document
from pipeline.commands import drift
from pipeline.errors import UserError
from pipeline.options import Options
from serving.engine import Engine


def lines(path: Path, some: list[str]) -> str:
    path.write_text("".join(json.dumps({"id": str(i), "text": f"{text} {i}"}) + "\n" for i, text in enumerate(some)))
    return str(path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", "drift", *arguments], capture_output=True, text=True)


def test_the_command_tells_drift_from_none(tmp_path: Path) -> None:
    described(tmp_path / "model")
    new = lines(tmp_path / "new.jsonl", others(300))
    model = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    found = run(new, *model, "--fail")
    assert found.returncode == 1, found.stderr
    assert "drift: confidence, length, unseen, labels, content" in found.stdout
    assert "if the model's calibrated confidence is as true of these texts as of gold" in found.stdout
    assert run(new, *model).returncode == 0
    written = json.loads((tmp_path / "out/drift.json").read_text())
    assert written["drift"]
    assert written["texts"] == 300
    assert [row["measure"] for row in written["measures"]] == ["confidence", "length", "unseen", "labels", "content"]
    assert {row["name"] for row in written["estimates"]} == {"confidence", "difference", "threshold", "label shift"}
    page = (tmp_path / "out/drift.html").read_text()
    assert page.count("<svg") >= 5
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_can_not_be_compared_is_refused(tmp_path: Path) -> None:
    toy_project.toy_export(tmp_path / "old", toy_project.RIGHT)
    new = lines(tmp_path / "new.jsonl", others(300))
    with pytest.raises(UserError, match=r"has no drift.json: run the stage export again"):
        drift.drift(new, Options(model=tmp_path / "old"))
    described(tmp_path / "model")
    few = lines(tmp_path / "few.jsonl", others(30))
    with pytest.raises(UserError, match="has 30 different texts: 100 are needed"):
        drift.drift(few, Options(model=tmp_path / "model"))
    with pytest.raises(UserError, match=r"--alpha must lie between 0 and 1 \(got 5"):
        drift.drift(new, Options(model=tmp_path / "model", alpha=5.0))
    with pytest.raises(UserError, match="is no exported model"):
        drift.drift(new, Options(model=tmp_path / "nowhere"))


def test_the_export_describes_texts_that_were_not_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings: params.Params = toy_project.write()
    CORPUS.write(Document(f"c{i}", text, f"h{i}") for i, (text, _) in enumerate(toy_project.texts(900)))
    assert not {document.text_hash for document in reference.draw(900)} & {f"h{i}" for i in range(40)}
    profile = reference.describe(Engine.open(EXPORT, "fp32"), BEST.read(), settings)
    assert profile is not None
    assert profile.texts == 430, "half of those that are not in the sample"
    smaller = settings.model_copy(update={"export": settings.export.model_copy(update={"reference_texts": 200})})
    profile = reference.describe(Engine.open(EXPORT, "fp32"), BEST.read(), smaller)
    assert profile is not None
    assert profile.texts == 200
    assert profile.scored is not None
    assert (profile.scored.reference, profile.scored.split) == ("gold", "test")
    assert len(profile.scored.actual) == 40
    assert sum(a == b for a, b in zip(profile.scored.actual, profile.scored.predicted, strict=True)) == 40
    none = settings.model_copy(update={"export": settings.export.model_copy(update={"reference_texts": 0})})
    assert reference.describe(Engine.open(EXPORT, "fp32"), BEST.read(), none) is None


def test_a_service_exports_what_it_sees(tmp_path: Path) -> None:
    described(tmp_path / "model")
    with serving(tmp_path / "model", ready=False, PRECISION="fp32", DRIFT_WINDOW="200") as service:
        service.wait_ready(300)
        for batch in (texts(60, 51), texts(60, 52), texts(60, 53), texts(60, 54)):
            assert service.classify(batch).status_code == 200
        assert service.metric("llambert_drift_texts") == 200
        assert service.metric("llambert_drift_alert") == 0
        assert service.metric("llambert_drift_psi", measure="length") < 0.15
        for _ in range(3):
            service.classify(others(900, 61))  # of a request of 900 texts 64 are looked at
        assert service.metric("llambert_drift_alert", measure="length") == 1
        assert service.metric("llambert_drift_psi", measure="length") > 0.5
