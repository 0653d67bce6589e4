"""The stage grow: stops at saturation or at the budget, resumes after a kill, leaves nothing for annotate to pay."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_project
from ruamel.yaml import YAML

from pipeline import params, responses, sections
from pipeline.artifacts import CORPUS, GOLD, LEARNT, RESPONSES, ROUNDS, SAMPLE, STORE, Document, Gold, metrics
from pipeline.commands import plan
from pipeline.errors import UserError
from pipeline.responses import ResponseStore
from pipeline.stages import annotate, grow, parse
from serving.corpus import text_hash

ROUNDS_BLOCK: dict[str, Any] = {"candidate": "tfidf", "first": 60, "growth": 1.5, "held_out": 100}
ROUNDS_BLOCK["stop"] = {"confidence_level": 0.9, "patience": 2}
WORDS = {"positive": ["good", "fine", "great"], "negative": ["bad", "dull", "poor"]}
TEXTS = 900


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Easy texts, a few of which say nothing, with answers of a teacher that errs now and then."""
    monkeypatch.chdir(tmp_path)
    chance, lines = random.Random(0), []
    documents = []
    for i in range(TEXTS):
        label = chance.choice(list(WORDS))
        said = " ".join(chance.choice(WORDS[label]) for _ in range(chance.randrange(4)))
        text = f"film {i}: {said} {chance.choice(['plot', 'cast', 'music'])}"
        documents.append(Document(f"d{i}", text, text_hash(text)))
        lines.append(json.dumps({"id": f"d{i}", "answer": label}))
    CORPUS.write(documents)
    GOLD.write(Gold(d.id, d.text, d.text_hash, "positive", "test") for d in documents[:20])
    Path("answers.jsonl").write_text("\n".join(lines) + "\n")


def loaded(size: int = 800, budget: dict[str, Any] | None = None, **block: Any) -> params.Params:
    values: Any = YAML(typ="safe", pure=True).load(toy_project.PARAMS.replace("GAIN", "0.0"))
    answers = {"kind": "recorded", "model": "m", "files": [{"path": "answers.jsonl", "answer": ["answer"]}]}
    values["annotate"] = {"annotator": answers, "prompt": {"user": "{text}"}, "gold": False, "pilot": 0}
    values["annotate"]["budget"] = budget or {}
    values["sample"], values["rounds"] = {"size": size, "seed": 1}, ROUNDS_BLOCK | block
    YAML().dump(values, Path("params.yaml"))
    return params.load()


def stored() -> set[str]:
    with responses.opened(STORE) as store:
        return store.keys()


@pytest.mark.parametrize("strategy", ["uniform", "diverse", "uncertain"])
def test_it_stops_when_more_labels_do_not_help(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = loaded(strategy=strategy)
    grow.run(settings)
    rows, found = list(SAMPLE), metrics("grow").read()
    assert found["stopped"] == "saturation"
    assert len(rows) < 800
    assert len(found["rounds"]) >= 3
    assert found["rounds"][-1]["texts"] == len(rows) == metrics("sample").read()["sampled"]
    assert found["rounds"][-1]["idle"] == settings.rounds.stop.patience  # type: ignore[union-attr]
    assert not {row.id for row in rows} & {f"d{i}" for i in range(20)}  # test gold
    assert {row.stratum for row in rows} == {"uniform", strategy}
    assert ROUNDS.read_text().splitlines()[0] == "texts,score,low,high"
    assert len(ROUNDS.read_text().splitlines()) == len(found["rounds"]) + 1
    assert sum(message.startswith("round ") for message in caplog.messages) == len(found["rounds"])
    before = stored()
    annotate.run(settings)
    assert stored() == before
    parse.run(settings)
    uniform = {row.id for row in rows if row.stratum == "uniform"}
    answers = {row.id: row.answer for row in RESPONSES}
    share = sum(answers[i] == "positive" for i in uniform) / len(uniform)
    assert metrics("parse").read()["shares"]["positive"] == pytest.approx(share)


def test_the_report_and_the_plan_speak_of_rounds() -> None:
    settings = loaded()
    assert re.search(r"LLM labels the sample and gold, at most +800 ", plan.plan())
    grow.run(settings)
    figures = metrics("grow").read()
    found = sections.ALL["grow"](figures)
    assert found is not None
    assert f"{len(figures['rounds'])} complete rounds (uniform): the last 2 brought no gain" in found.paragraphs[0]
    assert [row[0] for row in found.grids[0].rows] == [str(i + 1) for i in range(len(figures["rounds"]))]
    assert {len(row) for row in found.grids[0].rows} == {len(found.grids[0].header)}
    assert "<svg" in found.plots["Agreement by texts labelled"]
    unsaturated = sections.ALL["grow"](figures | {"stopped": "budget.tokens 9"})
    assert unsaturated is not None
    assert unsaturated.paragraphs[0].endswith("budget.tokens 9 is reached; more texts may still help.")


def test_a_kill_in_mid_round_costs_nothing_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(strategy="uncertain")
    grow.run(settings)
    calm, figures = SAMPLE.path.read_bytes(), metrics("grow").read()
    asked = stored()
    for path in (SAMPLE.path, STORE, *LEARNT.iterdir()):
        path.unlink()
    add, left = ResponseStore.add, [0]

    def breaking(*arguments: Any) -> None:
        add(*arguments)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResponseStore, "add", breaking)
    for rounds in (1, 1):  # killed after the answers of the first round came, then after those of the second
        left[0] = rounds
        with pytest.raises(KeyboardInterrupt):
            grow.run(settings)
        assert not SAMPLE.path.exists()
    assert 0 < len(stored()) < len(asked)
    grow.run(settings)  # to add an answer twice would raise
    assert SAMPLE.path.read_bytes() == calm
    assert stored() == asked
    again = metrics("grow").read()
    assert [row["score"] for row in again["rounds"]] == [row["score"] for row in figures["rounds"]]


