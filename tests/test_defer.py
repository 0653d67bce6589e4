"""The stage defer: thresholds from gold, the LLM for the unsure, people for the rest; killed and rerun, the same."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_project
from ruamel.yaml import YAML

from pipeline import artifacts, gold_corpus, params, responses
from pipeline.artifacts import (
    FINAL,
    GOLD,
    LABELLED,
    REVIEW,
    REVIEWED,
    STORE,
    Document,
    Gold,
    Label,
    Prediction,
    metrics,
)
from pipeline.commands import plan
from pipeline.errors import UserError
from pipeline.stages import defer, report
from serving.layout import SCHEMA

ROWS, LABELS = 2_000, toy_project.LABELS
ENDPOINT = {"kind": "openai", "model": "gpt-4o-mini", "mode": "text", "base_url": "http://127.0.0.1:9"}
RECORDED = {"kind": "recorded", "model": "m", "files": [{"path": "answers.jsonl", "answer": ["answer"]}]}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text c<i> is positive if i is odd. The encoder is right where it is sure and guesses a third of the others.

    The LLM is right but for every 25th text, and says nothing of every 40th.
    """
    monkeypatch.chdir(tmp_path)
    toy_project.write()
    write(1)


def truth(i: int) -> int:
    return i % 2


def answer(i: int) -> str | None:
    return None if i % 40 == 7 else LABELS[1 - truth(i)] if i % 25 == 3 else LABELS[truth(i)]


def encoder(i: int, random: np.random.Generator) -> list[float]:
    sure = random.random() < 0.6
    right = random.random() < (0.999 if sure else 0.7)
    p = random.uniform(0.9, 0.99) if sure else random.uniform(0.5, 0.8)
    p = p if right == bool(truth(i)) else 1 - p
    return [1 - p, p]


def write(seed: int, gold: int = 500, **label: Any) -> params.Params:
    random = np.random.default_rng(seed)
    documents = [Document(f"c{i}", f"text {i}", f"h{i}") for i in range(ROWS)]
    artifacts.CORPUS.write(documents)
    said = np.array([encoder(i, random) for i in range(ROWS)])
    LABELLED.mkdir(exist_ok=True)
    for part, rows in enumerate(np.split(np.arange(ROWS), [700, 1400])):
        columns = {
            "id": [f"c{i}" for i in rows], "label": [LABELS[p] for p in said[rows].argmax(axis=1)],
            "confidence": said[rows].max(axis=1), "abstained": [False] * len(rows),
            "probabilities": list(said[rows]), "source": ["encoder"] * len(rows), "model_hash": ["a" * 64] * len(rows),
        }  # fmt: skip
        pq.write_table(pa.table(columns).cast(SCHEMA), LABELLED / f"part-{part:05d}.parquet")
    (LABELLED / "manifest.json").write_text("{}")
    with Path("answers.jsonl").open("w") as file:
        for i in range(ROWS):
            file.write(json.dumps({"id": f"c{i}", "answer": answer(i) or "who knows"}) + "\n")
    others(random)
    with Path("gold.csv").open("w") as file:
        drawn = random.permutation(ROWS)[:gold]
        file.write("id,label\n" + "".join(f"c{i},{LABELS[truth(i)]}\n" for i in drawn))
    values: Any = YAML(typ="safe", pure=True).load(toy_project.PARAMS.replace("GAIN", "0.0"))
    values["annotate"] = {"annotator": RECORDED, "prompt": {"user": "{text}"}}
    values["certify"] = {"gold": {"path": "gold.csv"}}
    values["label"] |= {"target_error": 0.03} | label
    YAML().dump(values, Path("params.yaml"))
    return params.load()


def others(random: np.random.Generator) -> None:
    """Gold that teaches how far to believe both, and held-out texts, like the corpus's."""
    rows = [(f"v{i}", "validation", i) for i in range(200)] + [(f"s{i}", "held_out", i) for i in range(400)]
    GOLD.write(Gold(id_, "x", f"g{i}", LABELS[truth(i)], part) for id_, part, i in rows if part == "validation")
    artifacts.PREDICTIONS.write(
        Prediction(id_, "mini-llm-1", part, LABELS[truth(i)], np.log(encoder(i, random)).tolist())
        for id_, part, i in rows
    )
    given = [(id_, part, LABELS.index(found)) for id_, part, i in rows if (found := answer(i)) is not None]
    for table, wanted in ((artifacts.TEACHER, "validation"), (artifacts.LABELS, "held_out")):
        table.write(
            Label(id_, LABELS[said], [1.0 - said, float(said)], 1.0, "gold", "k")
            for id_, part, said in given
            if part == wanted
        )
    metrics("parse").write({"calibration": None, "shift": None})


