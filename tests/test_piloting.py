"""The first answers are judged as parse will judge them, and stop what would be money thrown away."""

import re
from pathlib import Path

import numpy as np
import pytest
import toy_project

from pipeline import params
from pipeline.artifacts import GOLD, LABELS, REJECTED, RESPONSES, SAMPLE, TEACHER, Gold, Response, Sampled
from pipeline.parsing import Reason, Verdict
from pipeline.piloting import Judge, Tally, objection
from pipeline.responses import Answer, ErrorKind
from pipeline.stages import parse


def loaded(parse_block: str = "{}", prompt: str = 'user: "{text}"') -> params.Params:
    text = toy_project.PARAMS.replace("GAIN", "0.0").replace("parse: {}", f"parse: {parse_block}")
    Path("params.yaml").write_text(text.replace('user: "{text}"', prompt))
    return params.load()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(text: str | None, finish_reason: str = "stop", key: str = "k") -> Answer:
    return Answer(key, text, None, finish_reason, 5, 1, 0.1, False)


def scored(*log_probabilities: float, key: str = "k") -> Answer:
    return Answer(key, None, list(log_probabilities), "choice", 5, 0, 0.1, False)


def sure(label: str) -> Verdict:
    return Verdict(label, [1.0, 0.0])


NONE = Verdict(None, [], Reason.EMPTY)


@pytest.mark.parametrize(
    ("labels", "empty", "min_yield", "expected"),
    [
        (["positive", "negative"] * 10, 0, 0.5, None),
        (["positive", "negative"] * 5, 10, 0.5, None),
        (["positive", "negative"] * 5, 11, 0.5, "only 48% of the first 21 answers give a label .* 'empty answer', 11"),
        (["positive", "negative"] * 4, 11, 0.5, None),  # 19 say nothing
        ([], 20, 0.5, "only 0% of the first 20"),
        ([], 20, 0.0, None),
        (["positive"] * 20, 0, 0.5, "all of the first 20 answers say 'positive'"),
        (["positive"] * 15, 5, 0.5, "all of the first 20 answers .*say 'positive'"),
        (["positive"] * 19, 0, 0.5, None),
        (["positive"] * 99 + ["negative"], 0, 0.5, None),
    ],
)
def test_the_sample_objects(labels: list[str], empty: int, min_yield: float, expected: str | None) -> None:
    why = objection([*map(sure, labels), *[NONE] * empty], [], min_yield)
    assert (why is None) if expected is None else re.search(expected, why or "")


def gold(right: dict[str, int], wrong: dict[str, int]) -> list[tuple[str, Verdict]]:
    other = {"positive": "negative", "negative": "positive"}
    return [(label, sure(label)) for label, n in right.items() for _ in range(n)] + [
        (label, sure(other[label])) for label, n in wrong.items() for _ in range(n)
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ({"positive": 10, "negative": 1}, {"negative": 9}, None),
        ({"positive": 10}, {"negative": 10}, "right on 50% of 20 gold texts, no better .* 'positive' (50%)"),
        ({"positive": 5, "negative": 5}, {"positive": 5, "negative": 5}, "right on 50% of 20 gold texts"),
        (
            {"positive": 8, "negative": 72},
            {"positive": 12, "negative": 8},
            "right on 80% .* always saying 'negative' (80%)",
        ),
        ({"positive": 9, "negative": 72}, {"positive": 11, "negative": 8}, None),  # imbalanced, and a little better
        ({"positive": 9}, {"negative": 10}, None),  # 19 say nothing
        ({"positive": 100}, {}, None),  # gold of one class can't be beaten
        ({"positive": 50}, {"positive": 50}, None),
    ],
)
def test_gold_objects(right: dict[str, int], wrong: dict[str, int], expected: str | None) -> None:
    why = objection([], gold(right, wrong), 0.5)
    assert (why is None) if expected is None else all(part in (why or "") for part in expected.split(" .* "))


def test_gold_without_a_label_is_wrong() -> None:
    half = [("positive", sure("positive"))] * 10 + [("negative", NONE)] * 10
    assert objection([], half, 0.5) is not None


CASES = {
    "none": "{calibration: none}",
    "batch": "{calibration: batch}",
    "prior": "{calibration: batch, prior: {negative: 0.8, positive: 0.2}, min_confidence: 0.6}",
    "contextual": "{calibration: contextual}",
    "auto": "{calibration: auto}",
}


