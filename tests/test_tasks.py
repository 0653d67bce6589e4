"""Tasks of every kind through every stage, up to what the service and its Arrow stream say."""

import csv
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llm_server import Behaviour, LLMServer
from starlette.testclient import TestClient
from task_project import FILLERS, Row, make, metrics, run

from pipeline import params
from pipeline.artifacts import EXPORT, LABELS, REJECTED, RESPONSES, SAMPLE, TEACHER
from pipeline.commands import gold
from pipeline.commands.models import label_text
from pipeline.stages import certify, report
from serving.engine import Engine
from serving.verifying import verify
from serving.web.app import create
from serving.web.settings import Settings

pytestmark = pytest.mark.slow
TOPICS = {"sport": ["goal", "match", "team"], "politics": ["vote", "party", "law"], "money": ["bank", "price"]}
MINILM = {"model": "embedded:minilm", "max_tokens": 24, "epochs": 3, "learning_rate": 4e-4}  # sets are harder to learn
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    shutil.copyfile(database, tmp_path / "mlflow.db")


def labelled() -> list[dict[str, Any]]:
    verify("labels")
    return [row for part in sorted(Path("labels").glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def served(texts: list[str]) -> Iterator[dict[str, Any]]:
    """What the service says of texts: in JSON, and the same in an Arrow stream."""
    application, service = create(Settings(model=str(EXPORT), precision="fp32", runtime="onnxruntime", threads=1))
    with TestClient(application) as client:
        while service.keeper.current is None:
            time.sleep(0.05)
        about = client.get("/model").json()
        answers = client.post("/classify", json={"texts": texts}).json()["results"]
        sink = pa.BufferOutputStream()
        table = pa.table({"text": texts})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = sink.getvalue().to_pybytes()
        stream = client.post("/classify/arrow", content=body, headers={"content-type": ARROW}).content
    with pa.ipc.open_stream(stream) as reader:
        assert reader.schema.metadata[b"kind"].decode() == about["kind"]
        rows = reader.read_all().to_pylist()
    for answer, row in zip(answers, rows, strict=True):
        assert list(answer["probabilities"]) == about["labels"]
        for name in row.keys() - {"probabilities"}:
            assert answer[name] == pytest.approx(row[name], abs=1e-5), name
        yield answer


def topics(made: random.Random) -> Row:
    """Each topic in a third of the texts or so, independently."""
    given = [topic for topic in TOPICS if made.random() < 0.35]
    words = made.choices(FILLERS, k=4) + [word for topic in given for word in made.sample(TOPICS[topic], 2)]
    made.shuffle(words)
    return " ".join(words), "|".join(given) or "none"


class Informed(LLMServer):
    """Says yes to a label whose words stand in the text."""

    def label(self, text: str) -> str:
        topic, _, rest = text.partition("?")
        return "yes" if any(word in rest.split() for word in TOPICS[topic.split()[-1]]) else "no"


def test_any_number_of_labels() -> None:
    with Informed(Behaviour(labels=("no", "yes"))) as server:
        asks = {"kind": "openai", "model": "toy", "base_url": server.url, "mode": "log_probabilities"}
        example = {"text": "a vote on the price", "label": "politics|money"}
        prompt = {"user": "Is it about {label}? {text}", "examples": [example]}
        made = make({"kind": "multi", "labels": dict.fromkeys(TOPICS)}, topics,
                    annotate={"annotator": asks, "prompt": prompt}, certify={}, mini=MINILM)  # fmt: skip
        run(made)
        assert server.asked.total() == len(server.asked) == 3 * (240 + 160 + 3)  # each label of each text once
        says = [(turn[0]["content"], turn[1]["content"]) for turn in (body["messages"] for body in server.bodies)]
    assert set(says) == {
        (f"Is it about {name}? a vote on the price", "no" if name == "sport" else "yes") for name in TOPICS
    }
    assert len(list(RESPONSES)) == 3 * (240 + 160 + 3)
    assert sorted(row.id for row in SAMPLE) == sorted(row.id for row in [*LABELS, *REJECTED])
    assert {len(row.key.split()) for row in TEACHER} == {3}
    assert metrics("evaluate")["test"]["teacher"]["accuracy"]["value"] == 1.0

    scores = metrics("evaluate")["test"]["candidates"]["mini-llm-1"]
    assert scores["micro_f1"]["value"] > 0.9
    assert scores["accuracy"]["value"] <= scores["label_accuracy"]["value"]
    assert set(scores["per_class"]["sport"]) == {"precision", "recall", "f1", "accuracy", "support"}
    engine = Engine.open(EXPORT, "fp32", expect_kind="multi")
    assert len(engine.shape.thresholds) == 3  # type: ignore[attr-defined]
    rows = labelled()
    assert {name for row in rows for name in row["labels"]} == set(TOPICS)
    for row in rows[:50]:
        reached = [n for n, p, t in zip(TOPICS, row["probabilities"], engine.shape.thresholds, strict=True) if p >= t]  # type: ignore[attr-defined]
        assert row["labels"] == reached
        assert row["label"] == ("|".join(reached) or "none")
    counts = metrics("label")["shares"]
    assert counts["sport"] == pytest.approx(np.mean(["sport" in row["labels"] for row in rows]))
    both, neither = served(["goal match and bank price today", "the a of and today"])
    assert (both["label"], both["labels"]) == ("sport|money", ["sport", "money"])
    assert (neither["label"], neither["labels"]) == ("none", [])
    certified(made, rows)
    page = Path("report.html").read_text()
    assert "micro F1" in page
    assert "accuracy of whole sets" in page
    assert "given from" in page
    assert label_text("goal match").startswith("sport:")


def certified(made: params.Params, rows: list[dict[str, Any]]) -> None:
    """People label a sheet with the sets that the words decide; the certificate speaks for all labels."""
    sheet = Path("sheet.csv")
    assert "'none', or any of sport, politics, money with | between" in gold.sample(120, sheet)
    with sheet.open(newline="") as file:
        drawn = {row["id"]: truth(row["text"]) for row in csv.DictReader(file)}
    with sheet.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label"), *drawn.items()])
    assert "120 gold texts" in gold.add(sheet)
    certify.run(made)
    report.run(made)
    found, said = metrics("certify"), {row["id"]: row["label"] for row in rows}
    assert found["accuracy"]["classical"]["value"] == pytest.approx(np.mean([said[i] == t for i, t in drawn.items()]))
    for name in TOPICS:
        shares = [np.mean([name in label.split("|") for label in some]) for some in (drawn.values(), said.values())]
        row = found["per_class"][name]
        assert row["prevalence"]["classical"]["value"] == pytest.approx(shares[0])
        assert row["rows"] == round(shares[1] * len(said))
        assert row["recall"]["ppi"]["value"] > 0.9


def truth(text: str) -> str:
    words = set(text.split())
    return "|".join(topic for topic, some in TOPICS.items() if words.intersection(some)) or "none"


def stars(made: random.Random) -> Row:
    level = made.randint(1, 5)
    words = made.choices(FILLERS, k=3) + ["good"] * (level - 1) + ["bad"] * (5 - level)
    made.shuffle(words)
    return " ".join(words), str(level)


def test_labels_in_order() -> None:
    run(make({"kind": "ordinal", "labels": {1: ["awful"], 2: [], 3: [], 4: [], 5: ["great"]}}, stars))
    assert params.load().task.names == ["1", "2", "3", "4", "5"]
    scores = metrics("evaluate")["test"]["candidates"]["mini-llm-1"]
    assert scores["mae"]["value"] < 0.7
    assert scores["qwk"]["low"] > 0.6
    assert scores["spearman"]["value"] > 0.8
    for row in labelled():
        assert row["score"] == pytest.approx(np.dot(row["probabilities"], [1, 2, 3, 4, 5]), abs=1e-5)
    worst, best = served(["bad bad bad bad", "good good good good"])
    assert worst["score"] < 2 < 4 < best["score"]
    assert (worst["label"], best["label"]) == ("1", "5")
    assert "QWK" in Path("report.html").read_text()
    assert "score" in label_text("good good good good")


GOOD = ["nagyszerű", "kitűnő", "örömteli", "非常好", "精彩", "喜欢"]
BAD = ["szörnyű", "unalmas", "csalódás", "很差", "无聊", "失望"]


def languages(made: random.Random) -> Row:
    """Hungarian, or Chinese without a space in it."""
    good, first = made.random() < 0.5, 3 * (made.random() < 0.5)
    words = made.sample((GOOD if good else BAD)[first : first + 3], 2)
    text = f"A film {words[0]} volt, igazán {words[1]}!" if not first else f"这部电影{words[0]},真的{words[1]}。"
    return text, "jó" if good else "rossz"


def test_other_languages() -> None:
    labels = {"rossz": ["差", "ROSSZ!"], "jó": ["好"]}
    run(make({"criterion": "Jó vagy rossz? 好还是坏?", "labels": labels}, languages))
    assert metrics("evaluate")["test"]["candidates"]["mini-llm-1"]["accuracy"]["value"] > 0.9
    assert {row["label"] for row in labelled()} == {"jó", "rossz"}
    for answer, label in zip(
        served(["A film kitűnő volt, igazán örömteli!", "这部电影无聊,真的失望。", "这部电影精彩,真的喜欢。"]),
        ("jó", "rossz", "jó"),
        strict=True,
    ):
        assert answer["label"] == label
    page = Path("report.html").read_text(encoding="utf-8")
    assert "Jó vagy rossz? 好还是坏?" in page
    assert ">rossz<" in page
    assert label_text("这部电影精彩!").startswith("jó ")
