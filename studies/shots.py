"""0-, 1-, 2- and 3-shot prompts on a project's gold, as in table 1 of LlamBERT (arXiv 2403.15938), by any annotator.

    python studies/shots.py [--project DIR] [--texts 200] [--annotator YAML] [--prompt YAML]

The project must have been ingested. Examples come from gold_train, its validation part left out; texts are the first
of test gold by hash. Answers go into the project's response store, so that a second run asks nothing. YAML is merged
into annotate.annotator or annotate.prompt of the project's params, for instance
`--annotator '{kind: openai, model: gpt-4.1-mini}'`; a null takes a key out.

Prints Markdown: accuracy with its 95 % bootstrap interval (an answer without a label counts as wrong), as answered and
after batch calibration over the very same texts; recall of each label; mean prompt tokens; seconds a text.
"""

import argparse
import os
from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from pipeline import annotators, calibrating, costing, params, parsing, responses, scoring, shooting
from pipeline.annotators import Request
from pipeline.artifacts import GOLD, STORE, Gold
from pipeline.params import Params
from pipeline.prompts import Template
from pipeline.responses import Answer, Origin
from pipeline.spending import Spending
from serving.progress import progress

SHOTS = [(0, "random"), *((n, choose) for n in (1, 2, 3) for choose in ("random", "nearest"))]


def main() -> None:
    """Ask, and print a row for each kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=".")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--annotator", default="{}", help="YAML to merge into annotate.annotator")
    parser.add_argument("--prompt", default="{}", help="YAML to merge into annotate.prompt")
    arguments = parser.parse_args()
    os.chdir(arguments.project)
    yaml = YAML(typ="safe", pure=True)
    changes = {"annotator": yaml.load(arguments.annotator), "prompt": yaml.load(arguments.prompt)}
    texts = nsmallest(arguments.texts, (row for row in GOLD if row.split == "test"), key=lambda row: row.text_hash)
    names = params.load().task.names
    print(f"| examples a label | chosen | accuracy | calibrated | {' | '.join(names)} | tokens | s |")
    print("|---" * (6 + len(names)) + "|")
    for count, choose in SHOTS:
        settings = _settings(changes, count, choose)
        print(f"| {count} | {choose if count else ''} | {' | '.join(_row(settings, texts))} |", flush=True)


def _settings(changes: dict[str, dict[str, Any]], count: int, choose: str) -> Params:
    settings = params.load()
    annotate = settings.annotate.model_dump(by_alias=True)
    if (kind := changes["annotator"].get("kind")) is not None and kind != annotate["annotator"]["kind"]:
        annotate["annotator"] = {}
    for block, change in changes.items():
        merged = annotate[block] | change
        annotate[block] = {key: value for key, value in merged.items() if change.get(key, value) is not None}
    shots = {"choose": choose, "per_label": count} if count else None
    annotate["prompt"] |= {"examples": [], "shots": shots}
    return Params.model_validate(settings.model_dump(by_alias=True) | {"annotate": annotate})


def _row(settings: Params, texts: Sequence[Gold]) -> list[str]:
    answers = _answers(settings, texts)
    names, plain = settings.task.names, parsing.TextParser(settings.task, settings.annotate.prompt.reasoning)
    truth = np.array([names.index(row.label) for row in texts])
    cells = []
    if answers[0].log_probabilities is None:
        labels = [plain.parse(answer.answer, answer.finish_reason).label for answer in answers]
        said = np.array([len(names) if label is None else names.index(label) for label in labels])
        cells = [_percent(said, truth, settings), "-"]
    else:
        scores = np.array([answer.log_probabilities for answer in answers])
        said, none = scores.argmax(axis=1), np.zeros((0, len(names)))
        batch = calibrating.calibrate(
            calibrating.Scores(scores, none, none, []),
            settings.parse.model_copy(update={"calibration": "batch"}),
            names,
        )
        cells = [_percent(said, truth, settings), _percent(batch(scores).argmax(axis=1), truth, settings)]
    recalls = [f"{np.mean(said[truth == i] == i):.2f}" for i in range(len(names))]
    tokens, seconds = (np.mean([getattr(answer, of) for answer in answers]) for of in ("prompt_tokens", "seconds"))
    return [*cells, *recalls, f"{tokens:.0f}", f"{seconds:.3f}"]


def _percent(said: scoring.Ints, truth: scoring.Ints, settings: Params) -> str:
    right = int(np.sum(said == truth))
    counts = np.array([[right, len(truth) - right], [0, 0]])
    found = scoring.intervals(counts, settings.evaluate)["accuracy"]
    return f"{100 * found['value']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _answers(settings: Params, texts: Sequence[Gold]) -> list[Answer]:
    rows = (("gold", row.id, row.text, row.label) for row in texts)
    with responses.opened(STORE) as store:
        annotator = annotators.create(settings.annotate, settings.task, store)
        asked = [Request(id_, text, variant) for (_, id_, text, _), variant in shooting.variants(rows, settings)]
        keys = [annotator.key(request) for request in asked]
        hash_ = Template.of(settings.annotate.prompt, settings.task).hash
        origin = Origin(settings.annotate.annotator.kind, annotator.model, hash_)
        spending = Spending(settings.annotate.budget, costing.prices(settings), store.totals(keys))
        with progress("shots", len(texts), done=len(store.get(keys))) as advance:
            for some in annotator.answers(asked, store, spending):
                store.add(some, origin)
                spending.settle(some)
                advance(len(some), str(spending))
        if spending.stopped is not None:
            raise SystemExit(f"annotate.{spending.stopped} is reached: raise annotate.budget, and run again")
        found = store.get(keys)
    return [found[key] for key in keys]


if __name__ == "__main__":
    main()