@pytest.mark.parametrize("block", CASES.values(), ids=CASES)
def test_a_judge_says_what_parse_says(block: str) -> None:
    made, random = loaded(block), np.random.default_rng(0)
    sample = [scored(*random.normal([-2, -3], 1), key=f"s{i}") for i in range(60)]
    people = [scored(*random.normal([-2, -3], 1), key=f"g{i}") for i in range(30)]
    free = [scored(-1.0, -2.5, key="f0"), scored(-1.5, -1.6, key="f1")]
    judge = Judge(made, sample, free, [("positive", answer) for answer in people])
    verdicts = parsed(made, sample, people, free)
    unsure = (None, Reason.UNSURE, [])  # of gold, whose rejections are not written
    for answer in sample + people:
        verdict, (label, reason, probabilities) = judge(answer), verdicts.get(answer.key, unsure)
        assert (verdict.label, verdict.reason) == (label, reason)
        if label is not None:
            np.testing.assert_allclose(verdict.probabilities, probabilities)


def test_a_judge_reads_text_as_parse_does() -> None:
    made = loaded()
    texts = [
        "Positive.",
        "not positive",
        "",
        None,
        "positive or negative",
        "I think: negative",
        "no idea",
        '{"label": "positive"}',
    ]
    sample = [said(text, key=f"s{i}") for i, text in enumerate(texts)]
    sample += [said(None, reason, key=f"r{reason}") for reason in ("missing", "refused", "content_filter")]
    sample += [said("posi", "length", key="cut"), Answer.failed("failed", ErrorKind.TIMEOUT, "slow")]
    sample += [said("negative", key=f"more{i}") for i in range(20)] + [said("positive", key="p")]
    verdicts = parsed(made, sample, [], [])
    for answer in sample:
        verdict = Judge(made, sample)(answer)
        assert (verdict.label, verdict.reason) == verdicts[answer.key][:2]


def test_a_judge_knows_of_reasoning() -> None:
    prompt = 'user: "{text}", reasoning: true'
    text = toy_project.PARAMS.replace("GAIN", "0.0").replace('user: "{text}"', prompt)
    text = text.replace("{kind: local}", "{kind: vllm, model: m, max_answer_tokens: 99}")
    Path("params.yaml").write_text(text)
    answer = said("Some say it is positive. I do not: it is slow.\nAnswer: negative")
    assert Judge(params.load())(answer).label == "negative"


def parsed(
    made: params.Params, sample: list[Answer], people: list[Answer], free: list[Answer]
) -> dict[str, tuple[str | None, str | None, list[float]]]:
    """What the stage parse makes of the same answers, by key: label, reason, probabilities."""
    SAMPLE.write(Sampled(a.key, "text", a.key, "train") for a in sample)
    GOLD.write(Gold(a.key, "text", a.key, "positive", "validation") for a in people)
    rows = [
        (a, purpose) for purpose, some in (("sample", sample), ("gold", people), ("content_free", free)) for a in some
    ]
    RESPONSES.write(
        Response(
            a.key, purpose, a.key, "p", "m", "{}", a.answer, a.log_probabilities, a.finish_reason, 5, 1, 0.1, False,
            a.error, None,
        )
        for a, purpose in rows
    )  # fmt: skip
    parse.run(made)
    found = {row.id: (row.label, None, row.probabilities) for table in (LABELS, TEACHER) for row in table}
    return found | {row.id: (None, row.reason, []) for row in REJECTED}


def test_before_the_pilot_nothing_is_calibrated() -> None:
    made = loaded("{calibration: batch}")
    assert Judge(made)(scored(-1.0, -2.0)).label == "negative"
    assert Judge(loaded("{calibration: contextual}"), [scored(-1.0, -2.0)])(scored(-1.0, -2.0)).label == "negative"


def test_the_live_line() -> None:
    made = loaded()
    tally = Tally(Judge(made), made.task.names)
    assert str(tally) == ""
    tally.add([said(None), said("")])
    assert str(tally) == "yield 0%, negative 0%, positive 0%"
    tally.add([said("positive")] * 3 + [said("negative")] * 3)
    assert str(tally) == "yield 75%, negative 50%, positive 50%"
