"""A project directory with all that the stages before `register` write, and a real ONNX model that counts words."""

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import pre_tokenizers, processors

from pipeline import artifacts, params
from pipeline.artifacts import Document, Gold, Label, Prediction, Rejected, Response, Sampled, Unusable
from serving.engine import Engine
from serving.files import sha256
from serving.models import open_directory
from serving.schemas import Manifest

LABELS = ["negative", "positive"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "fine", "bad", "dull", "film"]
RIGHT = {"good": 4.0, "fine": 4.0, "bad": -4.0, "dull": -4.0}
HOSTILE = "<script>alert(1)</script> good film"

PARAMS = """
task: {name: toys, criterion: Is it <b>good</b>?, labels: {negative: [], positive: []}}
ingest:
  corpus: {path: corpus.csv}
sample: {size: 40, seed: 1}
annotate: {annotator: {kind: local}, prompt: {user: "{text}"}, price: {prompt_per_million: 2.0, per_hour: 0.0}}
parse: {}
encoders:
  mini: {kind: transformer}
  tfidf: {kind: tfidf}
train: {encoders: [mini, tfidf], recipes: [llm], seeds: [1]}
evaluate: {}
register: {model_name: toys, min_gain_over_tfidf: GAIN}
export: {precisions: [fp32]}
label: {precision: fp32}
report: {}
"""
BINS = [{"confidence": c, "accuracy": c - 0.1, "texts": 20} for c in (0.6, 0.9)]