def final() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(sorted(FINAL.glob("part-*.parquet"))).to_pydict()
    return found


def wrong(rows: dict[str, list[Any]]) -> list[int]:
    return [i for i, label in enumerate(rows["label"]) if label != LABELS[truth(i)]]


def test_the_target_holds_and_each_row_says_who_labelled_it() -> None:
    defer.run(params.load())
    rows, figures, queue = final(), metrics("defer").read(), list(REVIEW)
    assert rows["id"] == [f"c{i}" for i in range(ROWS)]
    assert pq.read_schema(FINAL / "part-00000.parquet").equals(SCHEMA)
    waiting = {row.id for row in queue}
    assert waiting == {id_ for id_, waits in zip(rows["id"], rows["abstained"], strict=True) if waits}
    accepted = [i for i in wrong(rows) if rows["id"][i] not in waiting]
    assert len(accepted) / ROWS <= 0.03
    assert 0 < len(waiting) < 0.4 * ROWS
    routes = figures["routes"]
    assert (sum(routes.values()), routes["waiting"], routes["person"]) == (ROWS, len(waiting), 0)
    assert routes["encoder"] > 0.2 * ROWS
    assert routes["llm"] > 0.1 * ROWS
    by_llm = [i for i in range(ROWS) if rows["source"][i] == "llm"]
    assert all(rows["label"][i] == answer(i) for i in by_llm)
    assert len({rows["model_hash"][i] for i in by_llm} - {"a" * 64}) == 1
    assert all(i % 40 != 7 for i in by_llm)
    assert figures["gold"]["wrong"] <= figures["gold"]["allowed"]
    manifest = json.loads((FINAL / "manifest.json").read_text())
    assert (manifest["rows"], list(manifest["parts"])) == (ROWS, [f"part-0000{i}.parquet" for i in range(3)])


def test_only_what_the_encoder_is_unsure_of_is_asked_and_nothing_twice() -> None:
    defer.run(params.load())
    figures, gold = metrics("defer").read(), gold_corpus.halves(gold_corpus.read(params.load()))[0]
    with responses.opened(STORE) as store:
        first = store.keys()
    rows = final()
    unsure = [i for i in range(ROWS) if rows["source"][i] == "llm" or rows["abstained"][i]]
    assert len(first) == len(set(gold) | {f"c{i}" for i in unsure})
    before = {path.name: path.read_bytes() for path in FINAL.iterdir()}
    defer.run(params.load())  # adding an answer twice would raise
    with responses.opened(STORE) as store:
        assert store.keys() == first
    assert {path.name: path.read_bytes() for path in FINAL.iterdir()} == before
    assert metrics("defer").read() == figures


def test_what_people_answer_is_taken_over_and_what_they_call_unclear_stays() -> None:
    defer.run(params.load())
    queue = list(REVIEW)
    assert all(row.reason == "deferred" and row.text == f"text {row.id[1:]}" for row in queue)
    assert all(row.suggested in (None, *LABELS) and row.suggested != row.label for row in queue)
    assert any(row.suggested for row in queue)
    REVIEW.write([*queue, artifacts.ToReview("c1", "text 1", "positive", 0.9, "likely_wrong", None)])
    with REVIEWED.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "note", "time"])
        writer.writerow([queue[0].id, "unclear", "", ""])
        for row in queue[1:]:
            writer.writerow([row.id, LABELS[truth(int(row.id[1:]))], "", ""])
    defer.run(params.load())
    rows, figures = final(), metrics("defer").read()
    assert [(row.id, row.reason) for row in REVIEW] == [(queue[0].id, "deferred"), ("c1", "likely_wrong")]
    assert (figures["routes"]["person"], figures["routes"]["waiting"], figures["unclear"]) == (len(queue) - 1, 1, 1)
    assert len(set(wrong(rows)) - {int(queue[0].id[1:])}) / ROWS <= 0.03
    one = rows["id"].index(queue[1].id)
    assert (rows["source"][one], rows["confidence"][one], rows["model_hash"][one]) == ("person", 1.0, "")
    kept = rows["id"].index(queue[0].id)
    assert (rows["label"][kept], rows["abstained"][kept]) == (queue[0].label, True)


