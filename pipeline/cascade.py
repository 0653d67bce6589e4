"""What is known of encoder and LLM before the calibrating gold is looked at, and what follows for a plan.

People's gold of validation and test teaches how far to believe both; the sample's held-out texts, a uniform draw from
the corpus that nobody trained on, stand for the corpus. Neither is the gold that tests the thresholds.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline import costing, deferring, gold_corpus
from pipeline.artifacts import BEST, GOLD, LABELS, PREDICTIONS, TEACHER, Prediction, metrics
from pipeline.deferring import Opinions, Path, Prices, Scores, Trust
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.scoring import Floats
from serving.shapes import softmax


@dataclass(frozen=True)
class Learnt:
    """How far to believe both, the path of thresholds, and what it would do to texts like the corpus's."""

    trust: Trust
    path: Path
    prices: Prices
    unseen: Scores
    taught_by: int  # gold texts

    @classmethod
    def of(cls, params: Params, without: Container[str] = ()) -> "Learnt":
        """From the best candidate's predictions; texts whose hash is in `without` teach nothing."""
        best, names = BEST.read(), params.task.names
        rows = [row for row in PREDICTIONS if row.candidate == best["candidate"]]
        hashes = {row.id: row.text_hash for row in GOLD}
        known = [row for row in rows if row.set != "held_out" and row.id in hashes and hashes[row.id] not in without]
        held = [row for row in rows if row.set == "held_out"]
        said = {row.id: row.probabilities for table in (TEACHER, LABELS) for row in table}
        truth = np.array([names.index(row.reference) for row in known], dtype=np.int64)
        trust = Trust.fit(_opinions(known, said, best["temperature"], len(names)), truth)
        unseen = trust(_opinions(held or known, said, best["temperature"], len(names)))
        if not len(unseen.encoder):
            raise UserError("no text is held out of the sample: raise sample.held_out_share, and run `dvc repro`")
        price = prices(params)
        return cls(trust, Path.lay(unseen, price), price, unseen, len(known))

    def shares(self, point: int) -> dict[str, float]:
        """What encoder, LLM and people label at a point of the path, and what the LLM is asked, of texts like these."""
        at = self.path.at(point)
        first, second, people = (float(part.mean()) for part in at.routes(self.unseen))
        asked = 1 - first if np.isfinite(at.llm[0]) else 0.0
        return {"encoder": first, "llm": second, "person": people, "llm_asked": asked}

    def money(self, shares: Mapping[str, float]) -> float:
        """Of a text, on average, the encoder's work left out."""
        return self.prices.llm * shares["llm_asked"] + self.prices.person * shares["person"]


def prices(params: Params) -> Prices:
    """Of one text: the LLM's as its answers have cost so far (0 where nobody knows), a person's from the params."""
    asked = metrics("annotate")
    found = asked.read() if asked.path.is_file() else {}
    known = found.get("answers") and costing.unpriced(params) is None
    return Prices(found["money"] / found["answers"] if known else 0.0, params.label.person_price)


def limit(params: Params, gold: int, corpus: int) -> int:
    """How many of the calibrating gold texts may be wrong.

    Raises:
        UserError: not even none would certify the target; it says which target it would, and how much gold is needed.
    """
    target, confidence = _target(params), params.label.confidence
    if (found := deferring.allowed(gold, corpus, target, confidence)) >= 0:
        return found
    needed = 2 * deferring.gold_needed(target, confidence)
    raise UserError(
        f"label.target_error {target:g} can't be certified with {confidence:.0%} confidence by {gold} calibrating gold "
        f"texts, however few are deferred: they reach {deferring.bound(0, gold, confidence):.3f} at best. Draw about "
        f"{needed} gold texts in all (`llambert gold sample {needed}`; half of them calibrate, half certify), "
        f"or raise label.target_error"
    )


def foreseen(params: Params, corpus: int) -> tuple[Learnt, dict[str, float]]:
    """The shares that testing will as likely reach as not, before the LLM was asked about the calibrating gold.

    Raises:
        UserError: the target can't be met, or there is no gold of the corpus.
    """
    gold = len(gold_corpus.halves(gold_corpus.read(params))[0])
    most = limit(params, gold, corpus)
    learnt = Learnt.of(params)
    return learnt, learnt.shares(max(deferring.foreseen(learnt.path, learnt.unseen, gold, most), 0))


def _target(params: Params) -> float:
    if params.label.target_error is None:
        raise UserError("params.yaml has no label.target_error: set it, such as 0.02, and run `llambert dag`")
    return params.label.target_error


def _opinions(rows: list[Prediction], said: dict[str, list[float]], temperature: float, labels: int) -> Opinions:
    logits: Floats = np.array([row.logits for row in rows]).reshape(-1, labels)
    nothing = [np.nan] * labels
    llm: Floats = np.array([said.get(row.id, nothing) for row in rows]).reshape(-1, labels)
    return Opinions(softmax(logits / temperature), llm)
