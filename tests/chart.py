"""Renderings of the Helm chart: the values files, everything at once, and switches combined in pairs."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml
from helm_python import _native

CHART = Path(__file__).parents[1] / "k8s" / "llambert"
RELEASE, NAMESPACE = "rel", "ns"
Values = dict[str, Any]
Document = dict[str, Any]

# Each factor is a switch with its positions. What the chart refuses is tested apart.
FACTORS: dict[str, tuple[Values, ...]] = {
    "model": (
        {"model": {"version": "7", "shadow": "models:/demo_reviews@challenger", "existingSecret": "mlflow-login"}},
        {"model": {"alias": "champion"}},
        {"model": {"pollSeconds": 30, "existingSecret": "mlflow-login"}},
        {"model": {"source": "pvc", "existingClaim": "models", "path": "reviews/7"}},
        {"model": {"source": "baked"}},
    ),
    "gpu": ({}, {"gpu": {"enabled": True, "count": 2}, "bulk": {"gpu": {"enabled": True}}}),
    "autoscaling": (
        {},
        {"autoscaling": {"hpa": {"enabled": True}}},
        {"autoscaling": {"keda": {"enabled": True}}},
        {"autoscaling": {"keda": {"enabled": True, "aggregate": False}}},
        {"autoscaling": {"keda": {"enabled": True, "trigger": "prometheus"}}},
    ),
    "canary": (
        {},
        {"canary": {"enabled": True, "model": {"source": "mlflow", "version": 8, "pollSeconds": 0}, "weight": 25}},
        {"canary": {"enabled": True, "model": {"source": "baked"}, "image": {"tag": "next"}}},
    ),
    "route": (
        {},
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway", "namespace": "infra"}]}},
        {"ingress": {"enabled": True, "className": "nginx", "annotations": {"a/b": "c"}}},
        {"ingress": {"enabled": True, "tls": [{"hosts": ["llambert.example.org"], "existingSecret": "certificate"}]}},
    ),
    "auth": ({}, {"auth": {"existingSecret": "service-token"}, "extraEnv": [{"name": "A", "value": "b"}]}),
    "network": (
        {},
        {"networkPolicy": {"enabled": True, "fromNamespaces": ["monitoring"]}},
        {"networkPolicy": {"enabled": True, "sameNamespace": False, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    ),
    "monitoring": (
        {},
        {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True},
        },
    ),
    "bulk": (
        {},
        {
            "bulk": {
                "enabled": True,
                "input": "s3://corpus/",
                "output": "s3://labels/1",
                "storage": {"existingSecret": "s3-login", "endpointUrl": "http://minio:9000", "region": "eu"},
            }
        },
        {
            "bulk": {
                "enabled": True,
                "input": "/data/corpus.parquet",
                "output": "/data/labels",
                "args": ["--text-column", "body"],
                "storage": {"existingClaim": "corpus"},
                "model": {"source": "baked"},
                "activeDeadlineSeconds": 86400,
                "ttlSecondsAfterFinished": 3600,
            }
        },
    ),
    "vllm": (
        {},
        {"vllm": {"enabled": True, "huggingFace": {"existingSecret": "hub"}, "auth": {"existingSecret": "vllm-key"}}},
        {"vllm": {"enabled": True, "gpu": {"enabled": False}, "cache": {"existingClaim": "weights"}}},
    ),
    "mlflow": (
        {},
        {"mlflow": {"enabled": True, "backendStore": {"existingSecret": "postgres"}}},
        {
            "mlflow": {
                "enabled": True,
                "backendStore": {"existingSecret": "postgres"},
                "artifacts": {
                    "destination": "s3://mlflow",
                    "existingSecret": "s3-login",
                    "endpointUrl": "http://m:9000",
                },
            }
        },
    ),
    "account": ({}, {"serviceAccount": {"create": False, "name": "mine"}, "pullSecrets": ["registry"]}),
    "placement": (
        {},
        {
            "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "nlp"},
            "topologySpread": {"keys": []},
            "podDisruptionBudget": {"enabled": False},
        },
    ),
    "tests": ({}, {"tests": {"enabled": False}}),
}


def merged(*values: Values) -> Values:
    """Later values over earlier ones, as `helm -f a -f b` merges them."""
    out: Values = {}
    for each in values:
        for key, value in each.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merged(out[key], value) if both else value
    return out


def pairwise(sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Rows of positions such that any two positions of any two factors meet in one (greedy)."""
    missing = {
        (a, i, b, j) for a, b in combinations(range(len(sizes)), 2) for i in range(sizes[a]) for j in range(sizes[b])
    }
    while missing:
        a, i, b, j = min(missing)
        row = {a: i, b: j}
        for factor in range(len(sizes)):
            if factor not in row:
                row[factor] = max(range(sizes[factor]), key=lambda p, f=factor: len(missing & _pairs(row | {f: p}, f)))
        missing -= set().union(*(_pairs(row, f) for f in row))
        yield tuple(row[factor] for factor in range(len(sizes)))


