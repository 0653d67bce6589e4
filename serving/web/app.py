"""The routes. An answer's way: token, room in the queue, body, limits, tokens, queue, engine, answer."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.runtimes import Floats
from serving.web import page
from serving.web.intake import ARROW, JSON, Gone, Intake, Refused
from serving.web.keeper import Keeper, Served
from serving.web.openapi import document
from serving.web.schemas import Error, ErrorBody, Limits, Model
from serving.web.settings import Settings

log = logging.getLogger("llambert")
_CHUNK = 64  # texts that are tokenized in one go: between them others have their turn
_CHARS_PER_TOKEN = 4  # a guess, for room in the queue before texts are tokenized
_LEFT = 499  # status in the metrics of a request whose client left (nginx's number)
Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """All that one process serves."""

    def __init__(self, settings: Settings) -> None:
        self.keeper = Keeper(settings)
        self.settings = settings
        self._intake = Intake(settings)
        self._document = document(secured=settings.token is not None)

    def routes(self) -> list[Route]:
        """All but health, which is BentoML's."""
        routes = [
            self._route("/classify", "POST", self.classify),
            self._route("/classify/arrow", "POST", self.classify_arrow),
            self._route("/model", "GET", self.model),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            Route("/", page.show),
        ]
        known = {route.path: sorted(route.methods or ()) for route in routes}
        return [*routes, Route("/{path:path}", _Unknown(known))]

    def _route(self, path: str, method: str, handler: Handler) -> Route:
        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            response = await self._answered(handler, request)
            metrics = self.keeper.metrics
            metrics.requests.labels(path, response.status_code).inc()
            metrics.request_seconds.labels(path).observe(time.perf_counter() - started)
            return response

        return Route(path, answer, methods=[method])

    async def _answered(self, handler: Handler, request: Request) -> Response:
        try:
            self._intake.authorize(request)
            return await handler(request)
        except Refused as refused:
            # what may never end is not read to its end
            endless = refused.status in (408, 413) or "transfer-encoding" in request.headers
            return _json(refused.body, refused.status, refused.headers | ({"connection": "close"} if endless else {}))
        except Gone:
            self.keeper.metrics.gone.inc()
            return Response(status_code=_LEFT)
        except Exception:
            log.exception("%s failed. This is a bug.", request.url.path)
            return _error(500, "an error of the service; its log has the details")

    async def classify(self, request: Request) -> Response:
        """Texts in JSON."""
        self._admit()
        texts = self._intake.texts(await self._intake.body(request, JSON))
        served, probabilities = await self._labels(texts, request)
        return Response(to_json(_results(served, probabilities)), media_type=JSON)

    async def classify_arrow(self, request: Request) -> Response:
        """Texts in an Arrow stream."""
        from serving.web import arrow

        self._admit()
        body = await self._intake.body(request, ARROW)
        texts = await asyncio.to_thread(arrow.texts_of, body, self.settings.max_texts)
        self._intake.check(texts)
        served, probabilities = await self._labels(texts, request)
        engine = served.loaded.engine
        about = {name: str(value or "") for name, value in _model(served).items()}
        labels = to_json(engine.labels).decode()
        about |= {"labels": labels, "kind": engine.shape.kind}
        return Response(arrow.answer(probabilities, engine.shape, about), media_type=ARROW)

    def _admit(self) -> Served:
        """The model that answers, if there is one and its queue has room.

        A request that is let in may fill the queue beyond its limit: otherwise long ones would have to find it empty.
        """
        served = self.keeper.current
        if served is None:
            raise Refused(503, "the model is being loaded: try again", headers={"retry-after": "5"})
        if served.batcher.tokens >= self.settings.max_queued_tokens:
            self.keeper.metrics.shed.inc()
            wait_s = math.ceil(served.batcher.tokens / served.batcher.tokens_per_s)
            raise Refused(
                503,
                "too many tokens wait: try again later",
                limit=self.settings.max_queued_tokens,
                headers={"retry-after": str(max(1, wait_s))},
            )
        return served

    async def _labels(self, texts: Sequence[str], request: Request) -> tuple[Served, Floats]:
        """Probabilities [texts, classes], unless the client leaves."""
        served = self._admit()  # again: many bodies may have arrived at once
        work = asyncio.ensure_future(self._classified(served, texts))
        leaving = asyncio.ensure_future(_left(request))
        leaving.add_done_callback(lambda _: work.cancel())
        try:
            probabilities = await work
        except asyncio.CancelledError:
            if leaving.done() and not leaving.cancelled():
                raise Gone from None
            work.cancel()
            raise
        finally:
            leaving.cancel()
        self._count(served, texts, probabilities)
        return served, probabilities

    async def _classified(self, served: Served, texts: Sequence[str]) -> Floats:
        metrics, engine = self.keeper.metrics, served.loaded.engine
        started = time.perf_counter()
        with served.in_use():
            with served.batcher.announced(sum(map(len, texts)) // _CHARS_PER_TOKEN + 2 * len(texts)):
                parts = [
                    await asyncio.to_thread(engine.pieces, texts[at : at + _CHUNK])
                    for at in range(0, len(texts), _CHUNK)
                ]
            pieces = [piece for ids, _ in parts for piece in ids]
            owners = np.concatenate([owners + i * _CHUNK for i, (_, owners) in enumerate(parts)])
            metrics.seconds.labels("tokenize").observe(time.perf_counter() - started)
            with served.batcher.ticket(pieces, len(engine.labels)) as ticket:
                await ticket.done
            metrics.seconds.labels("queue").observe((ticket.began or ticket.submitted) - ticket.submitted)
            probabilities = engine.probabilities(ticket.scores, owners, len(texts))
            if served.watch:
                served.watch.see(texts, pieces, owners, probabilities)
            return probabilities

    def _count(self, served: Served, texts: Sequence[str], probabilities: Floats) -> None:
        shape = served.loaded.engine.shape
        for label, count in zip(shape.labels, shape.given(probabilities).sum(axis=0), strict=True):
            self.keeper.metrics.labels.labels(label).inc(int(count))
        self.keeper.metrics.texts.inc(len(texts))
        self.keeper.follow(texts, shape.decide(probabilities).labels)

    async def model(self, request: Request) -> Response:
        """What is known of the model."""
        if (served := self.keeper.current) is None:
            raise Refused(503, "the model is being loaded: try again", headers={"retry-after": "5"})
        loaded, settings = served.loaded, self.settings
        manifest, engine = loaded.manifest, loaded.engine
        graph = manifest.precisions[engine.precision][engine.runtime]
        about = Model(
            **_model(served),
            labels=manifest.labels,
            kind=manifest.kind,
            thresholds=manifest.thresholds,
            precision=engine.precision,
            runtime=engine.runtime,
            max_tokens=manifest.max_tokens,
            truncation=manifest.truncation,
            temperature=manifest.temperature,
            files=graph.files | manifest.common,
            flips=graph.flips,
            max_difference=graph.max_difference,
            created_with=manifest.created_with,
            metrics=loaded.version.metrics,
            limits=Limits(texts=settings.max_texts, chars=settings.max_chars, body_bytes=settings.max_body_bytes),
        )
        return _json(about)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self.keeper.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        return Response(to_json(self._document), media_type=JSON)


def create(settings: Settings) -> tuple[Starlette, Service]:
    """The application, which loads its model when it starts and finishes what waits when it ends."""
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.keeper.start()
        yield
        await service.keeper.stop()

    return Starlette(routes=service.routes(), lifespan=lifespan), service


class _Unknown:
    """Every other path or method; otherwise BentoML's own pages would show."""

    def __init__(self, known: dict[str, list[str]]) -> None:
        self._known = known

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        if methods := self._known.get(scope["path"]):
            response = _error(
                405, f"{scope['method']} is not among {', '.join(methods)}", {"allow": ", ".join(methods)}
            )
        else:
            response = _error(404, "there is no such path; /openapi.json lists them")
        await response(scope, receive, send)


async def _left(request: Request) -> None:
    """Until the client leaves; the body has been read."""
    with suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return
    raise asyncio.CancelledError


def _model(served: Served) -> dict[str, Any]:
    version = served.loaded.version
    return {"name": version.name, "version": version.number or None, "model_hash": served.loaded.engine.model_hash}


def _results(served: Served, probabilities: Floats) -> dict[str, Any]:
    shape = served.loaded.engine.shape
    decided = shape.decide(probabilities)
    rows = np.round(probabilities.astype(np.float64), 6).tolist()
    sure = np.round(decided.confidence.astype(np.float64), 6).tolist()
    results: list[dict[str, Any]] = [
        {"label": label, "confidence": one, "probabilities": dict(zip(shape.labels, row, strict=True))}
        for label, one, row in zip(decided.labels, sure, rows, strict=True)
    ]
    if shape.kind == "multi":
        results = [result | {"labels": shape.names(result["label"])} for result in results]
    if decided.scores is not None:
        scores = np.round(decided.scores.astype(np.float64), 6).tolist()
        results = [result | {"score": score} for result, score in zip(results, scores, strict=True)]
    return {"model": _model(served), "results": results}


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:  # noqa: ANN401 - any model
    return Response(to_json(body), status, headers, JSON)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json(ErrorBody(error=Error(field=None, message=message, limit=None)), status, headers)
