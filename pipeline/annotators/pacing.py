"""How many requests at once, and when the next one may go. Knows a clock's time in seconds, and never sleeps itself."""

import math

_LEAST_BURST_S = 1.0  # what a rate allows in this time may go at once
_OUTAGE = 8  # failures in a row: it is the server and not the requests
_OUTAGE_PAUSE_S = 4.0  # doubled each time, up to:
_LONGEST_PAUSE_S = 60.0
_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 60.0


class Bucket:
    """A rate: so much a minute, spread evenly. May go into debt by one request, which is waited for afterwards."""

    def __init__(self, per_minute: float) -> None:
        self._per_s = per_minute / 60
        self._most = max(self._per_s * _LEAST_BURST_S, 1.0)
        self._level, self._at = self._most, -math.inf

    def ready_at(self, now: float) -> float:
        """When the next request may go."""
        self._fill(now)
        return now if self._level >= 1.0 else now + (1.0 - self._level) / self._per_s

    def take(self, amount: float, now: float) -> None:
        """Use it up; a negative amount gives back what was not used."""
        self._fill(now)
        self._level = min(self._level - amount, self._most)

    def _fill(self, now: float) -> None:
        self._level = min(self._level + max(now - self._at, 0.0) * self._per_s, self._most)
        self._at = max(now, self._at)


class Pace:
    """Adapts to the server as TCP does: halves what is in flight when it is overloaded, and grows by one per window.

    What the server says to one request holds for all: its Retry-After, and that it is down. Of the failures of one
    window only the first counts.
    """

    def __init__(self, max_concurrency: int, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._most, self._limit = max_concurrency, float(max_concurrency)
        self._requests = Bucket(requests_per_minute) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute) if tokens_per_minute else None
        self._paused_until = self._halved_at = self._outage_at = -math.inf
        self._failures = self._outages = 0

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return int(self._limit)

    def ready_at(self, in_flight: int, now: float) -> float:
        """When the next request may go; infinity if one in flight must end first."""
        if in_flight >= self.limit:
            return math.inf
        rates = [bucket.ready_at(now) for bucket in (self._requests, self._tokens) if bucket]
        return max(now, self._paused_until, *rates)

    def sent(self, tokens: int, now: float) -> None:
        """A request goes, which may use so many tokens."""
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(tokens, now)

    def answered(self, expected_tokens: int, used_tokens: int, now: float) -> None:
        """A request was answered, and has used other tokens than expected."""
        self._failures = self._outages = 0
        self._limit = min(self._limit + 1 / self._limit, self._most)
        if self._tokens:
            self._tokens.take(used_tokens - expected_tokens, now)

    def overloaded(self, sent_at: float, now: float) -> None:
        """The server had too much to do."""
        if sent_at >= self._halved_at:
            self._halved_at = now
            self._limit = max(self._limit / 2, 1.0)

    def pause(self, wait_s: float, now: float) -> None:
        """The server asks to be left alone for a while."""
        self._paused_until = max(self._paused_until, now + wait_s)

    def failed(self, sent_at: float, now: float) -> float:
        """A request got no answer; return for how long all wait now that too many did in a row, else 0."""
        self._failures += 1
        if self._failures < _OUTAGE or sent_at < self._outage_at:
            return 0.0
        self._outage_at = now
        wait_s = min(_OUTAGE_PAUSE_S * 2.0**self._outages, _LONGEST_PAUSE_S)
        self._outages = min(self._outages + 1, 10)
        self.pause(wait_s, now)
        return wait_s


def backoff_s(attempts: int, random: float) -> float:
    """How long a request waits after so many attempts: exponential, with jitter.

    Args:
        attempts: made so far, from 1.
        random: uniform in [0, 1).
    """
    return min(_BACKOFF_S * 2.0 ** (attempts - 1), _LONGEST_BACKOFF_S) * (0.5 + random / 2)
