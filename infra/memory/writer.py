"""The transactional producer in memory, with the faults that a network has."""

from collections.abc import Callable, Mapping, Sequence

from infra.log import Aborted, Doubtful, Fenced, LogError, Mark, Membership, Message, Point
from infra.memory.view import View
from schemas.records import Partition


class MemoryWriter:
    """One transactional producer; see `infra.log.Writer`."""

    def __init__(self, view: View, transactional_id: str) -> None:
        self._view, self._cluster = view, view.cluster
        self._id = view.out(transactional_id)
        self._usable = True
        with self._cluster.lock:
            self._epoch = self._cluster.init_producer(self._id)

    def publish(
        self,
        messages: Sequence[Message],
        marks: Mapping[Partition, Mark],
        group: str,
        membership: Membership,
        point: Point = lambda name: None,
    ) -> None:
        """Append the messages and commit the group's marks, all or nothing.

        What `point` raises passes through and leaves the transaction open, as a crash would.
        """
        if not self._usable:
            raise Doubtful(f"producer {self._id} was given up")
        self._or_abort(lambda: self._send(messages))
        point("sent_outputs")
        self._or_abort(lambda: self._add_marks(marks, group, membership))
        point("sent_offsets")
        self._or_abort(self._commit)
        point("committed")

    def close(self) -> None:
        """Give the producer up; an open transaction is aborted by its successor or a time-out."""
        self._usable = False

    def _send(self, messages: Sequence[Message]) -> None:
        if self._cluster.is_open(self._id, self._epoch):
            raise Aborted(f"producer {self._id} had a transaction open: it is aborted now")
        for message in messages:
            self._cluster.send(self._id, self._epoch, self._view.out(message.topic), message)

    def _add_marks(
        self, marks: Mapping[Partition, Mark], group: str, membership: Membership
    ) -> None:
        if marks:
            full = self._view.out(group)
            self._cluster.add_marks(self._id, self._epoch, full, membership, marks)

    def _commit(self) -> None:
        faults, me = self._cluster.faults, (self._id, self._epoch)
        self._cluster.is_open(*me)
        if faults.take("abort_next"):
            raise Aborted(f"producer {self._id}: the coordinator aborted the transaction")
        if faults.take("fail_next_commit"):
            self._cluster.postpone_commit(*me)
            self._doubt()
        self._cluster.end(*me, commit=True)
        if faults.take("repeat_next_commit"):
            self._cluster.postpone_commit(*me)
        if faults.take("lose_next_commit_reply"):
            self._doubt()

    def _doubt(self) -> None:
        self._usable = False
        raise Doubtful(f"producer {self._id}: no reply to the commit")

    def _or_abort(self, step: Callable[[], None]) -> None:
        with self._cluster.lock:
            try:
                step()
            except Doubtful:
                raise
            except LogError:
                try:
                    self._cluster.end(self._id, self._epoch, commit=False)
                except Fenced:
                    # Kafka's client too is of no use once its epoch is over.
                    self._usable = False
                raise
