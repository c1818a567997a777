"""The orchestrator: Faust keeps the missions' table, follows the log, and answers over HTTP.

The layout, and why:

- *One instance, one table, one changelog partition.* The inputs differ in keys (mission, policy)
  and in partitions (1 and 4), so no partitioning of the table would match them all. Missions are
  few: one instance owns them (a static member of its group), the table is keyed by mission and its
  changelog has one partition, so that changes are restored in the order in which they were made.
- *The table says where to read on.* A row is written with the offsets that it has seen, and its
  change is on the changelog before the next record is taken. After recovery reading starts where
  the rows need it (see `desk`), and no offsets are committed: table and position never disagree,
  and a lost changelog means reading the inputs from the beginning again. The lag is in `/health`.
- *Deciding is apart from observing.* The agent only folds records into rows; a timer publishes
  what is due by the rows, once everything on the log is folded in. What was published is known from
  the log (see `outbox`), so neither a redelivery nor a restart publishes twice.
- *It joins its group once.* A second assignment means that another orchestrator of the namespace
  was started, or that this one was away for longer than its session: it ends and starts anew,
  which costs two seconds, rather than trust a rebalance in mid-flight.
- *Whatever fails ends the process.* Faust acknowledges a record whose agent raised; here nothing is
  folded in after a failure, and the supervisor starts the process again.

Only records that cannot be decoded are passed over, and counted: their dead letters are written by
the problem provider.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.missions.orchestrator import Orchestrator
from streams.missions.outbox import Outbox, OutboxError
from streams.missions.security import Security, security_of
from streams.missions.topics import APP, CHANGELOG, INPUTS, TABLE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Faust and mode use what newer Pythons deprecate.
    import faust
    from faust.tables.table import Table
    from faust.transport.drivers import aiokafka as driver

logger = logging.getLogger(__name__)

_quiet = logging.getLogger("faust.orchestrator")

DECIDE_EVERY_S = 0.5
STOP_LIMIT_S = 10.0
POLL_INTERVAL_S = 20 * 24 * 3600.0
"""Time without a poll is no reason to leave the group; in milliseconds it fits in 31 bits."""
EXIT_TRY_AGAIN = 75
EXIT_CONFIG = 78


class _Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Reads committed records only, which Faust does for its own transactions alone."""

    logger = _quiet

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """Starts reading where the table says.

    Faust lets records through a moment before it seeks, and what they leave behind makes it drop
    records after the seek. That is harmless where it seeks to the offsets that it began with, as
    it does to committed ones; here the inputs stay paused until the seek is done.
    """

    logger = _quiet

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: set[Any] = set()

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    def resume_partitions(self, tps: Iterable[Any]) -> None:
        inputs = {tp for tp in tps if not self._is_changelog_tp(tp)}
        self._held |= inputs
        super().resume_partitions(set(tps) - inputs)

    async def perform_seek(self) -> None:
        if self.app.orchestrator.recovered:
            await super().perform_seek()
            super().resume_partitions(self._held)
            self._held = set()

    async def seek_to_committed(self) -> Mapping[TopicPartition, int]:
        starts: dict[TopicPartition, int] = self.app.orchestrator.starts()
        await self.seek_wait(starts)
        return starts

    async def _commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        return True

    def unfinished(self) -> list[Any]:
        """Records that the agent has not finished with."""
        # Faust leaves one that was delivered twice among the unacknowledged.
        return [message for message in self.unacked if not message.acked]


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class _Table(Table):  # type: ignore[misc]
    """A table whose changes can be waited for, and all go to the changelog's one partition."""

    logger = _quiet
    last_change: Any = None

    def partition_for_key(self, key: Any) -> int:
        return 0

    def send_changelog(self, *args: Any, **kwargs: Any) -> Any:
        self.last_change = super().send_changelog(*args, **kwargs)
        return self.last_change


def run(
    bootstrap: str, namespace: str, host: str, port: int, state_dir: Path, extra: Mapping[str, str]
) -> int:
    """Run the orchestrator in the foreground until SIGTERM or SIGINT; the exit status.

    0 when it was asked to stop, 75 when it should be started again, 78 when `extra` (librdkafka's
    connection properties) asks for what cannot be had.
    """
    for noisy in ("faust", "mode", "aiokafka"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="faust|mode|aiokafka")
    try:
        security = security_of(extra)
    except ValueError as error:
        logger.critical("%s", error)
        return EXIT_CONFIG
    return asyncio.run(_serve(bootstrap, namespace, host, port, state_dir, security))


