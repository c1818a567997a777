"""What the host allows a control loop: scheduling, pinning, locked memory; said where it does not.

None is needed: without them the loop is soft real time on a fair scheduler, and its misses are
counted all the same.
"""

import contextlib
import ctypes
import gc
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

_PRIORITY = 50
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_PR_SET_TIMERSLACK = 29
_SLACK_NS = 1


class Refused(Exception):
    """The host does not allow it; says why."""


def take_realtime(name: str) -> str:
    """Take what the host allows and say what that is, for `LoopHealth.realtime`.

    The name of the loop spreads several of them over the cores.
    """
    said = [_said("SCHED_FIFO", lambda: _fifo(name)), _said("memory lock", _lock_memory)]
    said.append(_said("timer slack", _timer_slack))
    return ", ".join(said)


def _said(name: str, attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except (Refused, OSError, AttributeError) as error:
        return f"no {name} ({_reason(error)})"


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    text = str(strerror or error or type(error).__name__)
    return text[:1].lower() + text[1:]


def _fifo(name: str) -> str:
    """Before all ordinary processes, and on one core where there are more than two.

    With fewer, or among equals, a pinned loop would wait for another robot's while a core is free.
    """
    # Children are ordinary again: a link that spins must not starve the machine.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) <= 2:
        return f"SCHED_FIFO {_PRIORITY} on {len(cpus)} CPUs"
    # The first core is where most interrupts come in.
    chosen = cpus[1 + zlib.crc32(name.encode()) % (len(cpus) - 1)]
    os.sched_setaffinity(0, {chosen})
    return f"SCHED_FIFO {_PRIORITY} pinned to CPU {chosen}"


def _lock_memory() -> str:
    limit = _memory_limit()
    if limit is not None and limit < _resident_bytes() * 2:
        # Locking future pages under a low limit would make an allocation fail in the loop.
        raise Refused(f"the limit is {limit // 1024} KiB")
    if _libc().mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        raise Refused(os.strerror(ctypes.get_errno()))
    return "memory locked"


def _memory_limit() -> int | None:
    """The process's limit of locked memory in bytes; None for no limit, or for root."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = soft == resource.RLIM_INFINITY or _may_lock()
    return None if unlimited else soft


def _may_lock() -> bool:
    """Whether this process has CAP_IPC_LOCK (bit 14)."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> 14 & 1)
    return False


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _timer_slack() -> str:
    """Wake at the time asked for, not up to 50 µs later, as ordinary processes do."""
    if _libc().prctl(_PR_SET_TIMERSLACK, _SLACK_NS, 0, 0, 0) != 0:
        raise Refused(os.strerror(ctypes.get_errno()))
    return f"timer slack {_SLACK_NS} ns"


def _libc() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise Refused(f"not on {sys.platform}")
    return ctypes.CDLL(None, use_errno=True)


class Garbage:
    """Collects in small steps between periods, where there is time, instead of anywhere.

    What was there at the start is frozen: a full collection of a program's modules takes longer
    than a period.
    """

    EVERY = 100
    LEAST_S = 0.001
    LATEST = 2000

    def __init__(self) -> None:
        self._since = 0
        gc.collect()
        gc.freeze()
        gc.disable()

    def between(self, left_s: float) -> None:
        """A period is done with so much of it left; after many without any, it is time anyway."""
        self._since += 1
        roomy = self._since >= self.EVERY and left_s > self.LEAST_S
        if roomy or self._since >= self.LATEST:
            gc.collect(1)
            self._since = 0
