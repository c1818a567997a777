"""The option that runs one seed alone, and quiet while thousands run."""

import logging
import os
import shutil
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="run this seed of the simulation and tell all of it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With a seed, nothing but that seed; without one, all but that."""
    alone = config.getoption("--seed", None) is not None
    left = [i for i in items if "simulation" in i.path.parts and _is_alone(i) != alone]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def _is_alone(item: pytest.Item) -> bool:
    return item.name == "test_the_seed"


@pytest.fixture(scope="session", autouse=True)
def tidy() -> Iterator[None]:
    """Remove the files of this worker, which ends without more ado."""
    yield
    from sim_learning import scratch

    shutil.rmtree(scratch(), ignore_errors=True)


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Keep a world's threads, which take turns, on one CPU: another would have to wake up first."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(before)[worker % len(before)]})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What processors say of faults is wanted by nobody here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