async def _serve(
    bootstrap: str, namespace: str, host: str, port: int, state_dir: Path, security: Security
) -> int:
    outbox = Outbox(bootstrap, namespace, security)
    try:
        # Before the outbox: who cannot serve must not fence one that does.
        _probe(host, port)
        await outbox.start([topic.name for topic in (*INPUTS, CHANGELOG)])
    except (KafkaError, OutboxError, OSError) as error:
        logger.critical("cannot start against %s: %s", bootstrap, error)
        await outbox.stop()
        return EXIT_TRY_AGAIN
    (state_dir / APP).mkdir(parents=True, exist_ok=True)
    app = _app(bootstrap, namespace, host, port, state_dir, security)
    orchestrator = _wire(app, outbox, namespace)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, orchestrator.ended.set)
    return await _until_ended(app, orchestrator)


def _probe(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"{host}:{port} for the views: {error.strerror}") from error


async def _until_ended(app: Any, orchestrator: Orchestrator) -> int:
    tasks = [
        asyncio.create_task(coroutine)
        for coroutine in (
            orchestrator.ended.wait(),
            _alive(app, orchestrator),
            orchestrator.watch(),
        )
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(app.stop(), STOP_LIMIT_S)
        await asyncio.wait_for(orchestrator.outbox.stop(), STOP_LIMIT_S)
    return 0 if orchestrator.failure is None else EXIT_TRY_AGAIN


async def _alive(app: Any, orchestrator: Orchestrator) -> None:
    try:
        await app.start()
        logger.info("answers at http://%s:%d/missions", app.conf.web_bind, app.conf.web_port)
        await app.wait_until_stopped()
        reason = app.crash_reason or "it stopped by itself"
    except Exception as error:
        reason = error
    if not orchestrator.ended.is_set():
        orchestrator.fail(f"Faust ended: {reason!r}")


def _app(
    bootstrap: str, namespace: str, host: str, port: int, state_dir: Path, security: Security
) -> Any:
    app = faust.App(
        f"{namespace}{APP}",
        broker=[f"kafka://{address}" for address in bootstrap.split(",")],
        broker_credentials=_credentials(security),
        datadir=str(state_dir / APP),
        store="memory://",
        consumer_group_instance_id=f"{namespace}{APP}",
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=10,
        broker_heartbeat_interval=3,
        broker_max_poll_interval=POLL_INTERVAL_S,
        producer_acks=-1,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        # The group gives a restarted static member its old assignment back, and Faust hangs where
        # the address in it differs: another port would be enough.
        canonical_url=f"http://{APP}",
        web_bind=host,
        web_host=host,
        web_port=port,
        web_tables_enabled=False,
        web_router_enabled=False,
        web_stats_enabled=False,
        web_graph_enabled=False,
    )
    app.transport = _Transport(app.conf.broker_consumer, app)
    return app


def _credentials(security: Security) -> Any:
    if security.mechanism is not None:
        return faust.SASLCredentials(
            username=security.username,
            password=security.password,
            mechanism=security.mechanism,
            ssl_context=security.context,
        )
    return faust.SSLCredentials(security.context) if security.context else None


def _wire(app: Any, outbox: Outbox, namespace: str) -> Orchestrator:
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw"}
    inputs = app.topic(
        *(namespace + topic.name for topic in INPUTS),
        **raw,
        value_serializer="raw",
        allow_empty=True,
    )
    table = app.tables.add(
        _Table(
            app,
            name=TABLE,
            partitions=CHANGELOG.partitions,
        )
    )
    orchestrator = Orchestrator(app, table, outbox, namespace)
    app.orchestrator = orchestrator
    app.agent(inputs, concurrency=1, name=f"{namespace}{APP}")(orchestrator.follow)
    app.timer(DECIDE_EVERY_S)(orchestrator.decide)
    _serve_views(app, orchestrator)

    @table.on_recover  # type: ignore[untyped-decorator]
    async def recovered() -> None:
        if orchestrator.recovered:
            orchestrator.fail(
                "the group was joined again: another orchestrator of this namespace was started, "
                "or this one was stopped for longer than its session"
            )
        orchestrator.recovered = True

    return orchestrator


def _serve_views(app: Any, orchestrator: Orchestrator) -> None:
    desk = orchestrator.desk

    def answer(view: Any, body: Any) -> Any:
        if not orchestrator.recovered:
            return view.json({"error": "the table is being restored, ask again"}, status=503)
        if body is None:
            return view.json({"error": "no such mission"}, status=404)
        return view.json(body)

    @app.page("/missions")  # type: ignore[untyped-decorator]
    async def missions(view: Any, request: Any) -> Any:
        return answer(view, {"missions": desk.views()})

    @app.page("/missions/{mission_id}")  # type: ignore[untyped-decorator]
    async def mission(view: Any, request: Any, mission_id: str) -> Any:
        return answer(view, desk.view(mission_id))

    @app.page("/health")  # type: ignore[untyped-decorator]
    async def health(view: Any, request: Any) -> Any:
        return view.json(orchestrator.health())
