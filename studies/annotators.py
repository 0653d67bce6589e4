"""Several annotators on IMDb and UMLS: each alone, a plain vote, and `pipeline.combining` fitted on little gold.

    python studies/annotators.py [--data ../shared/data] [--repetitions 100] [--sizes 50 100 200 500 1000] [--sets SET]

For each repetition (seed) gold is drawn without replacement; everything else tests. Adds to studies/annotators.json and
prints it as Markdown. Differences are paired on the same texts; since repetitions share texts, the interval is the
percentile bootstrap over texts of the mean over repetitions.
"""

import argparse
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import combining, comparing, scoring
from pipeline.scoring import Floats, Ints
from serving.progress import progress

HERE = Path(__file__).parent
IMDB, UMLS = "imdb/test_dev.parquet", "umls/test_gold.parquet"
SETS: dict[str, tuple[str, str, list[str]]] = {
    "IMDb, three LLMs": (IMDB, "gold", ["llama2_70b", "gpt4", "gpt35"]),
    "IMDb, LLMs and combined": (IMDB, "gold", ["llama2_70b", "gpt4", "gpt35", "roberta_large_combined"]),
    "UMLS": (UMLS, "label", ["llama2_70b_1shot", "llama2_7b_1shot", "gpt4_0shot", "gpt4_1shot"]),
}
LEVEL, RESAMPLES, SHARES = 0.95, 1000, (0.01, 0.02, 0.05, 0.1)
ROUTED_BY = 500  # gold texts
_HEAD = ["gold", "vote", "best, known from all", "best on that gold", "combination", "minus best on gold", "minus best",
         "minus vote", "log loss, best → combination", "own labels"]  # fmt: skip


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "../../shared/data")
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help="; ".join(SETS))
    parser.add_argument("--out", type=Path, default=HERE / "annotators.json")
    arguments = parser.parse_args()
    for name in arguments.sets:
        path, label, columns = SETS[name]
        table = pq.read_table(arguments.data / path, columns=[label, *columns])
        answers = np.stack([_indices(table[column]) for column in columns], axis=1)
        one = _measured(name, answers, _indices(table[label]), columns, arguments)
        known = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        found = {key: one if key == name else known[key] for key in SETS if key == name or key in known}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(json.loads(arguments.out.read_text())))


def _indices(column: pa.ChunkedArray) -> Ints:
    return column.cast("float64").fill_null(-1.0).to_numpy().astype(np.int64)


def _measured(
    name: str, answers: Ints, truth: Ints, columns: list[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    labels = ["0", "1"]
    sizes = [size for size in arguments.sizes if size <= len(truth) / 2]
    everything = combining.fit(combining.as_one_hot(answers, 2), truth)
    rows = {size: _repeated(name, answers, truth, size, arguments.repetitions) for size in sizes}
    return {
        "texts": len(truth),
        "repetitions": arguments.repetitions,
        "annotators": comparing.skills(answers, truth, columns, labels, LEVEL),
        "vote": scoring.wilson(int((comparing.plain_vote(answers, 2) == truth).sum()), len(truth), LEVEL),
        "errors_together": comparing.errors_together(answers, truth, columns, LEVEL),
        "without_gold": comparing.without_gold(answers, columns),
        "dawid_skene": dict(zip(columns, dawid_skene(answers, 2), strict=True)),
        "by_gold": rows,
        "fitted_to_all": {"shape": everything.shape.family, "labels_from_best": everything.labels_from_best},
    }


def _repeated(name: str, answers: Ints, truth: Ints, size: int, repetitions: int) -> dict[str, Any]:
    """Means over repetitions; `right` holds for each way how often each text was right, of the times it tested."""
    said, best = combining.as_one_hot(answers, 2), int((answers == truth[:, None]).mean(axis=0).argmax())
    ways = ("combination", "its argmax", "best on gold", "best", "vote")
    right, tested = {way: np.zeros(len(truth)) for way in ways}, np.zeros(len(truth))
    losses: dict[str, list[float]] = {"combination": [], "best on gold": []}
    routed: list[list[float]] = []
    shapes: dict[str, int] = {}
    own = 0
    with progress(f"{name}, {size}", repetitions) as advance:
        for seed in range(repetitions):
            order = np.random.default_rng(seed).permutation(len(truth))
            gold, test = order[:size], order[size:]
            model = combining.fit(said[gold], truth[gold], seed)
            single = combining.fit_alone(said[gold], truth[gold])
            probabilities = model(said[test])
            given = {
                "combination": probabilities.argmax(axis=1),
                "its argmax": replace(model, labels_from_best=False)(said[test]).argmax(axis=1),
                "best on gold": answers[test, single.best],
                "best": answers[test, best],
                "vote": comparing.plain_vote(answers[test], 2),
            }
            for way, labels in given.items():
                right[way][test] += labels == truth[test]
            tested[test] += 1
            losses["combination"].append(_log_loss(probabilities, truth[test]))
            losses["best on gold"].append(_log_loss(single(said[test]), truth[test]))
            shapes[model.shape.family] = shapes.get(model.shape.family, 0) + 1
            own += not model.labels_from_best
            if size == ROUTED_BY:
                routed.append(_routed(probabilities, answers[test], truth[test], single.best))
            advance(1)
    return {
        "accuracy": {way: float(hits.sum() / tested.sum()) for way, hits in right.items()},
        "difference": {
            f"combination - {way}": _difference(right["combination"], right[way], tested) for way in ways[1:]
        },
        "log_loss": {way: float(np.mean(values)) for way, values in losses.items()},
        "shapes": shapes,
        "own_labels": own,
        "routed": np.mean(routed, axis=0).tolist() if routed else None,
    }


def _difference(ours: Floats, theirs: Floats, tested: Floats) -> dict[str, float]:
    """Mean over repetitions with a percentile bootstrap over texts: {value, low, high}."""
    drawn = _drawn(len(tested))
    spread = (drawn @ (ours - theirs)) / (drawn @ tested)
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float((ours - theirs).sum() / tested.sum()), "low": float(low), "high": float(high)}


@cache
def _drawn(texts: int) -> Ints:
    """How often each text is in each resample: (resamples, texts)."""
    return np.random.default_rng(0).multinomial(texts, np.full(texts, 1 / texts), size=RESAMPLES)


def _log_loss(probabilities: Floats, truth: Ints) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean())


