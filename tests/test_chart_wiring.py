"""Parts of the chart fit each other: selectors, models, probes, names, notes; and what can't work is refused."""

import re
import subprocess
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from chart import (
    Document,
    Values,
    documents,
    everything,
    named,
    of_kind,
    pod_templates,
    render,
    rendered,
    scenarios,
)

ALL = [*scenarios()]


def pod_of(values: Values, name: str = "rel-llambert") -> Document:
    spec: Document = named(documents(values), "Deployment", name)["spec"]["template"]["spec"]
    return spec


def variables(container: Document) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container["env"]}


def selected(selector: dict[str, str], docs: list[Document]) -> set[str]:
    return {name for name, pod in pod_templates(docs) if selector.items() <= pod["metadata"].get("labels", {}).items()}


@pytest.mark.parametrize("scenario", ALL)
def test_each_selector_matches_the_pods_that_it_is_for(scenario: str) -> None:
    docs = rendered(scenario)
    for deployment in of_kind(docs, "Deployment"):
        assert selected(deployment["spec"]["selector"]["matchLabels"], docs) == {deployment["metadata"]["name"]}
    for service in of_kind(docs, "Service"):
        assert selected(service["spec"]["selector"], docs) == {service["metadata"]["name"]}
        (pod,) = [pod for name, pod in pod_templates(docs) if name == service["metadata"]["name"]]
        ports = {port["name"] for c in pod["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of_kind(docs, "PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]["matchLabels"], docs) == {"rel-llambert"}
    for policy in of_kind(docs, "NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"]["matchLabels"], docs)
    for deployment in of_kind(docs, "Deployment"):
        for spread in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert selected(spread["labelSelector"]["matchLabels"], docs) == {deployment["metadata"]["name"]}


@pytest.mark.parametrize("scenario", ALL)
def test_routes_lead_to_services_that_there_are(scenario: str) -> None:
    docs = rendered(scenario)
    services = {s["metadata"]["name"]: s["spec"]["ports"][0] for s in of_kind(docs, "Service")}
    for route in of_kind(docs, "HTTPRoute"):
        for ref in route["spec"]["rules"][0]["backendRefs"]:
            assert services[ref["name"]]["port"] == ref["port"]
    for ingress in of_kind(docs, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            backend = rule["http"]["paths"][0]["backend"]["service"]
            assert services[backend["name"]]["name"] == backend["port"]["name"]


@pytest.mark.parametrize("scenario", ALL)
def test_mounts_have_volumes_and_volumes_are_mounted(scenario: str) -> None:
    for name, pod in pod_templates(rendered(scenario)):
        mounted = {
            m["name"]
            for c in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
            for m in c["volumeMounts"]
        }
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}, name


def test_a_version_is_fetched_before_the_service_starts() -> None:
    pod = pod_of({"model": {"version": 12}})
    assert pod["initContainers"][0]["args"][-2:] == ["models:/demo_reviews/12", "int8"]
    served = variables(pod["containers"][0])
    assert (served["LLAMBERT_MODEL"], served["LLAMBERT_POLL_S"]) == ("/model/current", "0")
    assert "MLFLOW_TRACKING_URI" not in served
    assert pod_of({"model": {"version": 1e6}})["initContainers"][0]["args"][-2] == "models:/demo_reviews/1000000"
    assert pod_of({})["initContainers"][0]["args"][-2] == "models:/demo_reviews@champion"


