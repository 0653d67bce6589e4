"""The order in which DVC trains candidates changes nothing: `llm` and `combined` share a phase, whoever is first."""

from pathlib import Path

import pytest
from test_finetuning import LABELS, PHASE, encoder, examples, settings

from pipeline.artifacts import CHECKPOINTS, MODELS, Json
from pipeline.learning import Learner, discard
from pipeline.training import Phase

PHASES = {"llm": [PHASE], "combined": [PHASE, Phase("gold", examples(16, 3), examples(8, 4))]}
__all__ = ["encoder"]  # the fixture


def trained(order: list[str], start: Path) -> dict[str, bytes]:
    for recipe in order:
        built = MODELS / f"tiny-{recipe}-1"
        built.mkdir(parents=True)
        facts = Learner("tiny", settings(model=str(start), epochs=2), 1, LABELS, lambda _: []).learn(
            PHASES[recipe], built
        )
        Json(built / "candidate.json").write(facts)
    return {recipe: (MODELS / f"tiny-{recipe}-1" / "model.safetensors").read_bytes() for recipe in order}


def test_a_directory_whose_removal_is_killed_is_not_there_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before it removed anything
    CHECKPOINTS.mkdir(parents=True)
    (work := tmp_path / "work").mkdir()
    (work / "phase.json").touch()
    discard(work)
    assert not work.exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (work / "model").mkdir(parents=True)
    discard(work)
    discard(work)  # nothing there
    assert not work.exists()
    assert list(CHECKPOINTS.iterdir()) == []


def test_a_shared_phase_gives_the_same_models_in_either_order(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = []
    for order in (["llm", "combined"], ["combined", "llm"]):
        (tmp_path / order[0]).mkdir()
        monkeypatch.chdir(tmp_path / order[0])
        weights.append(trained(order, encoder))
    assert weights[0] == weights[1]
    assert weights[0]["llm"] != weights[0]["combined"]
