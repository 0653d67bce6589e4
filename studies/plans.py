"""The studies as lists of experiments: pure functions of the data and the options. Seeds come outermost.

imdb     tables 1 and 2: gold | LLM labels | those and labels of extra texts | LLM labels of the extra ones, then gold
size     figure 1, left: accuracy by the number of training texts, gold and LLM labels of the same ones
flips    figure 1, right: a share of the gold labels replaced by wrong ones at random
umls     the table of UMLS: gold | LLM labels | combined, and the recipes of this project
recipes  what each recipe gives on IMDb, UMLS, AG News and BANKING77
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import LABELS, Table
from studies import corpora
from studies.corpora import Corpus, Text
from studies.experiments import Experiment

SHARES = (0, 1, 2, 5, 10, 20, 30, 40, 45)  # percent, figure 1 right
SIZES = (200, 400, 800, 1600, 3200, 6400, 12800, 25000)  # figure 1 left


@dataclass(frozen=True)
class Options:
    """What the command line gives."""

    data: Path
    encoders: dict[str, dict[str, Any]]  # as in params.yaml, by name
    sizes: tuple[int, ...]
    shares: tuple[int, ...]
    seeds: tuple[int, ...]
    test: int  # texts to test on; 0: all
    extra: Path | None  # CSV of LLM labels of imdb/unsup; null: other training reviews are the extra ones
    soft: Path  # data/labels.parquet of the project studies/ag_news
    tfidf: dict[str, Any]


def imdb(options: Options) -> Iterator[Experiment]:
    """Tables 1 and 2; `sizes` are training texts, and there are twice as many extra ones."""
    corpus = corpora.load("imdb", options.data)
    answered = [t for t in corpus.train if t.llm]
    for seed, size in _product(options.seeds, options.sizes):
        train = answered[:size]
        if options.extra:
            extra = corpora.labels_of(options.extra, corpora.unsupervised(options.data))
        else:
            extra = answered[size : 3 * size]
        cells = {
            "gold": ("gold", [], train),
            "llm": ("llm", train, []),
            "llm_extra": ("llm", train + extra, []),
            "combined": ("combined", extra, train),
        }
        for name, encoder in options.encoders.items():
            for condition, (recipe, llm, gold) in cells.items():
                facts = {"condition": condition, "size": size, "extra": len(extra)}
                yield Experiment(
                    "imdb", f"{name}-{condition}-{size}-{seed}", corpus.labels, encoder, recipe, seed, llm, gold,
                    test=_some(corpus.test, options), facts=facts,
                )  # fmt: skip


def size(options: Options) -> Iterator[Experiment]:
    """Figure 1 left."""
    corpus = corpora.load("imdb", options.data)
    answered = [t for t in corpus.train if t.llm]
    for seed, count in _product(options.seeds, options.sizes):
        train = answered[:count]
        for name, encoder in options.encoders.items():
            for recipe in ("gold", "llm"):
                llm, gold = (train, []) if recipe == "llm" else ([], train)
                facts = {"condition": recipe, "size": min(count, len(answered))}
                yield Experiment(
                    "size", f"{name}-{recipe}-{count}-{seed}", corpus.labels, encoder, recipe, seed, llm, gold,
                    test=_some(corpus.test, options), facts=facts,
                )  # fmt: skip


def flips(options: Options) -> Iterator[Experiment]:
    """Figure 1 right, on the largest of `sizes`; the validation texts are flipped as well, as in life."""
    corpus = corpora.load("imdb", options.data)
    count = max(options.sizes)
    for seed, share in _product(options.seeds, options.shares):
        train = flipped(corpus.train[:count], share / 100, corpus.labels, seed)
        for name, encoder in options.encoders.items():
            facts = {"condition": "flips", "share": share, "size": len(train)}
            yield Experiment(
                "flips", f"{name}-{share}-{count}-{seed}", corpus.labels, encoder, "gold", seed, gold=train,
                test=_some(corpus.test, options), facts=facts,
            )  # fmt: skip


def flipped(texts: list[Text], share: float, labels: list[str], seed: int) -> list[Text]:
    """Give a random `share` of the texts another label; a larger share flips these and more."""
    order = np.random.default_rng(seed).permutation(len(texts))
    chosen = set(order[: round(share * len(texts))].tolist())
    random = np.random.default_rng([seed, 1]).integers(1, len(labels), len(texts))
    wrong = [
        labels[(labels.index(str(t.gold)) + int(step)) % len(labels)] for t, step in zip(texts, random, strict=True)
    ]
    return [replace(t, gold=wrong[i]) if i in chosen else t for i, t in enumerate(texts)]


def umls(options: Options) -> Iterator[Experiment]:
    """The table of UMLS, and the recipes that could beat it."""
    corpus = corpora.load("umls", options.data)
    recipes = {
        "gold": {}, "llm": {}, "combined": {}, "distilled": {"student": {"texts": 0, "beside": options.tfidf}},
        "mixed": {},
    }  # fmt: skip
    for seed in options.seeds:
        for name, encoder in options.encoders.items():
            for recipe, train in recipes.items():
                yield Experiment(
                    "umls", f"{name}-{recipe}-{seed}", corpus.labels, encoder, recipe, seed, corpus.train,
                    corpus.more_gold, test=corpus.test, train=train, facts={"condition": recipe}, group=name,
                )  # fmt: skip


def recipes(options: Options) -> Iterator[Experiment]:
    """Each recipe on three corpora; UMLS has a study of its own."""
    for seed in options.seeds:
        for corpus_name in ("ag_news", "banking77", "imdb"):
            corpus = corpora.load(corpus_name, options.data)
            parts = {"ag_news": _weak, "banking77": _people, "imdb": _recorded}[corpus_name](corpus, options)
            for name, encoder in options.encoders.items():
                for condition, experiment in _conditions(parts, encoder, options):
                    yield replace(
                        experiment, study="recipes", name=f"{name}-{corpus_name}-{condition}-{seed}", seed=seed,
                        labels=corpus.labels, test=_some(corpus.test, options),
                        facts={"condition": condition, "corpus": corpus_name}, group=f"{name}-{corpus_name}",
                    )  # fmt: skip


@dataclass(frozen=True)
class _Parts:
    """Who labelled what: LLM labels, few of people (the strong annotator), and texts without a label."""

    llm: list[Text]
    gold: list[Text]
    rest: list[Text]


def _recorded(corpus: Corpus, options: Options) -> _Parts:
    """IMDb: recorded answers of Llama-2-70b, gold of a quarter as many other texts."""
    count, answered = max(options.sizes), [t for t in corpus.train if t.llm]
    return _Parts(answered[:count], answered[count : count + count // 4], answered[2 * count : 4 * count])


def _weak(corpus: Corpus, options: Options) -> _Parts:
    """AG News: what SmolLM2-135M said of some texts, with its probabilities; 200 gold ones; the rest without labels."""
    said = {row.id: row for row in Table(options.soft, LABELS.row)}
    names = [t for t in corpus.train if t.id in said]
    order = [corpus.labels.index(label) for label in ("World", "Sports", "Business", "Sci/Tech")]

    def soft(id_: str) -> tuple[float, ...]:
        probabilities = said[id_].probabilities  # in the order of studies/ag_news/params.yaml
        return tuple(probabilities[order.index(i)] for i in range(len(order)))

    llm = [replace(t, llm=said[t.id].label, soft=soft(t.id)) for t in names]
    others = [t for t in corpus.train if t.id not in said]
    return _Parts(llm, others[:200], others[200:2200])


def _people(corpus: Corpus, options: Options) -> _Parts:
    """BANKING77: no LLM labels there are; 2,000 gold texts, the rest without labels."""
    return _Parts([], corpus.train[:2000], corpus.train[2000:6000])


def _conditions(parts: _Parts, encoder: dict[str, Any], options: Options) -> Iterator[tuple[str, Experiment]]:
    student = {"student": {"texts": len(parts.rest), "beside": options.tfidf}}
    encoder = encoder | {"soft_labels": True}
    adapted = encoder | {"adapt": {"texts": 4000}}
    blank = Experiment("", "", [], encoder, "gold", 0, parts.llm, parts.gold, parts.rest)
    yield "gold", blank
    if parts.llm:
        if parts.llm[0].soft:
            yield "llm_hard", replace(blank, recipe="llm", encoder=encoder | {"soft_labels": False})
        yield "llm", replace(blank, recipe="llm")
        yield "combined", replace(blank, recipe="combined")
        yield "mixed", replace(blank, recipe="mixed")
        yield "weak_strong", replace(blank, recipe="weak_strong", strong=parts.gold, gold=[])
        yield "distilled", replace(blank, recipe="distilled", train=student)
        yield "self_trained", replace(blank, recipe="self_trained", train=student)
    if encoder["kind"] == "transformer":
        yield "adapted_gold", replace(blank, encoder=adapted)
        if parts.llm:
            yield "adapted_combined", replace(blank, recipe="combined", encoder=adapted)


def repeats(experiment: Experiment, options: Options) -> bool:
    """Whether it is the same as with the first seed: TF-IDF draws nothing at random."""
    same = experiment.encoder["kind"] == "tfidf" and experiment.study != "flips"
    return same and experiment.seed != options.seeds[0]


def _some(texts: list[Text], options: Options) -> list[Text]:
    return texts[: options.test] if options.test else texts


def _product(seeds: tuple[int, ...], others: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return ((seed, other) for seed in seeds for other in others)
