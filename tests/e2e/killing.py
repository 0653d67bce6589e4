"""kill -9 at random moments: a stage is killed and run again until it ends; its artifacts must be those of a calm run.

python tests/e2e/killing.py PROJECT STAGE... [--kills 20]
"""

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


def kill_until_done(project: Path, stage: str, kills: int, seed: int) -> dict[str, str]:
    """Run a stage, killing it `kills` times at random moments of a calm run's length; return its artifacts' hashes."""
    command = [sys.executable, "-m", "pipeline", *stage.split()]
    calm = tempfile.mkdtemp()
    shutil.copytree(project, calm, symlinks=True, dirs_exist_ok=True)
    clear(Path(calm), stage)
    start = time.monotonic()
    subprocess.run(command, cwd=calm, env=environment(), check=True, capture_output=True)
    length, wanted = time.monotonic() - start, fingerprint(Path(calm), stage)
    clear(project, stage)
    moments = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(command, cwd=project, env=environment(), stderr=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(0.2, length))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run(command, cwd=project, env=environment(), check=True, capture_output=True)
    shutil.rmtree(calm)
    found = fingerprint(project, stage)
    different = {name for name in wanted | found if wanted.get(name) != found.get(name)}
    if different:
        shown = "\n".join(f"{name}: {wanted.get(name)} became {found.get(name)}" for name in sorted(different)[:5])
        raise SystemExit(f"{stage}: {len(different)} of {len(wanted)} differ after {kills} kills\n{shown}")
    return found


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
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    kills = int(sys.argv[sys.argv.index("--kills") + 1]) if "--kills" in sys.argv else 20
    for stage in ARTIFACTS:
        with tempfile.TemporaryDirectory() as scratch:
            copy = shutil.copytree(arguments[0], Path(scratch) / "project", symlinks=True)
            found = kill_until_done(copy, stage, kills, seed=1)
            print(f"{stage}: {kills} kills, {len(found)} files or rows equal to a calm run's")


if __name__ == "__main__":
    main()
