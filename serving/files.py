"""Files that are whole or not there: write beside the target, flush to disk, rename over it."""

import errno
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import UserError

_ABANDONED_S = 24 * 3600.0
_TEMPORARY = re.compile(r"\..*\.([\w-]+?)-(\d+)-[0-9a-f]{8}\.tmp")  # host, process
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; rename it over `path` when the block ends well.

    Raises:
        UserError: the disk is full or the directory can't be written; `path` is what it was before.
    """
    # Pods that share a volume all have process 1, and may write the same file at the same time.
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if mended := unwritable(error, path):
            raise mended from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove temporary files whose process is dead, or, of other machines, that nobody has touched for a day."""
    for path in directory.glob(".*.tmp"):
        if not (found := _TEMPORARY.fullmatch(path.name)):
            continue
        here = found[1] == _host()
        if not _alive(int(found[2])) if here else _age_s(path) > _ABANDONED_S:
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname()) or "host"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # its writer was faster
        return 0.0


def unwritable(error: OSError, path: Path) -> UserError | None:
    """Turn the operating system's refusal to write into a message, or None if `error` is of another kind."""
    if error.errno in _NO_ROOM:
        return UserError(f"no room on the disk while writing {path}: free some space and run again; nothing was lost")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return UserError(f"{path} can't be written ({error.strerror}): check the owner and mode of its directory")
    return None


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
