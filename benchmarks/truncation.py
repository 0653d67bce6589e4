"""What each way to cut long texts gives: accuracy of one trained encoder on test gold, all of it and the long part.

    python benchmarks/truncation.py PROJECT --candidate minilm-llm-1 [--texts 1000] [--max-tokens 256]

The encoder is the same for all: how it was cut in training stands in its candidate.json. Texts are the first of test
gold, in its order.
"""

import argparse
import contextlib
from pathlib import Path
from typing import get_args

import machine
import numpy as np

from pipeline import predicting
from pipeline.artifacts import GOLD, MODELS, Json
from serving.tokenizing import TextTokenizer, Truncation


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--candidate", required=True)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int)
    arguments = parser.parse_args()
    with contextlib.chdir(arguments.project):
        directory = MODELS / arguments.candidate
        facts = Json(directory / "candidate.json").read()
        gold = [row for row in GOLD if row.split == "test"][: arguments.texts]
        texts, truth = [row.text for row in gold], np.array([facts["labels"].index(row.label) for row in gold])
        max_tokens = arguments.max_tokens or facts["max_tokens"]
        whole = TextTokenizer(directory / "tokenizer.json", 100_000, "head")
        long = np.array([len(ids) > max_tokens for ids in whole(texts)])
        rows = []
        for truncation in get_args(Truncation):
            given = predicting.logits(directory, texts, max_tokens, truncation).argmax(axis=1)
            right = given == truth
            rows.append({"truncation": truncation, "all": float(right.mean()), "long": float(right[long].mean())})
    print(f"{len(texts)} texts, {long.mean():.0%} longer than {max_tokens} tokens; trained with {facts['truncation']}")
    print("| truncation | accuracy | of long texts |\n|---|---|---|")
    for row in rows:
        print(f"| {row['truncation']} | {row['all']:.2%} | {row['long']:.2%} |")
    name = arguments.project.resolve().name
    machine.write(
        Path(__file__).parent / "results" / f"truncation-{name}.json", rows, candidate=arguments.candidate,
        trained_with=facts["truncation"], max_tokens=max_tokens, texts=len(texts), long=float(long.mean()),
    )  # fmt: skip


if __name__ == "__main__":
    main()
