"""An exported model is a directory: manifest.json, tokenizer.json, golden.parquet, drift.json and graphs.

There is a graph for each precision and runtime; a server's copy needs the files of its own only. What was fetched
from a registry has registered.json as well, which says under what name. Older ones have no drift.json.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from serving import runtimes
from serving.errors import UserError
from serving.files import sha256
from serving.precisions import PRECISIONS, PrecisionName, RuntimeName
from serving.schemas import Manifest

MANIFEST, TOKENIZER, GOLDEN, DRIFT = "manifest.json", "tokenizer.json", "golden.parquet", "drift.json"
REGISTERED = "registered.json"


@dataclass(frozen=True, slots=True)
class Package:
    """An exported model whose files are there and are the ones that the manifest names."""

    directory: Path
    manifest: Manifest
    precision: PrecisionName
    runtime: RuntimeName

    @property
    def graph(self) -> Path:
        """The file that the runtime is given."""
        return self.directory / runtimes.graph(self.precision, self.runtime)

    @property
    def golden(self) -> str:
        """The column of the golden texts' probabilities."""
        return f"{self.precision} {self.runtime}"


def open_directory(directory: Path, precision: str) -> list[Package]:
    """Check an exported model and return what it has in a precision, the fastest runtime first.

    Files of a runtime that are not there are passed over, as long as another's are.

    Raises:
        UserError: no model there, a precision that it does not have, or a file that is missing or was changed.
    """
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} is no exported model ({MANIFEST} is missing): run the stage export, or give its directory"
        ) from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        reason = f"{where}: {problem['msg']}".removeprefix(": ")
        raise UserError(f"{directory / MANIFEST} is not valid ({reason}): export the model again") from None
    graphs = {name: entry for name, entry in manifest.precisions.items() if name == precision}
    if not graphs:
        has = ", ".join(manifest.precisions)
        raise UserError(f"{directory} has no precision '{precision}' (it has {has}): add it to export.precisions")
    for file, digest in manifest.common.items():
        _check(directory / file, digest)
    packages = [
        Package(directory, manifest, name, r) for name, entry in graphs.items() for r in PRECISIONS if r in entry
    ]
    there = [package for package in packages if package.graph.is_file()] or packages
    for package in there:
        for file, digest in graphs[package.precision][package.runtime].files.items():
            _check(directory / file, digest)
    return there


def _check(path: Path, digest: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing: export the model again, or copy the whole directory")
    if sha256(path) != digest:
        raise UserError(f"{path} is not the file that was exported (its hash differs): copy or export it again")
