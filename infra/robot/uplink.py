"""The actuator's end of the link: never waits, keeps feedback until the log has it.

The link is a process of its own, started here and started again when it ends. What it had not
delivered is sent to its successor, which reads `commands` on from where the actuator is.
"""

import logging
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from infra.robot.channel import (
    Acknowledged,
    Commands,
    Frame,
    FramesDone,
    Letter,
    Said,
    pair,
    try_receive,
    try_send,
)
from schemas.acting import Feedback, SensorFrame
from schemas.base import Event
from schemas.topics import COMMANDS, decode

logger = logging.getLogger("ralo.actuator")

WINDOW = 2048
"""Feedback events kept for the log; when they are so many, no more is made until it has some."""
BACK_OFF_S = (0.5, 10.0)
STEADY_S = BACK_OFF_S[1]

Delivered = tuple[int, Event | None, bool]


class Running(Protocol):
    """A link's process."""

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        ...


Launch = Callable[[socket.socket, int | None], Running]
"""Starts a link on its end of the pair, reading `commands` from that offset (None: by the log)."""


@dataclass(frozen=True, slots=True)
class _Living:
    end: socket.socket
    process: Running
    began_s: float


class UpLink:
    """See `streams.acting.loop.Link`, whose contract this keeps."""

    def __init__(self, launch: Launch, clock: Callable[[], float] = time.monotonic) -> None:
        self._launch, self._clock = launch, clock
        self._living: _Living | None = None
        self._next_launch_s, self._back_off_s = clock(), BACK_OFF_S[0]
        self._next_offset: int | None = None
        self._came: deque[Delivered] = deque()
        self._window: deque[Said] = deque()
        self._sent_seq = -1
        self._ended: Running | None = None
        self._announced = False
        self._given_up = self._frames_sent = 0
        self._frames_done = FramesDone(0, 0)
        self.restarts = 0

    def receive(self, limit: int) -> list[Delivered]:
        """What came from `commands`, in order; also keeps the link alive."""
        self._keep_alive()
        try:
            while len(self._came) < limit and self._living is not None:
                letter = try_receive(self._living.end)
                if letter is None:
                    break
                self._open(letter)
            self._send_window()
        except ConnectionError as error:
            self._lose(error)
        return self._take(limit)

    def _take(self, limit: int) -> list[Delivered]:
        taken = [self._came.popleft() for _ in range(min(limit, len(self._came)))]
        if taken:
            offset, event, _ = taken[-1]
            self._next_offset = offset if event is None else offset + 1
        return taken

    def _open(self, letter: Letter) -> None:
        match letter:
            case Acknowledged():
                self._announced = True
                while self._window and self._window[0].seq <= letter.seq:
                    self._window.popleft()
            case FramesDone():
                self._given_up += letter.given_up - self._frames_done.given_up
                self._frames_done = letter
            case Commands():
                for offset, text, past in letter.records:
                    self._came.append((offset, decode(COMMANDS.name, text.encode()), past))
                self._came.append((letter.next_offset, None, False))
            case _:
                raise ValueError(f"a link does not send {letter!r}")

    def takes_frames(self) -> bool:
        """Whether the log has feedback of this life.

        Commands follow from frames: so a life that was commanded has said from where on, and its
        successor finds what it left without an outcome.
        """
        return self._announced

    def send_frame(self, frame: SensorFrame) -> bool:
        """Hand a frame over; False where there is no room, and it is gone."""
        sent = self._try(Frame(frame.to_bytes()))
        self._frames_sent += sent
        return sent

    def given_up(self) -> int:
        """How many frames that were handed over are gone since last asked, or may be.

        Those that a link that died was not done with are counted, whether it delivered them or not.
        """
        frames, self._given_up = self._given_up, 0
        return frames

    def has_room(self) -> bool:
        """Whether feedback can be handed over.

        Not before it is known up to where `commands` have an outcome, for feedback says that.
        """
        return self._next_offset is not None and len(self._window) < WINDOW

    def send_feedback(self, feedback: Feedback) -> None:
        """Hand feedback over; it is kept until the log has it."""
        self._window.append(Said(feedback.seq, feedback.to_bytes()))
        try:
            self._send_window()
        except ConnectionError as error:
            self._lose(error)

    def _send_window(self) -> None:
        if self._living is None or not self._window or self._window[-1].seq <= self._sent_seq:
            return
        for said in self._window:
            if said.seq > self._sent_seq:
                if not try_send(self._living.end, said):
                    return
                self._sent_seq = said.seq

    def _try(self, letter: Letter) -> bool:
        if self._living is None:
            return False
        try:
            return try_send(self._living.end, letter)
        except ConnectionError as error:
            self._lose(error)
            return False

    def _keep_alive(self) -> None:
        if self._ended is not None and self._ended.poll() is not None:
            self._ended = None
        if self._living is None and self._clock() >= self._next_launch_s:
            ours, theirs = pair()
            process = self._launch(theirs, self._next_offset)
            theirs.close()
            self._living = _Living(ours, process, self._clock())

    def _lose(self, error: Exception) -> None:
        """The link is gone: what it had not acknowledged goes to the next one."""
        living, self._living = self._living, None
        if living is None:
            return
        living.end.close()
        self._ended = living.process
        now_s = self._clock()
        steady = now_s - living.began_s > STEADY_S
        self._back_off_s = BACK_OFF_S[0] if steady else min(2 * self._back_off_s, BACK_OFF_S[1])
        self._next_launch_s = now_s + self._back_off_s
        self._came.clear()
        self._given_up += self._frames_sent - self._frames_done.done
        self._sent_seq, self._frames_sent, self._frames_done = -1, 0, FramesDone(0, 0)
        self.restarts += 1
        logger.warning("the link is gone (%s); again in %.1f s", error, self._back_off_s)

    def close(self, patience_s: float) -> int:
        """Let the link deliver what it has, so long at most; answers what feedback it had not."""
        if self._living is not None:
            self._drain(self._living, patience_s)
            self._living = None
        return len(self._window)

    def _drain(self, living: _Living, patience_s: float) -> None:
        until_s = self._clock() + patience_s
        living.end.setblocking(True)
        living.end.settimeout(patience_s)
        try:
            self._send_window()
            living.end.shutdown(socket.SHUT_WR)
            while self._clock() < until_s and (letter := try_receive(living.end)) is not None:
                if isinstance(letter, Acknowledged):
                    self._open(letter)
            living.process.wait(max(0.1, until_s - self._clock()))
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.debug("link: %s", error)
        living.end.close()
