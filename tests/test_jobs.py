"""Labelling anything, anywhere: every row once, whoever dies and whoever helps."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_bulk import room
from toy_bulk import ENVIRONMENT, command, contents, label, settings, write_corpus

from serving import jobs, labelling
from serving.errors import UserError
from serving.verifying import verify


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


@pytest.fixture
def calm(corpus: Path, tmp_path: Path) -> Path:
    """What an undisturbed run in one process leaves."""
    labelling.run(settings(corpus, tmp_path / "calm"))
    return tmp_path / "calm"


def ids(out: Path) -> list[str]:
    return pq.read_table(sorted(out.glob("part-*.parquet")))["id"].to_pylist()


def test_every_row_is_labelled_or_stands_with_its_reason(calm: Path) -> None:
    bad = [i for i in range(400) if i % 97 == 5]
    assert ids(calm) == [f"id-{i}" for i in range(400) if i not in bad]
    unusable = pq.read_table(sorted(calm.glob("unusable-*.parquet"))).to_pylist()
    assert [row["row"] for row in unusable] == [i + 1 for i in bad]
    assert all(row["reason"].startswith("malformed row: not JSON") for row in unusable)
    manifest = json.loads((calm / "manifest.json").read_text())
    assert (manifest["rows"], manifest["unusable"], len(manifest["parts"])) == (395, 5, 14)


def test_a_second_run_does_nothing_twice(calm: Path, corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in calm.iterdir()}
    outcome = labelling.run(settings(corpus, calm))
    assert (outcome.found, outcome.missing, outcome.all.rows) == (14, 0, 395)
    assert before == {path: path.stat().st_mtime_ns for path in calm.iterdir()}


def test_what_is_damaged_is_done_again_and_nothing_else(calm: Path, corpus: Path) -> None:
    whole = contents(calm)
    (calm / "part-00003.parquet").write_bytes(b"PAR1")
    (calm / "part-00005.json").unlink()
    (calm / "unusable-00000.parquet").unlink()
    assert labelling.run(settings(corpus, calm)).found == 11
    assert contents(calm) == whole


def formats(folder: Path) -> Iterator[Path]:
    rows = [{"id": f"id-{i}", "text": f"a fine film {i}"} for i in range(100)]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:70]), folder / "a.parquet", row_group_size=25)
    pq.write_table(pa.Table.from_pylist(rows[70:]), folder / "b.parquet")
    yield folder
    for name, text in (
        ("c.csv", "id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows)),
        ("c.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
    ):
        folder.with_name(name).write_text(text)
        yield folder.with_name(name)


def test_formats_folders_and_urls_give_the_same_parts(tmp_path: Path) -> None:
    found = []
    for i, source in enumerate(formats(tmp_path / "folder")):
        labelling.run(settings(source, f"file://{tmp_path}/out{i}"))
        found.append({n: b for n, b in contents(tmp_path / f"out{i}").items() if n.endswith(".parquet")})
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/c.csv", (tmp_path / "c.csv").read_bytes())
    labelling.run(settings("memory://in/c.csv", "memory://out/labels"))
    found.append({name.rsplit("/", 1)[-1]: memory.cat(name) for name in memory.ls("/out/labels", detail=False)})
    assert "memory://out/labels is complete: 100 rows in 4 parts" in verify("memory://out/labels")
    assert labelling.run(settings("memory://in/c.csv", "memory://out/labels")).found == 4
    assert len(found[0]) == 4
    assert all({n: b for n, b in parts.items() if n.endswith(".parquet")} == found[0] for parts in found)
    jobs.restart("memory://out/labels")
    assert memory.ls("/out/labels") == []


def sidecars(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("part-*.json")}


def start(corpus: Path, out: Path, parts: int, *options: object) -> subprocess.Popen[str]:
    """A run of which so many shards are done."""
    process = subprocess.Popen(command(corpus, out, *options), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while len(sidecars(out)) < parts and process.poll() is None:
        time.sleep(0.001)
    return process


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_killed_worker_is_told_and_the_next_run_goes_on(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus.jsonl", 3000), tmp_path / "out"
    labelling.run(settings(corpus, tmp_path / "calm"))
    process = start(corpus, out, 5, "--workers", 2)
    pair = workers(process)
    assert len(pair) == 2
    pair[0].kill()
    _, error = process.communicate()
    assert process.returncode == 2
    assert "error: a worker (process) was killed before it was done" in error
    assert "Finished shards are kept: run the same command again" in error
    assert "Traceback" not in error
    before = sidecars(out)
    assert not (out / "manifest.json").exists()
    again = label(corpus, out, "--workers", 2)
    assert (again.returncode, again.stderr) == (0, "")
    assert before.items() <= sidecars(out).items()
    assert contents(out) == contents(tmp_path / "calm")


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus.jsonl", 3000), tmp_path / "out"
    process = start(corpus, out, 3, "--workers", 2)
    pair = workers(process)
    process.kill()
    process.communicate()
    assert len(psutil.wait_procs(pair, timeout=20)[1]) == 0
    assert label(corpus, out).returncode == 0
    assert not list(out.glob(".*.tmp"))
    assert verify(str(out), settings(corpus, out)).startswith(f"{out} is complete")


def test_workers_of_an_indexed_job_together_do_what_one_does(calm: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = ENVIRONMENT | {"JOB_COMPLETIONS": "3"}
    team = [
        subprocess.Popen(command(corpus, out), env=environment | {"JOB_COMPLETION_INDEX": str(i)}) for i in range(3)
    ]
    assert [process.wait() for process in team] == [0, 0, 0]
    assert contents(out) == contents(calm)


def test_the_last_worker_finishes_and_a_late_finish_does_too(calm: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = labelling.run(settings(corpus, out, index=1, of=2))
    assert (len(first.all.files), first.missing) == (7, 7)
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="is not finished"):
        verify(str(out))
    assert labelling.finish(settings(corpus, out)).missing == 7
    labelling.run(settings(corpus, out, index=0, of=2))
    assert contents(out) == contents(calm)
    (out / "manifest.json").unlink()
    labelling.finish(settings(corpus, out))
    assert contents(out) == contents(calm)


def test_two_on_the_same_shards_leave_one_result(calm: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    team = [subprocess.Popen(command(corpus, out), env=ENVIRONMENT) for _ in range(3)]
    assert [process.wait() for process in team] == [0, 0, 0]
    assert contents(out) == contents(calm)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"precision": "fp32"}, "precision (int8 there, fp32 now)"),
        ({"runtime": "openvino"}, "runtime (onnxruntime there, openvino now)"),
        ({"shard_rows": 40}, "shard_rows (30 there, 40 now)"),
        ({"min_confidence": 0.5}, "min_confidence (0.0 there, 0.5 now)"),
    ],
)
def test_labels_of_two_kinds_are_not_mixed(calm: Path, corpus: Path, change: dict[str, object], word: str) -> None:
    whole = contents(calm)
    with pytest.raises(UserError) as caught:
        labelling.run(settings(corpus, calm, **change))
    assert word in str(caught.value)
    assert "name another output, or begin again with --restart" in str(caught.value)
    assert contents(calm) == whole
    (calm / "notes.txt").write_text("mine")
    jobs.restart(str(calm))
    assert [path.name for path in calm.iterdir()] == ["notes.txt"]
    assert labelling.run(settings(corpus, calm, **change)).found == 0


def test_another_input_and_labels_of_a_stage_are_refused(calm: Path, corpus: Path) -> None:
    corpus.write_text(corpus.read_text() + '{"id": "new", "text": "one more"}\n')
    with pytest.raises(UserError, match="differs in input files"):
        labelling.run(settings(corpus, calm))
    (calm / "job.json").unlink()
    with pytest.raises(UserError, match=r"holds labels of another run \(part-00000.*without job.json"):
        labelling.run(settings(corpus, calm))


def test_auto_is_settled_by_the_first_worker(calm: Path, corpus: Path) -> None:
    assert labelling.run(settings(corpus, calm, runtime="auto")).found == 14


def test_a_full_disk_is_told_and_the_next_run_goes_on(calm: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with room(1200), pytest.raises(UserError, match=r"no room on the disk while writing .*: free some"):
        labelling.run(settings(corpus, out))
    assert not list(out.glob(".*.tmp"))
    labelling.run(settings(corpus, out))
    assert contents(out) == contents(calm)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.csv", "out"], ["INPUT: nothing stands at none.csv"]),
        (["c.csv"], ["label INPUT OUTPUT"]),
        (["c.csv", "out"], ["no column 'text' (--text-column)", "'review'", "right one in --text-column"]),
        (["c.csv", "out", "--text-column", "review"], ["'id' (--id-column)", "give --ids-from-text"]),
        (["c.csv", "c.csv", "--text-column", "review", "--ids-from-text"], ["c.csv is a file: name a directory"]),
        (["d.csv", "/proc/nope"], ["/proc/nope can't be made: No such file"]),
        (["c.csv", "nope://x"], ["nope://x can't be opened"]),
        (["c.csv", "out", "--workers", "0"], ["--workers must be 1 or more (got 0)"]),
        (["c.csv", "out", "--index", "3"], ["JOB_COMPLETION_INDEX", "--of or JOB_COMPLETIONS"]),
        (["c.csv", "out", "--index", "3", "--of", "3"], ["from 0 to 2"]),
        (["c.csv", "out", "--index", "0", "--of", "3", "--restart"], ["--restart with --index"]),
        (["c.csv", "out", "--verify", "--plan"], ["exclude each other"]),
        (["--verify", "out"], ["out holds no labels"]),
        (["empty.csv", "out"], ["empty.csv has no rows: there is nothing to label"]),
    ],
)
def test_mistakes_get_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_text("number,review\n1,good\n")
    Path("d.csv").write_text("id,text\n1,good\n")
    Path("empty.csv").write_text("id,text\n")
    done = label(*arguments)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ids_are_made_from_texts_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("text\ngood film\nbad film\ngood film\n")
    done = label(tmp_path / "c.csv", tmp_path / "out", "--ids-from-text")
    assert done.returncode == 0, done.stderr
    first, second, third = ids(tmp_path / "out")
    assert first == third != second
    assert "the input has equal texts" in label("--verify", tmp_path / "out").stdout
