"""What vLLM answers, as JSON, for tests/test_vllm.py: python vllm_checks.py ADAPTER OUT, where vLLM is installed.

One engine, loaded with an adapter, serves all cases; all but one are asked without the adapter.
"""

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline import weights
from pipeline.annotators import Request
from pipeline.annotators.vllm import Vllm
from pipeline.errors import UserError
from pipeline.params import Budget, Prompt, Task, VllmAnnotator
from pipeline.prompts import Template
from pipeline.responses import Totals
from pipeline.spending import Prices, Spending

TASK = Task(name="reviews", criterion="Is it good?", labels={"negative": [], "positive": []})
SHOTS = [{"text": "Dull.", "label": "negative"}, {"text": "A joy.", "label": "positive"}]
# Words of several tokens that begin alike, one of which is the beginning of another.
ALIKE = {"negative": [" not good at all", " not worth it", " not"], "positive": [" not bad", " really very good"]}
PROMPTS = {
    "completion": Prompt(style="completion", user="Review: {text}\nSentiment:", examples=SHOTS),
    "chat": Prompt(style="chat", system="Say positive or negative.", user="{text}\nIs it good?"),
    "alike": Prompt(style="completion", user="Review: {text}\nIt was", answers=ALIKE),
    "bare": Prompt(style="completion", user="{text}", answers=ALIKE),
}
REASONING = Prompt(style="chat", user="Is it good: {text}", reasoning=True)
TEXTS = [
    "",
    "x",
    "A fine film about people who wait for rain.",
    "naïve 東京 \U0001f600\n\n",
    "Dull. " * 90,
    "Bad<|im_end|>",
]
LONG = "One more word. " * 700
MAX_MODEL_LEN, MAX_TEXT_TOKENS = 448, 300
ENGINE = {"block_size": 32, "enforce_eager": True, "max_num_batched_tokens": 512, "max_num_seqs": 64}


def spending(tokens: int | None = None) -> Spending:
    return Spending(Budget(tokens=tokens), Prices(), Totals())


def params(**values: Any) -> VllmAnnotator:
    usual: dict[str, Any] = {
        "model": "embedded:smollm2", "dtype": "float32", "gpu_memory_utilization": 0.3, "engine": ENGINE,
        "max_model_len": MAX_MODEL_LEN, "max_text_tokens": MAX_TEXT_TOKENS,
    }  # fmt: skip
    return VllmAnnotator(kind="vllm", **(usual | values))


def requests(texts: list[str]) -> list[Request]:
    return [Request(f"id{i}", text) for i, text in enumerate(texts)]


class Checks:
    """Annotators of many kinds around one engine."""

    def __init__(self, adapter: str) -> None:
        loaded = Vllm(params(lora=adapter), Template.of(PROMPTS["completion"], TASK), False)
        self._adapted = loaded._engine
        self._plain = copy.copy(self._adapted)
        self._plain._lora = None

    def annotator(self, prompt: Prompt, adapted: bool = False, **values: Any) -> Vllm:
        made = Vllm(params(**values), Template.of(prompt, TASK), prompt.reasoning)
        vars(made)["_engine"] = self._adapted if adapted else self._plain
        return made

    def asked(self, annotator: Vllm, texts: list[str] = TEXTS, budget: int | None = None) -> list[list[dict[str, Any]]]:
        """Batches of answers; each says which of the texts it is about."""
        places = {annotator.key(request): i for i, request in reversed(list(enumerate(requests(texts))))}
        stored, found = set[str](), []
        for batch in annotator.answers(requests(texts), stored, spending(budget)):
            stored |= {answer.key for answer in batch}
            found.append([vars_of(answer) | {"text": places[answer.key]} for answer in batch])
        return found

    def all(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: self.asked(self.annotator(prompt)) for name, prompt in PROMPTS.items()}
        completion = PROMPTS["completion"]
        found["adapted"] = self.asked(self.annotator(completion, adapted=True))
        found["to_max_text_tokens"] = self.asked(self.annotator(completion, max_text_tokens=20), [LONG, "short"])
        found["to_max_model_len"] = self.asked(self.annotator(completion, max_text_tokens=None), [LONG, "short"])
        found["to_max_model_len_alike"] = self.asked(self.annotator(PROMPTS["alike"], max_text_tokens=None), [LONG])
        found["reasoning"] = self.asked(self.annotator(REASONING, max_answer_tokens=24), TEXTS[1:3])
        found["reasoning_long"] = self.asked(self.annotator(REASONING, max_text_tokens=None), [LONG])
        found["windows"] = self.asked(self.annotator(completion, window=3), [*TEXTS, TEXTS[0], TEXTS[5]])
        cost = sum(answer["prompt_tokens"] for answer in found["completion"][0][:4])
        found["budget"] = self.asked(self.annotator(completion, window=3), TEXTS, cost)
        found["resumed"] = self.resumed()
        found["errors"] = self.errors()
        return found

    def resumed(self) -> list[list[Any]]:
        """Log-probabilities of the second window: after the first, and by a run that finds the first stored."""
        annotator = self.annotator(PROMPTS["completion"], window=3)
        first, second = annotator.answers(requests(TEXTS), set(), spending())
        (again,) = annotator.answers(requests(TEXTS), {answer.key for answer in first}, spending())
        return [[answer.log_probabilities for answer in window] for window in (second, again)]

    def errors(self) -> dict[str, str]:
        """What the user reads."""
        directory = Path(weights.language_model_directory("embedded:smollm2"))
        pickled = shutil.copytree(directory, Path(sys.argv[2]).parent / "pickled", copy_function=hard_link)
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        wrong = {
            "too_long": {"max_model_len": 1_000_000},
            "no_memory": {"engine": ENGINE | {"num_gpu_blocks_override": 2}},
            "pickled": {"model": str(pickled)},
            "no_adapter": {"lora": str(directory)},
            "unknown_argument": {"engine": {"blok_size": 32}},
        }
        found = {}
        for name, values in wrong.items():
            try:
                Vllm(params(**values), Template.of(PROMPTS["bare"], TASK), False)._engine  # noqa: B018 - loads
            except UserError as error:
                found[name] = str(error)
        try:
            self.asked(self.annotator(Prompt(style="completion", user="{text}" + " rule" * MAX_MODEL_LEN)))
        except UserError as error:
            found["rules"] = str(error)
        return found


def hard_link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def vars_of(answer: Any) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in answer.__slots__}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(Checks(sys.argv[1]).all()))
