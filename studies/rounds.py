"""Rounds that stop at saturation, and three strategies, on texts whose labels are known: what is saved, what is lost.

    python studies/rounds.py [--data ../shared/data] [--seeds 5] [--corpora imdb ag_news]

Labels of IMDb are those that Llama-2-70b-chat gave to 25,000 training reviews in the published experiments, of AG News
gold; accuracy is on gold of `test_dev` and `test`. The learner is TF-IDF of words and pairs of words with logistic
regression. Each finished run is a line of studies/rounds.jsonl, so a killed study goes on; the tables are made from all
lines. A run goes on to the fixed size (with a strategy, to half of it) whatever a stop rule says, so that any rule can
be tried on it. "labels" counts held-out texts too; the fixed sample holds a tenth out, as `sample.held_out_share` does.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pipeline import choosing, growing
from pipeline.artifacts import Document
from pipeline.drawing import Frame, Growing
from pipeline.params import Rounds, Stop
from pipeline.scoring import Floats, Ints

RESULTS = Path(__file__).with_suffix(".jsonl")
FIXED, HELD_OUT_SHARE = 10_000, 0.1
STRATEGIES = ("uniform", "diverse", "uncertain")
MOST = {"imdb": FIXED, "ag_news": 2_500}  # labels; beyond half of a corpus a strategy has nothing left to choose from
RULES = [Stop(confidence_level=level, patience=patience) for level, patience in ((0.9, 1), (0.9, 2), (0.8, 3))]


@dataclass(frozen=True)
class Corpus:
    """Features (texts, features) with an annotator's labels; test texts with gold."""

    name: str
    features: Any
    labels: Ints
    test: Any
    gold: Ints
    clusters: Ints

    @classmethod
    def load(cls, name: str, data: Path) -> "Corpus":
        """Texts without a label are left out, and those that an earlier one repeats."""
        files = ("imdb/train", "imdb/test_dev") if name == "imdb" else ("ag_news/train", "ag_news/test")
        train, test = (pq.read_table(data / f"{file}.parquet").to_pydict() for file in files)
        said, true = (train["llama2_70b"], test["gold"]) if name == "imdb" else (train["label"], test["label"])
        names = sorted(set(true))
        rows = {text: label for text, label in zip(train["text"], said, strict=True) if label is not None}
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        features = vectorizer.fit_transform(rows)
        near = choosing.clusters(choosing.vectors(list(rows), 0), 100, 0)
        labels, gold = (np.array([names.index(label) for label in some]) for some in (rows.values(), true))
        return cls(name, features, labels, vectorizer.transform(test["text"]), gold, near)

    def fit(self, rows: Ints) -> LogisticRegression:
        """Logistic regression on some texts."""
        return LogisticRegression(C=10.0, max_iter=2000).fit(self.features[rows], self.labels[rows])

    def accuracy(self, model: LogisticRegression) -> float:
        """On test gold."""
        return float((model.predict(self.test) == self.gold).mean())


def grow(corpus: Corpus, params: Rounds, size: int, totals: list[int], seed: int) -> Iterator[tuple[Growing, Any]]:
    """The sample and the model after each round, as the stage `grow` makes them."""
    order = np.random.default_rng(seed).permutation(len(corpus.labels))
    pool = [Document(str(i), "", str(i)) for i in order]
    sample = Growing(Frame.of(pool, size, params), params, seed)
    rest = np.array([int(document.id) for document in sample.frame.rest], dtype=np.int64)
    masses: Floats | None = choosing.diverse(corpus.clusters[rest]) if params.strategy == "diverse" else None
    for number, total in enumerate(totals):
        sample.grow(total, number, masses)
        model = corpus.fit(np.array([int(row.id) for row in sample.rows if row.split == "train"]))
        yield sample, model
        if params.strategy == "uncertain":
            masses = choosing.uncertain(model.predict_proba(corpus.features[rest]))


def curve(corpus: Corpus, strategy: str, seed: int) -> dict[str, Any]:
    """Labels and accuracy after each round, and which held-out texts were answered rightly."""
    most = MOST[corpus.name]
    params = Rounds(candidate="tfidf", strategy=strategy)
    rounds = []
    totals = growing.totals(params.first, params.growth, most - params.held_out)
    totals = totals if strategy == "uniform" else [total for total in totals if total <= most / 2]
    for sample, model in grow(corpus, params, most, totals, seed):
        held_out = np.array([int(row.id) for row in sample.rows if row.split == "held_out"])
        right = model.predict(corpus.features[held_out]) == corpus.labels[held_out]
        accuracy, text = corpus.accuracy(model), "".join("01"[int(hit)] for hit in right)
        rounds.append({"labels": len(sample.rows), "accuracy": accuracy, "right": text})
    return {"rounds": rounds}


