"""Every pod of every rendering: the Pod Security Standard `restricted`, Secrets, images, GPUs."""

import re
from typing import Any

import helm_python as helm
import pytest
from chart import CHART, Document, containers, documents, everything, of_kind, pod_templates, rendered, scenarios

ALL = [*scenarios()]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: Document) -> list[str]:
    """What `restricted` (version latest) and this project forbid, as a list of words."""
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(key)]
    found += [f"volume {v['name']}" for v in spec.get("volumes", []) if not (set(v) - {"name"}) <= VOLUMES]
    wanted = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    found += [key for key, value in wanted.items() if security.get(key) != value]
    if spec.get("automountServiceAccountToken") is not False:
        found.append("automountServiceAccountToken")
    if spec.get("enableServiceLinks") is not False:
        found.append("enableServiceLinks")  # a Service called vllm would set VLLM_PORT, which vLLM reads
    for container in containers(pod):
        found += [f"{container['name']}: {words}" for words in _violations(container)]
    return found


def _violations(container: Document) -> list[str]:
    security = container.get("securityContext", {})
    wanted: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    found = [key for key, value in wanted.items() if security.get(key) != value]
    found += [key for key in ("privileged", "procMount", "runAsUser") if key in security]
    found += ["hostPort" for port in container.get("ports", []) if "hostPort" in port]
    if {"name": "tmp", "mountPath": "/tmp"} not in container["volumeMounts"]:
        found.append("no /tmp")
    return found


@pytest.mark.parametrize("scenario", ALL)
def test_pods_are_restricted(scenario: str) -> None:
    pods = pod_templates(rendered(scenario))
    assert pods
    assert {name: violations(pod) for name, pod in pods if violations(pod)} == {}


def test_all_kinds_of_pods_are_looked_at() -> None:
    names = {container["name"] for _, pod in pod_templates(documents(everything())) for container in containers(pod)}
    assert names == {"serving", "fetch", "label", "vllm", "mlflow", "classify"}


def test_a_violation_would_be_found() -> None:
    (_, pod), *_ = pod_templates(documents())
    del pod["spec"]["securityContext"]["seccompProfile"]
    pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]
    assert violations(pod) == ["seccompProfile", "serving: capabilities"]


@pytest.mark.parametrize("scenario", ALL)
def test_no_pod_gets_a_token_of_the_api(scenario: str) -> None:
    accounts = of_kind(rendered(scenario), "ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    known = {account["metadata"]["name"] for account in accounts} | {"mine"}
    assert {pod["spec"]["serviceAccountName"] for _, pod in pod_templates(rendered(scenario))} <= known


def references(value: Any, found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Kind and name of all Secrets, ConfigMaps and claims that are referred to."""
    if isinstance(value, dict):
        for key, kind in (("secretKeyRef", "Secret"), ("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if key in value:
                found.add((kind, value[key]["name"]))
        for key, kind in (("secretName", "Secret"), ("claimName", "PersistentVolumeClaim")):
            if key in value:
                found.add((kind, value[key]))
        for inner in value.values():
            references(inner, found)
    elif isinstance(value, list):
        for inner in value:
            references(inner, found)
    return found


def existing(values: Any) -> set[str]:
    """What values name as existing."""
    if isinstance(values, list):
        return set().union(*(existing(inner) for inner in values))
    if not isinstance(values, dict):
        return set()
    own = {str(value) for key, value in values.items() if key in ("existingSecret", "existingClaim")}
    return own.union(*(existing(inner) for inner in values.values()))


@pytest.mark.parametrize("scenario", ALL)
def test_what_is_referred_to_is_there_or_named_as_existing(scenario: str) -> None:
    made = {(d["kind"], d["metadata"]["name"]) for d in rendered(scenario)}
    named = existing(scenarios()[scenario])
    assert [r for r in references(rendered(scenario), set()) if r not in made and r[1] not in named] == []


def test_no_secret_is_rendered_or_stands_in_an_argument() -> None:
    docs = documents(everything())
    assert of_kind(docs, "Secret") == []
    for _, pod in pod_templates(docs):
        for container in containers(pod):
            assert not any("postgres" in word or "$(" in word for word in container.get("args", []))


@pytest.mark.parametrize("scenario", ALL)
def test_gpus_are_requested_as_they_are_limited(scenario: str) -> None:
    for _, pod in pod_templates(rendered(scenario)):
        for container in containers(pod):
            resources = container["resources"]
            extended = {key for part in resources.values() for key in part if "/" in key}
            for key in extended:
                assert resources["requests"][key] == resources["limits"][key]
            assert "memory" in resources["limits"], "a leak must not take the node with it"


def test_gpu_is_a_matter_of_values() -> None:
    gpu = {"enabled": True, "resourceName": "nvidia.com/mig-1g.10gb", "count": 2}
    docs = documents(
        {"gpu": gpu, "nodeSelector": {"gpu": "yes"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    )
    spec = of_kind(docs, "Deployment")[0]["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 2
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert "nvidia.com/gpu" not in str(of_kind(documents(), "Deployment"))


def images(values: dict[str, Any]) -> set[str]:
    return {c["image"] for _, pod in pod_templates(documents(values)) for c in containers(pod)}


def test_images_are_of_the_charts_version_unless_named() -> None:
    with helm.Chart.load(CHART) as chart:
        version = chart.metadata["appVersion"]
    assert images({}) == {f"llambert-serving:{version}"}
    assert images({"image": {"repository": "registry.example:5000/a/b", "tag": "x"}}) == {"registry.example:5000/a/b:x"}
    digest = "sha256:" + "a" * 64
    assert images({"image": {"digest": digest, "tag": "x"}}) == {f"llambert-serving@{digest}"}
    assert all(re.fullmatch(r"[\w.:/-]+(@sha256:[0-9a-f]{64})?", image) for image in images(everything()))
