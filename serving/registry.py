"""Models of an MLflow registry: which version an alias means, and its files. Nothing of them is executed.

`MLFLOW_TRACKING_URI` names the server. What was registered is the exported directory, byte for byte, and its manifest
says what belongs to it; `serving.models` checks the hashes.
"""

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from serving.errors import Unreachable, UserError
from serving.files import replacing
from serving.models import MANIFEST, REGISTERED, open_directory
from serving.schemas import Manifest, Registered

_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, slots=True)
class Reference:
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`."""

    name: str
    alias: str | None
    version: str | None

    def __str__(self) -> str:
        return f"models:/{self.name}" + (f"@{self.alias}" if self.alias else f"/{self.version}")


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model. Two with equal names, numbers and hashes are the same."""

    name: str
    number: str
    model_hash: str = ""
    metrics: dict[str, float] = field(default_factory=dict, compare=False)  # of its run


def parse(model: str) -> Reference | None:
    """What `models:/...` names; None for a directory.

    Raises:
        UserError: it begins so, but is neither.
    """
    if not model.startswith("models:"):
        return None
    found = _REFERENCE.fullmatch(model)
    if not found:
        raise UserError(f"'{model}' names no model: models:/NAME@ALIAS, models:/NAME/VERSION or a directory is needed")
    return Reference(found["name"], found["alias"], found["version"])


def resolve(reference: Reference) -> Version:
    """Ask the server which version this is now.

    Raises:
        Unreachable: the server does not answer, or knows no such model.
    """
    client = _mlflow().MlflowClient()

    def ask() -> Version:
        if reference.alias:
            found = client.get_model_version_by_alias(reference.name, reference.alias)
        else:
            found = client.get_model_version(reference.name, reference.version)
        metrics = client.get_run(found.run_id).data.metrics if found.run_id else {}
        return Version(reference.name, str(found.version), found.tags.get("model_hash", ""), dict(metrics))

    version: Version = _asked(ask, str(reference))
    return version


def fetch(model: str, directory: Path, precision: str | None = None) -> None:
    """Put an exported model, from a registry or another directory, into `directory`: checked, whole or not at all.

    Where it is there already only its manifest is fetched, to see that it is.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a directory.
        directory: must not be there yet, be empty, or hold exactly this model.
        precision: only the files of this one; None takes all.

    Raises:
        UserError: there is no such model, it is not intact, or `directory` holds something else.
    """
    if reference := parse(model):
        download(resolve(reference), directory, precision)
    else:
        _fetch(lambda file, place: _copied(Path(model) / file, place), directory, precision, registered(Path(model)))


def download(version: Version, directory: Path, precision: str | None = None) -> None:
    """Likewise, for a version that is known."""
    mlflow = _mlflow()
    base = f"models:/{version.name}/{version.number}/artifacts/export"

    def get(file: str, place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
            uri = f"{base}/{file}"
            # where below the directory it lies is a matter of MLflow's version
            found = _asked(lambda: mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=temporary), uri)
            Path(found).replace(place / file)

    _fetch(get, directory, precision, version)


def registered(directory: Path) -> Version | None:
    """As what a fetched model is registered; None where it isn't, or where another manifest lies there by now."""
    try:
        said = Registered.model_validate_json((directory / REGISTERED).read_bytes())
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    if said.model_hash != manifest.model_hash:
        return None
    return Version(said.name, said.version, said.model_hash, said.metrics)


def _fetch(get: Callable[[str, Path], None], directory: Path, precision: str | None, version: Version | None) -> None:
    """Get the manifest, then the files that it names, beside `directory`; check them; rename."""
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        _found(get, directory, precision)
        _note(directory, version)
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        place = Path(temporary) / "model"
        place.mkdir()
        get(MANIFEST, place)
        manifest = _manifest(place)
        for file in _files(manifest, precision):
            get(file, place)
        _intact(place, manifest, precision)
        _note(place, version)
        if directory.is_dir():
            directory.rmdir()
        place.rename(directory)


def _found(get: Callable[[str, Path], None], directory: Path, precision: str | None) -> None:
    """Check that `directory` holds exactly the model that would be fetched, with all its files."""
    refused = UserError(f"{directory} is there already, and is another model or none: remove it, or name another")
    if not (directory / MANIFEST).is_file():
        raise refused
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "model"
        place.mkdir()
        get(MANIFEST, place)
        wanted = _manifest(place)
    try:
        if _manifest(directory) != wanted or not all((directory / f).is_file() for f in _files(wanted, precision)):
            raise refused
        _intact(directory, wanted, precision)
    except UserError as error:
        raise refused from error


def _intact(directory: Path, manifest: Manifest, precision: str | None) -> None:
    for name in [precision] if precision else manifest.precisions:
        open_directory(directory, name)


def _files(manifest: Manifest, precision: str | None) -> list[str]:
    """What the manifest names for a precision, or for all.

    Raises:
        UserError: it names a file elsewhere; a manifest is data.
    """
    kept = [entry for name, entry in manifest.precisions.items() if precision in (None, name)]
    files = sorted(set(manifest.common) | {file for entry in kept for graph in entry.values() for file in graph.files})
    for file in files:
        if Path(file).name != file:
            raise UserError(f"the manifest names the file '{file}', which is not in the model's directory")
    return files


def _note(directory: Path, version: Version | None) -> None:
    """Write down what the model is called in the registry, for a service that is given the directory."""
    if version is None or version == registered(directory):
        return
    said = Registered(
        name=version.name,
        version=version.number,
        model_hash=_manifest(directory).model_hash,
        metrics={name: value for name, value in version.metrics.items() if isfinite(value)},  # JSON has no others
    )
    with replacing(directory / REGISTERED) as temporary:
        temporary.write_text(said.model_dump_json(indent=2) + "\n")


def _manifest(place: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((place / MANIFEST).read_bytes())
    except ValidationError:
        for name in ("fp32", "int8"):
            open_directory(place, name)  # says what is wrong with it
        raise


def _copied(source: Path, place: Path) -> None:
    try:
        shutil.copy(source, place)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{source} is missing: name the directory of an exported model") from None


def _asked(question: Callable[[], Any], what: str) -> Any:  # noqa: ANN401 - untyped library
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        return question()
    except (MlflowException, RequestException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        server = os.environ.get("MLFLOW_TRACKING_URI") or "the default place (MLFLOW_TRACKING_URI is not set)"
        raise Unreachable(f"{what} can't be had from {server}: {reason}") from None


def _mlflow() -> ModuleType:
    """Import MLflow without its warnings about itself, its progress bars, its telemetry and minutes of retries."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
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
        import mlflow.artifacts
    module: ModuleType = mlflow
    return module
