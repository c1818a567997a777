"""The one consume loop of all transactional processors.

Read a batch, run the processor's generator (objects are stored before anything is announced),
publish outputs and offsets in one transaction. Invariants:

- every record that was read is accounted for exactly once: by an output that names it in `source`,
  by a dead letter, or by having been another policy's;
- a batch is published only with the group membership that was taken with its records, and is
  abandoned when one of its partitions was revoked since;
- whatever goes wrong before the commit, the loop seeks to the committed offsets and does the work
  again; a commit without a reply costs the producer, and its successor settles the matter;
- every wait has a limit, after which the process exits loudly;
- a record is taken for deadly only when the process died of it: an end in order, be it told to stop
  or tired of waiting, takes back the attempt that was noted.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from infra import envelope
from infra.clock import monotonic
from infra.faults import Point, crash_points
from infra.feed import Feed
from infra.intake import Taken
from infra.interpreter import drive, perform
from infra.log import (
    Aborted,
    Expelled,
    Log,
    LogError,
    LogUnavailable,
    Mark,
    Membership,
    WorkReader,
)
from infra.metrics import Metrics
from infra.mirror import Mirror
from infra.patience import GaveUp, Patience
from infra.positions import After, Positions, starts
from infra.progress_marks import Progress
from infra.publisher import Publisher
from infra.settings import SettingsError
from infra.state_inputs import StateInputs
from infra.store import MissingObject, ObjectStore, StoreUnavailable
from infra.watchdog import Watchdog
from schemas.effects import Bury, Effect, Outputs, Processor, Put, Steps, Unready
from schemas.records import Partition, Record
from schemas.topics import NewerSchema, mirror_of

logger = logging.getLogger("ralo.driver")

COMMIT_IDLE_S = 1.0
EXPELLED_MAX = 5
EXPELLED_WITHIN_S = 60.0
BROKER_PATIENCE = 10
"""How many times longer to wait for the broker where an end would leave an attempt in the log."""


class Stopped(Exception):
    """Told to stop while waiting: what was under way is left to the successor."""


class Driver:
    """Runs one processor on a log and a store until told to stop."""

    def __init__(
        self,
        processor: Processor,
        log: Log,
        store: ObjectStore,
        instance: str,
        *,
        metrics: Metrics | None = None,
        patience_s: float = 60.0,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], None] = time.sleep,
        point: Point | None = None,
    ) -> None:
        self.processor, self.log, self.store = processor, log, store
        self._metrics, self._clock = metrics, clock
        self._patience = Patience(
            processor.name, patience_s, clock, sleep, self._meanwhile, self._broker_limit_s
        )
        if metrics:
            self._patience.counted = metrics.waits.inc
        self._stop = threading.Event()
        self._point = point or crash_points(os.environ.get("RALO_CRASH_AT"))
        self._positions = Positions()
        self._kept: list[Bury] = []
        self._held = self._stale = False
        self._said: str | None = None
        self._idle_since = clock()
        self._instance, self._expelled = instance, list[float]()
        id_, group = f"{processor.group}.{instance}", processor.group
        self._publisher = Publisher(log, id_, group, self._patience, metrics, self._point)
        self._join()
        self._state = StateInputs(processor, log, self._patience)
        mirrors = [topic for work in processor.work if (topic := mirror_of(work))]
        self._mirror = (
            Mirror(mirrors[0], processor.policy, log, self._patience, clock) if mirrors else None
        )
        self._state.catch_up([s.topic.name for s in processor.state])
        work = [Partition(t.name, n) for t in processor.work for n in range(t.partitions)]
        watched = [*work, *self._state.positions()]
        self._watchdog = Watchdog(log, watched, self._patience, clock)

    @property
    def _committed(self) -> dict[Partition, int]:
        """For tests: the committed offset of each owned partition."""
        return self._positions.committed

    # -- the loop ---------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the batch in hand is finished first, if it need not wait."""
        self._stop = stop
        vain = self._patience.wait("the broker")
        with contextlib.suppress(Stopped):
            while not stop.is_set():
                try:
                    self._turn()
                    vain = self._patience.wait("the broker")
                except Expelled as error:
                    self._rejoin(error)
                except LogUnavailable as error:
                    self._stale = True
                    vain(error)
        try:
            self._take_back()
        except LogError as error:
            name = self.processor.name
            logger.warning("%s: this stop will be taken for a death: %s", name, error)

    def _turn(self) -> None:
        """One step; should it wait in vain, then it ends the process once no attempt is left."""
        try:
            self.step()
        except (GaveUp, SettingsError) as error:
            if isinstance(error.__cause__, LogUnavailable):
                raise
            if not self._left_in_order():
                # The wait was for what this member has lost meanwhile, be it for a moment.
                self._stale = True
                return
            raise
        if self._metrics:
            self._metrics.last_turn.set_to_current_time()

    def _left_in_order(self) -> bool:
        """Take back the attempts; false where the group has moved on since the batch began."""
        if self._positions.tried(self._reader.changes().revoked):
            return False
        try:
            self._take_back()
        except Aborted:
            return False
        return True

    def _take_back(self, suspected: bool = False) -> None:
        """Commit that no attempt is under way; `suspected`: only where predecessors died."""
        marks = self._positions.survived(self._reader.assignment(), suspected)
        if marks:
            self._reader.commit(marks)
            self._positions.taken_back(marks)

    def _meanwhile(self) -> None:
        """While waiting: the group is served, and a stop is heeded."""
        if self._stop.is_set():
            raise Stopped
        with contextlib.suppress(LogUnavailable):
            self._feed.serve()

    def _broker_limit_s(self) -> float:
        return self._patience.limit_s * (BROKER_PATIENCE if self._positions.noted else 1)

    def _rejoin(self, error: Expelled) -> None:
        """Become a member again; but two processes of one instance would do so in turn for ever."""
        logger.warning("%s: joining its group again: %s", self.processor.name, error)
        now = self._clock()
        self._expelled = [at for at in self._expelled if now - at < EXPELLED_WITHIN_S] + [now]
        if len(self._expelled) > EXPELLED_MAX:
            raise GaveUp(
                f"{self.processor.name}: expelled {len(self._expelled)} times in a row: does "
                f"another process run as {self._publisher.transactional_id}? Set RALO_INSTANCE"
            ) from error
        self._reader.close()
        self._positions.leave()
        self._join()

    def _join(self) -> None:
        processor = self.processor
        self._reader: WorkReader = self.log.work_reader(
            processor.group, processor.work, self._instance
        )
        self._feed = Feed(self._reader, self._positions, self._clock)

    def step(self) -> bool:
        """One turn: observe, take over what was assigned, work on a batch. True if it worked."""
        if self._stale:
            self._rewind()
        self._state.observe()
        self._follow_group()
        if not self._positions.owned or self._waiting():
            self._feed.idle()
            self._watch(self._state.positions())
            return False
        self._feed.resume()
        # Taken before the records: should a rebalance come between them, the commit is refused.
        membership = self._reader.membership()
        taken = self._feed.take(self.processor.intake(), self._add, self._state.observe)
        if taken.records or taken.buried:
            self._watchdog.busy()
            self._work(taken, membership)
            return True
        if self._metrics:
            self._metrics.skipped.inc(taken.skipped)
        ticked = self._tick()
        if ticked or taken.skipped:
            self._watchdog.busy()
        else:
            work = {p: self._reader.position(p) for p in self._positions.owned}
            self._watch({**self._state.positions(), **work})
        return ticked

    def close(self) -> None:
        """Stop reading and writing; a successor with this instance goes on at once."""
        self._reader.close()
        self._state.close()
        self._publisher.close()

    def _waiting(self) -> bool:
        reason = self.processor.waiting_for()
        if reason is not None and reason != self._said:
            logger.info("%s: waiting for %s", self.processor.name, reason)
        self._said = reason
        return reason is not None

    def _watch(self, positions: Mapping[Partition, int | None]) -> None:
        """Nothing came: should something have? A new member may be given what this one is not."""
        starved = self._watchdog.idle(positions)
        if starved is None:
            return
        if starved.partition in self._positions.owned and not starved.again:
            raise Expelled(str(starved))
        raise GaveUp(f"{self.processor.name}: {starved}")

    # -- the group --------------------------------------------------------------------------

    def _follow_group(self) -> None:
        changes = self._reader.changes()
        if changes.assigned or changes.revoked:
            self._take_over()

    def _take_over(self) -> None:
        """Start all owned partitions where the log says: nothing of this process's is trusted.

        What a predecessor published is known first, its open transactions settled.
        """
        # Should it end in the middle, then it is to be done again before anything else.
        self._stale = True
        barriers = [s.topic.name for s in self.processor.state if s.barrier]
        if barriers:
            self._state.catch_up(barriers)
        while True:
            owned = sorted(self._reader.assignment(), key=str)
            wished = self.processor.assigned(owned)
            marks = self._patience.until_available(
                "committed offsets", partial(self._committed_of, owned)
            )
            passed = self._passed(marks, wished)
            # The group was served while that was waited for.
            if self._reader.assignment() == set(owned):
                break
        start = self._positions.take_over(marks, wished, self._first)
        self._positions.pass_over(passed)
        start |= passed
        self._held = False
        self._kept.clear()
        self._feed.restart()
        self._reader.start(start)
        self._stale = False
        if self._metrics:
            self._metrics.owned.set(len(owned))

    def _passed(
        self, marks: Mapping[Partition, Mark | None], wished: Mapping[Partition, int]
    ) -> dict[Partition, int]:
        """Where to start instead, for what a torn transaction published without its offsets."""
        mirror = self._mirror
        if mirror is None or not marks:
            return {}
        start = starts(marks, wished, self._first)
        since = {p: Progress.parse(mark).mirror for p, mark in marks.items()}
        passed: dict[Partition, int] = self._patience.until_available(
            "its own outputs", lambda: mirror.passed(start, since)
        )
        return passed

    def _committed_of(self, owned: Sequence[Partition]) -> dict[Partition, Mark | None]:
        return self._reader.committed(owned) if owned else {}

    def _first(self, partition: Partition) -> int:
        """Where a group starts that has never committed: at the beginning, so nothing is lost."""
        return self.log.ends(partition.topic)[partition][0]

    def _rewind(self) -> None:
        """Back to the committed offsets, whatever was read or worked on since."""
        if self._metrics:
            self._metrics.aborted.inc()
        self._reader.changes()
        self._take_over()

    # -- working ----------------------------------------------------------------------------

    def _add(self, taken: Taken, record: Record) -> None:
        vain = self._patience.wait(f"a version of ralo that can read {record.at}")
        while True:
            try:
                taken.add(record, self.processor.policy)
                return
            except NewerSchema as error:
                vain(error)

    def _work(self, taken: Taken, membership: Membership) -> None:
        outputs = Outputs()
        try:
            self._see_mirrors()
            self._note_attempt(taken)
            outputs.buried.extend(taken.buried)
            if taken.records:
                batch = taken.batch(self._positions.marks(taken))
                started = self._clock()
                if self._run(lambda: self.processor.process(batch), outputs) == "hold":
                    self._hold(outputs)
                    return
                if self._metrics:
                    self._metrics.work_s.observe(self._clock() - started)
                self._publish(outputs, self._positions.after(taken, batch.source), membership)
            elif self._held:
                self._hold(outputs)
                return
            else:
                self._publish(outputs, self._positions.after(taken, {}), membership)
        except Aborted as error:
            logger.warning("%s: batch abandoned, done again: %s", self.processor.name, error)
            self._rewind()
            return
        self._count(taken, outputs)

    def _hold(self, outputs: Outputs) -> None:
        """Nothing is published yet: offsets stay, and dead letters wait for what is held."""
        self._held = True
        self._kept.extend(outputs.buried)
        # What is held was survived, and each further record is tried by itself.
        self._take_back(suspected=True)

    def _see_mirrors(self) -> None:
        """Before anything of this batch can be published, so nothing of it lies below."""
        if self._mirror:
            with contextlib.suppress(LogUnavailable):
                self._positions.see_mirrors(self._mirror.ends())

    def _note_attempt(self, taken: Taken) -> None:
        """Commit the attempt first where a predecessor may have died of these very records."""
        marks = self._positions.attempt(taken)
        if marks:
            self._patience.until_available(
                "the group coordinator", lambda: self._reader.commit(marks)
            )

    def _run(self, make: Callable[[], Steps], outputs: Outputs) -> str:
        """Run the processor's generator; again from its start when state was not there yet."""
        vain = self._patience.wait(f"what {self.processor.name} needs")
        given = len(outputs.buried)
        while True:
            try:
                return drive(make(), lambda effect: self._answer(effect, outputs))
            except Unready as reason:
                outputs.events.clear()
                del outputs.buried[given:]
                self._state.observe(0.02)
                vain(reason)

    def _answer(self, effect: Effect, outputs: Outputs) -> Any:
        self._feed.serve()
        if self._stop.is_set():
            # Who waits for the end of this batch may lose patience and kill.
            with contextlib.suppress(Aborted, LogUnavailable):
                self._take_back()
        vain = self._patience.wait(f"{type(effect).__name__} of an object")
        while True:
            try:
                reply = perform(effect, self.store, outputs)
                break
            except (MissingObject, StoreUnavailable) as error:
                vain(error)
        if isinstance(effect, Put):
            self._point("after_put")
        return reply

    def _publish(self, outputs: Outputs, after: After, membership: Membership) -> None:
        buried = (*self._kept, *outputs.buried)
        letters = [envelope.dead_letter(b, self.processor.name) for b in buried]
        messages = [envelope.message(event) for event in (*outputs.events, *letters)]
        marks = {p: progress.at(position) for p, (progress, position) in after.items()}
        self._abandon_if_revoked(marks)
        started = self._clock()
        self._positions.publishing(after)
        self._publisher.publish(messages, marks, membership)
        self._positions.published(after)
        self._held = False
        self._kept.clear()
        self._idle_since = self._clock()
        if self._metrics:
            self._metrics.publish_s.observe(self._clock() - started)

    def _abandon_if_revoked(self, marks: dict[Partition, Mark]) -> None:
        lost = set(marks) - self._reader.assignment()
        if lost:
            names = ", ".join(sorted(map(str, lost)))
            raise Aborted(f"{names} went to another member while it was worked on")

    # -- when there is no work --------------------------------------------------------------

    def _tick(self) -> bool:
        if self._held or not self._positions.owned:
            return False
        steps = self.processor.tick()
        if steps is None:
            self._commit_idle()
            return False
        membership, outputs = self._reader.membership(), Outputs()
        try:
            drive(steps, lambda effect: self._answer(effect, outputs))
            self._publish(outputs, self._positions.standing(), membership)
        except Unready:
            return False
        except Aborted as error:
            logger.warning("%s: tick abandoned: %s", self.processor.name, error)
            self._rewind()
        return True

    def _commit_idle(self) -> None:
        """Commit the position, control records included, so that lag reaches zero."""
        if self._clock() - self._idle_since < COMMIT_IDLE_S:
            return
        self._idle_since = self._clock()
        ahead = self._feed.waiting()
        moved = {
            partition: position
            for partition in self._positions.owned
            if partition not in ahead
            and (position := self._reader.position(partition)) is not None
            and position > self._positions.committed[partition]
        }
        if moved:
            self._commit(moved)

    def _commit(self, positions: dict[Partition, int]) -> None:
        try:
            self._reader.commit(self._positions.at(positions))
            self._positions.moved(positions)
        except (Aborted, LogUnavailable) as error:
            logger.info("%s: offsets not committed now: %s", self.processor.name, error)

    def _count(self, taken: Taken, outputs: Outputs) -> None:
        if self._metrics:
            self._metrics.records.inc(len(taken.records))
            self._metrics.skipped.inc(taken.skipped)
            self._metrics.dead.inc(len(outputs.buried))
            self._metrics.events.inc(len(outputs.events))
            self._metrics.batches.inc()
