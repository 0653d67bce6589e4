"""An exported model is a directory: manifest.json, tokenizer.json, golden.parquet and an ONNX file per precision.

A server's copy needs the ONNX file of its own precision only.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from serving.errors import UserError
from serving.files import sha256
from serving.schemas import Manifest, PrecisionName

MANIFEST, TOKENIZER, GOLDEN = "manifest.json", "tokenizer.json", "golden.parquet"


@dataclass(frozen=True, slots=True)
class Package:
    """An exported model whose files are there and are the ones that the manifest names."""

    directory: Path
    manifest: Manifest
    precision: PrecisionName

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.directory / f"{self.precision}.onnx"


def open_directory(directory: Path, precision: str) -> Package:
    """Check an exported model.

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
    for name, entry in manifest.precisions.items():
        if name == precision:
            for file, digest in {TOKENIZER: manifest.tokenizer, GOLDEN: manifest.golden, **entry.files}.items():
                _check(directory / file, digest)
            return Package(directory, manifest, name)
    has = ", ".join(manifest.precisions)
    raise UserError(f"{directory} has no precision '{precision}' (it has {has}): add it to export.precisions")


def _check(path: Path, digest: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing: export the model again, or copy the whole directory")
    if sha256(path) != digest:
        raise UserError(f"{path} is not the file that was exported (its hash differs): copy or export it again")
