"""Readers and row checks: every row comes out once, as a document or with its reason."""

import gzip
import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import Document, Unusable
from pipeline.errors import UserError
from pipeline.params import GoldSource, Source
from serving import corpus
from serving.reading import records


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str, max_chars: int = 1000, **options: str | None) -> tuple[list[tuple[str, str]], list[Unusable]]:
    """Documents as (id, text), and what could not be used."""
    rows = list(corpus.read(Source(path=path, **options), max_chars))  # type: ignore[arg-type]
    documents = [(row.id, row.text) for row in rows if isinstance(row, Document)]
    return documents, [row for row in rows if isinstance(row, Unusable)]


def faults(unusable: list[Unusable]) -> list[tuple[int, str]]:
    return [(row.row, row.reason) for row in unusable]


ROWS = [("7", "good, really"), ("8", 'said "no"\nand left'), ("9", "größer 😀\u2028end")]


def write(path: str) -> None:
    if ".csv" in path or ".tsv" in path:
        mark = "\t" if ".tsv" in path else ","
        body = f"id{mark}text\n" + "".join('{}{}"{}"\n'.format(i, mark, t.replace('"', '""')) for i, t in ROWS)
        data = body.encode()
        Path(path).write_bytes(gzip.compress(data) if path.endswith(".gz") else data)
    elif ".jsonl" in path:
        Path(path).write_text("".join(json.dumps({"id": int(i), "text": t}) + "\n\n" for i, t in ROWS))
    elif ".parquet" in path:
        table = pa.table({"id": [int(i) for i, _ in ROWS], "more": [1, 2, 3], "text": [t for _, t in ROWS]})
        pq.write_table(table, path, row_group_size=2)
    else:
        data = datasets.Dataset.from_dict({"id": [i for i, _ in ROWS], "text": [t for _, t in ROWS]})
        datasets.DatasetDict({"train": data}).save_to_disk(path)


@pytest.mark.parametrize("path", ["c.csv", "c.csv.gz", "c.tsv", "c.jsonl", "c.parquet", "hf"])
def test_all_formats_give_the_same_documents(path: str) -> None:
    write(path)
    assert read(path, split="train" if path == "hf" else None) == (ROWS, [])
    made, _ = read(path, split="train" if path == "hf" else None, id=None)
    assert made == [(corpus.text_hash(text), text) for _, text in ROWS]


def test_folders_globs_and_urls() -> None:
    Path("texts/b").mkdir(parents=True)
    Path("texts/b/2.txt").write_text("two")
    Path("texts/a.txt").write_text("one")
    Path("texts/.hidden.txt").write_text("no")
    Path("texts/README.md").write_text("no")
    expected = [("a.txt", "one"), ("b/2.txt", "two")]
    assert read("texts") == (expected, [])
    assert read("texts/**/*.txt") == (expected, [])
    Path("shards[1]").mkdir()
    for shard in ("2", "1"):
        Path(f"shards[1]/{shard}.csv").write_text(f"id,text\n{shard},text {shard}\n")
    both = [("1", "text 1"), ("2", "text 2")]
    assert read("shards[1]") == (both, [])
    assert read(f"file://{os.getcwd()}/shards[1]")[0] == both
    import fsspec

    fsspec.filesystem("memory").pipe("/corpus/c.csv", b"id,text\n1,from memory\n2,\n")
    documents, unusable = read("memory://corpus/*.csv")
    assert documents == [("1", "from memory")]
    assert unusable == [Unusable("memory:///corpus/c.csv", 3, "empty text", "")]


def test_a_broken_csv_row_costs_itself_only() -> None:
    lines = ["id,text", "1,fine", "2,a,b", '3,"left open', "", '4,"two', 'lines"', '5,"odd" quote', "6,"]
    Path("c.csv").write_bytes("\ufeff".encode() + "\n".join(lines).encode() + b"\n7,bad \xff byte\n ,no id\n8,last")
    documents, unusable = read("c.csv")
    assert documents == [("1", "fine"), ("4", "two\nlines"), ("8", "last")]
    assert [(row, reason.split(":")[0]) for row, reason in faults(unusable)] == [
        (3, "malformed row"),
        (4, "malformed row"),
        (8, "malformed row"),
        (9, "empty text"),
        (10, "invalid UTF-8"),
        (11, "missing id"),
    ]
    assert unusable[0].reason == "malformed row: 3 fields where the header has 2"
    assert unusable[1].excerpt == '3,"left open'
    assert unusable[4] == Unusable("c.csv", 10, "invalid UTF-8", "bad � byte")


def test_jsonl_rows_are_judged_one_by_one() -> None:
    lines = ['{"id": 1, "text": "fine"}', '{"id": 2, "text"', "[1, 2]", '{"id": 3, "text": 42}', '{"id": 4}']
    lines += ['{"id": 5, "text": "\\ud800 alone"}', '{"id": true, "text": "t"}', '{"id": "8", "text": " \\u3000 "}']
    Path("c.jsonl").write_text("\n".join(lines))
    documents, unusable = read("c.jsonl")
    assert documents == [("1", "fine")]
    assert [(row, reason[:14]) for row, reason in faults(unusable)] == [
        (2, "malformed row:"),
        (3, "malformed row:"),
        (4, "not text: int"),
        (5, "empty text"),
        (6, "invalid UTF-8"),
        (7, "missing id"),
        (8, "empty text"),
    ]


