"""What a benchmark says of the machine, and its file of results."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("onnxruntime", "openvino", "nncf", "torch", "transformers", "sentence-transformers", "tokenizers")
_SIZE = 2048  # of the matrices of `rates`


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rates() -> dict[str, Callable[[], float]]:
    """Functions that time one square matrix product and return operations/s: fp32 and int8 through oneDNN or MKL."""
    import torch

    a, b = torch.rand(_SIZE, _SIZE), torch.rand(_SIZE, _SIZE)
    x, y = (torch.randint(-99, 99, (_SIZE, _SIZE), dtype=torch.int8) for _ in range(2))
    operations = 2 * _SIZE**3
    return {
        "fp32": lambda: operations / timed(lambda: a @ b),
        "int8": lambda: operations / timed(lambda: torch._int_mm(x, y)),
    }


def multiplies_bf16() -> bool:
    """Whether a product in bf16 takes less time than one in fp32: not all processors that report it do."""
    import torch

    a = torch.rand(_SIZE, _SIZE)
    b = a.bfloat16()
    return min(timed(lambda: b @ b) for _ in range(3)) < min(timed(lambda: a @ a) for _ in range(3))


def write(path: Path, rows: list[dict[str, Any]], **more: object) -> None:
    """Write rows with machine, versions and commit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=path.parent)
    facts = {"machine": _machine(), "versions": _versions(), "commit": git.stdout.strip() or None}
    path.write_text(json.dumps({"rows": rows} | facts | more, indent=2) + "\n")


def _machine() -> dict[str, object]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    found = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    known = {"amx_int8", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx2"}
    return {
        "processor": found.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "features": sorted(known & set(found.get("flags", "").split())),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
