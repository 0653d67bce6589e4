"""Alerts, dashboard and autoscalers ask for metrics that there are, in PromQL that parses."""

import json
import re
from typing import Any

import promql_parser
import pytest
from chart import Document, documents, everything, merged, named, of_kind, pod_templates, rendered, scenarios

COUNTERS = {
    "llambert_requests_total": {"route", "status"},
    "llambert_texts_total": set(),
    "llambert_tokens_total": set(),
    "llambert_shed_total": set(),
    "llambert_labels_total": {"label"},
    "llambert_shadow_texts_total": {"agrees"},
    "llambert_model_swaps_total": {"result"},
}
GAUGES = {
    "llambert_queue_tokens": set(),
    "llambert_model_info": {"name", "version", "model_hash", "precision", "runtime"},
    "llambert_model_load_seconds": set(),
    "llambert_drift_texts": set(),
    "llambert_drift_psi": {"measure"},
    "llambert_drift_alert": {"measure"},
}
HISTOGRAMS = {
    "llambert_batch_texts": set(),
    "llambert_batch_tokens": set(),
    "llambert_seconds": {"step"},
    "llambert_request_seconds": {"route"},
}
STATE = {  # of kube-state-metrics
    "kube_deployment_spec_replicas": {"deployment"},
    "kube_deployment_status_replicas_available": {"deployment"},
    "kube_horizontalpodautoscaler_status_desired_replicas": {"horizontalpodautoscaler"},
    "kube_horizontalpodautoscaler_spec_max_replicas": {"horizontalpodautoscaler"},
    "kube_job_failed": {"job_name", "condition"},
}
TARGET = {"namespace", "service", "pod", "track"}  # labels that the ServiceMonitor's targets have
KNOWN: dict[str, set[str]] = {
    **{name: labels | TARGET for name, labels in {**COUNTERS, **GAUGES}.items()},
    **{f"{name}_{part}": labels | TARGET for name, labels in HISTOGRAMS.items() for part in ("sum", "count")},
    **{f"{name}_bucket": labels | TARGET | {"le"} for name, labels in HISTOGRAMS.items()},
    **{name: labels | {"namespace"} for name, labels in STATE.items()},
}


def selectors(expression: str) -> list[Any]:
    """All vector selectors of an expression that must parse."""
    found: list[Any] = []
    todo: list[Any] = [promql_parser.parse(expression)]
    while todo:
        node = todo.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for child in ("expr", "lhs", "rhs", "vector_selector", "param"):
            if (inner := getattr(node, child, None)) is not None:
                todo.append(inner)
        todo.extend(getattr(node, "args", None) or [])
    return found


def check(expression: str) -> None:
    vectors = selectors(expression)
    assert vectors, expression
    for inner in re.findall(r"histogram_quantile\([^,]+, sum by \(([^)]*)\)", expression):
        assert "le" in inner.split(", "), "a quantile needs its buckets"
    assert expression.count("histogram_quantile(") == expression.count("_bucket{")
    for vector in vectors:
        assert vector.name in KNOWN, f"{vector.name} is no metric: {expression}"
        labels = {matcher.name for matcher in vector.matchers.matchers}
        assert "namespace" in labels, expression
        assert labels <= KNOWN[vector.name], f"{labels - KNOWN[vector.name]} are no labels of {vector.name}"


