"""Notices partitions that a group leaves to nobody.

A cooperative rebalance has two phases: members give partitions up, then, in a further rebalance,
others take them. Where a static member dies in between, the broker gives its successor the old
assignment without a rebalance, and the second phase never comes. Whoever sees that joins anew.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

logger = logging.getLogger("ralo.kafka")

ASK_EVERY_S = 5.0
ANSWER_S = 3600.0
"""The most that the client takes: a question waits until its broker is back.

One that had timed out before that would take the process with it then (librdkafka 2.16: the retried
request for a coordinator uses what was freed with the timed-out question).
"""

Unowned = frozenset[tuple[str, int]]
_NOTHING: Unowned = frozenset()


class Coverage:
    """Asks how a group shares its topics, now and then and without waiting for the answer.

    `partitions` is how many each topic has; `admin` stays for as long as the process, for a client
    that ends with a request under way may take the process with it (librdkafka 2.16).
    """

    def __init__(
        self,
        admin: AdminClient,
        group: str,
        partitions: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin, self._group, self._clock = admin, group, clock
        self._all = frozenset((t, n) for t, count in partitions.items() for n in range(count))
        self._asked_s = clock()
        self._answer: Future[Any] | None = None
        self._before = _NOTHING

    def lacks(self) -> Unowned:
        """What a stable group left to nobody this time and the time before; then begins anew."""
        if self._answer is None:
            self._ask()
        elif self._answer.done():
            now, before = self._unowned(self._answer), self._before
            self._answer, self._before = None, now
            if lasting := now & before:
                self._before = _NOTHING
                return lasting
        return _NOTHING

    def _ask(self) -> None:
        if self._clock() - self._asked_s < ASK_EVERY_S:
            return
        self._asked_s = self._clock()
        asked = self._admin.describe_consumer_groups([self._group], request_timeout=ANSWER_S)
        self._answer = asked[self._group]

    def _unowned(self, answer: Future[Any]) -> Unowned:
        """Nothing where the group is in a rebalance, or did not answer: that is asked again."""
        try:
            group = answer.result()
        except KafkaException as error:
            logger.debug("describe group %s: %s", self._group, error)
            return _NOTHING
        if group.state != ConsumerGroupState.STABLE:
            return _NOTHING
        owned = {
            (tp.topic, tp.partition)
            for member in group.members
            for tp in member.assignment.topic_partitions
        }
        return self._all - owned
