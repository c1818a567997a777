"""What actuator and link say to each other, over a pair of sockets that keep messages whole.

Up: sensor frames, and feedback with its number. Down: records of `commands`, the number up to
which the log has the feedback, and what became of frames.
"""

import errno
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_BUFFER_BYTES = 4 << 20
MESSAGE_BYTES = 512 * 1024
RECORDS_BYTES = 12 * 1024
"""Of records in one message: what a control loop decodes at once."""
_NUMBER, _NUMBERS = struct.Struct(">cq"), struct.Struct(">cqq")


@dataclass(frozen=True, slots=True)
class Frame:
    """A sensor frame on its way up."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """Feedback on its way up."""

    seq: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The log has all feedback up to this number."""

    seq: int


@dataclass(frozen=True, slots=True)
class Commands:
    """Records for this robot: offset, value, and whether it was there before the link began.

    There is nothing more for it before `next_offset`.
    """

    next_offset: int
    records: Sequence[tuple[int, str, bool]] = ()


@dataclass(frozen=True, slots=True)
class FramesDone:
    """Of the frames of this link's life, how many are delivered or given up, and the latter."""

    done: int
    given_up: int


Letter = Frame | Said | Acknowledged | Commands | FramesDone


def pair() -> tuple[socket.socket, socket.socket]:
    """The actuator's end, which never blocks, and the link's, which does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    ours.setblocking(False)
    return ours, theirs


def pack(letter: Letter) -> bytes:
    """The bytes of a letter."""
    match letter:
        case Frame():
            return b"F" + letter.value
        case Said():
            return _NUMBER.pack(b"S", letter.seq) + letter.value
        case Acknowledged():
            return _NUMBER.pack(b"A", letter.seq)
        case FramesDone():
            return _NUMBERS.pack(b"D", letter.done, letter.given_up)
        case Commands():
            return b"C" + json.dumps([letter.next_offset, letter.records]).encode()


def unpack(data: bytes) -> Letter:
    """The letter in these bytes; raises ValueError."""
    kind = data[:1]
    if kind == b"F":
        return Frame(data[1:])
    if kind == b"C":
        next_offset, records = json.loads(data[1:])
        return Commands(next_offset, [(o, text, past) for o, text, past in records])
    if kind in (b"S", b"A"):
        _, seq = _NUMBER.unpack_from(data)
        return Said(seq, data[_NUMBER.size :]) if kind == b"S" else Acknowledged(seq)
    if kind == b"D":
        _, done, given_up = _NUMBERS.unpack(data)
        return FramesDone(done, given_up)
    raise ValueError(f"a letter of unknown kind {kind!r}")


def try_send(end: socket.socket, letter: Letter) -> bool:
    """Send at once; False where there is no room. Raises `ConnectionError` when nobody is there."""
    try:
        end.send(pack(letter))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.EMSGSIZE, errno.ENOBUFS):
            return False
        raise ConnectionError(str(error)) from error
    return True


def try_receive(end: socket.socket) -> Letter | None:
    """The next letter, or None; raises `ConnectionError` when nobody is there."""
    try:
        data = end.recv(MESSAGE_BYTES)
    except BlockingIOError:
        return None
    if not data:
        raise ConnectionError("the other end is gone")
    return unpack(data)
