"""What is reviewed, what becomes of answers, and the turns that a person may take wrongly."""

import csv
import json
import socket
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_project

from pipeline import params, reviewing
from pipeline.artifacts import CORPUS, LABELLED, STATE, Document, metrics
from pipeline.commands import review
from pipeline.errors import UserError
from pipeline.review import items, label_studio
from pipeline.review.applying import REVIEWED
from pipeline.review.cli import SHEET
from pipeline.review.store import Said, opened
from pipeline.reviewing import Answer, Item
from pipeline.sections.review import section
from serving import shapes
from serving.corpus import text_hash
from serving.layout import SCHEMA

WRONG_ON_FINE = toy_project.RIGHT | {"fine": -4.0}  # a quarter of the texts


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(tmp_path)
    settings = toy_project.write(WRONG_ON_FINE)
    documents = [Document(f"c{i}", f"good film {i}", text_hash(f"good film {i}")) for i in range(20)]
    CORPUS.write(documents)
    LABELLED.mkdir()
    sure = [0.5 + i / 50 for i in range(20)]
    rows = [{"id": f"c{i}", "label": "positive", "confidence": sure[i], "abstained": False, "probabilities": [0.5, 0.5],
             "source": "encoder", "model_hash": "h"} for i in range(20)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), LABELLED / "part-00000.parquet")
    return settings


def say(found: list[Item], labels: list[str], reviewer: str = "ana", note: str = "") -> None:
    """Answer the first of `found`, as the page would."""
    with opened() as store:
        store.put(found)
        for item, label in zip(found, labels, strict=False):
            assert store.save(item.key, reviewer, Said(label, note), 2.0, None) is None


def collect(kind: str, settings: params.Params, count: int = 100, seed: int = 1) -> list[Item]:
    return items.collect(kind, settings, count, seed, SHEET)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_errors_are_all_of_test_gold_in_an_order_that_the_seed_decides(project: params.Params) -> None:
    found = collect("errors", project)
    assert {(item.label, item.reference) for item in found} == {("negative", "positive")}
    assert all("fine" in item.text for item in found)
    assert len(found) == sum("fine" in text for text, _ in toy_project.texts(39))
    assert collect("errors", project, 4) == found[:4]  # a greater count goes on where a smaller one ends
    assert collect("errors", project, seed=2) != found
    held_out = collect("disagreements", toy_project.write(toy_project.RIGHT | {"good": -4.0}))
    assert {(item.label, item.suggested, item.reference) for item in held_out} == {("negative", "positive", None)}


def test_low_confidence_takes_the_least_sure(project: params.Params) -> None:
    found = collect("low-confidence", project, 5)
    assert {item.id for item in found} == {f"c{i}" for i in range(5)}
    assert [item.id for item in found] != sorted(item.id for item in found)
    CORPUS.write([Document("c0", "x", "h")])
    with pytest.raises(UserError, match="ids that the corpus doesn't have"):
        collect("low-confidence", project)


def test_keys_are_first_letters_unless_two_labels_share_one() -> None:
    found = reviewing.keys(["negative", "positive"])
    assert found == {
        "negative": ["1", "n"],
        "positive": ["2", "p"],
        ":unclear": ["0", "u"],
        ":note": ["m"],
        ":undo": ["z"],
    }
    shared = reviewing.keys(["sports", "science", "unrest"])
    assert shared["sports"] == ["1"]
    assert shared["unrest"] == ["3", "u"]
    assert (shared[":unclear"], shared[":note"]) == (["0"], ["n"])
    many = reviewing.keys([f"label {i}" for i in range(77)])
    assert many["label 5"] == many[":note"] == []


