"""What holds for all tests."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def interruptible() -> Iterator[None]:
    """For tests that press Ctrl-C: a shell that runs the tests in the background ignores it for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Such tests come first: in a process in which OpenVINO has computed, Ctrl-C may end in SIGSEGV (cause unknown)."""
    items.sort(key=lambda item: "interruptible" not in getattr(item, "fixturenames", ()))
