"""Files that are whole or not there: write beside the target, flush to disk, rename over it."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import UserError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; rename it over `path` when the block ends well.

    Raises:
        UserError: the disk is full or the directory can't be written; `path` is what it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