def test_the_service_can_follow_the_alias_itself() -> None:
    pod = pod_of({"model": {"pollSeconds": 15}})
    assert "initContainers" not in pod
    served = variables(pod["containers"][0])
    assert (served["LLAMBERT_MODEL"], served["LLAMBERT_POLL_S"]) == ("models:/demo_reviews@champion", "15")
    assert served["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "model"]
    assert served["LLAMBERT_CACHE"] == mount["mountPath"]
    assert mount["readOnly"] is False


def test_a_model_can_lie_in_a_claim_or_in_the_image() -> None:
    pod = pod_of({"model": {"source": "pvc", "existingClaim": "models", "path": "/a/b"}})
    assert "initContainers" not in pod
    assert {"name": "model", "mountPath": "/model", "subPath": "a/b", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    pod = pod_of({"model": {"source": "baked", "path": "/opt/model"}})
    assert variables(pod["containers"][0])["LLAMBERT_MODEL"] == "/opt/model"
    assert {v["name"] for v in pod["volumes"]} == {"tmp"}


def test_the_canary_has_another_model_and_its_share() -> None:
    docs = documents(everything())
    models = {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]["initContainers"][0]["args"][-2]
        for d in of_kind(docs, "Deployment")
        if "initContainers" in d["spec"]["template"]["spec"]
    }
    assert models == {"rel-llambert": "models:/demo_reviews/7", "rel-llambert-canary": "models:/demo_reviews/8"}
    (route,) = of_kind(docs, "HTTPRoute")
    weights = {ref["name"]: ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"]}
    assert weights == {"rel-llambert": 75, "rel-llambert-canary": 25}
    canary = named(docs, "Ingress", "rel-llambert-canary")
    assert canary["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"] == "25"
    assert "annotations" not in named(docs, "Ingress", "rel-llambert")["metadata"]


def test_tests_expect_the_version_of_each_track() -> None:
    expected = {
        d["metadata"]["name"]: d["spec"]["containers"][0]["args"][3::2] for d in of_kind(documents(everything()), "Pod")
    }
    assert expected == {
        "rel-llambert-test-stable": ["http://rel-llambert:3000", "7"],
        "rel-llambert-test-canary": ["http://rel-llambert-canary:3000", "8"],
    }


@pytest.mark.parametrize(("load", "period"), [(1, 5), (5, 5), (121, 5), (600, 7)])
def test_startup_has_the_time_that_the_model_needs(load: int, period: int) -> None:
    times: Values = {"model": {"loadSeconds": load}, "probes": {"startupPeriodSeconds": period}}
    container = pod_of(times)["containers"][0]
    probe = container["startupProbe"]
    assert load <= probe["periodSeconds"] * probe["failureThreshold"] < load + period
    assert probe["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez", "a pod that is busy or loading must not be killed"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    vllm = pod_of(everything(vllm={"loadSeconds": load}), "rel-llambert-vllm")["containers"][0]["startupProbe"]
    assert load <= vllm["periodSeconds"] * vllm["failureThreshold"]


def test_requests_in_flight_are_answered_before_a_pod_goes() -> None:
    pod = pod_of({"config": {"drainSeconds": 90, "preStopSeconds": 10}})
    container = pod["containers"][0]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]
    assert variables(container)["LLAMBERT_DRAIN_S"] == "90"
    assert pod["terminationGracePeriodSeconds"] > 100


def test_large_numbers_stay_whole() -> None:
    served = variables(pod_of({"config": {"maxBodyBytes": 1_000_000_000, "threads": 4}})["containers"][0])
    assert (served["LLAMBERT_MAX_BODY_BYTES"], served["LLAMBERT_THREADS"]) == ("1000000000", "4")
    assert not re.search(r"\de\+\d", "".join(render(everything()).values()))


def test_threads_are_the_processors_that_were_asked_for() -> None:
    """Without a limit a pod's cgroup allows the whole node."""
    (threads,) = [e for e in pod_of({})["containers"][0]["env"] if e["name"] == "LLAMBERT_THREADS"]
    assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu"}}
    without: Values = {"resources": {"requests": {"cpu": None}}}
    assert "LLAMBERT_THREADS" not in variables(pod_of(without)["containers"][0])


def test_fetching_again_replaces_what_is_there(tmp_path: Path) -> None:
    """The initContainer's own script, with other paths and another `python`."""
    sh, option, script, *arguments = pod_of({"model": {"version": "7"}})["initContainers"][0]["args"]
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@" && mkdir "$5"\n')
    (tmp_path / "python").chmod(0o755)
    here = script.replace("/model/current", f"{tmp_path}/current")
    for _ in range(2):
        words, path = [sh, option, here, *arguments], {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run(words, env=path, capture_output=True, text=True, check=True)
        assert done.stdout == f"-m serving fetch models:/demo_reviews/7 {tmp_path}/current --precision int8\n"


def test_the_token_is_a_file() -> None:
    container = pod_of({"auth": {"existingSecret": "secret", "key": "bearer"}})["containers"][0]
    path = variables(container)["LLAMBERT_TOKEN_FILE"]
    assert path in {f"{mount['mountPath']}/token" for mount in container["volumeMounts"]}


def test_network_policies_let_in_and_out_what_is_needed() -> None:
    closed: Any = {"networkPolicy": {"enabled": True, "sameNamespace": False, "fromNamespaces": ["keda"]}}
    policy = named(documents(closed), "NetworkPolicy", "rel-llambert-serving")["spec"]
    peers = policy["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in peers
    (own,) = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    assert "rel-llambert-test-stable" in selected(own, documents(closed))
    ports = [port["port"] for rule in policy["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 5000]
    for uri, port in [("https://mlflow.example", 443), ("http://mlflow.example/x", 80), ("http://m:8080/x", 8080)]:
        egress = named(documents({**closed, "model": {"trackingUri": uri}}), "NetworkPolicy", "rel-llambert-serving")
        assert egress["spec"]["egress"][1] == {"ports": [{"protocol": "TCP", "port": port}]}
    baked = named(documents({**closed, "model": {"source": "baked"}}), "NetworkPolicy", "rel-llambert-serving")
    assert len(baked["spec"]["egress"]) == 1


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (
            {"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}},
            ["autoscaling.hpa.enabled", "autoscaling.keda.enabled"],
        ),
        (
            {"autoscaling": {"hpa": {"enabled": True}, "minReplicas": 11}},
            ["autoscaling.minReplicas", "autoscaling.maxReplicas"],
        ),
        ({"model": {"source": "pvc"}}, ["model.source", "model.existingClaim"]),
        ({"model": {"name": ""}}, ["model.name"]),
        ({"model": {"alias": ""}}, ["model.version", "model.alias"]),
        ({"model": {"trackingUri": ""}}, ["model.trackingUri", "mlflow.enabled"]),
        ({"model": {"version": "3", "pollSeconds": 5}}, ["model.version", "model.pollSeconds"]),
        ({"canary": {"enabled": True, "model": {"source": "pvc"}}}, ["canary.model.existingClaim"]),
        ({"bulk": {"enabled": True}}, ["bulk.input", "bulk.output"]),
        (
            {"bulk": {"enabled": True, "input": "a", "output": "b", "parallelism": 5}},
            ["bulk.parallelism", "bulk.completions"],
        ),
        ({"httpRoute": {"enabled": True}}, ["httpRoute.parentRefs"]),
        ({"mlflow": {"enabled": True}}, ["mlflow.backendStore.existingSecret"]),
        ({"strategy": {"maxSurge": 0, "maxUnavailable": 0}}, ["strategy.maxSurge", "strategy.maxUnavailable"]),
    ],
)
def test_what_cannot_work_is_refused_by_name(values: Values, keys: list[str]) -> None:
    with pytest.raises(helm.HelmRenderError) as error:
        documents(values)
    assert all(key in str(error.value) for key in keys), error.value


def test_models_in_mlflow_outlive_the_release() -> None:
    (claim,) = of_kind(documents(everything()), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    mlflow = named(documents(everything()), "Deployment", "rel-llambert-mlflow")["spec"]["template"]["spec"]
    names = [v["persistentVolumeClaim"]["claimName"] for v in mlflow["volumes"] if "persistentVolumeClaim" in v]
    assert names == [claim["metadata"]["name"]]
    for storage in ({"existingClaim": "mine"}, {"destination": "s3://bucket"}):
        assert of_kind(documents(everything(mlflow={"artifacts": storage})), "PersistentVolumeClaim") == []
