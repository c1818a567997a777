"""A real Kafka and a real MinIO once a process, and a namespace of its own for each test.

`--servers` says which: `embedded` (what `ralo up` starts) or `containers` (by testcontainers, of
the images that docker-compose.yml names).
"""

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from simulation_report import pytest_terminal_summary  # noqa: F401 - a hook of pytest

from infra.embedded.stack import Endpoints, Stack
from infra.settings import Settings

if TYPE_CHECKING:
    from containers import Servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("embedded", "containers"),
        default="embedded",
        help="where the Kafka and the MinIO of the tests run",
    )
    parser.addoption(
        "--strict-servers",
        action="store_true",
        help="a test whose servers cannot be had fails instead of being skipped",
    )


def pytest_configure() -> None:
    """Heed Ctrl-C, which a shell lets the commands that it runs in the background ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what a fixture skipped, where all that fixtures ask for is said to be there."""
    report = yield
    if report.skipped and report.when == "setup" and item.config.getoption("--strict-servers"):
        report.outcome, report.longrepr = "failed", str(call.excinfo and call.excinfo.value)
    return report


@pytest.fixture(scope="session")
def stack_settings() -> Iterator[Settings]:
    """The settings of this run's own stack: an empty state directory, the user's caches."""
    kept = os.environ.get("RALO_TEST_KEEP_STACK")
    if kept:
        yield Settings(state_dir=Path(kept) / os.environ.get("PYTEST_XDIST_WORKER", ""))
        return
    with tempfile.TemporaryDirectory(prefix="ralo-test-") as directory:
        yield Settings(state_dir=Path(directory))


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> "Iterator[Servers]":
    """The running servers themselves, for tests that restart or kill them."""
    if request.config.getoption("--servers") == "containers":
        # Imported here: it takes a second, which tests without servers need not pay.
        from containers import started, why_not

        if reason := why_not():
            pytest.skip(reason)
        yield from started(_say)
    else:
        yield from _embedded(request.getfixturevalue("stack_settings"))


def _embedded(settings: Settings) -> Iterator[Stack]:
    stack = Stack(settings)
    try:
        stack.up(_say)
        yield stack
    finally:
        if not os.environ.get("RALO_TEST_KEEP_STACK"):
            stack.down(_say)


@pytest.fixture(scope="session")
def stack(servers: "Servers") -> Endpoints:
    """Where this run's Kafka and MinIO answer."""
    return servers.check()


@pytest.fixture
def namespace(servers: "Servers") -> Iterator[str]:
    """A prefix for topics, groups and transactional ids that no other test has."""
    from infra.cli.bench_stack import delete_topics
    from infra.kafka.log import KafkaLog

    prefix = f"t{uuid.uuid4().hex[:12]}."
    yield prefix
    # A broker that is killed looks through all partitions before it answers again.
    delete_topics(KafkaLog(servers.check().kafka, prefix))


def _say(line: str) -> None:
    # Past pytest's capture: building MinIO for the first time takes minutes.
    print(line, file=sys.__stderr__, flush=True)


@pytest.fixture(autouse=True)
def signals_are_left_alone() -> Iterator[None]:
    """Fail a test after which a Ctrl-C would mean something else to the tests that follow it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    changed = {n.name for n, handler in before.items() if signal.getsignal(n) is not handler}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert not changed, f"the test left its own handler of {changed}"
