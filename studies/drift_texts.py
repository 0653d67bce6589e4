"""Texts of the drift study, and what an IMDb encoder and a profile of IMDb say of them.

    python studies/drift_texts.py WORK --candidate studies/imdb/models/minilm-llm-1 [--data ../shared/data]

Exports the candidate (`cd studies/imdb && llambert train minilm-llm-1` makes it; int8 of OpenVINO, 128 tokens, head and
tail), and writes WORK/POOL.npz for each pool of texts: bins, probabilities, gold, stars; and embeddings of the first
500. What is there is not made again.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import embedding, exporting, finetuning, scoring
from pipeline.params import Export
from serving import profiles
from serving.engine import Engine
from serving.profiles import Scored

TOKENS, SEED = 128, 1
REFERENCE, SCORED, EMBEDDED = 1000, 1000, 500


def table(file: Path, *columns: str) -> list[list[Any]]:
    """Columns of a file in a seeded order of its rows."""
    found = pq.read_table(file, columns=list(columns))
    order = np.random.default_rng(SEED).permutation(len(found))
    return [[values[i] for i in order] for values in (found[name].to_pylist() for name in columns)]


def exported(candidate: Path, work: Path, train: tuple[list[str], list[int]]) -> Path:
    """The candidate, reading fewer tokens, as an exported model without a profile."""
    target, copy = work / "export", work / "candidate"
    if (target / "manifest.json").is_file():
        return target
    shutil.copytree(candidate, copy, dirs_exist_ok=True)
    facts = json.loads((copy / "candidate.json").read_text()) | {"max_tokens": TOKENS, "truncation": "head_tail"}
    (copy / "candidate.json").write_text(json.dumps(facts))
    texts, gold = train[0][:300], np.array(train[1][:300])
    logits = finetuning.logits(copy, texts, TOKENS, "head_tail")
    temperature = scoring.fit_temperature(logits, gold)
    wanted = Export(precisions=["int8"], runtimes=["openvino"], max_flips=0.05, reference_texts=0)
    exporting.export(copy, target, texts[:100], wanted, temperature)
    return target


def main() -> None:
    """Write all pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--candidate", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    work, data = arguments.work, arguments.data
    work.mkdir(parents=True, exist_ok=True)
    train = table(data / "imdb/train.parquet", "text", "gold")
    engine = Engine.open(exported(arguments.candidate, work, (train[0], train[1])), "int8", max_batch_tokens=8192)
    texts, gold, stars = table(data / "imdb/test_dev.parquet", "text", "gold", "rating")
    start = REFERENCE + SCORED
    if not (work / "drift.json").is_file():
        p = engine.classify(texts[REFERENCE:start])
        known = {"confidence": p.max(1).round(6).tolist(), "predicted": p.argmax(1).tolist()}
        scored = Scored.model_validate({"reference": "gold", "split": "test", "actual": gold[REFERENCE:start], **known})
        made = profiles.make(engine, texts[:REFERENCE], train[0][-4 * REFERENCE :], scored)
        (work / "drift.json").write_text(made.model_dump_json())
    others = {"gold": gold, "stars": stars}
    pools: dict[str, tuple[list[str], dict[str, list[int]]]] = {
        "scored": (texts[REFERENCE:start], {k: v[REFERENCE:start] for k, v in others.items()}),
        "imdb": (texts[start:], {k: v[start:] for k, v in others.items()}),
        "short": ([text[:200] for text in texts[start : start + 1000]], {"gold": gold[start : start + 1000]}),
        "ag_news": (table(data / "ag_news/test.parquet", "text")[0][:1000], {}),
        "umls": (table(data / "umls/test_gold.parquet", "text")[0][:1000], {}),
        "reference": (texts[:REFERENCE], {}),
    }
    profile = profiles.read(work)
    assert profile is not None
    for name, (some, facts) in pools.items():
        if not (file := work / f"{name}.npz").is_file():
            probabilities, pieces = engine.classify(some), engine.pieces(some)
            read = profiles.numbers(profile, some, *pieces, probabilities)
            chars = np.array([len(text) for text in some])
            np.savez(file, bins=profile.binned(read), probabilities=probabilities, chars=chars, **facts)
            print(name, len(some), flush=True)
    for name, (some, _) in pools.items():
        if not (file := work / f"{name}.embedded.npy").is_file():
            np.save(file, embedding.embed(work / "candidate", some[:EMBEDDED], TOKENS, "head_tail"))


if __name__ == "__main__":
    main()