def test_a_text_of_a_megabyte_is_too_long_and_its_excerpt_short() -> None:
    Path("c.csv").write_text("id,text\n1," + "x" * 1_000_000 + "\n2,fine\n")
    documents, unusable = read("c.csv", max_chars=100_000)
    assert documents == [("2", "fine")]
    assert faults(unusable) == [(2, "too long: 1000000 characters where 100000 are taken")]
    assert len(unusable[0].excerpt) == 80
    assert read("c.csv", max_chars=1_000_000)[1] == []


def test_a_broken_row_group_loses_its_own_rows_only() -> None:
    table = pa.table({"id": [str(i) for i in range(30)], "text": [f"text number {i}" * 50 for i in range(30)]})
    pq.write_table(table, "c.parquet", row_group_size=10, compression="zstd", use_dictionary=False)
    column = pq.read_metadata("c.parquet").row_group(1).column(1)
    data = bytearray(Path("c.parquet").read_bytes())
    end = column.data_page_offset + column.total_compressed_size
    data[end - 40 : end] = b"\0" * 40
    Path("c.parquet").write_bytes(data)
    documents, unusable = read("c.parquet")
    assert [int(i) for i, _ in documents] == [*range(10), *range(20, 30)]
    assert [row.row for row in unusable] == list(range(11, 21))
    assert {row.reason.split(":")[0] for row in unusable} == {"broken row group 2"}


def test_bytes_and_invalid_utf8_in_parquet() -> None:
    values = pa.array([b"fine", b"bad \xff", None], pa.binary())
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": values}), "bytes.parquet")
    strings = pa.StringArray.from_buffers(3, *values.buffers()[1:], values.buffers()[0])  # Arrow doesn't look
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": strings}), "strings.parquet")
    for path in ("bytes.parquet", "strings.parquet"):
        documents, unusable = read(path)
        assert documents == [("a", "fine")]
        assert faults(unusable) == [(2, "invalid UTF-8"), (3, "empty text")]


def test_text_hash_sees_through_white_space_only() -> None:
    assert corpus.text_hash(" a \n\tb ") == corpus.text_hash("a b") == "acc9227cc02e5f5c13e74125bce89499"
    assert corpus.text_hash("a b") != corpus.text_hash("A b") != corpus.text_hash("ab")


def _truncated() -> None:
    Path("cut.csv.gz").write_bytes(gzip.compress(b"id,text\n" + os.urandom(5000).hex().encode())[:-500])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source(path="no.csv"), ["ingest.corpus.path", "nothing stands at no.csv"]),
        (Source(path="nothing*.csv"), ["ingest.corpus.path", "nothing stands at nothing*.csv"]),
        (Source(path="nope://x/c.csv"), ["ingest.corpus.path", "nope"]),
        (Source(path="c.csv", text="review"), ["c.csv", "'review'", "ingest.corpus.text", "'id', 'text'"]),
        (Source(path="noid.csv"), ["noid.csv", "'id'", "ingest.corpus.id: null", "make ids from content"]),
        (Source(path="noid.jsonl"), ["noid.jsonl, line 2", "'id'", "ingest.corpus.id: null"]),
        (Source(path="c.parquet", text="body"), ["c.parquet", "ingest.corpus.text", "'more'"]),
        (Source(path="hf", split="train", text="body"), ["hf", "ingest.corpus.text"]),
        (Source(path="hf"), ["splits train", "ingest.corpus.split"]),
        (Source(path="c.csv", format="hf"), ["c.csv is no Hugging Face dataset directory"]),
        (Source(path="c.csv", format="parquet"), ["c.csv can't be read", "Parquet"]),
        (Source(path="cut.csv.gz"), ["cut.csv.gz can't be read after row"]),
        (Source(path="empty.csv"), ["empty.csv is empty", "name the columns"]),
        (Source(path="notes"), ["notes", "ingest.corpus.format"]),
        (Source(path="."), ["holds csv and jsonl and parquet", "ingest.corpus.format"]),
        (GoldSource(path="c.csv"), ["c.csv", "'label'", "ingest.corpus.label"]),
        (GoldSource(path="notes", format="text"), ["ingest.corpus", "no labels"]),
    ],
)
def test_a_source_that_cannot_be_read_says_what_to_do(source: Source, words: list[str]) -> None:
    for path in ("c.csv", "c.parquet", "hf"):
        write(path)
    _truncated()
    Path("noid.csv").write_text("review_id,text\n1,t\n")
    Path("noid.jsonl").write_text('broken\n{"text": "t"}\n')
    Path("empty.csv").touch()
    Path("notes").write_text("a text")
    with pytest.raises(UserError) as caught:
        list(records(source, "ingest.corpus"))
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)
