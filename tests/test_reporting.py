"""What the report says, and that the page is one file in which texts are data."""

import re
from pathlib import Path

import pytest
import toy_project

from pipeline import artifacts, params, plotting, reporting, sections
from pipeline.reporting import Example, Headline
from pipeline.sections.base import Grid, Section
from pipeline.stages import report
from serving import estimating


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def page(**options) -> str:
    report.run(toy_project.write(**options))
    return Path("report.html").read_text()


def test_page_needs_nothing_but_itself():
    html = page()
    assert not re.search(r"https?://|@import|<link|<script|\ssrc=|url\((?!#)", html)
    assert html.count("<svg ") == 7
    assert "var(--first)" in html
    assert "#0a0a0" not in html  # every colour of a plot has become a variable


def test_texts_answers_and_params_are_data(monkeypatch):
    html = page(weights={"good": -4.0, "fine": 4.0, "bad": -4.0, "dull": -4.0})
    assert "&lt;script&gt;alert(1)&lt;/script&gt; good film" in html
    assert "Is it &lt;b&gt;good&lt;/b&gt;?" in html
    assert "&lt;b&gt;who knows&lt;/b&gt;" in html
    assert "<i>" not in html
    svg = plotting.intervals({toy_project.HOSTILE: {"value": 0.5, "low": 0.4, "high": 0.6}}, "accuracy")
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg


def test_the_log_ends_with_three_numbers_and_the_path(caplog):
    caplog.set_level("INFO", logger="llambert")
    page()
    assert caplog.messages[-4:] == [
        "LLM      accuracy 0.800 [0.700, 0.900]",
        "encoder  accuracy 0.800 [0.700, 0.900]",
        "TF-IDF   accuracy 0.800 [0.700, 0.900]",
        "report   report.html",
    ]


def test_without_gold_nothing_is_called_accuracy(caplog):
    caplog.set_level("INFO", logger="llambert")
    html = page(gold=False)
    assert "No text labelled by people was there" in html
    assert "Accuracy is unknown: no gold" in html
    assert "encoder  agreement with held-out LLM labels 0.800 [0.700, 0.900]" in caplog.messages
    assert "LLM      accuracy unknown" in caplog.messages


def test_who_is_consulted_stands_among_the_costs():
    toy_project.write()
    with Path("params.yaml").open("a") as file:
        file.write("annotators: {strong: {annotator: {kind: openai, model: gpt-4o}}}\n")
    used = {"answers": 40, "prompt_tokens": 100_000, "answer_tokens": 0, "seconds": 9.0}
    artifacts.metrics("consult").write({"annotators": {"strong": used}})
    report.run(params.load())
    row = re.search(r"<tr><td>annotator strong is asked, too</td>.*", Path("report.html").read_text())
    assert row is not None
    assert "100,000 tokens" in row[0]
    assert "0.25 USD" in row[0]  # 2.5 for a million


def test_sections_of_stages_that_params_want_and_that_were_run(monkeypatch):
    def section(figures):
        grid = Grid(["stage", "rows"], [["<b>", str(figures["rows"])]], note="of <all>")
        return Section("Extra", ["said <i>so</i>"], [grid], {"drawn": "<svg ></svg>"}) if figures["rows"] else None

    monkeypatch.setitem(sections.ALL, "label", section)
    monkeypatch.setitem(sections.ALL, "no such stage", section)
    html = page()
    assert html.count("<h2>Extra</h2>") == 1
    assert "<p>said &lt;i&gt;so&lt;/i&gt;</p>" in html
    assert '<tr><td>&lt;b&gt;</td><td class="n">200</td></tr>' in html
    assert "<h3>drawn</h3><svg ></svg>" in html
    monkeypatch.setitem(sections.ALL, "label", lambda figures: None)
    assert "<h2>Extra" not in page()


def test_page_is_the_same_for_the_same_run():
    assert page() == page()