def test_corrections_are_for_corpus_texts_that_are_still_there(project: params.Params) -> None:
    lowest = collect("low-confidence", project, 4)
    say(lowest, ["negative", "unclear", "negative", "negative"], note='said "no", twice')
    say(collect("errors", project), ["positive"])  # gold is no row of this corpus
    CORPUS.write(
        Document(row.id, row.text, "another" if row.id == lowest[2].id else row.text_hash) for row in list(CORPUS)
    )
    said = review.apply("corrections", None, SHEET, test_gold=False)
    assert "2 left out, whose id is not in the corpus or stands for another text" in said
    found = reviewing.read_reviewed(REVIEWED, project.task.names)
    assert {row.id: row.label for row in found.values()} == {
        lowest[0].id: "negative", lowest[1].id: "unclear", lowest[3].id: "negative",
    }  # fmt: skip
    assert found[lowest[0].id].note == 'said "no", twice'
    with opened() as store:
        assert store.undo("ana", [lowest[0].key]) == lowest[0].key
    with REVIEWED.open("a") as file:
        file.write("c19,positive,by hand,\n")
    review.apply("corrections", None, SHEET, test_gold=False)
    assert set(reviewing.read_reviewed(REVIEWED)) == {lowest[1].id, lowest[3].id, "c19"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,name\n1,x\n", "no column 'label'"),
        ("id,label\n1,great\n", "row 2: the label 'great' is none of"),
        ("id,label\n1,positive\n1,positive\n", "row 3: the id '1' stands twice"),
        ('id,label\n1,"posi', "can't be read"),
    ],
)
def test_a_file_of_corrections_that_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert reviewing.read_reviewed(tmp_path / "none.csv") == {}
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        reviewing.read_reviewed(tmp_path / "r.csv", ["negative", "positive"])


def test_gold_is_changed_where_people_agree_and_test_gold_only_when_asked(project: params.Params) -> None:
    wrong, lowest = collect("errors", project, 3), collect("low-confidence", project, 3)
    gold = [{"key": "7", "body": item.text, "truth": "good", "more": "kept"} for item in wrong[:1]]
    for name, some in (
        ("train", [*gold, {"key": "8", "body": "dull", "truth": "bad", "more": ""}]),
        ("test", wrong[1:]),
    ):
        with Path(f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["key", "body", "truth", "more"])
            writer.writeheader()
            writer.writerows(row if isinstance(row, dict) else {"key": row.id, "body": row.text, "truth": "positive"}
                             for row in some)  # fmt: skip
    source = "{path: %s.csv, text: body, id: key, label: truth}"
    text = Path("params.yaml").read_text()
    files = "".join(f"\n  gold_{name}: {source % name}" for name in ("train", "test"))
    Path("params.yaml").write_text(text.replace("corpus: {path: corpus.csv}", "corpus: {path: corpus.csv}" + files))
    say(wrong, ["negative", "negative", "unclear"])
    say(lowest, ["positive", "negative", "positive"])
    say(lowest[2:], ["negative"], reviewer="bo")
    said = review.apply("gold", None, SHEET, test_gold=False)
    assert "would flatter it" in said
    assert f"1 left out, on which reviewers differ ({lowest[2].id})" in said
    assert rows(Path("train.csv")) == [
        {"key": "7", "body": wrong[0].text, "truth": "negative", "more": "kept"},
        {"key": "8", "body": "dull", "truth": "bad", "more": ""},
        {"key": lowest[0].id, "body": lowest[0].text, "truth": "positive", "more": ""},
        {"key": lowest[1].id, "body": lowest[1].text, "truth": "negative", "more": ""},
    ]
    assert {row["truth"] for row in rows(Path("test.csv"))} == {"positive"}
    (backup,) = Path().glob("train.*.bak.csv")
    assert rows(backup)[0]["truth"] == "good"
    assert "no gold file is changed" in review.apply("gold", None, SHEET, test_gold=False)  # a second time
    review.apply("gold", None, SHEET, test_gold=True)
    assert [row["truth"] for row in rows(Path("test.csv"))] == ["negative", "positive"]


def test_a_gold_sheet_is_filled_in_and_never_becomes_a_correction(project: params.Params) -> None:
    SHEET.write_text("id,text,label\nc1,good film 1,\nc2,good film 2,positive\nc3,good film 3,\nc4,good film 4,\n")
    found = collect("gold-sheet", project)
    assert [item.id for item in found] == ["c1", "c3", "c4"]
    say(found, ["negative", "unclear"], note="hm")
    said = review.apply("sheet", None, SHEET, test_gold=False)
    assert "1 labels filled in" in said
    assert "1 unclear ones stay empty" in said
    assert [row["note"] for row in rows(SHEET)] == ["hm", "", "hm", ""]
    assert [row["label"] for row in rows(SHEET)] == ["negative", "positive", "", ""]
    # a certificate would be wrong if what it is measured on were corrected by the very gold
    review.apply("corrections", None, SHEET, test_gold=False)
    assert rows(REVIEWED) == []


