"""grow: corpus + gold -> sample + metrics/sample.json + metrics/grow.json + plots/rounds.csv, in place of `sample`

Label some texts, train on them, measure on held-out ones, and go on while that helps. Answers are stored before they
count, and what a candidate says of texts is kept too: a killed run goes on where it was, and pays for nothing twice.
"""

import csv
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline import choosing, costing, growing, pupils, sampling, scoring
from pipeline.artifacts import CORPUS, GOLD, ROUNDS, SAMPLE, Label, metrics
from pipeline.drawing import Frame, Growing
from pipeline.errors import UserError
from pipeline.params import Params, Rounds
from pipeline.scoring import Floats, Ints
from pipeline.stages import annotate, parse
from pipeline.stages.annotate import Asked
from pipeline.training import Data
from serving.estimating import amount
from serving.files import replacing

log = logging.getLogger("llambert")
_POOL = 5  # texts that a strategy looks at, as a multiple of sample.size


def run(params: Params) -> None:
    """Grow the sample until it is saturated, or something is used up.

    Raises:
        UserError: there is no block `rounds`; the corpus or the budget is too small for a first round.
    """
    if (rounds := params.rounds) is None:
        raise UserError("params.yaml has no block `rounds`: the stage `sample` draws all texts at once")
    start = time.monotonic()
    frame, eligible = _frame(params, rounds)
    growth = _Growth(params, rounds, Growing(frame, rounds, params.sample.seed))
    if rounds.strategy == "diverse" and frame.rest:
        vectors = choosing.vectors([document.text for document in frame.rest], params.sample.seed)
        growth.masses = choosing.diverse(choosing.clusters(vectors, rounds.clusters, params.sample.seed))
    most = min(params.sample.size - len(frame.held_out), len(frame.uniform) + len(frame.rest))
    for number, total in enumerate(growing.totals(rounds.first, rounds.growth, most)):
        growth.sample.grow(total, number, growth.masses)
        asked = growth.ask(number)
        growth.stopped = asked.stopped or growth.learn(asked, number)
        if growth.stopped is not None:
            break
    rows = growth.sample.weighted()
    SAMPLE.write(rows)
    held_out = sum(row.split == "held_out" for row in rows)
    figures = {"sampled": len(rows), "train": len(rows) - held_out, "held_out": held_out, "eligible": eligible}
    metrics("sample").write(figures | {"seconds": round(time.monotonic() - start, 3)})
    growth.write()
    log.info("grow: %d texts after %d rounds; stopped by %s", len(rows), len(growth.rounds), growth.stopped)


def _frame(params: Params, rounds: Rounds) -> tuple[Frame, int]:
    sample = params.sample
    evaluation = {row.text_hash for row in GOLD if row.split != "train"}
    size = sample.size if rounds.strategy == "uniform" else max(rounds.pool or _POOL * sample.size, sample.size)
    pool, eligible = sampling.draw(CORPUS, size, sample.seed, evaluation)
    if len(pool) < (least := rounds.held_out + 2):
        raise UserError(
            f"only {len(pool)} texts of {CORPUS.path} can be sampled, {least} are needed (rounds.held_out is "
            f"{rounds.held_out}): lower it, or give a larger ingest.corpus"
        )
    return Frame.of(pool, sample.size, rounds), eligible


