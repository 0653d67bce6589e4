"""One run of a study: a project directory gets its texts and labels, the stage `train` trains, test gold judges.

What is trained is the product's own code (recipes, checkpoints, resume); a run is over when its JSON is there.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import scoring, tfidf
from pipeline.artifacts import CORPUS, GOLD, LABELS, MODELS, SAMPLE, Document, Gold, Json, Label, Sampled
from pipeline.params import Params
from pipeline.scoring import Floats
from pipeline.stages import train
from serving import shapes
from studies.corpora import Text

WORK = Path(".llambert/studies")  # models and checkpoints; results stand in studies/results
HELD_OUT = 0.1  # of what is trained on: decides when to stop


@dataclass(frozen=True)
class Experiment:
    """What a candidate learns, and what it is tested on. `name` is that of its JSON."""

    study: str
    name: str
    labels: list[str]
    encoder: dict[str, Any]  # as in params.yaml
    recipe: str
    seed: int
    llm: list[Text] = field(default_factory=list)  # the LLM's labels
    gold: list[Text] = field(default_factory=list)  # people's
    rest: list[Text] = field(default_factory=list)  # nobody's
    strong: list[Text] = field(default_factory=list)  # few, by a strong annotator
    test: list[Text] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)  # more of the block `train`, `soft_labels` apart
    facts: dict[str, Any] = field(default_factory=dict)  # for the table: condition, size, share
    group: str = ""  # experiments of a group have the same texts: combined goes on from llm

    @property
    def result(self) -> Path:
        """Where its figures go."""
        return Path("studies/results") / self.study / f"{self.name}.json"


def run(experiment: Experiment) -> dict[str, Any]:
    """Train and test, or read what an earlier run wrote; a killed one goes on from its checkpoints."""
    if experiment.result.exists():
        return Json(experiment.result).read()
    start = time.perf_counter()
    with _project(experiment) as params:
        candidate = params.candidates[0]
        train.run(params, candidate)
        probabilities = _predict(MODELS / candidate, [text.text for text in experiment.test])
        validation = [row for row in GOLD if row.split == "validation"] or [
            row for row in _labelled(experiment) if row.split == "held_out"
        ]
        judged = _predict(MODELS / candidate, [row.text for row in validation])
        trained = Json(MODELS / candidate / "candidate.json").read()
    names = experiment.labels
    truth = np.array([names.index(str(text.gold)) for text in experiment.test])
    known = np.array([names.index(row.label) for row in validation])
    figures = {
        **experiment.facts, "encoder": experiment.name.split("-")[0], "recipe": experiment.recipe,
        "seed": experiment.seed, "settings": experiment.encoder, "trained_on": trained["texts"],
        "test_texts": len(truth), "right": int((probabilities.argmax(axis=1) == truth).sum()),
        "accuracy": float((probabilities.argmax(axis=1) == truth).mean()),
        "right_bits": np.packbits(probabilities.argmax(axis=1) == truth).tobytes().hex(),  # a bit a test text
        "validation_accuracy": float((judged.argmax(axis=1) == known).mean()),
        "validation_log_loss": scoring.log_loss(np.log(np.maximum(judged, 1e-12)), known),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    experiment.result.parent.mkdir(parents=True, exist_ok=True)
    Json(experiment.result).write(figures)
    if not experiment.group:
        shutil.rmtree(_place(experiment))
    elif experiment.recipe != "llm":
        shutil.rmtree(_place(experiment) / MODELS / candidate)
    return figures


@dataclass(frozen=True)
class _Row:
    """A text that decides when to stop."""

    text: str
    label: str
    split: str


def _labelled(experiment: Experiment) -> list[_Row]:
    held = _held_out(experiment.llm)
    return [
        _Row(t.text, str(t.llm), "held_out" if out else "train") for t, out in zip(experiment.llm, held, strict=True)
    ]


def _held_out(texts: Sequence[Text]) -> list[bool]:
    """The last tenth in the order of the corpus, which hashes decide."""
    kept = len(texts) - max(round(HELD_OUT * len(texts)), 1)
    return [i >= kept for i in range(len(texts))]


def _place(experiment: Experiment) -> Path:
    return WORK / experiment.study / (experiment.group or experiment.name)


@contextmanager
def _project(experiment: Experiment) -> Iterator[Params]:
    """Work in a project directory with the experiment's artifacts; come back afterwards."""
    before = Path.cwd()
    place = _place(experiment)
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    try:
        _write(experiment)
        yield _params(experiment)
    finally:
        os.chdir(before)


def _write(experiment: Experiment) -> None:
    known = [*experiment.llm, *experiment.gold]
    CORPUS.write(Document(t.id, t.text, t.text) for t in [*known, *experiment.rest])
    splits = ["held_out" if out else "train" for out in _held_out(experiment.llm)]
    SAMPLE.write(Sampled(t.id, t.text, t.text, split) for t, split in zip(experiment.llm, splits, strict=True))
    LABELS.write(
        Label(t.id, str(t.llm), list(soft := _targets(t, experiment.labels)), max(soft), split, "")
        for t, split in zip(experiment.llm, splits, strict=True)
    )
    splits = ["validation" if out else "train" for out in _held_out(experiment.gold)]
    GOLD.write(Gold(t.id, t.text, t.text, str(t.gold), split) for t, split in zip(experiment.gold, splits, strict=True))


def _targets(text: Text, labels: list[str]) -> tuple[float, ...]:
    return text.soft or tuple(float(label == text.llm) for label in labels)


def _params(experiment: Experiment) -> Params:
    """A whole params.yaml; blocks that the stage `train` doesn't read are there because the type wants them."""
    name = experiment.name.split("-")[0]
    other = {"kind": "tfidf"} if experiment.encoder["kind"] == "transformer" else {"kind": "transformer"}
    settings = {"other": other, name: experiment.encoder}
    extra = dict(experiment.train)
    if experiment.strong:
        extra["strong"] = {"path": _strong(experiment)}
    return Params.model_validate(
        {
            "task": {"name": "study", "criterion": "?", "labels": {label: [] for label in experiment.labels}},
            "ingest": {"corpus": {"path": "-"}, "gold_train": {"path": "-"}},
            "sample": {"size": 1, "seed": 0},
            "annotate": {"annotator": {"kind": "local"}, "prompt": {"user": "{text}"}},
            "parse": {}, "encoders": settings,
            "train": {"encoders": [name, "other"], "recipes": [experiment.recipe], "seeds": [experiment.seed]} | extra,
            "evaluate": {}, "register": {"model_name": "study"}, "export": {}, "label": {}, "report": {},
        }
    )  # fmt: skip


def _strong(experiment: Experiment) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": t.id, "text": t.text, "label": str(t.gold)} for t in experiment.strong]
    pq.write_table(pa.Table.from_pylist(rows), "strong.parquet")
    return "strong.parquet"


def _predict(model: Path, texts: list[str]) -> Floats:
    """Probabilities (texts, labels)."""
    facts = Json(model / "candidate.json").read()
    if facts["kind"] == "tfidf":
        return shapes.softmax(tfidf.logits(model, texts))
    from pipeline import predicting

    return shapes.softmax(predicting.logits(model, texts, facts["max_tokens"], facts["truncation"]))


def described(experiment: Experiment) -> dict[str, Any]:
    """The experiment in short, for a list of what is to be done."""
    sizes = {key: len(value) for key, value in asdict(experiment).items() if isinstance(value, list)}
    return {"name": experiment.name, "recipe": experiment.recipe, **{k: v for k, v in sizes.items() if k != "labels"}}
