"""The export is the trained model or it is not published."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import toy_project
from toy_model import LABELS, TEXTS, candidate, exported

from pipeline import exporting, graphs, params
from pipeline.artifacts import (
    BEST,
    CORPUS,
    EXPORT,
    MODELS,
    PREDICTIONS,
    SAMPLE,
    Document,
    Json,
    Prediction,
    Sampled,
    metrics,
)
from pipeline.errors import UserError
from pipeline.params import Export
from pipeline.stages import export
from serving import profiles
from serving.engine import Engine
from serving.files import sha256
from serving.models import open_directory
from serving.schemas import Graph


def test_the_manifest_says_what_the_files_are() -> None:
    manifest = open_directory(exported(), "int8")[0].manifest
    assert (manifest.candidate, manifest.labels, manifest.max_tokens) == ("toy-llm-1", LABELS, 32)
    assert (manifest.truncation, manifest.temperature, manifest.parity_texts) == ("head", 2.0, len(TEXTS))
    fp32 = manifest.precisions["fp32"]["onnxruntime"]
    assert fp32.flips == 0
    assert 0 < fp32.max_difference < 1e-4
    assert set(manifest.precisions["int8"]) == {"onnxruntime", "openvino"}
    for int8 in manifest.precisions["int8"].values():
        assert int8.max_difference > fp32.max_difference
        assert int8.bytes < fp32.bytes / 2
    assert {path.name for path in exported().iterdir()} == {
        "manifest.json", "tokenizer.json", "golden.parquet", "fp32.onnx", "int8.onnx", "int8.xml", "int8.bin"
    }  # fmt: skip


def test_flips_are_the_share_of_texts_with_another_label() -> None:
    fp32 = Engine.open(exported(), "fp32").logits(TEXTS).argmax(axis=1)
    graphs = open_directory(exported(), "int8")[0].manifest.precisions["int8"]
    for runtime, graph in graphs.items():
        int8 = Engine.open(exported(), "int8", runtime=runtime).logits(TEXTS).argmax(axis=1)
        assert graph.flips == (int8 != fp32).mean()
    assert any(graph.flips for graph in graphs.values())


def test_golden_texts_are_real_and_have_probabilities_for_each_precision() -> None:
    golden = pq.read_table(exported() / "golden.parquet").to_pydict()
    assert golden["text"] == TEXTS[: exporting.GOLDEN_TEXTS]
    for precision, runtime in [
        ("fp32", "openvino"),
        ("fp32", "onnxruntime"),
        ("int8", "onnxruntime"),
        ("int8", "openvino"),
    ]:
        engine = Engine.open(exported(), precision, runtime=runtime)
        np.testing.assert_allclose(np.array(golden[engine.golden]), engine.classify(golden["text"]), atol=1e-5)


def test_the_engine_gives_what_transformers_gives() -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = exported().parent / "candidate"
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenize = AutoTokenizer.from_pretrained(directory)
    engine = Engine.open(exported(), "fp32")
    for text in ["", "a fine film", "long " * 100]:
        with torch.inference_mode():
            theirs = model(**tokenize(text, truncation=True, max_length=32, return_tensors="pt")).logits.numpy()
        np.testing.assert_allclose(engine.logits([text]), theirs, atol=1e-4)


def test_a_model_beyond_the_limits_is_not_published_and_the_old_one_stays(tmp_path: Path) -> None:
    out = tmp_path / "export"
    out.mkdir()
    (out / "manifest.json").write_text("the old one")
    limits = Export(precisions=["fp32"], max_difference=1e-12)
    with pytest.raises(
        UserError, match=r"fp32 of openvino has a logit that is .* from torch's \(export.max_difference is 1e-12\)"
    ):
        exporting.export(candidate(tmp_path / "toy"), out, TEXTS[:4], limits, temperature=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "toy"]
    assert (out / "manifest.json").read_text() == "the old one"


def test_limits_name_each_precision_its_figure_and_what_to_do() -> None:
    def entry(flips: float, difference: float) -> Graph:
        return Graph(files={"a": "0" * 64}, bytes=1, flips=flips, max_difference=difference)

    limits = Export(max_flips=0.02, max_difference=1e-3)
    exporting.check({("fp32", "onnxruntime"): entry(0, 1e-3), ("int8", "openvino"): entry(0.02, 0.5)}, limits)
    with pytest.raises(UserError) as caught:
        exporting.check({("fp32", "onnxruntime"): entry(0, 0.5), ("int8", "openvino"): entry(0.031, 0.5)}, limits)
    assert str(caught.value) == (
        "the exported model is not the trained one: int8 of openvino gives 3.10% of the texts another label "
        "(export.max_flips is 2.00%); fp32 of onnxruntime has a logit that is 0.5 from torch's "
        "(export.max_difference is 0.001): drop the precision from "
        "export.precisions (see label.precision too), or raise the limit"
    )
    with pytest.raises(UserError, match="int8 of openvino gives logits that are no numbers"):
        exporting.check({("int8", "openvino"): entry(0, 0).model_copy(update={"max_difference": float("nan")})}, limits)


def test_the_stage_measures_on_the_corpus_and_replaces_the_old_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = toy_project.PARAMS.replace("GAIN", "0").replace("label: {precision: fp32}", "label: {precision: int8}")
    wanted = "export: {precisions: [int8, fp16], parity_texts: 30, max_flips: 1.0}"
    Path("params.yaml").write_text(text.replace("export: {precisions: [fp32]}", wanted))
    EXPORT.mkdir()
    (EXPORT / "leftover").touch()
    candidate(MODELS / "toy-llm-1", max_tokens=16, truncation="head_tail")
    BEST.write({"candidate": "toy-llm-1", "temperature": 1})
    SAMPLE.write([Sampled("0", TEXTS[0], "0", "train")])
    CORPUS.write(Document(str(i), text, str(i)) for i, text in enumerate(TEXTS * 3))
    PREDICTIONS.write([Prediction("g", "toy-llm-1", "test", "positive", [0.0, 1.0, 2.0])])
    export.run(params.load())
    assert {path.name for path in EXPORT.iterdir()} == {
        "manifest.json", "tokenizer.json", "golden.parquet", "drift.json",
        "int8.onnx", "int8.xml", "int8.bin", "fp16.onnx",
    }  # fmt: skip
    profile = profiles.read(EXPORT)
    assert profile is not None
    assert (profile.texts, profile.labels) == ((3 * len(TEXTS) - 1) // 2, LABELS)
    assert Json(EXPORT / "manifest.json").read()["drift"] == sha256(EXPORT / "drift.json")
    assert not list(tmp_path.glob(".export*"))
    figures = metrics("export").read()
    assert (figures["candidate"], figures["texts"], set(figures["precisions"])) == ("toy-llm-1", 30, {"int8", "fp16"})
    assert figures["precisions"]["fp16"]["onnxruntime"]["max_difference"] < 0.05
    fp16 = Engine.open(EXPORT, "fp16")
    fp16.prove()
    assert fp16.logits(["a fine film"]).dtype == np.float32
    assert fp16.model_hash == figures["model_hash"] != open_directory(exported(), "fp32")[0].manifest.model_hash


def test_weights_beyond_the_protobuf_limit_stand_beside_the_graph(tmp_path: Path) -> None:
    import onnx_ir

    graph = onnx_ir.load(exported() / "fp32.onnx")
    graphs.save(graph, tmp_path / "fp32.onnx", max_bytes=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32.onnx", "fp32.onnx.data"]
    assert (tmp_path / "fp32.onnx").stat().st_size < 200_000
    assert len(onnx.load(tmp_path / "fp32.onnx").graph.node) == len(onnx.load(exported() / "fp32.onnx").graph.node)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed")
    params = Export(precisions=["bf16"], max_flips=0.1)
    exporting.export(candidate(directory / "toy"), directory / "export", TEXTS, params, temperature=2.0)
    return directory / "export"


def test_bf16_is_exported_measured_and_served_without_transformers(packed: Path) -> None:
    graph = open_directory(packed, "bf16")[0].manifest.precisions["bf16"]["torch"]
    assert set(graph.files) == {"bf16.safetensors", "bf16.json"}
    assert graph.bytes == sum((packed / name).stat().st_size for name in graph.files)
    assert 1e-3 < graph.max_difference < 0.2  # of logits about 4 wide, from rounding the weights
    assert pq.read_schema(packed / "golden.parquet").names == ["text", "bf16 torch"]
    code = (
        "import sys; from pathlib import Path; from serving.engine import Engine\n"
        "engine = Engine.open(Path(sys.argv[1]), 'bf16'); engine.prove(); print(engine.runtime)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'transformers', 'pipeline', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, packed], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["torch"]


def test_bf16_of_torch_gives_what_fp32_of_onnxruntime_gives_but_for_rounding(packed: Path) -> None:
    import torch

    engine, fp32 = Engine.open(packed, "bf16", max_batch_tokens=100), Engine.open(exported(), "fp32")
    texts = [*TEXTS, "", "🙂" * 300, "x" * 5000]
    together = engine.logits(texts)
    rounding = 0.2 if torch.cuda.is_available() else 1e-5  # of activations, which are in bf16 on a GPU
    np.testing.assert_allclose(together, np.concatenate([engine.logits([text]) for text in texts]), atol=rounding)
    assert (together.argmax(axis=1) == fp32.logits(texts).argmax(axis=1)).mean() > 0.95
    assert engine.classify([]).shape == (0, 3)


def test_an_encoder_that_torch_cannot_pack_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    toy = candidate(tmp_path / "toy")
    config = DistilBertConfig(num_labels=3, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    DistilBertForSequenceClassification(config).save_pretrained(toy)
    with pytest.raises(
        UserError, match=r"can't run this encoder in bf16: it is of the kind 'distilbert', not one of bert"
    ):
        exporting.export(toy, tmp_path / "export", TEXTS, Export(precisions=["fp32", "bf16"]), temperature=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_onnxruntime_asks_for_a_gpu_where_it_knows_one_but_not_for_int8() -> None:
    from serving.runtimes.onnxruntime_ import OnnxRuntime, providers

    gpu = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers(Path("fp16.onnx"), gpu) == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    assert providers(Path("int8.onnx"), gpu) == ["CPUExecutionProvider"]
    assert providers(Path("fp16.onnx"), ["AzureExecutionProvider", "CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    runtime = OnnxRuntime(exported() / "fp32.onnx", 0, 1)
    assert runtime.device in ("cpu", "cuda")
    rows = [[np.arange(5, 5 + n) for n in lengths] for lengths in ((3, 9), (30,), (1, 2, 3))]
    kept = list(runtime.logits(rows))  # results of one batch are not overwritten by the next
    for batch, logits in zip(rows, kept, strict=True):
        np.testing.assert_allclose(logits, np.concatenate(list(runtime.logits([row] for row in batch))), atol=1e-5)
