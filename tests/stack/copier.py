"""A process that copies `problems` to `samples` in transactions, through the product's driver.

python copier.py BOOTSTRAP NAMESPACE INSTANCE [MESSAGES IN A TRANSACTION]
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from infra.cli.run import EXIT_TRY_AGAIN
from infra.driver import Driver
from infra.interrupts import signals_stop
from infra.kafka.log import KafkaLog
from infra.log import LogError
from infra.memory.store import MemoryStore
from infra.patience import GaveUp
from schemas.effects import Emit, Intake, StateInput, Steps
from schemas.ids import derived_id
from schemas.learning import BatchRef, Problem, SampleGroup
from schemas.records import Batch, Partition
from schemas.topics import PROBLEMS, Topic

FILL_MS = 1000
"""How long to wait for a transaction's messages to be all there."""


@dataclass
class Copier:
    """Each problem becomes one sample group of the same key; a batch is a transaction."""

    max_batch: int
    name: str = "copier"
    group: str = "copier"
    policy: str | None = None
    work: tuple[Topic, ...] = (PROBLEMS,)
    state: tuple[StateInput, ...] = ()

    def intake(self) -> Intake:
        return Intake(self.max_batch, FILL_MS)

    def waiting_for(self) -> str | None:
        return None

    def observe(self, record: object) -> None:
        raise AssertionError("a copier has no state")

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {}

    def tick(self) -> Steps | None:
        return None

    def process(self, batch: Batch) -> Steps:
        batch_id, size = derived_id("copies", batch.source), len(batch.records)
        for index, (record, span) in enumerate(zip(batch.records, batch.spans, strict=True)):
            assert isinstance(record.event, Problem)
            yield Emit(
                SampleGroup(
                    problem_id=record.event.problem_id,
                    mission_id=record.event.mission_id,
                    policy=record.event.policy,
                    version=0,
                    batch=BatchRef(batch_id=batch_id, index=index, size=size),
                    source=span,
                )
            )
        return "commit"


def main(bootstrap: str, namespace: str, instance: str, size: str = "750") -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        log = KafkaLog(bootstrap, namespace)
        driver = Driver(Copier(int(size)), log, MemoryStore(), instance)
        with signals_stop() as stop:
            driver.run(stop)
            driver.close()
    except (GaveUp, LogError) as error:
        logging.error("%s", error)
        return EXIT_TRY_AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
