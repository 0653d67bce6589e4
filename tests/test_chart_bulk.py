"""The Indexed Job of bulk labelling: which failures count, what makes it another Job, what its command line is."""

from pathlib import Path
from typing import Any

import pytest
from chart import Document, Values, documents, merged, of_kind

from serving.__main__ import app
from serving.options import INDEX, OF

BULK: Values = {"bulk": {"enabled": True, "input": "s3://corpus/*.parquet", "output": "s3://labels/1"}}


def job(values: Values | None = None) -> Document:
    (found,) = of_kind(documents(merged(BULK, values or {})), "Job")
    return found


def pod(values: Values | None = None) -> Document:
    spec: Document = job(values)["spec"]["template"]["spec"]
    return spec


def test_it_is_indexed_and_each_worker_has_its_own_attempts() -> None:
    spec = job({"bulk": {"completions": 16, "parallelism": 8, "backoffLimitPerIndex": 2, "maxFailedIndexes": 1}})[
        "spec"
    ]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (16, 8)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 1)
    assert "backoffLimit" not in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_users_mistake_ends_the_job_and_an_eviction_costs_nothing() -> None:
    rules = {rule["action"]: rule for rule in job()["spec"]["podFailurePolicy"]["rules"]}
    mistake = rules["FailJob"]["onExitCodes"]
    assert mistake == {"containerName": "label", "operator": "In", "values": [2]}, "2: serving.errors.UserError"
    assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


def test_workers_know_their_number() -> None:
    """Kubernetes sets the index itself; how many there are is ours to say."""
    names = {e["name"]: e["value"] for e in pod({"bulk": {"completions": 9}})["containers"][0]["env"]}
    assert names[OF] == "9"
    assert INDEX not in names


def test_its_command_line_is_one_that_the_service_image_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INDEX, "1")
    monkeypatch.setenv(OF, "4")
    settings = {"args": ["--text-column", "body", "--workers", "2"], "shardRows": 500}
    words = pod({"bulk": settings})["containers"][0]["args"]
    assert words[:3] == ["python", "-m", "serving"]
    _, bound, _ = app.parse_args(words[3:], exit_on_error=False, print_error=False)
    arguments: dict[str, Any] = bound.arguments
    assert (arguments["input"], arguments["output"]) == ("s3://corpus/*.parquet", "s3://labels/1")
    options = arguments["options"]
    assert options.model == Path("/model/current")
    assert (options.index, options.of) == (1, 4)
    assert (options.text_column, options.workers, options.shard_rows) == ("body", 2, 500)
    assert (options.precision, options.max_batch_tokens) == ("int8", 8192)


def test_another_work_is_another_job_and_the_same_the_same() -> None:
    """A Job's template can't be changed; an upgrade that changes it would fail."""
    first = job()["metadata"]["name"]
    assert first == job({"replicas": 5, "tests": {"enabled": False}})["metadata"]["name"]
    changes: list[Values] = [
        {"bulk": {"output": "s3://labels/2"}},
        {"bulk": {"completions": 5}},
        {"bulk": {"ttlSecondsAfterFinished": 60}},
        {"bulk": {"model": {"version": "3"}}},
        {"image": {"tag": "next"}},
        {"model": {"version": "4"}},
    ]
    names = [first, *(job(change)["metadata"]["name"] for change in changes)]
    assert len(set(names)) == len(names)


def test_storage_is_an_object_store_or_a_claim() -> None:
    store = {"existingSecret": "s3-login", "endpointUrl": "http://minio:9000", "region": "eu"}
    container = pod({"bulk": {"storage": store}})["containers"][0]
    names = {e["name"]: e["value"] for e in container["env"]}
    assert (names["AWS_ENDPOINT_URL"], names["AWS_DEFAULT_REGION"]) == ("http://minio:9000", "eu")
    assert container["envFrom"] == [{"secretRef": {"name": "s3-login"}}]
    claimed = pod({"bulk": {"storage": {"existingClaim": "corpus", "mountPath": "/corpus"}}})
    assert {"name": "data", "mountPath": "/corpus"} in claimed["containers"][0]["volumeMounts"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "corpus"}} in claimed["volumes"]


def test_it_can_have_its_own_model_and_image() -> None:
    own = {"bulk": {"model": {"source": "baked", "path": "/m"}, "image": {"repository": "llambert-serving-gpu"}}}
    spec = pod(own)
    assert "initContainers" not in spec
    assert spec["containers"][0]["image"].startswith("llambert-serving-gpu:")
    assert "/m" in spec["containers"][0]["args"]
