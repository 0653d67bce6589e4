"""Profiles and the tests of drift: few false alarms, shifts found, numbers that others get as well."""

from pathlib import Path

import numpy as np
import pytest
from drifting_texts import bins, described, others, texts
from scipy import stats

from pipeline import drifting as estimating
from pipeline.drifting import Answers
from serving import drifting, profiles
from serving.drifting import Window, compare, distances, findings, tally
from serving.engine import Engine
from serving.errors import UserError
from serving.models import DRIFT, MANIFEST, open_directory
from serving.profiles import Profile
from serving.registry import _files
from serving.schemas import Manifest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    directory = tmp_path_factory.mktemp("model")
    return directory, described(directory)


@pytest.mark.parametrize(("x", "free"), [(3.2, 1), (0.0, 5), (9.5, 4), (25.0, 9), (100.0, 76), (400.0, 9)])
def test_the_tail_is_scipys(x: float, free: int) -> None:
    assert drifting.chi2_tail(x, free) == pytest.approx(stats.chi2.sf(x, free), rel=1e-9)


def test_a_comparison_is_pearsons_test_of_homogeneity() -> None:
    one, other = np.array([50, 30, 20, 0, 7]), np.array([20, 31, 40, 0, 1])
    expected = stats.chi2_contingency(np.array([one, other])[:, one + other > 0], correction=False)
    psi, p = compare(one, other)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)
    a, b = ((c[c + d > 0] + 0.5) / (c.sum() + 2) for c, d in ((one, other), (other, one)))
    assert psi == pytest.approx(((b - a) * np.log(b / a)).sum() - 3 * (1 / 107 + 1 / 92))


def test_holm_is_written_out() -> None:
    assert drifting.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])


def test_without_drift_there_are_few_alarms(model: tuple[Path, Profile]) -> None:
    directory, profile = model
    batches = np.split(bins(directory, profile, texts(8000, 11)), 40)  # of 200 texts, all against one reference
    found = [findings(distances(profile, tally(profile, batch))) for batch in batches]
    significant = np.mean([any(f.verdict != "same" for f in one) for one in found])
    assert significant <= 0.15, "0.05 and three standard errors"
    assert np.mean([any(f.verdict == "drift" for f in one) for one in found]) <= 0.05


def test_other_texts_are_found_measure_by_measure(model: tuple[Path, Profile]) -> None:
    directory, profile = model
    found = findings(distances(profile, tally(profile, bins(directory, profile, others(200)))))
    assert {f.measure: f.verdict for f in found} == dict.fromkeys(drifting.MEASURES, "drift")
    longer = texts(400, 9, words=9)
    verdicts = {f.measure: f for f in findings(distances(profile, tally(profile, bins(directory, profile, longer))))}
    assert verdicts["length"].verdict == "drift"
    assert verdicts["unseen"].psi < 0.1 < verdicts["length"].psi


def test_words_that_the_corpus_lacks_are_counted(model: tuple[Path, Profile]) -> None:
    directory, profile = model
    engine = Engine.open(directory, "fp32")
    some = ["good film", "odd odd odd film", ""]
    read = profiles.numbers(profile, some, *engine.pieces(some), engine.classify(some))
    assert read.values["unseen"].tolist() == pytest.approx([0, 3 / 6, 0])  # two special tokens each
    assert read.values["length"].tolist() == [9, 16, 0]


def test_fewer_words_that_the_corpus_lacks_are_no_drift(model: tuple[Path, Profile]) -> None:
    """The corpus's own texts have none."""
    _, profile = model
    counts = {name: np.array(of) for name, of in profile.counts.items()}
    shares = np.arange(len(counts["unseen"]))
    none, all_ = (np.where(shares == place, profile.texts, 0) for place in (0, shares[-1]))
    reference = np.where(shares == 1, profile.texts, 0).tolist()
    there = profile.model_copy(update={"counts": profile.counts | {"unseen": reference}})
    for unseen, verdict in ((none, "same"), (all_, "drift")):
        found = findings(distances(there, counts | {"unseen": unseen}))
        assert {f.measure: f.verdict for f in found}["unseen"] == verdict