def test_gold_without_teacher_and_a_refused_version():
    toy_project.write()
    evaluation, gate = artifacts.metrics("evaluate"), artifacts.metrics("register")
    test = evaluation.read()["test"]
    evaluation.write(
        evaluation.read() | {"test": test | {"teacher": None, "paired": test["paired"] | {"over_llm": None}}}
    )
    gate.write(gate.read() | {"promoted": False, "reasons": ["moved <by hand>"]})
    report.run(params.load())
    html = Path("report.html").read_text()
    assert "the LLM was not asked about them" in html
    assert "was not promoted" in html
    assert "moved &lt;by hand&gt;" in html


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.06, "better (+0.060 [+0.010, +0.110]) than"),
        (0.05, "not measurably different (+0.050 [+0.000, +0.100]) from"),
        (-0.04, "not measurably different (-0.040 [-0.090, +0.010]) from"),
        (-0.1, "worse (-0.100 [-0.150, -0.050]) than"),
    ],
)
def test_verdict_is_that_of_the_paired_difference(gain, said):
    measured = {"value": 0.8, "low": 0.75, "high": 0.85}
    three = [Headline(name, "m", "accuracy", measured) for name in ("LLM", "encoder", "TF-IDF")]
    difference = {"value": gain, "low": round(gain - 0.05, 3), "high": round(gain + 0.05, 3)}
    sentence = reporting.verdict(three, {"over_llm": difference, "over_tfidf": {"value": 0, "low": 0, "high": 0}})
    assert f"The encoder is {said} the LLM" in sentence
    assert sentence.endswith("and not measurably different (+0.000 [+0.000, +0.000]) from TF-IDF.")


def test_disagreements_are_told_apart():
    opinions = [("a", "a", "a"), ("a", "a", "b"), ("a", "b", "a"), ("a", "b", "b"), ("a", None, "b"), ("a", None, "a")]
    all_ = [Example(str(i), "t", gold, llm, encoder, 0.9) for i, (gold, llm, encoder) in enumerate(opinions)]
    found = {title: [e.id for e in group] for title, group in reporting.disagreements(all_, True, 9).items()}
    assert found == {
        "The encoder is wrong where the LLM was right": ["1"],
        "The encoder is right where the LLM was wrong": ["2"],
        "Both are wrong": ["3"],
        "The encoder is wrong, and the LLM gave no answer": ["4"],
    }


def test_what_the_llm_cost_follows_from_its_tokens_and_todays_prices():
    assert "0.008 USD" in page()
    text = Path("params.yaml").read_text().replace("prompt_per_million: 2.0", "prompt_per_million: 25.0")
    Path("params.yaml").write_text(text)
    report.run(params.load())
    html = Path("report.html").read_text()
    assert "0.10 USD" in html  # 4,000 tokens
    assert "25 and 0 USD for a million tokens of prompts and answers; 0.1 USD for an hour of this machine" in html


def test_an_unknown_price_is_said_and_not_taken_for_nothing():
    toy_project.write()
    text = Path("params.yaml").read_text()
    openai = text.replace("{kind: local}", "{kind: openai, model: mine}").replace(", per_hour: 0.0", "")
    Path("params.yaml").write_text(openai)
    report.run(params.load())
    html = Path("report.html").read_text()
    assert "The price of mine in USD is unknown: set annotate.price." in html
    assert "without what is unknown" in html


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "unknown"), (3.04, "3.0 s"), (600, "10 min"), (7200, "2.0 h"), (864_000, "10 days")]
)
def test_durations(seconds, shown):
    assert estimating.duration(seconds) == shown


def test_many_labels_are_drawn():
    labels = [f"label {i}" for i in range(30)]
    svg = plotting.confusion(labels, labels[::-1], labels)
    assert "label 7 → label 22<" in svg
    assert svg.count("→") == 20  # no matrix of 900 cells: the commonest mistakes
