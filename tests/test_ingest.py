"""The stage: every row is accounted for, gold does not leak, and a bad source damages nothing."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import CORPUS, DUPLICATES, GOLD, STATE, UNUSABLE, Duplicate, Gold, Unusable, metrics
from pipeline.errors import UserError
from pipeline.gold import divide
from pipeline.params import Params
from pipeline.stages import ingest
from serving.corpus import text_hash

REPOSITORY = Path(__file__).parent.parent
GOLD_ROWS = "a,love it,positive\nb,hate it,NEGATIVE\nc,so so, Bad\nd,great,1\n"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    csv("corpus.csv", "1,first\n2,second\n3,third\n")


def csv(path: str, rows: str, header: str = "id,text") -> None:
    Path(path).write_text(f"{header}\n{rows}")


def gold_csv(path: str, rows: str) -> dict[str, str]:
    csv(path, rows, "id,text,label")
    return {"path": path}


def raw_params(**block: Any) -> dict[str, Any]:
    raw: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")
    raw["task"]["labels"] = {"negative": ["bad", "0"], "positive": ["good", "1"]}
    raw["ingest"] = {"corpus": {"path": "corpus.csv"}} | block
    raw["train"]["recipes"] = ["llm"]
    return raw


def run(**block: Any) -> dict[str, Any]:
    ingest.run(Params.model_validate(raw_params(**block)))
    return metrics("ingest").read()


def refused(**block: Any) -> str:
    """The message of a run that must fail and leave everything but `unusable` as it was."""
    run()
    kept = (CORPUS.path, DUPLICATES.path, GOLD.path, metrics("ingest").path)
    before = [path.read_bytes() for path in kept]
    with pytest.raises(UserError) as caught:
        run(**block)
    assert [path.read_bytes() for path in kept] == before
    assert sorted(path.name for path in Path("data").iterdir()) == [
        "corpus.parquet", "duplicates.parquet", "gold.parquet", "unusable.parquet",
    ]  # fmt: skip
    assert not (STATE / "ingest").exists()
    return str(caught.value)


def test_every_row_is_a_document_or_unusable() -> None:
    csv("corpus.csv", "1,one\n2,\n3,two\n1,other\n4, one \n3,two\n5,one\nbroken\n6,three\n")
    figures = run(max_unusable_share=0.5)
    assert [(d.id, d.text) for d in CORPUS] == [
        ("1", "one"),
        ("3", "two"),
        ("4", " one "),
        ("5", "one"),
        ("6", "three"),
    ]
    assert list(DUPLICATES) == [Duplicate("4", "1"), Duplicate("5", "1")]
    assert list(UNUSABLE) == [
        Unusable("corpus.csv", 3, "empty text", ""),
        Unusable("corpus.csv", 5, "id already used: 1", "other"),
        Unusable("corpus.csv", 7, "id already used: 3", "two"),
        Unusable("corpus.csv", 9, "malformed row: 1 fields where the header has 2", "broken"),
    ]
    assert {key: figures[key] for key in ("documents", "unusable", "duplicates", "unusable_by_reason")} == {
        "documents": 5,
        "unusable": 4,
        "duplicates": 2,
        "unusable_by_reason": {"empty text": 1, "id already used": 2, "malformed row": 1},
    }


def test_made_ids_merge_copies_and_copies_are_no_loss() -> None:
    csv("corpus.csv", "one\none\n one\none\ntwo\n", "text")
    figures = run(corpus={"path": "corpus.csv", "id": None}, max_unusable_share=0.0)
    one, two = text_hash("one"), text_hash("two")
    assert [(d.id, d.text) for d in CORPUS] == [(one, "one"), (two, "two")]
    assert [(row.row, row.reason) for row in UNUSABLE] == [(n, f"duplicate of {one}") for n in (3, 4, 5)]
    assert figures["unusable_by_reason"] == {"duplicate of": 3}
    assert figures["duplicates"] == 0


def test_a_rerun_is_the_same_to_the_byte() -> None:
    gold = gold_csv("gold.csv", GOLD_ROWS)
    run(gold_train=gold)
    before = [table.path.read_bytes() for table in (CORPUS, GOLD, UNUSABLE, DUPLICATES)]
    run(gold_train=gold)
    assert [table.path.read_bytes() for table in (CORPUS, GOLD, UNUSABLE, DUPLICATES)] == before


def test_gold_labels_are_words_of_the_task_in_any_case() -> None:
    run(gold_test=gold_csv("gold.csv", GOLD_ROWS))
    assert [(g.id, g.label, g.split) for g in GOLD] == [
        ("a", "positive", "test"), ("b", "negative", "test"), ("c", "negative", "test"), ("d", "positive", "test"),
    ]  # fmt: skip
    rows = '{"id": 1, "text": "x", "label": 1}\n{"id": 2, "text": "y", "label": 0.0}\n'
    Path("gold.jsonl").write_text(rows)
    run(gold_test={"path": "gold.jsonl"})
    assert [g.label for g in GOLD] == ["positive", "negative"]


def test_leaks_are_counted_and_the_worthier_split_keeps_the_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llambert")
    csv("corpus.csv", "1,t one\n2,t  one\n3,v one\n4,plain\nr3,other\n5,r three\n")
    figures = run(
        gold_train=gold_csv("r.csv", "r1,t one,0\nr2,v one,0\nr3,r three,0\nr4,r four,1\nr5,r four ,1\n"),
        gold_validation=gold_csv("v.csv", "v1,v one,0\nv2,v two,1\nv3,t two,0\n"),
        gold_test=gold_csv("t.csv", "t1,t one,0\nt2,t two,1\nt3,t three,1\nt4,t four,0\nt5,t  four,1\n"),
    )
    assert [(g.id, g.split) for g in GOLD] == [
        ("r3", "train"), ("r4", "train"), ("v1", "validation"), ("v2", "validation"),
        ("t1", "test"), ("t2", "test"), ("t3", "test"),
    ]  # fmt: skip
    assert figures["leaks"] == {
        "test_in_train": 1,
        "test_in_validation": 1,
        "validation_in_train": 1,
        "evaluation_in_corpus": 2,
        "train_in_corpus": 1,
        "ids_in_corpus": 1,
    }
    expected = {"train": 2, "validation": 2, "test": 3, "duplicates": 1, "contradictory": 2, "unusable": 0}
    assert figures["gold"] == expected
    assert "2 gold texts of validation or test also stand in the corpus: never sampled" in caplog.text


def rows(count: int, split: str = "train") -> list[Gold]:
    return [Gold(f"{split}{i}", f"{i}", text_hash(f"{i}"), "negative", split) for i in range(count)]


def test_validation_is_split_off_by_text_and_seed() -> None:
    gold = rows(100)
    first = {g.id for g in divide(gold, None, [], 0.3, 1).gold if g.split == "validation"}
    assert len(first) == 30
    assert {g.id for g in divide(gold[::-1], None, [], 0.3, 1).gold if g.split == "validation"} == first
    assert {g.id for g in divide(gold, None, [], 0.3, 2).gold if g.split == "validation"} != first
    assert len(divide(gold, None, rows(40, "test"), 0.5, 1).gold) == 100
    assert {g.split for g in divide(gold, None, [], 0.0, 1).gold} == {"train"}


@pytest.mark.parametrize(
    ("corpus", "share", "message"),
    [
        ("1,\n2,b\n3,\n4,\nbroken\n", 0.5,
         "4 of 5 rows of ingest.corpus can't be used (ingest.max_unusable_share is 0.5)"
         "; the commonest reason is: empty text (3 rows). Each is in data/unusable.parquet with its row and reason"),
        ("1,\n", 1.0, "1 of 1 rows of ingest.corpus can't be used (ingest.max_unusable_share is 1.0); the commonest "
         "reason is: empty text (1 rows). Each is in data/unusable.parquet with its row and reason"),
        ("", 0.5, "ingest.corpus.path has no rows: an empty corpus can't be labelled"),
    ],
)  # fmt: skip
def test_too_many_unusable_rows_end_the_run(corpus: str, share: float, message: str) -> None:
    csv("bad.csv", corpus)
    assert refused(corpus={"path": "bad.csv"}, max_unusable_share=share) == message
    assert UNUSABLE.count() == corpus.count("\n") - corpus.count("b\n")


@pytest.mark.parametrize(
    ("train", "test", "pattern"),
    [
        ("a,x,1\nb,y,maybe\n", "",
         r"r.csv, row 3: the label 'maybe' \(ingest.gold_train.label\) is none of 'negative', "
         r"'bad', '0', 'positive', 'good', '1': correct it, or add it to task.labels"),
        ("a,x,1\nb,y,\n", "", r"r.csv, row 3: the label '' "),
        ("a,x,1\nb,y,good\n", "", r"ingest.gold_train.path: r.csv: all 2 texts are labelled 'positive': nothing"),
        ("a,,1\n", "", r"ingest.gold_train.path: r.csv has no usable row: the first of 1, row 2, is: empty text"),
        ("a,x,1\nb,y,0\n", "c,x,1\nd,y,0\ne,z,0\n", r"every text of ingest.gold_train also stands in ingest.gold_test"),
        ("1,x,1\n2,y,0\n", "1,v,1\n2,z,0\n", r"the gold id '1' stands for two texts \('x' in .*'v' in test\).* null"),
        ("a,x,1\nb,,1\nc,,0\nd,y,0\n", "", r"2 of 4 rows of ingest.gold_train can't be used .* empty text \(2 rows\)"),
    ],
)  # fmt: skip
def test_gold_that_cannot_serve_ends_the_run(train: str, test: str, pattern: str) -> None:
    block = {"gold_train": gold_csv("r.csv", train)}
    if test:
        block["gold_test"] = gold_csv("t.csv", test)
    assert re.match(pattern, refused(**block))


def test_repeated_gold_ids_are_written_down() -> None:
    figures = run(gold_test=gold_csv("t.csv", "a,x,1\nb,y,0\na,z,1\n"), max_unusable_share=0.4)
    assert [g.text for g in GOLD] == ["x", "y"]
    assert list(UNUSABLE) == [Unusable("t.csv", 4, "id already used: a", "z")]
    assert (figures["unusable"], figures["gold"]["unusable"]) == (0, 1)


def test_the_command_line_says_it_in_one_line_and_a_full_disk_damages_nothing() -> None:
    YAML().dump(raw_params(corpus={"path": "corpus.csv", "text": "body"}), Path("params.yaml"))
    command = [sys.executable, "-m", "pipeline", "ingest"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: corpus.csv has no column 'body' (ingest.corpus.text)")
    assert done.stderr.count("\n") == 1
    run()
    before = CORPUS.path.read_bytes()
    YAML().dump(raw_params(corpus={"path": "long.csv", "id": None}), Path("params.yaml"))
    csv("long.csv", "".join(f"{i * 7919 % 1_000_003:x}{i}\n" for i in range(60_000)), "text")
    limited = ["bash", "-c", 'ulimit -f 200; exec "$@"', "-", *command]  # files of at most 200 KiB
    done = subprocess.run(limited, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 2, done.stderr
    assert "no room" in done.stderr
    assert "Traceback" not in done.stderr
    assert CORPUS.path.read_bytes() == before


_PEAK = """
from pathlib import Path
from pipeline import params
from pipeline.stages import ingest
ingest.run(params.load())
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss would count the parent's
"""


def test_memory_does_not_grow_with_the_corpus() -> None:
    peak_mb = []
    for count in (20_000, 200_000):
        csv("corpus.csv", "".join(f"{i},review number {i % (count // 2)} says {'so ' * 40}\n" for i in range(count)))
        YAML().dump(raw_params(), Path("params.yaml"))
        done = subprocess.run(
            [sys.executable, "-c", _PEAK],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        peak_mb.append(int(done.stdout) / 1024)
    assert pq.read_metadata(CORPUS.path).num_rows == 200_000
    assert DUPLICATES.count() == 100_000
    assert peak_mb[1] - peak_mb[0] < 64, peak_mb  # 180,000 rows are 27 MB of text, and 200 MB as Python objects
