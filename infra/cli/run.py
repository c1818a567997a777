"""`ralo run PROCESSOR`: one processor in the foreground; what supervisors and containers call."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from infra.interrupts import signals_stop
from infra.log import LogError, LogUnavailable
from infra.patience import GaveUp, Patience
from infra.settings import Settings, SettingsError, s3_endpoint, settings
from infra.store import StoreUnavailable

Answer = TypeVar("Answer")

logger = logging.getLogger("ralo.run")

ROBOT_PROCESSES = ("actuator", "fusion", "controller")

EXIT_TRY_AGAIN = 75
"""sysexits' EX_TEMPFAIL: something is away; a restart policy should start the process again."""
EXIT_CONFIG = 78
"""sysexits' EX_CONFIG: a setting is wrong; starting again would not help."""


def run(
    processor: Annotated[
        str,
        typer.Argument(
            help="provider, sampler, trainer, aggregator, evaluator or orchestrator; of a robot: "
            "actuator, fusion or controller"
        ),
    ],
    policy: Annotated[str | None, typer.Option(help="The policy; RALO_POLICY by default.")] = None,
    robot: Annotated[
        Path | None, typer.Option(help="The robot's file, for what runs a robot.")
    ] = None,
    patience_s: Annotated[float, typer.Option(help="How long to wait for what is away.")] = 60.0,
) -> None:
    """Run one processor until SIGTERM or Ctrl-C; exits 75 when what it needs stays away."""
    with for_restart_policies():
        config = settings()
        if policy is not None:
            config = config.model_copy(update={"policy": policy})
        if processor in ROBOT_PROCESSES:
            raise typer.Exit(_run_robot(processor, robot, config, patience_s))
        raise typer.Exit(_run(processor, config, patience_s))


@contextlib.contextmanager
def for_restart_policies() -> Iterator[None]:
    """Log to stderr, end on SIGTERM, and turn errors into the statuses that a restart policy reads.

    75: something is away. 78: a setting is wrong.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # The first process of a container has no default for it, and would ignore it while it waits.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        logger.info("stopped before it began")
    except SettingsError as error:
        logger.error("%s", error)
        raise typer.Exit(EXIT_CONFIG) from error
    except (GaveUp, LogError) as error:
        logger.error("%s", error)
        raise typer.Exit(EXIT_TRY_AGAIN) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_robot(name: str, robot: Path | None, config: Settings, patience_s: float) -> int:
    """One process of a robot; imports nothing that it does not need, to be back within a second."""
    from infra.cli.robot_processes import RUNS, usable

    if robot is None:
        raise SettingsError(f"{name}: whose? Say --robot FILE")
    with signals_stop() as stop:
        return RUNS[name](usable(robot), config, stop, patience_s)


def _run(name: str, config: Settings, patience_s: float) -> int:
    from infra.cli import processors

    if name == processors.ORCHESTRATOR:
        _wait_for_servers(name, config, patience_s)
        return processors.run_orchestrator(config)
    make = processors.factory(name)
    if name in processors.LEARNERS:
        os.nice(config.nice)
    _wait_for_servers(name, config, patience_s)
    processor = make(config)
    with signals_stop() as stop:
        return _drive(processor, config, stop, patience_s)


def _drive(processor: Any, config: Settings, stop: threading.Event, patience_s: float) -> int:
    from infra.connect import connect_log, connect_store
    from infra.driver import Driver
    from infra.instance import claim
    from infra.metrics import Metrics

    instance = claim(config, processor.group)
    metrics = Metrics(processor.name, processor.policy or "")
    if config.metrics_port is not None:
        from prometheus_client import start_http_server

        start_http_server(config.metrics_port, addr=config.bind_host)
    driver = Driver(
        processor,
        connect_log(config),
        connect_store(config),
        instance.name,
        metrics=metrics,
        patience_s=patience_s,
    )
    logger.info("%s.%s: running", processor.group, instance.name)
    driver.run(stop)
    driver.close()
    logger.info("%s.%s: stopped", processor.group, instance.name)
    return 0


def _wait_for_servers(name: str, config: Settings, patience_s: float) -> None:
    """Wait until broker, topics and store answer, saying so; raises `GaveUp`."""
    from infra.connect import connect_log, connect_store
    from infra.kafka.log import ping
    from schemas.topics import TOPICS

    log, store = connect_log(config), connect_store(config)
    patience = Patience(name, patience_s)
    broker = f"the broker {log.bootstrap}"
    until_there(patience, broker, lambda: ping(log.bootstrap, log.extra))
    until_there(patience, f"topics at {broker}", lambda: [log.ends(topic) for topic in TOPICS])
    until_there(patience, f"the store {s3_endpoint(config).address}", store.ensure_bucket)


def until_there(patience: Patience, server: str, ask: Callable[[], Answer]) -> Answer:
    """What a server answers, asked again while it is away; raises `GaveUp`, which names it."""
    vain = patience.wait(server)
    while True:
        try:
            return ask()
        except (LogUnavailable, StoreUnavailable) as error:
            vain(error)
