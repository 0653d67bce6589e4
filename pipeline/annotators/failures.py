"""What may go wrong with a request to an OpenAI-compatible endpoint, and what that means."""

import asyncio
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
import httpx2
import openai

from pipeline.responses import ErrorKind

_LONGEST_WAIT_S = 3600.0  # a Retry-After beyond that is taken for this


class MalformedError(Exception):
    """An answer of status 200 that is none: try again."""


# What `Asker.ask` and `Asker.answer` may raise, for `trouble` to explain. ValueError: a body that is no JSON.
FAILURES = (openai.OpenAIError, aiohttp.ClientError, TimeoutError, ValueError, MalformedError)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an exception of the client means."""

    kind: ErrorKind | None  # None: the server refuses this very request; asking again changes nothing
    seen: str
    wait_s: float | None = None  # what the server asked for
    fatal: str | None = None  # nothing can be answered: what the user should do
    filtered: bool = False  # refused for its content
    overloaded: bool = False  # ask fewer at once


def trouble(error: Exception) -> Trouble:
    """What one of FAILURES means for the request that met it."""
    seen = " ".join(str(error).split())[:300]
    match error:
        case openai.PermissionDeniedError() if "moderation" in seen:  # of this text, as OpenRouter says it
            return Trouble(None, seen, filtered=True)
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return Trouble(None, seen, fatal=f"the endpoint refuses the key ({seen}): check OPENAI_API_KEY")
        case openai.NotFoundError() | openai.APIStatusError(status_code=405):
            return Trouble(
                None, seen, fatal=f"the endpoint knows no such model or address ({seen}): check annotate.annotator"
            )
        case openai.APIStatusError() if error.status_code == 402 or "insufficient_quota" in f"{error.body} {seen}":
            return Trouble(ErrorKind.RATE_LIMIT, seen, fatal=f"the account has no quota left ({seen})")
        case openai.RateLimitError():
            return Trouble(ErrorKind.RATE_LIMIT, seen, _retry_after(error.response.headers), overloaded=True)
        case openai.APIConnectionError() | aiohttp.ClientError() | httpx2.HTTPError() | TimeoutError():
            return _lost(error, seen)
        case openai.APIStatusError() if error.status_code in (408, 409, 425) or error.status_code >= 500:
            overloaded = error.status_code in (503, 529)
            return Trouble(ErrorKind.SERVER, seen, _retry_after(error.response.headers), overloaded=overloaded)
        case openai.APIStatusError():
            return Trouble(None, seen, filtered="content_filter" in f"{error.code} {error.body}")
        case MalformedError():
            return Trouble(ErrorKind.MALFORMED, seen)
        case _:  # no JSON
            return Trouble(ErrorKind.MALFORMED, f"{type(error).__name__}: {seen}")


def _lost(error: BaseException, seen: str) -> Trouble:
    """Tell a time-out from a lost connection: the innermost cause knows, the client may not."""
    while error.__cause__ is not None and not isinstance(error.__cause__, asyncio.CancelledError):
        error = error.__cause__
        seen = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, TimeoutError | httpx2.TimeoutException | openai.APITimeoutError):
        return Trouble(ErrorKind.TIMEOUT, seen or "no whole answer in time")
    return Trouble(ErrorKind.CONNECTION, seen)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `retry-after` (seconds or an HTTP date); None where there is none."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            wait = float(milliseconds) / 1000
        elif value is None:
            return None
        elif re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            wait = float(value)
        else:
            wait = parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), _LONGEST_WAIT_S) if math.isfinite(wait) else None
