"""The service's life: its environment, its end, a worker that is killed, a Bento, an alias that moves under load."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from service_process import Service, free_port, serving
from toy_model import TEXTS, exported
from toy_project import RIGHT, toy_export

from serving import registry
from serving.errors import UserError
from serving.web.settings import Settings

REPOSITORY = Path(__file__).parents[1]


def serve(**environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {f"LLAMBERT_{name}": value for name, value in environment.items()}
    command = [sys.executable, "-m", "serving", "serve", "--port", str(free_port())]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


def test_what_is_wrong_at_the_start_is_one_message(tmp_path: Path) -> None:
    for variables, message in (
        ({"MODEL": str(tmp_path)}, "is no exported model"),
        ({"MODEL": "models:/toys"}, "names no model"),
        ({"MAX_TEXTS": "0"}, "LLAMBERT_MAX_TEXTS: Input should be greater than or equal to 1 (got 0)"),
        ({"TOKEN_FILE": str(tmp_path / "none")}, "LLAMBERT_TOKEN_FILE"),
    ):
        done = serve(**variables)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_the_token_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    token = Settings.read({"LLAMBERT_TOKEN_FILE": str(file)}).token
    assert token is not None
    assert token.get_secret_value() == "secret"
    assert "secret" not in repr(token)
    file.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        Settings.read({"LLAMBERT_TOKEN_FILE": str(file)})


class Load:
    """Clients that never stop asking, and what they were answered."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self._service, self._over = service, threading.Event()
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        with self._service.client() as client:
            while not self._over.is_set():
                try:
                    answer = client.post("/classify", json={"texts": TEXTS[:8]})
                except httpx.HTTPError:
                    self.statuses[0] += 1
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.versions[answer.json()["model"]["version"] or ""] += 1

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def until(condition: "object", seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_a_killed_worker_is_replaced_under_load() -> None:
    with serving(exported()) as service, Load(service) as load:
        until(lambda: load.statuses[200] > 50)
        (worker,) = service.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: service.workers() not in ([], [worker]))
        service.wait_ready(30)
        answered = load.statuses[200]
        until(lambda: load.statuses[200] > answered + 50)
        # lost: what was in flight; new connections wait in the supervisor's socket; 503 until the model is there
        assert load.statuses[0] <= 8
        assert set(load.statuses) <= {0, 200, 503}


def test_sigterm_answers_what_has_begun() -> None:
    with serving(exported(), MAX_TEXTS="4000", MAX_QUEUED_TOKENS="9999999") as service:
        answers: list[httpx.Response] = []

        def ask() -> None:
            with service.client() as client:
                answers.append(client.post("/classify", json={"texts": [text * 9 for text in TEXTS] * 40}))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: service.metric("llambert_queue_tokens") > 0)
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 3
        assert service.process.wait(30) == 0


