"""The page and its four requests. A person's answer is in the store before the page hears that it is.

Whoever knows the token in the path may speak to it; names other than this machine's own are refused, so that a page of
somebody else's cannot reach it by pointing its name here (DNS rebinding). Labels of the model stay on this side until
the person has chosen, unless they are to be shown.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from pipeline.errors import UserError
from pipeline.review.store import Said, opened
from pipeline.reviewing import PICKED_WITH_ONE_KEY, UNCLEAR, Item, keys, takes
from serving.shapes import NONE, SEPARATOR, Shape

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_PARTS = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
_MAX_BODY_BYTES = 65_536
Json = dict[str, Any]


class Refused(Exception):  # noqa: N818 - as in `serving.web`
    """A request that can't be answered, with the status and what the page shows."""

    def __init__(self, status: int, message: str, **more: object) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, **more}


class _Saying(BaseModel):
    """What the page sends: all that the person says of an item."""

    model_config = ConfigDict(strict=True, extra="forbid")
    label: str | None
    note: Annotated[str, Field(max_length=5000)]
    seconds: Annotated[float, Field(ge=0, le=1e6)] | None
    expected: str | None  # the label that the page showed before


@dataclass(frozen=True)
class Review:
    """One person's look at a list of items."""

    title: str
    criterion: str
    shape: Shape
    items: list[Item]
    reviewer: str
    blind: bool
    store: Path
    by_key: dict[str, Item] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_key", {item.key: item for item in self.items})

    @property
    def labels(self) -> list[str]:
        """The task's."""
        return list(self.shape.labels)

    @property
    def batch(self) -> str:
        """Another one makes an open page load itself again."""
        facts = repr([self.labels, self.blind, self.reviewer, *self.by_key])
        return blake2b(facts.encode(), digest_size=8).hexdigest()

    def state(self) -> Json:
        """All but the texts, in the order in which they are shown."""
        with opened(self.store) as store:
            said, pace_s = store.said(self.reviewer), store.pace_s(self.reviewer)
        by_label = keys(self.labels)
        known = {key: self._known(said.get(key, Said())) for key in self.by_key}
        return {
            "batch": self.batch,
            "title": self.title,
            "criterion": self.criterion,
            "reviewer": self.reviewer,
            "labels": [{"name": label, "keys": by_label[label]} for label in self.labels],
            "unclear": UNCLEAR if UNCLEAR not in self.labels else None,
            "keys": {action[1:]: found for action, found in by_label.items() if action.startswith(":")},
            "filter": len(self.labels) > PICKED_WITH_ONE_KEY,
            "sets": {"separator": SEPARATOR, "none": NONE} if self.shape.kind == "multi" else None,
            "items": [{"key": key, "label": one.label, "noted": bool(one.note)} for key, one in known.items()],
            "pace_s": pace_s,
        }

    def _known(self, said: Said) -> Said:
        """A label that the task no longer has is no answer."""
        return said if said.label is None or takes(self.shape, said.label) else Said(None, said.note)

    def item(self, key: str) -> Json:
        """A text, and what was said of it if the person may know."""
        item = self._item(key)
        with opened(self.store) as store:
            said = self._known(store.said(self.reviewer).get(key, Said()))
        shown = self._shown(item) if said.label or not self.blind else None
        return {"id": item.id, "text": item.text, "label": said.label, "note": said.note, "shown": shown}

    def save(self, key: str, body: bytes) -> Json:
        """Keep an answer, and say what the model said."""
        item = self._item(key)
        try:
            saying = _Saying.model_validate_json(body)
        except ValidationError as error:
            raise Refused(422, f"not an answer: {error.errors(include_url=False)[0]['msg']}") from None
        if saying.label is not None and not takes(self.shape, saying.label):
            raise Refused(422, f"{saying.label!r} is no label of this task")
        with opened(self.store) as store:
            said = Said(saying.label, saying.note.strip())
            other = store.save(key, self.reviewer, said, saying.seconds, saying.expected)
            if other is not None:
                raise Refused(409, f"it was labelled {other!r} in another tab meanwhile: choose again", label=other)
            return {"shown": self._shown(item) if saying.label else None, "pace_s": store.pace_s(self.reviewer)}

    def undo(self) -> Json:
        """Take the last answer back."""
        with opened(self.store) as store:
            key = store.undo(self.reviewer, self.by_key)
            said = self._known(store.said(self.reviewer).get(key or "", Said()))
        return {"key": key, "label": said.label, "noted": bool(said.note)}

    def _item(self, key: str) -> Item:
        if key not in self.by_key:
            raise Refused(410, "the review was started again with other items", reload=True)
        return self.by_key[key]

    @staticmethod
    def _shown(item: Item) -> Json:
        return {name: getattr(item, name) for name in ("label", "confidence", "suggested", "reference", "reason")}


def create(review: Review, token: str) -> Starlette:
    """The application; everything stands below `/token/`."""
    routes = [
        *(Route(f"/{path}", _part(*part)) for path, part in _PARTS.items()),
        Route("/state", _answering(review, lambda request, body: review.state())),
        Route("/items/{key}", _answering(review, lambda request, body: review.item(request.path_params["key"]))),
        Route("/items/{key}", _answering(review, lambda request, body: review.save(request.path_params["key"], body)),
              methods=["POST"]),
        Route("/undo", _answering(review, lambda request, body: review.undo()), methods=["POST"]),
    ]  # fmt: skip
    # no name of another machine, whatever it points to
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], middleware=[hosts])


def _part(name: str, media_type: str) -> Callable[[Request], Response]:
    content = (files("pipeline.review") / name).read_bytes()
    return lambda request: Response(content, media_type=media_type, headers=_HEADERS)


def _answering(review: Review, handle: Callable[[Request, bytes], Json]) -> Callable[[Request], Any]:
    """Answer in JSON; what goes wrong on the way to the disk is said, and the page tries again."""

    async def answer(request: Request) -> Response:
        try:
            body = await _body(request)
            if request.url.path.rsplit("/", 1)[1] != "state" and request.query_params.get("batch") != review.batch:
                raise Refused(410, "the review was started again with other items", reload=True)
            return JSONResponse(await run_in_threadpool(partial(handle, request, body)), headers=_HEADERS)
        except Refused as refused:
            return JSONResponse(refused.body, refused.status, headers=_HEADERS)
        except (sqlite3.OperationalError, UserError, OSError) as error:
            return JSONResponse({"error": f"not saved: {error}"}, 503, headers=_HEADERS)

    return answer


async def _body(request: Request) -> bytes:
    if request.method != "POST":
        return b""
    if request.headers.get("content-type") != "application/json":  # which no form of another site can send
        raise Refused(415, "application/json is taken")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise Refused(413, "that is too long")
    return body
