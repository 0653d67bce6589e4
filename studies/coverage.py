"""Do the certificates' intervals cover, and are PPI++'s narrower by what theory says? Real texts, known truth.

    python studies/coverage.py --data /path/to/data        # writes studies/coverage.json

A TF-IDF model learns from labels of a part of the corpus (IMDb: Llama-2-70b's; AG News: gold), its temperature from
cross-validation on those, and labels all of it. Then gold is drawn again and again, without replacement, and certified
as the stage `certify` does. Theory: with calibrated guesses the width shrinks by sqrt(1 - r^2), r the correlation of
truth and guess over the corpus. `extreme` keeps of AG News's wrongly labelled texts so few that accuracy is 0.98.
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import certifying, scoring
from pipeline.certifying import Floats, Ints, Sample
from serving import shapes

_LEVEL = 0.95


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeat", type=int, default=1000)
    parser.add_argument("--gold", type=int, nargs="+", default=[100, 200, 500])
    parser.add_argument("--seed", type=int, default=20240321)
    parser.add_argument("--output", type=Path, default=Path("studies/coverage.json"))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, Any] = {"repeat": args.repeat, "level": _LEVEL, "seed": args.seed, "tasks": {}}
    corpora = {"ag_news": ag_news(args.data, args.seed), "imdb": imdb(args.data, args.seed)}
    corpora["extreme"] = extreme(*corpora["ag_news"], args.seed)
    for name, (truth, probabilities) in corpora.items():
        for gold in args.gold[:1] if name == "extreme" else args.gold:
            result = simulate(truth, probabilities, gold, args.repeat, args.seed)
            found["tasks"][f"{name}, {gold} gold"] = result
            for figure, row in result["figures"].items():
                print(name, gold, figure, json.dumps(row), flush=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n")


def imdb(data: Path, seed: int) -> tuple[Ints, Floats]:
    """25,000 reviews, of which Llama-2-70b's labels of 3,000 are learnt."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "imdb/train.parquet", columns=["text", "gold", "llama2_70b"]).to_pylist()
    taught = np.array([-1 if row["llama2_70b"] is None else row["llama2_70b"] for row in rows])
    return np.array([row["gold"] for row in rows]), predict([row["text"] for row in rows], taught, 3000, seed)


def ag_news(data: Path, seed: int) -> tuple[Ints, Floats]:
    """7,600 news items in 4 classes, of which gold labels of 1,000 are learnt."""
    import pyarrow.parquet as pq

    rows = [row for part in ("train", "test") for row in pq.read_table(data / f"ag_news/{part}.parquet").to_pylist()]
    names = sorted({row["label"] for row in rows})
    truth = np.array([names.index(row["label"]) for row in rows])
    return truth, predict([row["text"] for row in rows], truth, 1000, seed)


def extreme(truth: Ints, probabilities: Floats, seed: int) -> tuple[Ints, Floats]:
    """Keep all texts that are labelled right and so many of the others that the accuracy is 0.98."""
    right = np.flatnonzero(probabilities.argmax(1) == truth)
    wrong = np.setdiff1d(np.arange(len(truth)), right)
    few = np.random.default_rng(seed).choice(wrong, round(len(right) * 0.02 / 0.98), replace=False)
    kept = np.sort(np.concatenate([right, few]))
    return truth[kept], probabilities[kept]


def predict(texts: list[str], taught: Ints, size: int, seed: int) -> Floats:
    """Calibrated probabilities (texts, labels) of TF-IDF and logistic regression; a label of -1 is none."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    part = np.random.default_rng(seed).permutation(len(texts))[:size]
    part = part[taught[part] >= 0]
    features = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    model = LogisticRegression(C=10, max_iter=500)
    unseen = cross_val_predict(model, features[part], taught[part], cv=5, method="predict_log_proba")
    temperature = scoring.fit_temperature(unseen, taught[part])
    logits = model.fit(features[part], taught[part]).predict_log_proba(features)
    return shapes.softmax(logits / temperature)


def simulate(truth: Ints, probabilities: Floats, gold: int, repeat: int, seed: int) -> dict[str, Any]:
    """Draw `gold` texts `repeat` times and certify."""
    labels, said = [str(k) for k in range(probabilities.shape[1])], probabilities.argmax(1)
    one = np.eye(len(labels), dtype=bool)
    sure = probabilities.max(1)
    corpus = certifying.add_up([(one[said], probabilities, sure)], len(labels))
    true, theory = known(truth, said, probabilities)
    random = np.random.default_rng(seed)
    seen: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
    for _ in range(repeat):
        drawn = random.choice(len(truth), gold, replace=False)
        sample = Sample(one[truth[drawn]], one[said[drawn]], probabilities[drawn], sure[drawn])
        certified = certifying.certify(corpus, sample, labels, _LEVEL)
        named = {"accuracy": certified.accuracy}
        for label, row in certified.per_class.items():
            named |= {f"{name} {label}": getattr(row, name) for name in ("precision", "recall", "prevalence")}
        for figure, m in named.items():
            if m is not None:
                both = [(r.low <= true[figure] <= r.high, r.high - r.low, r.value) for r in (m.classical, m.ppi)]
                half = 1.96 * np.sqrt(m.classical.value * (1 - m.classical.value) / m.gold)
                normal = abs(m.classical.value - true[figure]) <= half
                seen[figure].append((*both[0], *both[1], normal))
    figures = {}
    for figure, rows in seen.items():
        a = np.array(rows, float)
        figures[figure] = {
            "truth": round(true[figure], 4), "repeats": len(a), "coverage_classical": round(a[:, 0].mean(), 4),
            "coverage_ppi": round(a[:, 3].mean(), 4), "coverage_normal": round(a[:, 6].mean(), 4),
            "width_classical": round(a[:, 1].mean(), 4), "width_ppi": round(a[:, 4].mean(), 4),
            "ratio": round(a[:, 4].mean() / a[:, 1].mean(), 4), "ratio_theory": round(theory[figure], 4),
            "spread_ratio": round(a[:, 5].std() / a[:, 2].std(), 4),
        }  # fmt: skip
    return {"texts": len(truth), "figures": figures}


def known(truth: Ints, said: Ints, probabilities: Floats) -> tuple[dict[str, float], dict[str, float]]:
    """The true figures of the whole corpus, and by what factor theory narrows their intervals."""
    rows = np.arange(len(said))
    right, own = (truth == said).astype(float), probabilities[rows, said]
    true, theory = {"accuracy": float(right.mean())}, {"accuracy": left(right, own)}
    for k in range(probabilities.shape[1]):
        here, is_k, p, found = said == k, (truth == k).astype(float), probabilities[:, k], (said == k).astype(float)
        recall = float(is_k @ found / is_k.sum())
        true |= {f"precision {k}": float(right[here].mean()), f"recall {k}": recall, f"prevalence {k}": is_k.mean()}
        theory |= {
            f"precision {k}": left(right[here], own[here]),
            f"recall {k}": left(is_k * (found - recall), p * (found - recall)),
            f"prevalence {k}": left(is_k, p),
        }
    return true, theory


def left(truth: Floats, guess: Floats) -> float:
    """Return sqrt(1 - r^2), or what is left with the best lambda in [0, 1]."""
    tuning = float(np.clip(np.cov(truth, guess)[0, 1] / guess.var(ddof=1), 0, 1))
    return float(np.std(truth - tuning * guess) / np.std(truth))


if __name__ == "__main__":
    main()
