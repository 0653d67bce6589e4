"""Drift on real texts: false alarms, what is found with how many texts, and estimates of accuracy beside the truth.

    python studies/drift.py [--data ../shared/data] [--splits 1000] [--draws 100] [--out studies]

Students learn on 4,000 texts of IMDb and 3,200 of AG News and are calibrated on 400 others. Splits draw a new reference
and a new batch of IMDb each. Writes drift.json and drift.md.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from drift_texts import LABELS, Pool, Student, columns, pool

from pipeline import drifting
from pipeline.drifting import ASSUMPTIONS
from serving import drifting as tests
from serving import profiles
from serving.profiles import Profile

REFERENCE, SCORED, BATCHES = 1000, 1000, (100, 200, 500, 1000)
Rows = np.ndarray


def main() -> None:
    """Measure, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=100, help="batches of each size and shift")
    parser.add_argument("--texts", type=int, default=16_000, help="of IMDb that splits and batches come from")
    parser.add_argument("--estimates", type=int, default=20, help="batches of each shift whose accuracy is estimated")
    parser.add_argument("--separations", type=int, default=200, help="splits for the classifier's test, which is slow")
    parser.add_argument("--out", type=Path, default=Path("studies"))
    arguments = parser.parse_args()
    data, random, began = arguments.data, np.random.default_rng(0), time.time()
    end = 8400 + arguments.texts
    texts, gold, stars = columns(data / "imdb/train.parquet", "text", "gold", "rating")
    student, profile = _profile("imdb", texts[:4400], gold[:4400], texts[4400:8400])
    imdb = pool(student, profile, texts[8400:end], gold[8400:end], stars[8400:end])
    others = {
        "AG News": pool(student, profile, columns(data / "ag_news/test.parquet", "text")[0]),
        "UMLS terms": pool(student, profile, columns(data / "umls/test_gold.parquet", "text")[0]),
        "first 200 characters": pool(student, profile, [t[:200] for t in texts[8400:10400]], gold[8400:10400]),
    }
    news, names = columns(data / "ag_news/train.parquet", "text", "label")
    more, of = columns(data / "ag_news/test.parquet", "text", "label")
    news, known = news + more, [LABELS["ag_news"].index(name) for name in names + of]
    student, of_news = _profile("ag_news", news[:3600], known[:3600], news[:3200])
    ag_news = pool(student, of_news, news[3600:], known[3600:])
    print(f"read in {time.time() - began:.0f} s", flush=True)
    found: dict[str, Any] = {"false_alarms": [], "found": [], "accuracy": []}
    parts = {
        "false_alarms": lambda: _false_alarms(imdb, profile, arguments.splits, arguments.separations, random),
        "found": lambda: _found(imdb, others, profile, arguments.draws, random),
        "accuracy": lambda: [
            *_accuracy("IMDb", imdb, _subsets(imdb), profile, arguments.estimates, random, others),
            *_accuracy("AG News", ag_news, _mixtures(ag_news), of_news, arguments.estimates, random, {}),
        ],
    }
    for name, part in parts.items():
        found |= {
            name: part(),
            "seconds": round(time.time() - began),
            "settings": {k: v for k, v in vars(arguments).items() if isinstance(v, int)},
        }
        (arguments.out / "drift.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
        (arguments.out / "drift.md").write_text(_markdown(found))
    print(_markdown(found))


def _profile(task: str, texts: list[str], gold: list[int], others: list[str]) -> tuple[Student, Profile]:
    student = Student(LABELS[task], texts, np.array(gold))
    return student, profiles.make(student, others[:300], others[300:], None)  # type: ignore[arg-type]


def _judged(profile: Profile, batch: Pool, rows: Rows) -> list[tests.Finding]:
    counts = tests.tally(profile, profile.binned(batch.reading(rows)))
    return tests.findings(tests.distances(profile, counts))


def _false_alarms(
    imdb: Pool, profile: Profile, splits: int, separations: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    rows = []
    for size in BATCHES:
        seen = []
        for _ in range(splits):
            order = random.choice(len(imdb), REFERENCE + size, replace=False)
            reference = profiles.filled(profile, imdb.reading(order[:REFERENCE]))
            verdicts = [finding.verdict for finding in _judged(reference, imdb, order[REFERENCE:])]
            seen.append((any(v != "same" for v in verdicts), "drift" in verdicts))
        any_, drift = np.mean(seen, axis=0)
        rows.append({"texts": size, "splits": splits, "significant": float(any_), "drift": float(drift)})
        print(rows[-1], flush=True)
    p_values = []
    for _ in range(separations):
        a, b = np.split(random.choice(len(imdb), 400, replace=False), 2)
        p_values.append(drifting.separate(imdb.bags[a], imdb.bags[b], imdb.bags[:0]).p_value)
    share = float(np.mean(np.array(p_values) < tests.ALPHA))
    return [*rows, {"texts": 200, "splits": separations, "significant": share, "classifier": True}]


def _found(
    imdb: Pool, others: dict[str, Pool], profile: Profile, draws: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    reference = profiles.filled(profile, imdb.reading(np.arange(REFERENCE)))
    rest = np.arange(REFERENCE, len(imdb))
    cases = {name: (p, np.arange(len(p))) for name, p in others.items()}
    for share in (0.65, 0.8):
        cases[f"{share:.0%} positive instead of 50"] = (imdb, _balanced(imdb, rest, share, random))
    for name, some in _subsets(imdb).items():
        cases[name] = (imdb, some[some >= REFERENCE])
    rows = []
    for name, (batch, some) in cases.items():
        row: dict[str, Any] = {"shift": name, "found": {}}
        for size in (size for size in BATCHES if size <= len(some)):
            verdicts = [_judged(reference, batch, random.choice(some, size, replace=False)) for _ in range(draws)]
            row["found"][size] = float(np.mean([any(f.verdict == "drift" for f in v) for v in verdicts]))
            row["psi"] = {f.measure: float(np.median([v[i].psi for v in verdicts])) for i, f in enumerate(verdicts[0])}
        rows.append(row)
        print(name, row["found"], flush=True)
    return rows


def _balanced(imdb: Pool, rows: Rows, share: float, random: np.random.Generator) -> Rows:
    """Rows of which `share` are positive: all of those, and some of the others."""
    assert imdb.gold is not None
    ours, theirs = rows[imdb.gold[rows] == 1], rows[imdb.gold[rows] == 0]
    return np.concatenate([ours, random.choice(theirs, int(len(ours) * (1 - share) / share), replace=False)])


def _subsets(imdb: Pool) -> dict[str, Rows]:
    """Parts of IMDb that other texts than usual are drawn from."""
    assert imdb.stars is not None
    lengths = np.array([len(text) for text in imdb.texts])
    masks = {
        "1, 2, 9, 10 stars": np.isin(imdb.stars, (1, 2, 9, 10)),
        "3, 4, 7, 8 stars": np.isin(imdb.stars, (3, 4, 7, 8)),
        "1 to 4 stars": imdb.stars <= 4,
        "below 700 characters": lengths < 700,
        "above 2,500 characters": lengths > 2500,
    }
    for word in ("horror", "comedy", "documentary"):
        masks[f"with '{word}'"] = np.array([word in text.lower() for text in imdb.texts])
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def _mixtures(news: Pool) -> dict[str, Rows]:
    """AG News with other shares of its classes."""
    assert news.gold is not None
    mixtures = {}
    for kept, name in (
        ((1, 0), "World and Sports only"),
        ((2, 3), "Business and Sci/Tech only"),
        ((1,), "Sports only"),
    ):
        mixtures[name] = np.flatnonzero(np.isin(news.gold, kept))
    return mixtures


def _accuracy(
    task: str,
    known: Pool,
    subsets: dict[str, Rows],
    profile: Profile,
    draws: int,
    random: np.random.Generator,
    pools: dict[str, Pool],
) -> Iterator[dict[str, Any]]:
    """Truth and estimates, of batches of 500 against 1,000 gold texts; both drawn anew each time."""
    assert known.gold is not None
    cases = {name: (known, rows) for name, rows in subsets.items()}
    cases |= {name: (p, np.arange(len(p))) for name, p in pools.items() if p.gold is not None}
    cases = {"none": (known, np.arange(len(known))), **cases}
    for name, (batch, some) in cases.items():
        truths, values, covered, effective = [], [], [], []
        for draw in range(draws):
            rows = random.choice(some, min(500, len(some)), replace=False)
            free = np.setdiff1d(np.arange(len(known)), rows)
            gold, reference = np.split(random.choice(free, 2 * SCORED, replace=False), 2)
            found = drifting.estimates(
                known.answers(gold), known.gold[gold], batch.answers(rows), len(profile.labels), seed=draw
            )
            weights = drifting.separate(known.bags[reference[:500]], batch.bags[rows], known.bags[gold]).weights
            found.append(drifting.weighted(known.right(gold), weights))
            truths.append(batch.right(rows).mean())
            values.append([estimate.value for estimate in found])
            covered.append([estimate.low <= truths[-1] <= estimate.high for estimate in found])
            effective.append(found[-1].effective_texts)
        errors = np.abs(np.array(values) - np.array(truths)[:, None]).mean(axis=0)
        gold_accuracy = float(known.right(np.arange(len(known))).mean())
        yield {
            "task": task, "shift": name, "truth": float(np.mean(truths)), "gold": gold_accuracy,
            "estimates": dict(zip(ASSUMPTIONS, np.mean(values, axis=0).tolist(), strict=True)),
            "errors": dict(zip(ASSUMPTIONS, errors.tolist(), strict=True)),
            "covered": dict(zip(ASSUMPTIONS, np.mean(covered, axis=0).tolist(), strict=True)),
            "effective": float(np.mean(effective)),
        }  # fmt: skip
        print(task, name, flush=True)


def _markdown(found: dict[str, Any]) -> str:
    lines = ["| texts in a batch | splits | some measure significant | called drift |", "|---|---|---|---|"]
    for row in found["false_alarms"]:
        name = f"{row['texts']}, classifier's test alone" if "classifier" in row else row["texts"]
        drift = f"{row['drift']:.1%}" if "drift" in row else ""
        lines.append(f"| {name} | {row['splits']:,} | {row['significant']:.1%} | {drift} |")
    lines += ["", f"| shift | {' | '.join(map(str, BATCHES))} | most distant measure |", "|---" * 6 + "|"]
    for row in found["found"]:
        cells = [f"{row['found'][size]:.0%}" if size in row["found"] else "" for size in BATCHES]
        most = max(row["psi"], key=row["psi"].get)
        lines.append(f"| {row['shift']} | {' | '.join(cells)} | {most}, PSI {row['psi'][most]:.2f} |")
    names = list(ASSUMPTIONS)
    lines += ["", f"| | shift | truth | gold | {' | '.join(names)} | effective |", "|---" * (5 + len(names)) + "|"]
    for row in found["accuracy"]:
        cells = [f"{100 * row['estimates'][name]:.1f}" for name in names]
        truth = f"{100 * row['truth']:.1f} | {100 * row['gold']:.1f}"
        lines.append(f"| {row['task']} | {row['shift']} | {truth} | {' | '.join(cells)} | {row['effective']:.0f} |")
    shifted = [row for row in found["accuracy"] if row["shift"] != "none"]
    if not shifted:
        return "\n".join(lines) + "\n"
    for what, of in (("mean error", "errors"), ("interval has the truth, %", "covered")):
        cells = [f"{100 * np.mean([row[of][name] for row in shifted]):.1f}" for name in names]
        base = [f"{100 * np.mean([abs(row['truth'] - row['gold']) for row in shifted]):.1f}" if of == "errors" else ""]
        lines.append(f"| all shifts | {what} | | {base[0]} | {' | '.join(cells)} | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
