"""An answer that was stored is there for ever: whole batches or nothing, never twice, whatever kills the process."""

import math
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import sharing, surveying
from pipeline.errors import UserError
from pipeline.responses import Answer, ErrorKind, Origin, ResponseStore, Totals, opened
from pipeline.surveying import Failures, Pace


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
GPT = Origin("openai", "gpt-4o-mini", "p1")
HERE = Origin("local", "smollm2@1", "p2")


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


def test_an_answer_cut_within_a_character_is_stored(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add([answer("a", answer="good \ud83d"), Answer.failed("b", ErrorKind.MALFORMED, "\udc00{")])
        found = store.get("ab")
        assert found["a"].answer == "good ?"
        assert found["b"].error == "malformed answer: ?{"


def test_failures_are_beside_answers_until_they_are_answered(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add(
            [answer("a"), Answer.failed("b", ErrorKind.TIMEOUT, "60 s"), Answer.failed("c", ErrorKind.SERVER, "x")]
        )
        assert "b" not in store
        assert len(store) == 1
        assert store.get("abcd").keys() == set("abc")
        assert store.get("b")["b"].error == "time-out: 60 s"
        assert store.totals("abc") == Totals(1, 3, 1, 0, 0.25)
        store.add([Answer.failed("b", ErrorKind.SERVER, "503"), answer("c")])
        assert store.get("b")["b"].error == "server error: 503"
        assert store.get("c")["c"] == answer("c")
        assert [f.requests for f in surveying.failures(store)] == [1]


def test_totals_count_each_key_once_and_leave_out_the_others(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add(answer(str(i), prompt_tokens=i, cut=i % 2 == 0, seconds=0.5) for i in range(10))
        assert store.totals([*map(str, range(5, 20)), "7", "7"]) == Totals(5, 35, 5, 2, 2.5)
        assert store.totals([]) == Totals()


def test_keys_may_be_looked_up_while_totals_are_made(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add(ANSWERS)
        assert store.totals(key for key in "abxyc" if key in store).answers == 3


def test_sources_tell_models_apart(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.add([answer("a"), answer("b", finish_reason="refused", prompt_tokens=7)], GPT)
        store.add([answer("c")], Origin("openai", "gpt-4o-mini", "p3"))
        store.add([answer("d", seconds=2.0)], HERE)
        store.add([answer("e")])
        found = {source.model: source for source in surveying.sources(store)}
        gpt = found["gpt-4o-mini"]
        assert (gpt.annotator, gpt.answers, gpt.prompts, gpt.unanswered) == ("openai", 3, 2, 1)
        assert (gpt.prompt_tokens, gpt.answer_tokens, gpt.seconds) == (13, 3, 0.75)
        assert gpt.first <= gpt.last
        assert found["smollm2@1"].seconds == 2.0
        assert (found[None].annotator, found[None].prompts, found[None].answers) == (None, 0, 1)


def test_failures_are_told_apart_by_kind_and_model(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        assert surveying.failures(store) == []
        store.add([Answer.failed(key, ErrorKind.TIMEOUT, f"after 60 s: {key}") for key in "bac"], GPT)
        store.add([Answer.failed("d", ErrorKind.RATE_LIMIT, "")], HERE)
        first, second = surveying.failures(store)
        assert first == Failures("time-out", "openai", "gpt-4o-mini", 3, first.last, "time-out: after 60 s: a")
        assert (second.kind, second.model, second.requests) == ("rate limit", "smollm2@1", 1)


def test_pace_is_that_of_one_model(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        times = [0.1, 9.0, 0.3, 0.2, 0.4]
        store.add([answer(str(t), seconds=t, answer_tokens=4, prompt_tokens=20) for t in times], GPT)
        store.add([answer("x", seconds=50.0)], HERE)
        assert surveying.pace(store, "openai", "gpt-4o-mini") == Pace(5, 0.3, pytest.approx(0.1), 4.0)
        assert surveying.pace(store, "openai", "other") is None


OLD = """
CREATE TABLE responses (key TEXT PRIMARY KEY, answer TEXT, log_probabilities TEXT, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, answer_tokens INTEGER NOT NULL, seconds REAL NOT NULL, cut INTEGER NOT NULL,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID;
INSERT INTO responses VALUES ('a', 'yes', NULL, 'stop', 3, 1, 0.25, 0, '2025-01-02 03:04:05');
"""


def test_a_store_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s") as old:
        old.executescript(OLD)
    old.close()
    for _ in range(2):
        with opened(tmp_path / "s") as store:
            assert store.get("a") == {"a": answer("a")}
    with opened(tmp_path / "s") as store:
        store.add([answer("b")], GPT)
        assert next(source.first[:4] for source in surveying.sources(store)) == "2025"
        assert {row.key: row.model for row in store.stored()} == {"a": None, "b": "gpt-4o-mini"}


def filled(path: Path, name: str) -> Path:
    with opened(path / name) as store:
        store.add(ANSWERS, GPT)
        store.add(answer(f"n{i}", seconds=i / 7, log_probabilities=[-i / 3, -1e-300]) for i in range(30))
        store.add([Answer.failed("f", ErrorKind.SERVER, "500")], GPT)
    return path / name


def rows(store: ResponseStore) -> list[tuple[object, ...]]:
    return store.read("SELECT * FROM responses ORDER BY key").fetchall()


@pytest.mark.parametrize("name", ["answers.parquet", "answers.jsonl"])
def test_what_is_exported_is_imported_to_the_last_bit(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with opened(filled(tmp_path, "from")) as source, opened(tmp_path / "to") as target:
        assert sharing.write(file, source.stored()) == 35
        target.add([answer("a", answer="mine"), Answer.failed("b", ErrorKind.SERVER, "500")], HERE)
        assert target.merge(sharing.read(file)) == 35
        assert len(target) == 35
        assert target.get("a")["a"].answer == "mine"
        assert surveying.failures(target) == []
        assert [row for row in rows(target) if row[0] != "a"] == [row for row in rows(source) if row[0] != "a"]
        assert target.merge(sharing.read(file)) == 35
        assert len(target) == 35
        before = file.read_bytes()
        sharing.write(file, source.stored())
        assert file.read_bytes() == before


def test_export_sees_the_store_as_it_was_though_another_writes(tmp_path: Path) -> None:
    with opened(filled(tmp_path, "s")) as reader, opened(tmp_path / "s") as writer:
        stream = reader.stored()
        seen = [next(stream).key]
        writer.add([answer("zz")])
        seen += [row.key for row in stream]
        assert len(seen) == 35
        assert "zz" in reader


GOOD = (
    '{"key": "KEY", "answer": "yes", "log_probabilities": null, "finish_reason": "stop", "prompt_tokens": 3, '
    '"answer_tokens": 1, "seconds": 0, "cut": false, "created": "2025-08-01 00:00:00", "annotator": null, '
    '"model": null, "prompt_hash": null}\n'
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"KEY"', '""', "row 3 is no answer (key: String should have at least 1 character)"),
        ('"KEY"', "7", "row 3 is no answer (key: Input should be a valid string)"),
        ('"stop"', '"error"', "row 3 is no answer (finish_reason: Input should be"),
        ('"log_probabilities": null', '"log_probabilities": ["x", 1]', "log_probabilities.0: Input should be a valid"),
        ('"prompt_tokens": 3', '"prompt_tokens": -3', "prompt_tokens: Input should be greater than or equal to 0"),
        ('"prompt_tokens": 3', '"prompt_tokens": 1e30', "prompt_tokens: Input should be a valid integer"),
        ('"answer_tokens": 1', '"answer_tokens": 9999999999999999999', "answer_tokens: Input should be less than"),
        ('"seconds": 0', '"seconds": NaN', "seconds: Input should be a finite number"),
        ('"cut": false', '"cut": 0', "cut: Input should be a valid boolean"),
        ('"2025-08-01 00:00:00"', '"yesterday"', "created: String should match pattern"),
        ('"cut": false, ', "", "row 3 is no answer (cut: Field required)"),
        ('"key"', '"extra": 1, "key"', "row 3 is no answer (extra: Extra inputs are not permitted)"),
        ("}\n", "\n", "row 3 is not JSON"),
        ('"yes"', '"\\ud800"', "row 3 is no answer (answer: Value error, 'utf-8' codec"),
        (GOOD, "[1]\n", "row 3 is no answer (Input should be"),
    ],
)
def test_one_bad_row_and_nothing_is_imported(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    good = [GOOD.replace("KEY", name) for name in "xyz"]
    (tmp_path / "a.jsonl").write_text(good[0] + good[1] + GOOD.replace(old, new) + good[2])
    with opened(tmp_path / "s") as store:
        store.add([answer("a")])
        with pytest.raises(UserError) as error:
            store.merge(sharing.read(tmp_path / "a.jsonl"))
        assert said in str(error.value)
        assert "nothing was imported" in str(error.value)
        assert store.keys() == {"a"}
        store.add([answer("goes on")])


def test_a_good_file_by_hand_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD * 2)
    with opened(tmp_path / "s") as store:
        assert store.merge(sharing.read(tmp_path / "a.jsonl")) == 2
        assert store.get(["KEY"])["KEY"].answer == "yes"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "none.parquet", "none.jsonl"])
def test_files_that_can_not_be_read_are_named(tmp_path: Path, name: str) -> None:
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"PAR1 \xff\xfe nothing")
    with opened(tmp_path / "s") as store, pytest.raises(UserError, match=name):
        store.merge(sharing.read(tmp_path / name))
    with pytest.raises(UserError, match=r"must end in \.parquet or \.jsonl"):
        sharing.write(tmp_path / "a.csv", [])


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