class _Sold:
    """A recorded teacher whose answers cost ten tokens each."""

    model, decoding, gives_log_probabilities = "sold", "{}", False

    def key(self, request: Any) -> str:
        return str(request.id)

    def answers(self, requests: Any, known: Any, spending: Any) -> Iterator[list[responses.Answer]]:
        truth = {row["id"]: row["answer"] for row in map(json.loads, Path("answers.jsonl").read_text().splitlines())}
        for request in requests:
            if request.id not in known and spending.take(request.id, 9, 1):
                yield [responses.Answer(request.id, truth[request.id], None, "stop", 9, 1, 0.5, False)]


def test_a_budget_ends_the_rounds_and_what_was_paid_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.annotators.create", lambda *_: _Sold())
    with pytest.raises(UserError, match=r"annotate.budget.tokens 1,200 is reached before the first round is complete"):
        grow.run(loaded(budget={"tokens": 1200}))
    settings = loaded(budget={"tokens": 1750}, strategy="diverse")
    grow.run(settings)
    rows, found = list(SAMPLE), metrics("grow").read()
    assert found["stopped"] == "budget.tokens 1,750"
    assert len(rows) == 175
    assert len(found["rounds"]) == 1
    assert found["rounds"][0]["tokens"] == 1600
    assert {row.stratum for row in rows} == {"uniform", "diverse", "unfinished"}
    assert sum(row.weight is None for row in rows) == 15
    annotate.run(settings)
    parse.run(settings)
    assert metrics("parse").read()["labelled"] == 175


def test_the_clock_ends_the_rounds_over_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.annotators.create", lambda *_: _Sold())
    for _ in range(2):  # the second run starts where the minutes of the first one ended: 160 answers of half a second
        grow.run(loaded(max_minutes=1.3))
        assert metrics("grow").read()["stopped"] == "rounds.max_minutes 1.3"
        assert len(metrics("grow").read()["rounds"]) == 1


def test_what_does_not_fit_is_said_before_anything_is_asked() -> None:
    with pytest.raises(UserError, match=r"rounds.candidate 'other' is not defined by the block `encoders`"):
        loaded(candidate="other")
    with pytest.raises(UserError, match=r"150 has no room for rounds.held_out and rounds.first \(160 together\)"):
        loaded(size=150)
    CORPUS.write(list(CORPUS)[:60])
    with pytest.raises(UserError, match=r"only 40 texts of data/corpus.parquet can be sampled, 102 are needed"):
        grow.run(loaded())
    with pytest.raises(UserError, match="no block `rounds`"):
        grow.run(loaded().model_copy(update={"rounds": None}))
