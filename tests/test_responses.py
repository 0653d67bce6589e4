"""An answer that was stored is there for ever: whole batches or nothing, never twice, whatever kills the process."""

import math
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.responses import Answer, opened


def answer(key: str, **values: object) -> Answer:
    usual = {
        "answer": "yes",
        "log_probabilities": None,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "answer_tokens": 1,
    }
    return Answer(key, **(usual | {"seconds": 0.25, "cut": False} | values))  # type: ignore[arg-type]


ANSWERS = [
    answer("a"),
    answer("b", answer=None, log_probabilities=[-0.1, math.pi * -1e-17, -math.inf], finish_reason="choice", cut=True),
    answer("c", answer="", finish_reason="length"),
    answer("d", answer='two\nlines, "quoted" \U0001f600 \x00', seconds=1e-9),
    answer("e", answer=None, finish_reason="missing"),
]


def test_what_was_stored_comes_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "made" / "responses.sqlite"
    with opened(path) as store:
        store.add(ANSWERS[:2])
        store.add(ANSWERS[2:])
        store.add([])
    with opened(path) as store:
        assert store.keys() == set("abcde")
        assert store.get("edcba") == {row.key: row for row in ANSWERS}
        assert [type(row.cut) for row in store.get("ab").values()] == [bool, bool]


def test_many_keys_some_of_them_twice_or_unknown(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add(answer(str(i)) for i in range(1201))
        found = store.get([*map(str, range(-5, 1300)), "7", "7"])
        assert set(found) == store.keys() == set(map(str, range(1201)))


def test_paying_twice_is_refused_and_the_batch_is_whole_or_not_there(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add([answer("a", answer="first")])
        with pytest.raises(sqlite3.IntegrityError):
            store.add([answer("b"), answer("a", answer="second"), answer("c")])
        assert store.get("abc") == {"a": answer("a", answer="first")}


def test_one_writes_while_another_reads(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as writer, opened(tmp_path / "s") as reader:
        writer.add([answer("a")])
        assert reader.keys() == {"a"}


@pytest.mark.parametrize("content", [b"no database, though long enough to have a header" * 99, None])
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s"
    if content is None:  # a store whose pages were overwritten
        with opened(path) as store:
            store.add(answer(str(i)) for i in range(500))
        content = path.read_bytes()[:100] + b"\xff" * 8000 + path.read_bytes()[8100:]
    path.write_bytes(content)
    with pytest.raises(UserError, match="s is not a response store: move it away"), opened(path) as store:
        store.keys()
    assert path.read_bytes() == content


def test_a_full_disk_is_said_and_keeps_what_was_there(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add([answer("a")])
        store._db.execute("PRAGMA max_page_count = 8")  # SQLite then says what it says of a full disk
        with pytest.raises(UserError, match="no room on the disk for the response store"):
            store.add(answer(str(i), answer="x" * 1000) for i in range(1000))
        assert store.keys() == {"a"}


WRITER = """
import sys
from pathlib import Path
from pipeline.responses import Answer, opened
with opened(Path(sys.argv[1])) as store:
    for batch in range(10**9):
        store.add(Answer(f"{batch}/{i}", "x", None, "stop", 1, 1, 0.0, False) for i in range(7))
        print(batch, flush=True)
"""


def test_kill_9_loses_no_batch_that_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += map(int, process.stdout.read().split())
    with opened(path) as store:
        keys = store.keys()
        assert {f"{batch}/{i}" for batch in said for i in range(7)} <= keys
        assert len(keys) % 7 == 0
        store.add([answer("goes on")])
