"""Renderings against the API's own schemas: Kubernetes' in all versions, and custom resources' definitions."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart import Document, documents, everything, of_kind, rendered, scenarios
from kubernetes_validate import utils

CRDS = Path(__file__).parents[2] / "shared" / "crds"
CUSTOM = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute"}
VERSIONS = sorted({v for v in utils.all_versions() if utils.Version(v) >= utils.Version("1.29")}, key=utils.Version)


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Iterator[None]:
    before, utils.schema_contents = utils.schema_contents, cache(utils.schema_contents)
    yield
    utils.schema_contents = before


@cache
def distinct() -> list[Document]:
    """All different documents of all scenarios."""
    found = [document for scenario in scenarios() for document in rendered(scenario)] + documents(everything())
    return list({json.dumps(document, sort_keys=True): document for document in found}.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_all_that_is_not_custom(version: str) -> None:
    kinds = set()
    for document in distinct():
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)  # an unknown kind is SchemaNotFoundError
            kinds.add(document["kind"])
    assert kinds >= {"Deployment", "Job", "NetworkPolicy", "Pod", "PersistentVolumeClaim", "Ingress", "ServiceAccount"}
    assert kinds >= {"HorizontalPodAutoscaler", "PodDisruptionBudget", "ConfigMap", "Service"}


def test_an_unknown_field_or_kind_would_be_found() -> None:
    (budget,) = of_kind(documents(), "PodDisruptionBudget")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**budget, "spec": {**budget["spec"], "maxUnavailabel": 1}}, VERSIONS[0], strict=True
        )
    with pytest.raises(utils.SchemaNotFoundError):
        kubernetes_validate.validate({**budget, "kind": "PodDisruptionBudgets"}, VERSIONS[0], strict=True)


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses fields which it doesn't name; the API server would drop them without a word."""
    if isinstance(schema, list):
        return [strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
        out.pop("anyOf", None)
    return out


@cache
def definition(kind: str) -> jsonschema.Draft202012Validator:
    if not CRDS.is_dir():
        pytest.skip("there are no custom resource definitions beside the repository")
    for path in CRDS.glob("*.yaml"):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)
        if crd["spec"]["names"]["kind"] == kind:
            (version,) = [v for v in crd["spec"]["versions"] if v["storage"]]
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            return jsonschema.Draft202012Validator(schema)
    pytest.skip(f"there is no definition of {kind} beside the repository")


@pytest.mark.parametrize("kind", ["ScaledObject", "ServiceMonitor", "PrometheusRule"])
def test_custom_resources_fit_their_definitions(kind: str) -> None:
    validator = definition(kind)
    found = [d for d in distinct() if d["kind"] == kind]
    assert found
    for document in found:
        validator.validate(document)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**found[0], "spec": {**found[0]["spec"], "unknown": 1}})


def test_http_routes_are_complete() -> None:
    """Of the Gateway API v1: what must be there, and nothing that it doesn't know."""
    routes = [d for d in distinct() if d["kind"] == "HTTPRoute"]
    assert routes
    for route in routes:
        assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
        assert set(route["spec"]) <= {"parentRefs", "hostnames", "rules"}
        assert all(parent["name"] for parent in route["spec"]["parentRefs"])
        (rule,) = route["spec"]["rules"]
        assert set(rule) == {"matches", "backendRefs"}
        assert [m["path"]["type"] for m in rule["matches"]] == ["PathPrefix"]
        assert {frozenset(ref) for ref in rule["backendRefs"]} == {frozenset({"name", "port", "weight"})}
        assert sum(ref["weight"] for ref in rule["backendRefs"]) == 100
