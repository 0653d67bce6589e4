"""params.yaml as a frozen type: one block per stage, unknown keys refused, every problem reported at once.

error: params.yaml is not valid:
  sample.size: Input should be greater than 0 (got 0)
  sample.sed: Extra inputs are not permitted (got 20240321)
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Word = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Block(BaseModel):
    """Strict, frozen, and without room for a misspelled key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True)


class Task(Block):
    """What is asked of each text. The order of `labels` is the order of every probability vector."""

    name: Name
    criterion: Annotated[str, Field(min_length=1)]
    labels: dict[Word, list[Word]]  # label -> other words that mean it (in answers and in gold files)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.labels) < 2:
            raise ValueError(f"at least two labels are needed (got {list(self.labels)})")
        owner: dict[str, str] = {}
        for label, synonyms in self.labels.items():
            for word in {label.casefold(), *(synonym.casefold() for synonym in synonyms)}:
                if owner.setdefault(word, label) != label:
                    raise ValueError(f"'{word}' stands for both '{owner[word]}' and '{label}'")
        return self

    @property
    def names(self) -> list[str]:
        """Labels in order."""
        return list(self.labels)


class Source(Block):
    """A file, a folder, or any fsspec URL. A tabular file names its columns; `id: null` makes ids from content."""

    path: str
    format: Literal["auto", "csv", "jsonl", "parquet", "text", "hf"] = "auto"
    text: str = "text"
    id: str | None = "id"
    split: str | None = None  # of a Hugging Face dataset directory


class GoldSource(Source):
    """A source whose rows a person has labelled."""

    label: str = "label"


class Ingest(Block):
    """Which texts there are, and which of them people have labelled."""

    corpus: Source
    gold_train: GoldSource | None = None
    gold_validation: GoldSource | None = None
    gold_test: GoldSource | None = None
    validation_share: Share = 0.5  # of gold_train, where there is no gold_validation
    max_chars: Positive = 100_000
    max_unusable_share: Share = 0.1


class Sample(Block):
    """How many texts the LLM labels; part of them is held out to measure the student against its teacher."""

    size: Positive
    seed: Seed
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Example(Block):
    """A few-shot example."""

    text: str
    label: str


class Prompt(Block):
    """How the LLM is asked: `chat` through its own template, or `completion` of plain text.

    `{text}` stands exactly once in `user`; `{criterion}` and `{labels}` may. `answers` are the words whose
    log-probability after the prompt counts for a label; without them, the label's own name.
    """

    style: Literal["chat", "completion"] = "chat"
    system: str | None = None
    user: str
    examples: list[Example] = []
    answers: dict[str, Annotated[list[Word], Field(min_length=1)]] | None = None
    content_free: Annotated[list[str], Field(min_length=1)] = ["", "N/A", "[MASK]"]

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.user.count("{text}") != 1 or (self.system and "{text}" in self.system):
            raise ValueError("`{text}` must stand exactly once, in `user`")
        if self.style == "completion" and self.system:
            raise ValueError("a completion prompt has no `system` part: write it at the start of `user`")
        return self


class LocalAnnotator(Block):
    """A causal language model run here by transformers: a Hugging Face id, a directory, or a .gguf file."""

    kind: Literal["local"]
    model: str = "embedded:smollm2"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_text_tokens: Positive = 1024  # longer texts keep head and tail
    max_batch_tokens: Positive = 4096


class RecordedFile(Block):
    """Answers that exist already. `answer` names columns; the first that is not null counts."""

    path: str
    id: str = "id"
    answer: list[str]


class RecordedAnnotator(Block):
    """Answers read from files and joined by id: published experiments, or labels that a user brings."""

    kind: Literal["recorded"]
    model: str  # who gave the answers
    files: Annotated[list[RecordedFile], Field(min_length=1)]


class Annotate(Block):
    """Who labels the sample, and how it is asked."""

    annotator: Annotated[LocalAnnotator | RecordedAnnotator, Field(discriminator="kind")]
    prompt: Prompt
    gold: bool = True  # ask for the gold texts too, to measure the teacher


class Parse(Block):
    """From answers to labels. Calibration removes the LLM's preference for a label (arXiv 2309.17249, 2102.09690)."""

    calibration: Literal["none", "batch", "contextual"] = "none"
    prior: dict[str, Annotated[float, Field(ge=0)]] | None = None  # share of each label in the corpus; uniform if null
    min_confidence: Share = 0.0
    min_yield: Share = 0.5


class Transformer(Block):
    """An encoder fine-tuned with the transformers Trainer: a Hugging Face id or a directory."""

    kind: Literal["transformer"]
    model: str = "embedded:minilm"
    max_tokens: Annotated[int, Field(ge=8)] = 256
    truncation: Literal["head", "head_tail"] = "head"
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Share = 0.06
    epochs: Positive = 4
    patience: Positive = 2  # evaluations without a better validation loss
    evaluations_per_epoch: Positive = 1
    soft_labels: bool = True
    class_weights: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"