def toy_export(directory: Path, weights: dict[str, float], labels: list[str] = LABELS) -> str:
    """Write an exported model whose logit of the second label is the sum of its words' weights; return its hash."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(directory / "tokenizer.json"))
    table = np.zeros((len(WORDS), len(labels)), dtype=np.float32)
    for word, weight in weights.items():
        table[vocabulary[word], 1] = weight
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["scores"]),
        helper.make_node("ReduceSum", ["scores", "axis"], ["logits"], keepdims=0),
    ]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "words", [ids], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, directory / "fp32.onnx")
    pq.write_table(pa.table({"text": ["good"], "fp32 onnxruntime": [[0.018, 0.982]]}), directory / "golden.parquet")
    file = directory / "fp32.onnx"
    entry = {"files": {file.name: sha256(file)}, "bytes": file.stat().st_size, "flips": 0.0, "max_difference": 0.0}
    manifest = Manifest.model_validate(
        {
            "candidate": "mini-llm-1", "labels": labels, "max_tokens": 16, "truncation": "head", "pad_id": 0,
            "temperature": 1.0, "tokenizer": sha256(directory / "tokenizer.json"),
            "golden": sha256(directory / "golden.parquet"), "parity_texts": 1,
            "precisions": {"fp32": {"onnxruntime": entry}},
            "created_with": {"onnxruntime": "1"},
        }
    )  # fmt: skip
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    return open_directory(directory, "fp32")[0].manifest.model_hash


def texts(count: int) -> list[tuple[str, str]]:
    """(text, label), both labels in turn."""
    pairs = [("good film", "positive"), ("bad film", "negative"), ("fine film", "positive"), ("dull film", "negative")]
    return [(f"{text} x{i}", label) for i in range(count) for text, label in [pairs[i % 4]]]


def write(weights: dict[str, float] = RIGHT, gold: bool = True, gain: float = 0.0, tfidf: float = 0.7) -> params.Params:
    """Fill the working directory; `weights` decide how good the encoder is, `gold` whether people labelled anything."""
    Path("params.yaml").write_text(PARAMS.replace("GAIN", str(gain)))
    toy_export(artifacts.EXPORT, weights)
    sample = [(HOSTILE, "positive"), *texts(39)]
    artifacts.CORPUS.write(Document(f"c{i}", text, f"h{i}") for i, (text, _) in enumerate(sample * 5))
    artifacts.UNUSABLE.write([Unusable("corpus.csv", 7, "empty text", "<i>")])
    split = ["held_out" if i % 4 in (1, 2) else "train" for i in range(40)]
    artifacts.SAMPLE.write(Sampled(f"s{i}", text, f"h{i}", split[i]) for i, (text, _) in enumerate(sample))
    artifacts.LABELS.write(
        Label(f"s{i}", label, [0.2, 0.8], 0.8, split[i], "k") for i, (_, label) in enumerate(sample[:38])
    )
    artifacts.REJECTED.write(Rejected(f"s{i}", "no label", "<b>who knows</b>", "train", "k") for i in (38, 39))
    answered = Response("s0", "sample", "k", "p" * 64, "m", "{}", "x", None, "stop", 9, 1, 0.1, False, None, None)
    artifacts.RESPONSES.write([answered])
    people = [(f"g{i}", text, label, "test" if i % 2 else "validation") for i, (text, label) in enumerate(double(40))]
    people = people if gold else []
    artifacts.GOLD.write(Gold(i, text, i, label, part) for i, text, label, part in people)
    wrong = {"positive": "negative", "negative": "positive"}
    artifacts.TEACHER.write(
        Label(i, wrong[label] if n < 4 else label, [0.1, 0.9], 0.9, "gold", "k")
        for n, (i, _, label, _) in enumerate(people)
    )
    held = [(f"s{i}", text, label, "held_out") for i, (text, label) in enumerate(sample[:38]) if split[i] == "held_out"]
    sets = people if gold else [(i, text, label, "validation") for i, text, label, _ in held]
    rows = [(*row, "mini-llm-1") for row in [*sets, *held]] + [(*row, "tfidf-llm-1") for row in [*sets, *held]]
    logits = Engine.open(artifacts.EXPORT, "fp32").logits([row[1] for row in rows]).tolist()
    artifacts.PREDICTIONS.write(
        Prediction(i, name, part, label, scores) for (i, _, label, part, name), scores in zip(rows, logits, strict=True)
    )
    _figures(gold, tfidf)
    return params.load()


def double(count: int) -> list[tuple[str, str]]:
    """Gold texts: each twice in a row, once for validation and once for test; the first is hostile."""
    return [(HOSTILE, "positive")] * 2 + [pair for pair in texts(count - 1) for _ in range(2)]


def _figures(gold: bool, tfidf: float) -> None:
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    rates = {name: interval for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc")}
    rates |= {"per_class": {label: {"precision": 0.8, "recall": 0.8, "support": 20} for label in LABELS}}
    score = rates | {"ece": 0.1, "ece_calibrated": 0.05, "temperature": 1.0, "agreement_with_teacher": 0.9}
    names, reference = ["mini-llm-1", "tfidf-llm-1"], "gold" if gold else "llm"
    test = {
        "texts": 40,
        "majority_class_rate": 0.5,
        "teacher": {"texts": 40, "ece": 0.1, "by_confidence": BINS, **rates},
    }
    test["paired"] = {
        "over_llm": {"value": 0.0, "low": -0.05, "high": 0.05},
        "over_tfidf": {"value": 0.1, "low": 0.01, "high": 0.2},
    }
    evaluation = {
        "best": names[0],
        "validation": {
            "reference": reference, "texts": 40,
            "candidates": {name: {"accuracy": 0.8, "macro_f1": 0.8, "mcc": 0.6} for name in names},
        },
        "test": test | {"candidates": dict.fromkeys(names, score)} if gold else None,
        "held_out": {"texts": 19, "candidates": {name: {"agreement_with_llm": interval} for name in names}},
        "recipes": {"mini-llm": {"seeds": 1, "accuracy_mean": 0.8, "accuracy_half_width": None}},
    }  # fmt: skip
    artifacts.metrics("evaluate").write(evaluation)
    best = {"candidate": names[0], "temperature": 1.0, "reference": reference, "accuracy": 0.8}
    artifacts.BEST.write(best | {"tfidf": names[1], "tfidf_accuracy": tfidf})
    curve = {
        "phase": "llm",
        "step": 5,
        "epoch": 1.0,
        "train_loss": 0.6,
        "validation_loss": 0.5,
        "validation_accuracy": 0.8,
    }
    for name in names:
        history = [curve, curve | {"step": 10, "train_loss": 0.3}] if name == names[0] else []
        facts = {
            "candidate": name, "encoder": name.split("-")[0], "recipe": "llm", "seed": 1, "labels": LABELS,
            "kind": "transformer" if history else "tfidf", "texts": {"llm": 20, "gold": 0}, "history": history,
            "seconds": 36.0, "fingerprint": "f",
        }  # fmt: skip
        artifacts.Json(artifacts.MODELS / name / "candidate.json").write(facts)
    _stages()


def _stages() -> None:
    leaks = {"test_in_train": 1}
    stages = {
        "ingest": {"documents": 200, "unusable": 1, "unusable_by_reason": {"empty text": 1}, "duplicates": 3,
                   "gold": {"train": 0, "validation": 40, "test": 40}, "leaks": leaks, "seconds": 1.0},
        "sample": {"sampled": 40, "train": 20, "held_out": 20, "eligible": 190, "seconds": 1.0},
        "annotate": {"model": "m", "answers": 40, "money": 0.008, "prompt_tokens": 4000, "answer_tokens": 0,
                     "seconds": 72.0, "cut": 0},
        "parse": {"calibration": {"method": "batch", "log_loss": {"none": 0.3}},
                  "labelled": 38, "rejected": 2, "yield": 0.95, "rejected_by_reason": {"no label": 2},
                  "shares": {"negative": 0.5, "positive": 0.5}, "teacher": {"answered": 40, "rejected": 0}},
        "export": {"candidate": "mini-llm-1", "texts": 1,
                   "precisions": {"fp32": {"onnxruntime": {"bytes": 9, "flips": 0.0, "max_difference": 0.0}}},
                   "seconds": 3.0},
        "register": {"model_name": "toys", "version": "1", "run_id": "r", "promoted": True, "reasons": [],
                     "checks": {"tfidf": {"passed": True, "sentence": "better <i>by far</i>", "gain": 0.1}}},
        "label": {"rows": 200, "shards": 1, "tokens": 900, "seconds": 0.5, "texts_per_s": 400.0, "abstained": 4,
                  "shares": {"negative": 0.4, "positive": 0.6}, "model_hash": "a" * 64, "precision": "fp32",
                  "runtime": "onnxruntime"},
    }  # fmt: skip
    for name, figures in stages.items():
        artifacts.metrics(name).write(json.loads(json.dumps(figures)))
