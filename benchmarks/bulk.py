"""What bulk labelling adds to the engine, how it grows with rows and workers, and the memory that it takes.

    python benchmarks/bulk.py MODEL [--corpus FILE.parquet] [--rows 10000,100000,1000000] [--workers 1,2]

MODEL is an exported model; one without a trained head will do. Texts of the corpus (short terms unless another is
named: then reading and writing weigh most) are repeated to as many rows. `label` is run as a user runs it, in processes
of its own. `overhead` is what is left of its time when that of a run over a single row is taken away, held against the
engine alone on at most 10,000 of the same texts; memory is the most that its processes had together, a look a
second (looking stops them for a moment).
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import machine
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from serving.engine import Engine

_RESULTS = Path(__file__).parent / "results"
_UMLS = Path(__file__).parents[2] / "shared" / "data" / "umls" / "train_llm.parquet"
_GROUP = 10_000  # rows of a row group of the input, and of a shard
_SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--corpus", type=Path, default=_UMLS, help="Parquet with a column `text`")
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--precision", default="int8")
    arguments = parser.parse_args()
    texts = [str(t) for t in pq.read_table(arguments.corpus, columns=["text"])["text"].to_pylist()]
    engine = Engine.open(arguments.model, arguments.precision)
    counts = [int(count) for count in arguments.rows.split(",")]
    sample = list(islice(cycle(texts), min(_GROUP, *counts)))
    engine.classify(sample[:1000])
    alone = len(sample) / min(machine.timed(lambda: engine.classify(sample)) for _ in range(3))
    print(f"the engine alone: {alone:,.0f} texts/s")
    rows = [{"engine": "engine alone", "rows": len(sample), "workers": 1, "texts_per_s": round(alone, 1)}]
    with tempfile.TemporaryDirectory() as name:
        for workers in map(int, arguments.workers.split(",")):
            start, _ = _label(Path(name), texts, 1, workers, arguments)
            for count in counts:
                seconds, memory = _label(Path(name), texts, count, workers, arguments)
                row = {
                    "engine": "label",
                    "rows": count,
                    "workers": workers,
                    "seconds": round(seconds, 1),
                    "texts_per_s": round(count / (seconds - start), 1),
                    "overhead": round((seconds - start) * alone / count - 1, 3),
                    "memory_mib": round(memory / 2**20),
                }
                rows.append(row)
                print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    tokens = sum(engine.lengths(sample)) / len(sample)
    name = arguments.corpus.resolve().parent.name
    machine.write(
        _RESULTS / f"bulk-{name}.json",
        rows,
        corpus=name,
        mean_tokens=tokens,
        precision=arguments.precision,
        runtime=engine.runtime,
    )


def _label(place: Path, texts: list[str], count: int, workers: int, arguments: argparse.Namespace) -> tuple[float, int]:
    """Seconds and most bytes of one run."""
    corpus, out = place / f"{count}.parquet", place / f"{count}-{workers}"
    if not corpus.is_file():
        with pq.ParquetWriter(corpus, _SCHEMA) as writer:
            for table in _tables(texts, count):
                writer.write_table(table)
    command = [sys.executable, "-m", "serving", "label", corpus, out, "--model", arguments.model.resolve()]
    options = ["--precision", arguments.precision, "--workers", str(workers), "--shard-rows", str(_GROUP)]
    start, most = time.perf_counter(), 0
    with (place / "log").open("w") as log, subprocess.Popen([*command, *options], stdout=log, stderr=log) as process:
        while process.poll() is None:
            most = max(most, _memory(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit((place / "log").read_text())
    return seconds, most


def _tables(texts: list[str], count: int) -> Iterator[pa.Table]:
    stream = cycle(texts)
    for first in range(0, count, _GROUP):
        ids = [str(i) for i in range(first, min(first + _GROUP, count))]
        yield pa.table({"id": ids, "text": list(islice(stream, len(ids)))}, schema=_SCHEMA)


def _memory(pid: int) -> int:
    """Proportional share of pages, so that what workers share counts once."""
    total = 0
    try:
        for process in [parent := psutil.Process(pid), *parent.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:
        pass  # it has just ended
    return total


if __name__ == "__main__":
    main()
