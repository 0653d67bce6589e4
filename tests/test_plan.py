"""What a plan says before anything is paid: counts that hold, stored answers free, no call to any server."""

import math
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import toy_project
from test_costing import settings

from pipeline import annotators, artifacts, responses
from pipeline.annotators import Request
from pipeline.annotators.endpoint import Asker
from pipeline.artifacts import CORPUS, GOLD, SAMPLE, STORE, Gold, metrics
from pipeline.commands import plan as commands
from pipeline.commands import responses as stored
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.planning import Counter
from pipeline.prompts import Template, Variant
from pipeline.responses import Answer, Origin, ResponseStore
from pipeline.stages import annotate
from serving.estimating import Estimate, Part

OPENAI = "{kind: openai, model: gpt-4o-mini, mode: text, base_url: 'http://127.0.0.1:9'}"
QUESTIONS = 40 + 40 + 40  # sample, validation, test


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with a sample, in a world without a network that notices who looks for one."""
    asked = []

    def refused(*arguments: object) -> NoReturn:
        asked.append(arguments)
        raise OSError("there is no network")

    monkeypatch.chdir(tmp_path)
    toy_project.write()
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    yield tmp_path
    assert not asked


def ask(project: Path, annotator: str = OPENAI, more: str = "", report: str = "{}") -> Params:
    return settings(project, annotator, more, report)


def figures(said: str) -> dict[str, list[str]]:
    """First column -> other columns, and the notes under their names."""
    lines = [line for line in said.splitlines() if line]
    head = lines[0]
    ends = [head.index(word) + len(word) for word in ("requests", "prompt tokens", "answer tokens", "USD", "time")]
    begins = [head.index("requests") - 2, *ends[:-1]]
    rows = {
        line[: begins[0]].strip(): [line[a:b].strip() for a, b in zip(begins, ends, strict=True)] for line in lines[1:5]
    }
    return rows | {line.split()[0]: [line.split(maxsplit=1)[1]] for line in lines[5:]}


def texts() -> list[str]:
    return [row.text for row in GOLD] + [row.text for row in SAMPLE]


def test_an_endpoint_is_counted_by_characters_and_priced_by_the_table(project: Path) -> None:
    ask(project)
    said = commands.plan()
    rows = figures(said)
    tokens = sum(math.ceil(len(text) / 4) + 4 for text in texts())
    assert rows["LLM labels the sample and gold"][:3] == [str(QUESTIONS), f"{tokens:,}", f"{16 * QUESTIONS:,}"]
    money = float(rows["LLM labels the sample and gold"][3])
    assert money == pytest.approx((tokens * 0.15 + 16 * QUESTIONS * 0.6) / 1e6, rel=0.05)
    assert rows["LLM labels the corpus"][0] == "200"
    assert "estimated, 4 characters a token (annotate.annotator.tokenizer is not set)" in rows["tokens"][0]
    assert rows["answers"] == ["16 tokens each at most"]
    assert "list prices of 2025-08" in rows["prices"][0]
    assert rows["LLM labels the corpus"][4] == "unknown"
    assert "unknown until some are answered" in rows["times"][0]
    assert len(said.splitlines()) <= 20
    assert max(map(len, said.splitlines())) <= 150


def test_a_server_whose_abilities_are_unknown_is_not_asked(project: Path) -> None:
    ask(project, OPENAI.replace("mode: text, ", ""))
    rows = figures(commands.plan())
    assert rows["LLM labels the sample and gold"][0] == str(QUESTIONS + 3)  # and what calibrates, at most
    assert rows["answers"] == ["16 tokens each at most; the server was not asked yet what it can do"]
    assert not STORE.exists()


def test_a_model_that_runs_here_is_counted_by_its_own_tokenizer(project: Path) -> None:
    found = ask(project, "{kind: local}", ", price: {per_hour: 36.0}, gold: false")
    rows = figures(commands.plan())
    count = Counter(found)
    tokens = sum(count(Request("", text)) for text in [*(row.text for row in SAMPLE), "", "N/A", "[MASK]"])
    assert rows["LLM labels the sample and gold"][:3] == ["43", f"{tokens:,}", "0"]
    assert rows["LLM labels the sample and gold"][3:] == ["unknown", "unknown"]
    assert rows["encoder labels the corpus"] == ["200", "-", "-", "0.000014", "0.5 s"]
    assert "counted with the tokenizer of embedded:smollm2, on all texts" in rows["tokens"][0]
    with responses.opened(STORE) as store:
        local = annotators.create(found.annotate, found.task, store)
        origin = Origin("local", local.model, "p")
        keys = [local.key(Request("", row.text)) for row, _ in zip(SAMPLE, range(30), strict=False)]
        store.add([Answer(key, None, [-1.0, -2.0], "choice", 10, 0, 0.5, False) for key in keys], origin)
    rows = figures(commands.plan())
    assert rows["LLM labels the sample and gold"][0] == "13"
    assert rows["stored already, free"][0] == "30"
    assert rows["stored already, free"][3] == "0.15 spent"  # 15 s at 36 an hour
    left = int(rows["LLM labels the sample and gold"][1].replace(",", ""))
    assert float(rows["LLM labels the sample and gold"][3]) == pytest.approx(left * 0.05 * 36 / 3600, rel=0.05)
    assert "as 30 stored answers took" in rows["times"][0]


@pytest.mark.parametrize("shuffle", [False, True])
def test_after_annotating_nothing_is_left_to_pay(project: Path, shuffle: bool) -> None:
    (project / "answers.csv").write_text(
        "id,label\n" + "".join(f"{row.id},{row.text[:4]}\n" for row in [*GOLD, *SAMPLE])
    )
    recorded = "{kind: recorded, model: m, files: [{path: answers.csv, answer: [label]}]}"
    found = ask(project, recorded, ", pilot: 0")
    if shuffle:
        prompt = found.annotate.prompt.model_copy(update={"shuffle": True})
        found = found.model_copy(update={"annotate": found.annotate.model_copy(update={"prompt": prompt})})
    rows = figures(commands.plan())
    assert rows["LLM labels the sample and gold"] == [str(QUESTIONS), "-", "-", "0", "-"]
    assert rows["LLM labels the corpus"][3] == "unknown"
    assert "recorded elsewhere" in rows["prices"][0]
    annotate.run(found)
    rows = figures(commands.plan())
    assert rows["LLM labels the sample and gold"][0] == "0"
    assert rows["stored already, free"][0] == str(QUESTIONS)


def store_some(found: Params, count: int, seconds: float = 2.0) -> None:
    """Answers to the first texts of the sample, 100 tokens and 3 each."""

    def keys(store: ResponseStore) -> list[str]:
        asker = Asker(found.annotate.annotator, Template.of(found.annotate.prompt, found.task), False, store)  # type: ignore[arg-type]
        return [asker.key(Request(row.id, row.text)) for row, _ in zip(SAMPLE, range(count), strict=False)]

    with responses.opened(STORE) as store:
        given = [Answer(key, "x", None, "stop", 100, 3, seconds, False) for key in keys(store)]
        store.add(given, Origin("openai", "gpt-4o-mini", "p"))


def test_time_and_answers_are_those_of_stored_ones(project: Path) -> None:
    store_some(ask(project, more=", gold: false"), 30)
    rows = figures(commands.plan())
    assert rows["stored already, free"][0] == "30"
    assert rows["LLM labels the sample and gold"][0] == "10"
    assert rows["LLM labels the corpus"][2] == "600"  # 3 each
    assert rows["LLM labels the corpus"][4] == "6.2 s"  # 200 times 2 s, 64 at a time
    assert rows["answers"] == ["3 tokens each, as 30 stored ones have"]


@pytest.mark.parametrize("limit", ["requests_per_minute: 60", "requests_per_minute: 999, tokens_per_minute: 1500"])
def test_time_by_the_tighter_of_the_limits_a_minute(project: Path, limit: str) -> None:
    ask(project, OPENAI.replace("mode:", f"{limit}, mode:"))
    rows = figures(commands.plan())
    corpus = rows["LLM labels the corpus"]
    tokens = sum(int(figure.replace(",", "")) for figure in corpus[1:3])
    minutes = 200 / 60 if limit.endswith("60") else tokens / 1500
    assert minutes > 2
    assert corpus[4] == f"{minutes:.0f} min"
    assert "what its limits a minute allow" in rows["times"][0]


def test_an_unknown_price_is_no_zero(project: Path) -> None:
    ask(project, OPENAI.replace("gpt-4o-mini", "mine"))
    rows = figures(commands.plan())
    assert rows["LLM labels the sample and gold"][3] == "unknown"
    assert rows["prices"] == ["the price of mine in USD is unknown: set annotate.price"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("{tokens: 100000}", "tokens 100,000 suffices: 2,"),
        ("{tokens: 1000}", "tokens 1,000 stops the run after about 4"),
        ("{money: 1}", "money 1 suffices: 0.0013 at most"),
        ("{money: 0.0005}", "money 0.0005 stops the run after about 4"),
        ("{minutes: 5}", "minutes 5: whether it suffices is unknown"),
    ],
)
def test_the_budget_is_held_against_the_estimate(project: Path, limits: str, said: str) -> None:
    ask(project, more=f", budget: {limits}")
    assert figures(commands.plan())["budget"][0].startswith(said)


def test_what_is_left_of_the_budget_counts(project: Path) -> None:
    store_some(ask(project, more=", gold: false, budget: {tokens: 3160}"), 30)  # of which 3,090 are spent
    assert figures(commands.plan())["budget"][0] == "tokens 3,160 stops the run after about 6 of 10 requests"


def test_gold_to_train_on_is_not_asked_about(project: Path) -> None:
    GOLD.write([*GOLD, Gold("t", "good film", "t", "positive", "train")])
    ask(project)
    assert figures(commands.plan())["LLM labels the sample and gold"][0] == str(QUESTIONS)


@pytest.mark.parametrize(
    ("stored_", "limits", "said"),
    [
        (0, "{tokens: 20}", "annotate.budget.tokens 20 has no room for one request (the smallest needs 23): raise it"),
        (
            0,
            "{money: 0.00001}",
            "annotate.budget.money 1e-05 has no room for one request (the smallest needs 0.000011)",
        ),
        (30, "{tokens: 3100}", "annotate.budget.tokens 3,100 has no room for one request (3,090 are spent, the"),
        (0, "{minutes: 0}", "annotate.budget.minutes 0 has no room for one request"),
    ],
)
def test_a_budget_without_room_for_one_request_is_refused(project: Path, stored_: int, limits: str, said: str) -> None:
    store_some(ask(project, more=f", budget: {limits}"), stored_)
    with pytest.raises(UserError) as error:
        commands.plan()
    assert str(error.value).startswith(said)


def test_the_corpus_to_label_may_be_another_one(project: Path) -> None:
    (project / "more.csv").write_text("id,text\n" + "".join(f"{i},good film\n" for i in range(1500)) + "bad,\n")
    ask(project)
    text = Path("params.yaml").read_text()
    other = text.replace(
        "label: {precision: fp32}", "label: {precision: fp32, corpus: {path: more.csv}, max_rows: MAX}"
    )
    Path("params.yaml").write_text(other.replace("MAX", "null"))
    rows = figures(commands.plan())
    assert rows["LLM labels the corpus"][:2] == ["1,500", "10,500"]  # 3 tokens and 4 for the turn
    Path("params.yaml").write_text(other.replace("MAX", "700"))
    assert figures(commands.plan())["LLM labels the corpus"][0] == "700"
    Path("params.yaml").write_text(other.replace("MAX", "null").replace("more.csv", "s3://bucket/more.csv"))
    assert figures(commands.plan())["LLM labels the ingested corpus"][0] == "200"


@pytest.mark.parametrize("missing", [CORPUS, SAMPLE])
def test_without_a_sample_it_says_how_to_get_one(project: Path, missing: artifacts.Table) -> None:
    ask(project)
    missing.path.unlink()
    with pytest.raises(UserError, match=r"does not exist: run `dvc repro sample` first; it costs nothing"):
        commands.plan()


def test_before_the_encoder_has_labelled_its_time_is_unknown(project: Path) -> None:
    ask(project)
    metrics("label").path.unlink()
    rows = figures(commands.plan())
    assert rows["encoder labels the corpus"][3:] == ["unknown", "unknown"]


def test_examples_of_a_text_are_counted_with_it(project: Path) -> None:
    count = Counter(ask(project))
    alone = count(Request("", "good film"))
    shots = Variant((0, 1), (("a" * 400, 0), ("b" * 400, 1)))
    assert count(Request("", "good film", shots)) == alone + 2 * (100 + 4) + sum(
        -(-len(n) // 4) + 4 for n in toy_project.LABELS
    )


def test_a_tokenizer_that_is_not_here_is_not_fetched(project: Path) -> None:
    count = Counter(ask(project, "{kind: vllm, model: nobody/nothing}"))
    assert count.how == "estimated, 4 characters a token (the tokenizer of nobody/nothing is not here)"
    own = Counter(ask(project, OPENAI.replace("mode:", "tokenizer: 'embedded:smollm2', mode:")))
    assert own.how == "counted with the tokenizer of embedded:smollm2"
    assert own(Request("", "good film")) == 2 + 4


def test_intervals_of_a_random_part_cover_the_whole() -> None:
    chance = random.Random(0)
    values = [int(chance.lognormvariate(5, 0.8)) for _ in range(20_000)]
    covered = 0
    for start in range(200):
        chance.shuffle(values)
        found = Estimate.scaled(values[start : start + 1000], len(values))
        covered += abs(found.value - sum(values)) <= found.margin
    assert 180 <= covered <= 199
    assert Estimate.scaled(values, len(values)) == Estimate(pytest.approx(sum(values)), 0.0)
    assert str(Estimate.scaled([], 0)) == "0"


def test_a_part_is_uniform_and_bounded() -> None:
    part: Part[int] = Part(1000)
    for i in range(100_000):
        part.add(i)
    assert (len(set(part.items)), part.total) == (1000, 100_000)
    assert 48_500 < sum(part.items) / 1000 < 51_500
    few: Part[int] = Part(1000)
    for i in range(10):
        few.add(i)
    assert few.items == list(range(10))


def test_stored_answers_are_shown_by_model_with_failures(project: Path) -> None:
    found = ask(project)
    with pytest.raises(UserError, match="no answer is stored yet"):
        stored.show()
    store_some(found, 30)
    with responses.opened(STORE) as store:
        origin = Origin("openai", "mine", "p")
        store.add([Answer.failed("x", responses.ErrorKind.TIMEOUT, "after 60 s\nof waiting " * 20)], origin)
        store.add([Answer("y", "x", None, "refused", 5, 1, 1.0, False)], origin)
    lines = stored.show().splitlines()
    assert lines[1].split()[:8] == ["gpt-4o-mini", "openai", "1", "30", "0", "3,000", "90", "0.00050"]
    assert lines[2].split()[:8] == ["mine", "openai", "1", "1", "1", "5", "1", "unknown"]
    assert lines[5].split()[:4] == ["time-out", "mine", "1", lines[2].split()[-1]]
    assert lines[6].startswith("  for example time-out: after 60 s of waiting after")
    assert max(map(len, lines)) < 150


def test_answers_go_to_another_project_and_are_not_paid_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_some(ask(project), 30)
    assert stored.export(Path("answers.parquet")) == "30 answers are in answers.parquet"
    STORE.unlink()
    assert figures(commands.plan())["stored already, free"][0] == "0"
    assert stored.import_(Path("answers.parquet")) == "30 answers are new; 0 were there already and stay as they are"
    assert stored.import_(Path("answers.parquet")) == "0 answers are new; 30 were there already and stay as they are"
    assert figures(commands.plan())["stored already, free"][0] == "30"


def test_nothing_is_imported_while_a_run_works(project: Path) -> None:
    import fcntl

    store_some(ask(project), 30)
    stored.export(Path("answers.jsonl"))
    with (artifacts.STATE / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="works in this directory"):
            stored.import_(Path("answers.jsonl"))
        assert "30 answers" in stored.export(Path("again.jsonl"))
        assert "gpt-4o-mini" in stored.show()