def rules(docs: list[Document]) -> list[Document]:
    return [rule for d in of_kind(docs, "PrometheusRule") for group in d["spec"]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("scenario", [*scenarios()])
def test_alerts_parse_and_ask_for_metrics_that_there_are(scenario: str) -> None:
    for rule in rules(rendered(scenario)):
        check(rule["expr"])
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_a_wrong_metric_or_label_would_be_found() -> None:
    for wrong in (
        'rate(llambert_request_total{namespace="a"}[5m])',
        'llambert_queue_tokens{namespace="a",deployment="b"}',
    ):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(ValueError, match="unclosed"):
        check("sum(rate(llambert_texts_total[5m])")


def test_everything_has_all_alerts_under_names_of_their_own() -> None:
    names = [rule["alert"] for rule in rules(documents(everything()))]
    assert len(names) == len(set(names)) == 13


def test_alerts_go_by_the_values() -> None:
    docs = documents(everything(prometheusRule={"latencySeconds": 0.25}, config={"maxQueuedTokens": 1_000_000_000}))
    by_name = {rule["alert"]: rule["expr"] for rule in rules(docs)}
    assert by_name["LlambertSlow"].endswith("> 0.25")
    assert by_name["LlambertQueueFull"].endswith("> 800000000")


def test_alerts_and_dashboard_select_both_tracks_of_a_long_release_only() -> None:
    docs = documents(everything(), name="r" * 53)
    services = {d["metadata"]["name"] for d in of_kind(docs, "Service") if "track" in d["metadata"]["labels"]}
    (board,) = [json.loads(text) for d in of_kind(docs, "ConfigMap") for text in d["data"].values()]
    asked = [rule["expr"] for rule in rules(docs)] + [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    for expression in asked:
        for pattern in re.findall(r'(?:service|deployment)=~"([^"]+)"', expression):
            assert set(pattern.split("|")) == services


def test_dashboard_parses_and_asks_for_metrics_that_there_are() -> None:
    (config,) = of_kind(documents(everything()), "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    ((name, text),) = config["data"].items()
    board = json.loads(text)
    assert name == "rel-llambert.json"
    assert "LLAMBERT_" not in text
    for panel in board["panels"]:
        for target in panel["targets"]:
            check(target["expr"].replace("$__rate_interval", "5m"))
    asked = text + json.dumps(rules(documents(everything())))
    assert [name for name in {**COUNTERS, **GAUGES, **HISTOGRAMS} if name not in asked] == [], (
        "a metric that nothing shows"
    )
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 14


def test_dashboards_of_two_releases_live_side_by_side() -> None:
    boards = [of_kind(documents(everything(), name=name), "ConfigMap")[0] for name in ("a", "b")]
    assert len({json.loads(next(iter(board["data"].values())))["uid"] for board in boards}) == 2


def test_service_monitor_finds_both_services_and_nothing_else() -> None:
    docs = documents(everything())
    (monitor,) = of_kind(docs, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = of_kind(docs, "Service")
    found = {s["metadata"]["name"] for s in services if wanted <= s["metadata"]["labels"].items()}
    assert found == {"rel-llambert", "rel-llambert-canary"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert {port["name"] for s in services for port in s["spec"]["ports"]} == {endpoint["port"]}


def keda(**settings: Any) -> Document:
    (scaled,) = of_kind(
        documents({"autoscaling": {"keda": {"enabled": True, **settings}}, "service": {"port": 80}}), "ScaledObject"
    )
    (trigger,) = scaled["spec"]["triggers"]
    return {"metricType": trigger["metricType"], **trigger["metadata"]}


def test_hpa_goes_by_the_queue_in_tokens() -> None:
    (hpa,) = of_kind(
        documents({"autoscaling": {"hpa": {"enabled": True}, "targetQueueTokens": 16777216}}), "HorizontalPodAutoscaler"
    )
    (metric,) = hpa["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "llambert_queue_tokens"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "16777216"}


def test_keda_adds_up_the_pods_queues() -> None:
    trigger = keda()
    assert trigger["format"] == "prometheus"
    assert trigger["valueLocation"] in GAUGES
    assert trigger["url"] == "http://rel-llambert.ns.svc:3000/metrics", "the pods' port, not the Service's"
    assert (trigger["aggregationType"], trigger["metricType"]) == ("sum", "AverageValue")


def test_keda_can_ask_one_pod_or_a_prometheus() -> None:
    one = keda(aggregate=False)
    assert one["url"] == "http://rel-llambert.ns.svc:80/metrics"
    assert one["metricType"] == "Value", "one pod's queue is an average already"
    server = keda(trigger="prometheus")
    check(server["query"])
    assert server["metricType"] == "AverageValue"
    assert server["threshold"] == "8192"


def test_autoscalers_own_the_replicas() -> None:
    for scaler in ("hpa", "keda"):
        docs = documents(merged({"canary": {"enabled": True}}, {"autoscaling": {scaler: {"enabled": True}}}))
        assert "replicas" not in named(docs, "Deployment", "rel-llambert")["spec"]
        assert named(docs, "Deployment", "rel-llambert-canary")["spec"]["replicas"] == 1
        (owner,) = of_kind(docs, "HorizontalPodAutoscaler") + of_kind(docs, "ScaledObject")
        assert owner["spec"]["scaleTargetRef"]["name"] == "rel-llambert"
    assert of_kind(documents({"replicas": 4}), "Deployment")[0]["spec"]["replicas"] == 4


def test_everything_that_scrapes_or_probes_uses_ports_that_there_are() -> None:
    for name, pod in pod_templates(documents(everything())):
        for container in pod["spec"]["containers"]:
            ports = {port["name"] for port in container.get("ports", [])}
            probes = [container[p] for p in ("startupProbe", "livenessProbe", "readinessProbe") if p in container]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports, name