class Tfidf(Block):
    """TF-IDF + logistic regression, the candidate that an encoder has to beat to be worth its cost."""

    kind: Literal["tfidf"]
    words: tuple[Positive, Positive] | None = Field(default=(1, 2), strict=False)
    chars: tuple[Positive, Positive] | None = Field(default=None, strict=False)
    c: Annotated[float, Field(gt=0)] = 1.0
    soft_labels: bool = True
    class_weights: bool = False

    @model_validator(mode="after")
    def _features(self) -> Self:
        if self.words is None and self.chars is None:
            raise ValueError("give `words` or `chars`: n-gram ranges such as [1, 2]")
        if any(lengths and lengths[0] > lengths[1] for lengths in (self.words, self.chars)):
            raise ValueError("an n-gram range goes from the shorter to the longer: [1, 2]")
        return self


Encoder = Annotated[Transformer | Tfidf, Field(discriminator="kind")]


class Train(Block):
    """Candidates are encoders x recipes x seeds."""

    encoders: Annotated[list[Name], Field(min_length=1)]
    recipes: Annotated[list[Literal["llm", "gold", "combined"]], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    gold_sampled_only: bool = False  # gold of exactly the texts that the LLM labelled (to compare the two)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key, values in (("encoders", self.encoders), ("recipes", self.recipes), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"`{key}` names something twice: {values}")
        return self


class Evaluate(Block):
    """How sure the figures are."""

    resamples: Positive = 2000
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Seed = 0
    worst: Positive = 50  # errors written out


class Register(Block):
    """The gate between a challenger and the alias `champion`."""

    experiment: str = "llambert"
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    min_gain_over_tfidf: float = 0.0  # in accuracy on validation
    min_gain_over_champion: float = 0.0
    min_predicted_share: Share = 0.2  # of each label's share in the reference: below it the model has collapsed


class Export(Block):
    """ONNX files, and how far they may differ from torch."""

    precisions: Annotated[list[Literal["fp32", "int8", "fp16"]], Field(min_length=1)] = ["fp32", "int8"]
    parity_texts: Positive = 256
    max_flips: Share = 0.02
    max_difference: Annotated[float, Field(gt=0)] = 1e-3  # of logits, fp32 against torch


class LabelParams(Block):
    """The corpus to label (the ingested one if null), in shards."""

    corpus: Source | None = None
    max_rows: Positive | None = None
    precision: Literal["fp32", "int8", "fp16"] = "int8"
    shard_rows: Positive = 10_000
    max_batch_tokens: Positive = 8192
    min_confidence: Share = 0.0  # below it a row is marked as abstained


class Report(Block):
    """Prices for the comparison of costs; the defaults are placeholders for your own."""

    currency: str = "USD"
    machine_per_hour: Annotated[float, Field(ge=0)] = 0.10
    llm_per_million_tokens: Annotated[float, Field(ge=0)] | None = None  # null: the LLM ran on the same machine
    examples: Positive = 12


class Params(Block):
    """The whole file."""

    task: Task
    ingest: Ingest
    sample: Sample
    annotate: Annotate
    parse: Parse
    encoders: dict[Name, Encoder]
    train: Train
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    export: Export
    label: LabelParams
    report: Report

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        labels = set(self.task.labels)
        if self.annotate.prompt.answers is not None and set(self.annotate.prompt.answers) != labels:
            raise ValueError(f"annotate.prompt.answers must name each of {sorted(labels)} once")
        if unknown := {example.label for example in self.annotate.prompt.examples} - labels:
            raise ValueError(f"annotate.prompt.examples use labels that task.labels does not have: {sorted(unknown)}")
        if self.parse.prior is not None and set(self.parse.prior) != labels:
            raise ValueError(f"parse.prior must give a share to each of {sorted(labels)}")
        if unknown := set(self.train.encoders) - set(self.encoders):
            raise ValueError(f"train.encoders names {sorted(unknown)}, which the block `encoders` does not define")
        if not any(self.encoders[name].kind == "tfidf" for name in self.train.encoders):
            raise ValueError("train.encoders needs the tfidf candidate: it is what an encoder has to beat")
        if not any(self.encoders[name].kind == "transformer" for name in self.train.encoders):
            raise ValueError("train.encoders needs at least one encoder of kind transformer: the engine runs no other")
        if self.ingest.gold_train is None and (needs := {"gold", "combined"} & set(self.train.recipes)):
            raise ValueError(f"train.recipes {sorted(needs)} need ingest.gold_train; without gold use [llm]")
        if self.label.precision not in self.export.precisions:
            raise ValueError(f"label.precision '{self.label.precision}' is not among export.precisions")
        return self

    @property
    def candidates(self) -> list[str]:
        """Names of all candidates, in the order of the DAG's matrix."""
        train = self.train
        return [f"{e}-{r}-{s}" for e in train.encoders for r in train.recipes for s in train.seeds]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file (YAML 1.2, as DVC reads it).

    Raises:
        UserError: the file is missing, is not YAML, or has keys or values that don't fit; all of them are named.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist: go to a project directory, or make one (`llambert init`)")
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path} is not valid:\n{_problems(error)}") from None


def _problems(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        path = problem["loc"]
        if path[:1] == ("encoders",) or path[:2] == ("annotate", "annotator"):
            path = path[:2] + path[3:]  # without the kind, which pydantic adds and the file does not have there
        where = ".".join(map(str, path)) or "params"
        got = (
            "" if isinstance(problem["input"], dict) or problem["type"] == "missing" else f" (got {problem['input']!r})"
        )
        lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "\n".join(lines)
