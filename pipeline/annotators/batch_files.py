"""What is known of one file of requests: in this process, and in the note that a later one reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO, NamedTuple

_IN_MEMORY = 1_000_000  # bytes of a file's lines; more lie on the disk


class Sent(NamedTuple):
    """One request of a file."""

    attempt: int  # from 1
    prompt_tokens: int
    cut: bool


class Line(NamedTuple):
    """A request as it stands in a file."""

    key: str
    data: bytes
    sent: Sent


def _lines() -> IO[bytes]:
    return SpooledTemporaryFile(_IN_MEMORY)


@dataclass(slots=True)
class Chunk:
    """One file, and its batch as soon as there is one."""

    name: str  # of its note
    file: str = ""  # id at the endpoint
    requests: dict[str, Sent] = field(default_factory=dict)
    batch: str | None = None
    found: bool = False  # of an earlier run
    doubtful: bool = False  # there may be a batch whose id never arrived
    wanted: bool = True  # this pass asks for one of its keys
    alone: bool = False  # nothing else was under way when its batch was last asked for
    lines: IO[bytes] = field(default_factory=_lines)  # those whose text this process has seen, to send them again

    def add(self, line: Line) -> None:
        """Append a request."""
        self.lines.write(line.data)
        self.requests[line.key] = line.sent

    def take_out(self, again: dict[str, Sent]) -> Iterator[Line]:
        """The lines of the keys of `again`, which loses them: what stays in it has not come by. Closes the lines."""
        self.lines.seek(0)
        for data in self.lines if again else ():
            key = json.loads(data)["custom_id"]
            if key in again:
                yield Line(key, data, again.pop(key))
        self.lines.close()

    def note(self) -> str:
        """What a later run needs."""
        return json.dumps({"file": self.file, "batch": self.batch, "requests": self.requests})

    @classmethod
    def noted(cls, name: str, note: str) -> "Chunk":
        """Of an earlier run."""
        values = json.loads(note)
        requests = {key: Sent(*sent) for key, sent in values["requests"].items()}
        batch = values["batch"]
        return cls(name, values["file"], requests, batch, found=True, doubtful=batch is None, wanted=False)