def fixed(corpus: Corpus, seed: int) -> dict[str, Any]:
    """All labels at once."""
    order = np.random.default_rng(seed).permutation(len(corpus.labels))[: MOST[corpus.name]]
    accuracy = corpus.accuracy(corpus.fit(order[int(HELD_OUT_SHARE * len(order)) :]))
    return {"rounds": [{"labels": len(order), "accuracy": accuracy}]}


def stopped(run: dict[str, Any], stop: Stop) -> dict[str, Any]:
    """The round at which a rule stops, or the last."""
    right = [np.array([hit == "1" for hit in row["right"]]) for row in run["rounds"]]
    ends = (i for i in range(len(right)) if growing.follow(right[: i + 1], stop).over)
    return run["rounds"][next(ends, len(right) - 1)]


def mean(values: list[float], scale: float = 100.0, digits: int = 2) -> str:
    """Mean with Student's 95 % interval over seeds, where there are several."""
    n = len(values)
    if n == 1:
        return f"{scale * values[0]:.{digits}f}"
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return f"{scale * np.mean(values):.{digits}f} ± {scale * half:.{digits}f}"


def tables(runs: list[dict[str, Any]], corpus: str) -> Iterator[str]:
    """Markdown: accuracy at equal labels by strategy; what each stop rule would have used and lost."""
    of = {(run["strategy"], run["seed"]): run for run in runs if run["corpus"] == corpus}
    seeds = sorted({seed for _, seed in of if all((name, seed) in of for name in (*STRATEGIES, "fixed"))})
    if not seeds:
        return
    yield f"\n### {corpus}, {len(seeds)} seeds\n"
    yield f"| labels | {' | '.join(STRATEGIES)} | diverse - uniform | uncertain - uniform |"
    yield "|---" * (len(STRATEGIES) + 3) + "|"
    for i, row in enumerate(of["uniform", seeds[0]]["rounds"]):
        there = [name for name in STRATEGIES if i < len(of[name, seeds[0]]["rounds"])]
        found = {name: [of[name, seed]["rounds"][i]["accuracy"] for seed in seeds] for name in there}
        gains = [list(np.subtract(found[name], found["uniform"])) for name in there[1:]]
        cells = [mean(values) for values in [*found.values(), *gains]] + [""] * (2 * (len(STRATEGIES) - len(there)))
        yield f"| {row['labels']:,} | {' | '.join(cells)} |"
    most = {seed: of["fixed", seed]["rounds"][0] for seed in seeds}
    yield f"\nFixed {most[seeds[0]]['labels']:,}: {mean([row['accuracy'] for row in most.values()])}\n"
    yield "| strategy | confidence_level | patience | labels | share of the fixed | accuracy lost |"
    yield "|---|---|---|---|---|---|"
    for name in STRATEGIES:
        for stop in RULES:
            ends = {seed: stopped(of[name, seed], stop) for seed in seeds}
            lost = [most[seed]["accuracy"] - end["accuracy"] for seed, end in ends.items()]
            share = [end["labels"] / most[seed]["labels"] for seed, end in ends.items()]
            labels = mean([end["labels"] for end in ends.values()], 1, 0)
            cells = [f"{stop.confidence_level:g}", str(stop.patience), labels, mean(share), mean(lost)]
            yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--corpora", nargs="+", choices=list(MOST), default=list(MOST))
    arguments = parser.parse_args()
    runs = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(run["corpus"], run["strategy"], run["seed"]) for run in runs}
    for name in arguments.corpora:
        wanted = [(name, how, seed) for seed in range(arguments.seeds) for how in (*STRATEGIES, "fixed")]
        missing = [run for run in wanted if run not in done]
        corpus = Corpus.load(name, arguments.data) if missing else None
        for _, how, seed in missing:
            found = fixed(corpus, seed) if how == "fixed" else curve(corpus, how, seed)
            runs.append({"corpus": name, "strategy": how, "seed": seed, **found})
            with RESULTS.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
        print(*tables(runs, name), sep="\n", flush=True)


if __name__ == "__main__":
    main()
