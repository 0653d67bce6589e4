"""Run a study of the paper (LlamBERT, arXiv 2403.15938), one run after another; what is done is not done again.

    python -m studies.run NAME [--machine gpu] [--encoders minilm=embedded:minilm tfidf=tfidf] [--sizes 200 400]
        [--shares 0 10] [--seeds 1 2 3] [--test 2000] [--extra labels.csv] [--only WORD] [--list]

NAME is imdb, size, flips, umls, recipes or errors. A run that is over has studies/results/NAME/RUN.json; table and
plot of all of them go to studies/results/NAME.md and NAME.svg. Kill it whenever you want.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from studies import experiments, plans, tables

# The encoder of this project's examples, small enough for two cores; 128 tokens of head and tail of a review.
_MINILM = {
    "kind": "transformer", "model": "embedded:minilm", "max_tokens": 128, "truncation": "head_tail", "batch_size": 16,
    "learning_rate": 1e-4, "epochs": 3, "patience": 3, "dtype": "bfloat16",
}  # fmt: skip
# The recipe of the published runs: AdamW, weight decay 0.01, batch 16, 512 tokens, 62 warm-up steps, linear decay.
_PUBLISHED = {
    "kind": "transformer", "max_tokens": 512, "batch_size": 16, "learning_rate": 1e-6, "epochs": 5, "patience": 5,
    "dtype": "bfloat16",
}  # fmt: skip
_TFIDF = {"kind": "tfidf", "words": [1, 2], "c": 10.0}
_CHARS = {"kind": "tfidf", "words": None, "chars": [1, 5], "c": 10.0}
_BY_STUDY: dict[str, dict[str, Any]] = {
    "umls": {
        "max_tokens": 64,
        "truncation": "head",
        "batch_size": 32,
        "learning_rate": 2e-4,
        "epochs": 2,
        "patience": 2,
    },
    "recipes": {"max_tokens": 64},
}
_PUBLISHED_BY_STUDY = {"umls": {"max_tokens": 128, "learning_rate": 5e-6, "epochs": 10}}
_SIZES = {"cpu": {"imdb": [800], "size": [200, 400, 800, 1600], "flips": [800], "recipes": [800]}}
_ENCODERS = {
    "cpu": ["minilm=embedded:minilm", "tfidf=tfidf"],
    "gpu": [
        "distilbert=distilbert/distilbert-base-uncased", "bert_base=google-bert/bert-base-uncased",
        "bert_large=google-bert/bert-large-uncased", "roberta_base=FacebookAI/roberta-base",
        "roberta_large=FacebookAI/roberta-large", "tfidf=tfidf",
    ],
}  # fmt: skip


def main() -> None:
    """Run what is missing, then write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["imdb", "size", "flips", "umls", "recipes", "errors"])
    parser.add_argument("--machine", choices=["cpu", "gpu"], default="cpu", help="whose sizes and encoders are usual")
    parser.add_argument("--encoders", nargs="+", help="NAME=MODEL; the model may be any Hugging Face id, or tfidf")
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--shares", nargs="+", type=int, default=list(plans.SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--test", type=int, default=0, help="texts to test on; 0: all")
    parser.add_argument("--extra", type=Path, help="imdb: CSV (id,label) of LLM labels of the unsup reviews")
    parser.add_argument("--soft", type=Path, default=Path("studies/ag_news/data/labels.parquet"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="", help="runs whose name has this in it")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.name != "errors":
        _run(arguments)
    if not arguments.list:
        print(tables.write(arguments.name))


def _run(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    wanted = [run for run in getattr(plans, arguments.name)(options) if arguments.only in run.name]
    wanted = [run for run in wanted if not plans.repeats(run, options)]
    missing = [run for run in wanted if not run.result.exists()]
    print(f"{len(wanted)} runs, {len(missing)} to do", flush=True)
    for run in missing:
        if arguments.list:
            print(experiments.described(run))
            continue
        figures = experiments.run(run)
        print(f"{run.name}: {100 * figures['accuracy']:.2f} in {figures['seconds']:.0f} s", flush=True)


def _options(arguments: argparse.Namespace) -> plans.Options:
    named = [pair.split("=", 1) for pair in arguments.encoders or _ENCODERS[arguments.machine]]
    tfidf = _CHARS if arguments.name == "umls" else _TFIDF
    return plans.Options(
        data=arguments.data.resolve(),
        encoders={name: tfidf if model == "tfidf" else _encoder(arguments.name, model) for name, model in named},
        sizes=tuple(arguments.sizes or _SIZES.get(arguments.machine, {}).get(arguments.name, plans.SIZES)),
        shares=tuple(arguments.shares), seeds=tuple(arguments.seeds), test=arguments.test, extra=arguments.extra,
        soft=arguments.soft.resolve(), tfidf=tfidf,
    )  # fmt: skip


def _encoder(study: str, model: str) -> dict[str, Any]:
    if model == "embedded:minilm":
        return _MINILM | _BY_STUDY.get(study, {})
    return _PUBLISHED | {"model": model} | _PUBLISHED_BY_STUDY.get(study, {})


if __name__ == "__main__":
    main()