def test_a_target_that_this_gold_cannot_certify_is_refused_with_what_would() -> None:
    found = write(1, gold=120)
    half = len(gold_corpus.halves(gold_corpus.read(found))[0])
    with pytest.raises(UserError) as error:
        defer.run(found)
    said = str(error.value)
    assert said.startswith(f"label.target_error 0.03 can't be certified with 95% confidence by {half} calibrating gold")
    assert f"they reach {1 - 0.05 ** (1 / half):.3f} at best" in said
    assert "`llambert gold sample 198`" in said
    assert not FINAL.exists()


def test_gold_of_another_corpus_and_a_block_that_is_missing() -> None:
    with Path("gold.csv").open("a") as file:
        file.writelines(f"elsewhere{i},positive\n" for i in range(9))
    with pytest.raises(UserError, match=r"gold texts of the corpus are not labelled, such as 'elsewhere\d'"):
        defer.run(params.load())
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text[: text.index("certify:")] + text[text.index("certify:") :].split("\n", 3)[3])
    with pytest.raises(UserError, match=r"label.target_error needs gold drawn from the corpus"):
        params.load()


def test_a_budget_that_ends_keeps_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    values: Any = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    values["annotate"] = {"annotator": ENDPOINT, "prompt": {"user": "{text}"}}
    values["annotate"]["budget"] = {"minutes": 0.0}
    YAML().dump(values, Path("params.yaml"))
    with pytest.raises(UserError, match=r"annotate.budget.minutes 0 is reached .*: 0 of \d+ texts were asked about"):
        defer.run(params.load())
    assert not FINAL.exists()


def test_the_report_says_who_labelled_what_and_what_holds() -> None:
    defer.run(params.load())
    wanted, found = Path("params.yaml").read_text(), metrics("defer").read()
    toy_project.write()  # what the other stages write
    Path("params.yaml").write_text(wanted)
    report.run(params.load())
    page = Path("report.html").read_text()
    assert "<h2>Error target</h2>" in page
    assert "t most 3.0% of the final labels are wrong, with 95% confidence" in page
    for name, words in (("encoder", "the encoder, sure enough"), ("llm", "the LLM, where the encoder was not")):
        assert f'<td>{words}</td><td class="n">{found["routes"][name]:,}</td>' in page
    assert f"{found['gold']['wrong']} are labelled wrongly at these thresholds" in page


def test_a_plan_says_what_goes_where_and_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Any = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    values["annotate"] = {"annotator": ENDPOINT, "prompt": {"user": "{text}"}}
    YAML().dump(values, Path("params.yaml"))
    lines = {line[:40].strip(): line[40:].split() for line in plan.plan().splitlines()}
    keeps, asked, people = (
        int(lines[name][0].replace(",", ""))
        for name in (
            "error of 3.0% or less: encoder keeps",
            "LLM is asked about the rest",
            "people label what that leaves",
        )
    )
    assert keeps + asked == ROWS
    assert 0 < people < asked
    assert float(lines["people label what that leaves"][-2].replace(",", "")) == pytest.approx(people * 0.1, rel=0.02)
    write(1, gold=20)
    said = plan.plan()
    assert "can't be certified with 95% confidence" in said
    assert "gold sample 198" in said
    artifacts.PREDICTIONS.path.unlink()
    assert "what share goes where is known after `dvc repro evaluate`" in plan.plan()


KILLED = """
import os, signal
from pipeline import params
from pipeline.responses import ResponseStore
from pipeline.stages import defer
import pyarrow.parquet as pq
at, place = int(os.environ["AT"]), os.environ["PLACE"]
owner, name = (ResponseStore, "add") if place == "store" else (pq, "write_table")
does, left = getattr(owner, name), [at]
def killing(*arguments, **options):
    does(*arguments, **options)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, killing)
defer.run(params.load())
"""


def test_killed_at_any_moment_and_run_again_it_ends_the_same() -> None:
    defer.run(params.load())
    calm = {path.name: path.read_bytes() for path in FINAL.iterdir()}
    figures, queue = metrics("defer").read(), REVIEW.path.read_bytes()
    for place, at in (("store", 2), ("table", 2)):
        if place == "store":
            STORE.unlink(missing_ok=True)
        for path in [*FINAL.iterdir(), REVIEW.path]:
            path.unlink()
        done = subprocess.run(
            [sys.executable, "-c", KILLED], env=os.environ | {"AT": str(at), "PLACE": place}, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert not (FINAL / "manifest.json").exists()
        defer.run(params.load())
        assert {path.name: path.read_bytes() for path in FINAL.iterdir()} == calm
        assert (metrics("defer").read(), REVIEW.path.read_bytes()) == (figures, queue)
