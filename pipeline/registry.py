"""MLflow as this project uses it: runs found by their content, versions with a verdict, aliases with a history.

The one module that speaks to a tracking server; `MLFLOW_TRACKING_URI` names it, else a SQLite file in the project
directory does. Every step can be repeated: what is there already is found by its key and not made again.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from types import ModuleType
from typing import Any

import serving
from pipeline.artifacts import STATE
from pipeline.errors import UserError
from pipeline.params import Register

CHALLENGER, CHAMPION = "challenger", "champion"
_CHAMPIONS = "champions"  # tag of the registered model: versions that held the alias, oldest first
_REQUIREMENTS = ("numpy", "onnxruntime", "pyarrow", "pydantic", "tokenizers")  # what `serving` imports
_OF_BF16 = ("safetensors", "torch")  # and what its runtime for that precision does
Version = Any  # mlflow.entities.model_registry.ModelVersion, which has no types


class Registry:
    """The registered model of this project and its experiment."""

    def __init__(self, register: Register) -> None:
        """Connect.

        Raises:
            UserError: the tracking server can't be reached, or refuses.
        """
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
        self.name = register.model_name
        self._experiment_name = register.experiment
        self.mlflow = _mlflow()
        self.mlflow.set_tracking_uri(self.uri)
        self.mlflow.set_registry_uri(self.uri)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's first use of SQLAlchemy warns about MLflow
                self.client = self.mlflow.MlflowClient(self.uri, self.uri)
                self.client.search_experiments(max_results=1)
        except self.mlflow.MlflowException as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"MLflow can't be used at {self.uri} ({reason}): start that server, "
                "or set MLFLOW_TRACKING_URI to one that runs, or unset it to use mlflow.db here"
            ) from None

    @property
    def experiment(self) -> str:
        """Id of the experiment, which is made when it is not there."""
        if found := self.client.get_experiment_by_name(self._experiment_name):
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:")
        place = Path("mlartifacts").absolute().as_uri() if local else None
        return str(self.client.create_experiment(self._experiment_name, artifact_location=place))

    def log_run(
        self,
        key: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        metrics: Iterable[tuple[str, float, int]] = (),
    ) -> str:
        """Log a run whole, or find the one with this key; return its id. An unfinished one is thrown away.

        Args:
            key: hash of all that is logged.
            tags: among them `mlflow.runName`, and `mlflow.parentRunId` for a nested run.
            params: flat.
            metrics: (name, value, step).
        """
        from mlflow.entities import Metric, Param

        for run in self.client.search_runs([self.experiment], f"tags.content_key = '{key}'"):
            if run.info.status == "FINISHED":
                return str(run.info.run_id)
            self.client.delete_run(run.info.run_id)
        run_id = str(self.client.create_run(self.experiment, tags={"content_key": key, **tags}).info.run_id)
        now = int(time.time() * 1000)
        for names in _groups(params.items(), 100):  # the server's limits on one request
            self.client.log_batch(run_id, params=[Param(*pair) for pair in names])
        for values in _groups(metrics, 1000):
            self.client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value, step in values])
        self.client.set_terminated(run_id)
        return run_id

    def add(self, export: Path, model_hash: str, run_id: str, card: str, example: list[str], precision: str) -> Version:
        """The version with this model, registered if it is not there; its content is `export` plus the model card."""
        if found := self.version_of(model_hash):
            return found
        ready = self.mlflow.search_logged_models(
            [self.experiment], f"tags.model_hash = '{model_hash}'", output_format="list"
        )
        uris = [model.model_uri for model in ready if str(model.status.value) == "READY"]
        uri = uris[0] if uris else self._log_model(export, model_hash, run_id, card, example, precision)
        if self._registered() is None:
            self.client.create_registered_model(self.name)
        return self.client.create_model_version(
            self.name, uri, run_id, tags={"model_hash": model_hash}, model_id=uri.split("/")[-1]
        )

    def _log_model(
        self, export: Path, model_hash: str, run_id: str, card: str, example: list[str], precision: str
    ) -> str:
        with tempfile.TemporaryDirectory() as temporary, self.mlflow.start_run(run_id):
            staged = Path(temporary) / "export"  # its name becomes artifacts/export
            shutil.copytree(export, staged)
            (staged / "README.md").write_text(card)
            info = self.mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("registered_model.py")),
                artifacts={"export": str(staged)},
                code_paths=[str(Path(serving.__file__).parent)],
                model_config={"precision": precision},
                input_example=example,
                pip_requirements=requirements(precision),
                tags={"model_hash": model_hash},
            )
        return str(info.model_uri)

    def _registered(self) -> Any:  # noqa: ANN401 - untyped library
        found = self.client.search_registered_models(f"name = '{self.name}'")
        return found[0] if found else None

    def versions(self) -> list[Version]:
        """All versions, newest first. Aliases are in `alias_of`."""
        return sorted(
            self.client.search_model_versions(f"name = '{self.name}'"), key=lambda v: int(v.version), reverse=True
        )

    def version_of(self, model_hash: str) -> Version | None:
        """The version with this content."""
        return next((version for version in self.versions() if version.tags.get("model_hash") == model_hash), None)

    def aliases(self) -> dict[str, str]:
        """Alias -> version."""
        registered = self._registered()
        return {} if registered is None else {name: str(v) for name, v in registered.aliases.items()}

    def get(self, which: str) -> Version | None:
        """A version by its number or alias."""
        number = self.aliases().get(which, which)
        return next((version for version in self.versions() if str(version.version) == number), None)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for name, value in tags.items():
            self.client.set_model_version_tag(self.name, str(version.version), name, value)

    def challenge(self, version: Version) -> None:
        """Give a version the alias `challenger`."""
        self.client.set_registered_model_alias(self.name, CHALLENGER, str(version.version))

    def promote(self, version: Version) -> None:
        """Make a version the champion. History first, alias then: a kill between them is healed by a second call."""
        number, champions = str(version.version), self._champions()
        if not champions or champions[-1] != number:
            self._set_champions([*champions, number])
        self.client.set_registered_model_alias(self.name, CHAMPION, number)

    def rollback(self) -> tuple[str, str]:
        """Give the alias back to the champion before; return (from, to). Repeated, it goes further back.

        Raises:
            UserError: there is no champion, or none before it.
        """
        now = self.aliases().get(CHAMPION)
        if now is None:
            raise UserError(f"'{self.name}' has no champion to roll back: `llambert models` lists the versions")
        exists = {str(version.version) for version in self.versions()}
        before = [number for number in self._champions() if number in exists]
        while before and before[-1] == now:
            before.pop()
        if not before:
            raise UserError(f"'{self.name}' had no champion before v{now}: `llambert promote VERSION` chooses one")
        self.client.set_registered_model_alias(self.name, CHAMPION, before[-1])
        self._set_champions(before)
        return now, before[-1]

    def _champions(self) -> list[str]:
        registered = self._registered()
        return list(json.loads(registered.tags.get(_CHAMPIONS, "[]"))) if registered else []

    def _set_champions(self, versions: list[str]) -> None:
        self.client.set_registered_model_tag(self.name, _CHAMPIONS, json.dumps(versions[-1000:]))

    def download(self, version: Version) -> Path:
        """The exported model of a version, from the cache or the server."""
        cached = STATE / "registered" / str(version.tags["model_hash"])
        if not cached.is_dir():
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cached.parent) as temporary:
                uri = f"models:/{self.name}/{version.version}"
                try:
                    place = self.mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=temporary)
                except (self.mlflow.MlflowException, OSError) as error:
                    reason = " ".join(str(error).split())[:300]
                    raise UserError(f"{uri} can't be downloaded from {self.uri} ({reason})") from error
                (Path(place) / "artifacts" / "export").replace(cached)
        return cached


def requirements(precision: str) -> list[str]:
    """What a registered model needs, as pip is told. A build's own mark (torch's +cpu) is on no package index."""
    names = [*_REQUIREMENTS, *(_OF_BF16 if precision == "bf16" else ())]
    return [f"{name}=={installed(name).split('+')[0]}" for name in names]


def _groups(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    rows = list(items)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _mlflow() -> ModuleType:
    """Import MLflow (1.9 s) without its warnings about itself, its progress bars and minutes of retries."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.pyfunc
    module: ModuleType = mlflow
    return module
