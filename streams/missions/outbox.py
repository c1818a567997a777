"""What the orchestrator publishes, and the proof that it publishes each thing once.

The producer is transactional for one property: starting it fences every predecessor, so nothing of
theirs can still arrive. Reading `missions` and `mission-results` to the end after that therefore
shows all that was ever published, and from then on only this process adds to it.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import topics
from schemas.base import Event
from schemas.headers import headers_of
from schemas.missions import MissionControl, MissionResult
from streams.missions.security import Security
from streams.missions.topics import APP

TRANSACTION_TIMEOUT_MS = 10_000
FENCE_LIMIT_S = 20.0
READ_LIMIT_S = 120.0
"""An open transaction of another program hides what follows it for its timeout at most."""

Deed = tuple[str, str]
"""What is done once a mission: ("end", mission_id) or ("result", mission_id)."""


class OutboxError(Exception):
    """The outbox cannot say what was published; the process must end and be started again."""


def deed_of(event: Event) -> Deed | None:
    """The deed that this event does, if it is one."""
    match event:
        case MissionControl(action="end"):
            return "end", event.mission_id
        case MissionResult():
            return "result", event.mission_id
    return None


class Outbox:
    """The single writer of mission results and of the orchestrator's own `end`s."""

    def __init__(self, bootstrap: str, namespace: str, security: Security) -> None:
        self._namespace = namespace
        self._kafka = connection(bootstrap, security)
        self._producer: AIOKafkaProducer | None = None
        self._ends = AIOKafkaConsumer(**self._kafka, enable_auto_commit=False)
        self._done: set[Deed] = set()

    async def start(self, needed: Iterable[str]) -> None:
        """Fence predecessors, then learn what they published.

        Raises `OutboxError`, also where one of the `needed` topics does not exist.
        """
        await self._ends.start()
        names = {self._namespace + name for name in needed}
        if missing := names - await self._ends.topics():
            raise OutboxError(f"no topics {', '.join(sorted(missing))}: `ralo up` makes them")
        self._producer = await self._fence()
        await self._learn()

    async def stop(self) -> None:
        """Close the connections; an open transaction is aborted."""
        if self._producer is not None:
            await self._producer.stop()
        await self._ends.stop()

    def did(self, event: Event) -> bool:
        """Whether the deed of this event was done already, here or by a predecessor."""
        return deed_of(event) in self._done

    async def publish(self, event: MissionControl | MissionResult) -> None:
        """Append the event durably; whatever is raised, the process must end and start again."""
        deed = deed_of(event)
        assert self._producer is not None and deed is not None and deed not in self._done
        self._done.add(deed)
        value, topic = event.to_bytes(), self._namespace + event.topic
        headers = list(headers_of(event, value).items())
        async with self._producer.transaction():
            await self._producer.send_and_wait(topic, value, event.key.encode(), headers=headers)

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offset of each partition, open transactions included."""
        found: dict[TopicPartition, int] = await self._ends.end_offsets(list(partitions))
        return found

    async def _fence(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._kafka,
            transactional_id=f"{self._namespace}{APP}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            acks="all",
        )
        try:
            await asyncio.wait_for(producer.start(), FENCE_LIMIT_S)
        except BaseException as error:
            await producer.stop()
            if isinstance(error, TimeoutError):
                what = "the broker does not settle what a predecessor left open"
                raise OutboxError(f"{what} in {FENCE_LIMIT_S:.0f} s") from error
            raise
        return producer

    async def _learn(self) -> None:
        reader = AIOKafkaConsumer(
            **self._kafka, enable_auto_commit=False, isolation_level="read_committed"
        )
        await reader.start()
        try:
            await self._read_all(reader)
        finally:
            await reader.stop()

    async def _read_all(self, reader: AIOKafkaConsumer) -> None:
        names = {
            TopicPartition(self._namespace + topic.name, number): topic.name
            for topic in (topics.MISSIONS, topics.MISSION_RESULTS)
            for number in range(topic.partitions)
        }
        reader.assign(list(names))
        await reader.seek_to_beginning()
        ends = await self.ends(names)
        until = time.monotonic() + READ_LIMIT_S
        while True:
            for partition, records in (await reader.getmany(timeout_ms=200)).items():
                for record in records:
                    self._remember(names[partition], record.value)
            behind = [p for p in names if await reader.position(p) < ends[p]]
            if not behind:
                return
            if time.monotonic() > until:
                raise OutboxError(
                    f"{behind[0].topic}[{behind[0].partition}] cannot be read to its end in "
                    f"{READ_LIMIT_S:.0f} s: is a transaction hanging?"
                )
            await asyncio.sleep(0)

    def _remember(self, topic: str, value: bytes | None) -> None:
        try:
            deed = deed_of(topics.decode(topic, value))
        except topics.Undecodable:
            return
        if deed is not None:
            self._done.add(deed)


def connection(bootstrap: str, security: Security) -> dict[str, Any]:
    """The arguments that all aiokafka clients of the orchestrator share."""
    shared: Mapping[str, Any] = {
        "bootstrap_servers": bootstrap,
        "client_id": APP,
        "security_protocol": security.protocol,
        "ssl_context": security.context,
    }
    if security.mechanism is None:
        return dict(shared)
    return {
        **shared,
        "sasl_mechanism": security.mechanism,
        "sasl_plain_username": security.username,
        "sasl_plain_password": security.password,
    }
