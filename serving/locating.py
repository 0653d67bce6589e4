"""From a source to its files and their format: local paths, globs, folders, any fsspec URL."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal, TextIO, cast

from serving import reaching
from serving.errors import UserError
from serving.records import setting
from serving.schemas import Frozen

_FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text"}
_COMPRESSIONS = {".gz", ".bz2", ".xz", ".zip", ".zst"}
_DATASET = ("dataset_info.json", "dataset_dict.json", "state.json")


class Source(Frozen):
    """A file, a folder, or any fsspec URL. A tabular file names its columns; `id: null` makes ids from content."""

    path: str
    format: Literal["auto", "csv", "jsonl", "parquet", "text", "hf"] = "auto"
    text: str = "text"
    id: str | None = "id"
    split: str | None = None  # of a Hugging Face dataset directory


class GoldSource(Source):
    """A source whose rows a person has labelled."""

    label: str = "label"


@dataclass(frozen=True)
class File:
    """A file of a source."""

    fs: Any  # an fsspec file system
    path: str  # as `fs` knows it
    name: str  # as the user knows it
    relative: str  # to the folder that was asked for

    def binary(self) -> IO[bytes]:
        """Open for bytes, decompressed."""
        return cast(IO[bytes], self.fs.open(self.path, "rb", compression="infer"))

    def text(self, newline: str | None = None) -> TextIO:
        """Open for UTF-8 text, decompressed; bytes that are none come out as surrogates, to be found by row."""
        opened = self.fs.open(
            self.path, "rt", compression="infer", encoding="utf-8-sig", errors="surrogateescape", newline=newline
        )
        return cast(TextIO, opened)


@dataclass(frozen=True)
class Located:
    """All files of a source, sorted, and their format."""

    format: str
    files: list[File]


def locate(source: Source, key: str) -> Located:
    """Find the files of a source; a folder counts with all files of one format in it, hidden ones left out.

    Raises:
        UserError: the URL can't be opened, nothing stands there, or the format can't be told from the names.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(source.path)
        if source.format == "hf" or _is_dataset(fs, path, source):
            return Located("hf", [])
        base, paths = _paths(fs, path)
        if not paths:
            _reach(fs, path)
    except (ImportError, ValueError) as error:
        raise UserError(f"{setting(key, 'path')}: {source.path} can't be opened: {error}") from error
    except reaching.errors() as error:
        if reaching.passing(error):
            raise reaching.unreached(source.path, error) from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{setting(key, 'path')}: {source.path} can't be opened: {reason}") from error
    if not paths:
        raise UserError(f"{setting(key, 'path')}: nothing stands at {source.path} (seen from {os.getcwd()})")
    kind = _format(paths, source, key)
    if len(paths) > 1:  # of a folder or a glob, files of other formats don't count
        paths = [path for path in paths if _suffix(path) == kind] or paths
    return Located(kind, [File(fs, path, _name(fs, path), os.path.relpath(path, base)) for path in sorted(paths)])


def _is_dataset(fs: Any, path: str, source: Source) -> bool:  # noqa: ANN401 - fsspec is untyped
    return source.format == "auto" and any(fs.exists(f"{path}/{name}") for name in _DATASET)


def _paths(fs: Any, path: str) -> tuple[str, list[str]]:  # noqa: ANN401 - fsspec is untyped
    """Return the folder that was asked for and the files in it. A path that exists is no glob."""
    if fs.isdir(path):
        return path, [file for file in fs.find(path) if not _hidden(file)]
    folder = os.path.dirname(path[: min((path.find(c) for c in "*?[" if c in path), default=len(path))])
    if fs.isfile(path):
        return os.path.dirname(path), [path]
    return folder, [file for file in fs.glob(path) if fs.isfile(file) and not _hidden(file)]


def _reach(fs: Any, path: str) -> None:  # noqa: ANN401 - fsspec is untyped
    """Raise what is in the way, if anything: asked whether a path is there, fsspec says no to a broken network, too."""
    try:
        fs.info(path)
    except reaching.errors() as error:
        if reaching.passing(error):
            raise


def _hidden(path: str) -> bool:
    return PurePosixPath(path).name.startswith(".")


def _suffix(path: str) -> str | None:
    suffixes = [suffix for suffix in PurePosixPath(path).suffixes if suffix.lower() not in _COMPRESSIONS]
    return _FORMATS.get(suffixes[-1].lower()) if suffixes else None


def _format(paths: Iterable[str], source: Source, key: str) -> str:
    if source.format != "auto":
        return source.format
    formats = {kind for path in paths if (kind := _suffix(path)) is not None}
    if len(formats) != 1:
        found = f"holds {' and '.join(sorted(formats))}" if formats else "has no suffix that tells its format"
        raise UserError(
            f"{setting(key, 'path')}: {source.path} {found}: set {setting(key, 'format')} to csv, jsonl, parquet, text "
            "or hf"
        )
    return formats.pop()


def _name(fs: Any, path: str) -> str:  # noqa: ANN401 - fsspec is untyped
    """Name a file so that it reads the same on every machine: relative below the project, else whole."""
    relative = os.path.relpath(path) if "file" in fs.protocol else fs.unstrip_protocol(path)
    name = path if relative.startswith("..") else relative
    return str(name.encode("utf-8", "replace").decode())