@dataclass
class _Growth:
    """The rounds so far."""

    params: Params
    settings: Rounds
    sample: Growing
    masses: Floats | None = None  # by which the strategy draws, (rest,)
    said: list[Ints] = field(default_factory=list)  # of the held-out texts, after each round
    rounds: list[dict[str, Any]] = field(default_factory=list)
    train_s: float = 0.0
    stopped: str | None = None

    def ask(self, number: int) -> Asked:
        """Ask about all texts so far; where the budget ends meanwhile, keep what is answered.

        Raises:
            UserError: the budget ended before a first round was complete.
        """
        asked = annotate.ask(self._limited(), self.sample.rows, f"round {number + 1}")
        if asked.stopped is not None and not self.rounds:
            raise UserError(
                f"annotate.{asked.stopped} is reached before the first round is complete: what was answered is kept; "
                "raise the budget, or lower rounds.held_out and rounds.first, and run again"
            )
        if asked.stopped is not None:
            self.sample.cut(number, {response.id for response in asked.responses})
        return asked

    def _limited(self) -> Params:
        """With as many minutes as are left of all rounds'."""
        if self.settings.max_minutes is None:
            return self.params
        used = self.train_s + (self.rounds[-1]["answer_s"] if self.rounds else 0.0)
        left, annotate_ = max(self.settings.max_minutes - used / 60, 0.0), self.params.annotate
        minutes = left if annotate_.budget.minutes is None else min(left, annotate_.budget.minutes)
        budget = annotate_.budget.model_copy(update={"minutes": minutes})
        return self.params.model_copy(update={"annotate": annotate_.model_copy(update={"budget": budget})})

    def learn(self, asked: Asked, number: int) -> str | None:
        """Train on what is labelled, measure, and say why to stop, if there is a reason."""
        params, settings = self.params, self.settings
        labels = parse.labels_of(asked.responses, self.sample.rows, params)
        encoder = params.encoders[settings.candidate]
        data = Data(
            params.task.names, {row.id: row.text for row in self.sample.rows}, labels, [], kind=params.task.kind
        )
        phase = data.phases("llm", encoder.soft_labels)[0]
        rest = self.sample.frame.rest if settings.strategy == "uncertain" else []
        texts = [document.text for document in [*self.sample.frame.held_out, *rest]]
        learnt = pupils.learn(encoder, data.labels, phase, texts, params.sample.seed)
        self.train_s += learnt.seconds
        held_out = len(texts) - len(rest)
        self.said.append(learnt.probabilities[:held_out].argmax(axis=1))
        if rest:
            self.masses = choosing.uncertain(learnt.probabilities[held_out:])
        return self._judge(asked, labels, len(phase.train), number)

    def _judge(self, asked: Asked, labels: list[Label], trained_on: int, number: int) -> str | None:
        params, names = self.params, self.params.task.names
        place = {document.id: i for i, document in enumerate(self.sample.frame.held_out)}
        held_out = [row for row in labels if row.split == "held_out"]
        at, truth = [place[row.id] for row in held_out], np.array([names.index(row.label) for row in held_out])
        saturation = growing.follow([said[at] == truth for said in self.said], self.settings.stop)
        score = scoring.intervals(scoring.confusion(truth, self.said[-1][at], len(names)), params.evaluate)["accuracy"]
        totals, gain = asked.totals, saturation.gains[-1]
        prices = costing.prices(params)
        money = prices.of(totals.prompt_tokens, totals.answer_tokens, totals.seconds)
        self.rounds.append(
            {
                "texts": len(self.sample.rows), "trained_on": trained_on, "held_out": len(at),
                "uniform": sum(row.stratum == "uniform" for row in self.sample.rows), "score": score,
                "gain": gain and asdict(gain), "idle": saturation.idle, "answers": totals.answers,
                "tokens": totals.prompt_tokens + totals.answer_tokens,
                "money": None if costing.unpriced(params) else money,
                "answer_s": costing.by_the_clock(params, totals.seconds), "train_s": self.train_s,
            }
        )  # fmt: skip
        log.info("round %d: %s", number + 1, growing.sentence(self.rounds[-1], None if not money else amount(money)))
        if saturation.over:
            return "saturation"
        used = (self.rounds[-1]["answer_s"] + self.train_s) / 60
        limit = self.settings.max_minutes
        return f"rounds.max_minutes {limit:g}" if limit is not None and used >= limit else None

    def write(self) -> None:
        """The rounds as metrics and as a plot's points."""
        self.stopped = self.stopped or "sample.size"
        metrics("grow").write({"rounds": self.rounds, "stopped": self.stopped, "strategy": self.settings.strategy})
        with replacing(ROUNDS) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["texts", "score", "low", "high"])
            writer.writerows(
                [row["texts"], *(row["score"][k] for k in ("value", "low", "high"))] for row in self.rounds
            )
