"""benchmarks/gpu.py measures on a GPU; here it runs on the processor, so that it works when there is one."""

import json
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[1]
# what the machine with the GPU need not have
WITHOUT = """
import runpy, sys
for name in ("pydantic", "transformers", "pyarrow", "safetensors", "tokenizers"):
    sys.modules[name] = None
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def test_it_runs_with_torch_alone_and_every_engine_gives_the_same_logits(tmp_path: Path) -> None:
    out = tmp_path / "results" / "gpu.json"
    command = [TOP / "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--shapes", "large", "--out", out]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(out.read_text())
    assert len(done.stdout.splitlines()) == 2 + len(values["rows"])
    engines = [(row["engine"], row["precision"], row["batch_tokens"]) for row in values["rows"]]
    assert engines == [
        ("packed", "fp32", 1024),
        ("packed", "fp32", 2048),
        ("packed, GELU in the product", "fp32", 1024),
        ("published loop", "fp32", None),
        ("onnxruntime", "fp16", 1024),
        ("kernel:torch-padded", "fp32", 1024),
        ("published loop", "fp32", None),
    ]
    for row in values["rows"]:
        assert row["model"] == "roberta-large"
        assert row["texts_per_s"] > 0 < row["share_of_matmul"]
        assert 10 < row["tokens_per_s"] / row["texts_per_s"] <= 512
    assert set(values) == {"rows", "machine", "versions", "commit", "command"}


def test_lengths_are_those_of_reviews() -> None:
    lengths = json.loads((TOP / "benchmarks/lengths.json").read_text())
    counts = lengths["counts"]
    assert (len(counts), sum(counts)) == (513, lengths["texts"])
    assert round(sum(n * count for n, count in enumerate(counts)) / sum(counts), 2) == lengths["mean"]
