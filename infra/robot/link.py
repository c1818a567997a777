"""The link: the process beside a robot's control loop that talks to the log.

Frames go up without waiting and are lost where the log is away; feedback and safety events are
delivered in order until the log has them. Records of `commands` for the robot go down. It ends a
few seconds after the actuator has.
"""

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infra.envelope import dead_letter, message
from infra.live import LiveReader, LiveWriter
from infra.log import Log, LogError, LogUnavailable, Message, OffsetLost
from infra.robot.channel import (
    MESSAGE_BYTES,
    RECORDS_BYTES,
    Acknowledged,
    Commands,
    Frame,
    FramesDone,
    Said,
    pack,
    unpack,
)
from infra.robot.delivery import AT_ONCE, SpoolDelivery, last_feedback, partition_of
from infra.robot.order import LinkOrder
from schemas.acting import ControllerClaim, Feedback, SensorFrame
from schemas.effects import Bury
from schemas.headers import headers_of
from schemas.records import Record
from schemas.topics import COMMANDS, Undecodable, decode

logger = logging.getLogger("ralo.link")

DRAIN_S = 5.0
LOCK_S = 15.0
FRAMES_AT_ONCE = 25
"""How many frames are told at once to be done with."""
_POLL_S = 0.05
_PAUSE_S = 0.2


