"""The chart on a real cluster: install, test, a new model version without a failed request, rollback, uninstall.

It needs KUBECONFIG, kubectl, LLAMBERT_TEST_VALUES (a values file that suits the cluster: images, model.name,
model.trackingUri) and two versions of the model: LLAMBERT_TEST_VERSIONS=1,2.
"""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import helm_python as helm
import pytest

CHART = Path(__file__).parents[2] / "k8s" / "llambert"
NAMED = ("KUBECONFIG", "LLAMBERT_TEST_VALUES", "LLAMBERT_TEST_VERSIONS")
pytestmark = [
    pytest.mark.skipif(not all(os.environ.get(name) for name in NAMED), reason=f"{', '.join(NAMED)} name no cluster"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl"),
    pytest.mark.timeout(1800),
]
RELEASE, NAMESPACE, TIMEOUT = "llambert-e2e", "llambert-e2e", 600


class Callers:
    """Ask the service all the time, and keep what failed."""

    def __init__(self, url: str) -> None:
        self.url, self.failed, self.answered = url, list[str](), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.is_set():
            body = json.dumps({"texts": ["A fine film."]}).encode()
            try:
                with urlopen(Request(f"{self.url}/classify", body, {"Content-Type": "application/json"}), timeout=30):
                    self.answered += 1
            except OSError as error:
                self.failed.append(str(error))
            time.sleep(0.02)

    def __enter__(self) -> "Callers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def config() -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=NAMESPACE) as config:
        yield config
        config.uninstall(RELEASE, ignore_not_found=True, timeout=TIMEOUT, wait="watcher")


def values(version: str) -> dict[str, object]:
    chosen = helm.values_from_yaml(Path(os.environ["LLAMBERT_TEST_VALUES"]).read_text())
    return {**chosen, "service": {"type": "NodePort"}, "model": {**chosen.get("model", {}), "version": version}}


def address() -> str:
    """The Service from outside: a NodePort leads to all ready pods, a port-forward would stick to one."""
    kubectl = ["kubectl", "-n", NAMESPACE, "get"]
    service = json.loads(subprocess.check_output([*kubectl, "service", RELEASE, "-o", "json"]))
    nodes = json.loads(subprocess.check_output(["kubectl", "get", "nodes", "-o", "json"]))
    addresses = nodes["items"][0]["status"]["addresses"]
    (node,) = [a["address"] for a in addresses if a["type"] == "InternalIP"][:1]
    return f"http://{node}:{service['spec']['ports'][0]['nodePort']}"


def version(url: str) -> str:
    with urlopen(f"{url}/model", timeout=30) as answer:
        return str(json.load(answer)["version"])


def test_a_release_lives(config: helm.Config) -> None:
    first, second = os.environ["LLAMBERT_TEST_VERSIONS"].split(",")
    config.install(CHART, RELEASE, values(first), wait="watcher", timeout=TIMEOUT, create_namespace=True)
    config.test(RELEASE, timeout=TIMEOUT)
    url = address()
    assert version(url) == first
    with Callers(url) as callers:
        config.upgrade(CHART, RELEASE, values(second), wait="watcher", timeout=TIMEOUT, rollback_on_failure=True)
        config.test(RELEASE, timeout=TIMEOUT)
        assert version(url) == second
        config.rollback(RELEASE, wait="watcher", timeout=TIMEOUT)
        assert version(url) == first
    assert callers.failed == []
    assert callers.answered > 100
    config.uninstall(RELEASE, wait="watcher", timeout=TIMEOUT)
    left = subprocess.check_output(
        [
            "kubectl",
            "-n",
            NAMESPACE,
            "get",
            "deploy,job,svc",
            "-l",
            f"app.kubernetes.io/instance={RELEASE}",
            "-o",
            "name",
        ]
    )
    assert left == b""
