"""dvc.yaml, the params type and the code describe the same pipeline. Without this a stale cache is silent."""

import ast
import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import artifacts, dag, params

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT, *sorted(path.parent for path in (ROOT / "studies").glob("*/params.yaml"))]
STAGES = YAML(typ="safe", pure=True).load(ROOT / "pipeline/template/dag.yaml")["stages"]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_dvc_yaml_lists_every_module_that_a_stage_imports(project: Path) -> None:
    code = os.path.relpath(ROOT, project)
    wanted = dag.render(params.load(project / "params.yaml"), code)
    assert (project / "dvc.yaml").read_text() == wanted, "run `make dag`"


def test_every_stage_is_there_in_order() -> None:
    names = [
        "ingest",
        "sample",
        "grow",
        "annotate",
        "consult",
        "parse",
        "train",
        "evaluate",
        "export",
        "register",
        "label",
        "defer",
        "certify",
        "report",
    ]
    assert list(STAGES) == names
    assert sorted(path.stem for path in (ROOT / "pipeline/stages").glob("[a-z]*.py")) == sorted(names)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_blocks_of_params_that_it_reads(stage: str) -> None:
    tree = ast.parse((ROOT / f"pipeline/stages/{stage}.py").read_text())
    reads = {
        node.attr.removesuffix("_")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    } & {name.removesuffix("_") for name in params.Params.model_fields}
    declared = {entry.strip("?~").split(".")[0] for entry in STAGES[stage]["params"]}
    assert reads <= declared


def test_outs_are_named_artifacts() -> None:
    values = vars(artifacts).values()
    known = {str(value.path) for value in values if isinstance(value, artifacts.Table | artifacts.Json)}
    known |= {str(value) for value in values if isinstance(value, Path)}
    known |= {str(artifacts.metrics(stage).path) for stage in STAGES}
    for stage, block in STAGES.items():
        outs = [out if isinstance(out, str) else next(iter(out)) for out in block.get("outs", [])]
        assert {out.split("/${")[0] for out in outs} <= known, stage


def test_a_change_anywhere_below_a_stage_is_seen() -> None:
    assert "serving/tokenizing.py" in dag.sources("pipeline.stages.train")  # imported by a module that train imports
    assert "pipeline/report.html.j2" in dag.sources("pipeline.stages.report")  # named, not imported
    assert "pipeline/registered_model.py" in dag.sources("pipeline.stages.register")
    assert not any(name.startswith("pipeline/annotators") for name in dag.sources("pipeline.stages.parse"))


OPTIONAL = """stages:
  label:
    deps: [export]
    params: [label]
    outs: [labels]
  certify:
    deps: [labels, "${certify.gold.path}"]
    params: [task.labels, certify]
    outs: [certificate.json, metrics/certify.json: {cache: false}]
  report:
    deps: [labels, certificate.json, metrics/certify.json, metrics]
    params: [report, certify?, certify.gold.path?]
"""


def test_what_params_yaml_does_not_have_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag, "_TEMPLATE", tmp_path / "dag.yaml")
    (tmp_path / "dag.yaml").write_text(OPTIONAL)
    with_it = params.load(ROOT / "params.yaml").model_copy(
        update={"certify": params.Certify.model_validate({"gold": {"path": "gold.csv"}})}  # DVC knows no defaults
    )
    without = with_it.model_copy(update={"certify": None})
    assert dag.stages(with_it) == ["label", "certify", "report"]
    assert dag.render(with_it) == OPTIONAL.replace("?", "")
    assert dag.stages(without) == ["label", "report"]
    assert "certi" not in dag.render(without)
    assert "    deps: [labels, metrics]\n    params: [report]\n" in dag.render(without)


def test_a_sample_grows_or_is_drawn_at_once() -> None:
    demo = params.load(ROOT / "params.yaml")
    growing = demo.model_copy(update={"rounds": params.Rounds(candidate="tfidf", held_out=50, first=50)})
    names = [name for name in STAGES if name in dag.stages(demo)]
    assert "grow" not in names
    assert dag.stages(growing) == ["grow" if name == "sample" else name for name in names]
    for settings in (demo, growing):
        text = dag.render(settings)
        assert text.count("outs: [data/sample.parquet, ") == 1
        assert "    deps: [data/sample.parquet, data/gold.parquet]\n" in text  # of annotate
        assert "~" not in text
        assert ("plots/rounds.csv" in text) == (settings is growing)


def test_a_project_without_gold_does_not_depend_on_gold() -> None:
    demo = params.load(ROOT / "params.yaml")
    ingest = demo.ingest.model_copy(update={"gold_train": None, "gold_test": None})
    text = dag.render(demo.model_copy(update={"ingest": ingest}))
    assert "ingest.corpus.path" in text
    assert "gold_t" not in text
    assert "pipeline/" not in text.replace("python -m pipeline", "")


def test_a_path_that_is_a_default_is_written_out_for_dvc_knows_no_defaults() -> None:
    settings = params.load(ROOT / "params.yaml")
    default = params.Certify.model_validate({})
    assert "deps: [labels, data/gold_corpus.csv]" in dag.render(settings.model_copy(update={"certify": default}))
    given = params.Certify.model_validate({"gold": {"path": "gold.csv"}})
    assert 'deps: [labels, "${certify.gold.path}"]' in dag.render(settings.model_copy(update={"certify": given}))