class LinkProcess:
    """Three threads: up from the socket, down from `commands`, and deliveries to the log."""

    def __init__(self, order: LinkOrder, log: Log, end: socket.socket) -> None:
        self._order, self._log, self._end = order, log, end
        self._key = order.robot_id.encode()
        self._commands = partition_of(COMMANDS, order.robot_id)
        self._gone = threading.Event()
        """The actuator has ended."""
        self._done = threading.Event()
        self._said: queue.Queue[Said] = queue.Queue()
        self._frames_lost = 0

    def run(self) -> None:
        """Work until the actuator has ended and what it said is delivered, or the time is up."""
        threads = [self._thread(self._up), self._thread(self._deliver)]
        try:
            self._down()
        finally:
            self._gone.set()
            for thread in threads:
                thread.join(DRAIN_S + 1)
            self._end.close()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except ConnectionError as error:
                logger.debug("%s", error)
            except Exception:
                logger.exception("the link cannot go on")
                os._exit(1)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    # --- up

    def _up(self) -> None:
        # Frames are many, and all but numbers in text: commands, which are few, go as they are.
        writer = self._log.live_writer(compressed=True)
        frames, told = 0, FramesDone(0, 0)
        try:
            while data := self._end.recv(MESSAGE_BYTES):
                letter = unpack(data)
                if isinstance(letter, Frame):
                    frames += 1
                    frame = self._message(SensorFrame, letter.value)
                    self._frames_lost += not writer.send(frame)
                elif isinstance(letter, Said):
                    self._said.put(letter)
                writer.serve()
                lost = self._frames_lost + writer.lost
                if lost != told.given_up or frames >= told.done + FRAMES_AT_ONCE:
                    told = self._tell_done(frames, writer, told)
        except OSError as error:
            logger.debug("up: %s", error)
        finally:
            self._gone.set()
            writer.flush(1.0)
            if lost := self._frames_lost + writer.lost:
                logger.warning("%s: %d frames were lost", self._order.robot_id, lost)

    def _tell_done(self, frames: int, writer: LiveWriter, told: FramesDone) -> FramesDone:
        """Tell the actuator which of so many frames are done with, where it does not know."""
        done = frames - writer.flush(0.0)  # So it does not wait, and says what is on its way.
        now = FramesDone(done, self._frames_lost + writer.lost)
        if now != told:
            self._send(pack(now))
        return now

    def _message(self, kind: type[SensorFrame | Feedback], value: bytes) -> Message:
        """The message of an event that the actuator made a moment ago: not parsed again."""
        only: dict[str, Any] = {"robot_id": self._order.robot_id}
        event = kind.model_construct(**only)
        return Message(kind.topic, self._key, value, headers_of(event, value))

    # --- deliveries

    def _deliver(self) -> None:
        spool = SpoolDelivery(self._log, Path(self._order.folder), self._order.robot_id)
        waiting: list[Said] = []
        end_s: float | None = None
        while True:
            if self._gone.is_set() and end_s is None:
                end_s = time.monotonic() + DRAIN_S
            self._collect(waiting)
            delivered = self._try(lambda: self._deliver_once(spool, waiting))
            idle = delivered == 0 and not waiting and self._said.empty()
            if end_s is not None and (idle or time.monotonic() > end_s):
                self._done.set()
                return

    def _collect(self, waiting: list[Said]) -> None:
        """Wait a moment for something to deliver; take what is there."""
        try:
            if not waiting:
                waiting.append(self._said.get(timeout=_POLL_S))
            while len(waiting) < AT_ONCE:
                waiting.append(self._said.get_nowait())
        except queue.Empty:
            pass

    def _deliver_once(self, spool: SpoolDelivery, waiting: list[Said]) -> int:
        count = spool.deliver()
        if waiting:
            self._log.append([self._message(Feedback, said.value) for said in waiting])
            seq = waiting[-1].seq
            waiting.clear()
            self._send(pack(Acknowledged(seq)))
        return count

    def _try(self, attempt: Callable[[], int]) -> int | None:
        try:
            return attempt()
        except LogUnavailable as error:
            logger.info("%s: %s", self._order.robot_id, error)
            time.sleep(_PAUSE_S)
            return None

    def _send(self, data: bytes) -> None:
        try:
            self._end.send(data)
        except OSError as error:
            self._gone.set()
            logger.debug("down: %s", error)

    # --- down

    def _down(self) -> None:
        start = self._start()
        if start is None:
            return
        hello, end = start
        self._send(pack(hello))
        reader = self._log.live_reader({self._commands: hello.next_offset})
        try:
            while not self._gone.is_set():
                self._pass_on(self._poll(reader), end)
        finally:
            reader.close()
        self._done.wait(DRAIN_S + 1)

    def _start(self) -> tuple[Commands, int] | None:
        """Where to read on in `commands`, and its end now; None where the actuator ended first."""
        while not self._gone.is_set():
            try:
                _, end = self._log.ends(COMMANDS.name)[self._commands]
                return self._hello(end), end
            except LogUnavailable as error:
                logger.info("%s: %s", self._order.robot_id, error)
                time.sleep(_PAUSE_S)
        return None

    def _hello(self, end: int) -> Commands:
        """On from where this actuator is, or the last one was, under the epoch that it knew."""
        if (known := self._order.next_offset) is not None:
            return Commands(known)
        said = last_feedback(self._log, self._order.robot_id)
        if said is None:
            # What came before a robot's first life concerns none of its lives.
            return Commands(end)
        next_offset = min(said.commands_next, end)
        if said.controller_epoch is None or said.controller_epoch >= next_offset:
            return Commands(next_offset)
        claim = ControllerClaim(robot_id=self._order.robot_id, controller_id="")
        text = claim.to_bytes().decode()
        return Commands(next_offset, [(said.controller_epoch, text, True)])

    def _poll(self, reader: LiveReader) -> list[Record]:
        try:
            return reader.poll(AT_ONCE, _POLL_S)
        except OffsetLost as error:
            # Retention passed this robot by, or the log is another one: a new life begins anew.
            raise LogError(f"{error}; restart the actuator of {self._order.robot_id}") from error
        except LogUnavailable as error:
            logger.debug("%s: %s", self._order.robot_id, error)
            time.sleep(_PAUSE_S)
            return []

    def _pass_on(self, records: Sequence[Record], end: int) -> None:
        batch: list[tuple[int, str, bool]] = []
        size = 0
        for record in records:
            text = self._text(record)
            if text is not None:
                batch.append((record.offset, text, record.offset < end))
                size += len(text)
            if size >= RECORDS_BYTES:
                self._send(pack(Commands(record.offset + 1, batch)))
                batch, size = [], 0
        if records and (batch or size == 0):
            self._send(pack(Commands(records[-1].offset + 1, batch)))

    def _text(self, record: Record) -> str | None:
        """The record's value, where it is for this robot and an event."""
        if record.key != self._key:
            return None
        try:
            decode(COMMANDS.name, record.value)
        except Undecodable as error:
            letter = dead_letter(Bury(record, "undecodable", str(error)), "link")
            self._try(lambda: len(self._log.append([message(letter)])))
            return None
        return (record.value or b"").decode()


def hold_lock(path: Path) -> object:
    """Wait for the link before this one to end, for a limited time; raises `LogError`."""
    from infra.instance import try_lock

    until_s = time.monotonic() + LOCK_S
    while (lock := try_lock(path)) is None:
        if time.monotonic() > until_s:
            raise LogError(f"{path} is held by another link for {LOCK_S:.0f} s")
        time.sleep(0.05)
    return lock


def main(arguments: Sequence[str]) -> int:
    """`python -m infra.robot.link FD JSON`: run on this end of a pair of sockets."""
    from infra.connect import connect_log
    from infra.settings import SettingsError, settings

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # A Ctrl-C at the terminal is for the actuator, whose end is this one's too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = LinkOrder(**json.loads(arguments[1]))
    if order.cpus:
        os.sched_setaffinity(0, order.cpus)
    end = socket.socket(fileno=int(arguments[0]))
    try:
        lock = hold_lock(Path(order.folder) / "link.lock")
        LinkProcess(order, connect_log(settings()), end).run()
        del lock
    except LogError as error:
        logger.error("%s", error)
        return 75
    except SettingsError as error:
        logger.error("%s", error)
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
