"""Ids that stand more than once, in little memory whatever their number."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.layout import part_name
from serving.targets import Target

_BUCKETS = 64  # files of hashes, one of which is in memory at a time
Hashes = NDArray[np.uint64]


class RepeatedIds:
    """Hashes of 64 bits, in files by their last bits, find the suspects; the ids themselves decide."""

    def __init__(self, scratch: Path) -> None:
        self._paths = [scratch / str(i) for i in range(_BUCKETS)]
        self._files: list[BinaryIO] = []

    def __enter__(self) -> Self:
        self._files = [path.open("wb") for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, ids: Iterable[str]) -> None:
        """The ids of a part."""
        hashes = _hashes(ids)
        buckets = hashes % np.uint64(_BUCKETS)
        for bucket in np.unique(buckets):
            self._files[int(bucket)].write(hashes[buckets == bucket].tobytes())

    def found(self, shards: int, target: Target) -> dict[str, list[int]]:
        """Each id that stands more than once, and the shards in which it does; parts are read again if need be."""
        suspects = self._suspects()
        if not len(suspects):
            return {}
        places: dict[str, list[int]] = defaultdict(list)
        for shard in range(shards):
            for name in _suspected(shard, suspects, target):
                places[name].append(shard)
        return {name: where for name, where in places.items() if len(where) > 1}

    def _suspects(self) -> Hashes:
        found = []
        for path, file in zip(self._paths, self._files, strict=True):
            file.flush()
            hashes, counts = np.unique(np.fromfile(path, dtype=np.uint64), return_counts=True)
            found.append(hashes[counts > 1])
        return np.concatenate(found)


def _suspected(shard: int, suspects: Hashes, target: Target) -> Iterator[str]:
    try:
        ids = pq.read_table(io.BytesIO(target.read(part_name(shard))), columns=["id"])["id"].to_pylist()
    except (FileNotFoundError, pa.ArrowException):  # told before
        return
    for name, suspect in zip(ids, np.isin(_hashes(ids), suspects), strict=True):
        if suspect:
            yield name


def _hashes(ids: Iterable[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype=np.uint64)