@pytest.mark.slow
def test_a_bento_serves(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(REPOSITORY / "serving", project / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bentofile.yaml", "LICENSE"):
        shutil.copy(REPOSITORY / name, project)
    shutil.copytree(exported(), project / "export")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run(
        [sys.executable, "-m", "bentoml", "build"], cwd=project, env=environment, check=True, capture_output=True
    )
    (bento,) = (path for path in (tmp_path / "home" / "bentos" / "llambert").iterdir() if path.is_dir())
    assert (bento / "src" / "export" / "manifest.json").is_file()
    assert (bento / "src" / "serving" / "web" / "page.html").is_file()
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file)
    service = Service(port, process, log)
    try:
        service.wait_ready()
        assert service.classify("a fine film").status_code == 200
    finally:
        service.stop()


@contextmanager
def mlflow_server(place: Path, store: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(place / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (place / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    uri = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(f"{uri}/health"), 90)
        yield uri
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def postgresql(place: Path) -> Iterator[str]:
    """A cluster of its own; PostgreSQL refuses to run as root."""
    if not shutil.which("initdb"):
        pytest.skip("initdb is not on the PATH")
    place.mkdir()
    prefix = []
    if os.getuid() == 0:
        if not shutil.which("runuser"):
            pytest.skip("PostgreSQL does not run as root, and there is no runuser")
        nobody = pwd.getpwnam("nobody")
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        for parent in place.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        prefix = ["runuser", "-u", "nobody", "--"]
    port, data = free_port(), place / "data"
    quiet = {"check": True, "capture_output": True, "cwd": place}
    subprocess.run([*prefix, "initdb", "-D", str(data), "-A", "trust", "-U", "llambert"], **quiet)
    options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*prefix, "pg_ctl", "-D", str(data), "-l", str(place / "log"), "-w"]
    subprocess.run([*control, "-o", options, "start"], **quiet)
    try:
        yield f"postgresql+psycopg://llambert@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "fast", "stop"], **quiet)


class Registered:
    """Versions of a registered model: `directory` as register stores it."""

    def __init__(self, uri: str) -> None:
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self.mlflow, self.client = mlflow, mlflow.MlflowClient(uri, uri)
        self.client.create_registered_model("toys")

    def add(self, directory: Path) -> str:
        from serving.models import MANIFEST

        with self.mlflow.start_run() as run:
            self.mlflow.log_metric("accuracy", 0.9)
            self.mlflow.log_artifacts(str(directory), "model/artifacts/export")
        tags = {"model_hash": json.loads((directory / MANIFEST).read_bytes())["model_hash"]}
        source = f"{run.info.artifact_uri}/model"
        return str(self.client.create_model_version("toys", source, run.info.run_id, tags=tags).version)

    def promote(self, version: str, alias: str = "champion") -> None:
        self.client.set_registered_model_alias("toys", alias, version)


def versions(place: Path) -> list[Path]:
    """Two models that disagree, and one whose golden texts say that it computes something else."""
    right = {"good": 4.0, "fine": 4.0, "bad": -4.0, "dull": -4.0}
    assert right == RIGHT
    toy_export(place / "one", RIGHT)
    toy_export(place / "two", RIGHT | {"film": 1.0})
    toy_export(place / "wrong", {"good": -4.0})
    return [place / name for name in ("one", "two", "wrong")]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mlflow.db"
    else:
        pytest.importorskip("psycopg", reason="psycopg is not installed")
        with postgresql(tmp_path / "postgresql") as uri:
            yield uri


def test_an_alias_that_moves_under_load_costs_no_request(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_server(tmp_path, store) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        registered = Registered(uri)
        one, two, wrong = (registered.add(directory) for directory in versions(tmp_path))
        registered.promote(one)
        registered.promote(two, "shadow")
        about = {"PRECISION": "fp32", "POLL_S": "0.3", "SHADOW_MODEL": "models:/toys@shadow"}
        with serving("models:/toys@champion", MLFLOW_TRACKING_URI=uri, **about) as service, Load(service) as load:
            until(lambda: load.versions[one] > 20)
            registered.promote(two)
            until(lambda: load.versions[two] > 20)
            registered.promote(wrong)  # refuses itself
            until(lambda: service.metric("llambert_model_swaps_total", result="refused") == 1)
            assert f"version {wrong} is refused, {two} goes on" in service.log.read_text()
            before = load.versions[one]
            registered.promote(one)  # rollback
            until(lambda: load.versions[one] > before + 20)
            with service.client() as client:
                model = client.get("/model").json()
            assert (model["name"], model["version"], model["metrics"]) == ("toys", one, {"accuracy": 0.9})
            assert service.metric("llambert_model_swaps_total", result="done") == 2
            assert service.metric("llambert_model_info", version=one) == 1
            until(lambda: service.metric("llambert_shadow_texts_total") > 0)
        assert set(load.statuses) == {200}
        assert set(load.versions) == {one, two}
        _fetches(one, tmp_path)


def _fetches(version: str, place: Path) -> None:
    target = place / "fetched"
    registry.fetch(f"models:/toys/{version}", target, "fp32")
    assert (target / "fp32.onnx").read_bytes() == (place / "one" / "fp32.onnx").read_bytes()
    with pytest.raises(UserError, match="is there already"):
        registry.fetch("models:/toys@champion", target)
    with pytest.raises(UserError, match="has no precision 'int8'"):
        registry.fetch("models:/toys@champion", place / "other", "int8")
    with pytest.raises(registry.Unreachable, match="models:/toys@nobody can't be had"):
        registry.fetch("models:/toys@nobody", place / "other")
    assert not (place / "other").exists()


def test_a_directory_is_fetched_whole_or_not_at_all(tmp_path: Path) -> None:
    copy = shutil.copytree(exported(), tmp_path / "copy")
    registry.fetch(str(copy), tmp_path / "whole")
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {p.name for p in copy.iterdir()}
    (copy / "int8.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="its hash differs"):
        registry.fetch(str(copy), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_manifest_may_not_name_files_elsewhere(tmp_path: Path) -> None:
    from serving.schemas import Manifest

    copy = shutil.copytree(exported(), tmp_path / "copy")
    values = json.loads((copy / "manifest.json").read_text())
    values["precisions"]["fp32"]["onnxruntime"]["files"]["../stolen"] = "0" * 64
    del values["model_hash"]
    (copy / "manifest.json").write_text(Manifest.model_validate(values).model_dump_json())
    (tmp_path / "stolen").write_text("x")
    with pytest.raises(UserError, match="not in the model's directory"):
        registry.fetch(str(copy), tmp_path / "whole")
