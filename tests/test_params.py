"""A params file that does not fit is refused before any work, every problem named with its path and what was got."""

from pathlib import Path
from typing import Any

import pytest
import toy_project
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline import params
from pipeline.errors import UserError

TOP = Path(__file__).parent.parent
FILES = [TOP / "params.yaml", *sorted(TOP.glob("studies/*/params.yaml"))]


def written(path: Path, **changes: object) -> Path:
    """The toy project's params with values changed; `__` stands for a step down, ... for a key to leave out."""
    values: Any = YAML(typ="safe", pure=True).load(toy_project.PARAMS.replace("GAIN", "0.0"))
    for key, value in changes.items():
        block, *steps = [values, *key.split("__")]
        for step in steps[:-1]:
            block = block[step]
        if value is ...:
            del block[steps[-1]]
        else:
            block[steps[-1]] = value
    YAML().dump(values, path)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        params.load(path)
    first, *lines = str(caught.value).split("\n")
    assert first == f"{path} is not valid:"
    return [line.removeprefix("  ") for line in lines]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_shipped_params_are_valid(file: Path) -> None:
    assert params.load(file).candidates


CASES = [
    ("sample__size", 0, "sample.size: Input should be greater than 0 (got 0)"),
    ("sample__size", "600", "sample.size: Input should be a valid integer (got '600')"),
    ("sample__sed", 1, "sample.sed: Extra inputs are not permitted (got 1)"),
    ("sample__seed", 2**32, f"sample.seed: Input should be less than {2**32} (got {2**32})"),
    ("sample__seed", ..., "sample.seed: Field required"),
    ("sample__held_out_share", 0, "sample.held_out_share: Input should be greater than 0 (got 0)"),
    ("task__labels", {"good": []}, "task: at least two labels are needed (got ['good'])"),
    ("task__labels", {"good": [], "bad": ["Good"]}, "task: 'good' stands for both 'good' and 'bad'"),
    ("task__labels", {0.5: [], "one": []}, "task.labels.0.5.[key]: Input should be a valid string (got 0.5)"),
    ("task__labels", {"good": [""], "bad": []}, "task.labels.good.0: String should have at least 1 character (got '')"),
    ("task__name", "../x", "task.name: String should match pattern '^[A-Za-z][A-Za-z0-9_]*$' (got '../x')"),
    ("annotate__prompt__user", "Is it?", "annotate.prompt: `{text}` must stand exactly once, in `user`"),
    ("annotate__prompt__user", "{text} {text}", "annotate.prompt: `{text}` must stand exactly once, in `user`"),
    ("annotate__prompt__system", "{text}", "annotate.prompt: `{text}` must stand exactly once, in `user`"),
    (
        "annotate__prompt",
        {"style": "completion", "system": "x", "user": "{text}"},
        "annotate.prompt: a completion prompt has no `system` part: write it at the start of `user`",
    ),
    (
        "annotate__prompt__examples",
        [{"text": "x", "label": "mixed"}],
        "params: annotate.prompt.examples use labels that task.labels does not have: ['mixed']",
    ),
    (
        "annotate__prompt__answers",
        {"positive": ["good"]},
        "params: annotate.prompt.answers must name each of ['negative', 'positive'] once",
    ),
    (
        "annotate__prompt__answers",
        {"positive": [], "negative": [""]},
        "annotate.prompt.answers.positive: List should have at least 1 item after validation, not 0 (got [])\n"
        "annotate.prompt.answers.negative.0: String should have at least 1 character (got '')",
    ),
    ("annotate__annotator__model", 5, "annotate.annotator.model: Input should be a valid string (got 5)"),
    ("encoders__mini__max_tokens", 1, "encoders.mini.max_tokens: Input should be greater than or equal to 8 (got 1)"),
    ("encoders__tfidf__words", [2, 1], "encoders.tfidf: an n-gram range goes from the shorter to the longer: [1, 2]"),
    ("train__seeds", [1, 2, 1], "train: `seeds` names something twice: [1, 2, 1]"),
    ("parse__prior", {"no": 1.0}, "params: parse.prior must give a share to each of ['negative', 'positive']"),
    ("parse__calibration", "x", "parse.calibration: Input should be 'auto', 'none', 'batch' or 'contextual' (got 'x')"),
    (
        "train__encoders",
        ["mini", "tfidf", "big"],
        "params: train.encoders names ['big'], which the block `encoders` does not define",
    ),
    (
        "train__encoders",
        ["mini"],
        "params: train.encoders needs the tfidf candidate: it is what an encoder has to beat",
    ),
    (
        "train__encoders",
        ["tfidf"],
        "params: train.encoders needs at least one encoder of kind transformer: the engine runs no other",
    ),
    (
        "train__recipes",
        ["llm", "gold"],
        "params: train.recipes ['gold'] need ingest.gold_train; without gold use [llm]",
    ),
    ("label__precision", "fp16", "params: label.precision 'fp16' is not among export.precisions"),
    ("label__precision", "bf16", "params: label.precision 'bf16' is not among export.precisions"),
    ("label__runtime", "torch", "label: runtime 'torch' can't run the precision 'fp32' (openvino and onnxruntime can)"),
    (
        "label",
        {"precision": "bf16", "runtime": "openvino"},
        "label: runtime 'openvino' can't run the precision 'bf16' (torch can)",
    ),
    (
        "export",
        {"precisions": ["fp32", "bf16"], "runtimes": ["onnxruntime", "openvino"]},
        "export: precision 'bf16' runs in torch only: add it to `runtimes`",
    ),
    (
        "export",
        {"precisions": ["int8"], "runtimes": ["torch"]},
        "export: precision 'int8' runs in openvino and onnxruntime only: add one to `runtimes`",
    ),
    ("report__machine_per_hour", -1, "report.machine_per_hour: Input should be greater than or equal to 0 (got -1)"),
    (
        "register__model_name",
        "a/b",
        "register.model_name: String should match pattern '^[A-Za-z0-9][\\w.-]*$' (got 'a/b')",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "expected"), CASES)
