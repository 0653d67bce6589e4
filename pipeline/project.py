"""A project directory: params.yaml, dvc.yaml and data/. One run at a time works in it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.artifacts import STATE
from pipeline.errors import UserError


@contextmanager
def locked() -> Iterator[None]:
    """Hold the project's lock; the operating system frees it when the process ends, however it ends.

    Raises:
        UserError: another process holds it; its process id is named.
    """
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"another run (process {file.read().strip()}) works in this directory: wait for it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
