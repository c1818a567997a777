"""Has the thread that sends come first when it wakes: to the interpreter, and to a processor.

It sleeps nearly always. Where the host allows no real-time scheduling, it goes without.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SWITCH_S = 0.0005
"""How long another thread may keep the interpreter while a record is due."""


@contextmanager
def prompt() -> Iterator[None]:
    """Let this thread be prompt; others of this program that use the interpreter: `come_first`."""
    before_s, undo = sys.getswitchinterval(), come_first()
    sys.setswitchinterval(_SWITCH_S)
    # A full collection of what a program has loaded takes longer than a record may be late.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before_s)
        undo()


def come_first() -> Callable[[], None]:
    """Schedule this thread before ordinary ones, after control loops; answers what undoes it.

    All threads must that hold the interpreter beside one that is prompt: it waits for them.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):
        return lambda: None
    return lambda: os.sched_setscheduler(0, before[0] | os.SCHED_RESET_ON_FORK, before[1])
