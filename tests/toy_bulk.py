"""A corpus to label in bulk, the command that labels it, and what it must leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

from toy_model import TEXTS, exported

from serving.jobs import Settings
from serving.locating import Source

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


def write_corpus(path: Path, rows: int = 400, broken: bool = True) -> Path:
    """JSON lines, every 97th of them cut short."""
    with path.open("w") as file:
        for i in range(rows):
            row = json.dumps({"id": f"id-{i}", "text": f"{TEXTS[i % len(TEXTS)]} {i}"})
            file.write((row[:-1] if broken and i % 97 == 5 else row) + "\n")
    return path


def settings(source: Path | str, output: Path | str, **options: object) -> Settings:
    """As the command line makes them; small shards, one precision that is the same everywhere."""
    values = {"precision": "int8", "runtime": "onnxruntime", "shard_rows": 30, "model": exported()}
    return Settings(input=Source(path=str(source)), output=str(output), **(values | options))  # type: ignore[arg-type]


def command(*arguments: object) -> list[str]:
    """`python -m serving label`, with the toy model."""
    options = ["--model", exported(), "--runtime", "onnxruntime", "--shard-rows", 30]
    return [sys.executable, "-m", "serving", "label", *map(str, [*arguments, *options])]


def label(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(*arguments), env=ENVIRONMENT | environment, capture_output=True, text=True)


def contents(out: Path) -> dict[str, bytes]:
    """What must come out byte for byte the same: all but how long it took."""
    return {path.name: path.read_bytes() for path in out.iterdir() if not _timed(path)} | {
        path.name: json.dumps(json.loads(path.read_bytes()) | {"seconds": 0}).encode()
        for path in out.iterdir()
        if _timed(path)
    }


def _timed(path: Path) -> bool:
    return path.name.startswith("part-") and path.suffix == ".json"
