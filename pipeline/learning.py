"""From phases to a trained model: which of them are done already, which are shared, and who teaches whom.

Work in progress lives in .llambert/checkpoints, under the fingerprint of all that shapes a phase's result, so that a
killed run goes on, and no candidate learns a second time what another one has learnt.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline import teaching, tfidf, training, weights
from pipeline.artifacts import CHECKPOINTS, MODELS, Json
from pipeline.params import Student, Tfidf, Transformer
from pipeline.training import Floats, Phase
from serving import shapes
from serving.shapes import Kind, Shape

log = logging.getLogger("llambert")


@dataclass(frozen=True)
class Learner:
    """What learns: an encoder of params.yaml with a seed."""

    name: str
    encoder: Transformer | Tfidf
    seed: int
    labels: list[str]
    corpus: Callable[[int], list[str]]  # so many texts of the corpus that evaluate nothing and have no label
    place: Path = CHECKPOINTS  # of work in progress
    kind: Kind = "single"

    @property
    def shape(self) -> Shape:
        """What its logits mean."""
        return shapes.of(self.kind, self.labels)

    def learn(self, phases: list[Phase], built: Path) -> dict[str, Any]:
        """Train, leave the model in `built`, and return what candidate.json says of it.

        What the last phase learnt stays in `place`/fingerprint until the caller has published `built`.
        """
        if isinstance(self.encoder, Tfidf):
            return _baseline(self, self.encoder, phases, built)
        work, details = _phases(self, self.encoder, phases)
        shutil.copytree(work, built, dirs_exist_ok=True)
        return details | {"max_tokens": self.encoder.max_tokens, "truncation": self.encoder.truncation}

    def opinion(self, phases: list[Phase], texts: list[str]) -> Floats:
        """Probabilities (texts, labels) of a model that learnt the phases."""
        if isinstance(self.encoder, Tfidf):
            with TemporaryDirectory() as place:
                _baseline(self, self.encoder, phases, Path(place))
                return self.shape.probabilities(tfidf.logits(Path(place), texts))
        from pipeline import predicting

        work, _ = _phases(self, self.encoder, phases)
        logits = predicting.logits(work, texts, self.encoder.max_tokens, self.encoder.truncation)
        return self.shape.probabilities(logits)


def discard(directory: Path) -> None:
    """Remove a directory, so that no process killed meanwhile leaves a part of it under its name."""
    gone = CHECKPOINTS / "gone"
    shutil.rmtree(gone, ignore_errors=True)  # what a killed process left
    if directory.exists():
        directory.rename(gone)
        shutil.rmtree(gone)


def taught(recipe: str, learners: list[Learner], phases: list[Phase], student: Student) -> list[Phase]:
    """The phases of the student of a recipe that is `training.TAUGHT`.

    Args:
        recipe: self_trained, which asks the first learner alone, or distilled.
        learners: the student's own encoder and, for distilled, who else is asked.
        phases: the teachers'.
        student: how it is taught.
    """
    rest = learners[0].corpus(student.texts) if student.texts else []
    if recipe == "self_trained":
        opinion = learners[0].opinion(phases, rest) if rest else np.zeros((0, phases[0].train.targets.shape[1]))
        sure = learners[0].shape.decide(opinion).confidence
        return teaching.self_trained(phases, rest, opinion, sure, student)
    train = phases[0].train
    fold = teaching.folds(train.texts, student.folds)
    opinion, of_rest = np.zeros(train.targets.shape), np.zeros((len(rest), train.targets.shape[1]))
    for part in range(student.folds):
        chosen = fold == part
        texts = train.where(chosen).texts + rest
        for learner in learners:
            said = learner.opinion(teaching.without(phases, chosen), texts) / len(learners)
            opinion[chosen] += said[: int(chosen.sum())]
            of_rest += said[int(chosen.sum()) :] / student.folds
    return teaching.distilled(phases, opinion, rest, of_rest, student)


def _baseline(learner: Learner, encoder: Tfidf, phases: list[Phase], built: Path) -> dict[str, Any]:
    examples = phases[0].train
    for phase in phases[1:]:
        examples += phase.train
    tfidf.save(tfidf.fit(encoder, examples, learner.seed, learner.kind), built)
    settings = encoder.model_dump(mode="json") | {"seed": learner.seed} | _of(learner.kind)
    return {"fingerprint": training.fingerprint("tfidf", phases[-1], settings)}


def _of(kind: Kind) -> dict[str, str]:
    """What a fingerprint holds of the kind; nothing of single, so that those of before stay."""
    return {} if kind == "single" else {"task": kind}


def _phases(learner: Learner, encoder: Transformer, phases: list[Phase]) -> tuple[Path, dict[str, Any]]:
    """Learn what isn't learnt yet; return the directory of the model, and fingerprint, history and seconds."""
    settings = encoder.model_dump(mode="json", exclude={"adapt"}) | {"seed": learner.seed, "labels": learner.labels}
    settings |= _of(learner.kind)
    base, start = _start(learner, encoder)
    history: list[dict[str, Any]] = []
    seconds = 0.0
    for phase in phases:
        base = training.fingerprint(base, phase, settings)
        work = learner.place / base
        done = Json(work / "phase.json")
        sibling = _finished(learner, base)
        if sibling is None and not done.path.exists():
            done.write(_phase(learner, start, phase, work))
            for checkpoint in work.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        directory, result = sibling or (work / "model", done.read())
        start = str(directory)
        history += result["history"]
        seconds += result["seconds"]
    return Path(start), {"fingerprint": base, "history": history, "seconds": seconds}


def _start(learner: Learner, encoder: Transformer) -> tuple[str, str]:
    """Identity and place of the weights that the first phase starts from, which were adapted to the corpus if asked."""
    base, start = weights.identity(encoder.model), weights.encoder_directory(encoder.model)
    if encoder.adapt is None:
        return base, start
    from pipeline import adapting

    texts = learner.corpus(encoder.adapt.texts)
    base = adapting.fingerprint(base, encoder, texts)
    work = CHECKPOINTS / base
    if not (done := Json(work / "phase.json")).path.exists():
        adapting.fit(encoder, start, texts, work, work / "model")
        done.write({"texts": len(texts)})
        for checkpoint in work.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return base, str(work / "model")


def _phase(learner: Learner, start: str, phase: Phase, work: Path) -> dict[str, Any]:
    """Train a phase into `work`/model."""
    from pipeline import finetuning

    began = time.perf_counter()
    encoder = learner.encoder
    if isinstance(encoder, Tfidf):
        raise TypeError("This is a bug: TF-IDF has no phases")
    history = finetuning.fit(encoder, learner.labels, start, phase, learner.seed, work, work / "model", learner.kind)
    return {"history": history, "seconds": time.perf_counter() - began}


def _finished(learner: Learner, fingerprint: str) -> tuple[Path, dict[str, Any]] | None:
    """A candidate of the same encoder and seed that learnt exactly this."""
    for path in sorted(MODELS.glob(f"{learner.name}-*-{learner.seed}/candidate.json")):
        if (facts := Json(path).read())["fingerprint"] == fingerprint:
            log.info("train: starting from %s, which learned the same labels", path.parent.name)
            return path.parent, facts
    return None
