"""When rounds stop, what strategies draw, and that weights undo what they prefer."""

from typing import Any

import numpy as np
import pytest

from pipeline import choosing, growing
from pipeline.artifacts import Document
from pipeline.drawing import Frame, Growing, shares
from pipeline.params import Rounds, Stop

RANDOM = np.random.default_rng(7)


def test_rounds_grow_geometrically_and_the_last_is_not_a_small_one() -> None:
    assert growing.totals(500, 1.5, 2000) == [500, 750, 1125, 2000]  # 1,688 would leave a round of 312
    assert growing.totals(500, 2.0, 300) == [300]
    assert growing.totals(100, 2.0, 100) == [100]
    assert growing.totals(1, 1.01, 4) == [1, 2, 3, 4]


def flags(*right: int) -> Any:
    """Whether each of 100 texts is right: the first `right` of them."""
    return [np.arange(100) < some for some in right]


def test_a_gain_is_tested_on_the_texts_that_changed() -> None:
    before, now = flags(80, 86)
    found = growing.gain(now, before, 3, 0.9)
    assert (found.over, found.value) == (3, 0.06)
    assert found.p_value == pytest.approx(0.5**6 / 2)  # mid p: half of the chance of six gains in six
    assert found.standard_error == pytest.approx(np.std(now.astype(float) - before) / 10)
    assert growing.gain(before, now, 0, 0.9).p_value == pytest.approx(1 - 0.5**6 / 2)
    same = growing.gain(now, now, 0, 0.9)
    assert (same.value, same.p_value, same.detectable) == (0.0, 0.5, 0.0)


def test_small_gains_add_up_and_idle_rounds_end_it() -> None:
    stop = Stop(confidence_level=0.9, patience=2)
    assert growing.follow(flags(80), stop) == growing.Saturation([None], 0, False)
    creeping = growing.follow(flags(80, 82, 84), stop)  # neither step is significant, both together are
    assert [gain and gain.over for gain in creeping.gains] == [None, 0, 0]
    assert (creeping.idle, creeping.over) == (0, False)
    over = growing.follow(flags(80, 82, 84, 84, 83), stop)
    assert [gain and gain.over for gain in over.gains] == [None, 0, 0, 2, 2]
    assert (over.idle, over.over) == (2, True)
    assert not growing.follow(flags(80, 82, 84, 84, 83), Stop(patience=3)).over


def test_a_round_without_gain_passes_as_rarely_as_its_level_says() -> None:
    """2,000 pairs of rounds that differ by chance alone: a tenth of the tests may call it a gain, and no more."""
    texts, runs = 400, 2000
    changed = RANDOM.random((runs, texts)) < 0.08
    before = RANDOM.random((runs, texts)) < 0.5
    seen = sum(growing.gain(b ^ c, b, 0, 0.9).p_value < 0.1 for b, c in zip(before, changed, strict=True))
    assert 0.08 < seen / runs < 0.12


def test_a_gain_of_the_detectable_size_is_seen_four_times_of_five() -> None:
    texts, runs = 400, 1000
    u = RANDOM.random((runs, texts))
    found = [growing.gain(row < 0.09, (row >= 0.09) & (row < 0.13), 0, 0.9) for row in u]
    detectable = np.mean([gain.detectable for gain in found])
    assert detectable == pytest.approx(2.123 * np.sqrt(0.13 / texts), rel=0.03)
    assert 0.9 < np.mean([gain.p_value < 0.1 for gain in found]) <= 1  # 0.05 is more than the detectable 0.038


def test_draws_follow_their_masses() -> None:
    masses, runs = np.array([4.0, 2.0, 1.0, 1.0, 0.0]), 4000
    drawn = [choosing.draw(masses, 2, np.random.default_rng(i)) for i in range(runs)]
    first = np.bincount([d.indices[0] for d in drawn], minlength=5) / runs
    assert first == pytest.approx(masses / 8, abs=0.03)
    for found in drawn[:50]:
        a, b = found.indices
        assert a != b
        assert found.probabilities == pytest.approx([masses[a] / 8, masses[b] / (8 - masses[a])])
    assert len(choosing.draw(masses, 99, np.random.default_rng(0)).indices) == 4


