"""Gold of the corpus: the file's rows, the permutation it begins, and its two halves."""

from hashlib import sha256
from pathlib import Path

import pytest

from pipeline import gold_corpus, params
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]


def read(tmp_path: Path, text: str | bytes) -> dict[str, str]:
    file = tmp_path / "gold.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    gold = params.CorpusGold(path=str(file))
    demo = params.load(ROOT / "params.yaml")
    return gold_corpus.read(demo.model_copy(update={"certify": params.Certify(gold=gold)}))


def test_labels_come_in_the_words_of_the_task(tmp_path):
    text = "id,label,note\n7, Good ,why not\n" + '"a,b",negative,\n'
    assert read(tmp_path, text) == {"7": "positive", "a,b": "negative"}
    assert list(read(tmp_path, "\ufeffnote,label,id\n,bad,1\n,good,0\n")) == ["1", "0"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,label\na,good\na,bad\n", "row 3: the id 'a' stands there twice"),
        ("id,label\na,good\nb,\n", "row 3: no label"),
        ("id,label\na,mixed\n", "row 2: the label 'mixed' is not one of negative, positive"),
        ("id,label\n ,good\n", "row 2: no id"),
        ("key,label\na,good\n", "has no column id"),
        (b"id,label\n\xff,good\n", "not readable as CSV in UTF-8"),
        ('id,label\n"a,good\n', "not readable as CSV"),
    ],
)
def test_rows_that_cannot_be_gold_are_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, text)


def test_no_block_and_no_file_are_said(tmp_path):
    demo = params.load(ROOT / "params.yaml")
    with pytest.raises(UserError, match="no block `certify`"):
        gold_corpus.read(demo.model_copy(update={"certify": None}))
    nowhere = params.Certify(gold=params.CorpusGold(path=str(tmp_path / "x.csv")))
    with pytest.raises(UserError, match="llambert gold sample"):
        gold_corpus.read(demo.model_copy(update={"certify": nowhere}))


def test_rank_is_the_published_one():
    assert gold_corpus.rank("é", 7) == sha256("7/é".encode()).hexdigest()


def test_halves_are_about_equal_and_stay_when_gold_is_added():
    gold = {f"t{i}": "x" for i in range(2000)}
    calibrating, certifying = gold_corpus.halves(gold)
    assert calibrating | certifying == gold
    assert 900 < len(calibrating) < 1100
    few = gold_corpus.halves({key: "x" for key in list(gold)[:100]})[0]
    assert few.items() <= calibrating.items()
