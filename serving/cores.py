"""How many threads an engine gets: as many as are asked for, or as this process may keep busy."""

import os
from pathlib import Path

THREADS = "LLAMBERT_THREADS"
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def threads(asked: int | None, workers: int = 1) -> int | None:
    """Threads for each of so many workers, which share those asked for, else those allowed; None means all cores."""
    there = os.cpu_count() or 1
    total = asked or min(len(os.sched_getaffinity(0)), _quota(there))
    if workers == 1:
        return total if asked or total < there else None
    return max(1, total // workers)


def _quota(there: int) -> int:
    """Processors that the control group of this process may keep busy; onnxruntime would take the whole machine's."""
    try:
        quota, period = _CGROUP_CPU.read_text().split()
    except (OSError, ValueError):
        return there
    return there if quota == "max" else max(1, round(int(quota) / int(period)))
