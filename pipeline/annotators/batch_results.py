"""Result files of the Batch API: lines in, answers and faults out. Knows nothing of files' and batches' ways."""

import json
import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.annotators.endpoint import Asker
from pipeline.annotators.failures import MalformedError
from pipeline.responses import Answer, ErrorKind

log = logging.getLogger("llambert")
_EXPIRED = ("batch_expired", "batch_cancelled")  # codes of lines that were never worked on
_PASSING = (408, 409, 425)
_FATAL = {
    401: "the endpoint refuses the key ({seen}): check OPENAI_API_KEY",
    403: "the endpoint refuses the key ({seen}): check OPENAI_API_KEY",
    404: "the endpoint knows no such model or address ({seen}): check annotate.annotator",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request of a batch has no answer, though another batch may bring one."""

    kind: ErrorKind
    seen: str

    @classmethod
    def of_batch(cls, status: str) -> "Fault":
        """Of a request that no result file names."""
        kind = ErrorKind.EXPIRED if status in ("expired", "cancelled") else ErrorKind.SERVER
        return cls(kind, f"no result in a batch that is {status}")


class Results:
    """What the files of one batch say, joined with its requests by `custom_id`; the first whole answer counts."""

    def __init__(self, asker: Asker, cut: Mapping[str, bool], stored: Container[str], otherwise: Fault) -> None:
        """`cut` has all keys of the batch and whether their texts were cut."""
        self._asker, self._cut = asker, cut
        self.missing = {key: otherwise for key in cut if key not in stored}
        self.fatal: str | None = None  # why nothing can be answered, as the user should read it
        self._answered: set[str] = set()
        self._ignored: Counter[str] = Counter()

    def read(self, lines: Iterable[bytes]) -> Iterator[Answer]:
        """Answers of a file; `missing` and `fatal` say more when all files are read."""
        for data in lines:
            if not data.strip():
                continue
            try:
                result = json.loads(data)
                key = result["custom_id"]
            except (ValueError, TypeError, KeyError):
                self._ignored["broken"] += 1
                continue
            if key not in self._cut or key in self._answered:
                self._ignored["duplicate" if key in self._answered else "of unknown requests"] += 1
            elif key in self.missing:
                found = self._outcome(key, result)
                if isinstance(found, Fault):
                    self.missing[key] = found
                    continue
                del self.missing[key]
                self._answered.add(key)
                yield found

    def report(self, batch: str, again: int) -> None:
        """Log what was not as it should be."""
        if self._ignored:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._ignored.items()))
            log.warning("annotate: ignored result lines of batch %s: %s", batch, counts)
        if self.missing:
            kinds = Counter(str(fault.kind) for fault in self.missing.values())
            seen = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
            log.warning(
                "annotate: batch %s left %d requests open (%s): %d are sent again",
                batch,
                len(self.missing),
                seen,
                again,
            )

    def _outcome(self, key: str, result: Mapping[str, Any]) -> Answer | Fault:
        response = _object(result.get("response"))
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            try:
                return self._asker.answer(key, _object(body), self._cut[key], 0.0)
            except MalformedError as error:
                return Fault(ErrorKind.MALFORMED, str(error))
        said = _object(_object(body).get("error") or result.get("error"))
        code, seen = str(said.get("code")), f"{status or said.get('code')} {said.get('message') or body}"[:300]
        if not isinstance(status, int):
            return Fault(ErrorKind.EXPIRED if code in _EXPIRED else ErrorKind.SERVER, seen)
        if "insufficient_quota" in (code, said.get("type")):
            self.fatal = f"the account has no quota left ({seen})"
        elif status in _FATAL:
            self.fatal = _FATAL[status].format(seen=seen)
        if status == 429:
            return Fault(ErrorKind.RATE_LIMIT, seen)
        if status in (*_PASSING, *_FATAL) or status >= 500:
            return Fault(ErrorKind.SERVER, seen)
        reason = "content_filter" if "content" in code else "refused"
        return Answer(key, None, None, reason, 0, 0, 0.0, self._cut[key])


def _object(value: object) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    return {} if value is None else {"message": str(value)}
