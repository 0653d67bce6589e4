"""What encoder, LLM and people say of the texts that studies/error_target.py simulates on.

    python studies/error_target_data.py [--data ../shared/data] [--work .llambert/error_target] [--minilm]

imdb-tfidf    5,000 reviews of test_dev; TF-IDF trained on the labels that Llama-2-70b gave the 25,000 training reviews
imdb-minilm   with --minilm: the same reviews; MiniLM-L6 trained on 1,500 of those labels, 128 tokens
ag-news       5,100 texts; TF-IDF trained on 2,500 others

The LLM of IMDb is Llama-2-70b or GPT-4: recorded answers, words without a confidence. AG News has no LLM: its annotator
is **simulated**, right on about 96 %, with errors that a model of the texts shares, and surer than it should be.
Each is kept as `NAME.npz` in the work directory: encoder and llm_* (texts, labels; NaN without a label), gold (texts,).
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline import tfidf, weights
from pipeline.params import Tfidf, Transformer
from pipeline.scoring import Floats, Ints
from pipeline.training import Examples, Phase
from serving.shapes import softmax

SEED = 20240321
_MINILM = Transformer(
    kind="transformer", max_tokens=128, truncation="head_tail", batch_size=16, learning_rate=1e-4, epochs=2
)
_TRAINED, _VALIDATED = 1_500, 300


def main() -> None:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".llambert/error_target"))
    parser.add_argument("--minilm", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    wanted = [("ag-news", _ag_news), ("imdb-tfidf", _imdb_tfidf), ("imdb-minilm", _imdb_minilm)]
    for name, make in wanted if given.minilm else wanted[:2]:
        if not (file := given.work / f"{name}.npz").exists():
            np.savez(file, **make(given.data, given.work))


def _imdb_tfidf(data: Path, work: Path) -> dict[str, Floats]:
    del work
    train, test = _imdb(data)
    texts, labels = _taught(train)
    encoder = _probabilities(Tfidf(kind="tfidf", c=10.0), texts, labels, 2, test["text"])
    return {"encoder": encoder, **_answers(test)}


def _imdb_minilm(data: Path, work: Path) -> dict[str, Floats]:
    from pipeline import finetuning, predicting

    train, test = _imdb(data)
    texts, labels = _taught(train)
    drawn = np.random.default_rng(SEED).permutation(len(texts))
    parts = [drawn[:_TRAINED], drawn[_TRAINED : _TRAINED + _VALIDATED]]
    phase = Phase("llm", *(Examples([texts[i] for i in part], np.eye(2)[labels[part]]) for part in parts))
    model = work / "minilm"
    start = str(weights.encoder_directory(_MINILM.model))
    finetuning.fit(_MINILM, ["negative", "positive"], start, phase, SEED, work / "checkpoints", model)
    logits = predicting.logits(model, test["text"], _MINILM.max_tokens, _MINILM.truncation)
    return {"encoder": softmax(logits), **_answers(test)}


def _imdb(data: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Training reviews and those of test_dev that are not among them."""
    train, test = (pq.read_table(data / "imdb" / f"{name}.parquet").to_pydict() for name in ("train", "test_dev"))
    known = set(train["text"])
    new = [i for i, text in enumerate(test["text"]) if text not in known]
    return train, {name: [column[i] for i in new] for name, column in test.items()}


def _taught(train: dict[str, list[str]]) -> tuple[list[str], Ints]:
    rows = [(text, label) for text, label in zip(train["text"], train["llama2_70b"], strict=True) if label is not None]
    return [text for text, _ in rows], np.array([label for _, label in rows])


def _answers(test: dict[str, list[str]]) -> dict[str, Floats]:
    said = {name: [[np.nan] * 2 if a is None else np.eye(2)[a] for a in test[name]] for name in ("llama2_70b", "gpt4")}
    return {f"llm_{name}": np.array(rows) for name, rows in said.items()} | {"gold": np.array(test["gold"])}


def _ag_news(data: Path, work: Path) -> dict[str, Floats]:
    del work
    tables = [pq.read_table(data / "ag_news" / f"{name}.parquet").to_pydict() for name in ("train", "test")]
    texts, labels = ([row for table in tables for row in table[name]] for name in ("text", "label"))
    truth = np.unique(labels, return_inverse=True)[1]
    drawn = np.random.default_rng(SEED).permutation(len(texts))
    train, rest = drawn[:2_500], drawn[2_500:]
    taught = [texts[i] for i in train], truth[train], 4, [texts[i] for i in rest]
    encoder = _probabilities(Tfidf(kind="tfidf", c=10.0), *taught)
    other = _probabilities(Tfidf(kind="tfidf", words=None, chars=(2, 5), c=10.0), *taught)
    return {"encoder": encoder, "llm_simulated": _simulated(truth[rest], other), "gold": truth[rest]}


def _simulated(truth: Ints, other: Floats) -> Floats:
    """An annotator that knows the truth, sees the text as another model does, errs, and is too sure of itself."""
    noise = np.random.default_rng(SEED).normal(0, 0.9, other.shape)
    return softmax(2.0 * (2.2 * np.eye(other.shape[1])[truth] + np.log(other) + noise))


def _probabilities(params: Tfidf, texts: list[str], labels: Ints, classes: int, shown: list[str]) -> Floats:
    found: Floats = tfidf.fit(params, Examples(texts, np.eye(classes)[labels]), SEED).predict_proba(shown)
    return found


if __name__ == "__main__":
    main()
