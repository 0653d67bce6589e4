"""kill -9 at random moments: a stage is killed and run again until it ends; its artifacts must be those of a calm run.

python tests/e2e/killing.py PROJECT [STAGE...] [--kills 20] [--seed 1]
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flow_project import environment

TIMING = {"seconds", "texts_per_s", "spent_s"}  # keys of metrics that a clock decides
ARTIFACTS = {
    "annotate": ["data/responses.parquet"],
    "train minilm-llm-1": ["models/minilm-llm-1"],
    "label": ["labels"],
}
STORE = ".llambert/responses.sqlite"
BEFORE = {"annotate": [STORE, f"{STORE}-wal", f"{STORE}-shm"]}


def kill_until_done(project: Path, stage: str, kills: int, seed: int, length: float = 8.0) -> dict[str, str]:
    """Run a stage anew, killing it `kills` times at random moments of its `length` in seconds, a guess to begin with.

    Its artifacts that are there come from a calm run; returns their hashes, which are the same afterwards.
    """
    calm = shutil.copytree(project, Path(tempfile.mkdtemp()) / "calm", symlinks=True)
    wanted, moments = fingerprint(project, stage), random.Random(seed)
    clear(project, stage)
    while kills:
        start = time.monotonic()
        process = subprocess.Popen(_command(stage), cwd=project, env=environment(), stderr=subprocess.DEVNULL)
        try:
            if code := process.wait(moments.uniform(0.2, length)):
                raise SystemExit(f"{stage} ended with {code}: run it in {project} to see why")
            length = time.monotonic() - start
            clear(project, stage)  # too fast for us: all kills are to hit work
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills, length = kills - 1, 1.2 * length
    run_calmly(project, stage)
    found = fingerprint(project, stage)
    different = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if different:
        killed = shutil.copytree(project, calm.parent / "killed", symlinks=True)
        raise SystemExit(
            f"{stage}: {len(different)} of {len(wanted)} differ, {', '.join(different[:5])}: see {calm} and {killed}"
        )
    shutil.rmtree(calm.parent)
    return found


def run_calmly(project: Path, stage: str) -> float:
    """Run a stage; return its seconds."""
    start = time.monotonic()
    subprocess.run(_command(stage), cwd=project, env=environment(), check=True, capture_output=True)
    return time.monotonic() - start


def _command(stage: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *stage.split()]


def clear(project: Path, stage: str) -> None:
    """Take away what the stage made, as if it had never run."""
    for name in ARTIFACTS[stage] + BEFORE.get(stage, []):
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def fingerprint(project: Path, stage: str) -> dict[str, str]:
    """File -> hash, or row -> its content, times left out."""
    paths = [project / name for name in ARTIFACTS[stage]]
    files = [file for path in paths for file in [path, *path.rglob("*")] if file.is_file()]
    rows = {name: text for file in files if file.name == "responses.parquet" for name, text in _rows(file)}
    others = [file for file in files if file.name != "responses.parquet"]
    return rows | {str(file.relative_to(project)): _hash(file) for file in others}


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    for i, row in enumerate(pq.read_table(file).drop_columns(["seconds"]).to_pylist()):
        yield f"row {i}", json.dumps(row)


def _hash(file: Path) -> str:
    if file.suffix == ".json":
        content = json.dumps(_without_times(json.loads(file.read_text()))).encode()
    else:
        content = file.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMING}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def main() -> None:
    """The long form of the test: 20 kills a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("stages", nargs="*", default=list(ARTIFACTS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for stage in arguments.stages:
        with tempfile.TemporaryDirectory() as scratch:
            copy = shutil.copytree(arguments.project, Path(scratch) / "project", symlinks=True)
            clear(copy, stage)
            length = run_calmly(copy, stage)
            found = kill_until_done(copy, stage, arguments.kills, arguments.seed, length)
            print(f"{stage}: {arguments.kills} kills, {len(found)} files or rows equal to a calm run's")


if __name__ == "__main__":
    main()
