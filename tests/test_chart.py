"""The chart as a package: lint, schema, values that nothing reads."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from chart import CHART, FACTORS, everything, merged, render, scenarios

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = helm.values_from_yaml((CHART / "values.yaml").read_text())


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        found += leaves(value, (*path, key)) if inner else [((*path, key), value)]
    return found


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    for part in [schema, *schema.get("allOf", [])]:
        if "$ref" in part:
            return SCHEMA["definitions"][part["$ref"].removeprefix("#/definitions/")]
    return schema


@pytest.mark.parametrize("scenario", [name for name in scenarios() if not name.startswith("pairs")])
def test_lints_strictly(scenario: str) -> None:
    report = helm.lint(CHART, scenarios()[scenario], strict=True, namespace="ns", kube_version="v1.29.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_packages(tmp_path: Path) -> None:
    archive = helm.package(CHART, destination=tmp_path)
    assert Path(archive).name == "llambert-0.1.0.tgz"
    with helm.Chart.load(archive) as chart:
        packed = {file["name"] for file in chart.files}
        assert {"files/dashboard.json", "files/classify.py", "values-cpu.yaml"} <= packed
        assert chart.render(name="rel", namespace="ns") == render()


def test_pairs_cover_all_pairs() -> None:
    """Of the generator itself: every two positions of two switches are rendered together."""
    rows = [values for name, values in scenarios().items() if name.startswith("pairs")]
    assert len(rows) < 40
    for first, second in [("mlflow", "canary"), ("bulk", "model"), ("network", "vllm")]:
        for one in FACTORS[first]:
            for other in FACTORS[second]:
                both = merged(one, other)
                assert any(merged(row, both) == merged(row) for row in rows), (one, other)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"model": {"verison": "3"}}, "verison"),
        ({"replicas": "3"}, "/replicas"),
        ({"replicas": -1}, "/replicas"),
        ({"replicas": 1.5}, "/replicas"),
        ({"image": {"tag": 7}}, "/image/tag"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"model": None}, "model"),
        ({"config": {"drainSeconds": None}}, "drainSeconds"),
        ({"config": {"precision": "int4"}}, "/config/precision"),
        ({"model": {"version": "latest"}}, "/model/version"),
        ({"model": {"loadSeconds": 0}}, "/model/loadSeconds"),
        ({"canary": {"model": {"sauce": "baked"}}}, "sauce"),
        ({"canary": {"weight": 101}}, "/canary/weight"),
        ({"bulk": {"gpu": {"resources": 1}}}, "/bulk/gpu"),
        ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory"),
        ({"tolerations": [{"kye": "a"}]}, "/tolerations/0"),
        ({"fullnameOverride": "Upper"}, "/fullnameOverride"),
        ({"fullnameOverride": "-a"}, "/fullnameOverride"),
        ({"ingress": {"path": "api"}}, "/ingress/path"),
        ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
    ],
)
def test_schema_names_the_key(values: dict[str, Any], named: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError) as error:
        chart.validate_schema(values)
    assert named in str(error.value)


def test_schema_and_values_have_the_same_keys() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        schema = resolved(schema)
        keys = set(schema.get("properties", {})) - {"global"}
        if "required" in schema:
            assert keys == set(values) == set(schema["required"]), path  # so that null, which removes a key, is refused
        for key in keys & set(values):
            if isinstance(values[key], dict):
                compare(schema["properties"][key], values[key], f"{path}.{key}")

    compare(SCHEMA, DEFAULTS, "values")


def test_schema_is_strict_and_describes_each_key() -> None:
    """Open are only texts by free names, and the parts of Kubernetes that say so."""

    def walk(schema: dict[str, Any], path: str) -> None:
        for key, inner in schema.get("properties", {}).items():
            assert inner.get("description"), f"{path}.{key} has no description"
            walk(inner, f"{path}.{key}")
        if schema.get("type") == "object" and "Kubernetes, not checked" not in schema["description"]:
            assert path == "values.global" or "additionalProperties" in schema, path
            assert schema.get("additionalProperties") is not True, path
            if "properties" in schema:
                assert schema["additionalProperties"] is False, path
        if isinstance(schema.get("items"), dict):
            walk(schema["items"], f"{path}[]")

    walk({**SCHEMA, "description": "all"}, "values")
    for name, definition in SCHEMA["definitions"].items():
        walk(definition, name)


OTHERS: dict[str, Any] = {  # another value where the rule below finds none that the schema takes
    "model.source": "baked",
    "config.precision": "fp32",
    "config.runtime": "openvino",
    "topologySpread.whenUnsatisfiable": "DoNotSchedule",
    "topologySpread.keys": ["zone"],
    "service.type": "NodePort",
    "autoscaling.keda.trigger": "prometheus",
    "podDisruptionBudget.maxUnavailable": "30%",
    "strategy.maxSurge": "30%",
    "extraEnv": [{"name": "A", "value": "b"}],
    "tolerations": [{"key": "a"}],
    "bulk.tolerations": [{"key": "a"}],
    "vllm.tolerations": [{"key": "a"}],
    "mlflow.tolerations": [{"key": "a"}],
    "affinity": {"nodeAffinity": {}},
    "canary.model": {"version": "9"},
    "canary.image": {"tag": "next"},
    "bulk.model": {"version": "9"},
    "bulk.image": {"tag": "next"},
    "ingress.tls": [{"hosts": ["a.example"], "existingSecret": "certificate"}],
    "httpRoute.parentRefs": [{"name": "other"}],
    "networkPolicy.from": [{"podSelector": {}}],
    "networkPolicy.egress": [{"ports": [{"port": 1}]}],
    "model.version": "9",
    "serviceMonitor.interval": "10s",
}


PATTERNS: list[tuple[str, Any]] = [
    (r"digest$", "sha256:" + "0" * 64),
    (r"pullPolicy$", "Always"),
    (r"resourceName$", "amd.com/gpu"),
    (r"(Uri|Url|Address)$", "http://other:1234"),
    (r"(memory|[sS]ize|sizeLimit|Size)$", "99Gi"),
    (r"cpu$", "99"),
    (r"([pP]ath)$", "/other"),
    (r"", "other"),
]


def another(path: str, value: Any) -> Any:
    """A different value that the schema takes."""
    if path in OTHERS:
        return OTHERS[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if float(value).is_integer() else value / 2
    if isinstance(value, list | dict):
        return ["other"] if isinstance(value, list) else {"other": "value"}
    return next(other for pattern, other in PATTERNS if re.search(pattern, path))


BASES = [
    everything(),
    everything(model={"version": "", "pollSeconds": 0}),
    everything(model={"source": "pvc", "existingClaim": "claim", "version": ""}),
    everything(model={"source": "baked", "version": ""}, serviceAccount={"create": False}),
    everything(gpu={"enabled": True}, bulk={"gpu": {"enabled": True}}, autoscaling={"keda": {"trigger": "prometheus"}}),
    merged({"model": {"trackingUri": "http://elsewhere:80"}}),
    merged(
        {
            "mlflow": {
                "enabled": True,
                "backendStore": {"existingSecret": "postgres"},
                "artifacts": {"storageClass": "a"},
            }
        }
    ),
    everything(mlflow={"artifacts": {"destination": "s3://mlflow"}}, bulk={"storage": {"existingClaim": "data"}}),
]


@cache
def before(base: int) -> dict[str, str]:
    return render(BASES[base])


def changes(base: int, values: dict[str, Any]) -> bool:
    try:
        return render(merged(BASES[base], values)) != before(base)
    except helm.HelmRenderError:
        return True  # refused, for what it is combined with


@pytest.mark.parametrize(("keys", "value"), [pytest.param(*leaf, id=".".join(leaf[0])) for leaf in leaves(DEFAULTS)])
def test_every_value_is_read(keys: tuple[str, ...], value: Any) -> None:
    other = at(keys, another(".".join(keys), value))
    assert any(changes(base, other) for base in range(len(BASES))), "it changes nothing"
