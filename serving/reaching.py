"""Whether an error says that a place can't be reached for the moment, or that what was asked is wrong."""

import errno
import sys
from socket import gaierror

from serving.errors import Unreachable

_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,  # s3fs: slow down
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,  # s3fs: whatever else the store says
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_TOO_EARLY_OR_MANY = {408, 425, 429}
# What libraries raise that is no OSError, and which of it means the network.
_FOREIGN = {
    "botocore.exceptions": ("BotoCoreError", ("ConnectionError", "HTTPClientError")),
    "aiohttp": ("ClientError", ("ClientConnectionError", "ClientPayloadError")),
}


def errors() -> tuple[type[Exception], ...]:
    """What a file system may raise; a library that is not loaded can't have raised anything."""
    return OSError, *(getattr(sys.modules[name], base) for name, (base, _) in _FOREIGN.items() if name in sys.modules)


def passing(error: BaseException) -> bool:
    """Whether the same may succeed later: the network, a name server, or a store that is overloaded."""
    status = getattr(error, "status", None)
    if isinstance(status, int):  # of an HTTP answer
        return status >= 500 or status in _TOO_EARLY_OR_MANY
    if isinstance(error, FileNotFoundError):  # fsspec's HTTP says so whatever the reason was
        return error.__cause__ is not None and passing(error.__cause__)
    if isinstance(error, (ConnectionError, TimeoutError, gaierror)) or _is_foreign(error):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def unreached(place: str, error: BaseException) -> Unreachable:
    """Say so."""
    while isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    reason = " ".join(str(error).split()) or type(error).__name__
    return Unreachable(f"{place} can't be reached ({reason[:300]}): run the same command again, later")


def _is_foreign(error: BaseException) -> bool:
    kinds = [getattr(sys.modules[m], kind) for m, (_, names) in _FOREIGN.items() if m in sys.modules for kind in names]
    return isinstance(error, tuple(kinds))
