"""The plan's figures are those of the run that follows it."""

import re
from pathlib import Path

from toy_bulk import label, settings, write_corpus

from serving import labelling


def test_figures_before_and_after(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus.jsonl", 200), tmp_path / "out"
    before = label(corpus, "--plan", "--price-per-hour", 3.6)
    assert before.returncode == 0, before.stderr
    assert not out.exists()
    assert re.search(r"^to label +197 +([\d,]+)$", before.stdout, re.MULTILINE)
    assert re.search(r"^  unusable +3$", before.stdout, re.MULTILINE)
    left = re.search(r"^  left, on this machine +197 +([\d,]+) +[\d.]+ s +[\d.]+$", before.stdout, re.MULTILINE)
    assert left, before.stdout
    assert "of all texts" in before.stdout
    assert "int8 of onnxruntime" in before.stdout
    outcome = labelling.run(settings(corpus, out))
    assert outcome.all.tokens == int(left[1].replace(",", ""))
    after = label(corpus, out, "--plan")
    assert re.search(r"^  labelled already +197$", after.stdout, re.MULTILINE)
    assert re.search(r"^  left, on this machine +0 +0 +0.0 s +0.00$", after.stdout, re.MULTILINE)


def test_time_is_shared_and_cost_is_not(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", 2500, broken=False)
    done = label(corpus, "--plan", "--index", 0, "--of", 1000)
    assert re.search(r"^  left, on 1000 machines +2,500 +[\d,]+ +0.0 s +0.0", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^to label +2,500 +[\d,]+ ± \d+", done.stdout, re.MULTILINE)
    assert "of 1,000 random texts" in done.stdout


def test_nothing_to_label(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,text\n1,\n")
    done = label(tmp_path / "c.csv", "--plan")
    assert (done.returncode, "has no text that can be labelled (1 rows are unusable)" in done.stderr) == (2, True)
