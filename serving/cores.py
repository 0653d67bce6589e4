"""How many threads an engine gets: as many as are asked for, or as this process may keep busy."""

import os
import sys
import threading
from pathlib import Path

THREADS = "LLAMBERT_THREADS"
_NICE = 10  # of 19; a tenth of the share of a thread that does not yield
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def threads(asked: int | None, workers: int = 1) -> int | None:
    """Threads for each of so many workers, which share those asked for, else those allowed; None means all cores."""
    there = os.cpu_count() or 1
    total = asked or min(len(os.sched_getaffinity(0)), _quota(there))
    if workers == 1:
        return total if asked or total < there else None
    return max(1, total // workers)


def yielding() -> None:
    """Let this thread, and those that it starts, yield to the rest of the process where cores are short (Linux).

    So answers that need no model, refusals among them, come at once while all cores compute.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _quota(there: int) -> int:
    """Processors that the control group of this process may keep busy; onnxruntime would take the whole machine's."""
    try:
        quota, period = _CGROUP_CPU.read_text().split()
    except (OSError, ValueError):
        return there
    return there if quota == "max" else max(1, round(int(quota) / int(period)))
