"""Thresholds that keep an error target: the guarantee whatever scores are worth, and the cheapest plan that has it."""

from math import comb

import numpy as np
import pytest

from pipeline import deferring
from pipeline.deferring import Belief, Opinions, Path, Prices, Scores, Trust
from pipeline.scoring import Ints, softmax

PRICES = Prices(1.0, 100.0)


def opinions(texts: int, seed: int = 0, labels: int = 3) -> tuple[Opinions, Ints]:
    """An encoder that is right on 7 of 10 texts, and an LLM that is right on 9, silent on some, and too sure."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, labels, texts)
    encoder = softmax(random.normal(0, 1.2, (texts, labels)) + 1.6 * np.eye(labels)[truth])
    llm = softmax(3 * (random.normal(0, 1, (texts, labels)) + 2.6 * np.eye(labels)[truth]))
    llm[random.random(texts) < 0.02] = np.nan
    return Opinions(encoder, llm), truth


def right(some: Opinions, truth: Ints) -> tuple[np.ndarray, np.ndarray]:
    first, second = some.labels()
    return first == truth, second == truth


def part(some: Opinions, rows: slice | Ints) -> Opinions:
    return Opinions(some.encoder[rows], some.llm[rows])


@pytest.mark.parametrize(("gold", "corpus", "target"), [(30, 200, 0.1), (59, 1000, 0.05), (20, 60, 0.12)])
def test_the_limit_is_the_largest_that_a_bad_corpus_shows_too_rarely(gold: int, corpus: int, target: float) -> None:
    errors = int(target * corpus) + 1  # of the best corpus that is too bad
    seen = [comb(errors, k) * comb(corpus - errors, gold - k) / comb(corpus, gold) for k in range(gold + 1)]
    limit = deferring.allowed(gold, corpus, target, 0.95)
    assert sum(seen[: limit + 1]) <= 0.05 < sum(seen[: limit + 2])


def test_limit_bound_and_gold_needed_agree() -> None:
    needed = deferring.gold_needed(0.02, 0.95)
    assert needed == 149
    assert deferring.allowed(needed, 10**9, 0.02, 0.95) == 0
    assert deferring.allowed(needed - 1, 10**9, 0.02, 0.95) == -1
    assert deferring.bound(0, needed, 0.95) <= 0.02 < deferring.bound(0, needed - 1, 0.95)
    limit = deferring.allowed(500, 10**9, 0.05, 0.9)
    assert deferring.bound(limit, 500, 0.9) <= 0.05 < deferring.bound(limit + 1, 500, 0.9)
    assert deferring.allowed(10, 10, 0.1, 0.95) == 1  # gold is the whole corpus
    assert deferring.bound(10, 10, 0.95) == 1.0


def test_testing_stops_at_the_first_failure() -> None:
    assert deferring.certified([0, 1, 3, 1, 0], 1) == 1
    assert deferring.certified([0, 1, 1], 1) == 2
    assert deferring.certified([2, 0], 1) == -1


def test_a_path_leads_from_people_to_cheaper_plans() -> None:
    some, truth = opinions(1_000)
    scores = Trust.fit(part(some, slice(300)), truth[:300])(part(some, slice(300, None)))
    path = Path.lay(scores, PRICES)
    first, second, people = path.routes(scores)
    assert people[:, 0].all()
    assert (first.astype(int) + second + people == 1).all()
    asked = np.where(np.isfinite(path.llm), 1 - first.mean(axis=0), 0.0)
    money = PRICES.llm * asked + PRICES.person * people.mean(axis=0)
    doubt = np.where(scores.llm >= 0, 1 - scores.llm, 0.0)
    risk = (first * (1 - scores.encoder)[:, None] + second * doubt[:, None]).mean(axis=0)
    assert (np.diff(money) < 0).all()
    assert (np.diff(risk) > -1e-12).all()
    assert first[:, -1].all()  # nothing is cheaper than the encoder alone
    silent = np.isnan(part(some, slice(300, None)).llm).any(axis=1)
    assert not second[silent].any()


def test_the_target_holds_whatever_the_scores_are_worth() -> None:
    random, target, missed, shares = np.random.default_rng(1), 0.05, np.zeros(3), np.zeros(3)
    some, truth = opinions(3_000)
    for _ in range(60):
        order = random.permutation(3_000)
        known, held, corpus = order[:200], order[200:600], order[600:]
        trust = Trust.fit(part(some, known), truth[known])
        good = [trust(part(some, rows)) for rows in (held, corpus)]
        noise = [Scores(random.random(len(rows)), random.random(len(rows))) for rows in (held, corpus)]
        swapped = [Scores(-scores.encoder + 1, scores.llm) for scores in good]
        gold = random.permutation(len(corpus))[:150]
        hits = right(part(some, corpus), truth[corpus])
        for kind, (seen, scores) in enumerate((good, noise, swapped)):
            path = Path.lay(seen, PRICES)
            errors = path.errors(Scores(scores.encoder[gold], scores.llm[gold]), (hits[0][gold], hits[1][gold]))
            point = path.at(deferring.certified(errors, deferring.allowed(150, len(corpus), target, 0.95)))
            missed[kind] += point.errors(scores, hits)[0] > target * len(corpus)
            shares[kind] += point.routes(scores)[2].mean() / 60
    assert (missed <= 8).all()  # 3 are expected at most; more than 8 have a probability below 1 %
    assert shares[0] < 0.5 * shares[1]


def test_belief_without_texts_is_what_was_expected_and_with_many_is_calibrated() -> None:
    nothing = np.zeros((0, 1)), np.zeros(0, dtype=int), np.zeros(0, dtype=bool)
    plain = Belief.fit(*nothing, labels=2, expected=np.array([1.0]))
    np.testing.assert_allclose(plain(np.array([[0.0], [2.0]]), np.array([0, 1])), [0.5, 1 / (1 + np.exp(-2))])
    some, truth = opinions(8_000)
    trust = Trust.fit(part(some, slice(4_000)), truth[:4_000])
    scores, hits = trust(part(some, slice(4_000, None))), right(part(some, slice(4_000, None)), truth[4_000:])
    given = scores.llm >= 0
    for score, hit in ((scores.encoder, hits[0]), (scores.llm[given], hits[1][given])):
        for group in np.array_split(np.argsort(score), 5):
            assert score[group].mean() == pytest.approx(hit[group].mean(), abs=0.06)


def test_more_evidence_is_never_less_reason_to_believe() -> None:
    random = np.random.default_rng(0)
    evidence = random.normal(0, 2, (40, 1))
    found = Belief.fit(evidence, np.zeros(40, dtype=int), evidence[:, 0] < 0, labels=2, expected=np.array([1.0]))
    assert found.slopes[0] == 0.0


def test_an_llm_that_never_answers_is_never_asked() -> None:
    some, truth = opinions(600)
    mute = Opinions(some.encoder, np.full_like(some.llm, np.nan))
    scores = Trust.fit(part(mute, slice(200)), truth[:200])(part(mute, slice(200, None)))
    assert np.isinf(Path.lay(scores, PRICES).llm).all()


def test_what_is_foreseen_is_near_what_testing_finds() -> None:
    random = np.random.default_rng(2)
    some, truth = opinions(6_000)
    trust = Trust.fit(part(some, slice(500)), truth[:500])
    held, corpus = trust(part(some, slice(500, 1500))), trust(part(some, slice(1500, None)))
    path, hits = Path.lay(held, PRICES), right(part(some, slice(1500, None)), truth[1500:])
    limit = deferring.allowed(250, 4_500, 0.05, 0.95)
    guess = path.at(deferring.foreseen(path, held, 250, limit)).routes(corpus)[2].mean()
    found = []
    for _ in range(100):
        gold = random.permutation(4_500)[:250]
        errors = path.errors(Scores(corpus.encoder[gold], corpus.llm[gold]), (hits[0][gold], hits[1][gold]))
        found.append(path.at(deferring.certified(errors, limit)).routes(corpus)[2].mean())
    assert np.quantile(found, 0.1) <= guess <= np.quantile(found, 0.9)