def test_table_3_counts_what_people_say_of_errors(project: params.Params) -> None:
    found = collect("errors", project)
    say(found, ["negative", "negative", "positive", "unclear"])
    say(found, ["negative", "positive"], reviewer="bo")
    said = review.measure(None)
    assert "3 of" in said
    figures = metrics("review").read()
    assert figures["table"] == {
        "negative": {"negative": 1, "positive": 1, "unclear": 1},
        "positive": {"negative": 0, "positive": 0, "unclear": 0},
    }  # fmt: skip
    assert figures["contested"] == 1
    assert figures["sides"]["model"]["count"] == 1
    assert figures["agreement"] == [{"reviewers": ["ana", "bo"], "items": 2, "agree": 0.5, "kappa": 0.0}]
    shown = section(figures)
    assert shown.grids[0].rows[0] == ["negative", "1", "1", "1"]
    assert "ana at 4, bo at 2" in shown.paragraphs[0]
    assert section(figures | {"reviewed": 0}) is None


def test_sides_of_the_published_table() -> None:
    """LlamBERT's of arXiv 2403.15938, Table 3: 31/16/13 and 17/14/9."""
    counts = {("positive", "negative"): (31, 16, 13), ("negative", "positive"): (17, 14, 9)}
    errors = [(model, gold, said) for (model, gold), row in counts.items()
              for said, n in zip(("positive", "negative", "unclear"), row, strict=True) for _ in range(n)]  # fmt: skip
    found = reviewing.sides(errors, 1293, 0.95)
    assert {side: n["count"] for side, n in found.items()} == {"model": 45, "gold": 33, "another": 0, "unclear": 22}
    # Wilson's interval of 45 in 100, by its formula
    z = 1.959964
    middle, half = (45 + z * z / 2) / (100 + z * z), z * (100 * 0.45 * 0.55 + z * z / 4) ** 0.5 / (100 + z * z)
    assert found["model"]["low"] == pytest.approx(middle - half, abs=1e-6)
    assert found["model"]["high"] == pytest.approx(middle + half, abs=1e-6)
    assert reviewing.sides(errors, 100, 0.95)["model"]["low"] == 0.45  # all of them: no sample, no interval


def test_label_studio_there_and_back(project: params.Params, tmp_path: Path) -> None:
    found = collect("errors", project, 3)
    say(found, ["negative", "unclear"], note="hm")
    file = tmp_path / "tasks.json"
    assert "3 tasks with 2 annotations" in review.export(file)
    tasks = json.loads(file.read_text())
    said = next(task for task in tasks if task["data"]["id"] == found[0].id)
    assert said["annotations"][0]["result"][0]["value"] == {"choices": ["negative"]}
    assert said["annotations"][0]["lead_time"] == 2.0
    assert said["predictions"][0]["result"][0]["value"] == {"choices": ["negative"]}
    assert "0 annotations are new, 2 were there already" in review.import_(file)
    (STATE / "review.sqlite").unlink()
    assert "2 annotations are new" in review.import_(file)
    with opened() as store:
        assert {(a.item, a.label, a.note, a.reviewer) for a in store.answers()} == {
            (found[0].key, "negative", "hm", "ana"), (found[1].key, "unclear", "hm", "ana"),
        }  # fmt: skip
    # as Label Studio writes it: other fields, numbers for people, nothing in a skipped one
    answer = {"type": "choices", "value": {"choices": ["positive"]}, "from_name": "x", "to_name": "y", "id": "a"}
    theirs = [{"id": 9, "data": {"text": "fine"}, "project": 1, "annotations": [
        {"completed_by": 4, "was_cancelled": False, "result": [answer], "created_at": "2026-01-01T00:00:00Z"},
        {"completed_by": 5, "was_cancelled": True, "result": []}]}]  # fmt: skip
    file.write_text(json.dumps(theirs))
    review.import_(file)
    with opened() as store:
        (theirs_stored,) = store.answers("annotator 4")
        assert (theirs_stored.label, theirs_stored.time) == ("positive", "2026-01-01T00:00:00Z")
        assert store.items()[theirs_stored.item].id == text_hash("fine")


