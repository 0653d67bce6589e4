"""kill -9 of bulk labelling at random moments: parent, worker or all; then every row must be there exactly once.

python tests/e2e/killing_bulk.py [--kills 50] [--rows 20000] [--workers 2] [--seed 1]
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy_bulk import ENVIRONMENT, command, contents, label, settings, write_corpus

from serving.verifying import verify


def kill_until_done(place: Path, kills: int, rows: int, workers: int, seed: int) -> dict[str, int]:
    """Label a corpus in peace, then with kills in the first half of that run's length; return what happened."""
    corpus, calm, out = write_corpus(place / "corpus.jsonl", rows), place / "calm", place / "out"
    start = time.monotonic()
    done = label(corpus, calm, "--workers", workers)
    length = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    moments, happened = random.Random(seed), {"killed": 0, "told": 0, "finished": 0, "restarted": 0}
    kept: dict[str, int] = {}
    while happened["killed"] < kills:
        if (out / "manifest.json").exists():  # too fast for us: from the beginning, so that all kills hit work
            happened["restarted"] += 1
            subprocess.run(["rm", "-r", str(out)], check=True)
            kept = {}
        length = min(length, _kill(command(corpus, out, "--workers", workers), moments, length, happened))
        now = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.json")}
        if not kept.items() <= now.items():
            raise SystemExit("a finished shard was done again")
        kept = now
    again = label(corpus, out, "--workers", workers)
    if again.returncode:
        raise SystemExit(again.stderr)
    _check(corpus, calm, out)
    return happened


def _kill(line: list[str], moments: random.Random, length: float, happened: dict[str, int]) -> float:
    """At a random moment kill the parent, or one worker, whose parent must then say so and end.

    Returns:
        How long the run took, if it was over before; else `length`.
    """
    start = time.monotonic()
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(moments.uniform(0.3, length / 2))
        happened["finished"] += 1
        return max(2.0, time.monotonic() - start)
    except subprocess.TimeoutExpired:
        pass
    family = psutil.Process(process.pid).children()
    children = [child for child in family if "spawn_main" in " ".join(child.cmdline())]
    victim = moments.choice([None, *children])
    if victim is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    else:
        victim.kill()
        if process.wait(60) == 2:
            happened["told"] += 1
    happened["killed"] += 1
    if psutil.wait_procs(children, timeout=30)[1]:
        raise SystemExit("a worker outlived its parent")
    return length


def _check(corpus: Path, calm: Path, out: Path) -> None:
    sys.stdout.write(verify(str(out), settings(corpus, out)) + "\n")
    ids = pq.read_table(sorted(out.glob("part-*.parquet")))["id"].to_pylist()
    if len(ids) != len(set(ids)):
        raise SystemExit("an id stands more than once")
    if contents(out) != contents(calm):
        raise SystemExit("the files differ from those of a calm run")


def main() -> None:
    """The long form of the test."""
    options = {"--kills": 50, "--rows": 20_000, "--workers": 2, "--seed": 1}
    for name in options:
        if name in sys.argv:
            options[name] = int(sys.argv[sys.argv.index(name) + 1])
    with tempfile.TemporaryDirectory() as place:
        happened = kill_until_done(
            Path(place), options["--kills"], options["--rows"], options["--workers"], options["--seed"]
        )
    print(", ".join(f"{count} {name}" for name, count in happened.items()))


if __name__ == "__main__":
    main()