def test_the_window_holds_the_last_texts(model: tuple[Path, Profile]) -> None:
    directory, profile = model
    stream = bins(directory, profile, texts(900, 21) + others(300))
    window, at = Window(profile, 250), 0
    for size in (1, 60, 60, 100, 40, 300, 7, 250, 82, 300):
        window.add(stream[at : at + size])
        at += size
        seen = stream[max(0, at - 250) : at]
        assert window.texts == len(seen)
        if at >= 100:
            assert window.findings() == findings(distances(profile, tally(profile, seen)))
        else:
            assert window.findings() == []
    assert at == 1200


def test_a_model_carries_its_profile_and_older_ones_need_none(model: tuple[Path, Profile], tmp_path: Path) -> None:
    directory, profile = model
    assert profiles.read(directory) == profile
    manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    assert DRIFT in _files(manifest, "fp32")
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / DRIFT).write_text((directory / DRIFT).read_text().replace('"texts":600', '"texts":601'))
    with pytest.raises(UserError, match=r"drift.json is not the file that was exported"):
        open_directory(tmp_path, "fp32")
    old = manifest.model_dump(mode="json")
    del old["drift"]
    (tmp_path / DRIFT).unlink()
    (tmp_path / MANIFEST).write_text(Manifest.model_validate(old).model_dump_json(exclude={"drift"}))
    assert open_directory(tmp_path, "fp32")[0].manifest.model_hash == manifest.model_hash
    assert profiles.read(tmp_path) is None


def answers(size: int, seed: int, centre: float) -> tuple[Answers, np.ndarray]:
    """A calibrated model of two labels: P(label 1) is logistic in a score."""
    random = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-random.normal(centre, 2.0, size)))
    return Answers(np.maximum(p, 1 - p), (p > 0.5).astype(int)), (random.random(size) < p).astype(int)


def test_estimates_follow_a_calibrated_model() -> None:
    known, actual = answers(4000, 1, 1.0)
    batch, truth = answers(4000, 2, 4.0)
    accuracy = (batch.predicted == truth).mean()
    assert accuracy > (known.predicted == actual).mean() + 0.08
    found = {e.name: e for e in estimating.estimates(known, actual, batch, 2)}
    for name in ("confidence", "difference", "threshold"):
        assert found[name].value == pytest.approx(accuracy, abs=0.03)
        assert found[name].low < found[name].value < found[name].high
        assert found[name].high - found[name].low < 0.06


def test_label_shift_is_undone_by_the_confusion_matrix() -> None:
    random = np.random.default_rng(4)
    recall = np.array([0.95, 0.6])

    def drawn(size: int, share: float) -> tuple[Answers, np.ndarray]:
        actual = (random.random(size) < share).astype(int)
        said = np.where(random.random(size) < recall[actual], actual, 1 - actual)
        return Answers(np.full(size, 0.8), said), actual

    known, actual = drawn(16_000, 0.2)
    batch, truth = drawn(16_000, 0.8)
    found = {e.name: e for e in estimating.estimates(known, actual, batch, 2)}
    assert found["label shift"].value == pytest.approx((batch.predicted == truth).mean(), abs=0.03)
    assert abs(found["difference"].value - (batch.predicted == truth).mean()) > 0.15, "which the others can't see"


def test_gold_is_weighted_towards_the_batch() -> None:
    random = np.random.default_rng(6)
    ours, theirs, gold = random.normal(0, 1, (1500, 3)), random.normal(0, 1, (1500, 3)), random.normal(0, 1, (3000, 3))
    theirs[:, 0] += 1
    chance = {name: 1 / (1 + np.exp(-1.5 * x[:, 0])) for name, x in (("gold", gold), ("batch", theirs))}
    right = random.random(3000) < chance["gold"]
    separated = estimating.separate(ours, theirs, gold)
    assert separated.p_value < 1e-6
    assert separated.auc == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.03)
    assert separated.psi == pytest.approx(1.0, abs=0.25)  # of a shift by one standard deviation
    estimate = estimating.weighted(right, separated.weights)
    assert right.mean() == pytest.approx(0.5, abs=0.03)
    assert estimate.value == pytest.approx(chance["batch"].mean(), abs=0.05)
    assert estimate.effective_texts is not None
    assert 400 < estimate.effective_texts < 2900


def test_the_classifier_sees_nothing_where_nothing_is() -> None:
    random = np.random.default_rng(8)
    drawn = [estimating.separate(*random.normal(0, 1, (3, 60, 5))).p_value for _ in range(60)]
    assert np.mean(np.array(drawn) < 0.05) <= 0.14