def test_label_studio_has_a_choice_for_each_label_of_a_set() -> None:
    shape = shapes.of("multi", ["sport", "politics", "money"])
    said = ["sport|money", "none", "unclear"]
    found = {item.key: item for item in (Item(f"q{i}", f"text {i}", text_hash(f"text {i}"), "gold") for i in range(3))}
    given = [Answer(key, "ana", label, "", "2026-01-01T00:00:00") for key, label in zip(found, said, strict=True)]
    tasks = label_studio.tasks(found, given, {}, shape)
    chosen = [task["annotations"][0]["result"][0]["value"] for task in tasks]
    assert [value["choices"] for value in chosen] == [["sport", "money"], ["none"], ["unclear"]]
    chosen[0]["choices"] = ["money", "sport"]  # as they were clicked
    assert [answer.label for answer in label_studio.read(json.dumps(tasks), "x.json", shape, "")[1]] == said
    chosen[0]["choices"] = ["money", "none"]
    with pytest.raises(UserError, match="money and none are chosen together"):
        label_studio.read(json.dumps(tasks), "x.json", shape, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not JSON"),
        ('{"a": 1}', "no list of tasks"),
        ('[{"text": "x", "label": "positive"}]', "task 1, is not as Label Studio writes"),
        ('[{"data": {"text": "x"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["great"]}}]}]'
         "}]",
         "labels that the task doesn't have: 'great'; there are 'negative', 'positive', 'unclear'"),
    ],
)  # fmt: skip
def test_an_import_that_is_none_changes_nothing(project: params.Params, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tasks.json"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        review.import_(file)
    with opened() as store:
        assert store.items() == {}


def test_wrong_turns_are_told(project: params.Params) -> None:
    def turn(kind: str = "errors", port: int | None = None, reason: str | None = None) -> None:
        review.open_(kind, 10, reason, "ana", None, port, SHEET, show=False)

    with pytest.raises(UserError, match="no stage has put anything aside"):
        turn("queue")
    with pytest.raises(UserError, match="llambert gold sample"):
        turn("gold-sheet")
    with pytest.raises(UserError, match="there are error"):
        turn(reason="likely_wrong")
    with pytest.raises(UserError, match="nobody has answered yet"):
        review.apply("corrections", None, SHEET, test_gold=False)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="another review may be open"):
        turn(port=taken.getsockname()[1])
    SHEET.write_text("id,text,label\nc1,good film 1,positive\n")
    with pytest.raises(UserError, match="every row of the sheet has a label"):
        turn("gold-sheet")
    toy_project.write(gold=False)
    with pytest.raises(UserError, match="disagreements instead"):
        turn()
    store = STATE / "review.sqlite"
    store.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    with pytest.raises(UserError, match="move it"):
        turn("disagreements")
    assert store.read_bytes().endswith(b"\xff")


def test_a_label_that_the_task_lost_is_told_and_left_out(project: params.Params) -> None:
    say(collect("low-confidence", project, 2), ["negative", "mixed"])
    assert "1 left out, whose label task.labels no longer has" in review.apply(
        "corrections", None, SHEET, test_gold=False
    )
    assert len(rows(REVIEWED)) == 1


def test_answers_are_never_overwritten_and_sent_again_count_once(project: params.Params) -> None:
    (item, *_) = found = collect("low-confidence", project, 2)
    say(found, ["negative"])
    with opened() as store:
        assert store.save(item.key, "ana", Said("negative"), 1.0, None) is None  # the same, its answer was lost
        assert store.save(item.key, "ana", Said("positive"), 1.0, None) == "negative"  # from a tab that saw none
        assert store.save(item.key, "ana", Said("positive"), 1.0, "negative") is None
        assert store.save(item.key, "bo", Said("negative"), 1.0, None) is None
        assert [a.label for a in store.answers("ana")] == ["positive"]
        assert store.undo("ana", [item.key]) == item.key
        assert [a.label for a in store.answers("ana")] == ["negative"]
        assert [a.label for a in store.answers("bo")] == ["negative"]
    with sqlite3.connect(STATE / "review.sqlite") as connection:
        assert connection.execute("SELECT count(*), sum(undone) FROM answers").fetchone() == (3, 1)
    connection.close()
