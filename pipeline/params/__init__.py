"""params.yaml as a frozen type: one block per stage, unknown keys refused, every problem reported at once.

error: params.yaml is not valid:
  sample.size: Input should be greater than 0 (got 0)
  sample.sed: Extra inputs are not permitted (got 20240321)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.params.annotation import Annotate, Budget, Example, Further, Parse, Price, Prompt, Shots
from pipeline.params.annotators import (
    Endpoint,
    LocalAnnotator,
    Mode,
    OpenAIAnnotator,
    OpenAIBatchAnnotator,
    RecordedAnnotator,
    RecordedFile,
    VllmAnnotator,
)
from pipeline.params.base import Block, Name
from pipeline.params.certification import Certify, CorpusGold
from pipeline.params.data import Ingest, Sample, Task
from pipeline.params.delivery import Export, LabelParams, Register, Report
from pipeline.params.rounds import Rounds, Stop
from pipeline.params.training import Adapt, Encoder, Evaluate, Student, Tfidf, Train, Transformer
from serving.locating import GoldSource, Source

__all__ = [
    "FIRST",
    "Adapt",
    "Annotate",
    "Budget",
    "Certify",
    "CorpusGold",
    "Encoder",
    "Endpoint",
    "Evaluate",
    "Example",
    "Export",
    "Further",
    "GoldSource",
    "Ingest",
    "LabelParams",
    "LocalAnnotator",
    "Mode",
    "OpenAIAnnotator",
    "OpenAIBatchAnnotator",
    "Params",
    "Parse",
    "Price",
    "Prompt",
    "RecordedAnnotator",
    "RecordedFile",
    "Register",
    "Report",
    "Rounds",
    "Sample",
    "Shots",
    "Source",
    "Stop",
    "Student",
    "Task",
    "Tfidf",
    "Train",
    "Transformer",
    "VllmAnnotator",
    "load",
]


FIRST = "annotate"  # what the annotator of that block is called beside the others


class Params(Block):
    """The whole file."""

    task: Task
    ingest: Ingest
    sample: Sample
    rounds: Rounds | None = None
    annotate: Annotate
    annotators: dict[Name, Further] | None = None  # beside the first, whose name is `annotate`
    parse: Parse
    encoders: dict[Name, Encoder]
    train: Train
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    export: Export
    label: LabelParams
    report: Report
    certify: Certify | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        labels, shape = set(self.task.labels), self.task.shape
        asked = set(self.task.asked.labels)
        if FIRST in (self.annotators or {}):
            raise ValueError(f"annotators: the name '{FIRST}' is that of the first annotator; choose another")
        for key, prompt in self._prompts():
            if prompt.answers is not None and set(prompt.answers) != asked:
                raise ValueError(f"{key}.answers must name each of {sorted(asked)} once")
            shown = {name for example in prompt.examples for name in shape.names(example.label)}
            if unknown := shown - labels:
                raise ValueError(f"{key}.examples use labels that task.labels does not have: {sorted(unknown)}")
            if self.ingest.gold_train is None and prompt.shots:
                raise ValueError(f"{key}.shots are chosen from ingest.gold_train; without gold use `examples`")
        if self.parse.prior is not None and set(self.parse.prior) != labels:
            raise ValueError(f"parse.prior must give a share to each of {sorted(labels)}")
        return self

    @model_validator(mode="after")
    def _asks_as_the_kind_of_task_wants(self) -> Self:
        prompt, multi = self.annotate.prompt, self.task.kind == "multi"
        if multi != ("{label}" in prompt.user) and self.annotate.annotator.kind != "recorded":
            raise ValueError(
                "annotate.prompt.user must hold `{label}`: with task.kind multi the LLM is asked about one label at a "
                "time, yes or no"
                if multi
                else "annotate.prompt.user holds `{label}`, which is for task.kind multi"
            )
        if multi and (prompt.shots or prompt.shuffle):
            raise ValueError("annotate.prompt.shots and shuffle are not for task.kind multi: give `examples`")
        if multi and self.parse.calibration in ("batch", "contextual") and self.parse.prior is None:
            raise ValueError(
                f"parse.calibration {self.parse.calibration} needs parse.prior with task.kind multi: the share of "
                "texts that each label applies to (without one, half of them would be supposed)"
            )
        return self

    @model_validator(mode="after")
    def _has_what_is_trained_and_served(self) -> Self:
        if unknown := set(self.train.encoders) - set(self.encoders):
            raise ValueError(f"train.encoders names {sorted(unknown)}, which the block `encoders` does not define")
        if not any(self.encoders[name].kind == "tfidf" for name in self.train.encoders):
            raise ValueError("train.encoders needs the tfidf candidate: it is what an encoder has to beat")
        if not any(self.encoders[name].kind == "transformer" for name in self.train.encoders):
            raise ValueError("train.encoders needs at least one encoder of kind transformer: the engine runs no other")
        if self.ingest.gold_train is None and (needs := {"gold", "combined", "mixed"} & set(self.train.recipes)):
            raise ValueError(f"train.recipes {sorted(needs)} need ingest.gold_train; without gold use [llm]")
        if self.label.precision not in self.export.precisions:
            raise ValueError(f"label.precision '{self.label.precision}' is not among export.precisions")
        if self.label.runtime not in ("auto", *self.export.runtimes):
            raise ValueError(f"label.runtime '{self.label.runtime}' is not among export.runtimes")
        if self.certify is not None and self.label.top is not None:
            raise ValueError("certify reads the probabilities of all labels: take label.top out")
        if self.label.target_error is not None and self.certify is None:
            raise ValueError("label.target_error needs gold drawn from the corpus: add the block `certify: {}`")
        return self

    @model_validator(mode="after")
    def _kinds_are_known(self) -> Self:
        if self.task.kind != "multi":
            return self
        blocks = {"rounds": self.rounds, "annotators": self.annotators, "label.target_error": self.label.target_error}
        given = [name for name, block in blocks.items() if block is not None]
        if given:
            raise ValueError(f"of kind multi there is no {', '.join(given)} yet: take it out")
        return self

    @model_validator(mode="after")
    def _rounds_have_room(self) -> Self:
        if (rounds := self.rounds) is None:
            return self
        if rounds.candidate not in self.encoders:
            raise ValueError(f"rounds.candidate '{rounds.candidate}' is not defined by the block `encoders`")
        if (least := rounds.held_out + rounds.first) > self.sample.size:
            raise ValueError(
                f"sample.size is the most that rounds may label: {self.sample.size} has no room for rounds.held_out "
                f"and rounds.first ({least} together)"
            )
        return self

    def _prompts(self) -> Iterator[tuple[str, Prompt]]:
        yield "annotate.prompt", self.annotate.prompt
        for name, further in (self.annotators or {}).items():
            if further.prompt is not None:
                yield f"annotators.{name}.prompt", further.prompt

    def asking(self, name: str) -> "Params":
        """These params with the annotator of that name in the block `annotate`."""
        if name == FIRST or self.annotators is None:
            return self
        return self.model_copy(update={"annotate": self.annotators[name].like(self.annotate)})

    @property
    def annotator_names(self) -> list[str]:
        """The first annotator, which is called `annotate`, and the others."""
        return [FIRST, *(self.annotators or {})]

    @property
    def requests_per_text(self) -> int:
        """To the LLM: of kind multi it is asked about each label by itself; recorded answers name all at once."""
        each = self.task.kind == "multi" and self.annotate.annotator.kind != "recorded"
        return len(self.task.labels) if each else 1

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
        if path[:1] == ("annotators",) and path[2:3] == ("annotator",):
            path = path[:3] + path[4:]
        where = ".".join(map(str, path)) or "params"
        got = (
            "" if isinstance(problem["input"], dict) or problem["type"] == "missing" else f" (got {problem['input']!r})"
        )
        lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "\n".join(lines)
