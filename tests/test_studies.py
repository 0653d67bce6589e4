"""The studies: a run is made once and read afterwards, flips are what they say, tables put seeds together."""

from pathlib import Path

import numpy as np
import pytest
from test_finetuning import WORDS

from studies import experiments, plans, tables
from studies.corpora import Text
from studies.experiments import Experiment
from studies.tables import Cell

LABELS = ["negative", "positive"]


def texts(count: int, start: int = 0) -> list[Text]:
    return [
        Text(f"t{i}", f"a {WORDS[i % 2][i % 3]} film {i}", LABELS[i % 2], LABELS[i % 2])
        for i in range(start, start + count)
    ]


def experiment(recipe: str, **more: object) -> Experiment:
    known = {"llm": texts(60), "gold": texts(30, 100), "rest": texts(40, 200), "test": texts(50, 300)}
    return Experiment("toy", f"tfidf-{recipe}-1", LABELS, {"kind": "tfidf"}, recipe, 1, **(known | more))


@pytest.mark.parametrize("recipe", ["gold", "llm", "combined", "mixed", "weak_strong", "self_trained", "distilled"])
def test_each_recipe_runs_through_the_stage_and_learns(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"strong": texts(20, 400)} if recipe == "weak_strong" else {}
    found = experiments.run(experiment(recipe, train={"student": {"texts": 20}}, **more))
    assert found["accuracy"] == 1
    assert found["trained_on"]["gold" if recipe == "gold" else next(iter(found["trained_on"]))] > 0
    assert list(Path(".llambert/studies/toy").iterdir()) == []  # models are gone, figures stay


def test_a_run_that_is_over_is_read_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = experiments.run(experiment("gold"))
    assert experiments.run(experiment("gold", test=[], gold=[])) == first


def test_flips_are_as_many_as_asked_and_larger_shares_flip_these_and_more() -> None:
    known = texts(200)
    changed = []
    for share in (0, 0.1, 0.45):
        flipped = plans.flipped(known, share, LABELS, 3)
        changed.append({a.id for a, b in zip(known, flipped, strict=True) if a.gold != b.gold})
        assert len(changed[-1]) == round(share * 200)
    assert changed[1] < changed[2]
    three = plans.flipped(known, 1.0, [*LABELS, "mixed"], 3)
    assert {b.gold for a, b in zip(known, three, strict=True) if a.gold == "negative"} == {"positive", "mixed"}


def test_cells_put_seeds_together_and_gains_are_paired() -> None:
    a, b = Cell({1: 90.0, 2: 92.0, 3: 94.0}, 1000), Cell({1: 89.0, 2: 91.0, 4: 50.0}, 1000)
    assert str(a) == "92.00 ± 4.97 (3)"  # 4.303 * 2 / sqrt(3)
    assert a.gain(b) == "+1.00 ± 0.00"
    assert str(Cell({1: 90.0}, 100)) == "90.00 [82.56, 94.48]"
    right = np.arange(1000) < 900
    one, other = (Cell({1: 100 * r.mean()}, 1000, {1: np.packbits(r).tobytes().hex()}) for r in (right, ~right))
    assert (one.bits(1) == right).all()
    assert one.gain(other).startswith("+80.00 [+7")
    assert str(Cell({1: 0.0}, 10)) == "0.00 [0.00, 27.75]"


def test_every_study_has_a_table_without_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, figure in {
        "imdb": "96.68",
        "umls": "96.92 ± 0.10",
        "size": "94.85",
        "flips": "92.99",
        "errors": "31",
    }.items():
        assert figure in tables.write(name)
        assert Path(f"studies/results/{name}.md").is_file()
