"""Small projects of every kind of task, stage by stage in this process, with an encoder that learns in seconds."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipeline import params
from pipeline.stages import annotate, evaluate, export, ingest, label, parse, register, report, sample, train

FILLERS = ["the", "a", "of", "and", "today", "here", "again", "one", "more", "thing"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
Row = tuple[str, str]  # text, label


def encoder(directory: Path, texts: Sequence[str]) -> str:
    """A random BERT of two layers whose byte-level BPE was learnt on the texts: any script, no English in it."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, pad_token_id=0, **sizes)
    BertModel(config).save_pretrained(directory)
    return str(directory)


def make(
    task: dict[str, Any], rows: Callable[[random.Random], Row], mini: dict[str, Any] | None = None, **blocks: Any
) -> params.Params:
    """Fill the working directory: 400 texts, 240 of them sampled, and 80 of gold to validate and 80 to test.

    Answers are recorded, unless `blocks` has another annotator; every tenth is that of another text.
    """
    made = random.Random(1)
    corpus, gold = ([rows(made) for _ in range(count)] for count in (400, 160))
    corpus = [(f"{text} {i}", name) for i, (text, name) in enumerate(corpus)]
    Path("data").mkdir()
    _write("data/corpus.csv", [{"id": f"c{i}", "text": text} for i, (text, _) in enumerate(corpus)])
    for part, some in (("train", gold[:80]), ("test", gold[80:])):
        people = [{"id": f"{part}{i}", "text": f"{t} {part} {i}", "label": n} for i, (t, n) in enumerate(some)]
        _write(f"data/gold_{part}.csv", people)
    said = [name if i % 10 else corpus[i - 1][1] for i, (_, name) in enumerate(corpus)]
    answers = [{"id": f"c{i}", "answer": name} for i, name in enumerate(said)]
    answers += [{"id": f"{part}{i}", "answer": name} for part, some in (("train", gold[:80]), ("test", gold[80:]))
                for i, (_, name) in enumerate(some)]  # fmt: skip
    Path("data/answers.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in answers))
    toy = {"kind": "transformer", "model": encoder(Path("toy"), [text for text, _ in corpus]), "max_tokens": 48}
    recorded = {"kind": "recorded", "model": "people", "files": [{"path": "data/answers.jsonl", "answer": ["answer"]}]}
    values = {
        "task": {"name": "toys", "criterion": "What is it about?"} | task,
        "ingest": {"corpus": {"path": "data/corpus.csv"}, "gold_train": {"path": "data/gold_train.csv"},
                   "gold_test": {"path": "data/gold_test.csv"}, "validation_share": 1.0},
        "sample": {"size": 240, "seed": 1},
        "annotate": {"annotator": recorded, "prompt": {"user": "{text}"}},
        "parse": {},
        "encoders": {
            "mini": toy | {"epochs": 12, "patience": 4, "learning_rate": 3e-3, "batch_size": 16} | (mini or {}),
            "tfidf": {"kind": "tfidf", "chars": [1, 3]},
        },
        "train": {"encoders": ["mini", "tfidf"], "recipes": ["llm"], "seeds": [1]},
        "evaluate": {"resamples": 200},
        "register": {"model_name": "toys", "min_gain_over_tfidf": -1.0},
        "export": {"precisions": ["fp32"], "runtimes": ["onnxruntime"], "parity_texts": 32},
        "label": {"precision": "fp32", "shard_rows": 150},
        "report": {},
    } | blocks  # fmt: skip
    YAML().dump(values, Path("params.yaml"))
    return params.load()


def run(made: params.Params) -> None:
    """All stages."""
    for stage in (ingest, sample, annotate, parse):
        stage.run(made)
    for candidate in made.candidates:
        train.run(made, candidate)
    for stage in (evaluate, export, register, label, report):
        stage.run(made)


def metrics(stage: str) -> dict[str, Any]:
    """What a stage has measured."""
    return json.loads(Path(f"metrics/{stage}.json").read_text())


def _write(path: str, rows: Sequence[dict[str, str]]) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
