"""The OpenAPI document, made of the types that requests and answers are checked against."""

from typing import Any

from pydantic.json_schema import models_json_schema

from serving.web.intake import ARROW, JSON
from serving.web.schemas import ErrorBody, Model, Results, Texts

_PLACE = "#/components/schemas/{model}"
_REASONS = {
    400: "The body can't be parsed",
    401: "The token is missing or wrong",
    408: "The body took too long to arrive",
    413: "The body is too long",
    415: "The body is of another type, or compressed",
    422: "A field is wrong or beyond a limit; the error names both",
    503: "Overloaded, or the model is being loaded: try again after Retry-After seconds",
}
_VERSION = "1"  # of these paths and bodies
_OF_BODIES = (400, 408, 413, 415, 422)


def document(*, secured: bool) -> dict[str, Any]:
    """As OpenAPI 3.1; `secured` says whether a token is needed."""
    _, schemas = models_json_schema(
        [(Texts, "validation"), (Results, "serialization"), (Model, "serialization"), (ErrorBody, "serialization")],
        ref_template=_PLACE,
    )
    components: dict[str, Any] = {"schemas": schemas["$defs"]}
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    stream = {ARROW: {"schema": {"type": "string", "format": "binary"}}}
    paths = {
        "/classify": {"post": _operation(
            "classify", "Label texts", secured, _typed(Results), {JSON: {"schema": _reference(Texts)}}
        )},
        "/classify/arrow": {"post": _operation(
            "classifyArrow", "Label the column `text` of an Arrow IPC stream", secured, stream, stream
        )},
        "/model": {"get": _operation("model", "What is known of the model", secured, _typed(Model))},
        "/livez": {"get": _plain("livez", "Whether the process works")},
        "/healthz": {"get": _plain("healthz", "The same")},
        "/readyz": {"get": _plain("readyz", "Whether a model has proved itself and answers", not_ready=True)},
        "/metrics": {"get": _plain("metrics", "For Prometheus")},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "llambert", "version": _VERSION, "description": "Labels texts with an exported encoder."},
        "paths": paths,
        "components": components,
    }


def _operation(
    name: str, summary: str, secured: bool, answer: dict[str, Any], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    statuses = [*(_OF_BODIES if body else ()), *([401] if secured else []), 503]
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "Done", "content": answer}}
        | {str(status): _refusal(status) for status in sorted(statuses)},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": body}
    if secured:
        operation["security"] = [{"token": []}]
    return operation


def _refusal(status: int) -> dict[str, Any]:
    refusal: dict[str, Any] = {"description": _REASONS[status], "content": _typed(ErrorBody)}
    if status == 503:
        refusal["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
    return refusal


def _plain(name: str, summary: str, *, not_ready: bool = False) -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    responses = {"200": {"description": "Yes", "content": text}}
    if not_ready:
        responses["503"] = {"description": "Not yet", "content": text}
    return {"operationId": name, "summary": summary, "responses": responses}


def _reference(model: type) -> dict[str, str]:
    return {"$ref": _PLACE.format(model=model.__name__)}


def _typed(model: type) -> dict[str, Any]:
    return {JSON: {"schema": _reference(model)}}
