"""One orchestrator at work: folds records into rows, publishes what is due, watches itself.

It is handed Faust's app and table by `app`, which says how the two are used and why.
"""

import asyncio
import logging
import time
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from schemas import topics
from schemas.records import Partition, Record
from streams.missions.desk import Desk, is_open
from streams.missions.outbox import Outbox
from streams.missions.topics import CHANGELOG, INPUTS
from streams.missions.watch import Watchdog

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 5.0
STALL_LIMIT_S = 60.0
RECOVERY_LIMIT_S = 120.0
ANSWER_LIMIT_S = 10.0
SETTLE_S = 0.2
"""Records that the consumer thread has fetched are known to the streams well within this."""


class Orchestrator:
    """One process: the Faust app, the outbox, and how they are doing."""

    def __init__(self, app: Any, table: Any, outbox: Outbox, namespace: str) -> None:
        self.app, self.table, self.outbox, self.namespace = app, table, outbox, namespace
        self.desk = Desk(table)
        self.inputs = [
            TopicPartition(namespace + topic.name, number)
            for topic in INPUTS
            for number in range(topic.partitions)
        ]
        self.recovered = False
        self.taken = self.skipped = self.lag = 0
        self.ended = asyncio.Event()
        self.failure: str | None = None

    def fail(self, what: str) -> None:
        """End the process with an error; nothing is folded in or published from here on."""
        if self.failure is None:
            logger.critical("%s", what)
            self.failure = what
            self.ended.set()

    def starts(self) -> dict[TopicPartition, int]:
        """The offset to read on from, for every input partition."""
        seen = self.desk.begin()
        return {p: seen.get(f"{self._plain(p.topic)}-{p.partition}", 0) for p in self.inputs}

    async def follow(self, stream: Any) -> None:
        """Fold every record into its row; the change is durable before the next is taken."""
        async for event in stream.events():
            message = event.message
            if self.failure is not None:
                return
            try:
                await self._take(self._record(message))
            except Exception as error:
                at = f"{message.topic}[{message.partition}]@{message.offset}"
                logger.debug("cannot take %s", at, exc_info=True)
                self.fail(f"{at}: {type(error).__name__}: {error}")

    async def _take(self, record: Record) -> None:
        self.taken += 1
        try:
            event = topics.decode(record.partition.topic, record.value)
        except topics.Undecodable as error:
            self.skipped += 1
            logger.warning("%s is passed over: %s", record.at, error)
            return
        decoded = Record(
            record.partition,
            record.offset,
            record.key,
            record.value,
            timestamp_ms=record.timestamp_ms,
            event=event,
        )
        change = self.desk.take(decoded)
        if change is not None:
            mission_id, row = change
            self.table[mission_id] = row
            await self.table.last_change

    def _record(self, message: Any) -> Record:
        return Record(
            Partition(self._plain(message.topic), message.partition),
            message.offset,
            message.key,
            message.value,
            timestamp_ms=round(1000 * message.timestamp),
        )

    def _plain(self, name: str) -> str:
        return name.removeprefix(self.namespace)

    async def decide(self) -> None:
        """Publish what is due, if the rows show all that is on the log."""
        if not self.recovered or self.failure is not None:
            return
        try:
            if not any(map(is_open, self.table.values())) or not await self.caught_up():
                return
            for event in self.desk.due(time.time_ns() // 1_000_000):
                if not self.outbox.did(event):
                    await self.outbox.publish(event)
                    logger.info("published %s", event.to_bytes().decode())
        except Exception as error:
            self.fail(f"cannot publish what is due: {type(error).__name__}: {error}")

    async def caught_up(self) -> bool:
        """Whether all that lies on the inputs now is folded in, open transactions included."""
        try:
            ends = await asyncio.wait_for(self.outbox.ends(self.inputs), ANSWER_LIMIT_S)
            positions = {p: await self.app.consumer.position(p) for p in self.inputs}
        except (KafkaError, TimeoutError) as error:
            logger.warning("cannot compare with the ends of the log: %r", error)
            return False
        if any(position < ends[p] for p, position in positions.items()):
            return False
        await asyncio.sleep(SETTLE_S)
        return all(
            message.offset >= ends[TopicPartition(message.topic, message.partition)]
            for message in self.app.consumer.unfinished()
            if self._plain(message.topic) != CHANGELOG.name
        )

    async def watch(self) -> None:
        """End the process when records wait and nothing moves."""
        reading, recovering = Watchdog(STALL_LIMIT_S), Watchdog(RECOVERY_LIMIT_S)
        while self.failure is None:
            await asyncio.sleep(WATCH_EVERY_S)
            now_s = time.monotonic()
            if not self.recovered:
                if recovering.stalled(True, None, now_s):
                    self.fail(f"the table is not restored after {RECOVERY_LIMIT_S:.0f} s")
                continue
            try:
                progress = await asyncio.wait_for(self._progress(), ANSWER_LIMIT_S)
            except (KafkaError, TimeoutError) as error:
                logger.warning("cannot measure the lag: %r", error)
                reading.excuse()
                continue
            if reading.stalled(self.lag > 0, progress, now_s):
                self.fail(f"{self.lag} records wait and none was read for {STALL_LIMIT_S:.0f} s")

    async def _progress(self) -> tuple[int, ...]:
        consumer = self.app.consumer
        ends = await consumer.highwaters(*self.inputs)
        positions = [await consumer.position(p) for p in self.inputs]
        waiting = zip(self.inputs, positions, strict=True)
        self.lag = sum(max(0, ends[p] - at) for p, at in waiting) + len(consumer.unfinished())
        return (self.taken, *positions)

    def health(self) -> dict[str, Any]:
        """How the process is doing, as JSON."""
        rows = list(self.table.values())
        return {
            "status": "ok" if self.recovered else "recovering",
            "lag": self.lag,
            "taken": self.taken,
            "skipped": self.skipped,
            "missions": {"open": sum(map(is_open, rows)), "all": len(self.desk.views())},
        }
