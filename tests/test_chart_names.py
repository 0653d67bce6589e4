"""Names, notes and odd values: long and strange releases, two releases beside each other, empty texts."""

import re
import shlex
from typing import Any

import helm_python as helm
import pytest
from chart import Values, documents, everything, of_kind, pod_templates, render, rendered, scenarios

DNS = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
RELEASES = [
    "a",
    "1",
    "true",
    "llambert",
    "my-llambert",
    "1st",
    "a.b",
    "x" * 53,
    "x" * 51 + "-y",
    "9" * 53,
    "llambert" * 6,
]


def maps(value: Any, key: str) -> list[dict[str, str]]:
    """All that stands under a key, anywhere."""
    if isinstance(value, list):
        return [found for inner in value for found in maps(inner, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if isinstance(value.get(key), dict) else []
    return own + [found for inner in value.values() for found in maps(inner, key)]


@pytest.mark.parametrize("release", RELEASES)
def test_names_and_labels_are_valid(release: str) -> None:
    docs = documents(everything(), name=release)
    for document in docs:
        name = document["metadata"]["name"]
        assert isinstance(name, str)
        assert DNS.fullmatch(name), name
        assert len(name) <= 63
    (job,) = of_kind(docs, "Job")
    assert len(job["metadata"]["name"]) + len("-99999") <= 63, "the pods' host names"
    for labels in [*maps(docs, "labels"), *maps(docs, "matchLabels")]:
        for value in labels.values():
            assert isinstance(value, str), value
            assert len(value) <= 63
            assert LABEL.fullmatch(value), value


@pytest.mark.parametrize("release", RELEASES)
def test_names_within_a_release_differ(release: str) -> None:
    keys = [(d["kind"], d["metadata"]["name"]) for d in documents(everything(), name=release)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("x" * 52 + "1", "x" * 52 + "2"), ("a.b", "a-c")])
def test_two_releases_share_nothing(one: str, other: str) -> None:
    docs = {name: documents(everything(), name=name) for name in (one, other)}
    keys = [{(d["kind"], d["metadata"]["name"]) for d in each} for each in docs.values()]
    assert not keys[0] & keys[1]
    pods = [pod["metadata"]["labels"] for _, pod in pod_templates(docs[other])]
    for document in docs[one]:
        for key in ("selector", "podSelector"):
            for selector in maps(document, key):
                wanted = selector.get("matchLabels", selector)
                if wanted:  # {} is the whole namespace
                    assert not any(wanted.items() <= labels.items() for labels in pods), document["metadata"]["name"]


def test_names_can_be_chosen() -> None:
    names = {d["metadata"]["name"] for d in documents({"fullnameOverride": "true"})}
    assert names == {"true", "true-test-stable"}
    assert documents({"nameOverride": "labels"})[0]["metadata"]["name"] == "rel-labels"


def commands(notes: str) -> list[list[str]]:
    return [shlex.split(line.rstrip("& ")) for line in notes.splitlines() if line.startswith("  kubectl")]


@pytest.mark.parametrize("scenario", [*scenarios()])
def test_notes_speak_of_what_there_is(scenario: str) -> None:
    notes = render(scenarios()[scenario])["llambert/templates/NOTES.txt"]
    there = {f"{d['kind'].lower()}/{d['metadata']['name']}" for d in rendered(scenario)}
    ports = {
        f"service/{s['metadata']['name']}": s["spec"]["ports"][0]["port"]
        for s in of_kind(rendered(scenario), "Service")
    }
    found = commands(notes)
    assert found
    for words in found:
        for word in words:
            if re.fullmatch(r"(deployment|service|job|scaledobject|horizontalpodautoscaler)/\S+", word):
                assert word in there, words
            if re.fullmatch(r"\d+:\d+", word):
                assert int(word.split(":")[1]) == ports[words[4]], words
        assert words[1:3] == ["-n", "ns"] or "--raw" in words, words
    for url in re.findall(r"http://([a-z0-9-]+)\.ns\.svc", notes):
        assert f"service/{url}" in there
    for line in notes.splitlines():
        if "-d '" in line:
            shlex.split(line)


def test_notes_of_everything_name_every_part() -> None:
    notes = render(everything())["llambert/templates/NOTES.txt"]
    for word in (
        "helm test rel",
        "helm rollback rel",
        "rel-llambert-canary",
        "job/",
        "rel-llambert-vllm",
        "rel-llambert-mlflow",
    ):
        assert word in notes
    assert "base64decode" in notes
    assert "is open to whoever" in render()["llambert/templates/NOTES.txt"]


ODD: list[Values] = [
    {"extraEnv": [{"name": "A", "value": 'quotes " and: {{ braces }}'}]},
    {"tests": {"text": 'It\'s "fine": {{ really }}\nyes # no'}},
    {"podAnnotations": {"a": "yes", "b": "1", "c": ""}},
    {"service": {"annotations": {"a/b": "true"}}},
    {"image": {"tag": "1.10"}},
    {"image": {"tag": "0123"}},
    {"model": {"name": "yes", "alias": "1"}},
    {"model": {"shadow": "/models/a: b"}},
    {"resources": {"requests": {"cpu": 1}, "limits": {"cpu": 2}}},
    {"resources": {"requests": {"cpu": None, "memory": None}, "limits": {"memory": "1Gi"}}},
    {"serviceAccount": {"create": False}},
    {"autoscaling": {"hpa": {"enabled": True}, "targetQueueTokens": 10_000_000}},
    {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}], "hostnames": []}},
    {"ingress": {"enabled": True, "hosts": ["*.example.org"], "canaryAnnotations": {}}},
    {"auth": {"existingSecret": "true", "key": "1"}},
    {"nodeSelector": {"gpu": "true"}, "priorityClassName": "123"},
    {
        "bulk": {
            "enabled": True,
            "input": "s3://a b/*.csv",
            "output": "s3://c: d",
            "args": ["--split", "no", "1"],
            "parallelism": 0,
        }
    },
    {"serviceMonitor": {"enabled": True, "labels": {"on": "yes"}}},
    {"serviceAccount": {"annotations": {"a": "1"}, "name": "123"}},
    {"global": {"anything": 1}},
]


@pytest.mark.parametrize("values", ODD, ids=str)
def test_odd_values_stay_what_they_are(values: Values) -> None:
    """What should be text is text in Kubernetes' own schema, whatever it looks like."""
    import kubernetes_validate

    docs = documents(values)
    for document in docs:
        if document["kind"] not in {"HTTPRoute", "ServiceMonitor"}:
            kubernetes_validate.validate(document, "1.37", strict=True)
        for labels in [*maps(document, "labels"), *maps(document, "annotations"), *maps(document, "nodeSelector")]:
            assert all(isinstance(value, str) for value in labels.values())
    text = str(docs)
    for env in values.get("extraEnv", []):
        assert env["value"] in [
            e.get("value") for _, p in pod_templates(docs) for e in p["spec"]["containers"][0]["env"]
        ]
    if "tests" in values:
        (pod,) = of_kind(docs, "Pod")
        assert values["tests"]["text"] in pod["spec"]["containers"][0]["args"]
    assert "%!" not in text
    assert "<nil>" not in text


@pytest.mark.parametrize("namespace", ["default", "123", "null", "x" * 63])
def test_any_namespace_will_do(namespace: str) -> None:
    docs = documents(everything(), namespace=namespace)
    assert {d["metadata"]["namespace"] for d in docs} == {namespace}


def test_null_is_refused_by_name() -> None:
    for key in ("config", "gpu", "replicas", "probes", "bulk"):
        with pytest.raises(helm.HelmValuesError, match=key):
            render({key: None})