def _routed(probabilities: Floats, answers: Ints, truth: Ints, best: int) -> list[float]:
    """Errors left when the least sure texts go to people who make none.

    Returns:
        For each of SHARES the error left; then the share on which annotators disagree, the error left when people get
        all of those, and the error left when they get as many at random from the best alone.
    """
    wrong = probabilities.argmax(axis=1) != truth
    order = np.argsort(probabilities.max(axis=1), kind="stable")
    left = [float(wrong[order[round(share * len(truth)) :]].sum() / len(truth)) for share in SHARES]
    differ = (answers != answers[:, :1]).any(axis=1)
    alone = float((answers[:, best] != truth).mean())
    return [*left, float(differ.mean()), float(wrong[~differ].sum() / len(truth)), alone * (1 - float(differ.mean()))]


def dawid_skene(answers: Ints, labels: int, rounds: int = 200) -> list[float]:
    """Accuracy of each annotator as Dawid and Skene (1979) estimate it from agreement alone, by EM from the vote."""
    said = np.nan_to_num(combining.as_one_hot(answers, labels))  # (texts, annotators, labels)
    posterior = said.sum(axis=1) / said.sum(axis=(1, 2), keepdims=True)[:, 0]
    for _ in range(rounds):
        share = posterior.mean(axis=0)
        table = np.einsum("ny,nka->kya", posterior, said) + 0.01
        table /= table.sum(axis=2, keepdims=True)
        score = np.log(share) + np.einsum("nka,kya->ny", said, np.log(table))
        posterior = np.exp(score - score.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
    return [float(np.diagonal(one) @ share) for one in table]


def markdown(found: dict[str, Any]) -> str:
    """Tables, in percent."""
    return "\n\n".join(f"### {name}\n\n{_section(one)}" for name, one in found.items())


def _section(one: dict[str, Any]) -> str:
    alone = [
        f"| {name} | {_share(a['accuracy'])} | {' | '.join(_share(c['recall']) for c in a['per_class'].values())} |"
        for name, a in one["annotators"].items()
    ]
    claimed = one["dawid_skene"]
    pairs = [
        f"| {' and '.join(p['pair'])} | {p['phi']['value']:.2f} [{p['phi']['low']:.2f}, {p['phi']['high']:.2f}] "
        f"| {100 * p['both_wrong']:.2f} | {100 * p['if_independent']:.2f} |"
        for p in one["errors_together"]
    ]
    sizes = [_row(int(size), row, one["repetitions"]) for size, row in one["by_gold"].items()]
    parts = [
        f"{one['texts']:,} texts. Without gold Dawid and Skene's model would claim "
        + ", ".join(f"{name} {100 * value:.1f}" for name, value in claimed.items()),
        _table(["", "accuracy", "recall of 0", "recall of 1"], [*alone, f"| plain vote | {_share(one['vote'])} | | |"]),
        _table(["errors of", "phi", "both wrong", "if independent"], pairs),
        _table(_HEAD, sizes),
    ]
    routed = one["by_gold"].get(str(ROUTED_BY), {}).get("routed")
    return "\n\n".join([*parts, *([_routing(routed)] if routed else [])])


def _table(head: list[str], rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def _row(size: int, row: dict[str, Any], repetitions: int) -> str:
    a, d, loss = row["accuracy"], row["difference"], row["log_loss"]
    cells = [f"{100 * a[way]:.2f}" for way in ("vote", "best", "best on gold", "combination")]
    cells += [_signed(d[f"combination - {way}"]) for way in ("best on gold", "best", "vote")]
    cells += [f"{loss['best on gold']:.3f} → {loss['combination']:.3f}", f"{row['own_labels']} of {repetitions}"]
    return f"| {size} | {' | '.join(cells)} |"


def _routing(routed: list[float]) -> str:
    *left, differ, after, random = routed
    head = " | ".join(f"least sure {100 * share:.0f} %" for share in SHARES)
    values = " | ".join(f"{100 * value:.2f}" for value in left)
    return (
        f"Error left in percent, {ROUTED_BY} gold, when people get\n\n"
        f"| {head} | all disagreements ({100 * differ:.1f} %) | as many at random |\n{'|---' * (len(left) + 2)}|\n"
        f"| {values} | {100 * after:.2f} | {100 * random:.2f} |"
    )


def _share(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:.2f} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}]"


def _signed(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:+.2f} [{100 * figure['low']:+.2f}, {100 * figure['high']:+.2f}]"


if __name__ == "__main__":
    main()
