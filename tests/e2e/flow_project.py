"""A small real project in a directory: 140 demo reviews, the embedded LLM, the embedded encoder, one epoch."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.commands.project import init

DEMO = Path(__file__).parents[2] / "data" / "demo"
STAGES = ["ingest", "sample", "annotate", "parse", "train", "evaluate", "export", "register", "label", "report"]


def make(directory: Path, **changes: object) -> Path:
    """Initialise a project and fill it; `changes` are params by dotted key with __ for dots."""
    init(directory)
    rows = {name: _read(DEMO / f"{name}.csv") for name in ("corpus", "gold_train", "gold_test")}
    gold = {row["id"] for name in ("gold_train", "gold_test") for row in rows[name]}
    rows["corpus"] = [row for row in rows["corpus"] if row["id"] not in gold][:140]
    rows["gold_train"], rows["gold_test"] = rows["gold_train"][:30], rows["gold_test"][:30]
    for name, some in rows.items():
        with (directory / "data" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(some[0]))
            writer.writeheader()
            writer.writerows(some)
    settings = {
        "sample.size": 60,
        "train.recipes": ["llm"],
        "encoders.minilm.epochs": 2,
        "encoders.minilm.max_tokens": 32,
        "annotate.annotator.max_batch_tokens": 512,
        "annotate.annotator.dtype": "float32",
        "export.max_flips": 0.2,
        "export.parity_texts": 32,
        "export.runtimes": ["onnxruntime"],
        "label.shard_rows": 20,
    }
    set_params(directory, settings | {key.replace("__", "."): value for key, value in changes.items()})
    return directory


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def set_params(directory: Path, values: dict[str, object]) -> None:
    """Change params.yaml as a person would."""
    yaml = YAML()
    params = yaml.load(directory / "params.yaml")
    for key, value in values.items():
        *blocks, last = key.split(".")
        block = params
        for name in blocks:
            block = block[name]
        block[last] = value
    yaml.dump(params, directory / "params.yaml")


def run(directory: Path, *command: str, code: int = 0) -> str:
    """Run `dvc ...` or `llambert ...` in the project; return all output."""
    done = subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}, not {code}:\n{output}")
    return output


def environment() -> dict[str, str]:
    """The virtual environment's commands first; a git identity for machines without one."""
    identity = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | identity | {"PATH": path, "HF_HUB_OFFLINE": "1"}
