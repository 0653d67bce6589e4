"""What the chart starts, started: the script of `helm test` against a server, and MLflow as its container would be."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from chart import documents, everything, merged, named, of_kind


class Service(BaseHTTPRequestHandler):
    """Answers as the service does."""

    labels: tuple[str, ...] = ("positive",)

    def do_GET(self) -> None:
        self._answer({"name": "reviews", "version": "7"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer({"results": [{"label": label} for label in self.labels[: len(asked["texts"])]]})

    def _answer(self, body: Any) -> None:
        self.send_response(200 if self.headers["Authorization"] in (None, "Bearer secret") else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def helm_test(url: str, version: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """Run the test pod's command line as it is rendered, against another address."""
    (pod,) = of_kind(documents({"model": {"version": version}}), "Pod")
    (container,) = pod["spec"]["containers"]
    command = [sys.executable, *container["args"][1:3], url, *container["args"][4:]]
    env = {"PATH": os.environ["PATH"], "LLAMBERT_TOKEN": token}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_helm_test_passes_where_the_right_model_answers(service: str) -> None:
    done = helm_test(service, "7", token="secret\n")
    assert done.returncode == 0, done.stderr
    assert '"label": "positive"' in done.stdout
    assert helm_test(service, "").returncode == 0


def test_helm_test_fails_for_another_version(service: str) -> None:
    done = helm_test(service, "8")
    assert done.returncode == 1
    assert "'7' answers" in done.stderr
    assert "asks for '8'" in done.stderr


def test_helm_test_fails_without_a_label(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "labels", ())
    done = helm_test(service, "7")
    assert done.returncode == 1
    assert "gave no label" in done.stderr


def test_helm_test_fails_with_a_wrong_token(service: str) -> None:
    assert "401" in helm_test(service, "7", token="wrong").stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(url: str, host: str) -> int:
    try:
        with urlopen(Request(url, headers={"Host": host}), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code
    except URLError:
        return 0


@pytest.mark.slow
def test_the_service_starts_as_rendered_and_passes_helm_test(tmp_path: Path) -> None:
    """Command line, variables and probes of the container, with a tiny model, in an empty environment."""
    pytest.importorskip("serving.web.settings", reason="the service is not there yet")
    import toy_model

    (deployment,) = of_kind(documents({"model": {"source": "baked", "path": str(toy_model.exported())}}), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value", "2") for e in container["env"]}
    env |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BENTOML_HOME": str(tmp_path / "bentoml")}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, *container["args"][1:], "--port", str(port)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait(server, url + container["startupProbe"]["httpGet"]["path"])
            assert status(url + container["livenessProbe"]["httpGet"]["path"], "10.1.2.3:3000") == 200
            done = helm_test(url, "")
            assert done.returncode == 0, done.stderr
            assert helm_test(url, "99").returncode == 1
        finally:
            server.terminate()
            server.wait(60)


@pytest.mark.slow
def test_what_the_init_container_fetches_is_the_version_that_helm_test_asks_for(tmp_path: Path) -> None:
    """MLflow hands out version 1; its name outlives the way over the pod's volume."""
    from mlflow_process import Registered, mlflow_server, versions

    values = {"model": {"trackingUri": "http://mlflow:5000", "name": "toys", "version": "1"}}
    values["config"] = {"precision": "fp32"}  # type: ignore[dict-item]
    (deployment,) = of_kind(documents(values), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (fetch,), (container,) = spec["initContainers"], spec["containers"]
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as uri:
        Registered(uri).add(versions(tmp_path)[0])
        script = [word.replace("/model/current", f"{tmp_path}/current") for word in fetch["args"]]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(script, env=env, check=True, capture_output=True)
    env = {e["name"]: e.get("value", "2") for e in container["env"]} | {"PATH": os.environ["PATH"]}
    env |= {"HOME": str(tmp_path), "BENTOML_HOME": str(tmp_path / "bentoml"), "LLAMBERT_MODEL": f"{tmp_path}/current"}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, *container["args"][1:], "--port", str(port)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait(server, f"{url}/readyz")
            done = helm_test(url, "1")
            assert done.returncode == 0, done.stderr
            assert "'1' answers" in helm_test(url, "2").stderr
        finally:
            server.terminate()
            server.wait(60)


def wait(server: subprocess.Popen[bytes], url: str) -> None:
    """Until it answers, as a probe would ask."""
    deadline = time.monotonic() + 120
    while status(url, "10.1.2.3:5000") != 200 and time.monotonic() < deadline:
        assert server.poll() is None
        time.sleep(0.2)


@pytest.mark.slow
def test_mlflow_starts_as_rendered_and_knows_its_names(tmp_path: Path) -> None:
    """Command line and variables of the container, with SQLite for PostgreSQL, in an empty environment."""
    docs = documents(merged(everything(), {"mlflow": {"allowedHosts": ["mlflow.example.org"]}}))
    (container,) = named(docs, "Deployment", "rel-llambert-mlflow")["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    (secret,) = [e["name"] for e in container["env"] if "valueFrom" in e]
    env |= {secret: f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts")}
    env |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    port = free_port()
    command = [sys.executable, *container["args"][1:]]
    command[command.index("5000")] = str(port)
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait(server, url + container["readinessProbe"]["httpGet"]["path"])
            search = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
            for host in (
                "rel-llambert-mlflow:5000",
                "rel-llambert-mlflow.ns.svc.cluster.local:5000",
                "mlflow.example.org",
            ):
                assert status(search, host) == 200, host
            assert status(search, "elsewhere.example.org") == 403
        finally:
            server.terminate()
    assert (tmp_path / "mlflow.db").exists()
