"""The sample is uniform, the same on every machine, and nested in larger ones."""

import random
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from scipy.stats import chisquare

from pipeline.artifacts import CORPUS, GOLD, SAMPLE, Document, Gold, metrics
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.sampling import draw, split
from pipeline.stages import sample
from serving.corpus import text_hash


def document(number: int, text: str = "") -> Document:
    text = text or f"text {number}"
    return Document(f"d{number:03}", text, text_hash(text))


DOCUMENTS = [document(number) for number in range(200)]
FROZEN = ["d028", "d055", "d100", "d074", "d119", "d196", "d095", "d094"]
FROZEN_SIDES = [False, True, False, True, False, False, False, False]


def ids(documents: list[Document]) -> list[str]:
    return [document.id for document in documents]


def test_the_sample_of_a_seed_is_frozen() -> None:
    drawn, eligible = draw(DOCUMENTS, 8, 20240321, set())
    assert eligible == 200
    assert ids(drawn) == FROZEN
    assert [d.split == "held_out" for d in split(drawn, 0.3, 20240321)] == FROZEN_SIDES


def test_order_does_not_matter_and_samples_are_nested() -> None:
    drawn, _ = draw(DOCUMENTS, 60, 5, set())
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    assert draw(shuffled, 60, 5, set())[0] == drawn
    assert draw(shuffled, 50, 5, set())[0] == drawn[:50]
    assert split(drawn, 0.2, 5)[:50] == split(drawn[:50], 0.2, 5)
    assert draw(DOCUMENTS, 60, 6, set())[0] != drawn


def test_every_text_is_equally_likely() -> None:
    population, size, seeds = DOCUMENTS[:40], 10, 3000
    drawn = Counter(i for seed in range(seeds) for i in ids(draw(population, size, seed, set())[0]))
    # Drawing without replacement makes counts less variable than a multinomial: scale to chi-square of 39 degrees.
    spread = (40 - 1) / 40 / (1 - size / 40)
    statistic = chisquare([drawn[i] for i in ids(population)]).statistic * spread
    assert 18 < statistic < 72  # 0.1 % on either side
    held_out = sum(row.split == "held_out" for seed in range(seeds) for row in split(population, 0.3, seed))
    assert held_out / seeds / 40 == pytest.approx(0.3, abs=0.006)


def test_a_text_is_drawn_once_and_its_smallest_id_stands_for_it() -> None:
    repeated = [document(number, f"text  {number % 20} ") for number in range(200)]
    for rows in (repeated, repeated[::-1], random.Random(1).sample(repeated, 200)):
        drawn, eligible = draw(rows, 50, 3, set())
        assert sorted(ids(drawn)) == ids(DOCUMENTS[:20])
        assert eligible == 200
        assert sorted(ids(draw(rows, 7, 3, set())[0])) == sorted(ids(drawn)[:7])


def test_what_is_excluded_is_never_drawn() -> None:
    excluded = {d.text_hash for d in DOCUMENTS[::2]}
    drawn, eligible = draw(DOCUMENTS, 1000, 3, excluded)
    assert sorted(ids(drawn)) == ids(DOCUMENTS[1::2])
    assert eligible == 100


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
def test_both_sides_of_a_small_sample_have_texts(share: float) -> None:
    for seed in range(20):
        assert {row.split for row in split(DOCUMENTS[:2], share, seed)} == {"train", "held_out"}


def params(**values: object) -> Params:
    raw = YAML(typ="safe", pure=True).load(Path(__file__).parent.parent / "params.yaml")
    raw["sample"].update(values)
    return Params.model_validate(raw)


def gold(number: int, side: str) -> Gold:
    d = document(number)
    return Gold(f"gold{number}", f" {d.text}\n", d.text_hash, "positive", side)


def test_the_stage_keeps_evaluation_texts_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CORPUS.write(DOCUMENTS)
    GOLD.write([gold(0, "train"), gold(1, "validation"), gold(2, "test")])
    sample.run(params(size=1000, held_out_share=0.25))
    rows = list(SAMPLE)
    assert sorted(row.id for row in rows) == ["d000", *ids(DOCUMENTS[3:])]
    figures = metrics("sample").read()
    held_out = sum(row.split == "held_out" for row in rows)
    assert 25 < held_out < 75
    assert (figures["sampled"], figures["eligible"], figures["held_out"]) == (198, 198, held_out)
    before = SAMPLE.path.read_bytes()
    sample.run(params(size=1000, held_out_share=0.25))
    assert SAMPLE.path.read_bytes() == before


def test_nothing_to_sample_is_said_and_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"gold.parquet does not exist: run the stages before"):
        sample.run(params())
    CORPUS.write(DOCUMENTS[:2])
    GOLD.write([])
    sample.run(params())
    before = SAMPLE.path.read_bytes()
    GOLD.write([gold(1, "test")])
    with pytest.raises(
        UserError, match=rf"only 1 of the 2 texts in data/corpus.parquet .*sample.size is {params().sample.size}.*gold"
    ):
        sample.run(params())
    assert SAMPLE.path.read_bytes() == before
