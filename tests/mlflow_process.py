"""MLflow as a real server, its database, and models that it knows."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from service_load import until
from service_process import free_port
from toy_project import RIGHT, toy_export


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
