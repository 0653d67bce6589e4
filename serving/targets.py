"""Where labels go: a directory, or any fsspec URL. A file is there whole or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from serving import reaching
from serving.errors import UserError
from serving.files import replacing, sweep, unwritable


class Target(Protocol):
    """Named files in one place. Two writers of a file: the last one's is there, whole."""

    name: str  # as the user knows it

    def names(self) -> list[str]:
        """The files that are there, sorted; none where the place itself is missing."""

    def read(self, name: str) -> bytes:
        """The bytes of a file, or FileNotFoundError."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole; a UserError says what is in the way."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are no error."""

    def sweep(self) -> None:
        """Remove what killed writers left behind, but nothing of one at work."""


class Directory:
    """A local directory, made when the first file is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def names(self) -> list[str]:  # noqa: D102 - see Target
        try:
            return sorted(path.name for path in self.path.iterdir() if path.is_file())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise UserError(f"{self.name} is a file: name a directory for the labels") from None

    def read(self, name: str) -> bytes:  # noqa: D102
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:  # noqa: D102
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error, self.path) or UserError(f"{self.name} can't be made: {error.strerror}") from error
        with replacing(self.path / name) as temporary:
            temporary.write_bytes(data)

    def remove(self, names: Iterable[str]) -> None:  # noqa: D102
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:  # noqa: D102
        sweep(self.path)


class Bucket:
    """A folder of any fsspec file system; object stores publish an upload when it is complete."""

    def __init__(self, fs: Any, path: str, url: str) -> None:  # noqa: ANN401 - fsspec is untyped
        self._fs, self._path, self.name = fs, path.rstrip("/"), url

    def names(self) -> list[str]:  # noqa: D102
        self._fs.invalidate_cache()  # others write, too
        try:
            with self._reached():
                found = self._fs.ls(self._path, detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")

    def read(self, name: str) -> bytes:  # noqa: D102
        with self._reached():
            data: bytes = self._fs.cat_file(f"{self._path}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:  # noqa: D102
        try:
            with self._reached():
                self._fs.makedirs(self._path, exist_ok=True)
                self._fs.pipe_file(f"{self._path}/{name}", data)
        except FileNotFoundError as error:  # a bucket can't be made by the way
            raise self._refused(error) from error

    def remove(self, names: Iterable[str]) -> None:  # noqa: D102
        for name in names:
            with self._reached():
                if self._fs.exists(f"{self._path}/{name}"):
                    self._fs.rm_file(f"{self._path}/{name}")

    def sweep(self) -> None:
        """Nothing: an upload that was cut off is not there."""

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What goes wrong on the way becomes a message; that something is not there is for the caller."""
        try:
            yield
        except reaching.errors() as error:
            if reaching.passing(error):
                raise reaching.unreached(self.name, error) from error
            if isinstance(error, FileNotFoundError):
                raise
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> UserError:
        known = unwritable(error, Path(self.name)) if isinstance(error, OSError) else None
        reason = getattr(error, "strerror", None) or error
        return known or UserError(
            f"{self.name} can't be used ({reason}): check the address, the credentials and the rights"
        )


def open_target(place: str | Path) -> Target:
    """Find the place of a path or an fsspec URL; nothing is written yet.

    Raises:
        UserError: no file system of that name, or its library is not installed.
    """
    import fsspec

    if isinstance(place, Path):
        return Directory(place)
    try:
        fs, path = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"{place} can't be opened: {error}") from error
    if "file" in fs.protocol:  # a path stays as the user gave it
        return Directory(Path(path if "://" in place else place))
    return Bucket(fs, path, place)
