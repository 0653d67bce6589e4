"""Golden lines: answers that models give, and what becomes of them. A line more for every surprise in a real run."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.params import Task
from pipeline.parsing import Reason, TextParser

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(__file__).parents[2] / "shared" / "data"
TASKS = json.loads((GOLDEN / "tasks.json").read_text())
Line = dict[str, Any]


def read(name: str) -> list[Line]:
    return [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]


LINES, PUBLISHED = read("answers.jsonl"), read("llama2_70b.jsonl")


def parser(task: str, reasoning: bool = False) -> TextParser:
    return TextParser(Task(name=task, criterion="?", labels=TASKS[task]), reasoning)


def check(line: Line) -> None:
    verdict = parser(line["task"], line.get("reasoning", False)).parse(
        line["answer"], line.get("finish_reason", "stop")
    )
    reason = Reason[line["reason"]] if "reason" in line else None
    assert (verdict.label, verdict.reason) == (line.get("label"), reason)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['task']}, {line['why']}")
def test_golden_lines(line: Line) -> None:
    check(line)


def test_golden_lines_give_every_reason() -> None:
    given = {line["reason"] for line in LINES if "reason" in line}
    assert given == set(Reason.__members__) - {"MISSING", "UNSURE"}  # which are not of a text


@pytest.mark.parametrize("line", PUBLISHED, ids=lambda line: line["answer"].strip())
def test_answers_of_the_published_experiments(line: Line) -> None:
    check(line)
    if "label" in line and line["published"] is not None:
        assert line["label"] == list(TASKS[line["task"]])[line["published"]]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is missing: the experiments' data is not in the project")
def test_every_published_answer_has_a_golden_line() -> None:
    found = set()
    for path in sorted(DATA.glob("*/*.parquet")):
        if {"raw", "llama2_70b"} <= set(pq.read_schema(path).names):
            rows = pq.read_table(path, columns=["raw", "llama2_70b"]).to_pylist()
            found |= {(str(row["llama2_70b"]) if row["raw"] is None else row["raw"], row["llama2_70b"]) for row in rows}
    assert found == {(line["answer"], line["published"]) for line in PUBLISHED}


PIECES = [
    " ",
    "not ",
    "no, ",
    "n't",
    "{",
    '{"a":',
    "[[",
    "<think>",
    "</think>",
    "positive, ",
    "positive or ",
    "positive? ",
]
PIECES += ["answer: bad or ", "1. ", "a\u0300\u0316", "正面", "L"]


@pytest.mark.timeout(120)  # seconds; about one is needed, and minutes where time grows with the square of the length
@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_is_read_in_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    for answer, reasoning in ((text, False), (f"positive {text}", True)):
        verdict = parser("reviews", reasoning).parse(answer, "length")
        assert (verdict.label is None) is (verdict.reason is not None)


def test_one_word_of_two_labels_names_both() -> None:
    labels = {"sinir": [], "sınır": []}  # alike but for a dot, which capitals lose
    assert TextParser(Task(name="t", criterion="?", labels=labels)).parse("SINIR").reason == Reason.SEVERAL


def test_labels_of_signs_alone() -> None:
    signs = TextParser(Task(name="t", criterion="?", labels={"+": [], "-": []}))
    assert [signs.parse(answer).label for answer in ("+", " - ", "'+'", "- good", "C++")] == ["+", "-", "+", None, None]
