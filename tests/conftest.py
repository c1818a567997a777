"""A real Kafka and a real MinIO once a run, and a namespace of its own for each test."""

import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.stack import Endpoints, Stack
from infra.settings import Settings


@pytest.fixture(scope="session")
def stack_settings() -> Iterator[Settings]:
    """The settings of this run's own stack: an empty state directory, the user's caches."""
    kept = os.environ.get("RALO_TEST_KEEP_STACK")
    if kept:
        yield Settings(state_dir=Path(kept))
        return
    with tempfile.TemporaryDirectory(prefix="ralo-test-") as directory:
        yield Settings(state_dir=Path(directory))


@pytest.fixture(scope="session")
def embedded(stack_settings: Settings) -> Iterator[Stack]:
    """The running stack itself, for tests that restart or kill its servers."""
    stack = Stack(stack_settings)
    try:
        stack.up(_say)
        yield stack
    finally:
        if not os.environ.get("RALO_TEST_KEEP_STACK"):
            stack.down(_say)


@pytest.fixture(scope="session")
def stack(embedded: Stack) -> Endpoints:
    """Where this run's Kafka and MinIO answer."""
    return embedded.check()


@pytest.fixture
def namespace() -> str:
    """A prefix for topics, groups and transactional ids that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}."


def _say(line: str) -> None:
    # Past pytest's capture: building MinIO for the first time takes minutes.
    print(line, file=sys.__stderr__, flush=True)
