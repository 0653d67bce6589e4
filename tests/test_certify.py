"""gold sample, gold add, certify: from labels to a certificate, as a person does it; and what is refused."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_project

from pipeline import gold_corpus, params, shards
from pipeline.artifacts import CORPUS, LABELLED, Document, metrics
from pipeline.certificates import Certificate
from pipeline.commands import gold
from pipeline.errors import UserError
from pipeline.stages import certify, report
from serving import shapes
from serving.layout import SCHEMA

SHEET, IDS = Path("sheet.csv"), [f"c{i}" for i in range(400)]
TRUTH = {id_: "negative" if i % 3 else "positive" for i, id_ in enumerate(IDS)}
MODEL = "a" * 64


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_project.write()
    with Path("params.yaml").open("a") as file:
        file.write("certify: {seed: 3}\n")
    CORPUS.write(Document(id_, f"text {id_}", id_) for id_ in IDS)
    label(IDS)


def label(ids, shard_rows=150):
    """Labels that are wrong for every tenth text, and known to be so."""
    LABELLED.mkdir(exist_ok=True)
    for start in range(0, len(ids), shard_rows):
        rows = []
        for id_ in ids[start : start + shard_rows]:
            wrong, sure = int(id_[1:]) % 10 == 0, float(int(id_[1:]) % 10 != 0)
            said = {"negative": "positive", "positive": "negative"}[TRUTH[id_]] if wrong else TRUTH[id_]
            p = [sure, 1 - sure] if said == "negative" else [1 - sure, sure]
            rows.append((id_, said, sure, False, p, "encoder", MODEL))
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, schema=SCHEMA), LABELLED / f"part-{start:05d}.parquet")


def read_sheet():
    with SHEET.open(newline="") as file:
        return list(csv.DictReader(file))


def fill(labels=TRUTH, name=SHEET):
    rows = read_sheet()
    write([(row["id"], labels.get(row["id"], "")) for row in rows], name)


def write(rows, name=SHEET):
    with Path(name).open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label"), *rows])


def test_from_the_sheet_to_the_certificate_and_the_report(caplog):
    caplog.set_level("INFO", logger="llambert")
    assert "60 texts stand in sheet.csv" in gold.sample(60, SHEET)
    assert [row["id"] for row in read_sheet()] == sorted(IDS, key=lambda i: gold_corpus.rank(i, 3))[:60]
    fill()
    assert "60 gold texts stand in data/gold_corpus.csv (60 new)" in gold.add(SHEET)
    SHEET.unlink()
    assert "40 texts" in gold.sample(100, SHEET)  # only what is missing
    fill()
    assert "100 gold texts" in gold.add(SHEET)
    certify.run(params.load())
    written = Path("certificate.json").read_bytes()
    found = Certificate.model_validate_json(written)
    assert (found.rows, found.gold, found.model_hashes) == (400, 100, [MODEL])
    chosen = gold_corpus.read(params.load())
    right = sum(int(id_[1:]) % 10 != 0 for id_ in chosen) / 100
    assert found.accuracy.classical.value == pytest.approx(right)
    assert found.accuracy.ppi.value == pytest.approx(0.9)  # confidence tells the errors exactly
    assert found.accuracy.ppi.high - found.accuracy.ppi.low < 0.05
    assert "accuracy" in caplog.text
    certify.run(params.load())
    assert Path("certificate.json").read_bytes() == written
    report.run(params.load())
    page = Path("report.html").read_text()
    assert "<h2>Certificate of the labelled corpus</h2>" in page
    assert "recall of positive" in page
    assert metrics("certify").read() == json.loads(written)


def test_blank_texts_may_stand_at_the_end_but_not_between():
    gold.sample(10, SHEET)
    ids = [row["id"] for row in read_sheet()]
    fill({id_: TRUTH[id_] for id_ in ids if id_ != ids[4]})
    with pytest.raises(UserError, match=f"no label for '{ids[4]}', though later texts have one"):
        gold.add(SHEET)
    assert not Path("data/gold_corpus.csv").exists()
    fill({id_: TRUTH[id_] for id_ in ids[:7]})
    assert "3 of sheet.csv are still to be labelled" in gold.add(SHEET)
    assert list(gold_corpus.read(params.load())) == ids[:7]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("c1", "negative"), ("c1", "negative")], "stands there twice"),
        ([("c1", "mixed")], "the label 'mixed' is not one of"),
        ([("zz", "negative")], "1 of 1 gold texts are not among the corpus's first 1"),
        ([(id_, "negative") for id_ in IDS[:20]], "no uniform draw"),
        ([("c1", "")], "has no label"),
    ],
)
def test_a_sheet_that_is_no_uniform_draw_is_refused_whole(rows, said):
    write(rows)
    with pytest.raises(UserError, match=said):
        gold.add(SHEET)
    assert not Path("data/gold_corpus.csv").exists()


def test_gold_of_another_corpus_or_seed_and_labels_that_contradict_are_refused():
    gold.sample(30, SHEET)
    fill()
    gold.add(SHEET)
    first = read_sheet()[0]["id"]
    write([(first, "positive" if TRUTH[first] == "negative" else "negative")])
    with pytest.raises(UserError, match="correct one of them"):
        gold.add(SHEET)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seed: 3}", "seed: 4}"))
    with pytest.raises(UserError, match="gold texts are not among the corpus's first 30"):
        certify.run(params.load())


def test_power_and_what_must_be_there_first():
    assert "gold texts alone" in gold.power(0.1, None)
    with pytest.raises(UserError, match="between 0 and 1"):
        gold.power(1.5, None)
    with pytest.raises(UserError, match="ask for as many at most"):
        gold.sample(401, SHEET)
    SHEET.write_text("id,label\n")
    with pytest.raises(UserError, match="exists"):
        gold.sample(5, SHEET)
    with pytest.raises(UserError, match="has other labels"):
        shards.survey(shards.parts(LABELLED), shapes.of("single", ["negative", "neutral"]))
    for part in LABELLED.iterdir():
        part.unlink()
    with pytest.raises(UserError, match="holds no labels"):
        gold.power(0.1, None)
