"""What each precision costs a trained encoder: label flips against torch in fp32, and accuracy on test gold.

    python benchmarks/precisions.py PROJECT [--candidate minilm-llm-1]

The project is one that was run, such as studies/umls. The candidate is exported anew, calibrated on texts of the
corpus; flips and accuracy are measured on test gold.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import machine
import numpy as np

from pipeline import exporting
from pipeline.artifacts import BEST, GOLD, MODELS, Json
from pipeline.params import Export
from pipeline.stages.export import _texts
from serving.engine import Engine

_RESULTS = Path(__file__).parent / "results"
_RUNS = [("fp32", "onnxruntime"), ("fp32", "openvino"), ("int8", "onnxruntime"), ("int8", "openvino")]


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--candidate", help="default: the best one")
    parser.add_argument("--texts", type=int, help="of test gold, from its beginning; default: all")
    arguments = parser.parse_args()
    with contextlib.chdir(arguments.project), tempfile.TemporaryDirectory() as directory:
        candidate = arguments.candidate or BEST.read()["candidate"]
        labels = Json(MODELS / candidate / "candidate.json").read()["labels"]
        gold = [(row.text, labels.index(row.label)) for row in GOLD if row.split == "test"][: arguments.texts]
        out, limits = Path(directory) / "export", Export(max_flips=1.0, max_difference=1.0)
        exporting.export(MODELS / candidate, out, _texts(limits.parity_texts), limits, 1.0)
        rows = list(_measured(out, gold))
    print("| precision | runtime | flips | accuracy |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['precision']} | {row['runtime']} | {row['flips']:.2%} | {row['accuracy']:.2%} |")
    name = arguments.project.resolve().name
    machine.write(_RESULTS / f"precisions-{name}.json", rows, project=name, candidate=candidate, texts=len(gold))


def _measured(export: Path, gold: list[tuple[str, int]]) -> Iterator[dict[str, object]]:
    texts, truth = [text for text, _ in gold], np.array([label for _, label in gold])
    reference = None
    for precision, runtime in _RUNS:
        given = Engine.open(export, precision, runtime=runtime).logits(texts).argmax(axis=1)
        reference = given if reference is None else reference
        yield {
            "precision": precision,
            "runtime": runtime,
            "flips": float((given != reference).mean()),
            "accuracy": float((given == truth).mean()),
        }


if __name__ == "__main__":
    main()
