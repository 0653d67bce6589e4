"""The BentoML service: `python -m serving serve`, or `bentoml serve serving.service:Llambert`.

BentoML supervises the process, listens and answers for its health. Requests go to an application of our own, for
BentoML's batching counts requests and not tokens (docs/decisions.md has figures). What of BentoML would cost every
request time or memory is off: its log of accesses, its counters, its tracing, its time-out.
"""

import logging
from typing import Any

import bentoml
from bentoml._internal.server.http import traffic

from serving.web.app import create
from serving.web.settings import Settings


class _Untimed:
    """In the place of BentoML's time-out, which can't be switched off: it keeps a timer of each request for a minute.

    The queue is bounded, bodies have a time of their own, and a client that gives up is noticed.
    """

    def __init__(self, app: Any, timeout: float) -> None:  # noqa: ANN401 - ASGI
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await self._app(scope, receive, send)


def _speak() -> None:
    """Log as BentoML does; it leaves other people's loggers alone."""
    logger = logging.getLogger("llambert")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter("%(asctime)s [%(levelname)s] [llambert] %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        logger.addHandler(handler)
        logger.propagate = False


_speak()
traffic.TimeoutMiddleware = _Untimed  # type: ignore[misc,assignment]
app, service = create(Settings.read())


@bentoml.asgi_app(app, path="/")
@bentoml.service(
    name="llambert",
    workers=1,  # the engine takes all cores, and one queue makes better batches than two
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Llambert:
    """Holds nothing: `app` does."""

    def __is_ready__(self) -> bool:
        return service.keeper.current is not None

    def __is_alive__(self) -> bool:
        return service.keeper.alive
