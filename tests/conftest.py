"""What holds for all tests."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give the processes of a run a directory that they share (see toy_model); the first one makes and removes it."""
    if "LLAMBERT_TESTS" not in os.environ:
        os.environ["LLAMBERT_TESTS"] = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop("LLAMBERT_TESTS")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with long tests first: several processes end at the same time then."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its 60 migrations take seconds, a copy takes none."""
    from pipeline import params
    from pipeline.registry import Registry

    place = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Registry(params.Register(model_name="toys"))
    return place / "mlflow.db"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """For tests that press Ctrl-C: a shell that runs the tests in the background ignores it for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
