"""From a request to texts, or to a refusal that names the field and its limit. Bodies are checked while they arrive."""

import asyncio
import hmac
from collections.abc import Sequence

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from serving.web.schemas import Error, ErrorBody, Texts
from serving.web.settings import Settings

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
_BODY_S = 60.0  # a client that sends more slowly than that holds memory for nothing
_BODIES = 16  # of the greatest length, that may be in memory at once
_PATIENCE = 4  # times the greatest length that is read, and thrown away, before the connection is closed
_SHOWN = 80  # characters of a name that the client gave


class Refused(Exception):  # noqa: N818 - as in "the request was refused"
    """An answer without labels."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        limit: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = ErrorBody(error=Error(field=field, message=message, limit=limit))


class Intake:
    """The limits of the service, and how much of bodies is in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        self._held = 0  # bytes

    def authorize(self, request: Request) -> None:
        """Refuse whoever does not know the token, if there is one; the comparison takes the same time for all."""
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Refused(
                401,
                "a valid token is needed: Authorization: Bearer TOKEN",
                field="authorization",
                headers={"www-authenticate": "Bearer"},
            )

    async def body(self, request: Request, media_type: str) -> bytes:
        """Read a body of this type, no longer than allowed."""
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != media_type:
            raise Refused(415, f"the body must be {media_type}", field="content-type")
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Refused(415, "compressed bodies are not read: send it as it is", field="content-encoding")
        try:
            async with asyncio.timeout(_BODY_S):
                return await self._read(request)
        except TimeoutError:
            raise Refused(408, f"the body took longer than {_BODY_S:.0f} s", field="body") from None
        except ClientDisconnect:
            raise Gone from None

    async def _read(self, request: Request) -> bytes:
        parts: list[bytes] = []
        length, held, limit = 0, 0, self._settings.max_body_bytes
        try:
            async for part in request.stream():
                length += len(part)
                if length <= limit:
                    parts.append(part)
                    held += len(part)
                    self._held += len(part)
                if self._held > _BODIES * limit:
                    raise Refused(503, "too many bodies are being sent: try again", headers={"retry-after": "1"})
                if length > _PATIENCE * limit:
                    break
            if length > limit:  # said at the end: most clients listen only when they have sent everything
                raise Refused(413, f"the body is longer than {limit} bytes", field="body", limit=limit)
            return b"".join(parts)
        finally:
            self._held -= held

    def texts(self, body: bytes) -> list[str]:
        """The texts of a JSON body."""
        try:
            texts = Texts.model_validate_json(body).texts
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part)[:_SHOWN] for part in problem["loc"]) or "body"
            status = 400 if problem["type"] == "json_invalid" else 422
            raise Refused(status, problem["msg"], field=field) from None
        self.check(texts)
        return texts

    def check(self, texts: Sequence[str]) -> None:
        """Refuse too many texts, or one that is too long."""
        settings = self._settings
        if len(texts) > settings.max_texts:
            raise Refused(
                422,
                f"there are {len(texts)} texts, at most {settings.max_texts} are taken in one request",
                field="texts",
                limit=settings.max_texts,
            )
        for i, text in enumerate(texts):
            if len(text) > settings.max_chars:
                raise Refused(
                    422,
                    f"the text has {len(text)} characters, at most {settings.max_chars} are taken",
                    field=f"texts.{i}",
                    limit=settings.max_chars,
                )


class Gone(Exception):  # noqa: N818 - as in "the client is gone"
    """The client left; there is nobody to answer."""
