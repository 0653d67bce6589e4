"""The stage annotate: every text ends with one answer, whatever stops it, and nothing is asked twice."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_llama
import toy_project
from ruamel.yaml import YAML

from pipeline import annotators, params, responses
from pipeline.annotators import Request
from pipeline.artifacts import GOLD, QUESTIONS, RESPONSES, SAMPLE, STORE, Gold, Response, Sampled, metrics
from pipeline.errors import UserError
from pipeline.prompts import Variant
from pipeline.responses import Answer, ErrorKind, ResponseStore
from pipeline.spending import Spending
from pipeline.stages import annotate
from serving.corpus import text_hash

RECORDED = {"kind": "recorded", "model": "m", "files": [{"path": "answers.jsonl", "answer": ["answer"]}]}
PROMPT = {"style": "completion", "user": "Review: {text}\nOverall, it was"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_llama.save(tmp_path_factory.mktemp("toy"))


def loaded(annotator: dict[str, Any] = RECORDED, parse: dict[str, Any] | None = None, **block: Any) -> params.Params:
    values: Any = YAML(typ="safe", pure=True).load(toy_project.PARAMS.replace("GAIN", "0.0"))
    values["annotate"] = {"annotator": annotator, "prompt": PROMPT, **block}
    values["parse"] = parse or {}
    values["ingest"]["gold_train"] = {"path": "gold.csv"}
    YAML().dump(values, Path("params.yaml"))
    return params.load()


def texts(count: int, gold: int = 0, text: str = "text") -> None:
    """Sample s0.., gold g0.. sorted by label (negative first), and two of training that nobody is asked about."""
    SAMPLE.write(Sampled(f"s{i}", f"{text} {i}", text_hash(f"{text} {i}"), "train") for i in range(count))
    people = [(f"g{i}", "negative" if i < gold / 2 else "positive", ("test", "validation")[i % 2]) for i in range(gold)]
    people += [("t0", "negative", "train"), ("t1", "positive", "train")]
    GOLD.write(Gold(i, f"person {i}", text_hash(f"person {i}"), label, split) for i, label, split in people)


def record(answers: dict[str, str | None]) -> None:
    lines = (json.dumps({"id": i, "answer": text}) for i, text in answers.items() if text is not None)
    Path("answers.jsonl").write_text("\n".join([json.dumps({"id": "unasked", "answer": "x"}), *lines]) + "\n")


def good(count: int, gold: int = 0) -> dict[str, str | None]:
    """Answers of a teacher that is always right."""
    people = {f"g{i}": "negative" if i < gold / 2 else "positive" for i in range(gold)}
    return {f"s{i}": ("negative", "positive")[i % 2] for i in range(count)} | people


def stored() -> set[str]:
    with responses.opened(STORE) as store:
        return store.keys()


def rows(table: Any = RESPONSES) -> dict[str, Any]:
    found = list(table)
    assert len({row.id for row in found}) == len(found)
    return {row.id: row for row in found}


def test_ten_thousand_recorded_ids_each_have_their_own_answer() -> None:
    texts(10_000, 300)
    answers = good(10_000, 300) | {"s7": None, "s9999": "who knows"}
    record(answers)
    annotate.run(loaded())
    found = rows()
    assert {i: row.answer for i, row in found.items()} == answers
    assert {i for i, row in found.items() if row.purpose == "gold"} == {f"g{i}" for i in range(300)}
    assert {row.finish_reason for row in found.values()} == {"stop", "missing"}
    assert found["s7"].finish_reason == "missing"
    assert {(row.model[:2], row.variant, row.error, row.log_probabilities) for row in found.values()} == {
        ("m@", None, None, None)
    }
    assert metrics("annotate").read()["answers"] == 10_300
    assert stored() == {row.key for row in found.values()}


def test_gold_may_be_left_out_or_missing() -> None:
    texts(30, 30)
    record(good(30))
    annotate.run(loaded(gold=False))
    assert set(rows()) == {f"s{i}" for i in range(30)}
    GOLD.write([])
    annotate.run(loaded())
    assert set(rows()) == {f"s{i}" for i in range(30)}


def test_the_pilot_has_gold_of_all_kinds_though_the_file_is_sorted() -> None:
    texts(500, 400)
    record(good(500, 400))
    annotate.run(loaded(pilot=40))
    first = list(islice(QUESTIONS, 80))
    assert [q.purpose for q in first] == ["gold"] * 40 + ["sample"] * 40
    assert 10 < sum(q.label == "positive" for q in first[:40]) < 30
    assert [q.id for q in first[40:]] == [f"s{i}" for i in range(40)]


PILOTS = [
    ({"s": "?"}, "only 0% of the first 30 answers give a label"),
    ({"s": "positive"}, "all of the first 30 answers say 'positive'"),
    ({"g": "positive"}, "right on [45].% of 30 gold texts, no better than always saying"),
]


@pytest.mark.parametrize(("wrong", "expected"), PILOTS)
def test_a_bad_pilot_stops_before_the_rest_is_asked(wrong: dict[str, str], expected: str) -> None:
    texts(200, 100)
    record({i: wrong.get(i[0], answer) for i, answer in good(200, 100).items()})
    loaded(pilot=30)
    for _ in range(2):  # again, nothing is asked
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "annotate"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert re.search(expected, done.stderr)
        assert done.stderr.count("error: annotate stopped after its pilot: ") == 1
        assert "ask on with annotate.pilot: 0; the 60 answers are kept\n" in done.stderr
        assert len(stored()) == 60
        assert not RESPONSES.path.exists()
    annotate.run(loaded(pilot=0))
    assert len(rows()) == len(stored()) == 300


@pytest.mark.parametrize(("count", "gold"), [(30, 0), (10, 100), (300, 10)])
def test_a_pilot_of_fewer_texts_than_it_might_have(count: int, gold: int) -> None:
    texts(count, gold)
    record(good(count, gold))
    annotate.run(loaded(pilot=50))
    assert len(rows()) == count + gold
    asked = list(QUESTIONS)
    first = asked[: min(gold, 50) + min(count, 50)]
    assert [q.purpose for q in first] == ["gold"] * min(gold, 50) + ["sample"] * min(count, 50)


def test_an_empty_sample_is_said() -> None:
    texts(0)
    record({})
    with pytest.raises(UserError, match=r"the sample is empty: there is nothing to annotate; look at sample.size"):
        annotate.run(loaded())


LOCAL = {"kind": "local", "dtype": "float32", "max_batch_tokens": 128, "max_text_tokens": 32}


def test_a_local_model_is_asked_without_content_too_and_equal_texts_once(toy: str) -> None:
    texts(12, 4)
    SAMPLE.write([*SAMPLE, Sampled("again", "text  3", "h", "train"), Sampled("twice", "text 3", "h2", "train")])
    annotate.run(loaded(LOCAL | {"model": toy}))
    found = rows()
    assert [i for i, row in found.items() if row.purpose == "content_free"] == [f"content_free:{i}" for i in range(3)]
    assert found["twice"].key == found["s3"].key != found["again"].key
    assert len(stored()) == len(found) - 1 == 20
    assert metrics("annotate").read()["answers"] == 20
    assert all(row.log_probabilities is not None and row.finish_reason == "choice" for row in found.values())


def without_time(row: Response) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in Response.__slots__}
    return values | {"seconds": 0.0, "log_probabilities": None}


def same(found: dict[str, Response], calm: dict[str, Response]) -> bool:
    assert list(map(without_time, found.values())) == list(map(without_time, calm.values()))
    scores = [[row.log_probabilities for row in some.values()] for some in (found, calm)]
    np.testing.assert_allclose(*scores, atol=1e-4)
    return True


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_broken_off_run_goes_on_and_ends_as_a_calm_one(toy: str, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    texts(60, 12)
    prompt = PROMPT | {"shuffle": True, "examples": [{"text": t, "label": t} for t in ("negative", "positive")]}
    made = loaded(LOCAL | {"model": toy}, prompt=prompt, pilot=8)
    annotate.run(made)
    calm, count = rows(), len(stored())
    STORE.unlink()
    RESPONSES.path.unlink()
    left, add = [at], ResponseStore.add

    def breaking(self: ResponseStore, *arguments: Any) -> None:
        add(self, *arguments)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResponseStore, "add", breaking)
    with pytest.raises(KeyboardInterrupt):
        annotate.run(made)
    assert 0 < len(stored()) < count
    assert not RESPONSES.path.exists()
    annotate.run(made)  # to add an answer twice would raise
    assert same(rows(), calm)
    assert len(stored()) == count


def test_a_budget_stops_cleanly_and_a_larger_one_goes_on(toy: str) -> None:
    texts(80)
    annotate.run(loaded(LOCAL | {"model": toy}, gold=False, pilot=0))
    calm, figures = rows(), metrics("annotate").read()
    STORE.unlink()
    RESPONSES.path.unlink()
    metrics("annotate").path.unlink()
    bought = 0
    for limit in (figures["prompt_tokens"] // 4, figures["prompt_tokens"] // 2):
        message = (
            rf"annotate.budget.tokens {limit:,} is reached .*\d+ of 83 texts were asked about and their answers are "
            "kept; raise annotate.budget or lower sample.size"
        )
        for _ in range(2):  # the second time it buys nothing
            with pytest.raises(UserError, match=message):
                annotate.run(loaded(LOCAL | {"model": toy}, gold=False, pilot=0, budget={"tokens": limit}))
            assert not RESPONSES.path.exists()
            assert not metrics("annotate").path.exists()
        assert bought < (bought := len(stored())) < 83
        with responses.opened(STORE) as store:
            assert store.totals(store.keys()).prompt_tokens <= limit
    annotate.run(loaded(LOCAL | {"model": toy}, gold=False, pilot=0, budget={"tokens": figures["prompt_tokens"]}))
    assert same(rows(), calm)
    assert metrics("annotate").read()["prompt_tokens"] == figures["prompt_tokens"]


class Failing:
    """Answers what it is asked, but for the ids that it is told to fail at."""

    model, decoding, gives_log_probabilities = "failing", "{}", False

    def __init__(self, fail_at: Iterable[str], kind: ErrorKind = ErrorKind.TIMEOUT) -> None:
        self.fail_at, self.kind, self.asked = set(fail_at), kind, list[str]()

    def key(self, request: Request) -> str:
        return hashlib.sha256(request.text.encode()).hexdigest()

    def answers(self, requests: Iterable[Request], known: Container[str], spending: Spending) -> Iterator[list[Answer]]:
        for request in requests:
            key = self.key(request)
            if key in known or not spending.take(key, 10, 1):
                continue
            self.asked.append(request.id)
            failed = Answer.failed(key, self.kind, "no answer in 60 s")
            answer = Answer(key, ("positive", "negative")[int(request.id[1:]) % 2], None, "stop", 9, 1, 0.5, False)
            yield [failed if request.id in self.fail_at else answer]


def use(monkeypatch: pytest.MonkeyPatch, annotator: Failing) -> Failing:
    monkeypatch.setattr(annotators, "create", lambda *_: annotator)
    return annotator


def test_a_few_failures_are_written_down_and_asked_again_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    texts(200)
    use(monkeypatch, Failing(["s5", "s50", "s150"]))
    annotate.run(loaded())
    found = rows()
    assert [i for i, row in found.items() if row.finish_reason == "error"] == ["s5", "s50", "s150"]
    assert found["s50"].error == "time-out: no answer in 60 s"
    assert metrics("annotate").read()["answers"] == 197
    second = use(monkeypatch, Failing(["s150"]))
    annotate.run(loaded())
    assert second.asked == ["s5", "s50", "s150"]
    assert [i for i, row in rows().items() if row.error] == ["s150"]


def test_too_many_failures_stop_and_keep_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    texts(200)
    use(monkeypatch, Failing(f"s{i}" for i in range(120, 125)))
    message = r"5 of 200 requests failed \(time-out 5\), more than annotate.max_failed_share 2%: the others are kept"
    with pytest.raises(UserError, match=message):
        annotate.run(loaded())
    assert not RESPONSES.path.exists()
    assert len(stored()) == 195
    annotate.run(loaded(max_failed_share=0.025))
    assert len(rows()) == 200


def test_money_counts_what_earlier_runs_have_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    texts(100)
    block: dict[str, Any] = {
        "annotator": {"kind": "openai", "model": "m"},
        "price": {"prompt_per_million": 1e6, "answer_per_million": 1e6},
    }
    first = use(monkeypatch, Failing([]))
    with pytest.raises(UserError, match=r"annotate.budget.money 300 is reached .*: 2\d of 100 texts"):
        annotate.run(loaded(**block, budget={"money": 300.0}))
    second = use(monkeypatch, Failing([]))
    with pytest.raises(UserError, match=r"annotate.budget.money 500 is reached .*: 4\d of 100 texts"):
        annotate.run(loaded(**block, budget={"money": 500.0}))
    assert not set(first.asked) & set(second.asked)
    annotate.run(loaded(**block))
    assert metrics("annotate").read()["money"] == 1000.0


def test_shots_are_recorded_with_each_answer_and_chosen_alike_again(toy: str) -> None:
    texts(12, 4, text="A fine text about")
    prompt = PROMPT | {"shots": {"choose": "nearest"}}
    annotate.run(loaded(LOCAL | {"model": toy}, prompt=prompt))
    first = rows()
    shown = {(("person t0", 0), ("person t1", 1)), (("person t1", 1), ("person t0", 0))}
    assert {Variant.from_json(row.variant).examples for row in first.values()} <= shown
    annotate.run(loaded(LOCAL | {"model": toy}, prompt=prompt))
    assert rows() == first


MEMORY = """
from pathlib import Path
from pipeline import params
from pipeline.stages import annotate
annotate.run(params.load())
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # rusage would begin with the parent's
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak memory as Linux tells it")
def test_memory_does_not_grow_with_the_sample() -> None:
    peaks = []
    for count in (30_000, 90_000):  # both more than two groups of rows, 10,000 each: the most that is held at a time
        STORE.unlink(missing_ok=True)
        texts(count, text="a text of many words " * 100)
        record(good(count))
        loaded()
        done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 90  # MiB, allocators swing by 60; 60,000 texts are 124, wherever they were held