def test_weighted_means_are_unbiased_and_plain_ones_are_not() -> None:
    """What is drawn by uncertainty is wrong more often; weights give back the frame's rate."""
    frame, draws, runs = 300, 60, 1500
    sure = np.linspace(0.5, 1.0, frame)
    wrong = np.random.default_rng(3).random(frame) < 1.3 * (1 - sure)
    masses = choosing.uncertain(np.stack([sure, 1 - sure], axis=1))
    plain, weighted = [], []
    for i in range(runs):
        found = choosing.draw(masses, draws, np.random.default_rng(i))
        values = wrong[found.indices]
        plain.append(values.mean())
        weighted.append((choosing.weights(found.probabilities, frame) * values).mean())
    error = np.std(weighted) / np.sqrt(runs)
    assert abs(np.mean(weighted) - wrong.mean()) < 4 * error < 0.02
    assert np.mean(plain) > wrong.mean() + 0.1
    assert choosing.weights(np.full(5, 0.2) / (1 - 0.2 * np.arange(5)), 5) == pytest.approx(np.ones(5))


def test_diverse_draws_as_much_from_a_small_cluster_as_from_a_large_one() -> None:
    films = [f"{a} film with a {b} plot" for a in ("good", "bad", "dull") for b in ("fine", "poor")] * 30
    matches = [f"{a} goal in the {b} half" for a in ("early", "late") for b in ("first", "second")] * 5
    texts = films + matches
    found = choosing.clusters(choosing.vectors(texts, 0), 10, 0)
    assert not set(found[:180]) & set(found[180:])
    masses = choosing.diverse(found)
    assert [masses[found == cluster].sum() for cluster in set(found)] == pytest.approx([1.0] * len(set(found)))
    drawn = [choosing.draw(masses, 20, np.random.default_rng(seed)).indices for seed in range(20)]
    assert np.mean(np.concatenate(drawn) >= 180) > 0.2  # and a tenth of the texts
    assert choosing.vectors(["same", "same"], 0).shape == (2, 1)  # nothing to tell apart


POOL = [Document(f"d{i}", f"text {i}", f"h{i}") for i in range(1000)]


def grown(strategy: str, sizes: list[int], seed: int = 1) -> Growing:
    params = Rounds(candidate="tfidf", strategy=strategy, first=40, held_out=50, uniform_share=0.5)  # type: ignore[arg-type]
    pool = POOL[:250] if strategy == "uniform" else POOL
    sample = Growing(Frame.of(pool, 250, params), params, seed)
    for number, total in enumerate(sizes):
        rest = len(sample.frame.rest)
        masses = np.arange(1.0, rest + 1) if strategy == "diverse" or (strategy == "uncertain" and number) else None
        sample.grow(total, number, masses)
    return sample


@pytest.mark.parametrize("strategy", ["uniform", "diverse", "uncertain"])
def test_the_uniform_stratum_is_the_beginning_of_a_random_order_whatever_the_strategy(strategy: str) -> None:
    rows = grown(strategy, [40, 100, 200]).weighted()
    assert len(rows) == len({row.id for row in rows}) == 250
    uniform = [row.id for row in rows if row.stratum == "uniform"]
    assert uniform == [d.id for d in POOL[: len(uniform)]]
    assert len(uniform) == (250 if strategy == "uniform" else 150)
    assert [row.split for row in rows[:51]] == ["held_out"] * 50 + ["train"]
    assert {row.weight for row in rows if row.stratum == "uniform"} == {1.0}
    chosen = [row.weight for row in rows if row.stratum != "uniform"]
    assert all(weight is not None and 0 < weight < 200 for weight in chosen)
    assert len(set(chosen)) == len(chosen)
    smaller = grown(strategy, [40, 100]).rows
    assert smaller == [row for row in grown(strategy, [40, 100, 200]).rows if row.round < 2]


def test_an_unfinished_round_is_trained_on_and_estimates_nothing() -> None:
    sample = grown("diverse", [40, 100])
    rows = [row for row in sample.rows if row.round == 1]
    sample.cut(1, {row.id for row in rows[::3]})
    kept = sample.weighted()
    assert [row.id for row in kept if row.round == 1] == [row.id for row in rows[::3]]
    assert {(row.stratum, row.weight) for row in kept if row.round == 1} == {("unfinished", None)}
    assert [row.weight for row in kept if row.round == 0] == [row.weight for row in grown("diverse", [40]).weighted()]


def test_shares_of_a_round() -> None:
    def of(strategy: Any, total: int) -> tuple[int, int]:
        return shares(total, Rounds(candidate="tfidf", strategy=strategy, first=40, uniform_share=0.25))

    assert of("uniform", 100) == (100, 0)
    assert of("diverse", 100) == (25, 75)
    assert of("uncertain", 40) == (40, 0)  # no encoder yet
    assert of("uncertain", 100) == (40, 60)
    assert of("uncertain", 400) == (100, 300)
