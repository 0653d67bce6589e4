"""A place that is away for a moment is no mistake of the user's: another exit code, and the next run goes on."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from service_process import free_port
from toy_bulk import command, label, settings, write_corpus

from serving import cores, jobs, labelling, reaching
from serving.__main__ import speaking
from serving.errors import Unreachable, UserError
from serving.targets import Bucket


class Shop(BaseHTTPRequestHandler):
    """Answers each path with the status that it names."""

    def do_GET(self) -> None:
        self.send_error(int(self.path.split("/")[1]))

    do_HEAD = do_GET  # noqa: N815 - as http.server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(404, 2), (403, 2), (503, 75), (429, 75)])
def test_an_input_that_is_away_is_no_mistake(shop: str, tmp_path: Path, status: int, code: int) -> None:
    done = label(f"{shop}/{status}/c.jsonl", tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert ("can't be reached" in done.stderr) == (code == 75)


def test_nobody_listens(tmp_path: Path) -> None:
    done = label(f"http://127.0.0.1:{free_port()}/c.jsonl", tmp_path / "out")
    assert done.returncode == 75, done.stderr
    assert "can't be reached" in done.stderr


class Moody(MemoryFileSystem):
    """A store that fails as it is told."""

    store: dict[str, object] = {}  # noqa: RUF012 - as in the parent
    pseudo_dirs = [""]  # noqa: RUF012
    error: OSError | None = None
    allowed = 0  # writes before it does

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if self.error and self.allowed <= 0:
            raise self.error
        type(self).allowed -= 1
        super().pipe_file(path, value, mode)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        if self.error and self.allowed <= 0:
            raise self.error
        return bytes(super().cat_file(path, start, end))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), Unreachable, "can't be reached"),
        (TimeoutError(), Unreachable, r"can't be reached \(TimeoutError\)"),
        (OSError(errno.EBUSY, "slow down"), Unreachable, "slow down"),
        (PermissionError(errno.EACCES, "no"), UserError, "can't be written"),
        (OSError(errno.EINVAL, "what?"), UserError, "check the address"),
    ],
)
def test_what_a_store_says(monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[UserError], words: str) -> None:
    monkeypatch.setattr(Moody, "error", error)
    bucket = Bucket(Moody(skip_instance_cache=True), "/out", "moody://out")
    for work in (lambda: bucket.write("a", b"x"), lambda: bucket.read("a")):
        with pytest.raises(UserError, match=words) as caught:
            work()
        assert type(caught.value) is kind


def test_a_store_that_fails_in_the_midst_costs_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(Moody(skip_instance_cache=True), "/labels", "moody://labels")
    for module in (jobs, labelling):
        monkeypatch.setattr(module, "open_target", lambda _: bucket)
    given = settings(write_corpus(tmp_path / "c.jsonl"), "moody://labels")
    monkeypatch.setattr(Moody, "error", ConnectionResetError(errno.ECONNRESET, "reset"))
    monkeypatch.setattr(Moody, "allowed", 12)
    with pytest.raises(Unreachable):
        labelling.run(given)
    monkeypatch.setattr(Moody, "error", None)
    outcome = labelling.run(given)
    assert outcome.found > 0
    assert (outcome.missing, outcome.all.rows) == (0, 395)


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unreachable("away"), 75), (UserError("wrong"), 2), (ConnectionRefusedError(errno.ECONNREFUSED, "no"), 75)],
)
def test_both_command_lines_exit_alike(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    import pipeline.__main__

    def app() -> None:
        raise error

    assert pipeline.__main__.speaking is speaking
    with pytest.raises(SystemExit) as caught:
        speaking(app)
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith("error: ")


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def app() -> None:
        raise OSError(errno.EINVAL, "odd")

    with pytest.raises(OSError, match="odd"):
        speaking(app)
    assert not reaching.passing(OSError("bad magic number"))  # of a file that is damaged


@pytest.mark.parametrize(("quota", "allowed"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_threads_heed_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, allowed: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cores, "_CGROUP_CPU", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores.threads(None) == (None if allowed == 8 else allowed)
    assert cores.threads(None, 2) == max(1, allowed // 2)
    assert (cores.threads(3), cores.threads(6, 2), cores.threads(1, 2)) == (3, 3, 1)


def test_labelling_in_bulk_heeds_the_variable(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", 30, broken=False)
    assert "--threads must be 1 or more (got 0)" in label(corpus, tmp_path / "out", LLAMBERT_THREADS="0").stderr
    for value in ("", "1"):
        done = label(corpus, tmp_path / f"out{value}", LLAMBERT_THREADS=value)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out1" / "manifest.json").read_text())["rows"] == 30


def test_the_option_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.__main__ import app

    monkeypatch.setenv("LLAMBERT_THREADS", "5")
    _, bound, _ = app.parse_args(command("a", "b")[3:], exit_on_error=False, print_error=False)
    from serving.commands import make_settings

    assert make_settings("a", "b", bound.arguments["options"]).threads == 5
