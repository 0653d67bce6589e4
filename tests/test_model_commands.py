"""models, promote, rollback and label-text, as a person meets them."""

import shutil

import pytest
import toy_project

from pipeline.commands import models
from pipeline.errors import UserError
from pipeline.stages import register

WORSE = toy_project.RIGHT | {"fine": -1.0}


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch, database):
    shutil.copy(database, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    toy_project.write()


def test_nothing_is_registered_yet():
    assert "no version yet" in models.models()
    with pytest.raises(UserError, match=r"'toys' has no champion: run `dvc repro`"):
        models.label_text("good film")
    with pytest.raises(UserError, match="no champion to roll back"):
        models.rollback()
    with pytest.raises(UserError, match="no version 'challenger'"):
        models.promote()


def test_the_table_and_a_label():
    register.run(toy_project.write())
    heading, line = models.models().splitlines()
    assert heading.split() == ["version", "alias", "candidate", "validation", "test", "created", "gate"]
    for part in ("v1", "challenger, champion", "mini-llm-1", "0.800 [0.700, 0.900]", "promoted"):
        assert part in line
    good, dull = models.label_text("good film", "dull film").splitlines()
    assert good == "positive 0.982  negative 0.018  | good film"
    assert dull.startswith("negative 0.982")
    with pytest.raises(UserError, match="not empty"):
        models.label_text("good", "  ")


def test_promotion_against_the_gate_needs_force_and_can_be_taken_back():
    register.run(toy_project.write())
    register.run(toy_project.write(WORSE, tfidf=0.5))
    assert "refused: against champion v1" in " ".join(models.models().split())
    with pytest.raises(UserError, match=r"(?s)the gate refuses v2:\n  - against champion v1 .*--force"):
        models.promote()
    assert models.promote("v2", force=True).startswith("v2 of toys is champion")
    assert models.label_text("fine film").startswith("negative 0.731")
    assert "by force" in models.models()
    assert models.rollback() == "v1 of toys is champion again, v2 no more"
    assert models.label_text("fine film").startswith("positive 0.982")
    with pytest.raises(UserError, match="had no champion before v1"):
        models.rollback()


def test_rollback_goes_back_step_by_step():
    for weight in (1.0, 2.0, 3.0):
        register.run(toy_project.write({word: weight * sign for word, sign in toy_project.RIGHT.items()}))
    assert "v2 of toys" in models.rollback()
    assert "v1 of toys" in models.rollback()
    assert "v3 of toys" in models.promote("3")
    assert "v1 of toys" in models.rollback()
