"""One finished project for all tests of this folder; tests that change it work on a copy."""

from pathlib import Path

import pytest
from flow_project import make, run


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make(tmp_path_factory.mktemp("e2e") / "project")
    run(directory, "git", "add", "-A")
    run(directory, "dvc", "repro")
    run(directory, "git", "add", "-A")
    run(directory, "git", "commit", "-qm", "first run")
    return directory
