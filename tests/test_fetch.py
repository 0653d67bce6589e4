"""Fetching a model: whole or not at all, once, and what it is called then."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_process import Registered, mlflow_server, versions
from service_process import serving
from toy_model import exported

from serving import registry
from serving.engine import Engine
from serving.errors import Unreachable, UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registered(place: Path) -> Iterator[Registered]:
    """Version 1 is the champion, version 2 another model, version 3 is 1 again; the server hands out the files."""
    with mlflow_server(place, f"sqlite:///{place}/mlflow.db") as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        toys = Registered(uri)
        one, two, _ = versions(place)
        toys.promote(toys.add(one))
        toys.add(two)
        toys.add(one)
        yield toys


def stamps(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}


def test_what_is_fetched_from_a_server_lies_flat_and_says_its_name(
    registered: Registered, place: Path, tmp_path: Path
) -> None:
    target = tmp_path / "fetched"
    registry.fetch("models:/toys@champion", target, "fp32")
    assert all(path.is_file() for path in target.iterdir())
    assert (target / "fp32.onnx").read_bytes() == (place / "one" / "fp32.onnx").read_bytes()
    said = json.loads((target / "registered.json").read_text())
    assert (said["name"], said["version"], said["metrics"]) == ("toys", "1", {"accuracy": 0.9})
    assert Engine.open(target, "fp32").model_hash == said["model_hash"]
    with serving(target, PRECISION="fp32", POLL_S="0.1") as service:
        with service.client() as client:
            model = client.get("/model").json()
        assert (model["name"], model["version"], model["metrics"]) == ("toys", "1", {"accuracy": 0.9})
        assert service.metric("llambert_model_info", version="1") == 1
    registry.fetch(str(target), tmp_path / "copy", "fp32")
    assert registry.registered(tmp_path / "copy") == registry.registered(target)


def test_what_is_there_already_is_not_fetched_again(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "fetched"
    target.mkdir()
    registry.fetch("models:/toys/1", target, "fp32")
    before, download = stamps(target), registered.mlflow.artifacts.download_artifacts
    asked: list[str] = []

    def counting(artifact_uri: str, dst_path: str) -> str:
        asked.append(artifact_uri.rsplit("/", 1)[-1])
        return str(download(artifact_uri=artifact_uri, dst_path=dst_path))

    monkeypatch.setattr(registered.mlflow.artifacts, "download_artifacts", counting)
    registry.fetch("models:/toys@champion", target, "fp32")
    assert (stamps(target), asked) == (before, ["manifest.json"])
    registry.fetch("models:/toys/3", target, "fp32")  # the same model under another number
    assert stamps(target).items() - before.items() == {("registered.json", stamps(target)["registered.json"])}
    found = registry.registered(target)
    assert found is not None
    assert found.number == "3"


def test_a_directory_that_holds_something_else_is_refused(registered: Registered, tmp_path: Path) -> None:
    target, file = tmp_path / "fetched", tmp_path / "file"
    registry.fetch("models:/toys/1", target, "fp32")
    file.write_text("mine")
    (tmp_path / "mine").mkdir()
    shutil.copy(file, tmp_path / "mine")
    before = stamps(target)
    for model, there in (("2", target), ("1", file), ("1", tmp_path / "mine")):
        with pytest.raises(UserError, match="is there already"):
            registry.fetch(f"models:/toys/{model}", there, "fp32")
    assert stamps(target) == before
    (target / "fp32.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="is there already"):
        registry.fetch("models:/toys/1", target, "fp32")
    (target / "fp32.onnx").unlink()
    with pytest.raises(UserError, match="is there already"):
        registry.fetch("models:/toys/1", target, "fp32")
    assert file.read_text() == "mine"


def test_a_name_beside_another_manifest_is_not_believed(registered: Registered, tmp_path: Path) -> None:
    for version in "12":
        registry.fetch(f"models:/toys/{version}", tmp_path / version, "fp32")
    shutil.copy(tmp_path / "1" / "registered.json", tmp_path / "2")
    assert registry.registered(tmp_path / "2") is None
    (tmp_path / "1" / "registered.json").write_text("{")
    assert registry.registered(tmp_path / "1") is None
    assert registry.registered(tmp_path / "none") is None


def test_what_the_registry_has_not_is_told(registered: Registered, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no precision 'int8'"):
        registry.fetch("models:/toys@champion", tmp_path / "other", "int8")
    with pytest.raises(Unreachable, match="models:/toys@nobody can't be had"):
        registry.fetch("models:/toys@nobody", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_directory_is_fetched_whole_or_not_at_all(tmp_path: Path) -> None:
    copy = shutil.copytree(exported(), tmp_path / "copy")
    registry.fetch(str(copy), tmp_path / "whole")
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {p.name for p in copy.iterdir()}
    (copy / "int8.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="its hash differs"):
        registry.fetch(str(copy), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_manifest_may_not_name_files_elsewhere(tmp_path: Path) -> None:
    from serving.schemas import Manifest

    copy = shutil.copytree(exported(), tmp_path / "copy")
    values = json.loads((copy / "manifest.json").read_text())
    values["precisions"]["fp32"]["onnxruntime"]["files"]["../stolen"] = "0" * 64
    del values["model_hash"]
    (copy / "manifest.json").write_text(Manifest.model_validate(values).model_dump_json())
    (tmp_path / "stolen").write_text("x")
    with pytest.raises(UserError, match="not in the model's directory"):
        registry.fetch(str(copy), tmp_path / "whole")