def test_each_problem_has_its_path_and_what_was_got(tmp_path: Path, key: str, value: object, expected: str) -> None:
    assert problems(written(tmp_path / "params.yaml", **{key: value})) == expected.split("\n")


def test_bf16_for_a_gpu_needs_two_lines(tmp_path: Path) -> None:
    gpu = {"export__precisions": ["fp32", "bf16"], "label__precision": "bf16"}
    loaded = params.load(written(tmp_path / "params.yaml", **gpu))
    assert (loaded.label.runtime, "torch" in loaded.export.runtimes) == ("auto", True)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "params.yaml", sample__size=-1, label__shard_rows=0.5, extra=1, report=...)
    assert [line.split(":")[0] for line in problems(path)] == ["sample.size", "label.shard_rows", "report", "extra"]


@pytest.mark.parametrize(
    ("what", "value"), [("annotator", {"kind": "gpt"}), ("encoder", {"kind": "tfidf", "words": None})]
)
def test_a_union_says_which_kinds_there_are(tmp_path: Path, what: str, value: object) -> None:
    key = {"annotator": "annotate__annotator", "encoder": "encoders__tfidf"}[what]
    (line,) = problems(written(tmp_path / "params.yaml", **{key: value}))
    assert line.startswith(key.replace("__", "."))
    assert ("'local', 'recorded'" if what == "annotator" else "give `words` or `chars`") in line


def test_yaml_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = toy_project.PARAMS.replace("GAIN", "0").replace("{negative: [], positive: []}", "{yes: [on], no: [off]}")
    path.write_text(text.replace("mini: {kind: transformer}", "mini: {kind: transformer, learning_rate: 2e-5}"))
    loaded = params.load(path)
    assert loaded.task.labels == {"yes": ["on"], "no": ["off"]}
    assert isinstance(encoder := loaded.encoders["mini"], params.Transformer)
    assert encoder.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"does not exist: go to a project directory, or make one \(`llambert init`\)"),
        (b"task: [", "is not readable as YAML: .*line 1"),
        (b"task: {}\ntask: {}\n", "is not readable as YAML: .*duplicate key"),
        (b"task: \xff\n", "is not readable as YAML: "),
        (b"", r"is not valid:\n  params: .*\(got None\)"),
        (b"[1]", r"is not valid:\n  params: .*\(got \[1\]\)"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=expected):
        params.load(path)


def test_candidates_stand_in_the_order_of_the_matrix_and_nothing_can_be_changed(tmp_path: Path) -> None:
    loaded = params.load(written(tmp_path / "params.yaml", train__seeds=[2, 1]))
    assert loaded.candidates == ["mini-llm-2", "mini-llm-1", "tfidf-llm-2", "tfidf-llm-1"]
    with pytest.raises(ValidationError, match="frozen"):
        loaded.sample.size = 3
