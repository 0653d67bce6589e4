"""Does the error target hold, and what is deferred for it? Simulated with known truth, into studies/error_target.json.

    python studies/error_target_data.py && python studies/error_target.py [NAME ...] [--table]

In each repetition 500 texts with known labels teach `Trust`, 1,000 others without labels lay the path, and the rest is
the corpus, from which gold is drawn. Whether the target holds is counted on that corpus, all its labels known. A person
costs 100 times what the LLM costs. Methods, all on the same draws:

ltt          what the project does: learn-then-test along the path, exact hypergeometric limit
ltt_hb       the same with Hoeffding-Bentkus p-values instead
ltt_grid     learn-then-test with Bonferroni over an 8 x 8 grid of thresholds
crc          conformal risk control (arXiv 2208.02814) along the path: keeps the target in expectation only
plug_in      the last point of the path whose error rate on gold is within the target: no guarantee
raw          whoever says a probability of 1 - target or more is believed: no gold, no guarantee
raw_tested   one threshold on the raw probabilities of both, tested as in ltt
no_llm       ltt without an LLM: what the encoder is unsure of goes to people
raw_no_llm   one threshold on the encoder's raw probabilities, tested as in ltt, without an LLM
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path as File
from typing import Any

import numpy as np
from scipy.stats import binom

from pipeline import deferring
from pipeline.deferring import Opinions, Path, Prices, Scores, Trust
from pipeline.scoring import Bools, Ints

TARGETS, GOLD, CONFIDENCE, PRICES = (0.02, 0.05), (250, 500), 0.95, Prices(1.0, 100.0)
TAUGHT, HELD_OUT, GRID, RESULT = 500, 1_000, 8, File(__file__).with_suffix(".json")
_RAW = np.concatenate([[np.inf], 1 - np.geomspace(1e-6, 1, 200)])  # thresholds
_TOGETHER, _ALONE = Path(_RAW, _RAW), Path(_RAW, np.full(len(_RAW), np.inf))


@dataclass(frozen=True)
class Draw:
    """One repetition: the corpus as the project and as raw probabilities see it, and gold in a random order."""

    scores: Scores
    raw: Scores
    right: tuple[Bools, Bools]
    gold: Ints  # indices into the corpus
    path: Path
    alone: Path  # without an LLM
    grid: Path

    known: dict[tuple[int, int], Ints]

    def wrong(self, path: Path, scores: Scores, gold: int) -> Ints:
        """Errors among so many gold texts at each point of a path."""
        if (key := (id(path), gold)) not in self.known:
            some = self.gold[:gold]
            right = self.right[0][some], self.right[1][some]
            self.known[key] = path.errors(Scores(scores.encoder[some], scores.llm[some]), right)
        return self.known[key]


Choice = tuple[Path, int, Scores]  # -1: people label all


def ltt(draw: Draw, gold: int, target: float) -> Choice:
    """As the stage does it."""
    limit = _limit(gold, len(draw.right[0]), target)
    return draw.path, deferring.certified(draw.wrong(draw.path, draw.scores, gold), limit), draw.scores


def ltt_hb(draw: Draw, gold: int, target: float) -> Choice:
    """The bounds that hold for any loss between 0 and 1."""
    wrong = draw.wrong(draw.path, draw.scores, gold)
    return draw.path, deferring.certified(wrong, _hoeffding_bentkus(gold, target)), draw.scores


def ltt_grid(draw: Draw, gold: int, target: float) -> Choice:
    """The cheapest, on gold, of all pairs of thresholds that pass with their share of the error probability."""
    confidence = 1 - (1 - CONFIDENCE) / len(draw.grid)
    limit = _limit(gold, len(draw.right[0]), target, confidence)
    some = Scores(draw.scores.encoder[draw.gold[:gold]], draw.scores.llm[draw.gold[:gold]])
    passed = draw.wrong(draw.grid, draw.scores, gold) <= limit
    first, _, people = draw.grid.routes(some)
    money = PRICES.llm * (~first).mean(axis=0) + PRICES.person * people.mean(axis=0)
    return draw.grid, int(np.where(passed, money, np.inf).argmin()) if passed.any() else -1, draw.scores


def crc(draw: Draw, gold: int, target: float) -> Choice:
    """The expected risk is at most (errors + 1) / (gold + 1)."""
    wrong = draw.wrong(draw.path, draw.scores, gold)
    return draw.path, deferring.certified(wrong, int(np.floor(target * (gold + 1) - 1 + 1e-9))), draw.scores


def plug_in(draw: Draw, gold: int, target: float) -> Choice:
    """Gold's own error rate, as if it were the corpus's."""
    wrong = draw.wrong(draw.path, draw.scores, gold)
    return draw.path, deferring.certified(wrong, int(np.floor(target * gold + 1e-9))), draw.scores


def raw(draw: Draw, gold: int, target: float) -> Choice:
    """Probabilities at their word."""
    del gold
    return Path(np.array([1 - target]), np.array([1 - target])), 0, draw.raw


def raw_tested(draw: Draw, gold: int, target: float) -> Choice:
    """Probabilities uncalibrated, thresholds tested."""
    path = _TOGETHER
    limit = _limit(gold, len(draw.right[0]), target)
    return path, deferring.certified(draw.wrong(path, draw.raw, gold), limit), draw.raw


def no_llm(draw: Draw, gold: int, target: float) -> Choice:
    """Encoder and people."""
    limit = _limit(gold, len(draw.right[0]), target)
    return draw.alone, deferring.certified(draw.wrong(draw.alone, draw.scores, gold), limit), draw.scores


def raw_no_llm(draw: Draw, gold: int, target: float) -> Choice:
    """Encoder and people, uncalibrated."""
    path = _ALONE
    limit = _limit(gold, len(draw.right[0]), target)
    return path, deferring.certified(draw.wrong(path, draw.raw, gold), limit), draw.raw


METHODS: list[Callable[[Draw, int, float], Choice]] = [
    ltt, ltt_hb, ltt_grid, crc, plug_in, raw, raw_tested, no_llm, raw_no_llm,
]  # fmt: skip


@cache
def _limit(gold: int, corpus: int, target: float, confidence: float = CONFIDENCE) -> int:
    return deferring.allowed(gold, corpus, target, confidence)


@cache
def _hoeffding_bentkus(gold: int, target: float) -> int:
    """The most errors with a p-value (Bates et al. 2021, arXiv 2101.02703) of at most 1 - CONFIDENCE."""
    errors = np.arange(int(target * gold) + 1)
    seen = np.clip(errors / gold, 1e-12, target)
    distance = seen * np.log(seen / target) + (1 - seen) * np.log((1 - seen) / (1 - target))
    p_values = np.minimum(np.exp(-gold * distance), np.e * binom.cdf(errors, gold, target))
    return int((p_values <= 1 - CONFIDENCE).sum()) - 1


def drawn(opinions: Opinions, truth: Ints, random: np.random.Generator) -> Draw:
    """Divide the texts, and learn from the first two parts."""
    order = random.permutation(len(truth))
    parts = np.split(order, [TAUGHT, TAUGHT + HELD_OUT])
    some, held, corpus = (Opinions(opinions.encoder[part], opinions.llm[part]) for part in parts)
    trust = Trust.fit(some, truth[parts[0]])
    unseen, scores, said = trust(held), trust(corpus), corpus.labels()
    raw_llm = np.where(said[1] >= 0, np.nan_to_num(corpus.llm).max(axis=1), -np.inf)
    cuts = [np.quantile(s[s >= 0], np.linspace(0, 1, GRID + 1)[:-1]) for s in (unseen.encoder, unseen.llm)]
    return Draw(
        scores,
        Scores(corpus.encoder.max(axis=1), raw_llm),
        (said[0] == truth[parts[2]], said[1] == truth[parts[2]]),
        random.permutation(len(parts[2])),
        Path.lay(unseen, PRICES),
        Path.lay(Scores(unseen.encoder, np.full(HELD_OUT, -np.inf)), PRICES),
        Path(*(part.ravel() for part in np.meshgrid(*cuts))),
        {},
    )


def outcome(draw: Draw, choice: Choice) -> list[float]:
    """Error rate of the whole corpus, shares that the encoder, the LLM and people label, and that the LLM is asked."""
    path, at, scores = choice
    if at < 0:
        return [0.0, 0.0, 0.0, 1.0, 0.0]
    point = Path(path.encoder[[at]], path.llm[[at]])
    first, second, people = (part.mean() for part in point.routes(scores))
    asked = 1 - first if np.isfinite(point.llm[0]) else 0.0
    return [point.errors(scores, draw.right)[0] / len(draw.gold), first, second, people, asked]


def simulate(opinions: Opinions, truth: Ints, repetitions: int, seed: int) -> dict[str, Any]:
    """{target: {gold: {method: figures}}}."""
    random = np.random.default_rng(seed)
    cells = [(t, n, method) for t in TARGETS for n in GOLD for method in METHODS]
    found = np.empty((repetitions, len(cells), 5))
    for i in range(repetitions):
        draw = drawn(opinions, truth, random)
        found[i] = [outcome(draw, method(draw, n, t)) for t, n, method in cells]
    result: dict[str, Any] = {}
    for cell, (target, gold, method) in enumerate(cells):
        error, encoder, llm, person, asked = found[:, cell].T
        holds = int((error <= target).sum())
        result.setdefault(str(target), {}).setdefault(str(gold), {})[method.__name__] = {
            "holds": holds / repetitions,
            "mean_error": float(error.mean()),
            "encoder": float(encoder.mean()), "llm": float(llm.mean()), "person": float(person.mean()),
            "llm_asked": float(asked.mean()),
            "cost_per_text": float((PRICES.llm * asked + PRICES.person * person).mean()),
        }  # fmt: skip
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| corpus | target | gold | method | holds in | error | encoder | LLM | people |", "|---" * 9 + "|"]
    for name, targets in result["corpora"].items():
        for target, sizes in targets["results"].items():
            for gold, methods in sizes.items():
                for method, f in methods.items():
                    shown = [f"{100 * f[key]:.1f} %" for key in ("holds", "mean_error", "encoder", "llm", "person")]
                    lines.append(f"| {name} | {float(target):.0%} | {gold} | {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate all corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="corpora such as 'ag-news, simulated'; all if none is named")
    parser.add_argument("--work", type=File, default=File(".llambert/error_target"))
    parser.add_argument("--repetitions", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=20240321)
    parser.add_argument("--table", action="store_true", help="print what the JSON says as Markdown, simulate nothing")
    given = parser.parse_args()
    for file in [] if given.table else sorted(given.work.glob("*.npz")):
        data = np.load(file)
        for llm in (name for name in data.files if name.startswith("llm_")):
            name = f"{file.stem}, {llm.removeprefix('llm_')}"
            if given.names and name not in given.names:
                continue
            opinions, truth = Opinions(data["encoder"], data[llm]), data["gold"].astype(np.int64)
            first, second = opinions.labels()
            found = {
                "repetitions": given.repetitions,
                "seed": given.seed,
                "texts": len(truth),
                "encoder_accuracy": float((first == truth).mean()),
                "llm_accuracy": float((second == truth).mean()),
                "results": simulate(opinions, truth, given.repetitions, given.seed),
            }
            result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"corpora": {}}
            result["corpora"][name] = found
            RESULT.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
