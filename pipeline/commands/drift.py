"""drift: are these texts still like those of the corpus, and how right is the model probably on them?

Needs an exported model alone. Inside the model's project the encoder's embeddings are compared as well.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import params
from pipeline.artifacts import CORPUS, GOLD, MODELS, PREDICTIONS, Document, Json
from pipeline.errors import UserError
from pipeline.options import Options
from pipeline.params import Source
from serving import profiles
from serving.models import MANIFEST
from serving.profiles import Profile, Reading

if TYPE_CHECKING:  # scikit-learn and torch are imported where they are needed
    from pipeline.drifting import Answers, Estimate, Separation

_PARAMS = Path("params.yaml")
_MAX_CHARS = 100_000
_WHAT = {
    "confidence": "mean confidence",
    "length": "mean length in characters",
    "unseen": "share of tokens that the corpus does not have",
    "content": "the most distant direction of the tokens",
    "embedding": "AUC of a classifier between the two",
}


def drift(input: str, options: Options) -> tuple[str, bool]:
    """Compare, write drift.json and drift.html, and return the text to print and whether there is drift."""
    from pipeline import drift_page

    _check(options)
    found = _compared(input, options)
    Json(options.output / "drift.json").write(found)
    drift_page.write(options.output / "drift.html", found)
    return drift_page.shown(found) + f"\nwritten: {options.output}/drift.json, drift.html", found["drift"]


def _check(options: Options) -> None:
    from serving.drifting import MIN_TEXTS

    if options.texts < MIN_TEXTS:
        raise UserError(f"--texts must be {MIN_TEXTS} or more (got {options.texts}): fewer tell nothing apart")
    if not 0 < options.alpha < 1:
        raise UserError(f"--alpha must lie between 0 and 1 (got {options.alpha})")
    if options.min_psi < 0:
        raise UserError(f"--min-psi must be 0 or more (got {options.min_psi})")


def _compared(input: str, options: Options) -> dict[str, Any]:
    """The content of drift.json."""
    from pipeline import drifting
    from serving import drifting as tests
    from serving.engine import Engine
    from serving.progress import progress

    engine = Engine.open(options.model, _precision(options))
    profile = profiles.read(options.model)
    if profile is None:
        raise UserError(
            f"{options.model} has no drift.json: run the stage export again (export.reference_texts of "
            f"{tests.MIN_TEXTS} or more, in a corpus that has as many texts beside the sample)"
        )
    texts = _batch(input, options)
    with progress("drift", len(texts)) as advance:
        probabilities = engine.classify(texts, advance)
    read = profiles.numbers(profile, texts, *engine.pieces(texts), probabilities)
    counts = tests.tally(profile, profile.binned(read))
    found = tests.distances(profile, counts)
    guesses = _estimates(profile, drifting.Answers(read.values["confidence"], read.labels))
    project = _embedded(texts, options) if options.embeddings else None
    if project:
        separation, right = project
        found["embedding"] = (separation.psi, separation.p_value)
        if len(right):
            guesses.append(drifting.weighted(right, separation.weights))
    judged = tests.findings(found, options.alpha, options.min_psi)
    return {
        "input": input,
        "texts": len(texts),
        "reference_texts": profile.texts,
        "alpha": options.alpha,
        "min_psi": options.min_psi,
        "drift": any(finding.verdict == "drift" for finding in judged),
        "measures": [asdict(f) | _sides(f.measure, profile, read, project and project[0].auc) for f in judged],
        "estimates": [asdict(guess) | {"assumes": guess.assumes} for guess in guesses],
        "gold": _gold(profile),
        "counts": {name: {"reference": profile.counts[name], "batch": counts[name].tolist()} for name in counts},
        "edges": profile.edges,
        "labels": profile.labels,
    }


def _precision(options: Options) -> str:
    if options.precision is not None:
        return options.precision
    manifest = Json(options.model / MANIFEST)
    if not manifest.path.is_file():
        raise UserError(f"{options.model} is no exported model: run the stage export, or give --model")
    has = manifest.read()["precisions"]
    wanted = params.load().label.precision if _PARAMS.is_file() else "int8"
    return wanted if wanted in has else str(next(iter(has)))


def _batch(input: str, options: Options) -> list[str]:
    from pipeline import sampling
    from serving import corpus
    from serving.drifting import MIN_TEXTS

    identity = None if options.ids_from_text else options.id_column
    source = Source(path=input, format=options.format, text=options.text_column, id=identity)
    rows = (row for row in corpus.read(source, _MAX_CHARS, "") if isinstance(row, Document))
    documents, _ = sampling.draw(rows, options.texts, seed=0, excluded=frozenset())
    if len(documents) < MIN_TEXTS:
        raise UserError(f"{input} has {len(documents)} different texts: {MIN_TEXTS} are needed to tell drift")
    return [document.text for document in documents]


def _estimates(profile: Profile, batch: "Answers") -> list["Estimate"]:
    from pipeline import drifting

    if (scored := profile.scored) is None:
        return []
    known = drifting.Answers(np.array(scored.confidence), np.array(scored.predicted))
    return drifting.estimates(known, np.array(scored.actual), batch, len(profile.labels))


def _embedded(texts: list[str], options: Options) -> tuple["Separation", NDArray[np.bool_]] | None:
    """The classifier's test on embeddings, and which gold texts the model is right about; None outside a project."""
    name = Json(options.model / MANIFEST).read()["candidate"]
    facts = Json(MODELS / name / "candidate.json")
    if not (facts.path.is_file() and CORPUS.path.is_file() and PREDICTIONS.path.is_file()):
        return None
    from pipeline import drifting, predicting, reference

    about = facts.read()
    corpus = [document.text for document in reference.draw(len(texts))]
    gold = {row.id: row.text for row in GOLD}
    known = [row for row in reference.evaluated(name)[1] if row.id in gold]
    everything = corpus + texts + [gold[row.id] for row in known]
    vectors = predicting.embed(MODELS / name, everything, about["max_tokens"], about["truncation"])
    ours, theirs, others = np.split(vectors, [len(corpus), len(corpus) + len(texts)])
    right = [about["labels"][int(np.argmax(row.logits))] == row.reference for row in known]
    return drifting.separate(ours, theirs, others), np.array(right, dtype=bool)


def _sides(measure: str, profile: Profile, read: Reading, auc: float | None) -> dict[str, Any]:
    """What a person is shown of the reference and of the batch."""
    if measure in profiles.SCALARS:
        return {
            "what": _WHAT[measure],
            "reference": profile.means[measure],
            "batch": float(read.values[measure].mean()),
        }
    if measure == profiles.LABELS:
        before = np.array(profile.counts[measure]) / profile.texts
        now = np.bincount(read.labels, minlength=len(before)) / len(read.labels)
        most = int(np.abs(now - before).argmax())
        return {"what": f"share of '{profile.labels[most]}'", "reference": before[most], "batch": now[most]}
    return {"what": _WHAT[measure], "reference": None, "batch": auc if measure == "embedding" else None}


def _gold(profile: Profile) -> dict[str, Any] | None:
    """Accuracy on the texts that estimates begin with."""
    if (scored := profile.scored) is None:
        return None
    right = np.array(scored.predicted) == np.array(scored.actual)
    return {
        "texts": len(right),
        "accuracy": float(right.mean()),
        "confidence": float(np.mean(scored.confidence)),
        "reference": scored.reference,
        "split": scored.split,
    }
