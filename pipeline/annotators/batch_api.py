"""Files and batches of an endpoint: each call waits until a fault has passed, and no batch is made twice."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from tempfile import TemporaryFile
from typing import IO, TypeVar

import httpx2
import openai
from openai.types import Batch

from pipeline.annotators.endpoint import Asker
from pipeline.annotators.failures import MalformedError, trouble
from pipeline.errors import UserError
from pipeline.params import OpenAIBatchAnnotator
from pipeline.responses import ErrorKind

log = logging.getLogger("llambert")
T = TypeVar("T")
_FAULTS = (openai.APIError, httpx2.HTTPError, ValueError, MalformedError)  # ValueError: a body that is no JSON
_RETRIES = 5  # of the client, seconds apart
_PATIENCE_S = 3600.0  # how long an endpoint that has answered before may be away
_SETTLING_S = 10.0  # until a batch that was just made stands in the list
_TRANSFER_TIMEOUT_S = 600.0


class NoRoomError(Exception):
    """The endpoint takes no further batch now: a limit of tokens or requests that may wait is reached."""


class RefusedError(UserError):
    """The endpoint does not take this file."""


class BatchApi:
    """Talks to one endpoint; connects when it is first used.

    Raises (every method):
        UserError: a wrong key, no quota, no Batch API, or an endpoint that was away for an hour.
    """

    def __init__(self, params: OpenAIBatchAnnotator, asker: Asker) -> None:
        self._params, self._asker, self._reached = params, asker, False

    def upload(self, lines: IO[bytes]) -> str:
        """Id of a new input file."""
        files = self._client.with_options(timeout=_TRANSFER_TIMEOUT_S).files
        lines.flush()  # the client takes the length from the disk
        named = ("llambert.jsonl", lines, "application/jsonl")
        try:
            return self._patiently(lambda: _whole(files.create(file=named, purpose="batch"))).id
        except openai.NotFoundError as error:
            raise self._no_batch_api(error) from error

    def make(self, file: str, name: str, doubtful: bool) -> str:
        """Id of the batch of a file.

        Args:
            file: uploaded before.
            name: shown with the batch.
            doubtful: a batch may have been made whose id never arrived.

        Raises:
            NoRoomError: not now.
            RefusedError: not ever.
        """
        # A retry of the client's own could pay twice: the endpoint may have made the batch and lost the connection.
        batches, since = self._client.with_options(max_retries=0).batches, time.monotonic()
        while True:
            if doubtful:
                time.sleep(min(self._params.poll_s, _SETTLING_S))
                if (batch := self._made_before(file)) is not None:
                    return batch
            try:
                made = batches.create(
                    input_file_id=file, endpoint=f"/v1{self._asker.url}",  # type: ignore[arg-type]
                    completion_window=self._params.completion_window,  # type: ignore[arg-type]
                    metadata={"llambert": name},
                )  # fmt: skip
                return _whole(made).id
            except _FAULTS as error:
                found = trouble(error)
                if found.fatal is None and (found.kind is ErrorKind.RATE_LIMIT or no_room(found.seen)):
                    raise NoRoomError(found.seen) from error
                if isinstance(error, openai.NotFoundError):
                    raise RefusedError(str(self._no_batch_api(error))) from error
                if isinstance(error, openai.BadRequestError):
                    raise RefusedError(f"the endpoint refuses a batch: {found.seen}") from error
                doubtful = True
                self._bear(error, since)

    def state(self, batch: str) -> Batch | None:
        """How a batch is; None if the endpoint does not know it."""
        try:
            return self._patiently(lambda: _whole(self._client.batches.retrieve(batch)))
        except openai.NotFoundError:
            return None

    @contextmanager
    def downloaded(self, file: str | None) -> Iterator[IO[bytes]]:
        """A result file as a whole, on the disk; empty if there is none."""
        files = self._client.with_options(timeout=_TRANSFER_TIMEOUT_S).files.with_streaming_response
        with TemporaryFile() as whole:

            def fetch() -> None:
                whole.seek(0)
                whole.truncate()
                with files.content(str(file)) as response:
                    for data in response.iter_bytes():
                        whole.write(data)

            try:
                if file is not None:
                    self._patiently(fetch)
            except openai.NotFoundError as error:
                log.warning("annotate: the endpoint has no file %s any more (%s)", file, error)
            whole.seek(0)
            yield whole

    def close(self) -> None:
        """Close the connections, where there are any."""
        if "_client" in vars(self):
            self._client.close()

    @cached_property
    def _client(self) -> openai.OpenAI:
        p = self._params
        try:
            client = openai.OpenAI(base_url=p.base_url, timeout=p.timeout_s, max_retries=_RETRIES)
        except openai.OpenAIError as error:
            raise UserError(f"annotate.annotator: {error}; set OPENAI_API_KEY") from error
        if not (client.api_key.isascii() and client.api_key.isprintable()):
            raise UserError("OPENAI_API_KEY holds characters that no key has: set it anew")
        return client

    def _made_before(self, file: str) -> str | None:
        """The batch that was made of a file; one that failed at once has cost nothing."""
        for batch in self._patiently(lambda: list(self._client.batches.list(limit=100))):
            if batch.input_file_id == file and batch.status != "failed":
                return batch.id
        return None

    def _patiently(self, what: Callable[[], T]) -> T:
        since = time.monotonic()
        while True:
            try:
                done = what()
            except openai.NotFoundError:
                raise
            except _FAULTS as error:
                self._bear(error, since)
            else:
                self._reached = True
                return done

    def _bear(self, error: Exception, since: float) -> None:
        """Wait, where a fault may pass."""
        found = trouble(error)
        if found.fatal is not None or found.kind is None:
            raise UserError(found.fatal or f"{self._client.base_url} refuses: {found.seen}") from error
        if not self._reached or time.monotonic() - since > _PATIENCE_S:
            raise UserError(f"{self._client.base_url} does not answer ({found.seen})") from error
        log.warning("annotate: the endpoint does not answer (%s); trying again", found.seen)
        time.sleep(found.wait_s or self._params.poll_s)

    def _no_batch_api(self, error: Exception) -> UserError:
        return UserError(
            f"{self._client.base_url} has no Batch API ({trouble(error).seen}): use annotate.annotator.kind openai"
        )


def no_room(seen: str) -> bool:
    """Whether an error speaks of the limit of what may wait."""
    return "token_limit_exceeded" in seen or "enqueued" in seen.lower()


def _whole(thing: T) -> T:
    """An object of the API; a page of HTML comes as a string."""
    if not isinstance(getattr(thing, "id", None), str):
        raise MalformedError(f"no object of the Batch API: {thing!r}"[:200])
    return thing