def _pairs(row: dict[int, int], factor: int) -> set[tuple[int, int, int, int]]:
    return {(min(factor, f), row[min(factor, f)], max(factor, f), row[max(factor, f)]) for f in row if f != factor}


@cache
def scenarios() -> dict[str, Values]:
    """Values by a name: the defaults, every values file, every position of every switch, and pairs of them."""
    out: dict[str, Values] = {"defaults": {}}
    for path in sorted(CHART.glob("values-*.yaml")):
        out[path.stem] = helm.values_from_yaml(path.read_text())
    factors = list(FACTORS.values())
    for number, row in enumerate(pairwise([len(positions) for positions in factors])):
        out[f"pairs-{number}"] = merged(*(positions[at] for positions, at in zip(factors, row, strict=True)))
    return out


def everything(**more: Any) -> Values:
    """All that can be on together."""
    chosen = {
        "autoscaling": 2,
        "canary": 1,
        "route": 1,
        "auth": 1,
        "network": 1,
        "monitoring": 1,
        "bulk": 1,
        "vllm": 1,
        "mlflow": 1,
    }
    on = [FACTORS[name][at] for name, at in chosen.items()]
    return merged(*on, {"ingress": {"enabled": True}, "model": {"version": "7"}}, more)


def render(values: Values | None = None, name: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """Texts by template, for the oldest Kubernetes that the chart takes."""
    options = {"name": name, "namespace": namespace, "kube_version": "1.29.0"}
    arguments = (loaded()._raw(), json.dumps(values or {}), json.dumps(options))
    texts: dict[str, str] = json.loads(_native.call_string("helm_render", *arguments))
    return texts


@cache
def loaded() -> helm.Chart:
    """The chart, read once."""
    return helm.Chart.load(CHART)


def documents(values: Values | None = None, name: str = RELEASE, namespace: str = NAMESPACE) -> list[Document]:
    """What would be sent to Kubernetes."""
    texts = [text for path, text in render(values, name, namespace).items() if path.endswith(".yaml")]
    return [document for text in texts for document in yaml.load_all(text, yaml.CSafeLoader) if document]


@cache
def rendered(scenario: str) -> list[Document]:
    """A scenario's documents; not to be changed."""
    return documents(scenarios()[scenario])


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    """Those of a kind."""
    return [document for document in documents if document["kind"] == kind]


def named(documents: list[Document], kind: str, name: str) -> Document:
    """The one with that kind and name."""
    (found,) = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == name]
    return found


def pod_templates(documents: list[Document]) -> list[tuple[str, Document]]:
    """Name, and metadata with spec, of all pods."""
    pods = [(d["metadata"]["name"], d["spec"]["template"]) for d in documents if "template" in d.get("spec", {})]
    return pods + [(d["metadata"]["name"], d) for d in of_kind(documents, "Pod")]


def containers(pod: Document) -> list[Document]:
    """All of a pod, initContainers among them."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
