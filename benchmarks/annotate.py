"""How fast texts are labelled by a language model on this machine, beside the published loop and vLLM.

    python benchmarks/annotate.py [--texts 96] [--repeat 3] [--model embedded:smollm2] [--vllm PATH/TO/python]

Cases: `short` reviews of about 40 tokens under the demo's prompt; `rules`, the same under an instruction of some 400
tokens with examples; `long`, several reviews joined to about 250 tokens. Methods: `local` as the pipeline does it;
`loop` as the LlamBERT authors published it (one prompt at a time, ten tokens sampled freely, nothing shared); `vllm`
with its prefix cache, in the environment of the interpreter given. Methods alternate, and the best of the repetitions
counts: other work on the machine only ever makes a run slower. Every method gets the same prompts.

`share` is the arithmetic of the tokens that the shared prefix does not save, over time, as a part of what this
machine's own matrix product of 2048 x 2048 reaches: one is timed after every batch, for the clock wanders.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from pipeline import weights
from pipeline.annotators import Annotator, Request
from pipeline.annotators.local import Local, _common_prefix
from pipeline.params import Annotate, Budget, Task
from pipeline.prompts import Template
from pipeline.responses import Totals
from pipeline.spending import Prices, Spending

_DEMO = Path(__file__).parents[1] / "data" / "demo"
_TASK = Task(name="reviews", criterion="Is the review positive or negative?", labels={"negative": [], "positive": []})
_RULES = (
    "You read reviews of products and films, written by customers, and decide what their author thinks of the thing as "
    "a whole. Weigh praise against complaint; the last word of a review often counts most. Irony says the contrary of "
    "what its words say. A comparison with something better is a complaint, a comparison with something worse is "
    "praise. Do not judge the plot of a film, nor the use of a product, only what the author felt. "
) * 4
_GEMM = 2 * 2048**3  # FLOP
_SHOTS = [
    {"text": "Two hours I will never get back; dull and badly acted.", "label": "negative"},
    {"text": "Charming, funny and beautifully shot. I loved it.", "label": "positive"},
]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="embedded:smollm2")
    parser.add_argument("--vllm", help="an interpreter with vLLM and llambert")
    parser.add_argument("--only-vllm", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_vllm:
        texts, user = _cases(arguments.texts)[arguments.only_vllm]
        print(json.dumps(_seconds_of_vllm(texts, user, arguments.model, arguments.repeat)))
        return
    print("| case | method | texts/s | times the loop | share of GEMM |\n|---|---|---|---|---|")
    for case, (texts, user) in _cases(arguments.texts).items():
        for name, rate, times, share in _measure(case, texts, user, arguments):
            print(f"| {case} | {name} | {rate:.2f} | {times:.1f} | {share} |", flush=True)


def _cases(count: int) -> dict[str, tuple[list[str], str]]:
    with (_DEMO / "corpus.csv").open(newline="") as file:
        reviews = [row["text"] for row in csv.DictReader(file)]
    short, user = reviews[:count], "Review: {text}\nSentiment:"
    joined = [" ".join(reviews[(7 * i + k) % len(reviews)] for k in range(7)) for i in range(count)]
    return {"short": (short, user), "rules": (short, f"{_RULES}\n{user}"), "long": (joined, user)}


def _annotate(user: str, annotator: dict[str, Any]) -> tuple[Annotate, Template]:
    prompt = {"style": "completion", "user": user, "examples": _SHOTS}
    params = Annotate.model_validate({"annotator": annotator, "prompt": prompt})
    return params, Template.of(params.prompt, _TASK)


def _measure(
    case: str, texts: list[str], user: str, arguments: argparse.Namespace
) -> list[tuple[str, float, float, str]]:
    params, template = _annotate(user, {"kind": "local", "model": arguments.model, "dtype": "float32"})
    local = Local(params.annotator, template)
    few = texts[: max(len(texts) // 24, 4)]  # the loop is slow
    loop = _loop(local, template)
    _label(local, texts[:4]), loop(texts[:1])
    best = {"local": float("inf"), "loop": float("inf")}
    shares = []
    arithmetic, gemm = _arithmetic(local, texts), _gemm()
    for _ in range(arguments.repeat):
        products: list[float] = []  # seconds
        seconds = _timed(lambda: _label(local, texts, lambda: products.append(gemm()))) - sum(products)  # noqa: B023
        shares.append((arithmetic / seconds / (_GEMM * len(products) / sum(products)), len(products) / sum(products)))
        best["local"] = min(best["local"], seconds / len(texts))
        best["loop"] = min(best["loop"], _timed(lambda: loop(few)) / len(few))
    share, per_s = max(shares)
    if arguments.vllm:
        command = [
            arguments.vllm,
            __file__,
            "--only-vllm",
            case,
            "--texts",
            str(len(texts)),
            "--model",
            arguments.model,
        ]
        done = subprocess.run(
            [*command, "--repeat", str(arguments.repeat)], stdout=subprocess.PIPE, text=True, check=True
        )
        best["vllm"] = json.loads(done.stdout.splitlines()[-1]) / len(texts)
    return [
        (name, 1 / s, best["loop"] / s, f"{share:.0%} of {per_s * _GEMM / 1e9:.0f} GFLOP/s" if name == "local" else "")
        for name, s in best.items()
    ]


def _label(annotator: Annotator, texts: list[str], after_batch: Callable[[], None] = lambda: None) -> None:
    requests = [Request(str(i), text) for i, text in enumerate(texts)]
    found = 0
    for answers in annotator.answers(requests, (), Spending(Budget(), Prices(), Totals())):
        found += len(answers)
        after_batch()
    if found != len(set(texts)):
        raise SystemExit(f"{found} of {len(texts)} texts were answered")


def _loop(local: Local, template: Template) -> Callable[[list[str]], None]:
    """Batch of one, sampled generation of ten tokens, as in the published code."""
    import torch

    scorer = local._scorer

    def run(texts: list[str]) -> None:
        scorer._model.set_attn_implementation("sdpa")  # as transformers loads it
        for text in texts:
            inputs = scorer.tokenizer(template.completion(text), return_tensors="pt")
            with torch.inference_mode():
                scorer._model.generate(
                    **inputs, max_new_tokens=10, min_new_tokens=10, do_sample=True, temperature=0.6, top_p=0.9,
                    pad_token_id=scorer.tokenizer.eos_token_id,
                )  # fmt: skip

    return run


def _seconds_of_vllm(texts: list[str], user: str, model: str, repeat: int) -> float:
    from pipeline.annotators.vllm import Vllm

    directory = str(weights.language_model_directory(model))
    small = {"block_size": 32, "enforce_eager": True}
    engine = {"kind": "vllm", "model": directory, "dtype": "float32", "max_model_len": 2048, "engine": small}
    params, template = _annotate(user, engine | {"gpu_memory_utilization": 0.3})
    vllm = Vllm(params.annotator, template, False)
    _label(vllm, texts[:4])
    return min(_timed(lambda: _label(vllm, texts)) for _ in range(repeat))


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _gemm() -> Callable[[], float]:
    """What gives the seconds of a product of two 2048 x 2048 matrices, as torch is set up by the annotator."""
    import torch

    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return lambda: _timed(lambda: a @ b)


def _arithmetic(local: Local, texts: list[str]) -> float:
    """FLOP of the tokens after the shared prefix: two for each weight that is no embedding, and attention."""
    model, config = local._scorer._model, local._scorer._model.config
    weights_ = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    prompts = [local._prompt(Request(str(i), text))[0] for i, text in enumerate(texts)]
    before = len(_common_prefix(prompts))
    own = [len(tokens) - before for tokens in prompts]
    pairs = sum(n * before + n * (n + 1) / 2 for n in own)
    return float(2 * weights_ * sum(own) + 4 * pairs * config.hidden_size * config.num_hidden_layers)


if __name__ == "__main__":
    sys.exit(main())
