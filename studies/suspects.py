"""How much of what `llambert queue` puts in front is really wrong: Llama-2-70b's labels of IMDb against gold.

    python studies/suspects.py [--data ../shared/data] [--texts 10000] [--gold 500] [--seeds 3]

Two queues: `likely_wrong` of training reviews (confident learning on 5-fold TF-IDF probabilities; no gold), and
`disagreement` of test_dev (the combination of three LLMs, fitted on --gold texts that are then left out). Writes
studies/suspects.json and prints Markdown.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import combining, queueing
from pipeline.params import Tfidf
from pipeline.queueing import Labelled
from pipeline.scoring import Floats
from pipeline.training import Examples

HERE = Path(__file__).parent
FIRST = (50, 100, 200, 500)
NAMES = ["negative", "positive"]
ENCODER = Tfidf(kind="tfidf", words=(1, 2), c=10.0)  # as in studies/imdb


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "../../shared/data")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--gold", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    found = {
        "texts": arguments.texts,
        "gold": arguments.gold,
        "likely_wrong": [_likely_wrong(arguments.data, arguments.texts, seed) for seed in seeds],
        "disagreement": [_disagreement(arguments.data, arguments.gold, seed) for seed in range(20)],
    }
    (HERE / "suspects.json").write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


def _likely_wrong(data: Path, texts: int, seed: int) -> dict[str, Any]:
    table = pq.read_table(data / "imdb/train.parquet", columns=["id", "text", "gold", "llama2_70b"])
    rows = [row for row in table.to_pylist() if row["llama2_70b"] is not None]
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:texts]]
    labels = np.array([row["llama2_70b"] for row in rows], dtype=np.int64)
    wrong = labels != np.array([row["gold"] for row in rows])
    examples = Examples([row["text"] for row in rows], np.eye(2)[labels])
    probabilities, _ = queueing.out_of_sample(ENCODER, examples, [], 5, seed)
    given = Labelled([str(i) for i in range(len(rows))], labels, np.ones(len(rows)), probabilities)
    queue = queueing.ranked(queueing.likely_wrong(given, NAMES, given.doubt), len(rows))
    hits = np.array([wrong[int(suspect.id)] for suspect in queue])
    return _first(hits, wrong) | {"flagged": len(hits), "of_flagged": float(hits.mean()), "errors": int(wrong.sum())}


def _disagreement(data: Path, gold: int, seed: int) -> dict[str, Any]:
    columns = ["llama2_70b", "gpt4", "gpt35"]
    table = pq.read_table(data / "imdb/test_dev.parquet", columns=["gold", *columns])
    answers = np.stack([table[c].cast("float64").fill_null(-1.0).to_numpy().astype(np.int64) for c in columns], axis=1)
    truth = table["gold"].to_numpy().astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(truth))
    said, train, rest = combining.as_one_hot(answers, 2), order[:gold], order[gold:]
    model = combining.fit(said[train], truth[train], seed)
    labels, wrong = answers[rest, 0], answers[rest, 0] != truth[rest]
    doubt: Floats = 1 - model(said[rest])[np.arange(len(rest)), labels]
    differ = (answers[rest] != labels[:, None]).any(axis=1)
    hits = wrong[np.argsort(-doubt, kind="stable")]
    return _first(hits, wrong) | {
        "flagged": int(differ.sum()),
        "of_flagged": float(wrong[differ].mean()),
        "errors": int(wrong.sum()),
    }


def _first(hits: Floats, wrong: Floats) -> dict[str, Any]:
    return {"base": float(wrong.mean()), "first": {str(k): float(hits[:k].mean()) for k in FIRST if k <= len(hits)}}


def markdown(found: dict[str, Any]) -> str:
    """Means over seeds, in percent."""
    head = " | ".join(f"of the first {k}" for k in FIRST)
    lines = [f"| queue | wrong of all | {head} | flagged | wrong of these |", "|---" * (len(FIRST) + 4) + "|"]
    for name in ("likely_wrong", "disagreement"):
        runs = found[name]
        first = [100 * np.mean([run["first"].get(str(k), np.nan) for run in runs]) for k in FIRST]
        base, flagged, of = (np.mean([run[key] for run in runs]) for key in ("base", "flagged", "of_flagged"))
        cells = " | ".join("–" if np.isnan(value) else f"{value:.1f}" for value in first)
        lines.append(f"| {name} | {100 * base:.1f} | {cells} | {flagged:,.0f} | {100 * of:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
