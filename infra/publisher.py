"""Publishes batches in transactions, through one producer after another of the same id."""

import logging
from collections.abc import Mapping, Sequence

from infra.faults import Point
from infra.log import Aborted, Doubtful, Log, Mark, Membership, Message
from infra.metrics import Metrics
from infra.patience import Patience
from schemas.records import Partition

logger = logging.getLogger("ralo.driver")


class Publisher:
    """The transactional producer of one instance, replaced when a commit stays without a reply."""

    def __init__(
        self,
        log: Log,
        transactional_id: str,
        group: str,
        patience: Patience,
        metrics: Metrics | None,
        point: Point,
    ) -> None:
        self.transactional_id = transactional_id
        self._log, self._group, self._point = log, group, point
        self._patience, self._metrics = patience, metrics
        self._writer = log.writer(transactional_id)

    def publish(
        self,
        messages: Sequence[Message],
        marks: Mapping[Partition, Mark],
        membership: Membership,
    ) -> None:
        """Append the messages and commit the marks, all or nothing; raises `Aborted`."""
        try:
            self._writer.publish(messages, marks, self._group, membership, self._point)
        except Doubtful as error:
            self._settle(error)
            raise Aborted(f"the commit's reply did not come: {error}") from error

    def _settle(self, error: Doubtful) -> None:
        """A new producer with the same id commits or aborts what the old one left."""
        logger.warning("%s: %s", self._patience.name, error)
        if self._metrics:
            self._metrics.doubtful.inc()
        self._writer.close()
        self._writer = self._patience.until_available(
            "the transaction coordinator", lambda: self._log.writer(self.transactional_id)
        )

    def close(self) -> None:
        """Stop writing."""
        self._writer.close()
